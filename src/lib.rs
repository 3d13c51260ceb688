//! MARS: train and compress neural networks for SRAM computing-in-memory chips, and run them on a model of the chip.
//!
//! A network is described once ([`network::NetworkSpec`]), trained with compression in the loop (`train`), folded to integers
//! ([`integer::fold`]), written to a package ([`package::Package`]), and run on the multi-macro hardware model ([`hardware`]). Three
//! executions of the same arithmetic must agree to the last bit: fake-quant (`quantize`), the integer reference
//! ([`integer::Reference`]) and the macro model ([`hardware::MacroNetwork`]).
//!
//! Each room uses only rooms above it (`ARCHITECTURE.md` has all of them and says what each must not know; `tests/floors.rs` checks its list):
//!
//! | room | knows |
//! |---|---|
//! | [`error`] | what can go wrong |
//! | [`observer`], [`run_folder`] | how long work tells how far it is and how it is stopped; names of a run's files |
//! | [`simd`] | vector registers for each instruction set |
//! | [`data`] | files, checksums, augmentation, batches |
//! | [`network`] | the layer graph, the zoo, float weights, import of foreign checkpoints |
//! | [`groups`] | the shape of a weight group, the grid over a convolution, the index of kept groups |
//! | [`integer`] | bit widths, the fold to integers, the integer network and its reference |
//! | [`package`] | the file `model.mars` |
//! | [`hardware`] | chip, mapping, timing, cost, arithmetic of the array |
//! | [`estimate`] | the cost of a network that nobody has trained |
//! | [`validation`] | a package on all images: accuracy, mismatches, cost |
//! | [`sweep`] | the cost of a network, and its accuracy, on every chip of a design space |
//! | `engine` | fast operations for burn's CPU device |
//! | `quantize` | fake quantizers, exact fake-quant evaluation |
//! | [`prune`] | penalty, proximal step, choice of groups |
//! | `train` | recipe, phases, loop, calibration, pruning, checkpoints |
//! | [`report`] | the table and `report.html` |
//! | `run` | a training in a folder, from a recipe to the report |
//! | `reproduce` | experiments: tables whose rows are runs, with seeds |
//! | [`terminal`], [`cli`] | progress on standard error; what the programs share |
//!
//! Without the cargo feature `train` there is no tensor library: the package reader, the integer network and the hardware model
//! stand alone.

mod builtin;
pub mod cli;
pub mod data;
#[cfg(feature = "train")]
pub mod engine;
pub mod error;
pub mod estimate;
mod files;
mod foreign;
pub mod groups;
pub mod hardware;
pub mod integer;
pub mod network;
pub mod observer;
pub mod package;
pub mod prune;
#[cfg(feature = "train")]
pub mod quantize;
pub mod report;
#[cfg(feature = "train")]
pub mod reproduce;
#[cfg(feature = "train")]
pub mod run;
pub mod run_folder;
mod seal;
#[cfg_attr(
    not(feature = "train"),
    expect(dead_code, unused_imports, reason = "the array has no use for floats and popcounts")
)]
pub mod simd;
pub mod sweep;
mod system;
pub mod terminal;
#[cfg(feature = "train")]
pub mod train;
pub mod validation;

pub use error::{Error, Result};
