//! Broadcast: inputs that one read of the feature-map SRAM brings to several cores of a copy.
//!
//! A core's macros take in bundle after bundle, so a read serves cores whose tiles run in the same round. An input that several of them need is
//! read as often as that core reads it which needs it most often. The cores' ports carry it all the same: broadcast saves energy, not time.

use std::collections::{BTreeMap, BTreeSet};

use super::accesses::ConvMapping;
use super::placement::Placement;
use super::shares::numbered;
use super::tiles::Tiling;
use crate::hardware::chip::Hardware;

/// Bits for a frame that a placed layer doesn't read, since a read for another core brings them.
pub(super) fn spared_bits(mapping: &ConvMapping, placement: Placement, hardware: &Hardware) -> u64 {
    let mut reads = 0;
    // How often the core reads it that needs it most often, for each round, channel block and kernel position.
    let mut most = BTreeMap::new();
    for shares in placement.shares(mapping, hardware) {
        let tiling = Tiling::of_core(&shares, mapping, placement, hardware);
        let mut of_core = BTreeMap::new();
        for (share, accesses) in numbered(&shares, mapping.parts()) {
            for segment in tiling.segments(accesses, share.accesses(mapping.parts())) {
                let round = tiling.round_of(segment.tile);
                for place in mapping.inputs_of(share.set, segment.read_bundles(mapping.parts())) {
                    *of_core.entry((round, place)).or_insert(0) += 1;
                    reads += 1;
                }
            }
        }
        for (input, times) in of_core {
            let most = most.entry(input).or_insert(0);
            *most = times.max(*most);
        }
    }
    (reads - most.into_values().sum::<u64>()) * mapping.section_bits() * mapping.shape.output.pixels() as u64
}

/// Bits for a frame of inputs that further filter sets need, once one has read them: what is left of a placement's reads is never less than what is left of these.
pub(super) fn most_spared_bits(mapping: &ConvMapping) -> u64 {
    let inputs = |set| mapping.inputs_of(set, 0..mapping.set_bundles(set));
    let distinct: BTreeSet<_> = (0..mapping.sets.len()).flat_map(inputs).collect();
    (mapping.kept_groups() - distinct.len()) as u64 * mapping.section_bits() * mapping.shape.output.pixels() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::groups::{GroupGrid, GroupShape};
    use crate::hardware::chip::{Split, Start};
    use crate::hardware::mapping::FilterSet;
    use crate::integer::IntegerConv;
    use crate::network::{ConvShape, MapShape, Window};

    /// Two cores with one macro each, and a 1x1 convolution of two filter sets on four channel blocks of 4 channels at 4 bits and two pixels. An
    /// access has one group.
    fn spared(held: usize, kept: [&[usize]; 2], split: Split) -> (u64, u64) {
        let group = GroupShape { filters: 4, channels: 4 };
        let hardware = Hardware { cores: 2, macros_per_core: 1, rows: 4 * held, rows_on: 4, group, ..Hardware::mars() };
        let map = |channels| MapShape { channels, height: 1, width: 2 };
        let window = Window::square(1, 1, 0);
        let shape = ConvShape { input: map(16), output: map(8), window, dilation: [1; 2], groups: 1 };
        let conv = IntegerConv { input_bits: 4, weight_bits: 4, weights: vec![1; shape.weights()], bias: vec![0; 8] };
        let grid = GroupGrid::new(group, &shape);
        let sets = Arc::new(kept.map(|groups| FilterSet::new(&grid, groups.to_vec())).to_vec());
        let mapping = ConvMapping::with_sets("conv", shape, &conv, &hardware, sets, false).unwrap();
        let placement = Placement { split, copies: 1, start: Start::Staggered };
        (spared_bits(&mapping, placement, &hardware), most_spared_bits(&mapping))
    }

    #[test]
    fn what_cores_read_in_the_same_round_is_read_once() {
        // Bits of a block of 4 channels for both pixels.
        const BLOCK: u64 = 4 * 4 * 2;
        let all: &[usize] = &[0, 1, 2, 3];
        assert_eq!(spared(4, [all, all], Split::FilterSets), (4 * BLOCK, 4 * BLOCK));
        assert_eq!(spared(4, [&[0, 1, 2], &[1, 2, 3]], Split::FilterSets), (2 * BLOCK, 2 * BLOCK));
        // One block a round: the cores read another one in each.
        assert_eq!(spared(1, [&[0, 1, 2], &[1, 2, 3]], Split::FilterSets), (0, 2 * BLOCK));
        assert_eq!(spared(1, [all, all], Split::FilterSets), (4 * BLOCK, 4 * BLOCK));
        // The first core has blocks 0 and 1 of the first set and 2 and 3 of the second one.
        assert_eq!(spared(4, [all, all], Split::InputChannels), (4 * BLOCK, 4 * BLOCK));
        assert_eq!(spared(4, [&[0, 1], &[2, 3]], Split::FilterSets), (0, 0));
    }
}
