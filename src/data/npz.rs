//! NumPy's `.npz` files with arrays of images and labels.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use zip::ZipArchive;

use super::arrays::{Numbers, dataset, exactly};
use super::dataset::Dataset;
use crate::error::DataError;
use crate::observer::Observer;

/// What arrays of training images and labels are called, and what those for testing, the first of which are used that are there.
const NAMES: [([&str; 2], [[&str; 2]; 2]); 3] = [
    (["x_train", "y_train"], [["x_test", "y_test"], ["x_val", "y_val"]]),
    (["train_images", "train_labels"], TESTS),
    (["images", "labels"], TESTS),
];
const TESTS: [[&str; 2]; 2] = [["test_images", "test_labels"], ["val_images", "val_labels"]];
/// Most bytes of an array's header; numpy's own has 128.
const MAX_HEADER: usize = 1 << 16;
const CUT: &str = "not a NumPy array, or cut off";

/// Reads a file.
///
/// # Errors
/// Another kind of file, other arrays, or arrays that are no images and labels.
pub(super) fn load(path: &Path, known: Option<&[String]>, observer: &dyn Observer) -> Result<Dataset, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    let wrong = |message: String| DataError::content(path, message);
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|error| wrong(format!("not a readable .npz file ({error})")))?;
    let mut arrays: Vec<String> =
        archive.file_names().filter_map(|name| Some(name.ok()?.strip_suffix(".npy")?.to_owned())).collect();
    arrays.sort();
    let holds = |name: &str| arrays.iter().any(|array| array == name);
    let Some((train, tests)) = NAMES.iter().find(|(train, _)| train.iter().all(|name| holds(name))) else {
        let known = NAMES.map(|([images, labels], _)| format!("`{images}` and `{labels}`")).join(", or ");
        return Err(wrong(format!("its arrays must be called {known}")));
    };
    let [testing, validation] = tests;
    let is_there = testing.iter().any(|name| holds(name));
    let test =
        if is_there { Some(testing) } else { Some(validation).filter(|pair| pair.iter().all(|name| holds(name))) };
    let is_read = |array: &str| train.contains(&array) || test.is_some_and(|test| test.contains(&array));
    let aside: Vec<&str> = arrays.iter().map(String::as_str).filter(|array| !is_read(array)).collect();
    if !aside.is_empty() {
        observer.notice(&format!("{}: left aside: {}", path.display(), aside.join(", ")));
    }
    let mut read = |name: &str| read(&mut archive, name).map_err(|message| wrong(format!("`{name}`: {message}")));
    let mut pair = |[images, labels]: &[&str; 2]| Ok([read(images)?, read(labels)?]);
    dataset(path, pair(train)?, test.map(pair).transpose()?, known, observer)
}

fn read(archive: &mut ZipArchive<BufReader<File>>, name: &str) -> Result<Numbers, String> {
    let mut entry = archive.by_name(&format!("{name}.npy")).map_err(|error| error.to_string())?;
    parse(&mut entry)
}

/// An array as `numpy.save` writes it: a magic, a version, the length of a dictionary of Python's, the dictionary, the values.
fn parse(reader: &mut impl Read) -> Result<Numbers, String> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|_| CUT)?;
    let Some([major, _]) = start.strip_prefix(b"\x93NUMPY") else { return Err(CUT.into()) };
    let mut length = [0; 4];
    let digits = if *major == 1 { 2 } else { 4 };
    reader.read_exact(&mut length[..digits]).map_err(|_| CUT)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(CUT.into());
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header).map_err(|_| CUT)?;
    let header = std::str::from_utf8(&header).map_err(|_| CUT)?;
    let value = |key: &str| {
        let (_, after) = header.split_once(&format!("'{key}':"))?;
        Some(after.trim_start())
    };
    if value("fortran_order").is_none_or(|value| !value.starts_with("False")) {
        return Err("it lies in Fortran's order: save numpy.ascontiguousarray of it".into());
    }
    let kind = value("descr").and_then(|value| value.strip_prefix('\'')?.split('\'').next()).ok_or(CUT)?;
    let sizes = value("shape").and_then(|value| value.strip_prefix('(')?.split(')').next()).ok_or(CUT)?;
    let sizes = sizes.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape = sizes.map(str::parse).collect::<Result<Vec<usize>, _>>().map_err(|_| CUT)?;
    let (order, kind) = kind.split_at_checked(1).ok_or(CUT)?;
    let width: usize = match kind {
        "u1" | "i1" => 1,
        "u2" | "i2" => 2,
        "u4" | "i4" => 4,
        "u8" | "i8" => 8,
        _ => return Err(format!("it holds {order}{kind}, not whole numbers: images are uint8, labels any integers")),
    };
    let bytes = shape.iter().try_fold(width as u64, |product, size| product.checked_mul(*size as u64));
    let values = exactly(bytes, reader)?;
    if kind == "u1" {
        return Ok(Numbers::Bytes { shape, values });
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
        let integers = |kind, values: &[u8]| match parse(&mut &*array(kind, "(2,)", values)) {
            Ok(Numbers::Integers { shape, values }) => (shape, values),
            _ => panic!("{kind}"),
        };
        assert_eq!(integers("<i2", &[1, 0, 255, 255]), (vec![2], vec![1, -1]));
        assert_eq!(integers(">u2", &[1, 0, 0, 2]), (vec![2], vec![256, 2]));
        assert_eq!(integers("|i1", &[1, 254]), (vec![2], vec![1, -2]));
        assert_eq!(integers("<i8", &[3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]), (vec![2], vec![3, 4]));
        assert!(
            matches!(parse(&mut &*array("|u1", "(1, 2)", &[5, 6])), Ok(Numbers::Bytes { shape, .. }) if shape == [1, 2])
        );
    }

    #[test]
    fn other_arrays_are_refused() {
        for (kind, shape, part) in [
            ("<f4", "(2,)", "holds <f4"),
            ("|u1", "(9,)", "cut off"),
            ("|u1", "(7,)", "goes on behind its last value"),
            ("|u1", "(9223372036854775807, 4)", "more than"),
            ("<i8", "(4294967296,)", "more than"),
            ("|u1", "(x,)", "cut off"),
            ("", "(8,)", "cut off"),
            ("\u{e9}4", "(2,)", "cut off"),
        ] {
            let error = parse(&mut &*array(kind, shape, &[0; 8])).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
        let fortran = String::from_utf8_lossy(&array("|u1", "(1,)", &[0])).replace("False", "True ");
        for wrong in [fortran.as_bytes(), b"\x93NUMPY", b"", b"\x93NUMPY\x02\0\xff\xff\xff\xff"] {
            assert!(parse(&mut &*wrong).is_err());
        }
    }
}
