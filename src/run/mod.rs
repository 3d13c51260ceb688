//! A run: a training in a folder, from a recipe to the report.
//!
//! | file | knows |
//! |---|---|
//! | `mod` | what a run needs, in which order its folder is written, and its end |
//! | `forecast` | what a run will take, measured on a few steps |
//! | `catalog` | what the programs know by name |
//! | `start` | the network, the weights and the teacher that a recipe names |
//! | `journal` | checkpoints and `metrics.jsonl` |

mod catalog;
mod forecast;
mod journal;
mod start;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::catalog::catalog;
pub use self::forecast::Forecast;
use self::forecast::size;
use self::journal::Journal;
pub(crate) use self::start::network_of_file;
use self::start::{Origin, Start, network, with_epsilon};
use crate::data::{DataOptions, Dataset, ImageShape};
use crate::error::{DataError, Diverged, Error, Result};
use crate::estimate::named_network;
use crate::files::{exists, part_beside, read_if_present, read_toml, to_json, to_toml, write_atomically};
use crate::hardware::Hardware;
use crate::integer::{Fusion, WeightScale};
use crate::network::{Graph, NetworkSpec, Weights, ZOO};
use crate::observer::{Observer, StopSignal};
use crate::package::{Package, is_package};
use crate::report::{self, text::grouped};
use crate::run_folder::{CHECKPOINTS, DATA, HARDWARE, LAST, METRICS, NETWORK, PACKAGE, RECIPE, RunLock, TEACHER};
use crate::simd::Arithmetic;
use crate::system::free_disk;
use crate::train::{Budget, Checkpoint, Phase, PhaseKind, Recipe, Training, check_recipe, device, largest, stretched};
use crate::validation::{Deployment, validate_until};

/// Where a run finds its data, what it computes on, and who hears of it.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Where data sets lie.
    pub data: &'a DataOptions,
    /// Name of the device.
    pub device: &'a str,
    /// Hears how far the run is.
    pub observer: &'a dyn Observer,
}

/// A run with everything read and checked.
pub struct Plan<'a> {
    training: Training,
    /// None for a run that goes on.
    start: Option<Start>,
    folder: PathBuf,
    /// Whether the caller named the folder; otherwise another run may take it first.
    is_named: bool,
    cpu: Cpu,
    device: &'a str,
    observer: &'a dyn Observer,
}

/// What is said where depthwise convolutions, whose filters fold to weights of very different size, are to share one scale.
fn scale_remark(recipe: &Recipe, graph: &Graph) -> Option<String> {
    let quantizes = recipe.phases.iter().any(|phase| phase.kind == PhaseKind::Quantize);
    let shares = recipe.quantize.weight_scale == WeightScale::Layer && recipe.quantize.fusion != Fusion::None;
    let depthwise = graph.convs().filter(|conv| conv.shape.groups > 1 && conv.shape.depth() == 1);
    let depthwise: Vec<String> = depthwise.map(|conv| conv.name).collect();
    let who = match depthwise.as_slice() {
        _ if !quantizes || !shares => return None,
        [] => return None,
        [one] => format!("`{one}` reads one channel a filter"),
        [first, others @ ..] => {
            format!("`{first}` and {} read one channel a filter", report::text::count(others.len(), "other layer"))
        }
    };
    Some(format!(
        "{who}: quantize.weight_scale = \"column\" spares much of what one scale a layer loses there (docs/training.md)"
    ))
}

/// Steps in which a network cannot get over the loss of its groups.
const FEW_STEPS: usize = 20;

/// What a person should know of a recipe: images that aren't trained with, a target that isn't read, little time to get over removed groups.
fn remarks(recipe: &Recipe, data: &Dataset) -> Vec<String> {
    let held_out = (!data.validation.is_empty()).then(|| {
        let [held_out, left] = [data.validation.len(), data.train.len()];
        format!(
            "{} held out, {} left to train with",
            report::text::count(held_out, "training image"),
            grouped(left as u64)
        )
    });
    let ignored = (recipe.sparsifies() && recipe.sparsity.budget == Budget::Lambda).then(|| {
        "sparsity.budget = \"lambda\": the penalty alone makes groups zero, sparsity.target is not read".into()
    });
    let steps = data.train.len().div_ceil(recipe.batch_size);
    let few = |(index, phase): (usize, &Phase)| {
        let steps = phase.epochs * steps;
        (phase.kind == PhaseKind::Sparsify && steps < FEW_STEPS).then(|| {
            format!(
                "phases.{index} removes groups within {}: more epochs or a smaller batch_size lose less",
                report::text::count(steps, "step")
            )
        })
    };
    let few = recipe.phases.iter().enumerate().filter_map(few);
    [held_out, ignored].into_iter().flatten().chain(few).collect()
}

/// Which CPU or other device a run may go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cpu {
    /// One that computes the same bits as the one before.
    Same,
    /// Any: the result is then neither's.
    Any,
}

/// How a run ended.
pub enum Outcome {
    /// To the end: the folder and what the hardware model says.
    Finished(PathBuf, Box<Deployment>),
    /// The stop signal; it goes on from this folder.
    Interrupted(PathBuf),
}

/// What a float network makes of the test images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FloatEvaluation {
    /// Share that is right, in percent.
    pub accuracy: f64,
    /// For each image its logits.
    pub logits: Vec<Vec<f32>>,
}

impl FloatEvaluation {
    /// As JSON.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn to_json(&self) -> Result<String> {
        to_json(self)
    }
}

/// The images that a run uses: it goes on with the same ones alone.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataHashes {
    train_sha256: String,
    test_sha256: String,
}

impl DataHashes {
    fn new(dataset: &Dataset) -> Self {
        Self { train_sha256: dataset.train.sha256(), test_sha256: dataset.test.sha256() }
    }
}

impl<'a> Plan<'a> {
    /// Reads and checks everything that a new run needs, before it writes anything. Without a folder it gets the first free
    /// `runs/MODEL-DATASET-N`.
    ///
    /// # Errors
    /// A folder that holds a run already; whatever is missing, damaged or doesn't fit together.
    pub fn new(mut recipe: Recipe, folder: Option<PathBuf>, environment: Environment<'a>) -> Result<Self> {
        let is_named = folder.is_some();
        let folder = folder.unwrap_or_else(|| free_folder(&recipe));
        let origin = Origin::resolve(&mut recipe);
        check_unused(&folder)?;
        let device = device(environment.device)?;
        let hardware = hardware(&recipe)?;
        // Cheap checks come before a download.
        recipe.check()?;
        origin.check(&recipe)?;
        let of_file = (!ZOO.contains(&recipe.model.as_str())).then(|| network_of_file(&recipe)).transpose()?;
        recipe.image_size = image_size(&recipe, of_file.as_ref())?;
        let data = dataset(&recipe, environment)?;
        let spec = of_file.map_or_else(|| network(&recipe, || Ok(shape_and_classes(&data))), Ok)?;
        // Cheap checks come before a checkpoint is read.
        let training = Training::new(recipe, spec, data, hardware)?.on_device(&device)?;
        let start = origin.read(training.recipe(), training.graph())?;
        environment.observer.notice(&start.origin.to_string());
        start.remarks.iter().for_each(|remark| environment.observer.notice(remark));
        if let Some(remark) = scale_remark(training.recipe(), training.graph()) {
            environment.observer.notice(&remark);
        }
        remarks(training.recipe(), training.data()).iter().for_each(|remark| environment.observer.notice(remark));
        let mut training =
            training.starting_with_scales(&start.weights)?.with_measured_statistics(&start.without_statistics);
        let masked = training.masked_share();
        if masked > 0.0 {
            environment.observer.notice(&format!(
                "{:.1} % of the groups are zero and stay so (sparsity.keep_zero_groups = false lets them learn)",
                100.0 * masked
            ));
        }
        if let Some((scales, before)) = &start.quantized {
            match stretched(training.graph(), scales, before, training.recipe()) {
                Ok(scales) => training = training.with_known_scales(scales),
                Err(reason) => {
                    environment.observer.notice(&format!("the checkpoint's scales are left aside: {reason}"));
                }
            }
        }
        if let Some(teacher) = &start.teacher {
            training = training.learning_from(teacher)?;
        }
        if start.is_package {
            training = training.with_measured_logits();
        }
        let Environment { device, observer, .. } = environment;
        Ok(Self { training, start: Some(start), folder, is_named, cpu: Cpu::Same, device, observer })
    }

    /// Reads and checks what an unfinished run goes on with.
    ///
    /// # Errors
    /// No run in the folder; a chip or a network that isn't the run's any more.
    pub fn resume(folder: PathBuf, cpu: Cpu, environment: Environment<'a>) -> Result<Self> {
        let file = folder.join(RECIPE);
        if !file.exists() {
            return Err(Error::file(&file, "there is no run to resume here"));
        }
        for name in [RECIPE, HARDWARE, NETWORK, DATA] {
            let path = folder.join(name);
            if read_if_present(&path)?.is_none_or(|text| text.trim().is_empty()) {
                let message = "it is gone or empty, and the run cannot go on without it: start a new run, from the last checkpoint with --pretrained";
                return Err(Error::file(&path, message));
            }
        }
        let recipe = Recipe::load(Some(&file), &[])?;
        let device = device(environment.device)?;
        // A file that is gone can't have been edited since: what the run began with stands beside it.
        let hardware = match &recipe.hardware {
            Some(file) if !exists(Path::new(file)) => Hardware::load(&folder.join(HARDWARE))?,
            _ => hardware(&recipe)?,
        };
        let chip = recipe.hardware.as_deref().unwrap_or("the built-in mars.toml");
        check_unchanged(&hardware, chip, "chip", &folder.join(HARDWARE), Hardware::load)?;
        let data = dataset(&recipe, environment).map_err(|error| match error {
            Error::Data(DataError::Unknown { name, .. }) => {
                let message = format!("its data set `{name}` isn't here: resume from the folder in which the run was started, from which paths are, or change `dataset` in this file to where it is");
                Error::file(&file, message)
            }
            error => error,
        })?;
        let spec = match recipe.model_file().is_some_and(|file| !exists(file)) {
            true => NetworkSpec::load(&folder.join(NETWORK))?,
            false => network(&recipe, || Ok(shape_and_classes(&data)))?,
        };
        check_unchanged(&spec, &recipe.model, "network", &folder.join(NETWORK), NetworkSpec::load)?;
        let training = Training::new(recipe, spec, data, hardware)?.on_device(&device)?;
        let training = match training.recipe().distillation {
            Some(_) => {
                let path = folder.join(TEACHER);
                let (teacher, _) = Weights::load(&path)?;
                training.learning_from(&teacher).map_err(|error| Error::file(&path, error.to_string()))?
            }
            None => training,
        };
        let Environment { device, observer, .. } = environment;
        Ok(Self { training, start: None, folder, is_named: true, cpu, device, observer })
    }

    /// What the recipe's checkpoint makes of the test images, in float, before any training.
    ///
    /// # Errors
    /// No checkpoint; values that aren't finite.
    pub fn evaluate(&self) -> Result<FloatEvaluation> {
        match &self.start {
            Some(Start { origin: Origin::File(_), .. }) => {
                let zero_points = self.training.recipe().image_scale().zero_points;
                self.observer
                    .notice(&format!("images are read as (byte - {zero_points:?}) / (255 std): means in whole bytes"));
                let (logits, test) = (self.training.float_test_logits()?, &self.training.data().test);
                let classes = logits.iter().map(|logits| largest(logits) as u16).collect::<Vec<_>>();
                Ok(FloatEvaluation { accuracy: test.accuracy(&classes), logits })
            }
            _ => Err(Error::Setting(
                "--evaluate needs --pretrained FILE, or a --model that has weights (.onnx, .mars)".into(),
            )),
        }
    }

    /// Measures what the run would take, and writes nothing but to see that the run folder can be made.
    ///
    /// # Errors
    /// A folder that cannot be written, or whose disk has no room for the checkpoints; a training that diverges, a network that cannot be exported.
    pub fn forecast(mut self) -> Result<Forecast> {
        let parent = self.folder.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
        let probe = part_beside(&parent.join("dry-run"));
        let probed = std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe));
        probed.map_err(|error| Error::file(parent, format!("no run folder can be made here: {error}")))?;
        let (train, test) = (self.training.data().train.len(), self.training.data().test.len());
        let graph = self.training.graph();
        self.observer.notice(&format!(
            "network {}: {:.2} M weights, {:.1} M multiplications an image; {train} training and {test} test images",
            graph.spec().name,
            graph.weights() as f64 / 1e6,
            graph.macs() as f64 / 1e6
        ));
        // A run doesn't keep what it started from either.
        let teacher = self.start.take().and_then(|start| start.teacher).map_or(0, |teacher| teacher.bytes());
        let forecast = Forecast::measured(self.training, teacher)?;
        if let Some(free) = free_disk(&self.folder).filter(|free| *free < forecast.disk) {
            let message = format!("checkpoints take {}, the disk has {} free", size(forecast.disk), size(free));
            return Err(Error::file(&self.folder, message));
        }
        Ok(forecast)
    }

    /// Trains, exports, runs the hardware model and writes the run folder.
    ///
    /// # Errors
    /// Another process that runs in the folder; a checkpoint, a recipe or data with which a run cannot go on; a training that diverges, a network that cannot be exported or mapped, a file that
    /// cannot be written: the last checkpoint stays.
    pub fn run(mut self, stop: &StopSignal) -> Result<Outcome> {
        if !self.is_named {
            self.folder = made_folder(self.training.recipe())?;
        }
        let lock = RunLock::new(&self.folder)?;
        self.run_locked(&lock, stop)
    }

    /// The same where the caller has locked the folder.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn run_locked(mut self, _: &RunLock, stop: &StopSignal) -> Result<Outcome> {
        let start = self.start.take();
        if let Some(start) = &start {
            self.write_start(start)?;
        }
        let resumes = start.is_none();
        drop(start);
        self.observer.notice(&format!("run folder {}", self.folder.display()));
        let journal = Journal::new(&self.folder, self.device);
        if resumes {
            self.training = resumed(self.training, &self.folder, self.cpu, &journal)?;
        }
        let has_checkpoint = || self.folder.join(LAST).exists();
        let followed = journal.follow(&mut self.training, self.observer, stop).map_err(|error| match error {
            Error::Diverged(diverged) => Error::Diverged(Diverged { resumable: has_checkpoint(), ..*diverged }.into()),
            error => error,
        });
        if !followed? {
            return Ok(Outcome::Interrupted(self.folder));
        }
        let path = self.folder.join(PACKAGE);
        self.training.package()?.write(&path)?;
        // From here on only what the file says counts.
        let (test, hardware) = (&self.training.data().test, self.training.hardware());
        let deployment = validate_until(&Package::read(&path)?, hardware, test, None, self.observer, stop)?;
        let Some(deployment) = deployment else { return Ok(Outcome::Interrupted(self.folder)) };
        report::write(&deployment, &self.folder)?;
        Ok(Outcome::Finished(self.folder, Box::new(deployment)))
    }

    /// Writes what a run begins with; the recipe comes last and says that the rest is there.
    fn write_start(&self, start: &Start) -> Result<()> {
        // Another process may have been here since the plan was made.
        check_unused(&self.folder)?;
        let checkpoints = self.folder.join(CHECKPOINTS);
        std::fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
        if let Some(teacher) = &start.teacher {
            teacher.save(&self.folder.join(TEACHER), None)?;
        }
        let training = &self.training;
        for (file, text) in [
            (HARDWARE, to_toml(training.hardware())?),
            (NETWORK, to_toml(training.graph().spec())?),
            (DATA, to_toml(&DataHashes::new(training.data()))?),
            (RECIPE, to_toml(training.recipe())?),
        ] {
            write_atomically(&self.folder.join(file), text.as_bytes())?;
        }
        Ok(())
    }
}

/// A training from the last checkpoint in a folder on.
fn resumed(training: Training, folder: &Path, cpu: Cpu, journal: &Journal) -> Result<Training> {
    let path = folder.join(LAST);
    if !path.exists() {
        let mut checkpoints = std::fs::read_dir(folder.join(CHECKPOINTS)).into_iter().flatten().flatten();
        let is_of_run =
            |path: &Path| path.extension().is_some_and(|it| it == "safetensors") && *path != folder.join(TEACHER);
        let others = checkpoints.any(|file| is_of_run(&file.path()));
        let message = match others {
            true => "it is missing: copy the checkpoint beside it that is to go on to this name",
            false => "the run ended before its first checkpoint: remove the folder and start again",
        };
        return Err(Error::file(&path, message));
    }
    let mut checkpoint = Checkpoint::load(&path, training.graph())?;
    let here = Arithmetic::here();
    if let Some(before) = checkpoint.state.arithmetic.filter(|before| cpu == Cpu::Same && *before != here) {
        let message = format!(
            "it was trained with {before}, this process has {here} and would end with other bits: resume on such a machine, or say \
             --allow-other-cpu"
        );
        return Err(Error::file(&path, message));
    }
    let other_device =
        checkpoint.state.device.as_deref().filter(|before| cpu == Cpu::Same && *before != journal.device);
    if let Some(before) = other_device {
        let message = format!(
            "it was trained on device {before}, and on {} would end with other bits: resume with --device {before}, or say --allow-other-cpu",
            journal.device
        );
        return Err(Error::file(&path, message));
    }
    // Before the images are compared: another seed holds out others.
    if let Some(before) = &checkpoint.state.recipe {
        let checked = check_recipe(before, training.recipe(), &checkpoint.state.position);
        checked.map_err(|message| Error::file(&path, message))?;
    }
    let name = &training.recipe().dataset;
    check_unchanged(&DataHashes::new(training.data()), name, "data set", &folder.join(DATA), read_toml)?;
    let metrics = journal.known_metrics(&mut checkpoint.state.position)?;
    let training = training.resumed(checkpoint).map_err(|message| Error::file(&path, message))?;
    metrics.map_or(Ok(()), |lines| journal.write_metrics(&lines))?;
    Ok(training)
}

/// The network that a recipe names, checked. A data set is read only for a network of the zoo whose recipe has another one than the default: without
/// it, the network has the images and classes that it was made for.
///
/// # Errors
/// There is no such network; a file that is none.
pub fn describe(recipe: &Recipe, environment: Environment) -> Result<NetworkSpec> {
    let default = Recipe::default();
    let spec = if (&recipe.dataset, recipe.image_size) == (&default.dataset, default.image_size) {
        let spec = named_network(&recipe.model, None, None)?;
        with_epsilon(spec, recipe)
    } else {
        network(recipe, || Ok(shape_and_classes(&dataset(recipe, environment)?)))?
    };
    Ok(Graph::new(spec)?.spec().clone())
}

/// What a network of the zoo must know of its images.
fn shape_and_classes(data: &Dataset) -> (ImageShape, usize) {
    (data.train.shape, data.classes.len())
}

/// What the images of a recipe are scaled to: a package says it where the recipe doesn't; `of_file` is its network where that has been read.
fn image_size(recipe: &Recipe, of_file: Option<&NetworkSpec>) -> Result<Option<[usize; 2]>> {
    if recipe.image_size.is_some() || !is_package(Path::new(&recipe.model)) {
        return Ok(recipe.image_size);
    }
    let [_, height, width] = match of_file {
        Some(spec) => spec.input,
        None => network_of_file(recipe)?.input,
    };
    Ok(Some([height, width]))
}

/// The images of a recipe.
pub(crate) fn dataset(recipe: &Recipe, environment: Environment) -> Result<Dataset> {
    let options = DataOptions { image_size: image_size(recipe, None)?, ..environment.data.clone() };
    Ok(Dataset::load_with(&recipe.dataset, &options, environment.observer)?)
}

/// The chip of a recipe.
pub(crate) fn hardware(recipe: &Recipe) -> Result<Hardware> {
    match &recipe.hardware {
        Some(file) => Hardware::load(Path::new(file)),
        None => Ok(Hardware::mars()),
    }
}

/// A new run needs a folder without one.
fn check_unused(folder: &Path) -> Result<()> {
    match [RECIPE, LAST, METRICS].into_iter().find(|name| folder.join(name).exists()) {
        Some(name) => {
            let message = format!("it holds a run already ({name}): go on with --resume, or name another folder");
            Err(Error::file(folder, message))
        }
        None => Ok(()),
    }
}

/// A resumed run must use the chip, network and data that it started with. Their files may have been edited since (a changed stride does not
/// change any array's shape), so contents are compared.
fn check_unchanged<T: PartialEq>(
    now: &T,
    file: &str,
    what: &str,
    began: &Path,
    load: fn(&Path) -> Result<T>,
) -> Result<()> {
    if *now == load(began)? {
        return Ok(());
    }
    let message =
        format!("it isn't the {what} of {file} any more, which the recipe names: bring that back, or start a new run");
    Err(Error::file(began, message))
}

/// `runs/MODEL-DATASET-N` with the first free N.
fn free_folder(recipe: &Recipe) -> PathBuf {
    let stem = |name: &str| Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (model, dataset) = (stem(&recipe.model), stem(&recipe.dataset));
    let folder = |number| Path::new("runs").join(format!("{model}-{dataset}-{number}"));
    (1..).map(folder).find(|folder| !folder.exists()).expect("a free number")
}

/// Makes the first free folder; runs that start at the same time get different ones.
fn made_folder(recipe: &Recipe) -> Result<PathBuf> {
    loop {
        let folder = free_folder(recipe);
        let parent = folder.parent().expect("it is in `runs`");
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(&folder)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::integer::QuantizeConfig;
    use crate::network::zoo;
    use crate::train::Phase;

    #[test]
    fn depthwise_convolutions_are_told_of_scales_for_each_filter() {
        let graph = |name| Graph::new(zoo(name, 10).unwrap()).unwrap();
        let recipe = |kind, weight_scale, fusion| Recipe {
            phases: vec![Phase::new(kind, 1, 0.001)],
            quantize: QuantizeConfig { weight_scale, fusion, ..QuantizeConfig::default() },
            ..Recipe::default()
        };
        let shared = recipe(PhaseKind::Quantize, WeightScale::Layer, Fusion::Ema);
        let said = scale_remark(&shared, &graph("mobilenetv2")).unwrap();
        assert!(said.starts_with("`features.1.conv.0.0` and 16 other layers read one channel a filter"), "{said}");
        let one = r#"name = "one"
            input = [8, 4, 4]
            classes = 2
            layers = [
                { op = "conv", name = "depthwise", filters = 8, kernel = 3, padding = 1, groups = 8 },
                { op = "linear", name = "linear", filters = 2 },
            ]"#;
        let said = scale_remark(&shared, &Graph::new(toml::from_str(one).unwrap()).unwrap()).unwrap();
        assert!(said.starts_with("`depthwise` reads one channel a filter"), "{said}");
        assert_eq!(scale_remark(&shared, &graph("resnet20")), None);
        for recipe in [
            recipe(PhaseKind::Float, WeightScale::Layer, Fusion::Ema),
            recipe(PhaseKind::Quantize, WeightScale::Column, Fusion::Ema),
            recipe(PhaseKind::Quantize, WeightScale::Layer, Fusion::None),
        ] {
            assert_eq!(scale_remark(&recipe, &graph("mobilenetv2")), None);
        }
    }
}
