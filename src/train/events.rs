//! What happens in a training.

use crate::run_folder::EpochReport;

/// What [`Training::advance`](super::Training::advance) did.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What comes before a phase's first step is done.
    PhaseBegan {
        /// Number of the phase in the recipe.
        phase: usize,
        /// What the float network was measured to be, at the first quantized phase.
        float: Option<FloatReport>,
        /// Which scales the first quantized phase begins with, where the run's checkpoint has some.
        scales: Option<ScalesFrom>,
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

/// Where the scales come from that quantizers begin with: those with the lower loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalesFrom {
    /// Found on the float network.
    Calibration,
    /// Those that the run's checkpoint was quantized with.
    Checkpoint,
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
