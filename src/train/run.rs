//! A whole run, from a checked plan to the report: train, export, deploy.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::lock::RunLock;
use super::model::Model;
use super::recipe::{DistillationConfig, Recipe};
use super::sparsify::check_budget;
use super::trainer::{EVALUATION_BATCH, Job, Trainer, fake_quant_predictions, float_predictions};
use crate::data::{Batches, DataOptions, Dataset};
use crate::error::{Error, Result};
use crate::files::{read_toml, to_toml, write_atomically};
use crate::hardware::Hardware;
use crate::integer::{BitPlan, Fusion, PictureScale};
use crate::network::{Graph, NetworkSpec, Node, Op, Weights, ZOO, import, zoo};
use crate::package::{Package, Predictions, Provenance};
use crate::report;
use crate::run_folder::{CHECKPOINTS, DATA, HARDWARE, NETWORK, PACKAGE, RECIPE, TEACHER};
use crate::validation::{self, Deployment};

/// Devices that training runs on, by the name that `--device` takes.
pub const DEVICES: &[&str] = &[
    "flex",
    "ndarray",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "wgpu")]
    "wgpu",
];

/// The one that is taken where none is named.
pub const DEFAULT_DEVICE: &str = DEVICES[0];

/// The device of a name.
///
/// # Errors
/// Lists those that this build has.
pub fn device(name: &str) -> Result<Device> {
    match name {
        "flex" => Ok(Device::flex()),
        "ndarray" => Ok(ndarray_device()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        _ => Err(Error::Setting(format!(
            "there is no device `{name}` in this build, which has: {}; cuda and wgpu need --features cuda or wgpu",
            DEVICES.join(", ")
        ))),
    }
}

// Burn has deprecated it; it stays as the slow cross-check of the others.
#[allow(deprecated)]
fn ndarray_device() -> Device {
    Device::ndarray()
}

/// What a user asks for, before anything is read.
#[derive(Clone, Debug)]
pub struct Request {
    /// Recipe file.
    pub recipe: Option<PathBuf>,
    /// Settings `key=value` on top of it.
    pub settings: Vec<String>,
    /// Where data sets lie.
    pub data: DataOptions,
    /// Name of the device.
    pub device: String,
    /// Folder of the run.
    pub folder: Option<PathBuf>,
    /// Goes on with the run in `folder`.
    pub resume: bool,
    /// No progress.
    pub quiet: bool,
}

/// A run with everything read and checked.
pub struct Plan {
    recipe: Recipe,
    graph: Graph,
    hardware: Hardware,
    dataset: Dataset,
    picture: PictureScale,
    device: Device,
    folder: PathBuf,
    resume: bool,
    quiet: bool,
}

/// What a new run starts from.
struct Start {
    weights: Weights,
    /// What it learns from.
    teacher: Option<Weights>,
}

/// How a run ended.
pub enum Outcome {
    /// To the end: the folder and what the hardware model says.
    Finished(PathBuf, Box<Deployment>),
    /// Ctrl-C; it goes on from this folder.
    Interrupted(PathBuf),
}

/// The pictures that a run uses: it goes on with the same ones alone.
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

impl Plan {
    /// Reads and checks everything that a run needs, before it writes anything.
    ///
    /// # Errors
    /// Whatever is missing, damaged or doesn't fit together.
    pub fn new(request: Request) -> Result<Self> {
        let (recipe, folder) = if request.resume {
            let folder = request
                .folder
                .ok_or_else(|| Error::Setting("--resume needs --run DIR, the folder to go on with".into()))?;
            if request.recipe.is_some() || !request.settings.is_empty() {
                return Err(Error::Setting(
                    "--resume takes its recipe from the run folder: leave out --recipe, --set and the like".into(),
                ));
            }
            let file = folder.join(RECIPE);
            if !file.exists() {
                return Err(Error::file(&file, "there is no run to resume here"));
            }
            (Recipe::load(Some(&file), &[])?, folder)
        } else {
            let recipe = Recipe::load(request.recipe.as_deref(), &request.settings)?;
            let folder = match request.folder {
                Some(folder) => folder,
                None => free_folder(&recipe),
            };
            check_unused(&folder)?;
            (recipe, folder)
        };
        let device = device(&request.device)?;
        let hardware = match &recipe.hardware {
            Some(file) => Hardware::load(Path::new(file))?,
            None => Hardware::mars(),
        };
        if request.resume {
            let file = recipe.hardware.as_deref().unwrap_or("the built-in mars.toml");
            check_unchanged(&hardware, file, "chip", &folder.join(HARDWARE), Hardware::load)?;
        }
        let mut dataset = Dataset::load(&recipe.dataset, &request.data)?;
        if recipe.validation_images > 0 {
            dataset.hold_out(recipe.validation_images, recipe.seed)?;
        }
        if request.resume {
            check_unchanged(&DataHashes::new(&dataset), &recipe.dataset, "data set", &folder.join(DATA), read_toml)?;
        }
        let graph = model_graph(&recipe.model, &dataset)?;
        if request.resume {
            check_unchanged(graph.spec(), &recipe.model, "network", &folder.join(NETWORK), NetworkSpec::load)?;
        }
        recipe.quantize.check_patterns(&graph)?;
        check_logits(&graph, &recipe)?;
        check_widths(&graph, &recipe, &hardware)?;
        check_budget(&graph, &recipe, &hardware)?;
        Ok(Self {
            picture: recipe.picture_scale(),
            recipe,
            graph,
            hardware,
            dataset,
            device,
            folder,
            resume: request.resume,
            quiet: request.quiet,
        })
    }

    /// Accuracy in percent of the recipe's checkpoint on the test pictures, before any training.
    ///
    /// # Errors
    /// No checkpoint, or one of another network.
    pub fn evaluate(&self) -> Result<f64> {
        let Some(file) = self.recipe.checkpoint() else {
            return Err(Error::Setting("--evaluate needs --pretrained FILE".into()));
        };
        let model = Model::new(&self.graph, &self.picture, &import(&file, &self.graph)?, &self.device);
        let test = &self.dataset.test;
        Ok(test.accuracy(&float_predictions(&model, Batches::in_order(test, EVALUATION_BATCH))))
    }

    /// Trains, exports, runs the hardware model and writes the run folder.
    ///
    /// # Errors
    /// Another process that runs in the folder; a loss that isn't finite, a network that cannot be exported or mapped, a file that cannot be
    /// written: the last checkpoint stays.
    pub fn run(mut self) -> Result<Outcome> {
        let start = self.start()?;
        let _lock = RunLock::new(&self.folder)?;
        self.run_from(start)
    }

    /// The same where the caller has locked the folder.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    pub fn run_locked(mut self, _: &RunLock) -> Result<Outcome> {
        let start = self.start()?;
        self.run_from(start)
    }

    fn run_from(self, start: Option<Start>) -> Result<Outcome> {
        let checkpoints = self.folder.join(CHECKPOINTS);
        if let Some(Start { teacher, .. }) = &start {
            // Another process may have been here since the plan was made.
            check_unused(&self.folder)?;
            std::fs::create_dir_all(&checkpoints).map_err(Error::io(&checkpoints))?;
            if let Some(teacher) = teacher {
                teacher.save(&self.folder.join(TEACHER), Default::default())?;
            }
            write_atomically(&self.folder.join(HARDWARE), to_toml(&self.hardware)?.as_bytes())?;
            write_atomically(&self.folder.join(NETWORK), to_toml(self.graph.spec())?.as_bytes())?;
            write_atomically(&self.folder.join(DATA), to_toml(&DataHashes::new(&self.dataset))?.as_bytes())?;
            write_atomically(&self.folder.join(RECIPE), to_toml(&self.recipe)?.as_bytes())?;
        }
        let teacher = match self.recipe.distillation {
            Some(_) => {
                let path = self.folder.join(TEACHER);
                let (teacher, _) = Weights::load(&path)?;
                teacher.check(&self.graph).map_err(|error| Error::file(&path, error.to_string()))?;
                Some(teacher)
            }
            None => None,
        };
        self.say(&format!("run folder {}", self.folder.display()));
        let job = Job {
            recipe: &self.recipe,
            graph: &self.graph,
            dataset: &self.dataset,
            picture: &self.picture,
            hardware: &self.hardware,
            device: &self.device,
            teacher: teacher.as_ref(),
            folder: &self.folder,
            quiet: self.quiet,
        };
        let mut trainer = match &start {
            Some(Start { weights, .. }) => Trainer::new(job, weights)?,
            None => Trainer::resume(job)?,
        };
        if !trainer.run()? {
            return Ok(Outcome::Interrupted(self.folder));
        }
        let deployment = self.deploy(&trainer)?;
        Ok(Outcome::Finished(self.folder, Box::new(deployment)))
    }

    /// What a new run starts from; none for one that goes on.
    fn start(&mut self) -> Result<Option<Start>> {
        if self.resume {
            return Ok(None);
        }
        let file = self.recipe.checkpoint();
        let weights = match &file {
            Some(file) => import(file, &self.graph)?,
            None => Weights::random(&self.graph, self.recipe.seed),
        };
        let teacher = match &self.recipe.distillation {
            Some(DistillationConfig { teacher: Some(file), .. }) => Some(import(Path::new(file), &self.graph)?),
            Some(_) if file.is_some() => Some(weights.clone()),
            Some(_) => {
                return Err(Error::Setting(
                    "distillation needs a network to learn from: name a --pretrained FILE or a distillation.teacher"
                        .into(),
                ));
            }
            None => None,
        };
        self.say(&match (&file, &self.recipe.pretrained) {
            (Some(file), _) => format!("starting from {}", file.display()),
            (None, Some(_)) => "starting from random weights".into(),
            (None, None) => match self.recipe.shipped_checkpoint() {
                Some(file) => format!("starting from random weights: there is no {} here", file.display()),
                None => "starting from random weights".into(),
            },
        });
        self.recipe.pretrained = Some(file.map_or("none".into(), |file| file.display().to_string()));
        Ok(Some(Start { weights, teacher }))
    }

    fn deploy(&self, trainer: &Trainer) -> Result<Deployment> {
        let network = trainer.integer_network()?;
        let test = &self.dataset.test;
        let classes = fake_quant_predictions(&network, &self.hardware, &self.device, test)?;
        let data_sha256 = test.sha256();
        let provenance = Provenance {
            recipe: to_toml(&self.recipe)?,
            seed: self.recipe.seed,
            crate_version: env!("CARGO_PKG_VERSION").into(),
            dataset: self.dataset.name.clone(),
            data_sha256: data_sha256.clone(),
            float_accuracy: trainer.float_accuracy()?,
            fake_quant_accuracy: Some(test.accuracy(&classes)),
        };
        let predictions = Predictions { data_sha256, chip_sha256: self.hardware.losses_sha256(), classes };
        let package = Package { network, provenance, predictions: Some(predictions) };
        let path = self.folder.join(PACKAGE);
        package.write(&path)?;
        // From here on only what the file says counts.
        let deployment = validation::validate(&Package::read(&path)?, &self.hardware, test, None, self.quiet)?;
        report::write(&deployment, &self.folder)?;
        Ok(deployment)
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }
}

/// The network of a name or file, for a data set.
pub(super) fn model_graph(model: &str, dataset: &Dataset) -> Result<Graph> {
    let graph = Graph::new(model_spec(model, dataset.classes.len())?)?;
    check_input(&graph, dataset)?;
    Ok(graph)
}

/// A network of the zoo, or of a TOML file.
fn model_spec(model: &str, classes: usize) -> Result<NetworkSpec> {
    if let Some(spec) = zoo(model, classes) {
        return Ok(spec);
    }
    if model.ends_with(".toml") {
        return NetworkSpec::load(Path::new(model));
    }
    Err(Error::Setting(format!("there is no network `{model}`: name one of {} or a .toml file", ZOO.join(", "))))
}

fn check_input(graph: &Graph, dataset: &Dataset) -> Result<()> {
    let spec = graph.spec();
    if spec.input != [crate::data::COLORS, crate::data::SIDE, crate::data::SIDE]
        || spec.classes != dataset.classes.len()
    {
        return Err(Error::Setting(format!(
            "network `{}` reads {:?} and has {} classes; data set `{}` has pictures [3, 32, 32] and {} classes",
            spec.name,
            spec.input,
            spec.classes,
            dataset.name,
            dataset.classes.len()
        )));
    }
    Ok(())
}

/// The logits share one scale, so that they can be compared; a batch norm that stays outside would give each column its own.
fn check_logits(graph: &Graph, recipe: &Recipe) -> Result<()> {
    match graph.nodes().last() {
        Some(Node { name, op: Op::Conv { batch_norm: true, .. }, .. }) if recipe.quantize.fusion == Fusion::None => {
            Err(Error::layer(name, "quantize.fusion = \"none\" cannot leave the batch norm of the last layer outside"))
        }
        _ => Ok(()),
    }
}

/// The macro has to hold the weights of every layer.
fn check_widths(graph: &Graph, recipe: &Recipe, hardware: &Hardware) -> Result<()> {
    let plan = BitPlan::new(graph, &recipe.quantize);
    for (node, bits) in graph.nodes().iter().zip(&plan.nodes).filter(|(node, _)| node.conv().is_some()) {
        hardware.precision(bits.weights, bits.input).map_err(|message| Error::layer(&node.name, message))?;
    }
    Ok(())
}

/// A new run needs a folder without one.
fn check_unused(folder: &Path) -> Result<()> {
    match folder.join(RECIPE).exists() {
        true => Err(Error::file(folder, "it holds a run already: go on with --resume, or name another folder")),
        false => Ok(()),
    }
}

/// A run goes on on the chip, with the network and the pictures that it began with, whatever became of their files: strides and sources may change
/// without a shape that tells.
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
    let model = Path::new(&recipe.model).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut number = 1;
    loop {
        let folder = Path::new("runs").join(format!("{model}-{}-{number}", recipe.dataset));
        if !folder.exists() {
            return folder;
        }
        number += 1;
    }
}
