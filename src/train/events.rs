//! What happens in a training.

use serde::Serialize;

use super::recipe::PhaseKind;

/// What [`Training::advance`](super::Training::advance) did.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What comes before a phase's first step is done.
    PhaseBegan {
        /// Number of the phase in the recipe.
        phase: usize,
        /// What the float network was measured to be, at the first quantized phase.
        float: Option<FloatReport>,
    },
    /// A step is done.
    Step(StepReport),
    /// An epoch is done and measured.
    Epoch(EpochReport),
    /// A phase is done: its weights are final.
    PhaseEnded {
        /// Number of the phase in the recipe.
        phase: usize,
    },
    /// The recipe is done; nothing is left to do.
    Finished,
}

/// The float network before it is quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloatReport {
    /// What the images are called: `test`, `validation` or `training`.
    pub images: &'static str,
    /// Accuracy on them, in percent.
    pub accuracy: f64,
}

/// A step, and sums over the steps of its epoch so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Number of the phase in the recipe.
    pub phase: usize,
    /// Number of the epoch in the phase, from 0.
    pub epoch: usize,
    /// Steps done in the epoch, this one included.
    pub step: usize,
    /// Steps of an epoch.
    pub steps: usize,
    /// Images of this step.
    pub images: usize,
    /// Mean loss of this step.
    pub loss: f64,
    /// Seconds that this step took.
    pub seconds: f64,
    /// Mean loss of the epoch so far.
    pub epoch_loss: f64,
    /// Right on the epoch's augmented images so far, in percent.
    pub epoch_accuracy: f64,
    /// Images a second, of the epoch's steps so far.
    pub images_per_second: f64,
}

/// An epoch, as a line of `metrics.jsonl` tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EpochReport {
    /// Kind of its phase.
    pub phase: PhaseKind,
    /// Number in the phase, from 1.
    pub epoch: usize,
    /// Mean of the steps' losses, distillation included, while the weights changed.
    pub loss: f64,
    /// Right on the augmented images as they were trained on, in percent.
    pub train_accuracy: f64,
    /// Right on the held-out images, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_accuracy: Option<f64>,
    /// Right on the test images, in percent: in float, or in a quantize phase what the hardware model will say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_accuracy: Option<f64>,
    /// Of the epoch's last step.
    pub learning_rate: f64,
    /// Of the steps alone.
    pub images_per_second: f64,
    /// Share of all groups that are zero, 0 to 1.
    pub group_sparsity: f64,
    /// `sum_g sqrt(size of g) * norm of g`, the group lasso before `lambda`, of folded weights.
    pub penalty: f64,
    /// Of steps and evaluation together.
    pub seconds: f64,
}
