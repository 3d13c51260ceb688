//! The operations, each with its backward pass.

mod block;
mod channels;
mod fake;
mod flex;
mod join;
mod moments;
mod pool;
mod popcount;
mod sgd;

pub(crate) use block::exact_conv;
pub use block::{BlockOutput, Norm, Shortcut, conv_block};
pub(crate) use fake::{Clamp, fake_quantize};
pub use moments::Moments;
pub(crate) use moments::moments;
pub(crate) use pool::{PoolWindow, max_pool};
pub(crate) use popcount::{Digits, digit_sums};
pub(crate) use sgd::{SgdOptions, sgd_update};
