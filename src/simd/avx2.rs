//! Registers of AVX2 with fused multiply-add.
//!
//! Each intrinsic is sound to call because its register, or the token beside it, proves the features.

use std::arch::x86_64::*;
use std::ops::{Add, Mul, Sub};

use super::float::{Floats, Simd};
use super::integer::{Dot, Inputs, IntegerSimd, Integers, LANES, Popcounts, Weights, Word};
use super::isa::Avx2;

/// Eight floats.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

impl Add for F32x8 {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the registers prove AVX2.
        Self(unsafe { _mm256_add_ps(self.0, other.0) })
    }
}

impl Sub for F32x8 {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: the registers prove AVX2.
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }
}

impl Mul for F32x8 {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: the registers prove AVX2.
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }
}

impl Floats for F32x8 {
    const LANES: usize = 8;

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the registers prove FMA.
        Self(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the register proves AVX2; the caller's pointer is valid for eight floats.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
}

impl Simd for Avx2 {
    type F32 = F32x8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x8 {
        // SAFETY: the token proves AVX2.
        F32x8(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> F32x8 {
        // SAFETY: the token proves AVX2; the caller's pointer is valid for eight floats.
        F32x8(unsafe { _mm256_loadu_ps(from) })
    }
}

/// Two registers of 8 sums. Even and odd rows are widened to 16 bits and multiplied apart, so that no pair saturates.
#[derive(Clone, Copy)]
pub(crate) struct I32x16([__m256i; 2]);

impl Dot for I32x16 {
    type Sums = Self;

    #[inline(always)]
    fn dot(mut self, weights: &Weights, inputs: Inputs) -> Self {
        // SAFETY: the registers prove AVX2; the two loads read the two halves of the 64 bytes of `weights`, without alignment.
        unsafe {
            let inputs = _mm256_set1_epi32(i32::from_le_bytes(inputs));
            let even_inputs = _mm256_and_si256(inputs, _mm256_set1_epi16(0xff));
            let odd_inputs = _mm256_srli_epi16::<8>(inputs);
            for (half, sum) in self.0.iter_mut().enumerate() {
                let weights = _mm256_loadu_si256(weights.as_ptr().add(32 * half).cast());
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(weights));
                let odd = _mm256_srai_epi16::<8>(weights);
                let products =
                    _mm256_add_epi32(_mm256_madd_epi16(even, even_inputs), _mm256_madd_epi16(odd, odd_inputs));
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
        self
    }

    #[inline(always)]
    fn sums(self) -> Self {
        self
    }
}

impl Integers for I32x16 {
    #[inline(always)]
    fn add_product(mut self, other: Self, factor: i32) -> Self {
        for (sum, other) in self.0.iter_mut().zip(other.0) {
            // SAFETY: the registers prove AVX2.
            *sum = unsafe { _mm256_add_epi32(*sum, _mm256_mullo_epi32(other, _mm256_set1_epi32(factor))) };
        }
        self
    }

    #[inline(always)]
    fn plus(mut self, number: i32) -> Self {
        for sum in &mut self.0 {
            // SAFETY: the registers prove AVX2.
            *sum = unsafe { _mm256_add_epi32(*sum, _mm256_set1_epi32(number)) };
        }
        self
    }

    #[inline(always)]
    fn times(mut self, number: i32) -> Self {
        for sum in &mut self.0 {
            // SAFETY: the registers prove AVX2.
            *sum = unsafe { _mm256_mullo_epi32(*sum, _mm256_set1_epi32(number)) };
        }
        self
    }

    #[inline(always)]
    fn shift_right(mut self, bits: u32) -> Self {
        for sum in &mut self.0 {
            // SAFETY: the registers prove AVX2.
            *sum = unsafe { _mm256_srl_epi32(*sum, _mm_cvtsi32_si128(bits as i32)) };
        }
        self
    }

    #[inline(always)]
    fn clamp(mut self, low: i32, high: i32) -> Self {
        for sum in &mut self.0 {
            // SAFETY: the registers prove AVX2.
            *sum = unsafe {
                let raised = _mm256_max_epi32(*sum, _mm256_set1_epi32(low));
                _mm256_min_epi32(raised, _mm256_set1_epi32(high))
            };
        }
        self
    }

    #[inline(always)]
    fn beyond(self, low: i32, high: i32) -> bool {
        self.0.into_iter().any(|sums| {
            // SAFETY: the registers prove AVX2.
            unsafe {
                let below = _mm256_cmpgt_epi32(_mm256_set1_epi32(low), sums);
                let above = _mm256_cmpgt_epi32(sums, _mm256_set1_epi32(high));
                _mm256_movemask_epi8(_mm256_or_si256(below, above)) != 0
            }
        })
    }

    #[inline(always)]
    fn to_lanes(self) -> [i32; LANES] {
        // SAFETY: both types are 64 bytes of integers.
        unsafe { std::mem::transmute(self.0) }
    }
}

/// Two registers of 8 lanes, each of two 16-bit sums.
#[derive(Clone, Copy)]
pub(crate) struct Narrow([__m256i; 2]);

impl Dot for Narrow {
    type Sums = I32x16;

    #[inline(always)]
    fn dot(mut self, weights: &Weights, inputs: Inputs) -> Self {
        // SAFETY: the registers prove AVX2; the two loads read the two halves of the 64 bytes of `weights`, without alignment.
        unsafe {
            let inputs = _mm256_set1_epi32(i32::from_le_bytes(inputs));
            for (half, sum) in self.0.iter_mut().enumerate() {
                let weights = _mm256_loadu_si256(weights.as_ptr().add(32 * half).cast());
                *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(inputs, weights));
            }
        }
        self
    }

    #[inline(always)]
    fn sums(mut self) -> I32x16 {
        for sum in &mut self.0 {
            // SAFETY: the registers prove AVX2.
            *sum = unsafe { _mm256_madd_epi16(*sum, _mm256_set1_epi16(1)) };
        }
        I32x16(self.0)
    }
}

/// Popcounts of bytes, whose halves are looked up: at most 8 a word, so that 31 words fit.
///
/// After Muła, Kurz, Lemire, *Faster population counts using AVX2 instructions*, The Computer Journal 2018.
#[derive(Clone, Copy)]
pub(crate) struct Counts(__m256i);

impl Popcounts for Counts {
    #[inline(always)]
    fn add(self, input: Word, weights: &[Word; LANES]) -> Self {
        // SAFETY: the register proves AVX2; the load reads the 32 bytes of `weights`, without alignment.
        unsafe {
            let ones = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
            let ones = _mm256_broadcastsi128_si256(ones);
            let half = _mm256_set1_epi8(15);
            let common = _mm256_and_si256(_mm256_set1_epi16(input as i16), _mm256_loadu_si256(weights.as_ptr().cast()));
            let low = _mm256_shuffle_epi8(ones, _mm256_and_si256(common, half));
            let high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16::<4>(common), half));
            Self(_mm256_add_epi8(self.0, _mm256_add_epi8(low, high)))
        }
    }

    #[inline(always)]
    fn counts(self) -> [u16; LANES] {
        // SAFETY: the register proves AVX2; both types are 32 bytes of integers.
        unsafe {
            let low = _mm256_and_si256(self.0, _mm256_set1_epi16(0xff));
            std::mem::transmute(_mm256_add_epi16(low, _mm256_srli_epi16::<8>(self.0)))
        }
    }
}

impl IntegerSimd for Avx2 {
    type I32 = I32x16;
    type Narrow = Narrow;
    type Popcounts = Counts;

    #[inline(always)]
    fn lanes(self, lanes: [i32; LANES]) -> I32x16 {
        // SAFETY: both types are 64 bytes of integers.
        I32x16(unsafe { std::mem::transmute::<[i32; LANES], [__m256i; 2]>(lanes) })
    }

    #[inline(always)]
    fn narrow(self) -> Narrow {
        // SAFETY: the token proves AVX2.
        Narrow([unsafe { _mm256_setzero_si256() }; 2])
    }

    #[inline(always)]
    fn popcounts(self) -> Counts {
        // SAFETY: the token proves AVX2.
        Counts(unsafe { _mm256_setzero_si256() })
    }
}
