//! The programs as a person runs them: whole jobs, interruptions, and what they say when they refuse.

#![cfg(feature = "train")]

mod common;
mod reproduce;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use common::{command, success};
use mars::hardware::{Hardware, Mapping, Policy, evaluate};
use mars::integer::{IntegerLayer, outline};
use mars::network::{Array, Graph, Weights};
use mars::package::Package;
use mars::run_folder::RunLock;
use mars::simd::Arithmetic;
use mars::train::{Checkpoint, Position, Recipe};
use serde_json::Value;
use tempfile::TempDir;

const TRAIN: &str = env!("CARGO_BIN_EXE_mars-train");
const DEPLOY: &str = env!("CARGO_BIN_EXE_mars-deploy");
const REPRODUCE: &str = env!("CARGO_BIN_EXE_mars-reproduce");

/// Every kind of phase.
const RECIPE: &str = r#"
model = "tiny.toml"
dataset = "cifar10"
pretrained = "none"
seed = 3
batch_size = 16
calibration_images = 64

[normalization]
mean = [0.4914, 0.4822, 0.4465]
std = [0.2470, 0.2435, 0.2616]

[quantize]
weight_bits = 4
activation_bits = 4

[sparsity]
target = 0.4

[[phases]]
kind = "float"
epochs = 3
learning_rate = 0.05

[[phases]]
kind = "sparsify"
epochs = 2

[[phases]]
kind = "quantize"
epochs = 2
"#;

const EPOCHS: usize = 7;

/// A folder with a made-up CIFAR-10 in `data`, a network and a recipe.
fn place(folder: &Path) {
    common::write_cifar10(&folder.join("data"), 64, 40);
    fs::write(folder.join("tiny.toml"), common::tiny_network(10)).unwrap();
    fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
}

fn new_place() -> TempDir {
    let dir = TempDir::new().unwrap();
    place(dir.path());
    dir
}

/// `mars-train` on the data of a place; it never leaves the machine.
fn train(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(TRAIN, folder);
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1", "--quiet"]).args(arguments);
    command
}

fn deploy(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(DEPLOY, folder);
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1", "--quiet"]).args(arguments);
    command
}

/// A place where the recipe ran to its end, into `run`; nobody writes there afterwards.
static FINISHED: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-finished");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    place(&folder);
    let output = train(&folder, &["--recipe", "recipe.toml", "--run", "run", "--json", "copy.json"]).output().unwrap();
    let (out, err) = success(&output);
    assert!(err.is_empty(), "{err}");
    fs::write(folder.join("stdout"), out).unwrap();
    folder
});

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Lines of a run's `metrics.jsonl`.
fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All files below a folder with their bytes, without locks, which stay.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path.clone());
                files.insert(path, Vec::new());
            } else if path.file_name().is_none_or(|name| name != "lock") {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

/// A new place with a copy of the finished run, and where that is.
fn copied_run() -> (TempDir, PathBuf) {
    let dir = new_place();
    let run = dir.path().join("run");
    for (path, bytes) in tree(&FINISHED.join("run")) {
        let place = run.join(path.strip_prefix(FINISHED.join("run")).unwrap());
        match path.is_dir() {
            true => fs::create_dir_all(place).unwrap(),
            false => {
                fs::create_dir_all(place.parent().unwrap()).unwrap();
                fs::write(place, bytes).unwrap();
            }
        }
    }
    fs::write(run.join("lock"), "").unwrap();
    (dir, run)
}

/// Checks that a command fails with one line that holds `parts`, and writes nothing below `folder`.
fn refused(folder: &Path, command: &mut Command, parts: &[&str]) -> String {
    let before = tree(folder);
    let line = failed(&command.output().unwrap(), parts);
    assert!(before == tree(folder), "files were written: {line}");
    line
}

/// The same of arguments that don't fit together.
fn misused(folder: &Path, command: &mut Command, parts: &[&str]) -> String {
    let before = tree(folder);
    let line = failed_with(2, &command.output().unwrap(), parts);
    assert!(before == tree(folder), "files were written: {line}");
    line
}

fn failed(output: &Output, parts: &[&str]) -> String {
    failed_with(1, output, parts)
}

fn failed_with(code: i32, output: &Output, parts: &[&str]) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(code), "{out}\n{err}");
    assert!(err.starts_with("error: ") && err.ends_with('\n') && err.lines().count() == 1, "{err}");
    assert!(out.is_empty(), "{out}");
    for part in parts {
        assert!(err.contains(part), "no `{part}` in: {err}");
    }
    err
}

fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(!value[key].is_null(), "no `{key}` in {value}");
    }
}

// The whole job.

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

/// What training reports is the accuracy of the checkpoint that it leaves.
#[test]
fn a_checkpoint_is_evaluated_without_training() {
    let lines = metrics(&FINISHED.join("run"));
    for (checkpoint, line) in [("0-float", &lines[2]), ("1-sparsify", &lines[4])] {
        let file = format!("run/checkpoints/{checkpoint}.safetensors");
        let arguments = ["--recipe", "recipe.toml", "--evaluate", "--pretrained", &file];
        let before = tree(&FINISHED);
        let (out, err) = success(&train(&FINISHED, &arguments).output().unwrap());
        assert_eq!(out, format!("test accuracy {:.2} %\n", line["test_accuracy"].as_f64().unwrap()));
        assert!(err.is_empty() && tree(&FINISHED) == before, "{err}");
    }
}

/// A place with `own.safetensors`, random weights of its network that were changed.
fn place_with_weights(change: impl Fn(&str, &mut Array)) -> TempDir {
    let dir = new_place();
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    let mut weights = Weights::default();
    for (name, array) in Weights::random(&graph, 5).iter() {
        let mut array = array.clone();
        change(name, &mut array);
        weights.insert(name.into(), array);
    }
    weights.save(&dir.path().join("own.safetensors"), None).unwrap();
    dir
}

/// Trains from `own.safetensors` with these phases, and gives what `deploy.json` says.
fn deployed_from_own(folder: &Path, phases: &str, settings: &[&str]) -> Value {
    let phases = format!("phases=[{phases}]");
    let arguments = ["--recipe", "recipe.toml", "--pretrained", "own.safetensors", "--set", &phases, "--json", "json"];
    success(&train(folder, &[&arguments, settings].concat()).output().unwrap());
    json(&folder.join("json"))
}

/// A layer of nothing but zeros, as a new head often is, learns.
#[test]
fn a_layer_that_is_all_zero_in_a_checkpoint_learns() {
    let zeros = |name: &str, array: &mut Array| {
        if name == "linear.weight" || name == "c.weight" {
            // Of `c` 16 of 24 filters.
            let zeros = if name == "c.weight" { array.values.len() / 3 * 2 } else { array.values.len() };
            array.values[..zeros].fill(0.0);
        }
    };
    let dir = place_with_weights(zeros);
    let arguments = ["--recipe", "recipe.toml", "--pretrained", "own.safetensors", "--json", "json", "--set"];
    let phases = "phases=[{kind=\"quantize\",epochs=1}]";
    let mut command = command(TRAIN, dir.path());
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1"]).args(arguments).arg(phases);
    let output = command.output().unwrap();
    success(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(" % of the groups are zero and stay so (sparsity.keep_zero_groups = false"), "{said}");
    let report = json(&dir.path().join("json"));
    let layers = report["layers"].as_array().unwrap();
    let sparsity = |name: &str| layers.iter().find(|layer| layer["name"] == name).unwrap()["group_sparsity"].as_f64();
    assert_eq!(sparsity("linear"), Some(0.0));
    assert!(sparsity("c").unwrap() > 0.0);
}

#[test]
fn pruning_that_would_not_happen_is_refused_and_more_of_it_is_said() {
    let dir = new_place();
    let quantize = "phases=[{kind=\"quantize\",epochs=0}]";
    let arguments = ["--recipe", "recipe.toml", "--set", quantize, "--set", "sparsity.target=0.5"];
    let parts = ["--set sparsity.target=0.5: no phase of recipe.toml sparsifies"];
    refused(dir.path(), &mut train(dir.path(), &arguments), &parts);

    let arguments = ["--recipe", "recipe.toml", "--set", "sparsity.lambda=10", "--set", "phases.2.epochs=0"];
    let mut command = command(TRAIN, dir.path());
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1"]).args(arguments);
    let output = command.output().unwrap();
    success(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(" % of the groups are zero, sparsity.target = 0.4 asks for 40.0 %"), "{said}");
}

#[test]
fn groups_that_are_zero_in_a_checkpoint_stay_zero_and_count() {
    // Of `c`, 24 x 20 x 3 x 3: the group of filters 0 to 15 and channels 0 to 15 at four kernel positions.
    let zero = |index: usize| index / 9 / 20 < 16 && index / 9 % 20 < 16 && index % 9 < 4;
    let dir = place_with_weights(|name, array| {
        if name == "c.weight" {
            array.values.iter_mut().enumerate().filter(|(index, _)| zero(*index)).for_each(|(_, weight)| *weight = 0.0);
        }
    });
    let c = |report: &Value| {
        let layers = report["layers"].as_array().unwrap();
        let c = layers.iter().find(|layer| layer["name"] == "c").unwrap();
        (36.0 * c["group_sparsity"].as_f64().unwrap()).round()
    };
    let quantize = "{kind = \"quantize\", epochs = 1}";
    assert_eq!(c(&deployed_from_own(dir.path(), quantize, &[])), 4.0);
    let all = ["--set", "sparsity.keep_zero_groups=false"];
    assert_eq!(c(&deployed_from_own(dir.path(), quantize, &all)), 0.0);
    // Of 98 groups, 4 are zero before 20 are to be.
    let sparsify = "{kind = \"sparsify\", epochs = 1}, {kind = \"quantize\", epochs = 1}";
    let report = deployed_from_own(dir.path(), sparsify, &["--set", "sparsity.target=0.2"]);
    let share = report["compression"]["group_sparsity"].as_f64().unwrap();
    assert!((share - 0.2).abs() < 0.01 && c(&report) >= 4.0, "{share}");
}

/// A layer of zeros, and one whose values are never above zero, have scales too.
#[test]
fn a_layer_that_gives_nothing_is_no_error() {
    let dir = place_with_weights(|name, array| match name {
        "a.gamma" => array.values.fill(0.0),
        "a.beta" => array.values.fill(-1.0),
        _ => {}
    });
    let report = deployed_from_own(dir.path(), "{kind = \"quantize\", epochs = 0}", &[]);
    for key in ["fake_quant_vs_integer_predictions", "integer_vs_macro_logits", "fake_quant_vs_macro_predictions"] {
        assert_eq!(report["mismatches"][key], 0, "{key}");
    }
}

/// Whatever a channel holds that nobody reads, it decides no scale.
#[test]
fn a_channel_that_nobody_reads_changes_nothing() {
    let accuracy = |factor: f32| {
        let dir = place_with_weights(|name, array| match name {
            "b.weight" => {
                let unread = |index: &usize| index / 9 % 12 == 3;
                let weights = array.values.iter_mut().enumerate();
                weights.filter(|(index, _)| unread(index)).for_each(|(_, weight)| *weight = 0.0);
            }
            "a.gamma" | "a.beta" => array.values[3] = factor,
            _ => {}
        });
        let report = deployed_from_own(dir.path(), "{kind = \"quantize\", epochs = 0}", &[]);
        report["accuracy"].clone()
    };
    assert_eq!(accuracy(1.0), accuracy(1000.0));
}

#[test]
fn statistics_that_a_checkpoint_lacks_are_measured() {
    // What batch norms make of their statistics is the same for inputs of another mean and scale.
    let dir = place_with_weights(|_, _| {});
    let (mut without, full) = (Weights::default(), Weights::load(&dir.path().join("own.safetensors")).unwrap().0);
    for (name, array) in full.iter().filter(|(name, _)| !name.ends_with(".mean") && !name.ends_with(".var")) {
        without.insert(name.into(), array.clone());
    }
    without.save(&dir.path().join("without.safetensors"), None).unwrap();
    let evaluate = |file: &str, loud: bool| {
        let mut command = command(TRAIN, dir.path());
        command.args(["--data-dir", "data", "--recipe", "recipe.toml", "--evaluate", "--pretrained", file]);
        success(&command.args((!loud).then_some("--quiet")).output().unwrap())
    };
    let (out, err) = evaluate("without.safetensors", true);
    let said = "`stem`, `a`, `b`, `b.projection`, `c`: batch norm without running statistics: they are taken from training images";
    assert!(err.contains(said), "{err}");
    assert!(out.starts_with("test accuracy "), "{out}");
    assert_ne!(out, evaluate("own.safetensors", false).0, "a mean of 0 and a variance of 1");
}

#[test]
fn a_checkpoint_says_which_of_its_weights_are_read() {
    let dir = place_with_weights(|_, _| {});
    let own = Weights::load(&dir.path().join("own.safetensors")).unwrap().0;
    let mut both = Weights::default();
    for (name, array) in own.iter() {
        both.insert(format!("model.{name}"), array.clone());
        let zeros = Array { values: vec![0.0; array.values.len()], ..array.clone() };
        both.insert(format!("ema.{name}"), zeros);
    }
    both.save(&dir.path().join("both.safetensors"), None).unwrap();
    let evaluate = |file: &str| {
        train(dir.path(), &["--recipe", "recipe.toml", "--evaluate", "--pretrained", file]).output().unwrap()
    };
    let refused = String::from_utf8(evaluate("both.safetensors").stderr).unwrap();
    let expected = "error: both.safetensors: it holds 2 sets of weights, `ema` and `model`: name one, such as \
                    --pretrained both.safetensors#ema\n";
    assert_eq!(refused, expected);
    assert_eq!(success(&evaluate("both.safetensors#model")).0, success(&evaluate("own.safetensors")).0);
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

/// The float weights of a quantized network say little without its scales: a run from them begins where the one before ended.
#[test]
fn a_quantized_checkpoint_keeps_its_scales() {
    let dir = new_place();
    let last = FINISHED.join("run/checkpoints/last.safetensors");
    let start = ["--recipe", "recipe.toml", "--pretrained", last.to_str().unwrap(), "--run", "again"];
    let phases = ["--set", "phases=[{kind = \"quantize\", epochs = 0}]"];
    success(&train(dir.path(), &[&start[..], &phases].concat()).output().unwrap());
    let [before, again] = [FINISHED.join("run"), dir.path().join("again")]
        .map(|run| Package::read(&run.join("model.mars")).unwrap().network);
    assert!(before == again, "other scales");
    // A layer that is trained anew gets scales of its own, whatever size those of the layer before had.
    let with = |run: &str, settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
        let start = ["--recipe", "recipe.toml", "--run", run];
        let output =
            command(TRAIN, dir.path()).args(start).args(settings).args(["--data-dir", "data"]).output().unwrap();
        success(&output).1
    };
    let column = ["quantize.weight_scale=column", "phases=[{kind=\"quantize\",epochs=0}]"];
    let told = with("column", &[&column[..], &[&format!("pretrained={}", last.display())]].concat());
    assert!(told.contains("the checkpoint's scales are left aside: `quantize.weight_scale` was another one"), "{told}");
    let wide = fs::read_to_string(dir.path().join("tiny.toml")).unwrap().replacen("filters = 12", "filters = 16", 1);
    fs::write(dir.path().join("other.toml"), wide).unwrap();
    let from = ["pretrained=column/checkpoints/last.safetensors", "model=other.toml", "fresh=[\"a\",\"b\"]"];
    let told = with("fresh", &[&column[..], &from].concat());
    assert!(told.contains("quantizers begin with"), "{told}");
}

#[test]
fn a_package_is_a_start() {
    let dir = new_place();
    let package = FINISHED.join("run/model.mars");
    let package = package.to_str().unwrap();
    let start = ["--recipe", "recipe.toml", "--pretrained", package, "--json", "json"];
    let run = |folder: &str, settings: &[&str]| {
        let arguments = [
            &start,
            &["--run", folder][..],
            &settings.iter().flat_map(|setting| ["--set", *setting]).collect::<Vec<_>>(),
        ]
        .concat();
        success(&train(dir.path(), &arguments).output().unwrap());
        json(&dir.path().join("json"))
    };
    // At the package's own bits a run without training gives what the package gives.
    let again = run("again", &["phases=[{kind = \"quantize\", epochs = 0}]"]);
    let before = json(&FINISHED.join("run/deploy.json"));
    let accuracy = |report: &Value| report["accuracy"]["macro"].as_f64().unwrap();
    assert!((accuracy(&again) - accuracy(&before)).abs() <= 1.0, "{} {}", again["accuracy"], before["accuracy"]);
    assert_eq!(again["compression"], before["compression"]);
    // At others its weights are floats, of which groups stay zero.
    let wide = ["phases=[{kind = \"quantize\", epochs = 1}]", "quantize.weight_bits=8", "quantize.activation_bits=8"];
    let wide = run("wide", &wide);
    assert_eq!(wide["compression"]["group_sparsity"], before["compression"]["group_sparsity"]);
    assert_eq!(wide["mismatches"]["fake_quant_vs_macro_predictions"], 0);
    // A package with a scale a layer has none for each column.
    run("column", &["phases=[{kind = \"quantize\", epochs = 0}]", "quantize.weight_scale=column"]);
    let columns = Package::read(&dir.path().join("column/model.mars")).unwrap().network;
    let per_column = |layer: &IntegerLayer| match layer {
        IntegerLayer::Conv { output: Some(output), .. } => output.multipliers.len() > 1,
        _ => false,
    };
    assert!(columns.layers.iter().any(per_column));
    let network =
        common::tiny_network(10).replacen("kernel = 3", "kernel = 5", 1).replacen("padding = 1", "padding = 2", 1);
    fs::write(dir.path().join("other.toml"), network).unwrap();
    let other = [&start[..], &["--model", "other.toml"]].concat();
    refused(dir.path(), &mut train(dir.path(), &other), &["model.mars: it holds the network `tiny`", "of --model"]);
    // As the model it brings its network, too.
    fs::remove_file(dir.path().join("tiny.toml")).unwrap();
    let recipe = fs::read_to_string(dir.path().join("recipe.toml")).unwrap();
    fs::write(dir.path().join("alone.toml"), recipe.replacen("pretrained = \"none\"\n", "", 1)).unwrap();
    let phases = "phases=[{kind = \"quantize\", epochs = 0}]";
    let alone = ["--recipe", "alone.toml", "--model", package, "--run", "alone", "--json", "json", "--set", phases];
    success(&train(dir.path(), &alone).output().unwrap());
    assert_eq!(json(&dir.path().join("json")), again);
    let resumed = command(TRAIN, dir.path())
        .args(["--resume", "--run", "alone", "--data-dir", "data", "--quiet"])
        .output()
        .unwrap();
    assert!(resumed.status.success(), "{resumed:?}");
    place(dir.path());
    let normalization = ["--set", "normalization.mean=[0.1, 0.2, 0.3]"];
    let other = [&start[..], &normalization].concat();
    refused(
        dir.path(),
        &mut train(dir.path(), &other),
        &["the package's images mean 0 at the bytes", "`normalization`"],
    );
}

// Interruptions.

/// Waits until a run has written so many lines of metrics. One that ends before leaves nothing to interrupt.
fn wait_for_lines(child: &mut Child, run: &Path, lines: usize) {
    while fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default().lines().count() < lines {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the run ended before its line {lines}: {ended:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a run once it has written so many lines of metrics.
fn kill_at(mut child: Child, run: &Path, lines: usize) {
    wait_for_lines(&mut child, run, lines);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
}

/// Interrupts a run, as Ctrl-C does, once it has written so many lines of metrics, and gives its output.
#[cfg(unix)]
fn interrupt_at(mut child: Child, run: &Path, lines: usize) -> (String, String) {
    wait_for_lines(&mut child, run, lines);
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
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
fn same_run(run: &Path, expected: &Path) {
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
    let mut next = train(dir.path(), &["--recipe", "recipe.toml", "--run", "my run"]);
    for lines in [1, 3, 5] {
        let child = next.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (_, err) = interrupt_at(child, &run, lines);
        assert!(err.contains("stopping after this step"), "{err}");
        assert!(err.contains("interrupted; go on with: mars-train --resume --run 'my run' --data-dir "), "{err}");
        next = train(dir.path(), &["--resume", "--run", "my run"]);
    }
    success(&next.output().unwrap());
    same_run(&run, &whole);
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

// Refusals.

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
        refused(dir.path(), &mut command, &[name, "No such file"]);
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
    let mut folders = vec!["file/run", "file"];
    if cfg!(target_os = "linux") {
        folders.push("/proc/run");
    }
    for folder in folders {
        refused(dir.path(), &mut train(dir.path(), &["--recipe", "recipe.toml", "--run", folder]), &[folder]);
    }
    let good = FINISHED.join("run/model.mars");
    let output = deploy(dir.path(), &[good.to_str().unwrap(), "--run", "file/run"]).output().unwrap();
    failed(&output, &["file/run"]);
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
    for (setting, says) in [
        ("hardware=chip.toml", "mapping.layers: no layer matches `layer9.*`"),
        ("fresh=[\"nope\"]", "fresh: network `tiny` has no layer `nope`"),
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

// What people read.

/// Help and refusals as `tests/cmd/*.trycmd` show them; `TRYCMD=overwrite` rewrites them.
#[test]
fn help_and_refusals_are_as_documented() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
