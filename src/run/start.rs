//! The network, the weights and the teacher that a recipe names.

use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

use crate::data::ImageShape;
use crate::error::{Error, Result};
use crate::files::Source;
use crate::integer::{BitPlan, LayerBits, Unfolded, WeightScale, unfold};
use crate::network::{
    ConvId, Graph, ImportOptions, Imported, NetworkSpec, Quantized, Weights, ZOO, import, weights_file, zoo,
};
use crate::package::{self, Package, is_package};
use crate::train::{DistillationConfig, PhaseKind, Recipe, StartFrom, State};

/// Where a new run's weights come from.
pub(super) enum Origin {
    /// A checkpoint.
    File(PathBuf),
    /// Random weights: the recipe asks for them, or the network has no checkpoint of its own.
    Random,
    /// Random weights: the network's own checkpoint isn't here.
    Missing(PathBuf),
}

/// What a new run starts from.
pub(super) struct Start {
    pub origin: Origin,
    pub weights: Weights,
    /// Numbers of the convolutions whose batch norms have no running statistics.
    pub without_statistics: Vec<ConvId>,
    /// The scales of a checkpoint whose quantizers were trained, and the recipe that did that, where the run begins with quantizing.
    pub quantized: Option<(Weights, Recipe)>,
    /// Whether they are those of a package, whose logits have no scale.
    pub is_package: bool,
    /// What a person should know about the checkpoint, a line each.
    pub remarks: Vec<String>,
    /// What the run learns from.
    pub teacher: Option<Weights>,
}

impl Origin {
    /// Finds where a recipe's weights come from, and writes it into the recipe.
    pub fn resolve(recipe: &mut Recipe) -> Self {
        let origin = match (recipe.checkpoint(), &recipe.pretrained, recipe.shipped_checkpoint()) {
            (Some(file), ..) => Self::File(file),
            (None, StartFrom::Shipped, Some(file)) => Self::Missing(file),
            (None, ..) => Self::Random,
        };
        recipe.pretrained = match &origin {
            Self::File(file) => StartFrom::File(file.clone()),
            Self::Random | Self::Missing(_) => StartFrom::Random,
        };
        origin
    }

    /// Whether its file and that of the recipe's teacher are there (`FILE#KEY` is a file, too), and what a new recipe says has a meaning.
    ///
    /// # Errors
    /// One of them isn't; layers to train anew where all are; an entry of `quantize.layers` without bits.
    pub fn check(&self, recipe: &Recipe) -> Result<()> {
        let nothing_to_read = match self {
            Self::File(_) => None,
            Self::Random => Some("the run starts from random weights, there is no checkpoint to read".to_string()),
            Self::Missing(file) => Some(format!("there is no {} here to read", file.display())),
        };
        if let (Some(reason), Some(layer)) = (nothing_to_read, recipe.fresh.first()) {
            return Err(Error::Setting(format!("fresh = [\"{layer}\"]: {reason}")));
        }
        let sets_none = |layer: &LayerBits| layer.weight_bits.or(layer.activation_bits).is_none();
        if let Some(index) = recipe.quantize.layers.iter().position(sets_none) {
            let message = format!("quantize.layers.{index}: it sets neither weight_bits nor activation_bits");
            return Err(Error::Setting(message));
        }
        let own = match self {
            Self::File(path) => Some(path.as_path()),
            Self::Random | Self::Missing(_) => None,
        };
        let teacher = recipe.distillation.as_ref().and_then(|distillation| distillation.teacher.as_deref());
        let mut files = own.into_iter().chain(teacher.map(Path::new));
        files.try_for_each(|path| Source::open(&weights_file(path).0).map(drop))
    }

    /// Reads the weights, and the teacher that the recipe names.
    ///
    /// # Errors
    /// A checkpoint that is missing or of another network; distillation without a network to learn from.
    pub fn read(self, recipe: &Recipe, graph: &Graph) -> Result<Start> {
        let Recipe { names, fresh, ignore, seed, .. } = recipe;
        let options = ImportOptions { names: Some(names), fresh, ignore, seed: *seed };
        let is_package = matches!(&self, Self::File(file) if is_package(file));
        let Imported { weights, without_statistics, quantized, mut remarks } = match &self {
            Self::File(file) if is_package => unfolded(file, recipe, graph)?,
            Self::File(file) => import(file, graph, &options)?,
            Self::Random | Self::Missing(_) => Weights::random(graph, recipe.seed).into(),
        };
        let teacher = match (&recipe.distillation, &self) {
            (None, _) => None,
            (Some(DistillationConfig { teacher: Some(file), .. }), _) => {
                let file = Path::new(file);
                // It may call its layers as the checkpoint does, or otherwise.
                let alike = ImportOptions { fresh: &[], ..options };
                let of_own_names = || import(file, graph, &ImportOptions::default());
                let teacher = match names.is_empty() && ignore.is_empty() {
                    true => of_own_names(),
                    false => import(file, graph, &alike).or_else(|_| of_own_names()),
                }?;
                remarks.extend(teacher.remarks);
                Some(with_statistics(file, teacher.weights, &teacher.without_statistics)?)
            }
            (Some(_), Self::File(file)) if recipe.fresh.is_empty() => {
                Some(with_statistics(file, weights.clone(), &without_statistics)?)
            }
            (Some(_), Self::File(_) | Self::Random | Self::Missing(_)) => {
                return Err(Error::Setting(
                    "distillation needs a network to learn from: name a --pretrained FILE or a distillation.teacher"
                        .into(),
                ));
            }
        };
        let quantized = quantized.filter(|_| begins_quantized(recipe));
        let quantized = quantized.and_then(|Quantized { scales, state }| match serde_json::from_value(state) {
            // Checkpoints of older versions don't say how they were quantized.
            Ok(State { recipe, .. }) => Some((scales, *recipe?)),
            Err(error) => {
                remarks.push(format!(
                    "the checkpoint's scales are left aside: its recipe isn't of this version ({error})"
                ));
                None
            }
        });
        Ok(Start { origin: self, weights, without_statistics, quantized, is_package, remarks, teacher })
    }
}

/// In what a package's network differs from the one that was asked for.
fn difference(found: &NetworkSpec, asked: &NetworkSpec) -> String {
    if (found.input, found.classes) != (asked.input, asked.classes) {
        let of = |spec: &NetworkSpec| format!("images {:?} and {} classes", spec.input, spec.classes);
        return format!("it has {}, that one {}", of(found), of(asked));
    }
    let layer = |spec: &NetworkSpec, index: usize| {
        spec.layers.get(index).map_or("missing".into(), |it| format!("`{}`", it.name()))
    };
    let count = found.layers.len().max(asked.layers.len());
    match (0..count).find(|index| found.layers.get(*index) != asked.layers.get(*index)) {
        Some(index) => match [found, asked].map(|spec| layer(spec, index)) {
            [found, asked] if found == asked => format!("layer {}, {found}, has other keys", index + 1),
            [found, asked] => format!("layer {} is {found} in the package, {asked} there", index + 1),
        },
        None => "they differ in batch norms' epsilon".into(),
    }
}

/// Whether the first phase quantizes, and can take over scales.
fn begins_quantized(recipe: &Recipe) -> bool {
    recipe.phases.first().is_some_and(|phase| phase.kind == PhaseKind::Quantize)
}

/// The float weights of a package of the network. Its scales stay where the run begins with quantizing at the package's own bits.
fn unfolded(file: &Path, recipe: &Recipe, graph: &Graph) -> Result<Imported> {
    let refused = |message: String| Error::file(file, message);
    let network = Package::read(file)?.network;
    let found = network.graph.spec();
    if (NetworkSpec { name: found.name.clone(), ..graph.spec().clone() }) != *found {
        return Err(refused(format!(
            "it holds the network `{}`, which isn't `{}` of --model: {}; --model {} takes the package's",
            found.name,
            graph.spec().name,
            difference(found, graph.spec()),
            file.display()
        )));
    }
    if let Some(layer) = recipe.fresh.first() {
        return Err(refused(format!(
            "`{layer}` cannot be trained anew: start from a checkpoint, or leave out --fresh"
        )));
    }
    if let Some(module) = recipe.ignore.first() {
        return Err(refused(format!(
            "it is a package, which has nothing but its network: leave out ignore = [\"{module}\"]"
        )));
    }
    let Unfolded { mut weights, scales } = unfold(&network, &recipe.image_scale())?;
    let goes_on = begins_quantized(recipe)
        && BitPlan::new(graph, &recipe.quantize) == BitPlan::of(&network)
        && scales.iter().any(|(_, array)| array.values.len() > 1)
            == (recipe.quantize.weight_scale == WeightScale::Column);
    if goes_on {
        scales.iter().for_each(|(name, array)| weights.insert(name.into(), array.clone()));
    }
    let remark = match goes_on {
        true => {
            "it is a package of the recipe's bits: its scales are taken over, its batch norms and the scale of its logits are measured anew"
        }
        false => {
            "it is a package: its weights are taken as floats, its batch norms and the scale of its logits are measured anew"
        }
    };
    Ok(Imported { weights, without_statistics: Vec::new(), quantized: None, remarks: vec![remark.into()] })
}

/// A teacher's weights: it is never trained, so nobody would measure what it lacks.
fn with_statistics(file: &Path, teacher: Weights, without: &[ConvId]) -> Result<Weights> {
    if without.is_empty() {
        return Ok(teacher);
    }
    let message = "it cannot teach: batch norms have no running statistics; start from it without distillation first, and name the checkpoint of that \
                   run as distillation.teacher";
    Err(Error::file(file, message))
}

impl Display for Origin {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file) => write!(f, "starting from {}", file.display()),
            Self::Random => write!(f, "starting from random weights"),
            Self::Missing(file) => write!(f, "starting from random weights: there is no {} here", file.display()),
        }
    }
}

/// A recipe's network: that of a TOML, ONNX or package file, or one of the zoo, for images of this shape and so many classes.
///
/// # Errors
/// There is none of that name; a file that is no network.
pub(super) fn network(recipe: &Recipe, images: impl FnOnce() -> Result<(ImageShape, usize)>) -> Result<NetworkSpec> {
    let model = &recipe.model;
    if !ZOO.contains(&model.as_str()) {
        return network_of_file(recipe);
    }
    let (ImageShape { channels, height, width }, classes) = images()?;
    let spec = zoo(model, classes).expect("it is in the list");
    Ok(with_epsilon(NetworkSpec { input: [channels, height, width], ..spec }, recipe))
}

/// The network of a recipe's TOML, ONNX or package file.
///
/// # Errors
/// The recipe names no such file; a file that is no network.
pub(crate) fn network_of_file(recipe: &Recipe) -> Result<NetworkSpec> {
    Ok(with_epsilon(package::network_of_file(Path::new(&recipe.model))?, recipe))
}

/// The network with what a recipe says that its batch norms add to a variance.
pub(super) fn with_epsilon(spec: NetworkSpec, recipe: &Recipe) -> NetworkSpec {
    NetworkSpec { batch_norm_epsilon: recipe.batch_norm_epsilon.unwrap_or(spec.batch_norm_epsilon), ..spec }
}
