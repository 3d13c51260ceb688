//! Images by class: `train/CLASS/*.png`, `.jpg` or `.webp`, and `test/` or `val/` beside it.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageReader};
use rayon::prelude::*;

use super::dataset::Dataset;
use super::split::{ImageShape, Split};
use crate::error::DataError;
use crate::observer::Observer;

const TRAIN: &str = "train";
const TEST: [&str; 2] = ["test", "val"];
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// Classes that a data set may have.
const CLASSES: RangeInclusive<usize> = 2..=1 << 16;
/// Images that are decoded between two reports.
const CHUNK: usize = 256;

/// An image of a class.
struct Labelled {
    path: PathBuf,
    label: u16,
}

/// Whether a folder holds images by class.
pub(super) fn is_folder(folder: &Path) -> bool {
    folder.join(TRAIN).is_dir()
}

/// Reads a folder. Images are cut to the aspect of `size`, height and width, around their middle, and scaled to it; without a size, all have
/// one already. `channels` are 1 or 3; without them, 1 where all training images are gray.
///
/// # Errors
/// No classes, an image that cannot be decoded, images of several sizes without a `size`.
pub(super) fn load(
    folder: &Path,
    size: Option<[usize; 2]>,
    channels: Option<usize>,
    observer: &dyn Observer,
) -> Result<Dataset, DataError> {
    let train = folder.join(TRAIN);
    let classes = class_names(&train)?;
    if !CLASSES.contains(&classes.len()) {
        let message =
            format!("it has {} folders: a class each, {} to {}", classes.len(), CLASSES.start(), CLASSES.end());
        return Err(DataError::content(&train, message));
    }
    let mut train = labelled(&train, &classes)?;
    let test = TEST.iter().map(|name| folder.join(name)).find(|test| test.is_dir());
    let test = match test {
        Some(test) => labelled(&test, &classes)?,
        None => {
            let test = take_every_fifth(&mut train);
            observer.notice(&format!(
                "{}: there is no {} beside {TRAIN}: every fifth image of a class is for testing, {} of {}",
                folder.display(),
                TEST.join(" or "),
                test.len(),
                test.len() + train.len()
            ));
            test
        }
    };
    let first = train.first().ok_or_else(|| DataError::content(folder, "it has no training images"))?;
    let first = decode(&first.path)?;
    let [height, width] = size.unwrap_or([first.height() as usize, first.width() as usize]);
    let channels = match channels {
        Some(channels) => channels,
        None => channels_of(&train)?,
    };
    let shape = ImageShape { channels, height, width };
    let read = |images: &[Labelled], what: &str| read(images, shape, size.is_some(), what, observer);
    let (train, test) = (read(&train, "training images")?, read(&test, "test images")?);
    let name = folder.display().to_string();
    Ok(Dataset { name, classes, train, validation: Split { shape, ..Split::default() }, test })
}

/// Names of the folders in a folder, sorted.
fn class_names(folder: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for path in entries(folder)?.into_iter().filter(|path| path.is_dir()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.extend((!name.starts_with('.')).then_some(name));
    }
    Ok(names)
}

/// What a folder holds, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = fs::read_dir(folder).map_err(DataError::io(folder))?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>().map_err(DataError::io(folder))?;
    paths.sort();
    Ok(paths)
}

/// The images of all classes, class by class.
fn labelled(folder: &Path, classes: &[String]) -> Result<Vec<Labelled>, DataError> {
    if let Some(other) = class_names(folder)?.iter().find(|name| !classes.contains(name)) {
        return Err(DataError::content(folder, format!("class `{other}` has no training images")));
    }
    let mut images = Vec::new();
    for (label, class) in (0..).zip(classes) {
        let folder = folder.join(class);
        let paths = if folder.is_dir() { entries(&folder)? } else { Vec::new() };
        let is_image = |path: &PathBuf| {
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending))
        };
        images.extend(paths.into_iter().filter(is_image).map(|path| Labelled { path, label }));
    }
    Ok(images)
}

/// Takes every fifth image of each class out.
fn take_every_fifth(images: &mut Vec<Labelled>) -> Vec<Labelled> {
    let (mut kept, mut taken) = (Vec::new(), Vec::new());
    let mut class = (0, 0);
    for image in images.drain(..) {
        if class.0 != image.label {
            class = (image.label, 0);
        }
        class.1 += 1;
        if class.1 % 5 == 0 { taken.push(image) } else { kept.push(image) }
    }
    *images = kept;
    taken
}

fn decode(path: &Path) -> Result<DynamicImage, DataError> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(DataError::io(path))?;
    reader.decode().map_err(|error| DataError::content(path, format!("not a readable image ({error})")))
}

/// 1 where all images are gray.
fn channels_of(images: &[Labelled]) -> Result<usize, DataError> {
    let is_color = |image: &Labelled| decode(&image.path).map(|image| image.color().has_color());
    let found = images.par_iter().map(is_color).find_any(|color| !matches!(color, Ok(false)));
    Ok(if found.unwrap_or(Ok(false))? { 3 } else { 1 })
}

fn read(
    images: &[Labelled],
    shape: ImageShape,
    scales: bool,
    what: &str,
    observer: &dyn Observer,
) -> Result<Split, DataError> {
    let mut split = Split { shape, images: vec![0; images.len() * shape.len()], labels: Vec::new() };
    observer.begins(&format!("decoding {what}"), images.len(), 0);
    let chunks = split.images.chunks_mut(CHUNK * shape.len()).zip(images.chunks(CHUNK));
    for (number, (bytes, images)) in chunks.enumerate() {
        let places = bytes.par_chunks_exact_mut(shape.len()).zip(images);
        let decoded = places.try_for_each(|(bytes, image)| fill(bytes, &image.path, shape, scales));
        if decoded.is_err() {
            observer.ends(None);
        }
        decoded?;
        observer.advances(number * CHUNK + images.len(), &String::new);
    }
    observer.ends(None);
    split.labels = images.iter().map(|image| image.label).collect();
    Ok(split)
}

/// Writes an image's bytes, channel by channel.
fn fill(bytes: &mut [u8], path: &Path, shape: ImageShape, scales: bool) -> Result<(), DataError> {
    let ImageShape { channels, height, width } = shape;
    let mut image = decode(path)?;
    if scales {
        image = scaled(&image, [height, width]);
    }
    let found = [image.height() as usize, image.width() as usize];
    if found != [height, width] {
        let message = format!(
            "it has {}x{} pixels, the first image {height}x{width}: say image_size = [HEIGHT, WIDTH] in the recipe",
            found[0], found[1]
        );
        return Err(DataError::content(path, message));
    }
    let pixels = if channels == 1 { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() };
    for (channel, plane) in bytes.chunks_exact_mut(height * width).enumerate() {
        plane.iter_mut().zip(pixels[channel..].iter().step_by(channels)).for_each(|(byte, pixel)| *byte = *pixel);
    }
    Ok(())
}

/// The largest part around the middle that has the aspect of a size, scaled to it.
fn scaled(image: &DynamicImage, [height, width]: [usize; 2]) -> DynamicImage {
    let (found_width, found_height) = (u64::from(image.width()), u64::from(image.height()));
    let (height, width) = (height as u64, width as u64);
    let part_width = (found_height * width / height).clamp(1, found_width);
    let part_height = (found_width * height / width).clamp(1, found_height);
    let (left, top) = ((found_width - part_width) / 2, (found_height - part_height) / 2);
    let part = image.crop_imm(left as u32, top as u32, part_width as u32, part_height as u32);
    if (part_width, part_height) == (width, height) {
        return part;
    }
    // The triangle filter, whose support grows with the scale: what PyTorch calls antialiased bilinear.
    match part {
        DynamicImage::ImageLuma8(part) => {
            DynamicImage::ImageLuma8(imageops::resize(&part, width as u32, height as u32, FilterType::Triangle))
        }
        part => DynamicImage::ImageRgb8(imageops::resize(
            &part.into_rgb8(),
            width as u32,
            height as u32,
            FilterType::Triangle,
        )),
    }
}
