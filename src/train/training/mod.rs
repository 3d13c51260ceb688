//! A training: phases, epochs and steps, from a position to the end of the recipe.
//!
//! | file | knows |
//! |---|---|
//! | `mod` | what a training is made of, how it is begun and driven, and what comes out |
//! | `phase` | what comes before the first step of a phase |
//! | `step` | the next batch, forward, backward and the update |
//! | `epoch` | the end of an epoch, accuracies, and the time that an epoch takes |
//! | `resume` | the training as a checkpoint, and back |

mod epoch;
mod phase;
mod resume;
mod step;

use std::sync::Arc;

use burn::tensor::Device;

pub(crate) use self::resume::check_recipe;
use super::calibrate::{Scales, measure_logits, measure_statistics};
use super::check;
use super::checkpoint::Position;
use super::device::{default_device, has_our_kernels};
use super::events::{Event, StepReport};
use super::health::check_finite;
use super::model::Model;
use super::optimizer::{Average, Sgd};
use super::predict::{fake_quant_predictions, float_logits};
use super::pruning::Pruner;
use super::recipe::Recipe;
use crate::data::{Dataset, EpochOrder};
use crate::error::{Error, Result};
use crate::hardware::Hardware;
use crate::integer::{BitPlan, FoldOptions, ImageScale, IntegerNetwork, fold};
use crate::network::{Array, ConvId, Graph, NetworkSpec, Params, Role, Weights};
use crate::observer::StopSignal;
use crate::package::{Package, Predictions, Provenance};
use crate::quantize::Quantizer;
use crate::run_folder::EpochReport;

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
    /// Scales that the first quantize phase may begin with.
    known_scales: Option<Scales>,
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
    /// A recipe out of range; images without labels, or labels without a class; a network that doesn't fit the data or the chip; a budget that the chip cannot meet.
    pub fn new(mut recipe: Recipe, network: NetworkSpec, mut data: Dataset, hardware: Hardware) -> Result<Self> {
        recipe.check()?;
        let graph = Graph::new(network)?;
        check::images(&data)?;
        if recipe.validation_images > 0 && data.validation.is_empty() {
            data.hold_out(recipe.validation_images, recipe.seed)?;
        }
        recipe.measure_normalization(&data.train);
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
            known_scales: None,
            pruner,
            position: Position::default(),
            float: None,
            order: None,
        })
    }

    /// The same on another device, before its first step.
    ///
    /// # Errors
    /// Those of [`new`](Self::new); a training that has begun.
    pub fn on_device(mut self, device: &Device) -> Result<Self> {
        self.check_unbegun("on_device")?;
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
        self.keep_zeros();
        Ok(self)
    }

    /// The same from these weights, before its first step. Scales of quantizers among them are left aside: they are those of other bits, or of another rule.
    ///
    /// # Errors
    /// An array of the network that is missing, has another shape, or isn't finite; a training that has begun.
    pub fn starting_from(self, weights: &Weights) -> Result<Self> {
        let of_floats = weights.iter().filter(|(name, _)| !Role::names_scale(name));
        let mut floats = Weights::default();
        of_floats.for_each(|(name, array)| floats.insert(name.into(), array.clone()));
        self.starting_with_scales(&floats)
    }

    /// The same with the scales among the weights, which have to be of the recipe's bits and rules.
    ///
    /// # Errors
    /// Those of [`starting_from`](Self::starting_from).
    pub(crate) fn starting_with_scales(mut self, weights: &Weights) -> Result<Self> {
        self.check_unbegun("starting_from")?;
        self.model = self.place(weights)?;
        self.keep_zeros();
        self.optimizer = Sgd::new(&self.model.params);
        Ok(self)
    }

    /// Refuses what would throw away momentum, masks and saliencies.
    fn check_unbegun(&self, method: &str) -> Result<()> {
        match self.position == Position::default() {
            true => Ok(()),
            false => Err(Error::Setting(format!("{method}: the training has begun, or goes on from a checkpoint"))),
        }
    }

    /// Masks the groups that are zero, where the recipe says so.
    fn keep_zeros(&mut self) {
        if self.recipe.sparsity.keep_zero_groups {
            self.pruner.keep_zeros(&self.model.params);
        }
    }

    /// Share of the groups that stay zero.
    pub fn masked_share(&self) -> f64 {
        self.pruner.masked_share()
    }

    /// Share of the groups by which whole ones may miss the target, and a percent at least.
    pub(crate) fn group_rounding(&self) -> f64 {
        self.pruner.rounding().max(0.01)
    }

    /// The same with the statistics of these convolutions' batch norms, measured on training images, where a checkpoint has none.
    pub fn with_measured_statistics(mut self, convs: &[ConvId]) -> Self {
        measure_statistics(&mut self.model, convs, &self.recipe, &self.data.train);
        self
    }

    /// The same with the scale of its logits measured on training images, as of a package, which has none.
    pub(crate) fn with_measured_logits(mut self) -> Self {
        let named = self.recipe.distillation.as_ref().and_then(|distillation| distillation.teacher.as_ref());
        // One that isn't named is the network that the run starts from.
        let teacher = self.teacher.as_mut().filter(|_| named.is_none());
        for model in std::iter::once(&mut self.model).chain(teacher) {
            measure_logits(model, &self.recipe, &self.data.train);
        }
        self
    }

    /// The same from weights that were quantized to these scales: the first phase, which quantizes, begins with them where its loss is lower than with
    /// calibrated ones. The float weights of few bits say little without their rounding.
    pub(crate) fn with_known_scales(mut self, scales: Scales) -> Self {
        self.known_scales = Some(scales);
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
        if self.recipe.distillation.is_some() && self.teacher.is_none() {
            let message = "distillation: the training has no network to learn from; give it one by learning_from";
            return Err(Error::Setting(message.into()));
        }
        if !begun {
            let (float, scales) = self.begin_phase(&phase)?;
            self.position.begun = true;
            return Ok(Event::PhaseBegan { phase: number, float, scales });
        }
        if epoch == phase.epochs {
            self.position.phase += 1;
            self.position.begun = false;
            self.position.epoch = 0;
            self.optimizer = Sgd::new(&self.model.params);
            return Ok(Event::PhaseEnded { phase: number });
        }
        if step < self.steps_per_epoch() {
            // Our kernels then share their work from a thread of the pool, and don't wake it each time.
            let report = match has_our_kernels(&self.model.device) {
                true => rayon::scope(|_| self.train_step(&phase)),
                false => self.train_step(&phase),
            };
            return report.map(Event::Step);
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

    fn steps_per_epoch(&self) -> usize {
        self.data.train.len().div_ceil(self.recipe.batch_size)
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
