//! Programs: what each core is told to do for a layer, and in which cycles of a beat it uses its ports.
//!
//! While a core computes, its time is cut into **beats**. In a beat each macro computes one output pixel with the tile that it holds.
//! A beat is as long as the longest tile takes, and so long that the macros can use the core's read port one after the other, and
//! its write port as well: each has a fixed window in the beat, so no two ever meet. The simulator says when beats
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

/// Cycles of a beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
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
        window: Window,
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

/// Writes a layer's programs. `turns` count the tiles that each core has had, so that its macros take turns across layers.
pub(crate) fn program(work: &LayerWork, hardware: &Hardware, loading: Loading, turns: &mut [usize]) -> LayerProgram {
    let memory = &hardware.memory;
    let frames = hardware.frames_per_load as u64;
    // All cores move an even part of the maps, each through its share of the next level.
    let fetch = (frames * work.layer.image_bits).div_ceil(memory.next_level_bits_per_cycle);
    let spill = (2 * frames * work.spilled_bits).div_ceil(memory.next_level_bits_per_cycle);
    let joins = work.cores.iter().any(|core| core.at_end != Traffic::default());
    let move_maps = |cycles| Instruction::Move { activity: Activity::MoveMaps, cycles };
    let cores = work.cores.iter().zip(turns).map(|(core, turn)| {
        let mut steps = Vec::with_capacity(8 * core.tiles.len() * core.pixels.len() + 8);
        if fetch > 0 {
            steps.extend([move_maps(fetch), Instruction::Join]);
        }
        Beats::new(core, work, hardware).steps(core, hardware, loading, *turn, &mut steps);
        *turn += core.tiles.len();
        if joins {
            steps.push(Instruction::Join);
            let ports = [
                (Activity::LoadInputs, core.at_end.read, memory.feature_read_bits_per_cycle),
                (Activity::WriteBack, core.at_end.written, memory.feature_write_bits_per_cycle),
            ];
            for (activity, bits, width) in ports.into_iter().filter(|(_, bits, _)| *bits > 0) {
                steps.push(Instruction::Move { activity, cycles: (frames * bits).div_ceil(width) });
            }
        }
        if spill > 0 {
            steps.extend([Instruction::Join, move_maps(spill)]);
        }
        steps
    });
    LayerProgram { name: work.layer.name.clone(), cores: cores.collect() }
}

/// The beat of a core in a layer.
struct Beats {
    period: u64,
    /// Cycles of an access.
    access: u64,
    /// For each copy in the core the places that its tiles take in turn.
    places: Vec<Vec<Place>>,
}

/// When the macro that holds a tile uses the ports.
struct Place {
    read: u64,
    compute: u64,
    write: u64,
}

impl Beats {
    fn new(core: &CoreWork, work: &LayerWork, hardware: &Hardware) -> Self {
        let access = work.layer.conv.as_ref().map_or(0, |conv| conv.precision.cycles);
        let bundle_bits = work.layer.conv.as_ref().map_or(0, ConvMapping::bundle_bits);
        // The inputs of one bundle come before its access.
        let lead = bundle_bits.div_ceil(hardware.memory.feature_read_bits_per_cycle);
        let count = core.macros.min(core.tiles.len());
        let most = |place: usize, cycles: &dyn Fn(&Tile) -> u64| {
            core.tiles[place..].iter().step_by(core.macros).map(cycles).max().unwrap_or(0)
        };
        let reads: Vec<u64> = (0..count).map(|place| most(place, &|tile| tile.read_cycles(hardware))).collect();
        let writes: Vec<u64> = (0..count).map(|place| most(place, &|tile| tile.write_cycles(hardware))).collect();
        let computes: Vec<u64> =
            (0..count).map(|place| most(place, &|tile| tile.compute_cycles(access, hardware))).collect();
        let copies = core.pixels.len() as u64;
        let port = reads.iter().sum::<u64>().max(writes.iter().sum()) * copies;
        let period = computes.iter().copied().fold(port, u64::max).max(1);

        let mut places: Vec<Vec<Place>> = Vec::new();
        let (mut read, mut summed) = (0, 0);
        for _ in 0..copies {
            let copy = (0..count).map(|place| {
                let compute = read + lead.min(reads[place]);
                // The outputs of a cycle are added up in the next one.
                summed = summed.max(compute + computes[place] + 1);
                let at = Place { read, compute, write: 0 };
                read += reads[place];
                at
            });
            places.push(copy.collect());
        }
        let mut write = summed;
        for (place, cycles) in places.iter_mut().flat_map(|copy| copy.iter_mut().zip(&writes)) {
            place.write = write;
            write += cycles;
        }
        Self { period, access, places }
    }

    /// When the macro that gets a tile of a copy uses the ports.
    fn place(&self, core: &CoreWork, copy: usize, tile: usize) -> &Place {
        &self.places[copy][tile % core.macros]
    }

    /// What a round waits for whose tiles go on with sums of the round before: they are written before they are read.
    fn after(&self, core: &CoreWork, turn: usize, copy: usize, round: usize, hardware: &Hardware) -> Option<After> {
        let tiles = |round: usize| {
            (round * core.tiles_per_round..)
                .zip(core.tiles[round * core.tiles_per_round..].iter().take(core.tiles_per_round))
        };
        let reading = tiles(round).filter(|(_, tile)| tile.continues);
        let start = reading.map(|(index, _)| self.place(core, copy, index).read).min()?;
        let before = round.checked_sub(1)?;
        let ends = tiles(before).map(|(index, tile)| self.place(core, copy, index).write + tile.write_cycles(hardware));
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
                            let cycles = tile.index_bits.div_ceil(hardware.memory.index_bits_per_cycle);
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
                    let at = self.place(core, copy, round * core.tiles_per_round + place);
                    let compute = if tile.accesses > 0 { tile.compute_cycles(self.access, hardware) } else { 0 };
                    let windows = [
                        (Activity::LoadInputs, at.read, tile.read_cycles(hardware)),
                        (Activity::Compute, at.compute, compute),
                        (Activity::Accumulate, at.compute + 1, compute),
                        (Activity::WriteBack, at.write, tile.write_cycles(hardware)),
                    ];
                    let used = windows.into_iter().filter(|(.., cycles)| *cycles > 0);
                    steps.extend(used.map(|(activity, offset, cycles)| {
                        let window = Window { offset, cycles };
                        Instruction::Repeat { activity, unit, window, beats: frames * pixels, period }
                    }));
                }
            }
        }
    }
}

impl Tile {
    fn read_cycles(&self, hardware: &Hardware) -> u64 {
        self.traffic.read.div_ceil(hardware.memory.feature_read_bits_per_cycle)
    }

    fn write_cycles(&self, hardware: &Hardware) -> u64 {
        self.traffic.written.div_ceil(hardware.memory.feature_write_bits_per_cycle)
    }

    /// A macro waits for inputs that come more slowly than it computes.
    fn compute_cycles(&self, access: u64, hardware: &Hardware) -> u64 {
        (self.accesses * access).max(self.read_cycles(hardware))
    }

    /// The slowest of the write port, the weight SRAM and the core's share of the next level.
    fn load_cycles(&self, hardware: &Hardware, from_next_level: bool) -> u64 {
        let memory = &hardware.memory;
        let write = self.cell_bits.div_ceil(memory.write_bits_per_cycle);
        let read = self.packed_bits.div_ceil(memory.weight_bits_per_cycle);
        let fetch = match from_next_level {
            true => (self.packed_bits * hardware.cores as u64).div_ceil(memory.next_level_bits_per_cycle),
            false => 0,
        };
        write.max(read).max(fetch)
    }
}
