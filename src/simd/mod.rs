//! Vector registers for the training engine and the model of the array, with one kernel source for all instruction sets.
//!
//! A `Kernel` or `IntegerKernel` is generic over a *token*, a value that proves that this machine has an instruction set: nothing
//! but detection makes one, and nothing but a token makes a register. So no safe function here is undefined to call, and
//! `dispatch` picks the best token at run time. Loops that the compiler makes vectors of by itself are defined inside
//! `vectorized!` instead.
//!
//! | file | what |
//! |---|---|
//! | `isa` | the instruction sets, their features and tokens, the switch `MARS_ISA` |
//! | `float`, `integer` | what registers can do |
//! | `portable`, `avx2`, `avx512` | the registers of each instruction set |
//!
//! Another instruction set (NEON) is a file of its own like `avx2`, a row in `isa` and a line in the two dispatchers below.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod float;
mod integer;
mod isa;
mod portable;

pub(crate) use float::{Floats, Simd};
pub(crate) use integer::{
    AddRows, COUNTABLE, Counts, DIGITS, Dot, Inputs, IntegerSimd, Integers, LANES, NARROW_LIMIT, OCTET, Popcounts,
    QUAD, TABLE, Weights, Word,
};
#[cfg(test)]
pub(crate) use isa::on_each_isa;
pub use isa::{Arithmetic, Isa, isa_limit};
#[cfg(target_arch = "x86_64")]
pub(crate) use isa::{Avx2, Avx512, Bitalg, Vnni, compiled, with_features};
pub(crate) use portable::Portable;

/// Work on floats, compiled for each instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, so that it is compiled for the instruction set of `S`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Work on integers, compiled for each instruction set.
pub(crate) trait IntegerKernel {
    type Output;

    /// Must be `#[inline(always)]`, so that it is compiled for the instruction set of `S`.
    fn run<S: IntegerSimd>(self, simd: S) -> Self::Output;
}

/// Runs a kernel on the first of these instruction sets that there is, without any else.
macro_rules! run_on_first {
    ($kernel:ident: $($token:ident),*) => {{
        #[cfg(target_arch = "x86_64")]
        {
            $(if let Some(simd) = $token::detect() {
                return simd.vectorize(#[inline(always)] || $kernel.run(simd));
            })*
        }
        $kernel.run(Portable)
    }};
}

/// Runs a kernel on the best instruction set of this machine.
pub(crate) fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    run_on_first!(kernel: Avx512, Avx2)
}

/// Runs a kernel on the best instruction set of this machine.
pub(crate) fn dispatch_integers<K: IntegerKernel>(kernel: K) -> K::Output {
    run_on_first!(kernel: Bitalg, Vnni, Avx2)
}

/// Defines functions whose loops are compiled for AVX2 and AVX-512 too, which run where the machine has them.
///
/// ```text
/// vectorized! {
///     /// Documentation.
///     fn name(argument: Type) -> Type { ... }
/// }
/// ```
macro_rules! vectorized {
    ($($(#[$doc:meta])* $visible:vis fn $name:ident $(<$life:lifetime>)? ($($argument:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block)*) => {$(
        $(#[$doc])*
        $visible fn $name $(<$life>)? ($($argument: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain $(<$life>)? ($($argument: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                use $crate::simd::{Avx2, Avx512, compiled, with_features};

                with_features!(Avx512, compiled!(fn avx512 $(<$life>)? ($($argument: $type),*) $(-> $out)? {
                    plain($($argument),*)
                }));
                with_features!(Avx2, compiled!(fn avx2 $(<$life>)? ($($argument: $type),*) $(-> $out)? {
                    plain($($argument),*)
                }));
                if Avx512::detect().is_some() {
                    // SAFETY: the token proves the features that the function is compiled for.
                    return unsafe { avx512($($argument),*) };
                }
                if Avx2::detect().is_some() {
                    // SAFETY: the token proves the features that the function is compiled for.
                    return unsafe { avx2($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    )*};
}

pub(crate) use vectorized;
