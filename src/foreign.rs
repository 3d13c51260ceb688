//! Files of other kinds than the one that is read: those that people take for a checkpoint, an ONNX file or a package, told by their first bytes,
//! and TOML files of the programs, told by their keys.

use std::path::Path;

use crate::error::{Error, Result};

/// What a file of Keras's is.
pub(crate) const KERAS: &str =
    "it holds HDF5, as Keras saves it: export the network as ONNX, channels first (tf2onnx --inputs-as-nchw)";

/// First bytes, and what a file is that begins with them.
const KINDS: [(&[u8], &str); 6] = [
    (b"version https://git-lfs", "it is a pointer of Git LFS: `git lfs pull` fetches the file that it stands for"),
    (
        b"\x93NUMPY",
        "it is an array of numpy: save all arrays of the network by name, as safetensors or with torch.save",
    ),
    (b"\x89HDF\r\n", KERAS),
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
    const ALL: [Self; 5] = [Self::Experiment, Self::Sweep, Self::Network, Self::Hardware, Self::Recipe];

    /// The kind that a table has keys of; none where there are none that tell.
    pub fn of(table: &toml::Table) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.has_keys_in(table))
    }

    /// Whether a table has a key that only this kind has.
    fn has_keys_in(self, table: &toml::Table) -> bool {
        let has_any = |keys: &[&str]| keys.iter().any(|key| table.contains_key(*key));
        match self {
            // `rows` of a hardware file is a number, of a sweep a list of numbers.
            Self::Experiment => table
                .get("rows")
                .and_then(toml::Value::as_array)
                .is_some_and(|rows| rows.first().is_some_and(toml::Value::is_table)),
            Self::Sweep => has_any(&["ranges"]),
            Self::Network => has_any(&["layers"]),
            Self::Hardware => has_any(&["cores", "macros_per_core", "access", "energy"]),
            Self::Recipe => has_any(&["dataset", "model", "phases", "quantize", "sparsity"]),
        }
    }

    /// Refuses a table that is of another kind. One that has keys of this kind, too, has a key too many, which its reader names.
    ///
    /// # Errors
    /// Says of which kind it is, and what reads it.
    pub fn check(self, path: &Path, table: &toml::Table) -> Result<()> {
        let (what, reader) = match Self::of(table).filter(|_| !self.has_keys_in(table)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_too_many_makes_no_other_kind() {
        let says = |kind: TomlKind, text: &str| {
            kind.check(Path::new("a.toml"), &text.parse().unwrap()).err().map(|error| error.to_string())
        };
        let hardware = "a.toml: it is a hardware file: mars-deploy --hardware a.toml reads it";
        assert_eq!(says(TomlKind::Recipe, "cores = 4").as_deref(), Some(hardware));
        for (kind, text) in [
            (TomlKind::Recipe, "model = \"vgg8\"\nlayers = []"),
            (TomlKind::Sweep, "ranges = {}\naccess = []"),
            // Without its [ranges] this sweep has no key that tells.
            (TomlKind::Sweep, "rows = [512, 1024]"),
            (TomlKind::Hardware, "rows = [1024]\ncores = 4"),
            (TomlKind::Hardware, "base = \"mars.toml\""),
        ] {
            assert_eq!(says(kind, text), None, "{text}");
        }
    }
}
