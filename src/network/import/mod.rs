//! Checkpoints of others: PyTorch's `.th`, `.pt`, `.pth`, and safetensors, with the names that training programs give. Our own are read the
//! same way.
//!
//! | file | knows |
//! |---|---|
//! | `arrays` | the arrays of a file: names, shapes and formats first, values on demand |
//! | `pytorch` | how PyTorch's files are opened |
//! | `options` | what a user says about a checkpoint |
//! | `modules` | arrays by module: convolutions, batch norms |
//! | `matching` | which module is which layer |
//! | `sets` | which of a file's arrays are the weights |
//! | `imported` | what an import gives |
//! | `exported` | the same of ONNX files, whose names are the network's |
//! | `mod` | what becomes of them, and what is said about the rest |

mod arrays;
mod exported;
mod imported;
mod matching;
mod modules;
mod options;
mod pytorch;
mod sets;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::arrays::{Arrays, Entry};
use self::exported::import_onnx;
use self::matching::{AFFINE, MatchedLayer, Matching, STATISTICS};
use self::modules::{BiasParts, Factor, Part, is_state, split};
use self::sets::{Set, find_sets};
use super::graph::Graph;
use super::onnx::is_onnx;
use super::params::ParamId;
use super::role::Role;
use super::weights::{Array, Weights};
use crate::error::{CheckpointError, Error, Result};

use self::imported::listed;
pub use self::imported::{Imported, Quantized};
pub use self::options::ImportOptions;

/// Reads float weights for a network from a checkpoint, ours or another's. `FILE#KEY` reads the arrays whose names begin with `KEY.`.
///
/// Names and shapes are compared with the network's before any value is read. `docs/checkpoints.md` says what is understood. A file whose name
/// ends with `.onnx` is an ONNX file (`docs/onnx.md`).
///
/// # Errors
/// A missing, damaged or foreign file; several sets of weights; a checkpoint of another network (the message names the first array that doesn't
/// fit).
pub fn import(path: &Path, graph: &Graph, options: &ImportOptions) -> Result<Imported> {
    if is_onnx(path) {
        return import_onnx(path, graph, options);
    }
    let (path, key) = weights_file(path);
    let arrays = Arrays::open(&path)?;
    let set = choose(&arrays, key.as_deref(), graph, options)?;
    options.check_ignored(&path, arrays.names(), set.prefix)?;
    let Matching { layers, fresh, .. } = &set.matching;
    let mut weights = match fresh.is_empty() {
        true => Weights::default(),
        false => Weights::fresh(graph, options.seed),
    };
    for layer in layers {
        for (role, array) in read_layer(&arrays, layer)? {
            weights.insert(ParamId { conv: layer.conv.id, role }.name(graph), array);
        }
    }
    let lacks = |layer: &&MatchedLayer| layer.norm.is_some_and(|norm| norm.statistics.is_none());
    let without_statistics = layers.iter().filter(lacks).map(|layer| layer.conv.id).collect();
    let quantized = quantized(&arrays, &set)?;
    Ok(Imported { weights, without_statistics, quantized, remarks: remarks(&arrays, &set, options) })
}

/// The scales of a checkpoint of ours, which has the network's own names; none of one that hasn't been quantized.
fn quantized(arrays: &Arrays, set: &Set) -> Result<Option<Quantized>> {
    let Some(state) = arrays.state().filter(|_| set.prefix.is_empty()) else { return Ok(None) };
    let mut scales = Weights::default();
    let floats = |entry: &Entry| entry.format.is_some();
    for (name, entry) in arrays.iter().filter(|(name, entry)| Role::names_scale(name) && floats(entry)) {
        scales.insert(name.into(), Array { shape: entry.shape.clone(), values: arrays.read(name)? });
    }
    Ok((scales.bytes() > 0).then(|| Quantized { scales, state: state.clone() }))
}

/// The file of a path `FILE#KEY`, and the key behind its last `#`, unless there is a file of the whole name.
pub(crate) fn weights_file(path: &Path) -> (PathBuf, Option<String>) {
    let split = path.to_str().and_then(|text| text.rsplit_once('#')).filter(|_| !path.exists());
    split.map_or((path.into(), None), |(file, key)| (file.into(), Some(key.trim_end_matches('.').into())))
}

/// The one set of weights that fits.
fn choose<'a>(arrays: &'a Arrays, key: Option<&str>, graph: &Graph, options: &ImportOptions) -> Result<Set<'a>> {
    let path = || arrays.path().to_path_buf();
    if let Some(key) = key.filter(|key| !arrays.names().any(|name| name.starts_with(&format!("{key}.")))) {
        let mut known: Vec<String> = arrays.names().filter_map(|name| Some(name.split_once('.')?.0.into())).collect();
        known.dedup();
        return Err(CheckpointError::NoSet { path: path(), set: key.into(), known }.into());
    }
    let mut sets = find_sets(arrays, key, graph, options).map_err(|misfit| {
        let (network, reason) = (graph.spec().name.clone(), misfit.reason);
        CheckpointError::OtherNetwork { path: path(), network, reason, way_out: misfit.way_out }
    })?;
    let (first, others) = sets.split_first().expect("a set or an error");
    if !others.is_empty() {
        let is_nested = others.iter().all(|set| set.prefix.starts_with(first.prefix));
        return Err(match is_nested {
            true => {
                let nested = others.iter().map(Set::key).collect();
                CheckpointError::NestedSets { path: path(), nested }
            }
            false => CheckpointError::SeveralSets { path: path(), sets: sets.iter().map(Set::key).collect() },
        }
        .into());
    }
    Ok(sets.pop().expect("it was there"))
}

/// The arrays of a convolution. A bias before a batch norm moves into its mean.
fn read_layer(arrays: &Arrays, layer: &MatchedLayer) -> Result<Vec<(Role, Array)>> {
    let filters = layer.conv.shape.filters();
    let mut weight = values(arrays, &layer.weights.weight, false)?;
    match &layer.weights.factor {
        None => {}
        Some(Factor::Mask(mask)) => {
            let mask = values(arrays, mask, false)?;
            weight.iter_mut().zip(mask).for_each(|(weight, mask)| *weight *= mask);
        }
        Some(Factor::Length(lengths)) => {
            let lengths = values(arrays, lengths, false)?;
            let inputs = weight.len() / filters;
            for (filter, (directions, length)) in weight.chunks_exact_mut(inputs).zip(lengths).enumerate() {
                let norm = directions.iter().map(|value| value * value).sum::<f32>().sqrt();
                if norm == 0.0 || !norm.is_finite() {
                    let array = layer.weights.weight.name;
                    let message = format!("`{array}`: filter {filter} has the length {norm}, and so no direction");
                    return Err(Error::file(arrays.path(), message));
                }
                directions.iter_mut().for_each(|value| *value *= length / norm);
            }
        }
    }
    let weight = Array { shape: layer.conv.shape.weight_shape(), values: weight };
    let bias = match &layer.bias {
        None => None,
        Some(BiasParts { bias, mask }) => {
            let mut bias = values(arrays, bias, false)?;
            let mask = mask.as_ref().map(|mask| values(arrays, mask, false)).transpose()?;
            bias.iter_mut().zip(mask.into_iter().flatten()).for_each(|(bias, mask)| *bias *= mask);
            Some(bias)
        }
    };
    let mut found = vec![(Role::Weight, weight)];
    let constant = |value: f32| Array::vector(vec![value; filters]);
    let Some(norm) = &layer.norm else {
        found.push((Role::Bias, bias.map_or(constant(0.0), Array::vector)));
        return Ok(found);
    };
    for (parts, roles, defaults) in [(norm.affine, AFFINE, [1.0, 0.0]), (norm.statistics, STATISTICS, [0.0, 1.0])] {
        for (index, (role, default)) in roles.into_iter().zip(defaults).enumerate() {
            let array = match &parts {
                Some(parts) => Array::vector(values(arrays, &parts[index], role == Role::Variance)?),
                None => constant(default),
            };
            found.push((role, array));
        }
    }
    if let Some(bias) = bias {
        let mean = found.iter_mut().find(|(role, _)| *role == Role::Mean);
        let (_, mean) = mean.expect("a batch norm has a mean");
        mean.values.iter_mut().zip(bias).for_each(|(mean, bias)| *mean -= bias);
    }
    Ok(found)
}

/// The values of an array, which a network can have: they are finite, and a variance isn't negative.
fn values(arrays: &Arrays, part: &Part, variance: bool) -> Result<Vec<f32>> {
    let values = arrays.read(part.name)?;
    match values.iter().copied().find(|value| !value.is_finite() || variance && *value < 0.0) {
        None => Ok(values),
        Some(value) => {
            let variance = variance && value < 0.0;
            let (path, array) = (arrays.path().into(), part.name.into());
            Err(CheckpointError::Value { path, array, value, variance }.into())
        }
    }
}

/// Labels of arrays that are listed; a checkpoint of an optimizer has hundreds.
const LISTED: usize = 6;

/// What has no place in the network, by its labels.
fn left_aside(arrays: &Arrays, Set { prefix, matching }: &Set, options: &ImportOptions) -> Option<String> {
    let mut aside: BTreeMap<String, usize> = BTreeMap::new();
    let unused = |name: &str| matching.unused.iter().any(|part| part.name == name);
    for (name, entry) in arrays.iter().filter(|(name, _)| !Role::names_scale(name) && !is_state(name)) {
        if let Some(module) = options.ignoring(name, prefix) {
            *aside.entry(module.clone()).or_default() += 1;
            continue;
        }
        let inside = name.strip_prefix(prefix).filter(|_| modules::may_be_weight(name, entry) && !unused(name));
        if inside.is_some() {
            continue;
        }
        // Counters go by what they count, other things by where they are.
        let label = match (name.strip_prefix(prefix), name.split_once([':', '.'])) {
            (Some(rest), _) if entry.shape.is_empty() && entry.len() == 1 => split(rest).1,
            (Some(_), _) if unused(name) => name,
            (_, Some((first, _))) => first,
            _ => name,
        };
        *aside.entry(label.into()).or_default() += 1;
    }
    let label = |(name, count): (&String, &usize)| match count {
        1 => format!("`{name}`"),
        count => format!("`{name}` ({count})"),
    };
    let mut labels: Vec<String> = aside.iter().take(LISTED).map(label).collect();
    labels.extend(aside.len().checked_sub(LISTED + 1).map(|more| format!("{} more", more + 1)));
    (!aside.is_empty()).then(|| format!("left aside: {}", labels.join(", ")))
}

fn remarks(arrays: &Arrays, set: &Set, options: &ImportOptions) -> Vec<String> {
    let Set { prefix, matching } = set;
    let mut remarks = Vec::new();
    if !prefix.is_empty() {
        remarks.push(format!("its names are read without `{prefix}`"));
    }
    remarks.extend(left_aside(arrays, set, options));
    if arrays.names().any(Role::names_scale) {
        remarks.push("it is of a quantized network: its float weights are read, without their rounding".into());
    }
    let layers = |is: fn(&MatchedLayer) -> bool| -> Vec<&str> {
        matching.layers.iter().filter(|layer| is(layer)).map(|layer| layer.conv.name.as_str()).collect()
    };
    for (names, what) in [
        (
            layers(|layer| layer.norm.is_some_and(|norm| norm.affine.is_none())),
            "batch norm without factors: gamma 1, beta 0",
        ),
        (
            layers(|layer| layer.norm.is_some_and(|norm| norm.statistics.is_none())),
            "batch norm without running statistics: they are taken from training images; group, layer and instance norms, which no layer has, \
             look the same in a file",
        ),
        (layers(|layer| layer.norm.is_none() && layer.bias.is_none()), "no bias: 0"),
    ] {
        if !names.is_empty() {
            remarks.push(format!("{}: {what}", listed(names.into_iter(), LISTED)));
        }
    }
    for conv in &matching.fresh {
        remarks.push(format!("`{}` is trained anew, from random weights", conv.name));
    }
    remarks
}
