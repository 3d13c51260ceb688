//! What can go wrong, said so that the reader knows what to do. It knows no room: what a message lists comes with the error.

mod checkpoint;
mod config;
mod data;
mod diverged;
mod onnx;
mod package;
mod unknown;
mod words;

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use checkpoint::CheckpointError;
pub use config::{Allowed, ConfigError};
pub use data::DataError;
pub use diverged::Diverged;
pub use onnx::OnnxError;
pub use package::PackageError;
pub use unknown::UnknownName;
pub(crate) use unknown::{closest, did_you_mean};
use words::in_words;

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
    /// A file to read that is neither on the disk nor part of the programs.
    #[error("{}: there is no such file{}", path.display(), meant(suggestion))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The one of the programs' own files that is most like it, if one is.
        suggestion: Option<&'static str>,
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
    /// Arguments of a program that don't fit together, or whose values cannot be.
    #[error("{0}")]
    Arguments(String),
    /// A key or a value of a configuration that isn't known.
    #[error(transparent)]
    Unknown(#[from] Box<UnknownName>),
    /// An array of weights that isn't of the network's shape.
    #[error("`{array}` has shape {found:?}, the network `{network}` needs {expected:?}")]
    Shape {
        /// Its name.
        array: String,
        /// The shape that it has.
        found: Vec<usize>,
        /// The network.
        network: String,
        /// The shape that the network needs.
        expected: Vec<usize>,
    },
    /// Data set files that are missing or damaged.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint that cannot become a network's weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An ONNX file that cannot become a network.
    #[error(transparent)]
    Onnx(#[from] Box<OnnxError>),
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

fn meant(suggestion: &Option<&str>) -> String {
    suggestion.map_or(String::new(), |file| format!("; did you mean {file}?"))
}

impl Error {
    /// An [`Error::Io`] about `path`, for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| match source.kind() {
            ErrorKind::AlreadyExists if path.is_file() => Self::file(&path, "it is a file, where a folder is needed"),
            ErrorKind::NotADirectory => Self::file(&path, "a part of its path is a file, where a folder is needed"),
            _ => Self::Io { path, source },
        }
    }

    /// An [`Error::File`] about `path`.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_path_buf(), message: message.into() }
    }

    /// What a TOML reader says about a text that was read from `place`: an [`Error::Unknown`], or what `otherwise` makes of the message.
    pub(crate) fn toml(
        place: impl Display,
        text: &str,
        error: &toml::de::Error,
        otherwise: impl FnOnce(String) -> Self,
    ) -> Self {
        let message = error.message().trim().replace('\n', ", ");
        let Some(span) = error.span() else {
            return Self::unknown_or(place, &message, None, otherwise);
        };
        let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
        let with_line = |message| otherwise(format!("line {line}: {message}"));
        Self::unknown_or(format!("{place}: line {line}"), &message, None, with_line)
    }

    /// An [`Error::Unknown`] where serde's `message` tells of one, else what `otherwise` makes of the message, with Rust's types in words. Both end
    /// with `context`.
    pub(crate) fn unknown_or(
        place: impl Display,
        message: &str,
        context: Option<&str>,
        otherwise: impl FnOnce(String) -> Self,
    ) -> Self {
        match UnknownName::in_message(&place.to_string(), message, context) {
            Some(unknown) => Self::Unknown(unknown.into()),
            None => otherwise([Some(&*in_words(message)), context].into_iter().flatten().collect::<Vec<_>>().join(" ")),
        }
    }

    /// What a reader says without a place: Rust's types in words, and the known name that is most like one that isn't.
    pub(crate) fn in_words(message: &str) -> String {
        UnknownName::in_message("", message, None).map_or_else(|| in_words(message), |unknown| unknown.told())
    }

    /// An [`Error::Layer`].
    pub fn layer(layer: &str, message: impl Into<String>) -> Self {
        Self::Layer { layer: layer.into(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    fn unknown(text: &str) -> Error {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Plan {
            #[allow(dead_code, reason = "it is only read")]
            epochs: u32,
        }
        let error = toml::from_str::<Plan>(text).unwrap_err();
        Error::toml("plan.toml", text, &error, Error::Setting)
    }

    #[test]
    fn an_unknown_key_comes_with_its_line_and_the_closest_known_one() {
        let error = unknown("# a plan\nepoch = 3\n");
        let Error::Unknown(found) = &error else { panic!("{error}") };
        assert_eq!((found.place.as_str(), found.name.as_str()), ("plan.toml: line 2", "epoch"));
        assert_eq!(found.suggestion.as_deref(), Some("epochs"));
        let message = "plan.toml: line 2: unknown field `epoch`, expected `epochs`; did you mean `epochs`?";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn another_fault_is_no_unknown_name() {
        let error = unknown("epochs = \"three\"");
        let message = "line 1: invalid type: string \"three\", expected a whole number from 0 on";
        assert!(matches!(&error, Error::Setting(found) if found == message), "{error}");
    }
}
