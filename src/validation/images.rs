//! Whether images fit a network.

use crate::data::{ImageShape, Split};
use crate::error::Result;
use crate::integer::IntegerNetwork;

/// How many images are run; images and labels have to fit the network.
pub(super) fn check_images(network: &IntegerNetwork, test: &Split, images: Option<usize>) -> Result<usize> {
    let images = images.unwrap_or(test.len()).min(test.len());
    let spec = network.graph.spec();
    let ImageShape { channels, height, width } = test.shape;
    if images == 0 || spec.input != [channels, height, width] {
        return Err(spec.error(format!(
            "it reads images {:?}; there are {images} of [{channels}, {height}, {width}]",
            spec.input
        )));
    }
    if let Some(label) = test.labels.iter().find(|label| usize::from(**label) >= spec.classes) {
        return Err(spec.error(format!(
            "it has {} classes, the data set has label {label}: name another --dataset",
            spec.classes
        )));
    }
    Ok(images)
}
