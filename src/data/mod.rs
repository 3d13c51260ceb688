//! Data sets: files, checksums, augmentation, batches. It knows nothing of networks.
//!
//! Images are raw bytes `[n][channels][height][width]`; whoever needs floats normalizes them with [`Normalization`].

mod archive;
mod arrays;
mod augment;
mod batches;
mod cifar;
mod dataset;
#[cfg(feature = "download")]
mod download;
mod idx;
mod images;
mod mini;
mod normalization;
mod npz;
mod pixels;
mod split;

use std::path::PathBuf;

use self::images::ImageOptions;
use crate::error::DataError;
use crate::observer::{Observer, Silent};

pub use archive::Archive;
pub use augment::{Augment, epoch_order};
pub use batches::{Batch, Batches, EpochOrder};
pub use cifar::CIFAR_SHAPE;
pub use dataset::Dataset;
pub use normalization::{Normalization, NormalizationConfig};
pub use pixels::Pixels;
pub use split::{ImageShape, Split};

/// Names that [`Dataset::load`] knows.
pub const DATASETS: [&str; 3] = ["cifar10", "cifar100", mini::NAME];
/// Environment variable that names a folder of data sets.
const DATA_DIR_VARIABLE: &str = "MARS_DATA_DIR";

/// Where data sets lie if nobody says otherwise.
const DEFAULT_DIR: &str = "datasets";

/// Where a data set may come from.
#[derive(Clone, Debug, Default)]
pub struct DataOptions {
    /// Folder that holds the unpacked folder or the archive; looked at before `MARS_DATA_DIR` and `datasets/`.
    pub data_dir: Option<PathBuf>,
    /// Replaces the address that archives are downloaded from.
    pub data_url: Option<String>,
    /// Height and width to which the images of a folder are cut and scaled, and that those of other data sets must have; their own if absent.
    pub image_size: Option<[usize; 2]>,
    /// Channels of the images of a folder, 1 or 3; those of the files if absent.
    pub channels: Option<usize>,
    /// Classes of the images of a folder: its test images are then enough, and are all that is read. Those of its training images if absent.
    pub classes: Option<Vec<String>>,
    /// Bytes of decoded images of a folder that may lie in memory; more than that lie in a file without a name in the first folder of data sets. Half of
    /// what programs can still have if absent, where the system tells it.
    pub memory: Option<u64>,
}

impl Dataset {
    /// Loads a data set by name.
    ///
    /// `cifar10` and `cifar100` are looked for in `options.data_dir`, in `MARS_DATA_DIR` and in `datasets/`, as the
    /// unpacked folder or as the official archive; where none has it, the archive is downloaded into the first of
    /// these folders.
    /// `cifar10-mini` is part of the program. Any other name is a path, from the current folder or one of those: a folder with `train/CLASS/` and
    /// images in it, a folder of IDX files, or an `.npz` file.
    ///
    /// # Errors
    /// An unknown name, a failed download, files that are missing or damaged, images that aren't scaled and have another size.
    pub fn load(name: &str, options: &DataOptions) -> Result<Self, DataError> {
        Self::load_with(name, options, &Silent)
    }

    /// The same with an observer that hears of a download and of sets that are smaller than the official ones.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_with(name: &str, options: &DataOptions, observer: &dyn Observer) -> Result<Self, DataError> {
        // Before anything is downloaded.
        let has_size = |ImageShape { height, width, .. }: ImageShape| match options.image_size {
            Some(wanted) if wanted != [height, width] => {
                Err(DataError::Size { dataset: name.into(), found: [height, width], wanted })
            }
            Some(_) | None => Ok(()),
        };
        if name == mini::NAME {
            has_size(CIFAR_SHAPE)?;
            return mini::load();
        }
        let variable = std::env::var_os(DATA_DIR_VARIABLE).map(PathBuf::from);
        let mut places: Vec<PathBuf> = options.data_dir.clone().into_iter().chain(variable).collect();
        places.push(DEFAULT_DIR.into());
        if let Some(layout) = cifar::layout(name) {
            has_size(CIFAR_SHAPE)?;
            return layout.load(&places, options.data_url.as_deref(), observer);
        }
        let paths = std::iter::once(PathBuf::from(name)).chain(places.iter().map(|place| place.join(name)));
        let unknown = || DataError::Unknown { name: name.into(), known: DATASETS.to_vec() };
        let path = paths.into_iter().find(|path| path.exists()).ok_or_else(unknown)?;
        let classes = options.classes.as_deref();
        let mut dataset = if images::is_folder(&path, classes) {
            let DataOptions { image_size: size, channels, memory, .. } = *options;
            images::load(&path, &ImageOptions { size, channels, classes, memory, disk: &places[0] }, observer)?
        } else if idx::is_folder(&path) {
            idx::load(&path, classes, observer)?
        } else if path.extension().is_some_and(|ending| ending == "npz") {
            npz::load(&path, classes, observer)?
        } else {
            let message = "it is no data set: it needs train/CLASS/ with images, IDX files, or to be an .npz file";
            return Err(DataError::content(&path, message));
        };
        has_size(dataset.train.shape)?;
        dataset.name = name.into();
        Ok(dataset)
    }
}
