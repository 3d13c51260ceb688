//! The keys of a hardware file.

use serde::{Deserialize, Serialize};

use super::losses::{Converter, Noise};
use crate::groups::GroupShape;
use crate::integer::matches_pattern;

/// A multi-macro SRAM computing-in-memory chip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Name, for reports.
    pub name: String,
    /// Computing-in-memory cores, which work on different filter sets of a layer.
    pub cores: usize,
    /// Macros of a core, which share its ports.
    pub macros_per_core: usize,
    /// Word lines of a macro.
    pub rows: usize,
    /// Bit lines of a macro, one cell of each row on each.
    pub columns: usize,
    /// Banks of rows; an access turns on `rows_on / partitions` word lines in each.
    pub partitions: usize,
    /// Word lines on at once.
    pub rows_on: usize,
    /// Bits of an input that a word line drives at once.
    pub input_bits_per_cycle: u8,
    /// Bits of a weight whose columns share a converter.
    pub weight_slice_bits: u8,
    /// Clock in MHz.
    pub clock_mhz: f64,
    /// Frames that are computed with a layer's weights before others take their place.
    pub frames_per_load: usize,
    /// What is kept, stored and indexed.
    pub group: GroupShape,
    /// What turns a column's sum into a number.
    pub converter: Converter,
    /// What the array does wrong; absent for one without faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// The precisions that the macro has, with their time and energy.
    pub access: Vec<AccessMode>,
    /// How layers are laid on the cores.
    #[serde(default)]
    pub mapping: Mapping,
    /// Memories and ports around the macros.
    pub memory: Memory,
    /// Energy constants.
    pub energy: Energy,
    /// Area constants; without them no area is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<Area>,
}

/// One precision of the macro.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessMode {
    /// Bits of a weight.
    pub weight_bits: u8,
    /// Bits of an input that one access takes in, all its phases included.
    pub input_bits: u8,
    /// Outputs, where they aren't `columns / weight_bits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outputs: Option<usize>,
    /// Duration in nanoseconds.
    pub ns: f64,
    /// Measured energy in picojoules: array, converter and drivers; absent where [`Energy::components`] gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_pj: Option<f64>,
    /// The geometry that both belong to; that of the file that gives the access where it doesn't say so. On another one they are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Geometry>,
}

/// What of a macro an access's energy and time follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Word lines.
    pub rows: usize,
    /// Bit lines.
    pub columns: usize,
    /// Word lines on at once.
    pub rows_on: usize,
}

impl Geometry {
    /// Cells of a macro.
    pub(super) fn cells(self) -> u64 {
        (self.rows * self.columns) as u64
    }
}

/// How layers are laid on the cores: the key `mapping.policy` of a hardware file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The cheapest placement for each layer, by the model's own time and energy.
    #[default]
    Auto,
    /// Filter sets over the cores; each macro starts as soon as it is written.
    FilterSets,
    /// Filter sets over the cores; the macros of a core start together.
    Together,
    /// The input channels of every filter set over all cores.
    InputChannels,
    /// Filter sets over the cores, small layers as often as they fit.
    Duplicate,
}

/// How layers are laid on the cores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// One policy for all layers, or the cheapest for each.
    #[serde(default)]
    pub policy: Policy,
    /// What the automatic policy makes small.
    #[serde(default, skip_serializing_if = "Objective::is_product")]
    pub objective: Objective,
    /// What is decided about single layers, with the automatic policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerMapping>,
}

/// What is decided about the placement of the layers whose names match a pattern; the mapper chooses the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerMapping {
    /// A name in which `*` stands for any characters.
    pub pattern: String,
    /// What the cores divide among themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// How often the layer's weights are on the chip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<usize>,
    /// When the macros of a core start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
}

impl LayerMapping {
    pub(crate) fn matches(&self, name: &str) -> bool {
        matches_pattern(&self.pattern, name)
    }
}

/// What cores divide among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Filter sets: a set is on one core.
    FilterSets,
    /// Input channels: a set's kept groups are on all cores, whose sums are added at the end of the layer.
    InputChannels,
}

/// When the macros of a core start. Weights stay where they are written until all output pixels are computed, either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Each as soon as it is written; sums of a filter set wait in the feature-map SRAM from one tile to the next.
    Staggered,
    /// All once all are written; sums of a filter set that is on several of them meet in the core.
    Together,
}

/// What the mapper makes small: the key `mapping.objective` of a hardware file. Energy is that of a frame without the leakage of macros that hold no
/// tile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Cycles of a frame.
    Cycles,
    /// Energy of a frame.
    Energy,
    /// Cycles x energy.
    #[default]
    Product,
}

impl Objective {
    fn is_product(&self) -> bool {
        *self == Self::Product
    }
}

/// How the map that a layer reads and the one that it writes share the feature-map SRAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PingPong {
    /// Each takes what it needs.
    #[default]
    Shared,
    /// Each has half of it; layers in a row read and write them in turn.
    Halves,
}

/// How inputs come from the feature-map SRAM to the cores that compute the same output pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputReads {
    /// Each core reads its inputs for itself.
    #[default]
    PerCore,
    /// What several cores need is read once and reaches all of them.
    Broadcast,
}

impl InputReads {
    fn is_per_core(&self) -> bool {
        *self == Self::PerCore
    }
}

/// Memories and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Weight SRAM of a core, KiB.
    pub weight_sram_kib: u64,
    /// Feature-map SRAM of all cores, KiB.
    pub feature_sram_kib: u64,
    /// How the map that is read and the one that is written share it.
    #[serde(default)]
    pub ping_pong: PingPong,
    /// How inputs come from it to the cores.
    #[serde(default, skip_serializing_if = "InputReads::is_per_core")]
    pub input_reads: InputReads,
    /// Port of a core through which its macros are written, bits a cycle.
    pub write_bits_per_cycle: u64,
    /// Weight SRAM of a core to its macros, bits a cycle.
    pub weight_bits_per_cycle: u64,
    /// Feature-map SRAM to a core, bits a cycle.
    pub feature_read_bits_per_cycle: u64,
    /// A core to the feature-map SRAM, bits a cycle.
    pub feature_write_bits_per_cycle: u64,
    /// Next memory level to all cores together, bits a cycle.
    pub next_level_bits_per_cycle: u64,
    /// Index bits that a core decodes in a cycle.
    pub index_bits_per_cycle: u64,
}

/// Bits of a KiB.
const KIB_BITS: u64 = 8 * 1024;

impl Memory {
    /// Bits of the weight SRAM of a core.
    pub(crate) fn weight_sram_bits(&self) -> u64 {
        self.weight_sram_kib * KIB_BITS
    }

    /// Bits of the feature-map SRAM.
    pub(crate) fn feature_sram_bits(&self) -> u64 {
        self.feature_sram_kib * KIB_BITS
    }

    /// Cycles in which a core reads bits of maps.
    pub(crate) fn read_cycles(&self, bits: u64) -> u64 {
        bits.div_ceil(self.feature_read_bits_per_cycle)
    }

    /// Cycles in which a core writes bits of maps.
    pub(crate) fn write_back_cycles(&self, bits: u64) -> u64 {
        bits.div_ceil(self.feature_write_bits_per_cycle)
    }

    /// Cycles in which a core writes weights into its macros: the slower of the write port and the weight SRAM.
    pub(crate) fn load_cycles(&self, cell_bits: u64, packed_bits: u64) -> u64 {
        cell_bits.div_ceil(self.write_bits_per_cycle).max(packed_bits.div_ceil(self.weight_bits_per_cycle))
    }

    /// Cycles in which a core decodes index bits.
    pub(crate) fn decode_cycles(&self, index_bits: u64) -> u64 {
        index_bits.div_ceil(self.index_bits_per_cycle)
    }

    /// Cycles in which bits come from or go to the next memory level.
    pub(crate) fn next_level_cycles(&self, bits: u64) -> u64 {
        bits.div_ceil(self.next_level_bits_per_cycle)
    }
}

/// Energy constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// Writing a bit of a macro.
    pub cell_write_pj_per_bit: f64,
    /// Reading or writing a bit of a weight or feature-map SRAM.
    pub buffer_pj_per_bit: f64,
    /// Moving a bit from or to the next memory level.
    pub next_level_pj_per_bit: f64,
    /// A switching logic gate.
    pub gate_pj: f64,
    /// A full adder, or a bit of a comparison.
    pub adder_pj_per_bit: f64,
    /// A bit of a register; counted where accumulators are [`Sized`](Accumulator::Sized).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub register_pj_per_bit: f64,
    /// What adds up the outputs of accesses.
    #[serde(default, skip_serializing_if = "Accumulator::is_words")]
    pub accumulator: Accumulator,
    /// Static power of a macro, mW; a measured access contains it while it lasts.
    pub leakage_mw_per_macro: f64,
    /// What leakage and the energy of an SRAM's bit were stated for.
    #[serde(default, skip_serializing_if = "StatedFor::is_empty")]
    pub stated_for: StatedFor,
    /// How a measured access is split: for display, and where it is scaled to another geometry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_shares: Option<MacroShares>,
    /// Energy of an access from its parts, where it isn't measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
}

/// What adds up the outputs of accesses: the key `energy.accumulator`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accumulator {
    /// Adders of 32 bits: one addition for each output of a measured access, for each weight slice and input phase of one of components.
    #[default]
    Words,
    /// Adders and registers as wide as the sums are; slices and the bits of a phase meet in a tree first (zigzag-imc).
    Sized,
}

impl Accumulator {
    fn is_words(&self) -> bool {
        *self == Self::Words
    }
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

fn one() -> f64 {
    1.0
}

/// The sizes that constants were stated for; that of the file that gives the constant where it doesn't say so. Without a size the constant holds for
/// every one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatedFor {
    /// Cells of the macro that leaks [`Energy::leakage_mw_per_macro`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cells: Option<u64>,
    /// Weight SRAM of a core whose bit takes [`Energy::buffer_pj_per_bit`], KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_sram_kib: Option<u64>,
    /// The same of the feature-map SRAM, KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_sram_kib: Option<u64>,
}

impl StatedFor {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Shares of an access's energy, which sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MacroShares {
    /// Cells and bit lines.
    pub array: f64,
    /// Converters.
    pub converter: f64,
    /// Drivers of the word lines.
    pub drivers: f64,
}

impl MacroShares {
    /// Names and shares, for tables.
    pub fn parts(&self) -> [(&'static str, f64); 3] {
        [("array", self.array), ("converter", self.converter), ("drivers", self.drivers)]
    }
}

/// Area constants of everything that is counted; a file gives all of them or none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// A macro with its converters and drivers, mm2.
    pub macro_mm2: f64,
    /// Cells of the macro that it is of; absent, those of the geometry that accesses were measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_cells: Option<u64>,
    /// An SRAM without its cells, mm2.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sram_mm2_fixed: f64,
    /// A KiB of weight or feature-map SRAM, mm2.
    pub sram_mm2_per_kib: f64,
    /// Accumulation, index decoder and requantization of a core, mm2.
    pub logic_mm2_per_core: f64,
}

/// Capacitances behind the energy of one input phase of an access (formulas of zigzag-imc; see `docs/cost-model.md`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Components {
    /// Supply, V.
    pub supply_v: f64,
    /// Bit line of one cell, or its multiplier in a digital macro, fF.
    pub cell_ff: f64,
    /// Converter, for each of its bits, fF.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub adc_linear_ff: f64,
    /// Converter, for each of its `4^bits`, fF.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub adc_exponential_ff: f64,
    /// Driver of a row, for each input bit of a phase if there are several, fF.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dac_ff_per_bit: f64,
    /// Full adder of an adder tree, fF.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub adder_ff: f64,
    /// Local bit line of a cell, precharged once for an access: of each cell that is on, and of those that share its line, fF.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub precharge_ff: f64,
    /// Share of cells and converters or adder trees that switch: that of inputs that toggle x that of weights that aren't zero.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub activity: f64,
}

impl Hardware {
    /// The shipped `experiments/hardware/mars.toml`.
    pub fn mars() -> Self {
        toml::from_str(include_str!("../../../experiments/hardware/mars.toml"))
            .expect("the shipped hardware file is tested to be valid")
    }

    /// Macros of the chip.
    pub fn macros(&self) -> usize {
        self.cores * self.macros_per_core
    }

    /// Groups that one access can hold side by side on the word lines.
    pub fn sections(&self) -> usize {
        self.rows_on / self.group.channels
    }

    /// Accesses whose weights a macro holds at once.
    pub fn accesses_per_macro(&self) -> usize {
        self.rows / self.rows_on
    }
}
