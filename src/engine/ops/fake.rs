//! The fake quantizer in one pass forward and one backward, where burn's own operations take a dozen.

use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::{FlexTensor, flex_tensor, ours};
use crate::engine::parallel::written_in_parts;
use crate::simd::vectorized;

/// Values that a thread works on at a time: fixed, so that the order of sums doesn't depend on threads.
const CHUNK: usize = 1 << 14;
/// Sums that are kept apart.
const LANES: usize = 16;

/// The whole numbers that values are rounded to, without the scale of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub low: f32,
    pub high: f32,
    /// Factor of the scales' gradient.
    pub scale_gradient: f32,
}

/// `round(clamp(x / scale, low, high)) * scale` with straight-through gradients; `scale` has one value, or one for each index of the
/// first dimension.
///
/// The gradient of `x` passes inside the limits. That of a scale is the sum of `round(v) - v` inside and of the limit outside,
/// with `v = x / scale`, times `scale_gradient` (Esser et al., *Learned Step Size Quantization*, ICLR 2020).
pub(crate) fn fake_quantize<const D: usize>(x: Tensor<D>, scale: Tensor<1>, grid: Grid) -> Tensor<D> {
    if ours(&x) {
        let out = <Dispatch as FakeBackend>::fused_fake_quantize(x.into_dispatch(), scale.into_dispatch(), grid);
        return Tensor::from_dispatch(out);
    }
    composed(x, scale, grid)
}

/// The same from burn's own operations.
fn composed<const D: usize>(x: Tensor<D>, scale: Tensor<1>, grid: Grid) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = scale.dims()[0];
    let scale = scale.reshape(shape);
    let learned = scale.clone() * grid.scale_gradient;
    let scale = learned.clone() + (scale - learned).detach();
    let limited = (x / scale.clone()).clamp(grid.low, grid.high);
    (limited.clone() + (limited.clone().round() - limited).detach()) * scale
}

impl Grid {
    /// Half-way cases go to the even neighbor, as burn rounds.
    #[inline(always)]
    fn round(self, v: f32) -> f32 {
        v.clamp(self.low, self.high).round_ties_even()
    }

    /// The gradient of a value that is `v` scales; `sum` takes its part of the scale's gradient.
    #[inline(always)]
    fn gradient(self, v: f32, gradient: f32, sum: &mut f32) -> f32 {
        let inside = v >= self.low && v <= self.high;
        *sum += gradient * (self.round(v) - if inside { v } else { 0.0 });
        if inside { gradient } else { 0.0 }
    }

    /// Values of a row, and of the parts that are worked on together, each within a row.
    fn parts(x: &[f32], scales: &[f32]) -> [usize; 2] {
        let row = x.len() / scales.len();
        [row, if scales.len() == 1 { CHUNK } else { row }]
    }

    fn forward(self, x: &[f32], scales: &[f32]) -> Vec<f32> {
        let [row, part] = Self::parts(x, scales);
        written_in_parts(
            x.len(),
            part,
            || (),
            |(), index, out| (forward_part(self, &x[index * part..], scales[index * part / row], out), ()),
        )
        .0
    }

    /// Turns the gradients of what was rounded into those of `x`, and gives those of the scales.
    fn backward(self, x: &[f32], scales: &[f32], gradient: &mut [f32]) -> Vec<f32> {
        let [row, part] = Self::parts(x, scales);
        let parts = gradient.par_chunks_mut(part).zip(x.par_chunks(part)).enumerate();
        let sums: Vec<f32> =
            parts.map(|(index, (gradient, x))| backward_part(self, x, scales[index * part / row], gradient)).collect();
        sums.chunks(row.div_ceil(part)).map(|sums| sums.iter().sum::<f32>() * self.scale_gradient).collect()
    }
}

vectorized! {
    /// Writes as many rounded values as `out` takes.
    pub(super) fn forward_part<'o>(
        grid: Grid, x: &[f32], scale: f32, out: &'o mut [MaybeUninit<f32>],
    ) -> &'o mut [f32] {
        let x = &x[..out.len()];
        for (out, x) in out.iter_mut().zip(x) {
            out.write(grid.round(x / scale) * scale);
        }
        // SAFETY: there are as many values, each of which was written.
        unsafe { out.assume_init_mut() }
    }

    /// Turns gradients of what was rounded into those of `x`; gives the sum for the scale.
    pub(super) fn backward_part(grid: Grid, x: &[f32], scale: f32, gradient: &mut [f32]) -> f32 {
        // A sum for each lane; of arrays, whose length is known, the compiler keeps them in a register.
        let mut sums = [0.0; LANES];
        let (gradients, gradient_rest) = gradient.as_chunks_mut::<LANES>();
        let (xs, x_rest) = x.as_chunks::<LANES>();
        for (gradient, x) in gradients.iter_mut().zip(xs) {
            for lane in 0..LANES {
                gradient[lane] = grid.gradient(x[lane] / scale, gradient[lane], &mut sums[lane]);
            }
        }
        for ((gradient, x), sum) in gradient_rest.iter_mut().zip(x_rest).zip(&mut sums) {
            *gradient = grid.gradient(x / scale, *gradient, sum);
        }
        sums.iter().sum()
    }
}

#[backend_extension(Flex, Autodiff)]
trait FakeBackend: Backend {
    fn fused_fake_quantize(x: FloatTensor<Self>, scale: FloatTensor<Self>, grid: Grid) -> FloatTensor<Self>;
}

impl FakeBackend for Flex {
    fn fused_fake_quantize(x: FlexTensor, scale: FlexTensor, grid: Grid) -> FlexTensor {
        let out = grid.forward(x.to_contiguous().storage(), scale.to_contiguous().storage());
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
    type State = (FlexTensor, FlexTensor, Grid);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, scale_node] = ops.parents;
        let (x, scale, grid) = ops.state;
        let (x, scale) = (x.to_contiguous(), scale.to_contiguous());
        let mut gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let x_values: &[f32] = x.storage();
        let scale_gradient = grid.backward(x_values, scale.storage(), &mut gradient.storage_mut()[..x_values.len()]);
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = scale_node {
            grads.register::<Flex>(node.id, like(scale_gradient, &scale));
        }
    }
}

impl<C: CheckpointStrategy> FakeBackend for Autodiff<Flex, C> {
    fn fused_fake_quantize(x: FloatTensor<Self>, scale: FloatTensor<Self>, grid: Grid) -> FloatTensor<Self> {
        match FakeBackward.prepare::<C>([x.node(), scale.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, scale) = (x.primitive().clone(), scale.primitive().clone());
                let out = Flex::fused_fake_quantize(x.clone(), scale.clone(), grid);
                prep.finish((x, scale, grid), out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::fused_fake_quantize(x.into_primitive(), scale.into_primitive(), grid))
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
        scales: &[f32],
    ) -> [Vec<f32>; 3] {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats(x, &device).reshape([rows as i64, -1]).require_grad();
        let scale = Tensor::<1>::from_floats(scales, &device).require_grad();
        let out = quantize(x.clone(), scale.clone());
        let grads = out.clone().powi_scalar(2).sum().backward();
        [
            out.into_data().try_to_vec().unwrap(),
            x.grad(&grads).unwrap().into_data().try_to_vec().unwrap(),
            scale.grad(&grads).unwrap().into_data().try_to_vec().unwrap(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn one_pass_gives_what_the_composition_gives(
            rows in 1usize..5, cols in 1usize..50, per_row: bool, signed: bool,
            values in prop::collection::vec(-3.0f32..3.0, 250), scales in prop::collection::vec(0.05f32..0.8, 5),
        ) {
            let grid = Grid { low: if signed { -7.0 } else { 0.0 }, high: 7.0, scale_gradient: 0.1 };
            let x = &values[..rows * cols];
            let scales = &scales[..if per_row { rows } else { 1 }];
            let fused = results(|x, scale| fake_quantize(x, scale, grid), x, rows, scales);
            let expected = results(|x, scale| composed(x, scale, grid), x, rows, scales);
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
        let scale = Tensor::<1>::from_floats([0.5], &device).require_grad();
        let out = fake_quantize(x.clone(), scale.clone(), Grid { low: 0.0, high: 4.0, scale_gradient: 0.5 });
        let grads = out.clone().sum().backward();
        assert_eq!(out.into_data().try_to_vec::<f32>().unwrap(), [0.0, 0.5, 1.0, 2.0]);
        assert_eq!(x.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap(), [0.0, 1.0, 1.0, 0.0]);
        let learned = scale.grad(&grads).unwrap().into_data().try_to_vec::<f32>().unwrap()[0];
        assert!((learned - 0.5 * ((1.0 - 0.6) + (2.0 - 2.2) + 4.0)).abs() < 1e-5, "{learned}");
    }
}
