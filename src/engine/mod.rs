//! Operations that burn's CPU device is too slow at, as backend extensions with their own backward passes.
//!
//! On the device `flex` they run our kernels; on every other device burn's own operations. It knows nothing of networks.
//!
//! | module | what |
//! |---|---|
//! | `ops::block` | a layer in one operation: [`conv_block`] |
//! | `ops::fake` | the fake quantizer in one pass |
//! | `ops::moments` | mean and variance of each channel |
//! | `ops::pool` | max pooling |
//! | `ops::sgd` | the optimizer's update |
//! | `ops::popcount` | bit-serial dot products |
//! | `ops::channels`, `ops::join` | batch norm, ReLU, residual sum |
//! | `conv::batch` | convolution of a batch: choice of the algorithm, division among threads |
//! | `conv::algorithm` | what a way to compute a convolution offers |
//! | `conv::winograd`, `conv::direct`, `conv::grouped` | the ways |
//! | `conv::product` | the inner loop of the first two |
//! | `conv::geometry` | shapes |
//! | `ops::flex` | tensors of the device `flex` |
//! | `parallel` | results made in parts by all threads |

mod conv;
mod ops;
mod parallel;

pub use conv::ConvOptions;
pub use ops::{BlockOutput, Moments, Norm, Shortcut, conv_block};
pub(crate) use ops::{
    Digits, Form, Forms, Grid, MAX_FORMS, PoolOptions, SgdOptions, conv_block_forms, digit_sums, exact_conv,
    fake_quantize, max_pool, moments, sgd_update,
};
