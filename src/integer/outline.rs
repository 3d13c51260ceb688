//! A network as the chip sees it before anything is trained: its bits, without its weights.

use super::arithmetic::{Form, IMAGE_BITS, Requantize, zero_point};
use super::bits::{BitPlan, Fusion, QuantizeConfig, Reads, WeightScale};
use super::network::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::groups::GroupShape;
use crate::network::{ConvShape, Graph, Op, Skip, Source};

/// What the cost of a network follows from: every weight is one and means nothing.
pub fn outline(graph: &Graph, config: &QuantizeConfig, group: GroupShape) -> IntegerNetwork {
    let plan = BitPlan::new(graph, config);
    let per_filter = config.fusion == Fusion::None || config.weight_scale == WeightScale::Column;
    let multipliers = |filters: usize| vec![1; if per_filter { filters } else { 1 }];
    let conv = |shape: &ConvShape, source: Source, input_bits: u8, weight_bits: u8| IntegerConv {
        input_bits: if source == Source::Image { IMAGE_BITS } else { input_bits },
        weight_bits,
        weights: vec![1; shape.weights()],
        bias: vec![0; shape.filters()],
    };
    let layers = graph.nodes().iter().zip(&plan.nodes).enumerate().map(|(index, (node, bits))| {
        let is_signed = graph.is_signed(Source::Node(index));
        let form = |bits: u8| Form { bits, shift: 8, zero_point: zero_point(bits, is_signed) };
        let stored = |multipliers: Vec<u32>| Requantize {
            multipliers,
            forms: bits.forms.iter().map(|&bits| form(bits)).collect(),
        };
        match (node.op, bits.reads) {
            (Op::SameScale(_), Reads::SameScale) => IntegerLayer::SameScale,
            (Op::AvgPool { .. }, Reads::AvgPool { input }) => {
                IntegerLayer::AvgPool { input_bits: input, output: stored(vec![1]) }
            }
            (Op::Conv { conv: shape, skip, logits, .. }, Reads::Conv(bits)) => IntegerLayer::Conv {
                conv: conv(&shape, node.source, bits.input, bits.weights),
                skip: skip.zip(bits.skip).map(|(skip, skip_bits)| match skip {
                    Skip::Identity { .. } => IntegerSkip::Identity { bits: skip_bits, multiplier: 1 },
                    Skip::Projection { source, conv: shape, .. } => IntegerSkip::Projection {
                        conv: conv(&shape, source, skip_bits, bits.weights),
                        multipliers: multipliers(shape.filters()),
                    },
                }),
                output: (!logits).then(|| stored(multipliers(shape.filters()))),
            },
            (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => {
                unreachable!("the plan is of this graph")
            }
        }
    });
    IntegerNetwork {
        graph: graph.clone(),
        zero_points: vec![0; graph.image().channels],
        classes: vec![String::new(); graph.spec().classes],
        group,
        layers: layers.collect(),
    }
}
