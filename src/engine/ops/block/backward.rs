//! The backward pass of a block.
//!
//! A first pass over the output's gradient adds up what the ReLU lets through, for each channel, and takes out what the residual value gets;
//! the convolution's backward pass then makes the gradient of its output from that, image by image.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::channels::{self, ChannelSums, PerChannel, Relu};
use super::super::flex::{FlexTensor, flex_tensor, flex_vector};
use super::super::join::Join;
use super::forward::Normalized;
use crate::engine::conv::{ConvGeometry, Gradients};
use crate::engine::parallel::{in_parts, written_in_parts};

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
struct Incoming<'a> {
    values: &'a [f32],
    /// The output that a ReLU made.
    rectified: Option<&'a [f32]>,
    /// Gain and offset, where they gave what the ReLU saw.
    scale: Option<&'a [PerChannel; 2]>,
    /// Floats of an image.
    len: usize,
}

impl<'a> Incoming<'a> {
    fn image(&self, image: usize) -> &'a [f32] {
        &self.values[image * self.len..][..self.len]
    }

    fn output(&self, image: usize) -> Option<&'a [f32]> {
        self.rectified.map(|rectified| &rectified[image * self.len..][..self.len])
    }

    fn relu(&self, image: usize) -> Relu<'a> {
        match (self.output(image), self.scale) {
            (None, _) => Relu::Absent,
            (Some(_), Some([gain, offset])) => Relu::Scaled { gain, offset },
            (Some(output), None) => Relu::Output(output),
        }
    }

    /// Writes the gradient of an image before the ReLU.
    fn before_relu<'o>(&self, image: usize, out: &'o mut [MaybeUninit<f32>]) -> &'o mut [f32] {
        match self.output(image) {
            Some(output) => channels::relu_gradient(self.image(image), output, out),
            None => out.write_copy_of_slice(self.image(image)),
        }
    }
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
        // Without a residual sum, what the ReLU saw is what the batch norm gave.
        let scale = self.normalized.as_ref().filter(|_| self.join.is_none());
        let scale =
            scale.map(|Normalized { norm, offset, .. }| [&norm.gain, offset].map(|values| PerChannel::new(values)));
        let incoming = Incoming {
            values: gradient.storage(),
            rectified: self.rectified.as_ref().map(|rectified| rectified.storage()),
            scale: scale.as_ref(),
            len: conv.out_len(),
        };
        let needs_sums = self.normalized.is_some() || wanted.shift;
        let FirstPass { skip, sums } = self.first_pass(&incoming, &gradient, join, needs_sums);
        let sums = total(&sums, conv.filters);

        // Where the residual value has the output's shape, its gradient is the one before the ReLU.
        let incoming = match (join, &skip) {
            (Some(join), Some(skip)) if join.same() => {
                Incoming { values: skip.storage(), rectified: None, scale: None, len: conv.out_len() }
            }
            _ => incoming,
        };
        let (x, weight): (&[f32], &[f32]) = (self.x.storage(), self.weight.storage());
        let wanted = Gradients { input: wanted.x, weight: wanted.weight };
        let (found, scale) = match &self.normalized {
            None => {
                let found = conv.backward(x, weight, wanted, |image, out| {
                    out.copy_from_slice(incoming.image(image));
                    if let Some(output) = incoming.output(image) {
                        channels::stop(out, output);
                    }
                });
                (found, None)
            }
            Some(Normalized { sums: inputs, norm, .. }) => {
                let terms = norm.input_gradient(&sums.gradients, &sums.products, conv.batch * conv.out_pixels());
                let inputs: &[f32] = inputs.storage();
                let found = conv.backward(x, weight, wanted, |image, out| {
                    let inputs = &inputs[image * conv.out_len()..][..conv.out_len()];
                    channels::combine(incoming.image(image), incoming.relu(image), inputs, &terms, out);
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
        incoming: &Incoming,
        gradient: &FlexTensor,
        join: Option<Join>,
        needs_sums: bool,
    ) -> FirstPass {
        let conv = &self.geometry;
        let means = self.normalized.as_ref().map(|normalized| PerChannel::new(&normalized.norm.mean));
        // Without a batch norm of gradients before the ReLU.
        let sums_of = |image: usize, gradient: &[f32], relu: Relu| match (&self.normalized, &means) {
            (Some(Normalized { sums, .. }), Some(means)) => {
                let inputs: &[f32] = sums.storage();
                channels::gradient_sums(gradient, relu, &inputs[image * conv.out_len()..][..conv.out_len()], means)
            }
            _ => ChannelSums { gradients: channels::sums(gradient, conv.filters), products: Vec::new() },
        };
        let scratch = || vec![MaybeUninit::uninit(); conv.out_len()];
        match join {
            Some(join) if incoming.rectified.is_some() || !join.same() => {
                let len = conv.batch * join.len();
                let (skip, sums) = if join.same() {
                    written_in_parts(
                        len,
                        join.len(),
                        || (),
                        |(), image, skip| {
                            let skip = incoming.before_relu(image, skip);
                            let sums = sums_of(image, skip, Relu::Absent);
                            (skip, sums)
                        },
                    )
                } else {
                    in_parts(len, join.len(), scratch, |scratch, image, skip| {
                        let gradient = incoming.before_relu(image, scratch);
                        join.gradient(gradient, skip);
                        sums_of(image, gradient, Relu::Absent)
                    })
                };
                let shape = [conv.batch, join.height, join.width, join.channels];
                FirstPass { skip: Some(flex_tensor(skip, shape)), sums }
            }
            _ => {
                let images = if needs_sums { 0..conv.batch } else { 0..0 };
                let sums = images.into_par_iter().map_init(scratch, |scratch, image| {
                    if self.normalized.is_some() {
                        sums_of(image, incoming.image(image), incoming.relu(image))
                    } else {
                        sums_of(image, incoming.before_relu(image, scratch), Relu::Absent)
                    }
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
