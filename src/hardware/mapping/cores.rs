//! Cores: what each core does of a layer, once the layer is placed.

use std::sync::Arc;

use super::accesses::ConvMapping;
use super::outputs::Outputs;
use super::placement::Placement;
use super::shares::{Share, numbered};
use super::tiles::{Charge, Tile, Tiling};
use super::traffic::Traffic;
use crate::hardware::chip::Hardware;
use crate::integer::ACCUMULATOR_BITS;

/// What one core does of a layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoreWork {
    /// In load order; tile *i* goes to macro *i mod macros* of each copy in the core.
    pub(crate) tiles: Arc<[Tile]>,
    /// Their sum.
    total: Tile,
    /// Output pixels of each copy in the core.
    pub(crate) pixels: Vec<u64>,
    /// Macros of a copy.
    pub(crate) macros: usize,
    /// Tiles that start together.
    pub(crate) tiles_per_round: usize,
    /// What moves at the end, when all cores are done: partial sums of other cores, or the maps of a pooling layer.
    pub(crate) at_end: Traffic,
    /// Partial sums of other cores that are added at the end.
    pub(super) joined_sums: u64,
    /// Most partial sums for an output pixel that wait in the feature-map SRAM at a time.
    waiting_sums: u64,
}

impl CoreWork {
    /// A core that only moves the maps of a pooling layer.
    pub(super) fn pooling(at_end: Traffic) -> Self {
        Self { at_end, ..Self::default() }
    }

    /// A core of one copy, without its output pixels.
    fn new(
        shares: &[Share],
        mapping: &ConvMapping,
        outputs: &Outputs,
        placement: Placement,
        hardware: &Hardware,
    ) -> Self {
        let tiling = Tiling::of_core(shares, mapping, placement, hardware);
        // Sets without accesses need a tile for their outputs.
        let mut tiles = vec![Tile::default(); tiling.tiles().max(usize::from(!shares.is_empty()))];
        let (mut most_waiting, mut for_other_cores) = (0, 0);
        for (share, of_share) in numbered(shares, mapping.parts()) {
            let charge = Charge { mapping, outputs, share };
            if of_share.is_empty() {
                charge.index(&mut tiles[0]);
                charge.empty_set(&mut tiles[0]);
            } else {
                charge.index(&mut tiles[tiling.tile_of(of_share.start)]);
            }
            let of_set = share.accesses(mapping.parts());
            for segment in tiling.segments(of_share.clone(), of_set.clone()) {
                let tile = &mut tiles[segment.tile];
                charge.weights(tile, &segment);
                charge.inputs(tile, &segment);
                charge.sums(tile, &segment);
                let sources = tiling.sources(&segment, mapping.parts(), &of_share, &of_set);
                if !sources.is_empty() {
                    // No second share of a tile began in an earlier round.
                    tile.sources = sources;
                }
                if !share.partial {
                    most_waiting = charge.waiting_sums(&segment).max(most_waiting);
                }
            }
            if share.partial {
                for_other_cores += mapping.set_filters(share.set).len() as u64;
            }
        }
        let waiting_sums = most_waiting + for_other_cores;
        let total = tiles.iter().sum();
        let (macros, tiles_per_round) = (placement.macros(hardware), placement.tiles_per_round(hardware));
        Self { tiles: tiles.into(), total, macros, tiles_per_round, waiting_sums, ..Self::default() }
    }

    fn copies(&self) -> u64 {
        self.pixels.len() as u64
    }

    /// Accesses that the core's macros hold with all copies.
    pub(crate) fn held_accesses(&self) -> u64 {
        self.total.accesses * self.copies()
    }

    /// Whether a copy's macros take turns across layers. Those that start together are neighbors from the first one on.
    pub(crate) fn takes_turns(&self) -> bool {
        self.tiles_per_round <= 1
    }

    /// The macro that a tile of a copy goes to, from `turn` on where macros take turns.
    pub(crate) fn unit_of(&self, turn: usize, copy: usize, tile: usize) -> usize {
        let turn = if self.takes_turns() { turn } else { 0 };
        copy * self.macros + (turn + tile) % self.macros
    }

    /// Cells written when all tiles of all copies are loaded, in bits.
    pub(crate) fn cell_bits(&self) -> u64 {
        self.total.cell_bits * self.copies()
    }

    /// Bits read from the weight SRAM when all tiles of all copies are loaded.
    pub(crate) fn packed_bits(&self) -> u64 {
        self.total.packed_bits * self.copies()
    }

    /// Bits of index codes decoded when all tiles of all copies are loaded.
    pub(crate) fn index_bits(&self) -> u64 {
        self.total.index_bits * self.copies()
    }

    /// Room in the core's weight SRAM, where copies share their weights.
    pub(crate) fn stored_bits(&self) -> u64 {
        self.total.packed_bits
    }

    /// Output pixels of all copies.
    fn all_pixels(&self) -> u64 {
        self.pixels.iter().sum()
    }

    /// Room that partial sums take in the feature-map SRAM, in bits.
    pub(super) fn waiting_bits(&self) -> u64 {
        self.all_pixels() * self.waiting_sums * ACCUMULATOR_BITS
    }

    /// What a frame moves from and to the feature-map SRAM.
    pub(crate) fn traffic(&self) -> Traffic {
        self.at_end + self.total.traffic * self.all_pixels()
    }
}

/// Lays a convolution on the cores.
pub(super) fn place(
    mapping: &ConvMapping,
    outputs: &Outputs,
    placement: Placement,
    hardware: &Hardware,
) -> Vec<CoreWork> {
    let shares = placement.shares(mapping, hardware);
    let work = |shares: &Vec<Share>| CoreWork::new(shares, mapping, outputs, placement, hardware);
    let one_copy: Vec<CoreWork> = shares.iter().map(work).collect();
    let ends = ends(&shares, mapping, outputs);

    let pixels = mapping.shape.output.pixels() as u64;
    let before = |copy: usize| pixels * copy as u64 / placement.copies as u64;
    let in_core = placement.copies_in_core(hardware);
    let mut cores = Vec::new();
    for first in (0..placement.copies).step_by(in_core) {
        let pixels: Vec<u64> = (first..first + in_core).map(|copy| before(copy + 1) - before(copy)).collect();
        let all: u64 = pixels.iter().sum();
        cores.extend(one_copy.iter().zip(&ends).map(|(work, end)| CoreWork {
            pixels: pixels.clone(),
            at_end: end.traffic * all,
            joined_sums: end.sums * all,
            ..work.clone()
        }));
    }
    assert_conserved(mapping, &cores);
    cores
}

/// What a core does for an output pixel of a copy when all cores of the copy are done.
#[derive(Clone, Default)]
struct End {
    traffic: Traffic,
    /// Additions.
    sums: u64,
}

/// Partial sums that several cores have: core `s % cores` adds up those of set `s`.
fn ends(shares: &[Vec<Share>], mapping: &ConvMapping, outputs: &Outputs) -> Vec<End> {
    let mut ends = vec![End::default(); shares.len()];
    let mut holders = vec![0; mapping.sets.len()];
    shares.iter().flatten().filter(|share| share.partial).for_each(|share| holders[share.set] += 1);
    for (set, holders) in holders.into_iter().enumerate().filter(|(_, holders)| *holders > 0) {
        let filters = mapping.set_filters(set);
        let sums = filters.len() as u64;
        let end = &mut ends[set % shares.len()];
        end.traffic += outputs.traffic(&filters);
        end.traffic.read += holders * sums * ACCUMULATOR_BITS;
        end.sums += (holders - 1) * sums;
    }
    ends
}

/// Each access and each kept group is computed once for each output pixel.
fn assert_conserved(mapping: &ConvMapping, cores: &[CoreWork]) {
    let pixels = mapping.shape.output.pixels() as u64;
    let computed =
        |count: fn(&Tile) -> u64| -> u64 { cores.iter().map(|core| core.all_pixels() * count(&core.total)).sum() };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupShape;
    use crate::hardware::chip::{Split, Start};
    use crate::integer::IntegerConv;
    use crate::network::{ConvShape, MapShape, Window};

    /// A chip with one core of two macros with room for 4 accesses each; a bundle is 4 groups of 16 channels, a part 4 filters.
    fn chip() -> Hardware {
        Hardware {
            cores: 1,
            macros_per_core: 2,
            rows: 256,
            columns: 32,
            group: GroupShape { filters: 8, channels: 16 },
            ..Hardware::mars()
        }
    }

    /// A convolution of 8 filters and three bundles, two output pixels.
    fn conv(chip: &Hardware) -> ConvMapping {
        conv_of(8, chip)
    }

    /// The same of so many filters.
    fn conv_of(filters: usize, chip: &Hardware) -> ConvMapping {
        let map = |channels| MapShape { channels, height: 1, width: 2 };
        let window = Window::square(1, 1, 0);
        let shape = ConvShape { input: map(192), output: map(filters), window, dilation: [1; 2], groups: 1 };
        let weights = vec![1; shape.weights()];
        let conv = IntegerConv { input_bits: 8, weight_bits: 8, weights, bias: vec![0; filters] };
        ConvMapping::new("conv", shape, &conv, chip).unwrap()
    }

    /// The worked example of `tiles`.
    #[test]
    fn tiles_read_and_write_what_the_documentation_says() {
        let chip = chip();
        let mapping = conv(&chip);
        assert_eq!((mapping.parts(), mapping.accesses(), chip.accesses_per_macro()), (2, 6, 4));
        // Two stored forms of 4 bits, and a residual value of 4 bits for each filter.
        let outputs = Outputs { residual: 0..8, residual_bits: 4, stored_bits: 8 };
        let tiles = |start: Start| {
            let placement = Placement { split: Split::FilterSets, copies: 1, start };
            let work = place(&mapping, &outputs, placement, &chip).remove(0);
            let tiles = work.tiles.iter().map(|tile| (tile.accesses, tile.traffic, tile.sources.clone()));
            (tiles.collect::<Vec<_>>(), work.waiting_sums)
        };
        let traffic = |read, written| Traffic { read, written };
        let staggered = vec![(3, traffic(1024, 256), 0..0), (3, traffic(1024 + 256 + 32, 64), 0..1)];
        assert_eq!(tiles(Start::Staggered), (staggered, 8));
        let together = vec![(3, traffic(1024, 0), 0..0), (3, traffic(512 + 32, 64), 0..0)];
        assert_eq!(tiles(Start::Together), (together, 0));
    }

    /// Two sets of 6 accesses in three tiles of 4: the second tile ends one set and begins the other.
    #[test]
    fn a_tile_of_two_sets_continues_the_one_that_began_before() {
        let chip = Hardware { macros_per_core: 3, ..chip() };
        let placement = Placement { split: Split::FilterSets, copies: 1, start: Start::Staggered };
        let work = place(&conv_of(16, &chip), &Outputs::default(), placement, &chip).remove(0);
        let sources: Vec<_> = work.tiles.iter().map(|tile| tile.sources.clone()).collect();
        assert_eq!(sources, [0..0, 0..1, 1..2]);
    }

    #[test]
    fn cores_that_share_a_set_add_its_partial_sums_at_the_end() {
        let chip = Hardware { cores: 2, macros_per_core: 1, ..chip() };
        let mapping = conv(&chip);
        let outputs = Outputs { stored_bits: 8, ..Outputs::default() };
        let placement = Placement { split: Split::InputChannels, copies: 1, start: Start::Staggered };
        let cores = place(&mapping, &outputs, placement, &chip);
        // Bundle 0 is on the first core, bundles 1 and 2 are on the second one; each writes 8 sums of 32 bits for each of two pixels.
        let tiles = |core: &CoreWork| core.tiles.iter().map(|tile| (tile.accesses, tile.traffic)).collect::<Vec<_>>();
        assert_eq!(tiles(&cores[0]), [(2, Traffic { read: 512, written: 256 })]);
        assert_eq!(tiles(&cores[1]), [(4, Traffic { read: 1024, written: 256 })]);
        // The first one reads both, adds, and writes 8 values of 8 bits.
        assert_eq!(cores[0].at_end, Traffic { read: 2 * 512, written: 2 * 64 });
        assert_eq!((cores[0].joined_sums, cores[1].at_end, cores[1].joined_sums), (2 * 8, Traffic::default(), 0));
        assert_eq!(cores[0].waiting_bits() + cores[1].waiting_bits(), 2 * 2 * 8 * 32);
    }
}
