//! Traffic: bits that move between a core and the feature-map SRAM.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

/// Bits that a core reads from the feature-map SRAM and writes to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

impl Traffic {
    /// Bits both ways.
    pub(crate) fn total(self) -> u64 {
        self.read + self.written
    }

    /// An even part of it, rounded up.
    pub(super) fn part_of(self, parts: u64) -> Self {
        Self { read: self.read.div_ceil(parts), written: self.written.div_ceil(parts) }
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { read: self.read + other.read, written: self.written + other.written }
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<u64> for Traffic {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        Self { read: self.read * times, written: self.written * times }
    }
}

impl Sum for Traffic {
    fn sum<I: Iterator<Item = Self>>(traffic: I) -> Self {
        traffic.fold(Self::default(), Add::add)
    }
}
