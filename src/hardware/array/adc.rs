//! Weight slices and the converter that turns their partial sums into numbers.
//!
//! Weights are two's complement: the highest slice holds a signed digit, the others digits without sign. Where a slice is one
//! bit, the highest one counts negatively instead.

use crate::hardware::chip::Converter;
use crate::simd::{DIGITS, IntegerSimd, Integers, LANES, Portable, TABLE};

/// A digit of the weights: `weight = sum of digit * place`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) place: i32,
    pub(super) signed: bool,
    pub(super) conversion: Conversion,
}

impl Slice {
    /// The slices of a weight, the lowest first.
    pub(super) fn all(count: usize, bits: u8, converter: Converter) -> Vec<Self> {
        let slice = |index: usize| {
            let place = 1i32 << (index * usize::from(bits));
            let top = index + 1 == count;
            let signed = top && bits > 1;
            Self {
                place: if top && bits == 1 { -place } else { place },
                signed,
                conversion: Conversion::new(converter, signed),
            }
        };
        (0..count).map(slice).collect()
    }

    /// Digit `index` of a weight, `bits` wide.
    pub(super) fn digit(self, weight: i8, index: usize, bits: u8) -> i8 {
        let shifted = weight >> (index * usize::from(bits));
        if self.signed { shifted } else { shifted & (i8::MAX >> (7 - bits)) }
    }
}

/// A converter for the sums of one slice.
#[derive(Clone, Copy, Debug)]
pub(super) enum Conversion {
    /// Nothing changes.
    Exact,
    /// Sums are saturated.
    Clamped {
        /// The least and the largest.
        range: [i32; 2],
    },
    /// Sums are saturated and rounded to codes; all products stay within 32 bits.
    Coded(Codes<u32>),
    /// The same where they need 64.
    WideCoded(Codes<u64>),
}

/// The codes of a converter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes<T> {
    /// The least and the largest sum.
    range: [i32; 2],
    /// Sum that one code stands for.
    step: i32,
    /// `floor(2^shift / step) + 1`.
    reciprocal: T,
    /// `log2` of the least power of two above `step` times the largest number to divide, which makes the division by `step`
    /// exact.
    shift: u32,
}

impl Conversion {
    /// The converter's ranges; `signed` tells whether the slice has negative digits.
    pub(super) fn new(converter: Converter, signed: bool) -> Self {
        match converter {
            Converter::Ideal | Converter::AdderTree => Self::Exact,
            Converter::Clipping { range } => Self::Clamped { range: [-range, range] },
            Converter::Bits { bits, step } => {
                let lowest = if signed { -(1 << (bits - 1)) } else { 0 };
                let range = [lowest * step, (lowest + (1 << bits) - 1) * step];
                let largest = (range[1] - range[0] + step / 2) as u64;
                let shift = (largest * step as u64 + 1).next_power_of_two().ilog2();
                let reciprocal = (1 << shift) / step as u64 + 1;
                match (u32::try_from(reciprocal), u32::try_from(largest * reciprocal)) {
                    // A shift by 32 and more needs 64 bits too.
                    (Ok(reciprocal), Ok(_)) if shift < 32 => Self::Coded(Codes { range, step, reciprocal, shift }),
                    _ => Self::WideCoded(Codes { range, step, reciprocal, shift }),
                }
            }
        }
    }

    /// Turns vectors of partial sums into what the converter makes of them.
    #[inline(always)]
    pub(super) fn apply<S: IntegerSimd>(self, simd: S, sums: &mut [S::I32]) {
        match self {
            Self::Exact => {}
            Self::Clamped { range: [low, high] } => {
                for sums in sums {
                    *sums = sums.clamp(low, high);
                }
            }
            Self::Coded(Codes { range: [low, high], step, reciprocal, shift }) => {
                for sums in sums {
                    let above = sums.clamp(low, high).plus(step / 2 - low);
                    let codes = above.times(reciprocal as i32).shift_right(shift);
                    *sums = codes.times(step).plus(low);
                }
            }
            Self::WideCoded(Codes { range: [low, high], step, reciprocal, shift }) => {
                for sums in sums {
                    let mut lanes = sums.to_lanes();
                    for sum in &mut lanes {
                        let above = (i64::from((*sum).clamp(low, high)) + i64::from(step / 2 - low)) as u64;
                        *sum = ((above * reciprocal) >> shift) as i32 * step + low;
                    }
                    *sums = simd.lanes(lanes);
                }
            }
        }
    }

    /// Whether a partial sum lies beyond the codes: it is farther from the last one than rounding takes it.
    pub(super) fn saturates(self, sum: i32) -> bool {
        match self {
            Self::Exact => false,
            Self::Clamped { range: [low, high] } => !(low..=high).contains(&sum),
            Self::Coded(Codes { range, step, .. }) => beyond(range, step, sum),
            Self::WideCoded(Codes { range, step, .. }) => beyond(range, step, sum),
        }
    }

    /// What the converter makes of a partial sum.
    pub(super) fn convert(self, sum: i32) -> i32 {
        let mut sums = [Portable.lanes([sum; LANES])];
        self.apply(Portable, &mut sums);
        sums[0].to_lanes()[0]
    }
}

/// What a converter makes of counts of ones, and what they weigh.
#[derive(Debug)]
pub(super) struct CountConversion {
    /// For each count; the last entry stands for all larger ones.
    pub(super) table: [u8; TABLE],
    /// Places of the slices that lie side by side; those that are missing weigh nothing.
    pub(super) places: Vec<[i8; DIGITS]>,
}

impl CountConversion {
    /// `None` where accesses of `rows` word lines give counts, or their conversions numbers, that bytes cannot hold; where a slice has a sign; or where
    /// the table's end doesn't stand for all larger counts.
    pub(super) fn new(slices: &[Slice], rows: usize) -> Option<Self> {
        let largest = u8::try_from(rows).ok()?;
        // All slices are a bit, which has no sign; one converter serves them.
        let conversion = slices.first().filter(|_| slices.iter().all(|slice| !slice.signed))?.conversion;
        let convert = |count: usize| u8::try_from(conversion.convert(count as i32)).ok();
        let last = convert(rows.min(TABLE - 1))?;
        if (TABLE..=largest.into()).any(|count| convert(count) != Some(last)) {
            return None;
        }
        let mut table = [last; TABLE];
        for (count, found) in table.iter_mut().enumerate().take(rows + 1) {
            *found = convert(count)?;
        }
        let places = slices.chunks(DIGITS).map(|slices| {
            let mut places = [0; DIGITS];
            for (place, slice) in places.iter_mut().zip(slices) {
                *place = i8::try_from(slice.place).ok()?;
            }
            // What two neighbors come to has to fit 16 bits.
            let most = table.iter().copied().max().map_or(0, i32::from);
            let fits = |[a, b]: &[i8; 2]| {
                let [a, b] = [a, b].map(|place| i32::from(*place) * most);
                i16::try_from(a.min(0) + b.min(0)).is_ok() && i16::try_from(a.max(0) + b.max(0)).is_ok()
            };
            places.as_chunks::<2>().0.iter().all(fits).then_some(places)
        });
        Some(Self { table, places: places.collect::<Option<_>>()? })
    }
}

/// Whether a sum would round to a code outside of those that reach over `range`.
fn beyond([low, high]: [i32; 2], step: i32, sum: i32) -> bool {
    let code = (2 * i64::from(sum) + i64::from(step)).div_euclid(2 * i64::from(step)) * i64::from(step);
    !(i64::from(low)..=i64::from(high)).contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sum near a code's edge, and both ends of the range, against a division.
    #[test]
    fn codes_are_those_of_a_division() {
        for (bits, step) in
            [(1, 1), (5, 2), (5, 3), (8, 39), (8, 255), (12, 7), (12, 500), (16, 1), (16, 3), (16, 1 << 14)]
        {
            for signed in [false, true] {
                let conversion = Conversion::new(Converter::Bits { bits, step }, signed);
                let lowest = if signed { -(1i64 << (bits - 1)) } else { 0 };
                let highest = lowest + (1 << bits) - 1;
                for code in [lowest - 2, lowest, lowest + 1, -1, 0, 1, highest / 3, highest - 1, highest, highest + 2] {
                    for near in -2..=2 {
                        let sum = code * i64::from(step) + i64::from(step) / 2 + near;
                        let expected =
                            (2 * sum + i64::from(step)).div_euclid(2 * i64::from(step)).clamp(lowest, highest);
                        let found = conversion.convert(sum as i32);
                        assert_eq!(i64::from(found), expected * i64::from(step), "{bits} bits, step {step}, sum {sum}");
                    }
                }
            }
        }
        assert!(matches!(Conversion::new(Converter::Bits { bits: 5, step: 2 }, true), Conversion::Coded(_)));
        assert!(matches!(Conversion::new(Converter::Bits { bits: 16, step: 3 }, true), Conversion::WideCoded(_)));
    }
}
