//! Mapping: which kept groups share an access.
//!
//! It knows nothing of cores, time, energy or values; the array execution and the placement both start from it.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::groups::{GroupGrid, IndexCode, SELECTOR_BITS};
use crate::hardware::chip::{Hardware, Precision};
use crate::integer::{ACCUMULATOR_BITS, IntegerConv, MULTIPLIER_BITS};
use crate::network::ConvShape;

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
    /// Its filter sets.
    pub sets: Sets,
}

/// What is kept of a filter set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSet {
    /// Kept groups, ascending, numbered within the set: `block * taps + tap`.
    pub groups: Vec<usize>,
    /// Bits of the set's index: the shorter code and the bit that names it.
    pub index_bits: u64,
    /// How many of `groups` come before the last channel block.
    last_block: usize,
}

/// All filter sets; mappings of one network to many chips share them.
pub(crate) type Sets = Arc<Vec<FilterSet>>;

/// A weight of a bundle, and where its cells lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Place of its group on the word lines.
    pub(crate) section: usize,
    /// Word line of the section: the channel within the group.
    pub(crate) row: usize,
    /// Filter within the set.
    pub(crate) filter: usize,
    /// Index of the weight in `[filters, depth, taps]`.
    pub(crate) weight: usize,
}

impl ConvMapping {
    /// Maps a convolution for who asks nothing of its coefficients; its kept groups are those with a weight that is not zero.
    ///
    /// # Errors
    /// Weights wider than the macro can hold.
    pub(crate) fn new(name: &str, shape: ConvShape, conv: &IntegerConv, hardware: &Hardware) -> Result<Self> {
        let sets = kept_sets(&GroupGrid::new(hardware.group, &shape), &conv.weights);
        Self::with_sets(name, shape, conv, hardware, sets, false)
    }

    /// Maps a convolution of which `sets` are kept, whatever its weights are, with a multiplier for each column or one for all.
    ///
    /// # Errors
    /// Weights wider than the macro can hold.
    pub(crate) fn with_sets(
        name: &str,
        shape: ConvShape,
        conv: &IntegerConv,
        hardware: &Hardware,
        sets: Sets,
        column_multipliers: bool,
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
            column_multipliers,
            sets,
        })
    }

    /// Kept groups of all filter sets.
    pub fn kept_groups(&self) -> usize {
        self.sets.iter().map(|set| set.groups.len()).sum()
    }

    /// Accesses for each bundle: the parts of a group's filters.
    pub fn parts(&self) -> usize {
        self.grid.group.filters.div_ceil(self.precision.outputs)
    }

    /// Accesses of one filter set for one output pixel.
    pub fn set_accesses(&self, set: usize) -> usize {
        self.set_bundles(set) * self.parts()
    }

    /// Accesses of all filter sets for one output pixel.
    pub fn accesses(&self) -> usize {
        (0..self.sets.len()).map(|set| self.set_accesses(set)).sum()
    }

    /// Real filters of a set: fewer than the group's in the last one.
    pub fn set_filters(&self, set: usize) -> Range<usize> {
        self.grid.set_filters(set)
    }

    /// Real weights of the kept groups.
    pub fn kept_weights(&self) -> u64 {
        let groups = self.grid.groups_per_set();
        let in_set = |(set, kept): (usize, &FilterSet)| -> usize {
            kept.groups.iter().map(|group| self.grid.real_weights(set * groups + group)).sum()
        };
        self.sets.iter().enumerate().map(in_set).sum::<usize>() as u64
    }

    /// Multiply-accumulates of the kept groups on real channels and filters, one image.
    pub fn kept_macs(&self) -> u64 {
        self.kept_weights() * self.shape.output.pixels() as u64
    }

    /// Bits of a set's coefficients: one bias per filter, plus one multiplier per filter (`column_multipliers`) or one in total.
    pub fn coefficient_bits(&self, set: usize) -> u64 {
        let filters = self.set_filters(set).len() as u64;
        let multipliers = if self.column_multipliers { filters } else { 1 };
        filters * ACCUMULATOR_BITS + multipliers * MULTIPLIER_BITS
    }

    fn part_filters(&self, part: usize) -> Range<usize> {
        let start = part * self.precision.outputs;
        start..self.grid.group.filters.min(start + self.precision.outputs)
    }

    /// Bundles of a set of kept groups.
    pub(crate) fn set_bundles(&self, set: usize) -> usize {
        self.sets[set].groups.len().div_ceil(self.sections)
    }

    /// Bundles of which `accesses` of a set hold this part; a set's access `i` holds part `i % parts` of bundle `i / parts`.
    pub(crate) fn bundles_of(&self, accesses: &Range<usize>, part: usize) -> Range<usize> {
        let first = |access: usize| access.saturating_sub(part).div_ceil(self.parts());
        first(accesses.start)..first(accesses.end)
    }

    /// Whether accesses have any of a part.
    pub(crate) fn any_of(&self, accesses: &Range<usize>, part: usize) -> bool {
        !self.bundles_of(accesses, part).is_empty()
    }

    /// Inputs of a whole bundle, in bits.
    pub(crate) fn bundle_bits(&self) -> u64 {
        self.sections as u64 * self.section_bits()
    }

    /// The real weights of the groups of a bundle of a set.
    pub(crate) fn cells<'a>(&'a self, set: usize, bundle: &'a [usize]) -> impl Iterator<Item = Cell> + 'a {
        let filters = self.set_filters(set);
        bundle.iter().enumerate().flat_map(move |(section, &index)| {
            let (block, tap) = self.grid.place(set, index);
            let filters = filters.clone();
            self.grid.block_channels(block).enumerate().flat_map(move |(row, channel)| {
                let readers =
                    filters.clone().enumerate().filter(move |(_, filter)| self.grid.reads(*filter).contains(&channel));
                readers.map(move |(number, filter)| Cell {
                    section,
                    row,
                    filter: number,
                    weight: self.grid.weight(filter, channel, tap),
                })
            })
        })
    }

    /// Kept groups in bundles of a set.
    pub(crate) fn groups_in(&self, set: usize, bundles: &Range<usize>) -> Range<usize> {
        let kept = self.sets[set].groups.len();
        (bundles.start * self.sections).min(kept)..(bundles.end * self.sections).min(kept)
    }

    /// Inputs that the word lines of `bundles` take for an output pixel, left-over channels included, in bits.
    pub(crate) fn gathered_bits(&self, set: usize, bundles: &Range<usize>) -> u64 {
        self.groups_in(set, bundles).len() as u64 * self.section_bits()
    }

    /// Inputs of a group for an output pixel, left-over channels included, in bits.
    pub(crate) fn section_bits(&self) -> u64 {
        self.grid.group.channels as u64 * u64::from(self.input_bits)
    }

    /// Channel block and kernel position of each group in bundles of a set: what it reads.
    pub(crate) fn inputs_of(&self, set: usize, bundles: Range<usize>) -> impl Iterator<Item = (usize, usize)> {
        self.sets[set].groups[self.groups_in(set, &bundles)].iter().map(move |group| self.grid.place(set, *group))
    }

    /// Cells that a part's weights in `bundles` take, left-over channels and filters of their groups included.
    pub(crate) fn cell_bits(&self, set: usize, bundles: &Range<usize>, part: usize) -> u64 {
        let weights = self.groups_in(set, bundles).len() * self.grid.group.channels * self.part_filters(part).len();
        weights as u64 * u64::from(self.precision.weight_bits)
    }

    /// Real weights of a part in `bundles` at the width in which they are stored.
    pub(crate) fn stored_bits(&self, set: usize, bundles: &Range<usize>, part: usize) -> u64 {
        let groups = self.groups_in(set, bundles);
        if !self.grid.is_dense() {
            let weights =
                |group: &usize| self.grid.weights_in(self.real_filters(set, part), self.grid.place(set, *group).0);
            let weights: usize = self.sets[set].groups[groups].iter().map(weights).sum();
            return weights as u64 * u64::from(self.weight_bits);
        }
        // Groups are in the order of their channel blocks, and only the last block lacks channels.
        let short = self.sets[set].last_block.clamp(groups.start, groups.end);
        let GroupGrid { group, channels, .. } = self.grid;
        let last = channels - (self.grid.blocks() - 1) * group.channels;
        let channels = (short - groups.start) * group.channels + (groups.end - short) * last;
        (self.real_filters(set, part).len() * channels) as u64 * u64::from(self.weight_bits)
    }

    /// Real filters of a part of a set.
    pub(crate) fn real_filters(&self, set: usize, part: usize) -> Range<usize> {
        let (filters, part) = (self.set_filters(set), self.part_filters(part));
        (filters.start + part.start).min(filters.end)..(filters.start + part.end).min(filters.end)
    }
}

impl FilterSet {
    pub(crate) fn new(grid: &GroupGrid, groups: Vec<usize>) -> Self {
        let mut mask = vec![false; grid.groups_per_set()];
        groups.iter().for_each(|&group| mask[group] = true);
        Self {
            last_block: groups.partition_point(|group| *group < (grid.blocks() - 1) * grid.taps),
            index_bits: IndexCode::shorter(&mask).bit_len(&mask) as u64 + SELECTOR_BITS,
            groups,
        }
    }
}

/// The groups that hold a weight, for each filter set; `weights` are `[filters, depth, taps]`.
pub(crate) fn kept_sets(grid: &GroupGrid, weights: &[i8]) -> Sets {
    if !grid.is_dense() {
        let kept = grid.kept(weights);
        return sets_of(grid, |group| kept[group]);
    }
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
        let kept = seen.iter().enumerate().filter(|(_, seen)| **seen != 0).map(|(group, _)| group);
        FilterSet::new(grid, kept.collect())
    });
    Arc::new(sets.collect())
}

/// Every group of each filter set.
pub(crate) fn dense_sets(grid: &GroupGrid) -> Sets {
    if !grid.is_dense() {
        return sets_of(grid, |group| grid.exists(group));
    }
    Arc::new(vec![FilterSet::new(grid, (0..grid.groups_per_set()).collect()); grid.sets()])
}

/// The filter sets that keep some groups, which are asked for by their number.
pub(crate) fn sets_of(grid: &GroupGrid, keeps: impl Fn(usize) -> bool) -> Sets {
    let per_set = grid.groups_per_set();
    let of_set = |set: usize| (0..per_set).filter(|group| keeps(set * per_set + group)).collect();
    Arc::new((0..grid.sets()).map(|set| FilterSet::new(grid, of_set(set))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::groups::GroupShape;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn kept_sets_are_the_kept_groups_of_the_grid(
            filters in 1usize..9, channels in 1usize..9, taps in 1usize..10, by_filters in 1usize..5, by_channels in 1usize..5,
            weights in prop::collection::vec(prop_oneof![9 => Just(0i8), 1 => any::<i8>()], 9 * 9 * 10),
        ) {
            let group = GroupShape { filters: by_filters, channels: by_channels };
            let grid = GroupGrid::dense(group, filters, channels, taps);
            let weights = &weights[..filters * channels * taps];
            let mut kept = vec![false; grid.groups()];
            for (set, in_set) in kept_sets(&grid, weights).iter().enumerate() {
                in_set.groups.iter().for_each(|group| kept[set * grid.groups_per_set() + group] = true);
            }
            prop_assert_eq!(kept, grid.kept(weights));
            prop_assert_eq!(dense_sets(&grid), kept_sets(&grid, &vec![1; weights.len()]));
        }
    }
}
