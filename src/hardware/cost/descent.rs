//! Descent: a plan becomes better by one layer's placement at a time, until none makes it better.

use std::sync::Arc;

use super::plan::{Costed, Expense, Plan, Runner, Works};
use crate::hardware::chip::Hardware;
use crate::hardware::timing::{Simulator, TimedWork};

/// How many layers show what another placement of the first one changes: macros that it leaves early are loaded for those behind it.
const NEAR: usize = 3;

/// What those farther behind may gain by it, as a part of all.
const FAR: f64 = 0.005;

/// Makes plans better.
pub(super) struct Descent<'a, 'b> {
    /// Each layer in each of its placements.
    pub(super) works: &'b [Works<'a>],
    pub(super) hardware: &'b Hardware,
    /// The fewest accesses that a macro may have room for, so that the same placements are taken.
    pub(super) least_room: usize,
}

impl<'a, 'b> Descent<'a, 'b> {
    /// Takes placements as long as one makes the plan better: layer by layer, over and over, until all were looked at and none was taken.
    pub(super) fn from(&mut self, mut best: Costed<'a>) -> Costed<'a> {
        let layers = self.works.len();
        let mut unchanged = 0;
        while unchanged < layers {
            let mut before = Before::first(&best.plan, self.hardware);
            for layer in 0..layers {
                let taken = self.better(&mut best, layer, &mut before);
                unchanged = if taken { 0 } else { unchanged + 1 };
                if unchanged == layers {
                    break;
                }
                before.pass(&best.plan.works[layer]);
            }
        }
        best
    }

    /// Looks at each placement of a layer; tells whether one was taken.
    fn better(&mut self, best: &mut Costed<'a>, layer: usize, before: &mut Before<'b>) -> bool {
        let objective = self.hardware.mapping.objective;
        let works = self.works;
        let mut own = before.near(best, layer, &best.plan.works[layer], |_| true);
        let mut taken = false;
        for work in &works[layer] {
            if work.placement == best.plan.works[layer].placement {
                continue;
            }
            let around = best.expense;
            let promises = |near: Expense| {
                let cycles = (around.cycles + near.cycles).saturating_sub(own.cycles);
                let whole = Expense { cycles, energy_uj: around.energy_uj - own.energy_uj + near.energy_uj };
                whole.worth(objective).0 < around.worth(objective).0 * (1.0 + FAR)
            };
            let near = before.near(best, layer, work, promises);
            if promises(near) && self.takes(best, layer, work) {
                taken = true;
                *before = Before::layer(&best.plan, layer, self.hardware);
                own = before.near(best, layer, work, |_| true);
            }
        }
        taken
    }

    /// Takes a layer's placement where the whole plan is better with it.
    fn takes(&mut self, best: &mut Costed<'a>, layer: usize, work: &Arc<TimedWork<'a>>) -> bool {
        let objective = self.hardware.mapping.objective;
        let mut works = best.plan.works.clone();
        works[layer] = work.clone();
        let other = Costed::new(Plan::new(works, self.hardware), self.hardware);
        let better = other.expense.worth(objective) < best.expense.worth(objective);
        if better {
            self.least_room = self.least_room.max(other.plan.least_room());
            *best = other;
        }
        better
    }
}

/// A chip before a layer of a plan.
struct Before<'b> {
    state: Simulator,
    /// Runs what is tried.
    trial: Runner<'b>,
}

impl<'b> Before<'b> {
    fn first(plan: &Plan, hardware: &'b Hardware) -> Self {
        let trial = plan.runner(hardware);
        Self { state: trial.state.clone(), trial }
    }

    fn layer(plan: &Plan, layer: usize, hardware: &'b Hardware) -> Self {
        let mut before = Self::first(plan, hardware);
        plan.works[..layer].iter().for_each(|work| before.pass(work));
        before
    }

    /// Goes on to the next layer.
    fn pass(&mut self, work: &TimedWork) {
        self.trial.state.clone_from(&self.state);
        self.trial.run(work);
        std::mem::swap(&mut self.state, &mut self.trial.state);
    }

    /// What the layer in a placement and those behind it take, or a part of that which doesn't promise anything: more of them only take more.
    fn near(&mut self, best: &Costed, layer: usize, work: &TimedWork, promises: impl Fn(Expense) -> bool) -> Expense {
        self.trial.state.clone_from(&self.state);
        let mut near = self.trial.expense(work);
        for behind in best.plan.works[layer + 1..].iter().take(NEAR - 1) {
            if !promises(near) {
                break;
            }
            near = near + self.trial.expense(behind);
        }
        near
    }
}
