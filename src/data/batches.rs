//! Batches of images.

use rayon::prelude::*;

use super::augment::{Augment, epoch_order};
use super::split::Split;

/// Images and labels that go through the network together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Pixels `[n][channels][height][width]`.
    pub images: Vec<u8>,
    /// One class an image.
    pub labels: Vec<u16>,
}

/// The images of one pass over a split in their order, and how each is augmented. Batches don't depend on the number of threads.
#[derive(Clone, Debug)]
pub struct EpochOrder {
    order: Vec<usize>,
    augmentation: Option<Augmentation>,
}

#[derive(Clone, Debug)]
struct Augmentation {
    augment: Augment,
    seed: u64,
    epoch: u64,
}

impl EpochOrder {
    /// All images as they are, in the split's order.
    pub fn as_is(images: usize) -> Self {
        Self { order: (0..images).collect(), augmentation: None }
    }

    /// All images augmented, in the order of the epoch.
    pub fn shuffled(images: usize, augment: Augment, seed: u64, epoch: u64) -> Self {
        Self { order: epoch_order(images, seed, epoch), augmentation: Some(Augmentation { augment, seed, epoch }) }
    }

    /// Up to `images` images from the place `first` of the order on.
    ///
    /// # Panics
    /// If `split` has fewer images than the order, or `first` is beyond its end.
    pub fn batch(&self, split: &Split, first: usize, images: usize) -> Batch {
        let samples = &self.order[first..(first + images).min(self.order.len())];
        let bytes = split.shape.len();
        let mut pixels = vec![0; samples.len() * bytes];
        pixels.par_chunks_exact_mut(bytes).zip(samples).for_each(|(out, &sample)| self.fill(split, sample, out));
        Batch { images: pixels, labels: samples.iter().map(|&sample| split.labels[sample]).collect() }
    }

    fn fill(&self, split: &Split, sample: usize, out: &mut [u8]) {
        let image = split.image(sample);
        match &self.augmentation {
            None => out.copy_from_slice(image),
            Some(Augmentation { augment, seed, epoch }) => augment.apply(image, out, *seed, *epoch, sample as u64),
        }
    }
}

/// The batches of a split, all images as they are; the last one may be smaller.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    split: &'a Split,
    order: EpochOrder,
    next: usize,
    batch_size: usize,
}

impl<'a> Batches<'a> {
    /// All images as they are, in the split's order.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn in_order(split: &'a Split, batch_size: usize) -> Self {
        assert!(batch_size > 0, "a batch without images");
        Self { split, order: EpochOrder::as_is(split.len()), next: 0, batch_size }
    }

    /// Ends after `images` images, if there are as many.
    pub fn first(mut self, images: usize) -> Self {
        self.order.order.truncate(images);
        self
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.next == self.order.order.len() {
            return None;
        }
        let batch = self.order.batch(self.split, self.next, self.batch_size);
        self.next += batch.labels.len();
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let batches = (self.order.order.len() - self.next).div_ceil(self.batch_size);
        (batches, Some(batches))
    }
}

impl ExactSizeIterator for Batches<'_> {}
