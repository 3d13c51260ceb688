//! Images with their labels.

use std::io::Result;

use sha2::{Digest, Sha256};

use super::pixels::Pixels;

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
    /// Appends an image `[height][width][channels]` as `[channels][height][width]`.
    pub(crate) fn extend_channels_first(&self, images: &mut Vec<u8>, image: &[u8]) {
        (0..self.channels).for_each(|channel| images.extend(image[channel..].iter().step_by(self.channels)));
    }

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
    pub images: Pixels,
    /// One class an image.
    pub labels: Vec<u16>,
}

/// An order of images in which each class is spread evenly: whoever takes the first ones sees all classes as they are. Within a class images keep
/// their order.
pub(super) fn interleaved(labels: &[u16]) -> Vec<usize> {
    let mut counts = vec![0usize; 1 << 16];
    let within: Vec<usize> = labels
        .iter()
        .map(|label| {
            counts[usize::from(*label)] += 1;
            counts[usize::from(*label)]
        })
        .collect();
    let place = |index: &usize| {
        let label = labels[*index];
        // The middle of its share of the class.
        ((2 * within[*index] - 1) as f64 / counts[usize::from(label)] as f64, label)
    };
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|a, b| place(a).0.total_cmp(&place(b).0).then(place(a).1.cmp(&place(b).1)));
    order
}

/// Every image out of so many of a class is for testing, where nobody says which ones are.
const TEST_SHARE: usize = 5;

/// Numbers of the images for training, and of those for testing: of each class every fifth one.
pub(super) fn divided(labels: &[u16]) -> (Vec<usize>, Vec<usize>) {
    let mut counts = vec![0usize; 1 << 16];
    (0..labels.len()).partition(|index| {
        let count = &mut counts[usize::from(labels[*index])];
        *count += 1;
        !count.is_multiple_of(TEST_SHARE)
    })
}

impl Split {
    /// The images of these numbers, in their order.
    ///
    /// # Errors
    /// They don't fit the memory, or the disk where these images lie.
    pub(super) fn in_order(&self, order: &[usize]) -> Result<Self> {
        let images = order.iter().map(|index| self.image(*index));
        Ok(Self {
            shape: self.shape,
            images: self.images.gathered(images, order.len() * self.shape.len())?,
            labels: order.iter().map(|index| self.labels[*index]).collect(),
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_images_are_of_all_classes() {
        let labels = [vec![0u16; 100], vec![1; 50], vec![2; 10]].concat();
        let order = interleaved(&labels);
        let first: Vec<u16> = order[..16].iter().map(|index| labels[*index]).collect();
        let count = |class: u16| first.iter().filter(|label| **label == class).count();
        assert_eq!([count(0), count(1), count(2)], [10, 5, 1]);
        for class in 0..3 {
            assert!(order.iter().filter(|index| labels[**index] == class).is_sorted(), "a class keeps its order");
        }
        assert_eq!(interleaved(&[]), [0; 0]);
    }
}
