//! Where runs lie, and what they start from.

use std::path::{Path, PathBuf};

use super::experiment::Row;
use crate::run_folder::LAST;
use crate::train::Recipe;

/// The run folder of a row and seed.
pub(super) fn run_folder(runs: &Path, row: &str, seed: u64) -> PathBuf {
    runs.join(row).join(format!("seed-{seed}"))
}

/// The checkpoint that a run starts from; none for random weights.
pub(super) fn start_checkpoint(row: &Row, recipe: &Recipe, runs: &Path, seed: u64) -> Option<PathBuf> {
    match &row.start {
        Some(start) => Some(run_folder(runs, start, seed).join(LAST)),
        None => recipe.checkpoint(),
    }
}
