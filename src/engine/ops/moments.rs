//! Mean and variance of each channel, with gradients, in one pass forward and one backward.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::channels::{self, ImageMoments, PerChannel};
use super::flex::{FlexTensor, flex_tensor, ours};
use crate::engine::parallel::written_in_parts;

/// Mean and biased variance of each channel.
#[derive(Clone, Debug)]
pub struct Moments<T = Tensor<1>> {
    /// Of all values of a channel.
    pub mean: T,
    /// Mean squared difference from the mean.
    pub variance: T,
}

/// Moments of the channels of `maps` `[batch, height, width, channels]`.
pub(crate) fn moments(maps: Tensor<4>) -> Moments {
    let [batch, height, width, channels] = maps.dims();
    if ours(&maps) {
        let both: Tensor<2> = Tensor::from_dispatch(<Dispatch as MomentsBackend>::fused_moments(maps.into_dispatch()));
        let row = |row: usize| both.clone().narrow(0, row, 1).reshape([channels]);
        return Moments { mean: row(0), variance: row(1) };
    }
    let maps = maps.reshape([batch * height * width, channels]);
    let mean = maps.clone().mean_dim(0);
    let variance = (maps - mean.clone()).square().mean_dim(0);
    Moments { mean: mean.reshape([channels]), variance: variance.reshape([channels]) }
}

/// Moments of each channel over all images of `pixels` pixels, in the images' order (Chan et al. 1979).
pub(super) fn merge(images: &[ImageMoments], pixels: usize) -> Moments<Vec<f64>> {
    let channels = images.first().map_or(0, |image| image.mean.len());
    let (count, pixels) = (images.len() as f64, pixels as f64);
    let mut merged = Moments { mean: Vec::new(), variance: Vec::new() };
    for channel in 0..channels {
        let mean = images.iter().map(|image| f64::from(image.mean[channel])).sum::<f64>() / count;
        let squares = images
            .iter()
            .map(|image| f64::from(image.squares[channel]) + pixels * (f64::from(image.mean[channel]) - mean).powi(2));
        merged.variance.push(squares.sum::<f64>() / (count * pixels));
        merged.mean.push(mean);
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
        let images = values.par_chunks(height * width * channels).map(|map| channels::moments(map, channels));
        let merged = merge(&images.collect::<Vec<_>>(), height * width);
        flex_tensor(merged.mean.iter().chain(&merged.variance).map(|value| *value as f32).collect(), [2, channels])
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
        let (out, _) = written_in_parts(
            batch * len,
            len,
            || (),
            |(), image, out| (channels::scale(&values[image * len..][..len], &slope, &offset, out), ()),
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
        let results = |moments: &dyn Fn(Tensor<4>) -> Moments| -> [Vec<f32>; 3] {
            let maps = maps.clone().require_grad();
            let Moments { mean, variance } = moments(maps.clone());
            let loss = (mean.clone() * weights.clone() + variance.clone() * weights.clone() * 0.5).sum();
            let gradient = maps.grad(&loss.backward()).unwrap().reshape([360]);
            [mean.inner(), variance.inner(), gradient].map(|tensor| tensor.into_data().try_to_vec().unwrap())
        };
        let plain = |maps: Tensor<4>| {
            let maps = maps.reshape([60, 6]);
            let mean = maps.clone().mean_dim(0);
            let variance = (maps - mean.clone()).square().mean_dim(0);
            Moments { mean: mean.reshape([6]), variance: variance.reshape([6]) }
        };
        for (found, expected) in results(&moments).iter().zip(&results(&plain)) {
            assert_eq!(found.len(), expected.len());
            for (a, b) in found.iter().zip(expected) {
                assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }
}
