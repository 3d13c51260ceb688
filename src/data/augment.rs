//! Augmentation and order of an epoch, drawn from (seed, epoch, sample) alone, so that threads change nothing.

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::split::ImageShape;

/// Random crop out of a border, random horizontal flip and cutout, on raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Augment {
    /// Sizes of the images.
    pub shape: ImageShape,
    /// Border on each side, in pixels; 0 for no crop.
    pub padding: usize,
    /// Flips half of the images.
    pub flip: bool,
    /// Side of a square around a random pixel that is painted over, cut off at the image's edges, in pixels; 0 for none (DeVries and
    /// Taylor, *Improved regularization of convolutional neural networks with cutout*, 2017).
    pub cutout: usize,
    /// What the border and the square hold for each channel: the zero points.
    pub border: Vec<u8>,
}

/// What a stream of random numbers is for; each purpose has its own.
#[derive(Clone, Copy)]
enum Purpose {
    Order,
    Augment,
    HoldOut,
}

/// Random numbers of one purpose in one epoch.
fn stream(seed: u64, epoch: u64, purpose: Purpose) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&epoch.to_le_bytes());
    key[16] = purpose as u8;
    ChaCha8Rng::from_seed(key)
}

impl Augment {
    /// Writes a crop of `image` to `out`, both `[channels][height][width]`; `sample` is the image's index in its split.
    ///
    /// # Panics
    /// If either isn't one image.
    pub fn apply(&self, image: &[u8], out: &mut [u8], seed: u64, epoch: u64, sample: u64) {
        let ImageShape { height, width, .. } = self.shape;
        assert_eq!([image.len(), out.len()], [self.shape.len(); 2]);
        let mut random = stream(seed, epoch, Purpose::Augment);
        random.set_block_pos(sample);
        let top = random.random_range(0..=2 * self.padding as u32) as usize;
        let left = random.random_range(0..=2 * self.padding as u32) as usize;
        let flip = self.flip && random.random();

        // Columns of the crop that lie within the image; the rest is border.
        let first = self.padding.saturating_sub(left).min(width);
        let end = (width + self.padding).saturating_sub(left).min(width).max(first);
        for (line, out) in out.chunks_exact_mut(width).enumerate() {
            let (channel, y) = (line / height, line % height);
            out.fill(self.border[channel]);
            let Some(y) = (y + top).checked_sub(self.padding).filter(|&y| y < height) else {
                continue;
            };
            let source = (channel * height + y) * width;
            if first < end {
                let x = first + left - self.padding;
                out[first..end].copy_from_slice(&image[source + x..][..end - first]);
            }
            if flip {
                out.reverse();
            }
        }
        if self.cutout > 0 {
            let mut within = |side: usize| {
                let middle = random.random_range(0..side as u32) as usize;
                let first = middle.saturating_sub(self.cutout / 2);
                first..(middle + self.cutout - self.cutout / 2).min(side)
            };
            let (rows, columns) = (within(height), within(width));
            for (line, out) in
                out.chunks_exact_mut(width).enumerate().filter(|(line, _)| rows.contains(&(line % height)))
            {
                out[columns.clone()].fill(self.border[line / height]);
            }
        }
    }
}

/// Training images in the order in which they are held out.
pub(super) fn held_out_order(images: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    order.shuffle(&mut stream(seed, 0, Purpose::HoldOut));
    order
}

/// The images of an epoch in random order.
pub fn epoch_order(images: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..images).collect();
    order.shuffle(&mut stream(seed, epoch, Purpose::Order));
    order
}
