//! What is done with each value of a map `[height][width][channels]`, compiled for each instruction set.

use crate::integer::Form;
use crate::network::{MapShape, PoolShape, Window};
use crate::simd::vectorized;

/// Where a residual value lies in a sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipped {
    pub input: MapShape,
    /// Rows and columns from one pixel that is taken to the next.
    pub stride: usize,
    /// The sum's channel that its first one joins.
    pub first: usize,
    /// The code that means 0.
    pub zero_point: i64,
}

/// For each output pixel the input pixels of its window that lie within the map.
#[inline(always)]
fn windows(pool: PoolShape) -> impl Iterator<Item = impl Iterator<Item = usize>> {
    let PoolShape { input, output, window: Window { kernel, stride, padding } } = pool;
    let span = move |position: usize, side: usize, size: usize| {
        let first = position * stride[side];
        let [before, _] = padding[side];
        first.saturating_sub(before)..(first + kernel[side]).saturating_sub(before).min(size)
    };
    let outputs = (0..output.height).flat_map(move |y| (0..output.width).map(move |x| (y, x)));
    outputs.map(move |(y, x)| {
        let columns = span(x, 1, input.width);
        span(y, 0, input.height).flat_map(move |y| columns.clone().map(move |x| y * input.width + x))
    })
}

vectorized! {
    /// Adds accumulators `[pixels][lanes]` times each channel's multiplier to sums `[pixels][channels]`.
    pub(super) fn add_products(accumulators: &[i32], lanes: usize, multipliers: &[i64], sums: &mut [i64]) {
        let pixels = sums.chunks_exact_mut(multipliers.len()).zip(accumulators.chunks_exact(lanes));
        for (sums, accumulators) in pixels {
            for ((sum, &accumulator), multiplier) in sums.iter_mut().zip(accumulators).zip(multipliers) {
                *sum += i64::from(accumulator) * multiplier;
            }
        }
    }

    /// Adds a residual value times a multiplier to sums.
    pub(super) fn join(values: &[u8], skipped: Skipped, multiplier: i64, output: MapShape, sums: &mut [i64]) {
        let Skipped { input, stride, first, zero_point } = skipped;
        let rows = values.chunks_exact(input.width * input.channels).step_by(stride);
        for (row, sums) in rows.zip(sums.chunks_exact_mut(output.width * output.channels)) {
            let pixels = row.chunks_exact(input.channels).step_by(stride);
            for (values, sums) in pixels.zip(sums.chunks_exact_mut(output.channels)) {
                for (sum, &value) in sums[first..].iter_mut().zip(values) {
                    *sum += (i64::from(value) - zero_point) * multiplier;
                }
            }
        }
    }

    /// Sums, stored in a form.
    pub(super) fn round(sums: &[i64], form: Form, values: &mut [u8]) {
        for (value, &sum) in values.iter_mut().zip(sums) {
            *value = form.apply(sum);
        }
    }

    /// Largest code of each window; the border never wins, since codes are not negative.
    pub(super) fn max_pool(values: &[u8], pool: PoolShape, output: &mut [u8]) {
        let channels = pool.input.channels;
        output.fill(0);
        for (output, window) in output.chunks_exact_mut(channels).zip(windows(pool)) {
            for pixel in window {
                for (largest, &value) in output.iter_mut().zip(&values[pixel * channels..][..channels]) {
                    *largest = value.max(*largest);
                }
            }
        }
    }

    /// Writes a map's channels into another one of `of` channels, from a channel on.
    pub(super) fn place(values: &[u8], channels: usize, first: usize, output: &mut [u8], of: usize) {
        for (output, values) in output.chunks_exact_mut(of).zip(values.chunks_exact(channels)) {
            output[first..][..channels].copy_from_slice(values);
        }
    }

    /// Sum of each window, code less zero point, times a multiplier.
    pub(super) fn sum_pool(values: &[u8], zero_point: i64, pool: PoolShape, multiplier: i64, sums: &mut [i64]) {
        let channels = pool.input.channels;
        sums.fill(0);
        for (sums, window) in sums.chunks_exact_mut(channels).zip(windows(pool)) {
            for pixel in window {
                for (sum, &value) in sums.iter_mut().zip(&values[pixel * channels..][..channels]) {
                    *sum += i64::from(value) - zero_point;
                }
            }
            sums.iter_mut().for_each(|sum| *sum *= multiplier);
        }
    }
}
