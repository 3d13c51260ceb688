//! Which bit width where: the widths of weights, and the forms in which each value is stored.

use serde::{Deserialize, Serialize};

use super::arithmetic::{BITS, IMAGE_BITS};
use super::network::{IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::error::{Error, Result};
use crate::network::{Graph, Node, Op, Skip, Source};

/// How a network is quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeConfig {
    /// Bits of a weight, 2 to 8.
    pub weight_bits: u8,
    /// Bits of a convolution's input, 2 to 8.
    pub activation_bits: u8,
    /// Bits of a value that joins a residual sum, 2 to 8.
    pub skip_bits: u8,
    /// Bits of weights and inputs of the first and last layer, 2 to 8 (the image always has 8).
    pub first_last_bits: u8,
    /// How batch norm is treated.
    pub fusion: Fusion,
    /// One weight scale for a layer or for each column.
    pub weight_scale: WeightScale,
    /// Training's forward pass sees the conversions of the hardware's converter, its noise and its stuck cells, where it has any.
    /// Evaluation always does.
    pub converter_aware: bool,
    /// Widths of single layers, over those above; where several match, the last one counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerBits>,
}

/// Widths of the layers whose names match a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerBits {
    /// A name in which `*` stands for any characters; a projection has the widths of the layer that it joins.
    pub pattern: String,
    /// Bits of a weight, 2 to 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_bits: Option<u8>,
    /// Bits of the layer's input, 2 to 8 (the image always has 8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_bits: Option<u8>,
}

impl Default for QuantizeConfig {
    fn default() -> Self {
        Self {
            weight_bits: 4,
            activation_bits: 4,
            skip_bits: 8,
            first_last_bits: 8,
            fusion: Fusion::default(),
            weight_scale: WeightScale::default(),
            converter_aware: true,
            layers: Vec::new(),
        }
    }
}

/// What becomes of batch norm in quantized training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// Folded into the weights with the statistics of the batch (two passes), running statistics kept for evaluation.
    Batch,
    /// Folded into the weights with the running statistics, then corrected by the batch's: the sums of the rounded weights are
    /// normalized with their own statistics (Krishnamoorthi 2018, section 3.2.2, and Jacob et al. 2018, with the statistics of the
    /// quantized convolution instead of those of a second, float one).
    #[default]
    Ema,
    /// Folded into the weights with the running statistics, which no longer change.
    Frozen,
    /// Folded at the phase's start; from then on the folded weights and biases are what is trained.
    Once,
    /// Left outside: raw weights are quantized, each column has its own multiplier.
    None,
}

/// How far a weight scale reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightScale {
    /// One scale a layer.
    #[default]
    Layer,
    /// One scale an output channel, with its own multiplier at requantization.
    Column,
}

impl WeightScale {
    /// True where each filter of a convolution has a scale of its own; logits need one scale to be comparable.
    #[cfg(feature = "train")]
    pub(crate) fn is_per_filter(self, logits: bool) -> bool {
        self == Self::Column && !logits
    }
}

impl Fusion {
    /// True where training uses the batch's statistics, until they are frozen.
    pub fn uses_batch(self) -> bool {
        matches!(self, Self::Batch | Self::Ema)
    }
}

impl LayerBits {
    fn matches(&self, name: &str) -> bool {
        matches_pattern(&self.pattern, name)
    }
}

/// Whether `name` is `pattern`, in which `*` stands for any characters.
pub(crate) fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let Some(mut left) = name.strip_prefix(start).and_then(|name| name.strip_suffix(end)) else { return false };
    // The first place of a part leaves the most to those behind it.
    middle.split('*').all(|part| {
        let found = left.find(part);
        left = found.map_or(left, |at| &left[at + part.len()..]);
        found.is_some()
    })
}

impl QuantizeConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// Names the key and its value.
    pub fn check(&self) -> Result<()> {
        for (key, bits) in [
            ("weight_bits", self.weight_bits),
            ("activation_bits", self.activation_bits),
            ("skip_bits", self.skip_bits),
            ("first_last_bits", self.first_last_bits),
        ] {
            check_bits(key, bits)?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            for (key, bits) in [("weight_bits", layer.weight_bits), ("activation_bits", layer.activation_bits)] {
                bits.map_or(Ok(()), |bits| check_bits(&format!("layers.{index}.{key}"), bits))?;
            }
        }
        if self.fusion == Fusion::None && self.weight_scale == WeightScale::Column {
            return Err(Error::Setting(
                "quantize.weight_scale = \"column\" has no meaning with quantize.fusion = \"none\", where each column has its own \
                 multiplier already"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Checks that each pattern is one of a layer.
    ///
    /// # Errors
    /// Names the pattern and the layers that there are.
    pub fn check_patterns(&self, graph: &Graph) -> Result<()> {
        let names = || graph.nodes().iter().filter(|node| node.conv().is_some()).map(|node| node.name.as_str());
        match self.layers.iter().find(|layer| !names().any(|name| layer.matches(name))) {
            None => Ok(()),
            Some(LayerBits { pattern, .. }) => Err(Error::Setting(format!(
                "quantize.layers: no layer of `{}` matches `{pattern}`; it has {}",
                graph.spec().name,
                names().collect::<Vec<_>>().join(", ")
            ))),
        }
    }

    /// Bits of a layer's weights and of its input: the last pattern's, or what is usual for it.
    fn layer_bits(&self, name: &str, usual: [u8; 2]) -> [u8; 2] {
        self.layers.iter().filter(|layer| layer.matches(name)).fold(usual, |[weights, input], layer| {
            [layer.weight_bits.unwrap_or(weights), layer.activation_bits.unwrap_or(input)]
        })
    }
}

fn check_bits(key: &str, bits: u8) -> Result<()> {
    if BITS.contains(&bits) {
        return Ok(());
    }
    Err(Error::Setting(format!("quantize.{key} = {bits}: it must be from 2 to 8")))
}

/// The widths of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvWidths {
    /// Bits of its weights, and of its projection's.
    pub weights: u8,
    /// The form of its input that it reads.
    pub input: u8,
    /// The form that its residual reads.
    pub skip: Option<u8>,
}

/// What a node reads, by its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// A convolution or linear layer.
    Conv(ConvWidths),
    /// What keeps the scale of its values reads each form that it stores.
    SameScale,
    /// A mean.
    AvgPool {
        /// The form of its input that it sums: the widest that its own readers ask for.
        input: u8,
    },
}

/// The widths of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBits {
    /// What it reads.
    pub reads: Reads,
    /// The forms in which its output is stored, narrowest first; none for the logits.
    pub forms: Vec<u8>,
}

impl NodeBits {
    /// The widths of a convolution; none for a pooling layer.
    pub fn conv(&self) -> Option<&ConvWidths> {
        match &self.reads {
            Reads::Conv(bits) => Some(bits),
            Reads::AvgPool { .. } | Reads::SameScale => None,
        }
    }
}

/// The widths of every node, in the graph's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitPlan {
    /// One for each node.
    pub nodes: Vec<NodeBits>,
    /// For each node the narrowest form of the values that share its scale; none for the logits.
    narrowest: Vec<Option<u8>>,
}

impl BitPlan {
    /// The widths that a network has.
    pub fn of(network: &IntegerNetwork) -> Self {
        let nodes = network.layers.iter().enumerate().map(|(index, layer)| {
            let reads = match layer {
                IntegerLayer::Conv { conv, skip, .. } => Reads::Conv(ConvWidths {
                    weights: conv.weight_bits,
                    input: conv.input_bits,
                    skip: skip.as_ref().map(|skip| match skip {
                        IntegerSkip::Identity { bits, .. } => *bits,
                        IntegerSkip::Projection { conv, .. } => conv.input_bits,
                    }),
                }),
                IntegerLayer::SameScale => Reads::SameScale,
                IntegerLayer::AvgPool { input_bits, .. } => Reads::AvgPool { input: *input_bits },
            };
            let mut forms = network.forms(Source::Node(index));
            forms.sort_unstable();
            NodeBits { reads, forms }
        });
        Self::with_nodes(&network.graph, nodes.collect())
    }

    /// Derives the widths from what each value's readers ask for.
    pub fn new(graph: &Graph, config: &QuantizeConfig) -> Self {
        let mut forms: Vec<Vec<u8>> = vec![Vec::new(); graph.nodes().len()];
        let mut plan = Vec::new();
        // Readers come after what they read, so going backwards each node's forms are complete when it asks for its own.
        for (index, node) in graph.nodes().iter().enumerate().rev() {
            let own = forms[index].clone();
            let reads = match node.op {
                Op::Conv { skip, logits, .. } => {
                    let bits = conv_bits(node, skip, logits, config);
                    ask(&mut forms, node.source, &[bits.input]);
                    if let (Some(skip), Some(bits)) = (skip, bits.skip) {
                        let (Skip::Identity { source, .. } | Skip::Projection { source, .. }) = skip;
                        ask(&mut forms, source, &[bits]);
                    }
                    Reads::Conv(bits)
                }
                Op::AvgPool { .. } => {
                    let input = *own.last().expect("every value but the logits is read");
                    ask(&mut forms, node.source, &[input]);
                    Reads::AvgPool { input }
                }
                Op::SameScale(_) => {
                    node.sources().for_each(|source| ask(&mut forms, source, &own));
                    Reads::SameScale
                }
            };
            plan.push(NodeBits { reads, forms: own });
        }
        plan.reverse();
        Self::with_nodes(graph, plan)
    }

    fn with_nodes(graph: &Graph, nodes: Vec<NodeBits>) -> Self {
        let mut narrowest = vec![None; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            let shared: &mut Option<u8> = &mut narrowest[graph.scale_node(index)];
            *shared = shared.iter().chain(node.forms.first()).copied().min();
        }
        let narrowest = (0..nodes.len()).map(|index| narrowest[graph.scale_node(index)]).collect();
        Self { nodes, narrowest }
    }

    /// The narrowest form of a value and of those that share its scale, whose scale is the learned one; the image's bytes for the image.
    ///
    /// # Panics
    /// For the logits, which have no form.
    pub fn narrowest(&self, source: Source) -> u8 {
        match source {
            Source::Image => IMAGE_BITS,
            Source::Node(index) => self.narrowest[index].expect("every value but the logits is read"),
        }
    }
}

/// The widths that a convolution asks for.
fn conv_bits(node: &Node, skip: Option<Skip>, logits: bool, config: &QuantizeConfig) -> ConvWidths {
    let first = node.source == Source::Image;
    let weights = if first || logits { config.first_last_bits } else { config.weight_bits };
    let input = if logits { config.first_last_bits } else { config.activation_bits };
    let [weights, input] = config.layer_bits(&node.name, [weights, input]);
    let skip = skip.map(|skip| match skip {
        Skip::Identity { .. } => config.skip_bits,
        Skip::Projection { .. } => input,
    });
    ConvWidths { weights, input: if first { IMAGE_BITS } else { input }, skip }
}

/// Adds the forms that a reader asks for to those of what it reads.
fn ask(forms: &mut [Vec<u8>], source: Source, bits: &[u8]) {
    if let Source::Node(index) = source {
        let forms = &mut forms[index];
        forms.extend(bits);
        forms.sort_unstable();
        forms.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::zoo;

    fn plan(name: &str, weight_bits: u8) -> (Graph, BitPlan) {
        let graph = Graph::new(zoo(name, 10).unwrap()).unwrap();
        let config = QuantizeConfig { weight_bits, activation_bits: weight_bits, ..Default::default() };
        let plan = BitPlan::new(&graph, &config);
        (graph, plan)
    }

    fn node<'a>((graph, plan): &'a (Graph, BitPlan), name: &str) -> &'a NodeBits {
        &plan.nodes[graph.nodes().iter().position(|node| node.name == name).unwrap()]
    }

    fn conv(weights: u8, input: u8, skip: Option<u8>, forms: &[u8]) -> NodeBits {
        NodeBits { reads: Reads::Conv(ConvWidths { weights, input, skip }), forms: forms.to_vec() }
    }

    /// Plans worked out by hand: bits of weights, activations, residuals, first and last layer; layers; what each reads and stores.
    #[test]
    fn five_small_graphs_have_the_plans_that_were_written_by_hand() {
        let max = |forms: &[u8]| NodeBits { reads: Reads::SameScale, forms: forms.to_vec() };
        let mean = |input, forms: &[u8]| NodeBits { reads: Reads::AvgPool { input }, forms: forms.to_vec() };
        let linear = r#"{ op = "linear", name = "l", filters = 2 }"#;
        let first = r#"{ op = "conv", name = "a", filters = 4, kernel = 3, padding = 1 }"#;
        let cases: [([u8; 4], Vec<&str>, Vec<NodeBits>); 5] = [
            // One layer is the first and the last one: it reads the image's bytes and stores nothing.
            ([4, 4, 8, 6], vec![linear], vec![conv(6, 8, None, &[])]),
            // A chain: each stores what the next one reads.
            (
                [4, 3, 8, 8],
                vec![first, r#"{ op = "conv", name = "b", filters = 4, kernel = 3, padding = 1 }"#, linear],
                vec![conv(8, 8, None, &[3]), conv(4, 3, None, &[8]), conv(8, 8, None, &[])],
            ),
            // An identity residual reads another form than the convolution after it.
            (
                [4, 4, 8, 6],
                vec![
                    first,
                    r#"{ op = "conv", name = "b", filters = 4, kernel = 3, padding = 1 }"#,
                    r#"{ op = "conv", name = "c", filters = 4, kernel = 3, padding = 1, add = { from = "a" } }"#,
                    linear,
                ],
                vec![
                    conv(6, 8, None, &[4, 8]),
                    conv(4, 4, None, &[4]),
                    conv(4, 4, Some(8), &[6]),
                    conv(6, 6, None, &[]),
                ],
            ),
            // A projection reads what its convolution reads; a maximum passes on what both ask for.
            (
                [5, 4, 7, 8],
                vec![
                    first,
                    r#"{ op = "max_pool", name = "m", kernel = 2, stride = 2 }"#,
                    r#"{ op = "conv", name = "b", filters = 4, kernel = 3, padding = 1, add = { from = "m" } }"#,
                    r#"{ op = "conv", name = "c", filters = 4, kernel = 3, padding = 1,
                        add = { from = "b", shortcut = "projection" } }"#,
                    linear,
                ],
                vec![
                    conv(8, 8, None, &[4, 7]),
                    max(&[4, 7]),
                    conv(5, 4, Some(7), &[4]),
                    conv(5, 4, Some(4), &[8]),
                    conv(8, 8, None, &[]),
                ],
            ),
            // A mean sums the widest form that its readers ask for, and stores them all.
            (
                [4, 4, 8, 6],
                vec![
                    first,
                    r#"{ op = "avg_pool", name = "p", kernel = 2 }"#,
                    r#"{ op = "conv", name = "b", filters = 4, kernel = 3, padding = 1, add = { from = "p" } }"#,
                    r#"{ op = "max_pool", name = "m", kernel = 2, stride = 2 }"#,
                    r#"{ op = "avg_pool", name = "q" }"#,
                    linear,
                ],
                vec![
                    conv(6, 8, None, &[8]),
                    mean(8, &[4, 8]),
                    conv(4, 4, Some(8), &[6]),
                    max(&[6]),
                    mean(6, &[6]),
                    conv(6, 6, None, &[]),
                ],
            ),
        ];
        for ([weight_bits, activation_bits, skip_bits, first_last_bits], layers, expected) in cases {
            let layers = layers.join(", ").replace('\n', " ");
            let spec = format!("name = 'small'\ninput = [3, 8, 8]\nclasses = 2\nlayers = [{layers}]");
            let graph = Graph::new(toml::from_str(&spec).unwrap()).unwrap();
            let config =
                QuantizeConfig { weight_bits, activation_bits, skip_bits, first_last_bits, ..Default::default() };
            assert_eq!(BitPlan::new(&graph, &config).nodes, expected, "{layers}");
        }
    }

    #[test]
    fn a_four_bit_resnet_stores_values_for_convolutions_and_for_skips() {
        let plan = plan("resnet20", 4);
        assert_eq!(*node(&plan, "conv1"), conv(8, 8, None, &[4, 8]));
        assert_eq!(*node(&plan, "layer1.0.conv1"), conv(4, 4, None, &[4]));
        assert_eq!(*node(&plan, "layer1.0.conv2"), conv(4, 4, Some(8), &[4, 8]));
        assert_eq!(*node(&plan, "layer3.2.conv2"), conv(4, 4, Some(8), &[8]));
        assert_eq!(*node(&plan, "pool"), NodeBits { reads: Reads::AvgPool { input: 8 }, forms: vec![8] });
        assert_eq!(*node(&plan, "linear"), conv(8, 8, None, &[]));
    }

    #[test]
    fn patterns_give_layers_their_own_bits() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let layer = |pattern: &str, weight_bits, activation_bits| LayerBits {
            pattern: pattern.into(),
            weight_bits,
            activation_bits,
        };
        let config = QuantizeConfig {
            weight_bits: 4,
            activation_bits: 4,
            layers: vec![
                layer("layer1.*", Some(8), None),
                layer("*.conv2", None, Some(3)),
                layer("layer1.2.conv1", Some(2), Some(6)),
                layer("conv1", None, Some(2)),
            ],
            ..Default::default()
        };
        config.check_patterns(&graph).unwrap();
        let plan = (graph.clone(), BitPlan::new(&graph, &config));
        let bits = |name: &str| node(&plan, name).conv().map(|bits| (bits.weights, bits.input)).unwrap();
        assert_eq!((bits("layer1.0.conv1"), bits("layer1.0.conv2")), ((8, 4), (8, 3)));
        assert_eq!((bits("layer1.2.conv1"), bits("layer2.0.conv2")), ((2, 6), (4, 3)));
        assert_eq!((bits("conv1"), bits("linear")), ((8, 8), (8, 8)), "the image keeps its bytes");
        assert_eq!(node(&plan, "layer1.1.conv2").forms, [6, 8], "what is read is stored");
        let wrong = QuantizeConfig { layers: vec![layer("stage1.*", Some(8), None)], ..config };
        let message = wrong.check_patterns(&graph).unwrap_err().to_string();
        assert!(message.contains("`stage1.*`") && message.contains("layer1.0.conv1"), "{message}");
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name) in
            [("a", "a"), ("*", ""), ("a*", "abc"), ("*c", "abc"), ("a*c*", "abcbc"), ("*.1.*", "x.1.y")]
        {
            assert!(matches_pattern(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("a", "ab"), ("", "a"), ("a*", "ba"), ("*c", "ca"), ("a*b*c", "acb")] {
            assert!(!matches_pattern(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn at_eight_bits_one_form_serves_all_readers() {
        let plan = plan("resnet20", 8);
        assert_eq!(node(&plan, "layer1.0.conv2").forms, [8]);
    }

    #[test]
    fn a_maximum_passes_its_readers_wishes_on() {
        let plan = plan("vgg8", 4);
        assert_eq!(node(&plan, "conv1_2").forms, [4]);
        assert_eq!(node(&plan, "conv3_2").forms, [8], "the last layer reads 8 bits");
        assert_eq!(node(&plan, "pool3").forms, [8]);
    }
}
