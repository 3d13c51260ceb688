//! The hardware model: a multi-macro SRAM computing-in-memory chip, from its description to logits, cycles and energy.
//!
//! | module | from | to |
//! |---|---|---|
//! | `config` | a TOML file | [`Hardware`] |
//! | `mapping` | integer weights | [`ConvMapping`]: which groups share an access |
//! | `array`, `array_conv`, `converter`, `noise`, `kernel` | mapping, pictures | [`MacroNetwork`]: logits, access by access |
//! | `workload` | mapping | what the layers compute, move and store |
//! | `placement` | mapping | [`Placement`]: which core and macro holds which accesses, for which pixels |
//! | `program` | placement | [`LayerProgram`]: what each core is told to do, step by step |
//! | `schedule` | programs | [`Timeline`]: when each part of a core does what, exact to the cycle |
//! | `mapper` | workload | the cheapest placements |
//! | `energy` | placement, cycles | [`EnergyBreakdown`] |
//! | `cost` | all of these | [`Evaluation`]: cycles, energy, compression |
//! | `ledger` | workload | [`Ledger`]: what a network costs while its groups go |
//!
//! It knows [`IntegerNetwork`](crate::integer::IntegerNetwork), but neither training nor the package's bytes.

mod array;
mod array_conv;
mod config;
mod converter;
mod cost;
mod energy;
mod kernel;
mod ledger;
mod mapper;
mod mapping;
mod noise;
mod placement;
mod program;
mod schedule;
mod workload;

pub use array::{Counters, Execution, MacroNetwork};
pub use config::{
    AccessMode, Area, Components, Converter, Energy, Hardware, MacroShares, Mapping, Memory, Noise, PingPong, Precision,
};
pub use cost::{AreaBreakdown, Compression, Cost, Evaluation, Evaluator, LayerCost, evaluate};
pub use energy::EnergyBreakdown;
pub use ledger::{Ledger, Resource, Snapshot, Step};
pub use mapping::{ConvMapping, FilterSet};
#[cfg(feature = "train")]
pub(crate) use noise::{ConversionNoise, stuck_weights};
pub use placement::{Placement, Policy, Split, Start};
pub use program::{Activity, After, Instruction, LayerProgram, Window};
pub use schedule::{LayerTime, Span, Timeline};
