//! A validated layer graph: references resolved, shapes computed, MACs and weights counted.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use super::spec::{Activation, LayerSpec, NetworkSpec, Shortcut, SkipSpec};
use super::window::{Border, Sides, Window};
use crate::error::{Error, Result};

/// Where a layer's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The image: raw bytes, one zero point a color.
    Image,
    /// The output of the node with this index.
    Node(usize),
}

/// Channels, height and width of a feature map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Pixels a row.
    pub width: usize,
}

impl MapShape {
    /// Pixels of one channel.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// All values.
    pub fn len(&self) -> usize {
        self.channels * self.pixels()
    }

    /// True for a map without values, which a valid graph never has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Geometry of a convolution; a linear layer has the whole input map as its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input map.
    pub input: MapShape,
    /// Output map; its channels are the filters.
    pub output: MapShape,
    /// Its kernel, which moves over the input.
    pub window: Window,
    /// Pixels from one value of the kernel to the next, of rows and of columns.
    pub dilation: [usize; 2],
    /// Groups of channels, each of which is read by as many filters.
    pub groups: usize,
}

impl ConvShape {
    /// Output channels.
    pub fn filters(&self) -> usize {
        self.output.channels
    }

    /// Input channels.
    pub fn channels(&self) -> usize {
        self.input.channels
    }

    /// Input channels that a filter reads: all, or those of its group.
    pub fn depth(&self) -> usize {
        self.channels() / self.groups
    }

    /// The input channels that this filter reads.
    pub fn reads(&self, filter: usize) -> Range<usize> {
        let first = filter / (self.filters() / self.groups) * self.depth();
        first..first + self.depth()
    }

    /// Kernel positions.
    pub fn taps(&self) -> usize {
        self.window.taps()
    }

    /// Row and column of the input, from the window's first one, that a kernel position reads.
    pub fn tap(&self, tap: usize) -> [usize; 2] {
        let width = self.window.kernel[1];
        [tap / width * self.dilation[0], tap % width * self.dilation[1]]
    }

    /// Rows and columns of the input that a window spans.
    pub fn span(&self) -> [usize; 2] {
        span(self.window.kernel, self.dilation)
    }

    /// Weights `[filters, depth, kernel height, kernel width]`.
    pub fn weights(&self) -> usize {
        self.filters() * self.depth() * self.taps()
    }

    /// Multiply-accumulates of one image, borders included.
    pub fn macs(&self) -> u64 {
        self.weights() as u64 * self.output.pixels() as u64
    }
}

/// The value that joins a residual sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Every `stride`-th pixel of the source, `pad_front` zero channels in front and as many as needed behind.
    Identity {
        /// Where it comes from.
        source: Source,
        /// Step between the pixels taken.
        stride: usize,
        /// Zero channels in front.
        pad_front: usize,
    },
    /// A 1x1 convolution of the source.
    Projection {
        /// Where it comes from.
        source: Source,
        /// Its geometry.
        conv: ConvShape,
        /// Batch norm instead of a bias.
        batch_norm: bool,
    },
}

/// What a node computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one for each node")]
pub enum Op {
    /// Convolution or linear layer.
    Conv {
        /// Geometry.
        conv: ConvShape,
        /// Batch norm instead of a bias.
        batch_norm: bool,
        /// Residual sum.
        skip: Option<Skip>,
        /// What follows the sums; nothing where they are the logits.
        activation: Activation,
        /// True for the last layer, whose sums are the logits.
        logits: bool,
    },
    /// Maximum over windows.
    MaxPool {
        /// The windows; a border never wins.
        window: Window,
    },
    /// Mean over windows.
    AvgPool {
        /// The windows; what of one lies in the border counts as zeros.
        window: Window,
    },
    /// The channels of its input, and behind them those of [`Node::behind`].
    Concat,
}

/// A convolution or linear layer of a graph: a node's own, or the projection of its residual sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Unique name, that of its weights.
    pub name: String,
    /// Number in the network, from which a chip's noise and stuck cells follow: twice that of its node, one more for a projection.
    pub number: u32,
    /// Geometry.
    pub shape: ConvShape,
    /// What it reads.
    pub source: Source,
    /// Batch norm instead of a bias.
    pub batch_norm: bool,
    /// What the batch norm adds to a variance before its root.
    pub epsilon: f64,
    /// True for the one whose sums are the logits.
    pub logits: bool,
}

/// A layer with its references resolved and its shapes known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// Input.
    pub source: Source,
    /// What a concatenation places behind its input, in order; nothing for another node.
    pub behind: Vec<Source>,
    /// Shape of the input.
    pub input: MapShape,
    /// Shape of the output.
    pub output: MapShape,
    /// Computation.
    pub op: Op,
}

/// A validated network: nodes in execution order, the last one gives the logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "NetworkSpec", into = "NetworkSpec")]
pub struct Graph {
    spec: NetworkSpec,
    nodes: Vec<Node>,
    /// For each node the first one that shares a scale with it.
    scales: Vec<usize>,
}

/// Largest side, channel count or filter count that a description may ask for.
const MAX_EXTENT: usize = 1 << 16;
/// Most weights of a layer, and most values of a map.
const MAX_VALUES: u128 = 1 << 32;

/// What a ReLU may clip at.
const CLIPS: RangeInclusive<f64> = 1e-3..=1e3;
/// What a batch norm may add to a variance.
const EPSILONS: RangeInclusive<f64> = 1e-12..=0.5;

impl Graph {
    /// Checks a description and computes its shapes.
    ///
    /// # Errors
    /// Names the layer: an unknown or later input, a kernel larger than its map, a residual sum whose shapes differ, a last
    /// layer that doesn't give one logit a class, an output that nobody reads.
    pub fn new(spec: NetworkSpec) -> Result<Self> {
        let [channels, height, width] = spec.input;
        let image = MapShape { channels, height, width };
        if spec.input.iter().any(|&n| n == 0 || n > MAX_EXTENT) {
            return Err(spec.error(format!("input {:?} must have three sizes from 1 to {MAX_EXTENT}", spec.input)));
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(spec.layers.len());
        let mut epsilons =
            spec.layers.iter().filter_map(LayerSpec::batch_norm_epsilon).chain([spec.batch_norm_epsilon]);
        if let Some(epsilon) = epsilons.find(|epsilon| !EPSILONS.contains(epsilon)) {
            let (least, most) = (EPSILONS.start(), EPSILONS.end());
            return Err(spec.error(format!("batch_norm_epsilon = {epsilon}: it must be from {least} to {most}")));
        }
        for (index, layer) in spec.layers.iter().enumerate() {
            let name = layer.name();
            if name.is_empty() || name == "image" || nodes.iter().any(|n| n.name == name) {
                return Err(spec.error(format!("layer {index}: the name `{name}` is empty, reserved or used twice")));
            }
            if name.contains(':') {
                return Err(spec.error(format!("layer {index}: the name `{name}` has a colon, which checkpoints need")));
            }
            let logits = index + 1 == spec.layers.len();
            if let Some(clip) = layer.clip() {
                let message = match (logits, layer.activation(), CLIPS.contains(&clip)) {
                    (true, ..) => "the layer that gives the logits has no activation to clip".into(),
                    (false, Some(Activation::None), _) => "it has no ReLU to clip: drop `clip` or `activation`".into(),
                    (false, _, true) => String::new(),
                    (false, _, false) => format!("clip = {clip}: it must be from {} to {}", CLIPS.start(), CLIPS.end()),
                };
                if !message.is_empty() {
                    return Err(spec.error(format!("layer `{name}`: {message}")));
                }
            }
            let node = resolve(layer, logits, image, &nodes)
                .map_err(|message| spec.error(format!("layer `{name}`: {message}")))?;
            nodes.push(node);
        }
        for node in nodes.iter().filter(|node| node.projection().is_some()) {
            let projection = node.projection_name();
            if nodes.iter().any(|other| other.name == projection) {
                return Err(
                    spec.error(format!("`{projection}` is the name of a layer and of `{}`'s projection", node.name))
                );
            }
        }
        let graph = Self { spec, scales: scales(&nodes), nodes };
        graph.check_ends()?;
        graph.check_concats()?;
        Ok(graph)
    }

    fn check_ends(&self) -> Result<()> {
        let Some(last) = self.nodes.last() else {
            return Err(self.spec.error("it has no layers"));
        };
        if !matches!(last.op, Op::Conv { .. }) || last.output.len() != self.spec.classes {
            return Err(self.spec.error(format!(
                "the last layer `{}` must be a conv or linear layer with one output for each of the {} classes",
                last.name, self.spec.classes
            )));
        }
        for (index, node) in self.nodes.iter().enumerate().take(self.nodes.len() - 1) {
            if self.readers(Source::Node(index)).next().is_none() {
                return Err(self.spec.error(format!("nothing reads the output of layer `{}`", node.name)));
            }
        }
        Ok(())
    }

    /// What shares a quantizer has a sign or has none, and is clipped alike.
    fn check_concats(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.op == Op::Concat) {
            let error = |message: String| Err(self.spec.error(format!("layer `{}`: {message}", node.name)));
            let name = |source: Source| match source {
                Source::Image => "image",
                Source::Node(index) => self.nodes[index].name.as_str(),
            };
            if let Some(other) = node.behind.iter().find(|other| self.is_signed(**other) != self.is_signed(node.source))
            {
                let (first, other) = (name(node.source), name(*other));
                return error(format!(
                    "of `{first}` and `{other}` one has a sign and one has none: give all that it joins an activation, or none"
                ));
            }
        }
        let mut clipped: BTreeMap<usize, usize> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| matches!(node.op, Op::Conv { .. })) {
            let first = *clipped.entry(self.scales[index]).or_insert(index);
            if self.clip(index) != self.clip(first) {
                return Err(self.spec.error(format!(
                    "layer `{}`: a concatenation joins it with `{}`, whose `clip` is another one: give both the same",
                    node.name, self.nodes[first].name
                )));
            }
        }
        Ok(())
    }

    /// The description it was made from.
    pub fn spec(&self) -> &NetworkSpec {
        &self.spec
    }

    /// Nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Shape of the image.
    pub fn image(&self) -> MapShape {
        let [channels, height, width] = self.spec.input;
        MapShape { channels, height, width }
    }

    /// Shape of a value.
    pub fn shape(&self, source: Source) -> MapShape {
        match source {
            Source::Image => self.image(),
            Source::Node(index) => self.nodes[index].output,
        }
    }

    /// Indices of the nodes that read a value, as input or as residual.
    pub fn readers(&self, source: Source) -> impl Iterator<Item = usize> {
        self.nodes
            .iter()
            .enumerate()
            .filter(move |(_, node)| node.sources().chain(node.skip_source()).any(|read| read == source))
            .map(|(index, _)| index)
    }

    /// All convolutions: each node's own, then its projection.
    pub fn convs(&self) -> impl Iterator<Item = Conv> {
        (0..self.nodes.len()).flat_map(|index| self.node_convs(index)).flatten()
    }

    /// A node's own convolution and its projection.
    pub fn node_convs(&self, index: usize) -> [Option<Conv>; 2] {
        let node = &self.nodes[index];
        let Op::Conv { conv: shape, batch_norm, skip, logits, .. } = node.op else { return [None, None] };
        let number = 2 * index as u32;
        let epsilon = self.spec.layers[index].batch_norm_epsilon().unwrap_or(self.spec.batch_norm_epsilon);
        let own = Conv { name: node.name.clone(), number, shape, source: node.source, batch_norm, epsilon, logits };
        let projection = match skip {
            Some(Skip::Projection { source, conv: shape, batch_norm }) => {
                let name = node.projection_name();
                Some(Conv { name, number: number + 1, shape, source, batch_norm, epsilon, logits: false })
            }
            Some(Skip::Identity { .. }) | None => None,
        };
        [Some(own), projection]
    }

    /// Whether a value has a sign: what pooling layers make of one that has keeps it. The image's bytes have zero points of their own.
    pub fn is_signed(&self, source: Source) -> bool {
        let Source::Node(index) = source else { return false };
        let node = &self.nodes[index];
        match node.op {
            Op::Conv { activation, .. } => activation == Activation::None,
            Op::MaxPool { .. } | Op::AvgPool { .. } | Op::Concat => self.is_signed(node.source),
        }
    }

    /// The first node that shares the scale of this one's output: that of a maximum is its input's, and what a concatenation joins has one
    /// scale. For any other node it is the node itself.
    pub fn scale_node(&self, node: usize) -> usize {
        self.scales[node]
    }

    /// The largest value behind a node's ReLU in float, where there is one.
    pub fn clip(&self, index: usize) -> Option<f64> {
        self.spec.layers[index].clip()
    }

    /// Multiply-accumulates of one image.
    pub fn macs(&self) -> u64 {
        self.convs().map(|conv| conv.shape.macs()).sum()
    }

    /// Weights of all convolutions and linear layers, without biases.
    pub fn weights(&self) -> u64 {
        self.convs().map(|conv| conv.shape.weights() as u64).sum()
    }
}

impl TryFrom<NetworkSpec> for Graph {
    type Error = Error;

    fn try_from(spec: NetworkSpec) -> Result<Self> {
        Self::new(spec)
    }
}

impl From<Graph> for NetworkSpec {
    fn from(graph: Graph) -> Self {
        graph.spec
    }
}

impl Node {
    /// Geometry, for a convolution.
    pub fn conv(&self) -> Option<ConvShape> {
        match self.op {
            Op::Conv { conv, .. } => Some(conv),
            Op::MaxPool { .. } | Op::AvgPool { .. } | Op::Concat => None,
        }
    }

    /// All that it reads but a residual: its input, and what a concatenation places behind it.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        std::iter::once(self.source).chain(self.behind.iter().copied())
    }

    /// Geometry of the projection on its residual path.
    pub fn projection(&self) -> Option<ConvShape> {
        match self.op {
            Op::Conv { skip: Some(Skip::Projection { conv, .. }), .. } => Some(conv),
            Op::Conv { skip: Some(Skip::Identity { .. }) | None, .. }
            | Op::MaxPool { .. }
            | Op::AvgPool { .. }
            | Op::Concat => None,
        }
    }

    /// Name under which the projection's weights are stored.
    pub fn projection_name(&self) -> String {
        format!("{}.projection", self.name)
    }

    pub(crate) fn skip_source(&self) -> Option<Source> {
        match self.op {
            Op::Conv { skip: Some(Skip::Identity { source, .. } | Skip::Projection { source, .. }), .. } => {
                Some(source)
            }
            Op::Conv { skip: None, .. } | Op::MaxPool { .. } | Op::AvgPool { .. } | Op::Concat => None,
        }
    }
}

type Reason<T> = std::result::Result<T, String>;

fn resolve(layer: &LayerSpec, logits: bool, image: MapShape, nodes: &[Node]) -> Reason<Node> {
    let source = match layer.input() {
        Some(name) => find(name, nodes)?,
        None => nodes.len().checked_sub(1).map_or(Source::Image, Source::Node),
    };
    let input = shape_of(source, image, nodes);
    let activation = if logits { Activation::None } else { layer.activation().unwrap_or_default() };
    let op = match layer {
        LayerSpec::Conv { filters, kernel, stride, padding, dilation, groups, batch_norm, add, .. } => {
            let window = Window { kernel: kernel.0, stride: stride.0, padding: padding.0 };
            let conv = conv_shape(input, *filters, window, dilation.0)?.in_groups(*groups)?;
            let skip = add.as_ref().map(|add| resolve_skip(add, conv.output, image, nodes)).transpose()?;
            if logits && skip.is_some() {
                return Err("the layer that gives the logits cannot have a residual sum".into());
            }
            Op::Conv { conv, batch_norm: *batch_norm, skip, activation, logits }
        }
        LayerSpec::Linear { filters, batch_norm, .. } => {
            let window = Window { kernel: [input.height, input.width], ..Window::square(1, 1, 0) };
            let conv = conv_shape(input, *filters, window, [1; 2])?;
            Op::Conv { conv, batch_norm: *batch_norm, skip: None, activation, logits }
        }
        LayerSpec::MaxPool { kernel, stride, padding, .. } => {
            let window = Window { kernel: kernel.0, stride: stride.0, padding: padding.0 };
            check_border(&window)?;
            Op::MaxPool { window }
        }
        LayerSpec::AvgPool { kernel: None, stride, padding, .. } => {
            if stride.is_some() || !padding.is_none() {
                return Err("a mean over the whole map has neither stride nor padding: give its kernel".into());
            }
            let kernel = [input.height, input.width];
            Op::AvgPool { window: Window { kernel, stride: kernel, padding: padding.0 } }
        }
        LayerSpec::AvgPool { kernel: Some(kernel), stride, padding, .. } => {
            let window = Window { kernel: kernel.0, stride: stride.unwrap_or(*kernel).0, padding: padding.0 };
            check_border(&window)?;
            Op::AvgPool { window }
        }
        LayerSpec::Concat { .. } => Op::Concat,
    };
    let behind = match layer {
        LayerSpec::Concat { inputs, .. } => {
            if inputs.len() < 2 {
                return Err(format!("it joins {} values: `inputs` names two or more", inputs.len()));
            }
            inputs[1..].iter().map(|name| find(name, nodes)).collect::<Reason<Vec<Source>>>()?
        }
        LayerSpec::Conv { .. } | LayerSpec::MaxPool { .. } | LayerSpec::AvgPool { .. } | LayerSpec::Linear { .. } => {
            Vec::new()
        }
    };
    if (source == Source::Image || behind.contains(&Source::Image)) && !matches!(op, Op::Conv { .. }) {
        return Err("only a convolution or linear layer can read the image".into());
    }
    let output = match op {
        Op::Conv { conv, .. } => conv.output,
        Op::Concat => concatenated(input, &behind, image, nodes)?,
        Op::MaxPool { window } | Op::AvgPool { window } => conv_shape(input, input.channels, window, [1; 2])?.output,
    };
    Ok(Node { name: layer.name().into(), source, behind, input, output, op })
}

fn find(name: &str, nodes: &[Node]) -> Reason<Source> {
    if name == "image" {
        return Ok(Source::Image);
    }
    nodes
        .iter()
        .position(|node| node.name == name)
        .map(Source::Node)
        .ok_or_else(|| format!("its input `{name}` is not a layer before it"))
}

fn shape_of(source: Source, image: MapShape, nodes: &[Node]) -> MapShape {
    match source {
        Source::Image => image,
        Source::Node(index) => nodes[index].output,
    }
}

/// For each node the first one that shares a scale with it.
fn scales(nodes: &[Node]) -> Vec<usize> {
    let mut scales: Vec<usize> = (0..nodes.len()).collect();
    for (index, node) in nodes.iter().enumerate() {
        match node.op {
            Op::Conv { .. } | Op::AvgPool { .. } => {}
            Op::MaxPool { .. } | Op::Concat => {
                for source in node.sources() {
                    let Source::Node(source) = source else { continue };
                    let (first, second) = (scales[source].min(scales[index]), scales[source].max(scales[index]));
                    scales[..=index].iter_mut().filter(|scale| **scale == second).for_each(|scale| *scale = first);
                }
            }
        }
    }
    scales
}

/// The shape of a map behind whose channels others lie.
fn concatenated(first: MapShape, behind: &[Source], image: MapShape, nodes: &[Node]) -> Reason<MapShape> {
    let mut channels = first.channels;
    for source in behind {
        let map = shape_of(*source, image, nodes);
        if (map.height, map.width) != (first.height, first.width) {
            return Err(format!(
                "it joins maps of {}x{} and {}x{}: rows and columns must be the same",
                first.height, first.width, map.height, map.width
            ));
        }
        channels += map.channels;
    }
    if channels > MAX_EXTENT {
        return Err(format!("it would have {channels} channels; the limit is {MAX_EXTENT}"));
    }
    Ok(MapShape { channels, ..first })
}

/// Each window of a pooling layer holds a pixel of the map.
fn check_border(window: &Window) -> Reason<()> {
    let fits = |side: usize| window.padding[side].iter().all(|padding| *padding < window.kernel[side]);
    if fits(0) && fits(1) {
        return Ok(());
    }
    Err(format!("padding {} must be smaller than the window {}", Border(window.padding), Sides(window.kernel)))
}

/// Pixels that a kernel spans whose values are `dilation` apart.
fn span(kernel: [usize; 2], dilation: [usize; 2]) -> [usize; 2] {
    [0, 1].map(|side| (kernel[side] - 1) * dilation[side] + 1)
}

fn conv_shape(input: MapShape, filters: usize, window: Window, dilation: [usize; 2]) -> Reason<ConvShape> {
    let Window { kernel, stride, padding } = window;
    let sizes = [&kernel[..], &stride, &dilation, &[filters]].concat();
    if sizes.contains(&0) || sizes.iter().chain(padding.as_flattened()).any(|&n| n > MAX_EXTENT) {
        return Err(format!(
            "filters, kernel, stride and dilation must be from 1 to {MAX_EXTENT}, padding at most that"
        ));
    }
    let span = span(kernel, dilation);
    let [height, width] = Window { kernel: span, ..window }.windows([input.height, input.width]).ok_or_else(|| {
        format!(
            "a kernel of {} does not fit a map of {} with padding {}",
            Sides(span),
            Sides([input.height, input.width]),
            Border(padding)
        )
    })?;
    let output = MapShape { channels: filters, height, width };
    let product = |sizes: [usize; 4]| sizes.iter().map(|&size| size as u128).product::<u128>();
    let weights = product([filters, input.channels, kernel[0], kernel[1]]);
    let values = product([filters, output.height, output.width, 1]);
    if weights.max(values) > MAX_VALUES {
        return Err(format!("it would have {weights} weights and {values} output values; the limit is {MAX_VALUES}"));
    }
    let [height, width] = window.bordered([input.height, input.width]);
    let bordered = product([input.channels, height, width, 1]);
    if bordered > MAX_VALUES {
        return Err(format!(
            "its input has {bordered} values with the border of {}; the limit is {MAX_VALUES}",
            Border(padding)
        ));
    }
    Ok(ConvShape { input, output, window, dilation, groups: 1 })
}

impl ConvShape {
    /// The same whose channels are in groups.
    fn in_groups(self, groups: usize) -> Reason<Self> {
        let (channels, filters) = (self.channels(), self.filters());
        if groups == 0 || !channels.is_multiple_of(groups) || !filters.is_multiple_of(groups) {
            return Err(format!("{channels} channels and {filters} filters do not divide into {groups} groups"));
        }
        Ok(Self { groups, ..self })
    }
}

fn resolve_skip(add: &SkipSpec, output: MapShape, image: MapShape, nodes: &[Node]) -> Reason<Skip> {
    let SkipSpec { shortcut, stride, batch_norm, .. } = *add;
    let source = find(&add.from, nodes)?;
    let Source::Node(index) = source else {
        return Err("the image cannot join a residual sum".into());
    };
    let from = shape_of(source, image, nodes);
    let conv = conv_shape(from, output.channels, Window::square(1, stride, 0), [1; 2])?;
    if conv.output != output {
        return Err(format!(
            "the residual value `{}` gives {}x{} at stride {stride}, the sum needs {}x{}",
            nodes[index].name, conv.output.height, conv.output.width, output.height, output.width
        ));
    }
    match shortcut {
        Shortcut::Projection => Ok(Skip::Projection { source, conv, batch_norm }),
        Shortcut::Identity if !batch_norm => {
            Err("an identity has no batch norm to leave out: drop the key from its `add`".into())
        }
        Shortcut::Identity => {
            let missing = output.channels.checked_sub(from.channels).ok_or_else(|| {
                format!("the residual value has {} channels, the sum only {}", from.channels, output.channels)
            })?;
            Ok(Skip::Identity { source, stride, pad_front: missing / 2 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(layers: &str) -> Result<Graph> {
        let text = format!("name = 'n'\ninput = [3, 8, 8]\nclasses = 2\nlayers = [{}]", layers.replace('\n', " "));
        Graph::new(toml::from_str(&text).unwrap())
    }

    #[test]
    fn values_have_a_sign_until_a_relu() {
        let graph = graph(
            "{ op = 'conv', name = 'a', filters = 4, kernel = 1, activation = 'none' },
            { op = 'max_pool', name = 'm', kernel = 2, stride = 2 },
            { op = 'avg_pool', name = 'p', kernel = 2 },
            { op = 'conv', name = 'b', filters = 4, kernel = 1, activation = 'relu' },
            { op = 'linear', name = 'h', filters = 3, activation = 'none' },
            { op = 'linear', name = 'l', filters = 2 }",
        );
        let graph = graph.unwrap();
        let signs: Vec<bool> = (0..6).map(|node| graph.is_signed(Source::Node(node))).collect();
        assert_eq!(signs, [true, true, true, false, true, true]);
        assert!(!graph.is_signed(Source::Image));
    }

    #[test]
    fn what_has_no_relu_is_not_clipped() {
        let last = "{ op = 'linear', name = 'l', filters = 2 }";
        let clipped =
            |keys: &str| graph(&format!("{{ op = 'conv', name = 'a', filters = 4, kernel = 1, {keys} }}, {last}"));
        assert!(clipped("clip = 6.0").is_ok());
        let error = clipped("clip = 6.0, activation = 'none'").unwrap_err().to_string();
        assert!(error.contains("layer `a`: it has no ReLU to clip: drop `clip` or `activation`"), "{error}");
    }

    /// A network of these layers with a linear one behind them.
    fn ended(layers: &str) -> Result<Graph> {
        graph(&format!("{layers}, {{ op = 'linear', name = 'end', filters = 2 }}"))
    }

    #[track_caller]
    fn refused(layers: &str, message: &str) {
        let error = ended(layers).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }

    const CONV: &str = "{ op = 'conv', name = 'a', filters = 4, kernel = 3, padding = 1 }";

    #[test]
    fn windows_of_every_kind_have_the_sizes_that_pytorch_gives_them() {
        let size = |keys: &str| {
            let graph = ended(&format!("{{ op = 'conv', name = 'a', filters = 4, {keys} }}")).unwrap();
            let map = graph.nodes()[0].output;
            [map.height, map.width]
        };
        assert_eq!(size("kernel = 3"), [6, 6]);
        assert_eq!(size("kernel = [3, 1], padding = [1, 0]"), [8, 8]);
        assert_eq!(size("kernel = 3, dilation = [2, 3], padding = [2, 0, 1, 1]"), [7, 3]);
        assert_eq!(size("kernel = [1, 5], stride = [3, 2], padding = 2"), [4, 4]);
        refused(
            "{ op = 'conv', name = 'a', filters = 4, kernel = 3, dilation = [4, 1] }",
            "layer `a`: a kernel of 9 x 3 does not fit a map of 8 with padding 0",
        );
        refused(
            "{ op = 'conv', name = 'a', filters = 4, kernel = 1, stride = 60000, padding = 60000 }",
            "layer `a`: its input has 43205760192 values with the border of 60000; the limit is",
        );
        refused(
            "{ op = 'conv', name = 'a', filters = 4, kernel = 3, dilation = 0 }",
            "kernel, stride and dilation must be from 1 to 65536",
        );
        refused(
            &format!("{CONV}, {{ op = 'max_pool', name = 'm', kernel = 2, stride = 2, padding = [0, 0, 2, 0] }}"),
            "padding 0 above, 2 below, 0 left, 0 right must be smaller than the window 2",
        );
        refused(
            &format!("{CONV}, {{ op = 'avg_pool', name = 'm', stride = 2 }}"),
            "a mean over the whole map has neither stride nor padding: give its kernel",
        );
    }

    #[test]
    fn what_is_concatenated_has_the_same_pixels_and_one_scale() {
        let joined = |layers: &str| format!("{CONV}, {layers}, {{ op = 'concat', name = 'j', inputs = ['a', 'b'] }}");
        let conv = |keys: &str| joined(&format!("{{ op = 'conv', name = 'b', filters = 6, kernel = 3, {keys} }}"));
        let both = ended(&conv("padding = 1")).unwrap();
        assert_eq!(both.nodes()[2].output, MapShape { channels: 10, height: 8, width: 8 });
        assert_eq!((0..4).map(|node| both.scale_node(node)).collect::<Vec<_>>(), [0, 0, 0, 3]);
        let pooled = ended(&joined("{ op = 'max_pool', name = 'b', kernel = 1, stride = 1 }")).unwrap();
        assert_eq!(pooled.scale_node(1), 0);
        assert_eq!(pooled.readers(Source::Node(0)).collect::<Vec<_>>(), [1, 2]);
        refused(&conv("padding = 0"), "layer `j`: it joins maps of 8x8 and 6x6: rows and columns must be the same");
        refused(&conv("padding = 1, activation = 'none'"), "of `a` and `b` one has a sign and one has none");
        refused(
            &conv("padding = 1, clip = 6.0"),
            "layer `b`: a concatenation joins it with `a`, whose `clip` is another",
        );
        refused(&format!("{CONV}, {{ op = 'concat', name = 'j', inputs = ['a'] }}"), "it joins 1 values");
        refused(&format!("{CONV}, {{ op = 'concat', name = 'j', inputs = ['a', 'image'] }}"), "can read the image");
        refused(
            &format!("{CONV}, {{ op = 'concat', name = 'j', inputs = ['a', 'z'] }}"),
            "its input `z` is not a layer",
        );
    }
}
