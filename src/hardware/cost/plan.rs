//! Plan: a placement of each layer on all of a chip, and what a frame takes with it.

use std::iter::Sum;
use std::ops::{Add, Range};
use std::sync::Arc;

use super::energy::{Macros, layer_energy};
use super::held::{Fullness, LayerHeld};
use crate::hardware::chip::{Hardware, Objective, Policy};
use crate::hardware::mapping::{Layer, Placement};
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

    /// The placement of each layer.
    pub(super) fn placements(&self) -> Arc<Placements> {
        self.works.iter().map(|work| work.placement).collect()
    }

    /// Whether each layer is placed as the hardware file decides.
    pub(super) fn is_allowed(&self, hardware: &Hardware) -> bool {
        let mut placed = self.works.iter().filter_map(|work| Some((work.placement?, work.layer.conv.as_ref()?)));
        placed.all(|(placement, conv)| placement.is_allowed(conv, hardware))
    }

    /// The fewest accesses that a macro may have room for, so that what stays loaded does.
    pub(super) fn least_room(&self) -> usize {
        match self.loading {
            Loading::Never => self.most_held as usize,
            Loading::WeightSram | Loading::NextLevel => 0,
        }
    }

    /// Macros that hold a tile in a frame, and of all that the whole chip has those that don't.
    pub(super) fn macros(&self, hardware: &Hardware) -> Macros {
        Macros { holding: self.holding, idle: hardware.macros() - self.holding }
    }

    /// What a frame takes, without the leakage of macros that hold nothing.
    pub(super) fn expense(&self, hardware: &Hardware) -> Expense {
        self.expense_on(self.runner(hardware))
    }

    /// A chip to run it on, without the leakage of macros that hold nothing.
    pub(super) fn runner<'b>(&self, hardware: &'b Hardware) -> Runner<'b> {
        Runner::new(hardware, self.loading, Macros { holding: self.holding, idle: 0 })
    }

    /// What a frame takes, with the leakage of macros that hold nothing.
    pub(super) fn whole_expense(&self, hardware: &Hardware) -> Expense {
        self.expense_on(Runner::new(hardware, self.loading, self.macros(hardware)))
    }

    fn expense_on(&self, mut chip: Runner) -> Expense {
        self.works.iter().map(|work| chip.expense(work)).sum()
    }
}

/// A chip that runs one layer after the other.
pub(super) struct Runner<'a> {
    hardware: &'a Hardware,
    loading: Loading,
    macros: Macros,
    /// Between two layers.
    pub(super) state: Simulator,
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
    pub(super) fn expense(&mut self, work: &TimedWork) -> Expense {
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
    pub(super) fn share(&self, around: &Self, objective: Objective) -> f64 {
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

impl Add for Expense {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { cycles: self.cycles + other.cycles, energy_uj: self.energy_uj + other.energy_uj }
    }
}

impl Sum for Expense {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// The one that is worth the least; of equal ones the first.
pub(super) fn least<T>(all: impl Iterator<Item = T>, worth: impl Fn(&T) -> (f64, f64)) -> Option<T> {
    all.reduce(|best, next| if worth(&next) < worth(&best) { next } else { best })
}

/// A layer in a placement.
pub(super) fn timed<'a>(layer: &'a Layer, placement: Option<Placement>, hardware: &Hardware) -> Arc<TimedWork<'a>> {
    Arc::new(TimedWork::new(layer.place(placement, hardware), hardware))
}

/// The placement of each layer; none for a pooling layer.
pub(super) type Placements = [Option<Placement>];

/// Each layer in its placement.
pub(super) fn placed<'a>(layers: &'a [Layer], placements: &Placements, hardware: &Hardware) -> Plan<'a> {
    let works = layers.iter().zip(placements).map(|(layer, placement)| timed(layer, *placement, hardware));
    Plan::new(works.collect(), hardware)
}

/// All layers alike.
pub(super) fn fixed<'a>(layers: &'a [Layer], hardware: &Hardware, policy: Policy) -> Plan<'a> {
    let of_layer = |layer: &Layer| Placement::of_policy(policy, layer.conv.as_ref()?, hardware);
    placed(layers, &layers.iter().map(of_layer).collect::<Vec<_>>(), hardware)
}

/// A layer in each of its placements, the plain one first.
pub(super) type Works<'a> = Vec<Arc<TimedWork<'a>>>;

/// A plan and what a frame takes on it.
pub(super) struct Costed<'a> {
    pub(super) plan: Plan<'a>,
    pub(super) expense: Expense,
}

impl<'a> Costed<'a> {
    pub(super) fn new(plan: Plan<'a>, hardware: &Hardware) -> Self {
        let expense = plan.expense(hardware);
        Self { plan, expense }
    }
}
