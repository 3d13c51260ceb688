//! A vector of floats with the instruction sets that the kernels are compiled for.
//!
//! Kernels are generic over [`Vector`] and always inlined into one function for each instruction set, chosen at run time
//! (the pattern of the crate `pulp`, reduced to what convolutions need).

/// A vector register of `f32`.
///
/// # Safety
/// Methods may only be called where the instruction set of the implementor is available.
pub(super) unsafe trait Vector: Copy {
    /// Floats in a register.
    const LANES: usize;
    unsafe fn zero() -> Self;
    unsafe fn splat(value: *const f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
}

/// Eight floats without vector instructions, for machines that the others don't fit.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

// SAFETY: needs no instruction set.
unsafe impl Vector for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        Self([0.0; 8])
    }

    #[inline(always)]
    unsafe fn splat(value: *const f32) -> Self {
        // SAFETY: the caller's pointer is valid.
        Self([unsafe { *value }; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's pointer is valid for eight floats.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's pointer is valid for eight floats.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;

    macro_rules! vector {
        ($vector:ty, $lanes:literal, $zero:ident, $splat:ident, $load:ident, $store:ident, $fma:ident) => {
            // SAFETY: the methods' contract is that the instruction set is available.
            unsafe impl Vector for $vector {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: the trait's contract.
                    unsafe { $zero() }
                }

                #[inline(always)]
                unsafe fn splat(value: *const f32) -> Self {
                    // SAFETY: the trait's contract; the caller's pointer is valid.
                    unsafe { $splat(*value) }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the trait's contract; the caller's pointer is valid for a register.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the trait's contract; the caller's pointer is valid for a register.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    // SAFETY: the trait's contract.
                    unsafe { $fma(a, b, self) }
                }
            }
        };
    }

    vector!(__m256, 8, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps);
    vector!(__m512, 16, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps);
}
