//! Batches of images.

use rayon::prelude::*;

use super::{Augment, IMAGE_BYTES, Split, epoch_order};

/// Images and labels that go through the network together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Pixels `[n][3][32][32]`.
    pub images: Vec<u8>,
    /// One class an image.
    pub labels: Vec<u8>,
}

/// The batches of one pass over a split; the last one may be smaller. Its bytes don't depend on the number of threads.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    split: &'a Split,
    order: Vec<usize>,
    next: usize,
    batch_size: usize,
    augmentation: Option<Augmentation>,
}

#[derive(Clone, Copy, Debug)]
struct Augmentation {
    augment: Augment,
    seed: u64,
    epoch: u64,
}

impl<'a> Batches<'a> {
    /// All images as they are, in the split's order.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn in_order(split: &'a Split, batch_size: usize) -> Self {
        Self::new(split, (0..split.len()).collect(), batch_size, None)
    }

    /// All images augmented, in the order of the epoch.
    ///
    /// # Panics
    /// If `batch_size` is 0.
    pub fn shuffled(split: &'a Split, batch_size: usize, augment: Augment, seed: u64, epoch: u64) -> Self {
        let order = epoch_order(split.len(), seed, epoch);
        let augmentation = Augmentation { augment, seed, epoch };
        Self::new(split, order, batch_size, Some(augmentation))
    }

    /// Ends after `images` images, if there are as many.
    pub fn first(mut self, images: usize) -> Self {
        self.order.truncate(images);
        self
    }

    /// Goes on after the first `batches` batches.
    pub fn after(mut self, batches: usize) -> Self {
        self.next = (batches * self.batch_size).min(self.order.len());
        self
    }

    fn new(split: &'a Split, order: Vec<usize>, batch_size: usize, augmentation: Option<Augmentation>) -> Self {
        assert!(batch_size > 0, "a batch without images");
        Self { split, order, next: 0, batch_size, augmentation }
    }

    fn fill(&self, sample: usize, out: &mut [u8]) {
        let image = self.split.image(sample);
        match self.augmentation {
            None => out.copy_from_slice(image),
            Some(Augmentation { augment, seed, epoch }) => augment.apply(image, out, seed, epoch, sample as u64),
        }
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let end = (self.next + self.batch_size).min(self.order.len());
        let samples = &self.order[self.next..end];
        if samples.is_empty() {
            return None;
        }
        let mut images = vec![0; samples.len() * IMAGE_BYTES];
        images.par_chunks_exact_mut(IMAGE_BYTES).zip(samples).for_each(|(out, &sample)| self.fill(sample, out));
        let labels = samples.iter().map(|&sample| self.split.labels[sample]).collect();
        self.next = end;
        Some(Batch { images, labels })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let batches = (self.order.len() - self.next).div_ceil(self.batch_size);
        (batches, Some(batches))
    }
}

impl ExactSizeIterator for Batches<'_> {}
