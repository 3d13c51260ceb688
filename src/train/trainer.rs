//! The loop: phases, epochs and steps, from a position to the end of the recipe.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Serialize;

use super::calibrate::calibrate;
use super::checkpoint::{Checkpoint, Position};
use super::model::{Chip, Mode, Model, Tensors, to_device, to_host};
use super::optimizer::{Average, Sgd, trains};
use super::progress::Progress;
use super::recipe::{DistillationConfig, EvaluateEvery, Phase, PhaseKind, Recipe};
use super::sparsify::Sparsity;
use crate::data::{Augment, Batch, Batches, Dataset, Split};
use crate::error::{Error, Result};
use crate::files::{read_if_present, write_atomically};
use crate::hardware::Hardware;
use crate::integer::{BitPlan, FoldOptions, Fusion, IntegerNetwork, PictureScale, fold, predict};
use crate::network::{Array, Graph, Weights};
use crate::quantize::FakeQuant;
use crate::run_folder::{CHECKPOINTS, FLOAT, LAST, METRICS};

/// Pictures that are evaluated at a time.
pub(crate) const EVALUATION_BATCH: usize = 250;
/// Pictures on which biases are corrected for a chip's conversions.
const CORRECTION_BATCH: usize = 256;
/// Loss of an epoch, over that of guessing, from which on one without a right guess has diverged.
const DIVERGED: f64 = 10.0;
/// Border out of which pictures are cropped.
const CROP_PADDING: usize = 4;

/// Set by Ctrl-C: the loop saves a checkpoint after the current step and stops.
pub static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What training works with.
pub(crate) struct Job<'a> {
    pub recipe: &'a Recipe,
    pub graph: &'a Graph,
    pub dataset: &'a Dataset,
    pub picture: &'a PictureScale,
    pub hardware: &'a Hardware,
    pub device: &'a Device,
    /// Weights of the network that distillation learns from.
    pub teacher: Option<&'a Weights>,
    /// The run folder.
    pub folder: &'a Path,
    pub quiet: bool,
}

/// One line of `metrics.jsonl`.
#[derive(Serialize)]
struct Metrics {
    phase: &'static str,
    epoch: usize,
    loss: f64,
    train_accuracy: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_accuracy: Option<f64>,
    learning_rate: f64,
    images_per_second: f64,
    group_sparsity: f64,
    penalty: f64,
    seconds: f64,
}

/// A run between two steps.
pub(crate) struct Trainer<'a> {
    job: Job<'a>,
    model: Model,
    teacher: Option<Model>,
    optimizer: Sgd,
    average: Option<Average>,
    sparsity: Sparsity,
    position: Position,
}

impl<'a> Trainer<'a> {
    /// A run that starts from weights.
    ///
    /// # Errors
    /// A sparsity budget that the hardware cannot meet.
    pub fn new(job: Job<'a>, weights: &Weights) -> Result<Self> {
        let model = Model::new(job.graph, job.picture, weights, job.device);
        let teacher = job.teacher.map(|weights| Model::new(job.graph, job.picture, weights, job.device));
        let sparsity = Sparsity::new(job.graph, job.recipe, job.hardware, &model.device)?;
        Ok(Self {
            job,
            model,
            teacher,
            optimizer: Sgd::default(),
            average: None,
            sparsity,
            position: Position::default(),
        })
    }

    /// A run that goes on from the last checkpoint in its folder.
    ///
    /// # Errors
    /// There is none, or it is damaged or of another network.
    pub fn resume(job: Job<'a>) -> Result<Self> {
        let path = job.folder.join(LAST);
        if !path.exists() {
            let message = "the run ended before its first checkpoint: remove the folder and start again";
            return Err(Error::file(&path, message));
        }
        let checkpoint = Checkpoint::load(&path)?;
        checkpoint.weights.check(job.graph).map_err(|error| Error::file(&path, error.to_string()))?;
        let mut trainer = Self::new(job, &checkpoint.weights)?;
        let device = trainer.model.device.clone();
        let tensors = |arrays: &Weights| -> Tensors {
            arrays.iter().map(|(name, array)| (name.to_string(), to_device(array, &device))).collect()
        };
        trainer.optimizer.momentum = tensors(&checkpoint.momentum);
        let average = tensors(&checkpoint.average);
        trainer.average = (!average.is_empty()).then_some(Average { tensors: average });
        let effects = tensors(&checkpoint.effects);
        trainer.sparsity.restore(checkpoint.kept, effects).map_err(|message| Error::file(&path, message))?;
        trainer.position = checkpoint.position;
        let Position { phase, begun, .. } = trainer.position;
        let kind = trainer.job.recipe.phases.get(phase).map(|phase| phase.kind);
        if begun && kind == Some(PhaseKind::Quantize) && !trainer.is_calibrated() {
            let message =
                "it ends in a phase of another kind than the recipe's: what has begun stays in recipe.toml as it was";
            return Err(Error::file(&path, message));
        }
        trainer.cut_metrics()?;
        Ok(trainer)
    }

    /// Runs the recipe to its end; false where Ctrl-C stopped it, with a checkpoint to go on from.
    ///
    /// # Errors
    /// A loss that isn't finite (the last good checkpoint stays), a file that cannot be written.
    pub fn run(&mut self) -> Result<bool> {
        while let Some(phase) = self.job.recipe.phases.get(self.position.phase) {
            if !self.position.begun {
                self.begin_phase(phase)?;
                self.average = phase.average_decay.map(|_| Average::new(&self.model));
                self.position.begun = true;
                self.save(LAST)?;
            }
            while self.position.epoch < phase.epochs {
                if !self.epoch(phase)? {
                    self.save(LAST)?;
                    return Ok(false);
                }
                self.position.epoch += 1;
                self.position.step = 0;
                self.position.tally = Default::default();
                self.save(LAST)?;
                if INTERRUPTED.load(Ordering::SeqCst) {
                    return Ok(false);
                }
            }
            self.save(&format!("{CHECKPOINTS}/{}-{}.safetensors", self.position.phase, phase.kind.name()))?;
            self.position.phase += 1;
            self.position.begun = false;
            self.position.epoch = 0;
            self.optimizer = Sgd::default();
            self.save(LAST)?;
        }
        Ok(true)
    }

    /// Accuracy on the test images of the float network before it was quantized, in percent.
    ///
    /// # Errors
    /// The float network's checkpoint is missing or damaged.
    pub fn float_accuracy(&self) -> Result<Option<f64>> {
        if self.job.recipe.evaluate_every == EvaluateEvery::Epoch {
            return Ok(self.position.float_accuracy);
        }
        let (weights, _) = Weights::load(&self.job.folder.join(FLOAT))?;
        let model = Model::new(self.job.graph, self.job.picture, &weights, self.job.device);
        let test = &self.job.dataset.test;
        Ok(Some(test.accuracy(&float_predictions(&model, Batches::in_order(test, EVALUATION_BATCH)))))
    }

    /// Images on which the float network is measured before it is quantized: the test images, or where those wait for the end the ones
    /// that are held out, or some of the training images. What they are called, and how many.
    fn reference(&self) -> (&'a Split, &'static str, usize) {
        let Dataset { train, validation, test, .. } = self.job.dataset;
        match self.job.recipe.evaluate_every {
            EvaluateEvery::Epoch => (test, "test", test.len()),
            EvaluateEvery::End if !validation.is_empty() => (validation, "validation", validation.len()),
            EvaluateEvery::End => (train, "training", self.job.recipe.calibration_images),
        }
    }

    /// Whether steps have been found already.
    fn is_calibrated(&self) -> bool {
        self.model.tensors.keys().any(|name| name.ends_with("_step"))
    }

    fn begin_phase(&mut self, phase: &Phase) -> Result<()> {
        if phase.kind == PhaseKind::Sparsify {
            self.sparsity.forget();
        }
        if phase.kind != PhaseKind::Quantize {
            return Ok(());
        }
        if self.position.float_accuracy.is_none() {
            let (split, name, images) = self.reference();
            let predictions = float_predictions(&self.model, Batches::in_order(split, EVALUATION_BATCH).first(images));
            let accuracy = split.accuracy(&predictions);
            self.position.float_accuracy = Some(accuracy);
            if !self.job.quiet {
                eprintln!("float accuracy on {name} images before quantization: {accuracy:.2} %");
            }
            if self.job.recipe.evaluate_every == EvaluateEvery::End {
                self.model.weights().save(&self.job.folder.join(FLOAT), Default::default())?;
            }
        }
        if self.job.recipe.quantize.fusion == Fusion::Once {
            self.model.fold_batch_norms();
        }
        if !self.is_calibrated() {
            calibrate(&mut self.model, self.job.recipe, &self.job.dataset.train)?;
        }
        self.correct_biases(phase);
        Ok(())
    }

    /// Takes from the biases what a chip's conversions add on average, where the network hasn't learned to live with it: where that
    /// lowers the loss.
    fn correct_biases(&mut self, phase: &Phase) {
        let plan = BitPlan::new(self.job.graph, &self.job.recipe.quantize);
        // For the noise these pictures come after those of any test set and before those of the first epoch.
        let mode = self.mode(phase, &plan, 0, 1, 1 << 31);
        let Mode::Quantized { plan, fusion, chip: Some(chip) } = mode else { return };
        let batch = Batches::in_order(&self.job.dataset.train, CORRECTION_BATCH).next();
        let batch = batch.expect("a data set has pictures");
        let mut corrected = self.model.clone();
        corrected.correct_biases(&batch.images, plan, fusion, chip);
        let loss = |model: &Model| {
            let logits = model.forward(&model.tensors, model.pictures(&batch.images), mode, |_, _| {}).logits;
            to_host(cross_entropy(logits, &batch.labels, 0.0))[0]
        };
        if loss(&corrected) < loss(&self.model) {
            self.model = corrected;
        }
    }

    /// One epoch from the position's step; false where it was interrupted.
    fn epoch(&mut self, phase: &Phase) -> Result<bool> {
        let Recipe { batch_size, seed, .. } = *self.job.recipe;
        let before: usize = self.job.recipe.phases[..self.position.phase].iter().map(|phase| phase.epochs).sum();
        let epoch = before + self.position.epoch;
        let train = &self.job.dataset.train;
        let steps = train.len().div_ceil(batch_size);
        let title = format!("{} {}/{}", phase.kind.name(), self.position.epoch + 1, phase.epochs);
        let mut progress = Progress::new(title, steps, self.position.step, self.job.quiet);
        let plan = BitPlan::new(self.job.graph, &self.job.recipe.quantize);
        let augment = self.augment()?;
        let batches = Batches::shuffled(train, batch_size, augment, seed, epoch as u64).after(self.position.step);
        let mut learning_rate = 0.0;
        for batch in batches {
            let started = Instant::now();
            let phase_step = self.position.epoch * steps + self.position.step;
            learning_rate = phase.learning_rate_at(phase_step, steps);
            let progress_in_phase = (phase_step + 1) as f64 / (phase.epochs * steps) as f64;
            // Training pictures are numbered after those of any test set.
            let first = ((epoch as u64 + 1) << 32) + (self.position.step * batch_size) as u64;
            let mode = self.mode(phase, &plan, phase_step, steps, first);
            let (loss, correct) = self.step(phase, mode, &batch, learning_rate, progress_in_phase)?;
            let tally = &mut self.position.tally;
            tally.loss += loss * batch.labels.len() as f64;
            tally.correct += correct;
            tally.pictures += batch.labels.len();
            tally.seconds += started.elapsed().as_secs_f64();
            self.position.step += 1;
            if let Some((average, decay)) = self.average.as_mut().zip(phase.average_decay) {
                average.update(&self.model, decay, phase_step + 1);
            }
            let tally = self.position.tally;
            progress.step(self.position.step, || {
                let pictures = tally.pictures as f64;
                format!(
                    "loss {:.4} accuracy {:.2} % {:.0} images/s",
                    tally.loss / pictures,
                    100.0 * tally.correct as f64 / pictures,
                    pictures / tally.seconds
                )
            });
            if INTERRUPTED.load(Ordering::SeqCst) && self.position.step < steps {
                self.check_finite()?;
                progress.finish("interrupted");
                return Ok(false);
            }
        }
        self.check_usable()?;
        self.end_epoch(phase, learning_rate, progress)?;
        Ok(true)
    }

    /// Seconds of each of `steps` steps of the first phase.
    pub fn time_steps(&mut self, steps: usize) -> Result<Vec<f64>> {
        let Recipe { batch_size, seed, .. } = *self.job.recipe;
        let phase = &self.job.recipe.phases[0];
        self.begin_phase(phase)?;
        let plan = BitPlan::new(self.job.graph, &self.job.recipe.quantize);
        let augment = self.augment()?;
        let train = &self.job.dataset.train;
        let full = train.len() / batch_size;
        if full == 0 {
            return Err(Error::Setting(format!(
                "batch_size = {batch_size}: the data set has {} pictures",
                train.len()
            )));
        }
        let mut batches = (0..).flat_map(|epoch| Batches::shuffled(train, batch_size, augment, seed, epoch).take(full));
        let mut seconds = Vec::new();
        for _ in 0..steps {
            let started = Instant::now();
            let batch = batches.next().expect("epochs have no end");
            self.step(phase, self.mode(phase, &plan, 0, full, 0), &batch, phase.learning_rate, 0.0)?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }

    fn end_epoch(&mut self, phase: &Phase, learning_rate: f64, progress: Progress) -> Result<()> {
        let started = Instant::now();
        let ends = self.position.epoch + 1 == phase.epochs;
        let evaluated = match &self.average {
            Some(average) => {
                let mut model = self.model.clone();
                model.tensors = average.tensors.clone();
                self.sparsity.mask(&mut model);
                model
            }
            None => self.model.clone(),
        };
        if ends && self.average.take().is_some() {
            self.model = evaluated.clone();
        }
        if phase.kind == PhaseKind::Sparsify && ends {
            self.sparsity.freeze(&self.model);
        }
        let Dataset { validation, test, .. } = self.job.dataset;
        let validation_accuracy =
            (!validation.is_empty()).then(|| self.accuracy(&evaluated, phase.kind, validation)).transpose()?;
        let meets_test = self.job.recipe.evaluate_every == EvaluateEvery::Epoch;
        let test_accuracy = meets_test.then(|| self.accuracy(&evaluated, phase.kind, test)).transpose()?;
        let tally = self.position.tally;
        let pictures = tally.pictures as f64;
        let metrics = Metrics {
            phase: phase.kind.name(),
            epoch: self.position.epoch + 1,
            loss: tally.loss / pictures,
            train_accuracy: 100.0 * tally.correct as f64 / pictures,
            validation_accuracy,
            test_accuracy,
            learning_rate,
            images_per_second: pictures / tally.seconds,
            group_sparsity: self.sparsity.zero_share(&self.model),
            penalty: self.sparsity.penalty(&self.model),
            seconds: tally.seconds + started.elapsed().as_secs_f64(),
        };
        let measured = |name: &str, accuracy: Option<f64>| {
            accuracy.map(|accuracy| format!(" {name} {accuracy:.2} %")).unwrap_or_default()
        };
        progress.finish(&format!(
            "loss {:.4} train {:.2} %{}{} zero groups {:.1} % {:.0} images/s {:.0} s",
            metrics.loss,
            metrics.train_accuracy,
            measured("validation", validation_accuracy),
            measured("test", test_accuracy),
            100.0 * metrics.group_sparsity,
            metrics.images_per_second,
            metrics.seconds
        ));
        let path = self.job.folder.join(METRICS);
        let line = serde_json::to_string(&metrics).map_err(|error| Error::file(&path, error.to_string()))?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        // On the disk before the checkpoint that counts it.
        file.and_then(|mut file| writeln!(file, "{line}").and_then(|()| file.sync_data())).map_err(Error::io(&path))?;
        self.position.metric_lines += 1;
        Ok(())
    }

    /// Accuracy of a network in a phase, in percent: in float, or as the hardware model will compute it.
    fn accuracy(&self, model: &Model, kind: PhaseKind, split: &Split) -> Result<f64> {
        let predictions = match kind {
            PhaseKind::Quantize => {
                let network = self.folded(model)?;
                fake_quant_predictions(&network, self.job.hardware, self.job.device, split)?
            }
            PhaseKind::Float | PhaseKind::Sparsify => {
                float_predictions(model, Batches::in_order(split, EVALUATION_BATCH))
            }
        };
        Ok(split.accuracy(&predictions))
    }

    /// Whether quantize phases train with what the chip's conversions lose.
    fn sees_conversions(&self) -> bool {
        self.job.recipe.quantize.converter_aware && !self.job.hardware.losses().is_empty()
    }

    /// The forward pass of a step of a phase; `first` is the number of its first picture among all that are trained on.
    fn mode<'m>(&self, phase: &Phase, plan: &'m BitPlan, step: usize, steps_per_epoch: usize, first: u64) -> Mode<'m>
    where
        'a: 'm,
    {
        let Recipe { quantize, .. } = self.job.recipe;
        let hardware = self.job.hardware;
        let fusion = phase.fusion_at(quantize.fusion, step, steps_per_epoch);
        match phase.kind {
            PhaseKind::Quantize => {
                let chip = self.sees_conversions().then_some(Chip { hardware, first, corrects: false });
                Mode::Quantized { plan, fusion, chip }
            }
            _ => Mode::FloatTraining,
        }
    }

    /// One step; the mean loss and the pictures classified right.
    fn step(
        &mut self,
        phase: &Phase,
        mode: Mode,
        batch: &Batch,
        learning_rate: f64,
        progress: f64,
    ) -> Result<(f64, usize)> {
        let leaves: Tensors = self
            .model
            .tensors
            .iter()
            .map(|(name, tensor)| {
                let leaf = Tensor::from_inner(tensor.clone());
                (name.clone(), if trains(name) { leaf.require_grad() } else { leaf })
            })
            .collect();
        let pictures = self.model.pictures(&batch.images);
        let output = self.model.forward(&leaves, Tensor::from_inner(pictures.clone()), mode, |_, _| {});
        let [_, classes] = output.logits.dims();
        let teacher =
            self.teacher.as_ref().zip(self.job.recipe.distillation.as_ref()).map(|(teacher, distillation)| {
                let logits = teacher.forward(&teacher.tensors, pictures, Mode::Float, |_, _| {}).logits;
                (Tensor::from_inner(logits), distillation)
            });
        let loss = loss(output.logits.clone(), &batch.labels, phase.label_smoothing, teacher);
        let value = f64::from(to_host(loss.clone().inner())[0]);
        if !value.is_finite() {
            return Err(self.explain_non_finite(value, batch, mode));
        }
        let logits = to_host(output.logits.inner());
        let correct =
            logits.chunks(classes).zip(&batch.labels).filter(|(logits, label)| largest(logits) == usize::from(**label));
        let correct = correct.count();
        let gradients = loss.backward();
        if phase.kind == PhaseKind::Sparsify {
            self.sparsity.observe(&self.model, |name| leaves.get(name)?.grad(&gradients));
        }
        self.optimizer.step(&mut self.model, leaves, gradients, phase, learning_rate);
        self.model.update_statistics(output.statistics);
        if phase.kind == PhaseKind::Sparsify {
            let threshold = learning_rate * self.job.recipe.sparsity.lambda;
            self.sparsity.shrink(&mut self.model, &mut self.optimizer, threshold);
            self.sparsity.approach(progress)?;
        }
        self.sparsity.apply(&mut self.model, &mut self.optimizer);
        Ok((value, correct))
    }

    /// Finds the first layer whose values aren't finite.
    fn explain_non_finite(&self, loss: f64, batch: &Batch, mode: Mode) -> Error {
        let mut culprit = None;
        let pictures = self.model.pictures(&batch.images);
        self.model.forward(&self.model.tensors, pictures, mode, |node, value| {
            if culprit.is_none() && to_host(value.clone()).iter().any(|value| !value.is_finite()) {
                culprit = Some(node.name.clone());
            }
        });
        self.diverged(culprit.as_deref(), &format!("the loss became {loss}"), self.position.step + 1)
    }

    /// Keeps the weights of an epoch that is right less than twice as often as by chance out of checkpoints: where its loss is far beyond a
    /// guess's `ln(classes)`, or where the float network, right four times as often as by chance, was better. A network that trains with a
    /// chip's conversions may begin anew, whatever the float network was.
    fn check_usable(&self) -> Result<()> {
        let Position { tally, step, .. } = self.position;
        let (loss, share) = (tally.loss / tally.pictures as f64, tally.correct as f64 / tally.pictures as f64);
        let classes = self.job.dataset.classes.len() as f64;
        let float = self.position.float_accuracy.filter(|_| !self.sees_conversions());
        let learned = float.is_some_and(|accuracy| accuracy > 400.0 / classes);
        if share < 2.0 / classes && (learned || loss > DIVERGED * classes.ln()) {
            let what = format!("the loss came to {loss:.3e} with {:.1} % right", 100.0 * share);
            return Err(self.diverged(None, &what, step));
        }
        self.check_finite()
    }

    /// Keeps weights that cannot be used out of checkpoints: the loss would show them only a step later.
    fn check_finite(&self) -> Result<()> {
        for (name, tensor) in &self.model.tensors {
            let step = name.ends_with("_step");
            let usable = |value: &f32| value.is_finite() && (!step || *value > 0.0);
            if let Some(value) = to_host(tensor.clone()).iter().find(|value| !usable(value)) {
                let layer = name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer);
                return Err(self.diverged(Some(layer), &format!("`{name}` became {value}"), self.position.step));
            }
        }
        Ok(())
    }

    /// Of a layer, where one is to blame.
    fn diverged(&self, layer: Option<&str>, what: &str, step: usize) -> Error {
        let Position { phase, epoch, .. } = self.position;
        let advice =
            "lower phases.learning_rate in the run's recipe.toml and go on from the last good checkpoint with --resume";
        let message = format!("{what} in phase {phase}, epoch {}, step {step}: {advice}", epoch + 1);
        match layer {
            Some(layer) => Error::layer(layer, message),
            None => Error::Setting(message),
        }
    }

    /// The network as it is exported now.
    ///
    /// # Errors
    /// A network that integers cannot hold.
    pub fn integer_network(&self) -> Result<IntegerNetwork> {
        self.folded(&self.model)
    }

    fn folded(&self, model: &Model) -> Result<IntegerNetwork> {
        let options = FoldOptions {
            quantize: &self.job.recipe.quantize,
            picture: self.job.picture,
            group: self.job.hardware.group,
            classes: &self.job.dataset.classes,
        };
        fold(self.job.graph, &model.weights(), &options)
    }

    fn augment(&self) -> Result<Augment> {
        let border = self.job.picture.zero_points.as_slice().try_into();
        let border = border.map_err(|_| Error::Setting("pictures of the data sets have three colors".into()))?;
        let (padding, flip) = if self.job.recipe.augment { (CROP_PADDING, true) } else { (0, false) };
        Ok(Augment { padding, flip, cutout: self.job.recipe.cutout, border })
    }

    /// Writes a checkpoint to a path in the run folder.
    fn save(&self, path: &str) -> Result<()> {
        let arrays = |tensors: &Tensors| {
            let mut arrays = Weights::default();
            for (name, tensor) in tensors {
                arrays.insert(name.clone(), Array::vector(to_host(tensor.clone())));
            }
            arrays
        };
        let (momentum, effects) = (arrays(&self.optimizer.momentum), arrays(self.sparsity.effects()));
        let average = self.average.as_ref().map(|average| arrays(&average.tensors)).unwrap_or_default();
        let kept = self.sparsity.kept().clone();
        let position = self.position.clone();
        Checkpoint { weights: self.model.weights(), momentum, average, kept, effects, position }
            .save(&self.job.folder.join(path))
    }

    /// Drops the lines of epochs that the checkpoint doesn't know, and one that was cut off.
    fn cut_metrics(&mut self) -> Result<()> {
        let path = self.job.folder.join(METRICS);
        let Some(text) = read_if_present(&path)? else { return Ok(()) };
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines: Vec<&str> = whole.take(self.position.metric_lines).collect();
        self.position.metric_lines = lines.len();
        write_atomically(&path, lines.concat().as_bytes())
    }
}

/// Cross entropy; with a teacher's logits of the same pictures `(1 - weight) * cross entropy + weight * temperature^2 * KL(teacher || student)`
/// (Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015).
fn loss(
    logits: Tensor<2>,
    labels: &[u8],
    label_smoothing: f64,
    teacher: Option<(Tensor<2>, &DistillationConfig)>,
) -> Tensor<1> {
    let labelled = cross_entropy(logits.clone(), labels, label_smoothing);
    match teacher {
        None => labelled,
        Some((teacher, &DistillationConfig { weight, temperature, .. })) => {
            let taught = divergence(teacher, logits, temperature);
            labelled * (1.0 - weight) + taught * (weight * temperature * temperature)
        }
    }
}

/// Mean over the images of `-ln(softmax(logits)[label])`; with `smoothing` s of `-sum_c t_c ln(softmax(logits)[c])`, where `t` is `1 - s + s / classes` for
/// the label and `s / classes` for each other class.
fn cross_entropy(logits: Tensor<2>, labels: &[u8], smoothing: f64) -> Tensor<1> {
    let labels: Vec<i64> = labels.iter().map(|label| i64::from(*label)).collect();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [logits.dims()[0], 1]), &logits.device());
    let logarithms = log_softmax(logits, 1);
    let labelled = logarithms.clone().gather(1, labels).neg().mean();
    if smoothing == 0.0 {
        return labelled;
    }
    labelled * (1.0 - smoothing) + logarithms.neg().mean() * smoothing
}

/// Mean over the pictures of `KL(teacher || student)`, both softened by `temperature`.
fn divergence(teacher: Tensor<2>, student: Tensor<2>, temperature: f64) -> Tensor<1> {
    let (teacher, student) = (log_softmax(teacher / temperature, 1), log_softmax(student / temperature, 1));
    (teacher.clone().exp() * (teacher - student)).sum_dim(1).mean()
}

/// Index of the largest value; the lowest of equal ones.
fn largest(values: &[f32]) -> usize {
    (0..values.len()).rev().max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

/// The float network's class of each image.
pub(crate) fn float_predictions(model: &Model, batches: Batches) -> Vec<u8> {
    let classes = |batch: Batch| {
        let logits = model.forward(&model.tensors, model.pictures(&batch.images), Mode::Float, |_, _| {}).logits;
        let count = logits.dims()[1];
        to_host(logits).chunks(count).map(|logits| largest(logits) as u8).collect::<Vec<u8>>()
    };
    batches.flat_map(classes).collect()
}

/// The fake-quant network's class of each picture on a chip.
///
/// # Errors
/// Weights wider than the macro can hold.
pub(crate) fn fake_quant_predictions(
    network: &IntegerNetwork,
    hardware: &Hardware,
    device: &Device,
    split: &Split,
) -> Result<Vec<u8>> {
    let fake_quant = FakeQuant::on_chip(network, hardware, device)?;
    let classes = network.classes.len();
    let mut predictions = Vec::with_capacity(split.len());
    for batch in Batches::in_order(split, EVALUATION_BATCH) {
        let logits = fake_quant.logits_from(predictions.len(), &batch.images);
        predictions.extend(logits.chunks(classes).map(|logits| predict(logits) as u8));
    }
    Ok(predictions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `KL(p || q) = sum p ln(p / q)`, here with `p = (3/4, 1/4)` and `q = (1/2, 1/2)` after the temperature.
    #[test]
    fn the_divergence_is_that_of_the_softened_classes() {
        let device = Device::flex();
        let temperature = 2.0;
        let teacher = Tensor::<2>::from_floats([[temperature * 3f32.ln(), 0.0], [1.0, 1.0]], &device);
        let student = Tensor::<2>::from_floats([[5.0, 5.0], [-2.0, -2.0]], &device);
        let found = to_host(divergence(teacher, student, f64::from(temperature)))[0];
        let expected = 0.5 * (0.75 * 1.5f32.ln() + 0.25 * 0.5f32.ln());
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn labels_and_teacher_share_the_loss() {
        let device = Device::flex();
        let student = Tensor::<2>::from_floats([[2.0, -1.0]], &device);
        let teacher = Tensor::<2>::from_floats([[0.5, 0.25]], &device);
        let labelled = to_host(cross_entropy(student.clone(), &[1], 0.0))[0];
        assert_eq!(to_host(loss(student.clone(), &[1], 0.0, None))[0], labelled);
        let softened = to_host(divergence(teacher.clone(), student.clone(), 3.0))[0];
        for (weight, expected) in [(0.0, labelled), (0.25, 0.75 * labelled + 2.25 * softened), (1.0, 9.0 * softened)] {
            let distillation = DistillationConfig { weight, temperature: 3.0, teacher: None };
            let found = to_host(loss(student.clone(), &[1], 0.0, Some((teacher.clone(), &distillation))))[0];
            assert!((found - expected).abs() < 1e-5, "{weight}: {found} {expected}");
        }
    }

    /// Logits whose softmax is (1/8, 3/4, 1/8), so that each class's share of the loss is known.
    #[test]
    fn label_smoothing_asks_for_the_other_classes_too() {
        let logits = Tensor::<2>::from_floats([[1f32.ln(), 6f32.ln(), 1f32.ln()]], &Device::flex());
        let found = to_host(cross_entropy(logits, &[1], 0.3))[0];
        let (label, other) = (-(0.75f32.ln()), -(0.125f32.ln()));
        assert!((found - (0.8 * label + 0.1 * other + 0.1 * other)).abs() < 1e-6, "{found}");
    }
}
