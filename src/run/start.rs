//! The network, the weights and the teacher that a recipe names.

use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::network::{Graph, NetworkSpec, Weights, ZOO, import, zoo};
use crate::train::{DistillationConfig, Recipe, StartFrom};

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

    /// Reads the weights, and the teacher that the recipe names.
    ///
    /// # Errors
    /// A checkpoint that is missing or of another network; distillation without a network to learn from.
    pub fn read(self, recipe: &Recipe, graph: &Graph) -> Result<Start> {
        let weights = match &self {
            Self::File(file) => import(file, graph)?,
            Self::Random | Self::Missing(_) => Weights::random(graph, recipe.seed),
        };
        let teacher = match (&recipe.distillation, &self) {
            (None, _) => None,
            (Some(DistillationConfig { teacher: Some(file), .. }), _) => Some(import(Path::new(file), graph)?),
            (Some(_), Self::File(_)) => Some(weights.clone()),
            (Some(_), Self::Random | Self::Missing(_)) => {
                return Err(Error::Setting(
                    "distillation needs a network to learn from: name a --pretrained FILE or a distillation.teacher"
                        .into(),
                ));
            }
        };
        Ok(Start { origin: self, weights, teacher })
    }
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

/// A network of the zoo, or of a TOML file.
///
/// # Errors
/// There is none of that name.
pub(super) fn network(model: &str, classes: usize) -> Result<NetworkSpec> {
    if let Some(spec) = zoo(model, classes) {
        return Ok(spec);
    }
    if model.ends_with(".toml") {
        return NetworkSpec::load(Path::new(model));
    }
    Err(Error::Setting(format!("there is no network `{model}`: name one of {} or a .toml file", ZOO.join(", "))))
}
