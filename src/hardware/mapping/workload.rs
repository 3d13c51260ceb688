//! Workload: what a network's layers compute, move and store, and what each core does of it once they are placed.
//!
//! It knows nothing of time or energy; programs and cost both start from it.

use super::accesses::{ConvMapping, Sets};
use super::broadcast::{most_spared_bits, spared_bits};
use super::cores::{CoreWork, place};
use super::live::{Live, LiveValues, image_bits, stored_bits};
use super::outputs::Outputs;
use super::placement::Placement;
use super::traffic::Traffic;
use crate::error::Result;
use crate::hardware::chip::{Accumulation, Hardware, InputReads, PingPong};
use crate::integer::{
    ACCUMULATOR_BITS, IntegerLayer, IntegerNetwork, IntegerSkip, MULTIPLIER_BITS, SHIFT_LIMIT, SKIP_MULTIPLIER_BITS,
};
use crate::network::{Op, SameScale, Skip};

/// Bits of a product before requantization: accumulator times multiplier.
const SUM_BITS: u64 = ACCUMULATOR_BITS + MULTIPLIER_BITS;
/// Multiplexers in a row of a shifter: one for each bit of the largest shift.
const SHIFT_STAGES: u64 = (SHIFT_LIMIT - 1).ilog2() as u64 + 1;
/// Bits of a sum over a pooling window, at least.
const POOL_BITS: u64 = 16;

/// A convolution, a projection or a pooling layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    /// The convolution; `None` for a pooling layer, which the digital part does.
    pub(crate) conv: Option<ConvMapping>,
    outputs: Outputs,
    /// What a pooling layer moves.
    pooled: Traffic,
    live: Live,
    /// Bits of the image, which comes from the next level before the first layer.
    pub(crate) image_bits: u64,
    pub(crate) logic: Logic,
}

/// A layer on its cores.
#[derive(Clone, Debug)]
pub(crate) struct LayerWork<'a> {
    pub(crate) layer: &'a Layer,
    /// How it lies there; none for a pooling layer, which all cores share.
    pub(crate) placement: Option<Placement>,
    pub(crate) cores: Vec<CoreWork>,
    /// Inputs that a core needn't read, since a read for another one brings them, in bits.
    spared_bits: u64,
    /// Values that the feature-map SRAM can't hold, in bits; they go to the next level and come back.
    pub(crate) spilled_bits: u64,
    /// What adds up the outputs of accesses and of cores.
    pub(crate) accumulation: Accumulation,
}

impl Layer {
    /// Accesses for a frame.
    pub(crate) fn accesses(&self) -> u64 {
        self.conv.as_ref().map_or(0, |conv| (conv.accesses() * conv.shape.output.pixels()) as u64)
    }

    /// Cycles of an access; none for a pooling layer.
    pub(crate) fn access_cycles(&self) -> u64 {
        self.conv.as_ref().map_or(0, |conv| conv.precision.cycles)
    }

    /// Cycles of a frame's accesses, one after the other.
    pub(crate) fn compute_cycles(&self) -> u64 {
        self.accesses() * self.access_cycles()
    }

    /// Lays the layer on the cores; a pooling layer without a placement.
    pub(crate) fn place(&self, placement: Option<Placement>, hardware: &Hardware) -> LayerWork<'_> {
        let cores = match (&self.conv, placement) {
            (Some(conv), Some(placement)) => place(conv, &self.outputs, placement, hardware),
            (Some(conv), None) => unreachable!("convolution `{}` has a placement", conv.name),
            (None, _) => self.pooled.parts(hardware.cores).map(CoreWork::pooling).collect(),
        };
        let Live { written_half, other_half } = self.live;
        let written_half = written_half + cores.iter().map(CoreWork::waiting_bits).sum::<u64>();
        let capacity = hardware.memory.feature_sram_bits();
        let frames = hardware.frames_per_load as u64;
        let beyond = |bits: u64, room: u64| (bits * frames).saturating_sub(room).div_ceil(frames);
        let spilled_bits = match hardware.memory.ping_pong {
            PingPong::Shared => beyond(written_half + other_half, capacity),
            PingPong::Halves => beyond(written_half, capacity / 2) + beyond(other_half, capacity / 2),
        };
        let joined_sums: u64 = cores.iter().map(|core| core.joined_sums).sum();
        let of_access = self.conv.as_ref().map(|conv| conv.precision.accumulation);
        let Accumulation { adders, registers } = of_access.unwrap_or(Accumulation { adders: 0.0, registers: 0.0 });
        let accesses = self.accesses() as f64;
        let accumulation = Accumulation {
            adders: accesses * adders + (joined_sums * ACCUMULATOR_BITS) as f64,
            registers: accesses * registers,
        };
        let spared_bits = match (hardware.memory.input_reads, &self.conv, placement) {
            (InputReads::Broadcast, Some(conv), Some(placement)) => spared_bits(conv, placement, hardware),
            (InputReads::Broadcast, _, _) | (InputReads::PerCore, _, _) => 0,
        };
        LayerWork { layer: self, placement, cores, spared_bits, spilled_bits, accumulation }
    }
}

impl LayerWork<'_> {
    /// What a frame moves from and to the feature-map SRAM, for all cores.
    pub(crate) fn traffic(&self) -> Traffic {
        let of_cores: Traffic = self.cores.iter().map(CoreWork::traffic).sum();
        Traffic { read: of_cores.read - self.spared_bits, ..of_cores }
    }

    /// The same as if the cores of a larger chip spared all reads that any placement spares.
    pub(crate) fn sparing_most(self, hardware: &Hardware) -> Self {
        let spared_bits = match (hardware.memory.input_reads, &self.layer.conv) {
            (InputReads::Broadcast, Some(conv)) => most_spared_bits(conv),
            (InputReads::Broadcast, None) | (InputReads::PerCore, _) => 0,
        };
        Self { spared_bits, ..self }
    }

    /// Bits of maps that a frame moves from and to the next level: what spills goes there and comes back, the image comes.
    pub(crate) fn next_level_map_bits(&self) -> u64 {
        2 * self.spilled_bits + self.layer.image_bits
    }
}

/// Digital work beside the macros.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Logic {
    /// Full adders used to requantize and to pool.
    pub(crate) adders: u64,
    /// Gates used to requantize.
    pub(crate) gates: u64,
}

impl Logic {
    fn add(&mut self, count: u64, bits: u64) {
        self.adders += count * bits;
    }

    /// Products of `bits` x `by` bits.
    fn multiply(&mut self, count: u64, bits: u64, by: u64) {
        self.adders += count * bits * by;
        self.gates += count * bits * by;
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
pub(crate) fn workload(network: &IntegerNetwork, hardware: &Hardware, kept: &[Sets]) -> Result<Vec<Layer>> {
    let mut kept = kept.iter().cloned();
    let live = LiveValues::new(network);
    let mut layers = Vec::new();
    for index in 0..network.layers.len() {
        layers.extend(node_workload(network, &live, hardware, index, &mut kept)?);
    }
    Ok(layers)
}

/// The layers of one node; `kept` gives the groups that count of each of its convolutions.
///
/// # Errors
/// Weights wider than the macro can hold.
pub(crate) fn node_workload(
    network: &IntegerNetwork,
    live: &LiveValues,
    hardware: &Hardware,
    index: usize,
    kept: &mut impl Iterator<Item = Sets>,
) -> Result<Vec<Layer>> {
    let builder = Builder { network, live, hardware, index };
    let mut layers = match network.layers[index] {
        IntegerLayer::Conv { .. } => builder.convs(kept)?,
        IntegerLayer::SameScale | IntegerLayer::AvgPool { .. } => vec![builder.pool()],
    };
    if index == 0 {
        layers[0].image_bits = image_bits(network);
    }
    Ok(layers)
}

/// Builds the layers of one node.
struct Builder<'a> {
    network: &'a IntegerNetwork,
    live: &'a LiveValues,
    hardware: &'a Hardware,
    index: usize,
}

impl Builder<'_> {
    /// The node's convolution, then its projection.
    fn convs(&self, kept: &mut impl Iterator<Item = Sets>) -> Result<Vec<Layer>> {
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
            ConvMapping::with_sets(name, shape, conv, self.hardware, sets, multipliers.len() > 1)
        };

        // The logits have no multiplier; a set's coefficients leave room for one.
        let own = map(&node.name, shape, conv, output.as_ref().map_or(&[], |output| &output.multipliers))?;
        let mut finish = Logic::default();
        finish.add(outputs, ACCUMULATOR_BITS);
        if let Some(output) = output {
            finish.multiply(outputs, ACCUMULATOR_BITS, MULTIPLIER_BITS);
            finish.store(outputs, output.forms.len());
        }
        let stored_bits = stored_bits(self.network, self.index);
        let join = |residual, residual_bits| Outputs { residual, residual_bits, stored_bits };
        Ok(match (skip, integer_skip) {
            (Some(Skip::Projection { conv: joined, .. }), Some(IntegerSkip::Projection { conv, multipliers })) => {
                let projection = map(&node.projection_name(), joined, conv, multipliers)?;
                finish.add(outputs, ACCUMULATOR_BITS + SUM_BITS);
                finish.multiply(outputs, ACCUMULATOR_BITS, MULTIPLIER_BITS);
                // The first sums wait in the feature-map SRAM for the second.
                let first = Outputs { stored_bits: ACCUMULATOR_BITS, ..Outputs::default() };
                let second = join(0..shape.filters(), ACCUMULATOR_BITS);
                // These sums wait beside the outputs while the projection runs.
                let live = self.live.while_projecting(self.index, outputs * (stored_bits + ACCUMULATOR_BITS));
                vec![self.conv(own, first, Logic::default()), self.conv_beside(live, projection, second, finish)]
            }
            (Some(Skip::Identity { source, pad_front, .. }), Some(IntegerSkip::Identity { bits, .. })) => {
                let bits = u64::from(*bits);
                let channels = self.network.graph.shape(source).channels;
                if self.network.graph.is_signed(source) {
                    // The zero point comes off.
                    finish.add(channels as u64 * pixels, bits);
                }
                finish.add(channels as u64 * pixels, SUM_BITS);
                finish.multiply(channels as u64 * pixels, bits, SKIP_MULTIPLIER_BITS);
                vec![self.conv(own, join(pad_front..pad_front + channels, bits), finish)]
            }
            (None, None) => vec![self.conv(own, join(0..0, 0), finish)],
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => {
                unreachable!("a valid network has the residuals of its graph")
            }
        })
    }

    /// The node's own convolution.
    fn conv(&self, mapping: ConvMapping, outputs: Outputs, logic: Logic) -> Layer {
        let stored_bits = mapping.shape.output.len() as u64 * outputs.stored_bits;
        self.conv_beside(self.live.while_running(self.index, stored_bits), mapping, outputs, logic)
    }

    /// A convolution that runs while these values are live.
    fn conv_beside(&self, live: Live, mapping: ConvMapping, outputs: Outputs, logic: Logic) -> Layer {
        Layer {
            name: mapping.name.clone(),
            live,
            conv: Some(mapping),
            outputs,
            pooled: Traffic::default(),
            image_bits: 0,
            logic,
        }
    }

    /// What the digital part does alone: a maximum, a mean or a concatenation.
    fn pool(&self) -> Layer {
        let node = &self.network.graph.nodes()[self.index];
        let (inputs, outputs) = (node.input.len() as u64, node.output.len() as u64);
        let form_bits = stored_bits(self.network, self.index);
        let mut logic = Logic::default();
        let read = match (node.op, &self.network.layers[self.index]) {
            (Op::AvgPool { window }, IntegerLayer::AvgPool { input_bits, output }) => {
                let values = window.taps() as u64;
                let sum_bits = POOL_BITS.max(u64::from(*input_bits) + u64::from(values.next_power_of_two().ilog2()));
                logic.add(outputs * values, sum_bits);
                if self.network.graph.is_signed(node.source) {
                    // The window's zero points come off at once.
                    logic.add(outputs, sum_bits);
                }
                logic.multiply(outputs, sum_bits, MULTIPLIER_BITS);
                logic.store(outputs, output.forms.len());
                inputs * u64::from(*input_bits)
            }
            (Op::SameScale(SameScale::MaxPool { .. }), _) => {
                logic.add(inputs, form_bits);
                inputs * form_bits
            }
            // Codes are copied as they are.
            (Op::SameScale(SameScale::Concat), _) => outputs * form_bits,
            (Op::Conv { .. } | Op::AvgPool { .. }, _) => unreachable!("a layer of its node's kind, and no convolution"),
        };
        let stored_bits = outputs * form_bits;
        Layer {
            name: node.name.clone(),
            conv: None,
            outputs: Outputs::default(),
            pooled: Traffic { read, written: stored_bits },
            live: self.live.while_running(self.index, stored_bits),
            image_bits: 0,
            logic,
        }
    }
}
