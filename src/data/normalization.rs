//! How bytes become floats.

use serde::{Deserialize, Serialize};

use super::split::Split;

/// How bytes become floats: `(byte / 255 - mean) / std` for each channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Mean of each channel, from 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl Default for Normalization {
    /// The constants of the akamaster checkpoints (those of ImageNet).
    fn default() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }
}

impl Normalization {
    /// Mean and standard deviation of each channel over all pixels of a split; a channel that is the same everywhere counts as varying by one byte.
    pub fn measured(split: &Split) -> Self {
        let (shape, mut mean, mut std) = (split.shape, Vec::new(), Vec::new());
        for channel in 0..shape.channels {
            let planes =
                split.images.chunks(shape.len()).map(|image| &image[channel * shape.pixels()..][..shape.pixels()]);
            let (mut sum, mut squares) = (0u64, 0u64);
            for byte in planes.flatten() {
                sum += u64::from(*byte);
                squares += u64::from(*byte).pow(2);
            }
            let count = (split.len() * shape.pixels()).max(1) as f64;
            let average = sum as f64 / count;
            let variance = squares as f64 / count - average * average;
            mean.push((average / 255.0) as f32);
            std.push((variance.sqrt().max(1.0) / 255.0) as f32);
        }
        Self { mean, std }
    }

    /// The byte that means 0, for each channel: `round(255 * mean)`.
    pub fn zero_points(&self) -> Vec<u8> {
        // A float to integer cast saturates, so a mean outside 0 to 1 gives the nearest byte.
        self.mean.iter().map(|mean| (255.0 * mean).round() as u8).collect()
    }
}
