//! Float checkpoints of others: PyTorch's `.th`, `.pt`, `.pth`, and safetensors with PyTorch's names.
//!
//! Known names, for the networks of the zoo: CIFAR ResNets and ResNet18 as akamaster, kuangliu and torchvision write them
//! (`layer1.0.conv1`, `bn1`, `shortcut.0` or `downsample.0`, `linear` or `fc`), VGG as kuangliu and torchvision (`features.N`, where
//! batch norms follow convolutions, and `classifier`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pytorch_reader::{DType, PytorchReader};

use super::graph::{Graph, Node, Op};
use super::params::Params;
use super::weights::{Array, Weights};
use crate::error::{Error, Result};

/// Reads float weights for a network from a checkpoint, ours or another's.
///
/// # Errors
/// A missing, damaged or foreign file; a checkpoint of another network (the message names the first array that doesn't fit).
pub fn import(path: &Path, graph: &Graph) -> Result<Weights> {
    let arrays = read(path)?;
    let foreign = |message| {
        Error::file(
            path,
            format!("not a checkpoint of `{}`: {message}; --model names another network", graph.spec().name),
        )
    };
    let weights = if is_own(&arrays, graph) { own(arrays) } else { translate(arrays, graph).map_err(foreign)? };
    Params::from_arrays(graph, &weights).map_err(|error| foreign(error.to_string()))?;
    let layers: BTreeSet<String> = graph.convs().map(|conv| conv.name).collect();
    let known = |name: &str| name.rsplit_once('.').is_some_and(|(layer, _)| layers.contains(layer));
    if let Some((name, _)) = weights.iter().find(|(name, _)| !known(name)) {
        return Err(foreign(surplus(name)));
    }
    Ok(weights)
}

type Arrays = BTreeMap<String, Array>;

fn read(path: &Path) -> Result<Arrays> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        let (weights, _) = Weights::load(path)?;
        return Ok(weights.iter().map(|(name, array)| (name.to_string(), array.clone())).collect());
    }
    std::fs::metadata(path).map_err(Error::io(path))?;
    let unreadable = |error: String| Error::file(path, format!("not a readable PyTorch checkpoint ({error})"));
    let reader = PytorchReader::new(path).map_err(|error| unreadable(error.to_string()))?;
    let mut arrays = Arrays::new();
    for (name, tensor) in reader.tensors() {
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        if tensor.dtype() != DType::F32 {
            return Err(unreadable(format!("`{name}` is {:?}, expected F32", tensor.dtype())));
        }
        let bytes = tensor.read().map_err(|error| unreadable(error.to_string()))?;
        let values = bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        arrays.insert(name.clone(), Array { shape: tensor.shape().to_vec(), values });
    }
    Ok(arrays)
}

/// Our names: those of a batch norm that PyTorch doesn't use, or every layer's with a bias.
fn is_own(arrays: &Arrays, graph: &Graph) -> bool {
    let has = |layer: &str, part: &str| arrays.contains_key(&format!("{layer}.{part}"));
    let mut layers = graph.convs();
    graph.nodes().iter().any(|node| has(&node.name, "gamma"))
        || layers.all(|layer| has(&layer.name, "weight") && has(&layer.name, "bias"))
}

fn surplus(name: &str) -> String {
    format!("it also holds `{name}`, which the network has no place for")
}

/// Our own file: a run's checkpoint holds more than weights, which a new run doesn't want.
fn own(arrays: Arrays) -> Weights {
    let mut weights = Weights::default();
    for (name, array) in arrays {
        if !name.contains(':') && !name.ends_with("_step") {
            weights.insert(name, array);
        }
    }
    weights
}

type Reason<T> = std::result::Result<T, String>;

fn translate(arrays: Arrays, graph: &Graph) -> Reason<Weights> {
    let arrays = strip_wrappers(arrays);
    let mut translator =
        Translator { features: features(&arrays), arrays, used: BTreeSet::new(), weights: Weights::default() };
    for node in graph.nodes() {
        let Op::Conv { batch_norm, logits, .. } = node.op else {
            continue;
        };
        let (conv, norm) = translator.find(node, logits)?;
        translator.take(&node.name, &conv, batch_norm.then_some(norm.as_str()), node)?;
        if node.projection().is_some() {
            let block = node.name.rsplit_once('.').map_or("", |(block, _)| block);
            let names = ["shortcut", "downsample"].map(|name| format!("{block}.{name}"));
            let name = names.iter().find(|name| translator.arrays.contains_key(&format!("{name}.0.weight")));
            let name = name.ok_or_else(|| format!("it has no `{}.0.weight`", names[0]))?.clone();
            translator.take(&node.projection_name(), &format!("{name}.0"), Some(&format!("{name}.1")), node)?;
        }
    }
    match translator.arrays.keys().find(|name| !translator.used.contains(*name)) {
        Some(name) => Err(surplus(name)),
        None => Ok(translator.weights),
    }
}

/// Names without what training scripts put in front of them.
fn strip_wrappers(arrays: Arrays) -> Arrays {
    let strip = |name: String| {
        let mut name = name.as_str();
        for wrapper in ["state_dict.", "model_state_dict.", "net.", "model.", "module."] {
            name = name.strip_prefix(wrapper).unwrap_or(name);
        }
        name.to_string()
    };
    arrays.into_iter().map(|(name, array)| (strip(name), array)).collect()
}

/// Prefixes of the convolutions in a VGG's `features`, in order.
fn features(arrays: &Arrays) -> Vec<usize> {
    let index = |name: &str| name.strip_prefix("features.")?.strip_suffix(".weight")?.parse().ok();
    let mut found: Vec<usize> =
        arrays.iter().filter(|(_, array)| array.shape.len() == 4).filter_map(|(name, _)| index(name)).collect();
    found.sort_unstable();
    found.reverse();
    found
}

struct Translator {
    arrays: Arrays,
    /// Convolutions of `features` that are left, the first one last.
    features: Vec<usize>,
    used: BTreeSet<String>,
    weights: Weights,
}

impl Translator {
    /// Names of a node's convolution and batch norm in the checkpoint.
    fn find(&mut self, node: &Node, logits: bool) -> Reason<(String, String)> {
        if logits {
            let names = ["linear", "fc", "classifier", "classifier.0"];
            let name = names.iter().find(|name| self.arrays.contains_key(&format!("{name}.weight")));
            let name = name.ok_or_else(|| format!("it has none of {names:?}"))?;
            return Ok((name.to_string(), String::new()));
        }
        if let Some(index) = self.features.pop() {
            return Ok((format!("features.{index}"), format!("features.{}", index + 1)));
        }
        let name = &node.name;
        if self.arrays.keys().any(|array| array.starts_with("features.")) {
            return Err(format!("its `features` end before `{name}`"));
        }
        if !self.arrays.contains_key(&format!("{name}.weight")) {
            return Err(format!("it has no `{name}.weight`"));
        }
        let norm = match name.rsplit_once("conv") {
            Some((block, number)) => format!("{block}bn{number}"),
            None => format!("{name}_bn"),
        };
        Ok((name.clone(), norm))
    }

    /// Copies a convolution and its batch norm; a bias before a batch norm moves into its mean.
    fn take(&mut self, name: &str, conv: &str, norm: Option<&str>, node: &Node) -> Reason<()> {
        let mut weight = self.array(&format!("{conv}.weight"))?;
        if weight.shape.len() == 2 {
            // A linear layer reads the flattened map: channels, rows, pixels.
            weight.shape = vec![weight.shape[0], node.input.channels, node.input.height, node.input.width];
            if weight.shape.iter().product::<usize>() != weight.values.len() {
                return Err(format!("`{conv}.weight` doesn't read a map of {:?}", node.input));
            }
        }
        self.weights.insert(format!("{name}.weight"), weight);
        let Some(norm) = norm else {
            let bias = self.array(&format!("{conv}.bias"))?;
            self.weights.insert(format!("{name}.bias"), bias);
            return Ok(());
        };
        for (ours, theirs) in [("gamma", "weight"), ("beta", "bias"), ("var", "running_var")] {
            let array = self.array(&format!("{norm}.{theirs}"))?;
            self.weights.insert(format!("{name}.{ours}"), array);
        }
        let mut mean = self.array(&format!("{norm}.running_mean"))?;
        if self.arrays.contains_key(&format!("{conv}.bias")) {
            let bias = self.array(&format!("{conv}.bias"))?;
            if bias.shape != mean.shape {
                return Err(format!("`{conv}.bias` has shape {:?}, its batch norm {:?}", bias.shape, mean.shape));
            }
            for (mean, bias) in mean.values.iter_mut().zip(bias.values) {
                *mean -= bias;
            }
        }
        self.weights.insert(format!("{name}.mean"), mean);
        Ok(())
    }

    fn array(&mut self, name: &str) -> Reason<Array> {
        let array = self.arrays.get(name).ok_or_else(|| format!("it has no `{name}`"))?;
        self.used.insert(name.into());
        Ok(array.clone())
    }
}
