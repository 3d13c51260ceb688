use burn::tensor::{Device, TensorData};
use proptest::prelude::*;

use super::*;

fn values(len: usize, seed: u32) -> Vec<f32> {
    let mix = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
    (0..len as u32).map(|i| mix(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<D> {
    let data = TensorData::new(values(shape.iter().product(), seed), shape);
    Tensor::from_data(data, &Device::flex().autodiff())
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    channels: usize,
    filters: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    conv: ConvOptions,
    batch_norm: bool,
    /// Stride and channels in front.
    skip: Option<[usize; 2]>,
    relu: bool,
}

type Run = fn(Tensor<4>, Tensor<4>, ConvOptions, Norm, Option<Shortcut>, bool) -> BlockOutput;

/// Output, statistics and gradients of a loss that weighs each output differently.
fn results(run: Run, case: &Case) -> Vec<Vec<f32>> {
    let x = tensor([case.batch, case.size[0], case.size[1], case.channels], 1).require_grad();
    let w = tensor([case.filters, case.channels, case.kernel[0], case.kernel[1]], 2).require_grad();
    let first = (tensor([case.filters], 3) + 1.5).require_grad();
    let second = tensor([case.filters], 4).require_grad();
    let norm = if case.batch_norm {
        Norm::Batch { gamma: first.clone(), beta: second.clone(), epsilon: 1e-3 }
    } else {
        Norm::Bias(first.clone())
    };
    let out = |axis: usize| (case.size[axis] + 2 * case.conv.padding - case.kernel[axis]) / case.conv.stride + 1;
    let value = |[stride, front]: [usize; 2]| {
        let size = [out(0), out(1)].map(|size| (size - 1) * stride + 1);
        tensor([case.batch, size[0], size[1], case.filters - front.min(case.filters - 1)], 5).require_grad()
    };
    let skip = case.skip.map(|skip| (value(skip), skip));
    let shortcut = skip.clone().map(|(value, [stride, front])| {
        let front = front.min(case.filters - 1) / 2;
        Shortcut { value, stride, front }
    });
    let output = run(x.clone(), w.clone(), case.conv, norm, shortcut, case.relu);
    let weights = tensor(output.value.dims(), 6);
    let grads = (output.value.clone() * weights).sum().backward();
    let mut results = vec![numbers(output.value)];
    results.extend(output.statistics.into_iter().flat_map(|moments| [moments.mean, moments.variance]).map(numbers));
    results.push(numbers(x.grad(&grads).unwrap()));
    results.push(numbers(w.grad(&grads).unwrap()));
    results.push(numbers(first.grad(&grads).unwrap()));
    results.extend(case.batch_norm.then(|| numbers(second.grad(&grads).unwrap())));
    results.extend(skip.map(|(skip, _)| numbers(skip.grad(&grads).unwrap())));
    results
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Shapes that Winograd's algorithm takes among them.
    #[test]
    fn a_block_and_its_gradients_equal_burns_operations(
        batch in 1usize..5, channels in prop_oneof![1usize..20, Just(16), Just(32), 63usize..67],
        filters in prop_oneof![1usize..40, Just(16), Just(32)],
        size in [3usize..12, 3usize..12], kernel in prop_oneof![Just([3, 3]), [1usize..4, 1usize..4]],
        [stride, padding] in prop_oneof![Just([1, 1]), [1usize..4, 0usize..3]],
        batch_norm: bool, skip in proptest::option::of([1usize..3, 0usize..3]), relu: bool,
    ) {
        let conv = ConvOptions { stride, padding };
        let case = Case { batch, channels, filters, size, kernel, conv, batch_norm, skip, relu };
        prop_assume!((0..2).all(|axis| size[axis] + 2 * padding >= kernel[axis]));
        let before_relu = &results(composed, &Case { relu: false, ..case })[0];
        // Rounding decides on which side of the ReLU such a value is.
        prop_assume!(!relu || before_relu.iter().all(|value| value.abs() > 1e-5));
        let (found, expected) = (results(conv_block, &case), results(composed, &case));
        prop_assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            prop_assert_eq!(found.len(), expected.len());
            let largest = expected.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
            let wrong = found.iter().zip(expected).filter(|(a, b)| (*a - *b).abs() > 1e-3 * largest).count();
            prop_assert!(wrong == 0, "result {index}: {wrong} of {} differ", found.len());
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (channels, stride) in [(16, 1), (8, 2)] {
        let case = Case {
            batch: 19,
            channels,
            filters: 24,
            size: [9, 9],
            kernel: [3, 3],
            conv: ConvOptions { stride, padding: 1 },
            batch_norm: true,
            skip: Some([1, 0]),
            relu: true,
        };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| results(conv_block, &case))
        };
        assert!(run(1) == run(3));
    }
}

/// Central differences of the plain definition in double precision.
#[test]
fn gradients_are_the_slopes_of_the_function() {
    let (batch, side, channels, filters, epsilon) = (2, 5, 16, 16, 1e-3);
    let case = Case {
        batch,
        channels,
        filters,
        size: [side, side],
        kernel: [3, 3],
        conv: ConvOptions { stride: 1, padding: 1 },
        batch_norm: true,
        skip: None,
        relu: true,
    };
    let found = results(conv_block, &case);
    let double = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
    let x = double(values(batch * side * side * channels, 1));
    let w = double(values(filters * channels * 9, 2));
    let gamma: Vec<f64> = values(filters, 3).into_iter().map(|value| f64::from(value + 1.5)).collect();
    let beta = double(values(filters, 4));
    let weights = double(values(batch * side * side * filters, 6));
    let loss = |x: &[f64], w: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
        let mut loss = 0.0;
        for filter in 0..filters {
            let mut sums = Vec::new();
            for place in 0..batch * side * side {
                let (image, row, column) = (place / (side * side), place / side % side, place % side);
                let mut sum = 0.0;
                for tap in 0..9 {
                    let (Some(y), Some(z)) = ((row + tap / 3).checked_sub(1), (column + tap % 3).checked_sub(1)) else {
                        continue;
                    };
                    if y < side && z < side {
                        for channel in 0..channels {
                            sum += x[((image * side + y) * side + z) * channels + channel]
                                * w[(filter * channels + channel) * 9 + tap];
                        }
                    }
                }
                sums.push(sum);
            }
            let mean = sums.iter().sum::<f64>() / sums.len() as f64;
            let variance = sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / sums.len() as f64;
            for (place, sum) in sums.iter().enumerate() {
                let value = gamma[filter] * (sum - mean) / (variance + epsilon).sqrt() + beta[filter];
                loss += value.max(0.0) * weights[place * filters + filter];
            }
        }
        loss
    };
    let parts = [x.clone(), w.clone(), gamma.clone(), beta.clone()];
    for (part, gradient) in found[3..].iter().enumerate() {
        for index in (0..parts[part].len()).step_by(parts[part].len() / 7) {
            let at = |shift: f64| {
                let mut moved = parts.clone();
                moved[part][index] += shift;
                loss(&moved[0], &moved[1], &moved[2], &moved[3])
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            let error = (f64::from(gradient[index]) - slope).abs();
            assert!(error < 2e-4 * (1.0 + slope.abs()), "part {part}, {index}: {} is not {slope}", gradient[index]);
        }
    }
}

#[test]
fn exact_sums_of_integers_are_exact() {
    let integers = |len: usize, seed| values(len, seed).into_iter().map(|value| (value * 100.0).round()).collect();
    let device = Device::flex();
    let x = Tensor::<4>::from_data(TensorData::new(integers(2 * 6 * 6 * 32, 1), [2, 6, 6, 32]), &device);
    let w = Tensor::<4>::from_data(TensorData::new(integers(32 * 32 * 9, 2), [32, 32, 3, 3]), &device);
    let conv = ConvOptions { stride: 1, padding: 1 };
    let expected = burn_conv(x.clone(), w.clone(), conv).permute([0, 2, 3, 1]);
    assert_eq!(numbers(exact_conv(x, w, conv)), numbers(expected));
}
