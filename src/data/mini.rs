//! `cifar10-mini`: a part of CIFAR-10 that lies in the program, so that the first command works anywhere.
//!
//! `datasets/README.md` says how it was made.

use std::io::Cursor;
use std::path::Path;

use image_webp::WebPDecoder;
use sha2::{Digest, Sha256};

use super::cifar::CIFAR_SHAPE;
use super::dataset::Dataset;
use super::split::{ImageShape, Split};
use crate::error::DataError;

pub(super) const NAME: &str = "cifar10-mini";

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
/// Images in a row of a sheet; an image's class is its column modulo the number of classes.
const COLUMNS: usize = 20;
const TRAIN_IMAGES: usize = 3_000;
const TEST_IMAGES: usize = 800;
/// SHA-256 of all pixels, training then test.
const PIXELS_SHA256: &str = "f07def79aac1d70ac55b4d4ac59db43fcbabf339f7b102e33ece5447735b662e";

const TRAIN_SHEET: &[u8] = include_bytes!("../../datasets/cifar10-mini/train.webp");
const TEST_SHEET: &[u8] = include_bytes!("../../datasets/cifar10-mini/test.webp");

pub(super) fn load() -> Result<Dataset, DataError> {
    let train = decode("train.webp", TRAIN_SHEET, TRAIN_IMAGES)?;
    let test = decode("test.webp", TEST_SHEET, TEST_IMAGES)?;
    let digest = Sha256::new().chain_update(&train.images).chain_update(&test.images).finalize();
    let found = format!("{digest:x}");
    if found != PIXELS_SHA256 {
        return Err(DataError::Checksum {
            path: NAME.into(),
            expected: PIXELS_SHA256.into(),
            found,
            advice: "the program was built from damaged files: check out datasets/cifar10-mini again and rebuild"
                .into(),
        });
    }
    let classes = CLASSES.map(String::from).into();
    Ok(Dataset {
        name: NAME.into(),
        classes,
        train,
        validation: Split { shape: CIFAR_SHAPE, ..Split::default() },
        test,
    })
}

/// The images of a sheet, row by row.
fn decode(name: &str, sheet: &[u8], images: usize) -> Result<Split, DataError> {
    let path = Path::new("datasets").join(NAME).join(name);
    let damaged = |message: String| DataError::Archive { path: path.clone(), message };
    let mut decoder = WebPDecoder::new(Cursor::new(sheet)).map_err(|error| damaged(error.to_string()))?;
    let ImageShape { channels, height: rows, width: side } = CIFAR_SHAPE;
    let size = (COLUMNS * side, images / COLUMNS * rows);
    let (width, height) = decoder.dimensions();
    if (width as usize, height as usize) != size || decoder.has_alpha() {
        let (expected_width, expected_height) = size;
        return Err(damaged(format!(
            "it is an image of {height}x{width}, expected {expected_height}x{expected_width} without alpha"
        )));
    }
    let mut pixels = vec![0; images * CIFAR_SHAPE.len()];
    decoder.read_image(&mut pixels).map_err(|error| damaged(error.to_string()))?;

    let mut planes = Vec::with_capacity(pixels.len());
    for image in 0..images {
        let (row, column) = (image / COLUMNS, image % COLUMNS);
        for color in 0..channels {
            for y in 0..rows {
                let line = ((row * rows + y) * COLUMNS + column) * side * channels;
                let line = &pixels[line..][..side * channels];
                planes.extend(line.iter().skip(color).step_by(channels));
            }
        }
    }
    let labels = (0..images).map(|image| (image % CLASSES.len()) as u16).collect();
    Ok(Split { shape: CIFAR_SHAPE, images: planes.into(), labels })
}
