//! Kept groups of one convolution as an index and packed weights.

use crate::groups::{GroupGrid, Index, IndexCode};

/// Dense positions of a group's real weights: filter by filter, in each the channels that it reads.
fn positions(grid: &GroupGrid, group: usize) -> impl Iterator<Item = usize> {
    let grid = *grid;
    let set = group / grid.groups_per_set();
    let (block, tap) = grid.place(set, group % grid.groups_per_set());
    let block = grid.block_channels(block);
    grid.set_filters(set).flat_map(move |filter| {
        let reads = grid.reads(filter);
        let channels = block.start.max(reads.start)..block.end.min(reads.end);
        channels.map(move |channel| grid.weight(filter, channel, tap))
    })
}

/// The index of each filter set, and the kept groups' weights as one stream of `bits` each, lowest bit first.
pub(super) fn pack(grid: &GroupGrid, weights: &[i8], bits: u8) -> (Vec<Index>, Vec<u8>) {
    let kept = grid.kept(weights);
    let index = kept.chunks(grid.groups_per_set()).map(IndexCode::cheapest).collect();
    let mut stream = Vec::new();
    let (mut pending, mut length) = (0u32, 0);
    for position in kept_groups(&kept).flat_map(|group| positions(grid, group)) {
        pending |= (weights[position] as u32 & mask(bits)) << length;
        length += bits;
        if length >= 8 {
            stream.push(pending as u8);
            pending >>= 8;
            length -= 8;
        }
    }
    if length > 0 {
        stream.push(pending as u8);
    }
    (index, stream)
}

/// The dense weights; `kept` has one entry for each group of the grid.
///
/// # Errors
/// A stream of another length than the kept groups need, unused bits that are not 0, the weight `-2^(bits-1)`, a kept
/// group without a weight.
pub(super) fn unpack(grid: &GroupGrid, kept: &[bool], stream: &[u8], bits: u8) -> Result<Vec<i8>, String> {
    let count: usize = kept_groups(kept).map(|group| grid.real_weights(group)).sum();
    let expected = (count * usize::from(bits)).div_ceil(8);
    if stream.len() != expected {
        return Err(format!(
            "it has {} bytes, but the kept groups hold {count} weights of {bits} bits, which take {expected}",
            stream.len()
        ));
    }
    let mut bytes = stream.iter();
    let (mut pending, mut length) = (0u32, 0);
    let mut weights = vec![0; grid.filters * grid.depth * grid.taps];
    for group in kept_groups(kept) {
        let mut any = false;
        for position in positions(grid, group) {
            if length < bits {
                // The length was checked above.
                pending |= u32::from(bytes.next().copied().unwrap_or_default()) << length;
                length += 8;
            }
            // Moves the sign to bit 7 and back.
            let weight = ((pending & mask(bits)) << (8 - bits)) as u8 as i8 >> (8 - bits);
            pending >>= bits;
            length -= bits;
            if i32::from(weight) == -1 << (bits - 1) {
                return Err(format!(
                    "weight {weight} of group {group}, which {bits} bits allow but the arithmetic does not"
                ));
            }
            any |= weight != 0;
            weights[position] = weight;
        }
        if !any {
            return Err(format!("group {group} is kept but all its weights are 0"));
        }
    }
    if pending != 0 {
        return Err("the unused bits at its end are not 0".into());
    }
    Ok(weights)
}

fn kept_groups(kept: &[bool]) -> impl Iterator<Item = usize> {
    kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(group, _)| group)
}

fn mask(bits: u8) -> u32 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::groups::GroupShape;
    use crate::network::{ConvShape, MapShape, Window};

    fn grid(group: [usize; 2], conv: [usize; 3]) -> GroupGrid {
        GroupGrid::dense(GroupShape { filters: group[0], channels: group[1] }, conv[0], conv[1], conv[2])
    }

    #[test]
    fn a_stream_starts_at_the_lowest_bit() {
        let grid = grid([2, 2], [2, 2, 1]);
        let (index, stream) = pack(&grid, &[1, -1, 3, -3], 3);
        // 001, 111, 011, 101 from the lowest bit: 1 + 7 * 8 + 3 * 64 + 5 * 512 = 2809.
        assert_eq!(stream, 2809u16.to_le_bytes());
        assert_eq!((index.len(), index[0].bytes.clone()), (1, vec![1]));
        assert_eq!(unpack(&grid, &[true], &stream, 3).unwrap(), [1, -1, 3, -3]);
    }

    #[test]
    fn what_is_not_canonical_is_an_error() {
        let grid = grid([1, 2], [1, 2, 1]);
        let error = |stream: &[u8], bits| unpack(&grid, &[true], stream, bits).unwrap_err();
        assert!(error(&[1, 2, 0], 8).contains("it has 3 bytes"));
        assert!(error(&[1, 0x80], 8).contains("weight -128"));
        assert!(error(&[0b001_100], 3).contains("weight -4"));
        assert!(error(&[0], 3).contains("all its weights are 0"));
        assert!(error(&[0b0100_0001], 3).contains("unused bits"));
    }

    proptest! {
        #[test]
        fn every_convolution_comes_back(
            group in [1usize..5, 1usize..20],
            [filters, depth, taps] in [1usize..9, 1usize..9, 1usize..5],
            divisions in prop_oneof![Just(1usize), 2usize..7],
            bits in 2u8..9,
            seed in any::<u64>(),
        ) {
            let group = GroupShape { filters: group[0], channels: group[1] };
            let map = |channels| MapShape { channels: channels * divisions, height: 1, width: 1 };
            let (input, output) = (map(depth), map(filters));
            let window = Window { kernel: [1, taps], ..Window::square(1, 1, 0) };
            let conv = ConvShape { input, output, window, dilation: [1; 2], groups: divisions };
            let grid = GroupGrid::new(group, &conv);
            let real: usize = (0..grid.groups()).map(|group| grid.real_weights(group)).sum();
            prop_assert_eq!(real, conv.weights());
            let limit = (1i64 << (bits - 1)) - 1;
            let weights: Vec<i8> = (0..conv.weights())
                .map(|position| {
                    let random = (position as u64 + 1).wrapping_mul(seed | 1) >> 20;
                    let sparse = grid.group_of(position).is_multiple_of(3);
                    if sparse { 0 } else { (random as i64 % (2 * limit + 1) - limit) as i8 }
                })
                .collect();
            let (index, stream) = pack(&grid, &weights, bits);
            let groups = grid.groups_per_set();
            let kept: Vec<bool> = index
                .iter()
                .flat_map(|index| index.code.decode(&index.bytes, index.bit_len, groups).unwrap())
                .collect();
            prop_assert_eq!(unpack(&grid, &kept, &stream, bits), Ok(weights));
        }
    }
}
