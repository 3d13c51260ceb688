//! Weights out of ONNX files, whose layers are called as the network that is read from the same file calls them.

use std::collections::BTreeMap;
use std::path::Path;

use super::imported::{Imported, listed};
use super::options::ImportOptions;
use crate::error::{CheckpointError, Result};
use crate::network::graph::Graph;
use crate::network::node::{Conv, ConvId, Op};
use crate::network::onnx::OnnxNetwork;
use crate::network::role::Role;
use crate::network::shape::ConvShape;
use crate::network::weights::Weights;

const WAY_OUT: &str = "--write-network writes the file's own network, from which to go on; --fresh names the layers that are trained anew";

/// Reads the weights of a network's layers.
///
/// # Errors
/// A file that is no network; an array that is missing, left over or of another shape.
pub(super) fn import_onnx(path: &Path, graph: &Graph, options: &ImportOptions) -> Result<Imported> {
    let unlike = |reason: String, way_out: String| CheckpointError::OtherNetwork {
        path: path.into(),
        network: graph.spec().name.clone(),
        reason,
        way_out,
    };
    let other = |reason: String| unlike(reason, WAY_OUT.into());
    let OnnxNetwork { spec, weights: found } = OnnxNetwork::load(path)?;
    let file = Graph::new(spec)?;
    let norms = options.names.into_iter().flat_map(BTreeMap::keys);
    if let Some(norm) = norms.filter_map(|name| name.strip_suffix(".norm")).find(|name| is_layer(graph, name)) {
        return Err(
            other(format!("[names] gives `{norm}.norm`, and in an ONNX file a layer has its own batch norm")).into()
        );
    }
    if let Some((conv, theirs)) = pairs(graph, &file, options).find(|(ours, theirs)| differ_in_epsilon(ours, theirs)) {
        let epsilon = theirs.epsilon;
        let reason = format!(
            "the batch norm of `{}` adds {epsilon:e} to variances, the network {:e}",
            theirs.name, conv.epsilon
        );
        // The recipe's constant is that of all layers without one of their own.
        let has_own = graph.spec().layers.iter().any(|layer| layer.batch_norm_epsilon().is_some());
        let is_one = pairs(graph, &file, options).all(|(_, theirs)| !theirs.batch_norm || theirs.epsilon == epsilon);
        let way_out = match is_one && !has_own {
            true => format!("batch_norm_epsilon = {epsilon:e} in the recipe takes the file's"),
            false => WAY_OUT.into(),
        };
        return Err(unlike(reason, way_out).into());
    }
    if let Some(name) = options.fresh.iter().find(|name| !is_layer(graph, name)) {
        return Err(other(format!("the network has no layer `{name}`")).into());
    }
    options.check_ignored(path, found.iter().map(|(name, _)| name), "")?;
    let mut weights = match options.fresh.is_empty() {
        true => Weights::default(),
        false => Weights::fresh(graph, options.seed),
    };
    let (fresh, wanted): (Vec<_>, Vec<_>) = graph.convs().partition(|conv| options.fresh.contains(&conv.name));
    let mut used = Vec::new();
    for conv in wanted {
        let layer = name_in_file(&conv, options);
        for role in Role::of_float(&conv) {
            let name = role.array_name(layer);
            let array = found.find(&name).ok_or_else(|| other(format!("it has no `{name}`")))?;
            let needed = role.shape(&conv.shape);
            if array.shape != needed {
                let reason = format!("`{name}` has shape {:?}, `{}` needs {needed:?}", array.shape, conv.name);
                return Err(other(reason).into());
            }
            weights.insert(role.array_name(&conv.name), array.clone());
            used.push(name);
        }
    }
    let of_fresh =
        |name: &str| fresh.iter().any(|conv| name.rsplit_once('.').is_some_and(|(layer, _)| layer == conv.name));
    let has_no_place =
        |name: &str| !used.iter().any(|used| used == name) && !of_fresh(name) && options.ignoring(name, "").is_none();
    if let Some((name, _)) = found.iter().find(|(name, _)| has_no_place(name)) {
        return Err(other(format!("`{name}` has no place in it")).into());
    }
    let anew = fresh.iter().map(|conv| format!("`{}` is trained anew, from random weights", conv.name));
    let remarks = other_structure(graph, &file, options).into_iter().chain(anew).collect();
    Ok(Imported { weights, without_statistics: Vec::new(), quantized: None, remarks })
}

fn is_layer(graph: &Graph, name: &str) -> bool {
    graph.convs().any(|conv| conv.name == name)
}

/// What the file calls a layer.
fn name_in_file<'n>(conv: &'n Conv, options: &ImportOptions<'n>) -> &'n str {
    options.names.and_then(|names| names.get(&conv.name)).unwrap_or(&conv.name)
}

/// Each convolution of the network that takes its weights from the file, and the file's.
fn pairs(graph: &Graph, file: &Graph, options: &ImportOptions) -> impl Iterator<Item = (Conv, Conv)> {
    let wanted = graph.convs().filter(|conv| !options.fresh.contains(&conv.name));
    wanted.filter_map(move |conv| {
        let name = name_in_file(&conv, options);
        let theirs = file.convs().find(|theirs| theirs.name == name)?;
        Some((conv, theirs))
    })
}

fn differ_in_epsilon(ours: &Conv, theirs: &Conv) -> bool {
    // As numbers of 32 bits, which is what the file has.
    ours.batch_norm && theirs.batch_norm && ours.epsilon as f32 != theirs.epsilon as f32
}

/// Layers that are named in the remark.
const MOST_LISTED: usize = 3;

/// What is said where the network computes something else with the file's weights than the file does: a description may have been changed on purpose.
fn other_structure(graph: &Graph, file: &Graph, options: &ImportOptions) -> Option<String> {
    let of = |(ours, theirs): (Conv, Conv)| {
        let moves = |shape: &ConvShape| (shape.window.stride, shape.window.padding, shape.dilation);
        let end = |graph: &Graph, conv: &Conv| match (conv.id, graph.nodes()[conv.id.node()].op) {
            (ConvId::Own(node), Op::Conv { skip, activation, .. }) => {
                let skip = skip.as_ref().map(std::mem::discriminant);
                Some((skip, activation, graph.spec().layers[node].clip()))
            }
            (ConvId::Own(_) | ConvId::Projection(_), _) => None,
        };
        let is_other = moves(&ours.shape) != moves(&theirs.shape) || end(graph, &ours) != end(file, &theirs);
        is_other.then_some(ours.name)
    };
    let layers: Vec<String> = pairs(graph, file, options).filter_map(of).collect();
    let listed = listed(layers.iter().map(String::as_str), MOST_LISTED);
    let message = "the file's weights, with another stride, border, dilation, residual sum or activation";
    (!layers.is_empty()).then(|| format!("{listed}: {message} than the file (--write-network writes the file's own)"))
}
