//! The package of bytes that nobody vouches for.

use std::collections::BTreeSet;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use super::bounds::{
    Checked, MAX_FILE_BYTES, check_description, check_extents, check_sha256, container_error, network_error,
};
use super::content::{METADATA_KEY, PREDICTIONS, Package, Predictions};
use super::groups::unpack;
use super::header::{ConvHeader, Header, IndexHeader, LayerHeader, PredictionsHeader, SkipHeader, VersionHeader};
use super::version::{VERSIONS, predictions_dtype, version};
use crate::error::PackageError;
use crate::foreign;
use crate::groups::GroupGrid;
use crate::integer::{BITS, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::network::{ConvShape, Graph, Node, Op};
use crate::seal::checksum;

impl Package {
    /// Reads the bytes of `model.mars`.
    ///
    /// # Errors
    /// Whatever isn't as `docs/package-format.md` says; the message names the field.
    pub fn from_bytes(bytes: &[u8]) -> Checked<Self> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(PackageError::TooLarge { limit: MAX_FILE_BYTES });
        }
        let header = read_header(bytes).map_err(|error| foreign::kind(bytes).map_or(error, PackageError::Foreign))?;
        let mut tensors = Tensors::new(SafeTensors::deserialize(bytes).map_err(container_error)?);

        check_description(&header.network)?;
        let graph = Graph::new(header.network).map_err(network_error)?;
        check_extents(&graph)?;
        if header.group.filters == 0 || header.group.channels == 0 {
            return Err(PackageError::field("group", "a group has at least one weight"));
        }
        if header.layers.len() != graph.nodes().len() {
            return Err(PackageError::field(
                "layers",
                format!("{} entries for {} layers", header.layers.len(), graph.nodes().len()),
            ));
        }
        let mut layers = Vec::with_capacity(header.layers.len());
        for (number, (layer, node)) in header.layers.into_iter().zip(graph.nodes()).enumerate() {
            let field = format!("layers[{number}]");
            let grid = |shape| GroupGrid::new(header.group, &shape);
            let mut conv = |field: &str, name: &str, shape: Option<ConvShape>, conv: ConvHeader| match shape {
                Some(shape) => tensors.conv(field, name, &grid(shape), conv),
                None => Err(PackageError::field(field, "the network has no convolution there")),
            };
            layers.push(read_layer(&field, node, layer, &mut conv)?);
        }
        let predictions = match header.predictions {
            None => None,
            Some(PredictionsHeader { data_sha256, chip_sha256 }) => {
                Some(Predictions { data_sha256, chip_sha256, classes: tensors.predictions(header.classes.len())? })
            }
        };
        tensors.check_all_read()?;

        let package = Self {
            network: IntegerNetwork {
                graph,
                zero_points: header.zero_points,
                classes: header.classes,
                group: header.group,
                layers,
            },
            provenance: header.provenance,
            predictions,
        };
        package.network.validate().map_err(network_error)?;
        package.check_provenance()?;
        match version(&package.network) {
            needed if header.version < needed => Err(PackageError::field(
                "version",
                format!("it is {}, but what the package holds needs {needed}", header.version),
            )),
            _ => Ok(package),
        }
    }
}

/// What is said of arrays without a package's header.
const PERHAPS_A_CHECKPOINT: &str = "it may be a checkpoint, which mars-train --pretrained reads";

/// The header, once its version and the file's checksum are known to be right.
fn read_header(bytes: &[u8]) -> Checked<Header> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(container_error)?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    let text = match metadata.get(METADATA_KEY) {
        Some(text) if metadata.len() == 1 => text,
        None => return Err(PackageError::Foreign(PERHAPS_A_CHECKPOINT)),
        _ => {
            let keys: BTreeSet<&str> = metadata.keys().map(String::as_str).collect();
            return Err(PackageError::Metadata { key: METADATA_KEY, found: format!("{keys:?}") });
        }
    };
    let header_error = |error: serde_json::Error| PackageError::Header(error.to_string());
    let of_checkpoint = |error| match text.contains("\"version\"") {
        true => header_error(error),
        false => PackageError::Foreign(PERHAPS_A_CHECKPOINT),
    };
    let VersionHeader { version: found } = serde_json::from_str(text).map_err(of_checkpoint)?;
    if !VERSIONS.contains(&found) {
        return Err(PackageError::Version { read: *VERSIONS.end(), found });
    }
    let header: Header = serde_json::from_str(text).map_err(header_error)?;
    check_sha256("sha256", &header.sha256)?;
    let found = checksum(bytes, &header.sha256)
        .ok_or_else(|| PackageError::field("sha256", "its digits must not be written as escapes"))?;
    if found != header.sha256 {
        return Err(PackageError::Checksum { expected: header.sha256, found });
    }
    Ok(header)
}

/// Reads a layer; `conv` reads a convolution: field, name, geometry (`None` where the graph has none), header.
fn read_layer(
    field: &str,
    node: &Node,
    layer: LayerHeader,
    conv: &mut impl FnMut(&str, &str, Option<ConvShape>, ConvHeader) -> Checked<IntegerConv>,
) -> Checked<IntegerLayer> {
    Ok(match (node.op, layer) {
        (Op::Conv { .. }, LayerHeader::Conv { conv: own, skip, output }) => IntegerLayer::Conv {
            conv: conv(&format!("{field}.conv"), &node.name, node.conv(), own)?,
            skip: match skip {
                None => None,
                Some(SkipHeader::Identity { bits, multiplier }) => Some(IntegerSkip::Identity { bits, multiplier }),
                Some(SkipHeader::Projection { conv: projection, multipliers }) => Some(IntegerSkip::Projection {
                    conv: conv(&format!("{field}.skip.conv"), &node.projection_name(), node.projection(), projection)?,
                    multipliers,
                }),
            },
            output: output.map(Into::into),
        },
        (Op::SameScale(kind), layer) if layer == kind.into() => IntegerLayer::SameScale,
        (Op::AvgPool { .. }, LayerHeader::AvgPool { input_bits, output }) => {
            IntegerLayer::AvgPool { input_bits, output: output.into() }
        }
        (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => {
            return Err(PackageError::field(format!("{field}.op"), format!("it isn't that of layer `{}`", node.name)));
        }
    })
}

/// The tensors of a file, each of which must be read exactly once.
struct Tensors<'a> {
    file: SafeTensors<'a>,
    read: BTreeSet<String>,
}

impl<'a> Tensors<'a> {
    fn new(file: SafeTensors<'a>) -> Self {
        Self { file, read: BTreeSet::new() }
    }

    /// The data of a list of numbers.
    fn data(&mut self, name: &str, dtype: Dtype) -> Checked<&'a [u8]> {
        let tensor = self.file.tensor(name).map_err(|_| PackageError::tensor(name, "it is missing"))?;
        if tensor.dtype() != dtype || tensor.shape().len() != 1 {
            return Err(PackageError::tensor(
                name,
                format!("it is {} of shape {:?}, expected {dtype} with one dimension", tensor.dtype(), tensor.shape()),
            ));
        }
        self.read.insert(name.into());
        Ok(tensor.data())
    }

    fn bytes(&mut self, name: &str) -> Checked<&'a [u8]> {
        self.data(name, Dtype::U8)
    }

    /// Predictions of a network with so many classes.
    fn predictions(&mut self, classes: usize) -> Checked<Vec<u16>> {
        let dtype = predictions_dtype(classes);
        let bytes = self.data(PREDICTIONS, dtype)?.chunks_exact(dtype.bitsize() / 8);
        Ok(bytes.map(|bytes| bytes.iter().rev().fold(0, |class, byte| class << 8 | u16::from(*byte))).collect())
    }

    fn conv(&mut self, field: &str, name: &str, grid: &GroupGrid, header: ConvHeader) -> Checked<IntegerConv> {
        let bits = header.weight_bits;
        if !BITS.contains(&bits) {
            return Err(PackageError::field(format!("{field}.weight_bits"), format!("{bits} is not from 2 to 8")));
        }
        let bias = self.data(&format!("{name}.bias"), Dtype::I32)?;
        let (bias, _) = bias.as_chunks();
        let kept = self.kept(field, name, grid, &header.index)?;
        let weights = format!("{name}.weights");
        let stream = self.bytes(&weights)?;
        Ok(IntegerConv {
            input_bits: header.input_bits,
            weight_bits: bits,
            weights: unpack(grid, &kept, stream, bits).map_err(|message| PackageError::tensor(weights, message))?,
            bias: bias.iter().map(|bias| i32::from_le_bytes(*bias)).collect(),
        })
    }

    /// Which groups of a convolution are kept: the filter sets' indices, each from a byte of its own on.
    fn kept(&mut self, field: &str, name: &str, grid: &GroupGrid, index: &[IndexHeader]) -> Checked<Vec<bool>> {
        let index_field = format!("{field}.index");
        if index.len() != grid.sets() {
            return Err(PackageError::field(
                index_field,
                format!("{} entries for {} filter sets", index.len(), grid.sets()),
            ));
        }
        let name = format!("{name}.index");
        let mut codes = self.bytes(&name)?;
        let mut kept = Vec::with_capacity(grid.groups());
        for (set, IndexHeader { code, bits }) in index.iter().enumerate() {
            let Some((bytes, rest)) = codes.split_at_checked(bits.div_ceil(8)) else {
                return Err(PackageError::tensor(name, format!("it ends before the index of filter set {set}")));
            };
            codes = rest;
            let groups = code
                .decode(bytes, *bits, grid.groups_per_set())
                .map_err(|message| PackageError::field(format!("{index_field}[{set}]"), message))?;
            kept.extend(groups);
        }
        if codes.is_empty() {
            return Ok(kept);
        }
        Err(PackageError::tensor(name, format!("{} bytes are left after the last index", codes.len())))
    }

    fn check_all_read(&self) -> Checked<()> {
        let names = self.file.names().into_iter();
        match names.filter(|name| !self.read.contains(*name)).min() {
            None => Ok(()),
            Some(name) => Err(PackageError::tensor(name, "the header describes no such tensor")),
        }
    }
}
