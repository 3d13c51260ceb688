//! Which bit width where: the widths of weights, and the forms in which each value is stored.

use serde::{Deserialize, Serialize};

use crate::deploy::integer::IMAGE_BITS;
use crate::error::{Error, Result};
use crate::network::{Graph, Op, Skip, Source};

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
    /// Bits of weights and inputs of the first and last layer, 2 to 8 (the picture always has 8).
    pub first_last_bits: u8,
    /// How batch norm is treated.
    pub fusion: Fusion,
    /// One weight step for a layer or for each column.
    pub weight_scale: WeightScale,
}

impl Default for QuantizeConfig {
    fn default() -> Self {
        Self {
            weight_bits: 8,
            activation_bits: 8,
            skip_bits: 8,
            first_last_bits: 8,
            fusion: Fusion::default(),
            weight_scale: WeightScale::default(),
        }
    }
}

/// What becomes of batch norm in quantized training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// Folded into the weights with the statistics of the batch (two passes), running statistics kept for evaluation.
    Batch,
    /// Folded into the weights with the running statistics, which no longer change.
    #[default]
    Frozen,
    /// Left outside: raw weights are quantized, each column has its own multiplier.
    None,
}

/// How far a weight step reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightScale {
    /// One step a layer.
    #[default]
    Layer,
    /// One step an output channel, with its own multiplier at requantization.
    Column,
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
            if !(2..=8).contains(&bits) {
                return Err(Error::Setting(format!("quantize.{key} = {bits}: it must be from 2 to 8")));
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
}

/// The widths of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBits {
    /// Bits of its weights (and its projection's); 0 where there are none.
    pub weights: u8,
    /// The form of its input that it reads.
    pub input: u8,
    /// The form that its residual reads.
    pub skip: Option<u8>,
    /// The forms in which its output is stored, narrowest first; none for the logits.
    pub forms: Vec<u8>,
}

/// The widths of every node, in the graph's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitPlan {
    /// One for each node.
    pub nodes: Vec<NodeBits>,
}

impl BitPlan {
    /// Derives the widths from what each value's readers ask for.
    pub fn new(graph: &Graph, config: &QuantizeConfig) -> Self {
        let mut plan: Vec<NodeBits> = graph
            .nodes()
            .iter()
            .map(|node| {
                let (weights, input, skip) = match node.op {
                    Op::Conv { skip, logits, .. } => {
                        let first = node.source == Source::Image;
                        let weights = if first || logits { config.first_last_bits } else { config.weight_bits };
                        let input = match (first, logits) {
                            (true, _) => IMAGE_BITS,
                            (false, true) => config.first_last_bits,
                            (false, false) => config.activation_bits,
                        };
                        let skip = skip.map(|skip| match skip {
                            Skip::Identity { .. } => config.skip_bits,
                            Skip::Projection { .. } => config.activation_bits,
                        });
                        (weights, input, skip)
                    }
                    // A pool reads the widest form that its own readers ask for; known once they are.
                    Op::MaxPool { .. } | Op::AvgPool { .. } => (0, 0, None),
                };
                NodeBits { weights, input, skip, forms: Vec::new() }
            })
            .collect();
        // Readers come after what they read, so going backwards each node's forms are complete when it asks for its own.
        for index in (0..plan.len()).rev() {
            let forms = plan[index].forms.clone();
            let node = &graph.nodes()[index];
            let asked = match node.op {
                Op::Conv { .. } => vec![plan[index].input],
                Op::MaxPool { .. } => forms,
                Op::AvgPool { .. } => forms.last().copied().into_iter().collect(),
            };
            if plan[index].weights == 0 {
                plan[index].input = asked.last().copied().unwrap_or(0);
            }
            ask(&mut plan, node.source, &asked);
            if let Op::Conv { skip: Some(Skip::Identity { source, .. } | Skip::Projection { source, .. }), .. } =
                node.op
            {
                let bits: Vec<u8> = plan[index].skip.into_iter().collect();
                ask(&mut plan, source, &bits);
            }
        }
        Self { nodes: plan }
    }

    /// The narrowest form of a value, whose step is the learned one; the picture's bytes for the image.
    pub fn narrowest(&self, source: Source) -> u8 {
        match source {
            Source::Image => IMAGE_BITS,
            Source::Node(index) => self.nodes[index].forms.first().copied().unwrap_or(0),
        }
    }
}

fn ask(plan: &mut [NodeBits], source: Source, bits: &[u8]) {
    if let Source::Node(index) = source {
        let forms = &mut plan[index].forms;
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

    #[test]
    fn a_four_bit_resnet_stores_values_for_convolutions_and_for_skips() {
        let plan = plan("resnet20", 4);
        assert_eq!(*node(&plan, "conv1"), NodeBits { weights: 8, input: 8, skip: None, forms: vec![4, 8] });
        assert_eq!(*node(&plan, "layer1.0.conv1"), NodeBits { weights: 4, input: 4, skip: None, forms: vec![4] });
        assert_eq!(*node(&plan, "layer1.0.conv2"), NodeBits { weights: 4, input: 4, skip: Some(8), forms: vec![4, 8] });
        assert_eq!(*node(&plan, "layer3.2.conv2"), NodeBits { weights: 4, input: 4, skip: Some(8), forms: vec![8] });
        assert_eq!(*node(&plan, "pool"), NodeBits { weights: 0, input: 8, skip: None, forms: vec![8] });
        assert_eq!(*node(&plan, "linear"), NodeBits { weights: 8, input: 8, skip: None, forms: vec![] });
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
