//! The fake quantizers of training as a trait, so that a program can bring its own.

use burn::tensor::Tensor;

use super::fake::{quantize_values, quantize_weights};

/// Rounds weights and values in training's forward pass, and decides which gradients pass.
///
/// The grid is the chip's and fixed: a scale times whole numbers, symmetric for weights, from zero for values. What comes back must lie on it, or
/// training sees another network than the one that is evaluated and exported. Scales are learned from whatever gradient reaches them.
pub trait Quantizer: Send + Sync {
    /// Weights `[filters, channels, kernel height, kernel width]` as `scale` times whole numbers from `-(2^(bits-1) - 1)` to `2^(bits-1) - 1`; `scale` is
    /// `[1]` or `[filters]`.
    fn weights(&self, weights: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4>;

    /// Values `[batch, height, width, channels]` as `scale` times whole numbers from 0 to `2^bits - 1`; `scale` is `[1]`.
    fn values(&self, values: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4>;
}

/// Learned scales (Esser et al., *Learned Step Size Quantization*, ICLR 2020): the gradient passes where nothing is clipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lsq;

impl Quantizer for Lsq {
    fn weights(&self, weights: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4> {
        quantize_weights(weights, scale, bits)
    }

    fn values(&self, values: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4> {
        // Of one image, so that the gradient's scale doesn't depend on the batch.
        let [_, height, width, channels] = values.dims();
        quantize_values(values, scale, bits, height * width * channels)
    }
}
