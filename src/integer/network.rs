//! The integer network: layers with their integers.

use super::arithmetic::{BITS, IMAGE_BITS, MAX_BIAS, MAX_MULTIPLIER, MAX_SKIP_MULTIPLIER, Requantize, SHIFT_LIMIT};
use crate::error::{Error, Result};
use crate::groups::GroupShape;
use crate::network::{Conv, ConvShape, Graph, Node, Op, Skip, Source};

/// A network with integer weights.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerNetwork {
    /// The layer graph.
    pub graph: Graph,
    /// Zero point of each color: the byte that means 0, which is also what borders of the image hold.
    pub zero_points: Vec<u8>,
    /// Names of the classes, one for each logit.
    pub classes: Vec<String>,
    /// The group shape that it was made for.
    pub group: GroupShape,
    /// One layer for each node of the graph, in its order.
    pub layers: Vec<IntegerLayer>,
}

/// The integers of one node.
#[derive(Clone, Debug, PartialEq)]
pub enum IntegerLayer {
    /// Convolution or linear layer.
    Conv {
        /// Weights and bias.
        conv: IntegerConv,
        /// What joins the sum; present where the node has a residual.
        skip: Option<IntegerSkip>,
        /// Requantization; `None` for the last layer, whose `acc + bias` are the logits.
        output: Option<Requantize>,
    },
    /// Codes of what it reads, picked or placed: the forms are those that all of that has.
    SameScale,
    /// Sum over the window, then one requantization (one multiplier, no bias).
    AvgPool {
        /// The form of the input that is summed, code less zero point.
        input_bits: u8,
        /// Requantization of the sum.
        output: Requantize,
    },
}

/// Weights and bias of a convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerConv {
    /// The form of the input that it reads ([`IMAGE_BITS`] for the image).
    pub input_bits: u8,
    /// Bits of a weight, 2 to 8; weights are within `-(2^(k-1) - 1) ..= 2^(k-1) - 1`.
    pub weight_bits: u8,
    /// Weights `[filters, depth, kernel height, kernel width]`.
    pub weights: Vec<i8>,
    /// One bias a filter, below `2^30`; the zero points of its input are already in it.
    pub bias: Vec<i32>,
}

/// What joins a residual sum.
#[derive(Clone, Debug, PartialEq)]
pub enum IntegerSkip {
    /// A form of the source, times `multiplier`.
    Identity {
        /// The form that is read, code less zero point.
        bits: u8,
        /// `m_skip`, at most 31 bits.
        multiplier: u32,
    },
    /// The sums of a 1x1 convolution, times `multipliers`.
    Projection {
        /// Weights and bias.
        conv: IntegerConv,
        /// `m2`: one, or one a filter.
        multipliers: Vec<u32>,
    },
}

/// What an execution makes of an image, on the way to its logits and in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codes {
    /// Each stored form of each node, in the order of [`IntegerNetwork::stored`]; a value's codes are `[height][width][channels]`.
    pub stored: Vec<Vec<u8>>,
    /// `[class]`.
    pub logits: Vec<i32>,
}

impl IntegerNetwork {
    /// What is stored of an image on its way: nodes, and the bits of a form.
    pub fn stored(&self) -> Vec<(usize, u8)> {
        let of_node = |node| self.forms(Source::Node(node)).into_iter().map(move |bits| (node, bits));
        (0..self.layers.len()).flat_map(of_node).collect()
    }

    /// The widths in which a value is stored.
    pub fn forms(&self, source: Source) -> Vec<u8> {
        let Source::Node(index) = source else {
            return vec![IMAGE_BITS];
        };
        match &self.layers[index] {
            IntegerLayer::Conv { output: None, .. } => Vec::new(),
            IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. } => {
                output.forms.iter().map(|form| form.bits).collect()
            }
            IntegerLayer::SameScale => {
                let mut origins = self.origins(index).into_iter().map(|origin| self.forms(Source::Node(origin)));
                let mut forms = origins.next().unwrap_or_default();
                origins.for_each(|other| forms.retain(|form| other.contains(form)));
                forms
            }
        }
    }

    /// The nodes whose requantized outputs a node hands on, the first one's first.
    fn origins(&self, node: usize) -> Vec<usize> {
        let (mut origins, mut seen, mut open) = (Vec::new(), vec![false; node + 1], vec![node]);
        while let Some(node) = open.pop() {
            if std::mem::replace(&mut seen[node], true) {
                continue;
            }
            match &self.layers[node] {
                IntegerLayer::Conv { .. } | IntegerLayer::AvgPool { .. } => origins.push(node),
                IntegerLayer::SameScale => {
                    let sources: Vec<Source> = self.graph.nodes()[node].sources().collect();
                    open.extend(sources.into_iter().rev().filter_map(|source| match source {
                        Source::Image => None,
                        Source::Node(source) => Some(source),
                    }));
                }
            }
        }
        origins
    }

    /// The code that means 0 in one of the forms of a node's output: 0 for a form that there isn't.
    pub fn zero_point(&self, node: usize, bits: u8) -> u8 {
        match (&self.layers[node], self.graph.nodes()[node].source) {
            (IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. }, _) => {
                output.forms.iter().find(|form| form.bits == bits).map_or(0, |form| form.zero_point)
            }
            (IntegerLayer::SameScale, Source::Node(source)) => self.zero_point(source, bits),
            (IntegerLayer::SameScale, Source::Image) | (IntegerLayer::Conv { output: None, .. }, _) => 0,
        }
    }

    /// What borders of a value hold for each channel in one of its forms: its zero points.
    pub fn padding_values(&self, source: Source, bits: u8) -> Vec<u8> {
        match source {
            Source::Image => self.zero_points.clone(),
            Source::Node(index) => vec![self.zero_point(index, bits); self.graph.shape(source).channels],
        }
    }

    /// Each convolution of the graph with its integers, in the graph's order.
    pub fn convs(&self) -> impl Iterator<Item = (Conv, &IntegerConv)> {
        self.layers.iter().enumerate().flat_map(|(index, layer)| {
            let integers = match layer {
                IntegerLayer::Conv { conv, skip: Some(IntegerSkip::Projection { conv: projection, .. }), .. } => {
                    [Some(conv), Some(projection)]
                }
                IntegerLayer::Conv { conv, .. } => [Some(conv), None],
                IntegerLayer::SameScale | IntegerLayer::AvgPool { .. } => [None, None],
            };
            self.graph.node_convs(index).into_iter().zip(integers).filter_map(|(conv, integer)| conv.zip(integer))
        })
    }

    /// Checks everything that the executions rely on: lengths, ranges, forms that exist, and sums that fit `i32`.
    ///
    /// # Errors
    /// Names the layer and the field.
    pub fn validate(&self) -> Result<()> {
        let network = |message: String| Err(self.graph.spec().error(message));
        if self.zero_points.len() != self.graph.image().channels {
            return network(format!(
                "it has {} zero points for {} colors",
                self.zero_points.len(),
                self.graph.image().channels
            ));
        }
        if self.classes.len() != self.graph.spec().classes {
            return network(format!(
                "it has {} class names for {} classes",
                self.classes.len(),
                self.graph.spec().classes
            ));
        }
        if self.group.filters == 0 || self.group.channels == 0 {
            return network(format!("a group of {} x {} weights is empty", self.group.filters, self.group.channels));
        }
        if self.layers.len() != self.graph.nodes().len() {
            return network(format!("it has {} layers for {} nodes", self.layers.len(), self.graph.nodes().len()));
        }
        for (index, (node, layer)) in self.graph.nodes().iter().zip(&self.layers).enumerate() {
            self.validate_layer(index, node, layer).map_err(|message| Error::layer(&node.name, message))?;
        }
        Ok(())
    }

    fn validate_layer(&self, index: usize, node: &Node, layer: &IntegerLayer) -> std::result::Result<(), String> {
        let is_signed = self.graph.is_signed(Source::Node(index));
        match (node.op, layer) {
            (Op::Conv { conv: shape, skip, logits, .. }, IntegerLayer::Conv { conv, skip: integer_skip, output }) => {
                self.validate_conv(&shape, node.source, conv)?;
                match output {
                    Some(output) => validate_requantize(output, shape.filters(), is_signed)?,
                    None if logits => {}
                    None => return Err("it has no requantization and isn't the last layer".into()),
                }
                if logits && output.is_some() {
                    return Err("the last layer has a requantization".into());
                }
                match (skip, integer_skip) {
                    (None, None) => Ok(()),
                    (Some(Skip::Identity { source, .. }), Some(IntegerSkip::Identity { bits, multiplier })) => {
                        self.check_form(source, *bits)?;
                        check_range("m_skip", *multiplier, MAX_SKIP_MULTIPLIER)
                    }
                    (
                        Some(Skip::Projection { source, conv: shape, .. }),
                        Some(IntegerSkip::Projection { conv, multipliers }),
                    ) => {
                        self.validate_conv(&shape, source, conv)?;
                        validate_multipliers(multipliers, shape.filters())
                    }
                    (None | Some(Skip::Identity { .. } | Skip::Projection { .. }), _) => {
                        Err("its residual differs from the graph's".into())
                    }
                }
            }
            (Op::SameScale(_), IntegerLayer::SameScale) => self.validate_same_scale(index),
            (Op::AvgPool { .. }, IntegerLayer::AvgPool { input_bits, output }) => {
                self.check_form(node.source, *input_bits)?;
                validate_requantize(output, 1, is_signed)
            }
            (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => {
                Err("its kind differs from the graph's".into())
            }
        }
    }

    /// The codes that are handed on mean the same, wherever they come from.
    fn validate_same_scale(&self, node: usize) -> std::result::Result<(), String> {
        let forms = self.forms(Source::Node(node));
        if forms.is_empty() {
            return Err("what it reads has no width in common".into());
        }
        let origins = self.origins(node);
        let differ = |bits: u8| {
            let own = self.zero_point(node, bits);
            origins.iter().any(|origin| self.zero_point(*origin, bits) != own)
        };
        match forms.iter().find(|bits| differ(**bits)) {
            None => Ok(()),
            Some(bits) => Err(format!("what it reads has several zero points in its form of {bits} bits")),
        }
    }

    fn validate_conv(&self, shape: &ConvShape, source: Source, conv: &IntegerConv) -> std::result::Result<(), String> {
        self.check_form(source, conv.input_bits)?;
        if !BITS.contains(&conv.weight_bits) {
            return Err(format!("weight bits {} are not from 2 to 8", conv.weight_bits));
        }
        if conv.weights.len() != shape.weights() || conv.bias.len() != shape.filters() {
            return Err(format!(
                "{} weights and {} biases, expected {} and {}",
                conv.weights.len(),
                conv.bias.len(),
                shape.weights(),
                shape.filters()
            ));
        }
        let limit = ((1u16 << (conv.weight_bits - 1)) - 1) as u8;
        // The largest of all first, which the compiler makes fast.
        if conv.weights.iter().fold(0, |largest, weight| weight.unsigned_abs().max(largest)) > limit {
            let weight =
                conv.weights.iter().find(|weight| weight.unsigned_abs() > limit).expect("the largest is beyond");
            return Err(format!("weight {weight} is beyond {limit}, the limit of {} bits", conv.weight_bits));
        }
        let largest_input = (1i64 << conv.input_bits) - 1;
        for (filter, bias) in conv.bias.iter().enumerate() {
            if bias.checked_abs().is_none_or(|bias| bias > MAX_BIAS) {
                return Err(format!("bias {bias} of filter {filter} reaches 2^30"));
            }
            let weights =
                &conv.weights[filter * shape.weights() / shape.filters()..][..shape.weights() / shape.filters()];
            // Sums of 256 magnitudes fit 16 bits.
            let magnitudes = |part: &[i8]| part.iter().map(|weight| u16::from(weight.unsigned_abs())).sum::<u16>();
            let bound = weights.chunks(256).map(|part| i64::from(magnitudes(part))).sum::<i64>() * largest_input;
            let bound = bound + i64::from(bias.abs());
            if bound > i64::from(i32::MAX) {
                return Err(format!("the sum of filter {filter} can reach {bound}, beyond 32 bits"));
            }
        }
        Ok(())
    }

    fn check_form(&self, source: Source, bits: u8) -> std::result::Result<(), String> {
        let forms = self.forms(source);
        if forms.contains(&bits) {
            return Ok(());
        }
        Err(format!("it reads its input at {bits} bits, which is stored at {forms:?}"))
    }
}

fn check_range(name: &str, value: u32, limit: u32) -> std::result::Result<(), String> {
    if (1..=limit).contains(&value) { Ok(()) } else { Err(format!("{name} {value} is not from 1 to {limit}")) }
}

fn validate_multipliers(multipliers: &[u32], filters: usize) -> std::result::Result<(), String> {
    if multipliers.len() != 1 && multipliers.len() != filters {
        return Err(format!("{} multipliers for {filters} filters", multipliers.len()));
    }
    multipliers.iter().try_for_each(|m| check_range("multiplier", *m, MAX_MULTIPLIER))
}

fn validate_requantize(output: &Requantize, filters: usize, is_signed: bool) -> std::result::Result<(), String> {
    validate_multipliers(&output.multipliers, filters)?;
    if output.forms.is_empty() {
        return Err("it stores no form of its output".into());
    }
    for (index, form) in output.forms.iter().enumerate() {
        if !BITS.contains(&form.bits) || form.shift == 0 || form.shift >= SHIFT_LIMIT {
            return Err(format!("form of {} bits with shift {} is out of range", form.bits, form.shift));
        }
        let zero_points = if is_signed { 1..1u32 << form.bits } else { 0..1 };
        if !zero_points.contains(&form.zero_point.into()) {
            let (least, most) = (zero_points.start, zero_points.end - 1);
            return Err(match is_signed {
                true => format!(
                    "form of {} bits has the zero point {}: without an activation it is from {least} to {most}",
                    form.bits, form.zero_point
                ),
                false => {
                    format!("form of {} bits has the zero point {}: behind a ReLU it is 0", form.bits, form.zero_point)
                }
            });
        }
        if output.forms[..index].iter().any(|other| other.bits == form.bits) {
            return Err(format!("two forms of {} bits", form.bits));
        }
    }
    Ok(())
}
