//! A data set out of arrays: images as bytes, labels as whole numbers.

use std::cmp::Ordering;
use std::io::Read;
use std::path::Path;

use super::dataset::Dataset;
use super::split::{ImageShape, Split, divided, interleaved};
use crate::error::DataError;
use crate::observer::Observer;
use crate::system::available_memory;

/// An array of a file.
pub(super) enum Numbers {
    Bytes { shape: Vec<usize>, values: Vec<u8> },
    Integers { shape: Vec<usize>, values: Vec<i64> },
}

/// Most bytes of an array.
const MAX_BYTES: u64 = 1 << 32;

/// So many bytes, and no more, that a reader gives; its header has said how many.
///
/// # Errors
/// More than an array can have, or than the memory; a reader that ends before or goes on.
pub(super) fn exactly(bytes: Option<u64>, reader: &mut impl Read) -> Result<Vec<u8>, String> {
    let most = available_memory().unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let bytes = bytes.filter(|bytes| *bytes <= most).ok_or_else(|| {
        format!("it has more than {:.1} GiB, the most that an array may have here", most as f64 / (1u64 << 30) as f64)
    })?;
    let mut values = Vec::new();
    reader.take(bytes + 1).read_to_end(&mut values).map_err(|error| error.to_string())?;
    match (values.len() as u64).cmp(&bytes) {
        Ordering::Equal => Ok(values),
        Ordering::Less => Err("it is cut off".into()),
        Ordering::Greater => Err("it goes on behind its last value".into()),
    }
}

/// The data set of images and labels for training, and for testing; without the latter, of every class every fifth training image. `known` are the classes
/// of a package that is to be tested.
///
/// # Errors
/// Images that aren't bytes `[n, height, width]`, `[n, height, width, channels]` or `[n, channels, height, width]` with one or three
/// channels; labels of another number, or beyond 65,535.
pub(super) fn dataset(
    path: &Path,
    train: [Numbers; 2],
    test: Option<[Numbers; 2]>,
    known: Option<&[String]>,
    observer: &dyn Observer,
) -> Result<Dataset, DataError> {
    let read = |numbers| split(numbers).map_err(|message| DataError::content(path, message));
    let in_order = |split: &Split, order: &[usize]| split.in_order(order).map_err(DataError::io(path));
    let train = read(train)?;
    let (train, test) = match test {
        Some(test) => (train, read(test)?),
        None => {
            let (for_training, for_testing) = divided(&train.labels);
            observer.notice(&format!(
                "{}: it has no test images: every fifth image of a class is for testing, {} of {}",
                path.display(),
                for_testing.len(),
                train.len()
            ));
            (in_order(&train, &for_training)?, in_order(&train, &for_testing)?)
        }
    };
    if test.is_empty() {
        let message = "it says no test images, and no class has five images of which one would be for testing";
        return Err(DataError::content(path, message));
    }
    if train.shape != test.shape {
        return Err(DataError::content(path, "training and test images must have the same size"));
    }
    // Arrays may be sorted by class; whoever takes the first images is to see all of them.
    let spread = |split: Split| match split.labels.is_sorted() {
        true => in_order(&split, &interleaved(&split.labels)),
        false => Ok(split),
    };
    let (train, test) = (spread(train)?, spread(test)?);
    let classes = 1 + train.labels.iter().chain(&test.labels).max().map_or(0, |label| usize::from(*label));
    // A package's last classes may have no images here.
    let classes = known.map_or(classes, |known| known.len().max(classes));
    let mut trained = vec![false; classes];
    train.labels.iter().for_each(|label| trained[usize::from(*label)] = true);
    if let Some(class) = test.labels.iter().find(|label| !trained[usize::from(**label)]) {
        return Err(DataError::content(path, format!("class {class} has test images and no training images")));
    }
    let absent = trained.iter().filter(|trained| !**trained).count();
    if absent > 0 {
        let message = format!("{}: {absent} of {classes} classes have no images: labels count from 0", path.display());
        observer.notice(&message);
    }
    Ok(Dataset {
        name: path.display().to_string(),
        classes: (0..classes).map(|class| class.to_string()).collect(),
        validation: Split { shape: train.shape, ..Split::default() },
        train,
        test,
    })
}

fn split([images, labels]: [Numbers; 2]) -> Result<Split, String> {
    let Numbers::Bytes { shape, values } = images else {
        return Err("its images must be bytes from 0 to 255 (uint8)".into());
    };
    // Without values, sizes say nothing, and their product may be beyond any number.
    if values.is_empty() {
        let what = if shape.first() == Some(&0) { "it has no images" } else { "its images have no pixels" };
        return Err(what.into());
    }
    let (shape, channels_last) = match shape[..] {
        [_, height, width] => (ImageShape { channels: 1, height, width }, false),
        [_, height, width, channels @ (1 | 3)] => (ImageShape { channels, height, width }, true),
        [_, channels @ (1 | 3), height, width] => (ImageShape { channels, height, width }, false),
        _ => return Err(format!("its images have shape {shape:?}: say [n, height, width] and one or three channels")),
    };
    let images = if channels_last { channels_first(&values, shape)? } else { values };
    let count = images.len() / shape.len();
    let (shape_of_labels, labels): (_, Vec<i64>) = match labels {
        Numbers::Bytes { shape, values } => (shape, values.into_iter().map(i64::from).collect()),
        Numbers::Integers { shape, values } => (shape, values),
    };
    if labels.len() != count {
        return Err(format!("it has {count} images and labels of shape {shape_of_labels:?}"));
    }
    let labels = labels.into_iter().map(|label| u16::try_from(label).map_err(|_| label)).collect::<Result<_, _>>();
    let labels = labels.map_err(|label| format!("label {label} is not from 0 to 65535"))?;
    Ok(Split { shape, images: images.into(), labels })
}

fn channels_first(values: &[u8], shape: ImageShape) -> Result<Vec<u8>, String> {
    if available_memory().is_some_and(|free| free < values.len() as u64) {
        let gib = values.len() as f64 / (1u64 << 30) as f64;
        return Err(format!(
            "its channels come last; to turn it takes {gib:.1} GiB more, which the memory hasn't: save them first"
        ));
    }
    let mut images = Vec::with_capacity(values.len());
    values.chunks(shape.len()).for_each(|image| shape.extend_channels_first(&mut images, image));
    Ok(images)
}
