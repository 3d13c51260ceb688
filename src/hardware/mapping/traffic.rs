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

    /// Even parts of it, which differ by a bit at most.
    pub(super) fn parts(self, count: usize) -> impl Iterator<Item = Self> {
        let count = count as u64;
        let share = move |bits: u64, part: u64| bits / count + u64::from(part < bits % count);
        (0..count).map(move |part| Self { read: share(self.read, part), written: share(self.written, part) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_parts_are_the_whole() {
        let whole = Traffic { read: 11, written: 4 };
        for count in 1..15 {
            let parts: Vec<Traffic> = whole.parts(count).collect();
            assert_eq!((parts.len(), parts.iter().copied().sum::<Traffic>()), (count, whole));
            let read = || parts.iter().map(|part| part.read);
            assert!(read().max().unwrap() - read().min().unwrap() <= 1, "{parts:?}");
        }
    }
}
