//! A phase of a run: what it trains, for how long, and with which optimizer and schedule.

use serde::{Deserialize, Serialize};

use crate::integer::Fusion;
use crate::run_folder::PhaseKind;

/// A stretch of training with one optimizer and schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// What it trains.
    pub kind: PhaseKind,
    /// Passes over the training images; 0 in a `quantize` phase means calibration alone.
    pub epochs: usize,
    /// Learning rate at its height.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Share of the previous step.
    #[serde(default = "default_momentum")]
    pub momentum: f64,
    /// Nesterov's momentum.
    #[serde(default = "default_nesterov")]
    pub nesterov: bool,
    /// Decay of the weights; batch norm, biases and steps have none.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// How the learning rate falls.
    #[serde(default)]
    pub schedule: Schedule,
    /// Epochs, or parts of one, over which the learning rate rises from 0.
    #[serde(default)]
    pub warmup_epochs: f64,
    /// Share of the loss that asks for all classes alike, 0 to below 1: the target is `1 - label_smoothing + label_smoothing / classes` for the label
    /// and `label_smoothing / classes` for each other class (Szegedy et al. 2016).
    #[serde(default)]
    pub label_smoothing: f64,
    /// Largest norm of the gradient of all parameters together; a larger one is scaled down (Pascanu et al. 2013).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Decay a step of an exponential average of the parameters, 0 to below 1, which is evaluated after each epoch and takes the place of
    /// the parameters when the phase ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_decay: Option<f64>,
    /// Epochs, or parts of one, after which a `quantize` phase with fusion `batch` or `ema` goes on as `frozen`; three quarters of the phase
    /// if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_at: Option<f64>,
}

/// Share of a phase's epochs after which its statistics are frozen where `freeze_at` doesn't say when.
const FREEZE_AT: f64 = 0.75;

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Along half a cosine, which would come to 0 a step after the phase's last one.
    #[default]
    Cosine,
    /// Not at all.
    Constant,
}

fn default_learning_rate() -> f64 {
    0.01
}

fn default_momentum() -> f64 {
    0.9
}

fn default_nesterov() -> bool {
    true
}

fn default_weight_decay() -> f64 {
    1e-4
}

impl Phase {
    /// Whether it has steps that normalize with the statistics of their batches.
    pub fn normalizes_by_batch(&self, fusion: Fusion) -> bool {
        let of_steps = match self.kind {
            PhaseKind::Float | PhaseKind::Sparsify => true,
            PhaseKind::Quantize => fusion.uses_batch() || fusion == Fusion::None,
        };
        of_steps && self.epochs > 0
    }

    /// A phase with the defaults of a fine-tuning step.
    pub fn new(kind: PhaseKind, epochs: usize, learning_rate: f64) -> Self {
        Self {
            kind,
            epochs,
            learning_rate,
            momentum: default_momentum(),
            nesterov: default_nesterov(),
            weight_decay: default_weight_decay(),
            schedule: Schedule::default(),
            warmup_epochs: 0.0,
            label_smoothing: 0.0,
            clip_norm: None,
            average_decay: None,
            freeze_at: None,
        }
    }

    /// How batch norm is treated in a step (counted from 0 in the phase): as the recipe says until the statistics are frozen.
    pub(in crate::train) fn fusion_at(&self, fusion: Fusion, step: usize, steps_per_epoch: usize) -> Fusion {
        let epochs = self.freeze_at.unwrap_or(FREEZE_AT * self.epochs as f64);
        let frozen = step as f64 >= epochs * steps_per_epoch as f64;
        if frozen && fusion.uses_batch() { Fusion::Frozen } else { fusion }
    }

    /// Learning rate of a step (counted from 0 in the phase), with `steps_per_epoch` steps an epoch.
    pub fn learning_rate_at(&self, step: usize, steps_per_epoch: usize) -> f64 {
        let warmup = self.warmup_epochs * steps_per_epoch as f64;
        let step = step as f64;
        if step < warmup {
            return self.learning_rate * (step + 1.0) / (warmup + 1.0);
        }
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Cosine => {
                let total = (self.epochs * steps_per_epoch) as f64;
                let progress = (step - warmup) / (total - warmup).max(1.0);
                self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_along_a_line_and_falls_along_a_cosine() {
        let phase = Phase { warmup_epochs: 1.0, ..Phase::new(PhaseKind::Float, 10, 0.1) };
        let constant = Phase { schedule: Schedule::Constant, ..phase.clone() };
        let rises = [(0, 0.1 / 101.0), (49, 5.0 / 101.0), (99, 10.0 / 101.0), (100, 0.1)];
        let quarter = 0.05 * std::f64::consts::FRAC_1_SQRT_2;
        let falls = [(325, 0.05 + quarter), (550, 0.05), (775, 0.05 - quarter), (1000, 0.0)];
        for (phase, rates) in [(&phase, [rises, falls].concat()), (&constant, [&rises[..], &[(999, 0.1)]].concat())] {
            for (step, rate) in rates {
                let found = phase.learning_rate_at(step, 100);
                assert!((found - rate).abs() < 1e-12, "step {step}: {found}, not {rate}");
            }
        }
    }
}
