//! The hardware model: a multi-macro SRAM computing-in-memory chip, from its description to logits, cycles and energy.
//!
//! | module | from | to |
//! |---|---|---|
//! | `config` | a TOML file | [`Hardware`] |
//! | `mapping` | integer weights | [`ConvMapping`]: which groups share an access, accesses to macros, sets to cores |
//! | `array`, `array_conv`, `converter`, `noise`, `kernel` | mapping, pictures | [`MacroNetwork`]: logits, access by access |
//! | `workload` | mapping | what each core moves and computes, layer by layer |
//! | `schedule` | workload | [`Timeline`]: when each macro loads and computes |
//! | `cost` | workload, timeline | [`Evaluation`]: cycles, energy, compression |
//! | `ledger` | workload, cost | [`Ledger`]: what a network costs while its groups go |
//! | [`sweep`] | ranges over keys of a hardware file | a row of costs for each chip |
//! | `index` | kept groups | [`IndexCode`]: how the index is stored |
//!
//! It knows [`IntegerNetwork`](crate::deploy::integer::IntegerNetwork), but neither training nor the package's bytes.

mod array;
mod array_conv;
mod config;
mod converter;
mod cost;
mod index;
mod kernel;
mod ledger;
mod mapping;
mod noise;
mod schedule;
pub mod sweep;
mod workload;

pub use array::{Counters, Execution, MacroNetwork};
pub use config::{AccessMode, Area, Components, Converter, Energy, Hardware, MacroShares, Memory, Noise, Precision};
pub use cost::{AreaBreakdown, Compression, Cost, EnergyBreakdown, Evaluation, Evaluator, LayerCost, evaluate};
pub use index::{Index, IndexCode, SELECTOR_BITS};
pub use ledger::{Ledger, Resource, Snapshot, Step};
pub use mapping::ConvMapping;
#[cfg(feature = "train")]
pub(crate) use noise::{ConversionNoise, stuck_weights};
pub use schedule::{Activity, LayerTime, Span, Timeline};
