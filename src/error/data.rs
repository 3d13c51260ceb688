//! What can go wrong with data sets.

use std::path::{Path, PathBuf};

use super::did_you_mean;

/// Data set files that are missing or damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No such data set.
    #[error(
        "data set `{name}` is unknown; known are {}, a folder of images (train/CLASS/), a folder of IDX files, and .npz files{}",
        known.join(", "),
        did_you_mean(name, known.iter().copied())
    )]
    Unknown {
        /// The name.
        name: String,
        /// Names that are known.
        known: Vec<&'static str>,
    },
    /// A file or folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Images that aren't scaled are to have another size.
    #[error(
        "data set `{dataset}`: its images have {} x {} pixels, and {} x {} are wanted, by image_size or by the network: only images of \
         a folder by class are cut and scaled", found[0], found[1], wanted[0], wanted[1]
    )]
    Size {
        /// Name of the data set.
        dataset: String,
        /// Height and width of its images.
        found: [usize; 2],
        /// Those that are asked for.
        wanted: [usize; 2],
    },
    /// More images are to be held out than can be.
    #[error(
        "validation_images = {images}: data set `{dataset}` has {train} training images, and each class has to keep some"
    )]
    TooFew {
        /// Name of the data set.
        dataset: String,
        /// Images to hold out.
        images: usize,
        /// Training images that there are.
        train: usize,
    },
    /// A file or folder of somebody's own isn't what a data set is.
    #[error("{}: {message}", path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
    /// An unpacked folder lacks a file.
    #[error("{} is missing; unpack the official archive again, or remove the folder to download it", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file of the official layout has the wrong content.
    #[error("{}: {message}; unpack the official archive again, or remove the folder to download it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what was expected.
        message: String,
    },
    /// The archive could not be downloaded.
    #[error(
        "{url} could not be downloaded: {reason}; put the archive `{archive}` or its unpacked folder `{folder}` into \
         {}, or use `cifar10-mini`, which needs no download", dir.display()
    )]
    Download {
        /// Address of the archive.
        url: String,
        /// What failed.
        reason: String,
        /// Name of the archive.
        archive: String,
        /// Name of the unpacked folder.
        folder: String,
        /// Where it belongs.
        dir: PathBuf,
    },
    /// Two programs would write the same file.
    #[error("{} is being downloaded by another program; wait for it to end", path.display())]
    Busy {
        /// The unfinished download.
        path: PathBuf,
    },
    /// The archive isn't the official one.
    #[error("{} has SHA-256 {found}, expected {expected}; {advice}", path.display())]
    Checksum {
        /// The archive.
        path: PathBuf,
        /// The official checksum.
        expected: String,
        /// That of the file.
        found: String,
        /// What to do.
        advice: String,
    },
    /// The archive cannot be unpacked.
    #[error("{}: {message}; get the official archive", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong in it.
        message: String,
    },
}

impl DataError {
    /// A [`DataError::Io`] about `path`, for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// A [`DataError::Content`] about `path`.
    pub(crate) fn content(path: &Path, message: impl Into<String>) -> Self {
        Self::Content { path: path.to_path_buf(), message: message.into() }
    }

    pub(crate) fn damaged(path: &Path, message: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), message: message.into() }
    }
}
