//! Energy: what a placed layer takes, by component, per frame.
//!
//! Each formula is in `docs/cost-model.md` with its source and its doubt.

use serde::{Deserialize, Serialize};

use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{CoreWork, LayerWork, Logic, Traffic};
use crate::hardware::timing::Loading;

/// Bits of the counter that the index decoder steps for each bit of a code.
const INDEX_COUNTER_BITS: u64 = 16;

/// Energy by component, in microjoules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnergyBreakdown {
    /// Accesses: array, converters, drivers.
    #[serde(rename = "macro")]
    pub array: f64,
    /// Adding up the outputs of accesses.
    pub accumulation: f64,
    /// Writing weights into the macros.
    pub cell_writes: f64,
    /// Reading weights, indices and coefficients from the weight SRAM, and writing them there if they come from further.
    pub weight_buffer: f64,
    /// Feature-map SRAM, the picture and spilled maps included.
    pub feature_buffer: f64,
    /// Weights, spilled maps and the picture, from and to the next level.
    pub next_level: f64,
    /// Index decoder.
    pub index_decode: f64,
    /// Multiply, round and shift, residual sums, pooling.
    pub requantization: f64,
    /// Macros that wait, and (where access energies are from components) those that work.
    pub leakage: f64,
}

impl EnergyBreakdown {
    /// All components.
    pub fn total(&self) -> f64 {
        self.components().into_iter().map(|(_, energy)| energy).sum()
    }

    /// Names (the keys of `energy_breakdown_uj`) and values, for tables and plots.
    pub fn components(&self) -> [(&'static str, f64); 9] {
        [
            ("macro", self.array),
            ("accumulation", self.accumulation),
            ("cell_writes", self.cell_writes),
            ("weight_buffer", self.weight_buffer),
            ("feature_buffer", self.feature_buffer),
            ("next_level", self.next_level),
            ("index_decode", self.index_decode),
            ("requantization", self.requantization),
            ("leakage", self.leakage),
        ]
    }

    pub(super) fn plus(self, other: &Self) -> Self {
        Self {
            array: self.array + other.array,
            accumulation: self.accumulation + other.accumulation,
            cell_writes: self.cell_writes + other.cell_writes,
            weight_buffer: self.weight_buffer + other.weight_buffer,
            feature_buffer: self.feature_buffer + other.feature_buffer,
            next_level: self.next_level + other.next_level,
            index_decode: self.index_decode + other.index_decode,
            requantization: self.requantization + other.requantization,
            leakage: self.leakage + other.leakage,
        }
    }
}

/// Energy of a layer that takes `cycles` for a frame.
pub(super) fn layer_energy(work: &LayerWork, cycles: u64, hardware: &Hardware, loading: Loading) -> EnergyBreakdown {
    let constants = &hardware.energy;
    // Picojoules to microjoules.
    let uj = |count: u64, pj: f64| count as f64 * pj / 1e6;
    let (access_pj, access_ns) =
        work.layer.conv.as_ref().map_or((0.0, 0.0), |conv| (conv.precision.energy_pj, conv.precision.ns));
    let accesses = work.layer.accesses();

    let frames = hardware.frames_per_load as f64;
    let sum = |bits: fn(&CoreWork) -> u64| -> u64 { work.cores.iter().map(bits).sum() };
    let loaded = |bits: fn(&CoreWork) -> u64| -> f64 {
        match loading {
            Loading::Never => 0.0,
            _ => sum(bits) as f64 / frames / 1e6,
        }
    };
    let packed_bits = loaded(CoreWork::packed_bits);
    // What copies in a core share comes once.
    let fetched_bits = if loading == Loading::NextLevel { loaded(CoreWork::stored_bits) } else { 0.0 };
    let traffic: Traffic = work.cores.iter().map(CoreWork::traffic).sum();
    let map_bits = traffic.read + traffic.written;
    let Logic { adders, gates } = work.layer.logic;

    let macro_ns = hardware.macros() as f64 * cycles as f64 * 1e3 / hardware.clock_mhz;
    let measured_ns = match constants.components {
        Some(_) => 0.0,
        None => accesses as f64 * access_ns,
    };
    EnergyBreakdown {
        array: uj(accesses, access_pj),
        accumulation: uj(work.accumulation_adders, constants.adder_pj_per_bit),
        cell_writes: loaded(CoreWork::cell_bits) * constants.cell_write_pj_per_bit,
        weight_buffer: (packed_bits + fetched_bits) * constants.buffer_pj_per_bit,
        feature_buffer: uj(map_bits + 2 * work.spilled_bits + work.layer.picture_bits, constants.buffer_pj_per_bit),
        next_level: fetched_bits * constants.next_level_pj_per_bit
            + uj(2 * work.spilled_bits + work.layer.picture_bits, constants.next_level_pj_per_bit),
        index_decode: loaded(CoreWork::index_bits) * INDEX_COUNTER_BITS as f64 * constants.adder_pj_per_bit,
        requantization: uj(adders, constants.adder_pj_per_bit) + uj(gates, constants.gate_pj),
        // Milliwatts times nanoseconds are picojoules.
        leakage: constants.leakage_mw_per_macro * (macro_ns - measured_ns).max(0.0) / 1e6,
    }
}
