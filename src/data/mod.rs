//! Data sets: files, checksums, augmentation, batches. It knows nothing of networks.
//!
//! Images are raw bytes `[n][3][32][32]`; whoever needs floats normalizes them with [`Normalization`].

mod archive;
mod augment;
mod batches;
mod cifar;
#[cfg(feature = "download")]
mod download;
mod mini;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::observer::{Observer, Silent};

pub use archive::Archive;
use augment::held_out_order;
pub use augment::{Augment, epoch_order};
pub use batches::{Batch, Batches, EpochOrder};

/// Names that [`Dataset::load`] knows.
pub const DATASETS: [&str; 3] = ["cifar10", "cifar100", mini::NAME];
/// Colors of an image.
pub const COLORS: usize = 3;
/// Height and width of an image.
pub const SIDE: usize = 32;
/// Bytes of one image.
pub const IMAGE_BYTES: usize = COLORS * SIDE * SIDE;
/// Environment variable that names a folder of data sets.
pub const DATA_DIR_VARIABLE: &str = "MARS_DATA_DIR";

/// Where data sets lie if nobody says otherwise.
const DEFAULT_DIR: &str = "datasets";

/// A data set in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// One of [`DATASETS`].
    pub name: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Images to learn from.
    pub train: Split,
    /// Images to choose a recipe with, which [`Dataset::hold_out`] takes out of the training images; empty before.
    pub validation: Split,
    /// Images to measure with.
    pub test: Split,
}

/// Half of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Pixels `[n][3][32][32]`.
    pub images: Vec<u8>,
    /// One class an image.
    pub labels: Vec<u8>,
}

/// Where a data set may come from.
#[derive(Clone, Debug, Default)]
pub struct DataOptions {
    /// Folder that holds the unpacked folder or the archive; looked at before `MARS_DATA_DIR` and `datasets/`.
    pub data_dir: Option<PathBuf>,
    /// Replaces the address that archives are downloaded from.
    pub data_url: Option<String>,
}

/// How bytes become floats: `(byte / 255 - mean) / std` for each color.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Mean of each color, from 0 to 1.
    pub mean: [f32; COLORS],
    /// Standard deviation of each color.
    pub std: [f32; COLORS],
}

impl Default for Normalization {
    /// The constants of the akamaster checkpoints (those of ImageNet).
    fn default() -> Self {
        Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
    }
}

impl Normalization {
    /// The byte that means 0, for each color: `round(255 * mean)`.
    pub fn zero_points(&self) -> [u8; COLORS] {
        // A float to integer cast saturates, so a mean outside 0 to 1 gives the nearest byte.
        self.mean.map(|mean| (255.0 * mean).round() as u8)
    }
}

impl Dataset {
    /// Loads a data set by name.
    ///
    /// `cifar10` and `cifar100` are looked for in `options.data_dir`, in `MARS_DATA_DIR` and in `datasets/`, as the
    /// unpacked folder or as the official archive; where none has it, the archive is downloaded into the first of
    /// these folders.
    /// `cifar10-mini` is part of the program.
    ///
    /// # Errors
    /// An unknown name, a failed download, files that are missing or damaged.
    pub fn load(name: &str, options: &DataOptions) -> Result<Self, DataError> {
        Self::load_with(name, options, &Silent)
    }

    /// The same with an observer that hears of a download and of sets that are smaller than the official ones.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_with(name: &str, options: &DataOptions, observer: &dyn Observer) -> Result<Self, DataError> {
        if name == mini::NAME {
            return mini::load();
        }
        let layout =
            cifar::layout(name).ok_or_else(|| DataError::Unknown { name: name.into(), known: DATASETS.to_vec() })?;
        let variable = std::env::var_os(DATA_DIR_VARIABLE).map(PathBuf::from);
        let mut places: Vec<PathBuf> = options.data_dir.clone().into_iter().chain(variable).collect();
        places.push(DEFAULT_DIR.into());
        layout.load(&places, options.data_url.as_deref(), observer)
    }
}

impl Dataset {
    /// Moves `images` training images to [`Dataset::validation`]: as many of each class, give or take one, drawn from `seed`. Both splits keep the
    /// order of the training images.
    ///
    /// # Errors
    /// A class that would keep no training image.
    pub fn hold_out(&mut self, images: usize, seed: u64) -> Result<(), DataError> {
        let classes = self.classes.len();
        // The first classes take what doesn't divide.
        let mut wanted: Vec<usize> = (0..classes).map(|class| (images + classes - 1 - class) / classes).collect();
        let mut held_out = vec![false; self.train.len()];
        for index in held_out_order(self.train.len(), seed) {
            let wanted = &mut wanted[usize::from(self.train.labels[index])];
            if *wanted > 0 {
                *wanted -= 1;
                held_out[index] = true;
            }
        }
        let mut left = vec![0; classes];
        let kept = self.train.labels.iter().zip(&held_out).filter(|(_, held_out)| !**held_out);
        kept.for_each(|(label, _)| left[usize::from(*label)] += 1);
        if wanted.iter().any(|wanted| *wanted > 0) || left.contains(&0) {
            return Err(DataError::TooFew { dataset: self.name.clone(), images, train: self.train.len() });
        }
        let part = |of: bool| {
            let indices: Vec<usize> = (0..held_out.len()).filter(|index| held_out[*index] == of).collect();
            Split {
                images: indices.iter().flat_map(|index| self.train.image(*index)).copied().collect(),
                labels: indices.iter().map(|index| self.train.labels[*index]).collect(),
            }
        };
        let (train, validation) = (part(false), part(true));
        (self.train, self.validation) = (train, validation);
        Ok(())
    }
}

impl Split {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True without images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels `[3][32][32]` of one image.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        &self.images[index * IMAGE_BYTES..][..IMAGE_BYTES]
    }

    /// Share of right predictions in percent; images beyond the predictions don't count.
    pub fn accuracy(&self, predictions: &[u8]) -> f64 {
        let right = predictions.iter().zip(&self.labels).filter(|(prediction, label)| prediction == label).count();
        100.0 * right as f64 / predictions.len() as f64
    }

    /// SHA-256 over all images, then all labels, in hexadecimal: tells whether two measurements used the same images.
    pub fn sha256(&self) -> String {
        let digest = Sha256::new().chain_update(&self.images).chain_update(&self.labels).finalize();
        format!("{digest:x}")
    }
}
