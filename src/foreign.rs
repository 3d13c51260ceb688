//! Files of other kinds than the one that is read: those that people take for a checkpoint, an ONNX file or a package, told by their first bytes,
//! and TOML files of the programs, told by their keys.

use std::path::Path;

use crate::error::{Error, Result};

/// First bytes, and what a file is that begins with them.
const KINDS: [(&[u8], &str); 6] = [
    (b"version https://git-lfs", "it is a pointer of Git LFS: `git lfs pull` fetches the file that it stands for"),
    (
        b"\x93NUMPY",
        "it is an array of numpy: save all arrays of the network by name, as safetensors or with torch.save",
    ),
    (b"\x89HDF\r\n", "it is HDF5, as Keras saves it: export the network as ONNX"),
    (b"\x1f\x8b", "it is packed by gzip: unpack it"),
    (b"<!", "it is a web page, which came in place of the file: download it anew"),
    (b"<html", "it is a web page, which came in place of the file: download it anew"),
];

/// What a file of none of our kinds is, and what to do about it; none where its first bytes don't tell.
pub(crate) fn kind(start: &[u8]) -> Option<&'static str> {
    if start.is_empty() {
        return Some("it is empty");
    }
    KINDS.iter().find(|(mark, _)| start.starts_with(mark)).map(|(_, kind)| *kind)
}

/// What a TOML file of the programs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TomlKind {
    /// The rows of a table.
    Experiment,
    /// Ranges of a chip's keys.
    Sweep,
    /// The layers of a network.
    Network,
    /// A chip.
    Hardware,
    /// A training.
    Recipe,
}

impl TomlKind {
    /// The kind that a table has keys of; none where there are none that tell.
    pub fn of(table: &toml::Table) -> Option<Self> {
        let has_any = |keys: &[&str]| keys.iter().any(|key| table.contains_key(*key));
        match () {
            // Hardware files have `rows`, too, which is a number.
            () if table.get("rows").is_some_and(toml::Value::is_array) => Some(Self::Experiment),
            () if has_any(&["ranges"]) => Some(Self::Sweep),
            () if has_any(&["layers"]) => Some(Self::Network),
            () if has_any(&["cores", "macros_per_core", "access", "energy"]) => Some(Self::Hardware),
            () if has_any(&["dataset", "model", "phases", "quantize", "sparsity"]) => Some(Self::Recipe),
            () => None,
        }
    }

    /// Refuses a table that is of another kind.
    ///
    /// # Errors
    /// Says of which, and what reads it.
    pub fn check(self, path: &Path, table: &toml::Table) -> Result<()> {
        let (what, reader) = match Self::of(table).filter(|kind| *kind != self) {
            None => return Ok(()),
            Some(Self::Experiment) => ("an experiment, the rows of a table", "mars-reproduce"),
            Some(Self::Sweep) => ("a sweep over chips", "mars-deploy --sweep"),
            Some(Self::Network) => ("a network", "mars-train --model"),
            Some(Self::Hardware) => ("a hardware file", "mars-deploy --hardware"),
            Some(Self::Recipe) => ("a recipe", "mars-train --recipe"),
        };
        Err(Error::file(path, format!("it is {what}: {reader} {} reads it", path.display())))
    }
}
