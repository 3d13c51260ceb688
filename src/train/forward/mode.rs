//! Which pass it is, and what it gives.

use burn::tensor::Tensor;

use crate::hardware::Hardware;
use crate::integer::{BitPlan, Fusion};
use crate::network::ConvId;

/// Which forward pass.
#[derive(Clone, Copy)]
pub(crate) enum Mode<'a> {
    /// Float with the batch's statistics.
    FloatTraining,
    /// Float with the running statistics, folded.
    Float,
    /// Float; the batch norms of these convolutions with the batch's statistics, the others with their running ones.
    Measuring { convs: &'a [ConvId] },
    /// Float with the running statistics, folded; those of the batch are only noted.
    Observing,
    /// Fake quantizers on weights and values; with a chip, its conversions too.
    Quantized { plan: &'a BitPlan, fusion: Fusion, chip: Option<LossyChip<'a>> },
}

/// Sees by number the value of each node that computes one, before it is rounded.
pub(crate) type Inspect<'a> = &'a mut dyn FnMut(usize, &Tensor<4>);

/// A chip that loses something, and the number of a batch's first image, from which its noise follows.
#[derive(Clone, Copy)]
pub(crate) struct LossyChip<'a> {
    pub hardware: &'a Hardware,
    pub first: u64,
    /// What becomes of the mean of what conversions add to a filter.
    pub bias: ChipBias,
}

/// What becomes of the mean of what a chip's conversions add to a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChipBias {
    /// It stays.
    Kept,
    /// It is taken from the values, and noted.
    Removed,
}

/// Mean and biased variance of one batch norm's input.
pub(crate) struct Statistics {
    /// Its convolution.
    pub conv: ConvId,
    pub mean: Tensor<1>,
    pub variance: Tensor<1>,
    /// Values that each of them comes from.
    pub count: usize,
}

/// What a forward pass gives.
pub(crate) struct Output {
    /// `[images, classes]`.
    pub logits: Tensor<2>,
    /// Of each batch norm that saw the batch.
    pub statistics: Vec<Statistics>,
    /// For a chip with [`ChipBias::Removed`], what was taken from each convolution's filters.
    pub corrections: Vec<(ConvId, Tensor<1>)>,
}
