//! Programs: what each core is told to do for a layer, and in which cycles of a beat it uses its ports.
//!
//! While a core computes, its time is cut into **beats**. In a beat each macro computes one output pixel with the tile that it holds.
//! A beat is as long as the longest tile takes, and so long that the macros can use the core's read port one after the other, and
//! its write port as well: each has a fixed slot of the beat, so no two ever meet. The simulator says when beats
//! begin.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use serde::Serialize;

use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{ConvMapping, CoreWork, LayerWork, Tile};

/// Whether weights have to be loaded, and from where; farther is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loading {
    /// All weights stay in the macros.
    Never,
    /// From the cores' weight SRAMs.
    WeightSram,
    /// From the next memory level, through the weight SRAMs.
    NextLevel,
}

/// What a part of a core does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// The core's decoder reads the index codes of a tile.
    DecodeIndex,
    /// A macro's cells are written through the core's weight port.
    LoadWeights,
    /// The core's read port brings inputs, waiting sums and residual values from the feature-map SRAM.
    LoadInputs,
    /// A macro makes accesses.
    Compute,
    /// The adders of a macro add up its outputs.
    Accumulate,
    /// The core's write port takes values and waiting sums to the feature-map SRAM.
    WriteBack,
    /// The core's share of the next memory level brings the image, or takes what the feature-map SRAM can't hold and brings it back.
    MoveMaps,
}

/// Cycles of a beat in which something is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TimeSlot {
    /// First one, from the beginning of the beat in which the pixel's inputs are loaded; it may lie in a later beat.
    pub offset: u64,
    /// How many.
    pub cycles: u64,
}

/// A step of a core's program. Steps are begun in their order, each as soon as what it needs is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Instruction {
    /// Decodes the index codes of the tile that a macro gets next.
    DecodeIndex {
        /// The macro.
        unit: usize,
        /// Duration.
        cycles: u64,
    },
    /// Writes a tile into a macro, once the one before is computed.
    LoadWeights {
        /// The macro.
        unit: usize,
        /// Duration.
        cycles: u64,
        /// Whether the weights come from the next level, whose share of this core is then busy as well.
        from_next_level: bool,
    },
    /// Has the next [`Wait`](Self::Wait) wait for partial sums that one of its macros continues.
    AwaitSums {
        /// The macro that had their tile.
        unit: usize,
        /// Least number of cycles between the beat in which this macro began the tile that it has now and the one that is waited for.
        cycles: u64,
    },
    /// Blocks until, for `count` neighboring macros: their tile is loaded; their previous tile is computed; the layer's inputs are
    /// present; awaited sums will be there for each pixel. Then aligns to the next beat.
    Wait {
        /// The first of these neighbors.
        unit: usize,
        /// How many.
        count: usize,
        /// Length of a beat.
        period: u64,
    },
    /// Does the same in many beats in a row, from the one that the last [`Wait`](Self::Wait) found.
    Repeat {
        /// What is done.
        activity: Activity,
        /// By or for which macro.
        unit: usize,
        /// When in a beat.
        slot: TimeSlot,
        /// How many beats.
        beats: u64,
        /// Length of a beat.
        period: u64,
    },
    /// Waits until all cores have come here.
    Join,
    /// Moves values once; moves through different ports overlap.
    Move {
        /// [`Activity::LoadInputs`], [`Activity::WriteBack`] or [`Activity::MoveMaps`].
        activity: Activity,
        /// Duration.
        cycles: u64,
    },
}

/// The program of every core for one layer; the next layer's begins when all are done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerProgram {
    /// Name of the layer.
    pub name: String,
    /// Each core's steps; all have the same number of [`Instruction::Join`].
    pub cores: Vec<Vec<Instruction>>,
}

/// A placed layer and the cycles that the steps of its cores take, from which their programs are read step by step.
#[derive(Debug)]
pub(crate) struct TimedWork<'a> {
    work: LayerWork<'a>,
    /// Of each core; copies share them.
    beats: Vec<Arc<Beats>>,
    frames: u64,
    /// In which each core's share of the next level brings the image, and moves what the feature-map SRAM can't hold.
    fetch: u64,
    spill: u64,
    /// In which each core's ports move what they move at the end.
    ends: Vec<End>,
}

/// A stretch of a layer's programs, at whose end all cores wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// The image comes.
    Image,
    /// Tiles are loaded and computed.
    Tiles,
    /// Partial sums of other cores are added up, or maps are pooled.
    End,
    /// What the feature-map SRAM can't hold moves.
    Spill,
}

/// Cycles in which a core's ports move what they move at the end of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    read: u64,
    written: u64,
}

impl<'a> Deref for TimedWork<'a> {
    type Target = LayerWork<'a>;

    fn deref(&self) -> &LayerWork<'a> {
        &self.work
    }
}

impl<'a> TimedWork<'a> {
    pub(crate) fn new(work: LayerWork<'a>, hardware: &Hardware) -> Self {
        let memory = &hardware.memory;
        let frames = hardware.frames_per_load as u64;
        // Copies have the tiles of the first one.
        let mut known: HashMap<*const _, Arc<Beats>> = HashMap::new();
        let of_core = |core: &CoreWork| {
            let beats = known.entry(Arc::as_ptr(&core.tiles));
            beats.or_insert_with(|| Arc::new(Beats::new(core, &work, hardware))).clone()
        };
        let beats = work.cores.iter().map(of_core).collect();
        let end = |core: &CoreWork| End {
            read: memory.read_cycles(frames * core.at_end.read),
            written: memory.write_back_cycles(frames * core.at_end.written),
        };
        Self {
            beats,
            frames,
            // All cores move an even part of the maps, each through its share of the next level.
            fetch: memory.next_level_cycles(frames * work.layer.image_bits),
            spill: memory.next_level_cycles(2 * frames * work.spilled_bits),
            ends: work.cores.iter().map(end).collect(),
            work,
        }
    }

    /// The stretches that its programs have.
    pub(super) fn sections(&self) -> impl Iterator<Item = Section> {
        let joins = self.ends.iter().any(|end| *end != End { read: 0, written: 0 });
        let sections = [
            (Section::Image, self.fetch > 0),
            (Section::Tiles, true),
            (Section::End, joins),
            (Section::Spill, self.spill > 0),
        ];
        sections.into_iter().filter(|(_, is_there)| *is_there).map(|(section, _)| section)
    }

    /// Gives the steps of a core to `step`. `turn` counts the tiles that the core has had, so that its macros take turns across layers.
    pub(super) fn steps(
        &self,
        section: Section,
        core: usize,
        turn: usize,
        loading: Loading,
        mut step: impl FnMut(Instruction),
    ) {
        let mut moves = |activity, cycles| {
            if cycles > 0 {
                step(Instruction::Move { activity, cycles });
            }
        };
        match section {
            Section::Image => moves(Activity::MoveMaps, self.fetch),
            Section::Tiles => self.beats[core].steps(&self.cores[core], self.frames, loading, turn, step),
            Section::End => {
                moves(Activity::LoadInputs, self.ends[core].read);
                moves(Activity::WriteBack, self.ends[core].written);
            }
            Section::Spill => moves(Activity::MoveMaps, self.spill),
        }
    }

    /// All of it, for cores that have had so many tiles.
    pub(super) fn program(&self, turns: impl Iterator<Item = usize>, loading: Loading) -> LayerProgram {
        let of_core = |(core, turn)| {
            let mut steps = Vec::new();
            for (index, section) in self.sections().enumerate() {
                if index > 0 {
                    steps.push(Instruction::Join);
                }
                self.steps(section, core, turn, loading, |step| steps.push(step));
            }
            steps
        };
        LayerProgram { name: self.layer.name.clone(), cores: turns.enumerate().map(of_core).collect() }
    }
}

/// The beat of a core in a layer.
#[derive(Debug)]
struct Beats {
    period: u64,
    tiles: Vec<TileCycles>,
    /// The places that a copy's tiles take in turn, copy by copy.
    places: Vec<Place>,
    /// Places of a copy.
    count: usize,
}

/// Cycles that a tile takes.
#[derive(Clone, Debug)]
struct TileCycles {
    /// In which its index codes are decoded.
    decode: u64,
    /// In which its weights are loaded from the weight SRAM.
    load: u64,
    /// The same from the next level.
    load_from_next_level: u64,
    /// In a beat: of the read port, of the macro, and of the write port.
    read: u64,
    compute: u64,
    write: u64,
    /// The tiles of earlier rounds whose partial sums it continues.
    sources: Range<usize>,
}

/// When the macro that holds a tile uses the ports.
#[derive(Clone, Copy, Debug)]
struct Place {
    read: u64,
    compute: u64,
    write: u64,
}

impl TileCycles {
    /// `access` are those of an access.
    fn new(tile: &Tile, access: u64, hardware: &Hardware) -> Self {
        let memory = &hardware.memory;
        let read = memory.read_cycles(tile.traffic.read);
        // The slowest of the write port, the weight SRAM and the core's share of the next level.
        let load = memory.load_cycles(tile.cell_bits, tile.packed_bits);
        let fetch = memory.next_level_cycles(tile.packed_bits * hardware.cores as u64);
        Self {
            decode: memory.decode_cycles(tile.index_bits),
            load,
            load_from_next_level: load.max(fetch),
            read,
            // A macro waits for inputs that come more slowly than it computes.
            compute: if tile.accesses > 0 { (tile.accesses * access).max(read) } else { 0 },
            write: memory.write_back_cycles(tile.traffic.written),
            sources: tile.sources.clone(),
        }
    }
}

impl Beats {
    fn new(core: &CoreWork, work: &LayerWork, hardware: &Hardware) -> Self {
        let access = work.layer.access_cycles();
        let bundle_bits = work.layer.conv.as_ref().map_or(0, ConvMapping::bundle_bits);
        // The inputs of one bundle come before its access.
        let lead = hardware.memory.read_cycles(bundle_bits);
        let tiles: Vec<TileCycles> = core.tiles.iter().map(|tile| TileCycles::new(tile, access, hardware)).collect();
        let count = core.macros.min(tiles.len());
        // The longest that a tile of each place takes.
        let mut longest = vec![Place { read: 0, compute: 0, write: 0 }; count];
        for (tile, place) in tiles.iter().zip((0..count).cycle()) {
            let Place { read, compute, write } = &mut longest[place];
            *read = tile.read.max(*read);
            *compute = tile.compute.max(tile.read).max(*compute);
            *write = tile.write.max(*write);
        }
        let copies = core.pixels.len();
        let sum = |cycles: fn(&Place) -> u64| longest.iter().map(cycles).sum::<u64>();
        let port = sum(|place| place.read).max(sum(|place| place.write)) * copies as u64;
        let period = longest.iter().map(|place| place.compute).fold(port, u64::max).max(1);

        let mut places = Vec::with_capacity(copies * count);
        let (mut read, mut summed) = (0, 0);
        for longest in std::iter::repeat_n(&longest, copies).flatten() {
            let compute = read + lead.min(longest.read);
            // The outputs of a cycle are added up in the next one.
            summed = summed.max(compute + longest.compute + 1);
            places.push(Place { read, compute, write: 0 });
            read += longest.read;
        }
        let mut write = summed;
        for (place, longest) in places.iter_mut().zip(longest.iter().cycle()) {
            place.write = write;
            write += longest.write;
        }
        Self { period, tiles, places, count }
    }

    /// When the macros that get the tiles of a round of a copy, from `first` on, use the ports.
    fn places_from(&self, copy: usize, first: usize) -> &[Place] {
        &self.places[copy * self.count + first % self.count..]
    }

    /// Emits what a tile of a copy awaits: for each pixel, the partial sums that it continues are written before they are read. `first` is the
    /// first tile of its round; any tile takes `duration` for all pixels.
    fn await_sums(
        &self,
        core: &CoreWork,
        turn: usize,
        copy: usize,
        [first, tile]: [usize; 2],
        duration: u64,
        mut step: impl FnMut(Instruction),
    ) {
        let place = |tile: usize| self.places[copy * self.count + tile % self.count];
        for source in self.tiles[tile].sources.clone() {
            let write = self.tiles[source].write;
            // Parts without a real filter have no sums.
            if write > 0 {
                // Its macro may have had tiles since, each of which began when the one before was over.
                let since = (first - source - 1) / core.macros;
                let written = place(source).write + write;
                let cycles = written.saturating_sub(place(tile).read + since as u64 * duration);
                step(Instruction::AwaitSums { unit: core.unit_of(turn, copy, source), cycles });
            }
        }
    }

    fn steps(&self, core: &CoreWork, frames: u64, loading: Loading, turn: usize, mut step: impl FnMut(Instruction)) {
        let period = self.period;
        for (round, tiles) in self.tiles.chunks(core.tiles_per_round.max(1)).enumerate() {
            let first = round * core.tiles_per_round;
            for (copy, pixels) in core.pixels.iter().enumerate() {
                // Those that start together are neighbors.
                let first_unit = core.unit_of(turn, copy, first);
                if loading != Loading::Never {
                    for (unit, tile) in (first_unit..).zip(tiles) {
                        if tile.decode > 0 {
                            step(Instruction::DecodeIndex { unit, cycles: tile.decode });
                        }
                        // Other copies of the core have it from its weight SRAM.
                        let from_next_level = loading == Loading::NextLevel && copy == 0;
                        let cycles = if from_next_level { tile.load_from_next_level } else { tile.load };
                        step(Instruction::LoadWeights { unit, cycles, from_next_level });
                    }
                }
                for tile in first..first + tiles.len() {
                    self.await_sums(core, turn, copy, [first, tile], frames * pixels * period, &mut step);
                }
                step(Instruction::Wait { unit: first_unit, count: tiles.len(), period });
                for ((unit, tile), at) in (first_unit..).zip(tiles).zip(self.places_from(copy, first)) {
                    let mut repeat = |activity, offset, cycles| {
                        if cycles > 0 {
                            let slot = TimeSlot { offset, cycles };
                            step(Instruction::Repeat { activity, unit, slot, beats: frames * pixels, period });
                        }
                    };
                    repeat(Activity::LoadInputs, at.read, tile.read);
                    repeat(Activity::Compute, at.compute, tile.compute);
                    repeat(Activity::Accumulate, at.compute + 1, tile.compute);
                    repeat(Activity::WriteBack, at.write, tile.write);
                }
            }
        }
    }
}
