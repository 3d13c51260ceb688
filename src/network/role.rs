//! What a parameter is to its convolution. The names of arrays follow from it, which exist in files alone.

use super::node::Conv;
use super::shape::ConvShape;

/// What a parameter is to its convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weights `[filters, depth, kernel height, kernel width]`.
    Weight,
    /// Bias `[filters]`, of a convolution without batch norm.
    Bias,
    /// Factor of a batch norm, `[filters]`.
    Gamma,
    /// Offset of a batch norm, `[filters]`.
    Beta,
    /// Running mean of a batch norm, `[filters]`.
    Mean,
    /// Running variance of a batch norm, `[filters]`.
    Variance,
    /// Scale of the quantized weights, `[1]` or `[filters]`.
    WeightScale,
    /// Scale of the quantized output of the convolution's node, `[1]`.
    OutputScale,
}

impl Role {
    /// How the name of its array ends in files.
    fn suffix(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
            Self::Gamma => "gamma",
            Self::Beta => "beta",
            Self::Mean => "mean",
            Self::Variance => "var",
            Self::WeightScale => "weight_step",
            Self::OutputScale => "output_step",
        }
    }

    /// Name of its array in files, for a layer of this name.
    pub(super) fn array_name(self, layer: &str) -> String {
        format!("{layer}.{}", self.suffix())
    }

    /// The arrays of a convolution before it is quantized.
    pub(super) fn of_float(conv: &Conv) -> &'static [Self] {
        match conv.batch_norm {
            true => &[Self::Weight, Self::Gamma, Self::Beta, Self::Mean, Self::Variance],
            false => &[Self::Weight, Self::Bias],
        }
    }

    /// Shape of its array before the convolution is quantized.
    pub(super) fn shape(self, conv: &ConvShape) -> Vec<usize> {
        if self == Self::Weight { conv.weight_shape() } else { vec![conv.filters()] }
    }

    /// Whether it is a quantizer's scale.
    pub fn is_scale(self) -> bool {
        matches!(self, Self::WeightScale | Self::OutputScale)
    }

    /// Whether an array of this name is a quantizer's scale.
    #[cfg(feature = "train")]
    pub(crate) fn names_scale(name: &str) -> bool {
        let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
        [Self::WeightScale, Self::OutputScale].iter().any(|role| Some(role.suffix()) == suffix)
    }

    /// Whether gradients reach it: running statistics follow the batches instead.
    pub fn trains(self) -> bool {
        !matches!(self, Self::Mean | Self::Variance)
    }
}
