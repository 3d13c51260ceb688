//! Fake quantizers: values on the grid of their step, with straight-through gradients.
//!
//! Learned steps follow Esser et al., *Learned Step Size Quantization*, ICLR 2020: the gradient of the step comes out of the
//! composition below, scaled by `1 / sqrt(values * levels)`.

use burn::tensor::Tensor;

/// `round(x / step)` limited to `low..=high`, times `step`; `step` broadcasts to the shape of `x`.
///
/// The rounding passes gradients unchanged, the limits stop those of `x` beyond them, and the step gets
/// `round(x / step) - x / step` inside the limits and the limit itself outside. `share` is the number of values that one step serves.
pub(crate) fn fake_quantize<const D: usize>(
    x: Tensor<D>,
    step: Tensor<D>,
    low: f64,
    high: f64,
    share: usize,
) -> Tensor<D> {
    let step = scale_gradient(step, 1.0 / (share as f64 * high).sqrt());
    let limited = (x / step.clone()).clamp(low, high);
    straight_through(limited.clone(), limited.round()) * step
}

/// The value of `rounded` with the gradient of `x`.
fn straight_through<const D: usize>(x: Tensor<D>, rounded: Tensor<D>) -> Tensor<D> {
    x.clone() + (rounded - x).detach()
}

/// `x` with its gradient multiplied by `factor`.
fn scale_gradient<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    let scaled = x.clone() * factor;
    scaled.clone() + (x - scaled).detach()
}

/// Largest magnitude of a weight of `bits` bits: `2^(bits-1) - 1`.
pub(crate) fn weight_limit(bits: u8) -> f64 {
    f64::from((1u32 << (bits - 1)) - 1)
}

/// Largest value of an activation of `bits` bits: `2^bits - 1`.
pub(crate) fn activation_limit(bits: u8) -> f64 {
    f64::from((1u32 << bits) - 1)
}

/// The step with the smallest squared error over `values` on the grid `low..=high`: a search over shares of the largest magnitude.
///
/// `None` where all values are zero, or none is on the side that the grid covers.
pub fn calibrate_step(values: &[f32], low: f64, high: f64) -> Option<f64> {
    let largest = values.iter().map(|value| if low < 0.0 { value.abs() } else { *value }).fold(0.0f32, f32::max);
    if largest <= 0.0 {
        return None;
    }
    let full = f64::from(largest) / high;
    let error = |step: f64| -> f64 {
        let (inverse, step, low, high) = ((1.0 / step) as f32, step as f32, low as f32, high as f32);
        values.iter().map(|x| f64::from((x - (x * inverse).clamp(low, high).round() * step).powi(2))).sum()
    };
    (4..=100).map(|percent| full * f64::from(percent) / 100.0).min_by(|a, b| error(*a).total_cmp(&error(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn gradients(x: [f32; 4], step: f32, low: f64, high: f64) -> (Vec<f32>, Vec<f32>, f32) {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats(x, &device).require_grad();
        let step = Tensor::<1>::from_floats([step], &device).require_grad();
        let out = fake_quantize(x.clone(), step.clone(), low, high, 1);
        let grads = out.clone().sum().backward();
        let values = |data: TensorData| data.to_vec::<f32>().unwrap();
        let step_gradient = values(step.grad(&grads).unwrap().into_data())[0];
        (values(out.into_data()), values(x.grad(&grads).unwrap().into_data()), step_gradient)
    }

    /// Values on the grid, gradients as in equation 3 of the paper.
    #[test]
    fn values_lie_on_the_grid_and_steps_learn() {
        let (out, x, step) = gradients([-0.3, 0.3, 1.1, 9.0], 0.5, 0.0, 4.0);
        assert_eq!(out, [0.0, 0.5, 1.0, 2.0]);
        assert_eq!(x, [0.0, 1.0, 1.0, 0.0]);
        let expected = (0.0 + (1.0 - 0.6) + (2.0 - 2.2) + 4.0) / 4f32.sqrt();
        assert!((step - expected).abs() < 1e-5, "{step} {expected}");
    }

    #[test]
    fn the_calibrated_step_beats_the_full_range_on_data_with_an_outlier() {
        let mut values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        values.push(20.0);
        let step = calibrate_step(&values, -7.0, 7.0).unwrap();
        assert!(step < 2.0 * 20.0 / 7.0 && step > 0.05, "{step}");
        assert_eq!(calibrate_step(&[0.0; 5], -7.0, 7.0), None);
        assert_eq!(calibrate_step(&[-1.0; 5], 0.0, 15.0), None);
    }
}
