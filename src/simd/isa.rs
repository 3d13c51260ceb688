//! The instruction sets, their features and their detection.

use std::fmt::{Display, Formatter};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An instruction set that kernels are compiled for, from the least to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, whose products and sums are rounded apart.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 with the extensions that every server has (F, BW, DQ, VL); integer kernels use VNNI, and BITALG with VBMI, where they are there.
    Avx512,
}

/// What decides the bits of a training: instruction sets of the same arithmetic give the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// A product and the sum that it enters are rounded once: AVX2 and AVX-512.
    Fused,
    /// They are rounded apart: portable code.
    Apart,
}

impl Arithmetic {
    /// That of the instruction set that kernels use here.
    pub fn here() -> Self {
        #[cfg(target_arch = "x86_64")]
        if Avx2::detect().is_some() {
            return Self::Fused;
        }
        Self::Apart
    }
}

impl Display for Arithmetic {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fused => "fused multiply-add (AVX2 or AVX-512)",
            Self::Apart => "multiply and add apart (portable code)",
        })
    }
}

/// Environment variable that limits the instruction set.
const VARIABLE: &str = "MARS_ISA";
const NAMES: [(&str, Isa); 3] = [("portable", Isa::Portable), ("avx2", Isa::Avx2), ("avx512", Isa::Avx512)];

/// The best instruction set that kernels may use: the one that the environment variable `MARS_ISA` names (`portable`, `avx2` or
/// `avx512`), any where it isn't set. It is read once.
///
/// # Errors
/// `MARS_ISA` names no instruction set. Kernels panic then.
pub fn isa_limit() -> Result<Isa> {
    static LIMIT: LazyLock<std::result::Result<Isa, String>> = LazyLock::new(|| {
        // Miri knows few vector instructions.
        let best = if cfg!(miri) { Isa::Portable } else { Isa::Avx512 };
        let Some(name) = std::env::var_os(VARIABLE) else { return Ok(best) };
        let named = NAMES.iter().find(|(known, _)| name == *known);
        named.map(|(_, isa)| *isa).ok_or_else(|| name.to_string_lossy().into_owned())
    });
    let names = || NAMES.map(|(name, _)| format!("`{name}`")).join(", ");
    LIMIT.clone().map_err(|name| Error::Setting(format!("{VARIABLE} is `{name}`; it can be {}", names())))
}

/// Whether kernels may use an instruction set, if the machine has it.
#[cfg(target_arch = "x86_64")]
fn allowed(isa: Isa) -> bool {
    static LIMIT: LazyLock<Isa> = LazyLock::new(|| isa_limit().unwrap_or_else(|error| panic!("{error}")));
    #[cfg(test)]
    if let Some(limit) = LIMIT_OF_THREAD.get() {
        return isa <= limit;
    }
    isa <= *LIMIT
}

/// Hands the features of a token to another macro, before what follows: detection and compilation share this one list.
#[cfg(target_arch = "x86_64")]
macro_rules! with_features {
    (Avx2, $then:ident!($($rest:tt)*)) => {
        $then!(["avx2", "fma"] $($rest)*);
    };
    (Avx512, $then:ident!($($rest:tt)*)) => {
        $then!(["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"] $($rest)*);
    };
    (Vnni, $then:ident!($($rest:tt)*)) => {
        $then!(["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"] $($rest)*);
    };
    (Bitalg, $then:ident!($($rest:tt)*)) => {
        $then!(["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bitalg", "avx512vbmi"] $($rest)*);
    };
}

/// Compiles a function for some features.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled {
    ([$($feature:tt),*] $($function:tt)*) => {
        #[target_feature($(enable = $feature),*)]
        $($function)*
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) use {compiled, with_features};

/// Defines a token, which belongs to an instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! token {
    ([$($feature:tt),*] $isa:expr, $(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name(());

        impl $name {
            /// The token, where the machine has the features and `MARS_ISA` allows them.
            #[inline]
            pub(crate) fn detect() -> Option<Self> {
                let found = allowed($isa) $(&& is_x86_feature_detected!($feature))*;
                found.then_some(Self(()))
            }

            /// Runs `work`, which is marked `#[inline(always)]`, compiled for the features.
            #[inline]
            pub(crate) fn vectorize<R>(self, work: impl FnOnce() -> R) -> R {
                #[target_feature($(enable = $feature),*)]
                fn inner<R>(work: impl FnOnce() -> R) -> R {
                    work()
                }
                // SAFETY: the token proves the features.
                unsafe { inner(work) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Isa, allowed};

    with_features!(
        Avx2,
        token!(
            Isa::Avx2,
            /// Proof of AVX2 with fused multiply-add.
            Avx2
        )
    );
    with_features!(
        Avx512,
        token!(
            Isa::Avx512,
            /// Proof of AVX-512 F, BW, DQ and VL, and of all that [`Avx2`] proves.
            Avx512
        )
    );
    with_features!(
        Vnni,
        token!(
            Isa::Avx512,
            /// Proof of dot products of bytes, and of all that [`Avx512`] proves.
            Vnni
        )
    );
    with_features!(
        Bitalg,
        token!(
            Isa::Avx512,
            /// Proof of popcounts and permutations of bytes (BITALG and VBMI), and of all that [`Vnni`] proves.
            Bitalg
        )
    );

    impl Vnni {
        pub(crate) fn avx2(self) -> Avx2 {
            Avx2(())
        }
    }

    impl Bitalg {
        pub(crate) fn vnni(self) -> Vnni {
            Vnni(())
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, Bitalg, Vnni};

#[cfg(test)]
thread_local! {
    static LIMIT_OF_THREAD: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) };
}

/// What `work` gives with at most this instruction set, on threads of its own.
#[cfg(test)]
fn with_isa<R: Send>(isa: Isa, work: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::ThreadPoolBuilder::new().num_threads(2);
    threads.start_handler(move |_| LIMIT_OF_THREAD.set(Some(isa))).build().unwrap().install(work)
}

/// What `work` gives with each of the instruction sets that this machine has.
#[cfg(test)]
pub(crate) fn on_each_isa<R: Send>(work: impl Fn() -> R + Sync) -> Vec<(Isa, R)> {
    let mut found = vec![Isa::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        found.extend(Avx2::detect().map(|_| Isa::Avx2));
        found.extend(Avx512::detect().map(|_| Isa::Avx512));
    }
    found.into_iter().map(|isa| (isa, with_isa(isa, &work))).collect()
}
