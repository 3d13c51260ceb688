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

pub use block::{BlockOutput, Norm, Shortcut, conv_block};
pub(crate) use block::{Form, Forms, MAX_FORMS, conv_block_forms, exact_conv};
pub(crate) use fake::{Grid, fake_quantize};
pub use moments::Moments;
pub(crate) use moments::moments;
pub(crate) use pool::{PoolOptions, max_pool};
pub(crate) use popcount::{Digits, digit_sums};
pub(crate) use sgd::{SgdOptions, sgd_update};

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::simd::on_each_isa;

    /// The order of their sums is fixed, and no product is fused with a sum.
    #[test]
    fn passes_over_values_give_the_same_bits_with_every_instruction_set() {
        let numbers = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().unwrap();
        let run = || {
            let values: Vec<f32> = (0..3 * 5 * 7 * 19).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
            let device = Device::flex().autodiff();
            let x = Tensor::<1>::from_floats(&*values, &device).require_grad();
            let scale = Tensor::<1>::from_floats([0.3], &device).require_grad();
            let maps = fake_quantize(x.clone(), scale.clone(), Grid { low: -7.0, high: 7.0, scale_gradient: 0.1 });
            let maps = maps.reshape([3, 5, 7, 19]);
            let Moments { mean, variance } = moments(maps.clone());
            let pooled = max_pool(maps, PoolOptions { kernel: [2; 2], stride: [2; 2], padding: [[1; 2]; 2] });
            let loss = (mean * variance).sum() + (pooled.clone() * pooled).sum();
            let grads = loss.clone().backward();
            let gradient = x.grad(&grads).unwrap();
            let options = SgdOptions { learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.01 };
            let (x, velocity) = sgd_update(x.inner(), gradient.clone() * 0.5, gradient.clone(), options);
            [loss.inner(), gradient, scale.grad(&grads).unwrap(), x, velocity].map(numbers)
        };
        let results = on_each_isa(run);
        for (isa, result) in &results {
            assert!(*result == results[0].1, "{isa:?}");
        }
    }
}
