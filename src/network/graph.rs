//! A validated layer graph: references resolved, shapes computed, MACs and weights counted.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::node::{Conv, ConvId, Node, Op, SameScale, Skip, Source};
use super::resolve::{resolve, scales};
use super::shape::{MAX_EXTENT, MAX_LAYERS, MapShape};
use super::spec::{Activation, LayerSpec, NetworkSpec};
use crate::error::{Error, Result};

/// A validated network: nodes in execution order, the last one gives the logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "NetworkSpec", into = "NetworkSpec")]
pub struct Graph {
    spec: NetworkSpec,
    nodes: Vec<Node>,
    /// For each node the first one that shares a scale with it.
    scales: Vec<usize>,
}

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
        if spec.name.trim().is_empty() {
            return Err(spec.error("its name is empty"));
        }
        if spec.layers.len() > MAX_LAYERS {
            return Err(spec.error(format!("it has {} layers; the limit is {MAX_LAYERS}", spec.layers.len())));
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
            if let Some(fault) = fault_of_name(name, &nodes) {
                return Err(spec.error(format!("layer {}: {fault}", index + 1)));
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
        for node in self.nodes.iter().filter(|node| node.op == Op::SameScale(SameScale::Concat)) {
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
        let epsilon = self.spec.layers[index].batch_norm_epsilon().unwrap_or(self.spec.batch_norm_epsilon);
        let own = Conv {
            name: node.name.clone(),
            id: ConvId::Own(index),
            shape,
            source: node.source,
            batch_norm,
            epsilon,
            logits,
        };
        let projection = match skip {
            Some(Skip::Projection { source, conv: shape, batch_norm }) => {
                let (name, id) = (node.projection_name(), ConvId::Projection(index));
                Some(Conv { name, id, shape, source, batch_norm, epsilon, logits: false })
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
            Op::AvgPool { .. } | Op::SameScale(_) => self.is_signed(node.source),
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

    /// So many images, `most` at most, that all their maps together take a GiB in 32 bits; one image at least.
    #[cfg(feature = "train")]
    pub(crate) fn images_at_a_time(&self, most: usize) -> usize {
        let values = self.image().len() + self.nodes.iter().map(|node| node.output.len()).sum::<usize>();
        parallel_images(size_of::<f32>() * values).min(most)
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

/// How many images may be computed at a time so that their buffers, `bytes` each, stay below a GiB; at least one.
pub(crate) fn parallel_images(bytes: usize) -> usize {
    const BUFFERS: usize = 1 << 30;
    (BUFFERS / bytes.max(1)).max(1)
}

/// What is wrong with the name of a layer behind these.
fn fault_of_name(name: &str, nodes: &[Node]) -> Option<String> {
    match name {
        "" => Some("its name is empty".into()),
        "image" => Some("`image` is what layers call the image: give it another name".into()),
        _ if nodes.iter().any(|node| node.name == name) => Some(format!("a layer before it has its name, `{name}`")),
        _ if name.contains(':') => Some(format!("the name `{name}` has a colon, which checkpoints need")),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(feature = "train")]
    use crate::network::zoo;

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

    #[test]
    fn a_network_has_a_name() {
        let spec = ended(CONV).unwrap().spec().clone();
        let error = Graph::new(NetworkSpec { name: " ".into(), ..spec }).unwrap_err().to_string();
        assert!(error.contains("its name is empty"), "{error}");
    }

    #[test]
    fn a_network_has_so_many_layers_at_most() {
        let layers: Vec<String> = (1..MAX_LAYERS).map(|layer| CONV.replacen("'a'", &format!("'{layer}'"), 1)).collect();
        let layers = layers.join(", ");
        assert_eq!(ended(&layers).unwrap().nodes().len(), MAX_LAYERS);
        refused(&format!("{layers}, {CONV}"), "it has 4097 layers; the limit is 4096");
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
            "layer `a`: dilation = 0: it must be from 1 to 65536",
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
    fn a_name_that_cannot_be_says_why() {
        let second = |name: &str| format!("{CONV}, {{ op = 'conv', name = '{name}', filters = 4, kernel = 1 }}");
        refused(&second(""), "layer 2: its name is empty");
        refused(&second("image"), "layer 2: `image` is what layers call the image");
        refused(&second("a"), "layer 2: a layer before it has its name, `a`");
        refused(&second("a:b"), "layer 2: the name `a:b` has a colon");
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

    #[cfg(feature = "train")]
    #[test]
    fn large_images_go_through_a_few_at_a_time() {
        let at_a_time = |name, side| {
            let spec = zoo(name, 10).unwrap();
            let network = Graph::new(NetworkSpec { input: [3, side, side], ..spec }).unwrap();
            network.images_at_a_time(250)
        };
        assert_eq!(at_a_time("vgg16", 32), 250);
        // 15 M values an image.
        assert_eq!(at_a_time("vgg16_imagenet", 224), 17);
    }
}
