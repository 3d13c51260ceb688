//! Registers of AVX-512 and two of its extensions.
//!
//! Each intrinsic is sound to call because its register, or the token beside it, proves the features.

use std::arch::x86_64::*;
use std::ops::{Add, Mul, Sub};

use super::avx2;
use super::float::{Floats, Simd};
use super::integer::{
    AddRows, Counts, DIGITS, Dot, Inputs, IntegerSimd, Integers, LANES, Popcounts, TABLE, Weights, Word,
};
use super::isa::{Avx512, Bitalg, Vnni};

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

impl Add for F32x16 {
    type Output = Self;

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        // SAFETY: the registers prove AVX-512.
        Self(unsafe { _mm512_add_ps(self.0, other.0) })
    }
}

impl Sub for F32x16 {
    type Output = Self;

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // SAFETY: the registers prove AVX-512.
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }
}

impl Mul for F32x16 {
    type Output = Self;

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        // SAFETY: the registers prove AVX-512.
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }
}

impl Floats for F32x16 {
    const LANES: usize = 16;

    #[inline(always)]
    fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the registers prove AVX-512.
        Self(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the register proves AVX-512; the caller's pointer is valid for sixteen floats.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
}

impl Simd for Avx512 {
    type F32 = F32x16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x16 {
        // SAFETY: the token proves AVX-512.
        F32x16(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> F32x16 {
        // SAFETY: the token proves AVX-512; the caller's pointer is valid for sixteen floats.
        F32x16(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    fn prefetch(self, from: *const f32) {
        // SAFETY: every machine of this architecture has SSE; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}

/// One register of 16 sums; VNNI multiplies and adds four rows at once.
#[derive(Clone, Copy)]
pub(crate) struct I32x16(__m512i);

impl AddRows for I32x16 {
    #[inline(always)]
    fn add_rows(self, weights: &Weights, inputs: Inputs) -> Self {
        // SAFETY: the register proves VNNI; the load reads the 64 bytes of `weights`, without alignment.
        unsafe {
            let weights = _mm512_loadu_si512(weights.as_ptr().cast());
            let inputs = _mm512_set1_epi32(i32::from_le_bytes(inputs));
            Self(_mm512_dpbusd_epi32(self.0, inputs, weights))
        }
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
    fn add_product(self, other: Self, factor: i32) -> Self {
        // SAFETY: the registers prove AVX-512.
        Self(unsafe { _mm512_add_epi32(self.0, _mm512_mullo_epi32(other.0, _mm512_set1_epi32(factor))) })
    }

    #[inline(always)]
    fn plus(self, number: i32) -> Self {
        // SAFETY: the register proves AVX-512.
        Self(unsafe { _mm512_add_epi32(self.0, _mm512_set1_epi32(number)) })
    }

    #[inline(always)]
    fn times(self, number: i32) -> Self {
        // SAFETY: the register proves AVX-512.
        Self(unsafe { _mm512_mullo_epi32(self.0, _mm512_set1_epi32(number)) })
    }

    #[inline(always)]
    fn shift_right(self, bits: u32) -> Self {
        // SAFETY: the register proves AVX-512.
        Self(unsafe { _mm512_srl_epi32(self.0, _mm_cvtsi32_si128(bits as i32)) })
    }

    #[inline(always)]
    fn clamp(self, low: i32, high: i32) -> Self {
        // SAFETY: the register proves AVX-512.
        unsafe {
            let raised = _mm512_max_epi32(self.0, _mm512_set1_epi32(low));
            Self(_mm512_min_epi32(raised, _mm512_set1_epi32(high)))
        }
    }

    #[inline(always)]
    fn beyond(self, low: i32, high: i32) -> bool {
        // SAFETY: the register proves AVX-512.
        unsafe {
            let below = _mm512_cmplt_epi32_mask(self.0, _mm512_set1_epi32(low));
            let above = _mm512_cmpgt_epi32_mask(self.0, _mm512_set1_epi32(high));
            below | above != 0
        }
    }

    #[inline(always)]
    fn to_lanes(self) -> [i32; LANES] {
        // SAFETY: both types are 64 bytes of integers.
        unsafe { std::mem::transmute(self.0) }
    }
}

/// Popcounts of words, by an instruction of its own.
#[derive(Clone, Copy)]
pub(crate) struct WordCounts(__m256i);

impl Popcounts for WordCounts {
    #[inline(always)]
    fn add(self, input: Word, weights: &[Word; LANES]) -> Self {
        // SAFETY: the register proves BITALG; the load reads the 32 bytes of `weights`, without alignment.
        unsafe {
            let common = _mm256_and_si256(_mm256_set1_epi16(input as i16), _mm256_loadu_si256(weights.as_ptr().cast()));
            Self(_mm256_add_epi16(self.0, _mm256_popcnt_epi16(common)))
        }
    }

    #[inline(always)]
    fn counts(self) -> [u16; LANES] {
        // SAFETY: both types are 32 bytes of integers.
        unsafe { std::mem::transmute(self.0) }
    }
}

/// One register of 64 counts.
#[derive(Clone, Copy)]
pub(crate) struct ByteCounts(__m512i);

impl AddRows for ByteCounts {
    #[inline(always)]
    fn add_rows(self, weights: &Weights, inputs: Inputs) -> Self {
        // SAFETY: the register proves BITALG; the load reads the 64 bytes of `weights`, without alignment.
        unsafe {
            let weights = _mm512_loadu_si512(weights.as_ptr().cast());
            let common = _mm512_and_si512(weights, _mm512_set1_epi32(i32::from_le_bytes(inputs)));
            Self(_mm512_add_epi8(self.0, _mm512_popcnt_epi8(common)))
        }
    }
}

impl Counts for ByteCounts {
    type Sums = I32x16;

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        // SAFETY: the registers prove AVX-512.
        Self(unsafe { _mm512_max_epu8(self.0, other.0) })
    }

    #[inline(always)]
    fn beyond(self, largest: [u8; DIGITS]) -> bool {
        // SAFETY: the register proves AVX-512.
        unsafe { _mm512_cmpgt_epu8_mask(self.0, _mm512_set1_epi32(i32::from_le_bytes(largest))) != 0 }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; TABLE]) -> Self {
        // SAFETY: the register proves VBMI; the loads read the two halves of the 128 bytes of `table`.
        unsafe {
            let low = _mm512_loadu_si512(table.as_ptr().cast());
            let high = _mm512_loadu_si512(table.as_ptr().add(TABLE / 2).cast());
            let index = _mm512_min_epu8(self.0, _mm512_set1_epi8((TABLE - 1) as i8));
            Self(_mm512_permutex2var_epi8(low, index, high))
        }
    }

    #[inline(always)]
    fn weighted(self, sums: I32x16, places: [i8; DIGITS]) -> I32x16 {
        let places = places.map(|place| place as u8);
        // SAFETY: the registers prove VNNI.
        I32x16(unsafe { _mm512_dpbusd_epi32(sums.0, self.0, _mm512_set1_epi32(i32::from_le_bytes(places))) })
    }

    #[inline(always)]
    fn sums(self) -> I32x16 {
        // SAFETY: the register proves AVX-512.
        I32x16(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    fn to_bytes(self) -> [u8; LANES * DIGITS] {
        // SAFETY: both types are 64 bytes of integers.
        unsafe { std::mem::transmute(self.0) }
    }
}

impl IntegerSimd for Vnni {
    type I32 = I32x16;
    type Narrow = I32x16;
    type Popcounts = avx2::WordCounts;
    type Counts = avx2::ByteCounts;

    #[inline(always)]
    fn lanes(self, lanes: [i32; LANES]) -> I32x16 {
        // SAFETY: both types are 64 bytes of integers.
        I32x16(unsafe { std::mem::transmute::<[i32; LANES], __m512i>(lanes) })
    }

    #[inline(always)]
    fn narrow(self) -> I32x16 {
        self.lanes([0; LANES])
    }

    #[inline(always)]
    fn popcounts(self) -> avx2::WordCounts {
        self.avx2().popcounts()
    }

    #[inline(always)]
    fn counts(self) -> avx2::ByteCounts {
        self.avx2().counts()
    }
}

impl IntegerSimd for Bitalg {
    type I32 = I32x16;
    type Narrow = I32x16;
    type Popcounts = WordCounts;
    type Counts = ByteCounts;

    #[inline(always)]
    fn lanes(self, lanes: [i32; LANES]) -> I32x16 {
        self.vnni().lanes(lanes)
    }

    #[inline(always)]
    fn narrow(self) -> I32x16 {
        self.vnni().narrow()
    }

    #[inline(always)]
    fn popcounts(self) -> WordCounts {
        // SAFETY: the token proves AVX2.
        WordCounts(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    fn counts(self) -> ByteCounts {
        // SAFETY: the token proves AVX-512.
        ByteCounts(unsafe { _mm512_setzero_si512() })
    }
}
