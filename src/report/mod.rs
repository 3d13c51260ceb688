//! What people read: the table in the terminal, `report.html`, drawings, a sweep's table and plot. It knows the numbers, not how they were
//! made.

pub(crate) mod chart;
mod drawings;
mod metrics;
mod page;
mod sweep;
mod table;
pub(crate) mod text;

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::run_folder;
use crate::validation::Deployment;
use metrics::Metrics;

pub use chart::{Swing, tornado};
pub use sweep::{sweep_table, write_sweep};
pub use table::table;

/// Writes `deploy.json`, `report.html` and its drawings (`drawings/*.svg`) into a folder, which is made if need be.
///
/// The report draws the training curves of the folder's `metrics.jsonl`; where it is missing or damaged, the report says so.
///
/// # Errors
/// A file that cannot be written.
pub fn write(deployment: &Deployment, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    deployment.write(folder)?;
    let page = page::page(deployment, &Metrics::read(folder));
    write_atomically(&folder.join(run_folder::REPORT), page.as_bytes())?;
    write_drawings(deployment, &folder.join(run_folder::DRAWINGS))
}

/// Writes the drawings of the report into a folder, which is made if need be: the timeline of a frame and of its slowest layer,
/// utilization, energy, and the map of kept groups.
///
/// # Errors
/// A file that cannot be written.
pub fn write_drawings(deployment: &Deployment, folder: &Path) -> Result<()> {
    drawings::write(deployment, folder)
}
