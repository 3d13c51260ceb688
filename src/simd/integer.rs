//! Registers of integers: dot products of bytes, popcounts of words, and counts in bytes. All instruction sets give the same bits: products of an
//! unsigned and a signed byte are added in 32 bits, and nothing saturates below `2^31`.

/// Outputs that are computed side by side.
pub(crate) const LANES: usize = 16;
/// Rows whose weights lie side by side for each output.
pub(crate) const QUAD: usize = 4;

/// The weights of some rows for all lanes: `[lane][row]` of four rows, or `[lane][digit]`, a bit for each of eight.
pub(crate) type Weights = [i8; LANES * QUAD];
/// The inputs of those rows.
pub(crate) type Inputs = [u8; QUAD];

/// One bit of each of 16 rows.
pub(crate) type Word = u16;
/// Words whose popcounts [`Popcounts`] can add up.
pub(crate) const COUNTABLE: usize = 31;

/// Rows whose bits make up a byte.
pub(crate) const OCTET: usize = 8;
/// Digits of a weight that lie side by side for each output.
pub(crate) const DIGITS: usize = 4;
/// Entries of [`Counts::lookup`].
pub(crate) const TABLE: usize = 128;

/// Magnitude that a sum over two of the four rows may reach in [`IntegerSimd::Narrow`].
pub(crate) const NARROW_LIMIT: i32 = i16::MAX as i32;

/// A token whose registers hold integers.
pub(crate) trait IntegerSimd: Copy {
    type I32: Integers + Dot<Sums = Self::I32>;
    /// Sums for products so small that those of the first two rows of all quads stay within [`NARROW_LIMIT`], and those of the
    /// last two as well; they may be added up in 16 bits.
    type Narrow: Dot<Sums = Self::I32>;
    type Popcounts: Popcounts;
    type Counts: Counts;

    /// Numbers as a register.
    fn lanes(self, lanes: [i32; LANES]) -> Self::I32;
    /// Sums of nothing yet.
    fn narrow(self) -> Self::Narrow;
    /// Popcounts of nothing yet.
    fn popcounts(self) -> Self::Popcounts;
    /// Counts of nothing yet.
    fn counts(self) -> Self::Counts;
}

/// What adds up products of weights and inputs, a register of rows at a time.
pub(crate) trait AddRows: Copy {
    /// Adds a register's rows to each lane: four rows of bytes, or eight rows of bits.
    fn add_rows(self, weights: &Weights, inputs: Inputs) -> Self;
}

/// Dot products of bytes: rows come as [`Weights`] of four rows and their inputs.
pub(crate) trait Dot: AddRows {
    /// What the sums are then.
    type Sums: Copy;
    /// The sums.
    fn sums(self) -> Self::Sums;
}

/// [`LANES`] integers.
pub(crate) trait Integers: Copy {
    /// Adds `other * factor` to each lane.
    fn add_product(self, other: Self, factor: i32) -> Self;
    /// Adds a number to each lane.
    fn plus(self, number: i32) -> Self;
    /// The low 32 bits of each lane times a number.
    fn times(self, number: i32) -> Self;
    /// Shifts each lane, taken without sign.
    fn shift_right(self, bits: u32) -> Self;
    /// Saturates each lane.
    fn clamp(self, low: i32, high: i32) -> Self;
    /// True if a lane is below `low` or above `high`.
    fn beyond(self, low: i32, high: i32) -> bool;
    /// The lanes as numbers.
    fn to_lanes(self) -> [i32; LANES];
}

/// Popcounts of `input & weight` for [`LANES`] words of weights, added up over at most [`COUNTABLE`] inputs.
pub(crate) trait Popcounts: Copy {
    /// Adds those of one input.
    fn add(self, input: Word, weights: &[Word; LANES]) -> Self;
    /// The sums.
    fn counts(self) -> [u16; LANES];
}

/// Counts of up to 255 rows in bytes, `[lane][digit]`: in how many both bits are one. Weights are `[lane][digit]`, a bit for each of eight rows; inputs
/// are those rows' byte four times.
pub(crate) trait Counts: AddRows {
    /// What weighted digits add up to.
    type Sums: Integers;

    /// The larger one of each two counts.
    fn max(self, other: Self) -> Self;
    /// True if a digit's count is above its largest in a lane.
    fn beyond(self, largest: [u8; DIGITS]) -> bool;
    /// What stands in the table under each count; under its last entry for all larger ones.
    fn lookup(self, table: &[u8; TABLE]) -> Self;
    /// Adds each lane's digits times their places. Two neighbors and their places stay within 16 bits.
    fn weighted(self, sums: Self::Sums, places: [i8; DIGITS]) -> Self::Sums;
    /// Sums of nothing yet.
    fn sums(self) -> Self::Sums;
    /// The counts as numbers.
    fn to_bytes(self) -> [u8; LANES * DIGITS];
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simd::{IntegerKernel, Portable, dispatch_integers, on_each_isa};

    #[derive(Clone, Copy)]
    struct All<'a>(&'a [(Weights, Inputs)]);

    impl IntegerKernel for All<'_> {
        type Output = ([i32; LANES], [i32; LANES], [bool; 3], [i32; LANES]);

        #[inline(always)]
        fn run<S: IntegerSimd>(self, simd: S) -> Self::Output {
            let sums =
                self.0.iter().fold(simd.lanes([0; LANES]), |sums, (weights, inputs)| sums.add_rows(weights, *inputs));
            let lanes = sums.to_lanes();
            let (low, high) = (*lanes.iter().min().unwrap(), *lanes.iter().max().unwrap());
            let beyond = [(low, high), (low + 1, high), (low, high - 1)].map(|(low, high)| sums.beyond(low, high));
            let chain = sums.clamp(-9999, 5000).plus(9999).times(0x0080_4021).shift_right(7);
            (lanes, sums.add_product(simd.lanes(lanes), -7).to_lanes(), beyond, chain.to_lanes())
        }
    }

    fn agree(rows: &[(Weights, Inputs)]) {
        let expected = All(rows).run(Portable);
        assert_eq!(expected.1, expected.0.map(|sum| -6 * sum));
        assert_eq!(expected.2, [false, true, true]);
        let chain = |sum: i32| (sum.clamp(-9999, 5000) + 9999) as u32;
        assert_eq!(expected.3, expected.0.map(|sum| (chain(sum).wrapping_mul(0x0080_4021) >> 7) as i32));
        for (isa, found) in on_each_isa(|| dispatch_integers(All(rows))) {
            assert_eq!(found, expected, "{isa:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 32 }))]

        #[test]
        fn all_instruction_sets_give_the_same_bits(
            rows in prop::collection::vec(
                (prop::collection::vec(any::<i8>(), 64).prop_map(|w| w.try_into().unwrap()), any::<Inputs>()),
                0..20,
            ),
        ) {
            agree(&rows);
        }
    }

    #[derive(Clone, Copy)]
    struct AllNarrow<'a>(&'a [(Weights, Inputs)]);

    impl IntegerKernel for AllNarrow<'_> {
        type Output = [i32; LANES];

        #[inline(always)]
        fn run<S: IntegerSimd>(self, simd: S) -> Self::Output {
            let sums = self.0.iter().fold(simd.narrow(), |sums, (weights, inputs)| sums.add_rows(weights, *inputs));
            sums.sums().to_lanes()
        }
    }

    /// 12 quads of two products of 1365 stay just below the limit, with either sign.
    #[test]
    fn narrow_sums_are_exact_up_to_their_limit() {
        for (weight, input) in [(105, 13), (-105, 13), (13, 105), (-13, 105)] {
            let mut rows = vec![([weight; LANES * QUAD], [input; QUAD]); 12];
            assert!(2 * 12 * i32::from(weight).abs() * i32::from(input) <= NARROW_LIMIT);
            rows[3].0[7] = 0;
            let expected = All(&rows).run(Portable).0;
            assert_eq!(AllNarrow(&rows).run(Portable), expected);
            for (isa, found) in on_each_isa(|| dispatch_integers(AllNarrow(&rows))) {
                assert_eq!(found, expected, "{isa:?}");
            }
        }
    }

    #[test]
    fn the_largest_products_do_not_saturate() {
        for weight in [i8::MIN, i8::MAX] {
            agree(&[([weight; LANES * QUAD], [255; QUAD]); 16]);
        }
    }

    #[derive(Clone, Copy)]
    struct AllCounts<'a>(&'a [(Weights, u8)], &'a [u8; TABLE], [i8; DIGITS]);

    impl IntegerKernel for AllCounts<'_> {
        type Output = ([u8; LANES * DIGITS], [bool; 2], [u8; LANES * DIGITS], [i32; LANES]);

        #[inline(always)]
        fn run<S: IntegerSimd>(self, simd: S) -> Self::Output {
            let Self(rows, table, places) = self;
            let counts =
                rows.iter().fold(simd.counts(), |counts, (weights, input)| counts.add_rows(weights, [*input; 4]));
            let bytes = counts.to_bytes();
            let largest: [u8; DIGITS] =
                std::array::from_fn(|digit| *bytes[digit..].iter().step_by(DIGITS).max().unwrap());
            let lower = largest.map(|count| count.saturating_sub(1));
            let beyond = [counts.beyond(largest), counts.beyond(lower)];
            let found = counts.max(simd.counts()).lookup(table);
            (bytes, beyond, found.to_bytes(), found.weighted(found.weighted(found.sums(), places), places).to_lanes())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 32 }))]

        #[test]
        fn counts_are_those_of_a_loop_on_all_instruction_sets(
            rows in prop::collection::vec(
                (prop::collection::vec(any::<i8>(), 64).prop_map(|w| w.try_into().unwrap()), any::<u8>()),
                0..=31,
            ),
            all_ones in any::<bool>(),
            table in prop::collection::vec(any::<u8>(), TABLE).prop_map(|table| <[u8; TABLE]>::try_from(table).unwrap()),
            places in prop::sample::select(vec![[1, 2, 4, -8], [16, 32, 64, -128], [1, -2, 0, 0], [-1, 0, 0, 0]]),
        ) {
            let rows: Vec<(Weights, u8)> = match all_ones {
                true => rows.iter().map(|_| ([-1; 64], 255)).collect(),
                false => rows,
            };
            let counts: [u8; 64] = std::array::from_fn(|at| {
                rows.iter().map(|(weights, input)| (weights[at] as u8 & input).count_ones() as u8).sum()
            });
            let found = counts.map(|count| table[usize::from(count).min(TABLE - 1)]);
            let sums = std::array::from_fn(|lane| {
                (0..DIGITS).map(|digit| 2 * i32::from(found[lane * DIGITS + digit]) * i32::from(places[digit])).sum()
            });
            let expected = (counts, [false, counts.iter().any(|count| *count > 0)], found, sums);
            prop_assert_eq!(AllCounts(&rows, &table, places).run(Portable), expected);
            for (isa, found) in on_each_isa(|| dispatch_integers(AllCounts(&rows, &table, places))) {
                prop_assert_eq!(found, expected, "{:?}", isa);
            }
        }
    }
}
