//! The lock of a run folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};

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
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Error::file(folder, "another process runs this"),
            TryLockError::Error(source) => Error::io(&path)(source),
        })?;
        Ok(Self { _file: file })
    }
}
