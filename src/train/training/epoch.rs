//! The end of an epoch, accuracies, and the time that an epoch takes.

use std::time::Instant;

use super::Training;
use crate::data::{Dataset, Split};
use crate::error::Result;
use crate::run_folder::EpochReport;
use crate::train::checkpoint::Position;
use crate::train::health::{check_learned, diverged};
use crate::train::losses::loss_of_guess;
use crate::train::model::Model;
use crate::train::predict::{NotFinite, fake_quant_predictions, float_accuracy};
use crate::train::recipe::{EvaluateEvery, Phase, PhaseKind};

/// Test images on which the time of an evaluation is measured.
const MEASURED_IMAGES: usize = 250;

impl Training {
    pub(super) fn end_epoch(&mut self, phase: &Phase) -> Result<EpochReport> {
        // A network that trains with a chip's conversions may begin anew, whatever the float network was.
        let float = self.position.float_accuracy.filter(|_| !self.sees_conversions());
        let classes = self.data.classes.len();
        let guess = loss_of_guess(classes, self.recipe.distillation.as_ref().filter(|_| self.teacher.is_some()));
        check_learned(&self.position, classes, guess, float)?;
        self.check_finite()?;
        let started = Instant::now();
        let ends = self.position.epoch + 1 == phase.epochs;
        if ends && phase.kind == PhaseKind::Sparsify {
            self.pruner.freeze(&self.model.params);
            self.pruner.mask(&mut self.model.params);
        }
        let mut evaluated = self.model.clone();
        if let Some(average) = &self.average {
            evaluated.params = average.params.clone();
            // An average of weights of which some weren't zero isn't.
            self.pruner.copy_zeros(&self.model.params, &mut evaluated.params);
        }
        if ends && self.average.take().is_some() {
            self.model = evaluated.clone();
        }
        let Dataset { validation, test, .. } = &self.data;
        let measure = |split: &Split| self.accuracy(&evaluated, phase.kind, split);
        let validation_accuracy = (!validation.is_empty()).then(|| measure(validation)).transpose()?;
        let test_accuracy = match self.recipe.evaluate_every {
            EvaluateEvery::Epoch => Some(measure(test)?),
            EvaluateEvery::End => None,
        };
        let tally = self.position.tally;
        let images = tally.images as f64;
        let steps = self.steps_per_epoch();
        Ok(EpochReport {
            phase: phase.kind,
            epoch: self.position.epoch + 1,
            loss: tally.loss / images,
            train_accuracy: 100.0 * tally.correct as f64 / images,
            validation_accuracy,
            test_accuracy,
            learning_rate: phase.learning_rate_at((self.position.epoch + 1) * steps - 1, steps),
            images_per_second: images / tally.seconds,
            group_sparsity: self.pruner.zero_share(&self.model.params),
            penalty: self.pruner.penalty(&self.model),
            seconds: tally.seconds + started.elapsed().as_secs_f64(),
        })
    }

    /// Accuracy of a network in a phase, in percent: in float, or as the hardware model will compute it.
    pub(super) fn accuracy(&self, model: &Model, kind: PhaseKind, split: &Split) -> Result<f64> {
        match kind {
            PhaseKind::Float | PhaseKind::Sparsify => {
                float_accuracy(model, split, split.len()).map_err(|NotFinite { layer }| {
                    let what = "its values on images that are evaluated aren't finite".into();
                    diverged(&self.position, self.position.step, Some(layer), what)
                })
            }
            PhaseKind::Quantize => {
                let network = self.folded(model)?;
                let predictions = fake_quant_predictions(&network, &self.hardware, &model.device, split)?;
                Ok(split.accuracy(&predictions))
            }
        }
    }

    /// Accuracy on the test images of the float network before it was quantized, in percent.
    pub(super) fn float_accuracy(&self) -> Result<Option<f64>> {
        match &self.float {
            Some(float) => {
                let test = &self.data.test;
                Ok(Some(float_accuracy(&self.model(float), test, test.len())?))
            }
            None => Ok(self.position.float_accuracy),
        }
    }

    /// Seconds that an epoch of a phase takes, measured on so many of its steps and on a batch of test images; none for a phase without epochs. The
    /// training is of no use afterwards.
    ///
    /// # Errors
    /// Those of [`advance`](Self::advance).
    ///
    /// # Panics
    /// The recipe has no phase of this number.
    pub fn measure_epoch(&mut self, phase: usize, steps: usize) -> Result<Option<f64>> {
        let Phase { kind, epochs, learning_rate, .. } = &mut self.recipe.phases[phase];
        if *epochs == 0 {
            return Ok(None);
        }
        // A few steps of a phase aren't what the next one begins with: in 32 bits this is 0, so that nothing moves, but all work is done.
        *learning_rate = 1e-100;
        let kind = *kind;
        self.position = Position { phase, ..Position::default() };
        let mut seconds = Vec::new();
        while let Some(report) = self.step()?.filter(|report| report.phase == phase) {
            seconds.push(report.seconds);
            if seconds.len() > steps {
                break;
            }
        }
        // The first step makes room, and counts only where it is alone.
        let counted = &seconds[usize::from(seconds.len() > 1)..];
        let step = counted.iter().sum::<f64>() / counted.len() as f64;
        let images = self.data.test.len().min(MEASURED_IMAGES);
        let Split { shape, images: bytes, labels } = &self.data.test;
        let some = Split {
            shape: *shape,
            images: bytes[..images * shape.len()].to_vec().into(),
            labels: labels[..images].into(),
        };
        let started = Instant::now();
        self.accuracy(&self.model, kind, &some)?;
        let image = started.elapsed().as_secs_f64() / images as f64;
        let evaluated = match self.recipe.evaluate_every {
            EvaluateEvery::Epoch => self.data.test.len() + self.data.validation.len(),
            EvaluateEvery::End => self.data.validation.len(),
        };
        Ok(Some(step * self.steps_per_epoch() as f64 + image * evaluated as f64))
    }
}
