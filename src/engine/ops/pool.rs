//! Max pooling of maps, forward and backward.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;

use super::flex::{FlexTensor, flex_tensor, ours};
use crate::engine::parallel::in_parts;
use crate::simd::vectorized;

/// How a pooling layer's windows move over the map. What has two sides is for rows first, then for columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolOptions {
    /// Height and width of a window.
    pub kernel: [usize; 2],
    /// Pixels from one window to the next.
    pub stride: [usize; 2],
    /// `[[top, bottom], [left, right]]`.
    pub padding: [[usize; 2]; 2],
}

impl PoolOptions {
    /// Burn's options for the same windows.
    fn burn_options(self) -> MaxPoolOptions<2> {
        let padding = self.padding.map(|[before, behind]| (before, behind));
        MaxPoolOptions::new(self.kernel).with_stride(self.stride).with_padding_pairs(padding)
    }
}

/// Largest value of each window of `maps` `[batch, height, width, channels]`. The gradient goes to the first of equal ones.
pub(crate) fn max_pool(maps: Tensor<4>, window: PoolOptions) -> Tensor<4> {
    if ours(&maps) {
        return Tensor::from_dispatch(<Dispatch as PoolBackend>::max_pool_channels_last(maps.into_dispatch(), window));
    }
    max_pool2d(maps.permute([0, 3, 1, 2]), window.burn_options()).permute([0, 2, 3, 1])
}

#[backend_extension(Flex, Autodiff)]
trait PoolBackend: Backend {
    fn max_pool_channels_last(maps: FloatTensor<Self>, window: PoolOptions) -> FloatTensor<Self>;
}

/// Geometry of one map.
#[derive(Clone, Copy)]
struct Pool {
    window: PoolOptions,
    height: usize,
    width: usize,
    channels: usize,
}

impl Pool {
    fn new(maps: &FlexTensor, window: PoolOptions) -> (usize, Self) {
        let [batch, height, width, channels] = maps.shape().dims();
        (batch, Self { window, height, width, channels })
    }

    /// Rows or columns of the output.
    fn out(&self, side: usize) -> usize {
        let PoolOptions { kernel, stride, padding } = self.window;
        let [before, behind] = padding[side];
        ([self.height, self.width][side] + before + behind - kernel[side]) / stride[side] + 1
    }

    fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn out_len(&self) -> usize {
        self.out(0) * self.out(1) * self.channels
    }

    /// Offsets of the pixels in the window of an output pixel, row by row.
    fn pixels(self, pixel: usize) -> impl Iterator<Item = usize> {
        let PoolOptions { kernel, stride, padding } = self.window;
        let reach = move |at: usize, side: usize, size: usize| {
            let (first, [before, _]) = (at * stride[side], padding[side]);
            first.saturating_sub(before)..(first + kernel[side]).saturating_sub(before).min(size)
        };
        let (y, x) = (pixel / self.out(1), pixel % self.out(1));
        let columns = reach(x, 1, self.width);
        reach(y, 0, self.height).flat_map(move |y| columns.clone().map(move |x| (y * self.width + x) * self.channels))
    }

    fn forward(self, map: &[f32], out: &mut [f32]) {
        for (pixel, out) in out.chunks_mut(self.channels).enumerate() {
            out.fill(f32::NEG_INFINITY);
            self.pixels(pixel).for_each(|place| larger(out, &map[place..][..self.channels]));
        }
    }

    fn backward(self, map: &[f32], out: &[f32], gradient: &[f32], map_gradient: &mut [f32]) {
        let mut pending = vec![0.0; self.channels];
        for (pixel, out) in out.chunks(self.channels).enumerate() {
            pending.copy_from_slice(&gradient[pixel * self.channels..][..self.channels]);
            for place in self.pixels(pixel) {
                let place = place..place + self.channels;
                hand_over(&mut pending, &map[place.clone()], out, &mut map_gradient[place]);
            }
        }
    }
}

vectorized! {
    /// `out = max(out, other)`; what isn't a number stays so.
    fn larger(out: &mut [f32], other: &[f32]) {
        for (out, other) in out.iter_mut().zip(other) {
            *out = if *other <= *out || out.is_nan() { *out } else { *other };
        }
    }

    /// Adds what is pending where the value is the window's largest; then it is no longer pending.
    fn hand_over(pending: &mut [f32], map: &[f32], largest: &[f32], gradient: &mut [f32]) {
        for (((pending, value), largest), gradient) in pending.iter_mut().zip(map).zip(largest).zip(gradient) {
            let (given, kept) = if value == largest { (*pending, 0.0) } else { (0.0, *pending) };
            *gradient += given;
            *pending = kept;
        }
    }
}

impl PoolBackend for Flex {
    fn max_pool_channels_last(maps: FlexTensor, window: PoolOptions) -> FlexTensor {
        let maps = maps.to_contiguous();
        let (batch, pool) = Pool::new(&maps, window);
        let values: &[f32] = maps.storage();
        let make =
            |(): &mut (), image: usize, out: &mut [f32]| pool.forward(&values[image * pool.len()..][..pool.len()], out);
        let (out, _) = in_parts(batch * pool.out_len(), pool.out_len(), || (), make);
        flex_tensor(out, [batch, pool.out(0), pool.out(1), pool.channels])
    }
}

#[derive(Debug)]
struct PoolBackward;

impl Backward<Flex, 1> for PoolBackward {
    /// The maps, and what was made of them.
    type State = (FlexTensor, FlexTensor, PoolOptions);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (maps, out, window) = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [Some(parent)] = ops.parents else {
            return;
        };
        let maps = maps.to_contiguous();
        let (batch, pool) = Pool::new(&maps, window);
        let (values, out, gradient): (&[f32], &[f32], &[f32]) = (maps.storage(), out.storage(), gradient.storage());
        let make = |(): &mut (), image: usize, map_gradient: &mut [f32]| {
            let own = |len: usize| image * len..(image + 1) * len;
            let of_out = own(pool.out_len());
            pool.backward(&values[own(pool.len())], &out[of_out.clone()], &gradient[of_out], map_gradient);
        };
        let (map_gradient, _) = in_parts(batch * pool.len(), pool.len(), || (), make);
        let shape = [batch, pool.height, pool.width, pool.channels];
        grads.register::<Flex>(parent.id, flex_tensor(map_gradient, shape));
    }
}

impl<C: CheckpointStrategy> PoolBackend for Autodiff<Flex, C> {
    fn max_pool_channels_last(maps: FloatTensor<Self>, window: PoolOptions) -> FloatTensor<Self> {
        let node = maps.node();
        let maps = maps.into_primitive();
        let out = Flex::max_pool_channels_last(maps.clone(), window);
        match PoolBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((maps, out.clone(), window), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn pooling_and_its_gradient_equal_burns_operations(
            batch in 1usize..4, size in [1usize..9, 1usize..9], channels in 1usize..20,
            kernel in [1usize..4, 1usize..4], stride in [1usize..4, 1usize..4], padding in [[0usize..3, 0usize..3], [0usize..3, 0usize..3]],
        ) {
            let fits = |side: usize| size[side] + padding[side][0] + padding[side][1] >= kernel[side];
            prop_assume!((0..2).all(|side| padding[side].iter().all(|padding| *padding < kernel[side]) && fits(side)));
            let window = PoolOptions { kernel, stride, padding };
            let random = |device: &Device| {
                let maps = Tensor::<4>::random([batch, size[0], size[1], channels], Distribution::Uniform(-4.0, 4.0), device);
                // Equal values among them.
                maps.round()
            };
            let maps = random(&Device::flex()).into_data();
            let run = |pool: &dyn Fn(Tensor<4>) -> Tensor<4>| {
                let maps = Tensor::<4>::from_data(maps.clone(), &Device::flex().autodiff()).require_grad();
                let out = pool(maps.clone());
                let gradient = (out.clone() * out.clone()).sum().backward();
                (out.into_data(), maps.grad(&gradient).unwrap().into_data())
            };
            let ours = run(&|maps| max_pool(maps, window));
            let burns = run(&|maps| max_pool2d(maps.permute([0, 3, 1, 2]), window.burn_options()).permute([0, 2, 3, 1]));
            prop_assert_eq!(ours, burns);
        }
    }

    /// A network that diverged mustn't look as if it hadn't.
    #[test]
    fn what_is_not_a_number_stays_so_wherever_in_the_window_it_is() {
        let window = PoolOptions { kernel: [2, 2], stride: [2, 2], padding: [[0, 0], [0, 0]] };
        for place in 0..4 {
            let mut values = [1.0, -2.0, 3.0, 0.5];
            values[place] = f32::NAN;
            let maps = Tensor::<4>::from_data(TensorData::new(values.to_vec(), [1, 2, 2, 1]), &Device::flex());
            let largest = max_pool(maps, window).into_data().try_to_vec::<f32>().unwrap();
            assert!(largest[0].is_nan(), "{place}: {largest:?}");
        }
    }
}
