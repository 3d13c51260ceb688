//! Cost: cycles, energy by component and compression of a network on a chip, per frame.
//!
//! Each formula is in `docs/cost-model.md` with its source and its doubt.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::config::{Hardware, MacroShares};
use super::mapping::{ConvMapping, Sets, dense_sets, kept_sets};
use super::schedule::{Loading, Timeline, schedule};
use super::workload::{LayerWork, workload};
use crate::deploy::integer::IntegerNetwork;
use crate::error::Result;
use crate::sparsity::{GroupGrid, GroupShape};

/// Bits of the counter that the index decoder steps for each bit of a code.
const INDEX_COUNTER_BITS: u64 = 16;

/// What a network costs on a chip.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Name of the hardware.
    pub hardware: String,
    /// What keeps the chip from computing what the integer reference does ([`Hardware::losses`]).
    pub losses: Vec<String>,
    /// How the component `macro` of the energy is split, where the hardware file says so.
    pub macro_shares: Option<MacroShares>,
    /// Area, where the hardware file has the constants.
    pub area: Option<AreaBreakdown>,
    /// Every kept weight has a place in the macros at the same time, so that nothing is reloaded.
    pub resident: bool,
    /// The packed model fits the cores' weight SRAMs.
    pub fits_weight_sram: bool,
    /// How much smaller the weights are.
    pub compression: Compression,
    /// Per frame, weight reload charged.
    pub cost: Cost,
    /// Per frame, as if all weights stayed in the macros.
    pub cost_without_reload: Cost,
    /// Layers in execution order, weight reload charged.
    pub layers: Vec<LayerCost>,
    /// What each macro does when, weight reload included.
    pub timeline: Timeline,
}

/// How much smaller the weights are, over all mapped layers (first, last and projections included).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compression {
    /// Zero groups / all groups.
    pub group_sparsity: f64,
    /// All weights at their bits.
    pub weight_bits_dense: u64,
    /// The kept groups' weights at their bits, without padding.
    pub weight_bits_stored: u64,
    /// Index codes, with the bit that names each one's kind.
    pub index_bits: u64,
    /// `weight_bits_dense / (weight_bits_stored + index_bits)`.
    pub ratio: f64,
    /// The same with all weights at 32 bits.
    pub ratio_fp32: f64,
}

/// Cost of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Cycles.
    pub cycles: u64,
    /// Frames a second.
    pub fps: f64,
    /// From the first load to the last logit, in microseconds; of all frames that share a load.
    pub latency_us: f64,
    /// Energy in microjoules.
    pub energy_uj: f64,
    /// `2 x dense MAC / energy`.
    pub tops_per_watt_dense_equivalent: f64,
    /// `2 x MAC of kept groups / energy`, padding not counted.
    pub tops_per_watt_executed: f64,
    /// `2 x dense MAC x frames a second / area`; absent without area constants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tops_per_mm2_dense_equivalent: Option<f64>,
    /// `2 x MAC of kept groups x frames a second / area`; absent without area constants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tops_per_mm2_executed: Option<f64>,
    /// MAC of kept groups / (cycles x peak MAC).
    pub utilization: f64,
    /// Cycles of the same network with every group kept, same bits, same chip / cycles.
    pub speedup_vs_dense: f64,
    /// Parts of `energy_uj`.
    pub energy_breakdown_uj: EnergyBreakdown,
}

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
    /// Feature-map SRAM.
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

/// Area by component, in mm2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AreaBreakdown {
    /// Macros with their converters and drivers.
    pub macros_mm2: f64,
    /// Weight SRAMs of all cores.
    pub weight_sram_mm2: f64,
    /// Feature-map SRAM.
    pub feature_sram_mm2: f64,
    /// Logic of all cores.
    pub logic_mm2: f64,
    /// All of it.
    pub total_mm2: f64,
}

impl AreaBreakdown {
    /// The area of a chip whose file has the constants.
    fn new(hardware: &Hardware) -> Option<Self> {
        let area = hardware.area?;
        let sram = |kib: u64| kib as f64 * area.sram_mm2_per_kib;
        let parts = [
            hardware.macros() as f64 * area.macro_mm2,
            sram(hardware.cores as u64 * hardware.memory.weight_sram_kib),
            sram(hardware.memory.feature_sram_kib),
            hardware.cores as f64 * area.logic_mm2_per_core,
        ];
        let [macros_mm2, weight_sram_mm2, feature_sram_mm2, logic_mm2] = parts;
        Some(Self { macros_mm2, weight_sram_mm2, feature_sram_mm2, logic_mm2, total_mm2: parts.iter().sum() })
    }
}

/// Cost of a layer, per frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerCost {
    /// Name; a projection has its own entry.
    pub name: String,
    /// Cycles.
    pub cycles: u64,
    /// Energy in microjoules.
    pub energy_uj: f64,
    /// Zero groups / all groups; none for a pooling layer.
    pub group_sparsity: Option<f64>,
    /// MAC of kept groups / (cycles x peak MAC).
    pub utilization: f64,
    /// Macro accesses.
    pub accesses: u64,
    /// Groups that hold a weight.
    pub kept_groups: u64,
    /// All groups.
    pub groups: u64,
    /// Multiply-accumulates, dense.
    pub macs: u64,
    /// Multiply-accumulates of kept groups on real channels and filters.
    pub kept_macs: u64,
    /// Parts of `energy_uj`.
    pub energy_breakdown_uj: EnergyBreakdown,
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

    fn plus(self, other: &Self) -> Self {
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

/// A checked network whose costs on many chips can be asked for.
///
/// Which groups hold a weight is found once for each group shape; it is most of the work.
#[derive(Debug)]
pub struct Evaluator<'a> {
    network: &'a IntegerNetwork,
    kept: Mutex<Vec<Arc<KeptGroups>>>,
}

/// Groups of each convolution for one group shape, in the order of [`IntegerNetwork::convs`].
#[derive(Debug)]
struct KeptGroups {
    shape: GroupShape,
    /// Those that hold a weight.
    kept: Vec<Sets>,
    /// All of them.
    dense: Vec<Sets>,
}

impl KeptGroups {
    fn new(network: &IntegerNetwork, shape: GroupShape) -> Self {
        let convs: Vec<_> =
            network.convs().map(|(_, conv, _, integer)| (GroupGrid::new(shape, &conv), integer)).collect();
        let kept = convs.par_iter().map(|(grid, conv)| kept_sets(grid, &conv.weights)).collect();
        Self { shape, kept, dense: convs.iter().map(|(grid, _)| dense_sets(grid)).collect() }
    }
}

impl<'a> Evaluator<'a> {
    /// Checks a network.
    ///
    /// # Errors
    /// A network that isn't valid.
    pub fn new(network: &'a IntegerNetwork) -> Result<Self> {
        network.validate()?;
        Ok(Self { network, kept: Mutex::default() })
    }

    /// Runs the model: maps the network, schedules it with and without weight reload, and adds up what it costs.
    ///
    /// # Errors
    /// A chip that isn't valid; weights wider than the macro can hold.
    pub fn evaluate(&self, hardware: &Hardware) -> Result<Evaluation> {
        hardware.validate()?;
        let groups = self.groups(hardware.group);
        let layers = workload(self.network, hardware, &groups.kept)?;
        let dense = workload(self.network, hardware, &groups.dense)?;

        let loading = loading(&layers, hardware);
        let (timeline, mut cost, layer_costs) = run(&layers, hardware, loading);
        let (_, mut cost_without_reload, _) = run(&layers, hardware, Loading::Never);
        for (cost, loading) in
            [(&mut cost, self::loading(&dense, hardware)), (&mut cost_without_reload, Loading::Never)]
        {
            let (_, dense, _) = run(&dense, hardware, loading);
            cost.speedup_vs_dense = dense.cycles as f64 / cost.cycles as f64;
        }
        Ok(Evaluation {
            hardware: hardware.name.clone(),
            losses: hardware.losses(),
            macro_shares: hardware.macro_shares(),
            area: AreaBreakdown::new(hardware),
            resident: loading == Loading::Never,
            fits_weight_sram: fits_weight_sram(&layers, hardware),
            compression: compression(layers.iter().filter_map(|layer| layer.conv.as_ref())),
            cost,
            cost_without_reload,
            layers: layer_costs,
            timeline,
        })
    }

    /// The groups for a shape, found now or before.
    fn groups(&self, shape: GroupShape) -> Arc<KeptGroups> {
        let mut known = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(groups) = known.iter().find(|groups| groups.shape == shape) {
            return groups.clone();
        }
        let groups = Arc::new(KeptGroups::new(self.network, shape));
        known.push(groups.clone());
        groups
    }
}

/// What a network costs on one chip ([`Evaluator::evaluate`]).
///
/// # Errors
/// A network or chip that isn't valid; weights wider than the macro can hold.
pub fn evaluate(network: &IntegerNetwork, hardware: &Hardware) -> Result<Evaluation> {
    Evaluator::new(network)?.evaluate(hardware)
}

/// Weights are loaded unless each core's macros hold the accesses of all layers.
pub(super) fn loading(layers: &[LayerWork], hardware: &Hardware) -> Loading {
    let room = hardware.macros_per_core * hardware.accesses_per_macro();
    let accesses = |core: usize| -> u64 {
        let tiles = layers.iter().flat_map(|layer| &layer.cores[core].work.tiles);
        tiles.map(|tile| tile.accesses).sum()
    };
    if (0..hardware.cores).all(|core| accesses(core) <= room as u64) {
        Loading::Never
    } else if fits_weight_sram(layers, hardware) {
        Loading::WeightSram
    } else {
        Loading::NextLevel
    }
}

fn fits_weight_sram(layers: &[LayerWork], hardware: &Hardware) -> bool {
    let bits = |core: usize| -> u64 { layers.iter().map(|layer| layer.cores[core].work.packed_bits).sum() };
    (0..hardware.cores).all(|core| bits(core) <= hardware.memory.weight_sram_kib * 8192)
}

fn compression<'a>(convs: impl Iterator<Item = &'a ConvMapping> + Clone) -> Compression {
    let sum = |count: fn(&ConvMapping) -> u64| -> u64 { convs.clone().map(count).sum() };
    let groups = sum(|conv| conv.grid.groups() as u64);
    let kept = sum(|conv| conv.kept_groups() as u64);
    let weight_bits_dense = sum(|conv| conv.shape.weights() as u64 * u64::from(conv.weight_bits));
    let weight_bits_stored = sum(|conv| conv.kept_weights() * u64::from(conv.weight_bits));
    let index_bits = sum(|conv| (0..conv.sets.len()).map(|set| conv.index_bits(set)).sum());
    let stored = (weight_bits_stored + index_bits) as f64;
    Compression {
        group_sparsity: (groups - kept) as f64 / groups as f64,
        weight_bits_dense,
        weight_bits_stored,
        index_bits,
        ratio: weight_bits_dense as f64 / stored,
        ratio_fp32: sum(|conv| conv.shape.weights() as u64 * 32) as f64 / stored,
    }
}

/// Schedules the layers and adds up their costs; the speed-up is left at 1.
pub(super) fn run(layers: &[LayerWork], hardware: &Hardware, loading: Loading) -> (Timeline, Cost, Vec<LayerCost>) {
    let timeline = schedule(layers, hardware, loading);
    // A pooling layer keeps the macros waiting that the convolution before it used.
    let mut peak = 0.0;
    let mut peak_macs = 0.0;
    let mut costs = Vec::new();
    for (layer, time) in layers.iter().zip(&timeline.layers) {
        let cycles = (time.end - time.start).div_ceil(timeline.frames as u64);
        if let Some(conv) = &layer.conv {
            peak = hardware.peak_macs_per_cycle(&conv.precision);
        }
        peak_macs += cycles as f64 * peak;
        costs.push(layer_cost(layer, cycles, peak, hardware, loading));
    }
    let cycles: u64 = costs.iter().map(|layer| layer.cycles).sum();
    let macs: u64 = costs.iter().map(|layer| layer.macs).sum();
    let kept_macs: u64 = costs.iter().map(|layer| layer.kept_macs).sum();
    let energy = costs.iter().fold(EnergyBreakdown::default(), |sum, layer| sum.plus(&layer.energy_breakdown_uj));
    let energy_uj = energy.total();
    let fps = hardware.clock_mhz * 1e6 / cycles as f64;
    let area = AreaBreakdown::new(hardware);
    let tops_per_mm2 = |macs: u64| area.map(|area| 2.0 * macs as f64 * fps / 1e12 / area.total_mm2);
    let cost = Cost {
        cycles,
        fps,
        latency_us: timeline.cycles() as f64 / hardware.clock_mhz,
        energy_uj,
        tops_per_watt_dense_equivalent: tops_per_watt(macs, energy_uj),
        tops_per_watt_executed: tops_per_watt(kept_macs, energy_uj),
        tops_per_mm2_dense_equivalent: tops_per_mm2(macs),
        tops_per_mm2_executed: tops_per_mm2(kept_macs),
        utilization: kept_macs as f64 / peak_macs,
        speedup_vs_dense: 1.0,
        energy_breakdown_uj: energy,
    };
    (timeline, cost, costs)
}

/// Operations a picojoule.
fn tops_per_watt(macs: u64, energy_uj: f64) -> f64 {
    2.0 * macs as f64 / (energy_uj * 1e6)
}

fn layer_cost(layer: &LayerWork, cycles: u64, peak: f64, hardware: &Hardware, loading: Loading) -> LayerCost {
    let conv = layer.conv.as_ref();
    let count = |count: fn(&ConvMapping) -> u64| conv.map_or(0, count);
    let accesses = count(|conv| (conv.accesses() * conv.shape.output.pixels()) as u64);
    let groups = count(|conv| conv.grid.groups() as u64);
    let kept_groups = count(|conv| conv.kept_groups() as u64);
    let kept_macs = count(ConvMapping::kept_macs);
    let energy = layer_energy(layer, accesses, cycles, hardware, loading);
    LayerCost {
        name: layer.name.clone(),
        cycles,
        energy_uj: energy.total(),
        group_sparsity: conv.map(|_| (groups - kept_groups) as f64 / groups as f64),
        utilization: if cycles == 0 { 0.0 } else { kept_macs as f64 / (cycles as f64 * peak) },
        accesses,
        kept_groups,
        groups,
        macs: count(|conv| conv.shape.macs()),
        kept_macs,
        energy_breakdown_uj: energy,
    }
}

fn layer_energy(
    layer: &LayerWork,
    accesses: u64,
    cycles: u64,
    hardware: &Hardware,
    loading: Loading,
) -> EnergyBreakdown {
    let constants = &hardware.energy;
    // Picojoules to microjoules.
    let uj = |count: u64, pj: f64| count as f64 * pj / 1e6;
    let precision = layer.conv.as_ref().map(|conv| conv.precision);
    let (access_pj, access_ns) = precision.map_or((0.0, 0.0), |precision| (precision.energy_pj, precision.ns));

    let frames = hardware.frames_per_load as f64;
    let loaded = |bits: fn(&super::mapping::CoreWork) -> u64| -> f64 {
        match loading {
            Loading::Never => 0.0,
            _ => layer.cores.iter().map(|core| bits(&core.work)).sum::<u64>() as f64 / frames / 1e6,
        }
    };
    let cell_bits = loaded(|work| work.tiles.iter().map(|tile| tile.cell_bits).sum());
    let packed_bits = loaded(|work| work.packed_bits);
    let index_bits = loaded(|work| work.index_bits);
    let (fetched_bits, sram_moves) = match loading {
        Loading::NextLevel => (packed_bits, 2.0),
        _ => (0.0, 1.0),
    };
    let map_bits: u64 = layer.cores.iter().map(|core| core.read_bits + core.write_bits).sum();

    let macro_ns = hardware.macros() as f64 * cycles as f64 * 1e3 / hardware.clock_mhz;
    let measured_ns = match constants.components {
        Some(_) => 0.0,
        None => accesses as f64 * access_ns,
    };
    EnergyBreakdown {
        array: uj(accesses, access_pj),
        accumulation: uj(layer.logic.accumulation_adders, constants.adder_pj_per_bit),
        cell_writes: cell_bits * constants.cell_write_pj_per_bit,
        weight_buffer: packed_bits * sram_moves * constants.buffer_pj_per_bit,
        feature_buffer: uj(map_bits + layer.picture_bits, constants.buffer_pj_per_bit),
        next_level: fetched_bits * constants.next_level_pj_per_bit
            + uj(2 * layer.spilled_bits + layer.picture_bits, constants.next_level_pj_per_bit),
        index_decode: index_bits * INDEX_COUNTER_BITS as f64 * constants.adder_pj_per_bit,
        requantization: uj(layer.logic.adders, constants.adder_pj_per_bit) + uj(layer.logic.gates, constants.gate_pj),
        // Milliwatts times nanoseconds are picojoules.
        leakage: constants.leakage_mw_per_macro * (macro_ns - measured_ns).max(0.0) / 1e6,
    }
}
