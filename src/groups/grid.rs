//! The grid of groups that covers a convolution.

use std::ops::Range;

use super::shape::GroupShape;
use crate::network::{ConvShape, channels_read};

/// The grid of groups over a convolution's weights `[filters, depth, kernel height, kernel width]`.
///
/// Groups are numbered `(set * blocks + block) * taps + tap`: filter set, channel block, kernel position. Where filters read some of the
/// channels alone, a set's blocks are counted from the first one that any of its filters reads. What of a group no filter reads are no weights; a
/// group without any doesn't exist, but has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupGrid {
    /// Shape of a group.
    pub group: GroupShape,
    /// The convolution's filters.
    pub filters: usize,
    /// The convolution's input channels.
    pub channels: usize,
    /// Channels that a filter reads.
    pub depth: usize,
    /// Kernel positions.
    pub taps: usize,
    /// Channel blocks of a filter set: as many as the set has that reads the most.
    blocks: usize,
}

impl GroupGrid {
    /// The grid of a convolution.
    pub fn new(group: GroupShape, conv: &ConvShape) -> Self {
        let (channels, depth) = (conv.channels(), conv.depth());
        let mut grid = Self { group, filters: conv.filters(), channels, depth, taps: conv.taps(), blocks: 0 };
        let of_set = |set| {
            let filters = grid.set_filters(set);
            grid.reads(filters.end - 1).end.div_ceil(group.channels) - grid.first_block(set)
        };
        grid.blocks = match grid.is_dense() {
            true => grid.channel_blocks(),
            false => (0..grid.sets()).map(of_set).max().unwrap_or(0),
        };
        grid
    }

    /// The grid of a convolution whose filters read all channels.
    pub fn dense(group: GroupShape, filters: usize, channels: usize, taps: usize) -> Self {
        Self { group, filters, channels, depth: channels, taps, blocks: channels.div_ceil(group.channels) }
    }

    /// Whether every filter reads every channel.
    pub fn is_dense(&self) -> bool {
        self.depth == self.channels
    }

    /// The channels that a filter reads.
    pub fn reads(&self, filter: usize) -> Range<usize> {
        // Groups of channels: channels / depth.
        channels_read(filter, self.filters * self.depth / self.channels, self.depth)
    }

    /// Filter sets; the last one may be partly filled.
    pub fn sets(&self) -> usize {
        self.filters.div_ceil(self.group.filters)
    }

    /// The filters of a set.
    pub fn set_filters(&self, set: usize) -> Range<usize> {
        let first = set * self.group.filters;
        first..first.saturating_add(self.group.filters).min(self.filters)
    }

    /// Channel blocks of the input; the last one may be partly filled.
    pub fn channel_blocks(&self) -> usize {
        self.channels.div_ceil(self.group.channels)
    }

    /// The channels of a block.
    pub fn block_channels(&self, block: usize) -> Range<usize> {
        let first = block * self.group.channels;
        first.min(self.channels)..first.saturating_add(self.group.channels).min(self.channels)
    }

    /// Channel blocks of a filter set: as many as the set has that reads the most.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// The first channel block that a set reads.
    fn first_block(&self, set: usize) -> usize {
        self.reads(set * self.group.filters).start / self.group.channels
    }

    /// Groups of one filter set.
    pub fn groups_per_set(&self) -> usize {
        self.blocks() * self.taps
    }

    /// All groups.
    pub fn groups(&self) -> usize {
        self.sets() * self.groups_per_set()
    }

    /// Groups that have weights.
    pub fn real_groups(&self) -> usize {
        if self.is_dense() { self.groups() } else { (0..self.groups()).filter(|group| self.exists(*group)).count() }
    }

    /// Whether a group has weights.
    pub fn exists(&self, group: usize) -> bool {
        self.real_weights(group) > 0
    }

    /// The group that a weight belongs to; `weight` counts in `[filters, depth, taps]` order.
    pub fn group_of(&self, weight: usize) -> usize {
        let tap = weight % self.taps;
        let filter = weight / self.taps / self.depth;
        let channel = self.reads(filter).start + weight / self.taps % self.depth;
        let set = filter / self.group.filters;
        (set * self.blocks() + channel / self.group.channels - self.first_block(set)) * self.taps + tap
    }

    /// The weight of a filter at a channel that it reads and a kernel position.
    pub fn weight(&self, filter: usize, channel: usize, tap: usize) -> usize {
        (filter * self.depth + channel - self.reads(filter).start) * self.taps + tap
    }

    /// Channel block and kernel position of a group that is numbered within its filter set.
    pub fn place(&self, set: usize, group: usize) -> (usize, usize) {
        (self.first_block(set) + group / self.taps, group % self.taps)
    }

    /// The input channels that a group's weights read, some of them several times.
    pub fn channels_of(&self, group: usize) -> impl Iterator<Item = usize> {
        let set = group / self.groups_per_set();
        let (block, _) = self.place(set, group % self.groups_per_set());
        let block = self.block_channels(block);
        self.set_filters(set).flat_map(|filter| self.reads(filter)).filter(move |channel| block.contains(channel))
    }

    /// Real weights in a group: fewer than its shape says where filters or channels are left over, or filters don't read all channels.
    pub fn real_weights(&self, group: usize) -> usize {
        let set = group / self.groups_per_set();
        let (block, _) = self.place(set, group % self.groups_per_set());
        self.weights_in(self.set_filters(set), block)
    }

    /// Weights that filters have in a channel block, at one kernel position.
    pub fn weights_in(&self, filters: Range<usize>, block: usize) -> usize {
        let block = self.block_channels(block);
        if self.is_dense() {
            return filters.len() * block.len();
        }
        let shared = |filter| {
            let reads = self.reads(filter);
            reads.end.min(block.end).saturating_sub(reads.start.max(block.start))
        };
        filters.map(shared).sum()
    }

    /// Which groups hold a weight that is not zero.
    pub fn kept<T: PartialEq + Default>(&self, weights: &[T]) -> Vec<bool> {
        let zero = T::default();
        let mut kept = vec![false; self.groups()];
        for (index, _) in weights.iter().enumerate().filter(|(_, weight)| **weight != zero) {
            kept[self.group_of(index)] = true;
        }
        kept
    }
}
