//! What a recipe can say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PhaseKind;
use super::phase::Phase;
use crate::data::{DATASETS, Normalization, NormalizationConfig, Split};
use crate::files::exists;
use crate::integer::{ImageScale, QuantizeConfig};
use crate::network::{ZOO, is_onnx};
use crate::package::is_package;

/// Channels for which a recipe without `normalization` has ImageNet's constants.
const COLORS: usize = 3;

/// Everything that decides a run's result, beside the files it names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// A network of the zoo, or a TOML file that describes one, or an ONNX file or a package with its weights.
    pub model: String,
    /// Data set.
    pub dataset: String,
    /// Height and width to which the images of a folder are cut, around their middle, and scaled; their own if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<[usize; 2]>,
    /// What it starts from.
    #[serde(skip_serializing_if = "StartFrom::is_shipped")]
    pub pretrained: StartFrom,
    /// Layers of the network, or of the checkpoint, that are trained anew instead of taken from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fresh: Vec<String>,
    /// Modules of the checkpoint that aren't read, with all that lies in them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// What the checkpoint calls a layer, where its own name, shape and number don't tell; its batch norm is `LAYER.norm`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, String>,
    /// What batch norms add to a variance, in place of what the network says; layers that say their own keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_norm_epsilon: Option<f64>,
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
    /// Training images from which scales are calibrated.
    pub calibration_images: usize,
    /// How bytes become floats; ImageNet's constants if absent, or for images of other than three channels what is measured. A checkpoint needs
    /// the constants that it was trained with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<NormalizationConfig>,
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
    /// The network's own weights: those of its ONNX file or of its checkpoint in `checkpoints/`; random ones where there are none.
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
    /// Whether groups that are zero in the weights that a run starts from stay zero, and count for the target.
    pub keep_zero_groups: bool,
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
        Self { lambda: 1e-4, budget: Budget::default(), target: 0.5, keep_zero_groups: true }
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

impl Default for Recipe {
    /// 4 bits with half of the groups zero; the phases depend on what it starts from.
    fn default() -> Self {
        Self {
            model: "resnet20".into(),
            dataset: "cifar10".into(),
            image_size: None,
            pretrained: StartFrom::default(),
            fresh: Vec::new(),
            ignore: Vec::new(),
            names: BTreeMap::new(),
            batch_norm_epsilon: None,
            hardware: None,
            seed: 0,
            batch_size: 128,
            augment: true,
            cutout: 0,
            validation_images: 0,
            evaluate_every: EvaluateEvery::default(),
            calibration_images: 1024,
            normalization: None,
            quantize: QuantizeConfig::default(),
            sparsity: SparsityConfig::default(),
            distillation: None,
            phases: Vec::new(),
        }
    }
}

impl Recipe {
    /// Removing groups, then quantization, an epoch each; before them 30 epochs of float training where there is no checkpoint to
    /// start from.
    pub fn default_phases(from_checkpoint: bool) -> Vec<Phase> {
        let float = Phase { warmup_epochs: 1.0, weight_decay: 5e-4, ..Phase::new(PhaseKind::Float, 30, 0.1) };
        let compression = [Phase::new(PhaseKind::Sparsify, 1, 0.01), Phase::new(PhaseKind::Quantize, 1, 0.004)];
        (!from_checkpoint).then_some(float).into_iter().chain(compression).collect()
    }

    /// The same for what its weights make of the test images in float, where bits, groups, a chip and a teacher have no say.
    pub fn in_float(self) -> Self {
        let Self { quantize, sparsity, .. } = Self::default();
        let sparsity = SparsityConfig { keep_zero_groups: self.sparsity.keep_zero_groups, ..sparsity };
        // It doesn't begin with scales.
        let phases = vec![Phase::new(PhaseKind::Float, 0, 1.0), Phase::new(PhaseKind::Quantize, 0, 1.0)];
        Self { quantize, sparsity, phases, hardware: None, distillation: None, ..self }
    }

    /// The file of its network; none for one of the zoo.
    pub fn model_file(&self) -> Option<&Path> {
        Some(Path::new(&self.model)).filter(|model| model.extension().is_some())
    }

    /// The checkpoint to start from: the one that is named; the network's own file where that has weights, or its checkpoint in
    /// `checkpoints/` if that is there.
    pub fn checkpoint(&self) -> Option<PathBuf> {
        match &self.pretrained {
            StartFrom::File(file) => Some(file.clone()),
            StartFrom::Random => None,
            StartFrom::Shipped if self.model_file().is_some_and(|file| is_onnx(file) || is_package(file)) => {
                Some(self.model.clone().into())
            }
            StartFrom::Shipped => self.shipped_checkpoint().filter(|shipped| exists(shipped)),
        }
    }

    /// Where the project's own checkpoint of a network of the zoo lies, if there is one: `MODEL.safetensors` for CIFAR-10 and its
    /// extract, `MODEL-DATASET.safetensors` for other data sets.
    pub fn shipped_checkpoint(&self) -> Option<PathBuf> {
        if !ZOO.contains(&self.model.as_str()) || !DATASETS.contains(&self.dataset.as_str()) {
            return None;
        }
        let name = match self.dataset.as_str() {
            "cifar10" | "cifar10-mini" => format!("{}.safetensors", self.model),
            dataset => format!("{}-{dataset}.safetensors", self.model),
        };
        Some(Path::new("checkpoints").join(name))
    }

    /// Puts what is measured on training images in place of [`NormalizationConfig::Measured`], and where images have other than three channels in
    /// place of nothing.
    pub(in crate::train) fn measure_normalization(&mut self, train: &Split) {
        if self.measures_normalization(train.shape.channels) {
            self.normalization = Some(NormalizationConfig::Constants(Normalization::measured(train)));
        }
    }

    /// Whether mean and deviation of images of so many channels are measured on the training images.
    fn measures_normalization(&self, channels: usize) -> bool {
        match self.normalization {
            Some(NormalizationConfig::Constants(_)) => false,
            Some(NormalizationConfig::Measured) => true,
            None => channels != COLORS,
        }
    }

    /// As it was before a run found what `planned` leaves to the images and to a package.
    pub(crate) fn before_run(&self, planned: &Self) -> Self {
        let mut recipe = self.clone();
        if let Some(NormalizationConfig::Constants(found)) = &self.normalization
            && planned.measures_normalization(found.std.len())
        {
            recipe.normalization = planned.normalization.clone();
        }
        if is_package(Path::new(&self.model)) && planned.image_size.is_none() {
            recipe.image_size = None;
        }
        recipe
    }

    /// What a byte of the image is worth.
    ///
    /// # Panics
    /// Where that is still to be measured, as it is in no recipe of a [`Training`](crate::train::Training).
    pub fn image_scale(&self) -> ImageScale {
        let normalization = match &self.normalization {
            Some(NormalizationConfig::Constants(normalization)) => normalization.clone(),
            Some(NormalizationConfig::Measured) => panic!("a normalization that hasn't been measured"),
            None => Normalization::default(),
        };
        ImageScale { zero_points: normalization.zero_points(), std: normalization.std }
    }

    /// Whether a phase removes groups.
    pub fn sparsifies(&self) -> bool {
        self.phases.iter().any(|phase| phase.kind == PhaseKind::Sparsify)
    }

    /// Whether groups are chosen by what they cost on the chip, which each choice asks the hardware model for.
    pub fn chooses_by_cost(&self) -> bool {
        self.sparsifies() && matches!(self.sparsity.budget, Budget::Cycles | Budget::Energy)
    }

    /// Epochs of all phases together.
    pub fn epochs(&self) -> usize {
        self.phases.iter().map(|phase| phase.epochs).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::ImageShape;
    use crate::files::to_toml;

    /// As it stands the text of docs/recipe.md is the default recipe; with its examples it has every key.
    #[test]
    fn the_page_of_recipes_has_every_key_and_its_default() {
        let page = include_str!("../../../docs/recipe.md");
        let text = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let default: Recipe = toml::from_str(text).unwrap();
        assert_eq!(default, Recipe { phases: Recipe::default_phases(true), ..Recipe::default() });
        let lines: Vec<&str> = text.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).collect();
        toml::from_str::<Recipe>(&lines.join("\n")).unwrap();
        let said: toml::Value = toml::from_str(&lines.join("\n")).unwrap();
        // The message about a key that isn't there names those that are.
        let keys = |text: &str| {
            let message = toml::from_str::<Recipe>(text).unwrap_err().message().to_owned();
            let names = message.split_once("expected one of").unwrap().1.split('`').skip(1).step_by(2);
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        for (part, text, of_page) in [
            ("the recipe", "unknown = 1", &said),
            ("quantize", "quantize = { unknown = 1 }", &said["quantize"]),
            ("quantize.layers", "quantize = { layers = [{ unknown = 1 }] }", &said["quantize"]["layers"][0]),
            ("sparsity", "sparsity = { unknown = 1 }", &said["sparsity"]),
            ("distillation", "distillation = { unknown = 1 }", &said["distillation"]),
            ("phases", "phases = [{ unknown = 1 }]", &said["phases"][0]),
        ] {
            let keys = keys(text);
            assert!(keys.len() > 2, "{part}: {keys:?}");
            let missing: Vec<_> = keys.iter().filter(|key| of_page.get(key).is_none()).collect();
            assert!(missing.is_empty(), "{part}: {missing:?}");
        }
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
    fn what_is_measured_takes_the_place_of_the_word_and_of_nothing() {
        let shape = |channels| ImageShape { channels, height: 1, width: 2 };
        let colors = Split { shape: shape(3), images: vec![0, 255, 51, 51, 255, 255].into(), labels: vec![0] };
        let gray = Split { shape: shape(1), images: vec![102, 102, 0, 204].into(), labels: vec![0, 1] };
        let mut recipe = Recipe::load(None, &["normalization=measured".into()]).unwrap();
        assert!(to_toml(&recipe).unwrap().contains("normalization = \"measured\""));
        recipe.measure_normalization(&colors);
        assert_eq!(recipe.image_scale().zero_points, [128, 51, 255]);
        assert_eq!(recipe.image_scale().std, [0.5, 1.0 / 255.0, 1.0 / 255.0]);
        let measured = recipe.clone();
        recipe.measure_normalization(&gray);
        assert_eq!(recipe, measured, "it is measured once");
        assert_eq!(toml::from_str::<Recipe>(&to_toml(&recipe).unwrap()).unwrap(), recipe);
        let mut silent = Recipe::default();
        silent.measure_normalization(&colors);
        assert_eq!(silent.normalization, None, "ImageNet's constants");
        silent.measure_normalization(&gray);
        assert_eq!(silent.image_scale().zero_points, [102]);
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
}
