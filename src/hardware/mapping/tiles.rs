//! Tiles: a core's accesses, cut into pieces that fit a macro each, and what each piece loads, reads and writes.
//!
//! A core has shares of filter sets. A bundle of a share takes one access for each *part* of its filters (as many filters as a macro reads
//! at once), and a core's accesses are numbered through, share by share. They are cut evenly into tiles; tile *i* goes to macro
//! *i mod macros*. The tiles of one *round* start together.
//!
//! An example: two macros with room for 4 accesses, one filter set of 8 filters in two parts of 4, and three bundles of 512 input bits.
//!
//! ```text
//! bundle    0     1     2
//! part      0 1   0 1   0 1
//! access    0 1   2 3   4 5
//! tile      0 0   0 1   1 1          6 accesses, 2 tiles of 3
//! ```
//!
//! A partial sum has 32 bits, so those of a part have 4 x 32 = 128. For each output pixel:
//!
//! | | one tile a round | both tiles in a round |
//! |---|---|---|
//! | tile 0 reads | bundles 0 and 1: 1024 | bundles 0 and 1: 1024 |
//! | tile 0 writes | partial sums of both parts: 256 | nothing, the core adds up |
//! | tile 1 reads | bundles 1 and 2, both partial sums: 1024 + 256 | bundle 2: 512 (bundle 1 reaches both macros) |
//! | tile 1 writes | the stored values of 8 filters | the stored values of 8 filters |
//!
//! Each formula is in `docs/cost-model.md`, sections 2 and 5.

use std::iter::Sum;
use std::ops::Range;

use super::accesses::ConvMapping;
use super::outputs::Outputs;
use super::placement::Placement;
use super::shares::Share;
use super::traffic::Traffic;
use crate::hardware::chip::Hardware;
use crate::integer::ACCUMULATOR_BITS;

/// Accesses whose weights are in one macro at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) accesses: u64,
    /// Kept groups, counted with the first part of their filters.
    pub(super) groups: u64,
    /// Cells to write, padding included.
    pub(crate) cell_bits: u64,
    /// Weights, index codes and coefficients to read from the weight SRAM.
    pub(crate) packed_bits: u64,
    /// The index codes alone.
    pub(crate) index_bits: u64,
    /// For each output pixel. Read are inputs, partial sums that waited and residual values; written are values and partial sums that wait.
    pub(crate) traffic: Traffic,
    /// The tiles of earlier rounds whose partial sums it continues.
    pub(crate) sources: Range<usize>,
}

impl<'a> Sum<&'a Tile> for Tile {
    fn sum<I: Iterator<Item = &'a Tile>>(tiles: I) -> Self {
        tiles.fold(Self::default(), |sum, tile| Self {
            accesses: sum.accesses + tile.accesses,
            groups: sum.groups + tile.groups,
            cell_bits: sum.cell_bits + tile.cell_bits,
            packed_bits: sum.packed_bits + tile.packed_bits,
            index_bits: sum.index_bits + tile.index_bits,
            traffic: sum.traffic + tile.traffic,
            sources: 0..0,
        })
    }
}

/// How a core's accesses are cut: in order and evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    accesses: usize,
    tiles: usize,
    /// Tiles that start together.
    per_round: usize,
}

impl Tiling {
    /// Cuts `accesses` into tiles of at most `room`: as many as keep all `macros` busy, but none is empty.
    pub(super) fn new(accesses: usize, room: usize, macros: usize, per_round: usize) -> Self {
        let tiles = accesses.div_ceil(room).next_multiple_of(macros).min(accesses);
        Self { accesses, tiles, per_round }
    }

    /// Cuts what a core has of a placed layer.
    pub(super) fn of_core(shares: &[Share], mapping: &ConvMapping, placement: Placement, hardware: &Hardware) -> Self {
        let accesses = shares.iter().map(|share| share.accesses(mapping.parts()).len()).sum();
        let (macros, per_round) = (placement.macros(hardware), placement.tiles_per_round(hardware));
        Self::new(accesses, hardware.accesses_per_macro(), macros, per_round)
    }

    /// Number of tiles; none without accesses.
    pub(super) fn tiles(&self) -> usize {
        self.tiles
    }

    /// First access of a tile; of the one after the last: the number of accesses.
    fn start_of(&self, tile: usize) -> usize {
        (tile * self.accesses).div_ceil(self.tiles)
    }

    /// The tile of an access.
    pub(super) fn tile_of(&self, access: usize) -> usize {
        access * self.tiles / self.accesses
    }

    /// The accesses of a tile.
    pub(super) fn accesses_of(&self, tile: usize) -> Range<usize> {
        self.start_of(tile)..self.start_of(tile + 1)
    }

    /// The round of a tile.
    pub(super) fn round_of(&self, tile: usize) -> usize {
        tile / self.per_round
    }

    /// The accesses of all tiles that start together with a tile.
    pub(super) fn accesses_of_round(&self, tile: usize) -> Range<usize> {
        let first = self.round_of(tile) * self.per_round;
        self.start_of(first)..self.start_of((first + self.per_round).min(self.tiles))
    }

    /// The tiles of a range of accesses.
    fn tiles_of(&self, accesses: Range<usize>) -> Range<usize> {
        match accesses.is_empty() {
            true => 0..0,
            false => self.tile_of(accesses.start)..self.tile_of(accesses.end - 1) + 1,
        }
    }

    /// The tiles of earlier rounds whose partial sums a segment continues. `of_share` are the share's accesses in the core, `of_set` the
    /// same ones in their filter set.
    pub(super) fn sources(
        &self,
        segment: &Segment,
        parts: usize,
        of_share: &Range<usize>,
        of_set: &Range<usize>,
    ) -> Range<usize> {
        let in_core = |access: usize| of_share.start + access - of_set.start;
        let accesses = segment.continued_accesses(parts, of_set);
        self.tiles_of(in_core(accesses.start)..in_core(accesses.end))
    }

    /// What each tile has of the accesses `of_share` of a core, which are the accesses `of_set` of their filter set.
    pub(super) fn segments(&self, of_share: Range<usize>, of_set: Range<usize>) -> impl Iterator<Item = Segment> {
        let tiles = self.tiles_of(of_share.clone());
        let in_set = move |access: usize| (of_set.start + access.saturating_sub(of_share.start)).min(of_set.end);
        let range_in_set = move |accesses: Range<usize>| in_set(accesses.start)..in_set(accesses.end);
        let tiling = *self;
        tiles.map(move |tile| Segment {
            tile,
            round: range_in_set(tiling.accesses_of_round(tile)),
            accesses: range_in_set(tiling.accesses_of(tile)),
        })
    }
}

/// What a tile has of a share. Accesses are numbered within the filter set: access `i` holds part `i % parts` of bundle `i / parts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) tile: usize,
    /// The share's accesses in all tiles of the same round.
    round: Range<usize>,
    /// The share's accesses in this tile.
    accesses: Range<usize>,
}

impl Segment {
    /// The bundles whose inputs the segment reads, where a bundle takes `parts` accesses: its own, but that of which the macro before has another
    /// part in the same round, whose inputs reach both.
    pub(super) fn read_bundles(&self, parts: usize) -> Range<usize> {
        let Range { start, end } = self.accesses;
        let comes_along = !start.is_multiple_of(parts) && start > self.round.start;
        start / parts + usize::from(comes_along)..end.div_ceil(parts)
    }

    /// The accesses of earlier rounds whose partial sums the segment continues. Access `i` continues those of access `i - parts` of the share,
    /// whose accesses are `of_set`.
    fn continued_accesses(&self, parts: usize, of_set: &Range<usize>) -> Range<usize> {
        let first = self.accesses.start.saturating_sub(parts).max(of_set.start);
        let end = self.accesses.end.saturating_sub(parts).min(self.round.start);
        first..end.max(first)
    }
}

/// What the accesses of a share cost.
pub(super) struct Charge<'a> {
    pub(super) mapping: &'a ConvMapping,
    pub(super) outputs: &'a Outputs,
    pub(super) share: &'a Share,
}

impl Charge<'_> {
    /// The index and the coefficients of the set: once, with the share's first tile.
    pub(super) fn index(&self, tile: &mut Tile) {
        let index_bits = self.mapping.sets[self.share.set].index_bits;
        tile.index_bits += index_bits;
        tile.packed_bits += index_bits + self.mapping.coefficient_bits(self.share.set);
    }

    /// The outputs of a set of which no group is kept: they follow from the biases alone.
    pub(super) fn empty_set(&self, tile: &mut Tile) {
        tile.traffic += self.outputs.traffic(&self.mapping.set_filters(self.share.set));
    }

    /// The cells of a segment, and its weights as they are stored.
    pub(super) fn weights(&self, tile: &mut Tile, segment: &Segment) {
        let (mapping, set) = (self.mapping, self.share.set);
        tile.accesses += segment.accesses.len() as u64;
        tile.groups += mapping.groups_in(set, &mapping.bundles_of(&segment.accesses, 0)).len() as u64;
        for part in 0..mapping.parts() {
            let bundles = mapping.bundles_of(&segment.accesses, part);
            if !bundles.is_empty() {
                tile.cell_bits += mapping.cell_bits(set, &bundles, part);
                tile.packed_bits += mapping.stored_bits(set, &bundles, part);
            }
        }
    }

    /// The inputs of a segment's bundles, each read once.
    pub(super) fn inputs(&self, tile: &mut Tile, segment: &Segment) {
        let bundles = segment.read_bundles(self.mapping.parts());
        if !bundles.is_empty() {
            tile.traffic.read += self.mapping.gathered_bits(self.share.set, &bundles);
        }
    }

    /// The partial sums that a segment goes on with and leaves, and the outputs that it finishes.
    ///
    /// Within a round the core adds up: the first tile that has accesses of a part reads the partial sums of earlier rounds, the last one
    /// writes those that later rounds or other cores go on with, or the outputs.
    pub(super) fn sums(&self, tile: &mut Tile, segment: &Segment) {
        let (share, Segment { round, accesses, .. }) = (self.share.accesses(self.mapping.parts()), segment);
        let continued = segment.continued_accesses(self.mapping.parts(), &share);
        for part in 0..self.mapping.parts() {
            let any = |accesses: Range<usize>| self.mapping.any_of(&accesses, part);
            if !any(accesses.clone()) {
                continue;
            }
            let filters = self.mapping.real_filters(self.share.set, part);
            let sum_bits = filters.len() as u64 * ACCUMULATOR_BITS;
            if any(continued.clone()) {
                tile.traffic.read += sum_bits;
            }
            let is_last_of_round = !any(accesses.end..round.end);
            if is_last_of_round && (any(round.end..share.end) || self.share.partial) {
                tile.traffic.written += sum_bits;
            } else if is_last_of_round {
                tile.traffic += self.outputs.traffic(&filters);
            }
        }
    }

    /// Partial sums of an output pixel that wait in the feature-map SRAM when a segment's round is done.
    pub(super) fn waiting_sums(&self, segment: &Segment) -> u64 {
        let share = self.share.accesses(self.mapping.parts());
        let (before, after) = (share.start..segment.round.end, segment.round.end..share.end);
        let waits = |part: &usize| self.mapping.any_of(&before, *part) && self.mapping.any_of(&after, *part);
        let filters = |part: usize| self.mapping.real_filters(self.share.set, part).len() as u64;
        (0..self.mapping.parts()).filter(waits).map(filters).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_even_in_order_and_fit_their_macros() {
        for accesses in 1..40 {
            for (room, macros, per_round) in [(1, 1, 1), (4, 2, 1), (4, 2, 2), (5, 3, 3), (16, 4, 4), (3, 8, 8)] {
                let tiling = Tiling::new(accesses, room, macros, per_round);
                let tiles: Vec<Range<usize>> = (0..tiling.tiles()).map(|tile| tiling.accesses_of(tile)).collect();
                let in_order: Vec<usize> = tiles.iter().cloned().flatten().collect();
                assert_eq!(in_order, (0..accesses).collect::<Vec<_>>());
                let (least, most) =
                    (tiles.iter().map(Range::len).min().unwrap(), tiles.iter().map(Range::len).max().unwrap());
                assert!(least >= 1 && most <= room && most - least <= 1, "{tiles:?}");
                assert!(tiles.len().is_multiple_of(macros) || tiles.len() == accesses, "{tiles:?}");
                for (tile, own) in tiles.iter().enumerate() {
                    assert!(own.clone().all(|access| tiling.tile_of(access) == tile));
                    let together = tiles.iter().enumerate().filter(|(other, _)| other / per_round == tile / per_round);
                    let together: Vec<usize> = together.flat_map(|(_, own)| own.clone()).collect();
                    assert_eq!(tiling.accesses_of_round(tile).collect::<Vec<_>>(), together);
                }
            }
        }
    }

    #[test]
    fn a_share_is_cut_where_its_cores_tiles_are() {
        // Ten accesses in tiles 0..2, 2..4, 4..5, 5..7, 7..9, 9..10 of which two start together.
        let tiling = Tiling::new(10, 2, 2, 2);
        assert_eq!((0..6).map(|tile| tiling.accesses_of(tile).start).collect::<Vec<_>>(), [0, 2, 4, 5, 7, 9]);
        // The core's accesses 3 to 7 are the accesses 20 to 24 of their set.
        let segments: Vec<Segment> = tiling.segments(3..8, 20..25).collect();
        let segment = |tile, round, accesses| Segment { tile, round, accesses };
        let expected = [
            segment(1, 20..21, 20..21),
            segment(2, 21..24, 21..22),
            segment(3, 21..24, 22..24),
            segment(4, 24..25, 24..25),
        ];
        assert_eq!(segments, expected);
        assert_eq!(tiling.segments(3..3, 20..20).count(), 0);
    }

    /// A tile that is the first of its round to have a part goes on with the sums of the last tile of earlier rounds that had it.
    #[test]
    fn a_tile_goes_on_with_the_sums_that_were_written_last() {
        let mut several = 0;
        for (parts, bundles, before) in
            (1..5).flat_map(|parts| (1..6).map(move |bundles| (parts, bundles, bundles % 4)))
        {
            // The share begins in the middle of its set, and behind some accesses of another one.
            let of_set = parts..parts * (bundles + 1);
            let of_share = before..before + of_set.len();
            for (room, macros, per_round) in [(1, 1, 1), (1, 3, 1), (2, 4, 1), (1, 3, 3), (3, 2, 2), (4, 8, 8)] {
                let tiling = Tiling::new(of_share.end, room, macros, per_round);
                let part_of = |access: usize| (access - of_share.start) % parts;
                for segment in tiling.segments(of_share.clone(), of_set.clone()) {
                    let in_round =
                        |access: &usize| tiling.round_of(tiling.tile_of(*access)) == tiling.round_of(segment.tile);
                    let mut expected: Vec<usize> = Vec::new();
                    for access in of_share.clone().filter(|access| tiling.tile_of(*access) == segment.tile) {
                        let earlier =
                            || (of_share.start..access).rev().filter(|other| part_of(*other) == part_of(access));
                        if !earlier().any(|other| in_round(&other)) {
                            expected.extend(earlier().next().map(|other| tiling.tile_of(other)));
                        }
                    }
                    expected.dedup();
                    several += usize::from(expected.len() > 1);
                    let found: Vec<usize> = tiling.sources(&segment, parts, &of_share, &of_set).collect();
                    assert_eq!(found, expected, "{parts} parts, {bundles} bundles, {tiling:?}, {segment:?}");
                }
            }
        }
        assert!(several > 10, "{several}");
    }
}
