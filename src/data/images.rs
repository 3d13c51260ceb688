//! Images by class: `train/CLASS/*.png`, `.jpg` or `.webp`, and `test/` or `val/` beside it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read, Seek};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};
use rayon::prelude::*;

use super::dataset::Dataset;
use super::pixels::PixelsWriter;
use super::split::{ImageShape, Split, divided, interleaved};
use crate::error::DataError;
use crate::observer::{Observer, Work};
use crate::system::{available_memory, free_disk};

const TRAIN: &str = "train";
const TEST: [&str; 2] = ["test", "val"];
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// Classes that a data set may have.
const CLASSES: RangeInclusive<usize> = 2..=1 << 16;
/// Sides that images may be scaled to, in pixels.
const SIDES: RangeInclusive<usize> = 1..=1 << 14;
/// Most bytes of a decoded image, 44 million colored pixels: each thread decodes one.
const MAX_DECODED: u64 = 1 << 27;
/// Images that are decoded between two reports, at most, and the bytes that they may take together; one image may always.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 26;

/// An image of a class.
#[derive(Clone)]
struct Labelled {
    path: PathBuf,
    label: u16,
}

/// Whether a folder holds images by class; where `classes` are known, test images are enough.
pub(super) fn is_folder(folder: &Path, classes: Option<&[String]>) -> bool {
    folder.join(TRAIN).is_dir() || classes.is_some() && test_folder(folder).is_some()
}

fn test_folder(folder: &Path) -> Option<PathBuf> {
    TEST.iter().map(|name| folder.join(name)).find(|test| test.is_dir())
}

/// How the images of a folder are read.
pub(super) struct ImageOptions<'a> {
    /// Height and width to whose aspect images are cut, around their middle, and to which they are scaled; without it, all have one already.
    pub size: Option<[usize; 2]>,
    /// 1 or 3; without them, 1 where all training images are gray.
    pub channels: Option<usize>,
    /// Names of the classes; without them, those of the training images, which are read with them.
    pub classes: Option<&'a [String]>,
    /// Bytes of decoded images that may lie in memory; without it, half of what programs can still have.
    pub memory: Option<u64>,
    /// Folder in which they lie where they are more.
    pub disk: &'a Path,
}

/// Reads a folder.
///
/// # Errors
/// No classes, a class or a split without images, an image that cannot be decoded, images of several sizes without a `size`, a size out of range,
/// no room for the decoded images.
pub(super) fn load(folder: &Path, options: &ImageOptions, observer: &dyn Observer) -> Result<Dataset, DataError> {
    check_options(folder, options)?;
    let test = test_folder(folder);
    let (classes, splits) = match (options.classes, test) {
        (Some(classes), Some(test)) => {
            (classes.to_vec(), [Vec::new(), labelled(&test, classes, "is none of the package's classes", observer)?])
        }
        (Some(_) | None, test) => with_training_images(folder, test, observer)?,
    };
    // Whoever takes the first images is to see all classes.
    let [train, test] = splits.map(|images| in_order(&images, interleaved(&labels(&images))));
    if test.is_empty() {
        let message = format!("it has no test images: put some into {}/CLASS beside {TRAIN}", TEST[0]);
        return Err(DataError::content(folder, message));
    }
    let ImageOptions { size, channels, .. } = *options;
    let first = train.first().or(test.first()).expect("there are test images");
    let first = decode(&first.path)?;
    let [height, width] = size.unwrap_or([first.height() as usize, first.width() as usize]);
    let channels = match channels {
        Some(channels) => channels,
        None => channels_of(if train.is_empty() { &test } else { &train })?,
    };
    let shape = ImageShape { channels, height, width };
    let bytes = (train.len() + test.len()) as u64 * shape.len() as u64;
    let disk = disk(folder, bytes, options, observer)?;
    let read = |images: &[Labelled], what: &str| {
        let work = Work::begin(observer, &format!("decoding {what} images"), images.len());
        read(images, shape, size.is_some(), disk, &work)
    };
    let (train, test) = (read(&train, "training")?, read(&test, "test")?);
    let name = folder.display().to_string();
    Ok(Dataset { name, classes, train, validation: Split { shape, ..Split::default() }, test })
}

fn check_options(folder: &Path, options: &ImageOptions) -> Result<(), DataError> {
    let ImageOptions { size, channels, .. } = *options;
    if let Some(size) = size.filter(|size| !size.iter().all(|side| SIDES.contains(side))) {
        let message = format!("image_size = {size:?}: sides are from {} to {} pixels", SIDES.start(), SIDES.end());
        return Err(DataError::content(folder, message));
    }
    if let Some(channels) = channels.filter(|channels| ![1, 3].contains(channels)) {
        let message = format!("its images have 1 or 3 channels, and {channels} are asked for");
        return Err(DataError::content(folder, message));
    }
    Ok(())
}

/// The classes of the training images, and the images for training and for testing.
fn with_training_images(
    folder: &Path,
    test: Option<PathBuf>,
    observer: &dyn Observer,
) -> Result<(Vec<String>, [Vec<Labelled>; 2]), DataError> {
    let train = folder.join(TRAIN);
    let classes = class_names(&train)?;
    if !CLASSES.contains(&classes.len()) {
        let message = format!(
            "each of its folders is a class: it has {}, of {} to {}",
            classes.len(),
            CLASSES.start(),
            CLASSES.end()
        );
        return Err(DataError::content(&train, message));
    }
    let train = labelled(&train, &classes, NOT_TRAINED, observer)?;
    let [train, test] = match test {
        Some(test) => [train, labelled(&test, &classes, NOT_TRAINED, observer)?],
        None => {
            let (for_training, for_testing) = divided(&labels(&train));
            let [train, test] = [for_training, for_testing].map(|order| in_order(&train, order));
            observer.notice(&format!(
                "{}: there is no {} beside {TRAIN}: every fifth image of a class is for testing, {} of {}",
                folder.display(),
                TEST.join(" or "),
                test.len(),
                test.len() + train.len()
            ));
            [train, test]
        }
    };
    check_train(folder, &classes, &train)?;
    Ok((classes, [train, test]))
}

fn labels(images: &[Labelled]) -> Vec<u16> {
    images.iter().map(|image| image.label).collect()
}

/// Each class has training images.
fn check_train(folder: &Path, classes: &[String], train: &[Labelled]) -> Result<(), DataError> {
    let mut seen = vec![false; classes.len()];
    train.iter().for_each(|image| seen[usize::from(image.label)] = true);
    if let Some((_, class)) = seen.iter().zip(classes).find(|(seen, _)| !**seen) {
        let message = format!("class `{class}` has no training images: .{} are read", ENDINGS.join(", ."));
        return Err(DataError::content(folder, message));
    }
    Ok(())
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

/// The images in an order of their numbers.
fn in_order(images: &[Labelled], order: Vec<usize>) -> Vec<Labelled> {
    order.into_iter().map(|index| images[index].clone()).collect()
}

/// What is wrong with a class of test images alone.
const NOT_TRAINED: &str = "has no training images";

/// The images of all classes, class by class; of another class is said that it `is_unknown`.
fn labelled(
    folder: &Path,
    classes: &[String],
    is_unknown: &str,
    observer: &dyn Observer,
) -> Result<Vec<Labelled>, DataError> {
    if let Some(other) = class_names(folder)?.iter().find(|name| !classes.contains(name)) {
        return Err(DataError::content(folder, format!("class `{other}` {is_unknown}")));
    }
    let (mut images, mut others) = (Vec::new(), 0);
    for (label, class) in (0..).zip(classes) {
        let folder = folder.join(class);
        let paths = if folder.is_dir() { entries(&folder)? } else { Vec::new() };
        let is_image = |path: &PathBuf| {
            // Some systems leave files beside the images, which are named like them but for the dot.
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            !is_hidden && ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending))
        };
        let (own, other): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(is_image);
        others += other.len();
        images.extend(own.into_iter().map(|path| Labelled { path, label }));
    }
    if others > 0 {
        observer.notice(&format!(
            "{}: left aside of the files and folders of its classes: {others}; only .{} are read",
            folder.display(),
            ENDINGS.join(", .")
        ));
    }
    Ok(images)
}

fn reader<R: BufRead + Seek>(path: &Path, file: R) -> Result<ImageReader<R>, DataError> {
    let mut reader = ImageReader::new(file).with_guessed_format().map_err(DataError::io(path))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits);
    Ok(reader)
}

fn unreadable(path: &Path) -> impl Fn(ImageError) -> DataError {
    move |error| {
        let message = match error {
            ImageError::Limits(_) => format!("it takes more than {} MiB decoded: make it smaller", MAX_DECODED >> 20),
            error => format!("not a readable image ({error})"),
        };
        DataError::content(path, message)
    }
}

fn decode(path: &Path) -> Result<DynamicImage, DataError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(DataError::io(path))?;
    if file.take(MAX_DECODED + 1).read_to_end(&mut bytes).map_err(DataError::io(path))? as u64 > MAX_DECODED {
        let message = format!("it has more than {} MiB: make it smaller", MAX_DECODED >> 20);
        return Err(DataError::content(path, message));
    }
    if is_cut_off(&bytes) {
        return Err(DataError::content(
            path,
            "not a readable image (it is cut off, or lacks the mark of its end): write it anew with a program that shows it whole",
        ));
    }
    reader(path, Cursor::new(bytes))?.decode().map_err(unreadable(path))
}

/// Whether no end-of-image marker comes behind the pixels of a JPEG file: of one that is cut off the decoder would make up the rest. A preview among its segments has a
/// marker of its own (ITU-T T.81, annex B).
fn is_cut_off(bytes: &[u8]) -> bool {
    let Some(mut rest) = bytes.strip_prefix(b"\xff\xd8") else { return false };
    loop {
        rest = match rest {
            // Fill bytes may come before a marker.
            [0xff, 0xff, ..] => &rest[1..],
            // The pixels begin.
            [0xff, 0xda, pixels @ ..] => return !pixels.windows(2).any(|marker| marker == b"\xff\xd9"),
            [0xff, _, high, low, ..] => match rest.get(2 + usize::from(u16::from_be_bytes([*high, *low]))..) {
                Some(behind) => behind,
                None => return true,
            },
            // No segment: the decoder says what is wrong.
            [_, _, ..] => return false,
            _ => return true,
        };
    }
}

/// 1 where all images are gray, as their headers say.
fn channels_of(images: &[Labelled]) -> Result<usize, DataError> {
    let is_color = |image: &Labelled| {
        let file = File::open(&image.path).map_err(DataError::io(&image.path))?;
        let decoder = reader(&image.path, BufReader::new(file))?.into_decoder().map_err(unreadable(&image.path))?;
        Ok(decoder.color_type().has_color())
    };
    let found = images.par_iter().map(is_color).find_first(|color| !matches!(color, Ok(false)));
    Ok(if found.unwrap_or(Ok(false))? { 3 } else { 1 })
}

/// The folder in which so many bytes of decoded images of a data set lie, where they are too many for the memory. It needs room for them twice: those that
/// are held out are a copy, beside one of the rest.
fn disk<'a>(
    dataset: &Path,
    bytes: u64,
    options: &ImageOptions<'a>,
    observer: &dyn Observer,
) -> Result<Option<&'a Path>, DataError> {
    let memory = options.memory.or_else(|| available_memory().map(|bytes| bytes / 2));
    let Some(memory) = memory.filter(|memory| bytes > *memory) else { return Ok(None) };
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    let needs =
        format!("decoded images take {}, more than the {} of memory that they may have", gib(bytes), gib(memory));
    if let Some(free) = free_disk(options.disk).filter(|free| *free < 2 * bytes) {
        let disk = options.disk.display();
        let message = format!(
            "{needs}, twice that on disk, and {disk} has {} free: say --data-dir FOLDER on a larger disk",
            gib(free)
        );
        return Err(DataError::content(dataset, message));
    }
    observer.notice(&format!(
        "{}: {needs}: they lie in a file without a name on the disk of {}",
        dataset.display(),
        options.disk.display()
    ));
    Ok(Some(options.disk))
}

/// Decodes images into memory, or into a file of a folder.
fn read(
    images: &[Labelled],
    shape: ImageShape,
    scales: bool,
    disk: Option<&Path>,
    work: &Work,
) -> Result<Split, DataError> {
    let no_room = |error: std::io::Error| match disk {
        Some(folder) => DataError::io(folder)(error),
        None => {
            let bytes = images.len() as f64 * shape.len() as f64 / (1u64 << 30) as f64;
            let message =
                format!("{} images of its size take {bytes:.1} GiB: {error}; say a smaller image_size", images.len());
            DataError::content(&images[0].path, message)
        }
    };
    let mut writer = match disk {
        Some(folder) => PixelsWriter::on_disk(folder),
        None => {
            images.len().checked_mul(shape.len()).ok_or(ErrorKind::OutOfMemory.into()).and_then(PixelsWriter::in_memory)
        }
    }
    .map_err(no_room)?;
    let chunk = (CHUNK_BYTES / shape.len()).clamp(1, CHUNK);
    let mut bytes = vec![0; chunk.min(images.len()) * shape.len()];
    for (number, images) in images.chunks(chunk).enumerate() {
        let bytes = &mut bytes[..images.len() * shape.len()];
        let places = bytes.par_chunks_exact_mut(shape.len()).zip(images);
        places.try_for_each(|(bytes, image)| fill(bytes, &image.path, shape, scales))?;
        writer.write(bytes).map_err(no_room)?;
        work.advances(number * chunk + images.len());
    }
    let labels = images.iter().map(|image| image.label).collect();
    Ok(Split { shape, images: writer.finish().map_err(no_room)?, labels })
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
