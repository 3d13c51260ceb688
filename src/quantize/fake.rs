//! Fake quantizers: the grids of weights and values, and first scales from data.
//!
//! Learned scales follow Esser et al., *Learned Step Size Quantization*, ICLR 2020.

use std::ops::RangeInclusive;

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::engine::{Grid, fake_quantize};
use crate::integer::{MAX_MULTIPLIER, SHIFT_LIMIT, zero_point};

/// Weights `[filters, ...]` on the grid of `bits` bits; `scales` has one value, or one a filter.
pub(crate) fn quantize_weights(weights: Tensor<4>, scales: Tensor<1>, bits: u8) -> Tensor<4> {
    let share = weights.shape().num_elements() / scales.dims()[0];
    let limit = weight_limit(bits);
    let grid = Grid { low: -limit as f32, high: limit as f32, scale_gradient: gradient_scale(share, limit) };
    fake_quantize(weights, scales, grid)
}

/// The grid of values whose whole numbers are `codes`; `share` is the number of values of one image, so that the gradient's scale
/// doesn't depend on the batch.
pub(crate) fn value_grid(codes: RangeInclusive<i32>, share: usize) -> Grid {
    let [low, high] = [*codes.start(), *codes.end()].map(f64::from);
    Grid { low: low as f32, high: high as f32, scale_gradient: gradient_scale(share, high) }
}

/// Biases on the grid of the sums, whose unit is one value or one a filter; the gradient passes straight through.
pub(crate) fn quantize_biases(biases: Tensor<1>, unit: Tensor<1>) -> Tensor<1> {
    let error = (biases.clone() / unit.clone()).round() * unit - biases.clone();
    biases + error.detach()
}

/// What the multipliers of a layer make of its units: `m / 2^n` over `unit / output_scale`, with the largest shift with which the
/// multipliers of `units` and of what `joins` them fit 16 bits. Without gradients. That an identity's multiplier has 31 bits and forms ask for a least shift is
/// left to [`fold`](crate::integer::fold()): it matters where a unit is 2^15 times finer than the output's scale, or coarser than it.
pub(crate) fn multiplier_errors(units: Tensor<1>, joins: Option<Tensor<1>>, output_scale: Tensor<1>) -> Tensor<1> {
    let ratios = units.detach() / output_scale.clone().detach();
    let largest = match joins {
        Some(joins) => ratios.clone().max().max_pair(joins.detach().max() / output_scale.detach()),
        None => ratios.clone().max(),
    };
    let shift = ((largest.recip() * (f64::from(MAX_MULTIPLIER) + 0.5)).log() / std::f64::consts::LN_2).floor();
    let power = (shift.clamp_max(f64::from(SHIFT_LIMIT - 1)) * std::f64::consts::LN_2).exp().round();
    let exact = ratios * power;
    exact.clone().round() / exact
}

/// `1 / sqrt(values * levels)`: the paper's balance between the updates of a scale and of what it quantizes.
fn gradient_scale(share: usize, limit: f64) -> f32 {
    (1.0 / (share as f64 * limit).sqrt()) as f32
}

/// Largest magnitude of a weight of `bits` bits: `2^(bits-1) - 1`.
pub(crate) fn weight_limit(bits: u8) -> f64 {
    f64::from((1u32 << (bits - 1)) - 1)
}

/// The whole numbers that values of `bits` bits stand for, codes less their zero point: from 0 to `2^bits - 1` behind a ReLU, from `-2^(bits-1)` to
/// `2^(bits-1) - 1` where they have a sign.
pub(crate) fn value_codes(bits: u8, is_signed: bool) -> RangeInclusive<i32> {
    let zero_point = i32::from(zero_point(bits, is_signed));
    -zero_point..=(1 << bits) - 1 - zero_point
}

/// The scale with the smallest squared error over `values` on the grid `low..=high`: a search over shares of the largest magnitude.
///
/// `None` where all values are zero, or none is on the side that the grid covers.
pub fn calibrate_scale(values: &[f32], low: f64, high: f64) -> Option<f64> {
    let largest = values.iter().map(|value| if low < 0.0 { value.abs() } else { *value }).fold(0.0f32, f32::max);
    if largest <= 0.0 {
        return None;
    }
    let full = f64::from(largest) / high;
    let error = |scale: f64| -> f64 {
        let (inverse, scale, low, high) = ((1.0 / scale) as f32, scale as f32, low as f32, high as f32);
        values.iter().map(|x| f64::from((x - (x * inverse).clamp(low, high).round() * scale).powi(2))).sum()
    };
    let candidates = (4..=100).into_par_iter().map(|percent| full * f64::from(percent) / 100.0);
    let errors: Vec<(f64, f64)> = candidates.map(|scale| (error(scale), scale)).collect();
    errors.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, scale)| scale)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn biases_are_whole_units_and_learn() {
        let device = Device::flex().autodiff();
        let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &device);
        let biases = tensor(&[0.3, -0.3, 1.1]).require_grad();
        let rounded = quantize_biases(biases.clone(), tensor(&[0.25, 0.5, 0.5]));
        let gradient = biases.grad(&rounded.clone().sum().backward()).unwrap();
        assert_eq!(rounded.into_data().try_to_vec::<f32>().unwrap(), [0.25, -0.5, 1.0]);
        assert_eq!(gradient.into_data().try_to_vec::<f32>().unwrap(), [1.0; 3]);
    }

    /// Against the definition, in double precision.
    #[test]
    fn multipliers_have_sixteen_bits() {
        let device = Device::flex();
        let tensor = |values: &[f32]| Tensor::<1>::from_floats(values, &device);
        let (units, output) = ([0.013, 0.000_02, 0.21], 0.7);
        for joins in [None, Some([3.3])] {
            let found = multiplier_errors(tensor(&units), joins.map(|joins| tensor(&joins)), tensor(&[output]));
            let largest = joins.map_or(0.21, |[join]| join);
            let shift = (1..40).rev().find(|n| (f64::from(largest / output) * f64::from(*n).exp2()).round() < 65535.5);
            for (unit, found) in units.iter().zip(found.into_data().try_to_vec::<f32>().unwrap()) {
                let exact = f64::from(unit / output) * f64::from(shift.unwrap()).exp2();
                assert!((f64::from(found) - exact.round() / exact).abs() < 1e-6, "{found} {exact}");
            }
        }
    }

    #[test]
    fn the_calibrated_scale_beats_the_full_range_on_data_with_an_outlier() {
        let mut values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        values.push(20.0);
        let scale = calibrate_scale(&values, -7.0, 7.0).unwrap();
        let error = |scale: f64| -> f64 {
            let code = |value: f64| (value / scale).round().clamp(-7.0, 7.0);
            values.iter().map(|value| f64::from(*value)).map(|value| (value - scale * code(value)).powi(2)).sum()
        };
        assert!(error(scale) < 0.9 * error(20.0 / 7.0), "{scale}: {}, {}", error(scale), error(20.0 / 7.0));
        assert_eq!(calibrate_scale(&[0.0; 5], -7.0, 7.0), None);
        assert_eq!(calibrate_scale(&[-1.0; 5], 0.0, 15.0), None);
    }
}
