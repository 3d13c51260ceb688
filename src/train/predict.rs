//! The class that a network gives each image, in float and as the hardware model will compute it.

use burn::tensor::Device;

use super::forward::Mode;
use super::model::Model;
use super::tensors::to_host;
use crate::data::{Batch, Batches, Split};
use crate::error::Result;
use crate::hardware::Hardware;
use crate::integer::{IntegerNetwork, predict};
use crate::quantize::FakeQuant;

/// Images that are evaluated at a time.
const BATCH: usize = 250;

/// Index of the largest value; the lowest of equal ones.
pub(super) fn largest(values: &[f32]) -> usize {
    (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

/// Accuracy of the float network on the first `images` images, in percent.
pub(super) fn float_accuracy(model: &Model, split: &Split, images: usize) -> f64 {
    let classes = |batch: Batch| {
        let logits = model.forward(model.images(&batch.images), Mode::Float).logits;
        let count = logits.dims()[1];
        to_host(logits).chunks(count).map(|logits| largest(logits) as u8).collect::<Vec<u8>>()
    };
    let predictions: Vec<u8> = Batches::in_order(split, BATCH).first(images).flat_map(classes).collect();
    split.accuracy(&predictions)
}

/// The fake-quant network's class of each image on a chip.
///
/// # Errors
/// Weights wider than the macro can hold.
pub(super) fn fake_quant_predictions(
    network: &IntegerNetwork,
    hardware: &Hardware,
    device: &Device,
    split: &Split,
) -> Result<Vec<u8>> {
    let fake_quant = FakeQuant::on_chip(network, hardware, device)?;
    let classes = network.classes.len();
    let mut predictions = Vec::with_capacity(split.len());
    for batch in Batches::in_order(split, BATCH) {
        let logits = fake_quant.logits_from(predictions.len(), &batch.images);
        predictions.extend(logits.chunks(classes).map(|logits| predict(logits) as u8));
    }
    Ok(predictions)
}
