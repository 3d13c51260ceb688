//! A data set.

use std::path::Path;

use super::augment::held_out_order;
use super::split::Split;
use crate::error::DataError;

/// Images by what they are for, and the names of their classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Name, as the package tells it.
    pub name: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Images to learn from.
    pub train: Split,
    /// Images to choose a recipe with, which [`Dataset::hold_out`] takes out of the training images; empty before.
    pub validation: Split,
    /// Images to measure with.
    pub test: Split,
}

impl Dataset {
    /// Moves `images` training images to [`Dataset::validation`]: as many of each class that has any, give or take one, drawn from `seed`. Both splits
    /// keep the order of the training images.
    ///
    /// # Errors
    /// A class that would keep no training image; no room for the copies.
    pub fn hold_out(&mut self, images: usize, seed: u64) -> Result<(), DataError> {
        let mut left = vec![0; self.classes.len()];
        self.train.labels.iter().for_each(|label| left[usize::from(*label)] += 1);
        let present: Vec<usize> = (0..left.len()).filter(|class| left[*class] > 0).collect();
        // The first classes take what doesn't divide.
        let mut wanted = vec![0; left.len()];
        for (index, class) in present.iter().enumerate() {
            wanted[*class] = (images + present.len() - 1 - index) / present.len();
        }
        let mut held_out = vec![false; self.train.len()];
        for index in held_out_order(self.train.len(), seed) {
            let class = usize::from(self.train.labels[index]);
            if wanted[class] > 0 {
                wanted[class] -= 1;
                left[class] -= 1;
                held_out[index] = true;
            }
        }
        if present.iter().any(|class| wanted[*class] > 0 || left[*class] == 0) {
            return Err(DataError::TooFew { dataset: self.name.clone(), images, train: self.train.len() });
        }
        let part = |of: bool| {
            let indices: Vec<usize> = (0..held_out.len()).filter(|index| held_out[*index] == of).collect();
            self.train.in_order(&indices).map_err(DataError::io(Path::new(&self.name)))
        };
        (self.train, self.validation) = (part(false)?, part(true)?);
        Ok(())
    }
}
