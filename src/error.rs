//! What can go wrong, said so that the reader knows what to do.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Result of everything that can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error with the thing it is about and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A TOML or JSON file is not what it should be; the message names the key.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        message: String,
    },
    /// A network description that cannot be built.
    #[error("network `{network}`: {message}")]
    Network {
        /// Its name.
        network: String,
        /// What is wrong.
        message: String,
    },
    /// A setting that cannot work; the message names the key and the allowed values.
    #[error("{0}")]
    Setting(String),
    /// Data set files that are missing or damaged.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A package that cannot be read.
    #[error(transparent)]
    Package(#[from] crate::deploy::PackageError),
    /// Arithmetic that the integer network or the hardware cannot do.
    #[error("layer `{layer}`: {message}")]
    Layer {
        /// Name of the layer.
        layer: String,
        /// What is wrong.
        message: String,
    },
}

impl Error {
    /// An [`Error::Io`] about `path`, for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_path_buf(), message: message.into() }
    }

    /// An [`Error::Layer`].
    pub fn layer(layer: &str, message: impl Into<String>) -> Self {
        Self::Layer { layer: layer.into(), message: message.into() }
    }
}

/// The known name that is most like one that isn't known, if it is like it at all.
pub(crate) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(name, known);
    known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|known| likeness(known) > 0.7)
}

/// Reads a TOML file into a value whose unknown keys are errors.
pub(crate) fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    toml::from_str(&text).map_err(|error| Error::file(path, toml_message(&text, &error)))
}

/// The TOML text of a value.
#[cfg(feature = "train")]
pub(crate) fn to_toml(value: &impl serde::Serialize) -> Result<String> {
    toml::to_string(value).map_err(|error| Error::Setting(error.to_string()))
}

/// Adds the closest known key to serde's message about an unknown one, which lists them all.
pub(crate) fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next().filter(|_| message.starts_with("unknown")) else {
        return message.into();
    };
    match closest(unknown, quoted) {
        Some(known) => format!("{}; did you mean `{known}`?", message.trim_end()),
        None => message.into(),
    }
}

/// What the TOML reader says about a text, on one line, with a suggestion where a key isn't known.
pub(crate) fn toml_message(text: &str, error: &toml::de::Error) -> String {
    let message = with_suggestion(&error.message().trim().replace('\n', ", "));
    match error.span() {
        Some(span) => {
            let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
            format!("line {line}: {message}")
        }
        None => message,
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

/// Whether the file system is to blame: Lustre without `flock`, NFS without its daemon.
pub(crate) fn has_no_locks(error: &std::io::Error) -> bool {
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
