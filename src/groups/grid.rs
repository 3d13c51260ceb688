//! The grid of groups that covers a convolution.

use super::shape::GroupShape;
use crate::network::ConvShape;

/// The grid of groups over a convolution's weights `[filters, channels, kernel height, kernel width]`.
///
/// Groups are numbered `(set * blocks + block) * taps + tap`: filter set, channel block, kernel position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupGrid {
    /// Shape of a group.
    pub group: GroupShape,
    /// The convolution's filters.
    pub filters: usize,
    /// The convolution's input channels.
    pub channels: usize,
    /// Kernel positions.
    pub taps: usize,
}

impl GroupGrid {
    /// The grid of a convolution.
    pub fn new(group: GroupShape, conv: &ConvShape) -> Self {
        Self { group, filters: conv.filters(), channels: conv.channels(), taps: conv.taps() }
    }

    /// Filter sets; the last one may be partly filled.
    pub fn sets(&self) -> usize {
        self.filters.div_ceil(self.group.filters)
    }

    /// Channel blocks; the last one may be partly filled.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.group.channels)
    }

    /// Groups of one filter set.
    pub fn groups_per_set(&self) -> usize {
        self.blocks() * self.taps
    }

    /// All groups.
    pub fn groups(&self) -> usize {
        self.sets() * self.groups_per_set()
    }

    /// The group that a weight belongs to; `weight` counts in `[filters, channels, taps]` order.
    pub fn group_of(&self, weight: usize) -> usize {
        let tap = weight % self.taps;
        let channel = weight / self.taps % self.channels;
        let filter = weight / self.taps / self.channels;
        (filter / self.group.filters * self.blocks() + channel / self.group.channels) * self.taps + tap
    }

    /// Channel block and kernel position of a group that is numbered within its filter set.
    pub fn place_in_set(&self, group: usize) -> (usize, usize) {
        (group / self.taps, group % self.taps)
    }

    /// Real weights in a group: fewer than its shape says where filters or channels are left over.
    pub fn real_weights(&self, group: usize) -> usize {
        let block = group / self.taps % self.blocks();
        let set = group / self.groups_per_set();
        let filters = self.group.filters.min(self.filters - set * self.group.filters);
        let channels = self.group.channels.min(self.channels - block * self.group.channels);
        filters * channels
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
