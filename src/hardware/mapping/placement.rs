//! Placement: which core and macro holds which accesses, and for which output pixels it makes them.
//!
//! It knows nothing of time or energy; the programs start from it.

use std::ops::Range;

use serde::Serialize;

use super::accesses::{ACCUMULATOR_BITS, ConvMapping};
use crate::hardware::chip::{Hardware, Policy};

/// How one layer lies on the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Placement {
    /// What the cores divide among themselves.
    pub split: Split,
    /// How often the layer's weights are on the chip. Each copy has its own cores, or its own macros of a core if there are more
    /// copies than cores, and computes its share of the output pixels.
    pub copies: usize,
    /// When the macros of a core start.
    pub start: Start,
}

/// What cores divide among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Filter sets: a set is on one core.
    FilterSets,
    /// Input channels: a set's kept groups are on all cores, whose sums are added at the end of the layer.
    InputChannels,
}

/// When the macros of a core start. Weights stay where they are written until all output pixels are computed, either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Each as soon as it is written; sums of a filter set wait in the feature-map SRAM from one tile to the next.
    Staggered,
    /// All once all are written; sums of a filter set that is on several of them meet in the core.
    Together,
}

impl Placement {
    /// Filter sets over cores, nothing twice, no macro waits for another.
    pub(crate) const PLAIN: Self = Self { split: Split::FilterSets, copies: 1, start: Start::Staggered };

    /// Every placement that a layer may have on a chip, the plain one first.
    ///
    /// Only a layer of which all copies together have no more accesses than the chip's macros hold is copied.
    pub(crate) fn all(mapping: &ConvMapping, hardware: &Hardware) -> Vec<Self> {
        let mut all = Vec::new();
        for copies in Self::copy_numbers(mapping, hardware) {
            for split in [Split::FilterSets, Split::InputChannels] {
                for start in [Start::Staggered, Start::Together] {
                    all.push(Self { split, copies, start });
                }
            }
        }
        // Where there is nothing to divide or to wait for, a placement is the same as a simpler one.
        all.retain(|placement| {
            (placement.split == Split::FilterSets || placement.cores(hardware) > 1)
                && (placement.start == Start::Staggered || placement.macros(hardware) > 1)
        });
        all
    }

    /// The placement that a fixed policy gives; none for the automatic one.
    pub(crate) fn of_policy(policy: Policy, mapping: &ConvMapping, hardware: &Hardware) -> Option<Self> {
        Some(match policy {
            Policy::Auto => return None,
            Policy::FilterSets => Self::PLAIN,
            Policy::Together => Self { start: Start::Together, ..Self::PLAIN },
            Policy::InputChannels => Self { split: Split::InputChannels, ..Self::PLAIN },
            Policy::Duplicate => {
                let copies = Self::copy_numbers(mapping, hardware).max().unwrap_or(1);
                Self { copies, ..Self::PLAIN }
            }
        })
    }

    /// Numbers of copies: those that divide the cores, then whole numbers of copies in each core.
    fn copy_numbers(mapping: &ConvMapping, hardware: &Hardware) -> impl Iterator<Item = usize> {
        let (cores, macros) = (hardware.cores, hardware.macros_per_core);
        let over_cores = (1..=cores).filter(move |copies| cores.is_multiple_of(*copies));
        let in_cores =
            (2..=macros).filter(move |copies| macros.is_multiple_of(*copies)).map(move |copies| cores * copies);
        let room = hardware.macros() * hardware.accesses_per_macro();
        let accesses = mapping.accesses();
        let pixels = mapping.shape.output.pixels();
        over_cores
            .chain(in_cores)
            .filter(move |copies| *copies == 1 || (*copies <= pixels && accesses * copies <= room))
    }

    /// Cores of a copy.
    fn cores(&self, hardware: &Hardware) -> usize {
        (hardware.cores / self.copies).max(1)
    }

    /// Copies in a core.
    fn copies_in_core(&self, hardware: &Hardware) -> usize {
        (self.copies / hardware.cores).max(1)
    }

    /// Macros of a copy in one core.
    fn macros(&self, hardware: &Hardware) -> usize {
        hardware.macros_per_core / self.copies_in_core(hardware)
    }
}

/// Accesses whose weights are in one macro at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) accesses: u64,
    /// Kept groups, counted with the first part of their filters.
    groups: u64,
    /// Cells to write, padding included.
    pub(crate) cell_bits: u64,
    /// Weights, index codes and coefficients to read from the weight SRAM.
    pub(crate) packed_bits: u64,
    /// The index codes alone.
    pub(crate) index_bits: u64,
    /// Feature-map SRAM to core for an output pixel: inputs, sums that waited, residual values.
    pub(crate) read_bits: u64,
    /// Core to feature-map SRAM for an output pixel: values, sums that wait.
    pub(crate) write_bits: u64,
    /// Whether it goes on with sums that waited.
    pub(crate) continues: bool,
}

/// What one core does of a layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoreWork {
    /// In the order in which they are loaded, in turn to the macros of a copy. Each copy in the core has all of them.
    pub(crate) tiles: Vec<Tile>,
    /// Output pixels of each copy in the core.
    pub(crate) pixels: Vec<u64>,
    /// Macros of a copy.
    pub(crate) macros: usize,
    /// Tiles that start together.
    pub(crate) round: usize,
    /// Values moved at the end, when all cores are done: read, written. Sums of other cores, or the maps of a pooling layer.
    pub(crate) moved_bits: [u64; 2],
    /// Sums of other cores that are added at the end.
    pub(crate) joined_sums: u64,
    /// Most sums for an output pixel that wait in the feature-map SRAM at a time.
    pub(crate) waiting_sums: u64,
}

impl CoreWork {
    /// A sum over tiles and copies.
    fn loads(&self, bits: impl Fn(&Tile) -> u64) -> u64 {
        self.tiles.iter().map(bits).sum::<u64>() * self.pixels.len() as u64
    }

    /// The macro that a tile of a copy goes to. Macros that start together are neighbors from the first one on; others take turns
    /// across layers, from `turn` on.
    pub(crate) fn unit_of(&self, turn: usize, copy: usize, tile: usize) -> usize {
        let turn = if self.round > 1 { 0 } else { turn };
        copy * self.macros + (turn + tile) % self.macros
    }

    /// Cells written when all tiles of all copies are loaded, in bits.
    pub(crate) fn cell_bits(&self) -> u64 {
        self.loads(|tile| tile.cell_bits)
    }

    /// Bits read from the weight SRAM when all tiles of all copies are loaded.
    pub(crate) fn packed_bits(&self) -> u64 {
        self.loads(|tile| tile.packed_bits)
    }

    /// Bits of index codes decoded when all tiles of all copies are loaded.
    pub(crate) fn index_bits(&self) -> u64 {
        self.loads(|tile| tile.index_bits)
    }

    /// Room in the core's weight SRAM, where copies share their weights.
    pub(crate) fn stored_bits(&self) -> u64 {
        self.tiles.iter().map(|tile| tile.packed_bits).sum()
    }

    /// Room that sums take in the feature-map SRAM, in bits.
    pub(crate) fn waiting_bits(&self) -> u64 {
        self.pixels.iter().sum::<u64>() * self.waiting_sums * ACCUMULATOR_BITS
    }

    /// Bits that a frame reads from the feature-map SRAM.
    pub(crate) fn read_bits(&self) -> u64 {
        self.moved_bits[0] + self.pixels.iter().sum::<u64>() * self.tiles.iter().map(|tile| tile.read_bits).sum::<u64>()
    }

    /// Bits that a frame writes to the feature-map SRAM.
    pub(crate) fn write_bits(&self) -> u64 {
        self.moved_bits[1]
            + self.pixels.iter().sum::<u64>() * self.tiles.iter().map(|tile| tile.write_bits).sum::<u64>()
    }
}

/// What follows a convolution's sums.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outputs {
    /// Filters that read a value to join their sum, and its bits.
    pub(crate) joined: Range<usize>,
    pub(crate) joined_bits: u64,
    /// Bits that are stored for each filter.
    pub(crate) stored_bits: u64,
}

impl Outputs {
    fn joined(&self, filters: &Range<usize>) -> u64 {
        let joined = filters.end.min(self.joined.end).saturating_sub(filters.start.max(self.joined.start));
        joined as u64 * self.joined_bits
    }

    fn stored(&self, filters: &Range<usize>) -> u64 {
        filters.len() as u64 * self.stored_bits
    }
}

/// The bundles of a filter set that a core has.
#[derive(Clone, Debug)]
struct Share {
    set: usize,
    bundles: Range<usize>,
    /// Whether other cores have the rest, so that sums are added at the end of the layer.
    partial: bool,
}

/// Lays a convolution on the cores.
pub(crate) fn place(
    mapping: &ConvMapping,
    outputs: &Outputs,
    placement: Placement,
    hardware: &Hardware,
) -> Vec<CoreWork> {
    let shares = match placement.split {
        Split::FilterSets => sets_over_cores(mapping, placement.cores(hardware)),
        Split::InputChannels => channels_over_cores(mapping, placement.cores(hardware)),
    };
    let macros = placement.macros(hardware);
    let round = if placement.start == Start::Together { macros } else { 1 };
    let mut one_copy: Vec<CoreWork> = (shares.iter())
        .map(|shares| {
            let mut work = CoreWork { macros, round, ..CoreWork::default() };
            fill(&mut work, shares, mapping, outputs, hardware);
            work
        })
        .collect();
    let ends = ends(&shares, mapping, outputs);

    let pixels = mapping.shape.output.pixels() as u64;
    let before = |copy: usize| pixels * copy as u64 / placement.copies as u64;
    let in_core = placement.copies_in_core(hardware);
    let mut cores = Vec::new();
    for first in (0..placement.copies).step_by(in_core) {
        let pixels: Vec<u64> = (first..first + in_core).map(|copy| before(copy + 1) - before(copy)).collect();
        let all: u64 = pixels.iter().sum();
        for (work, end) in one_copy.iter_mut().zip(&ends) {
            work.pixels.clone_from(&pixels);
            work.moved_bits = [all * end.read_bits, all * end.written_bits];
            work.joined_sums = all * end.sums;
            cores.push(work.clone());
        }
    }
    assert_conserved(mapping, &cores);
    cores
}

/// The filter sets of each core where they are divided and nothing is twice.
pub(crate) fn sets_of_cores(mapping: &ConvMapping, hardware: &Hardware) -> Vec<Vec<usize>> {
    let shares = sets_over_cores(mapping, hardware.cores);
    shares.into_iter().map(|shares| shares.into_iter().map(|share| share.set).collect()).collect()
}

/// Sets go to the core with the fewest accesses, the longest first.
fn sets_over_cores(mapping: &ConvMapping, cores: usize) -> Vec<Vec<Share>> {
    let mut order: Vec<usize> = (0..mapping.sets.len()).collect();
    order.sort_by_key(|&set| (std::cmp::Reverse(mapping.set_bundles(set)), set));
    let mut shares = vec![Vec::new(); cores];
    let mut loads = vec![0; cores];
    for set in order {
        let core = (0..cores).min_by_key(|&core| loads[core]).expect("a chip has cores");
        loads[core] += mapping.set_bundles(set);
        shares[core].push(Share { set, bundles: 0..mapping.set_bundles(set), partial: false });
    }
    shares
}

/// Each set's bundles in even parts, which go round the cores.
fn channels_over_cores(mapping: &ConvMapping, cores: usize) -> Vec<Vec<Share>> {
    let mut shares = vec![Vec::new(); cores];
    for set in 0..mapping.sets.len() {
        let bundles = mapping.set_bundles(set);
        let partial = bundles.min(cores) > 1;
        for part in 0..cores {
            let bundles = bundles * part / cores..bundles * (part + 1) / cores;
            // A set without accesses still has values to store.
            if !bundles.is_empty() || (mapping.set_bundles(set) == 0 && part == 0) {
                shares[(set + part) % cores].push(Share { set, bundles, partial });
            }
        }
    }
    shares
}

/// What a core does for an output pixel of a copy when all cores of the copy are done.
#[derive(Clone, Default)]
struct End {
    read_bits: u64,
    written_bits: u64,
    /// Additions.
    sums: u64,
}

/// Sums that several cores have are added by the cores in turn.
fn ends(shares: &[Vec<Share>], mapping: &ConvMapping, outputs: &Outputs) -> Vec<End> {
    let mut ends = vec![End::default(); shares.len()];
    let mut parts = vec![0; mapping.sets.len()];
    shares.iter().flatten().filter(|share| share.partial).for_each(|share| parts[share.set] += 1);
    for (set, parts) in parts.into_iter().enumerate().filter(|(_, parts)| *parts > 0) {
        let filters = mapping.set_filters(set);
        let end = &mut ends[set % shares.len()];
        end.read_bits += parts * filters.len() as u64 * ACCUMULATOR_BITS + outputs.joined(&filters);
        end.written_bits += outputs.stored(&filters);
        end.sums += (parts - 1) * filters.len() as u64;
    }
    ends
}

/// Cuts a core's accesses into tiles, in order and evenly.
fn fill(work: &mut CoreWork, shares: &[Share], mapping: &ConvMapping, outputs: &Outputs, hardware: &Hardware) {
    let parts = mapping.parts();
    let accesses: usize = shares.iter().map(|share| share.bundles.len() * parts).sum();
    let count = accesses.div_ceil(hardware.accesses_per_macro()).next_multiple_of(work.macros).min(accesses);
    // The first access of a tile, and the tile of an access.
    let start_of = |tile: usize| (tile * accesses).div_ceil(count);
    let tile_of = |access: usize| access * count / accesses;
    work.tiles = vec![Tile::default(); count.max(usize::from(!shares.is_empty()))];
    let mut first = 0;
    let mut partial_sums = 0;
    for share in shares {
        let set = share.set;
        let end = first + share.bundles.len() * parts;
        // A set without accesses is with the first tile.
        let tiles = if first < end { tile_of(first)..tile_of(end - 1) + 1 } else { 0..0 };
        let index_bits = mapping.sets[set].index_bits;
        let at = &mut work.tiles[tiles.start];
        at.index_bits += index_bits;
        at.packed_bits += index_bits + mapping.coefficient_bits(set);
        if first == end {
            let filters = mapping.set_filters(set);
            at.read_bits += outputs.joined(&filters);
            at.write_bits += outputs.stored(&filters);
        }
        // The set's accesses are numbered from its first bundle on.
        let own = share.bundles.start * parts..share.bundles.end * parts;
        let in_set = |access: usize| (own.start + access.saturating_sub(first)).min(own.end);
        for tile in tiles {
            let together = tile / work.round * work.round;
            let cut = Cut {
                own: own.clone(),
                round: in_set(start_of(together))..in_set(start_of((together + work.round).min(count))),
                here: in_set(start_of(tile))..in_set(start_of(tile + 1)),
            };
            add(&mut work.tiles[tile], share, &cut, mapping, outputs);
            if !share.partial {
                let (before, after) = (cut.own.start..cut.round.end, cut.round.end..cut.own.end);
                let waits = (0..parts).filter(|&part| mapping.any_of(&before, part) && mapping.any_of(&after, part));
                let waiting = waits.map(|part| mapping.real_filters(set, part).len() as u64).sum();
                work.waiting_sums = work.waiting_sums.max(waiting);
            }
        }
        if share.partial {
            partial_sums += mapping.set_filters(set).len() as u64;
        }
        first = end;
    }
    work.waiting_sums += partial_sums;
}

/// Accesses of a filter set, numbered from its first bundle on.
struct Cut {
    /// Those that the core has.
    own: Range<usize>,
    /// Of these, those of the tiles that start together.
    round: Range<usize>,
    /// Of these, those of one tile.
    here: Range<usize>,
}

/// Adds a share's accesses to a tile.
fn add(tile: &mut Tile, share: &Share, cut: &Cut, mapping: &ConvMapping, outputs: &Outputs) {
    let Cut { own, round, here } = cut;
    let (set, parts) = (share.set, mapping.parts());
    tile.accesses += here.len() as u64;
    // A bundle of which the macro before has another part is heard by both.
    let heard = !here.start.is_multiple_of(parts) && here.start > round.start;
    let bundles = here.start / parts + usize::from(heard)..here.end.div_ceil(parts);
    if !bundles.is_empty() {
        tile.read_bits += mapping.gathered_bits(set, &bundles);
    }
    for part in 0..parts {
        let bundles = mapping.bundles_of(here, part);
        if bundles.is_empty() {
            continue;
        }
        if part == 0 {
            tile.groups += mapping.groups_in(set, &bundles).len() as u64;
        }
        let stored_bits = mapping.stored_bits(set, &bundles, part);
        tile.cell_bits += mapping.cell_bits(set, &bundles, part);
        tile.packed_bits += stored_bits;

        let filters = mapping.real_filters(set, part);
        let sums = filters.len() as u64;
        let any = |accesses: Range<usize>| mapping.any_of(&accesses, part);
        if any(own.start..round.start) && !any(round.start..here.start) {
            tile.read_bits += sums * ACCUMULATOR_BITS;
            tile.continues = true;
        }
        if !any(here.end..round.end) {
            let unfinished = any(round.end..own.end);
            if unfinished || share.partial {
                tile.write_bits += sums * ACCUMULATOR_BITS;
            } else {
                tile.read_bits += outputs.joined(&filters);
                tile.write_bits += outputs.stored(&filters);
            }
        }
    }
}

/// Each access and each kept group is computed once for each output pixel.
fn assert_conserved(mapping: &ConvMapping, cores: &[CoreWork]) {
    let pixels = mapping.shape.output.pixels() as u64;
    let computed = |count: fn(&Tile) -> u64| -> u64 {
        let of_core = |core: &CoreWork| core.pixels.iter().sum::<u64>() * core.tiles.iter().map(count).sum::<u64>();
        cores.iter().map(of_core).sum()
    };
    let name = &mapping.name;
    let accesses = mapping.accesses() as u64 * pixels;
    assert_eq!(
        computed(|tile| tile.accesses),
        accesses,
        "layer `{name}`: each access is made once for each output pixel"
    );
    let groups = mapping.kept_groups() as u64 * pixels;
    assert_eq!(
        computed(|tile| tile.groups),
        groups,
        "layer `{name}`: each kept group is computed once for each output pixel"
    );
}
