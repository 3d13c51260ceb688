//! Outputs: what follows a convolution's accumulators.

use std::ops::Range;

use super::traffic::Traffic;

/// What follows the accumulators of a convolution, for each output pixel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outputs {
    /// Filters that read a residual value to join their accumulator.
    pub(super) residual: Range<usize>,
    /// Bits of such a value.
    pub(super) residual_bits: u64,
    /// Bits that are stored for each filter.
    pub(super) stored_bits: u64,
}

impl Outputs {
    /// Residual values that some filters read, and values that they write.
    pub(super) fn traffic(&self, filters: &Range<usize>) -> Traffic {
        let (start, end) = (filters.start.max(self.residual.start), filters.end.min(self.residual.end));
        let residual = end.saturating_sub(start) as u64;
        Traffic { read: residual * self.residual_bits, written: filters.len() as u64 * self.stored_bits }
    }
}
