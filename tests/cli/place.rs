//! A place where the programs run, and what they leave there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, command, success};

pub(super) const TRAIN: &str = env!("CARGO_BIN_EXE_mars-train");
pub(super) const DEPLOY: &str = env!("CARGO_BIN_EXE_mars-deploy");
pub(super) const REPRODUCE: &str = env!("CARGO_BIN_EXE_mars-reproduce");

/// Every kind of phase.
pub(super) const RECIPE: &str = r#"
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

pub(super) const EPOCHS: usize = 7;

/// A folder with a made-up CIFAR-10 in `data`, a network and a recipe.
pub(super) fn place(folder: &Path) {
    common::write_cifar10(&folder.join("data"), 64, 40);
    fs::write(folder.join("tiny.toml"), common::tiny_network(10)).unwrap();
    fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
}

pub(super) fn new_place() -> TempDir {
    let dir = TempDir::new().unwrap();
    place(dir.path());
    dir
}

/// `mars-train` on the data of a place; it never leaves the machine.
pub(super) fn train(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(TRAIN, folder);
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1", "--quiet"]).args(arguments);
    command
}

pub(super) fn deploy(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(DEPLOY, folder);
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1", "--quiet"]).args(arguments);
    command
}

/// A place where the recipe ran to its end, into `run`; nobody writes there afterwards.
pub(super) static FINISHED: LazyLock<PathBuf> = LazyLock::new(|| {
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

pub(super) fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Lines of a run's `metrics.jsonl`.
pub(super) fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// All files below a folder with their bytes, without locks, which stay.
pub(super) fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
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
pub(super) fn copied_run() -> (TempDir, PathBuf) {
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
pub(super) fn refused(folder: &Path, command: &mut Command, parts: &[&str]) -> String {
    let before = tree(folder);
    let line = failed(&command.output().unwrap(), parts);
    assert!(before == tree(folder), "files were written: {line}");
    line
}

/// The same of arguments that don't fit together.
pub(super) fn misused(folder: &Path, command: &mut Command, parts: &[&str]) -> String {
    let before = tree(folder);
    let line = failed_with(2, &command.output().unwrap(), parts);
    assert!(before == tree(folder), "files were written: {line}");
    line
}

pub(super) fn failed(output: &Output, parts: &[&str]) -> String {
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

pub(super) fn has_keys(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(!value[key].is_null(), "no `{key}` in {value}");
    }
}
