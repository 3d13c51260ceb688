//! A layer of a network in one operation: convolution, batch norm or bias, residual sum, ReLU.
//!
//! Forward, the statistics are taken while a picture's output is in the cache; backward, the gradient of the convolution's output
//! is made there and never stored.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::activation::relu;
use burn::tensor::module::{batch_norm_train, conv2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Int, Tensor};
use rayon::prelude::*;

use super::channels::{self, PerChannel};
use super::conv::Conv;
use super::join::Join;
use super::moments::merge;
use super::parallel::in_parts;
use super::{FlexTensor, flex_tensor, ours};

/// What follows a convolution before the residual sum.
#[expect(clippy::large_enum_variant, reason = "made once a layer and consumed at once")]
pub enum Norm {
    /// Batch norm with the batch's statistics.
    Batch {
        /// Factor of each filter.
        gamma: Tensor<1>,
        /// Summand of each filter.
        beta: Tensor<1>,
        /// Added to the variance.
        epsilon: f64,
    },
    /// A bias for each filter.
    Bias(Tensor<1>),
    /// Nothing.
    Absent,
}

/// A residual value: every `stride`-th pixel, with `front` zero channels before its own and as many as needed behind.
pub struct Shortcut {
    /// `[batch, height, width, channels]`.
    pub value: Tensor<4>,
    /// Step between the pixels that are taken.
    pub stride: usize,
    /// Zero channels in front.
    pub front: usize,
}

/// What a block gives.
pub struct BlockOutput {
    /// `[batch, height, width, filters]`.
    pub value: Tensor<4>,
    /// Mean and biased variance of each filter's sums, where there is a batch norm; without gradients.
    pub statistics: Option<[Tensor<1>; 2]>,
}

/// Convolution of `x` `[batch, height, width, channels]` with `weight` `[filters, channels, kernel height, kernel width]`, then
/// `norm`, the residual sum and, if `relu`, the ReLU. `window` is the stride and the padding, the same both ways.
///
/// For training: convolutions may be computed by Winograd's algorithm, whose rounding differs from the plain sum's.
///
/// # Panics
/// If the shapes don't fit each other.
pub fn conv_block(
    x: Tensor<4>,
    weight: Tensor<4>,
    window: [usize; 2],
    norm: Norm,
    shortcut: Option<Shortcut>,
    relu: bool,
) -> BlockOutput {
    if !ours(&x) {
        return composed(x, weight, window, norm, shortcut, relu);
    }
    let absent = || Tensor::<1>::zeros([1], &x.device().inner());
    let joined = shortcut.as_ref().map(|shortcut| [shortcut.stride, shortcut.front]);
    let skip = shortcut.map_or_else(|| absent().into_dispatch(), |shortcut| shortcut.value.into_dispatch());
    let biased = matches!(norm, Norm::Bias(_));
    let (first, second, epsilon) = match norm {
        Norm::Batch { gamma, beta, epsilon } => (gamma, beta, Some(epsilon)),
        Norm::Bias(bias) => (bias, absent(), None),
        Norm::Absent => (absent(), absent(), None),
    };
    let block = Block { window, epsilon, biased, joined, relu, exact: false };
    let (value, mean, variance) = <Dispatch as BlockBackend>::fused_block(
        x.into_dispatch(),
        weight.into_dispatch(),
        first.into_dispatch(),
        second.into_dispatch(),
        skip,
        block,
    );
    let statistics = epsilon.map(|_| [mean, variance].map(Tensor::from_dispatch));
    BlockOutput { value: Tensor::from_dispatch(value), statistics }
}

/// Convolution of `x` `[batch, height, width, channels]` with `weight` by plain sums in a fixed order: exact for integers as long as
/// no partial sum reaches `2^24`. Without gradients.
///
/// # Panics
/// If the shapes don't fit each other.
pub(crate) fn exact_conv(x: Tensor<4>, weight: Tensor<4>, [stride, padding]: [usize; 2]) -> Tensor<4> {
    if !ours(&x) {
        return burn_conv(x, weight, [stride, padding]).permute([0, 2, 3, 1]);
    }
    let absent = || Tensor::<1>::zeros([1], &x.device()).into_dispatch();
    let (first, second, skip) = (absent(), absent(), absent());
    let block =
        Block { window: [stride, padding], epsilon: None, biased: false, joined: None, relu: false, exact: true };
    let (value, _, _) =
        <Dispatch as BlockBackend>::fused_block(x.into_dispatch(), weight.into_dispatch(), first, second, skip, block);
    Tensor::from_dispatch(value)
}

/// `[batch, filters, height, width]`.
fn burn_conv(x: Tensor<4>, weight: Tensor<4>, [stride, padding]: [usize; 2]) -> Tensor<4> {
    conv2d(x.permute([0, 3, 1, 2]), weight, None, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}

/// The same from burn's own operations.
fn composed(
    x: Tensor<4>,
    weight: Tensor<4>,
    window: [usize; 2],
    norm: Norm,
    shortcut: Option<Shortcut>,
    with_relu: bool,
) -> BlockOutput {
    let sums = burn_conv(x, weight, window);
    let [batch, filters, height, width] = sums.dims();
    let (mut value, statistics) = match norm {
        Norm::Batch { gamma, beta, epsilon } => {
            let normalized = batch_norm_train(sums, gamma, beta, epsilon);
            (normalized.output, Some([normalized.mean.detach(), normalized.variance.detach()]))
        }
        Norm::Bias(bias) => (sums + bias.reshape([1, filters, 1, 1]), None),
        Norm::Absent => (sums, None),
    };
    value = value.permute([0, 2, 3, 1]);
    if let Some(Shortcut { value: mut skip, stride, front }) = shortcut {
        if stride > 1 {
            let every = |size: usize| Tensor::<1, Int>::arange_step(0..size as i64, stride, &skip.device());
            let [_, rows, columns, _] = skip.dims();
            let (rows, columns) = (every(rows), every(columns));
            skip = skip.select(1, rows).select(2, columns);
        }
        let own = skip.dims()[3];
        let zeros = |channels: usize| Tensor::zeros([batch, height, width, channels], &skip.device());
        let mut parts = vec![zeros(front), skip.clone(), zeros(filters - own - front)];
        parts.retain(|part| part.dims()[3] > 0);
        value = value + Tensor::cat(parts, 3);
    }
    BlockOutput { value: if with_relu { relu(value) } else { value }, statistics }
}

/// What the operation does, beside its tensors.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Stride and padding.
    window: [usize; 2],
    /// Of the batch norm.
    epsilon: Option<f64>,
    /// A bias instead of it.
    biased: bool,
    /// Stride and channels in front of the residual value.
    joined: Option<[usize; 2]>,
    relu: bool,
    exact: bool,
}

impl Block {
    /// Where the residual value joins.
    ///
    /// # Panics
    /// If its shape doesn't fit the sum.
    fn join(&self, conv: &Conv, skip: &FlexTensor) -> Option<Join> {
        let [stride, front] = self.joined?;
        let [batch, height, width, channels] = skip.shape().dims();
        let fits = batch == conv.batch
            && height.div_ceil(stride) == conv.out_height()
            && width.div_ceil(stride) == conv.out_width()
            && front + channels <= conv.filters;
        assert!(fits, "a residual value of {:?} doesn't fit its sum", skip.shape());
        Some(Join { height, width, channels, stride, front, out_width: conv.out_width(), filters: conv.filters })
    }
}

#[backend_extension(Flex, Autodiff)]
trait BlockBackend: Backend {
    /// Output, mean and variance. `first` and `second` are gamma and beta, the bias and nothing, or nothing.
    fn fused_block(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        block: Block,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Batch norm with known statistics.
#[derive(Clone, Debug)]
struct Affine {
    mean: Vec<f32>,
    variance: Vec<f32>,
    inverse_deviation: Vec<f32>,
    gain: Vec<f32>,
}

impl Affine {
    /// From the moments of each picture, in their order.
    fn new(moments: &[[Vec<f32>; 2]], pixels: usize, gamma: &[f32], epsilon: f64) -> Self {
        let mut affine =
            Self { mean: Vec::new(), variance: Vec::new(), inverse_deviation: Vec::new(), gain: Vec::new() };
        let [mean, variance] = merge(moments, pixels);
        for ((mean, variance), gamma) in mean.into_iter().zip(variance).zip(gamma) {
            let inverse_deviation = 1.0 / (variance + epsilon).sqrt();
            affine.mean.push(mean as f32);
            affine.variance.push(variance as f32);
            affine.inverse_deviation.push(inverse_deviation as f32);
            affine.gain.push((f64::from(*gamma) * inverse_deviation) as f32);
        }
        affine
    }

    /// `beta - gain * mean`.
    fn offset(&self, beta: &[f32]) -> Vec<f32> {
        let terms = self.gain.iter().zip(&self.mean).zip(beta);
        terms.map(|((gain, mean), beta)| beta - gain * mean).collect()
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    w: FlexTensor,
    /// The convolution's output, where a batch norm follows.
    sums: Option<(FlexTensor, Affine)>,
    /// The output, where a ReLU made it.
    output: Option<FlexTensor>,
    skip: FlexTensor,
    block: Block,
}

fn geometry(x: &FlexTensor, w: &FlexTensor, [stride, padding]: [usize; 2]) -> Conv {
    let [batch, height, width, channels] = x.shape().dims();
    let [filters, weight_channels, kernel_height, kernel_width] = w.shape().dims();
    assert_eq!(channels, weight_channels, "input channels of the picture and of the weights");
    assert!(height + 2 * padding >= kernel_height && width + 2 * padding >= kernel_width, "kernel larger than the map");
    Conv { batch, channels, height, width, filters, kernel: [kernel_height, kernel_width], stride, padding }
}

fn forward(
    [x, w, first, second, skip]: [FlexTensor; 5],
    block: Block,
) -> (FlexTensor, Option<(FlexTensor, Affine)>, [FlexTensor; 4]) {
    let [x, w, first, second, skip] = [x, w, first, second, skip].map(|tensor| tensor.to_contiguous());
    let conv = geometry(&x, &w, block.window);
    let join = block.join(&conv, &skip);
    let shape = [conv.batch, conv.out_height(), conv.out_width(), conv.filters];
    // Residual sum and ReLU of a picture.
    let complete = |picture: usize, out: &mut [f32]| {
        if let Some(join) = join {
            join.add(out, &skip.storage()[picture * join.len()..][..join.len()]);
        }
        if block.relu {
            channels::relu(out);
        }
    };
    let weights: &[f32] = w.storage();
    let (out, sums) = match block.epsilon {
        None => {
            let bias = block.biased.then(|| PerChannel::new(first.storage()));
            let (out, _) = conv.forward(x.storage(), weights, block.exact, |picture, out| {
                if let Some(bias) = &bias {
                    channels::shift(out, bias);
                }
                complete(picture, out);
            });
            (out, None)
        }
        Some(epsilon) => {
            let (sums, moments) =
                conv.forward(x.storage(), weights, block.exact, |_, out| channels::moments(out, conv.filters));
            let affine = Affine::new(&moments, conv.out_pixels(), first.storage(), epsilon);
            let (gain, offset) = (PerChannel::new(&affine.gain), PerChannel::new(&affine.offset(second.storage())));
            let (out, _) = in_parts(
                sums.len(),
                conv.out_len(),
                || (),
                |(), picture, out| {
                    let sums = &sums[picture * conv.out_len()..][..conv.out_len()];
                    if block.relu && join.is_none() {
                        channels::scale_relu(sums, &gain, &offset, out);
                    } else {
                        channels::scale(sums, &gain, &offset, out);
                        complete(picture, out);
                    }
                },
            );
            (out, Some((flex_tensor(sums, shape), affine)))
        }
    };
    (flex_tensor(out, shape), sums, [x, w, first, skip])
}

fn vector(values: Vec<f32>) -> FlexTensor {
    let len = values.len();
    flex_tensor(values, [len])
}

fn statistics(sums: &Option<(FlexTensor, Affine)>) -> [FlexTensor; 2] {
    match sums {
        Some((_, affine)) => [vector(affine.mean.clone()), vector(affine.variance.clone())],
        None => [vector(Vec::new()), vector(Vec::new())],
    }
}

impl BlockBackend for Flex {
    fn fused_block(
        x: FlexTensor,
        w: FlexTensor,
        first: FlexTensor,
        second: FlexTensor,
        skip: FlexTensor,
        block: Block,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (out, sums, _) = forward([x, w, first, second, skip], block);
        let [mean, variance] = statistics(&sums);
        (out, mean, variance)
    }
}

#[derive(Debug)]
struct BlockBackward;

impl Backward<Flex, 5> for BlockBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 5>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let saved = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let wanted = ops.parents.each_ref().map(|parent| parent.is_some());
        let found = saved.gradients(gradient, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

impl Saved {
    /// Gradients of x, weights, gamma or bias, beta and residual value, as far as they are wanted.
    fn gradients(self, gradient: FlexTensor, wanted: [bool; 5]) -> [Option<FlexTensor>; 5] {
        let Self { x, w, sums, output, skip, block } = self;
        let conv = geometry(&x, &w, block.window);
        let join = block.join(&conv, &skip).filter(|_| wanted[4]);
        let len = conv.out_len();
        let of = |picture: usize| picture * len..(picture + 1) * len;
        let incoming: &[f32] = gradient.storage();
        let output: Option<&[f32]> = output.as_ref().map(|output| output.storage());
        // The gradient before the ReLU.
        let before_relu = |picture: usize, out: &mut [f32]| match output {
            Some(output) => {
                channels::relu_gradient(&incoming[of(picture)], &output[of(picture)], out);
            }
            None => out.copy_from_slice(&incoming[of(picture)]),
        };
        let means = sums.as_ref().map(|(_, affine)| PerChannel::new(&affine.mean));
        let picture_sums = |picture: usize, gradient: &[f32]| -> [Vec<f32>; 2] {
            let products = match (&sums, &means) {
                (Some((sums, _)), Some(means)) => {
                    let sums: &[f32] = sums.storage();
                    channels::products(gradient, &sums[of(picture)], means)
                }
                _ => Vec::new(),
            };
            [channels::sums(gradient, conv.filters), products]
        };
        let (skip_gradient, totals): (Option<FlexTensor>, Vec<[Vec<f32>; 2]>) = match join {
            Some(join) if output.is_some() || !join.same() => {
                let scratch = || vec![0.0; len];
                let (skip_gradient, totals) =
                    in_parts(conv.batch * join.len(), join.len(), scratch, |scratch, picture, skip| {
                        if join.same() {
                            before_relu(picture, skip);
                            picture_sums(picture, skip)
                        } else {
                            before_relu(picture, scratch);
                            join.gradient(scratch, skip);
                            picture_sums(picture, scratch)
                        }
                    });
                let shape = [conv.batch, join.height, join.width, join.channels];
                (Some(flex_tensor(skip_gradient, shape)), totals)
            }
            // A constant bias needs no sums.
            _ if sums.is_none() && !wanted[2] => (join.map(|_| gradient.clone()), Vec::new()),
            _ => {
                let scratch = || vec![0.0; len];
                let totals = (0..conv.batch).into_par_iter().map_init(scratch, |scratch, picture| {
                    before_relu(picture, scratch);
                    picture_sums(picture, scratch)
                });
                (join.map(|_| gradient.clone()), totals.collect())
            }
        };
        let total = |index: usize| -> Vec<f64> {
            let channel = |channel| totals.iter().map(|sums| f64::from(sums[index][channel])).sum();
            (0..conv.filters).map(channel).collect()
        };
        let masked: Option<&[f32]> = match (&skip_gradient, join) {
            (Some(skip), Some(join)) if join.same() => Some(skip.storage()),
            _ => None,
        };
        let start = |picture: usize, out: &mut [f32]| match masked {
            Some(masked) => out.copy_from_slice(&masked[of(picture)]),
            None => before_relu(picture, out),
        };
        let single = |values: &[f64]| vector(values.iter().map(|value| *value as f32).collect());
        let gradient_sum = total(0);
        let (conv_gradients, first, second) = match &sums {
            None => {
                let gradients = conv.backward(x.storage(), w.storage(), [wanted[0], wanted[1]], start);
                (gradients, single(&gradient_sum), None)
            }
            Some((sums, affine)) => {
                let products = total(1);
                let values = (conv.batch * conv.out_pixels()) as f64;
                // d sums = gain * (g - mean(g) - (sums - mean) / (var + eps) * mean(g * (sums - mean)))
                let mut factors = [affine.gain.clone(), Vec::new(), Vec::new()];
                let mut gamma = Vec::new();
                for channel in 0..conv.filters {
                    let (gain, deviation) =
                        (f64::from(affine.gain[channel]), f64::from(affine.inverse_deviation[channel]));
                    let slope = -gain * deviation * deviation * products[channel] / values;
                    factors[1].push(slope as f32);
                    let offset = -gain * gradient_sum[channel] / values - slope * f64::from(affine.mean[channel]);
                    factors[2].push(offset as f32);
                    gamma.push(products[channel] * deviation);
                }
                let [gain, slope, offset] = factors.map(|values| PerChannel::new(&values));
                let sums: &[f32] = sums.storage();
                let gradients = conv.backward(x.storage(), w.storage(), [wanted[0], wanted[1]], |picture, out| {
                    start(picture, out);
                    channels::combine(out, &sums[of(picture)], [&gain, &slope, &offset]);
                });
                (gradients, single(&gamma), Some(single(&gradient_sum)))
            }
        };
        let [x_gradient, w_gradient] = conv_gradients;
        let x_gradient =
            x_gradient.map(|values| flex_tensor(values, [conv.batch, conv.height, conv.width, conv.channels]));
        let [height, width] = conv.kernel;
        let w_gradient = w_gradient.map(|values| flex_tensor(values, [conv.filters, conv.channels, height, width]));
        [x_gradient, w_gradient, Some(first), second, skip_gradient]
    }
}

impl<C: CheckpointStrategy> BlockBackend for Autodiff<Flex, C> {
    fn fused_block(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        skip: FloatTensor<Self>,
        block: Block,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let nodes = [x.node(), w.node(), first.node(), second.node(), skip.node()];
        let tensors = [x, w, first, second, skip].map(|tensor| tensor.into_primitive());
        let (out, sums, [x, w, _, skip]) = forward(tensors, block);
        let [mean, variance] = statistics(&sums).map(Self::from_inner);
        let out = match BlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = block.relu.then(|| out.clone());
                prep.finish(Saved { x, w, sums, output, skip, block }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, mean, variance)
    }
}

#[cfg(test)]
mod tests {
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
        window: [usize; 2],
        batch_norm: bool,
        /// Stride and channels in front.
        skip: Option<[usize; 2]>,
        relu: bool,
    }

    type Run = fn(Tensor<4>, Tensor<4>, [usize; 2], Norm, Option<Shortcut>, bool) -> BlockOutput;

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
        let out = |axis: usize| (case.size[axis] + 2 * case.window[1] - case.kernel[axis]) / case.window[0] + 1;
        let value = |[stride, front]: [usize; 2]| {
            let size = [out(0), out(1)].map(|size| (size - 1) * stride + 1);
            tensor([case.batch, size[0], size[1], case.filters - front.min(case.filters - 1)], 5).require_grad()
        };
        let skip = case.skip.map(|skip| (value(skip), skip));
        let shortcut = skip.clone().map(|(value, [stride, front])| {
            let front = front.min(case.filters - 1) / 2;
            Shortcut { value, stride, front }
        });
        let output = run(x.clone(), w.clone(), case.window, norm, shortcut, case.relu);
        let weights = tensor(output.value.dims(), 6);
        let grads = (output.value.clone() * weights).sum().backward();
        let mut results = vec![numbers(output.value)];
        results.extend(output.statistics.into_iter().flatten().map(numbers));
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
            window in prop_oneof![Just([1, 1]), [1usize..4, 0usize..3]],
            batch_norm: bool, skip in proptest::option::of([1usize..3, 0usize..3]), relu: bool,
        ) {
            let case = Case { batch, channels, filters, size, kernel, window, batch_norm, skip, relu };
            prop_assume!((0..2).all(|axis| size[axis] + 2 * window[1] >= kernel[axis]));
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
        for (channels, window) in [(16, [1, 1]), (8, [2, 1])] {
            let case = Case {
                batch: 19,
                channels,
                filters: 24,
                size: [9, 9],
                kernel: [3, 3],
                window,
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
            window: [1, 1],
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
                        let (Some(y), Some(z)) = ((row + tap / 3).checked_sub(1), (column + tap % 3).checked_sub(1))
                        else {
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
        let expected = burn_conv(x.clone(), w.clone(), [1, 1]).permute([0, 2, 3, 1]);
        assert_eq!(numbers(exact_conv(x, w, [1, 1])), numbers(expected));
    }
}
