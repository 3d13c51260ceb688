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
    /// Moves `images` training images to [`Dataset::validation`]: as many of each class, give or take one, drawn from `seed`. Both splits keep the
    /// order of the training images.
    ///
    /// # Errors
    /// A class that would keep no training image; no room for the copies.
    pub fn hold_out(&mut self, images: usize, seed: u64) -> Result<(), DataError> {
        let classes = self.classes.len();
        // The first classes take what doesn't divide.
        let mut wanted: Vec<usize> = (0..classes).map(|class| (images + classes - 1 - class) / classes).collect();
        let mut held_out = vec![false; self.train.len()];
        for index in held_out_order(self.train.len(), seed) {
            let wanted = &mut wanted[usize::from(self.train.labels[index])];
            if *wanted > 0 {
                *wanted -= 1;
                held_out[index] = true;
            }
        }
        let mut left = vec![0; classes];
        let kept = self.train.labels.iter().zip(&held_out).filter(|(_, held_out)| !**held_out);
        kept.for_each(|(label, _)| left[usize::from(*label)] += 1);
        if wanted.iter().any(|wanted| *wanted > 0) || left.contains(&0) {
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
