//! A run folder: the names of its files, the lines of its `metrics.jsonl`, and its lock.

mod metrics;

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::try_lock;

pub use metrics::{EpochReport, PhaseKind};

/// The recipe with every key that is in use.
pub const RECIPE: &str = "recipe.toml";
/// The chip.
pub const HARDWARE: &str = "hardware.toml";
/// The network.
pub const NETWORK: &str = "network.toml";
/// The images that the run uses, as hashes.
pub const DATA: &str = "data.toml";
/// A line for each epoch, an [`EpochReport`]; `docs/training.md` explains its keys.
pub const METRICS: &str = "metrics.jsonl";
/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The checkpoint that a run goes on from.
pub const LAST: &str = "checkpoints/last.safetensors";
/// The checkpoint of the network that a run learns from.
pub const TEACHER: &str = "checkpoints/teacher.safetensors";
/// The package.
pub const PACKAGE: &str = "model.mars";
/// What the hardware model says of the package.
pub const DEPLOYMENT: &str = "deploy.json";
/// The same for people.
pub const REPORT: &str = "report.html";
/// The folder of the report's drawings.
pub const DRAWINGS: &str = "drawings";
/// The file that is locked while a process works in the folder.
const LOCK: &str = "lock";

/// Keeps other processes out of a run folder as long as it lives.
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Makes the folder, if it isn't there, and locks it.
    ///
    /// # Errors
    /// Another process has it; a folder that cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(LOCK);
        let file = File::create(&path).map_err(Error::io(&path))?;
        match try_lock(&file).map_err(Error::io(&path))? {
            true => Ok(Self { _file: file }),
            false => Err(Error::file(folder, "another process runs this")),
        }
    }

    /// Locks the folder where a run has been in it.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn of_run(folder: &Path) -> Result<Option<Self>> {
        folder.join(LOCK).exists().then(|| Self::new(folder)).transpose()
    }
}
