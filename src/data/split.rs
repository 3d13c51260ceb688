//! Images with their labels.

use sha2::{Digest, Sha256};

/// Sizes of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageShape {
    /// Channels: 3 for colors, 1 for gray.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Pixels a row.
    pub width: usize,
}

impl ImageShape {
    /// Bytes of an image.
    pub const fn len(&self) -> usize {
        self.channels * self.pixels()
    }

    /// Pixels of one channel.
    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// True for an image without pixels.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Half of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Sizes of each image.
    pub shape: ImageShape,
    /// Pixels `[n][channels][height][width]`.
    pub images: Vec<u8>,
    /// One class an image.
    pub labels: Vec<u16>,
}

impl Split {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True without images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels `[channels][height][width]` of one image.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn image(&self, index: usize) -> &[u8] {
        &self.images[index * self.shape.len()..][..self.shape.len()]
    }

    /// Share of right predictions in percent; images beyond the predictions don't count.
    pub fn accuracy(&self, predictions: &[u16]) -> f64 {
        let right = predictions.iter().zip(&self.labels).filter(|(prediction, label)| prediction == label).count();
        100.0 * right as f64 / predictions.len() as f64
    }

    /// SHA-256 over all images, then all labels, in hexadecimal: tells whether two measurements used the same images. A label is one byte, or two
    /// where any is above 255, the low one first.
    pub fn sha256(&self) -> String {
        let bytes = if self.labels.iter().all(|label| *label < 256) { 1 } else { 2 };
        let labels: Vec<u8> =
            self.labels.iter().flat_map(|label| label.to_le_bytes().into_iter().take(bytes)).collect();
        let digest = Sha256::new().chain_update(&self.images).chain_update(labels).finalize();
        format!("{digest:x}")
    }
}
