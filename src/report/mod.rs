//! What people read: the table in the terminal and `report.html`. It knows the numbers, not how they were made.

mod table;

use std::path::Path;

use crate::deploy::Deployment;
use crate::error::{Error, Result};

pub use table::table;

/// Writes `deploy.json` and `report.html` into a folder, which is made if need be.
///
/// # Errors
/// A file that cannot be written.
pub fn write(deployment: &Deployment, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    deployment.write(folder)
}
