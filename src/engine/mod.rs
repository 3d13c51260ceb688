//! Operations that burn's CPU device is too slow at, as backend extensions with their own backward passes.
//!
//! On the device `flex` they run our kernels; on every other device burn's own operations. It knows nothing of networks.
//!
//! | module | what |
//! |---|---|
//! | `block` | a layer in one operation: [`conv_block`] |
//! | `fake` | the fake quantizer in one pass |
//! | `moments` | mean and variance of each channel |
//! | `pool` | max pooling |
//! | `descent` | the optimizer's step |
//! | `ones` | sums of digits whose bits lie in words |
//! | `conv` | convolution of a batch: algorithms, division among threads |
//! | `winograd`, `direct` | the algorithms |
//! | `product` | the inner loop of both |
//! | `channels`, `join` | batch norm, ReLU, residual sum |
//! | `parallel` | threads |

mod block;
mod channels;
mod conv;
mod descent;
mod direct;
mod fake;
mod join;
mod moments;
mod ones;
mod parallel;
mod pool;
mod product;
mod winograd;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Device, Tensor, TensorData};

pub(crate) use block::exact_conv;
pub use block::{BlockOutput, Norm, Shortcut, conv_block};
pub(crate) use descent::{Descent, descend};
pub(crate) use fake::fake_quantize;
pub(crate) use moments::moments;
pub(crate) use ones::{Digits, digit_sums};
pub(crate) use pool::{Window, max_pool};

type FlexTensor = FloatTensor<Flex>;

fn flex_tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// True for tensors that our kernels take.
fn ours<const D: usize>(x: &Tensor<D>) -> bool {
    x.device() == Device::flex() && x.dtype() == DType::F32
}
