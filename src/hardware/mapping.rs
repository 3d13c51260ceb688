//! Mapping: which kept groups share an access, which accesses share a macro, which filter sets share a core.
//!
//! It knows nothing of time, energy or values; the array execution and the schedule both start from it.

use std::sync::Arc;

use super::config::{Hardware, Precision};
use super::index::{IndexCode, SELECTOR_BITS};
use crate::deploy::integer::IntegerConv;
use crate::error::{Error, Result};
use crate::network::ConvShape;
use crate::sparsity::GroupGrid;

/// Bits of an accumulator and of a bias.
pub(super) const ACCUMULATOR_BITS: u64 = 32;
/// Bits of a requantization multiplier.
pub(super) const MULTIPLIER_BITS: u64 = 16;

/// How a convolution lies on the macros.
///
/// The kept groups of a filter set are taken in their order, [`Hardware::sections`] at a time; such a *bundle* shares the word
/// lines. Where a macro reads fewer outputs than the group has filters, a bundle takes several accesses, one for each *part* of
/// the filters.
#[derive(Clone, Debug)]
pub struct ConvMapping {
    /// Name of the convolution.
    pub name: String,
    /// Geometry.
    pub shape: ConvShape,
    /// Its groups.
    pub grid: GroupGrid,
    /// Bits of a weight as it is stored.
    pub weight_bits: u8,
    /// Bits of an input.
    pub input_bits: u8,
    /// How the macro runs it.
    pub precision: Precision,
    /// Groups that share an access.
    pub sections: usize,
    /// Each filter has a multiplier of its own.
    pub column_multipliers: bool,
    /// For each filter set its kept groups, ascending, numbered within the set: `block * taps + tap`.
    pub sets: Sets,
}

/// Kept groups of each filter set; mappings of one network to many chips share them.
pub(super) type Sets = Arc<Vec<Vec<usize>>>;

/// Accesses whose weights are in one macro at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) accesses: u64,
    /// Cells to write, padding included.
    pub(super) cell_bits: u64,
    /// Weights, index codes and coefficients to read from the weight SRAM.
    pub(super) packed_bits: u64,
    /// The index codes alone.
    pub(super) index_bits: u64,
}

/// What one core does of a convolution.
#[derive(Clone, Debug, Default)]
pub(super) struct CoreWork {
    pub(super) sets: Vec<usize>,
    /// A multiple of the core's macros, as far as there are accesses; filled evenly.
    pub(super) tiles: Vec<Tile>,
    /// Weights, index codes and coefficients of all its sets.
    pub(super) packed_bits: u64,
    /// The index codes alone.
    pub(super) index_bits: u64,
    /// Inputs that the word lines take for one output pixel, in bits.
    pub(super) gathered_bits: u64,
    /// Sums for one output pixel that wait in the feature-map SRAM, since a set's accesses don't fit the macros at once.
    pub(super) waiting_sums: u64,
}

impl ConvMapping {
    /// Maps a convolution; its kept groups are those with a weight that is not zero.
    ///
    /// # Errors
    /// Weights wider than the macro can hold.
    pub fn new(name: &str, shape: ConvShape, conv: &IntegerConv, hardware: &Hardware) -> Result<Self> {
        let sets = kept_sets(&GroupGrid::new(hardware.group, &shape), &conv.weights);
        Self::with_sets(name, shape, conv, hardware, sets)
    }

    /// Maps a convolution of which `sets` are kept, whatever its weights are.
    ///
    /// # Errors
    /// Weights wider than the macro can hold.
    pub(super) fn with_sets(
        name: &str,
        shape: ConvShape,
        conv: &IntegerConv,
        hardware: &Hardware,
        sets: Sets,
    ) -> Result<Self> {
        Ok(Self {
            name: name.into(),
            shape,
            grid: GroupGrid::new(hardware.group, &shape),
            weight_bits: conv.weight_bits,
            input_bits: conv.input_bits,
            precision: hardware
                .precision(conv.weight_bits, conv.input_bits)
                .map_err(|message| Error::layer(name, message))?,
            sections: hardware.sections(),
            column_multipliers: false,
            sets,
        })
    }

    /// Kept groups of all filter sets.
    pub fn kept_groups(&self) -> usize {
        self.sets.iter().map(Vec::len).sum()
    }

    /// Accesses for each bundle: the parts of a group's filters.
    pub fn parts(&self) -> usize {
        self.grid.group.filters.div_ceil(self.precision.outputs)
    }

    /// Accesses of one filter set for one output pixel.
    pub fn set_accesses(&self, set: usize) -> usize {
        self.sets[set].len().div_ceil(self.sections) * self.parts()
    }

    /// Accesses of all filter sets for one output pixel.
    pub fn accesses(&self) -> usize {
        (0..self.sets.len()).map(|set| self.set_accesses(set)).sum()
    }

    /// Real filters of a set: fewer than the group's in the last one.
    pub fn set_filters(&self, set: usize) -> std::ops::Range<usize> {
        let start = set * self.grid.group.filters;
        start..self.grid.filters.min(start + self.grid.group.filters)
    }

    /// Real weights of the kept groups.
    pub fn kept_weights(&self) -> u64 {
        let groups = self.grid.groups_per_set();
        let in_set = |(set, kept): (usize, &Vec<usize>)| -> usize {
            kept.iter().map(|group| self.grid.real_weights(set * groups + group)).sum()
        };
        self.sets.iter().enumerate().map(in_set).sum::<usize>() as u64
    }

    /// Multiply-accumulates of the kept groups on real channels and filters, one picture.
    pub fn kept_macs(&self) -> u64 {
        self.kept_weights() * self.shape.output.pixels() as u64
    }

    /// Bits of a set's index: the shorter code and the bit that names it.
    pub fn index_bits(&self, set: usize) -> u64 {
        let mut mask = vec![false; self.grid.groups_per_set()];
        self.sets[set].iter().for_each(|&group| mask[group] = true);
        IndexCode::shorter(&mask).bit_len(&mask) as u64 + SELECTOR_BITS
    }

    /// Bits of a set's coefficients: a bias for each filter, and a multiplier for each or one for all, as the layer has them.
    pub fn coefficient_bits(&self, set: usize) -> u64 {
        let filters = self.set_filters(set).len() as u64;
        let multipliers = if self.column_multipliers { filters } else { 1 };
        filters * ACCUMULATOR_BITS + multipliers * MULTIPLIER_BITS
    }

    /// Filter sets to cores, accesses to macros. Sets go to the core with the fewest accesses, the longest first.
    pub(super) fn distribute(&self, hardware: &Hardware) -> Vec<CoreWork> {
        let mut order: Vec<usize> = (0..self.sets.len()).collect();
        order.sort_by_key(|&set| (std::cmp::Reverse(self.set_accesses(set)), set));
        let mut cores = vec![CoreWork::default(); hardware.cores];
        let mut loads = vec![0; hardware.cores];
        for set in order {
            let core = (0..loads.len()).min_by_key(|&core| loads[core]).expect("a chip has cores");
            loads[core] += self.set_accesses(set);
            cores[core].sets.push(set);
        }
        for (core, accesses) in cores.iter_mut().zip(loads) {
            self.fill(core, accesses, hardware);
        }
        self.assert_conserved(&cores);
        cores
    }

    /// Puts the accesses of a core's sets into tiles, in order and evenly.
    fn fill(&self, core: &mut CoreWork, accesses: usize, hardware: &Hardware) {
        let count =
            accesses.div_ceil(hardware.accesses_per_macro()).next_multiple_of(hardware.macros_per_core).min(accesses);
        let mut tiles = vec![Tile::default(); count];
        let tile_of = |access: usize| access * count / accesses;
        let mut access = 0;
        for &set in &core.sets {
            let index_bits = self.index_bits(set);
            let coefficient_bits = self.coefficient_bits(set);
            core.index_bits += index_bits;
            core.packed_bits += index_bits + coefficient_bits;
            // They come with the set's first access; those of a set without accesses come with the last tile, if any.
            if accesses > 0 {
                let tile = &mut tiles[tile_of(access.min(accesses - 1))];
                tile.index_bits += index_bits;
                tile.packed_bits += index_bits + coefficient_bits;
            }
            let first = access;
            for bundle in self.sets[set].chunks(self.sections) {
                core.gathered_bits += (bundle.len() * self.grid.group.channels) as u64 * u64::from(self.input_bits);
                for part in 0..self.parts() {
                    let tile = &mut tiles[tile_of(access)];
                    let stored_bits = self.stored_bits(set, bundle, part);
                    tile.accesses += 1;
                    tile.cell_bits += self.cell_bits(bundle, part);
                    tile.packed_bits += stored_bits;
                    core.packed_bits += stored_bits;
                    access += 1;
                }
            }
            if access > first {
                let round = |access: usize| tile_of(access) / hardware.macros_per_core;
                core.waiting_sums += ((round(access - 1) - round(first)) * self.grid.group.filters) as u64;
            }
        }
        core.tiles = tiles;
    }

    /// Each filter set is on one core, each kept group in one bundle, each access in one tile.
    fn assert_conserved(&self, cores: &[CoreWork]) {
        let mut sets: Vec<usize> = cores.iter().flat_map(|core| core.sets.iter().copied()).collect();
        sets.sort_unstable();
        let name = &self.name;
        assert!(sets.into_iter().eq(0..self.sets.len()), "layer `{name}`: each filter set is on one core");
        let ascending = |kept: &Vec<usize>| kept.is_sorted_by(|a, b| a < b);
        assert!(self.sets.iter().all(ascending), "layer `{name}`: each kept group is mapped once");
        let accesses: u64 = cores.iter().flat_map(|core| &core.tiles).map(|tile| tile.accesses).sum();
        assert_eq!(accesses, self.accesses() as u64, "layer `{name}`: each access is in one tile");
    }

    fn part_filters(&self, part: usize) -> std::ops::Range<usize> {
        let start = part * self.precision.outputs;
        start..self.grid.group.filters.min(start + self.precision.outputs)
    }

    /// Cells that an access's weights take, left-over channels and filters of its groups included.
    fn cell_bits(&self, bundle: &[usize], part: usize) -> u64 {
        let weights = bundle.len() * self.grid.group.channels * self.part_filters(part).len();
        weights as u64 * u64::from(self.precision.weight_bits)
    }

    /// Real weights of an access at the width in which they are stored.
    fn stored_bits(&self, set: usize, bundle: &[usize], part: usize) -> u64 {
        let filters = self.part_filters(part);
        let real = self.set_filters(set).len();
        let filters = filters.end.min(real).saturating_sub(filters.start);
        let channels: usize = bundle
            .iter()
            .map(|group| {
                let start = group / self.grid.taps * self.grid.group.channels;
                self.grid.group.channels.min(self.grid.channels - start)
            })
            .sum();
        (filters * channels) as u64 * u64::from(self.weight_bits)
    }
}

/// The groups that hold a weight, for each filter set; `weights` are `[filters, channels, taps]`.
pub(super) fn kept_sets(grid: &GroupGrid, weights: &[i8]) -> Sets {
    let filter = grid.channels * grid.taps;
    let sets = weights.chunks(grid.group.filters * filter).map(|filters| {
        // The bits that occur at each kernel position of a channel block.
        let mut seen = vec![0; grid.groups_per_set()];
        for channels in filters.chunks_exact(filter) {
            let blocks = channels.chunks(grid.group.channels * grid.taps);
            for (seen, block) in seen.chunks_exact_mut(grid.taps).zip(blocks) {
                for taps in block.chunks_exact(grid.taps) {
                    seen.iter_mut().zip(taps).for_each(|(seen, weight)| *seen |= weight);
                }
            }
        }
        seen.iter().enumerate().filter(|(_, seen)| **seen != 0).map(|(group, _)| group).collect()
    });
    Arc::new(sets.collect())
}

/// Every group of each filter set.
pub(super) fn dense_sets(grid: &GroupGrid) -> Sets {
    Arc::new(vec![(0..grid.groups_per_set()).collect(); grid.sets()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sparsity::GroupShape;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn kept_sets_are_the_kept_groups_of_the_grid(
            filters in 1usize..9, channels in 1usize..9, taps in 1usize..10, by_filters in 1usize..5, by_channels in 1usize..5,
            weights in prop::collection::vec(prop_oneof![9 => Just(0i8), 1 => any::<i8>()], 9 * 9 * 10),
        ) {
            let group = GroupShape { filters: by_filters, channels: by_channels };
            let grid = GroupGrid { group, filters, channels, taps };
            let weights = &weights[..filters * channels * taps];
            let mut kept = vec![false; grid.groups()];
            for (set, groups) in kept_sets(&grid, weights).iter().enumerate() {
                groups.iter().for_each(|group| kept[set * grid.groups_per_set() + group] = true);
            }
            prop_assert_eq!(kept, grid.kept(weights));
            prop_assert_eq!(dense_sets(&grid), kept_sets(&grid, &vec![1; weights.len()]));
        }
    }
}
