//! Programs: what each core is told to do for a layer, and in which cycles of a beat it uses its ports.
//!
//! While a core computes, its time is cut into **beats**. In a beat each macro computes one output pixel with the tile that it holds.
//! A beat is as long as the longest tile takes, and so long that the macros can use the core's read port one after the other, and
//! its write port as well: each has a fixed slot of the beat, so no two ever meet. The simulator says when beats
//! begin.

use serde::Serialize;

use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{ConvMapping, CoreWork, LayerWork, Tile, Traffic};

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

/// Sums that one tile leaves in the feature-map SRAM for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct After {
    /// The macro that has the tile before.
    pub unit: usize,
    /// Least number of cycles between the beats in which the two have the same pixel.
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
    /// Blocks until, for `count` neighboring macros: their tile is loaded; their previous tile is computed; the layer's inputs are
    /// present; partial sums that they continue are present. Then aligns to the next beat.
    Wait {
        /// The first of these neighbors.
        unit: usize,
        /// How many.
        count: usize,
        /// Length of a beat.
        period: u64,
        /// Whose partial sums they continue.
        after: Option<After>,
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

/// Writes a layer's programs, one for each core, over those that are there. `turns` count the tiles that each core has had, so that its macros take turns
/// across layers.
pub(crate) fn write_programs(
    work: &LayerWork,
    hardware: &Hardware,
    loading: Loading,
    turns: &mut [usize],
    programs: &mut Vec<Vec<Instruction>>,
) {
    let memory = &hardware.memory;
    let frames = hardware.frames_per_load as u64;
    // All cores move an even part of the maps, each through its share of the next level.
    let fetch = memory.next_level_cycles(frames * work.layer.image_bits);
    let spill = memory.next_level_cycles(2 * frames * work.spilled_bits);
    let joins = work.cores.iter().any(|core| core.at_end != Traffic::default());
    let move_maps = |cycles| Instruction::Move { activity: Activity::MoveMaps, cycles };
    programs.resize_with(work.cores.len(), Vec::new);
    for ((core, turn), steps) in work.cores.iter().zip(turns).zip(programs) {
        steps.clear();
        if fetch > 0 {
            steps.extend([move_maps(fetch), Instruction::Join]);
        }
        Beats::new(core, work, hardware).steps(core, hardware, loading, *turn, steps);
        *turn += core.tiles.len();
        if joins {
            steps.push(Instruction::Join);
            let ports = [
                (Activity::LoadInputs, memory.read_cycles(frames * core.at_end.read)),
                (Activity::WriteBack, memory.write_back_cycles(frames * core.at_end.written)),
            ];
            let used = ports.into_iter().filter(|(_, cycles)| *cycles > 0);
            steps.extend(used.map(|(activity, cycles)| Instruction::Move { activity, cycles }));
        }
        if spill > 0 {
            steps.extend([Instruction::Join, move_maps(spill)]);
        }
    }
}

/// The beat of a core in a layer.
struct Beats {
    period: u64,
    /// Cycles of an access.
    access: u64,
    /// The places that a copy's tiles take in turn, copy by copy.
    places: Vec<Place>,
    /// Places of a copy.
    count: usize,
}

/// When the macro that holds a tile uses the ports.
#[derive(Clone, Copy)]
struct Place {
    read: u64,
    compute: u64,
    write: u64,
}

impl Beats {
    fn new(core: &CoreWork, work: &LayerWork, hardware: &Hardware) -> Self {
        let access = work.layer.access_cycles();
        let bundle_bits = work.layer.conv.as_ref().map_or(0, ConvMapping::bundle_bits);
        // The inputs of one bundle come before its access.
        let lead = hardware.memory.read_cycles(bundle_bits);
        let count = core.macros.min(core.tiles.len());
        // The longest that a tile of each place takes.
        let mut longest = vec![Place { read: 0, compute: 0, write: 0 }; count];
        for (tile, place) in core.tiles.iter().zip((0..count).cycle()) {
            let Place { read, compute, write } = &mut longest[place];
            *read = tile.read_cycles(hardware).max(*read);
            *compute = tile.compute_cycles(access, hardware).max(*compute);
            *write = tile.write_cycles(hardware).max(*write);
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
        Self { period, access, places, count }
    }

    /// When the macro that gets a tile of a copy uses the ports.
    fn place(&self, copy: usize, tile: usize) -> &Place {
        &self.places[copy * self.count + tile % self.count]
    }

    /// What a round waits for whose tiles go on with sums of the round before: they are written before they are read.
    fn after(&self, core: &CoreWork, turn: usize, copy: usize, round: usize, hardware: &Hardware) -> Option<After> {
        let tiles = |round: usize| {
            (round * core.tiles_per_round..)
                .zip(core.tiles[round * core.tiles_per_round..].iter().take(core.tiles_per_round))
        };
        let reading = tiles(round).filter(|(_, tile)| tile.continues);
        let start = reading.map(|(index, _)| self.place(copy, index).read).min()?;
        let before = round.checked_sub(1)?;
        let ends = tiles(before).map(|(index, tile)| self.place(copy, index).write + tile.write_cycles(hardware));
        let cycles = ends.max()?.saturating_sub(start);
        Some(After { unit: core.unit_of(turn, copy, before * core.tiles_per_round), cycles })
    }

    fn steps(&self, core: &CoreWork, hardware: &Hardware, loading: Loading, turn: usize, steps: &mut Vec<Instruction>) {
        let frames = hardware.frames_per_load as u64;
        for (round, tiles) in core.tiles.chunks(core.tiles_per_round.max(1)).enumerate() {
            for (copy, pixels) in core.pixels.iter().enumerate() {
                let unit_of = |place: usize| core.unit_of(turn, copy, round * core.tiles_per_round + place);
                if loading != Loading::Never {
                    for (place, tile) in tiles.iter().enumerate() {
                        let unit = unit_of(place);
                        if tile.index_bits > 0 {
                            let cycles = hardware.memory.decode_cycles(tile.index_bits);
                            steps.push(Instruction::DecodeIndex { unit, cycles });
                        }
                        // Other copies of the core have it from its weight SRAM.
                        let from_next_level = loading == Loading::NextLevel && copy == 0;
                        let cycles = tile.load_cycles(hardware, from_next_level);
                        steps.push(Instruction::LoadWeights { unit, cycles, from_next_level });
                    }
                }
                let period = self.period;
                let after = self.after(core, turn, copy, round, hardware);
                steps.push(Instruction::Wait { unit: unit_of(0), count: tiles.len(), period, after });
                for (place, tile) in tiles.iter().enumerate() {
                    let unit = unit_of(place);
                    let at = self.place(copy, round * core.tiles_per_round + place);
                    let compute = if tile.accesses > 0 { tile.compute_cycles(self.access, hardware) } else { 0 };
                    let slots = [
                        (Activity::LoadInputs, at.read, tile.read_cycles(hardware)),
                        (Activity::Compute, at.compute, compute),
                        (Activity::Accumulate, at.compute + 1, compute),
                        (Activity::WriteBack, at.write, tile.write_cycles(hardware)),
                    ];
                    let used = slots.into_iter().filter(|(.., cycles)| *cycles > 0);
                    steps.extend(used.map(|(activity, offset, cycles)| {
                        let slot = TimeSlot { offset, cycles };
                        Instruction::Repeat { activity, unit, slot, beats: frames * pixels, period }
                    }));
                }
            }
        }
    }
}

impl Tile {
    fn read_cycles(&self, hardware: &Hardware) -> u64 {
        hardware.memory.read_cycles(self.traffic.read)
    }

    fn write_cycles(&self, hardware: &Hardware) -> u64 {
        hardware.memory.write_back_cycles(self.traffic.written)
    }

    /// A macro waits for inputs that come more slowly than it computes.
    fn compute_cycles(&self, access: u64, hardware: &Hardware) -> u64 {
        (self.accesses * access).max(self.read_cycles(hardware))
    }

    /// The slowest of the write port, the weight SRAM and the core's share of the next level.
    fn load_cycles(&self, hardware: &Hardware, from_next_level: bool) -> u64 {
        let memory = &hardware.memory;
        let load = memory.load_cycles(self.cell_bits, self.packed_bits);
        match from_next_level {
            true => load.max(memory.next_level_cycles(self.packed_bits * hardware.cores as u64)),
            false => load,
        }
    }
}
