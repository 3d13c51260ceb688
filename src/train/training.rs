//! A training: phases, epochs and steps, from a position to the end of the recipe.

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};

use super::calibrate::{calibrate, measure_statistics};
use super::checkpoint::{Checkpoint, Position, State};
use super::events::{EpochReport, Event, FloatReport, StepReport};
use super::forward::{Chip, ChipBias, Mode};
use super::health::{check_finite, check_learned, diverged};
use super::losses::{Lesson, cross_entropy, loss};
use super::model::{Model, to_arrays};
use super::optimizer::{Average, Sgd};
use super::predict::{NotFinite, fake_quant_predictions, first_not_finite, float_accuracy, float_logits, largest};
use super::pruning::Pruner;
use super::recipe::{EvaluateEvery, Phase, PhaseKind, Recipe};
use super::tensors::to_host;
use super::{check, device::default_device};
use crate::data::{Augment, Batch, Batches, Dataset, EpochOrder, Normalization, Split};
use crate::error::Result;
use crate::hardware::Hardware;
use crate::integer::{BitPlan, FoldOptions, Fusion, ImageScale, IntegerNetwork, fold};
use crate::network::{Array, Graph, NetworkSpec, Params, Weights};
use crate::observer::StopSignal;
use crate::package::{Package, Predictions, Provenance};
use crate::quantize::Quantizer;
use crate::simd::Arithmetic;

/// Images on which biases are corrected for a chip's conversions.
const CORRECTION_BATCH: usize = 256;
/// Number of the first of them, for the noise: after those of any test set and before those of the first epoch.
const CORRECTION_FIRST: u64 = 1 << 31;
/// Channels for which a recipe without `normalization` has ImageNet's constants.
const COLORS: usize = 3;
/// Test images on which the time of an evaluation is measured.
const MEASURED_IMAGES: usize = 250;
/// Border out of which images are cropped, in pixels.
const CROP_PADDING: usize = 4;

/// A training between two steps.
///
/// It holds everything in memory and knows no folder. [`advance`](Self::advance) does the smallest piece of work and says what it was;
/// [`step`](Self::step), [`epoch`](Self::epoch) and [`finish`](Self::finish) do as many of them as they are named for.
pub struct Training {
    recipe: Recipe,
    graph: Graph,
    data: Dataset,
    hardware: Hardware,
    image_scale: ImageScale,
    plan: BitPlan,
    model: Model,
    teacher: Option<Model>,
    optimizer: Sgd,
    average: Option<Average>,
    pruner: Pruner,
    position: Position,
    /// The float network before it was quantized, where its accuracy is measured at the end.
    float: Option<Params<Array>>,
    /// The order of the epoch that goes on.
    order: Option<(usize, EpochOrder)>,
}

impl Training {
    /// A training from random weights on the CPU.
    ///
    /// The recipe's names of files (`model`, `dataset`, `pretrained`, `hardware`, `distillation.teacher`) are not read: what they would
    /// name is passed in. Images of other than three channels are normalized by what is measured on the training images, where the recipe says nothing.
    /// Where the recipe holds out validation images and `data` has none, they are taken from the training images.
    ///
    /// # Errors
    /// A recipe out of range; a network that doesn't fit the data or the chip; a budget that the chip cannot meet.
    pub fn new(mut recipe: Recipe, network: NetworkSpec, mut data: Dataset, hardware: Hardware) -> Result<Self> {
        if recipe.normalization.is_none() && data.train.shape.channels != COLORS {
            recipe.normalization = Some(Normalization::measured(&data.train));
        }
        recipe.check()?;
        let graph = Graph::new(network)?;
        if recipe.validation_images > 0 && data.validation.is_empty() {
            data.hold_out(recipe.validation_images, recipe.seed)?;
        }
        check::all(&recipe, &graph, &data, &hardware)?;
        let image_scale = recipe.image_scale();
        let params = Params::from_arrays(&graph, &Weights::random(&graph, recipe.seed))?;
        let model = Model::new(&graph, &image_scale, &params, &default_device());
        let pruner = Pruner::new(&graph, &recipe, &hardware, &model.device)?;
        let plan = BitPlan::new(&graph, &recipe.quantize);
        let optimizer = Sgd::new(&model.params);
        Ok(Self {
            recipe,
            graph,
            data,
            hardware,
            image_scale,
            plan,
            model,
            teacher: None,
            optimizer,
            average: None,
            pruner,
            position: Position::default(),
            float: None,
            order: None,
        })
    }

    /// The same on another device, before its first step.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn on_device(mut self, device: &Device) -> Result<Self> {
        if device.clone().inner() == self.model.device {
            return Ok(self);
        }
        let place = |model: &Model| {
            let quantizer = model.quantizer.clone();
            Model { quantizer, ..Model::new(&self.graph, &self.image_scale, &model.params_on_host(), device) }
        };
        self.teacher = self.teacher.as_ref().map(place);
        self.model = place(&self.model);
        self.optimizer = Sgd::new(&self.model.params);
        self.pruner = Pruner::new(&self.graph, &self.recipe, &self.hardware, &self.model.device)?;
        Ok(self)
    }

    /// The same from these weights, before its first step.
    ///
    /// # Errors
    /// An array of the network that is missing, has another shape, or isn't finite.
    pub fn starting_from(mut self, weights: &Weights) -> Result<Self> {
        self.model = self.place(weights)?;
        if self.recipe.sparsity.keep_zero_groups {
            self.pruner.keep_zeros(&self.model.params);
        }
        self.optimizer = Sgd::new(&self.model.params);
        Ok(self)
    }

    /// The same with the statistics of these convolutions' batch norms, by number, measured on training images, where a checkpoint has none.
    pub fn with_measured_statistics(mut self, convs: &[u32]) -> Self {
        measure_statistics(&mut self.model, convs, &self.recipe, &self.data.train);
        self
    }

    /// The same learning from a network of the same architecture beside the labels, as [`Recipe::distillation`] says.
    ///
    /// # Errors
    /// Those of [`starting_from`](Self::starting_from).
    pub fn learning_from(mut self, teacher: &Weights) -> Result<Self> {
        self.teacher = Some(self.place(teacher)?);
        Ok(self)
    }

    /// The same with fake quantizers of another kind.
    pub fn with_quantizer(mut self, quantizer: Arc<dyn Quantizer>) -> Self {
        self.model.quantizer = quantizer;
        self
    }

    fn place(&self, weights: &Weights) -> Result<Model> {
        Ok(self.model(&Params::from_arrays(&self.graph, weights)?))
    }

    /// A network with these parameters, for the rest like the one that trains.
    fn model(&self, params: &Params<Array>) -> Model {
        let model = Model::new(&self.graph, &self.image_scale, params, &self.model.device);
        Model { quantizer: self.model.quantizer.clone(), ..model }
    }

    /// The same from a checkpoint on: it goes on bit for bit as if it had never stopped.
    ///
    /// # Errors
    /// Says what of the checkpoint doesn't fit the recipe or the chip.
    pub fn resumed(mut self, checkpoint: Checkpoint) -> std::result::Result<Self, String> {
        let Checkpoint { params, momentum, average, kept, saliency, float, state: State { position, .. } } = checkpoint;
        self.check_position(&position)?;
        self.model = self.model(&params);
        let place = |array: Array| super::tensors::to_device(&array.values, &self.model.device);
        self.optimizer = Sgd { momentum: momentum.map(|_, array| array.map(place)) };
        self.average = average.map(|average| Average { params: average.map(|_, array| place(array)) });
        self.pruner.restore(kept, saliency)?;
        let kind = self.recipe.phases.get(position.phase).map(|phase| phase.kind);
        if position.begun && kind == Some(PhaseKind::Quantize) && !self.model.params.has_scales() {
            return Err(
                "it ends in a phase of another kind than the recipe's: what has begun stays in recipe.toml as it was"
                    .into(),
            );
        }
        (self.position, self.float) = (position, float);
        Ok(self)
    }

    /// Everything that is needed to go on from here.
    pub fn checkpoint(&self) -> Checkpoint {
        let momentum = self.optimizer.momentum.as_ref().map(|id, momentum| {
            let values = to_host(momentum.clone()?);
            Some(Array { shape: id.shape(&self.graph, values.len()), values })
        });
        Checkpoint {
            params: self.model.params_on_host(),
            momentum,
            average: self.average.as_ref().map(|average| to_arrays(&average.params, &self.graph)),
            kept: self.pruner.kept(),
            saliency: self.pruner.saliency(),
            float: self.float.clone(),
            state: State { position: self.position.clone(), arithmetic: Some(Arithmetic::here()) },
        }
    }

    /// Refuses a position that the recipe and the data don't have.
    fn check_position(&self, position: &Position) -> std::result::Result<(), String> {
        let Position { phase, begun, epoch, step, tally, metric_lines, .. } = *position;
        let epochs = |phases: &[Phase]| -> usize { phases.iter().map(|phase| phase.epochs).sum() };
        let phases = &self.recipe.phases;
        let ours = match phases.get(phase) {
            Some(current) if begun => {
                epoch < current.epochs && step <= self.steps_per_epoch() || epoch == current.epochs && step == 0
            }
            Some(_) => epoch == 0 && step == 0,
            None => phase == phases.len() && !begun && epoch == 0 && step == 0,
        };
        // A power cut may have taken lines of metrics, of which none is made twice.
        let done = epochs(&phases[..phase.min(phases.len())]).saturating_add(epoch);
        let counted = metric_lines <= done && tally.correct <= tally.images;
        match ours && counted && tally.images <= self.data.train.labels.len() {
            true => Ok(()),
            false => Err(format!(
                "its position (phase {phase}, epoch {epoch}, step {step}) is none of this recipe and data: what has begun stays in recipe.toml as it was"
            )),
        }
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The images, those that are held out among them.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The chip.
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// How far it is.
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// The weights, batch norms and scales as they are now, by the names of files.
    pub fn weights(&self) -> Weights {
        self.model.params_on_host().to_arrays(&self.graph)
    }

    /// What the epoch is called whose steps come next, and how many it has; none between phases and at the end.
    pub fn next_epoch(&self) -> Option<(String, usize)> {
        let Position { phase, begun, epoch, .. } = self.position;
        let phase = self.recipe.phases.get(phase).filter(|phase| begun && epoch < phase.epochs)?;
        Some((format!("{} {}/{}", phase.kind.name(), epoch + 1, phase.epochs), self.steps_per_epoch()))
    }

    /// Does the next piece of work and says what it was.
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::error::Error::Diverged) where a loss, a parameter or an accuracy can't be used; a budget that cannot be met; a network that integers
    /// cannot hold.
    pub fn advance(&mut self) -> Result<Event> {
        let Position { phase: number, begun, epoch, step, .. } = self.position;
        let Some(phase) = self.recipe.phases.get(number).cloned() else {
            return Ok(Event::Finished);
        };
        if !begun {
            let float = self.begin_phase(&phase)?;
            self.position.begun = true;
            return Ok(Event::PhaseBegan { phase: number, float });
        }
        if epoch == phase.epochs {
            self.position.phase += 1;
            self.position.begun = false;
            self.position.epoch = 0;
            self.optimizer = Sgd::new(&self.model.params);
            return Ok(Event::PhaseEnded { phase: number });
        }
        if step < self.steps_per_epoch() {
            return self.train_step(&phase).map(Event::Step);
        }
        let report = self.end_epoch(&phase)?;
        self.position.metric_lines += 1;
        self.position.epoch += 1;
        self.position.step = 0;
        self.position.tally = Default::default();
        Ok(Event::Epoch(report))
    }

    /// The next step; none at the end of the recipe.
    ///
    /// # Errors
    /// Those of [`advance`](Self::advance).
    pub fn step(&mut self) -> Result<Option<StepReport>> {
        loop {
            match self.advance()? {
                Event::Step(report) => return Ok(Some(report)),
                Event::Finished => return Ok(None),
                Event::PhaseBegan { .. } | Event::Epoch(_) | Event::PhaseEnded { .. } => {}
            }
        }
    }

    /// The steps up to the end of an epoch; none at the end of the recipe.
    ///
    /// # Errors
    /// Those of [`advance`](Self::advance).
    pub fn epoch(&mut self) -> Result<Option<EpochReport>> {
        loop {
            match self.advance()? {
                Event::Epoch(report) => return Ok(Some(report)),
                Event::Finished => return Ok(None),
                Event::PhaseBegan { .. } | Event::Step(_) | Event::PhaseEnded { .. } => {}
            }
        }
    }

    /// All that is left of the recipe; `hear` is told what happens. False where the signal stopped it.
    ///
    /// # Errors
    /// Those of [`advance`](Self::advance).
    pub fn finish(&mut self, mut hear: impl FnMut(&Event), stop: &StopSignal) -> Result<bool> {
        loop {
            let event = self.advance()?;
            hear(&event);
            if event == Event::Finished {
                return Ok(true);
            }
            if stop.is_stopped() {
                return Ok(false);
            }
        }
    }

    /// Refuses parameters that aren't finite, which a checkpoint must not hold.
    ///
    /// # Errors
    /// [`Error::Diverged`](crate::error::Error::Diverged).
    pub fn check_finite(&self) -> Result<()> {
        check_finite(&self.model.params, &self.graph, &self.position)
    }

    /// The network as it would be exported now.
    ///
    /// # Errors
    /// A network that has not been quantized, or that integers cannot hold.
    pub fn integer_network(&self) -> Result<IntegerNetwork> {
        self.folded(&self.model)
    }

    /// The package of the network as it is now, with its prediction for each test image.
    ///
    /// # Errors
    /// Those of [`integer_network`](Self::integer_network).
    pub fn package(&self) -> Result<Package> {
        let network = self.integer_network()?;
        let test = &self.data.test;
        let classes = fake_quant_predictions(&network, &self.hardware, &self.model.device, test)?;
        let data_sha256 = test.sha256();
        let provenance = Provenance {
            recipe: crate::files::to_toml(&self.recipe)?,
            seed: self.recipe.seed,
            crate_version: env!("CARGO_PKG_VERSION").into(),
            dataset: self.data.name.clone(),
            data_sha256: data_sha256.clone(),
            float_accuracy: self.float_accuracy()?,
            fake_quant_accuracy: Some(test.accuracy(&classes)),
        };
        let predictions = Predictions { data_sha256, chip_sha256: self.hardware.losses_sha256(), classes };
        Ok(Package { network, provenance, predictions: Some(predictions) })
    }

    /// The network's logits for each test image, as it is, in float.
    ///
    /// # Errors
    /// Values that aren't finite, with the first layer that has some.
    pub fn float_test_logits(&self) -> Result<Vec<Vec<f32>>> {
        let logits = float_logits(&self.model, &self.data.test, self.data.test.len())?;
        Ok(logits.chunks(self.graph.spec().classes).map(<[f32]>::to_vec).collect())
    }

    /// Seconds that an epoch of a phase takes, measured on so many of its steps and on a batch of test images; none for a phase without epochs. The
    /// training is of no use afterwards.
    ///
    /// # Errors
    /// Those of [`advance`](Self::advance).
    pub fn measure_epoch(&mut self, phase: usize, steps: usize) -> Result<Option<f64>> {
        let kind = self.recipe.phases[phase].kind;
        if self.recipe.phases[phase].epochs == 0 {
            return Ok(None);
        }
        self.position = Position { phase, ..Position::default() };
        // The first step makes room.
        let mut seconds = Vec::new();
        while let Some(report) = self.step()?.filter(|report| report.phase == phase) {
            seconds.push(report.seconds);
            if seconds.len() > steps {
                break;
            }
        }
        let step = seconds.iter().skip(1).sum::<f64>() / (seconds.len().max(2) - 1) as f64;
        let images = self.data.test.len().min(MEASURED_IMAGES);
        let Split { shape, images: bytes, labels } = &self.data.test;
        let some =
            Split { shape: *shape, images: bytes[..images * shape.len()].into(), labels: labels[..images].into() };
        let started = Instant::now();
        self.accuracy(&self.model, kind, &some)?;
        let image = started.elapsed().as_secs_f64() / images as f64;
        let evaluated = match self.recipe.evaluate_every {
            EvaluateEvery::Epoch => self.data.test.len(),
            EvaluateEvery::End => self.data.validation.len(),
        };
        Ok(Some(step * self.steps_per_epoch() as f64 + image * evaluated as f64))
    }

    /// Accuracy on the test images of the float network before it was quantized, in percent.
    fn float_accuracy(&self) -> Result<Option<f64>> {
        match self.recipe.evaluate_every {
            EvaluateEvery::Epoch => Ok(self.position.float_accuracy),
            EvaluateEvery::End => {
                let test = &self.data.test;
                let accuracy = |float| float_accuracy(&self.model(float), test, test.len());
                Ok(self.float.as_ref().map(accuracy).transpose()?)
            }
        }
    }

    fn steps_per_epoch(&self) -> usize {
        self.data.train.len().div_ceil(self.recipe.batch_size)
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

    fn begin_phase(&mut self, phase: &Phase) -> Result<Option<FloatReport>> {
        let mut report = None;
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
                }
                self.correct_biases(phase);
            }
        }
        self.optimizer = Sgd::new(&self.model.params);
        self.average = phase.average_decay.map(|_| Average { params: self.model.params.clone() });
        Ok(report)
    }

    /// Takes from the biases what a chip's conversions add on average, where the network hasn't learned to live with it: where that
    /// lowers the loss.
    fn correct_biases(&mut self, phase: &Phase) {
        let mode = self.mode(phase, 0, CORRECTION_FIRST);
        let Mode::Quantized { plan, fusion, chip: Some(chip) } = mode else { return };
        let batch = Batches::in_order(&self.data.train, CORRECTION_BATCH).next();
        let batch = batch.expect("a data set has images");
        let mut corrected = self.model.clone();
        corrected.correct_biases(&batch.images, plan, fusion, chip);
        let loss = |model: &Model| {
            let logits = model.forward(model.images(&batch.images), mode).logits;
            to_host(cross_entropy(logits, &batch.labels, 0.0))[0]
        };
        if loss(&corrected) < loss(&self.model) {
            self.model = corrected;
        }
    }

    /// The forward pass of a step of a phase, counted from 0; `first` is the number of its first image among all that are trained on.
    fn mode(&self, phase: &Phase, step: usize, first: u64) -> Mode<'_> {
        match phase.kind {
            PhaseKind::Quantize => {
                let fusion = phase.fusion_at(self.recipe.quantize.fusion, step, self.steps_per_epoch());
                let chip = Chip { hardware: &self.hardware, first, bias: ChipBias::Kept };
                Mode::Quantized { plan: &self.plan, fusion, chip: self.sees_conversions().then_some(chip) }
            }
            PhaseKind::Float | PhaseKind::Sparsify => Mode::FloatTraining,
        }
    }

    /// Whether quantize phases train with what the chip's conversions lose.
    fn sees_conversions(&self) -> bool {
        self.recipe.quantize.converter_aware && !self.hardware.losses().is_empty()
    }

    /// Epochs done in all phases: the number of the one that goes on.
    fn epochs_done(&self) -> usize {
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
        let (padding, flip) = if self.recipe.augment { (CROP_PADDING, true) } else { (0, false) };
        let border = self.image_scale.zero_points.clone();
        Augment { shape: self.data.train.shape, padding, flip, cutout: self.recipe.cutout, border }
    }

    fn train_step(&mut self, phase: &Phase) -> Result<StepReport> {
        let started = Instant::now();
        let batch = self.batch();
        let steps = self.steps_per_epoch();
        let step = self.position.epoch * steps + self.position.step;
        let learning_rate = phase.learning_rate_at(step, steps);
        let (loss, correct) = self.descend(phase, &batch, step, learning_rate)?;
        let position = &mut self.position;
        position.step += 1;
        if let Some((average, decay)) = self.average.as_mut().zip(phase.average_decay) {
            average.update(&self.model.params, decay, step + 1);
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
        let output = self.model.forward_with(&leaves, Tensor::from_inner(images.clone()), mode, |_, _| {});
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

    fn end_epoch(&mut self, phase: &Phase) -> Result<EpochReport> {
        // A network that trains with a chip's conversions may begin anew, whatever the float network was.
        let float = self.position.float_accuracy.filter(|_| !self.sees_conversions());
        check_learned(&self.position, self.data.classes.len(), float)?;
        self.check_finite()?;
        let started = Instant::now();
        let ends = self.position.epoch + 1 == phase.epochs;
        let mut evaluated = self.model.clone();
        if let Some(average) = &self.average {
            evaluated.params = average.params.clone();
            self.pruner.mask(&mut evaluated.params);
        }
        if ends && self.average.take().is_some() {
            self.model = evaluated.clone();
        }
        if ends && phase.kind == PhaseKind::Sparsify {
            self.pruner.freeze(&self.model.params);
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
    fn accuracy(&self, model: &Model, kind: PhaseKind, split: &Split) -> Result<f64> {
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

    fn folded(&self, model: &Model) -> Result<IntegerNetwork> {
        let options = FoldOptions {
            quantize: &self.recipe.quantize,
            image_scale: &self.image_scale,
            group: self.hardware.group,
            classes: &self.data.classes,
        };
        fold(&self.graph, &model.params_on_host(), &options)
    }
}
