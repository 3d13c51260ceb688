//! Convolution.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn::tensor::module::conv2d as burn_conv2d;
use burn::tensor::ops::ConvOptions;

use super::direct::Conv;
use super::{FlexTensor, flex_tensor, ours};

/// 2-d convolution without bias: `x` `[batch, channels, height, width]`, `weight` `[filters, channels, kernel height, kernel
/// width]`, the same stride and zero padding both ways.
///
/// Sums are plain `f32` products in a fixed order (no Winograd or FFT): exact for integers as long as they stay below `2^24`.
///
/// # Panics
/// If the shapes don't fit each other, as burn's own convolution does.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
    if ours(&x) {
        let out = <Dispatch as ConvBackend>::direct_conv2d(x.into_dispatch(), weight.into_dispatch(), stride, padding);
        return Tensor::from_dispatch(out);
    }
    burn_conv2d(x, weight, None, ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1))
}

#[backend_extension(Flex, Autodiff)]
trait ConvBackend: Backend {
    fn direct_conv2d(x: FloatTensor<Self>, w: FloatTensor<Self>, stride: usize, padding: usize) -> FloatTensor<Self>;
}

fn geometry(x: &FlexTensor, w: &FlexTensor, stride: usize, padding: usize) -> Conv {
    let [batch, channels, height, width] = x.shape().dims();
    let [filters, weight_channels, kernel_height, kernel_width] = w.shape().dims();
    assert_eq!(channels, weight_channels, "input channels of the picture and of the weights");
    assert!(height + 2 * padding >= kernel_height && width + 2 * padding >= kernel_width, "kernel larger than the map");
    Conv { batch, channels, height, width, filters, kernel: [kernel_height, kernel_width], stride, padding }
}

impl ConvBackend for Flex {
    fn direct_conv2d(x: FlexTensor, w: FlexTensor, stride: usize, padding: usize) -> FlexTensor {
        let conv = geometry(&x, &w, stride, padding);
        let out = conv.forward(x.to_contiguous().storage(), w.to_contiguous().storage());
        flex_tensor(out, [conv.batch, conv.filters, conv.out_height(), conv.out_width()])
    }
}

#[derive(Debug)]
struct ConvBackward;

impl Backward<Flex, 2> for ConvBackward {
    type State = (FlexTensor, FlexTensor, Conv);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, w_node] = ops.parents;
        let (x, w, conv) = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        if let Some(node) = x_node {
            let gradient = conv.input_gradient(w.to_contiguous().storage(), gradient.storage());
            let gradient = flex_tensor(gradient, [conv.batch, conv.channels, conv.height, conv.width]);
            grads.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = w_node {
            let gradient = conv.weight_gradient(x.to_contiguous().storage(), gradient.storage());
            let [height, width] = conv.kernel;
            grads.register::<Flex>(node.id, flex_tensor(gradient, [conv.filters, conv.channels, height, width]));
        }
    }
}

impl<C: CheckpointStrategy> ConvBackend for Autodiff<Flex, C> {
    fn direct_conv2d(x: FloatTensor<Self>, w: FloatTensor<Self>, stride: usize, padding: usize) -> FloatTensor<Self> {
        let conv = geometry(x.primitive(), w.primitive(), stride, padding);
        match ConvBackward.prepare::<C>([x.node(), w.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (x, w) = (x.primitive().clone(), w.primitive().clone());
                let out = Flex::direct_conv2d(x.clone(), w.clone(), stride, padding);
                prep.finish((x, w, conv), out)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(Flex::direct_conv2d(x.into_primitive(), w.into_primitive(), stride, padding))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use proptest::prelude::*;

    use super::*;

    fn tensor<const D: usize>(shape: [usize; D], seed: u32) -> Tensor<D> {
        let values = (0..shape.iter().product::<usize>() as u32).map(|i| {
            let mixed = (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
            mixed as f32 / (1 << 23) as f32 - 1.0
        });
        Tensor::from_data(TensorData::new(values.collect(), shape), &Device::flex().autodiff())
    }

    /// Output, input gradient and weight gradient of a loss that weighs each output differently.
    fn results(conv: impl Fn(Tensor<4>, Tensor<4>) -> Tensor<4>, x: Tensor<4>, w: Tensor<4>) -> [Vec<f32>; 3] {
        let (x, w) = (x.require_grad(), w.require_grad());
        let out = conv(x.clone(), w.clone());
        let grads = (out.clone() * tensor(out.dims(), 3)).sum().backward();
        [out, x.grad(&grads).unwrap(), w.grad(&grads).unwrap()].map(|t| t.into_data().try_to_vec().unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn our_convolution_and_its_gradients_equal_burns(
            batch in 1usize..4, channels in 1usize..20, filters in 1usize..40,
            height in 1usize..12, width in 1usize..12,
            kernel_height in 1usize..4, kernel_width in 1usize..4,
            stride in 1usize..4, padding in 0usize..3,
        ) {
            prop_assume!(height + 2 * padding >= kernel_height && width + 2 * padding >= kernel_width);
            let x = tensor([batch, channels, height, width], 1);
            let w = tensor([filters, channels, kernel_height, kernel_width], 2);
            let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], 1);
            let expected = results(|x, w| burn_conv2d(x, w, None, options.clone()), x.clone(), w.clone());
            let found = results(|x, w| conv2d(x, w, stride, padding), x, w);
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert_eq!(found.len(), expected.len());
                for (a, b) in found.iter().zip(expected) {
                    prop_assert!((a - b).abs() <= 1e-4 * (1.0 + b.abs()), "{} {}", a, b);
                }
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| results(|x, w| conv2d(x, w, 1, 1), tensor([19, 8, 9, 9], 1), tensor([24, 8, 3, 3], 2)))
        };
        assert!(run(1) == run(3));
    }
}
