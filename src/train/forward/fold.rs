//! What of a batch norm goes into weights that are rounded.

use burn::tensor::Tensor;

use crate::engine::{ConvOptions, Moments, Norm, conv_block, moments};
use crate::integer::Fusion;
use crate::network::{BatchNorm, Conv, ConvShape, Norm as ParamNorm, Window};

/// How batch norm and rounded weights meet.
#[expect(clippy::large_enum_variant, reason = "made once a layer and consumed at once")]
pub(super) enum Fold {
    /// All of it joins the sums: weights times `gain`, where there is one, then `bias`; one value a filter each.
    Into { gain: Option<Tensor<1>>, bias: Tensor<1>, statistics: Option<Moments> },
    /// Weights are rounded times `gain`, which is then divided out again: the batch norm finds the statistics of the rounded convolution.
    Corrected { gain: Tensor<1> },
    /// Raw weights are rounded; the batch norm follows.
    Outside,
}

impl Fold {
    /// What the fusion mode makes of a convolution's batch norm; `statistics` are the batch's mean and variance, where they were needed.
    ///
    /// `weight` is `[filters, channels, kernel height, kernel width]`, `x` the convolution's input `[batch, height, width, channels]`.
    pub fn new(conv: &Conv, norm: &ParamNorm<Tensor<1>>, weight: &Tensor<4>, x: &Tensor<4>, fusion: Fusion) -> Self {
        let norm = match norm {
            ParamNorm::Bias(bias) => return Self::Into { gain: None, bias: bias.clone(), statistics: None },
            ParamNorm::Batch(norm) => norm,
        };
        match fusion {
            Fusion::None => Self::Outside,
            Fusion::Ema => {
                let gain = gain(norm.gamma.clone(), norm.variance.clone(), norm.epsilon).detach();
                Self::Corrected { gain: gain.clone().mask_fill(gain.equal_elem(0.0), 1.0) }
            }
            Fusion::Frozen => {
                let (gain, bias) = running_affine(norm);
                Self::Into { gain: Some(gain), bias, statistics: None }
            }
            Fusion::Once => Self::Into { gain: None, bias: norm.beta.clone(), statistics: None },
            Fusion::Batch => {
                let sums = conv_block(x.clone(), weight.clone(), options(conv), Norm::Absent, None, false).value;
                let Moments { mean, variance } = moments(sums);
                let statistics = Moments { mean: mean.clone().detach(), variance: variance.clone().detach() };
                let (gain, bias) = affine(norm, mean, variance);
                Self::Into { gain: Some(gain), bias, statistics: Some(statistics) }
            }
        }
    }

    /// What weights are multiplied by before they are rounded, one value a filter.
    pub fn gain(&self) -> Option<&Tensor<1>> {
        match self {
            Self::Into { gain, .. } => gain.as_ref(),
            Self::Corrected { gain } => Some(gain),
            Self::Outside => None,
        }
    }
}

/// What a batch norm multiplies each filter by: `gamma / sqrt(variance + epsilon)`.
pub(in crate::train) fn gain(gamma: Tensor<1>, variance: Tensor<1>, epsilon: f64) -> Tensor<1> {
    gamma / (variance + epsilon).sqrt()
}

/// Gain and bias of a batch norm with these statistics: the [`gain`], and `beta - gain * mean`.
fn affine(norm: &BatchNorm<Tensor<1>>, mean: Tensor<1>, variance: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    let gain = gain(norm.gamma.clone(), variance, norm.epsilon);
    let bias = norm.beta.clone() - gain.clone() * mean;
    (gain, bias)
}

/// Gain and bias of a batch norm with its running statistics.
pub(super) fn running_affine(norm: &BatchNorm<Tensor<1>>) -> (Tensor<1>, Tensor<1>) {
    affine(norm, norm.mean.clone(), norm.variance.clone())
}

/// How a convolution moves over its input.
pub(super) fn options(conv: &Conv) -> ConvOptions {
    let ConvShape { window: Window { stride, padding, .. }, dilation, groups, .. } = conv.shape;
    ConvOptions { stride, padding, dilation, groups }
}

/// One value a filter, as it meets a convolution's weights.
pub(super) fn by_filter(values: Tensor<1>) -> Tensor<4> {
    values.reshape([-1, 1, 1, 1])
}
