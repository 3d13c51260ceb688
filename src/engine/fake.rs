//! The fake quantizer in one pass forward and one backward, where burn's own operations take a dozen.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;

use super::parallel::in_parts;
use super::{FlexTensor, flex_tensor, ours};
use crate::simd::vectorized;

/// Values that a thread works on at a time: fixed, so that the order of sums doesn't depend on threads.
const CHUNK: usize = 1 << 14;
/// Sums that are kept apart.
const LANES: usize = 16;

/// `round(clamp(x / step, low, high)) * step` with straight-through gradients; `step` has one value, or one for each index of the
/// first dimension.
///
/// The gradient of `x` passes inside the limits. That of a step is the sum of `round(v) - v` inside and of the limit outside,
/// with `v = x / step`, times `step_gradient` (Esser et al., *Learned Step Size Quantization*, ICLR 2020).
pub(crate) fn fake_quantize<const D: usize>(
    x: Tensor<D>,
    step: Tensor<1>,
    [low, high]: [f32; 2],
    step_gradient: f32,
) -> Tensor<D> {
    if ours(&x) {
        let limits = Limits { low, high, step_gradient };
        let out = <Dispatch as FakeBackend>::fused_fake_quantize(x.into_dispatch(), step.into_dispatch(), limits);
        return Tensor::from_dispatch(out);
    }
    composed(x, step, [low, high], step_gradient)
}

/// The same from burn's own operations.
fn composed<const D: usize>(x: Tensor<D>, step: Tensor<1>, [low, high]: [f32; 2], step_gradient: f32) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = step.dims()[0];
    let step = step.reshape(shape);
    let scaled = step.clone() * step_gradient;
    let step = scaled.clone() + (step - scaled).detach();
    let limited = (x / step.clone()).clamp(low, high);
    (limited.clone() + (limited.clone().round() - limited).detach()) * step
}

/// Limits in steps, and the factor of the step's gradient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    low: f32,
    high: f32,
    step_gradient: f32,
}

impl Limits {
    /// Half-way cases go to the even neighbor, as burn rounds.
    #[inline(always)]
    fn round(self, v: f32) -> f32 {
        v.clamp(self.low, self.high).round_ties_even()
    }

    /// Values of a row, and of the parts that are worked on together, each within a row.
    fn parts(x: &[f32], steps: &[f32]) -> [usize; 2] {
        let row = x.len() / steps.len();
        [row, if steps.len() == 1 { CHUNK } else { row }]
    }

    fn forward(self, x: &[f32], steps: &[f32]) -> Vec<f32> {
        let [row, part] = Self::parts(x, steps);
        let round = |_: &mut (), index: usize, out: &mut [f32]| {
            let step = steps[index * part / row];
            forward_part(self, &x[index * part..], step, out);
        };
        in_parts(x.len(), part, || (), round).0
    }

    /// Gradients of `x` and of the steps.
    fn backward(self, x: &[f32], steps: &[f32], gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let [row, part] = Self::parts(x, steps);
        let pass = |_: &mut (), index: usize, out: &mut [f32]| {
            let step = steps[index * part / row];
            let range = index * part..index * part + out.len();
            backward_part(self, &x[range.clone()], step, &gradient[range], out)
        };
        let (x_gradient, sums) = in_parts(x.len(), part, || (), pass);
        let step_sums = sums.chunks(row.div_ceil(part)).map(|sums| sums.iter().sum::<f32>() * self.step_gradient);
        (x_gradient, step_sums.collect())
    }
}

vectorized! {
    /// Writes rounded values.
    fn forward_part(limits: Limits, x: &[f32], step: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = limits.round(x / step) * step;
        }
    }

    /// Writes the gradient of `x`; returns the sum for the step.
    fn backward_part(limits: Limits, x: &[f32], step: f32, gradient: &[f32], out: &mut [f32]) -> f32 {
        // A sum for each lane, which the compiler keeps in vectors.
        let mut sums = [0.0; LANES];
        for ((out, x), gradient) in out.chunks_mut(LANES).zip(x.chunks(LANES)).zip(gradient.chunks(LANES)) {
            for (((out, x), gradient), sum) in out.iter_mut().zip(x).zip(gradient).zip(&mut sums) {
                let v = x / step;
                let inside = v >= limits.low && v <= limits.high;
                *out = if inside { *gradient } else { 0.0 };
                *sum += gradient * (limits.round(v) - if inside { v } else { 0.0 });
            }
        }
        sums.iter().sum()
    }
}

#[backend_extension(Flex, Autodiff)]
trait FakeBackend: Backend {
    fn fused_fake_quantize(x: FloatTensor<Self>, step: FloatTensor<Self>, limits: Limits) -> FloatTensor<Self>;
}

impl FakeBackend for Flex {
    fn fused_fake_quantize(x: FlexTensor, step: FlexTensor, limits: Limits) -> FlexTensor {
        let out = limits.forward(x.to_contiguous().storage(), step.to_contiguous().storage());
        like(out, &x)
    }
}

fn like(values: Vec<f32>, tensor: &FlexTensor) -> FlexTensor {
    let shape = tensor.shape();
    let len = values.len();
    flex_tensor(values, [len]).reshape(shape)
}

#[derive(Debug)]
struct FakeBackward;

impl Backward<Flex, 2> for FakeBackward {
    type State = (FlexTensor, FlexTensor, Limits);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, step_node] = ops.parents;
        let (x, step, limits) = ops.state;
        let (x, step) = (x.to_contiguous(), step.to_contiguous());
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x_gradient, step_gradient) = limits.backward(x.storage(), step.storage(), gradient.storage());
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, like(x_gradient, &x));
        }
        if let Some(node) = step_node {
            grads.register::<Flex>(node.id, like(step_gradient, &step));
        }
    }
}

impl<C: CheckpointStrategy> FakeBackend for Autodiff<Flex, C> {
    fn fused_fake_quantize(x: FloatTensor<Self>, step: FloatTensor<Self>, limits: Limits) -> FloatTensor<Self> {
        match FakeBackward.prepare::<C>([x.node(), step.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, step) = (x.primitive().clone(), step.primitive().clone());
                let out = Flex::fused_fake_quantize(x.clone(), step.clone(), limits);
                prep.finish((x, step, limits), out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::fused_fake_quantize(x.into_primitive(), step.into_primitive(), limits))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;

    fn results(
        quantize: impl Fn(Tensor<2>, Tensor<1>) -> Tensor<2>,
        x: &[f32],
        rows: usize,
        steps: &[f32],
    ) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats(x, &device).reshape([rows as i64, -1]).require_grad();
        let step = Tensor::<1>::from_floats(steps, &device).require_grad();
        let out = quantize(x.clone(), step.clone());
        let grads = out.clone().powi_scalar(2).sum().backward();
        [
            out.into_data().try_to_vec().unwrap(),
            x.grad(&grads).unwrap().into_data().try_to_vec().unwrap(),
            step.grad(&grads).unwrap().into_data().try_to_vec().unwrap(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_pass_gives_what_the_composition_gives(
            rows in 1usize..5, cols in 1usize..50, per_row: bool, signed: bool,
            values in prop::collection::vec(-3.0f32..3.0, 250), steps in prop::collection::vec(0.05f32..0.8, 5),
        ) {
            let limits = [if signed { -7.0 } else { 0.0 }, 7.0];
            let x = &values[..rows * cols];
            let steps = &steps[..if per_row { rows } else { 1 }];
            let fused = results(|x, step| fake_quantize(x, step, limits, 0.1), x, rows, steps);
            let expected = results(|x, step| composed(x, step, limits, 0.1), x, rows, steps);
            for (fused, expected) in fused.iter().zip(&expected) {
                prop_assert_eq!(fused.len(), expected.len());
                for (a, b) in fused.iter().zip(expected) {
                    prop_assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} {}", a, b);
                }
            }
        }
    }

    /// Values on the grid, gradients as in equation 3 of the paper.
    #[test]
    fn values_lie_on_the_grid_and_steps_learn() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats([-0.3, 0.3, 1.1, 9.0], &device).require_grad();
        let step = Tensor::<1>::from_floats([0.5], &device).require_grad();
        let out = fake_quantize(x.clone(), step.clone(), [0.0, 4.0], 0.5);
        let grads = out.clone().sum().backward();
        assert_eq!(out.into_data().try_to_vec::<f32>().unwrap(), [0.0, 0.5, 1.0, 2.0]);
        assert_eq!(x.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap(), [0.0, 1.0, 1.0, 0.0]);
        let learned = step.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap()[0];
        assert!((learned - 0.5 * ((1.0 - 0.6) + (2.0 - 2.2) + 4.0)).abs() < 1e-5, "{learned}");
    }
}
