//! Whole jobs: from a recipe to a report, and a package on a chip.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use mars::hardware::{Hardware, Mapping, Policy, evaluate};
use mars::integer::{IntegerLayer, Reference, outline};
use mars::network::{Graph, Weights};
use mars::package::Package;
use mars::train::Recipe;
use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, command, success};
use crate::interruptions::{kill_at, same_run};
use crate::place::{
    DEPLOY, EPOCHS, FINISHED, RECIPE, REPRODUCE, TRAIN, copied_run, deploy, failed, has_keys, json, metrics, new_place,
    refused, train, tree,
};

#[test]
fn one_command_trains_exports_and_deploys() {
    let run = FINISHED.join("run");
    for file in ["recipe.toml", "metrics.jsonl", "model.mars", "deploy.json", "report.html"] {
        assert!(fs::metadata(run.join(file)).unwrap().len() > 0, "{file}");
    }
    for file in ["last", "0-float", "1-sparsify", "2-quantize"] {
        assert!(run.join(format!("checkpoints/{file}.safetensors")).exists(), "{file}");
    }
    let lines = metrics(&run);
    assert_eq!(lines.len(), EPOCHS);
    for line in &lines {
        has_keys(
            line,
            &[
                "phase",
                "epoch",
                "loss",
                "train_accuracy",
                "test_accuracy",
                "learning_rate",
                "images_per_second",
                "group_sparsity",
                "seconds",
            ],
        );
    }
    let phases: Vec<(&str, u64)> =
        lines.iter().map(|line| (line["phase"].as_str().unwrap(), line["epoch"].as_u64().unwrap())).collect();
    let expected =
        [("float", 1), ("float", 2), ("float", 3), ("sparsify", 1), ("sparsify", 2), ("quantize", 1), ("quantize", 2)];
    assert_eq!(phases, expected);
    assert!(lines[2]["loss"].as_f64() < lines[0]["loss"].as_f64(), "{lines:?}");

    let report = json(&run.join("deploy.json"));
    has_keys(
        &report,
        &["images", "data_sha256", "accuracy", "mismatches", "compression", "cost", "cost_without_reload"],
    );
    has_keys(&report["accuracy"], &["float", "fake_quant", "integer", "macro"]);
    let compression = ["group_sparsity", "weight_bits_dense", "weight_bits_stored", "index_bits", "ratio"];
    has_keys(&report["compression"], &compression);
    for cost in ["cost", "cost_without_reload"] {
        has_keys(
            &report[cost],
            &[
                "cycles",
                "fps",
                "latency_us",
                "energy_uj",
                "tops_per_watt_dense_equivalent",
                "tops_per_watt_executed",
                "utilization",
                "speedup_vs_dense",
                "energy_breakdown_uj",
            ],
        );
        let parts: f64 =
            report[cost]["energy_breakdown_uj"].as_object().unwrap().values().filter_map(Value::as_f64).sum();
        let energy = report[cost]["energy_uj"].as_f64().unwrap();
        assert!((parts / energy - 1.0).abs() < 1e-9, "{cost}: {parts} of {energy} uJ");
    }
    assert!(!report["layers"].as_array().unwrap().is_empty());
    has_keys(&report["layers"][0], &["name", "cycles", "energy_uj", "group_sparsity", "utilization"]);

    assert_eq!(report["images"], 40);
    for key in ["fake_quant_vs_integer_predictions", "integer_vs_macro_logits", "fake_quant_vs_macro_predictions"] {
        assert_eq!(report["mismatches"][key], 0, "{key}");
    }
    // What training said about its last epoch is what the hardware model computes.
    let trained = &lines[EPOCHS - 1]["test_accuracy"];
    for execution in ["fake_quant", "integer", "macro"] {
        assert_eq!(report["accuracy"][execution], *trained, "{execution}");
    }
    let sparsity = &report["compression"]["group_sparsity"];
    assert_eq!(*sparsity, lines[EPOCHS - 1]["group_sparsity"]);
    assert!((sparsity.as_f64().unwrap() - 0.4).abs() < 0.03, "{sparsity}");

    assert_eq!(fs::read(FINISHED.join("copy.json")).unwrap(), fs::read(run.join("deploy.json")).unwrap());
    let out = fs::read_to_string(FINISHED.join("stdout")).unwrap();
    assert!(out.ends_with(&format!("report: {}\n", Path::new("run").join("report.html").display())), "{out}");
    let recipe = fs::read_to_string(run.join("recipe.toml")).unwrap();
    for line in ["seed = 3", "model = \"tiny.toml\"", "weight_bits = 4", "pretrained = \"none\""] {
        assert!(recipe.contains(line), "{recipe}");
    }
    let package = Package::read(&run.join("model.mars")).unwrap();
    assert_eq!((package.provenance.recipe, package.provenance.seed), (recipe, 3));
}

/// Whoever reads the output may leave: the files are there, and a training goes on to its end.
#[cfg(unix)]
/// Networks that differ are named above their columns; a run's folder takes neither a comparison nor a sweep.
#[test]
fn a_comparison_says_what_it_compares() {
    let dir = TempDir::new().unwrap();
    let package = FINISHED.join("run/model.mars");
    let chip = Path::new("experiments/hardware/mars.toml").canonicalize().unwrap();
    let compare = |arguments: &[&str]| {
        let mut command = command(DEPLOY, dir.path());
        command.args(["--model", "resnet20", "--quiet", "--compare"]).args([&package, &chip]).args(arguments);
        command.output().unwrap()
    };
    let (out, _) = success(&compare(&[]));
    let line =
        |name: &str| out.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{out}"));
    assert!(line("network").contains("tiny") && line("network").contains("resnet20"), "{out}");
    assert!(line("chip").matches("mars").count() == 2, "{out}");
    assert!(out.starts_with("Made up of mars: Nothing was trained"), "{out}");
    let (_place, run) = copied_run();
    failed(&compare(&["--run", run.to_str().unwrap()]), &["it holds a run: name another folder"]);
}

#[test]
fn a_closed_output_ends_nothing() {
    let dir = new_place();
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let mut run = command(TRAIN, dir.path());
    run.args(["--data-dir", "data", "--recipe", "recipe.toml", "--run", "run"]);
    let output = run.stdout(closed()).stderr(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    same_run(&dir.path().join("run"), &FINISHED.join("run"));
    let mut run = deploy(dir.path(), &["run/model.mars", "--json", "cost.json"]);
    assert_eq!(run.stdout(closed()).output().unwrap().status.code(), Some(0));
    assert_eq!(json(&dir.path().join("cost.json")), json(&dir.path().join("run/deploy.json")));
    let mut list = command(REPRODUCE, Path::new(env!("CARGO_MANIFEST_DIR")));
    assert_eq!(list.arg("--list").stdout(closed()).output().unwrap().status.code(), Some(0));
}

/// Weights whose products overflow have no largest logit: no accuracy comes of them.
#[test]
fn logits_that_are_not_finite_have_no_accuracy() {
    let dir = new_place();
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    let mut weights = Weights::random(&graph, 1);
    let arrays: Vec<String> = weights.iter().map(|(name, _)| name.to_string()).collect();
    for name in arrays.iter().filter(|name| name.ends_with(".weight")) {
        let mut array = weights.get(name).unwrap().clone();
        array.values.fill(3e38);
        weights.insert(name.clone(), array);
    }
    weights.save(&dir.path().join("huge.safetensors"), None).unwrap();
    let evaluate = ["--recipe", "recipe.toml", "--evaluate", "--pretrained", "huge.safetensors"];
    refused(dir.path(), &mut train(dir.path(), &evaluate), &["layer `stem`", "its values aren't finite"]);
}

/// A full disk is an error; what is asked for as a file is written before.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_the_output_is_an_error() {
    let dir = TempDir::new().unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = dir.path().join("cost.json");
    let mut run = deploy(&FINISHED, &["run/model.mars", "--json", file.to_str().unwrap()]);
    let output = run.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.starts_with("error: standard output: "), "{err}");
    assert_eq!(json(&file), json(&FINISHED.join("run/deploy.json")));
}

/// A pipe gets the JSON; a link stays one.
#[cfg(unix)]
#[test]
fn json_goes_where_it_is_told() {
    let dir = TempDir::new().unwrap();
    let trained = fs::read_to_string(FINISHED.join("run/deploy.json")).unwrap();
    let pipe = ["run/model.mars", "--json", "/dev/stderr"];
    let (_, err) = success(&deploy(&FINISHED, &pipe).output().unwrap());
    assert_eq!(err, trained);
    let [link, file] = ["link.json", "file.json"].map(|name| dir.path().join(name));
    fs::write(&file, "{}").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    success(&deploy(&FINISHED, &["run/model.mars", "--json", link.to_str().unwrap()]).output().unwrap());
    assert!(link.is_symlink() && fs::read_to_string(&file).unwrap() == trained);
    let (out, _) = success(&deploy(&FINISHED, &["run/model.mars", "--json", "-"]).output().unwrap());
    assert!(out == trained && !FINISHED.join("-").exists());
}

/// What a program reads isn't what it writes.
#[test]
fn json_takes_the_place_of_no_input() {
    let (dir, _) = copied_run();
    let before = tree(dir.path());
    let last = "run/checkpoints/last.safetensors";
    for mut command in [
        deploy(dir.path(), &["run/model.mars", "--json", "run/model.mars"]),
        deploy(dir.path(), &["--model", "tiny.toml", "--json", "tiny.toml"]),
        train(dir.path(), &["--recipe", "recipe.toml", "--evaluate", "--pretrained", last, "--json", last]),
    ] {
        let output = command.output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains("--json") && err.contains("it is there and holds no JSON: remove it, or name"), "{err}");
    }
    assert_eq!(tree(dir.path()), before);
}

/// They find the same number free.
#[test]
fn runs_that_start_together_get_folders_of_their_own() {
    let dir = new_place();
    let settings = ["phases.0.epochs=0", "phases.1.epochs=0", "phases.2.epochs=0", "sparsity.target=0"];
    let settings = settings.map(|setting| ["--set", setting]).concat();
    let start = || {
        let mut run = train(dir.path(), &[&["--recipe", "recipe.toml"], &settings[..]].concat());
        run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let runs: Vec<_> = (0..3).map(|_| start()).collect();
    runs.into_iter().for_each(|run| drop(success(&run.wait_with_output().unwrap())));
    for number in 1..4 {
        assert!(dir.path().join(format!("runs/tiny-cifar10-{number}/deploy.json")).exists(), "run {number}");
    }
}

#[test]
fn the_second_command_agrees_with_the_first() {
    let dir = TempDir::new().unwrap();
    let json_file = dir.path().join("again.json");
    let arguments = ["run/model.mars", "--json", json_file.to_str().unwrap(), "--run", dir.path().to_str().unwrap()];
    success(&deploy(&FINISHED, &arguments).output().unwrap());
    let trained = fs::read_to_string(FINISHED.join("run/deploy.json")).unwrap();
    assert_eq!(fs::read_to_string(&json_file).unwrap(), trained);
    assert_eq!(fs::read_to_string(dir.path().join("deploy.json")).unwrap(), trained);
    assert!(dir.path().join("report.html").exists());

    let first = ["run/model.mars", "--images", "7", "--json", json_file.to_str().unwrap()];
    success(&deploy(&FINISHED, &first).output().unwrap());
    let report = json(&json_file);
    assert_eq!((&report["images"], &report["mismatches"]["integer_vs_macro_logits"]), (&7.into(), &0.into()));
    assert_eq!(report["mismatches"]["fake_quant_vs_integer_predictions"], 0);
}

/// Other images than those that the predictions are of: null, not zero and not a wrong number.
#[test]
fn what_is_not_known_about_other_images_is_null() {
    let dir = TempDir::new().unwrap();
    common::write_cifar10(&dir.path().join("data"), 1, 33);
    let json_file = dir.path().join("out.json");
    let package = FINISHED.join("run/model.mars");
    let arguments = [package.to_str().unwrap(), "--json", json_file.to_str().unwrap()];
    success(&deploy(dir.path(), &arguments).output().unwrap());
    let report = json(&json_file);
    assert!(report["accuracy"]["fake_quant"].is_null() && report["accuracy"]["float"].is_null());
    assert!(report["mismatches"]["fake_quant_vs_macro_predictions"].is_null());
    assert_eq!(report["mismatches"]["integer_vs_macro_logits"], 0);
}

#[test]
fn cifar100_goes_all_the_way() {
    let dir = TempDir::new().unwrap();
    common::write_cifar100(&dir.path().join("data"), 200, 30);
    fs::write(dir.path().join("tiny.toml"), common::tiny_network(100)).unwrap();
    fs::write(dir.path().join("recipe.toml"), RECIPE).unwrap();
    let settings = ["phases.0.epochs=1", "phases.1.epochs=1", "phases.2.epochs=1"].map(|s| ["--set", s]).concat();
    let arguments = [&["--dataset", "cifar100", "--recipe", "recipe.toml", "--run", "run"], &settings[..]].concat();
    success(&train(dir.path(), &arguments).output().unwrap());
    let report = json(&dir.path().join("run/deploy.json"));
    assert_eq!(report["images"], 30);
    assert_eq!(report["mismatches"]["fake_quant_vs_macro_predictions"], 0);
    let accuracy = |name: &str| report["accuracy"][name].as_f64().unwrap();
    assert!(accuracy("macro") <= accuracy("macro_top5") && accuracy("macro_top5") <= 100.0, "{report}");
    let package = Package::read(&dir.path().join("run/model.mars")).unwrap();
    assert_eq!((package.network.classes.len(), package.network.classes[99].as_str()), (100, "fine_99"));
    assert_eq!(package.provenance.dataset, "cifar100");
    success(&deploy(dir.path(), &["run/model.mars"]).output().unwrap());
}

/// What an installed program finds in a folder that has nothing: the repository's checkpoints, recipes and hardware files.
#[test]
fn programs_work_in_an_empty_folder() {
    let dir = TempDir::new().unwrap();
    let run = |program: &str, arguments: &str| {
        success(&command(program, dir.path()).args(arguments.split(' ')).arg("--quiet").output().unwrap()).0
    };
    let mini = "--dataset cifar10-mini";
    let accuracy = run(TRAIN, &format!("--evaluate --pretrained checkpoints/resnet20.safetensors {mini}"));
    assert_eq!(accuracy, "test accuracy 92.62 %\n");
    let calibrate = "phases=[{kind=\"quantize\",epochs=0}]";
    run(TRAIN, &format!("--recipe experiments/quickstart.toml --set {calibrate} --run run"));
    assert!(
        fs::read_to_string(dir.path().join("run/recipe.toml")).unwrap().contains("checkpoints/resnet20.safetensors")
    );
    run(DEPLOY, "run/model.mars --images 100 --hardware experiments/hardware/mars-8x16.toml");
    assert!(run(REPRODUCE, "--list").contains("resnet20"));
    // A file of the same name comes first.
    fs::create_dir(dir.path().join("checkpoints")).unwrap();
    fs::write(dir.path().join("checkpoints/resnet20.safetensors"), "nothing").unwrap();
    let output = command(TRAIN, dir.path()).args(["--recipe", "experiments/quickstart.toml"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("checkpoints/resnet20.safetensors: not a readable checkpoint"), "{error}");
}

/// Handwritten digits of scikit-learn, gray, 8 x 8: from nothing to a report, which another program repeats.
#[test]
fn digits_are_trained_from_an_npz_file() {
    let dir = TempDir::new().unwrap();
    fs::copy("tests/fixtures/digits.npz", dir.path().join("digits.npz")).unwrap();
    let network = r#"
name = "small"
input = [1, 8, 8]
classes = 10
[[layers]]
op = "conv"
name = "conv1"
filters = 16
kernel = 3
padding = 1
[[layers]]
op = "conv"
name = "conv2"
filters = 32
kernel = 3
stride = 2
padding = 1
[[layers]]
op = "linear"
name = "linear"
filters = 10
"#;
    fs::write(dir.path().join("small.toml"), network).unwrap();
    let phases = "phases=[{kind=\"float\",epochs=4,learning_rate=0.05},{kind=\"quantize\",epochs=2}]";
    let arguments = [
        "--model",
        "small.toml",
        "--dataset",
        "digits.npz",
        "--set",
        "augment=false",
        "--set",
        phases,
        "--set",
        "batch_size=32",
    ];
    success(&command(TRAIN, dir.path()).args(arguments).args(["--quiet", "--json", "json"]).output().unwrap());
    let report = json(&dir.path().join("json"));
    assert_eq!(report["images"], 355);
    assert!(report["accuracy"]["macro"].as_f64().unwrap() > 93.0, "{}", report["accuracy"]);
    assert_eq!(report["mismatches"]["fake_quant_vs_macro_predictions"], 0);
    let recipe = fs::read_to_string(dir.path().join("runs/small-digits-1/recipe.toml")).unwrap();
    assert!(recipe.contains("[normalization]"), "what was measured is stored: {recipe}");
    let deploy = ["runs/small-digits-1/model.mars", "--quiet", "--json", "again"];
    success(&command(DEPLOY, dir.path()).args(deploy).output().unwrap());
    assert_eq!(json(&dir.path().join("again"))["accuracy"], report["accuracy"]);
    // Elsewhere its images have to be named.
    let package = dir.path().join("runs/small-digits-1/model.mars");
    let elsewhere = TempDir::new().unwrap();
    let output = command(DEPLOY, elsewhere.path()).arg(&package).output().unwrap();
    failed(&output, &["model.mars: it was trained on `digits.npz`, which isn't here: --dataset names where"]);
    let text = success(&command(DEPLOY, dir.path()).args([&*package.to_string_lossy(), "--quiet"]).output().unwrap()).0;
    assert!(text.contains("355 images of digits.npz"), "{text}");
    let moved = dir.path().join("moved.npz");
    fs::rename(dir.path().join("digits.npz"), &moved).unwrap();
    let mut deploy = command(DEPLOY, dir.path());
    let deploy = deploy.args([&*package.to_string_lossy(), "--dataset", "moved.npz", "--quiet", "--images", "9"]);
    assert!(success(&deploy.output().unwrap()).0.contains("9 images of digits.npz"), "the same images");
}

/// What each layer stores for some images, as another program reads it.
#[test]
fn test_vectors_hold_what_layers_store() {
    let dir = new_place();
    let package = FINISHED.join("run/model.mars");
    let file = dir.path().join("vectors.safetensors");
    let arguments = [package.to_str().unwrap(), "--images", "3", "--vectors", file.to_str().unwrap()];
    let (out, _) = success(&deploy(&FINISHED, &arguments).output().unwrap());
    assert!(out.ends_with("arrays; all codes are those of the integer network\n"), "{out}");
    let bytes = fs::read(&file).unwrap();
    let arrays = SafeTensors::deserialize(&bytes).unwrap();
    let array = |name: &str| arrays.tensor(name).unwrap();
    let network = Package::read(&package).unwrap().network;
    let nodes = network.graph.nodes();
    for (node, bits) in network.stored() {
        let codes = array(&format!("{}.u{bits}", nodes[node].name));
        let map = nodes[node].output;
        assert_eq!(codes.shape(), [3, map.channels, map.height, map.width]);
        assert!(codes.data().iter().all(|code| u32::from(*code) < 1 << bits), "{}", nodes[node].name);
    }
    let logits = Reference::new(&network).unwrap().logits(array("images").data());
    let logits: Vec<u8> = logits.into_iter().flat_map(i32::to_le_bytes).collect();
    assert!(["logits", "logits.integer"].iter().all(|name| array(name).data() == logits));

    // A pixel of the first layer's second image, from its weights.
    let IntegerLayer::Conv { conv, output: Some(output), .. } = &network.layers[0] else { panic!("a convolution") };
    let (image, map) = (network.graph.image(), nodes[0].output);
    let value = |channel: usize, y: usize, x: usize| {
        let place = ((image.channels + channel) * image.height + y) * image.width + x;
        i32::from(array("images").data()[place])
    };
    let [y, x] = [1, 2];
    for filter in 0..map.channels {
        let products = conv.weights[filter * image.channels * 9..][..image.channels * 9].iter().enumerate();
        let products = products.map(|(place, weight)| {
            i32::from(*weight) * value(place / 9, 2 * y + place / 3 % 3 - 1, 2 * x + place % 3 - 1)
        });
        let sum = i64::from(conv.bias[filter] + products.sum::<i32>()) * i64::from(output.multiplier(filter));
        for form in &output.forms {
            let codes = array(&format!("{}.u{}", nodes[0].name, form.bits));
            let place = ((map.channels + filter) * map.height + y) * map.width + x;
            assert_eq!(codes.data()[place], form.apply(sum), "filter {filter}");
        }
    }
    failed(&deploy(&FINISHED, &arguments).output().unwrap(), &["vectors.safetensors: it is there already"]);
    let nowhere = ["run/model.mars", "--images", "3", "--vectors", "nowhere/vectors.safetensors"];
    failed(&deploy(&FINISHED, &nowhere).output().unwrap(), &["there is no folder nowhere: make it first"]);

    // A converter that clips nearly everything: from the first layer on.
    fs::write(
        dir.path().join("clips.toml"),
        "base = \"experiments/hardware/mars.toml\"\n[converter]\nkind = \"clipping\"\nrange = 1\n",
    )
    .unwrap();
    let [clips, lossy] = ["clips.toml", "lossy.safetensors"].map(|file| dir.path().join(file));
    let arguments = [package.to_str().unwrap(), "--images", "2", "--hardware", clips.to_str().unwrap()];
    let arguments = [&arguments[..], &["--vectors", lossy.to_str().unwrap()]].concat();
    let (out, _) = success(&deploy(&FINISHED, &arguments).output().unwrap());
    assert!(out.ends_with("the chip is lossy, and codes differ from the integer network's from stem on\n"), "{out}");
    let bytes = fs::read(&lossy).unwrap();
    let arrays = SafeTensors::deserialize(&bytes).unwrap();
    let [on_chip, integer] = ["logits", "logits.integer"].map(|name| arrays.tensor(name).unwrap());
    assert!(on_chip.data() != integer.data() && integer.data() == &logits[..integer.data().len()]);
}

/// A network of the zoo, as TOML, without its images; nothing is written over.
#[test]
fn a_network_is_written_without_its_images() {
    let dir = TempDir::new().unwrap();
    let write = |model: &str, file: &str| {
        command(TRAIN, dir.path()).args(["--model", model, "--write-network", file, "--quiet"]).output().unwrap()
    };
    for (model, input) in [("vgg8", "input = [3, 32, 32]"), ("resnet18_imagenet", "input = [3, 224, 224]")] {
        success(&write(model, model));
        let text = fs::read_to_string(dir.path().join(model)).unwrap();
        assert!(text.contains(input), "{text}");
    }
    failed(&write("vgg16", "vgg8"), &["vgg8: it is there already"]);
}

/// Budgets that the hardware model accounts for: met in what the run deploys, the same after a resume, refused where they cannot be met.
#[test]
fn budgets_are_met_by_what_is_deployed() {
    let dir = new_place();
    let set = |budget: &str, target: &str| {
        [format!("sparsity.budget={budget}"), format!("sparsity.target={target}"), "sparsity.lambda=0".into()]
    };
    let settings =
        |settings: &[String; 3]| settings.iter().flat_map(|s| ["--set".into(), s.clone()]).collect::<Vec<String>>();
    for (budget, target) in
        [("stored_bits", 0.4), ("cycles", 0.1), ("energy", 0.1), ("groups_per_layer", 0.4), ("lambda", 0.5)]
    {
        let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--run", budget]);
        success(&command.args(settings(&set(budget, &target.to_string()))).output().unwrap());
        let report = json(&dir.path().join(budget).join("deploy.json"));
        let number = |key: &str| report.pointer(key).and_then(Value::as_f64).unwrap();
        assert_eq!(report["mismatches"]["fake_quant_vs_macro_predictions"], 0);
        match budget {
            "stored_bits" => assert!(number("/compression/ratio") >= 1.0 / (1.0 - target), "{report}"),
            "cycles" => assert!(number("/cost/speedup_vs_dense") >= 1.0 / (1.0 - target), "{report}"),
            "energy" => {
                let run = dir.path().join(budget);
                let network = Package::read(&run.join("model.mars")).unwrap().network;
                let recipe = Recipe::load(Some(&run.join("recipe.toml")), &[]).unwrap();
                let dense = outline(&network.graph, &recipe.quantize, network.group);
                // Budgets ask for the cost of filter sets laid over the cores.
                let chip = Hardware {
                    mapping: Mapping { policy: Policy::FilterSets, ..Mapping::default() },
                    ..Hardware::mars()
                };
                let energy = |network| evaluate(network, &chip).unwrap().cost.energy_uj;
                assert!(energy(&network) <= (1.0 - target) * energy(&dense), "{report}");
            }
            "groups_per_layer" => {
                for layer in
                    report["layers"].as_array().unwrap().iter().filter(|layer| !layer["group_sparsity"].is_null())
                {
                    let groups = layer["groups"].as_f64().unwrap();
                    let zero = groups - layer["kept_groups"].as_f64().unwrap();
                    // Quantization may empty a group more.
                    assert!(zero >= (target * groups).round().min(groups - 1.0), "{layer}");
                }
            }
            // A penalty of nothing takes nothing; quantization may.
            _ => assert!(number("/compression/group_sparsity") < 0.1, "{report}"),
        }
    }
    let run = dir.path().join("killed");
    let mut killed = train(dir.path(), &["--recipe", "recipe.toml", "--run", "killed"]);
    kill_at(killed.args(settings(&set("cycles", "0.1"))).stdout(Stdio::null()).spawn().unwrap(), &run, 4);
    success(&train(dir.path(), &["--resume", "--run", "killed"]).output().unwrap());
    same_run(&run, &dir.path().join("cycles"));
    for (budget, parts) in [
        ("cycles", ["each layer keeps a group", "network's cycles can go"]),
        ("groups", ["each layer keeps a group", "can go"]),
    ] {
        let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--run", "never"]);
        let command = command.args(settings(&set(budget, "0.99")));
        refused(dir.path(), command, &[&parts[..], &["sparsity.target = 0.99"]].concat());
    }
}
