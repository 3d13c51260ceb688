//! What the types of a recipe cannot say.

use super::PhaseKind;
use super::phase::Phase;
use super::schema::{Budget, DistillationConfig, Recipe};
use crate::data::{Normalization, NormalizationConfig};
use crate::error::{Error, Result};

impl Recipe {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the key, its value and the allowed range.
    pub fn check(&self) -> Result<()> {
        self.quantize.check()?;
        setting(self.batch_size > 0, "batch_size = 0: a step needs images".into())?;
        setting(self.calibration_images > 0, "calibration_images = 0: scales are calibrated from images".into())?;
        if let Some(NormalizationConfig::Constants(constants)) = &self.normalization {
            check_normalization(constants)?;
        }
        let lambda = self.sparsity.lambda;
        setting(lambda.is_finite() && lambda >= 0.0, format!("sparsity.lambda = {lambda}: it must not be negative"))?;
        let target = self.sparsity.target;
        setting((0.0..1.0).contains(&target), format!("sparsity.target = {target}: it must be from 0 to below 1"))?;
        for (index, phase) in self.phases.iter().enumerate() {
            check_optimizer(index, phase)?;
            self.check_epochs(index, phase)?;
        }
        if let Some(DistillationConfig { weight, temperature, .. }) = self.distillation {
            let message = format!("distillation.weight = {weight}: it must be from 0 to 1");
            setting((0.0..=1.0).contains(&weight), message)?;
            let message = format!("distillation.temperature = {temperature}: it must be from 0.1 to 100");
            setting((0.1..=100.0).contains(&temperature), message)?;
        }
        self.check_order()
    }

    /// The epochs of a phase, and when something happens in them.
    fn check_epochs(&self, index: usize, phase: &Phase) -> Result<()> {
        let target = self.sparsity.target;
        let removes = phase.kind == PhaseKind::Sparsify && target > 0.0 && self.sparsity.budget != Budget::Lambda;
        let message = format!(
            "phases.{index}.epochs = 0: a sparsify phase without epochs doesn't reach sparsity.target = {target}"
        );
        setting(phase.epochs > 0 || !removes, message)?;
        let within = |at: f64| (0.0..=phase.epochs as f64).contains(&at);
        let key = format!("phases.{index}.warmup_epochs = {}", phase.warmup_epochs);
        let message = format!("{key}: it must be from 0 to {}, the epochs of the phase", phase.epochs);
        setting(within(phase.warmup_epochs), message)?;
        if let Some(at) = phase.freeze_at {
            let key = format!("phases.{index}.freeze_at = {at}");
            setting(within(at), format!("{key}: it must be from 0 to {}, the epochs of the phase", phase.epochs))?;
            let batch = phase.kind == PhaseKind::Quantize && self.quantize.fusion.uses_batch();
            setting(batch, format!("{key}: only a quantize phase with fusion batch or ema has statistics to freeze"))?;
        }
        Ok(())
    }

    /// Quantize phases are the last ones.
    fn check_order(&self) -> Result<()> {
        let quantized = self.phases.iter().position(|phase| phase.kind == PhaseKind::Quantize);
        let last_float = self.phases.iter().rposition(|phase| phase.kind != PhaseKind::Quantize);
        setting(
            quantized.is_some(),
            "phases: the last one must be of kind \"quantize\", so that there is something to deploy (epochs = 0 calibrates \
             alone)"
                .into(),
        )?;
        setting(last_float < quantized, "phases: no float or sparsify phase can follow a quantize phase".into())
    }
}

fn setting(ok: bool, message: String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Setting(message)) }
}

fn check_normalization(Normalization { mean, std }: &Normalization) -> Result<()> {
    let (means, deviations) = (mean.len(), std.len());
    let message = format!(
        "{deviations} values in `normalization.std`, {means} in `normalization.mean`: both have one for each channel"
    );
    setting(means == deviations, message)?;
    let shares = mean.iter().all(|mean| (0.0..=1.0).contains(mean));
    setting(shares, format!("normalization.mean = {mean:?}: each must be from 0 to 1, a share of 255"))?;
    let positive = std.iter().all(|std| std.is_finite() && *std > 0.0);
    setting(positive, format!("normalization.std = {std:?}: each must be positive, a share of 255"))
}

/// What a phase's steps do with gradients and weights.
fn check_optimizer(index: usize, phase: &Phase) -> Result<()> {
    let positive = phase.learning_rate.is_finite() && phase.learning_rate > 0.0;
    setting(positive, format!("phases.{index}.learning_rate = {}: it must be positive", phase.learning_rate))?;
    let momentum = (0.0..1.0).contains(&phase.momentum);
    setting(momentum, format!("phases.{index}.momentum = {}: it must be from 0 to below 1", phase.momentum))?;
    let decay = (0.0..=1.0).contains(&phase.weight_decay);
    setting(decay, format!("phases.{index}.weight_decay = {}: it must be from 0 to 1", phase.weight_decay))?;
    let smoothing = phase.label_smoothing;
    let message = format!("phases.{index}.label_smoothing = {smoothing}: it must be from 0 to below 1");
    setting((0.0..1.0).contains(&smoothing), message)?;
    if let Some(norm) = phase.clip_norm {
        let message = format!("phases.{index}.clip_norm = {norm}: it must be positive");
        setting(norm.is_finite() && norm > 0.0, message)?;
    }
    if let Some(decay) = phase.average_decay {
        let message = format!("phases.{index}.average_decay = {decay}: it must be from 0 to below 1");
        setting((0.0..1.0).contains(&decay), message)?;
    }
    Ok(())
}
