//! What comes before the first step of a phase.

use super::Training;
use crate::data::{Batch, Batches, Dataset, Split};
use crate::error::Result;
use crate::hardware::{MacroNetwork, check_placements};
use crate::integer::Fusion;
use crate::train::calibrate::{calibrate, measure_folded};
use crate::train::events::{FloatReport, ScalesFrom};
use crate::train::forward::Mode;
use crate::train::losses::cross_entropy;
use crate::train::model::Model;
use crate::train::optimizer::{Average, Sgd};
use crate::train::predict::float_accuracy;
use crate::train::recipe::{EvaluateEvery, Phase, PhaseKind};
use crate::train::tensors::to_host;

/// Images on which biases are corrected for a chip's conversions, of large ones fewer.
const CORRECTION_BATCH: usize = 256;
/// Number of the first of them, for the noise: after those of any test set and before those of the first epoch.
const CORRECTION_FIRST: u64 = 1 << 31;

impl Training {
    pub(super) fn begin_phase(&mut self, phase: &Phase) -> Result<(Option<FloatReport>, Option<ScalesFrom>)> {
        let (mut report, mut scales) = (None, None);
        if phase.normalizes_by_batch(self.recipe.quantize.fusion) && self.model.is_folded() {
            measure_folded(&mut self.model, &self.recipe, &self.data.train);
        }
        match phase.kind {
            PhaseKind::Float => {}
            PhaseKind::Sparsify => self.pruner.forget(),
            PhaseKind::Quantize => {
                if self.position.float_accuracy.is_none() {
                    let (split, name, images) = self.reference();
                    let accuracy = float_accuracy(&self.model, split, images)?;
                    report = Some(FloatReport { images: name, accuracy });
                    self.position.float_accuracy = Some(accuracy);
                    if self.recipe.evaluate_every == EvaluateEvery::End {
                        self.float = Some(self.model.params_on_host());
                    }
                }
                if self.recipe.quantize.fusion == Fusion::Once {
                    self.model.fold_batch_norms();
                }
                if !self.model.params.has_scales() {
                    calibrate(&mut self.model, &self.recipe, &self.data.train);
                    scales = self.choose_scales(phase);
                }
                self.correct_biases(phase);
                // What integers or the chip cannot hold is found before the quantized training, not after it.
                let network = self.integer_network()?;
                check_placements(&network, &self.hardware)?;
                if !self.hardware.losses().is_empty() {
                    MacroNetwork::new(&network, &self.hardware)?;
                }
            }
        }
        self.optimizer = Sgd::new(&self.model.params);
        self.average = phase.average_decay.map(|_| Average { params: self.model.params.clone() });
        Ok((report, scales))
    }

    /// Images on which the float network is measured before it is quantized: the test images, or where those wait for the end the ones
    /// that are held out, or some of the training images. What they are called, and how many.
    fn reference(&self) -> (&Split, &'static str, usize) {
        let Dataset { train, validation, test, .. } = &self.data;
        match self.recipe.evaluate_every {
            EvaluateEvery::Epoch => (test, "test", test.len()),
            EvaluateEvery::End if !validation.is_empty() => (validation, "validation", validation.len()),
            EvaluateEvery::End => (train, "training", self.recipe.calibration_images),
        }
    }

    /// Takes scales that are known where they lower the loss; none where none are.
    fn choose_scales(&mut self, phase: &Phase) -> Option<ScalesFrom> {
        let mut known = self.model.clone();
        self.known_scales.take()?.place(&mut known);
        Some(if self.take_if_better(known, phase) { ScalesFrom::Checkpoint } else { ScalesFrom::Calibration })
    }

    /// Takes a network where its first loss is lower; whether it is.
    fn take_if_better(&mut self, model: Model, phase: &Phase) -> bool {
        let is_lower = self.first_loss(&model, phase) < self.first_loss(&self.model, phase);
        if is_lower {
            self.model = model;
        }
        is_lower
    }

    /// The loss on the first training images as a phase's first step computes it.
    fn first_loss(&self, model: &Model, phase: &Phase) -> f32 {
        let batch = self.first_batch();
        let logits = model.forward(model.images(&batch.images), self.mode(phase, 0, CORRECTION_FIRST)).logits;
        to_host(cross_entropy(logits, &batch.labels, 0.0))[0]
    }

    fn first_batch(&self) -> Batch {
        let images = self.graph.images_at_a_time(CORRECTION_BATCH);
        Batches::in_order(&self.data.train, images).next().expect("a data set has images")
    }

    /// Takes from the biases what a chip's conversions add on average, where the network hasn't learned to live with it: where that
    /// lowers the loss.
    fn correct_biases(&mut self, phase: &Phase) {
        let mode = self.mode(phase, 0, CORRECTION_FIRST);
        let Mode::Quantized { plan, fusion, chip: Some(chip) } = mode else { return };
        let mut corrected = self.model.clone();
        corrected.correct_biases(&self.first_batch().images, plan, fusion, chip);
        self.take_if_better(corrected, phase);
    }
}
