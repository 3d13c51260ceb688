//! The recipe of a run: what is trained on what, in which phases. TOML; unknown keys are errors with a suggestion.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Normalization;
use crate::error::{Error, Result, toml_message, with_suggestion};
use crate::files::to_toml;
use crate::integer::{Fusion, ImageScale, QuantizeConfig};
use crate::network::ZOO;

/// Everything that decides a run's result, beside the files it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// A network of the zoo, or a TOML file that describes one.
    pub model: String,
    /// Data set.
    pub dataset: String,
    /// What it starts from.
    #[serde(skip_serializing_if = "StartFrom::is_shipped")]
    pub pretrained: StartFrom,
    /// Hardware file; without it, the default chip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Seed of weights, order and augmentation.
    pub seed: u64,
    /// Images a step.
    pub batch_size: usize,
    /// Random crops and flips.
    pub augment: bool,
    /// Side of the square that is painted over in each training image, in pixels; 0 for none.
    pub cutout: usize,
    /// Training images that are held out, as many of each class: accuracy on them is what recipes are chosen by.
    pub validation_images: usize,
    /// When test images are met.
    pub evaluate_every: EvaluateEvery,
    /// Training images from which steps are calibrated.
    pub calibration_images: usize,
    /// How bytes become floats; ImageNet's constants if absent. A checkpoint needs those that it was trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// Bits and fusion.
    pub quantize: QuantizeConfig,
    /// Group sparsity.
    pub sparsity: SparsityConfig,
    /// Learning from the network that the run starts from, beside the labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
    /// What is done, in this order.
    pub phases: Vec<Phase>,
}

/// What a run starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum StartFrom {
    /// The network's own checkpoint in `checkpoints/`, or random weights where there is none.
    #[default]
    Shipped,
    /// Random weights; `none` in a recipe.
    Random,
    /// A checkpoint.
    File(PathBuf),
}

impl StartFrom {
    /// What a recipe says for random weights.
    const RANDOM: &str = "none";

    fn is_shipped(&self) -> bool {
        *self == Self::Shipped
    }
}

impl From<String> for StartFrom {
    fn from(text: String) -> Self {
        if text == Self::RANDOM { Self::Random } else { Self::File(text.into()) }
    }
}

impl From<StartFrom> for String {
    /// A recipe leaves out [`StartFrom::Shipped`], which has no text.
    fn from(start: StartFrom) -> Self {
        match start {
            StartFrom::Shipped => Self::new(),
            StartFrom::Random => StartFrom::RANDOM.into(),
            StartFrom::File(file) => file.display().to_string(),
        }
    }
}

/// When accuracy on the test images is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluateEvery {
    /// After each epoch.
    #[default]
    Epoch,
    /// Once, when the run ends: nothing can have been chosen by it.
    End,
}

/// Group sparsity: the penalty's strength and the budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SparsityConfig {
    /// Strength of the group-lasso penalty.
    pub lambda: f64,
    /// What the target is a share of.
    pub budget: Budget,
    /// Share of it that is gone at the end of the sparsifying phase, 0 to below 1; it means nothing with `budget = "lambda"`.
    pub target: f64,
}

/// What groups are dropped for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Only those that the penalty makes zero.
    Lambda,
    /// A share of all groups.
    #[default]
    Groups,
    /// A share of each layer's groups.
    GroupsPerLayer,
    /// A share of the bits of all weights; those left are the kept weights' and the index codes'.
    StoredBits,
    /// A share of the dense network's cycles on the hardware.
    Cycles,
    /// A share of the dense network's energy on the hardware.
    Energy,
}

impl Default for SparsityConfig {
    fn default() -> Self {
        Self { lambda: 1e-4, budget: Budget::default(), target: 0.5 }
    }
}

/// Knowledge distillation (Hinton et al. 2015): the loss is `(1 - weight) * cross entropy + weight * temperature^2 * KL(teacher ||
/// student)`, both softened by the temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DistillationConfig {
    /// Share of the teacher in the loss, 0 to 1.
    pub weight: f64,
    /// What the logits are divided by.
    pub temperature: f64,
    /// Checkpoint of the teacher, a float network of the same architecture; the network that the run starts from if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
}

impl Default for DistillationConfig {
    fn default() -> Self {
        Self { weight: 0.5, temperature: 4.0, teacher: None }
    }
}

/// What a phase trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    /// Float weights with batch norm.
    Float,
    /// Float weights with the group penalty; at its end the masks freeze.
    Sparsify,
    /// Quantized weights and activations.
    Quantize,
}

impl PhaseKind {
    /// The name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Sparsify => "sparsify",
            Self::Quantize => "quantize",
        }
    }
}

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
    pub(super) fn fusion_at(&self, fusion: Fusion, step: usize, steps_per_epoch: usize) -> Fusion {
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

impl Default for Recipe {
    /// 4 bits with half of the groups zero; the phases depend on what it starts from.
    fn default() -> Self {
        Self {
            model: "resnet20".into(),
            dataset: "cifar10".into(),
            pretrained: StartFrom::default(),
            hardware: None,
            seed: 0,
            batch_size: 128,
            augment: true,
            cutout: 0,
            validation_images: 0,
            evaluate_every: EvaluateEvery::default(),
            calibration_images: 1024,
            normalization: None,
            quantize: QuantizeConfig { weight_bits: 4, activation_bits: 4, ..QuantizeConfig::default() },
            sparsity: SparsityConfig::default(),
            distillation: None,
            phases: Vec::new(),
        }
    }
}

impl Recipe {
    /// Reads a recipe and applies settings `key=value`, where a key is a path such as `quantize.weight_bits` or `phases.0.epochs`
    /// and a value is TOML, or a bare word.
    ///
    /// A recipe without phases gets those of [`Recipe::default_phases`].
    ///
    /// # Errors
    /// A missing file, an unknown key (with the closest known one), a value of another type or out of range.
    pub fn load(path: Option<&Path>, settings: &[String]) -> Result<Self> {
        let name = path.map_or_else(|| "the default recipe".into(), |path| path.display().to_string());
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(Error::io(path))?,
            None => to_toml(&Self::default())?,
        };
        let mut table: toml::Table = toml::from_str(&text)
            .map_err(|error| Error::Setting(format!("{name}: {}", toml_message(&text, &error))))?;
        if table.get("rows").is_some_and(toml::Value::is_array) {
            let message =
                format!("{name}: it is an experiment, the rows of a table: run it with mars-reproduce {name}");
            return Err(Error::Setting(message));
        }
        let parse = |table: &toml::Table| -> Result<Self> {
            table.clone().try_into().map_err(|error: toml::de::Error| {
                let message = with_suggestion(error.message().trim());
                // A table has no lines; the reader ends with the key instead.
                let text = error.to_string();
                let key = text.lines().last().filter(|line| line.starts_with("in `"));
                Error::Setting(format!("{name}: {message}{}", key.map(|key| format!(" {key}")).unwrap_or_default()))
            })
        };
        let (of_phases, others): (Vec<&String>, Vec<&String>) = settings.iter().partition(|s| s.starts_with("phases"));
        others.into_iter().try_for_each(|setting| apply(&mut table, setting))?;
        let mut recipe = parse(&table)?;
        if recipe.phases.is_empty() {
            recipe.phases = Self::default_phases(recipe.checkpoint().is_some());
            table = to_toml(&recipe)?.parse().map_err(|error| Error::Setting(format!("{name}: {error}")))?;
        }
        of_phases.into_iter().try_for_each(|setting| apply(&mut table, setting))?;
        let recipe = parse(&table)?;
        recipe.check().map_err(|error| Error::Setting(format!("{name}: {error}")))?;
        Ok(recipe)
    }

    /// Removing groups, then quantization, an epoch each; before them 30 epochs of float training where there is no checkpoint to
    /// start from.
    pub fn default_phases(from_checkpoint: bool) -> Vec<Phase> {
        let float = Phase { warmup_epochs: 1.0, weight_decay: 5e-4, ..Phase::new(PhaseKind::Float, 30, 0.1) };
        let compression = [Phase::new(PhaseKind::Sparsify, 1, 0.01), Phase::new(PhaseKind::Quantize, 1, 0.004)];
        (!from_checkpoint).then_some(float).into_iter().chain(compression).collect()
    }

    /// The checkpoint to start from: the one that is named, or the network's own in `checkpoints/` if it is there.
    pub fn checkpoint(&self) -> Option<PathBuf> {
        match &self.pretrained {
            StartFrom::File(file) => Some(file.clone()),
            StartFrom::Random => None,
            StartFrom::Shipped => self.shipped_checkpoint().filter(|shipped| shipped.exists()),
        }
    }

    /// Where the project's own checkpoint of a network of the zoo lies, if there is one: `MODEL.safetensors` for CIFAR-10 and its
    /// extract, `MODEL-DATASET.safetensors` for other data sets.
    pub fn shipped_checkpoint(&self) -> Option<PathBuf> {
        if !ZOO.contains(&self.model.as_str()) {
            return None;
        }
        let name = match self.dataset.as_str() {
            "cifar10" | "cifar10-mini" => format!("{}.safetensors", self.model),
            dataset => format!("{}-{dataset}.safetensors", self.model),
        };
        Some(Path::new("checkpoints").join(name))
    }

    /// What a byte of the image is worth.
    pub fn image_scale(&self) -> ImageScale {
        let normalization = self.normalization.clone().unwrap_or_default();
        ImageScale { zero_points: normalization.zero_points(), std: normalization.std }
    }

    /// Whether a phase removes groups.
    pub fn sparsifies(&self) -> bool {
        self.phases.iter().any(|phase| phase.kind == PhaseKind::Sparsify)
    }

    /// Epochs of all phases together.
    pub fn epochs(&self) -> usize {
        self.phases.iter().map(|phase| phase.epochs).sum()
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the key, its value and the allowed range.
    pub fn check(&self) -> Result<()> {
        self.quantize.check()?;
        let setting = |ok: bool, message: String| if ok { Ok(()) } else { Err(Error::Setting(message)) };
        setting(self.batch_size > 0, "batch_size = 0: a step needs images".into())?;
        setting(self.calibration_images > 0, "calibration_images = 0: steps are calibrated from images".into())?;
        if let Some(Normalization { mean, std }) = &self.normalization {
            let (means, deviations) = (mean.len(), std.len());
            let message = format!(
                "{deviations} values in `normalization.std`, {means} in `normalization.mean`: both have one for each channel"
            );
            setting(means == deviations, message)?;
            let shares = mean.iter().all(|mean| (0.0..=1.0).contains(mean));
            setting(shares, format!("normalization.mean = {mean:?}: each must be from 0 to 1, a share of 255"))?;
            let positive = std.iter().all(|std| std.is_finite() && *std > 0.0);
            setting(positive, format!("normalization.std = {std:?}: each must be positive, a share of 255"))?;
        }
        let lambda = self.sparsity.lambda;
        setting(lambda.is_finite() && lambda >= 0.0, format!("sparsity.lambda = {lambda}: it must not be negative"))?;
        let target = self.sparsity.target;
        setting((0.0..1.0).contains(&target), format!("sparsity.target = {target}: it must be from 0 to below 1"))?;
        for (index, phase) in self.phases.iter().enumerate() {
            let positive = phase.learning_rate.is_finite() && phase.learning_rate > 0.0;
            setting(positive, format!("phases.{index}.learning_rate = {}: it must be positive", phase.learning_rate))?;
            let momentum = (0.0..1.0).contains(&phase.momentum);
            setting(momentum, format!("phases.{index}.momentum = {}: it must be from 0 to below 1", phase.momentum))?;
            let decay = phase.weight_decay.is_finite() && phase.weight_decay >= 0.0;
            setting(decay, format!("phases.{index}.weight_decay = {}: it must not be negative", phase.weight_decay))?;
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
            let removes = phase.kind == PhaseKind::Sparsify && target > 0.0 && self.sparsity.budget != Budget::Lambda;
            let message = format!(
                "phases.{index}.epochs = 0: a sparsify phase without epochs doesn't reach sparsity.target = {target}"
            );
            setting(phase.epochs > 0 || !removes, message)?;
            let warmup = (0.0..=phase.epochs as f64).contains(&phase.warmup_epochs);
            let key = format!("phases.{index}.warmup_epochs = {}", phase.warmup_epochs);
            setting(warmup, format!("{key}: it must be from 0 to the phase's {} epochs", phase.epochs))?;
            if let Some(at) = phase.freeze_at {
                let key = format!("phases.{index}.freeze_at = {at}");
                let within = (0.0..=phase.epochs as f64).contains(&at);
                setting(within, format!("{key}: it must be from 0 to the phase's {} epochs", phase.epochs))?;
                let batch = phase.kind == PhaseKind::Quantize && self.quantize.fusion.uses_batch();
                setting(
                    batch,
                    format!("{key}: only a quantize phase with fusion batch or ema has statistics to freeze"),
                )?;
            }
        }
        if let Some(DistillationConfig { weight, temperature, .. }) = self.distillation {
            let message = format!("distillation.weight = {weight}: it must be from 0 to 1");
            setting((0.0..=1.0).contains(&weight), message)?;
            let message = format!("distillation.temperature = {temperature}: it must be above 0, and from 0.1 to 100");
            setting((0.1..=100.0).contains(&temperature), message)?;
        }
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

/// The setting that gives a key this text, whatever characters are in it.
pub fn assignment(key: &str, value: &str) -> String {
    format!("{key}={}", toml::Value::from(value))
}

/// Sets one key of a table.
fn apply(table: &mut toml::Table, setting: &str) -> Result<()> {
    let (path, value) = setting
        .split_once('=')
        .ok_or_else(|| Error::Setting(format!("--set {setting}: it must have the form key=value")))?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.trim().into()));
    let unknown = |key: &str| Error::Setting(format!("--set {setting}: there is no `{key}`"));
    let mut keys = path.trim().split('.').peekable();
    let first = keys.next().unwrap_or_default();
    if keys.peek().is_none() {
        table.insert(first.into(), value);
        return Ok(());
    }
    let mut place = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    while let Some(key) = keys.next() {
        let last = keys.peek().is_none();
        place = match place {
            toml::Value::Table(table) if last => {
                table.insert(key.into(), value);
                return Ok(());
            }
            toml::Value::Table(table) => table.get_mut(key).ok_or_else(|| unknown(key))?,
            toml::Value::Array(list) => {
                key.parse::<usize>().ok().and_then(|index| list.get_mut(index)).ok_or_else(|| unknown(key))?
            }
            _ => return Err(unknown(key)),
        };
        if last {
            *place = value;
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(settings: &[&str]) -> String {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        Recipe::load(None, &settings).unwrap_err().to_string()
    }

    #[test]
    fn settings_reach_into_tables_and_lists() {
        let settings =
            ["quantize.weight_bits=3", "phases.1.epochs=5", "model=vgg8", "pretrained=none", "sparsity.target=0.75"];
        let recipe = Recipe::load(None, &settings.map(String::from)).unwrap();
        assert_eq!((recipe.quantize.weight_bits, recipe.phases[1].epochs), (3, 5));
        assert_eq!(recipe.phases[0].kind, PhaseKind::Float, "there is no checkpoint to start from");
        assert_eq!((recipe.model.as_str(), recipe.sparsity.target), ("vgg8", 0.75));
    }

    #[test]
    fn any_text_can_be_set() {
        for text in ["net.pt", "3", "my\u{a0}\"net\".pt", "a\\b", "true"] {
            let recipe = Recipe::load(None, &[assignment("pretrained", text)]).unwrap();
            assert_eq!(recipe.pretrained, StartFrom::File(text.into()));
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        assert!(message(&["quantize.weigth_bits=3"]).contains("did you mean `weight_bits`?"));
        assert!(message(&["quantize.weight_bits=9"]).contains("quantize.weight_bits = 9: it must be from 2 to 8"));
        assert!(message(&["phases.7.epochs=1"]).contains("there is no `7`"));
        assert!(message(&["quantize"]).contains("key=value"));
        assert!(message(&["phases.0.kind=quantise"]).contains("did you mean `quantize`?"));
        assert!(message(&["batch_size=0"]).contains("batch_size = 0"));
        assert!(message(&["pretrained=none", "phases.1.epochs=0"]).contains("doesn't reach sparsity.target = 0.5"));
        assert!(message(&["normalization.mean=[0.5, 0.5, 0.5]"]).contains("missing field `std`"));
        let normalization = |std| message(&["normalization.mean=[0.5, 0.5, 1.5]", std]);
        assert!(
            normalization("normalization.std=[0.2, 0.2, 0.2]").contains("normalization.mean = [0.5, 0.5, 1.5]: each")
        );
        assert!(normalization("normalization.std=[0.2, 0.2]").contains("in `normalization.std`"));
        assert!(message(&["normalization={mean = [0, 0, 0], std = [1, 1, 0]}"]).contains("each must be positive"));
        assert!(message(&["pretrained=none", "phases.0.warmup_epochs=-1"]).contains("from 0 to the phase's 30 epochs"));
        assert!(message(&["distillation.weight=2"]).contains("distillation.weight = 2: it must be from 0 to 1"));
        assert!(message(&["distillation.temperature=0"]).contains("it must be above 0"));
        let layers = "quantize.layers=[{pattern = \"conv1\", weight_bits = 9}]";
        assert!(message(&[layers]).contains("quantize.layers.0.weight_bits = 9: it must be from 2 to 8"));
        let freeze = |fusion, setting| message(&["pretrained=none", fusion, setting]);
        assert!(freeze("quantize.fusion=ema", "phases.2.freeze_at=2").contains("from 0 to the phase's 1 epochs"));
        assert!(freeze("quantize.fusion=once", "phases.2.freeze_at=1").contains("fusion batch or ema"));
        assert!(freeze("quantize.fusion=batch", "phases.1.freeze_at=1").contains("only a quantize phase"));
    }

    #[test]
    fn images_are_normalized_as_the_recipe_says() {
        let settings = ["normalization.mean=[0.4914, 0.4822, 0.4465]", "normalization.std=[0.2023, 0.1994, 0.2010]"];
        let recipe = Recipe::load(None, &settings.map(String::from)).unwrap();
        let ImageScale { zero_points, std } = recipe.image_scale();
        assert_eq!((zero_points, std), (vec![125, 123, 114], vec![0.2023, 0.1994, 0.2010]));
        let written = to_toml(&recipe).unwrap();
        assert!(written.contains("0.4914") && !written.contains("0.49140"), "{written}");
        assert_eq!(toml::from_str::<Recipe>(&written).unwrap(), recipe);
        assert_eq!(Recipe::default().image_scale().zero_points, [124, 116, 104], "ImageNet's");
    }

    #[test]
    fn each_data_set_has_its_own_checkpoints() {
        let file = |dataset: &str| Recipe { dataset: dataset.into(), ..Recipe::default() }.shipped_checkpoint();
        assert_eq!(file("cifar10"), Some("checkpoints/resnet20.safetensors".into()));
        assert_eq!(file("cifar10-mini"), file("cifar10"));
        assert_eq!(file("cifar100"), Some("checkpoints/resnet20-cifar100.safetensors".into()));
    }

    #[test]
    fn a_recipe_survives_being_written() {
        let recipe = Recipe { phases: Recipe::default_phases(false), ..Recipe::default() };
        assert_eq!(toml::from_str::<Recipe>(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
    }

    #[test]
    fn the_learning_rate_rises_then_falls_to_nothing() {
        let phase = Phase { warmup_epochs: 1.0, ..Phase::new(PhaseKind::Float, 10, 0.1) };
        let rates: Vec<f64> = (0..1000).map(|step| phase.learning_rate_at(step, 100)).collect();
        assert!(rates[0] < 0.002 && (rates[100] - 0.1).abs() < 1e-9 && rates[999] < 1e-5);
        assert!(rates[..100].is_sorted() && rates[100..].is_sorted_by(|a, b| a >= b));
    }
}
