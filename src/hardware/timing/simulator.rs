//! The simulator that runs programs, exact to the cycle.
//!
//! Layers follow each other, since a layer needs the whole map before it; the slowest core ends a layer. A core's steps begin in
//! the order of its program, each as soon as what it uses is free, so weights come through the write port while macros compute,
//! also those of an earlier layer. A macro that loads doesn't compute. Steps that repeat are run at once, not beat by beat.

use super::program::{Activity, Instruction, LayerProgram};
use super::timeline::{LayerTime, Span};
use crate::hardware::chip::Hardware;

/// The chip between two steps.
#[derive(Clone, Debug)]
pub(crate) struct Simulator {
    cores: Vec<Core>,
    /// When all cores were last done.
    joined: u64,
    layers: usize,
}

/// When the parts of a core are free.
#[derive(Clone, Debug)]
struct Core {
    write_port: u64,
    next_level: u64,
    decoder: u64,
    units: Vec<Unit>,
    /// The beat that the last wait found.
    beat: u64,
    /// When everything that began since the last join is done.
    done: u64,
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

impl Simulator {
    pub(crate) fn new(hardware: &Hardware) -> Self {
        let units = vec![Unit::default(); hardware.macros_per_core];
        let core = Core { write_port: 0, next_level: 0, decoder: 0, units, beat: 0, done: 0 };
        Self { cores: vec![core; hardware.cores], joined: 0, layers: 0 }
    }

    /// Runs a layer from where the one before ended, and gives its end. `trace` gets what the parts of the cores do.
    pub(crate) fn run(&mut self, program: &LayerProgram, mut trace: impl FnMut(Span)) -> LayerTime {
        let start = self.joined;
        let layer = self.layers;
        self.layers += 1;
        let mut rest: Vec<&[Instruction]> = program.cores.iter().map(Vec::as_slice).collect();
        loop {
            for (number, (core, rest)) in self.cores.iter_mut().zip(&mut rest).enumerate() {
                let length = rest.iter().position(|step| *step == Instruction::Join).unwrap_or(rest.len());
                for step in &rest[..length] {
                    if let Some(Stretch { unit, activity, start, cycles, times, period }) = core.step(step, self.joined)
                    {
                        trace(Span { core: number, unit, layer, activity, start, cycles, times, period });
                    }
                }
                *rest = &rest[length..];
            }
            self.joined = self.cores.iter().map(|core| core.done).fold(self.joined, u64::max);
            // All programs have the same number of joins.
            if rest.iter().all(|rest| rest.is_empty()) {
                return LayerTime { name: program.name.clone(), start, end: self.joined };
            }
            rest.iter_mut().for_each(|rest| *rest = &rest[1..]);
        }
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
    fn step(&mut self, step: &Instruction, joined: u64) -> Option<Stretch> {
        match *step {
            Instruction::DecodeIndex { unit, cycles } => {
                let start = self.decoder.max(self.units[unit].computed);
                self.decoder = start + cycles;
                self.units[unit].loaded = self.units[unit].loaded.max(self.decoder);
                Some(Stretch::once(Some(unit), Activity::DecodeIndex, start, cycles))
            }
            Instruction::LoadWeights { unit, cycles, from_next_level } => {
                let mut start = self.write_port.max(self.units[unit].computed);
                if from_next_level {
                    start = start.max(self.next_level);
                    self.next_level = start + cycles;
                }
                self.write_port = start + cycles;
                self.units[unit].loaded = self.units[unit].loaded.max(self.write_port);
                Some(Stretch::once(Some(unit), Activity::LoadWeights, start, cycles))
            }
            Instruction::Wait { unit, count, period, after } => {
                let units = &self.units[unit..unit + count];
                let sums = after.map_or(0, |after| self.units[after.unit].began + after.cycles);
                let ready = units.iter().map(|unit| unit.loaded.max(unit.beat)).fold(joined.max(sums), u64::max);
                self.beat = joined + (ready - joined).next_multiple_of(period);
                None
            }
            Instruction::Repeat { activity, unit, window, beats, period } => {
                let start = self.beat + window.offset;
                let end = start + (beats - 1) * period + window.cycles;
                let of_unit = &mut self.units[unit];
                of_unit.began = self.beat;
                of_unit.beat = self.beat + beats * period;
                if activity == Activity::Compute {
                    of_unit.computed = end;
                }
                self.done = self.done.max(end);
                Some(Stretch { unit: Some(unit), activity, start, cycles: window.cycles, times: beats, period })
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
            Instruction::Join => unreachable!("the simulator parts programs at their joins"),
        }
    }
}
