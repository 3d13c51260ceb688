//! Batch norm as gain and offset of each channel.

use std::mem::MaybeUninit;

use super::super::channels::{ImageMoments, InputTerms, PerChannel};
use super::super::flex::FlexTensor;
use super::super::moments::merge;
use crate::engine::conv::ConvGeometry;
use crate::engine::parallel::written_in_parts;

/// Batch norm with known statistics.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
    pub inverse_deviation: Vec<f32>,
    pub gain: Vec<f32>,
}

impl BatchNorm {
    /// From the moments of each image of `pixels` pixels, in their order.
    pub(super) fn new(moments: &[ImageMoments], pixels: usize, gamma: &[f32], epsilon: f64) -> Self {
        let mut norm = Self { mean: Vec::new(), variance: Vec::new(), inverse_deviation: Vec::new(), gain: Vec::new() };
        let merged = merge(moments, pixels);
        for ((mean, variance), gamma) in merged.mean.into_iter().zip(merged.variance).zip(gamma) {
            let inverse_deviation = 1.0 / (variance + epsilon).sqrt();
            norm.mean.push(mean as f32);
            norm.variance.push(variance as f32);
            norm.inverse_deviation.push(inverse_deviation as f32);
            norm.gain.push((f64::from(*gamma) * inverse_deviation) as f32);
        }
        norm
    }

    /// `beta - gain * mean`.
    pub(super) fn offset(&self, beta: &[f32]) -> Vec<f32> {
        let terms = self.gain.iter().zip(&self.mean).zip(beta);
        terms.map(|((gain, mean), beta)| beta - gain * mean).collect()
    }

    /// From the sums over the batch's `values` values a channel of the output's gradient, and of its products with
    /// `input - mean`:
    /// `d input = gain * (g - sum(g) / n - (input - mean) / (variance + epsilon) * sum(g * (input - mean)) / n)`.
    pub(super) fn input_gradient(&self, gradients: &[f64], products: &[f64], values: usize) -> InputTerms {
        let values = values as f64;
        let (mut slopes, mut offsets) = (Vec::new(), Vec::new());
        for (channel, (gradient, product)) in gradients.iter().zip(products).enumerate() {
            let (gain, deviation) = (f64::from(self.gain[channel]), f64::from(self.inverse_deviation[channel]));
            let slope = -gain * deviation * deviation * product / values;
            slopes.push(slope as f32);
            offsets.push((-gain * gradient / values - slope * f64::from(self.mean[channel])) as f32);
        }
        let [gain, slope, offset] = [&self.gain, &slopes, &offsets].map(|values| PerChannel::new(values));
        InputTerms { gain, slope, offset }
    }

    /// The gradient of gamma: `sum(g * (input - mean)) / sqrt(variance + epsilon)`.
    pub(super) fn gamma_gradient(&self, products: &[f64]) -> Vec<f64> {
        products
            .iter()
            .zip(&self.inverse_deviation)
            .map(|(product, deviation)| product * f64::from(*deviation))
            .collect()
    }
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

impl Normalized {
    /// What `write` makes of each image's sums with the batch norm's gain and offset.
    pub(super) fn apply(
        &self,
        conv: &ConvGeometry,
        write: impl for<'o> Fn(usize, &[f32], &PerChannel, &PerChannel, &'o mut [MaybeUninit<f32>]) -> &'o mut [f32]
        + Sync
        + Send,
    ) -> Vec<f32> {
        let (gain, offset) = (PerChannel::new(&self.norm.gain), PerChannel::new(&self.offset));
        let (sums, len): (&[f32], usize) = (self.sums.storage(), conv.out_len());
        let (value, _) = written_in_parts(
            conv.batch * len,
            len,
            || (),
            |(), image, out| (write(image, &sums[image * len..][..len], &gain, &offset, out), ()),
        );
        value
    }
}
