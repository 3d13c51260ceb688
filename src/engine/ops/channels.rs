//! Passes over maps `[pixel][channel]`: batch norm, residual sum and ReLU, forward and backward.
//!
//! Values of the channels are repeated, so that the inner loops are long; the compiler makes vectors of them.

use crate::simd::vectorized;

/// Floats that an inner loop covers at least.
const RUN: usize = 128;

/// Values of the channels, repeated.
pub(super) struct PerChannel {
    channels: usize,
    values: Vec<f32>,
}

impl PerChannel {
    pub(super) fn new(values: &[f32]) -> Self {
        Self { channels: values.len(), values: values.repeat(RUN.div_ceil(values.len())) }
    }

    fn run(&self) -> usize {
        self.values.len()
    }

    /// Sums of each channel from the sums of each place of a run.
    fn fold(&self, sums: &[f32]) -> Vec<f32> {
        let mut folded = vec![0.0; self.channels];
        for run in sums.chunks(self.channels) {
            for (folded, sum) in folded.iter_mut().zip(run) {
                *folded += sum;
            }
        }
        folded
    }
}

/// Of each channel of an image.
pub(super) struct ImageMoments {
    pub mean: Vec<f32>,
    /// Sum of the squared differences from the mean.
    pub squares: Vec<f32>,
}

vectorized! {
    pub(super) fn moments(map: &[f32], channels: usize) -> ImageMoments {
        let pixels = (map.len() / channels) as f32;
        let mean: Vec<f32> = sums(map, channels).into_iter().map(|sum| sum / pixels).collect();
        let means = PerChannel::new(&mean);
        let mut squares = vec![0.0; means.run()];
        for map in map.chunks(means.run()) {
            for ((square, value), mean) in squares.iter_mut().zip(map).zip(&means.values) {
                *square += (value - mean) * (value - mean);
            }
        }
        let squares = means.fold(&squares);

        ImageMoments { mean, squares }
    }

    /// `out = gain * map + offset`.
    pub(super) fn scale(map: &[f32], gain: &PerChannel, offset: &PerChannel, out: &mut [f32]) {
        for (map, out) in map.chunks(gain.run()).zip(out.chunks_mut(gain.run())) {
            for (((out, value), gain), offset) in out.iter_mut().zip(map).zip(&gain.values).zip(&offset.values) {
                *out = value * gain + offset;
            }
        }
    }

    /// `out = max(gain * map + offset, 0)`; what isn't a number stays so.
    pub(super) fn scale_relu(map: &[f32], gain: &PerChannel, offset: &PerChannel, out: &mut [f32]) {
        for (map, out) in map.chunks(gain.run()).zip(out.chunks_mut(gain.run())) {
            for (((out, value), gain), offset) in out.iter_mut().zip(map).zip(&gain.values).zip(&offset.values) {
                let value = value * gain + offset;
                *out = if value < 0.0 { 0.0 } else { value };
            }
        }
    }

    /// `map += offset`.
    pub(super) fn shift(map: &mut [f32], offset: &PerChannel) {
        for map in map.chunks_mut(offset.run()) {
            for (value, offset) in map.iter_mut().zip(&offset.values) {
                *value += offset;
            }
        }
    }

    /// `map += other`.
    pub(super) fn add(map: &mut [f32], other: &[f32]) {
        for (value, other) in map.iter_mut().zip(other) {
            *value += other;
        }
    }

    /// `max(map, 0)`; what isn't a number stays so.
    pub(super) fn relu(map: &mut [f32]) {
        for value in map {
            *value = if *value < 0.0 { 0.0 } else { *value };
        }
    }

    /// The gradient where the ReLU's output is above zero.
    pub(super) fn relu_gradient(gradient: &[f32], output: &[f32], out: &mut [f32]) {
        for ((out, gradient), output) in out.iter_mut().zip(gradient).zip(output) {
            *out = if *output > 0.0 { *gradient } else { 0.0 };
        }
    }

    /// Sum of each channel.
    pub(super) fn sums(map: &[f32], channels: usize) -> Vec<f32> {
        let zero = PerChannel::new(&vec![0.0; channels]);
        let mut sums = zero.values.clone();
        for map in map.chunks(zero.run()) {
            for (sum, value) in sums.iter_mut().zip(map) {
                *sum += value;
            }
        }
        zero.fold(&sums)
    }

    /// Sum of each channel's gradients times the differences from its mean.
    pub(super) fn products(gradient: &[f32], map: &[f32], mean: &PerChannel) -> Vec<f32> {
        let mut sums = vec![0.0; mean.run()];
        for (gradient, map) in gradient.chunks(mean.run()).zip(map.chunks(mean.run())) {
            for (((sum, gradient), value), mean) in sums.iter_mut().zip(gradient).zip(map).zip(&mean.values) {
                *sum += gradient * (value - mean);
            }
        }
        mean.fold(&sums)
    }

    /// `out = gain * out + slope * map + offset`.
    pub(super) fn combine(
        out: &mut [f32], map: &[f32], gain: &PerChannel, slope: &PerChannel, offset: &PerChannel,
    ) {
        for (out, map) in out.chunks_mut(gain.run()).zip(map.chunks(gain.run())) {
            let factors = gain.values.iter().zip(&slope.values).zip(&offset.values);
            for ((out, value), ((gain, slope), offset)) in out.iter_mut().zip(map).zip(factors) {
                *out = *out * gain + (value * slope + offset);
            }
        }
    }
}
