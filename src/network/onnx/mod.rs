//! Networks out of ONNX files: structure and weights, as PyTorch's exporters write them.
//!
//! | file | knows |
//! |---|---|
//! | `wire` | the fields of a protobuf message |
//! | `model` | graphs, nodes and attributes |
//! | `tensor` | names and sizes of tensors first, values on demand |
//! | `integers`, `shapes` | whole numbers, and what exporters compute with them |
//! | `refusal` | what cannot be said, and what to do about it |
//! | `window` | kernels, strides and borders |
//! | `names` | what layers are called |
//! | `layers` | layers as they are built up |
//! | `scope` | what names stand for |
//! | `convert` | what each node makes of values: `layers`, `pooling`, `concat`, and `views` of them |
//! | `mod` | files |
//!
//! A node belongs to the layer whose pass on the chip does it: a batch norm, a sum and a ReLU to the convolution before them. Nothing else is
//! moved or simplified.

mod convert;
mod integers;
mod layers;
mod model;
mod names;
mod refusal;
mod scope;
mod shapes;
mod tensor;
mod window;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use self::convert::{Converter, title};
use self::model::{Input, OnnxGraph, OnnxNode};
use self::refusal::Refusal;
use self::scope::Scope;
use super::shape::MAX_EXTENT;
use super::spec::NetworkSpec;
use super::weights::Weights;
use crate::error::{Error, OnnxError, Result};
use crate::files::Source;
use crate::foreign;

/// The largest file that protobuf can hold.
const MAX_BYTES: u64 = (1 << 31) - 1;

/// A network out of an ONNX file.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxNetwork {
    /// Its structure.
    pub spec: NetworkSpec,
    /// Its float weights, under the network's names.
    pub weights: Weights,
}

/// Whether a path is called as ONNX files are.
pub(crate) fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

impl OnnxNetwork {
    /// Reads a float network as `torch.onnx.export` writes it, whose weights lie in the file or beside it. `docs/onnx.md` says what is
    /// understood.
    ///
    /// # Errors
    /// A missing, damaged or foreign file; a node that no layer can express, by its name, its kind and a way out.
    pub fn load(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        Source::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
        let unreadable = |reason: &str| Box::new(OnnxError::Unreadable { path: path.into(), reason: reason.into() });
        if bytes.len() as u64 > MAX_BYTES {
            return Err(unreadable("it has more than 2 GiB").into());
        }
        let graph = OnnxGraph::read(&bytes).map_err(|reason| unreadable(foreign::kind(&bytes).unwrap_or(reason)))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(convert(&graph, path, &name).map_err(Box::new)?)
    }
}

fn convert(graph: &OnnxGraph, path: &Path, name: &str) -> std::result::Result<OnnxNetwork, OnnxError> {
    let network =
        |reason: String, way_out: &str| OnnxError::Network { path: path.into(), reason, way_out: way_out.into() };
    let inputs: Vec<&Input> = graph.inputs.iter().filter(|input| !graph.tensors.contains_key(input.name)).collect();
    let [input] = inputs[..] else {
        return Err(network(format!("it has {} inputs", inputs.len()), "a network reads one image"));
    };
    let [_] = graph.outputs[..] else {
        let reason = format!("it has {} outputs", graph.outputs.len());
        return Err(network(reason, "export the one that tells the classes"));
    };
    let (batch, image) = match input.shape[..] {
        [batch, Some(channels), Some(height), Some(width)] => (batch.unwrap_or(1), [channels, height, width]),
        _ => {
            let sizes: Vec<String> =
                input.shape.iter().map(|size| size.map_or("?".into(), |size| size.to_string())).collect();
            let reason = format!("its input `{}` has the sizes {}", input.name, sizes.join(" x "));
            return Err(network(
                reason,
                "an image has a batch, channels, a height and a width, of which only the batch may be open",
            ));
        }
    };
    if image.iter().any(|side| *side > MAX_EXTENT) {
        return Err(network(format!("its images have the sizes {image:?}"), "sides and channels are at most 65536"));
    }
    let nodes = needed(graph);
    let folder = path.parent().unwrap_or(Path::new(""));
    let scope =
        Scope::new(graph, &nodes, folder, batch).map_err(|Refusal { reason, way_out }| network(reason, &way_out))?;
    let mut converter = Converter::new(scope, input.name, image);
    for node in &nodes {
        converter.node(node).map_err(|Refusal { reason, way_out }| OnnxError::Node {
            path: path.into(),
            node: title(node).into(),
            kind: node.kind.into(),
            reason,
            way_out,
        })?;
    }
    let (layers, classes) = converter.finish().map_err(|Refusal { reason, way_out }| network(reason, &way_out))?;
    let (spec, weights) = layers.into_network(name.into(), image, classes);
    Ok(OnnxNetwork { spec, weights })
}

/// The nodes on which the output depends, in their order.
fn needed<'g, 'a>(graph: &'g OnnxGraph<'a>) -> Vec<&'g OnnxNode<'a>> {
    let nodes = graph.nodes.iter().enumerate();
    let giver: BTreeMap<&str, usize> =
        nodes.flat_map(|(index, node)| node.outputs.iter().map(move |output| (*output, index))).collect();
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = graph.outputs.clone();
    while let Some(name) = open.pop() {
        if let Some(index) = giver.get(name)
            && seen.insert(*index)
        {
            open.extend(&graph.nodes[*index].inputs);
        }
    }
    seen.into_iter().map(|index| &graph.nodes[index]).collect()
}
