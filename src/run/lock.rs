//! The lock of a run folder.

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::try_lock;

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
        let path = folder.join("lock");
        let file = File::create(&path).map_err(Error::io(&path))?;
        match try_lock(&file).map_err(Error::io(&path))? {
            true => Ok(Self { _file: file }),
            false => Err(Error::file(folder, "another process runs this")),
        }
    }
}
