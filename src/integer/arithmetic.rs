//! The arithmetic that all executions share: its bounds, and the rounding of a sum.

/// Bits of the image's bytes.
pub const IMAGE_BITS: u8 = 8;
/// Largest multiplier `m` of a convolution: 16 bits.
pub const MAX_MULTIPLIER: u32 = u16::MAX as u32;
/// Largest multiplier `m_skip` of an identity residual: 31 bits.
pub const MAX_SKIP_MULTIPLIER: u32 = i32::MAX as u32;
/// Bound on `|bias|`.
pub const MAX_BIAS: i32 = (1 << 30) - 1;
/// Shifts are smaller than this.
pub const SHIFT_LIMIT: u8 = 40;

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
}

impl Form {
    /// Requantizes a sum: rounds half up, clamps to the form's range.
    pub fn apply(self, sum: i64) -> u8 {
        let rounded = (sum + (1 << (self.shift - 1))) >> self.shift;
        // The clamp keeps it within a byte, since a form has at most 8 bits.
        rounded.clamp(0, (1 << self.bits) - 1) as u8
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
