//! Quantization: which bit width where, fake quantizers, BN fusion, exact evaluation.
//!
//! Names of the steps in [`Weights`](crate::network::Weights), beside the float arrays: `L.weight_step` (one, or one a filter) and
//! `L.output_step` (one: the step of the layer's narrowest stored form; a form with `d` more bits has a step `2^d` times smaller, so
//! that all forms span the same range).

mod bits;
#[cfg(feature = "train")]
mod conversion;
#[cfg(feature = "train")]
mod evaluate;
#[cfg(feature = "train")]
mod fake;

pub use bits::{BitPlan, Fusion, LayerBits, NodeBits, QuantizeConfig, WeightScale};
#[cfg(feature = "train")]
pub(crate) use conversion::{Conversions, cells};
#[cfg(feature = "train")]
pub use evaluate::FakeQuant;
#[cfg(feature = "train")]
pub(crate) use fake::calibrate_step;
#[cfg(feature = "train")]
pub(crate) use fake::{
    activation_limit, multiplier_errors, quantize_biases, quantize_values, quantize_weights, weight_limit,
};
