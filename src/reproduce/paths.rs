//! Where runs lie, and what they start from.

use std::path::{Path, PathBuf};

use super::experiment::{Row, RowStart};
use super::results::Results;
use crate::run_folder::{LAST, PACKAGE};
use crate::train::Recipe;

/// The run folder of a row and seed.
pub(super) fn run_folder(runs: &Path, row: &str, seed: u64) -> PathBuf {
    runs.join(row).join(format!("seed-{seed}"))
}

/// The checkpoint or package that a run starts from; none for random weights.
pub(super) fn start_checkpoint(
    row: &Row,
    recipe: &Recipe,
    runs: &Path,
    results: &Results,
    seed: u64,
) -> Option<PathBuf> {
    match &row.start {
        Some(RowStart::Checkpoint(start)) => Some(run_folder(runs, start, seed).join(LAST)),
        Some(RowStart::Package(start)) => Some(results.row_folder(start).join(PACKAGE)),
        None => recipe.checkpoint(),
    }
}
