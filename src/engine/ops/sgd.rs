//! An update of stochastic gradient descent in one pass over the weights.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::flex::{FlexTensor, ours};
use crate::simd::vectorized;

/// Floats that a thread works on together.
const PART: usize = 1 << 14;

/// How weights follow their gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SgdOptions {
    pub learning_rate: f32,
    pub momentum: f32,
    pub nesterov: bool,
    pub weight_decay: f32,
}

/// Weights and velocity after a step: `g' = g + decay w`, `v' = momentum v + g'`, `w' = w - rate d` with `d = g' + momentum v'` for
/// Nesterov's momentum, `d = v'` without (PyTorch's formulation).
pub(crate) fn sgd_update(
    weights: Tensor<1>,
    velocity: Tensor<1>,
    gradient: Tensor<1>,
    sgd: SgdOptions,
) -> (Tensor<1>, Tensor<1>) {
    if ours(&weights) {
        let [weights, velocity, gradient] = [weights, velocity, gradient].map(Tensor::into_dispatch);
        let (weights, velocity) = <Dispatch as SgdBackend>::sgd_update(weights, velocity, gradient, sgd);
        return (Tensor::from_dispatch(weights), Tensor::from_dispatch(velocity));
    }
    let SgdOptions { learning_rate, momentum, nesterov, weight_decay } = sgd;
    let gradient = gradient + weights.clone() * weight_decay;
    let velocity = velocity * momentum + gradient.clone();
    let step = if nesterov { gradient + velocity.clone() * momentum } else { velocity.clone() };
    (weights - step * learning_rate, velocity)
}

#[backend_extension(Flex)]
trait SgdBackend: Backend {
    fn sgd_update(
        weights: FloatTensor<Self>,
        velocity: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        sgd: SgdOptions,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl SgdBackend for Flex {
    fn sgd_update(
        weights: FlexTensor,
        velocity: FlexTensor,
        gradient: FlexTensor,
        sgd: SgdOptions,
    ) -> (FlexTensor, FlexTensor) {
        let [mut weights, mut velocity, gradient] = [weights, velocity, gradient].map(|tensor| tensor.to_contiguous());
        let parts = weights.storage_mut::<f32>().par_chunks_mut(PART);
        let parts = parts.zip(velocity.storage_mut::<f32>().par_chunks_mut(PART));
        parts.zip(gradient.storage::<f32>().par_chunks(PART)).for_each(|((weights, velocity), gradient)| {
            step(weights, velocity, gradient, sgd);
        });
        (weights, velocity)
    }
}

vectorized! {
    /// One step of some weights.
    fn step(weights: &mut [f32], velocity: &mut [f32], gradient: &[f32], sgd: SgdOptions) {
        let SgdOptions { learning_rate, momentum, nesterov, weight_decay } = sgd;
        // Of the gradient and the velocity in what is subtracted.
        let (slope, carry) = if nesterov { (1.0, momentum) } else { (0.0, 1.0) };
        for ((weight, velocity), gradient) in weights.iter_mut().zip(velocity).zip(gradient) {
            let gradient = *gradient + *weight * weight_decay;
            *velocity = *velocity * momentum + gradient;
            *weight -= (gradient * slope + *velocity * carry) * learning_rate;
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    #[expect(deprecated, reason = "burn's ndarray backend is the cross-check of ours")]
    fn one_pass_gives_what_the_formula_gives() {
        for nesterov in [false, true] {
            let sgd = SgdOptions { learning_rate: 0.1, momentum: 0.9, nesterov, weight_decay: 0.01 };
            let random = || Tensor::<1>::random([3 * PART + 5], Distribution::Default, &Device::flex()).into_data();
            let data = [random(), random(), random()];
            let run = |device: &Device| {
                let [weights, velocity, gradient] = data.clone().map(|data| Tensor::<1>::from_data(data, device));
                let (weights, velocity) = sgd_update(weights, velocity, gradient, sgd);
                [weights, velocity].map(|tensor| tensor.into_data().convert::<f32>())
            };
            for (found, expected) in run(&Device::flex()).iter().zip(&run(&Device::ndarray())) {
                found.assert_approx_eq::<f32>(expected, burn::tensor::Tolerance::absolute(1e-6));
            }
        }
    }
}
