//! The package `model.mars`: an integer network with its provenance, as a safetensors file.
//!
//! `docs/package-format.md` describes the bytes. The reader trusts nothing: whatever a file holds, the result is a
//! network that passes [`IntegerNetwork::validate`](crate::integer::IntegerNetwork::validate), or an error that names the field.
//!
//! | module | does |
//! |---|---|
//! | `content` | [`Package`]: what a file holds |
//! | `write` | its bytes |
//! | `read` | the package of bytes |
//! | `header` | the JSON in the file's metadata |
//! | `groups` | weights of kept groups as a stream of bits |
//! | `bounds` | what is refused before it is unpacked |
//! | `provenance` | where a network comes from |
//! | `version` | which version of the format a network needs |

mod bounds;
mod content;
mod groups;
mod header;
mod provenance;
mod read;
mod version;
mod write;

use std::path::Path;

use crate::error::Result;
use crate::network::{NetworkSpec, read_network};

#[cfg(feature = "train")]
pub(crate) use bounds::check_bounds;
pub use content::{Package, Predictions};
pub use provenance::Provenance;

/// The network of a package, or of another file that [`read_network`] reads.
///
/// # Errors
/// Another name; a missing or damaged file; one that is no network.
pub fn network_of_file(file: &Path) -> Result<NetworkSpec> {
    match is_package(file) {
        true => Package::read(file).map(|package| package.network.graph.spec().clone()),
        false => read_network(file),
    }
}

/// Whether a path is called as packages are.
pub fn is_package(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("mars"))
}
