//! Operations that burn's CPU device is too slow at, as backend extensions with their own backward passes.
//!
//! On the device `flex` they run our kernels; on every other device burn's own operations. It knows nothing of networks.

mod conv;
mod direct;
mod fake;
mod kernel;
mod simd;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};

pub use conv::conv2d;
pub(crate) use fake::fake_quantize;

type FlexTensor = FloatTensor<Flex>;

fn flex_tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// True for tensors that our kernels take.
fn ours<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex() && x.dtype() == DType::F32
}
