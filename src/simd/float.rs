//! Registers of floats.

use std::ops::{Add, Mul, Sub};

/// A token whose registers hold floats.
pub(crate) trait Simd: Copy {
    type F32: Floats;
    /// Registers that a kernel may count on.
    const REGISTERS: usize;

    /// The same number in each lane.
    fn splat(self, value: f32) -> Self::F32;

    /// # Safety
    /// `from` is valid for reading [`Floats::LANES`] floats; it need not be aligned.
    unsafe fn load(self, from: *const f32) -> Self::F32;

    /// Fetches what is soon to be read and written, wherever `from` points.
    fn prefetch(self, from: *const f32);
}

/// A register of floats.
pub(crate) trait Floats: Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> {
    /// Floats in the register.
    const LANES: usize;

    /// `self + a * b`, rounded once except in portable code.
    fn add_product(self, a: Self, b: Self) -> Self;

    /// # Safety
    /// `to` is valid for writing [`Self::LANES`] floats; it need not be aligned.
    unsafe fn store(self, to: *mut f32);
}
