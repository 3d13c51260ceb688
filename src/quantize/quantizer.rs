//! The fake quantizers of training as a trait, so that a program can bring its own.

use std::ops::RangeInclusive;

use burn::tensor::Tensor;

use super::fake::{quantize_weights, value_grid};
use crate::engine::fake_quantize;

/// Rounds weights and values in training's forward pass, and decides which gradients pass.
///
/// The grid is the chip's and fixed: a scale times whole numbers, symmetric for weights, from zero for values behind a ReLU. What comes back must lie on it, or
/// training sees another network than the one that is evaluated and exported. Scales are learned from whatever gradient reaches them.
pub trait Quantizer: Send + Sync {
    /// Weights `[filters, channels, kernel height, kernel width]` as `scale` times whole numbers from `-(2^(bits-1) - 1)` to `2^(bits-1) - 1`; `scale` is
    /// `[1]` or `[filters]`.
    fn weights(&self, weights: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4>;

    /// Values `[batch, height, width, channels]` as `scale` times whole numbers in `codes`; `scale` is `[1]`. Of `bits` bits these are from 0 to
    /// `2^bits - 1` behind a ReLU, and from `-2^(bits-1)` to `2^(bits-1) - 1` behind a layer without an activation.
    fn values(&self, values: Tensor<4>, scale: Tensor<1>, codes: RangeInclusive<i32>) -> Tensor<4>;

    /// Whether `values` does what [`Lsq`] does: a layer then rounds its values in the pass that makes them, which is faster.
    fn values_are_lsq(&self) -> bool {
        false
    }
}

/// Learned scales (Esser et al., *Learned Step Size Quantization*, ICLR 2020): the gradient passes where nothing is clipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lsq;

impl Quantizer for Lsq {
    fn weights(&self, weights: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4> {
        quantize_weights(weights, scale, bits)
    }

    fn values(&self, values: Tensor<4>, scale: Tensor<1>, codes: RangeInclusive<i32>) -> Tensor<4> {
        // Of one image, so that the gradient's scale doesn't depend on the batch.
        let [_, height, width, channels] = values.dims();
        fake_quantize(values, scale, value_grid(codes, height * width * channels))
    }

    fn values_are_lsq(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::fake::value_codes;
    use super::*;

    /// Values with a sign reach one code further below 0 than above it; gradients pass between the ends, and the scale's is that of equation 3 of
    /// Esser et al.: the rounding error inside, the end's code outside.
    #[test]
    fn values_with_a_sign_are_rounded_both_ways_and_learn() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats([-9.0, -1.1, -0.3, 0.3, 1.1, 9.0], &device).require_grad();
        let scale = Tensor::<1>::from_floats([0.5], &device).require_grad();
        assert_eq!((value_codes(3, true), value_codes(3, false)), (-4..=3, 0..=7));
        let out = Lsq.values(x.clone().reshape([1, 1, 1, 6]), scale.clone(), value_codes(3, true));
        let grads = out.clone().sum().backward();
        let values = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values(out.reshape([6])), [-2.0, -1.0, -0.5, 0.5, 1.0, 1.5]);
        assert_eq!(values(x.grad(&grads).unwrap()), [0.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
        let learned = values(scale.grad(&grads).unwrap())[0];
        let errors = (-2.0 + 2.2) + (-1.0 + 0.6) + (1.0 - 0.6) + (2.0 - 2.2);
        let expected = (errors - 4.0 + 3.0) / (6.0f32 * 3.0).sqrt();
        assert!((learned - expected).abs() < 1e-5, "{learned} {expected}");
    }
}
