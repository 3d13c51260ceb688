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
    use std::collections::BTreeMap;

    use super::*;
    use crate::groups::{GroupGrid, GroupShape};
    use crate::hardware::mapping::{CoreWork, Placement, dense_sets, workload};
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

    /// When a tile uses its macro and ports for the first pixel, and its beats.
    #[derive(Clone, Copy, Default)]
    struct Times {
        read: Option<u64>,
        written: Option<u64>,
        beats: u64,
        period: u64,
    }

    /// Those of each copy's tiles, from the spans of a core, which come in the order of its program.
    fn times(spans: &[Span], core: &CoreWork) -> Vec<Vec<Times>> {
        let (copies, tiles) = (core.pixels.len(), core.tiles.len());
        let mut times = vec![vec![Times::default(); tiles]; copies];
        let mut spans = spans.iter().filter(|span| span.unit.is_some()).peekable();
        for first in (0..tiles).step_by(core.tiles_per_round) {
            for copy in &mut times {
                // All are loaded before the first one computes.
                let loads = [Activity::LoadWeights, Activity::DecodeIndex];
                while spans.next_if(|span| loads.contains(&span.activity)).is_some() {}
                for tile in copy.iter_mut().skip(first).take(core.tiles_per_round) {
                    tile.read = spans.next_if(|span| span.activity == Activity::LoadInputs).map(|span| span.start);
                    let compute = spans.next().unwrap();
                    assert_eq!(compute.activity, Activity::Compute);
                    (tile.beats, tile.period) = (compute.times, compute.period);
                    assert_eq!(spans.next().unwrap().activity, Activity::Accumulate);
                    let write = spans.next_if(|span| span.activity == Activity::WriteBack);
                    tile.written = write.map(|span| span.start + span.cycles);
                    assert!(write.is_none_or(|write| (write.times, write.period) == (tile.beats, tile.period)));
                }
            }
        }
        assert!(spans.next().is_none());
        times
    }

    /// Checks that a copy's tiles read no sum before it is written; counts the sums, and those of more than one round back.
    fn check_sums(core: &CoreWork, times: &[Times], what: &str) -> [usize; 2] {
        let mut counted = [0, 0];
        for (number, tile) in core.tiles.iter().enumerate() {
            for source in tile.sources.clone() {
                // Parts without a real filter have no sums.
                let (Some(written), Some(read)) = (times[source].written, times[number].read) else { continue };
                assert!(
                    written <= read,
                    "tile {number} reads in cycle {read} what {source} writes until {written}: {what}"
                );
                counted[0] += 1;
                counted[1] += usize::from(number - source > core.tiles_per_round);
            }
        }
        counted
    }

    /// Checks that no round of a copy whose weights are there begins a beat too late, where beats are counted from `base` on.
    fn check_haste(core: &CoreWork, times: &[Times], base: u64, what: &str) {
        let first_of_round = |tile: usize| tile - tile % core.tiles_per_round;
        // The first tile of a round always reads inputs.
        let began = |tile: usize| {
            let Times { read, period, .. } = times[first_of_round(tile)];
            base + (read.unwrap() - base) / period * period
        };
        for first in (0..times.len()).step_by(core.tiles_per_round) {
            let earlier = |cycle: u64| cycle.checked_sub(times[first].period).filter(|cycle| *cycle >= base);
            let Some(beat_before) = earlier(began(first)) else { continue };
            let mut round = first..times.len().min(first + core.tiles_per_round);
            // When a macro began a tile that it no longer has is known by the least that its tiles since took.
            if core.tiles[round.clone()]
                .iter()
                .any(|tile| tile.sources.start + core.macros < first && !tile.sources.is_empty())
            {
                continue;
            }
            let waits = round.any(|tile| {
                let busy = tile
                    .checked_sub(core.macros)
                    .is_some_and(|before| began(before) + times[before].beats * times[before].period > beat_before);
                let sums = || core.tiles[tile].sources.clone().filter_map(|source| times[source].written);
                let read_before = times[tile].read.map(|read| read - times[tile].period);
                busy || read_before.is_some_and(|read| sums().any(|written| written > read))
            });
            assert!(waits, "tile {first} could begin in cycle {beat_before}: {what}");
        }
    }

    /// Also where sums come from several rounds back: in every placement, from any turn on, loaded or not.
    #[test]
    fn tiles_await_the_sums_that_they_read_and_nothing_else() {
        let graph = Graph::new(toml::from_str::<NetworkSpec>(NETWORK).unwrap()).unwrap();
        let group = GroupShape { filters: 6, channels: 2 };
        let network = outline(&graph, &QuantizeConfig::default(), group);
        let kept: Vec<_> = network.convs().map(|(conv, _)| dense_sets(&GroupGrid::new(group, &conv.shape))).collect();
        let (mut of_placements, mut from_further) = (BTreeMap::<String, usize>::new(), 0);
        for (cores, macros_per_core, held, columns) in [
            (1, 3, 1, 8),
            (1, 4, 1, 16),
            (1, 5, 2, 8),
            (2, 3, 1, 24),
            (2, 4, 3, 16),
            (1, 1, 2, 16),
            (1, 2, 1, 8),
            (1, 8, 9, 16),
            (1, 6, 24, 16),
            (2, 3, 24, 16),
        ] {
            for (read_bits, write_bits, frames_per_load) in [(64, 8, 1), (8, 64, 2), (512, 512, 1)] {
                // An access takes two of a set's twelve groups; its six filters of 8 bits come in six, three or two parts.
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
                for (layer, placement) in
                    layers.iter().filter_map(|layer| Some((layer, layer.conv.as_ref()?))).flat_map(|(layer, conv)| {
                        Placement::all(conv, &hardware).into_iter().map(move |placement| (layer, placement))
                    })
                {
                    let work = TimedWork::new(layer.place(Some(placement), &hardware), &hardware);
                    for (loading, turn) in [(Loading::Never, 0), (Loading::Never, 2), (Loading::WeightSram, 1)] {
                        let mut simulator = Simulator::new(&hardware);
                        simulator.cores.iter_mut().for_each(|core| core.turn = turn);
                        let mut spans = vec![Vec::new(); cores];
                        simulator.run(&work, loading, |span| spans[span.core].push(span));
                        for (core, spans) in work.cores.iter().zip(&spans).filter(|(core, _)| !core.tiles.is_empty()) {
                            let what = format!("{} {placement:?} {hardware:?}", layer.name);
                            let times = times(spans, core);
                            for copy in &times {
                                let key =
                                    format!("{:?} {:?} {}", placement.start, placement.split, placement.copies.min(2));
                                let [continued, further] = check_sums(core, copy, &what);
                                *of_placements.entry(key).or_default() += continued;
                                from_further += further;
                                if loading == Loading::Never {
                                    check_haste(core, copy, times[0][0].read.unwrap(), &what);
                                }
                            }
                        }
                    }
                }
            }
        }
        // Copies hold all their tiles at once, so those that start together have one round.
        let without: Vec<&str> =
            of_placements.iter().filter(|(_, sums)| **sums == 0).map(|(key, _)| key.as_str()).collect();
        assert_eq!((of_placements.len(), without), (6, vec!["Together FilterSets 2"]), "{of_placements:?}");
        assert!(from_further > 1000, "{from_further}");
    }
}
