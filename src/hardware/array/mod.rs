//! Array: what comes out of the macros, access by access.
//!
//! | module | does |
//! |---|---|
//! | `network` | [`MacroNetwork`]: an integer network mapped to a chip, layer by layer |
//! | `conv` | a convolution's weights and inputs as its accesses read them |
//! | `accesses` | its accesses, pixel by pixel |
//! | `run` | a convolution of one image, with the accesses that fit it |
//! | `dots` | partial sums as dot products of bytes, their conversion and accumulation |
//! | `counts` | the same as counts of ones, where inputs and weights come bit by bit |
//! | `layout` | where inputs and weights lie in memory |
//! | `adc` | weight slices and the converter of their partial sums |
//! | `noise` | noise of the conversions, and stuck cells |
//! | `pooling` | maxima and sums over windows, beside the array |
//! | `partial_sums` | how partial sums are distributed, and what converters lose of them |
//! | `random` | numbers that follow from where they are used |
//!
//! It knows nothing of cores, time or energy.

mod accesses;
mod adc;
mod conv;
mod counts;
mod dots;
mod layout;
mod network;
mod noise;
mod partial_sums;
mod pooling;
mod random;
mod run;

pub use accesses::Counters;
pub use network::{Execution, MacroNetwork};
#[cfg(feature = "train")]
pub(crate) use noise::{ConversionNoise, stuck_weights};
pub use partial_sums::{ConversionLoss, PartialSums, PartialSumsOfNetwork};
