//! The package `model.mars`: an integer network with its provenance, as a safetensors file.
//!
//! `docs/package-format.md` describes the bytes. The reader trusts nothing: whatever a file holds, the result is a
//! network that passes [`IntegerNetwork::validate`], or an error that names the field.

mod groups;
mod header;
mod provenance;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};

use crate::error::{PackageError, Result};
use crate::files::write_atomically;
use crate::groups::GroupGrid;
use crate::integer::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::network::{
    Activation, Border, Conv, ConvShape, Graph, LayerSpec, MAX_WEIGHTS, NetworkSpec, Node, Op, Sides, Skip,
};
use crate::run_folder::PACKAGE;
use crate::seal::{NO_CHECKSUM, checksum, seal};
use header::{ConvHeader, Header, IndexHeader, LayerHeader, PredictionsHeader, SkipHeader, VersionHeader};

pub use provenance::Provenance;

/// The versions that are read; a package is written in the first one that can hold it.
const VERSIONS: RangeInclusive<u64> = 1..=4;
/// Most classes whose numbers have one byte.
const BYTE_CLASSES: usize = 256;
/// Key of `__metadata__` that holds the header.
const METADATA_KEY: &str = "mars";
/// Name of the tensor of predictions.
const PREDICTIONS: &str = "predictions";
// Bounds that keep a hostile file from asking for more memory or time than the largest real network.
const MAX_FILE_BYTES: u64 = 1 << 30;
const MAX_LAYERS: usize = 1 << 12;
const MAX_KERNEL: usize = 1 << 8;
const MAX_SIDE: usize = 1 << 16;
/// Values of all feature maps, which have a byte for each form.
const MAX_VALUES: usize = 1 << 26;
/// Values of the largest feature map, whose sums have 20 bytes.
const MAX_MAP: usize = 1 << 24;
/// Inputs of all filters of a layer, which the reference gathers.
const MAX_INPUTS: usize = 1 << 26;

type Checked<T> = std::result::Result<T, PackageError>;

/// What `model.mars` holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// The network.
    pub network: IntegerNetwork,
    /// Where it comes from.
    pub provenance: Provenance,
    /// What fake-quant evaluation predicted.
    pub predictions: Option<Predictions>,
}

/// The class that fake-quant evaluation predicted for each image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predictions {
    /// [`Split::sha256`](crate::data::Split::sha256) of the images and labels.
    pub data_sha256: String,
    /// [`Hardware::losses_sha256`](crate::hardware::Hardware::losses_sha256) of the chip that fake-quant evaluation saw.
    pub chip_sha256: Option<String>,
    /// One class an image.
    pub classes: Vec<u16>,
}

impl Package {
    /// Reads a package.
    ///
    /// # Errors
    /// Whatever isn't as `docs/package-format.md` says; the message names the file and the field.
    pub fn read(path: &Path) -> Result<Self> {
        if let Some(found) = other_kind(path) {
            return Err(PackageError::Other { path: path.into(), found }.into());
        }
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|source| PackageError::Io { path: path.into(), source })?;
        let package = Self::from_bytes(&bytes)
            .map_err(|source| PackageError::File { path: path.into(), source: Box::new(source) })?;
        Ok(package)
    }

    /// Writes a package; a file that was there is replaced only by a whole one.
    ///
    /// # Errors
    /// A network that breaks a rule, a folder that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomically(path, &self.to_bytes()?)
    }

    /// The bytes of `model.mars`; equal packages give equal bytes.
    ///
    /// # Errors
    /// A network that [`IntegerNetwork::validate`] rejects or that is beyond the bounds of the format.
    pub fn to_bytes(&self) -> Checked<Vec<u8>> {
        let network = &self.network;
        network.validate().map_err(network_error)?;
        check_description(network.graph.spec())?;
        check_extents(&network.graph)?;
        self.check_provenance()?;

        let mut tensors = BTreeMap::new();
        // A graph gives each convolution a name of its own.
        let mut insert = |name: String, dtype, shape, data| tensors.insert(name, OwnTensor { dtype, shape, data });
        let mut indices = Vec::new();
        for (Conv { name, shape, .. }, conv) in network.convs() {
            let (index, weights) =
                groups::pack(&GroupGrid::new(network.group, &shape), &conv.weights, conv.weight_bits);
            let bias: Vec<u8> = conv.bias.iter().flat_map(|bias| bias.to_le_bytes()).collect();
            let codes: Vec<u8> = index.iter().flat_map(|index| index.bytes.iter().copied()).collect();
            insert(format!("{name}.bias"), Dtype::I32, conv.bias.len(), bias);
            insert(format!("{name}.index"), Dtype::U8, codes.len(), codes);
            insert(format!("{name}.weights"), Dtype::U8, weights.len(), weights);
            indices.push(index.iter().map(|index| IndexHeader { code: index.code, bits: index.bit_len }).collect());
        }
        if let Some(Predictions { classes, .. }) = &self.predictions {
            let dtype = predictions_dtype(network.classes.len());
            let width = dtype.bitsize() / 8;
            let bytes = classes.iter().flat_map(|class| class.to_le_bytes().into_iter().take(width)).collect();
            insert(PREDICTIONS.into(), dtype, classes.len(), bytes);
        }

        let mut indices = indices.into_iter();
        let header = Header {
            version: version(network),
            sha256: NO_CHECKSUM.into(),
            network: network.graph.spec().clone(),
            zero_points: network.zero_points.clone(),
            classes: network.classes.clone(),
            group: network.group,
            layers: network.layers.iter().map(|layer| LayerHeader::new(layer, &mut indices)).collect(),
            predictions: self.predictions.as_ref().map(|Predictions { data_sha256, chip_sha256, .. }| {
                PredictionsHeader { data_sha256: data_sha256.clone(), chip_sha256: chip_sha256.clone() }
            }),
            provenance: self.provenance.clone(),
        };
        let text = serde_json::to_string(&header).map_err(|error| PackageError::Header(error.to_string()))?;
        let views = tensors
            .iter()
            .map(|(name, tensor)| Ok((name, tensor.view()?)))
            .collect::<std::result::Result<Vec<_>, SafeTensorError>>()
            .map_err(container_error)?;
        let metadata = [(METADATA_KEY.to_owned(), text)].into();
        let mut bytes = safetensors::serialize(views, Some(metadata)).map_err(container_error)?;
        // The header starts with the version and the checksum, so this is the first run of so many zeros.
        seal(&mut bytes).ok_or_else(|| PackageError::Header("it holds no checksum".into()))?;
        Ok(bytes)
    }

    /// Reads the bytes of `model.mars`.
    ///
    /// # Errors
    /// Whatever isn't as `docs/package-format.md` says; the message names the field.
    pub fn from_bytes(bytes: &[u8]) -> Checked<Self> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(PackageError::TooLarge { limit: MAX_FILE_BYTES });
        }
        let header = read_header(bytes)?;
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

    fn check_provenance(&self) -> Checked<()> {
        let Provenance { data_sha256, float_accuracy, fake_quant_accuracy, .. } = &self.provenance;
        check_sha256("provenance.data_sha256", data_sha256)?;
        for (field, accuracy) in
            [("provenance.float_accuracy", float_accuracy), ("provenance.fake_quant_accuracy", fake_quant_accuracy)]
        {
            if accuracy.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
                return Err(PackageError::field(field, "a percentage is from 0 to 100"));
            }
        }
        let Some(predictions) = &self.predictions else {
            return Ok(());
        };
        check_sha256("predictions.data_sha256", &predictions.data_sha256)?;
        if let Some(sha256) = &predictions.chip_sha256 {
            check_sha256("predictions.chip_sha256", sha256)?;
        }
        let classes = self.network.classes.len();
        match predictions.classes.iter().find(|&&class| usize::from(class) >= classes) {
            None => Ok(()),
            Some(class) => {
                Err(PackageError::tensor(PREDICTIONS, format!("class {class} of a network with {classes} classes")))
            }
        }
    }
}

/// What a file or folder is that people name in place of a package, and what to do with it.
fn other_kind(path: &Path) -> Option<String> {
    if path.is_dir() {
        let package = path.join(PACKAGE);
        return Some(match package.is_file() {
            true => format!("a folder: name its package, {}", package.display()),
            false => format!("a folder without a {PACKAGE}: name a package"),
        });
    }
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match ending {
        "toml" => Some("a TOML file, not a package: --model costs a network, --hardware names a chip".into()),
        "onnx" => Some("an ONNX file, not a package: --model costs a network".into()),
        _ => None,
    }
}

/// The first version that can hold a network: the second one has predictions of two bytes, the third one groups, clips and projections with a bias, the
/// fourth one values with a sign, windows that differ by side, dilated kernels, means that overlap, have a border or leave pixels over, and concatenations.
fn version(network: &IntegerNetwork) -> u64 {
    let uneven = |kernel: Sides, stride: Sides, padding: Border| {
        !(kernel.is_square() && stride.is_square() && padding.is_even())
    };
    let is_of_version_4 = |layer: &LayerSpec| {
        let windows = match layer {
            LayerSpec::Conv { kernel, stride, padding, dilation, .. } => {
                uneven(*kernel, *stride, *padding) || *dilation != Sides::from(1)
            }
            LayerSpec::MaxPool { kernel, stride, padding, .. } => uneven(*kernel, *stride, *padding),
            LayerSpec::AvgPool { kernel, stride, padding, .. } => {
                kernel.is_some_and(|kernel| !kernel.is_square()) || stride.is_some() || !padding.is_none()
            }
            LayerSpec::Concat { .. } => true,
            LayerSpec::Linear { .. } => false,
        };
        windows || layer.activation() == Some(Activation::None)
    };
    let leaves_pixels = |node: &Node| match node.op {
        Op::AvgPool { window } => !window.tiles([node.input.height, node.input.width]),
        Op::Conv { .. } | Op::MaxPool { .. } | Op::Concat => false,
    };
    let is_of_version_3 = |node: &Node| {
        let in_groups = node.conv().is_some_and(|conv| conv.groups > 1);
        in_groups || matches!(node.op, Op::Conv { skip: Some(Skip::Projection { batch_norm: false, .. }), .. })
    };
    let (layers, nodes) = (&network.graph.spec().layers, network.graph.nodes());
    if layers.iter().any(is_of_version_4) || nodes.iter().any(leaves_pixels) {
        4
    } else if layers.iter().any(|layer| layer.clip().is_some()) || nodes.iter().any(is_of_version_3) {
        3
    } else if network.classes.len() > BYTE_CLASSES {
        2
    } else {
        1
    }
}

/// How the number of a class is stored.
fn predictions_dtype(classes: usize) -> Dtype {
    if classes > BYTE_CLASSES { Dtype::U16 } else { Dtype::U8 }
}

/// The header, once its version and the file's checksum are known to be right.
fn read_header(bytes: &[u8]) -> Checked<Header> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(container_error)?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    let text = match metadata.get(METADATA_KEY) {
        Some(text) if metadata.len() == 1 => text,
        _ => {
            let keys: BTreeSet<&str> = metadata.keys().map(String::as_str).collect();
            return Err(PackageError::Metadata { key: METADATA_KEY, found: format!("{keys:?}") });
        }
    };
    let header_error = |error: serde_json::Error| PackageError::Header(error.to_string());
    let VersionHeader { version: found } = serde_json::from_str(text).map_err(header_error)?;
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
        (Op::MaxPool { .. }, LayerHeader::MaxPool {}) => IntegerLayer::MaxPool,
        (Op::Concat, LayerHeader::Concat {}) => IntegerLayer::Concat,
        (Op::AvgPool { .. }, LayerHeader::AvgPool { input_bits, output }) => {
            IntegerLayer::AvgPool { input_bits, output: output.into() }
        }
        (Op::Conv { .. } | Op::MaxPool { .. } | Op::AvgPool { .. } | Op::Concat, _) => {
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
        if !(2..=8).contains(&bits) {
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
            weights: groups::unpack(grid, &kept, stream, bits)
                .map_err(|message| PackageError::tensor(weights, message))?,
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

/// A tensor that is going to be written.
struct OwnTensor {
    dtype: Dtype,
    shape: usize,
    data: Vec<u8>,
}

impl OwnTensor {
    fn view(&self) -> std::result::Result<TensorView<'_>, SafeTensorError> {
        TensorView::new(self.dtype, vec![self.shape], &self.data)
    }
}

/// Bounds that a description must keep before its shapes are computed.
fn check_description(spec: &NetworkSpec) -> Checked<()> {
    if spec.input.iter().any(|&size| size > MAX_SIDE) {
        return Err(PackageError::field("network.input", format!("{:?} has a size above {MAX_SIDE}", spec.input)));
    }
    if spec.layers.len() > MAX_LAYERS {
        return Err(PackageError::field(
            "network.layers",
            format!("{} layers, at most {MAX_LAYERS} are read", spec.layers.len()),
        ));
    }
    for (number, layer) in spec.layers.iter().enumerate() {
        let (kernel, dilation) = match layer {
            LayerSpec::Conv { kernel, dilation, .. } => (*kernel, *dilation),
            LayerSpec::MaxPool { kernel, .. } | LayerSpec::AvgPool { kernel: Some(kernel), .. } => {
                (*kernel, Sides::from(1))
            }
            LayerSpec::AvgPool { kernel: None, .. } | LayerSpec::Concat { .. } | LayerSpec::Linear { .. } => continue,
        };
        for (key, sides) in [("kernel", kernel), ("dilation", dilation)] {
            if let Some(side) = sides.0.into_iter().find(|side| *side > MAX_KERNEL) {
                let field = format!("network.layers[{number}].{key}");
                return Err(PackageError::field(field, format!("{side} is above {MAX_KERNEL}")));
            }
        }
    }
    Ok(())
}

/// Bounds on what a network takes when it is unpacked.
fn check_extents(graph: &Graph) -> Checked<()> {
    type Extents = Vec<[usize; 4]>;
    let maps = std::iter::once(graph.image()).chain(graph.nodes().iter().map(|node| node.output));
    let maps: Extents = maps.map(|map| [map.channels, map.height, map.width, 1]).collect();
    let of_convs =
        |extent: fn(ConvShape) -> [usize; 4]| graph.convs().map(|conv| extent(conv.shape)).collect::<Extents>();
    let weights = of_convs(|conv| [conv.filters(), conv.depth(), conv.window.kernel[0], conv.window.kernel[1]]);
    // What the reference gathers, and a map with its border.
    let products = of_convs(|conv| [conv.channels(), conv.taps(), conv.output.height, conv.output.width]);
    let bordered = of_convs(|conv| {
        let [height, width] = conv.window.bordered([conv.input.height, conv.input.width]);
        [conv.channels(), height, width, 1]
    });
    let all = |extents: &[[usize; 4]], limit: usize| total(extents).is_some_and(|total| total <= limit);
    let each = |extents: &Extents, limit: usize| extents.chunks(1).all(|extent| all(extent, limit));
    for (fits, limit, what) in [
        (all(&maps, MAX_VALUES), MAX_VALUES, "its layers have more values than"),
        (each(&maps, MAX_MAP), MAX_MAP, "a layer has more values than"),
        (all(&weights, MAX_WEIGHTS), MAX_WEIGHTS, "its layers have more weights than"),
        (all(&bordered, MAX_VALUES), MAX_VALUES, "its layers have more values with their borders than"),
        (each(&products, MAX_INPUTS), MAX_INPUTS, "a layer has more inputs of filters than"),
    ] {
        if !fits {
            return Err(PackageError::field("network", format!("{what} {limit}")));
        }
    }
    Ok(())
}

/// Sum of products, unless it overflows.
fn total(extents: &[[usize; 4]]) -> Option<usize> {
    extents.iter().try_fold(0usize, |sum, extent| {
        let product = extent.iter().try_fold(1usize, |product, n| product.checked_mul(*n))?;
        sum.checked_add(product)
    })
}

fn check_sha256(field: &str, text: &str) -> Checked<()> {
    if text.len() == NO_CHECKSUM.len() && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    Err(PackageError::field(field, "a SHA-256 has 64 digits from 0 to f, in lower case"))
}

fn network_error(error: crate::Error) -> PackageError {
    PackageError::Network(error.to_string())
}

fn container_error(error: SafeTensorError) -> PackageError {
    PackageError::Container(error.to_string())
}
