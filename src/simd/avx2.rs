//! Registers of AVX2 with fused multiply-add.
//!
//! Each intrinsic is sound to call because its register, or the token beside it, proves the features.

use std::arch::x86_64::*;
use std::ops::{Add, Mul, Sub};

use super::float::{Floats, Simd};
use super::integer::{
    AddRows, Counts, DIGITS, Dot, Inputs, IntegerSimd, Integers, LANES, Popcounts, TABLE, Weights, Word,
};
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

    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        // SAFETY: every machine of this architecture has SSE; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

/// Two registers of 8 sums. Even and odd rows are widened to 16 bits and multiplied apart, so that no pair saturates.
#[derive(Clone, Copy)]
pub(crate) struct I32x16([__m256i; 2]);

impl AddRows for I32x16 {
    #[inline(always)]
    fn add_rows(mut self, weights: &Weights, inputs: Inputs) -> Self {
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

impl AddRows for Narrow {
    #[inline(always)]
    fn add_rows(mut self, weights: &Weights, inputs: Inputs) -> Self {
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
}

impl Dot for Narrow {
    type Sums = I32x16;

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
pub(crate) struct WordCounts(__m256i);

impl Popcounts for WordCounts {
    #[inline(always)]
    fn add(self, input: Word, weights: &[Word; LANES]) -> Self {
        // SAFETY: the register proves AVX2; the load reads the 32 bytes of `weights`, without alignment.
        unsafe {
            let common = _mm256_and_si256(_mm256_set1_epi16(input as i16), _mm256_loadu_si256(weights.as_ptr().cast()));
            Self(_mm256_add_epi8(self.0, popcounts(common)))
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

/// The popcount of each byte.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn popcounts(bytes: __m256i) -> __m256i {
    // SAFETY: the caller's machine has AVX2.
    unsafe {
        let ones = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
        let half = _mm256_set1_epi8(15);
        let low = _mm256_shuffle_epi8(ones, _mm256_and_si256(bytes, half));
        let high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half));
        _mm256_add_epi8(low, high)
    }
}

/// Two registers of 32 counts.
#[derive(Clone, Copy)]
pub(crate) struct ByteCounts([__m256i; 2]);

impl AddRows for ByteCounts {
    #[inline(always)]
    fn add_rows(mut self, weights: &Weights, inputs: Inputs) -> Self {
        for (half, counts) in self.0.iter_mut().enumerate() {
            // SAFETY: the registers prove AVX2; the loads read the two halves of the 64 bytes of `weights`, without alignment.
            *counts = unsafe {
                let weights = _mm256_loadu_si256(weights.as_ptr().add(32 * half).cast());
                let common = _mm256_and_si256(weights, _mm256_set1_epi32(i32::from_le_bytes(inputs)));
                _mm256_add_epi8(*counts, popcounts(common))
            };
        }
        self
    }
}

impl Counts for ByteCounts {
    type Sums = I32x16;

    #[inline(always)]
    fn max(mut self, other: Self) -> Self {
        for (counts, other) in self.0.iter_mut().zip(other.0) {
            // SAFETY: the registers prove AVX2.
            *counts = unsafe { _mm256_max_epu8(*counts, other) };
        }
        self
    }

    #[inline(always)]
    fn beyond(self, largest: [u8; DIGITS]) -> bool {
        // SAFETY: the registers prove AVX2. What is left of a count after its largest is above 0.
        unsafe {
            let largest = _mm256_set1_epi32(i32::from_le_bytes(largest));
            let above = self.0.map(|counts| _mm256_subs_epu8(counts, largest));
            let above = _mm256_or_si256(above[0], above[1]);
            _mm256_testz_si256(above, above) == 0
        }
    }

    #[inline(always)]
    fn lookup(mut self, table: &[u8; TABLE]) -> Self {
        for counts in &mut self.0 {
            // SAFETY: the registers prove AVX2; each load reads 16 bytes of `table`.
            *counts = unsafe {
                let index = _mm256_min_epu8(*counts, _mm256_set1_epi8((TABLE - 1) as i8));
                let mut found = _mm256_setzero_si256();
                for (part, entries) in table.as_chunks::<16>().0.iter().enumerate() {
                    let entries = _mm256_broadcastsi128_si256(_mm_loadu_si128(entries.as_ptr().cast()));
                    // Below 0 and from 16 on the highest bit is set, for which a shuffle gives 0.
                    let place = _mm256_sub_epi8(index, _mm256_set1_epi8(16 * part as i8));
                    let place = _mm256_adds_epu8(place, _mm256_set1_epi8(0x70));
                    found = _mm256_or_si256(found, _mm256_shuffle_epi8(entries, place));
                }
                found
            };
        }
        self
    }

    #[inline(always)]
    fn weighted(self, mut sums: I32x16, places: [i8; DIGITS]) -> I32x16 {
        for (sums, digits) in sums.0.iter_mut().zip(self.0) {
            // SAFETY: the registers prove AVX2.
            *sums = unsafe {
                let places = _mm256_set1_epi32(i32::from_le_bytes(places.map(|place| place as u8)));
                let pairs = _mm256_maddubs_epi16(digits, places);
                _mm256_add_epi32(*sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            };
        }
        sums
    }

    #[inline(always)]
    fn sums(self) -> I32x16 {
        // SAFETY: the registers prove AVX2.
        I32x16([unsafe { _mm256_setzero_si256() }; 2])
    }

    #[inline(always)]
    fn to_bytes(self) -> [u8; LANES * DIGITS] {
        // SAFETY: both types are 64 bytes of integers.
        unsafe { std::mem::transmute(self.0) }
    }
}

impl IntegerSimd for Avx2 {
    type I32 = I32x16;
    type Narrow = Narrow;
    type Popcounts = WordCounts;
    type Counts = ByteCounts;

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
    fn popcounts(self) -> WordCounts {
        // SAFETY: the token proves AVX2.
        WordCounts(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    fn counts(self) -> ByteCounts {
        // SAFETY: the token proves AVX2.
        ByteCounts([unsafe { _mm256_setzero_si256() }; 2])
    }
}
