//! Plain Rust, for machines that no other instruction set fits.

use std::ops::{Add, Mul, Sub};

use super::float::{Floats, Simd};
use super::integer::{
    AddRows, Counts, DIGITS, Dot, Inputs, IntegerSimd, Integers, LANES, Popcounts, QUAD, TABLE, Weights, Word,
};

/// Needs nothing of the machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

/// Eight floats.
#[derive(Clone, Copy)]
pub(crate) struct F32x8([f32; 8]);

impl F32x8 {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Add for F32x8 {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
}

impl Sub for F32x8 {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
}

impl Mul for F32x8 {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
}

impl Floats for F32x8 {
    const LANES: usize = 8;

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        self + a * b
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's pointer is valid for eight floats.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
}

impl Simd for Portable {
    type F32 = F32x8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x8 {
        F32x8([value; 8])
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> F32x8 {
        // SAFETY: the caller's pointer is valid for eight floats.
        F32x8(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    fn prefetch(self, _: *const f32) {}
}

/// Sixteen integers.
#[derive(Clone, Copy)]
pub(crate) struct I32x16([i32; LANES]);

impl AddRows for I32x16 {
    #[inline(always)]
    fn add_rows(mut self, weights: &Weights, inputs: Inputs) -> Self {
        for (sum, weights) in self.0.iter_mut().zip(weights.chunks_exact(QUAD)) {
            for (weight, input) in weights.iter().zip(inputs) {
                *sum += i32::from(*weight) * i32::from(input);
            }
        }
        self
    }
}

impl Dot for I32x16 {
    type Sums = Self;

    #[inline(always)]
    fn sums(self) -> Self {
        self
    }
}

impl Integers for I32x16 {
    #[inline(always)]
    fn add_product(mut self, other: Self, factor: i32) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(sum, other)| *sum += other * factor);
        self
    }

    #[inline(always)]
    fn plus(mut self, number: i32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum += number);
        self
    }

    #[inline(always)]
    fn times(mut self, number: i32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum = sum.wrapping_mul(number));
        self
    }

    #[inline(always)]
    fn shift_right(mut self, bits: u32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum = (*sum as u32 >> bits) as i32);
        self
    }

    #[inline(always)]
    fn clamp(mut self, low: i32, high: i32) -> Self {
        self.0.iter_mut().for_each(|sum| *sum = (*sum).clamp(low, high));
        self
    }

    #[inline(always)]
    fn beyond(self, low: i32, high: i32) -> bool {
        self.0.iter().any(|sum| !(low..=high).contains(sum))
    }

    #[inline(always)]
    fn to_lanes(self) -> [i32; LANES] {
        self.0
    }
}

/// Sixteen popcounts.
#[derive(Clone, Copy)]
pub(crate) struct WordCounts([u16; LANES]);

impl Popcounts for WordCounts {
    #[inline(always)]
    fn add(mut self, input: Word, weights: &[Word; LANES]) -> Self {
        for (count, weight) in self.0.iter_mut().zip(weights) {
            *count += (input & weight).count_ones() as u16;
        }
        self
    }

    #[inline(always)]
    fn counts(self) -> [u16; LANES] {
        self.0
    }
}

/// 64 counts.
#[derive(Clone, Copy)]
pub(crate) struct ByteCounts([u8; LANES * DIGITS]);

impl AddRows for ByteCounts {
    #[inline(always)]
    fn add_rows(mut self, weights: &Weights, inputs: Inputs) -> Self {
        for (count, weights) in self.0.iter_mut().zip(weights) {
            *count += (*weights as u8 & inputs[0]).count_ones() as u8;
        }
        self
    }
}

impl Counts for ByteCounts {
    type Sums = I32x16;

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(count, other)| *count = other.max(*count));
        self
    }

    #[inline(always)]
    fn beyond(self, largest: [u8; DIGITS]) -> bool {
        self.0
            .as_chunks::<DIGITS>()
            .0
            .iter()
            .any(|digits| digits.iter().zip(&largest).any(|(count, most)| count > most))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; TABLE]) -> Self {
        Self(self.0.map(|count| table[usize::from(count).min(TABLE - 1)]))
    }

    #[inline(always)]
    fn weighted(self, mut sums: I32x16, places: [i8; DIGITS]) -> I32x16 {
        for (sum, digits) in sums.0.iter_mut().zip(self.0.as_chunks::<DIGITS>().0) {
            *sum += digits.iter().zip(places).map(|(digit, place)| i32::from(*digit) * i32::from(place)).sum::<i32>();
        }
        sums
    }

    #[inline(always)]
    fn sums(self) -> I32x16 {
        I32x16([0; LANES])
    }

    #[inline(always)]
    fn to_bytes(self) -> [u8; LANES * DIGITS] {
        self.0
    }
}

impl IntegerSimd for Portable {
    type I32 = I32x16;
    type Narrow = I32x16;
    type Popcounts = WordCounts;
    type Counts = ByteCounts;

    #[inline(always)]
    fn lanes(self, lanes: [i32; LANES]) -> I32x16 {
        I32x16(lanes)
    }

    #[inline(always)]
    fn narrow(self) -> I32x16 {
        I32x16([0; LANES])
    }

    #[inline(always)]
    fn popcounts(self) -> WordCounts {
        WordCounts([0; LANES])
    }

    #[inline(always)]
    fn counts(self) -> ByteCounts {
        ByteCounts([0; LANES * DIGITS])
    }
}
