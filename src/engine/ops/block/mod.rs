//! A layer of a network in one operation: convolution, batch norm or bias, residual sum, ReLU.
//!
//! Forward, the statistics are taken while an image's output is in the cache; backward, the gradient of the convolution's output
//! is made there and never stored.

mod affine;
mod backend;
mod backward;
mod composed;
mod forward;
mod operands;
#[cfg(test)]
mod tests;

use backend::BlockBackend;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use composed::{burn_conv, composed};
use operands::{Affine, BlockOptions, Residual, Statistics};
pub use operands::{BlockOutput, Norm, Shortcut};

use super::flex::ours;
use super::moments::Moments;
use crate::engine::conv::ConvOptions;

/// Convolution of `x` `[batch, height, width, channels]` with `weight` `[filters, channels, kernel height, kernel width]`, then
/// `norm`, the residual sum and, if `relu`, the ReLU.
///
/// For training: convolutions may be computed by Winograd's algorithm, whose rounding differs from the plain sum's.
///
/// # Panics
/// If the shapes don't fit each other.
pub fn conv_block(
    x: Tensor<4>,
    weight: Tensor<4>,
    conv: ConvOptions,
    norm: Norm,
    shortcut: Option<Shortcut>,
    relu: bool,
) -> BlockOutput {
    if !ours(&x) {
        return composed(x, weight, conv, norm, shortcut, relu);
    }
    let affine = match norm {
        Norm::Batch { gamma, beta, epsilon } => {
            Affine::BatchNorm { gamma: gamma.into_dispatch(), beta: beta.into_dispatch(), epsilon }
        }
        Norm::Bias(bias) => Affine::Bias(bias.into_dispatch()),
        Norm::Absent => Affine::Identity,
    };
    let residual = match shortcut {
        Some(Shortcut { value, stride, front }) => Residual::Added { value: value.into_dispatch(), stride, front },
        None => Residual::Absent,
    };
    let options = BlockOptions { conv, relu, exact: false };
    let output =
        <Dispatch as BlockBackend>::fused_block(x.into_dispatch(), weight.into_dispatch(), affine, residual, options);
    let statistics = match output.statistics {
        Statistics::Absent => None,
        Statistics::OfBatch { mean, variance } => {
            Some(Moments { mean: Tensor::from_dispatch(mean), variance: Tensor::from_dispatch(variance) })
        }
    };
    BlockOutput { value: Tensor::from_dispatch(output.value), statistics }
}

/// Convolution of `x` `[batch, height, width, channels]` with `weight` by plain sums in a fixed order: exact for integers as long as
/// no partial sum reaches `2^24`. Without gradients.
///
/// # Panics
/// If the shapes don't fit each other.
pub(crate) fn exact_conv(x: Tensor<4>, weight: Tensor<4>, conv: ConvOptions) -> Tensor<4> {
    if !ours(&x) {
        return burn_conv(x, weight, conv).permute([0, 2, 3, 1]);
    }
    let options = BlockOptions { conv, relu: false, exact: true };
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let output = <Dispatch as BlockBackend>::fused_block(x, weight, Affine::Identity, Residual::Absent, options);
    Tensor::from_dispatch(output.value)
}
