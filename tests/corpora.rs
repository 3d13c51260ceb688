//! Every reader meets the files of its fuzz target's corpus: seeds, and what broke it once.

#![cfg(feature = "train")]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

/// Replays a corpus; also each file cut off at every 64th of its length, which leaves no reader without a damaged file.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new("fuzz/corpus").join(name);
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        target(&bytes);
        (0..64).for_each(|part| target(&bytes[..bytes.len() * part / 64]));
        files += 1;
    }
    assert!(files > 0, "{} has no files", folder.display());
}

#[test]
fn packages() {
    replay("package", targets::package);
}

#[test]
fn checkpoints() {
    replay("checkpoint", targets::checkpoint);
}

#[test]
fn pytorch_checkpoints() {
    replay("pytorch", targets::pytorch);
}

#[test]
fn hardware_files() {
    replay("hardware", targets::hardware);
}

#[test]
fn recipes() {
    replay("recipe", targets::recipe);
}

#[test]
fn networks() {
    replay("network", targets::network);
}
