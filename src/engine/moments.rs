//! Mean and variance of each channel, with gradients, in one pass forward and one backward.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::channels::{self, PerChannel};
use super::parallel::in_parts;
use super::{FlexTensor, flex_tensor, ours};

/// Mean and biased variance of each channel of `maps` `[batch, height, width, channels]`.
pub(crate) fn moments(maps: Tensor<4>) -> [Tensor<1>; 2] {
    let [batch, height, width, channels] = maps.dims();
    if ours(&maps) {
        let both: Tensor<2> = Tensor::from_dispatch(<Dispatch as MomentsBackend>::fused_moments(maps.into_dispatch()));
        return [0, 1].map(|row| both.clone().narrow(0, row, 1).reshape([channels]));
    }
    let maps = maps.reshape([batch * height * width, channels]);
    let mean = maps.clone().mean_dim(0);
    let variance = (maps - mean.clone()).square().mean_dim(0);
    [mean, variance].map(|row| row.reshape([channels]))
}

/// Mean and biased variance of each channel over all pictures, from each picture's mean and sum of squared differences, in the
/// pictures' order (Chan et al. 1979).
pub(super) fn merge(pictures: &[[Vec<f32>; 2]], pixels: usize) -> [Vec<f64>; 2] {
    let channels = pictures.first().map_or(0, |[mean, _]| mean.len());
    let (count, pixels) = (pictures.len() as f64, pixels as f64);
    let mut merged = [Vec::new(), Vec::new()];
    for channel in 0..channels {
        let mean = pictures.iter().map(|[mean, _]| f64::from(mean[channel])).sum::<f64>() / count;
        let squares = pictures
            .iter()
            .map(|[own, squares]| f64::from(squares[channel]) + pixels * (f64::from(own[channel]) - mean).powi(2));
        merged[1].push(squares.sum::<f64>() / (count * pixels));
        merged[0].push(mean);
    }
    merged
}

#[backend_extension(Flex, Autodiff)]
trait MomentsBackend: Backend {
    /// `[2, channels]`.
    fn fused_moments(maps: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl MomentsBackend for Flex {
    fn fused_moments(maps: FlexTensor) -> FlexTensor {
        let [_, height, width, channels] = maps.shape().dims();
        let maps = maps.to_contiguous();
        let values: &[f32] = maps.storage();
        let pictures = values.par_chunks(height * width * channels).map(|map| channels::moments(map, channels));
        let merged = merge(&pictures.collect::<Vec<_>>(), height * width);
        flex_tensor(merged.iter().flatten().map(|value| *value as f32).collect(), [2, channels])
    }
}

#[derive(Debug)]
struct MomentsBackward;

impl Backward<Flex, 1> for MomentsBackward {
    /// The maps, and their moments.
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (maps, moments) = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [Some(parent)] = ops.parents else {
            return;
        };
        let [batch, height, width, channels] = maps.shape().dims();
        let maps = maps.to_contiguous();
        let (values, moments, gradient): (&[f32], &[f32], &[f32]) =
            (maps.storage(), moments.storage(), gradient.storage());
        // d mean / n + d variance * 2 (x - mean) / n
        let count = (batch * height * width) as f32;
        let slope: Vec<f32> = gradient[channels..].iter().map(|gradient| 2.0 * gradient / count).collect();
        let terms = gradient.iter().zip(&slope).zip(moments);
        let offset: Vec<f32> = terms.map(|((gradient, slope), mean)| gradient / count - slope * mean).collect();
        let (slope, offset) = (PerChannel::new(&slope), PerChannel::new(&offset));
        let len = height * width * channels;
        let (out, _) = in_parts(
            batch * len,
            len,
            || (),
            |(), picture, out| {
                channels::scale(&values[picture * len..][..len], &slope, &offset, out);
            },
        );
        grads.register::<Flex>(parent.id, flex_tensor(out, [batch, height, width, channels]));
    }
}

impl<C: CheckpointStrategy> MomentsBackend for Autodiff<Flex, C> {
    fn fused_moments(maps: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = maps.node();
        let maps = maps.into_primitive();
        let moments = Flex::fused_moments(maps.clone());
        match MomentsBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((maps, moments.clone()), moments),
            OpsKind::UnTracked(prep) => prep.finish(moments),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn moments_and_their_gradient_equal_burns_operations() {
        let device = Device::flex().autodiff();
        let maps = Tensor::<4>::random([3, 5, 4, 6], Distribution::Normal(2.0, 3.0), &device);
        let weights = Tensor::<1>::random([6], Distribution::Default, &device);
        let results = |moments: &dyn Fn(Tensor<4>) -> [Tensor<1>; 2]| -> [Vec<f32>; 3] {
            let maps = maps.clone().require_grad();
            let [mean, variance] = moments(maps.clone());
            let loss = (mean.clone() * weights.clone() + variance.clone() * weights.clone() * 0.5).sum();
            let gradient = maps.grad(&loss.backward()).unwrap().reshape([360]);
            [mean.inner(), variance.inner(), gradient].map(|tensor| tensor.into_data().try_to_vec().unwrap())
        };
        let plain = |maps: Tensor<4>| {
            let maps = maps.reshape([60, 6]);
            let mean = maps.clone().mean_dim(0);
            let variance = (maps - mean.clone()).square().mean_dim(0);
            [mean, variance].map(|row| row.reshape([6]))
        };
        for (found, expected) in results(&moments).iter().zip(&results(&plain)) {
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }
}
