//! What stops a run, and that it goes on to the same bytes.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use mars::network::{Array, Graph, Weights};
use tempfile::TempDir;

use crate::common::{self, success};
use crate::place::{FINISHED, RECIPE, copied_run, deploy, failed, json, metrics, misused, new_place, refused, train};

/// Waits until a run has written so many lines of metrics. One that ends before leaves nothing to interrupt.
fn wait_for_lines(child: &mut Child, run: &Path, lines: usize) {
    while fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count() < lines {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the run ended before its line {lines}: {ended:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a run once it has written so many lines of metrics.
pub(super) fn kill_at(mut child: Child, run: &Path, lines: usize) {
    wait_for_lines(&mut child, run, lines);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
}

/// Interrupts a run as Ctrl-C does, once it has written so many lines of metrics, and gives its output. The signal is that of `timeout`: tests that a script
/// runs in the background were started to ignore the other one, and so were their runs.
#[cfg(unix)]
pub(super) fn interrupt_at(mut child: Child, run: &Path, lines: usize) -> (String, String) {
    wait_for_lines(&mut child, run, lines);
    let signal = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(signal.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(130), "it ended before the signal came: {err}");
    (out, err)
}

/// A place whose recipe has a last phase of so many more epochs that a run is still there when it is to be interrupted; a run that nobody
/// interrupted is in `whole`.
fn place_of_long_runs(quantize: &str, settings: &[&str]) -> TempDir {
    let dir = new_place();
    let (first, last) = RECIPE.rsplit_once("epochs = 2").unwrap();
    let recipe = format!("{first}epochs = 8\n{quantize}{last}");
    fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
    let arguments = [&["--recipe", "recipe.toml", "--run", "whole"], settings].concat();
    success(&train(dir.path(), &arguments).output().unwrap());
    dir
}

/// The same files as those of another run, times apart.
pub(super) fn same_run(run: &Path, expected: &Path) {
    for file in ["model.mars", "deploy.json", "recipe.toml"] {
        assert!(fs::read(run.join(file)).unwrap() == fs::read(expected.join(file)).unwrap(), "{file}");
    }
    for file in ["last", "0-float", "1-sparsify", "2-quantize"] {
        let file = format!("checkpoints/{file}.safetensors");
        assert!(fs::read(run.join(&file)).unwrap() == fs::read(expected.join(&file)).unwrap(), "{file}");
    }
    let timeless = |run: &Path| {
        let mut lines = metrics(run);
        for line in &mut lines {
            line.as_object_mut().unwrap().retain(|key, _| key != "seconds" && key != "images_per_second");
        }
        lines
    };
    assert_eq!(timeless(run), timeless(expected));
}

/// Killed before its statistics freeze, or after its batch norms were folded, a run goes on to the same bytes.
#[test]
fn a_killed_run_continues_across_the_freeze_and_after_the_fold() {
    for (fusion, freeze) in [("ema", "freeze_at = 1.4"), ("batch", "freeze_at = 1"), ("once", "")] {
        let fusion = format!("quantize.fusion={fusion}");
        let dir = place_of_long_runs(freeze, &["--set", &fusion]);
        let run = dir.path().join("killed");
        let mut child = train(dir.path(), &["--recipe", "recipe.toml", "--run", "killed", "--set", &fusion]);
        kill_at(child.stdout(Stdio::null()).spawn().unwrap(), &run, 6);
        success(&train(dir.path(), &["--resume", "--run", "killed"]).output().unwrap());
        same_run(&run, &dir.path().join("whole"));
    }
}

/// Held-out images choose, test images wait for the end, and an average of the weights is what is exported; killed, the run goes on to
/// the same bytes.
#[test]
fn test_images_wait_for_the_end_of_a_run_that_is_chosen_on_others() {
    let dir = new_place();
    let keys = "validation_images = 40\nevaluate_every = \"end\"\ncutout = 6\n";
    let phase = "average_decay = 0.9\nlabel_smoothing = 0.1\nclip_norm = 2.0\n";
    let recipe = RECIPE.replace("[[phases]]\n", &format!("[[phases]]\n{phase}"));
    // So many epochs that a run is still there when it is to be killed.
    let (first, last) = recipe.rsplit_once("epochs = 2").unwrap();
    fs::write(dir.path().join("recipe.toml"), format!("{keys}{first}epochs = 8{last}")).unwrap();
    success(&train(dir.path(), &["--recipe", "recipe.toml", "--run", "whole"]).output().unwrap());
    let whole = dir.path().join("whole");
    for line in metrics(&whole) {
        assert!(line["validation_accuracy"].is_number() && line.get("test_accuracy").is_none(), "{line}");
    }
    let deployment = json(&whole.join("deploy.json"));
    assert!(deployment["accuracy"]["float"].is_number(), "{deployment}");
    assert_eq!(deployment["accuracy"]["fake_quant"], deployment["accuracy"]["macro"]);

    let run = dir.path().join("killed");
    let mut next = train(dir.path(), &["--recipe", "recipe.toml", "--run", "killed"]);
    for lines in [2, 4, 6] {
        kill_at(next.stdout(Stdio::null()).spawn().unwrap(), &run, lines);
        next = train(dir.path(), &["--resume", "--run", "killed"]);
    }
    success(&next.output().unwrap());
    same_run(&run, &whole);
    let too_many = ["--recipe", "recipe.toml", "--run", "none", "--set", "validation_images=4000"];
    refused(
        dir.path(),
        &mut train(dir.path(), &too_many),
        &["validation_images = 4000", "each class has to keep some"],
    );
    let painted_over = ["--recipe", "recipe.toml", "--run", "none", "--set", "cutout=32"];
    refused(dir.path(), &mut train(dir.path(), &painted_over), &["cutout = 32: it must be below 32"]);
}

/// A run learns from the network it starts from or from the one that is named, and keeps it.
#[test]
fn distillation_keeps_its_teacher() {
    LazyLock::force(&FINISHED);
    let dir = new_place();
    let untaught = ["--recipe", "recipe.toml", "--run", "none", "--set", "distillation.weight=0.5"];
    let output = train(dir.path(), &untaught).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("distillation needs a network to learn from"));
    assert!(!dir.path().join("none").exists());
    let start = FINISHED.join("run/checkpoints/last.safetensors");
    let start = start.to_str().unwrap();
    let taught =
        ["--recipe", "recipe.toml", "--run", "taught", "--set", "distillation.weight=0.5", "--pretrained", start];
    success(&train(dir.path(), &taught).output().unwrap());
    let teacher = |run: &str| fs::read(dir.path().join(run).join("checkpoints/teacher.safetensors")).unwrap();
    let named = format!("distillation.teacher={start}");
    success(&train(dir.path(), &["--recipe", "recipe.toml", "--run", "named", "--set", &named]).output().unwrap());
    assert_eq!(teacher("named"), teacher("taught"));
    // What the recipe says of its checkpoint holds for a teacher of the same program.
    let mut with_aux = Weights::default();
    let (float, _) = Weights::load(&FINISHED.join("run/checkpoints/0-float.safetensors")).unwrap();
    let own = float.iter().filter(|(name, _)| !name.contains(':'));
    own.for_each(|(name, array)| with_aux.insert(name.into(), array.clone()));
    with_aux.insert("aux.weight".into(), Array::vector(vec![1.0; 3]));
    with_aux.save(&dir.path().join("aux.safetensors"), None).unwrap();
    let alike = ["--recipe", "recipe.toml", "--run", "alike", "--pretrained", "aux.safetensors", "--dry-run"];
    let settings = ["--set", "ignore=[\"aux\"]", "--set", "distillation.teacher=aux.safetensors"];
    success(&train(dir.path(), &[&alike[..], &settings].concat()).output().unwrap());
    // The teacher is no checkpoint that a run could go on from.
    for file in ["last", "0-float", "1-sparsify", "2-quantize"] {
        fs::remove_file(dir.path().join(format!("named/checkpoints/{file}.safetensors"))).unwrap();
    }
    let parts = ["the run ended before its first checkpoint: remove the folder"];
    refused(dir.path(), &mut train(dir.path(), &["--resume", "--run", "named"]), &parts);
}

/// Killed in each phase, and once in the middle of writing a line.
#[test]
fn a_killed_run_continues_to_the_same_bytes() {
    let dir = place_of_long_runs("", &[]);
    let [run, whole] = ["run", "whole"].map(|name| dir.path().join(name));
    let mut next = train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]);
    for lines in [1, 4, 6] {
        kill_at(next.stdout(Stdio::null()).spawn().unwrap(), &run, lines);
        next = train(dir.path(), &["--resume", "--run", "run"]);
    }
    let file = run.join("metrics.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text + "{\"phase\":\"qua").unwrap();
    success(&next.output().unwrap());
    same_run(&run, &whole);
    // A power cut may cost lines of metrics; the run goes on.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() - 9]).unwrap();
    success(&train(dir.path(), &["--resume", "--run", "run"]).output().unwrap());
    assert_eq!(metrics(&run).len(), metrics(&whole).len() - 1);
    fs::write(&file, text).unwrap();
    // A run that has ended can be continued too: there is only the deployment left.
    success(&train(dir.path(), &["--resume", "--run", "run"]).output().unwrap());
    same_run(&run, &whole);
}

/// Layers of 8 and 12 channels, which fill no register, among them.
#[test]
fn a_run_without_avx512_ends_with_the_same_bytes() {
    let dir = new_place();
    let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]);
    success(&command.env("MARS_ISA", "avx2").output().unwrap());
    same_run(&dir.path().join("run"), &FINISHED.join("run"));
}

#[test]
fn a_package_gives_the_same_with_every_instruction_set() {
    let dir = new_place();
    let package = FINISHED.join("run/model.mars");
    let deployed = ["avx512", "avx2", "portable"].map(|isa| {
        let file = format!("{isa}.json");
        let mut command = deploy(dir.path(), &[package.to_str().unwrap(), "--json", &file]);
        success(&command.env("MARS_ISA", isa).output().unwrap());
        fs::read(dir.path().join(file)).unwrap()
    });
    assert!(deployed.iter().all(|bytes| *bytes == deployed[0]));
    failed(
        &deploy(dir.path(), &[package.to_str().unwrap()]).env("MARS_ISA", "sse").output().unwrap(),
        &["MARS_ISA", "avx2"],
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_run_that_continues_to_the_same_bytes() {
    let dir = place_of_long_runs("", &[]);
    let [run, whole] = ["my run", "whole"].map(|name| dir.path().join(name));
    let mut next = train(dir.path(), &["--recipe", "recipe.toml", "--run", "my run", "--json", "end.json"]);
    for lines in [1, 3, 5] {
        let child = next.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (_, err) = interrupt_at(child, &run, lines);
        assert!(err.contains("stopping after this step"), "{err}");
        assert!(
            err.contains("interrupted; go on with: mars-train --resume --run 'my run' --json end.json --data-dir "),
            "{err}"
        );
        next = train(dir.path(), &["--resume", "--run", "my run", "--json", "end.json"]);
    }
    success(&next.output().unwrap());
    assert!(dir.path().join("end.json").exists());
    same_run(&run, &whole);
}

/// `nohup` does no more than have its program ignore the signal that a closing terminal sends.
#[cfg(unix)]
#[test]
fn a_signal_that_a_run_was_started_to_ignore_does_not_stop_it() {
    let dir = place_of_long_runs("", &[]);
    let mut shell = Command::new("sh");
    let program = train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]);
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(program.get_program()).args(program.get_args());
    shell.current_dir(dir.path()).envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let mut child = shell.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let run = dir.path().join("run");
    wait_for_lines(&mut child, &run, 2);
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    success(&child.wait_with_output().unwrap());
    same_run(&run, &dir.path().join("whole"));
}

/// Another device rounds otherwise.
#[test]
fn a_run_goes_on_with_its_device() {
    let (dir, _) = copied_run();
    let resume = ["--resume", "--run", "run", "--device", "ndarray"];
    let parts = ["it was trained on device flex", "resume with --device flex, or say --allow-other-cpu"];
    refused(dir.path(), &mut train(dir.path(), &resume), &parts);
    let output = train(dir.path(), &[&resume[..], &["--allow-other-cpu"]].concat()).output().unwrap();
    success(&output);
}

/// The average of a phase is of all its steps, so that a phase that has ended with one gets no more of them.
#[test]
fn a_phase_that_ended_with_an_average_is_not_extended() {
    let dir = new_place();
    let recipe = RECIPE.replacen("epochs = 3", "epochs = 3\naverage_decay = 0.9", 1);
    fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
    success(&train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]).output().unwrap());
    let run = dir.path().join("run");
    fs::copy(run.join("checkpoints/0-float.safetensors"), run.join("checkpoints/last.safetensors")).unwrap();
    let file = run.join("recipe.toml");
    let recipe = fs::read_to_string(&file).unwrap();
    fs::write(&file, recipe.replacen("epochs = 3", "epochs = 4", 1)).unwrap();
    let parts = ["phases.0 has ended with the average of its weights: phases.0.epochs stays 3"];
    refused(dir.path(), &mut train(dir.path(), &["--resume", "--run", "run"]), &parts);
    fs::write(&file, recipe).unwrap();
    success(&train(dir.path(), &["--resume", "--run", "run"]).output().unwrap());
}

/// The images that are held out follow from the seed; what has changed is the recipe.
#[test]
fn another_seed_is_no_other_data_set() {
    let dir = new_place();
    fs::write(dir.path().join("recipe.toml"), format!("validation_images = 40\n{RECIPE}")).unwrap();
    success(&train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]).output().unwrap());
    let file = dir.path().join("run/recipe.toml");
    let recipe = fs::read_to_string(&file).unwrap();
    for (key, before, now) in [("seed", "seed = 3", "seed = 4"), ("validation_images", "images = 40", "images = 30")] {
        fs::write(&file, recipe.replacen(before, now, 1)).unwrap();
        let part = format!("`{key}` of recipe.toml is another one than what has run had: put it back");
        refused(dir.path(), &mut train(dir.path(), &["--resume", "--run", "run"]), &[&part]);
    }
}

#[test]
fn a_folder_that_holds_a_run_is_refused() {
    let line =
        refused(&FINISHED, &mut train(&FINISHED, &["--recipe", "recipe.toml", "--run", "run"]), &["run: it holds"]);
    assert!(line.contains("--resume"), "{line}");
    // What is left of a run isn't mixed with another one's.
    let dir = new_place();
    for (file, folder) in [("metrics.jsonl", "lines"), ("checkpoints/last.safetensors", "weights")] {
        let place = dir.path().join(folder).join(file);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(FINISHED.join("run").join(file), place).unwrap();
        let mut command = train(dir.path(), &["--recipe", "recipe.toml", "--run", folder]);
        refused(dir.path(), &mut command, &["it holds a run", file]);
    }
    let mut resume = train(&FINISHED, &["--resume", "--run", "run", "--set", "seed=4"]);
    misused(&FINISHED, &mut resume, &["--resume takes its recipe from the run folder"]);
}

/// One process at a time, on the chip, with the network and the images that the run began with.
#[test]
fn a_run_goes_on_alone_and_with_what_it_began_with() {
    let dir = new_place();
    let mars = fs::read_to_string("experiments/hardware/mars.toml").unwrap();
    let chip = dir.path().join("chip.toml");
    fs::write(&chip, &mars).unwrap();
    let run = |arguments: &[&str]| train(dir.path(), &[arguments, &["--run", "run"]].concat());
    let new = ["--recipe", "recipe.toml", "--hardware", "chip.toml"];
    fs::create_dir(dir.path().join("run")).unwrap();
    let lock = fs::File::create(dir.path().join("run/lock")).unwrap();
    lock.lock().unwrap();
    refused(dir.path(), &mut run(&new), &["run: another process runs this"]);
    lock.unlock().unwrap();
    success(&run(&new).output().unwrap());
    fs::write(&chip, mars.replacen("filters = 16", "filters = 8", 1)).unwrap();
    refused(dir.path(), &mut run(&["--resume"]), &["hardware.toml: it isn't the chip of chip.toml any more"]);
    fs::write(&chip, mars).unwrap();
    let network = fs::read_to_string(dir.path().join("tiny.toml")).unwrap();
    let other = network.replacen("padding = 1", "padding = 1\nbatch_norm = true", 1);
    fs::write(dir.path().join("tiny.toml"), &other).unwrap();
    success(&run(&["--resume"]).output().unwrap());
    fs::write(dir.path().join("tiny.toml"), network.replacen("stride = 2", "stride = 1", 1)).unwrap();
    refused(dir.path(), &mut run(&["--resume"]), &["network.toml: it isn't the network of tiny.toml any more"]);
    fs::write(dir.path().join("tiny.toml"), network).unwrap();
    let images = dir.path().join("data/cifar-10-batches-bin/data_batch_3.bin");
    let mut bytes = fs::read(&images).unwrap();
    bytes[1] ^= 1;
    fs::write(&images, &bytes).unwrap();
    refused(dir.path(), &mut run(&["--resume"]), &["data.toml: it isn't the data set of cifar10 any more"]);
    bytes[1] ^= 1;
    fs::write(&images, &bytes).unwrap();
    lock.lock().unwrap();
    refused(dir.path(), &mut run(&["--resume"]), &["run: another process runs this"]);
    lock.unlock().unwrap();
    success(&run(&["--resume"]).output().unwrap());
}

/// What has begun stays as it was in the recipe of a run.
#[test]
fn a_phase_that_has_begun_keeps_its_kind() {
    let dir = place_of_long_runs("", &[]);
    let new = ["--recipe", "recipe.toml", "--run", "run"];
    let run = dir.path().join("run");
    kill_at(train(dir.path(), &new).stdout(Stdio::null()).spawn().unwrap(), &run, 1);
    let file = run.join("recipe.toml");
    let recipe = fs::read_to_string(&file).unwrap();
    let quantize = recipe.rfind("[[phases]]").unwrap();
    let first = recipe.find("[[phases]]").unwrap();
    fs::write(&file, format!("{}{}", &recipe[..first], &recipe[quantize..])).unwrap();
    let parts = ["last.safetensors: phases.0 of recipe.toml has run otherwise", "put it back"];
    refused(dir.path(), &mut train(dir.path(), &["--resume", "--run", "run"]), &parts);
    fs::write(&file, recipe).unwrap();
    success(&train(dir.path(), &["--resume", "--run", "run"]).output().unwrap());
    same_run(&run, &dir.path().join("whole"));
}

/// The loss explodes within an epoch, or after one of a single step, whose checkpoint must not hold what cannot be used.
#[test]
fn a_loss_that_is_not_finite_names_layer_and_step_and_leaves_a_checkpoint() {
    for (batch_size, kind) in [("16", "float"), ("320", "float"), ("16", "quantize"), ("320", "quantize")] {
        let dir = new_place();
        let recipe = format!(
            "model = \"tiny.toml\"\npretrained = \"none\"\nbatch_size = {batch_size}\n[[phases]]\nkind = \"{kind}\"\nepochs = 3\n\
             learning_rate = 1e30\n[[phases]]\nkind = \"quantize\"\nepochs = 1\n"
        );
        fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
        let output = train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]).output().unwrap();
        let line = failed(&output, &["layer `", "phase 0", "epoch", "step"]);
        let checkpoint = dir.path().join("run/checkpoints/last.safetensors");
        let (weights, _) = Weights::load(&checkpoint).unwrap();
        let all_finite = weights.iter().all(|(_, array)| array.values.iter().all(|value| value.is_finite()));
        assert!(all_finite, "{kind} {batch_size}: {line}");
        if batch_size == "320" {
            continue;
        }
        // With the recipe mended, the run goes on.
        let file = dir.path().join("run/recipe.toml");
        let recipe = fs::read_to_string(&file).unwrap();
        let rate = format!("learning_rate = {:?}", 1e30).replace("1e30", "1000000000000000000000000000000.0");
        assert!(recipe.contains(&rate), "{recipe}");
        fs::write(&file, recipe.replace(&rate, "learning_rate = 0.01")).unwrap();
        success(&train(dir.path(), &["--resume", "--run", "run"]).output().unwrap());
    }
}

/// Weights that are finite and of no use stay out of the checkpoint too.
#[test]
fn an_epoch_that_diverges_leaves_the_last_good_checkpoint() {
    let dir = new_place();
    let recipe = RECIPE.replace("learning_rate = 0.05", "learning_rate = 1000");
    fs::write(dir.path().join("recipe.toml"), recipe).unwrap();
    let output = train(dir.path(), &["--recipe", "recipe.toml", "--run", "run"]).output().unwrap();
    failed(&output, &["phase 0, epoch 1", "--resume"]);
    // Whoever only asks for the time moves nothing.
    let mut dry = train(dir.path(), &["--recipe", "recipe.toml", "--set", "phases.0.learning_rate=1e30", "--dry-run"]);
    success(&dry.output().unwrap());
    let (weights, _) = Weights::load(&dir.path().join("run/checkpoints/last.safetensors")).unwrap();
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    assert!(weights == Weights::random(&graph, 3), "the weights before the epoch");
    assert!(!dir.path().join("run/metrics.jsonl").exists());
}
