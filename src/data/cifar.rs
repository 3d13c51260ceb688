//! CIFAR-10 and CIFAR-100 in the official binary layout.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::dataset::Dataset;
use super::split::{ImageShape, Split};
use crate::error::DataError;
use crate::observer::Observer;

/// Sizes of CIFAR's images.
pub const CIFAR_SHAPE: ImageShape = ImageShape { channels: 3, height: 32, width: 32 };

/// Both archives have 161 to 163 MiB.
const MAX_ARCHIVE: u64 = 180_000_000;
/// Where the archives are.
const BASE_URL: &str = "https://www.cs.toronto.edu/~kriz";

/// The official layout of a data set: a folder of files of records, each the label bytes and an image.
pub(super) struct Layout {
    name: &'static str,
    archive: &'static str,
    sha256: &'static str,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    /// Number of classes of each label byte; the last one is the label.
    label_classes: &'static [u8],
    /// Images of a training file.
    train_images: usize,
    class_names: &'static str,
}

/// Images of the official test files.
const TEST_IMAGES: usize = 10_000;

const LAYOUTS: [Layout; 2] = [
    Layout {
        name: "cifar10",
        archive: "cifar-10-binary.tar.gz",
        sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder: "cifar-10-batches-bin",
        train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
        test: "test_batch.bin",
        label_classes: &[10],
        train_images: 10_000,
        class_names: "batches.meta.txt",
    },
    Layout {
        name: "cifar100",
        archive: "cifar-100-binary.tar.gz",
        sha256: "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder: "cifar-100-binary",
        train: &["train.bin"],
        test: "test.bin",
        label_classes: &[20, 100],
        train_images: 50_000,
        class_names: "fine_label_names.txt",
    },
];

/// Images and labels as they are read.
#[derive(Default)]
struct Records {
    images: Vec<u8>,
    labels: Vec<u16>,
}

impl Records {
    fn split(self) -> Split {
        Split { shape: CIFAR_SHAPE, images: self.images.into(), labels: self.labels }
    }
}

/// The layout of a data set, by its name.
pub(super) fn layout(name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|layout| layout.name == name)
}

impl Layout {
    /// Finds the data set in one of `places`, or downloads it into the first of them, then reads it.
    pub(super) fn load(
        &self,
        places: &[PathBuf],
        base_url: Option<&str>,
        observer: &dyn Observer,
    ) -> Result<Dataset, DataError> {
        if let Some((index, folder)) =
            places.iter().enumerate().find_map(|(index, place)| Some((index, self.unpacked(place)?)))
        {
            if index > 0 {
                let [first, folder] = [&places[0], &folder].map(|path| path.display());
                observer.notice(&format!("{} is not unpacked in {first}: {folder} is read", self.name));
            }
            return self.read(&folder, observer);
        }
        let place = places.iter().find(|place| place.join(self.archive).exists()).unwrap_or(&places[0]);
        self.read(&self.archive(base_url).install(place, observer)?, observer)
    }

    /// The unpacked folder in `place`, which may be that folder itself.
    fn unpacked(&self, place: &Path) -> Option<PathBuf> {
        let folder = place.join(self.folder);
        if folder.is_dir() {
            return Some(folder);
        }
        place.join(self.test).exists().then(|| place.into())
    }

    fn archive(&self, base_url: Option<&str>) -> Archive {
        let members = self.train.iter().chain([&self.test, &self.class_names]);
        Archive {
            url: format!("{}/{}", base_url.unwrap_or(BASE_URL).trim_end_matches('/'), self.archive),
            file: self.archive.into(),
            max_bytes: MAX_ARCHIVE,
            sha256: self.sha256.into(),
            folder: self.folder.into(),
            members: members.map(|&member| member.into()).collect(),
        }
    }

    /// Reads the files. Smaller sets than the official one are taken as they are, and said to be smaller, but for training files of unequal
    /// length: one of them has been cut.
    fn read(&self, folder: &Path, observer: &dyn Observer) -> Result<Dataset, DataError> {
        let classes = self.read_class_names(&folder.join(self.class_names))?;
        let mut train = Records::default();
        let mut counts = Vec::new();
        for file in self.train {
            let before = train.labels.len();
            self.read_records(&folder.join(file), self.train_images, &mut train)?;
            counts.push(train.labels.len() - before);
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        if let Some((file, count)) = self.train.iter().zip(&counts).find(|(_, count)| **count < most) {
            let message = format!("it has {count} images, another training file has {most}: it has been cut");
            return Err(DataError::damaged(&folder.join(file), message));
        }
        let mut test = Records::default();
        self.read_records(&folder.join(self.test), TEST_IMAGES, &mut test)?;
        let [train, test] = [train, test].map(Records::split);
        let official = [self.train_images * self.train.len(), TEST_IMAGES];
        if [train.len(), test.len()] != official {
            observer.notice(&format!(
                "{}: {} training and {} test images, the official set has {} and {}",
                folder.display(),
                train.len(),
                test.len(),
                official[0],
                official[1]
            ));
        }
        Ok(Dataset { name: self.name.into(), classes, train, validation: Records::default().split(), test })
    }

    fn read_class_names(&self, path: &Path) -> Result<Vec<String>, DataError> {
        let bytes = read_file(path, 1 << 16)?;
        let text = String::from_utf8(bytes).map_err(|_| DataError::damaged(path, "it isn't text"))?;
        let names: Vec<String> =
            text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        let expected = self.label_classes.last().map_or(0, |&classes| usize::from(classes));
        if names.len() == expected {
            Ok(names)
        } else {
            Err(DataError::damaged(path, format!("it has {} class names, expected {expected}", names.len())))
        }
    }

    /// Appends the records of a file; fewer images than the official `images` are accepted, half an image is not.
    fn read_records(&self, path: &Path, images: usize, records: &mut Records) -> Result<(), DataError> {
        let record_bytes = self.label_classes.len() + CIFAR_SHAPE.len();
        let official = images * record_bytes;
        let bytes = read_file(path, official)?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record_bytes) {
            return Err(DataError::damaged(
                path,
                format!(
                    "it has {} bytes, which is not a whole number of images of {record_bytes} bytes (the official file \
                     has {official})",
                    bytes.len()
                ),
            ));
        }
        for (index, record) in bytes.chunks_exact(record_bytes).enumerate() {
            let (labels, image) = record.split_at(self.label_classes.len());
            for (&label, &classes) in labels.iter().zip(self.label_classes) {
                if label >= classes {
                    return Err(DataError::damaged(
                        path,
                        format!("image {index} has label {label}, expected one below {classes}"),
                    ));
                }
            }
            records.labels.extend(labels.last().copied().map(u16::from));
            records.images.extend_from_slice(image);
        }
        Ok(())
    }
}

/// The content of a file of at most `limit` bytes.
fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, DataError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(DataError::Missing { path: path.into() });
        }
        Err(source) => return Err(DataError::io(path)(source)),
        Ok(_) => {}
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(DataError::io(path))?;
    if bytes.len() > limit {
        return Err(DataError::damaged(path, format!("it has more than {limit} bytes, the size of the official file")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::Silent;

    #[test]
    fn a_base_url_is_joined_with_one_slash() {
        let layout = layout("cifar100").unwrap();
        let official = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz";
        assert_eq!(layout.archive(None).url, official);
        let mirror = "http://mirror/cifar-100-binary.tar.gz";
        assert_eq!(layout.archive(Some("http://mirror/")).url, mirror);
        assert_eq!(layout.archive(Some("http://mirror")).url, mirror);
    }

    #[test]
    fn without_network_the_error_says_what_to_put_where() {
        let dir = tempfile::TempDir::new().unwrap();
        let places = [dir.path().join("first"), dir.path().join("second")];
        let error =
            layout("cifar100").unwrap().load(&places, Some("http://127.0.0.1:1"), &Silent).unwrap_err().to_string();
        let place = places[0].display().to_string();
        for part in ["`cifar-100-binary.tar.gz`", "`cifar-100-binary`", &place, "cifar10-mini"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_archive_in_a_later_place_is_taken_before_the_network() {
        let dir = tempfile::TempDir::new().unwrap();
        let places = [dir.path().join("first"), dir.path().to_path_buf()];
        std::fs::write(dir.path().join("cifar-10-binary.tar.gz"), b"no archive").unwrap();
        let error = layout("cifar10").unwrap().load(&places, None, &Silent).unwrap_err();
        assert!(matches!(error, DataError::Checksum { .. }), "{error}");
    }
}
