//! What can go wrong with checkpoints that others wrote.

#[cfg(feature = "train")]
use std::path::Path;
use std::path::PathBuf;

/// A checkpoint that cannot become a network's weights.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file that is neither PyTorch's nor safetensors, or is damaged.
    #[error("{}: not a readable checkpoint ({reason})", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// Several sets of weights fit the network.
    #[error(
        "{}: it holds {} sets of weights, `{}`: name one, such as --pretrained {}#{}",
        path.display(), sets.len(), sets.join("` and `"), path.display(), sets[0]
    )]
    SeveralSets {
        /// The file.
        path: PathBuf,
        /// What the names of each set begin with.
        sets: Vec<String>,
    },
    /// A set of weights fits the network, and so do others that lie beside its layers.
    #[error(
        "{}: it holds a set of weights and, beside its layers, `{}`, which fit{}, too: name one, --pretrained {}#{}, or \
         ignore = [\"{}\"] in the recipe reads the other layers",
        path.display(), nested.join("` and `"), if nested.len() == 1 { "s" } else { "" }, path.display(), nested[0],
        nested.join("\", \"")
    )]
    NestedSets {
        /// The file.
        path: PathBuf,
        /// What the names of each set beside the layers begin with.
        nested: Vec<String>,
    },
    /// No name begins with the key of a set of weights.
    #[error("{}: it holds no `{set}`; its names begin with {}", path.display(), known.join(", "))]
    NoSet {
        /// The file.
        path: PathBuf,
        /// The key.
        set: String,
        /// What its names begin with.
        known: Vec<String>,
    },
    /// Weights of another network.
    #[error("{}: not a checkpoint of `{network}`: {reason}; {way_out}", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The network.
        network: String,
        /// The first thing that doesn't fit.
        reason: String,
        /// What to do about it.
        way_out: String,
    },
    /// An array whose values no network can have.
    #[error("{}: `{array}` holds {value}{}", path.display(), if *variance { ": no variance is below 0" } else { "" })]
    Value {
        /// The file.
        path: PathBuf,
        /// The array.
        array: String,
        /// The value.
        value: f32,
        /// Whether it is a variance, which isn't negative.
        variance: bool,
    },
}

#[cfg(feature = "train")]
impl CheckpointError {
    /// A [`CheckpointError::Unreadable`] about `path`.
    pub(crate) fn unreadable(path: &Path, reason: impl ToString) -> Self {
        Self::Unreadable { path: path.into(), reason: reason.to_string() }
    }
}
