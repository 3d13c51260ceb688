//! Integer networks with random weights, of given bits and group sparsity.

use mars::groups::{GroupGrid, GroupShape};
use mars::integer::{Form, IMAGE_BITS, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip, Requantize};
use mars::network::{ConvShape, Graph, NetworkSpec, Op, Skip, Source};

use super::Random;

/// Bits and group sparsity of a random network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recipe {
    pub(crate) weight_bits: u8,
    pub(crate) input_bits: u8,
    /// First and last layer.
    pub(crate) edge_bits: u8,
    /// Dropped groups in percent.
    pub(crate) sparsity: u64,
    pub(crate) group: GroupShape,
    pub(crate) seed: u64,
}

pub(crate) const W4A4: Recipe = Recipe {
    weight_bits: 4,
    input_bits: 4,
    edge_bits: 8,
    sparsity: 0,
    group: GroupShape { filters: 16, channels: 16 },
    seed: 1,
};

pub(crate) const W8A8: Recipe = Recipe { weight_bits: 8, input_bits: 8, ..W4A4 };

impl Recipe {
    fn conv(&self, shape: &ConvShape, weight_bits: u8, input_bits: u8, random: &mut Random) -> IntegerConv {
        let grid = GroupGrid::new(self.group, shape);
        let dropped: Vec<bool> = (0..grid.groups()).map(|_| (random.below(100) as u64) < self.sparsity).collect();
        let limit = (1i64 << (weight_bits - 1)) - 1;
        let weights = (0..shape.weights())
            .map(|weight| match dropped[grid.group_of(weight)] {
                true => 0,
                // Never all zero in a kept group: 0 is replaced by 1.
                false => match random.below(2 * limit as usize + 1) as i64 - limit {
                    0 => 1,
                    weight => weight as i8,
                },
            })
            .collect();
        IntegerConv {
            input_bits,
            weight_bits,
            weights,
            bias: (0..shape.filters()).map(|_| random.below(2001) as i32 - 1000).collect(),
        }
    }

    /// A shift that brings sums over `terms` products to about the width of the form.
    fn forms(&self, widths: &[u8], is_signed: bool, terms: usize, weight_bits: u8, input_bits: u8) -> Vec<Form> {
        let spread = (terms as f64).sqrt() * 2f64.powi(i32::from(weight_bits) - 2 + i32::from(input_bits) - 1 + 15);
        let shift = |bits: u8| (spread.log2() - f64::from(bits) + 1.0).round().clamp(1.0, 39.0) as u8;
        let form = |&bits: &u8| Form { bits, shift: shift(bits), zero_point: zero_point(is_signed, bits) };
        widths.iter().map(form).collect()
    }

    pub(crate) fn network(&self, spec: NetworkSpec) -> IntegerNetwork {
        let graph = Graph::new(spec).unwrap();
        let mut random = Random(self.seed);
        let nodes = graph.nodes();
        let multipliers = |random: &mut Random, count: usize| -> Vec<u32> {
            (0..count).map(|_| 0x7000 + random.below(0x2000) as u32).collect()
        };
        // Each value is stored at the width that convolutions read, and at 8 bits where a residual sum or the last layer
        // reads it.
        let input_bits = |node: usize| match nodes[node].source {
            Source::Image => IMAGE_BITS,
            Source::Node(_) if node + 1 == nodes.len() => self.edge_bits,
            Source::Node(_) => self.input_bits,
        };
        let mut widths = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate().rev() {
            let wanted = match node.op {
                Op::SameScale(_) => widths[index].clone(),
                _ => vec![input_bits(index)],
            };
            let read: Vec<(Source, Vec<u8>)> = node.sources().map(|source| (source, wanted.clone())).collect();
            let skip = match node.op {
                Op::Conv { skip: Some(Skip::Identity { source, .. }), .. } => Some((source, vec![8])),
                Op::Conv { skip: Some(Skip::Projection { source, .. }), .. } => Some((source, vec![self.input_bits])),
                _ => None,
            };
            for (source, bits) in read.into_iter().chain(skip) {
                if let Source::Node(source) = source {
                    for bits in bits {
                        if !widths[source].contains(&bits) {
                            widths[source].push(bits);
                        }
                    }
                }
            }
        }
        let layers = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| match node.op {
                Op::Conv { conv: shape, skip, logits, .. } => {
                    let edge = node.source == Source::Image || logits;
                    let weight_bits = if edge { self.edge_bits } else { self.weight_bits };
                    let conv = self.conv(&shape, weight_bits, input_bits(index), &mut random);
                    let terms = shape.weights() / shape.filters() * if skip.is_some() { 2 } else { 1 };
                    IntegerLayer::Conv {
                        skip: skip.map(|skip| match skip {
                            Skip::Identity { .. } => {
                                IntegerSkip::Identity { bits: 8, multiplier: 1 + random.below(1 << 22) as u32 }
                            }
                            Skip::Projection { conv, .. } => IntegerSkip::Projection {
                                multipliers: multipliers(&mut random, conv.filters()),
                                conv: self.conv(&conv, weight_bits, self.input_bits, &mut random),
                            },
                        }),
                        output: (!logits).then(|| Requantize {
                            multipliers: multipliers(&mut random, shape.filters()),
                            forms: self.forms(
                                &widths[index],
                                graph.is_signed(Source::Node(index)),
                                terms,
                                weight_bits,
                                conv.input_bits,
                            ),
                        }),
                        conv,
                    }
                }
                Op::SameScale(_) => IntegerLayer::SameScale,
                Op::AvgPool { window } => {
                    let values = window.taps();
                    let is_signed = graph.is_signed(Source::Node(index));
                    let form = |&bits: &u8| Form {
                        bits,
                        shift: 15 + values.ilog2() as u8 + input_bits(index) - bits,
                        zero_point: zero_point(is_signed, bits),
                    };
                    IntegerLayer::AvgPool {
                        input_bits: input_bits(index),
                        output: Requantize {
                            multipliers: multipliers(&mut random, 1),
                            forms: widths[index].iter().map(form).collect(),
                        },
                    }
                }
            })
            .collect();
        let network = IntegerNetwork {
            zero_points: random.bytes(graph.image().channels),
            classes: (0..graph.spec().classes).map(|class| format!("class {class}")).collect(),
            group: self.group,
            layers,
            graph,
        };
        network.validate().unwrap();
        network
    }
}

/// A zero point that values with a sign may have, another one for each width.
fn zero_point(is_signed: bool, bits: u8) -> u8 {
    if is_signed { (1u8 << (bits - 1)) - bits / 3 } else { 0 }
}
