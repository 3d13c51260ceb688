//! A step: the next batch, forward, backward and the update.

use std::time::Instant;

use burn::tensor::Tensor;

use super::Training;
use crate::data::{Augment, Batch, EpochOrder};
use crate::error::Result;
use crate::train::events::StepReport;
use crate::train::forward::{ChipBias, LossyChip, Mode};
use crate::train::health::diverged;
use crate::train::losses::{Lesson, loss};
use crate::train::predict::{first_not_finite, largest};
use crate::train::recipe::{Phase, PhaseKind};
use crate::train::tensors::to_host;

/// Border out of which images are cropped, in pixels.
const CROP_PADDING: usize = 4;
/// Pixels of an image's shorter side for each pixel of that border, at least: more of a small image would be gone.
const CROP_SIDE: usize = 8;

impl Training {
    /// The forward pass of a step of a phase, counted from 0; `first` is the number of its first image among all that are trained on.
    pub(super) fn mode(&self, phase: &Phase, step: usize, first: u64) -> Mode<'_> {
        match phase.kind {
            PhaseKind::Quantize => {
                let fusion = phase.fusion_at(self.recipe.quantize.fusion, step, self.steps_per_epoch());
                let chip = LossyChip { hardware: &self.hardware, first, bias: ChipBias::Kept };
                Mode::Quantized { plan: &self.plan, fusion, chip: self.sees_conversions().then_some(chip) }
            }
            PhaseKind::Float | PhaseKind::Sparsify => Mode::FloatTraining,
        }
    }

    /// Whether quantize phases train with what the chip's conversions lose.
    pub(super) fn sees_conversions(&self) -> bool {
        self.recipe.quantize.converter_aware && !self.hardware.losses().is_empty()
    }

    /// Epochs done in all phases: the number of the one that goes on.
    pub(super) fn epochs_done(&self) -> usize {
        let before = self.recipe.phases[..self.position.phase].iter().map(|phase| phase.epochs);
        before.sum::<usize>() + self.position.epoch
    }

    /// The next batch of the epoch.
    fn batch(&mut self) -> Batch {
        let epoch = self.epochs_done();
        if self.order.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let augment = self.augment();
            let order = EpochOrder::shuffled(self.data.train.len(), augment, self.recipe.seed, epoch as u64);
            self.order = Some((epoch, order));
        }
        let (_, order) = self.order.as_ref().expect("just set");
        let first = self.position.step * self.recipe.batch_size;
        order.batch(&self.data.train, first, self.recipe.batch_size)
    }

    fn augment(&self) -> Augment {
        let shape = self.data.train.shape;
        let padding = CROP_PADDING.min(shape.height.min(shape.width) / CROP_SIDE);
        let (padding, flip) = if self.recipe.augment { (padding, true) } else { (0, false) };
        let border = self.image_scale.zero_points.clone();
        Augment { shape, padding, flip, cutout: self.recipe.cutout, border }
    }

    pub(super) fn train_step(&mut self, phase: &Phase) -> Result<StepReport> {
        let started = Instant::now();
        let batch = self.batch();
        let steps = self.steps_per_epoch();
        let step = self.position.epoch * steps + self.position.step;
        let learning_rate = phase.learning_rate_at(step, steps);
        let (loss, correct) = self.descend(phase, &batch, step, learning_rate)?;
        let position = &mut self.position;
        position.step += 1;
        if let Some((average, decay)) = self.average.as_mut().zip(phase.average_decay) {
            average.update(&self.model.params, decay, step + 1, phase.epochs * steps);
        }
        let (images, seconds) = (batch.labels.len(), started.elapsed().as_secs_f64());
        let tally = &mut position.tally;
        tally.loss += loss * images as f64;
        tally.correct += correct;
        tally.images += images;
        tally.seconds += seconds;
        Ok(StepReport {
            phase: position.phase,
            epoch: position.epoch,
            step: position.step,
            steps,
            images,
            loss,
            seconds,
            epoch_loss: tally.loss / tally.images as f64,
            epoch_accuracy: 100.0 * tally.correct as f64 / tally.images as f64,
            images_per_second: tally.images as f64 / tally.seconds,
        })
    }

    /// Forward, backward and the update of a step of the phase; the mean loss and the images classified right.
    fn descend(&mut self, phase: &Phase, batch: &Batch, step: usize, learning_rate: f64) -> Result<(f64, usize)> {
        let steps = self.steps_per_epoch();
        // Training images are numbered after those of any test set.
        let first = ((self.epochs_done() as u64 + 1) << 32) + (self.position.step * self.recipe.batch_size) as u64;
        let mode = self.mode(phase, step, first);
        let leaves = self.model.params.as_ref().map(|id, tensor| {
            let leaf = Tensor::from_inner(tensor.clone());
            if id.role.trains() { leaf.require_grad() } else { leaf }
        });
        let images = self.model.images(&batch.images);
        let output = self.model.forward_with(&leaves, Tensor::from_inner(images.clone()), mode, None);
        let [_, classes] = output.logits.dims();
        let lesson = self.teacher.as_ref().zip(self.recipe.distillation.as_ref()).map(|(teacher, config)| {
            let logits = teacher.forward(images, Mode::Float).logits;
            Lesson { logits: Tensor::from_inner(logits), config }
        });
        let loss = loss(output.logits.clone(), &batch.labels, phase.label_smoothing, lesson);
        let value = f64::from(to_host(loss.clone().inner())[0]);
        if !value.is_finite() {
            let layer = first_not_finite(&self.model, batch, mode);
            return Err(diverged(&self.position, self.position.step + 1, layer, format!("the loss became {value}")));
        }
        let logits = to_host(output.logits.inner());
        let guesses = logits.chunks(classes).map(largest);
        let correct = guesses.zip(&batch.labels).filter(|(guess, label)| *guess == usize::from(**label)).count();
        let gradients = loss.backward();
        let sparsifies = phase.kind == PhaseKind::Sparsify;
        if sparsifies {
            self.pruner.observe(&self.model.params, |conv| leaves.conv(conv).weight.grad(&gradients));
        }
        self.optimizer.step(&mut self.model.params, leaves, gradients, phase, learning_rate);
        self.model.update_statistics(output.statistics);
        if sparsifies {
            let threshold = learning_rate * self.recipe.sparsity.lambda;
            self.pruner.shrink(&mut self.model, &mut self.optimizer, threshold);
            self.pruner.approach((step + 1) as f64 / (phase.epochs * steps) as f64)?;
        }
        self.pruner.mask(&mut self.model.params);
        self.pruner.mask_momentum(&mut self.optimizer);
        Ok((value, correct))
    }
}
