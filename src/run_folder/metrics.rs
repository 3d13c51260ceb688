//! The lines of `metrics.jsonl`, as a training writes them and the report and experiments read them.

use serde::{Deserialize, Serialize};

/// What a phase trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    /// Float weights with batch norm.
    Float,
    /// Float weights with the group penalty; at its end the masks freeze.
    Sparsify,
    /// Quantized weights and activations.
    Quantize,
}

impl PhaseKind {
    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Sparsify => "sparsify",
            Self::Quantize => "quantize",
        }
    }
}

/// An epoch: a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
