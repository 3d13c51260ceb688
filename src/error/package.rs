//! What can be wrong with a package.

use std::path::PathBuf;

/// A package that cannot be read, or a network that cannot be written as one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was named is no package but something else.
    #[error("{} is {found}", path.display())]
    Other {
        /// The file or folder.
        path: PathBuf,
        /// What it is, and what to do with it.
        found: String,
    },
    /// The file isn't a good package.
    #[error("{} is not a usable package: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<PackageError>,
    },
    /// The file is larger than any package.
    #[error("it has more than {limit} bytes")]
    TooLarge {
        /// Most bytes of a package.
        limit: u64,
    },
    /// The container is damaged or something else.
    #[error("it has been cut short, or it is another kind of file ({0})")]
    Container(String),
    /// A file of another kind.
    #[error("{0}")]
    Foreign(&'static str),
    /// The container holds no package.
    #[error("`__metadata__` must hold the key `{key}` and no other; it holds {found}")]
    Metadata {
        /// The key.
        key: &'static str,
        /// The keys that are there.
        found: String,
    },
    /// The header isn't the JSON that is expected; the message names the key.
    #[error("`header`: {0}")]
    Header(String),
    /// The package was written by another version of the format.
    #[error("`header.version` is {found}, this program reads {read}; use the version of mars that wrote the package")]
    Version {
        /// The version that this program reads.
        read: u64,
        /// The version of the package.
        found: u64,
    },
    /// The content was changed after it was written.
    #[error("`header.sha256` is {expected}, but the content has {found}: the file is damaged, get or export it again")]
    Checksum {
        /// What the header says.
        expected: String,
        /// What the content gives.
        found: String,
    },
    /// A value of the header is out of range or contradicts another.
    #[error("`header.{field}`: {message}")]
    Field {
        /// Path of the value in the header.
        field: String,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// A tensor is missing, too many, or has the wrong type, size or content.
    #[error("tensor `{name}`: {message}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// The layer graph or the integers in it break a rule of the arithmetic; the message names the layer.
    #[error("{0}")]
    Network(String),
}

impl PackageError {
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field { field: field.into(), message: message.into() }
    }

    pub(crate) fn tensor(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), message: message.into() }
    }
}
