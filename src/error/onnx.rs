//! What can go wrong with ONNX files.

use std::path::PathBuf;

/// An ONNX file that cannot become a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// A file that isn't ONNX, or is damaged.
    #[error("{}: not a readable ONNX file ({reason})", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        reason: String,
    },
    /// A graph that is no network of ours, whatever its nodes are.
    #[error("{}: {reason}; {way_out}", path.display())]
    Network {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        way_out: String,
    },
    /// A node that no layer can express.
    #[error("{}: node `{node}` ({kind}): {reason}; {way_out}", path.display())]
    Node {
        /// The file.
        path: PathBuf,
        /// Name of the node, or of its output where it has none.
        node: String,
        /// What it computes, in ONNX's words.
        kind: String,
        /// What cannot be said.
        reason: String,
        /// What to do about it.
        way_out: String,
    },
}
