//! The simulator that runs programs, exact to the cycle.
//!
//! Layers follow each other, since a layer needs the whole map before it; the slowest core ends a layer. A core's steps begin in
//! the order of its program, each as soon as what it uses is free, so weights come through the write port while macros compute,
//! also those of an earlier layer. A macro that loads doesn't compute. Steps that repeat are run at once, not beat by beat.

use std::ops::Range;

use super::program::{Activity, Instruction, LayerProgram, Loading, TimedWork};
use super::timeline::Span;
use crate::hardware::chip::Hardware;

/// The chip between two steps.
#[derive(Debug)]
pub(crate) struct Simulator {
    cores: Vec<Core>,
    /// The macros of all cores, core by core.
    units: Vec<Unit>,
    units_per_core: usize,
    /// When all cores were last done.
    joined: u64,
    layers: usize,
}

/// When the parts of a core are free.
#[derive(Clone, Copy, Debug, Default)]
struct Core {
    write_port: u64,
    next_level: u64,
    decoder: u64,
    /// The beat that the last wait found.
    beat: u64,
    /// When everything that began since the last join is done.
    done: u64,
    /// Tiles that it has had.
    turn: usize,
}

/// A macro.
#[derive(Clone, Copy, Debug, Default)]
struct Unit {
    /// When its cells may be written.
    computed: u64,
    /// When its tile may be used.
    loaded: u64,
    /// The beat in which it began its tile.
    began: u64,
    /// The first beat in which it may begin another tile.
    beat: u64,
}

impl Clone for Simulator {
    fn clone(&self) -> Self {
        Self { cores: self.cores.clone(), units: self.units.clone(), ..*self }
    }

    /// Takes no new memory.
    fn clone_from(&mut self, from: &Self) {
        let Self { cores, units, units_per_core, joined, layers } = from;
        self.cores.clone_from(cores);
        self.units.clone_from(units);
        (self.units_per_core, self.joined, self.layers) = (*units_per_core, *joined, *layers);
    }
}

impl Simulator {
    pub(crate) fn new(hardware: &Hardware) -> Self {
        Self {
            cores: vec![Core::default(); hardware.cores],
            units: vec![Unit::default(); hardware.macros()],
            units_per_core: hardware.macros_per_core,
            joined: 0,
            layers: 0,
        }
    }

    /// Runs the next layer from where the one before ended, and gives the cycles that it takes. `trace` gets what the parts of the cores do.
    pub(crate) fn run(&mut self, work: &TimedWork, loading: Loading, mut trace: impl FnMut(Span)) -> Range<u64> {
        let (start, layer) = (self.joined, self.layers);
        for section in work.sections() {
            let joined = self.joined;
            let cores = self.cores.iter_mut().zip(self.units.chunks_exact_mut(self.units_per_core));
            for (number, (core, units)) in cores.enumerate() {
                let turn = core.turn;
                work.steps(section, number, turn, loading, |step| {
                    if let Some(Stretch { unit, activity, start, cycles, times, period }) =
                        core.step(units, step, joined)
                    {
                        trace(Span { core: number, unit, layer, activity, start, cycles, times, period });
                    }
                });
            }
            self.joined = self.cores.iter().map(|core| core.done).fold(joined, u64::max);
        }
        self.cores.iter_mut().zip(&work.cores).for_each(|(core, work)| core.turn += work.tiles.len());
        self.layers += 1;
        start..self.joined
    }

    /// The programs that [`run`](Self::run) would go through.
    pub(crate) fn program(&self, work: &TimedWork, loading: Loading) -> LayerProgram {
        work.program(self.cores.iter().map(|core| core.turn), loading)
    }
}

/// What a core does in a step: a [`Span`] that doesn't know its core and layer.
struct Stretch {
    unit: Option<usize>,
    activity: Activity,
    start: u64,
    cycles: u64,
    times: u64,
    period: u64,
}

impl Stretch {
    fn once(unit: Option<usize>, activity: Activity, start: u64, cycles: u64) -> Self {
        Self { unit, activity, start, cycles, times: 1, period: 0 }
    }
}

impl Core {
    /// Begins a step, and gives what the core does in it; nothing that needs the layer's inputs begins before `joined`.
    #[inline(always)] // Each caller knows the kind of step.
    fn step(&mut self, units: &mut [Unit], step: Instruction, joined: u64) -> Option<Stretch> {
        match step {
            Instruction::DecodeIndex { unit, cycles } => {
                let start = self.decoder.max(units[unit].computed);
                self.decoder = start + cycles;
                units[unit].loaded = units[unit].loaded.max(self.decoder);
                Some(Stretch::once(Some(unit), Activity::DecodeIndex, start, cycles))
            }
            Instruction::LoadWeights { unit, cycles, from_next_level } => {
                let mut start = self.write_port.max(units[unit].computed);
                if from_next_level {
                    start = start.max(self.next_level);
                    self.next_level = start + cycles;
                }
                self.write_port = start + cycles;
                units[unit].loaded = units[unit].loaded.max(self.write_port);
                Some(Stretch::once(Some(unit), Activity::LoadWeights, start, cycles))
            }
            Instruction::Wait { unit, count, period, after } => {
                let sums = after.map_or(0, |after| units[after.unit].began + after.cycles);
                let ready = units[unit..unit + count]
                    .iter()
                    .map(|unit| unit.loaded.max(unit.beat))
                    .fold(joined.max(sums), u64::max);
                self.beat = joined + (ready - joined).next_multiple_of(period);
                None
            }
            Instruction::Repeat { activity, unit, slot, beats, period } => {
                let start = self.beat + slot.offset;
                let end = start + (beats - 1) * period + slot.cycles;
                let of_unit = &mut units[unit];
                of_unit.began = self.beat;
                of_unit.beat = self.beat + beats * period;
                if activity == Activity::Compute {
                    of_unit.computed = end;
                }
                self.done = self.done.max(end);
                Some(Stretch { unit: Some(unit), activity, start, cycles: slot.cycles, times: beats, period })
            }
            Instruction::Move { activity, cycles } => {
                let through_next_level = activity == Activity::MoveMaps;
                let start = if through_next_level { joined.max(self.next_level) } else { joined };
                if through_next_level {
                    self.next_level = start + cycles;
                }
                self.done = self.done.max(start + cycles);
                Some(Stretch::once(None, activity, start, cycles))
            }
            Instruction::Join => unreachable!("cores join between sections"),
        }
    }
}
