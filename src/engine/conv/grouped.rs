//! Convolution whose filters read some of the channels: those of their group. With a channel a group it is the depthwise one.
//!
//! There is no matrix in it: a kernel position multiplies each filter's channel by its weight, for all filters side by side. The order of each
//! sum is fixed: exact for integers as long as they stay below `2^24`.

use std::mem::MaybeUninit;

use super::algorithm::{Algorithm, Buffers, GradientSums, WeightSum};
use super::geometry::ConvGeometry;
use crate::engine::parallel::zeroed;
use crate::simd::vectorized;

/// A grouped convolution, its weights by kernel position.
pub(super) struct Grouped<'a> {
    conv: &'a ConvGeometry,
    /// `[tap][channel of the group][filter]`.
    weights: Vec<f32>,
    /// The channel of the map that each filter reads, for each channel of the group, `[channel of the group][filter]`.
    channels: Vec<usize>,
}

/// A pixel of the output, one of the input, and the kernel position at which they meet, by their first floats.
struct Meeting {
    input: usize,
    output: usize,
    weights: usize,
}

impl<'a> Grouped<'a> {
    pub(super) fn new(conv: &'a ConvGeometry, w: &[f32]) -> Self {
        let (filters, depth) = (conv.filters, conv.group_channels());
        let in_group = filters / conv.groups;
        let channels = (0..depth).flat_map(|channel| (0..filters).map(move |f| f / in_group * depth + channel));
        let mut grouped = Self { conv, weights: vec![0.0; w.len()], channels: channels.collect() };
        for (index, weight) in w.iter().enumerate() {
            let place = grouped.place(index);
            grouped.weights[place] = *weight;
        }
        grouped
    }

    /// Where the weight of an index in `[filter][channel of the group][tap]` lies.
    fn place(&self, index: usize) -> usize {
        let (taps, depth) = (self.conv.taps(), self.conv.group_channels());
        let [filter, channel, tap] = [index / taps / depth, index / taps % depth, index % taps];
        (tap * depth + channel) * self.conv.filters + filter
    }

    /// Whether each filter reads the channel of its own number.
    fn is_depthwise(&self) -> bool {
        self.conv.groups == self.conv.channels && self.conv.filters == self.conv.channels
    }

    /// All that meets in an image.
    fn meetings(&self) -> impl Iterator<Item = Meeting> + '_ {
        let conv = self.conv;
        let ConvGeometry { height, width, stride, padding, .. } = *conv;
        let weights = conv.group_channels() * conv.filters;
        (0..conv.out_pixels()).flat_map(move |out| {
            let [top, left] = [out / conv.out_width() * stride[0], out % conv.out_width() * stride[1]];
            (0..conv.taps()).filter_map(move |tap| {
                let [row, column] = conv.tap(tap);
                let y = (top + row).checked_sub(padding[0][0]).filter(|y| *y < height)?;
                let x = (left + column).checked_sub(padding[1][0]).filter(|x| *x < width)?;
                let input = (y * width + x) * conv.channels;
                Some(Meeting { input, output: out * conv.filters, weights: tap * weights })
            })
        })
    }
}

impl Algorithm for Grouped<'_> {
    fn images(&self) -> usize {
        1
    }

    fn forward<'o>(&self, _: &mut Buffers, x: &[f32], out: &'o mut [MaybeUninit<f32>]) -> &'o mut [f32] {
        let sums = zeroed(out);
        let filters = self.conv.filters;
        for Meeting { input, output, weights } in self.meetings() {
            let out = &mut sums[output..][..filters];
            if self.is_depthwise() {
                add_products(out, &x[input..][..filters], &self.weights[weights..][..filters]);
                continue;
            }
            let (x, weights) = (&x[input..], &self.weights[weights..]);
            for (channels, weights) in self.channels.chunks_exact(filters).zip(weights.chunks_exact(filters)) {
                for ((out, channel), weight) in out.iter_mut().zip(channels).zip(weights) {
                    *out += x[*channel] * weight;
                }
            }
        }
        sums
    }

    fn sum_len(&self) -> usize {
        self.weights.len()
    }

    fn panels(&self) -> usize {
        1
    }

    fn backward(&self, _: &mut Buffers, x: &[f32], out_gradient: &[f32], mut sums: GradientSums) {
        let filters = self.conv.filters;
        for Meeting { input, output, weights } in self.meetings() {
            let slopes = &out_gradient[output..][..filters];
            if self.is_depthwise() {
                if let Some(gradient) = &mut sums.input {
                    add_products(&mut gradient[input..][..filters], slopes, &self.weights[weights..][..filters]);
                }
                if let Some(WeightSum { values: sums, .. }) = &mut sums.weights {
                    add_products(&mut sums[weights..][..filters], slopes, &x[input..][..filters]);
                }
                continue;
            }
            for (number, channels) in self.channels.chunks_exact(filters).enumerate() {
                let weights = weights + number * filters;
                if let Some(gradient) = &mut sums.input {
                    let gradient = &mut gradient[input..];
                    for ((slope, channel), weight) in slopes.iter().zip(channels).zip(&self.weights[weights..]) {
                        gradient[*channel] += slope * weight;
                    }
                }
                if let Some(WeightSum { values: sums, .. }) = &mut sums.weights {
                    for ((slope, channel), sum) in slopes.iter().zip(channels).zip(&mut sums[weights..]) {
                        *sum += slope * x[input + channel];
                    }
                }
            }
        }
    }

    fn weight_gradient(&self, sums: &[Vec<f32>]) -> Vec<f32> {
        (0..self.weights.len()).map(|index| sums.iter().map(|sum| sum[self.place(index)]).sum()).collect()
    }
}

vectorized! {
    /// `sums += a b`, each product rounded before it is added, so that all instruction sets give the same bits.
    fn add_products(sums: &mut [f32], a: &[f32], b: &[f32]) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
}
