//! Archives: checksum and atomic unpacking.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::error::DataError;
use crate::files::{Part, sha256};
use crate::observer::Observer;

/// A `.tar.gz` file on a server, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Its address.
    pub url: String,
    /// Its name in the folder of data sets.
    pub file: String,
    /// A server that sends more than this sends something else.
    pub max_bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
    /// The folder inside it, and its name when unpacked.
    pub folder: String,
    /// The files of that folder that are unpacked; all of them must be there.
    pub members: Vec<String>,
}

impl Archive {
    /// Unpacks the archive in `dir` and returns the unpacked folder; downloads the archive first if it isn't there.
    ///
    /// An interrupted download leaves a `.part` file, from which the next call goes on. The folder appears only when
    /// all its files are written. An archive that was there before is kept, a downloaded one is removed.
    ///
    /// # Errors
    /// No network, a wrong checksum, a damaged archive, a full disk.
    pub fn install(&self, dir: &Path, observer: &dyn Observer) -> Result<PathBuf, DataError> {
        let archive = dir.join(&self.file);
        if !archive.exists() {
            return self.download_and_unpack(dir, observer);
        }
        let mut file = File::open(&archive).map_err(DataError::io(&archive))?;
        self.verify(&mut file, &archive, "remove it to have it downloaded")?;
        self.unpack(&mut file, &archive, dir)
    }

    /// Without the cargo feature `download` there is no HTTP client.
    #[cfg(not(feature = "download"))]
    fn download_and_unpack(&self, dir: &Path, _observer: &dyn Observer) -> Result<PathBuf, DataError> {
        Err(self.not_downloaded(dir, "this program was built without the cargo feature `download`"))
    }

    pub(super) fn not_downloaded(&self, dir: &Path, reason: impl Into<String>) -> DataError {
        DataError::Download {
            url: self.url.clone(),
            reason: reason.into(),
            archive: self.file.clone(),
            folder: self.folder.clone(),
            dir: dir.into(),
        }
    }

    pub(super) fn verify(&self, file: &mut File, path: &Path, advice: &str) -> Result<(), DataError> {
        let found = file.rewind().and_then(|()| sha256(file)).map_err(DataError::io(path))?;
        if found == self.sha256 {
            return Ok(());
        }
        Err(DataError::Checksum { path: path.into(), expected: self.sha256.clone(), found, advice: advice.into() })
    }

    /// Unpacks into a folder beside the final one and renames it.
    pub(super) fn unpack(&self, file: &mut File, path: &Path, dir: &Path) -> Result<PathBuf, DataError> {
        let target = dir.join(&self.folder);
        let part = Part::folder(target.clone()).map_err(DataError::io(&target))?;
        let unpacked = self.unpack_members(file, path, &part.path).and_then(|()| {
            let renamed = part.finish();
            match renamed {
                // Another process was faster.
                Err(_) if target.is_dir() => part.abandon(),
                renamed => renamed.map_err(DataError::io(&target))?,
            }
            Ok(())
        });
        unpacked.inspect_err(|_| part.abandon())?;
        Ok(target)
    }

    fn unpack_members(&self, file: &mut File, path: &Path, unfinished: &Path) -> Result<(), DataError> {
        let broken = |error: io::Error| DataError::Archive {
            path: path.into(),
            message: format!("it cannot be unpacked: {error}"),
        };
        file.rewind().map_err(DataError::io(path))?;
        let mut missing: Vec<&String> = self.members.iter().collect();
        let mut archive = tar::Archive::new(GzDecoder::new(file));
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let inside = entry.path().map_err(broken)?.into_owned();
            let Some(index) = missing.iter().position(|member| inside == Path::new(&self.folder).join(member)) else {
                continue;
            };
            let member = unfinished.join(missing.swap_remove(index));
            let mut written = File::create(&member).map_err(DataError::io(&member))?;
            let copied = io::copy(&mut entry, &mut written).and_then(|_| written.sync_all());
            copied.map_err(DataError::io(&member))?;
        }
        match missing.first() {
            None => Ok(()),
            Some(member) => {
                Err(DataError::Archive { path: path.into(), message: format!("it holds no {}/{member}", self.folder) })
            }
        }
    }
}
