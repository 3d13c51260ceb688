//! The mapper: which part of a chip a network uses, and which placement each layer gets there.
//!
//! The automatic policy looks at every part of the chip that may be the best: so many cores, so many macros of each, so many rows. Because a part of a
//! chip is a part of every larger chip, and costs the same there, a larger chip is never worse by the objective, up to the number of macros of which
//! every part is looked at.

use std::collections::HashMap;
use std::iter::successors;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::parts::{Least, Part, parts};
use super::plan::{Expense, Placements, Plan, fixed, placed};
use super::room::ROUNDING;
use super::search::best_plan;
use crate::error::{Error, Result};
use crate::hardware::chip::{Hardware, Memory, Objective, Policy};
use crate::hardware::mapping::{Layer, Placement};

/// A network on the part of a chip that it uses.
pub(super) struct Mapped<'a> {
    pub(super) plan: Plan<'a>,
    /// The chip as if it had nothing but this part.
    pub(super) part: Hardware,
}

/// What was found on parts of chips: chips of a sweep share it.
#[derive(Debug, Default)]
pub(super) struct KnownParts(Mutex<HashMap<String, Arc<Parts>>>);

/// Of a chip, what all of its parts have in common.
const NO_PART: Part = Part { cores: 0, macros_per_core: 0, rows: 0 };
/// Kinds of chips whose parts are known at a time: what nobody looks at then is forgotten, so that the longest sweep takes no more memory.
const MOST_KNOWN: usize = 64;

/// What chips have in common that may share what is found on their parts: a sweep takes those with the same one after each other.
pub(crate) fn family(hardware: &Hardware) -> String {
    let memory = Memory { feature_sram_kib: 0, ..hardware.memory };
    let alike = Hardware { name: String::new(), memory, ..hardware.clone() };
    serde_json::to_string(&NO_PART.of(&alike)).expect("a hardware file is text")
}

impl KnownParts {
    /// Those of a chip whose accesses take `access_pj`: they may be those of a chip with more rows.
    fn of(&self, chip: &Hardware, access_pj: &[f64]) -> Arc<Parts> {
        let alike = NO_PART.of(chip);
        let key = serde_json::to_string(&(alike, access_pj)).expect("a hardware file is text");
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.retain(|_, parts| Arc::strong_count(parts) > 1);
        }
        known.entry(key).or_default().clone()
    }
}

/// What was found on parts of chips that are alike in all else.
#[derive(Debug, Default)]
struct Parts(Mutex<HashMap<Part, Vec<Known>>>);

/// What is found on a part with any of these rows.
#[derive(Clone, Debug)]
struct Known {
    rows: RangeInclusive<usize>,
    /// None where no placement is allowed.
    best: Option<Best>,
}

/// The best plan, and what a frame takes on it.
#[derive(Clone, Debug)]
struct Best {
    placements: Arc<Placements>,
    expense: Expense,
}

impl Parts {
    /// What is found on a part; `find` looks for it.
    fn get(&self, part: Part, find: impl FnOnce() -> Known) -> Known {
        let key = Part { rows: 0, ..part };
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_rows = |known: &Vec<Known>| known.iter().find(|known| known.rows.contains(&part.rows)).cloned();
        let found = known().get(&key).and_then(of_rows);
        // Not under the lock: a thread that waits for others here may take up work that comes here as well.
        found.unwrap_or_else(|| {
            let found = find();
            known().entry(key).or_default().push(found.clone());
            found
        })
    }
}

/// Where plans are looked for: on a chip, and before it on chips that are alike but for less feature-map SRAM.
///
/// Where cycles alone are made small, what is found with less SRAM is a start with more: it is as fast or faster there. So more is never slower than a
/// power of two that is less. Energy doesn't follow that rule: a larger SRAM takes more for each bit.
struct Steps(Vec<(Hardware, Arc<Parts>)>);

/// The least feature-map SRAM whose plans are starts with more, KiB.
const LEAST_FEATURE_SRAM_KIB: u64 = 16;

impl Steps {
    fn to(chip: &Hardware, known: &KnownParts, access_pj: &[f64]) -> Self {
        let own = chip.memory.feature_sram_kib;
        let smaller = match chip.mapping.objective {
            Objective::Cycles => Some(LEAST_FEATURE_SRAM_KIB),
            Objective::Energy | Objective::Product => None,
        };
        let smaller = successors(smaller, |size| size.checked_mul(2)).take_while(|size| *size < own);
        let sizes = smaller.chain([own]);
        let of_size = |feature_sram_kib| {
            let chip = Hardware { memory: Memory { feature_sram_kib, ..chip.memory }, ..chip.clone() };
            let known = known.of(&chip, access_pj);
            (chip, known)
        };
        Self(sizes.map(of_size).collect())
    }

    /// The best plan for a part of the chip.
    fn best(&self, layers: &[Layer], part: Part) -> Option<Best> {
        let on_part = |smaller: Known, (chip, known): &(Hardware, Arc<Parts>)| {
            known.get(part, || {
                let start = smaller.best.as_ref().map(|best| &*best.placements);
                match best_plan(layers, &part.of(chip), start) {
                    Some(found) => Known {
                        rows: (found.least_room * chip.rows_on).max(*smaller.rows.start())..=part.rows,
                        best: Some(Best { placements: found.plan.placements(), expense: found.expense }),
                    },
                    None => Known { rows: part.rows..=part.rows, best: None },
                }
            })
        };
        self.0.iter().fold(Known { rows: 0..=part.rows, best: None }, on_part).best
    }
}

/// Lays layers on the cores as the hardware file's policy says.
///
/// # Errors
/// What it decides about a layer matches none, or cannot be.
pub(super) fn map<'a>(layers: &'a [Layer], hardware: &Hardware, known: &KnownParts) -> Result<Mapped<'a>> {
    if hardware.mapping.policy != Policy::Auto {
        let plan = fixed(layers, hardware, hardware.mapping.policy);
        return Ok(Mapped { plan, part: hardware.clone() });
    }
    check_layers(layers, hardware)?;
    let objective = hardware.mapping.objective;
    let access_pj: Vec<f64> =
        layers.iter().filter_map(|layer| Some(layer.conv.as_ref()?.precision.energy_pj)).collect();
    // A name costs nothing, and a part of a macro takes and leaks what the whole does.
    let chip = Hardware { name: String::new(), ..hardware.resolved() };
    let steps = Steps::to(&chip, known, &access_pj);
    let least = Least::new(layers, &chip);
    let worth = |(index, part): (usize, Part)| (least.on(part).worth(objective).0, index, part);
    let mut candidates: Vec<(f64, usize, Part)> = parts(&chip).into_iter().enumerate().map(worth).collect();
    candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
    // The best part, of equal ones the largest. Those that promise most come first, and none is better once they promise less.
    let mut best: Option<Candidate> = None;
    for candidates in candidates.chunks(rayon::current_num_threads()) {
        let promising = |least: f64| best.is_none_or(|(worth, ..)| least * (1.0 - ROUNDING) <= worth.0);
        // They are in this order.
        if !promising(candidates[0].0) {
            break;
        }
        let candidates = candidates.par_iter().filter(|candidate| promising(candidate.0));
        let found: Vec<_> = candidates
            .filter_map(|(_, index, part)| Some((steps.best(layers, *part)?.expense.worth(objective), *index, *part)))
            .collect();
        let order = |found: &Candidate| (found.0, found.1);
        best = best.into_iter().chain(found).reduce(|a, b| if order(&b) < order(&a) { b } else { a });
    }
    let found = best.and_then(|(.., part)| {
        let Best { placements, .. } = steps.best(layers, part)?;
        let part = part.of(&chip);
        Some(Mapped { plan: placed(layers, &placements, &part), part })
    });
    found.ok_or_else(|| {
        Error::Setting("mapping.layers: no part of the chip can be all that it decides: decide less".into())
    })
}

/// What a part takes, its place among the parts, and the part.
type Candidate = ((f64, f64), usize, Part);

/// Each pattern of the hardware file has to be one of a convolution.
fn check_patterns(hardware: &Hardware, convs: &[String]) -> Result<()> {
    match hardware.mapping.layers.iter().find(|rule| !convs.iter().any(|conv| rule.matches(conv))) {
        None => Ok(()),
        Some(rule) => Err(Error::Setting(format!(
            "mapping.layers: no layer matches `{}`; there are {}",
            rule.pattern,
            convs.join(", ")
        ))),
    }
}

/// Each pattern has to be one of a layer, and each layer has to have a placement left on the whole chip.
pub(super) fn check_layers(layers: &[Layer], hardware: &Hardware) -> Result<()> {
    let convs = || layers.iter().filter_map(|layer| layer.conv.as_ref());
    check_patterns(hardware, &convs().map(|conv| conv.name.clone()).collect::<Vec<_>>())?;
    match convs().find(|conv| Placement::all(conv, hardware).is_empty()) {
        None => Ok(()),
        Some(conv) => {
            let copies: Vec<String> =
                Placement::copy_numbers(conv, hardware).map(|copies| copies.to_string()).collect();
            let message = format!(
                "mapping.layers leaves it no placement on this chip: it obeys all patterns that match it, and can have {} copies",
                copies.join(", ")
            );
            Err(Error::layer(&conv.name, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::groups::{GroupGrid, GroupShape};
    use crate::hardware::chip::{InputReads, PingPong, Split, Start, StatedFor};
    use crate::hardware::cost::held::{Fullness, LayerHeld, most_where_all_fit};
    use crate::hardware::cost::plan::timed;
    use crate::hardware::mapping::{FilterSet, workload};
    use crate::hardware::timing::TimedWork;
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

    /// Its layers at 8 bits; of each convolution's groups those whose number leaves less than `kept` when divided by 5.
    fn layers(chip: &Hardware, kept: usize) -> Vec<Layer> {
        layers_of(8, chip, kept)
    }

    /// The same with so many bits.
    fn layers_of(bits: u8, chip: &Hardware, kept: usize) -> Vec<Layer> {
        let graph = Graph::new(toml::from_str::<NetworkSpec>(NETWORK).unwrap()).unwrap();
        let config = QuantizeConfig { weight_bits: bits, activation_bits: bits, ..QuantizeConfig::default() };
        let network = outline(&graph, &config, chip.group);
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

    fn expense_of(layers: &[Layer], chip: &Hardware) -> Expense {
        let Mapped { plan, part } = map(layers, chip, &KnownParts::default()).unwrap();
        plan.expense(&part)
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
                let worth = |plan: &Plan| plan.expense(&chip).worth(Objective::Product);
                let placed = |placement| worth(&Plan::new(vec![timed(&layer[0], Some(placement), &chip)], &chip));
                let all = every_placement(&layer[0], &chip).into_iter().map(placed);
                let least = all.fold((f64::INFINITY, f64::INFINITY), |a, b| if b < a { b } else { a });
                let found = worth(&best_plan(layer, &chip, None).unwrap().plan);
                assert_eq!(found, least, "{cores} x {macros} macros of {held} accesses, {kept} of 5 groups");
                improved += usize::from(found < placed(Placement::PLAIN));
            }
        }
        assert!(improved > 10, "the plain placement is the best one of nearly all: {improved}");
    }

    /// What macros are said to hold are the tiles that go to them.
    #[test]
    fn macros_hold_the_tiles_that_go_to_them() {
        for (cores, macros) in [(1, 1), (1, 4), (2, 2), (3, 2), (2, 3), (4, 2)] {
            let chip = chip(cores, macros, 16);
            let layers = layers(&chip, 4);
            // Each placement of the first layer, before the others in the placement of the same place.
            for index in 0..Placement::all(layers[0].conv.as_ref().unwrap(), &chip).len() {
                let placed = |layer: &Layer| {
                    let all = layer.conv.as_ref().map(|conv| Placement::all(conv, &chip));
                    all.map(|all| all[index % all.len()])
                };
                let works: Vec<_> = layers.iter().map(|layer| layer.place(placed(layer), &chip)).collect();
                let mut held = vec![None; chip.macros()];
                for number in 0..cores {
                    let mut turn = 0;
                    for core in works.iter().map(|work| &work.cores[number]) {
                        for copy in 0..core.pixels.len() {
                            for (index, tile) in core.tiles.iter().enumerate() {
                                let unit = number * macros + core.unit_of(turn, copy, index);
                                *held[unit].get_or_insert(0) += tile.accesses;
                            }
                        }
                        turn += core.tiles.len();
                    }
                }
                let (holding, most) = (held.iter().flatten().count(), held.iter().flatten().copied().max().unwrap());
                let of_layers: Vec<LayerHeld> = works.iter().map(LayerHeld::of).collect();
                let of_layers: Vec<&LayerHeld> = of_layers.iter().collect();
                assert_eq!(Fullness::of(&of_layers, &chip), Fullness { holding, most }, "{cores} x {macros}, {index}");
                let all_fit = most_where_all_fit(&of_layers, &chip);
                assert_eq!(all_fit, (most <= 16).then_some(most), "{cores} x {macros}, {index}");
            }
        }
    }

    /// The least that any placement of all layers together takes, on any part of a chip.
    fn brute_force(layers: &[Layer], chip: &Hardware) -> Expense {
        let objective = chip.mapping.objective;
        let worth = |expense: &Expense| expense.worth(objective);
        let of_part = |part: Hardware| {
            let mut plans: Vec<Vec<Arc<TimedWork>>> = vec![Vec::new()];
            for layer in layers {
                let works: Vec<Arc<TimedWork>> = match layer.conv {
                    Some(_) => {
                        let placements = every_placement(layer, &part).into_iter();
                        placements.map(|placement| timed(layer, Some(placement), &part)).collect()
                    }
                    None => vec![timed(layer, None, &part)],
                };
                let mut longer = Vec::new();
                for plan in &plans {
                    longer.extend(works.iter().map(|work| [plan.as_slice(), std::slice::from_ref(work)].concat()));
                }
                plans = longer;
            }
            let expenses = plans.into_iter().map(|works| Plan::new(works, &part).expense(&part));
            expenses.min_by(|a, b| worth(a).partial_cmp(&worth(b)).unwrap()).unwrap()
        };
        let all = parts(chip).into_iter().map(|part| of_part(part.of(chip)));
        all.min_by(|a, b| worth(a).partial_cmp(&worth(b)).unwrap()).unwrap()
    }

    /// The mapper finds what is best of all combinations of placements.
    #[test]
    fn three_layers_are_laid_as_well_as_any_combination_is() {
        for (objective, bits) in
            [Objective::Cycles, Objective::Energy, Objective::Product].into_iter().flat_map(|it| [(it, 8), (it, 4)])
        {
            let mut gaps = Vec::new();
            for (cores, macros) in [(1, 2), (2, 1), (2, 2), (3, 1)] {
                for (held, kept) in [(1, 2), (2, 3), (4, 5), (16, 4)] {
                    let mut chip = chip(cores, macros, held);
                    chip.mapping.objective = objective;
                    let layers = layers_of(bits, &chip, kept);
                    let found = expense_of(&layers, &chip).worth(objective).0;
                    gaps.push(found / brute_force(&layers, &chip).worth(objective).0);
                }
            }
            assert!(gaps.iter().all(|gap| (gap - 1.0).abs() < 1e-12), "{objective:?}, {bits} bits: {gaps:?}");
        }
    }

    /// A larger chip is never worse by the objective: it contains the smaller one.
    #[test]
    fn more_cores_macros_and_rows_are_never_worse() {
        let mut better = 0;
        for (kept, input_reads) in [(1, InputReads::PerCore), (3, InputReads::Broadcast), (5, InputReads::PerCore)] {
            for objective in [Objective::Cycles, Objective::Energy, Objective::Product] {
                let worth = |cores: usize, macros: usize, held: usize| {
                    let mut chip = chip(cores, macros, held);
                    chip.mapping.objective = objective;
                    chip.memory.input_reads = input_reads;
                    expense_of(&layers(&chip, kept), &chip).worth(objective).0
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
                expense_of(&layers, &chip)
            };
            let worth = |policy| expense(policy).worth(Objective::Product);
            for policy in [Policy::FilterSets, Policy::Together, Policy::InputChannels, Policy::Duplicate] {
                assert!(worth(Policy::Auto) <= worth(policy), "{policy:?} on {cores} x {macros} macros");
            }
        }
    }

    /// Parts are left out by what they take at least, and what is found is the best of all.
    #[test]
    fn no_plan_takes_less_than_the_least() {
        let mut left_out = 0;
        let chips = [(1, 1, 1, 5), (2, 3, 2, 3), (3, 2, 4, 1), (4, 2, 16, 5), (1, 4, 64, 4)];
        for ((cores, macros, held, kept), bits) in chips.into_iter().flat_map(|chip| [(chip, 8), (chip, 4)]) {
            // Room for all, for little; frames that share a load; ports that are narrow in turn.
            for (case, (weight_sram_kib, feature_sram_kib, frames)) in
                [(16, 256, 1), (1, 256, 1), (1, 1, 1), (16, 1, 3), (1, 256, 4)].into_iter().enumerate()
            {
                let mut chip = chip(cores, macros, held);
                chip.frames_per_load = frames;
                chip.energy.leakage_mw_per_macro = 1.0;
                chip.mapping.objective = [Objective::Product, Objective::Cycles, Objective::Energy][case % 3];
                chip.memory.ping_pong = if case % 2 == 0 { PingPong::Shared } else { PingPong::Halves };
                chip.memory.input_reads = if case % 2 == 0 { InputReads::Broadcast } else { InputReads::PerCore };
                let memory = &mut chip.memory;
                (memory.weight_sram_kib, memory.feature_sram_kib) = (weight_sram_kib, feature_sram_kib);
                let ports = [
                    &mut memory.write_bits_per_cycle,
                    &mut memory.weight_bits_per_cycle,
                    &mut memory.index_bits_per_cycle,
                    &mut memory.next_level_bits_per_cycle,
                    &mut memory.feature_read_bits_per_cycle,
                ];
                for (port, width) in ports.into_iter().enumerate() {
                    *width = if port == case { 1 } else { 64 };
                }
                let layers = layers_of(bits, &chip, kept);
                let resolved = Hardware { name: String::new(), ..chip.resolved() };
                let least = Least::new(&layers, &resolved);
                let mut best = (f64::INFINITY, f64::INFINITY);
                for part in parts(&resolved) {
                    let of_part = part.of(&resolved);
                    let policies = [Policy::FilterSets, Policy::Together, Policy::InputChannels, Policy::Duplicate];
                    let plans = policies.map(|policy| fixed(&layers, &of_part, policy));
                    let least = least.on(part);
                    let found = best_plan(&layers, &of_part, None).unwrap().plan;
                    let worth = found.expense(&of_part).worth(chip.mapping.objective);
                    best = if worth < best { worth } else { best };
                    for plan in plans.into_iter().chain([found]) {
                        let found = plan.expense(&of_part);
                        assert!(least.cycles <= found.cycles, "{case}, {part:?}: {least:?}, found {found:?}");
                        let energy_uj = found.energy_uj * (1.0 + ROUNDING);
                        assert!(least.energy_uj <= energy_uj, "{case}, {part:?}: {least:?}, found {found:?}");
                    }
                }
                let found = expense_of(&layers, &chip).worth(chip.mapping.objective);
                assert_eq!(found, best, "{case} on {cores} x {macros} macros of {held} accesses");
                let promises = |part: &Part| least.on(*part).worth(chip.mapping.objective).0 > best.0;
                left_out += parts(&resolved).iter().filter(|part| promises(part)).count();
            }
        }
        assert!(left_out > 20, "hardly any part is left out: {left_out}");
    }

    /// Rows between those that a part was looked at with and the fewest that give the same plan aren't looked at.
    #[test]
    fn fewer_rows_take_the_same_down_to_the_least_room() {
        let mut shared = 0;
        for (cores, macros, held, kept) in
            [(1, 1, 24, 3), (2, 3, 8, 3), (3, 2, 16, 2), (4, 2, 16, 5), (1, 4, 32, 4), (2, 2, 64, 1)]
        {
            let large = chip(cores, macros, held);
            let layers = layers(&large, kept);
            let found = best_plan(&layers, &large, None).unwrap();
            for room in found.least_room..held {
                let small = chip(cores, macros, room);
                let (a, b) =
                    (found.plan.expense(&large), best_plan(&layers, &small, None).unwrap().plan.expense(&small));
                assert_eq!((a.cycles, a.energy_uj), (b.cycles, b.energy_uj), "{cores} x {macros} of {held}, {room}");
                shared += 1;
            }
        }
        assert!(shared > 20, "hardly any rows share a plan: {shared}");
    }
}
