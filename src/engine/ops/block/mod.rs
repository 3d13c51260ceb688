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
mod rounding;
#[cfg(test)]
mod tests;

use backend::BlockBackend;
use burn::backend::Dispatch;
use burn::tensor::Tensor;
use composed::{burn_conv, composed, composed_forms};
use operands::{Affine, BlockOptions, FusedOutput, Residual, Rounding, Statistics, Values};
pub use operands::{BlockOutput, Norm, Shortcut};
pub(crate) use rounding::{Form, Forms, MAX_FORMS};

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
    let options = BlockOptions { conv, relu, exact: false };
    let (values, statistics) = fused(x, weight, norm, shortcut, Rounding::Absent, options);
    let Values::One(value) = values else { unreachable!("one value without forms") };
    BlockOutput { value: Tensor::from_dispatch(value), statistics }
}

/// The same, without a ReLU, with its values rounded to forms, as [`fake_quantize`](crate::engine::fake_quantize) does.
///
/// # Panics
/// If the shapes don't fit each other, or there are no forms or more than [`MAX_FORMS`].
pub(crate) fn conv_block_forms(
    x: Tensor<4>,
    weight: Tensor<4>,
    conv: ConvOptions,
    norm: Norm,
    shortcut: Option<Shortcut>,
    forms: Forms,
) -> BlockOutput<Vec<Tensor<4>>> {
    if !ours(&x) {
        return composed_forms(x, weight, conv, norm, shortcut, forms);
    }
    let options = BlockOptions { conv, relu: false, exact: false };
    let rounding = Rounding::To { scale: forms.scale.into_dispatch(), forms: forms.forms };
    let (values, statistics) = fused(x, weight, norm, shortcut, rounding, options);
    let values = match values {
        Values::One(value) => vec![value],
        Values::Two(first, second) => vec![first, second],
    };
    BlockOutput { value: values.into_iter().map(Tensor::from_dispatch).collect(), statistics }
}

fn fused(
    x: Tensor<4>,
    weight: Tensor<4>,
    norm: Norm,
    shortcut: Option<Shortcut>,
    rounding: Rounding<Dispatch>,
    options: BlockOptions,
) -> (Values<Dispatch>, Option<Moments>) {
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
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let FusedOutput { values, statistics } =
        <Dispatch as BlockBackend>::fused_block(x, weight, affine, residual, rounding, options);
    let statistics = match statistics {
        Statistics::Absent => None,
        Statistics::OfBatch { mean, variance } => {
            Some(Moments { mean: Tensor::from_dispatch(mean), variance: Tensor::from_dispatch(variance) })
        }
    };
    (values, statistics)
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
    let (values, _) = fused(x, weight, Norm::Absent, None, Rounding::Absent, options);
    let Values::One(value) = values else { unreachable!("one value without forms") };
    Tensor::from_dispatch(value)
}
