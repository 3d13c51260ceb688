//! Tensors of burn's CPU device.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};

pub(super) type FlexTensor = FloatTensor<Flex>;

pub(super) fn flex_tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

pub(super) fn flex_vector(values: Vec<f32>) -> FlexTensor {
    let len = values.len();
    flex_tensor(values, [len])
}

/// True for tensors that our kernels take.
pub(super) fn ours<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex() && x.dtype() == DType::F32
}
