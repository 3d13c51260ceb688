//! Evaluator: a network mapped to a chip and run there, and what that costs.
//!
//! Each formula is in `docs/cost-model.md` with its source and its doubt.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::area::AreaBreakdown;
use super::bounds::{BitsMoved, Bounds};
use super::compression::Compression;
use super::energy::{EnergyBreakdown, Macros, layer_energy};
use super::evaluation::{Chip, Cost, Evaluation, LayerCost, LayerPlacement, NextBest, Placements, Used};
use super::loaded::Loaded;
use super::mapper::{KnownParts, Mapped, map};
use super::plan::{Expense, Runner};
use super::search::next_best;
use crate::error::{Allowed, ConfigError, Error, Result};
use crate::groups::{GroupGrid, GroupShape};
use crate::hardware::chip::{Hardware, Mapping};
use crate::hardware::mapping::{ConvMapping, Layer, LayerWork, Sets, dense_sets, kept_sets, workload};
use crate::hardware::timing::{LayerProgram, LayerTime, Loading, TimedWork, Timeline, cycles_of_a_frame};
use crate::integer::IntegerNetwork;

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

/// Refuses accesses of a load that may take more cycles, one after the other, than fit 62 bits: each as long as its array works, or as long as what it
/// reads, and its sums of 32 bits in and out, pass ports of a bit. Other sums are smaller.
fn check_cycles(layers: &[Layer], hardware: &Hardware) -> Result<()> {
    const LIMIT: u64 = 1 << 62;
    let moved = (8 * hardware.rows_on + 64 * hardware.columns) as u128;
    let of_layer = |layer: &Layer| u128::from(layer.accesses()) * u128::from(layer.access_cycles()).max(moved);
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
fn assert_bounds(works: &[Arc<TimedWork>], timeline: &Timeline, hardware: &Hardware, loading: Loading) {
    let memory = &hardware.memory;
    let frames = timeline.frames as u64;
    let bound = |name: &str, cycles: u64, least: u64| {
        assert!(cycles >= least, "layer `{name}`: {cycles} cycles are less than its least {least}");
    };
    let mut loaded = vec![(0, 0); hardware.cores];
    let mut fetched = 0;
    for (work, time) in works.iter().zip(&timeline.layers) {
        let (name, cycles) = (&time.name, time.end - time.start);
        bound(name, cycles, (frames * work.layer.compute_cycles()).div_ceil(hardware.macros() as u64));
        for (core, (cell_bits, packed_bits)) in work.cores.iter().zip(&mut loaded) {
            bound(name, cycles, memory.read_cycles(frames * core.traffic().read));
            bound(name, cycles, memory.write_back_cycles(frames * core.traffic().written));
            if loading != Loading::Never {
                // Weights may come while earlier layers run.
                *cell_bits += core.cell_bits();
                *packed_bits += core.packed_bits();
                bound(name, time.end, memory.load_cycles(*cell_bits, *packed_bits));
            }
        }
        fetched += frames * work.next_level_map_bits() + Loaded::of(work, loading).fetched;
        bound(name, time.end, memory.next_level_cycles(fetched));
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
