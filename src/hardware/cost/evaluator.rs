//! Cost: cycles, energy and compression of a network on a chip, per frame.
//!
//! Each formula is in `docs/cost-model.md` with its source and its doubt.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::area::AreaBreakdown;
use super::bounds::{BitsMoved, Bound, Bounds};
use super::compression::Compression;
use super::energy::{EnergyBreakdown, Macros, layer_energy};
use super::loaded::Loaded;
use super::mapper::{KnownParts, Mapped, map};
use super::search::{Expense, Runner, next_best};
use crate::error::{Allowed, ConfigError, Error, Result};
use crate::files::to_json;
use crate::groups::{GroupGrid, GroupShape};
use crate::hardware::chip::{Geometry, Hardware, MacroShares, Mapping, Policy};
use crate::hardware::mapping::{ConvMapping, Layer, LayerWork, Placement, Sets, dense_sets, kept_sets, workload};
use crate::hardware::timing::{LayerProgram, LayerTime, Loading, Timeline, cycles_of_a_frame};
use crate::integer::IntegerNetwork;

/// What a network costs on a chip: keys of `deploy.json` and, skipped there, what the report draws beyond them.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Name of the hardware.
    pub hardware: String,
    /// What keeps the chip from computing what the integer reference does ([`Hardware::losses`]).
    pub losses: Vec<String>,
    /// The geometry that accesses were measured on, where it isn't the chip's and they are scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled_from: Option<Geometry>,
    /// How layers were to be laid on the cores; `layers[].mapping` says how they are.
    pub policy: Policy,
    /// What of the chip they were laid on.
    pub used: Used,
    /// The whole chip, with its hash.
    pub chip: Chip,
    /// Its area, where the hardware file has the constants.
    pub area: Option<AreaBreakdown>,
    /// How much smaller the weights are.
    pub compression: Compression,
    /// Per frame, weight reload charged.
    pub cost: Cost,
    /// Per frame, as if all weights stayed in the macros.
    pub cost_without_reload: Cost,
    /// Layers in execution order, weight reload charged.
    pub layers: Vec<LayerCost>,
    /// How the component `macro` of the energy is split, where the hardware file says so.
    #[serde(skip)]
    pub macro_shares: Option<MacroShares>,
    /// Every kept weight has a place in the macros at the same time, so that nothing is reloaded.
    #[serde(skip)]
    pub resident: bool,
    /// The packed model fits the cores' weight SRAMs.
    #[serde(skip)]
    pub fits_weight_sram: bool,
    /// What each core is told to do, weight reload included.
    #[serde(skip)]
    pub programs: Vec<LayerProgram>,
    /// When each part of a core does what, weight reload included.
    #[serde(skip)]
    pub timeline: Timeline,
}

/// A chip as it was described.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chip {
    /// SHA-256 of the description as JSON.
    pub sha256: String,
    /// The keys of its hardware file, bases resolved.
    #[serde(flatten)]
    pub description: Hardware,
}

/// The part of a chip that a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Cores.
    pub cores: usize,
    /// Macros of each.
    pub macros_per_core: usize,
    /// Rows of each.
    pub rows: usize,
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
    /// Energy x frames a second, in milliwatts.
    pub average_power_mw: f64,
    /// Energy x time of a frame, in microjoules x microseconds.
    pub energy_delay_uj_us: f64,
    /// What all macros could do at the layers' precisions, in TOPS: executed TOPS / utilization.
    pub peak_tops: f64,
    /// `2 x dense MAC x frames a second`.
    pub tops_dense_equivalent: f64,
    /// `2 x MAC of kept groups x frames a second`, padding not counted.
    pub tops_executed: f64,
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
    /// What moves, by memory.
    pub bits_moved: BitsMoved,
}

/// Cost of a layer, per frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerCost {
    /// Name; a projection has its own entry.
    pub name: String,
    /// How it lies on the cores; none for a pooling layer, which all cores share.
    pub mapping: Option<Placement>,
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
    /// What moves, by memory.
    pub bits_moved: BitsMoved,
    /// Least cycles by each part of the chip.
    pub bounds: Bounds,
    /// The part that needs most of them.
    pub bound: Bound,
}

/// Where the layers of a network lie on a chip. Cycles and energy are of a frame, weight reload charged, without the leakage of macros that hold no weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placements {
    /// Cycles.
    pub cycles: u64,
    /// Microjoules.
    pub energy_uj: f64,
    /// Each convolution.
    pub layers: Vec<LayerPlacement>,
}

impl Placements {
    /// The text of a JSON file.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn to_json(&self) -> Result<String> {
        to_json(self)
    }
}

/// Where a convolution lies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerPlacement {
    /// Its name.
    pub layer: String,
    /// How it lies there.
    pub placement: Placement,
    /// What else it could be; none where there is no other way.
    pub next_best: Option<NextBest>,
}

/// A network with another placement of one layer: of all that this layer may have, the best by the chip's objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NextBest {
    /// The layer's placement.
    pub placement: Placement,
    /// Cycles of a frame.
    pub cycles: u64,
    /// Microjoules of a frame.
    pub energy_uj: f64,
}

/// A checked network whose costs on many chips can be asked for.
///
/// Which groups hold a weight is found once for each group shape; it is most of the work.
#[derive(Debug)]
pub struct Evaluator<'a> {
    network: &'a IntegerNetwork,
    kept: Mutex<Vec<Arc<KeptGroups>>>,
    parts: KnownParts,
    dense_parts: KnownParts,
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
            network.convs().map(|(conv, integer)| (GroupGrid::new(shape, &conv.shape), integer)).collect();
        let kept = convs.par_iter().map(|(grid, conv)| kept_sets(grid, &conv.weights)).collect();
        Self { shape, kept, dense: convs.iter().map(|(grid, _)| dense_sets(grid)).collect() }
    }
}

/// Refuses accesses of a load whose cycles, one after the other, don't fit 62 bits: other sums are smaller.
fn check_cycles(layers: &[Layer], hardware: &Hardware) -> Result<()> {
    const LIMIT: u64 = 1 << 62;
    let of_layer = |layer: &Layer| u128::from(layer.accesses()) * u128::from(layer.access_cycles());
    let cycles = layers.iter().map(of_layer).sum::<u128>() * hardware.frames_per_load as u128;
    if cycles <= LIMIT.into() {
        return Ok(());
    }
    let (key, value) = ("frames_per_load".into(), hardware.frames_per_load.to_string());
    let source = ConfigError { key, value, allowed: Allowed::CountableCycles { cycles, limit: LIMIT } };
    Err(Error::Hardware { hardware: hardware.name.clone(), source: source.into() })
}

impl<'a> Evaluator<'a> {
    /// Checks a network.
    ///
    /// # Errors
    /// A network that isn't valid.
    pub fn new(network: &'a IntegerNetwork) -> Result<Self> {
        network.validate()?;
        Ok(Self { network, kept: Mutex::default(), parts: KnownParts::default(), dense_parts: KnownParts::default() })
    }

    /// Runs the model: maps the network, schedules it with and without weight reload, and adds up what it costs.
    ///
    /// # Errors
    /// A chip that isn't valid; weights wider than the macro can hold.
    pub fn evaluate(&self, hardware: &Hardware) -> Result<Evaluation> {
        hardware.validate()?;
        let groups = self.groups(hardware.group);
        let layers = workload(self.network, hardware, &groups.kept)?;
        let dense_layers = workload(self.network, hardware, &groups.dense)?;
        check_cycles(&dense_layers, hardware)?;
        // What is decided about single layers is about this network: copies of a dense layer may not fit.
        let free = Hardware { mapping: Mapping { layers: Vec::new(), ..hardware.mapping.clone() }, ..hardware.clone() };
        let same = groups.kept == groups.dense && hardware.mapping.layers.is_empty();
        let (mapped, other) = rayon::join(
            || map(&layers, hardware, &self.parts),
            || (!same).then(|| map(&dense_layers, &free, &self.dense_parts)),
        );
        let (mapped, other) = (mapped?, other.transpose()?);
        let dense = other.as_ref().unwrap_or(&mapped);

        let Run { programs, timeline, mut cost, layers: layer_costs } =
            Run::new(&mapped, hardware, mapped.plan.loading);
        let mut cost_without_reload = Run::new(&mapped, hardware, Loading::Never).cost;
        for (cost, loading) in [(&mut cost, dense.plan.loading), (&mut cost_without_reload, Loading::Never)] {
            cost.speedup_vs_dense = cycles(dense, loading) as f64 / cost.cycles as f64;
        }
        Ok(Evaluation {
            hardware: hardware.name.clone(),
            chip: Chip { sha256: hardware.sha256(), description: hardware.clone() },
            losses: hardware.losses(),
            macro_shares: hardware.macro_shares(),
            area: AreaBreakdown::new(hardware),
            scaled_from: hardware.scaled_from(),
            policy: hardware.mapping.policy,
            used: Used {
                cores: mapped.part.cores,
                macros_per_core: mapped.part.macros_per_core,
                rows: mapped.part.rows,
            },
            resident: mapped.plan.loading == Loading::Never,
            fits_weight_sram: mapped.plan.fits_weight_sram,
            compression: Compression::of(layers.iter().filter_map(|layer| layer.conv.as_ref())),
            cost,
            cost_without_reload,
            layers: layer_costs,
            programs,
            timeline,
        })
    }

    /// Where each layer lies on a chip, and what a frame would take with the next best placement of one layer.
    ///
    /// # Errors
    /// Those of [`evaluate`](Self::evaluate).
    pub fn placements(&self, hardware: &Hardware) -> Result<Placements> {
        hardware.validate()?;
        let layers = workload(self.network, hardware, &self.groups(hardware.group).kept)?;
        check_cycles(&layers, hardware)?;
        let Mapped { plan, part } = map(&layers, hardware, &self.parts)?;
        let frame = plan.expense(&part);
        let placed = plan.works.iter().zip(next_best(&plan, &part));
        let layers = placed.filter_map(|(work, next)| {
            let next_best =
                next.map(|(placement, Expense { cycles, energy_uj })| NextBest { placement, cycles, energy_uj });
            Some(LayerPlacement { layer: work.layer.name.clone(), placement: work.placement?, next_best })
        });
        Ok(Placements { cycles: frame.cycles, energy_uj: frame.energy_uj, layers: layers.collect() })
    }

    /// The groups for a shape, found now or before.
    fn groups(&self, shape: GroupShape) -> Arc<KeptGroups> {
        let known = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().iter().find(|groups| groups.shape == shape).cloned();
        // Not under the lock: a thread that waits for others here may take up work that comes here as well.
        found.unwrap_or_else(|| {
            let groups = Arc::new(KeptGroups::new(self.network, shape));
            known().push(groups.clone());
            groups
        })
    }
}

/// What a network costs on one chip ([`Evaluator::evaluate`]).
///
/// # Errors
/// A network or chip that isn't valid; weights wider than the macro can hold.
pub fn evaluate(network: &IntegerNetwork, hardware: &Hardware) -> Result<Evaluation> {
    Evaluator::new(network)?.evaluate(hardware)
}

/// Cycles of a frame.
fn cycles(mapped: &Mapped, loading: Loading) -> u64 {
    let mut chip = Runner::new(&mapped.part, loading, Macros::all(&mapped.part));
    mapped.plan.works.iter().map(|work| chip.run(work)).sum()
}

/// What running placed layers gives.
struct Run {
    programs: Vec<LayerProgram>,
    timeline: Timeline,
    /// The speed-up is left at 1.
    cost: Cost,
    layers: Vec<LayerCost>,
}

impl Run {
    fn new(mapped: &Mapped, hardware: &Hardware, loading: Loading) -> Self {
        let Mapped { plan, part } = mapped;
        let macros = plan.macros(hardware);
        let mut chip = Runner::new(part, loading, macros);
        let mut timeline = Timeline { frames: hardware.frames_per_load, layers: Vec::new(), spans: Vec::new() };
        // A pooling layer keeps the macros waiting that the convolution before it used.
        let mut peak = 0.0;
        let mut peak_macs = 0.0;
        let (mut costs, mut programs) = (Vec::new(), Vec::new());
        for work in &plan.works {
            let (program, time) = chip.trace(work, |span| timeline.spans.push(span));
            let cycles = cycles_of_a_frame(&time, timeline.frames);
            if let Some(conv) = &work.layer.conv {
                peak = hardware.peak_macs_per_cycle(&conv.precision);
            }
            peak_macs += cycles as f64 * peak;
            let energy = layer_energy(work, cycles, part, loading, macros);
            costs.push(layer_cost(work, cycles, peak, energy, part, loading));
            timeline.layers.push(LayerTime { name: program.name.clone(), start: time.start, end: time.end });
            programs.push(program);
        }
        assert_bounds(&plan.works, &timeline, part, loading);
        let cycles: u64 = costs.iter().map(|layer| layer.cycles).sum();
        let macs: u64 = costs.iter().map(|layer| layer.macs).sum();
        let kept_macs: u64 = costs.iter().map(|layer| layer.kept_macs).sum();
        let energy = costs.iter().fold(EnergyBreakdown::default(), |sum, layer| sum.plus(&layer.energy_breakdown_uj));
        let energy_uj = energy.total();
        let fps = hardware.clock_mhz * 1e6 / cycles as f64;
        let area = AreaBreakdown::new(hardware);
        let tops_per_mm2 = |macs: u64| area.map(|area| 2.0 * macs as f64 * fps / 1e12 / area.total_mm2);
        let tops = |macs: f64| 2.0 * macs * fps / 1e12;
        let cost = Cost {
            average_power_mw: energy_uj * fps / 1e3,
            energy_delay_uj_us: energy_uj * cycles as f64 / hardware.clock_mhz,
            peak_tops: tops(peak_macs),
            tops_dense_equivalent: tops(macs as f64),
            tops_executed: tops(kept_macs as f64),
            bits_moved: costs.iter().fold(BitsMoved::default(), |sum, layer| sum.plus(&layer.bits_moved)),
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
        Self { programs, timeline, cost, layers: costs }
    }
}

/// No layer is done before its ports, macros and memories can be.
fn assert_bounds(works: &[Arc<LayerWork>], timeline: &Timeline, hardware: &Hardware, loading: Loading) {
    let memory = &hardware.memory;
    let frames = timeline.frames as u64;
    let bound = |name: &str, cycles: u64, least: u64| {
        assert!(cycles >= least, "layer `{name}`: {cycles} cycles are less than its least {least}");
    };
    let mut written = vec![0; hardware.cores];
    let mut fetched = 0;
    for (work, time) in works.iter().zip(&timeline.layers) {
        let (name, cycles) = (&time.name, time.end - time.start);
        bound(name, cycles, (frames * work.layer.compute_cycles()).div_ceil(hardware.macros() as u64));
        for (core, written) in work.cores.iter().zip(&mut written) {
            bound(name, cycles, (frames * core.traffic().read).div_ceil(memory.feature_read_bits_per_cycle));
            bound(name, cycles, (frames * core.traffic().written).div_ceil(memory.feature_write_bits_per_cycle));
            if loading != Loading::Never {
                // Weights may come while earlier layers run.
                *written += core.cell_bits();
                bound(name, time.end, written.div_ceil(memory.write_bits_per_cycle));
            }
        }
        fetched += frames * work.next_level_map_bits() + Loaded::of(work, loading).fetched;
        bound(name, time.end, fetched.div_ceil(memory.next_level_bits_per_cycle));
    }
}

/// Operations a picojoule.
fn tops_per_watt(macs: u64, energy_uj: f64) -> f64 {
    2.0 * macs as f64 / (energy_uj * 1e6)
}

fn layer_cost(
    work: &LayerWork,
    cycles: u64,
    peak: f64,
    energy: EnergyBreakdown,
    part: &Hardware,
    loading: Loading,
) -> LayerCost {
    let bounds = Bounds::of(work, part, loading);
    let conv = work.layer.conv.as_ref();
    let count = |count: fn(&ConvMapping) -> u64| conv.map_or(0, count);
    let groups = count(|conv| conv.grid.real_groups() as u64);
    let kept_groups = count(|conv| conv.kept_groups() as u64);
    let kept_macs = count(ConvMapping::kept_macs);
    LayerCost {
        name: work.layer.name.clone(),
        mapping: work.placement,
        cycles,
        energy_uj: energy.total(),
        group_sparsity: conv.map(|_| (groups - kept_groups) as f64 / groups as f64),
        utilization: if cycles == 0 { 0.0 } else { kept_macs as f64 / (cycles as f64 * peak) },
        accesses: work.layer.accesses(),
        kept_groups,
        groups,
        macs: count(|conv| conv.shape.macs()),
        kept_macs,
        energy_breakdown_uj: energy,
        bits_moved: BitsMoved::of(work, part, loading),
        bounds,
        bound: bounds.tightest(),
    }
}
