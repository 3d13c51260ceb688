//! What lies in the feature-map SRAM while a layer runs.

use crate::integer::{ACCUMULATOR_BITS, IMAGE_BITS, IntegerNetwork};
use crate::network::Source;

/// Values that are in the feature-map SRAM while a layer runs, in bits: what it reads and writes and what later nodes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// Those in the half that the layer writes.
    pub(super) written_half: u64,
    /// Those in the other half.
    pub(super) other_half: u64,
}

/// For each node of a network, the values of the image and of earlier nodes that are live while it runs.
#[derive(Clone, Debug)]
pub(crate) struct LiveValues {
    nodes: Vec<Live>,
    /// While a node's projection runs, after its own convolution. Other nodes have none.
    projections: Vec<Live>,
}

impl LiveValues {
    pub(crate) fn new(network: &IntegerNetwork) -> Self {
        let graph = &network.graph;
        // The image is value 0, the output of node `i` is value `i + 1`.
        let value = |source: Source| match source {
            Source::Image => 0,
            Source::Node(node) => node + 1,
        };
        let mut last_reader = vec![None; graph.nodes().len() + 1];
        for (index, node) in graph.nodes().iter().enumerate() {
            for source in node.sources().chain(node.skip_source()) {
                last_reader[value(source)] = Some(index);
            }
        }
        let mut ended = vec![Vec::new(); graph.nodes().len()];
        for (value, reader) in last_reader.iter().enumerate() {
            if let Some(reader) = reader {
                ended[*reader].push(value);
            }
        }
        let bits = |value: usize| match value.checked_sub(1) {
            None => image_bits(network),
            Some(node) => graph.nodes()[node].output.len() as u64 * stored_bits(network, node),
        };
        // Each value is in the other half than what its node reads.
        let mut halves = vec![0];
        let mut sums = [0, 0];
        let (mut nodes, mut projections) = (Vec::new(), Vec::new());
        for (index, node) in graph.nodes().iter().enumerate() {
            if last_reader[index].is_some() {
                sums[halves[index]] += bits(index);
            }
            let half = 1 - halves[value(node.source)];
            halves.push(half);
            let live = |sums: [u64; 2]| Live { written_half: sums[half], other_half: sums[1 - half] };
            nodes.push(live(sums));
            // A projection reads the skip connection's value alone.
            let (projected, others): (Vec<usize>, Vec<usize>) =
                ended[index].iter().partition(|last| node.skip_source().map(value) == Some(**last));
            others.iter().for_each(|last| sums[halves[*last]] -= bits(*last));
            projections.push(live(sums));
            projected.iter().for_each(|last| sums[halves[*last]] -= bits(*last));
        }
        Self { nodes, projections }
    }

    /// The values that are live while a node's own convolution or pooling runs, with `own_bits` of its own.
    pub(super) fn while_running(&self, node: usize, own_bits: u64) -> Live {
        self.nodes[node].beside(own_bits)
    }

    /// The same while its projection runs.
    pub(super) fn while_projecting(&self, node: usize, own_bits: u64) -> Live {
        self.projections[node].beside(own_bits)
    }
}

impl Live {
    /// With so many bits more in the half that the layer writes.
    fn beside(self, own_bits: u64) -> Self {
        Self { written_half: self.written_half + own_bits, ..self }
    }
}

/// Bits of the image.
pub(super) fn image_bits(network: &IntegerNetwork) -> u64 {
    network.graph.image().len() as u64 * u64::from(IMAGE_BITS)
}

/// Bits of one output value of a node in all its forms; a logit, which has none, is an accumulator.
pub(super) fn stored_bits(network: &IntegerNetwork, node: usize) -> u64 {
    match network.forms(Source::Node(node)).as_slice() {
        [] => ACCUMULATOR_BITS,
        forms => forms.iter().map(|bits| u64::from(*bits)).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupShape;
    use crate::integer::{QuantizeConfig, outline};
    use crate::network::{Graph, ZOO, zoo};

    #[test]
    fn a_value_lives_from_its_node_to_its_last_reader() {
        for name in ZOO {
            let graph = Graph::new(zoo(name, 10).unwrap()).unwrap();
            let network = outline(&graph, &QuantizeConfig::default(), GroupShape { filters: 16, channels: 16 });
            let live = LiveValues::new(&network);
            let nodes = graph.nodes();
            let half = |source: Source| {
                let mut source = source;
                let mut half = 0;
                while let Source::Node(node) = source {
                    half = 1 - half;
                    source = nodes[node].source;
                }
                half
            };
            for (index, node) in nodes.iter().enumerate() {
                let earlier = (0..index).map(Source::Node).chain([Source::Image]);
                let read = earlier.filter(|value| graph.readers(*value).any(|reader| reader >= index));
                let own = half(Source::Node(index));
                let sums = |read: &mut dyn Iterator<Item = Source>| {
                    let mut sums = [0, 0];
                    for value in read {
                        let bits = match value {
                            Source::Image => 8,
                            Source::Node(node) => stored_bits(&network, node),
                        };
                        sums[half(value)] += graph.shape(value).len() as u64 * bits;
                    }
                    Live { written_half: sums[own] + 5, other_half: sums[1 - own] }
                };
                assert_eq!(live.while_running(index, 5), sums(&mut read.clone()), "{name} {}", node.name);
                if node.projection().is_some() {
                    let later = |value: &Source| graph.readers(*value).any(|reader| reader > index);
                    let mut read = read.filter(|value| node.skip_source() == Some(*value) || later(value));
                    assert_eq!(live.while_projecting(index, 5), sums(&mut read), "{name} {}", node.projection_name());
                }
            }
        }
    }
}
