//! Whether what training made can be used: losses, parameters and accuracies that show divergence are errors.

use super::checkpoint::{Position, Tally};
use super::tensors::to_host;
use crate::error::{Diverged, Error, Result};
use crate::network::{Graph, Params};
use burn::tensor::Tensor;

/// Loss of an epoch, over that of guessing, from which on one without a right guess has diverged.
const DIVERGED: f64 = 10.0;

/// Names what went wrong at a position.
pub(super) fn diverged(position: &Position, step: usize, layer: Option<String>, what: String) -> Error {
    let Position { phase, epoch, .. } = *position;
    Error::Diverged(Box::new(Diverged { phase, epoch: epoch + 1, step, layer, what, resumable: false }))
}

/// Refuses an epoch that is right less than twice as often as by chance: where its loss is far beyond a guess's `ln(classes)`, or where the
/// float network, right four times as often as by chance, was better (`float_accuracy` in percent; none where it doesn't count).
///
/// # Errors
/// [`Error::Diverged`].
pub(super) fn check_learned(position: &Position, classes: usize, float_accuracy: Option<f64>) -> Result<()> {
    let Tally { loss, correct, images, .. } = position.tally;
    let (loss, share) = (loss / images as f64, correct as f64 / images as f64);
    let classes = classes as f64;
    let learned = float_accuracy.is_some_and(|accuracy| accuracy > 400.0 / classes);
    if share < 2.0 / classes && (learned || loss > DIVERGED * classes.ln()) {
        let what = format!("the loss came to {loss:.3e} with {:.1} % right", 100.0 * share);
        return Err(diverged(position, position.step, None, what));
    }
    Ok(())
}

/// Refuses parameters that aren't finite, and scales that aren't positive: the loss would show them only a step later.
///
/// # Errors
/// [`Error::Diverged`], with the layer.
pub(super) fn check_finite(params: &Params<Tensor<1>>, graph: &Graph, position: &Position) -> Result<()> {
    for (id, tensor) in params.iter() {
        let usable = |value: &f32| value.is_finite() && (!id.role.is_scale() || *value > 0.0);
        if let Some(value) = to_host(tensor.clone()).iter().find(|value| !usable(value)) {
            let what = format!("`{}` became {value}", id.name(graph));
            return Err(diverged(position, position.step, Some(id.layer(graph)), what));
        }
    }
    Ok(())
}
