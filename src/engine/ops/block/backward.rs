//! The backward pass of a block.
//!
//! A first pass over the output's gradient undoes the ReLU, takes out what the residual value gets and adds up each channel; the
//! convolution's backward pass then makes the gradient of its output from that, image by image.

use rayon::prelude::*;

use super::super::channels::{self, PerChannel};
use super::super::flex::{FlexTensor, flex_tensor, flex_vector};
use super::super::join::Join;
use super::forward::Normalized;
use crate::engine::conv::{ConvGeometry, Gradients};
use crate::engine::parallel::in_parts;

/// Something of each tensor that a block takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands<T> {
    pub x: T,
    pub weight: T,
    /// Gamma.
    pub scale: T,
    /// Beta or the bias.
    pub shift: T,
    /// The residual value.
    pub skip: T,
}

impl<T> Operands<T> {
    pub(super) fn from_array([x, weight, scale, shift, skip]: [T; 5]) -> Self {
        Self { x, weight, scale, shift, skip }
    }

    pub(super) fn into_array(self) -> [T; 5] {
        [self.x, self.weight, self.scale, self.shift, self.skip]
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    pub x: FlexTensor,
    pub weight: FlexTensor,
    pub geometry: ConvGeometry,
    pub normalized: Option<Normalized>,
    /// The block's output, where a ReLU made it.
    pub rectified: Option<FlexTensor>,
    pub join: Option<Join>,
}

/// The gradient of a block's output.
struct OutputGradient<'a> {
    values: &'a [f32],
    /// The output that a ReLU made.
    rectified: Option<&'a [f32]>,
    /// Floats of an image.
    len: usize,
}

impl OutputGradient<'_> {
    /// Writes the gradient of an image before the ReLU.
    fn before_relu(&self, image: usize, out: &mut [f32]) {
        let image = image * self.len..(image + 1) * self.len;
        match self.rectified {
            Some(rectified) => channels::relu_gradient(&self.values[image.clone()], &rectified[image], out),
            None => out.copy_from_slice(&self.values[image]),
        }
    }
}

/// Sums over an image or a batch, for each channel.
struct ChannelSums<T> {
    /// Of the gradient.
    gradients: Vec<T>,
    /// Of the gradient times the batch norm's input without its mean; empty without a batch norm.
    products: Vec<T>,
}

/// What the first pass finds.
struct FirstPass {
    skip: Option<FlexTensor>,
    /// For each image; empty where nothing needs them.
    sums: Vec<ChannelSums<f32>>,
}

impl Saved {
    /// The gradients that are wanted; those of gamma, beta and bias may be there unasked.
    pub(super) fn gradients(self, gradient: FlexTensor, wanted: Operands<bool>) -> Operands<Option<FlexTensor>> {
        let conv = self.geometry;
        let join = self.join.filter(|_| wanted.skip);
        let rectified: Option<&[f32]> = self.rectified.as_ref().map(|rectified| rectified.storage());
        let incoming = OutputGradient { values: gradient.storage(), rectified, len: conv.out_len() };
        let needs_sums = self.normalized.is_some() || wanted.shift;
        let FirstPass { skip, sums } = self.first_pass(&incoming, &gradient, join, needs_sums);
        let sums = total(&sums, conv.filters);

        // Where the residual value has the output's shape, its gradient is the one before the ReLU.
        let rectified: Option<&[f32]> = match join {
            Some(join) if join.same() => skip.as_ref().map(|skip| skip.storage()),
            _ => None,
        };
        let start = |image: usize, out: &mut [f32]| match rectified {
            Some(gradient) => out.copy_from_slice(&gradient[image * conv.out_len()..][..conv.out_len()]),
            None => incoming.before_relu(image, out),
        };
        let (x, weight): (&[f32], &[f32]) = (self.x.storage(), self.weight.storage());
        let wanted = Gradients { input: wanted.x, weight: wanted.weight };
        let (found, scale) = match &self.normalized {
            None => (conv.backward(x, weight, wanted, start), None),
            Some(Normalized { sums: inputs, norm }) => {
                let terms = norm.input_gradient(&sums.gradients, &sums.products, conv.batch * conv.out_pixels());
                let [gain, slope, offset] =
                    [&terms.gain, &terms.slope, &terms.offset].map(|values| PerChannel::new(values));
                let inputs: &[f32] = inputs.storage();
                let found = conv.backward(x, weight, wanted, |image, out| {
                    start(image, out);
                    let inputs = &inputs[image * conv.out_len()..][..conv.out_len()];
                    channels::combine(out, inputs, &gain, &slope, &offset);
                });
                (found, Some(single(&norm.gamma_gradient(&sums.products))))
            }
        };
        Operands {
            x: found.input.map(|values| flex_tensor(values, [conv.batch, conv.height, conv.width, conv.channels])),
            weight: found.weight.map(|values| {
                flex_tensor(values, [conv.filters, conv.group_channels(), conv.kernel[0], conv.kernel[1]])
            }),
            scale,
            shift: Some(single(&sums.gradients)),
            skip,
        }
    }

    fn first_pass(
        &self,
        incoming: &OutputGradient,
        gradient: &FlexTensor,
        join: Option<Join>,
        needs_sums: bool,
    ) -> FirstPass {
        let conv = &self.geometry;
        let means = self.normalized.as_ref().map(|normalized| PerChannel::new(&normalized.norm.mean));
        let sums_of = |image: usize, gradient: &[f32]| {
            let products = match (&self.normalized, &means) {
                (Some(Normalized { sums, .. }), Some(means)) => {
                    let inputs: &[f32] = sums.storage();
                    channels::products(gradient, &inputs[image * conv.out_len()..][..conv.out_len()], means)
                }
                _ => Vec::new(),
            };
            ChannelSums { gradients: channels::sums(gradient, conv.filters), products }
        };
        let scratch = || vec![0.0; conv.out_len()];
        match join {
            Some(join) if incoming.rectified.is_some() || !join.same() => {
                let take_out = |scratch: &mut Vec<f32>, image: usize, skip: &mut [f32]| {
                    if join.same() {
                        incoming.before_relu(image, skip);
                        sums_of(image, skip)
                    } else {
                        incoming.before_relu(image, scratch);
                        join.gradient(scratch, skip);
                        sums_of(image, scratch)
                    }
                };
                let (skip, sums) = in_parts(conv.batch * join.len(), join.len(), scratch, take_out);
                let shape = [conv.batch, join.height, join.width, join.channels];
                FirstPass { skip: Some(flex_tensor(skip, shape)), sums }
            }
            _ => {
                let images = if needs_sums { 0..conv.batch } else { 0..0 };
                let sums = images.into_par_iter().map_init(scratch, |scratch, image| {
                    incoming.before_relu(image, scratch);
                    sums_of(image, scratch)
                });
                FirstPass { skip: join.map(|_| gradient.clone()), sums: sums.collect() }
            }
        }
    }
}

/// Sums of the batch from those of its images, in their order.
fn total(images: &[ChannelSums<f32>], filters: usize) -> ChannelSums<f64> {
    let of = |part: fn(&ChannelSums<f32>) -> &[f32]| -> Vec<f64> {
        let present = images.first().is_none_or(|sums| !part(sums).is_empty());
        let channel = |channel: usize| images.iter().map(|sums| f64::from(part(sums)[channel])).sum();
        if present { (0..filters).map(channel).collect() } else { Vec::new() }
    };
    ChannelSums { gradients: of(|sums| &sums.gradients), products: of(|sums| &sums.products) }
}

fn single(values: &[f64]) -> FlexTensor {
    flex_vector(values.iter().map(|value| *value as f32).collect())
}
