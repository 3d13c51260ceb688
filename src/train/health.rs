//! Whether what training made can be used: losses, parameters and accuracies that show divergence are errors.

use super::checkpoint::{Position, Tally};
use super::tensors::to_host;
use crate::error::{Diverged, Error, Result};
use crate::network::{Graph, Params};
use burn::tensor::Tensor;

/// Loss of an epoch, over that of guessing, from which on one that has learned nothing has diverged.
const DIVERGED: f64 = 10.0;

/// Steps of an epoch that tell whether it learns; before its first one a network may have lost half of its groups.
const TELLING_STEPS: usize = 8;

/// Names what went wrong at a position.
pub(super) fn diverged(position: &Position, step: usize, layer: Option<String>, what: String) -> Error {
    let Position { phase, epoch, .. } = *position;
    Error::Diverged(Box::new(Diverged { phase, epoch: epoch + 1, step, layer, what, resumable: false }))
}

/// Refuses an epoch that has learned nothing: where its loss is far beyond `guess`, that of a network which knows nothing, or where the float
/// network had learned (`float_accuracy` in percent; none where it doesn't count). Of 10 classes, twice as many right as by chance is nothing, and four
/// times as many is something; of few classes, it is a ninth and a third of what chance leaves wrong.
///
/// # Errors
/// [`Error::Diverged`].
pub(super) fn check_learned(
    position: &Position,
    classes: usize,
    guess: f64,
    float_accuracy: Option<f64>,
) -> Result<()> {
    let Tally { loss, correct, images, .. } = position.tally;
    let (loss, share) = (loss / images as f64, correct as f64 / images as f64);
    let chance = 1.0 / classes as f64;
    let (nothing, something) = (chance.min((1.0 - chance) / 9.0), (3.0 * chance).min((1.0 - chance) / 3.0));
    let learned = float_accuracy.is_some_and(|accuracy| accuracy / 100.0 > chance + something);
    if position.step >= TELLING_STEPS && share < chance + nothing && (learned || loss > DIVERGED * guess) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 10 classes less than 20 % right is nothing, of two less than 55.6 %.
    #[test]
    fn an_epoch_that_learned_nothing_is_refused() {
        let refuses = |classes: usize, right: usize, loss: f64, float: Option<f64>| {
            let tally = Tally { loss: loss * 1000.0, correct: right, images: 1000, seconds: 0.0 };
            let position = Position { tally, step: TELLING_STEPS, ..Position::default() };
            assert!(check_learned(&Position { step: 7, ..position.clone() }, classes, 1e-9, Some(100.0)).is_ok());
            check_learned(&position, classes, (classes as f64).ln(), float).is_err()
        };
        for (classes, nothing, something, known) in [(10, 199, 200, 41.0), (4, 332, 334, 51.0), (2, 555, 556, 67.0)] {
            assert!(refuses(classes, nothing, 1.0, Some(known)), "{classes}");
            assert!(!refuses(classes, something, 1.0, Some(known)), "{classes}");
            assert!(!refuses(classes, nothing, 1.0, Some(known - 2.0)), "{classes}: the float network knew nothing");
            assert!(!refuses(classes, nothing, 1.0, None), "{classes}");
            assert!(refuses(classes, nothing, 30.0, None), "{classes}");
        }
    }
}
