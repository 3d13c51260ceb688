//! What a package holds.

use std::io::Read;
use std::path::Path;

use super::bounds::{Checked, MAX_FILE_BYTES, check_sha256};
use super::provenance::Provenance;
use crate::error::{PackageError, Result};
use crate::files::{Source, write_atomically};
use crate::integer::IntegerNetwork;
use crate::run_folder::PACKAGE;

/// Key of `__metadata__` that holds the header.
pub(super) const METADATA_KEY: &str = "mars";
/// Name of the tensor of predictions.
pub(super) const PREDICTIONS: &str = "predictions";

/// What `model.mars` holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// The network.
    pub network: IntegerNetwork,
    /// Where it comes from.
    pub provenance: Provenance,
    /// What fake-quant evaluation predicted.
    pub predictions: Option<Predictions>,
}

/// The class that fake-quant evaluation predicted for each image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predictions {
    /// [`Split::sha256`](crate::data::Split::sha256) of the images and labels.
    pub data_sha256: String,
    /// [`Hardware::losses_sha256`](crate::hardware::Hardware::losses_sha256) of the chip that fake-quant evaluation saw.
    pub chip_sha256: Option<String>,
    /// One class an image.
    pub classes: Vec<u16>,
}

impl Package {
    /// Reads a package.
    ///
    /// # Errors
    /// Whatever isn't as `docs/package-format.md` says; the message names the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        if let Some(found) = other_kind(path) {
            return Err(PackageError::Other { path: path.into(), found }.into());
        }
        let mut bytes = Vec::new();
        Source::open(path)?
            .take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| PackageError::Io { path: path.into(), source })?;
        let package = Self::from_bytes(&bytes)
            .map_err(|source| PackageError::File { path: path.into(), source: Box::new(source) })?;
        Ok(package)
    }

    /// Writes a package; a file that was there is replaced only by a whole one.
    ///
    /// # Errors
    /// A network that breaks a rule, a folder that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes()?)
    }

    pub(super) fn check_provenance(&self) -> Checked<()> {
        let Provenance { data_sha256, float_accuracy, fake_quant_accuracy, .. } = &self.provenance;
        check_sha256("provenance.data_sha256", data_sha256)?;
        for (field, accuracy) in
            [("provenance.float_accuracy", float_accuracy), ("provenance.fake_quant_accuracy", fake_quant_accuracy)]
        {
            if accuracy.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
                return Err(PackageError::field(field, "a percentage is from 0 to 100"));
            }
        }
        let Some(predictions) = &self.predictions else {
            return Ok(());
        };
        check_sha256("predictions.data_sha256", &predictions.data_sha256)?;
        if let Some(sha256) = &predictions.chip_sha256 {
            check_sha256("predictions.chip_sha256", sha256)?;
        }
        let classes = self.network.classes.len();
        match predictions.classes.iter().find(|&&class| usize::from(class) >= classes) {
            None => Ok(()),
            Some(class) => {
                Err(PackageError::tensor(PREDICTIONS, format!("class {class} of a network with {classes} classes")))
            }
        }
    }
}

/// What a file or folder is that people name in place of a package, and what to do with it.
fn other_kind(path: &Path) -> Option<String> {
    if path.is_dir() {
        let package = path.join(PACKAGE);
        return Some(match package.is_file() {
            true => format!("a folder: name its package, {}", package.display()),
            false => format!("a folder without a {PACKAGE}: name a package"),
        });
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending {
        "toml" => Some("a TOML file, not a package: --model costs a network, --hardware names a chip".into()),
        "onnx" => Some("an ONNX file, not a package: --model costs a network".into()),
        _ => None,
    }
}
