//! The forward pass of a block.

use std::mem::MaybeUninit;

use burn::backend::{Flex, TensorMetadata};

use super::super::channels::{self, PerChannel};
use super::super::flex::{FlexTensor, flex_tensor};
use super::super::join::Join;
use super::affine::{BatchNorm, Normalized};
use super::operands::{Affine, BlockOptions, Residual, Rounding};
use super::rounding::Rounded;
use crate::engine::conv::ConvGeometry;
use crate::engine::parallel::all_written_in_parts;

/// A block's output, and what its backward pass needs.
pub(super) struct Forward {
    /// One for each form, or the only one.
    pub values: Vec<FlexTensor>,
    pub saved: Saved,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub x: FlexTensor,
    pub weight: FlexTensor,
    pub geometry: ConvGeometry,
    pub normalized: Option<Normalized>,
    /// Where the residual value joins.
    pub join: Option<Join>,
    pub end: End,
}

/// What a block ends with.
#[derive(Clone, Debug)]
pub(super) enum End {
    Plain,
    /// A ReLU, which made this.
    Relu(FlexTensor),
    Rounded(Rounded),
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

    /// The value of an image.
    fn of(&self, image: usize) -> &[f32] {
        &self.value.storage()[image * self.join.len()..][..self.join.len()]
    }
}

/// What follows bias or batch norm.
#[derive(Clone, Copy)]
enum Tail<'a> {
    /// A sum of as many values and a ReLU, in the same pass.
    SumRelu(&'a Joined),
    /// A ReLU in the same pass.
    Relu,
    /// Passes of their own.
    Apart,
}

/// # Panics
/// If the shapes don't fit each other.
pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    affine: Affine<Flex>,
    residual: Residual<Flex>,
    rounding: Rounding<Flex>,
    options: BlockOptions,
) -> Forward {
    let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
    let geometry = ConvGeometry::new(x.shape().dims(), weight.shape().dims(), options.conv);
    let conv = &geometry;
    let joined = Joined::new(residual, conv);
    let shape = [conv.batch, conv.out_height(), conv.out_width(), conv.filters];
    let tail = match &joined {
        Some(joined) if options.relu && joined.join.same() => Tail::SumRelu(joined),
        None if options.relu => Tail::Relu,
        Some(_) | None => Tail::Apart,
    };
    // Residual sum and ReLU of an image, in passes of their own.
    let complete = |image: usize, out: &mut [f32]| {
        if let Some(joined) = &joined {
            joined.join.add(out, joined.of(image));
        }
        if options.relu {
            channels::relu(out);
        }
    };
    let convolve = |bias: Option<PerChannel>| {
        let finish = |image: usize, out: &mut [f32]| match (&bias, tail) {
            (Some(bias), Tail::SumRelu(joined)) => channels::shift_add_relu(out, bias, joined.of(image)),
            (Some(bias), Tail::Relu) => channels::shift_relu(out, bias),
            (Some(bias), Tail::Apart) => {
                channels::shift(out, bias);
                complete(image, out);
            }
            (None, _) => complete(image, out),
        };
        flex_tensor(conv.forward(x.storage(), weight.storage(), options.exact, finish).0, shape)
    };
    let (value, normalized) = match affine {
        Affine::Identity => (Some(convolve(None)), None),
        Affine::Bias(bias) => (Some(convolve(Some(PerChannel::new(bias.to_contiguous().storage())))), None),
        Affine::BatchNorm { gamma, beta, epsilon } => {
            let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
            let (sums, moments) = conv
                .forward(x.storage(), weight.storage(), options.exact, |_, out| channels::moments(out, conv.filters));
            let norm = BatchNorm::new(&moments, conv.out_pixels(), gamma.storage(), epsilon);
            let offset = norm.offset(beta.storage());
            let normalized = Normalized { sums: flex_tensor(sums, shape), norm, offset };
            let value = matches!(rounding, Rounding::Absent).then(|| {
                let value = normalized.apply(conv, |image, sums, gain, offset, out| match tail {
                    Tail::SumRelu(joined) => channels::scale_add_relu(sums, gain, offset, joined.of(image), out),
                    Tail::Relu => channels::scale_relu(sums, gain, offset, out),
                    Tail::Apart => {
                        let out = channels::scale(sums, gain, offset, out);
                        complete(image, out);
                        out
                    }
                });
                flex_tensor(value, shape)
            });
            (value, Some(normalized))
        }
    };
    let join = joined.as_ref().map(|joined| joined.join);
    let (values, end) = match (rounding, value) {
        (Rounding::To { scale, forms }, stored) => {
            let skip = joined.filter(|_| stored.is_none()).map(|joined| joined.value);
            let scale = scale.to_contiguous().storage()[0];
            let rounded = Rounded { scale, forms, stored, skip };
            let forms = match rounded.forms.len() {
                1 => in_forms::<1>(&rounded, conv, normalized.as_ref(), join).into(),
                2 => in_forms::<2>(&rounded, conv, normalized.as_ref(), join).into(),
                forms => panic!("a block rounds to one or two forms, not {forms}"),
            };
            (forms, End::Rounded(rounded))
        }
        (Rounding::Absent, Some(value)) if options.relu => (vec![value.clone()], End::Relu(value)),
        (Rounding::Absent, Some(value)) => (vec![value], End::Plain),
        (Rounding::Absent, None) => unreachable!("what isn't rounded is made"),
    };
    Forward { values, saved: Saved { x, weight, geometry, normalized, join, end } }
}

/// The forms of what a block rounds.
fn in_forms<const N: usize>(
    rounded: &Rounded,
    conv: &ConvGeometry,
    normalized: Option<&Normalized>,
    join: Option<Join>,
) -> [FlexTensor; N] {
    let unrounded = rounded.unrounded(normalized, join, conv.out_len());
    let scratch = || vec![MaybeUninit::uninit(); unrounded.part_len()];
    let (forms, _) =
        all_written_in_parts(conv.batch * conv.out_len(), conv.out_len(), scratch, |scratch, image, outs| {
            (rounded.round(&unrounded, image, scratch, outs), ())
        });
    forms.map(|form| flex_tensor(form, [conv.batch, conv.out_height(), conv.out_width(), conv.filters]))
}
