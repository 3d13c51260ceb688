//! What a block takes and gives.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, ExtensionType};
use burn::tensor::Tensor;

use super::super::moments::Moments;
use super::rounding::Form;
use crate::engine::conv::ConvOptions;

/// What follows a convolution before the residual sum.
#[expect(clippy::large_enum_variant, reason = "made once a layer and consumed at once")]
pub enum Norm {
    /// Batch norm with the batch's statistics.
    Batch {
        /// Factor of each filter.
        gamma: Tensor<1>,
        /// Summand of each filter.
        beta: Tensor<1>,
        /// Added to the variance.
        epsilon: f64,
    },
    /// A bias for each filter.
    Bias(Tensor<1>),
    /// Nothing.
    Absent,
}

/// A residual value: every `stride`-th pixel, with `front` zero channels before its own and as many as needed behind.
pub struct Shortcut {
    /// `[batch, height, width, channels]`.
    pub value: Tensor<4>,
    /// Pixels from one that is taken to the next.
    pub stride: usize,
    /// Zero channels in front.
    pub front: usize,
}

/// What a block gives.
pub struct BlockOutput<V = Tensor<4>> {
    /// `[batch, height, width, filters]`; one for each form where it is rounded.
    pub value: V,
    /// Of each filter's convolution over the batch, where there is a batch norm; without gradients.
    pub statistics: Option<Moments>,
}

/// What a block does, beside its tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockOptions {
    pub conv: ConvOptions,
    pub relu: bool,
    /// Plain sums in a fixed order.
    pub exact: bool,
}

/// A [`Norm`] of a backend.
#[derive(ExtensionType)]
pub(super) enum Affine<B: Backend> {
    Identity,
    Bias(FloatTensor<B>),
    BatchNorm { gamma: FloatTensor<B>, beta: FloatTensor<B>, epsilon: f64 },
}

/// A [`Shortcut`] of a backend.
#[derive(ExtensionType)]
pub(super) enum Residual<B: Backend> {
    Absent,
    Added { value: FloatTensor<B>, stride: usize, front: usize },
}

/// [`Forms`](super::Forms) of a backend.
#[derive(ExtensionType)]
pub(super) enum Rounding<B: Backend> {
    Absent,
    To { scale: FloatTensor<B>, forms: Vec<Form> },
}

/// Values in as many forms as there are, or the only one.
#[derive(ExtensionType)]
pub(super) enum Values<B: Backend> {
    One(FloatTensor<B>),
    Two(FloatTensor<B>, FloatTensor<B>),
}

/// [`Moments`] of a backend.
#[derive(ExtensionType)]
pub(super) enum Statistics<B: Backend> {
    Absent,
    OfBatch { mean: FloatTensor<B>, variance: FloatTensor<B> },
}

/// A [`BlockOutput`] of a backend.
#[derive(ExtensionType)]
pub(super) struct FusedOutput<B: Backend> {
    #[extension_type]
    pub values: Values<B>,
    #[extension_type]
    pub statistics: Statistics<B>,
}

impl<B: Backend> Values<B> {
    /// # Panics
    /// If there are neither one nor two.
    pub(super) fn new(values: Vec<FloatTensor<B>>) -> Self {
        let mut values = values.into_iter();
        match (values.next(), values.next(), values.next()) {
            (Some(value), None, None) => Self::One(value),
            (Some(first), Some(second), None) => Self::Two(first, second),
            _ => panic!("a block gives one or two values"),
        }
    }
}
