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
    /// Before which the next wait doesn't end.
    awaited: u64,
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
            Instruction::AwaitSums { unit, cycles } => {
                self.awaited = self.awaited.max(units[unit].began + cycles);
                None
            }
            Instruction::Wait { unit, count, period } => {
                let awaited = std::mem::take(&mut self.awaited);
                let ready = units[unit..unit + count]
                    .iter()
                    .map(|unit| unit.loaded.max(unit.beat))
                    .fold(joined.max(awaited), u64::max);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::{GroupGrid, GroupShape};
    use crate::hardware::mapping::{Placement, dense_sets, workload};
    use crate::integer::{QuantizeConfig, outline};
    use crate::network::{Graph, NetworkSpec};

    const NETWORK: &str = r#"
        name = "tiny"
        input = [6, 3, 3]
        classes = 2
        layers = [
            { op = "conv", name = "conv", filters = 22, kernel = 2 },
            { op = "avg_pool", name = "mean" },
            { op = "linear", name = "linear", filters = 2 },
        ]
    "#;

    /// When a tile reads and writes for its first pixel.
    #[derive(Clone, Copy, Default)]
    struct Ports {
        read: Option<u64>,
        written: Option<u64>,
    }

    /// The ports of each copy's tiles, from the spans of a core; they come in the order of its program.
    fn ports(spans: &[Span], copies: usize, tiles: usize, per_round: usize) -> Vec<Vec<Ports>> {
        let rounds = (0..tiles).step_by(per_round).map(|first| first..tiles.min(first + per_round));
        let in_order = rounds.flat_map(|round| (0..copies).map(move |copy| (copy, round.clone())));
        let mut in_order = in_order.flat_map(|(copy, round)| round.map(move |tile| (copy, tile)));
        let mut ports = vec![vec![Ports::default(); tiles]; copies];
        let (mut read, mut at) = (None, (0, 0));
        for span in spans.iter().filter(|span| span.unit.is_some()) {
            match span.activity {
                Activity::LoadInputs => read = Some(span.start),
                Activity::Compute => {
                    at = in_order.next().unwrap();
                    ports[at.0][at.1].read = read.take();
                }
                Activity::WriteBack => ports[at.0][at.1].written = Some(span.start + span.cycles),
                Activity::DecodeIndex | Activity::LoadWeights | Activity::Accumulate | Activity::MoveMaps => {}
            }
        }
        assert_eq!(in_order.next(), None);
        ports
    }

    /// Also where a part's sums come from several rounds back, in every placement, from any turn on, loaded or not.
    #[test]
    fn partial_sums_are_written_before_they_are_read() {
        let graph = Graph::new(toml::from_str::<NetworkSpec>(NETWORK).unwrap()).unwrap();
        let group = GroupShape { filters: 6, channels: 2 };
        let network = outline(&graph, &QuantizeConfig::default(), group);
        let kept: Vec<_> = network.convs().map(|(conv, _)| dense_sets(&GroupGrid::new(group, &conv.shape))).collect();
        let mut continued = 0;
        for (cores, macros_per_core, held, columns) in
            [(1, 3, 1, 8), (1, 4, 1, 16), (1, 5, 2, 8), (2, 3, 1, 24), (2, 4, 3, 16), (1, 1, 2, 16), (1, 8, 9, 16)]
        {
            for (read_bits, write_bits, frames_per_load) in [(64, 8, 1), (8, 64, 2), (512, 512, 1)] {
                // An access takes one group or two; a group's six filters come in one to six parts.
                let mut hardware = Hardware {
                    cores,
                    macros_per_core,
                    frames_per_load,
                    rows: 4 * held,
                    rows_on: 4,
                    columns,
                    group,
                    ..Hardware::mars()
                };
                hardware.memory.feature_read_bits_per_cycle = read_bits;
                hardware.memory.feature_write_bits_per_cycle = write_bits;
                let layers = workload(&network, &hardware, &kept).unwrap();
                for placement in Placement::all(layers[0].conv.as_ref().unwrap(), &hardware) {
                    let work = TimedWork::new(layers[0].place(Some(placement), &hardware), &hardware);
                    for (loading, turn) in [(Loading::Never, 0), (Loading::Never, 2), (Loading::WeightSram, 1)] {
                        let mut simulator = Simulator::new(&hardware);
                        simulator.cores.iter_mut().for_each(|core| core.turn = turn);
                        let mut spans = vec![Vec::new(); cores];
                        simulator.run(&work, loading, |span| spans[span.core].push(span));
                        for (core, spans) in work.cores.iter().zip(&spans) {
                            let ports = ports(spans, core.pixels.len(), core.tiles.len(), core.tiles_per_round);
                            for (copy, (tile, number)) in (0..core.pixels.len())
                                .flat_map(|copy| core.tiles.iter().zip(0..).map(move |tile| (copy, tile)))
                            {
                                for source in tile.sums_of.clone() {
                                    // Parts without a real filter have no sums.
                                    let Some(written) = ports[copy][source].written else { continue };
                                    let read = ports[copy][number].read.unwrap();
                                    assert!(
                                        written <= read,
                                        "tile {number} reads in cycle {read} what tile {source} writes until {written}: {placement:?}"
                                    );
                                    continued += usize::from(source + 1 < number);
                                }
                            }
                        }
                    }
                }
            }
        }
        assert!(continued > 100, "{continued}");
    }
}
