//! The mapper: which part of a chip a network uses, and which placement each layer gets there, by the model's own time and energy.
//!
//! The automatic policy looks at every part of the chip: so many cores, so many macros of each, so many rows. In a part it compares every placement of a
//! layer with the plain one (filter sets over cores, nothing twice). Because a part of a chip is a part of every larger chip, and costs the same
//! there, a larger chip is never worse by the objective, up to [`MANY_MACROS`].

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::energy::{Macros, layer_energy};
use crate::hardware::chip::{Hardware, Objective, Policy};
use crate::hardware::mapping::{Layer, LayerWork, Placement};
use crate::hardware::timing::{LayerProgram, Loading, Simulator, program};

/// A network on the part of a chip that it uses.
pub(super) struct Mapped<'a> {
    pub(super) works: Vec<LayerWork<'a>>,
    pub(super) loading: Loading,
    pub(super) fits_weight_sram: bool,
    /// Macros that hold a tile in a frame.
    holding: usize,
    /// The chip as if it had nothing but this part.
    pub(super) part: Hardware,
}

/// A chip that runs one layer after the other.
#[derive(Clone)]
pub(super) struct Runner<'a> {
    hardware: &'a Hardware,
    loading: Loading,
    macros: Macros,
    pub(super) simulator: Simulator,
    /// Tiles that each core has had.
    turns: Vec<usize>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(hardware: &'a Hardware, loading: Loading, macros: Macros) -> Self {
        Self { hardware, loading, macros, simulator: Simulator::new(hardware), turns: vec![0; hardware.cores] }
    }

    /// Writes the programs of the next layer.
    pub(super) fn program(&mut self, work: &LayerWork) -> LayerProgram {
        program(work, self.hardware, self.loading, &mut self.turns)
    }

    /// Runs the next layer; gives its cycles for a frame.
    pub(super) fn run(&mut self, work: &LayerWork) -> u64 {
        let program = self.program(work);
        self.simulator.run(&program, |_| {}).cycles_of_a_frame(self.hardware.frames_per_load)
    }

    /// Runs the next layer; gives what it takes for a frame.
    fn expense(&mut self, work: &LayerWork) -> Expense {
        let cycles = self.run(work);
        let energy = layer_energy(work, cycles, self.hardware, self.loading, self.macros);
        Expense { cycles, energy_uj: energy.total() }
    }
}

/// What a layer or network takes for a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expense {
    pub(super) cycles: u64,
    pub(super) energy_uj: f64,
}

impl Expense {
    /// What the objective makes small first, and what decides where that is equal.
    fn worth(&self, objective: Objective) -> (f64, f64) {
        let (cycles, energy) = (self.cycles as f64, self.energy_uj);
        match objective {
            Objective::Cycles => (cycles, energy),
            Objective::Energy => (energy, cycles),
            Objective::Product => (cycles * energy, cycles),
        }
    }

    /// The worth beside a plain placement: the product counts for what is neither slower nor costlier.
    fn rank(&self, plain: &Self, objective: Objective) -> (f64, f64) {
        // Sums in another order may differ in their last bits.
        let worse = self.cycles > plain.cycles || self.energy_uj > plain.energy_uj * (1.0 + 1e-12);
        match objective {
            Objective::Product if worse => (f64::INFINITY, f64::INFINITY),
            objective => self.worth(objective),
        }
    }
}

/// What parts of chips were found to take, by their hardware files: chips of a sweep share them.
#[derive(Debug, Default)]
pub(super) struct KnownParts(Mutex<HashMap<String, Expense>>);

impl KnownParts {
    /// What a part takes whose accesses take `access_pj`: they may be those of a chip with more rows.
    fn get(&self, part: &Hardware, access_pj: &[f64], find: impl FnOnce() -> Expense) -> Expense {
        let key = serde_json::to_string(&(part, access_pj)).expect("a hardware file is text");
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(&key).copied();
        // Not under the lock: a thread that waits for others here may take up work that comes here as well.
        found.unwrap_or_else(|| {
            let expense = find();
            known().insert(key, expense);
            expense
        })
    }
}

/// Lays layers on the cores as the hardware file's policy says.
pub(super) fn map<'a>(layers: &'a [Layer], hardware: &Hardware, known: &KnownParts) -> Mapped<'a> {
    if hardware.mapping.policy != Policy::Auto {
        return fixed(layers, hardware, hardware.mapping.policy);
    }
    let objective = hardware.mapping.objective;
    let access_pj: Vec<f64> =
        layers.iter().filter_map(|layer| Some(layer.conv.as_ref()?.precision.energy_pj)).collect();
    let expense = |part: &Hardware| known.get(part, &access_pj, || map_part(layers, part).expense());
    // A name costs nothing, and a part of a macro takes and leaks what the whole does.
    let whole = Hardware { name: String::new(), ..hardware.resolved() };
    let mut best = (whole.clone(), expense(&whole));
    let least = Least::new(layers);
    let promising = |part: &Hardware, best: &Expense| least.on(part).worth(objective).0 < best.worth(objective).0;
    for parts in parts(&whole) {
        let worth: Vec<_> =
            parts.into_par_iter().filter(|part| promising(part, &best.1)).map(|part| (expense(&part), part)).collect();
        for (expense, part) in worth {
            if expense.worth(objective) < best.1.worth(objective) {
                best = (part, expense);
            }
        }
    }
    map_part(layers, &best.0)
}

/// Most macros of a chip of which every number of cores, macros and rows is looked at.
const MANY_MACROS: usize = 128;

/// Parts of a chip, larger ones first: each number of cores and of macros, with all rows or a power of two of accesses. Of a chip with many macros the
/// numbers are powers of two and its own, with all rows.
fn parts(hardware: &Hardware) -> impl Iterator<Item = Vec<Hardware>> {
    let many = hardware.macros() > MANY_MACROS;
    let numbers =
        move |most: usize| (1..=most).rev().filter(move |number| !many || number.is_power_of_two() || *number == most);
    let accesses = hardware.accesses_per_macro();
    let powers = (0..=accesses.ilog2()).map(|power| 1 << power).filter(|held| *held < accesses && !many);
    let held: Vec<usize> = powers.chain([accesses]).collect();
    numbers(hardware.cores).map(move |cores| {
        let rows = |macros_per_core: usize| {
            let rows = held.iter().rev().map(|held| held * hardware.rows_on);
            rows.map(move |rows| Hardware { cores, macros_per_core, rows, ..hardware.clone() })
        };
        numbers(hardware.macros_per_core).flat_map(rows).collect()
    })
}

/// What no placement takes less than.
struct Least {
    /// Of all accesses, one after the other.
    cycles: u64,
    energy_uj: f64,
}

impl Least {
    fn new(layers: &[Layer]) -> Self {
        let of_layer = |layer: &Layer| {
            let precision = layer.conv.as_ref().map(|conv| &conv.precision);
            let accesses = layer.accesses();
            precision.map_or((0, 0.0), |precision| {
                (accesses * precision.cycles, accesses as f64 * precision.energy_pj / 1e6)
            })
        };
        let (cycles, energy): (Vec<u64>, Vec<f64>) = layers.iter().map(of_layer).unzip();
        Self { cycles: cycles.iter().sum(), energy_uj: energy.iter().sum() }
    }

    fn on(&self, part: &Hardware) -> Expense {
        Expense { cycles: self.cycles / part.macros() as u64, energy_uj: self.energy_uj }
    }
}

/// All layers alike.
pub(super) fn fixed<'a>(layers: &'a [Layer], hardware: &Hardware, policy: Policy) -> Mapped<'a> {
    let place = |layer: &'a Layer| {
        let placement = layer.conv.as_ref().and_then(|conv| Placement::of_policy(policy, conv, hardware));
        layer.place(placement, hardware)
    };
    Mapped::new(layers.iter().map(place).collect(), hardware)
}

/// The best placements found on all of a chip.
fn map_part<'a>(layers: &'a [Layer], hardware: &Hardware) -> Mapped<'a> {
    let objective = hardware.mapping.objective;
    let plain = fixed(layers, hardware, Policy::FilterSets);
    let others = [Policy::Together, Policy::InputChannels, Policy::Duplicate];
    let others = others.map(|policy| fixed(layers, hardware, policy));
    // Where copies don't fit, placements that were chosen as if weights stayed would be worth nothing.
    let loadings = [Loading::Never, Loading::WeightSram, Loading::NextLevel].into_iter();
    let loadings = loadings.filter(|loading| *loading >= plain.loading);
    let chosen: Vec<_> = loadings.map(|loading| layer_by_layer(layers, hardware, loading)).collect();
    let least = plain.expense();
    let rank = |mapped: &Mapped| mapped.expense().rank(&least, objective);
    let all = [plain].into_iter().chain(chosen).chain(others).map(|mapped| (rank(&mapped), mapped));
    let best = all.reduce(|best, next| if next.0 < best.0 { next } else { best });
    best.expect("the plain placement is there").1
}

/// The best placement of each layer, after the ones that were chosen before it.
fn layer_by_layer<'a>(layers: &'a [Layer], hardware: &Hardware, loading: Loading) -> Mapped<'a> {
    let objective = hardware.mapping.objective;
    let mut chip = Runner::new(hardware, loading, Macros::all(hardware));
    let works = layers.iter().map(|layer| {
        let placements = match &layer.conv {
            Some(conv) => Placement::all(conv, hardware).into_iter().map(Some).collect(),
            None => vec![None],
        };
        let mut plain = None;
        let mut best: Option<((f64, f64), LayerWork, Runner)> = None;
        for placement in placements {
            let work = layer.place(placement, hardware);
            let mut after = chip.clone();
            let expense = after.expense(&work);
            let rank = expense.rank(plain.get_or_insert(expense), objective);
            if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                best = Some((rank, work, after));
            }
        }
        let (_, work, after) = best.expect("each layer has a placement");
        chip = after;
        work
    });
    Mapped::new(works.collect(), hardware)
}

impl<'a> Mapped<'a> {
    fn new(works: Vec<LayerWork<'a>>, hardware: &Hardware) -> Self {
        let stored = |core: usize| -> u64 { works.iter().map(|work| work.cores[core].stored_bits()).sum() };
        let fits_weight_sram = (0..hardware.cores).all(|core| stored(core) <= hardware.memory.weight_sram_kib * 8192);
        let room = hardware.accesses_per_macro() as u64;
        let held: Vec<u64> = held(&works, hardware).into_iter().flatten().flatten().collect();
        let loading = match held.iter().all(|held| *held <= room) {
            true => Loading::Never,
            false if fits_weight_sram => Loading::WeightSram,
            false => Loading::NextLevel,
        };
        Self { works, loading, fits_weight_sram, holding: held.len(), part: hardware.clone() }
    }

    /// Macros that hold a tile in a frame, and of all that the whole chip has those that don't.
    pub(super) fn macros(&self, hardware: &Hardware) -> Macros {
        Macros { holding: self.holding, idle: hardware.macros() - self.holding }
    }

    /// What a frame takes, without the leakage of macros that hold nothing.
    fn expense(&self) -> Expense {
        self.expense_of(Macros { holding: self.holding, idle: 0 })
    }

    /// What a frame takes on a chip that it is laid on.
    pub(super) fn expense_on(&self, hardware: &Hardware) -> Expense {
        self.expense_of(self.macros(hardware))
    }

    fn expense_of(&self, macros: Macros) -> Expense {
        let mut chip = Runner::new(&self.part, self.loading, macros);
        self.works.iter().map(|work| chip.expense(work)).fold(Expense::default(), |sum, layer| Expense {
            cycles: sum.cycles + layer.cycles,
            energy_uj: sum.energy_uj + layer.energy_uj,
        })
    }
}

/// Accesses of all layers that each macro of each core is to hold; none for a macro without a tile.
fn held(works: &[LayerWork], hardware: &Hardware) -> Vec<Vec<Option<u64>>> {
    let of_core = |number: usize| {
        let mut held = vec![None; hardware.macros_per_core];
        let mut turn = 0;
        for core in works.iter().map(|work| &work.cores[number]) {
            for copy in 0..core.pixels.len() {
                for (index, tile) in core.tiles.iter().enumerate() {
                    *held[core.unit_of(turn, copy, index)].get_or_insert(0) += tile.accesses;
                }
            }
            turn += core.tiles.len();
        }
        held
    };
    (0..hardware.cores).map(of_core).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::groups::{GroupGrid, GroupShape};
    use crate::hardware::chip::StatedFor;
    use crate::hardware::mapping::{FilterSet, Split, Start, workload};
    use crate::integer::{QuantizeConfig, outline};
    use crate::network::{Graph, NetworkSpec};

    const NETWORK: &str = r#"
        name = "tiny"
        input = [6, 5, 5]
        classes = 2
        layers = [
            { op = "conv", name = "conv", filters = 10, kernel = 3, padding = 1 },
            { op = "conv", name = "next", filters = 10, kernel = 3, padding = 1, add = { from = "conv" } },
            { op = "avg_pool", name = "mean" },
            { op = "linear", name = "linear", filters = 2 },
        ]
    "#;

    /// A chip of `cores` x `macros` whose macros hold `held` accesses.
    fn chip(cores: usize, macros_per_core: usize, held: usize) -> Hardware {
        let group = GroupShape { filters: 4, channels: 4 };
        let mut chip = Hardware { cores, macros_per_core, rows: 16 * held, rows_on: 16, group, ..Hardware::mars() };
        chip.columns = 16;
        // Energies that are the same whatever the size, so that more rows cost nothing.
        chip.access.iter_mut().for_each(|mode| mode.measured = None);
        chip.energy.stated_for = StatedFor::default();
        chip
    }

    /// Its layers; of each convolution's groups those whose number leaves less than `kept` when divided by 5.
    fn layers(chip: &Hardware, kept: usize) -> Vec<Layer> {
        let graph = Graph::new(toml::from_str::<NetworkSpec>(NETWORK).unwrap()).unwrap();
        let network = outline(&graph, &QuantizeConfig::default(), chip.group);
        let kept_sets: Vec<_> = network
            .convs()
            .map(|(conv, _)| {
                let grid = GroupGrid::new(chip.group, &conv.shape);
                let groups = |set: usize| (0..grid.groups_per_set()).filter(|group| (group + set) % 5 < kept).collect();
                Arc::new((0..grid.sets()).map(|set| FilterSet::new(&grid, groups(set))).collect())
            })
            .collect();
        workload(&network, chip, &kept_sets).unwrap()
    }

    /// Every way to divide a layer: any split, start and number of copies that gives each copy whole cores, or each core whole copies.
    fn every_placement(layer: &Layer, chip: &Hardware) -> Vec<Placement> {
        let conv = layer.conv.as_ref().unwrap();
        let mut all = Vec::new();
        for copies in 1..=chip.macros().min(conv.shape.output.pixels()) {
            let over_cores = chip.cores.is_multiple_of(copies);
            let in_cores = copies.is_multiple_of(chip.cores) && chip.macros().is_multiple_of(copies);
            let fit = conv.accesses() * copies <= chip.macros() * chip.accesses_per_macro();
            if (over_cores || in_cores) && (copies == 1 || fit) {
                for split in [Split::FilterSets, Split::InputChannels] {
                    all.extend([Start::Staggered, Start::Together].map(|start| Placement { split, copies, start }));
                }
            }
        }
        all
    }

    /// The mapper finds for a layer what trying every placement finds.
    #[test]
    fn no_placement_of_a_layer_is_cheaper_than_the_mappers() {
        let mut improved = 0;
        for (cores, macros) in [(1, 1), (1, 4), (2, 1), (2, 2), (2, 3), (3, 2), (4, 2)] {
            for (held, kept) in [(1, 1), (1, 5), (2, 2), (4, 3), (64, 5)] {
                let chip = chip(cores, macros, held);
                let layers = layers(&chip, kept);
                let layer = &layers[..1];
                let expense = |placement| Mapped::new(vec![layer[0].place(Some(placement), &chip)], &chip).expense();
                let plain = expense(Placement::PLAIN);
                let rank = |expense: Expense| expense.rank(&plain, Objective::Product);
                let ranks = every_placement(&layer[0], &chip).into_iter().map(|placement| rank(expense(placement)));
                let least = ranks.fold((f64::INFINITY, f64::INFINITY), |a, b| if b < a { b } else { a });
                let found = rank(map_part(layer, &chip).expense());
                assert_eq!(found, least, "{cores} x {macros} macros of {held} accesses, {kept} of 5 groups");
                improved += usize::from(found < rank(plain));
            }
        }
        assert!(improved > 10, "the plain placement is the best one of nearly all: {improved}");
    }

    /// The least that any placement of all layers together takes, on any part of a chip.
    fn brute_force(layers: &[Layer], chip: &Hardware) -> Expense {
        let objective = chip.mapping.objective;
        let worth = |expense: &Expense| expense.worth(objective);
        let of_part = |part: Hardware| {
            let plain = fixed(layers, &part, Policy::FilterSets).expense();
            let mut plans: Vec<Vec<LayerWork>> = vec![Vec::new()];
            for layer in layers {
                let works: Vec<LayerWork> = match layer.conv {
                    Some(_) => {
                        let placements = every_placement(layer, &part).into_iter();
                        placements.map(|placement| layer.place(Some(placement), &part)).collect()
                    }
                    None => vec![layer.place(None, &part)],
                };
                let mut longer = Vec::new();
                for plan in &plans {
                    longer.extend(works.iter().map(|work| [plan.as_slice(), std::slice::from_ref(work)].concat()));
                }
                plans = longer;
            }
            let expenses = plans.into_iter().map(|works| Mapped::new(works, &part).expense());
            let rank = |expense: &Expense| expense.rank(&plain, objective);
            expenses.min_by(|a, b| rank(a).partial_cmp(&rank(b)).unwrap()).unwrap()
        };
        let all = parts(chip).flatten().map(of_part);
        all.min_by(|a, b| worth(a).partial_cmp(&worth(b)).unwrap()).unwrap()
    }

    /// Layer by layer the mapper comes within two percent of what all combinations of placements give, and mostly to the same. A product of which no
    /// layer may be worse than the plain one misses what one layer may lose for another.
    #[test]
    fn three_layers_are_laid_nearly_as_well_as_all_combinations_are() {
        for (objective, tolerance) in [(Objective::Cycles, 1.02), (Objective::Energy, 1.02), (Objective::Product, 1.13)]
        {
            let mut gaps = Vec::new();
            for (cores, macros) in [(1, 2), (2, 1), (2, 2), (3, 1)] {
                for (held, kept) in [(1, 2), (2, 3), (4, 5), (16, 4)] {
                    let mut chip = chip(cores, macros, held);
                    chip.mapping.objective = objective;
                    let layers = layers(&chip, kept);
                    let found = map(&layers, &chip, &KnownParts::default()).expense().worth(objective).0;
                    gaps.push(found / brute_force(&layers, &chip).worth(objective).0);
                }
            }
            assert!(gaps.iter().all(|gap| (1.0 - 1e-12..tolerance).contains(gap)), "{objective:?}: {gaps:?}");
            let best = gaps.iter().filter(|gap| **gap < 1.0 + 1e-12).count();
            assert!(best >= gaps.len() - 2, "{objective:?}: {gaps:?}");
        }
    }

    /// A larger chip is never worse by the objective: it contains the smaller one.
    #[test]
    fn more_cores_macros_and_rows_are_never_worse() {
        let mut better = 0;
        for kept in [1, 3, 5] {
            for objective in [Objective::Cycles, Objective::Energy, Objective::Product] {
                let worth = |cores: usize, macros: usize, held: usize| {
                    let mut chip = chip(cores, macros, held);
                    chip.mapping.objective = objective;
                    map(&layers(&chip, kept), &chip, &KnownParts::default()).expense().worth(objective).0
                };
                for (cores, macros, held) in
                    [(1, 1, 1), (1, 3, 2), (2, 2, 1), (3, 1, 4), (3, 2, 8), (4, 3, 2), (5, 2, 16)]
                {
                    let small = worth(cores, macros, held);
                    let larger = [
                        worth(cores + 1, macros, held),
                        worth(cores, macros + 1, held),
                        worth(cores, macros, 2 * held),
                    ];
                    for other in larger {
                        assert!(
                            other <= small,
                            "{objective:?} of {cores} x {macros} macros of {held} accesses: {small}, then {other}"
                        );
                        better += usize::from(other < small);
                    }
                }
            }
        }
        assert!(better > 50, "more of a chip hardly ever helps: {better}");
    }

    /// Of two layers the mapper looks at one after the other; it is never worse than any policy for both.
    #[test]
    fn no_policy_is_cheaper_than_the_mapper() {
        for (cores, macros, held, kept) in [(2, 2, 4, 3), (4, 2, 16, 5), (2, 3, 2, 2), (1, 4, 64, 4)] {
            let chip = chip(cores, macros, held);
            let layers = layers(&chip, kept);
            let expense = |policy| {
                let chip =
                    Hardware { mapping: crate::hardware::Mapping { policy, ..Default::default() }, ..chip.clone() };
                map(&layers, &chip, &KnownParts::default()).expense()
            };
            let plain = expense(Policy::FilterSets);
            let found = expense(Policy::Auto).rank(&plain, Objective::Product);
            for policy in [Policy::FilterSets, Policy::Together, Policy::InputChannels, Policy::Duplicate] {
                assert!(
                    found <= expense(policy).rank(&plain, Objective::Product),
                    "{policy:?} on {cores} x {macros} macros"
                );
            }
        }
    }
}
