//! The backward pass of a block.
//!
//! A first pass over the output's gradient adds up what the ReLU lets through, for each channel, and takes out what the residual value gets;
//! the convolution's backward pass then makes the gradient of its output from that, image by image.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::super::channels::{self, ChannelSums, PerChannel, Relu};
use super::super::flex::{FlexTensor, flex_tensor, flex_vector};
use super::super::join::Join;
use super::affine::Normalized;
use super::forward::{End, Saved};
use super::rounding::{MAX_FORMS, Rounded};
use crate::engine::conv::Gradients;
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
    /// The scale of the forms.
    pub forms: T,
}

impl<T> Operands<T> {
    pub(super) fn from_array([x, weight, scale, shift, skip, forms]: [T; 6]) -> Self {
        Self { x, weight, scale, shift, skip, forms }
    }

    pub(super) fn into_array(self) -> [T; 6] {
        [self.x, self.weight, self.scale, self.shift, self.skip, self.forms]
    }
}

/// The gradient of a block's output.
struct Incoming<'a> {
    values: FlexTensor,
    /// The output that a ReLU made.
    rectified: Option<&'a [f32]>,
    /// Gain and offset, where they gave what the ReLU saw.
    scale: Option<[PerChannel; 2]>,
    /// Floats of an image.
    len: usize,
}

impl<'a> Incoming<'a> {
    /// One that no ReLU lets pass.
    fn plain(values: FlexTensor, len: usize) -> Self {
        Self { values, rectified: None, scale: None, len }
    }

    fn image(&self, image: usize) -> &[f32] {
        let values: &[f32] = self.values.storage();
        &values[image * self.len..][..self.len]
    }

    fn output(&self, image: usize) -> Option<&'a [f32]> {
        self.rectified.map(|rectified| &rectified[image * self.len..][..self.len])
    }

    fn relu(&self, image: usize) -> Relu<'_> {
        match (self.output(image), &self.scale) {
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
struct FirstPass<'a> {
    /// What is left for the convolution's pass.
    incoming: Incoming<'a>,
    /// Gradient of the residual value.
    skip: Option<FlexTensor>,
    /// For each image; empty where nothing needs them.
    sums: Vec<ChannelSums<f32>>,
    /// Gradient of the forms' scale.
    forms: Option<FlexTensor>,
}

impl Saved {
    /// The gradients that are wanted, from those of the block's values that were read; those of gamma, beta and bias may be there unasked.
    pub(super) fn gradients(
        self,
        gradients: [Option<FlexTensor>; MAX_FORMS],
        wanted: Operands<bool>,
    ) -> Operands<Option<FlexTensor>> {
        let conv = self.geometry;
        let join = self.join.filter(|_| wanted.skip);
        let needs_sums = self.normalized.is_some() || wanted.shift;
        let FirstPass { incoming, skip, sums, forms } = match &self.end {
            End::Plain => self.first_pass(gradients, None, join, needs_sums),
            End::Relu(output) => self.first_pass(gradients, Some(output.storage()), join, needs_sums),
            End::Rounded(rounded) => self.rounded_pass(gradients, rounded, join, needs_sums),
        };
        let sums = total(&sums, conv.filters);
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
            forms,
        }
    }

    /// Sums of an image's gradients; without a batch norm of those before the ReLU.
    fn image_sums(&self, means: Option<&PerChannel>, image: usize, gradient: &[f32], relu: Relu) -> ChannelSums<f32> {
        let conv = &self.geometry;
        match (&self.normalized, means) {
            (Some(Normalized { sums, .. }), Some(means)) => {
                let inputs: &[f32] = sums.storage();
                channels::gradient_sums(gradient, relu, &inputs[image * conv.out_len()..][..conv.out_len()], means)
            }
            _ => ChannelSums { gradients: channels::sums(gradient, conv.filters), products: Vec::new() },
        }
    }

    fn means(&self) -> Option<PerChannel> {
        self.normalized.as_ref().map(|normalized| PerChannel::new(&normalized.norm.mean))
    }

    /// Of a block with one value, which a ReLU made if there is `rectified`.
    fn first_pass<'a>(
        &'a self,
        [gradient, _]: [Option<FlexTensor>; MAX_FORMS],
        rectified: Option<&'a [f32]>,
        join: Option<Join>,
        needs_sums: bool,
    ) -> FirstPass<'a> {
        let conv = &self.geometry;
        // Without a residual sum, what the ReLU saw is what the batch norm gave.
        let scale = self.normalized.as_ref().filter(|_| self.join.is_none());
        let scale =
            scale.map(|Normalized { norm, offset, .. }| [&norm.gain, offset].map(|values| PerChannel::new(values)));
        let mut values = gradient.expect("the gradient of the only value");
        let len = conv.out_len();
        let means = self.means();
        let sums_of = |image, gradient: &[f32], relu| self.image_sums(means.as_ref(), image, gradient, relu);
        let scratch = || vec![MaybeUninit::uninit(); len];
        match (join, rectified) {
            (Some(join), Some(output)) if join.same() => {
                let images = values.storage_mut()[..conv.batch * len]
                    .par_chunks_mut(len)
                    .zip(output.par_chunks(len))
                    .enumerate();
                let sums = images.map(|(image, (gradient, output))| {
                    channels::stop(gradient, output);
                    sums_of(image, gradient, Relu::Absent)
                });
                let sums = sums.collect();
                FirstPass { incoming: Incoming::plain(values.clone(), len), skip: Some(values), sums, forms: None }
            }
            (Some(join), _) if !join.same() => {
                let incoming = Incoming { values, rectified, scale, len };
                let (skip, sums) = in_parts(conv.batch * join.len(), join.len(), scratch, |scratch, image, skip| {
                    let gradient = incoming.before_relu(image, scratch);
                    join.gradient(gradient, skip);
                    sums_of(image, gradient, Relu::Absent)
                });
                let skip = flex_tensor(skip, join.shape(conv.batch));
                FirstPass { incoming, skip: Some(skip), sums, forms: None }
            }
            _ => {
                let incoming = Incoming { values, rectified, scale, len };
                let images = if needs_sums { 0..conv.batch } else { 0..0 };
                let sums = images.into_par_iter().map_init(scratch, |scratch, image| {
                    if self.normalized.is_some() {
                        sums_of(image, incoming.image(image), incoming.relu(image))
                    } else {
                        sums_of(image, incoming.before_relu(image, scratch), Relu::Absent)
                    }
                });
                let sums = sums.collect();
                let skip = join.map(|_| incoming.values.clone());
                FirstPass { incoming, skip, sums, forms: None }
            }
        }
    }

    /// Of a block whose values were rounded to forms.
    fn rounded_pass(
        &self,
        gradients: [Option<FlexTensor>; MAX_FORMS],
        rounded: &Rounded,
        join: Option<Join>,
        needs_sums: bool,
    ) -> FirstPass<'_> {
        let conv = &self.geometry;
        let len = conv.out_len();
        let unrounded = rounded.unrounded(self.normalized.as_ref(), self.join, len);
        let mut read = rounded.forms.iter().zip(gradients).filter_map(|(form, gradient)| Some((form, gradient?)));
        let (form, mut before) = read.next().expect("a form was read");
        let other = read.next();
        let other = other.as_ref().map(|(form, gradient)| (*form, gradient.storage::<f32>()));
        let means = self.means();
        let images = before.storage_mut::<f32>()[..conv.batch * len].par_chunks_mut(len).enumerate();
        let scratch = || [(); 2].map(|()| vec![MaybeUninit::uninit(); unrounded.part_len()]);
        let found = images.map_init(scratch, |scratch, (image, gradient)| {
            let other = other.map(|(form, gradient)| (form, &gradient[image * len..][..len]));
            let scale_sum = rounded.gradient(&unrounded, image, (form, &mut *gradient), other, scratch);
            (scale_sum, needs_sums.then(|| self.image_sums(means.as_ref(), image, gradient, Relu::Absent)))
        });
        let (scale_sums, sums): (Vec<f32>, Vec<_>) = found.unzip();
        let skip = join.map(|join| match join.same() {
            true => before.clone(),
            false => {
                let before: &[f32] = before.storage();
                let (skip, _) = in_parts(
                    conv.batch * join.len(),
                    join.len(),
                    || (),
                    |(), image, skip| {
                        join.gradient(&before[image * len..][..len], skip);
                    },
                );
                flex_tensor(skip, join.shape(conv.batch))
            }
        });
        FirstPass {
            incoming: Incoming::plain(before, len),
            skip,
            sums: sums.into_iter().flatten().collect(),
            forms: Some(flex_vector(vec![scale_sums.iter().sum()])),
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
