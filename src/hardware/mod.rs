//! The hardware model: a multi-macro SRAM computing-in-memory chip, from its description to logits, cycles and energy.
//!
//! | folder | question | gives |
//! |---|---|---|
//! | `chip` | what is it | [`Hardware`], from a TOML file |
//! | `mapping` | where does it lie | [`ConvMapping`], [`Placement`] |
//! | `timing` | when | [`LayerProgram`], [`Timeline`] |
//! | `cost` | how much | [`Evaluation`], [`Ledger`] |
//! | `array` | what comes out | [`MacroNetwork`]: logits, access by access |
//!
//! It knows [`IntegerNetwork`](crate::integer::IntegerNetwork), but neither training nor the package's bytes. Each folder uses only
//! those above it; `array` uses `chip` and `mapping` alone.

mod array;
mod chip;
mod cost;
mod mapping;
mod timing;

pub use array::{ConversionLoss, Counters, Execution, MacroNetwork, PartialSums, PartialSumsOfNetwork};
#[cfg(feature = "train")]
pub(crate) use array::{ConversionNoise, stuck_weights};
#[cfg(feature = "train")]
pub(crate) use chip::ConversionNumbers;
pub use chip::{
    AccessMode, Accumulation, Accumulator, Area, Components, Converter, Energy, Geometry, Hardware, InputReads,
    LayerMapping, MacroShares, Mapping, Memory, Noise, Objective, PingPong, Policy, Precision, Split, Start, StatedFor,
};
pub(crate) use chip::{base_path, derive};
pub(crate) use cost::family;
pub use cost::{
    AreaBreakdown, BitsMoved, Bound, Bounds, Chip, Compression, Cost, EnergyBreakdown, EnergyPart, EnergyTerm,
    Evaluation, Evaluator, GroupId, LayerCost, LayerPlacement, Ledger, NextBest, Placements, PruningStep, Resource,
    SetGroups, Snapshot, Used, evaluate,
};
#[cfg(feature = "train")]
pub(crate) use cost::{check_placements, check_rules};
pub use mapping::{ConvMapping, FilterSet, Placement};
pub use timing::{Activity, Instruction, LayerProgram, LayerTime, Span, TimeSlot, Timeline};
