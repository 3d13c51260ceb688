//! A run's state on disk: parameters, momentum, masks and the position, so that a run continues bit for bit.
//!
//! One safetensors file: the parameters under their names, `momentum:NAME`, `average:NAME`, `float:NAME` (the float network before it was quantized),
//! `kept:CONVOLUTION` and `effects:CONVOLUTION` (the saliencies; one number a group), and the state beside them: the position and the
//! arithmetic that it was trained in. The order of images and their augmentation follow from
//! the recipe's seed and the position.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::recipe::Recipe;
use crate::error::{Error, Result};
use crate::network::state::{AVERAGE, FLOAT, KEPT, MOMENTUM, SALIENCY};
use crate::network::{Array, Conv, Graph, ParamId, Params, Weights};
use crate::simd::Arithmetic;

/// How far a training is.
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
    /// Loss times images.
    pub loss: f64,
    /// Images classified right.
    pub correct: usize,
    /// Images seen; by the name that checkpoints have had from the first on.
    #[serde(rename = "pictures")]
    pub images: usize,
    /// Seconds spent in steps.
    pub seconds: f64,
}

/// Everything a training needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Weights, batch norms and scales.
    pub params: Params<Array>,
    /// The optimizer's momentum, of each parameter that has had a gradient.
    pub momentum: Params<Option<Array>>,
    /// The exponential average of the parameters, where one is taken.
    pub average: Option<Params<Array>>,
    /// For each convolution, which groups are kept; none before anything is pruned.
    pub kept: Option<Vec<Vec<bool>>>,
    /// For each convolution, the sum of each group's saliency, from which groups are chosen.
    pub saliency: Option<Vec<Vec<f32>>>,
    /// The float network before it was quantized, where its accuracy is measured at the end.
    pub float: Option<Params<Array>>,
    /// How far the training is, and in what.
    pub state: State,
}

/// What a checkpoint says beside its arrays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// How far the training is.
    pub position: Position,
    /// What the last steps were computed in; older checkpoints don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<Arithmetic>,
    /// Name of the device that the last steps were computed on; older checkpoints and those of a training without a folder don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The recipe that brought it there; older checkpoints don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Box<Recipe>>,
}

impl Checkpoint {
    /// Bytes of its arrays.
    pub fn bytes(&self) -> u64 {
        let parameters = [Some(&self.params), self.average.as_ref(), self.float.as_ref()].into_iter().flatten();
        let arrays = parameters.flat_map(Params::iter).map(|(_, array)| array);
        let momentum = self.momentum.iter().filter_map(|(_, array)| array.as_ref());
        let groups = self.kept.iter().flatten().map(Vec::len).chain(self.saliency.iter().flatten().map(Vec::len));
        let values = arrays.chain(momentum).map(|array| array.values.len()).chain(groups).sum::<usize>();
        (values * size_of::<f32>()) as u64
    }

    /// Writes the checkpoint, beside its place first.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, graph: &Graph) -> Result<()> {
        let mut file = self.params.to_arrays(graph);
        let momentum = self.momentum.iter().filter_map(|(id, array)| Some((MOMENTUM, id, array.as_ref()?)));
        for (prefix, id, array) in momentum {
            file.insert(format!("{prefix}{}", id.name(graph)), array.clone());
        }
        for (prefix, params) in [(AVERAGE, &self.average), (FLOAT, &self.float)] {
            for (id, array) in params.iter().flat_map(Params::iter) {
                file.insert(format!("{prefix}{}", id.name(graph)), array.clone());
            }
        }
        for (conv, saliency) in graph.convs().zip(self.saliency.iter().flatten()) {
            file.insert(format!("{SALIENCY}{}", conv.name), Array::vector(saliency.clone()));
        }
        for (conv, kept) in graph.convs().zip(self.kept.iter().flatten()) {
            let values = kept.iter().map(|kept| f32::from(u8::from(*kept))).collect();
            file.insert(format!("{KEPT}{}", conv.name), Array::vector(values));
        }
        let state = serde_json::to_value(&self.state).map_err(|error| Error::file(path, error.to_string()))?;
        file.save(path, Some(state))
    }

    /// Reads a checkpoint of a network.
    ///
    /// # Errors
    /// A missing or damaged file, one that holds weights without a run's position, or one of another network.
    pub fn load(path: &Path, graph: &Graph) -> Result<Self> {
        let (file, state) = Weights::load(path)?;
        let state = state.ok_or_else(|| {
            Error::file(path, "it holds weights but no position in a run; use --pretrained to start from it")
        })?;
        let state = serde_json::from_value(state).map_err(|error| Error::file(path, error.to_string()))?;
        Self::from_arrays(graph, &file, state).map_err(|error| Error::file(path, error.to_string()))
    }

    fn from_arrays(graph: &Graph, file: &Weights, state: State) -> Result<Self> {
        file.iter().try_for_each(|(name, array)| array.check_finite(name))?;
        let prefixed = |prefix| {
            let arrays = file.with_prefix(prefix);
            if arrays.is_empty() { Ok(None) } else { Params::from_arrays(graph, &arrays).map(Some) }
        };
        let params = Params::from_arrays(graph, file)?;
        let momentum_name = |id: ParamId| format!("{MOMENTUM}{}", id.name(graph));
        for (id, array) in params.iter() {
            let name = momentum_name(id);
            file.find(&name).map_or(Ok(()), |momentum| momentum.check_shape(&name, &array.shape, graph))?;
        }
        Ok(Self {
            momentum: params.as_ref().map(|id, _| file.find(&momentum_name(id)).cloned()),
            average: prefixed(AVERAGE)?,
            float: prefixed(FLOAT)?,
            kept: of_convs(graph, file, KEPT, |value| value != 0.0)?,
            saliency: of_convs(graph, file, SALIENCY, |value| value)?,
            params,
            state,
        })
    }
}

/// The values of an array for each convolution; none where no convolution has one.
fn of_convs<T>(graph: &Graph, file: &Weights, prefix: &str, value: impl Fn(f32) -> T) -> Result<Option<Vec<Vec<T>>>> {
    if !file.iter().any(|(name, _)| name.starts_with(prefix)) {
        return Ok(None);
    }
    let values = |conv: Conv| {
        let array = file.get(&format!("{prefix}{}", conv.name))?;
        Ok(array.values.iter().copied().map(&value).collect())
    };
    graph.convs().map(values).collect::<Result<_>>().map(Some)
}
