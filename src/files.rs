//! Files as all rooms read and write them: whole or not at all, and by one process at a time.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Reads a TOML file into a value whose unknown keys are errors.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    toml::from_str(&text)
        .map_err(|error| Error::toml(path.display(), &text, &error, |message| Error::file(path, message)))
}

/// The TOML text of a value.
#[cfg(feature = "train")]
pub(crate) fn to_toml(value: &impl Serialize) -> Result<String> {
    toml::to_string(value).map_err(|error| Error::Setting(error.to_string()))
}

/// The JSON text of a value, for people and programs to read.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Setting(error.to_string()))?;
    Ok(text + "\n")
}

/// The text of a file; none where there is no such file.
#[cfg(feature = "train")]
pub(crate) fn read_if_present(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// A name beside a path that no other process takes, not even one of another container, whose number may be the same.
pub(crate) fn part_beside(path: &Path) -> PathBuf {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}-{nanoseconds}.part", std::process::id()));
    part.into()
}

/// Locks a file until it is closed; false where another process has it. Where the file system has no locks nobody is kept out.
pub(crate) fn try_lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Makes a lock file, and waits until no other process has it; it is given back when the file is dropped.
pub(crate) fn wait_for_lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::io(path))?;
    match file.lock() {
        Err(error) if !has_no_locks(&error) => Err(Error::io(path)(error)),
        _ => Ok(file),
    }
}

/// Whether the file system is to blame: Lustre without `flock`, NFS without its daemon.
fn has_no_locks(error: &std::io::Error) -> bool {
    /// Linux's "no locks available".
    const ENOLCK: i32 = 37;
    error.kind() == ErrorKind::Unsupported || error.raw_os_error() == Some(ENOLCK)
}

/// Writes a file beside its place, waits until it is on the disk and renames it, so that a crash, a power cut or a full disk leaves the
/// old one. Several processes may write the same file: one of them is the last. A pipe, a device or a link is written into.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, bytes).map_err(Error::io(path));
    }
    let part = part_beside(path);
    let write = || {
        let mut file = File::create_new(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    let written = write().and_then(|()| std::fs::rename(&part, path));
    written.map_err(|error| {
        // The half-written file is of no use; the error that matters is the first one.
        let _ = std::fs::remove_file(&part);
        Error::io(path)(error)
    })
}
