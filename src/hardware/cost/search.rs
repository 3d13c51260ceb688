//! Search: the best placement of each layer on all of a chip, by the model's own time and energy.
//!
//! Every placement of a layer is tried after the ones that were chosen before it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::energy::{Macros, layer_energy};
use super::held::{Fullness, LayerHeld, most_where_all_fit};
use super::room::least_that_fits;
use crate::hardware::chip::{Hardware, Objective, Policy, Start};
use crate::hardware::mapping::{CoreWork, Layer, Placement};
use crate::hardware::timing::{LayerProgram, Loading, Simulator, Span, TimedWork, cycles_of_a_frame};

/// Layers on all of a chip.
pub(super) struct Plan<'a> {
    pub(super) works: Vec<Arc<TimedWork<'a>>>,
    pub(super) loading: Loading,
    pub(super) fits_weight_sram: bool,
    /// Macros that hold a tile in a frame.
    holding: usize,
    /// Most accesses that one of them holds.
    most_held: u64,
}

impl<'a> Plan<'a> {
    pub(super) fn new(works: Vec<Arc<TimedWork<'a>>>, hardware: &Hardware) -> Self {
        let stored = |core: usize| -> u64 { works.iter().map(|work| work.cores[core].stored_bits()).sum() };
        let fits_weight_sram = (0..hardware.cores).all(|core| stored(core) <= hardware.memory.weight_sram_bits());
        let room = hardware.accesses_per_macro() as u64;
        let held: Vec<LayerHeld> = works.iter().map(|work| LayerHeld::of(work)).collect();
        let Fullness { holding, most: most_held } = Fullness::of(&held.iter().collect::<Vec<_>>(), hardware);
        let loading = match most_held <= room {
            true => Loading::Never,
            false if fits_weight_sram => Loading::WeightSram,
            false => Loading::NextLevel,
        };
        Self { works, loading, fits_weight_sram, holding, most_held }
    }

    /// Whether each layer is placed as the hardware file decides.
    fn is_allowed(&self, hardware: &Hardware) -> bool {
        let mut placed = self.works.iter().filter_map(|work| Some((work.placement?, work.layer.conv.as_ref()?)));
        placed.all(|(placement, conv)| placement.is_allowed(conv, hardware))
    }

    /// Macros that hold a tile in a frame, and of all that the whole chip has those that don't.
    pub(super) fn macros(&self, hardware: &Hardware) -> Macros {
        Macros { holding: self.holding, idle: hardware.macros() - self.holding }
    }

    /// What a frame takes, without the leakage of macros that hold nothing.
    pub(super) fn expense(&self, hardware: &Hardware) -> Expense {
        self.expense_of(hardware, Macros { holding: self.holding, idle: 0 })
    }

    /// What a frame takes, with the leakage of macros that hold nothing.
    pub(super) fn whole_expense(&self, hardware: &Hardware) -> Expense {
        self.expense_of(hardware, self.macros(hardware))
    }

    fn expense_of(&self, hardware: &Hardware, macros: Macros) -> Expense {
        let mut chip = Runner::new(hardware, self.loading, macros);
        self.works.iter().map(|work| chip.expense(work)).fold(Expense::default(), |sum, layer| Expense {
            cycles: sum.cycles + layer.cycles,
            energy_uj: sum.energy_uj + layer.energy_uj,
        })
    }
}

/// A chip that runs one layer after the other.
pub(super) struct Runner<'a> {
    hardware: &'a Hardware,
    loading: Loading,
    macros: Macros,
    /// Between two layers.
    state: Simulator,
}

impl<'a> Runner<'a> {
    pub(super) fn new(hardware: &'a Hardware, loading: Loading, macros: Macros) -> Self {
        Self { hardware, loading, macros, state: Simulator::new(hardware) }
    }

    /// Runs the next layer; gives its programs and its time, and `trace` what the parts of the cores do.
    pub(super) fn trace(&mut self, work: &TimedWork, trace: impl FnMut(Span)) -> (LayerProgram, Range<u64>) {
        let program = self.state.program(work, self.loading);
        (program, self.state.run(work, self.loading, trace))
    }

    /// Runs the next layer; gives its cycles for a frame.
    pub(super) fn run(&mut self, work: &TimedWork) -> u64 {
        let time = self.state.run(work, self.loading, |_| {});
        cycles_of_a_frame(&time, self.hardware.frames_per_load)
    }

    /// Runs the next layer; gives what it takes for a frame.
    fn expense(&mut self, work: &TimedWork) -> Expense {
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
    pub(super) fn worth(&self, objective: Objective) -> (f64, f64) {
        let (cycles, energy) = (self.cycles as f64, self.energy_uj);
        match objective {
            Objective::Cycles => (cycles, energy),
            Objective::Energy => (energy, cycles),
            Objective::Product => (cycles * energy, cycles),
        }
    }

    /// What a layer adds to the worth of a plan near one that takes `around`: the product follows `cycles / around.cycles + energy / around.energy`.
    fn share(&self, around: &Self, objective: Objective) -> f64 {
        let (cycles, energy) = (self.cycles as f64, self.energy_uj);
        match objective {
            Objective::Cycles => cycles,
            Objective::Energy => energy,
            Objective::Product => {
                cycles / around.cycles.max(1) as f64 + energy / around.energy_uj.max(f64::MIN_POSITIVE)
            }
        }
    }
}

/// The one that is worth the least; of equal ones the first.
fn least<T>(all: impl Iterator<Item = T>, worth: impl Fn(&T) -> (f64, f64)) -> Option<T> {
    all.reduce(|best, next| if worth(&next) < worth(&best) { next } else { best })
}

/// A layer in a placement.
pub(super) fn timed<'a>(layer: &'a Layer, placement: Option<Placement>, hardware: &Hardware) -> Arc<TimedWork<'a>> {
    Arc::new(TimedWork::new(layer.place(placement, hardware), hardware))
}

/// All layers alike.
pub(super) fn fixed<'a>(layers: &'a [Layer], hardware: &Hardware, policy: Policy) -> Plan<'a> {
    let place = |layer: &'a Layer| {
        let placement = layer.conv.as_ref().and_then(|conv| Placement::of_policy(policy, conv, hardware));
        timed(layer, placement, hardware)
    };
    Plan::new(layers.iter().map(place).collect(), hardware)
}

/// The best plan found on all of a chip.
pub(super) struct Found<'a> {
    pub(super) plan: Plan<'a>,
    pub(super) expense: Expense,
    /// The fewest accesses that a macro may have room for, so that the same plan is found.
    pub(super) least_room: usize,
}

/// Looks for the best plan on all of a chip; there is none where the hardware file decides what a layer can't be there.
pub(super) fn best_plan<'a>(layers: &'a [Layer], hardware: &Hardware) -> Option<Found<'a>> {
    let objective = hardware.mapping.objective;
    let works: Vec<Works> = layers.iter().map(|layer| works_of(layer, hardware)).collect();
    if works.iter().any(Vec::is_empty) {
        return None;
    }
    let plain = Costed::new(Plan::new(works.iter().map(|works| works[0].clone()).collect(), hardware), hardware);
    let others = [Policy::Together, Policy::InputChannels, Policy::Duplicate];
    let others = others.map(|policy| fixed(layers, hardware, policy));
    // Placements that are chosen as if weights stayed are worth nothing where they cannot, however evenly they lie.
    let held = layers.iter().filter_map(|layer| Some(layer.conv.as_ref()?.accesses())).sum::<usize>();
    let stored = plain.plan.works.iter().flat_map(|work| &work.cores).map(CoreWork::stored_bits).sum::<u64>();
    let evenly = held.div_ceil(hardware.macros());
    let stays = evenly <= hardware.accesses_per_macro();
    let fits = stored <= hardware.cores as u64 * hardware.memory.weight_sram_bits();
    let mut loadings = vec![Loading::NextLevel];
    loadings.extend(fits.then_some(Loading::WeightSram));
    loadings.extend(stays.then_some(Loading::Never));
    let chosen = loadings.into_iter().map(|loading| choose(&works, hardware, loading, &plain.expense));
    let chosen: Vec<Chosen> = chosen.collect();
    let fitted = chosen.iter().map(|chosen| chosen.least_room).max().unwrap_or(0).max(if stays { evenly } else { 0 });
    let others = others.into_iter().filter(|plan| plan.is_allowed(hardware));
    let mut plans = vec![plain];
    plans.extend(chosen.into_iter().flat_map(|chosen| chosen.plans));
    plans.extend(others.map(|plan| Costed::new(plan, hardware)));

    let least_room = least_room(&works, &plans, hardware).max(fitted);
    let best = least(plans.into_iter(), |costed| costed.expense.worth(objective));
    let Costed { plan, expense } = best.expect("the plain plan is there");
    Some(Found { plan, expense, least_room })
}

/// For each layer of a plan the best other placement that it may have, with what a frame takes then.
pub(super) fn next_best(plan: &Plan, hardware: &Hardware) -> Vec<Option<(Placement, Expense)>> {
    let objective = hardware.mapping.objective;
    let of_layer = |(index, own): (usize, &Arc<TimedWork>)| {
        let others = works_of(own.layer, hardware).into_iter().filter(|work| work.placement != own.placement);
        let expenses = others.filter_map(|work| {
            let placement = work.placement?;
            let mut works = plan.works.clone();
            works[index] = work;
            Some((placement, Plan::new(works, hardware).expense(hardware)))
        });
        least(expenses, |(_, expense)| expense.worth(objective))
    };
    plan.works.iter().enumerate().map(of_layer).collect()
}

/// A layer in each of its placements, the plain one first.
type Works<'a> = Vec<Arc<TimedWork<'a>>>;

fn works_of<'a>(layer: &'a Layer, hardware: &Hardware) -> Works<'a> {
    let placements = match &layer.conv {
        Some(conv) => Placement::all(conv, hardware).into_iter().map(Some).collect(),
        None => vec![None],
    };
    placements.into_iter().map(|placement| timed(layer, placement, hardware)).collect()
}

/// A plan and what a frame takes on it.
struct Costed<'a> {
    plan: Plan<'a>,
    expense: Expense,
}

impl<'a> Costed<'a> {
    fn new(plan: Plan<'a>, hardware: &Hardware) -> Self {
        let expense = plan.expense(hardware);
        Self { plan, expense }
    }
}

/// Plans whose weights come from one place.
struct Chosen<'a> {
    plans: Vec<Costed<'a>>,
    /// The fewest accesses that a macro may have room for, so that the same placements fit.
    least_room: usize,
}

/// Chooses placements where weights come from `loading`: the best of each layer, then what is best for all layers together, then for layers in a row. A
/// product is linear around a plan alone: layers in a row are looked at around the plain plan, which takes `plain`, and around the best one.
fn choose<'a>(works: &[Works<'a>], hardware: &Hardware, loading: Loading, plain: &Expense) -> Chosen<'a> {
    let (plan, expenses) = layer_by_layer(works, hardware, loading, plain);
    let mut chosen = Chosen { plans: vec![Costed::new(plan, hardware)], least_room: 0 };
    chosen.together(works, hardware, loading, &expenses);
    if loading != Loading::Never {
        let objective = hardware.mapping.objective;
        let mut arounds = vec![*plain];
        // What else is made small is the same sum around any plan.
        if objective == Objective::Product {
            let expenses = chosen.plans.iter().map(|costed| costed.expense);
            arounds.extend(least(expenses, |expense| expense.worth(objective)));
        }
        let rows = arounds.iter().map(|around| in_a_row(works, hardware, loading, around));
        chosen.plans.extend(rows.map(|plan| Costed::new(plan, hardware)));
    }
    chosen
}

impl<'a> Chosen<'a> {
    /// Adds what is best for all layers together around the first plan, then around what that gives, as long as it is better. `expenses` are what each
    /// placement of each layer takes.
    fn together(&mut self, works: &[Works<'a>], hardware: &Hardware, loading: Loading, expenses: &[Vec<Expense>]) {
        let mut around = self.plans[0].expense;
        let objective = hardware.mapping.objective;
        // The fullest core has no room for what others could hold.
        let of_work = |work: &Arc<TimedWork>| {
            let fullest = work.cores.iter().map(CoreWork::held_accesses).max().unwrap_or(0);
            (fullest * work.cores.len() as u64) as f64
        };
        let held: Vec<Vec<f64>> = works.iter().map(|works| works.iter().map(of_work).collect()).collect();
        let of_macros: Vec<Vec<LayerHeld>> = match loading {
            Loading::Never => {
                works.iter().map(|works| works.iter().map(|work| LayerHeld::of(work)).collect()).collect()
            }
            Loading::WeightSram | Loading::NextLevel => Vec::new(),
        };
        let mut first = true;
        loop {
            let of_layer = |expenses: &Vec<Expense>| expenses.iter().map(|it| it.share(&around, objective)).collect();
            let shares: Vec<Vec<f64>> = expenses.iter().map(of_layer).collect();
            let stay_loaded = |placements: &[usize]| {
                let held: Vec<&LayerHeld> =
                    of_macros.iter().zip(placements).map(|(placements, index)| &placements[*index]).collect();
                let most = most_where_all_fit(&held, hardware);
                self.least_room = most.map_or(self.least_room, |most| self.least_room.max(most as usize));
                most.is_some()
            };
            let placements = match loading {
                Loading::Never => least_that_fits(&shares, &held, stay_loaded),
                Loading::WeightSram | Loading::NextLevel => least_that_fits(&shares, &held, |_| true),
            };
            let Some(placements) = placements else { return };
            let plan =
                Plan::new(works.iter().zip(placements).map(|(works, index)| works[index].clone()).collect(), hardware);
            let plan = Costed::new(plan, hardware);
            let expense = plan.expense;
            self.plans.push(plan);
            if !first && expense.worth(objective) >= around.worth(objective) {
                return;
            }
            (around, first) = (expense, false);
        }
    }
}

/// The best placement of each layer, after the ones that were chosen before it, and what each of its placements takes there.
fn layer_by_layer<'a>(
    works: &[Works<'a>],
    hardware: &Hardware,
    loading: Loading,
    around: &Expense,
) -> (Plan<'a>, Vec<Vec<Expense>>) {
    let objective = hardware.mapping.objective;
    let mut chip = Runner::new(hardware, loading, Macros::all(hardware));
    let mut before = chip.state.clone();
    let mut after_best = before.clone();
    let mut expenses = Vec::with_capacity(works.len());
    let chosen = works.iter().map(|works| {
        let mut of_works: Vec<Expense> = Vec::with_capacity(works.len());
        let mut best: Option<((f64, f64), &Arc<TimedWork>)> = None;
        for work in works {
            chip.state.clone_from(&before);
            let expense = chip.expense(work);
            of_works.push(expense);
            let rank = (expense.share(around, objective), expense.worth(objective).1);
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, work));
                std::mem::swap(&mut after_best, &mut chip.state);
            }
        }
        expenses.push(of_works);
        std::mem::swap(&mut before, &mut after_best);
        best.expect("each layer has a placement").1.clone()
    });
    let plan = Plan::new(chosen.collect(), hardware);
    (plan, expenses)
}

/// The best placements of layers in a row where weights are loaded: macros that a layer leaves early take the next one's weights meanwhile, which only the
/// next one's time shows. So the best row of layers is kept for each way in which the last one's macros may start (Viterbi's algorithm, with these as
/// states). `around` is what a plan near it takes.
fn in_a_row<'a>(works: &[Works<'a>], hardware: &Hardware, loading: Loading, around: &Expense) -> Plan<'a> {
    struct Row<'a> {
        share: f64,
        state: Simulator,
        works: Works<'a>,
    }
    let objective = hardware.mapping.objective;
    let mut chip = Runner::new(hardware, loading, Macros::all(hardware));
    let mut rows = vec![Row { share: 0.0, state: chip.state.clone(), works: Vec::new() }];
    for works in works {
        let mut best: BTreeMap<Option<Start>, (f64, usize, &Arc<TimedWork>)> = BTreeMap::new();
        for (index, row) in rows.iter().enumerate() {
            for work in works {
                chip.state.clone_from(&row.state);
                let share = row.share + chip.expense(work).share(around, objective);
                let start = work.placement.map(|placement| placement.start);
                if best.get(&start).is_none_or(|(least, ..)| share < *least) {
                    best.insert(start, (share, index, work));
                }
            }
        }
        let longer = best.into_values().map(|(share, index, work)| {
            chip.state.clone_from(&rows[index].state);
            chip.run(work);
            let works = rows[index].works.iter().chain([work]).cloned().collect();
            Row { share, state: chip.state.clone(), works }
        });
        rows = longer.collect();
    }
    let best = rows.into_iter().min_by(|a, b| a.share.total_cmp(&b.share)).expect("each layer has a placement");
    Plan::new(best.works, hardware)
}

/// The fewest accesses that a macro may have room for, so that each layer is cut into the same tiles and copied as often, and the same plans stay loaded.
fn least_room(works: &[Works], plans: &[Costed], hardware: &Hardware) -> usize {
    let plans = || plans.iter().map(|costed| &costed.plan);
    let works = works.iter().flatten().chain(plans().flat_map(|plan| &plan.works));
    let of_work = |work: &Arc<TimedWork>| {
        let tiles = work.cores.iter().flat_map(|core| core.tiles.iter());
        // As many tiles as before have to hold what they held: they are even.
        let most = tiles.map(|tile| tile.accesses).max().unwrap_or(0) as usize;
        let copies = work.placement.map_or(1, |placement| placement.copies);
        let accesses = work.layer.conv.as_ref().map_or(0, |conv| conv.accesses());
        let copied = if copies > 1 { (accesses * copies).div_ceil(hardware.macros()) } else { 0 };
        most.max(copied)
    };
    let loaded = plans().filter(|plan| plan.loading == Loading::Never).map(|plan| plan.most_held as usize);
    works.map(of_work).chain(loaded).max().unwrap_or(0).max(1)
}
