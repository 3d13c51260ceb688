//! A run's state on disk: weights, momentum, masks and the position, so that a run continues bit for bit.
//!
//! One safetensors file: the weights under their names, `momentum:NAME`, `average:NAME`, `kept:CONVOLUTION` and `effects:CONVOLUTION` (one
//! number a group), and the position as JSON in the metadata. The order of pictures and their augmentation follow from the recipe's seed
//! and the position.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::{Array, Weights};

const POSITION: &str = "position";
const MOMENTUM: &str = "momentum:";
const KEPT: &str = "kept:";
const EFFECTS: &str = "effects:";
const AVERAGE: &str = "average:";

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Phase of the recipe.
    pub phase: usize,
    /// What comes before the phase's first step is done.
    #[serde(default)]
    pub begun: bool,
    /// Epochs done in the phase.
    pub epoch: usize,
    /// Steps done in the epoch.
    pub step: usize,
    /// Sums over the epoch's steps so far.
    pub tally: Tally,
    /// Lines of `metrics.jsonl` that belong to the run so far.
    pub metric_lines: usize,
    /// Accuracy of the float network before quantization, in percent: on the test images, or where those wait for the end on the images that
    /// the run may look at.
    pub float_accuracy: Option<f64>,
}

/// Sums over the steps of an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Loss times pictures.
    pub loss: f64,
    /// Pictures classified right.
    pub correct: usize,
    /// Pictures seen.
    pub pictures: usize,
    /// Seconds spent in steps.
    pub seconds: f64,
}

/// Everything a run needs to go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// Weights, running statistics and steps.
    pub weights: Weights,
    /// The optimizer's momentum.
    pub momentum: Weights,
    /// The exponential average of the weights; empty where none is kept.
    pub average: Weights,
    /// For each convolution, which groups are kept; empty before anything is sparse.
    pub kept: BTreeMap<String, Vec<bool>>,
    /// Sums of each group's effect on the loss, from which groups are chosen.
    pub effects: Weights,
    /// How far the run is.
    pub position: Position,
}

impl Checkpoint {
    /// Writes the checkpoint, beside its place first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut file = self.weights.clone();
        for (prefix, arrays) in [(MOMENTUM, &self.momentum), (AVERAGE, &self.average), (EFFECTS, &self.effects)] {
            for (name, array) in arrays.iter() {
                file.insert(format!("{prefix}{name}"), array.clone());
            }
        }
        for (name, kept) in &self.kept {
            let values = kept.iter().map(|kept| f32::from(u8::from(*kept))).collect();
            file.insert(format!("{KEPT}{name}"), Array::vector(values));
        }
        let position = serde_json::to_string(&self.position).map_err(|error| Error::file(path, error.to_string()))?;
        file.save(path, BTreeMap::from([(POSITION.into(), position)]))
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// A missing or damaged file, or one that holds weights without a run's position.
    pub fn load(path: &Path) -> Result<Self> {
        let (file, metadata) = Weights::load(path)?;
        let position = metadata.get(POSITION).ok_or_else(|| {
            Error::file(path, "it holds weights but no position in a run; use --pretrained to start from it")
        })?;
        let position =
            serde_json::from_str(position).map_err(|error| Error::file(path, format!("position: {error}")))?;
        let mut checkpoint = Self { position, ..Self::default() };
        for (name, array) in file.iter() {
            if let Some(name) = name.strip_prefix(MOMENTUM) {
                checkpoint.momentum.insert(name.into(), array.clone());
            } else if let Some(name) = name.strip_prefix(AVERAGE) {
                checkpoint.average.insert(name.into(), array.clone());
            } else if let Some(name) = name.strip_prefix(EFFECTS) {
                checkpoint.effects.insert(name.into(), array.clone());
            } else if let Some(name) = name.strip_prefix(KEPT) {
                checkpoint.kept.insert(name.into(), array.values.iter().map(|value| *value != 0.0).collect());
            } else {
                checkpoint.weights.insert(name.into(), array.clone());
            }
        }
        Ok(checkpoint)
    }
}
