//! Weight slices and the converter that turns their partial sums into numbers.
//!
//! Weights are two's complement: the highest slice holds a signed digit, the others digits without sign. Where a slice is one
//! bit, the highest one counts negatively instead.

use super::config::Converter;
use super::kernel::Sums;

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
    /// Sums are saturated and rounded to codes.
    Coded {
        /// The least and the largest.
        range: [i32; 2],
        /// Sum that one code stands for.
        step: i32,
        /// `floor(2^shift / step) + 1`.
        reciprocal: u64,
        /// `30 + ceil(log2 step)`, which makes a division by `step` exact below `2^30`.
        shift: u32,
    },
}

impl Conversion {
    /// The converter's ranges; `signed` tells whether the slice has negative digits.
    fn new(converter: Converter, signed: bool) -> Self {
        match converter {
            Converter::Ideal => Self::Exact,
            Converter::Clipping { range } => Self::Clamped { range: [-range, range] },
            Converter::Bits { bits, step } => {
                let lowest = if signed { -(1 << (bits - 1)) } else { 0 };
                let shift = 30 + (step as u32).next_power_of_two().ilog2();
                Self::Coded {
                    range: [lowest * step, (lowest + (1 << bits) - 1) * step],
                    step,
                    reciprocal: (1 << shift) / step as u64 + 1,
                    shift,
                }
            }
        }
    }

    /// What the converter makes of a vector of partial sums.
    #[inline(always)]
    pub(super) fn apply<S: Sums>(self, sums: S) -> S {
        if matches!(self, Self::Exact) {
            return sums;
        }
        let mut lanes = sums.lanes();
        // A loop instead of `map`, which is compiled apart and without the vector unit.
        for sum in &mut lanes {
            *sum = self.convert(*sum);
        }
        S::from_lanes(lanes)
    }

    /// What the converter makes of a partial sum.
    #[inline(always)]
    pub(super) fn convert(self, sum: i32) -> i32 {
        match self {
            Self::Exact => sum,
            Self::Clamped { range: [low, high] } => sum.clamp(low, high),
            Self::Coded { range: [low, high], step, reciprocal, shift } => {
                let above = (sum.clamp(low, high) - low + step / 2) as u64;
                ((above * reciprocal) >> shift) as i32 * step + low
            }
        }
    }
}
