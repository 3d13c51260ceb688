use burn::tensor::{Device, TensorData};
use proptest::prelude::*;

use super::*;
use crate::engine::conv::ConvGeometry;
use crate::engine::ops::fake::{Grid, fake_quantize};
use crate::engine::ops::moments::moments;
use crate::integer::Fusion;
use crate::simd::on_each_isa;

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
    all_results(case, None, |x, w, norm, shortcut| {
        let BlockOutput { value, statistics } = run(x, w, case.conv, norm, shortcut, case.relu);
        BlockOutput { value: vec![value], statistics }
    })
}

/// The same of several values; with the gradient of a scale, if there is one, at the end.
fn all_results(
    case: &Case,
    scale: Option<&Tensor<1>>,
    run: impl Fn(Tensor<4>, Tensor<4>, Norm, Option<Shortcut>) -> BlockOutput<Vec<Tensor<4>>>,
) -> Vec<Vec<f32>> {
    let x = tensor([case.batch, case.size[0], case.size[1], case.channels], 1).require_grad();
    let w = tensor([case.filters, case.channels / case.conv.groups, case.kernel[0], case.kernel[1]], 2).require_grad();
    let first = (tensor([case.filters], 3) + 1.5).require_grad();
    let second = tensor([case.filters], 4).require_grad();
    let norm = if case.batch_norm {
        Norm::Batch { gamma: first.clone(), beta: second.clone(), epsilon: 1e-3 }
    } else {
        Norm::Bias(first.clone())
    };
    let geometry = ConvGeometry::new(x.dims(), w.dims(), case.conv);
    let out = |axis: usize| [geometry.out_height(), geometry.out_width()][axis];
    let value = |[stride, front]: [usize; 2]| {
        let size = [out(0), out(1)].map(|size| (size - 1) * stride + 1);
        tensor([case.batch, size[0], size[1], case.filters - front.min(case.filters - 1)], 5).require_grad()
    };
    let skip = case.skip.map(|skip| (value(skip), skip));
    let shortcut = skip.clone().map(|(value, [stride, front])| {
        let front = front.min(case.filters - 1) / 2;
        Shortcut { value, stride, front }
    });
    let output = run(x.clone(), w.clone(), norm, shortcut);
    let weighted = output.value.iter().zip(6..).map(|(value, seed)| (value.clone() * tensor(value.dims(), seed)).sum());
    let grads = weighted.reduce(|sum, more| sum + more).expect("a value").backward();
    let mut results: Vec<Vec<f32>> = output.value.into_iter().map(numbers).collect();
    results.extend(output.statistics.into_iter().flat_map(|moments| [moments.mean, moments.variance]).map(numbers));
    results.push(numbers(x.grad(&grads).unwrap()));
    results.push(numbers(w.grad(&grads).unwrap()));
    results.push(numbers(first.grad(&grads).unwrap()));
    results.extend(case.batch_norm.then(|| numbers(second.grad(&grads).unwrap())));
    results.extend(skip.map(|(skip, _)| numbers(skip.grad(&grads).unwrap())));
    results.extend(scale.map(|scale| numbers(scale.grad(&grads).unwrap())));
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
        [more_stride, more_padding] in prop_oneof![2 => Just([[0; 2]; 2]), 1 => [[0usize..2, 0usize..2], [0usize..3, 0usize..3]]],
        dilation in prop_oneof![2 => Just([1, 1]), 1 => [1usize..4, 1usize..4]],
        groups in prop_oneof![3 => Just(1usize), 1 => 2usize..6],
        batch_norm: bool, skip in proptest::option::of([1usize..3, 0usize..3]), relu: bool,
    ) {
        let stride = more_stride.map(|more| stride + more);
        let padding = more_padding.map(|more| [padding, padding + more]);
        let conv = ConvOptions { stride, padding, dilation, groups };
        let (channels, filters) = (channels.next_multiple_of(groups), filters.next_multiple_of(groups));
        let case = Case { batch, channels, filters, size, kernel, conv, batch_norm, skip, relu };
        let span = |axis: usize| (kernel[axis] - 1) * dilation[axis] + 1;
        prop_assume!((0..2).all(|axis| size[axis] + padding[axis][0] + padding[axis][1] >= span(axis)));
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

/// Results of a block with forms, or of a block and a fake quantizer for each form, of those that are read.
fn forms_results(case: &Case, bits: &[u32], read: &[bool], at_once: bool) -> Vec<Vec<f32>> {
    let scale = Tensor::<1>::from_floats([0.3], &Device::flex().autodiff()).require_grad();
    let low = if case.relu { 0.0 } else { -8.0 };
    let forms: Vec<Form> = bits
        .iter()
        .map(|bits| {
            let divisor = (1 << bits) as f32;
            Form { grid: Grid { low: low * divisor, high: 8.0 * divisor - 1.0, scale_gradient: 0.1 }, divisor }
        })
        .collect();
    all_results(case, Some(&scale), |x, w, norm, shortcut| {
        let BlockOutput { value, statistics } = if at_once {
            let forms = Forms { scale: scale.clone(), forms: forms.clone() };
            conv_block_forms(x, w, case.conv, norm, shortcut, forms)
        } else {
            let BlockOutput { value, statistics } = conv_block(x, w, case.conv, norm, shortcut, false);
            let rounded =
                forms.iter().map(|form| fake_quantize(value.clone(), scale.clone() / form.divisor, form.grid));
            BlockOutput { value: rounded.collect(), statistics }
        };
        let value: Vec<_> = value.into_iter().zip(read).filter(|(_, read)| **read).map(|(value, _)| value).collect();
        BlockOutput { value, statistics }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Bit for bit but for the scale's gradient, whose sums have another order.
    #[test]
    fn rounding_in_the_block_is_rounding_behind_it(
        batch in 1usize..5, channels in prop_oneof![1usize..20, Just(16)], filters in prop_oneof![2usize..40, Just(16)],
        size in [3usize..12, 3usize..12], stride in 1usize..3, batch_norm: bool,
        skip in proptest::option::of([1usize..3, 0usize..3]), relu: bool,
        (bits, read) in prop_oneof![
            Just((vec![0], vec![true])), Just((vec![1], vec![true])), Just((vec![0, 3], vec![true, true])),
            Just((vec![0, 2], vec![false, true])), Just((vec![0, 2], vec![true, false])),
        ],
    ) {
        let conv = ConvOptions::square(stride, 1);
        let case = Case { batch, channels, filters, size, kernel: [3, 3], conv, batch_norm, skip, relu };
        let [mut found, mut expected] = [true, false].map(|at_once| forms_results(&case, &bits, &read, at_once));
        let [found_scale, expected_scale] = [&mut found, &mut expected].map(|results| results.pop().expect("the scale's"));
        prop_assert!(found == expected);
        let near = (found_scale[0] - expected_scale[0]).abs() <= 1e-3 * (1.0 + expected_scale[0].abs());
        prop_assert!(near, "{found_scale:?} {expected_scale:?}");
    }
}

#[test]
fn rounded_results_do_not_depend_on_the_number_of_threads() {
    let case = Case {
        batch: 19,
        channels: 16,
        filters: 24,
        size: [9, 9],
        kernel: [3, 3],
        conv: ConvOptions::square(1, 1),
        batch_norm: true,
        skip: Some([1, 0]),
        relu: true,
    };
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| forms_results(&case, &[0, 4], &[true, true], true))
    };
    assert!(run(1) == run(3));
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
            conv: ConvOptions::square(stride, 1),
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
        conv: ConvOptions::square(1, 1),
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
    let conv = ConvOptions::square(1, 1);
    let expected = burn_conv(x.clone(), w.clone(), conv).permute([0, 2, 3, 1]);
    assert_eq!(numbers(exact_conv(x, w, conv)), numbers(expected));
}

#[test]
fn every_instruction_set_computes_a_block() {
    for (channels, stride) in [(16, 1), (7, 2)] {
        let case = Case {
            batch: 3,
            channels,
            filters: 32,
            size: [7, 6],
            kernel: [3, 3],
            conv: ConvOptions::square(stride, 1),
            batch_norm: true,
            skip: Some([stride, 1]),
            relu: false,
        };
        let all = on_each_isa(|| results(conv_block, &case));
        let (_, portable) = &all[0];
        for (isa, found) in &all {
            for (found, portable) in found.iter().zip(portable) {
                let largest = portable.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
                let near = found.iter().zip(portable).all(|(a, b)| (a - b).abs() <= 2e-5 * largest);
                assert!(found.len() == portable.len() && near, "{isa:?}");
            }
        }
    }
}

/// A layer with what its parameters are at some point, in double precision.
struct Layer {
    fusion: Fusion,
    conv: ConvGeometry,
    /// Of the residual value.
    stride: usize,
    front: usize,
    running: Moments<Vec<f64>>,
    /// Factors of the outputs in the loss.
    loss: Vec<f64>,
}

const EPSILON: f64 = 1e-3;

/// x, weight, gamma, beta and residual value.
type Parameters<T> = [T; 5];

impl Layer {
    fn new(fusion: Fusion, conv: ConvGeometry, stride: usize, front: usize) -> Self {
        let constants = |seed, offset: f64| -> Vec<f64> {
            values(conv.filters, seed).into_iter().map(|value| f64::from(value) + offset).collect()
        };
        let running = Moments { mean: constants(7, 0.0), variance: constants(8, 4.0) };
        let loss = values(conv.batch * conv.out_len(), 6).into_iter().map(f64::from).collect();
        Self { fusion, conv, stride, front, running, loss }
    }

    fn skip_shape(&self) -> [usize; 4] {
        let size = |out: usize| (out - 1) * self.stride + 1;
        let channels = self.conv.filters - 2 * self.front;
        [self.conv.batch, size(self.conv.out_height()), size(self.conv.out_width()), channels]
    }

    fn parameters(&self) -> Parameters<Vec<f32>> {
        let skip = self.skip_shape().into_iter().product();
        let gamma = values(self.conv.filters, 3).into_iter().map(|value| value + 1.5).collect();
        let (x, weight) = (self.conv.batch * self.conv.in_len(), self.conv.filters * self.conv.depth());
        [values(x, 1), values(weight, 2), gamma, values(self.conv.filters, 4), values(skip, 5)]
    }

    /// The loss by the definition. Of a batch norm that is folded with the batch's own statistics, and of one that is folded and
    /// divided out again, nothing is left to see.
    fn loss(&self, [x, weight, gamma, beta, skip]: &Parameters<Vec<f64>>) -> f64 {
        let conv = &self.conv;
        let pixels = conv.batch * conv.out_pixels();
        let [_, skip_height, skip_width, skip_channels] = self.skip_shape();
        let mut loss = 0.0;
        for filter in 0..conv.filters {
            let sums: Vec<f64> = (0..pixels).map(|pixel| sum(conv, x, weight, pixel, filter)).collect();
            let mean = sums.iter().sum::<f64>() / pixels as f64;
            let variance = sums.iter().map(|sum| (sum - mean).powi(2)).sum::<f64>() / pixels as f64;
            let (mean, variance) = match self.fusion {
                Fusion::None | Fusion::Ema | Fusion::Batch => (mean, variance),
                Fusion::Frozen => (self.running.mean[filter], self.running.variance[filter]),
                Fusion::Once => (0.0, 1.0 - EPSILON),
            };
            let gamma = if self.fusion == Fusion::Once { 1.0 } else { gamma[filter] };
            for (pixel, sum) in sums.iter().enumerate() {
                let mut value = gamma * (sum - mean) / (variance + EPSILON).sqrt() + beta[filter];
                let channel = filter.checked_sub(self.front).filter(|channel| *channel < skip_channels);
                if let Some(channel) = channel {
                    let (image, pixel) = (pixel / conv.out_pixels(), pixel % conv.out_pixels());
                    let [y, x] = [pixel / conv.out_width(), pixel % conv.out_width()].map(|place| place * self.stride);
                    value += skip[((image * skip_height + y) * skip_width + x) * skip_channels + channel];
                }
                loss += value.max(0.0) * self.loss[pixel * conv.filters + filter];
            }
        }
        loss
    }

    /// The gradients by the engine, of a layer that is built as training builds it, with steps too small to be seen.
    fn gradients(&self) -> Parameters<Vec<f32>> {
        let ConvGeometry { batch, height, width, channels, filters, kernel, stride, padding, dilation, groups } =
            self.conv;
        let device = Device::flex().autodiff();
        let parameters = self.parameters();
        let leaf = |index: usize| Tensor::<1>::from_floats(&*parameters[index], &device).require_grad();
        let leaves = [leaf(0), leaf(1), leaf(2), leaf(3), leaf(4)];
        let [x, weight, gamma, beta, skip] = leaves.clone();
        let x = x.reshape([batch, height, width, channels]);
        let weight = weight.reshape([filters, channels, kernel[0], kernel[1]]);
        let rounded = |weight: Tensor<4>| {
            let scale = Tensor::from_floats([f32::powi(2.0, -16)], &device);
            fake_quantize(weight, scale, Grid { low: -1e6, high: 1e6, scale_gradient: 1.0 })
        };
        let by_filter = |values: Tensor<1>| values.reshape([-1, 1, 1, 1]);
        let affine = |Moments { mean, variance }: Moments| {
            let gain = gamma.clone() / (variance + EPSILON).sqrt();
            (gain.clone(), beta.clone() - gain * mean)
        };
        let constant = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
            Tensor::<1>::from_floats(&*values, &device)
        };
        let running = || Moments { mean: constant(&self.running.mean), variance: constant(&self.running.variance) };
        let norm = Norm::Batch { gamma: gamma.clone(), beta: beta.clone(), epsilon: EPSILON };
        let options = ConvOptions { stride, padding, dilation, groups };
        let (weight, norm) = match self.fusion {
            Fusion::None => (rounded(weight), norm),
            Fusion::Ema => {
                let gain = by_filter(affine(running()).0.detach());
                (rounded(weight * gain.clone()) / gain, norm)
            }
            Fusion::Frozen => {
                let (gain, bias) = affine(running());
                (rounded(weight * by_filter(gain)), Norm::Bias(bias))
            }
            Fusion::Once => (rounded(weight), Norm::Bias(beta.clone())),
            Fusion::Batch => {
                let sums = conv_block(x.clone(), weight.clone(), options, Norm::Absent, None, false).value;
                let (gain, bias) = affine(moments(sums));
                (rounded(weight * by_filter(gain)), Norm::Bias(bias))
            }
        };
        let shortcut = Shortcut { value: skip.reshape(self.skip_shape()), stride: self.stride, front: self.front };
        let value = conv_block(x, weight, options, norm, Some(shortcut), true).value;
        let loss = value.clone() * constant(&self.loss).reshape(value.dims());
        let grads = loss.sum().backward();
        // Without a batch norm gamma has no gradient.
        leaves.map(|leaf| leaf.grad(&grads).map_or_else(|| vec![0.0; leaf.dims()[0]], numbers))
    }
}

/// An output of the convolution.
fn sum(conv: &ConvGeometry, x: &[f64], weight: &[f64], pixel: usize, filter: usize) -> f64 {
    let (image, pixel) = (pixel / conv.out_pixels(), pixel % conv.out_pixels());
    let [row, column] = [pixel / conv.out_width(), pixel % conv.out_width()];
    let mut sum = 0.0;
    for tap in 0..conv.taps() {
        let [down, right] = conv.tap(tap);
        let [y, z] = [row * conv.stride[0] + down, column * conv.stride[1] + right];
        let (Some(y), Some(z)) = (y.checked_sub(conv.padding[0][0]), z.checked_sub(conv.padding[1][0])) else {
            continue;
        };
        if y < conv.height && z < conv.width {
            for channel in 0..conv.channels {
                sum += x[((image * conv.height + y) * conv.width + z) * conv.channels + channel]
                    * weight[(filter * conv.channels + channel) * conv.taps() + tap];
            }
        }
    }
    sum
}

/// Central differences of the plain definition in double precision, for both algorithms, with a residual value of the same shape and
/// with a smaller one.
#[test]
fn gradients_in_each_fusion_mode_are_the_slopes_of_the_function() {
    let geometry = |side, channels, stride| ConvGeometry {
        batch: 2,
        channels,
        height: side,
        width: side,
        filters: 16,
        kernel: [3, 3],
        stride: [stride; 2],
        padding: [[1; 2]; 2],
        dilation: [1; 2],
        groups: 1,
    };
    let uneven = ConvGeometry {
        kernel: [2, 3],
        stride: [1, 2],
        padding: [[2, 1], [0, 2]],
        dilation: [2, 1],
        ..geometry(4, 5, 1)
    };
    for fusion in [Fusion::None, Fusion::Ema, Fusion::Frozen, Fusion::Once, Fusion::Batch] {
        let layers = [(geometry(4, 16, 1), 1, 0), (geometry(5, 3, 2), 2, 3), (uneven, 2, 1)];
        for layer in layers.map(|(conv, stride, front)| Layer::new(fusion, conv, stride, front)) {
            let parameters = layer.parameters().map(|values| values.into_iter().map(f64::from).collect::<Vec<_>>());
            let slope = |part: usize, index: usize| {
                let at = |shift: f64| {
                    let mut moved = parameters.clone();
                    moved[part][index] += shift;
                    layer.loss(&moved)
                };
                (at(1e-5) - at(-1e-5)) / 2e-5
            };
            let places = (0..5).flat_map(|part| {
                let len = parameters[part].len();
                (0..len).step_by(len.div_ceil(7)).map(move |index| (part, index))
            });
            let slopes: Vec<_> = places.map(|(part, index)| (part, index, slope(part, index))).collect();
            for (isa, found) in on_each_isa(|| layer.gradients()) {
                for &(part, index, slope) in &slopes {
                    let found = f64::from(found[part][index]);
                    let error = (found - slope).abs();
                    assert!(
                        error < 1e-3 * (1.0 + slope.abs()),
                        "{fusion:?}, {isa:?}, part {part}, {index}: {found} is not {slope}"
                    );
                }
            }
        }
    }
}
