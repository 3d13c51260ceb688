//! Chip: what it is, every number under the name that the field uses for it.
//!
//! | module | holds |
//! |---|---|
//! | `description` | [`Hardware`]: the keys of a hardware file |
//! | `losses` | converter, noise, stuck cells |
//! | `inherit` | reading a file, with its `base` |
//! | `check` | what each value may be |
//! | `precision` | [`Precision`]: how weights and inputs of given widths are run |
//! | `scaling` | energies and times on another geometry than they were stated for |
//! | `fingerprint` | what a lossy chip computes, as a hash |
//!
//! `experiments/hardware/mars.toml` gives each number's source beside it; `docs/cost-model.md` says what each one does.

mod check;
mod description;
mod fingerprint;
mod inherit;
mod losses;
mod precision;
mod scaling;

pub use description::{
    AccessMode, Accumulator, Area, Components, Energy, Geometry, Hardware, InputReads, LayerMapping, MacroShares,
    Mapping, Memory, Objective, PingPong, Policy, Split, Start, StatedFor,
};
pub(crate) use inherit::{base_path, derive};
pub(crate) use losses::MAX_STEP;
pub use losses::{Converter, Noise};
pub(crate) use precision::ConversionNumbers;
pub use precision::{Accumulation, Precision};
