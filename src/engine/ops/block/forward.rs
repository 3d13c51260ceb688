//! The forward pass of a block.

use burn::backend::{Flex, TensorMetadata};

use super::super::channels::{self, PerChannel};
use super::super::flex::{FlexTensor, flex_tensor};
use super::super::join::Join;
use super::affine::BatchNorm;
use super::operands::{Affine, BlockOptions, Residual};
use crate::engine::conv::ConvGeometry;
use crate::engine::parallel::written_in_parts;

/// A block's output, and what its backward pass needs.
pub(super) struct Forward {
    pub value: FlexTensor,
    pub x: FlexTensor,
    pub weight: FlexTensor,
    pub geometry: ConvGeometry,
    pub normalized: Option<Normalized>,
    /// Where the residual value joins.
    pub join: Option<Join>,
}

/// What a batch norm was applied to.
#[derive(Clone, Debug)]
pub(super) struct Normalized {
    /// The convolution's output.
    pub sums: FlexTensor,
    pub norm: BatchNorm,
    /// What is added to the gain times the sums.
    pub offset: Vec<f32>,
}

/// A residual value and where it joins.
struct Joined {
    value: FlexTensor,
    join: Join,
}

impl Joined {
    /// # Panics
    /// If the value's shape doesn't fit the sum.
    fn new(residual: Residual<Flex>, conv: &ConvGeometry) -> Option<Self> {
        let Residual::Added { value, stride, front } = residual else { return None };
        let [batch, height, width, channels] = value.shape().dims();
        let fits = batch == conv.batch
            && height.div_ceil(stride) == conv.out_height()
            && width.div_ceil(stride) == conv.out_width()
            && front + channels <= conv.filters;
        assert!(fits, "a residual value of {:?} doesn't fit its sum", value.shape());
        let join = Join { height, width, channels, stride, front, out_width: conv.out_width(), filters: conv.filters };
        Some(Self { value: value.to_contiguous(), join })
    }
}

/// # Panics
/// If the shapes don't fit each other.
pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    affine: Affine<Flex>,
    residual: Residual<Flex>,
    options: BlockOptions,
) -> Forward {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let conv = ConvGeometry::new(x.shape().dims(), weight.shape().dims(), options.conv);
    let joined = Joined::new(residual, &conv);
    let shape = [conv.batch, conv.out_height(), conv.out_width(), conv.filters];
    // Residual sum and ReLU of an image.
    let complete = |image: usize, out: &mut [f32]| {
        if let Some(Joined { value, join }) = &joined {
            join.add(out, &value.storage()[image * join.len()..][..join.len()]);
        }
        if options.relu {
            channels::relu(out);
        }
    };
    let (value, normalized) = match affine {
        Affine::Identity => (conv.forward(x.storage(), weight.storage(), options.exact, complete).0, None),
        Affine::Bias(bias) => {
            let bias = PerChannel::new(bias.to_contiguous().storage());
            let (value, _) = conv.forward(x.storage(), weight.storage(), options.exact, |image, out| {
                channels::shift(out, &bias);
                complete(image, out);
            });
            (value, None)
        }
        Affine::BatchNorm { gamma, beta, epsilon } => {
            let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
            let (sums, moments) = conv
                .forward(x.storage(), weight.storage(), options.exact, |_, out| channels::moments(out, conv.filters));
            let norm = BatchNorm::new(&moments, conv.out_pixels(), gamma.storage(), epsilon);
            let offset = norm.offset(beta.storage());
            let (gain, offsets) = (PerChannel::new(&norm.gain), PerChannel::new(&offset));
            let (value, _) = written_in_parts(
                sums.len(),
                conv.out_len(),
                || (),
                |(), image, out| {
                    let sums = &sums[image * conv.out_len()..][..conv.out_len()];
                    if options.relu && joined.is_none() {
                        return (channels::scale_relu(sums, &gain, &offsets, out), ());
                    }
                    let out = channels::scale(sums, &gain, &offsets, out);
                    complete(image, out);
                    (out, ())
                },
            );
            (value, Some(Normalized { sums: flex_tensor(sums, shape), norm, offset }))
        }
    };
    let join = joined.map(|joined| joined.join);
    Forward { value: flex_tensor(value, shape), x, weight, geometry: conv, normalized, join }
}
