//! The class that a network gives each image, in float and as the hardware model will compute it.

use burn::tensor::{Device, Tensor};

use super::forward::Mode;
use super::model::Model;
use super::tensors::to_host;
use crate::data::{Batch, Batches, Split};
use crate::error::{Error, Result};
use crate::hardware::Hardware;
use crate::integer::{IntegerNetwork, predict};
use crate::quantize::FakeQuant;

/// Images that are evaluated at a time, of large ones fewer.
const BATCH: usize = 250;

/// Index of the largest value; the lowest of equal ones.
pub(crate) fn largest(values: &[f32]) -> usize {
    (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

/// A network that gives some image values that aren't finite.
pub(super) struct NotFinite {
    /// The first layer that does.
    pub layer: String,
}

impl From<NotFinite> for Error {
    fn from(NotFinite { layer }: NotFinite) -> Self {
        Self::layer(
            &layer,
            "its values aren't finite: a weight or a variance is out of scale, or normalization.std is tiny",
        )
    }
}

/// Logits of the float network on the first `images` images, image by image.
///
/// # Errors
/// Values that aren't finite, with the first layer that has some.
pub(super) fn float_logits(model: &Model, split: &Split, images: usize) -> std::result::Result<Vec<f32>, NotFinite> {
    let mut found = Vec::new();
    for batch in Batches::in_order(split, model.graph.images_at_a_time(BATCH)).first(images) {
        let logits = to_host(model.forward(model.images(&batch.images), Mode::Float).logits);
        if logits.iter().any(|logit| !logit.is_finite()) {
            let layer = first_not_finite(model, &batch, Mode::Float).expect("the logits are the last layer's");
            return Err(NotFinite { layer });
        }
        found.extend(logits);
    }
    Ok(found)
}

/// Accuracy of the float network on the first `images` images, in percent.
///
/// # Errors
/// Values that aren't finite, with the first layer that has some: they have no largest logit.
pub(super) fn float_accuracy(model: &Model, split: &Split, images: usize) -> std::result::Result<f64, NotFinite> {
    let logits = float_logits(model, split, images)?;
    let predictions: Vec<u16> =
        logits.chunks(model.graph.spec().classes).map(|logits| largest(logits) as u16).collect();
    Ok(split.accuracy(&predictions))
}

/// The first layer whose values on a batch aren't finite.
pub(super) fn first_not_finite(model: &Model, batch: &Batch, mode: Mode) -> Option<String> {
    let mut found = None;
    let mut inspect = |index: usize, value: &Tensor<4>| {
        if found.is_none() && to_host(value.clone()).iter().any(|value| !value.is_finite()) {
            found = Some(model.graph.nodes()[index].name.clone());
        }
    };
    model.forward_with(&model.params, model.images(&batch.images), mode, Some(&mut inspect));
    found
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
) -> Result<Vec<u16>> {
    let fake_quant = FakeQuant::on_chip(network, hardware, device)?;
    let classes = network.classes.len();
    let mut predictions = Vec::with_capacity(split.len());
    for batch in Batches::in_order(split, network.graph.images_at_a_time(BATCH)) {
        let logits = fake_quant.logits_from(predictions.len(), &batch.images);
        predictions.extend(logits.chunks(classes).map(|logits| predict(logits) as u16));
    }
    Ok(predictions)
}
