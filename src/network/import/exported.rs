//! Weights out of ONNX files, whose layers are called as the network that is read from the same file calls them.

use std::path::Path;

use super::imported::Imported;
use super::options::ImportOptions;
use crate::error::{CheckpointError, Result};
use crate::network::graph::Graph;
use crate::network::onnx::OnnxNetwork;
use crate::network::role::Role;
use crate::network::weights::Weights;

const WAY_OUT: &str = "--write-network writes the file's own network, from which to go on; --fresh names the layers that are trained anew";

/// Reads the weights of a network's layers.
///
/// # Errors
/// A file that is no network; an array that is missing, left over or of another shape.
pub(super) fn import_onnx(path: &Path, graph: &Graph, options: &ImportOptions) -> Result<Imported> {
    let other = |reason: String| {
        let (network, way_out) = (graph.spec().name.clone(), WAY_OUT.into());
        CheckpointError::OtherNetwork { path: path.into(), network, reason, way_out }
    };
    let found = OnnxNetwork::load(path)?.weights;
    if let Some(name) = options.fresh.iter().find(|name| !graph.convs().any(|conv| conv.name == **name)) {
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
        let layer = options.names.and_then(|names| names.get(&conv.name)).unwrap_or(&conv.name);
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
    let remarks = fresh.iter().map(|conv| format!("`{}` is trained anew, from random weights", conv.name)).collect();
    Ok(Imported { weights, without_statistics: Vec::new(), quantized: None, remarks })
}
