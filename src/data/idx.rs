//! IDX files, as MNIST and Fashion-MNIST have them: `train-images-idx3-ubyte` and the like, packed by gzip or not.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::arrays::{Numbers, dataset, exactly};
use super::dataset::Dataset;
use crate::error::DataError;
use crate::observer::Observer;

/// Images and labels for training, then for testing.
const FILES: [[&str; 2]; 2] =
    [["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]];

/// Whether a folder holds them.
pub(super) fn is_folder(folder: &Path) -> bool {
    find(folder, FILES[0][0]).exists()
}

/// Reads the files of a folder: two for training, and two for testing where one of them is there.
///
/// # Errors
/// A file that is missing or damaged.
pub(super) fn load(folder: &Path, known: Option<&[String]>, observer: &dyn Observer) -> Result<Dataset, DataError> {
    let read = |name: &str| read(&find(folder, name));
    let [train, test] = FILES;
    let train = [read(train[0])?, read(train[1])?];
    let test = match test.iter().any(|name| find(folder, name).exists()) {
        true => Some([read(test[0])?, read(test[1])?]),
        false => None,
    };
    dataset(folder, train, test, known, observer)
}

/// The file of a name, or the packed one.
fn find(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(name);
    if plain.exists() { plain } else { folder.join(format!("{name}.gz")) }
}

fn read(path: &Path) -> Result<Numbers, DataError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(DataError::content(path, "it is missing: put it beside the others"));
        }
        Err(error) => return Err(DataError::io(path)(error)),
    };
    let mut reader: Box<dyn Read> = match path.extension().is_some_and(|ending| ending == "gz") {
        true => Box::new(GzDecoder::new(file)),
        false => Box::new(file),
    };
    parse(&mut reader).map_err(|message| DataError::content(path, message))
}

/// Two zeros, the type (8: bytes), the number of sizes, the sizes from the highest byte on, and the bytes.
fn parse(reader: &mut impl Read) -> Result<Numbers, String> {
    const OTHER: &str = "not an IDX file of bytes, or cut off";
    let mut start = [0; 4];
    reader.read_exact(&mut start).map_err(|_| OTHER)?;
    let [0, 0, 8, sizes] = start else { return Err(OTHER.into()) };
    let mut shape = Vec::new();
    for _ in 0..sizes {
        let mut size = [0; 4];
        reader.read_exact(&mut size).map_err(|_| OTHER)?;
        shape.push(u32::from_be_bytes(size) as usize);
    }
    let bytes = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size as u64));
    Ok(Numbers::Bytes { values: exactly(bytes, reader)?, shape })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_from_the_highest_byte_on() {
        let bytes = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];
        let Ok(Numbers::Bytes { shape, values }) = parse(&mut &bytes[..]) else { panic!("an array of bytes") };
        assert_eq!((shape, values), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
        for wrong in [&bytes[..17], &[0, 0, 13, 1], &[0, 1, 8, 0], &[0, 0, 8, 1, 255, 255, 255, 255], &[]] {
            assert!(parse(&mut &*wrong).is_err(), "{wrong:?}");
        }
    }
}
