//! Passes over maps `[pixel][channel]`: batch norm, residual sum and ReLU, forward and backward.
//!
//! Values of the channels are repeated, so that the inner loops are long; the compiler makes vectors of them.

use std::mem::MaybeUninit;

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

    pub(super) fn run(&self) -> usize {
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

/// The ReLU that a gradient passes on its way back.
#[derive(Clone, Copy)]
pub(super) enum Relu<'a> {
    Absent,
    /// Its output.
    Output(&'a [f32]),
    /// It saw `gain * map + offset`.
    Scaled {
        gain: &'a PerChannel,
        offset: &'a PerChannel,
    },
}

/// Sums over an image or a batch, for each channel.
pub(super) struct ChannelSums<T> {
    /// Of the gradient.
    pub gradients: Vec<T>,
    /// Of the gradient times the batch norm's input without its mean; empty without a batch norm.
    pub products: Vec<T>,
}

/// The gradient of a batch norm's input: `gain * g + slope * input + offset`, with `g` that of its output.
pub(super) struct InputTerms {
    pub gain: PerChannel,
    pub slope: PerChannel,
    pub offset: PerChannel,
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

    /// Writes `gain * map + offset`.
    pub(super) fn scale<'o>(
        map: &[f32], gain: &PerChannel, offset: &PerChannel, out: &'o mut [MaybeUninit<f32>],
    ) -> &'o mut [f32] {
        assert_eq!(map.len(), out.len());
        for (map, out) in map.chunks(gain.run()).zip(out.chunks_mut(gain.run())) {
            for (((out, value), gain), offset) in out.iter_mut().zip(map).zip(&gain.values).zip(&offset.values) {
                out.write(value * gain + offset);
            }
        }
        // SAFETY: there are as many values of the map, each of which was written.
        unsafe { out.assume_init_mut() }
    }

    /// Writes `max(gain * map + offset, 0)`.
    pub(super) fn scale_relu<'o>(
        map: &[f32], gain: &PerChannel, offset: &PerChannel, out: &'o mut [MaybeUninit<f32>],
    ) -> &'o mut [f32] {
        assert_eq!(map.len(), out.len());
        for (map, out) in map.chunks(gain.run()).zip(out.chunks_mut(gain.run())) {
            for (((out, value), gain), offset) in out.iter_mut().zip(map).zip(&gain.values).zip(&offset.values) {
                out.write(rectified(value * gain + offset));
            }
        }
        // SAFETY: there are as many values of the map, each of which was written.
        unsafe { out.assume_init_mut() }
    }

    /// Writes `max(gain * map + offset + other, 0)`.
    pub(super) fn scale_add_relu<'o>(
        map: &[f32], gain: &PerChannel, offset: &PerChannel, other: &[f32], out: &'o mut [MaybeUninit<f32>],
    ) -> &'o mut [f32] {
        assert!(map.len() == out.len() && other.len() == out.len());
        let run = gain.run();
        for ((map, other), out) in map.chunks(run).zip(other.chunks(run)).zip(out.chunks_mut(run)) {
            let given = map.iter().zip(other).zip(gain.values.iter().zip(&offset.values));
            for (out, ((value, other), (gain, offset))) in out.iter_mut().zip(given) {
                out.write(rectified(value * gain + offset + other));
            }
        }
        // SAFETY: there are as many values of both maps, so that each was written.
        unsafe { out.assume_init_mut() }
    }

    /// `map = max(map + offset, 0)`.
    pub(super) fn shift_relu(map: &mut [f32], offset: &PerChannel) {
        for map in map.chunks_mut(offset.run()) {
            for (value, offset) in map.iter_mut().zip(&offset.values) {
                *value = rectified(*value + offset);
            }
        }
    }

    /// `map = max(map + offset + other, 0)`.
    pub(super) fn shift_add_relu(map: &mut [f32], offset: &PerChannel, other: &[f32]) {
        assert_eq!(map.len(), other.len());
        for (map, other) in map.chunks_mut(offset.run()).zip(other.chunks(offset.run())) {
            for ((value, other), offset) in map.iter_mut().zip(other).zip(&offset.values) {
                *value = rectified(*value + offset + other);
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

    /// `max(map, 0)`.
    pub(super) fn relu(map: &mut [f32]) {
        for value in map {
            *value = rectified(*value);
        }
    }

    /// Writes the gradient where the ReLU's output is above zero, and zeros elsewhere.
    pub(super) fn relu_gradient<'o>(
        gradient: &[f32], output: &[f32], out: &'o mut [MaybeUninit<f32>],
    ) -> &'o mut [f32] {
        assert!(gradient.len() == out.len() && output.len() == out.len());
        for ((out, gradient), output) in out.iter_mut().zip(gradient).zip(output) {
            out.write(if *output > 0.0 { *gradient } else { 0.0 });
        }
        // SAFETY: there are as many gradients and outputs, so that each was written.
        unsafe { out.assume_init_mut() }
    }

    /// Zeros where the ReLU's output isn't above zero.
    pub(super) fn stop(gradient: &mut [f32], output: &[f32]) {
        for (gradient, output) in gradient.iter_mut().zip(output) {
            *gradient = if *output > 0.0 { *gradient } else { 0.0 };
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

    /// Sums of each channel: of the gradients that the ReLU lets through, and of their products with the differences of `map` from its mean.
    pub(super) fn gradient_sums(gradient: &[f32], relu: Relu, map: &[f32], mean: &PerChannel) -> ChannelSums<f32> {
        let run = mean.run();
        let mut sums = ChannelSums { gradients: vec![0.0; run], products: vec![0.0; run] };
        for (index, (gradient, map)) in gradient.chunks(run).zip(map.chunks(run)).enumerate() {
            match relu {
                Relu::Absent => add_gradients(gradient, map, &mean.values, |_, _| true, &mut sums),
                Relu::Output(output) => {
                    let output = &output[index * run..][..gradient.len()];
                    add_gradients(gradient, map, &mean.values, |place, _| output[place] > 0.0, &mut sums);
                }
                Relu::Scaled { gain, offset } => {
                    let (gain, offset) = (&gain.values[..gradient.len()], &offset.values[..gradient.len()]);
                    let passes = |place: usize, value: f32| value * gain[place] + offset[place] > 0.0;
                    add_gradients(gradient, map, &mean.values, passes, &mut sums);
                }
            }
        }
        ChannelSums { gradients: mean.fold(&sums.gradients), products: mean.fold(&sums.products) }
    }

    /// `out = gain * gradient + slope * map + offset`, of the gradient that the ReLU lets through.
    pub(super) fn combine(gradient: &[f32], relu: Relu, map: &[f32], terms: &InputTerms, out: &mut [f32]) {
        let run = terms.gain.run();
        for (index, out) in out.chunks_mut(run).enumerate() {
            let place = index * run..index * run + out.len();
            let (gradient, map) = (&gradient[place.clone()], &map[place.clone()]);
            let per_channel = terms.gain.values.iter().zip(&terms.slope.values).zip(&terms.offset.values);
            // Otherwise two short loops, whose arrays are few enough for the compiler's vectors.
            match relu {
                Relu::Absent => {
                    let given = gradient.iter().zip(map);
                    for ((out, (gradient, value)), ((gain, slope), offset)) in out.iter_mut().zip(given).zip(per_channel) {
                        *out = gradient * gain + (value * slope + offset);
                    }
                    continue;
                }
                Relu::Output(output) => {
                    for ((out, gradient), output) in out.iter_mut().zip(gradient).zip(&output[place]) {
                        *out = if *output > 0.0 { *gradient } else { 0.0 };
                    }
                }
                Relu::Scaled { gain, offset } => {
                    let seen = map.iter().zip(&gain.values).zip(&offset.values);
                    for ((out, gradient), ((value, gain), offset)) in out.iter_mut().zip(gradient).zip(seen) {
                        *out = if value * gain + offset > 0.0 { *gradient } else { 0.0 };
                    }
                }
            }
            for ((out, value), ((gain, slope), offset)) in out.iter_mut().zip(map).zip(per_channel) {
                *out = *out * gain + (value * slope + offset);
            }
        }
    }
}

/// `max(value, 0)`; what isn't a number stays so.
#[inline(always)]
fn rectified(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

/// Adds a run's gradients that pass, and their products, to the sums of each place.
#[inline(always)]
fn add_gradients(
    gradient: &[f32],
    map: &[f32],
    mean: &[f32],
    passes: impl Fn(usize, f32) -> bool,
    sums: &mut ChannelSums<f32>,
) {
    let len = gradient.len();
    let (map, mean) = (&map[..len], &mean[..len]);
    let (gradients, products) = (&mut sums.gradients[..len], &mut sums.products[..len]);
    for place in 0..len {
        let gradient = if passes(place, map[place]) { gradient[place] } else { 0.0 };
        gradients[place] += gradient;
        products[place] += gradient * (map[place] - mean[place]);
    }
}
