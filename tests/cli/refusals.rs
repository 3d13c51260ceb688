//! What is refused, in one message that says what to do.

use std::fs;
use std::sync::LazyLock;

use mars::network::{Array, Graph, Weights};
use mars::package::Package;
use mars::run_folder::RunLock;
use mars::simd::Arithmetic;
use mars::train::{Checkpoint, Position};
use tempfile::TempDir;

use crate::common::{self, command, success};
use crate::interruptions::same_run;
use crate::place::{FINISHED, TRAIN, copied_run, deploy, json, misused, new_place, refused, train, tree};
use crate::starts::place_with_weights;

#[test]
fn an_unknown_data_set_is_refused() {
    let dir = new_place();
    let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--dataset", "cifar11"]);
    refused(dir.path(), &mut command, &["`cifar11`", "cifar10, cifar100, cifar10-mini"]);
}

#[test]
fn a_wrong_recipe_is_refused_with_a_suggestion() {
    let dir = new_place();
    let cases: [(&str, &[&str]); 6] = [
        ("batchsize = 3", &["bad.toml", "`batchsize`", "did you mean `batch_size`?"]),
        ("[quantize]\nweight_bit = 3", &["bad.toml", "`weight_bit`", "did you mean `weight_bits`?"]),
        ("[[phases]]\nkind = \"quantise\"\nepochs = 1", &["bad.toml", "did you mean `quantize`?"]),
        ("batch_size = [1,\n\n", &["bad.toml", "line 1", "unclosed array"]),
        ("batch_size = \"many\"", &["bad.toml", "many"]),
        ("batch_size = 3\nbatch_size = 4", &["bad.toml", "duplicate key", "line 2"]),
    ];
    for (text, parts) in cases {
        fs::write(dir.path().join("bad.toml"), text).unwrap();
        refused(dir.path(), &mut train(dir.path(), &["--recipe", "bad.toml"]), parts);
    }
    refused(dir.path(), &mut train(dir.path(), &["--recipe", "nowhere.toml"]), &["nowhere.toml"]);
    fs::write(dir.path().join("bad.toml"), b"model = \"\xff\"").unwrap();
    refused(dir.path(), &mut train(dir.path(), &["--recipe", "bad.toml"]), &["bad.toml", "UTF-8"]);
}

#[test]
fn bits_that_no_layer_has_are_refused() {
    let dir = new_place();
    for key in ["weight_bits", "activation_bits", "skip_bits", "first_last_bits"] {
        for bits in ["9", "1"] {
            let setting = format!("quantize.{key}={bits}");
            let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--set", &setting]);
            refused(dir.path(), &mut command, &[&format!("quantize.{key} = {bits}"), "from 2 to 8"]);
        }
    }
}

#[test]
fn damaged_data_is_refused() {
    let dir = new_place();
    let file = dir.path().join("data/cifar-10-batches-bin/data_batch_2.bin");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]);
    refused(dir.path(), &mut command, &["data_batch_2.bin", "3073 bytes", "unpack the official archive again"]);
    // Cut between two images.
    fs::write(&file, &bytes[..bytes.len() - 3073]).unwrap();
    refused(dir.path(), &mut command, &["data_batch_2.bin", "63 images", "64", "it has been cut"]);
    fs::remove_file(&file).unwrap();
    refused(dir.path(), &mut command, &["data_batch_2.bin is missing"]);
}

#[test]
fn damaged_packages_are_refused() {
    LazyLock::force(&FINISHED);
    let dir = new_place();
    let bytes = fs::read(FINISHED.join("run/model.mars")).unwrap();
    let file = dir.path().join("bad.mars");
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&file, &bytes[..length]).unwrap();
        refused(dir.path(), &mut deploy(dir.path(), &["bad.mars"]), &["bad.mars is not a usable package"]);
    }
    for byte in [3, 20, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[byte] ^= 0x10;
        fs::write(&file, flipped).unwrap();
        refused(dir.path(), &mut deploy(dir.path(), &["bad.mars"]), &["bad.mars is not a usable package"]);
    }
    refused(dir.path(), &mut deploy(dir.path(), &["nowhere.mars"]), &["nowhere.mars"]);
    refused(dir.path(), &mut deploy(dir.path(), &["."]), &[". is a folder without a model.mars: name a package"]);
    let run = FINISHED.join("run");
    let message = format!("{} is a folder: name its package, {}", run.display(), run.join("model.mars").display());
    refused(dir.path(), &mut deploy(dir.path(), &[run.to_str().unwrap()]), &[&message]);
    let message = "tiny.toml is a TOML file, not a package: --model costs a network, --hardware names a chip";
    refused(dir.path(), &mut deploy(dir.path(), &["tiny.toml"]), &[message]);
    fs::write(&file, &bytes[..100]).unwrap();
    refused(dir.path(), &mut deploy(dir.path(), &["bad.mars"]), &["it has been cut short, or it is another kind"]);
}

/// A package whose checksum is right and whose content doesn't fit the images.
#[test]
fn a_package_that_does_not_fit_the_data_is_refused_or_says_null() {
    let dir = new_place();
    let mut package = Package::read(&FINISHED.join("run/model.mars")).unwrap();
    let file = dir.path().join("bad.mars");
    package.predictions.as_mut().unwrap().classes.truncate(3);
    package.write(&file).unwrap();
    success(&deploy(dir.path(), &["bad.mars", "--json", "out.json"]).output().unwrap());
    let report = json(&dir.path().join("out.json"));
    assert!(report["mismatches"]["fake_quant_vs_integer_predictions"].is_null());

    common::write_cifar100(&dir.path().join("data"), 2, 10);
    let good = FINISHED.join("run/model.mars");
    let mut command = deploy(dir.path(), &[good.to_str().unwrap(), "--dataset", "cifar100"]);
    refused(dir.path(), &mut command, &["10 classes", "100"]);
    let mut command = deploy(dir.path(), &[good.to_str().unwrap(), "--images", "0"]);
    misused(dir.path(), &mut command, &["--images 0: at least one image"]);
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let dir = new_place();
    let spec = common::tiny_network(10).replace("filters = 24", "filters = 25");
    let other = Graph::new(toml::from_str(&spec).unwrap()).unwrap();
    Weights::random(&other, 1).save(&dir.path().join("other.safetensors"), None).unwrap();
    for extra in [&["--run", "run"][..], &["--evaluate"]] {
        let arguments = [&["--recipe", "recipe.toml", "--pretrained", "other.safetensors"], extra].concat();
        let parts = ["other.safetensors: not a checkpoint of `tiny`", "`c.", "25"];
        refused(dir.path(), &mut train(dir.path(), &arguments), &parts);
    }
    for name in ["nowhere.safetensors", "nowhere.pt"] {
        let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--pretrained", name, "--run", "run"]);
        refused(dir.path(), &mut command, &[name, "there is no such file"]);
    }
    fs::write(dir.path().join("bad.pt"), "no checkpoint").unwrap();
    let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--pretrained", "bad.pt", "--run", "run"]);
    refused(dir.path(), &mut command, &["bad.pt: not a readable checkpoint"]);
}

#[test]
fn a_wrong_network_is_refused() {
    let dir = new_place();
    let good = common::tiny_network(10);
    let cases: [(String, &[&str]); 5] = [
        (good.replace("classes = 10", "classes = 9"), &["linear", "9 classes"]),
        (good.replace("from = \"b\"", "from = \"z\""), &["layer `c`", "`z`"]),
        (good.replace("stride = 2\npadding = 1", "strid = 2"), &["bad.toml", "`strid`"]),
        (common::tiny_network(7), &["7 classes", "10 classes"]),
        (good.replace("[[layers]]", "[layers]"), &["bad.toml", "line"]),
    ];
    for (text, parts) in cases {
        fs::write(dir.path().join("bad.toml"), text).unwrap();
        let arguments = ["--recipe", "recipe.toml", "--model", "bad.toml", "--run", "run"];
        refused(dir.path(), &mut train(dir.path(), &arguments), parts);
    }
    let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--model", "resnet21", "--run", "run"]);
    refused(dir.path(), &mut command, &["`resnet21`", "resnet20"]);
    for (from, to, parts) in
        [("\"b\"", "\"b:1\"", "a colon"), ("\"c\"", "\"b.projection\"", "is the name of a layer and of")]
    {
        assert!(good.contains(from));
        fs::write(dir.path().join("bad.toml"), good.replace(from, to)).unwrap();
        let arguments = ["--recipe", "recipe.toml", "--model", "bad.toml", "--run", "run"];
        refused(dir.path(), &mut train(dir.path(), &arguments), &[parts]);
    }
    let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--device", "tpu", "--run", "run"]);
    refused(dir.path(), &mut command, &["`tpu`", "flex"]);
}

#[test]
fn a_chip_that_cannot_work_is_refused() {
    let dir = new_place();
    let mars = fs::read_to_string("experiments/hardware/mars.toml").unwrap();
    let good = FINISHED.join("run/model.mars");
    let cases: [(&str, &str, &[&str]); 4] = [
        ("rows = 1024", "rows = 0", &["bad.toml", "rows"]),
        ("cores = 4", "cores = 4\nrow = 3", &["bad.toml", "`row`"]),
        ("channels = 16", "channels = 65", &["bad.toml", "group.channels 65 exceeds rows_on 64"]),
        ("cores = 4", "cores = four", &["bad.toml", "line"]),
    ];
    for (old, new, parts) in cases {
        assert!(mars.contains(old));
        fs::write(dir.path().join("bad.toml"), mars.replacen(old, new, 1)).unwrap();
        let arguments = ["--recipe", "recipe.toml", "--hardware", "bad.toml", "--run", "run"];
        refused(dir.path(), &mut train(dir.path(), &arguments), parts);
        let arguments = [good.to_str().unwrap(), "--hardware", "bad.toml"];
        refused(dir.path(), &mut deploy(dir.path(), &arguments), parts);
    }
}

/// Chips whose memory or sums would be without bound: the key is named before anything is computed.
#[test]
fn a_chip_without_bounds_is_refused() {
    let dir = new_place();
    let good = FINISHED.join("run/model.mars");
    let cases: [(&str, &[&str]); 5] = [
        (
            "rows = 16384\nrows_on = 16384\ngroup = { filters = 16384, channels = 16384 }",
            &["group.filters x group.channels is 268435456"],
        ),
        ("clock_mhz = 1e-320", &["clock_mhz is", "it must be from 1e-6 to 1e6"]),
        (
            "clock_mhz = 1e6\n[[access]]\nweight_bits = 4\ninput_bits = 4\nns = 1e6\nenergy_pj = 1.0",
            &["access[0].ns x clock_mhz / 1000 is 1000000000"],
        ),
        ("rows = 65537", &["rows is 65537, it must be from 1 to 65536"]),
        ("base = \"/dev/zero\"", &["/dev/zero", "more than 16 MiB"]),
    ];
    for (keys, parts) in cases {
        let base = if keys.starts_with("base") { "" } else { "base = \"run/hardware.toml\"\n" };
        fs::create_dir_all(dir.path().join("run")).unwrap();
        fs::copy(FINISHED.join("run/hardware.toml"), dir.path().join("run/hardware.toml")).unwrap();
        fs::write(dir.path().join("bad.toml"), format!("name = \"bad\"\n{base}{keys}\n")).unwrap();
        refused(dir.path(), &mut deploy(dir.path(), &[good.to_str().unwrap(), "--hardware", "bad.toml"]), parts);
    }
}

#[test]
fn missing_folders_are_refused() {
    let dir = new_place();
    let mut command = command(TRAIN, dir.path());
    command.args(["--recipe", "recipe.toml", "--data-dir", "nowhere", "--data-url", "http://127.0.0.1:1", "--quiet"]);
    refused(dir.path(), &mut command, &["nowhere", "cifar-10-batches-bin", "cifar10-mini"]);
}

/// Permissions don't bind root, so these are folders that nobody can make.
#[test]
fn a_run_folder_that_cannot_be_written_is_refused() {
    let dir = new_place();
    fs::write(dir.path().join("file"), "").unwrap();
    let before = tree(dir.path());
    let good = FINISHED.join("run/model.mars");
    for folder in ["file/run", "file"] {
        let arguments = ["--recipe", "recipe.toml", "--run", folder];
        let deployed = [good.to_str().unwrap(), "--run", folder];
        for mut command in [train(dir.path(), &arguments), deploy(dir.path(), &deployed)] {
            let output = command.output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.code() == Some(2) && output.stdout.is_empty(), "{err}");
            assert!(err.contains("file is a file, where a folder is needed"), "{err}");
        }
    }
    assert!(before == tree(dir.path()));
    if cfg!(target_os = "linux") {
        let arguments = ["--recipe", "recipe.toml", "--run", "/proc/run"];
        refused(dir.path(), &mut train(dir.path(), &arguments), &["/proc/run"]);
    }
}

#[test]
fn there_must_be_something_to_resume() {
    let dir = new_place();
    misused(dir.path(), &mut train(dir.path(), &["--resume"]), &["--resume needs --run DIR"]);
    for folder in ["nowhere", "data"] {
        let mut command = train(dir.path(), &["--resume", "--run", folder]);
        refused(dir.path(), &mut command, &[folder, "there is no run to resume here"]);
    }
    // Killed before its first checkpoint.
    fs::create_dir(dir.path().join("run")).unwrap();
    for file in ["hardware.toml", "network.toml", "data.toml", "recipe.toml"] {
        fs::copy(FINISHED.join("run").join(file), dir.path().join("run").join(file)).unwrap();
    }
    let mut command = train(dir.path(), &["--resume", "--run", "run"]);
    refused(dir.path(), &mut command, &["last.safetensors", "remove the folder and start again"]);
    // A checkpoint of another network, and half of one.
    fs::create_dir(dir.path().join("run/checkpoints")).unwrap();
    let last = dir.path().join("run/checkpoints/last.safetensors");
    let good = fs::read(FINISHED.join("run/checkpoints/last.safetensors")).unwrap();
    fs::write(&last, &good[..good.len() / 2]).unwrap();
    refused(dir.path(), &mut command, &["last.safetensors: not a readable safetensors file"]);
    fs::write(&last, &good).unwrap();
    let spec = common::tiny_network(10).replace("filters = 24", "filters = 25");
    ["tiny.toml", "run/network.toml"].iter().for_each(|file| fs::write(dir.path().join(file), &spec).unwrap());
    refused(dir.path(), &mut command, &["last.safetensors", "`c."]);
    fs::remove_file(dir.path().join("run/network.toml")).unwrap();
    refused(dir.path(), &mut command, &["run/network.toml", "gone or empty"]);
    fs::write(dir.path().join("run/recipe.toml"), "").unwrap();
    refused(dir.path(), &mut command, &["run/recipe.toml", "gone or empty"]);
}

/// Some bits of each part of the file: every one is in the checksum.
#[test]
fn a_checkpoint_with_another_bit_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("last.safetensors");
    let good = fs::read(FINISHED.join("run/checkpoints/last.safetensors")).unwrap();
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    fs::write(&path, &good).unwrap();
    Checkpoint::load(&path, &graph).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let spread = |from: usize, to: usize| (from..to).step_by(((to - from) / 40).max(1));
    for place in spread(0, 8).chain(spread(8, header)).chain(spread(header, good.len())) {
        let mut bytes = good.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&path, &bytes).unwrap();
        assert!(Checkpoint::load(&path, &graph).is_err(), "byte {place}");
    }
}

/// What else a checkpoint has than parameters, as no run leaves it.
#[test]
fn arrays_that_no_run_leaves_are_refused() {
    let (dir, run) = copied_run();
    let last = run.join("checkpoints/last.safetensors");
    let (good, state) = Weights::load(&last).unwrap();
    let weight = good.get("stem.weight").unwrap();
    let refuses = |name: &str, array: Array, because: [&str; 2]| {
        let mut weights = good.clone();
        weights.insert(name.into(), array);
        weights.save(&last, state.clone()).unwrap();
        let mut command = train(dir.path(), &["--resume", "--run", "run"]);
        refused(dir.path(), &mut command, &["last.safetensors", because[0], because[1]]);
    };
    for (name, shape) in [
        ("momentum:stem.weight", weight.shape.as_slice()),
        ("effects:stem", &[3]),
        ("stem.weight_step", &[1]),
        ("stem.output_step", &[1]),
    ] {
        let mut values = vec![0.5; shape.iter().product()];
        values[0] = f32::NAN;
        refuses(name, Array { shape: shape.into(), values }, [name, "holds NaN"]);
    }
    for name in ["momentum:stem.weight", "stem.weight_step", "stem.output_step"] {
        refuses(name, Array::vector(vec![0.5; 2]), [name, "[2]"]);
    }
    let mut fewer = Weights::default();
    let others = good.iter().filter(|(name, _)| *name != "effects:stem");
    others.for_each(|(name, array)| fewer.insert(name.into(), array.clone()));
    fewer.save(&last, state.clone()).unwrap();
    let mut command = train(dir.path(), &["--resume", "--run", "run"]);
    refused(dir.path(), &mut command, &["last.safetensors", "no array `effects:stem`"]);
}

/// A package says by which recipe it was made.
#[test]
fn what_has_run_stays_in_the_recipe_as_it_was() {
    let (dir, run) = copied_run();
    let file = run.join("recipe.toml");
    let recipe = fs::read_to_string(&file).unwrap();
    let with = |from: &str, to: &str| {
        assert!(recipe.contains(from), "{from}: {recipe}");
        fs::write(&file, recipe.replacen(from, to, 1)).unwrap();
        train(dir.path(), &["--resume", "--run", "run"])
    };
    for (from, to, says) in [
        ("weight_bits = 4", "weight_bits = 3", "`quantize`"),
        ("seed = 3", "seed = 1", "`seed`"),
        ("learning_rate = ", "learning_rate = 1", "phases.0"),
    ] {
        refused(dir.path(), &mut with(from, to), &["last.safetensors", says, "put it back"]);
    }
    // What is measured when may change, and so may what is to come.
    success(&with("evaluate_every = \"epoch\"", "evaluate_every = \"end\"").output().unwrap());
}

/// What a run began with stands in its folder: files of the network and the chip that are gone keep nobody from going on.
#[test]
fn a_run_goes_on_without_the_files_that_it_began_with() {
    let (dir, run) = copied_run();
    let file = run.join("recipe.toml");
    let recipe = fs::read_to_string(&file).unwrap();
    fs::write(&file, recipe.replacen("batch_size", "hardware = \"gone.toml\"\nbatch_size", 1)).unwrap();
    fs::remove_file(dir.path().join("tiny.toml")).unwrap();
    success(&train(dir.path(), &["--resume", "--run", "run"]).output().unwrap());
}

/// What cannot work is refused before anything is trained, whether there is a checkpoint or not.
#[test]
fn names_of_layers_that_the_network_lacks_are_refused() {
    let dir = new_place();
    fs::write(
        dir.path().join("chip.toml"),
        "base = \"experiments/hardware/mars.toml\"\n[[mapping.layers]]\npattern = \"layer9.*\"\n",
    )
    .unwrap();
    let no_placement =
        "base = \"experiments/hardware/mars.toml\"\n[[mapping.layers]]\npattern = \"stem\"\ncopies = 3\n";
    fs::write(dir.path().join("three.toml"), no_placement).unwrap();
    for (setting, says) in [
        ("hardware=chip.toml", "mapping.layers: no layer matches `layer9.*`"),
        ("hardware=three.toml", "layer `stem`: mapping.layers leaves it no placement on this chip"),
        ("fresh=[\"nope\"]", "fresh = [\"nope\"]: the run starts from random weights"),
        ("names={nope=\"x\"}", "names: network `tiny` has no layer `nope`"),
    ] {
        let arguments = ["--recipe", "recipe.toml", "--dry-run", "--set", setting];
        refused(dir.path(), &mut train(dir.path(), &arguments), &[says]);
    }
}

/// What `checkpoints.md` shows: the batch norm of a layer has a name of its own.
#[test]
fn a_batch_norm_may_be_named_in_a_recipe() {
    let dir = place_with_weights(|_, _| {});
    let names = "names={stem=\"stem\", \"stem.norm\"=\"stem\"}";
    let arguments = ["--recipe", "recipe.toml", "--pretrained", "own.safetensors", "--dry-run", "--set", names];
    success(&train(dir.path(), &arguments).output().unwrap());
    let other = "names={\"linear.norm\"=\"x\"}";
    let arguments = ["--recipe", "recipe.toml", "--dry-run", "--set", other];
    refused(dir.path(), &mut train(dir.path(), &arguments), &["has no layer `linear.norm`"]);
}

/// Each color has a factor of its own, which filters of a group see of their group's colors alone.
#[test]
fn a_first_layer_in_groups_trains() {
    let dir = new_place();
    let network = common::tiny_network(10).replacen("filters = 8\n", "filters = 9\ngroups = 3\n", 1);
    fs::write(dir.path().join("tiny.toml"), network).unwrap();
    success(&train(dir.path(), &["--recipe", "recipe.toml", "--json", "json"]).output().unwrap());
    let report = json(&dir.path().join("json"));
    for pair in ["integer_vs_macro_logits", "fake_quant_vs_integer_predictions"] {
        assert_eq!(report["mismatches"][pair], 0, "{report}");
    }
}

#[test]
fn a_position_that_the_recipe_does_not_have_is_refused() {
    let (dir, run) = copied_run();
    let last = run.join("checkpoints/last.safetensors");
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    let good = Checkpoint::load(&last, &graph).unwrap();
    let position = |change: &dyn Fn(&mut Position)| {
        let mut checkpoint = good.clone();
        change(&mut checkpoint.state.position);
        checkpoint.save(&last, &graph).unwrap();
        let mut command = train(dir.path(), &["--resume", "--run", "run"]);
        refused(dir.path(), &mut command, &["last.safetensors: "])
    };
    let shorter = position(&|position| (position.phase, position.begun, position.epoch) = (0, true, 4));
    assert!(shorter.contains("phases.0.epochs is 3, and 4 are done: it cannot be less"), "{shorter}");
    let position = |change: &dyn Fn(&mut Position)| {
        let message = position(change);
        assert!(message.contains("its position") && message.contains("none of this recipe and data"), "{message}");
    };
    position(&|position| position.phase = 7);
    position(&|position| (position.phase, position.begun, position.step) = (1, true, 1 << 40));
    position(&|position| (position.phase, position.begun, position.epoch, position.step) = (0, true, 3, 2));
    position(&|position| position.tally.correct = 1);
}

#[test]
fn a_run_goes_on_with_the_arithmetic_that_it_began_with() {
    // Where there is no fused arithmetic, there is nothing to tell apart.
    if Arithmetic::here() == Arithmetic::Apart {
        return;
    }
    let (dir, _) = copied_run();
    let mut command = train(dir.path(), &["--resume", "--run", "run"]);
    let words = ["last.safetensors", "fused multiply-add", "portable code", "--allow-other-cpu"];
    refused(dir.path(), command.env("MARS_ISA", "portable"), &words);
    let mut command = train(dir.path(), &["--resume", "--run", "run", "--allow-other-cpu"]);
    success(&command.env("MARS_ISA", "portable").output().unwrap());
    same_run(&dir.path().join("run"), &FINISHED.join("run"));
}

#[test]
fn a_package_is_no_checkpoint_and_says_where_that_is() {
    let dir = new_place();
    let package = FINISHED.join("run/model.mars").display().to_string();
    let weights = dir.path().join("model.safetensors");
    fs::copy(package, &weights).unwrap();
    let mut command = train(
        dir.path(),
        &["--model", "tiny.toml", "--dataset", "cifar10", "--evaluate", "--pretrained", "model.safetensors"],
    );
    refused(dir.path(), &mut command, &["model.safetensors", "it is a package", "checkpoints/last.safetensors"]);
}

#[test]
fn a_run_keeps_its_report() {
    let (dir, _) = copied_run();
    fs::write(dir.path().join("fast.toml"), "base = \"run/hardware.toml\"\nclock_mhz = 500.0\n").unwrap();
    let others: [&[&str]; 3] = [&["--images", "5"], &["--hardware", "fast.toml"], &["--dataset", "cifar10-mini"]];
    for other in others {
        let mut command = deploy(dir.path(), &["run/model.mars", "--run", "run"]);
        refused(dir.path(), command.args(other), &["run: it holds a run", "name another folder"]);
    }
    // A data set of the same name whose images have changed since.
    let images = dir.path().join("data/cifar-10-batches-bin/test_batch.bin");
    let mut bytes = fs::read(&images).unwrap();
    bytes[1] ^= 1;
    fs::write(&images, &bytes).unwrap();
    let mut command = deploy(dir.path(), &["run/model.mars", "--run", "run"]);
    refused(dir.path(), &mut command, &["run: it holds a run", "name another folder"]);
    bytes[1] ^= 1;
    fs::write(&images, &bytes).unwrap();
    success(&deploy(dir.path(), &["run/model.mars", "--run", "run"]).output().unwrap());
    same_run(&dir.path().join("run"), &FINISHED.join("run"));
    let _training = RunLock::new(&dir.path().join("run")).unwrap();
    let mut command = deploy(dir.path(), &["run/model.mars", "--run", "run"]);
    refused(dir.path(), &mut command, &["run: another process runs this"]);
}

#[test]
fn control_characters_in_messages_are_escaped() {
    let dir = new_place();
    let line = refused(dir.path(), &mut deploy(dir.path(), &["\u{1b}[31mred\n.mars"]), &["\\u{1b}[31mred\\n.mars: "]);
    assert!(!line.contains('\u{1b}'), "{line}");
}
