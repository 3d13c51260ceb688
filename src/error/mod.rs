//! What can go wrong, said so that the reader knows what to do. It knows no room: what a message lists comes with the error.

mod config;
mod data;
mod diverged;
mod package;

use std::path::{Path, PathBuf};

pub use config::{Allowed, ConfigError};
pub use data::DataError;
pub use diverged::Diverged;
pub use package::PackageError;

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
    /// A chip that cannot work.
    #[error("hardware `{hardware}`: {source}")]
    Hardware {
        /// Its name.
        hardware: String,
        /// The key, its value and what it may be.
        source: Box<ConfigError>,
    },
    /// A hardware file whose chip cannot work.
    #[error("{}: {source}", path.display())]
    HardwareFile {
        /// The file.
        path: PathBuf,
        /// The key, its value and what it may be.
        source: Box<ConfigError>,
    },
    /// A setting that cannot work; the message names the key and the allowed values.
    #[error("{0}")]
    Setting(String),
    /// Data set files that are missing or damaged.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A package that cannot be read.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A training whose loss, parameters or accuracy show that it cannot be used.
    #[error(transparent)]
    Diverged(#[from] Box<Diverged>),
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
