//! Workload: what each core moves and computes, layer by layer, for one frame.
//!
//! It knows nothing of time or energy; the schedule and the cost both start from it.

use super::config::Hardware;
use super::mapping::{ACCUMULATOR_BITS, ConvMapping, CoreWork, MULTIPLIER_BITS, Sets};
use crate::deploy::integer::{IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::error::{Error, Result};
use crate::network::{Op, Skip, Source};

/// Bits of a product before requantization: accumulator times multiplier.
const SUM_BITS: u64 = ACCUMULATOR_BITS + MULTIPLIER_BITS;
/// Bits of `m_skip`.
const SKIP_MULTIPLIER_BITS: u64 = 31;
/// Multiplexers in a row of a shifter: shifts are below 40.
const SHIFT_STAGES: u64 = 6;
/// Bits of a sum over a pooling window.
const POOL_BITS: u64 = 16;

/// A convolution, a projection or a pooling layer.
#[derive(Debug)]
pub(super) struct LayerWork {
    pub(super) name: String,
    /// The convolution; `None` for a pooling layer, which the digital part does.
    pub(super) conv: Option<ConvMapping>,
    pub(super) cores: Vec<CoreLayer>,
    /// Values that the feature-map SRAM can't hold, in bits; they go to the next level and come back.
    pub(super) spilled_bits: u64,
    /// Bits of the picture, which comes from the next level.
    pub(super) picture_bits: u64,
    pub(super) logic: Logic,
}

/// What a core does in a layer.
#[derive(Debug)]
pub(super) struct CoreLayer {
    pub(super) work: CoreWork,
    /// Feature-map SRAM to core.
    pub(super) read_bits: u64,
    /// Core to feature-map SRAM.
    pub(super) write_bits: u64,
}

/// Digital work beside the macros.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Logic {
    /// Full adders used to add up the outputs of accesses.
    pub(super) accumulation_adders: u64,
    /// Full adders used to requantize and to pool.
    pub(super) adders: u64,
    /// Gates used to requantize.
    pub(super) gates: u64,
}

impl Logic {
    fn add(&mut self, count: u64, bits: u64) {
        self.adders += count * bits;
    }

    fn multiply(&mut self, count: u64, bits: [u64; 2]) {
        self.adders += count * bits[0] * bits[1];
        self.gates += count * bits[0] * bits[1];
    }

    /// Rounding and shift for each stored form.
    fn store(&mut self, count: u64, forms: usize) {
        self.adders += count * forms as u64 * SUM_BITS;
        self.gates += count * forms as u64 * SUM_BITS * SHIFT_STAGES;
    }
}

/// All layers of a network; `kept` are the groups that count of each convolution, in the order of [`IntegerNetwork::convs`].
///
/// # Errors
/// Weights wider than the macro can hold.
pub(super) fn workload(network: &IntegerNetwork, hardware: &Hardware, kept: &[Sets]) -> Result<Vec<LayerWork>> {
    let mut kept = kept.iter().cloned();
    let mut layers = Vec::new();
    for index in 0..network.layers.len() {
        layers.extend(node_workload(network, hardware, index, &mut kept)?);
    }
    Ok(layers)
}

/// The layers of one node; `kept` gives the groups that count of each of its convolutions.
///
/// # Errors
/// Weights wider than the macro can hold.
pub(super) fn node_workload(
    network: &IntegerNetwork,
    hardware: &Hardware,
    index: usize,
    kept: &mut impl Iterator<Item = Sets>,
) -> Result<Vec<LayerWork>> {
    let builder = Builder { network, hardware, index };
    let mut layers = match network.layers[index] {
        IntegerLayer::Conv { .. } => builder.convs(kept)?,
        IntegerLayer::MaxPool | IntegerLayer::AvgPool { .. } => vec![builder.pool()],
    };
    if index == 0 {
        layers[0].picture_bits = network.graph.image().len() as u64 * 8;
    }
    Ok(layers)
}

/// Builds the layers of one node.
struct Builder<'a> {
    network: &'a IntegerNetwork,
    hardware: &'a Hardware,
    index: usize,
}

impl Builder<'_> {
    /// Bits of one output value in all its forms; a logit is an accumulator.
    fn stored_bits(&self, node: usize) -> u64 {
        let bits: u64 = self.network.forms(Source::Node(node)).iter().map(|bits| u64::from(*bits)).sum();
        if bits == 0 { ACCUMULATOR_BITS } else { bits }
    }

    /// Bits that the feature-map SRAM lacks while this node runs: its inputs, its outputs and what later nodes read.
    fn spilled_bits(&self) -> u64 {
        let graph = &self.network.graph;
        let needed = |source: Source| graph.readers(source).any(|reader| reader >= self.index);
        let picture = if needed(Source::Image) { graph.image().len() as u64 * 8 } else { 0 };
        let values: u64 = (0..=self.index)
            .filter(|&node| node == self.index || needed(Source::Node(node)))
            .map(|node| graph.nodes()[node].output.len() as u64 * self.stored_bits(node))
            .sum();
        let frames = self.hardware.frames_per_load as u64;
        ((picture + values) * frames).saturating_sub(self.hardware.memory.feature_sram_kib * 8192) / frames
    }

    /// The node's convolution, then its projection.
    fn convs(&self, kept: &mut impl Iterator<Item = Sets>) -> Result<Vec<LayerWork>> {
        let node = &self.network.graph.nodes()[self.index];
        let (Op::Conv { conv: shape, skip, .. }, IntegerLayer::Conv { conv, skip: integer_skip, output }) =
            (node.op, &self.network.layers[self.index])
        else {
            unreachable!("a valid network has one layer of the right kind for each node")
        };
        let pixels = shape.output.pixels() as u64;
        let outputs = shape.output.len() as u64;
        let mut map = |name: &str, shape, conv, multipliers: &[u32]| {
            let sets = kept.next().expect("kept groups for each convolution");
            let mapping = ConvMapping::with_sets(name, shape, conv, self.hardware, sets)?;
            Ok::<_, Error>(ConvMapping { column_multipliers: multipliers.len() > 1, ..mapping })
        };

        // The logits have no multiplier; a set's coefficients leave room for one.
        let own = map(&node.name, shape, conv, output.as_ref().map_or(&[], |output| &output.multipliers))?;
        let mut finish = Logic::default();
        finish.add(outputs, ACCUMULATOR_BITS);
        if let Some(output) = output {
            finish.multiply(outputs, [ACCUMULATOR_BITS, MULTIPLIER_BITS]);
            finish.store(outputs, output.forms.len());
        }
        let stored_bits = self.stored_bits(self.index);
        Ok(match (skip, integer_skip) {
            (Some(Skip::Projection { conv: joined, .. }), Some(IntegerSkip::Projection { conv, multipliers })) => {
                let projection = map(&node.projection_name(), joined, conv, multipliers)?;
                finish.add(outputs, ACCUMULATOR_BITS + SUM_BITS);
                finish.multiply(outputs, [ACCUMULATOR_BITS, MULTIPLIER_BITS]);
                // The first sums wait in the feature-map SRAM for the second.
                vec![
                    self.conv(own, |_| 0, ACCUMULATOR_BITS, Logic::default()),
                    self.conv(projection, |_| ACCUMULATOR_BITS, stored_bits, finish),
                ]
            }
            (Some(Skip::Identity { source, pad_front, .. }), Some(IntegerSkip::Identity { bits, .. })) => {
                let bits = u64::from(*bits);
                let channels = self.network.graph.shape(source).channels;
                finish.add(channels as u64 * pixels, SUM_BITS);
                finish.multiply(channels as u64 * pixels, [bits, SKIP_MULTIPLIER_BITS]);
                let joined = pad_front..pad_front + channels;
                let read = move |filter: usize| if joined.contains(&filter) { bits } else { 0 };
                vec![self.conv(own, read, stored_bits, finish)]
            }
            _ => vec![self.conv(own, |_| 0, stored_bits, finish)],
        })
    }

    /// A convolution; for each output `join_bits(filter)` are read and `stored_bits` written.
    fn conv(
        &self,
        mapping: ConvMapping,
        join_bits: impl Fn(usize) -> u64,
        stored_bits: u64,
        mut logic: Logic,
    ) -> LayerWork {
        let pixels = mapping.shape.output.pixels() as u64;
        let cores = mapping.distribute(self.hardware).into_iter().map(|work| {
            let filters = || work.sets.iter().flat_map(|&set| mapping.set_filters(set));
            let waiting_bits = work.waiting_sums * ACCUMULATOR_BITS;
            let joined: u64 = filters().map(&join_bits).sum();
            CoreLayer {
                read_bits: pixels * (work.gathered_bits + waiting_bits + joined),
                write_bits: pixels * (waiting_bits + filters().count() as u64 * stored_bits),
                work,
            }
        });
        let cores = cores.collect();
        // A measured access gives whole outputs; one of components gives a number for each slice and phase.
        let precision = &mapping.precision;
        let numbers = match self.hardware.energy.components {
            Some(_) => precision.slices as u64 * precision.phases as u64,
            None => precision.passes,
        };
        logic.accumulation_adders =
            mapping.accesses() as u64 * pixels * precision.outputs as u64 * numbers * ACCUMULATOR_BITS;
        LayerWork {
            name: mapping.name.clone(),
            conv: Some(mapping),
            cores,
            spilled_bits: self.spilled_bits(),
            picture_bits: 0,
            logic,
        }
    }

    fn pool(&self) -> LayerWork {
        let node = &self.network.graph.nodes()[self.index];
        let (inputs, outputs) = (node.input.len() as u64, node.output.len() as u64);
        let mut logic = Logic::default();
        let input_bits = match &self.network.layers[self.index] {
            IntegerLayer::AvgPool { input_bits, output } => {
                logic.add(inputs, POOL_BITS);
                logic.multiply(outputs, [POOL_BITS, MULTIPLIER_BITS]);
                logic.store(outputs, output.forms.len());
                u64::from(*input_bits)
            }
            _ => {
                let bits = self.stored_bits(self.index);
                logic.add(inputs, bits);
                bits
            }
        };
        let cores = self.hardware.cores as u64;
        let share = || CoreLayer {
            work: CoreWork::default(),
            read_bits: (inputs * input_bits).div_ceil(cores),
            write_bits: (outputs * self.stored_bits(self.index)).div_ceil(cores),
        };
        LayerWork {
            name: node.name.clone(),
            conv: None,
            cores: (0..cores).map(|_| share()).collect(),
            spilled_bits: self.spilled_bits(),
            picture_bits: 0,
            logic,
        }
    }
}
