//! What people read: the table in the terminal, `report.html`, drawings, a sweep's table and plot. It knows the numbers, not how they were
//! made.

pub(crate) mod chart;
mod chips;
mod compare;
mod document;
mod drawings;
mod figures;
mod metrics;
mod page;
mod partial_sums;
mod placements;
mod subject;
mod sweep;
mod sweep_page;
mod table;
pub(crate) mod text;

use std::path::Path;

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::run_folder;
use metrics::Metrics;

pub use chart::{Swing, tornado};
pub use chips::hardware_list;
pub use compare::{Compared, comparison_json, comparison_table, write_comparison};
pub use partial_sums::partial_sums_table;
pub use placements::placements_table;
pub use subject::Subject;
pub use sweep::{sweep_table, write_sweep};
pub use table::table;
pub use text::for_a_shell;

/// Writes `deploy.json`, `report.html` and its drawings (`drawings/*.svg`) into a folder, which is made if need be.
///
/// The report of a package draws the training curves of the folder's `metrics.jsonl`; where it is missing or damaged, the report says so.
///
/// # Errors
/// A file that cannot be written.
pub fn write<'a>(subject: impl Into<Subject<'a>>, folder: &Path) -> Result<()> {
    let subject = subject.into();
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_atomically(&folder.join(run_folder::DEPLOYMENT), subject.to_json()?.as_bytes())?;
    let page = page::page(subject, &Metrics::read(folder));
    write_atomically(&folder.join(run_folder::REPORT), page.as_bytes())?;
    write_drawings(subject, &folder.join(run_folder::DRAWINGS))
}

/// Writes the drawings of the report into a folder, which is made if need be: the timeline of a frame and of its slowest layer,
/// utilization, energy, and the map of kept groups.
///
/// # Errors
/// A file that cannot be written.
pub fn write_drawings<'a>(subject: impl Into<Subject<'a>>, folder: &Path) -> Result<()> {
    drawings::write(subject.into(), folder)
}
