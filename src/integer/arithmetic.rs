//! The arithmetic that all executions share: its bounds, and the rounding of a sum.

use std::ops::RangeInclusive;

/// Bits that a weight or a stored value may have.
pub const BITS: RangeInclusive<u8> = 2..=8;
/// Bits of the image's bytes.
pub const IMAGE_BITS: u8 = 8;
/// Bits of an accumulator, a bias and a logit, the sign among them.
pub const ACCUMULATOR_BITS: u64 = i32::BITS as u64;
/// Bound on `|bias|`: half of what an accumulator reaches.
pub const MAX_BIAS: i32 = i32::MAX / 2;
/// Bits of a multiplier `m` of a convolution, which has no sign.
pub const MULTIPLIER_BITS: u64 = 16;
/// Largest `m`.
pub const MAX_MULTIPLIER: u32 = (1 << MULTIPLIER_BITS) - 1;
/// Bits of the multiplier `m_skip` of an identity residual, which has no sign.
pub const SKIP_MULTIPLIER_BITS: u64 = 31;
/// Largest `m_skip`.
pub const MAX_SKIP_MULTIPLIER: u32 = (1 << SKIP_MULTIPLIER_BITS) - 1;
/// Shifts are smaller than this: by 39, the largest product of accumulator and multiplier, `2^47`, still fills a code of 8 bits.
pub const SHIFT_LIMIT: u8 = (ACCUMULATOR_BITS + MULTIPLIER_BITS) as u8 - 8;

/// Requantization of a sum to one or more forms.
#[derive(Clone, Debug, PartialEq)]
pub struct Requantize {
    /// `m`: one, or one a filter; positive, at most 16 bits.
    pub multipliers: Vec<u32>,
    /// The forms that are stored, each of another width.
    pub forms: Vec<Form>,
}

/// One stored width of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Bits, 2 to 8.
    pub bits: u8,
    /// `n`.
    pub shift: u8,
    /// `z`, the code that means 0: 0 behind a ReLU, above it for values with a sign.
    pub zero_point: u8,
}

/// The code that means 0 in a form: 0 behind a ReLU; for values with a sign the middle of its codes, so that they reach from `-2^(bits-1)` to
/// `2^(bits-1) - 1`.
pub fn zero_point(bits: u8, is_signed: bool) -> u8 {
    if is_signed { 1 << (bits - 1) } else { 0 }
}

impl Form {
    /// Requantizes a sum: rounds half up, adds the zero point, clamps to the form's range.
    pub fn apply(self, sum: i64) -> u8 {
        let rounded = (sum + (1 << (self.shift - 1))) >> self.shift;
        // The clamp keeps it within a byte, since a form has at most 8 bits.
        (rounded + i64::from(self.zero_point)).clamp(0, (1 << self.bits) - 1) as u8
    }
}

impl Requantize {
    /// The multiplier of a filter.
    pub fn multiplier(&self, filter: usize) -> u32 {
        multiplier(&self.multipliers, filter)
    }
}

/// The multiplier of a filter, from a list that holds one for all or one for each.
pub fn multiplier(multipliers: &[u32], filter: usize) -> u32 {
    if multipliers.len() == 1 { multipliers[0] } else { multipliers[filter] }
}

/// Class with the largest logit; the lowest of equal ones.
pub fn predict(logits: &[i32]) -> usize {
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The nearest whole number, of two the upper one, in codes that reach from `-z` to `2^bits - 1 - z`.
        #[test]
        fn a_code_less_its_zero_point_is_the_rounded_sum(
            sum in -(1i64 << 56)..1 << 56, bits in 2u8..=8, shift in 1u8..SHIFT_LIMIT, zero_point in any::<u8>(),
        ) {
            let zero_point = (u16::from(zero_point) % (1 << bits)) as u8;
            let code = Form { bits, shift, zero_point }.apply(sum);
            let (least, most) = (-i128::from(zero_point), (1i128 << bits) - 1 - i128::from(zero_point));
            let (sum, unit) = (i128::from(sum), 1i128 << shift);
            let exact = (sum * 2 + unit).div_euclid(2 * unit);
            prop_assert_eq!(i128::from(code) - i128::from(zero_point), exact.clamp(least, most));
        }

        /// What a filter reads of a border is nothing: `z` times its weights, which its bias takes off.
        #[test]
        fn a_bias_takes_its_inputs_zero_points_off(
            weights in prop::collection::vec(-127i64..=127, 1..40), codes in prop::collection::vec(any::<u8>(), 40), zero_point: u8,
        ) {
            let bias = -weights.iter().sum::<i64>() * i64::from(zero_point);
            let sum = |code: &dyn Fn(usize) -> i64| weights.iter().enumerate().map(|(i, w)| w * code(i)).sum::<i64>();
            let units = |i: usize| i64::from(codes[i]) - i64::from(zero_point);
            prop_assert_eq!(sum(&|i| codes[i].into()) + bias, sum(&units));
            prop_assert_eq!(sum(&|_| zero_point.into()) + bias, 0);
        }
    }
}
