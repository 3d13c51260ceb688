//! Quantization in training: fake quantizers and exact evaluation, on a lossy chip too.
//!
//! Names of the scales in [`Weights`](crate::network::Weights), beside the float arrays: `L.weight_step` (one, or one a filter) and
//! `L.output_step` (one: the scale of the layer's narrowest stored form; a form with `d` more bits has a scale `2^d` times smaller, so
//! that all forms span the same range).

mod conversion;
mod evaluate;
mod fake;
mod quantizer;

pub(crate) use conversion::{Conversions, cells};
pub use evaluate::FakeQuant;
pub(crate) use fake::{calibrate_scale, multiplier_errors, quantize_biases, value_codes, value_grid, weight_limit};
pub use quantizer::{Lsq, Quantizer};
