//! Search: the best placement of each layer on all of a chip, by the model's own time and energy.
//!
//! Every placement of a layer is tried after the ones that were chosen before it; the plans that this gives are starts of a descent.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::descent::Descent;
use super::energy::Macros;
use super::held::{LayerHeld, most_where_all_fit};
use super::plan::{Costed, Expense, Placements, Plan, Runner, Works, fixed, least, placed, timed};
use super::room::least_that_fits;
use crate::hardware::chip::{Hardware, Objective, Policy, Start};
use crate::hardware::mapping::{CoreWork, Layer, Placement};
use crate::hardware::timing::{Loading, Simulator, TimedWork};

/// The best plan found on all of a chip.
pub(super) struct Found<'a> {
    pub(super) plan: Plan<'a>,
    pub(super) expense: Expense,
    /// The fewest accesses that a macro may have room for, so that the same plan is found.
    pub(super) least_room: usize,
}

/// How much more than the best plan another may take at first, and become the best.
const PROMISING: f64 = 0.01;

/// Looks for the best plan on all of a chip; there is none where the hardware file decides what a layer can't be there. `known` are placements of a plan
/// to start from beside the search's own starts.
pub(super) fn best_plan<'a>(layers: &'a [Layer], hardware: &Hardware, known: Option<&Placements>) -> Option<Found<'a>> {
    let objective = hardware.mapping.objective;
    let works: Vec<Works> = layers.iter().map(|layer| works_of(layer, hardware)).collect();
    if works.iter().any(Vec::is_empty) {
        return None;
    }
    let Chosen { mut plans, least_room } = starts(layers, &works, hardware);
    plans.extend(known.map(|placements| Costed::new(placed(layers, placements, hardware), hardware)));
    let worth = |costed: &Costed| costed.expense.worth(objective);
    plans.sort_by(|a, b| worth(a).0.total_cmp(&worth(b).0).then(worth(a).1.total_cmp(&worth(b).1)));
    plans.dedup_by(|a, b| worth(a) == worth(b));
    let promising = worth(&plans[0]).0 * (1.0 + PROMISING);
    plans.retain(|costed| worth(costed).0 <= promising);
    let mut descent = Descent { works: &works, hardware, least_room };
    let found: Vec<Costed> = plans.into_iter().map(|plan| descent.from(plan)).collect();
    let least_room = descent.least_room;
    let Costed { plan, expense } = least(found.into_iter(), worth).expect("the best start is there");
    Some(Found { plan, expense, least_room })
}

/// The fixed policies, and what is chosen for each place that weights may come from.
fn starts<'a>(layers: &'a [Layer], works: &[Works<'a>], hardware: &Hardware) -> Chosen<'a> {
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
    let chosen = loadings.into_iter().map(|loading| choose(works, hardware, loading, &plain.expense));
    let chosen: Vec<Chosen> = chosen.collect();
    let fitted = chosen.iter().map(|chosen| chosen.least_room).max().unwrap_or(0).max(if stays { evenly } else { 0 });
    let others = others.into_iter().filter(|plan| plan.is_allowed(hardware));
    let mut plans = vec![plain];
    plans.extend(chosen.into_iter().flat_map(|chosen| chosen.plans));
    plans.extend(others.map(|plan| Costed::new(plan, hardware)));
    let least_room = least_room(works, &plans, hardware).max(fitted);
    Chosen { plans, least_room }
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

fn works_of<'a>(layer: &'a Layer, hardware: &Hardware) -> Works<'a> {
    let placements = match &layer.conv {
        Some(conv) => Placement::all(conv, hardware).into_iter().map(Some).collect(),
        None => vec![None],
    };
    placements.into_iter().map(|placement| timed(layer, placement, hardware)).collect()
}

/// Plans that were chosen.
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
    works.map(of_work).chain(plans().map(Plan::least_room)).max().unwrap_or(0).max(1)
}
