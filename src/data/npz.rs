//! NumPy's `.npz` files with arrays of images and labels.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use super::arrays::{Numbers, dataset};
use super::dataset::Dataset;
use crate::error::DataError;
use crate::observer::Observer;

/// What arrays are called, images and labels: for training with those for testing behind them, or all together.
const NAMES: [[&str; 4]; 3] = [
    ["x_train", "y_train", "x_test", "y_test"],
    ["train_images", "train_labels", "test_images", "test_labels"],
    ["images", "labels", "test_images", "test_labels"],
];
/// Most bytes of an array.
const MAX_BYTES: u64 = 1 << 32;

/// Reads a file.
///
/// # Errors
/// Another kind of file, other arrays, or arrays that are no images and labels.
pub(super) fn load(path: &Path, known: Option<&[String]>, observer: &dyn Observer) -> Result<Dataset, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let wrong = |message: String| DataError::content(path, message);
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|error| wrong(format!("not a readable .npz file ({error})")))?;
    let holds = |archive: &ZipArchive<_>, name: &str| archive.index_for_name(&format!("{name}.npy")).is_some();
    let names = NAMES.iter().find(|[images, labels, ..]| holds(&archive, images) && holds(&archive, labels));
    let Some([images, labels, test_images, test_labels]) = names else {
        let known = NAMES.map(|[images, labels, ..]| format!("`{images}` and `{labels}`")).join(", or ");
        return Err(wrong(format!("its arrays must be called {known}")));
    };
    let has_test = holds(&archive, test_images) || holds(&archive, test_labels);
    let mut read = |name: &str| read(&mut archive, name).map_err(|message| wrong(format!("`{name}`: {message}")));
    let train = [read(images)?, read(labels)?];
    let test = if has_test { Some([read(test_images)?, read(test_labels)?]) } else { None };
    dataset(path, train, test, known, observer)
}

fn read(archive: &mut ZipArchive<BufReader<File>>, name: &str) -> Result<Numbers, String> {
    let entry = archive.by_name(&format!("{name}.npy")).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    entry.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it has more than {} GiB", MAX_BYTES >> 30));
    }
    parse(&bytes)
}

/// An array as `numpy.save` writes it: a magic, a version, the length of a dictionary of Python's, the dictionary, the values.
fn parse(bytes: &[u8]) -> Result<Numbers, String> {
    let cut = "not a NumPy array, or cut off";
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or(cut)?;
    let (&[major, _], rest) = rest.split_first_chunk().ok_or(cut)?;
    let (length, rest) = if major == 1 {
        let (length, rest) = rest.split_first_chunk().ok_or(cut)?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk().ok_or(cut)?;
        (u32::from_le_bytes(*length) as usize, rest)
    };
    let (header, values) = rest.split_at_checked(length).ok_or(cut)?;
    let header = std::str::from_utf8(header).map_err(|_| cut)?;
    let value = |key: &str| {
        let (_, after) = header.split_once(&format!("'{key}':"))?;
        Some(after.trim_start())
    };
    if value("fortran_order").is_none_or(|value| !value.starts_with("False")) {
        return Err("it lies in Fortran's order: save numpy.ascontiguousarray of it".into());
    }
    let kind = value("descr").and_then(|value| value.strip_prefix('\'')?.split('\'').next()).ok_or(cut)?;
    let sizes = value("shape").and_then(|value| value.strip_prefix('(')?.split(')').next()).ok_or(cut)?;
    let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape = sizes.map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| cut)?;
    let count = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size)).ok_or(cut)?;
    let (order, kind) = kind.split_at_checked(1).ok_or(cut)?;
    let width: usize = match kind {
        "u1" | "i1" => 1,
        "u2" | "i2" => 2,
        "u4" | "i4" => 4,
        "u8" | "i8" => 8,
        _ => return Err(format!("it holds {order}{kind}, not whole numbers: images are uint8, labels any integers")),
    };
    if Some(values.len()) != count.checked_mul(width) {
        return Err(cut.into());
    }
    if kind == "u1" {
        return Ok(Numbers::Bytes { shape, values: values.to_vec() });
    }
    let signed = kind.starts_with('i');
    let integer = |bytes: &[u8]| {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(bytes);
        if order == ">" {
            wide[..width].reverse();
        }
        let shift = 64 - 8 * width as u32;
        let value = u64::from_le_bytes(wide) << shift;
        // A sign is stretched over the bytes that aren't there.
        if signed { value as i64 >> shift } else { (value >> shift) as i64 }
    };
    Ok(Numbers::Integers { shape, values: values.chunks_exact(width).map(integer).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(kind: &str, shape: &str, values: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), values].concat()
    }

    #[test]
    fn whole_numbers_of_all_widths_are_read() {
        let integers = |kind, values: &[u8]| match parse(&array(kind, "(2,)", values)) {
            Ok(Numbers::Integers { shape, values }) => (shape, values),
            _ => panic!("{kind}"),
        };
        assert_eq!(integers("<i2", &[1, 0, 255, 255]), (vec![2], vec![1, -1]));
        assert_eq!(integers(">u2", &[1, 0, 0, 2]), (vec![2], vec![256, 2]));
        assert_eq!(integers("|i1", &[1, 254]), (vec![2], vec![1, -2]));
        assert_eq!(integers("<i8", &[3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]), (vec![2], vec![3, 4]));
        assert!(matches!(parse(&array("|u1", "(1, 2)", &[5, 6])), Ok(Numbers::Bytes { shape, .. }) if shape == [1, 2]));
    }

    #[test]
    fn other_arrays_are_refused() {
        for (kind, shape, part) in [
            ("<f4", "(2,)", "holds <f4"),
            ("|u1", "(9,)", "cut off"),
            ("|u1", "(x,)", "cut off"),
            ("", "(8,)", "cut off"),
            ("\u{e9}4", "(2,)", "cut off"),
        ] {
            let error = parse(&array(kind, shape, &[0; 8])).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
        let fortran = String::from_utf8_lossy(&array("|u1", "(1,)", &[0])).replace("False", "True ");
        assert!(parse(fortran.as_bytes()).is_err() && parse(b"\x93NUMPY").is_err() && parse(b"").is_err());
    }
}
