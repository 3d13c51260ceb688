//! Stochastic gradient descent with momentum (PyTorch's formulation) over a network's parameters.
//!
//! Burn's own keeps its momentum out of reach; ours lies beside each parameter, so that it can be saved with the weights and cleared where a
//! group of weights became zero.

use burn::tensor::{Gradients, Tensor};

use super::recipe::Phase;
use super::tensors::to_host;
use crate::engine::{SgdOptions, sgd_update};
use crate::network::{Params, Role};

/// The momentum of each parameter that has had a gradient.
#[derive(Clone)]
pub(crate) struct Sgd {
    pub momentum: Params<Option<Tensor<1>>>,
}

impl Sgd {
    /// An optimizer that has taken no step.
    pub fn new(params: &Params<Tensor<1>>) -> Self {
        Self { momentum: params.as_ref().map(|_, _| None) }
    }

    /// One step on every leaf that has a gradient. Quantizer scales `s` are optimized as `log s`: [`sgd_update`] gets the offset from the current
    /// logarithm, so that it starts at 0, and `s` is multiplied by the exponential of what it returns.
    pub fn step(
        &mut self,
        params: &mut Params<Tensor<1>>,
        leaves: Params<Tensor<1>>,
        mut gradients: Gradients,
        phase: &Phase,
        learning_rate: f64,
    ) {
        let clip = phase.clip_norm.and_then(|limit| clip_factor(&leaves, &gradients, limit));
        for (((id, leaf), (_, param)), (_, momentum)) in
            leaves.into_iter().zip(params.as_mut()).zip(self.momentum.as_mut())
        {
            let Some(gradient) = leaf.grad_remove(&mut gradients) else {
                continue;
            };
            let gradient = match clip {
                Some(factor) => gradient * factor,
                None => gradient,
            };
            // The parameter is changed in place where nobody else has it.
            drop(leaf);
            let descent = SgdOptions {
                learning_rate: learning_rate as f32,
                momentum: phase.momentum as f32,
                nesterov: phase.nesterov,
                weight_decay: if id.role == Role::Weight { phase.weight_decay as f32 } else { 0.0 },
            };
            let velocity = momentum.take().unwrap_or_else(|| gradient.zeros_like());
            param.inplace(|param| {
                let (moved, velocity) = if id.role.is_scale() {
                    let (logarithm, velocity) =
                        sgd_update(param.zeros_like(), velocity, gradient * param.clone(), descent);
                    (param * logarithm.exp(), velocity)
                } else {
                    sgd_update(param, velocity, gradient, descent)
                };
                *momentum = Some(velocity);
                moved
            });
        }
    }
}

/// What brings the norm of all gradients together down to `limit`; none where it isn't above.
fn clip_factor(leaves: &Params<Tensor<1>>, gradients: &Gradients, limit: f64) -> Option<f64> {
    let gradients = leaves.iter().filter_map(|(_, leaf)| leaf.grad(gradients));
    // In 64 bits: a sum of millions of squares in 32 stops growing.
    let squares =
        gradients.map(|gradient| to_host(gradient).iter().map(|value| f64::from(*value).powi(2)).sum::<f64>());
    let norm = squares.sum::<f64>().sqrt();
    (norm > limit).then(|| limit / norm)
}

/// An exponential average of a network's parameters (Polyak and Juditsky 1992; with the warm-up of TensorFlow's `ExponentialMovingAverage`).
#[derive(Clone)]
pub(crate) struct Average {
    pub params: Params<Tensor<1>>,
}

/// Steps between two updates of an average, or those of the phase where it has fewer: each passes over all weights, and neighbours in time differ
/// little.
const AVERAGE_EVERY: usize = 8;

impl Average {
    /// Moves towards the network after `step` steps of a phase of `steps`, where it is time; `decay` is that of one step.
    pub fn update(&mut self, params: &Params<Tensor<1>>, decay: f64, step: usize, steps: usize) {
        let every = AVERAGE_EVERY.min(steps);
        if !step.is_multiple_of(every) {
            return;
        }
        let updates = (step / every) as f64;
        let decay = decay.powi(every as i32).min((1.0 + updates) / (10.0 + updates));
        for ((_, average), (_, now)) in self.params.as_mut().into_iter().zip(params.iter()) {
            average.inplace(|average| average * decay + now.clone() * (1.0 - decay));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::super::model::Model;
    use super::super::recipe::{PhaseKind, Recipe};
    use super::*;
    use crate::network::{BatchNorm, ConvId, Graph, Norm, ParamId, Weights, zoo};

    fn resnet20() -> Model {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let params = Params::from_arrays(&graph, &Weights::random(&graph, 1)).unwrap();
        Model::new(&graph, &Recipe::default().image_scale(), &params, &Device::flex())
    }

    /// Steps with the same gradient everywhere: only weights decay, scales learn on their logarithm, statistics don't learn, and the second
    /// step has the first one's momentum.
    #[test]
    fn each_kind_of_parameter_follows_its_rule() {
        let mut params = resnet20().params;
        params.conv_mut(ConvId::Own(0)).weight_scale = Some(Tensor::from_floats([0.5], &Device::flex()));
        let before: Vec<(ParamId, Vec<f32>)> =
            params.iter().map(|(id, tensor)| (id, to_host(tensor.clone()))).collect();
        let phase =
            Phase { momentum: 0.9, nesterov: false, weight_decay: 0.1, ..Phase::new(PhaseKind::Quantize, 1, 0.0) };
        let (gradient, rate) = (0.25, 0.01);
        let mut sgd = Sgd::new(&params);
        for _ in 0..2 {
            let leaves = params.as_ref().map(|id, tensor| {
                let leaf = Tensor::from_inner(tensor.clone());
                if id.role.trains() { leaf.require_grad() } else { leaf }
            });
            let loss = leaves.iter().map(|(_, leaf)| leaf.clone().sum() * gradient).reduce(|a, b| a + b).unwrap();
            sgd.step(&mut params, leaves, loss.backward(), &phase, rate);
        }
        let mut seen = Vec::new();
        for ((id, before), (_, after)) in before.into_iter().zip(params.iter()) {
            seen.push(id.role);
            for (start, found) in before.into_iter().zip(to_host(after.clone())) {
                let (mut velocity, mut expected) = (0.0, f64::from(start));
                for _ in 0..2 {
                    let (slope, at) = match id.role {
                        Role::Weight => (gradient + 0.1 * expected, expected),
                        Role::WeightScale | Role::OutputScale => (gradient * expected, expected.ln()),
                        Role::Gamma | Role::Beta | Role::Bias => (gradient, expected),
                        Role::Mean | Role::Variance => (0.0, expected),
                    };
                    velocity = 0.9 * velocity + slope;
                    let moved = at - rate * velocity;
                    expected = if id.role.is_scale() { moved.exp() } else { moved };
                }
                assert!((f64::from(found) - expected).abs() < 1e-6, "{id:?}: {start} {found} {expected}");
            }
        }
        for role in [Role::Weight, Role::Bias, Role::Gamma, Role::Beta, Role::Mean, Role::WeightScale] {
            assert!(seen.contains(&role), "{role:?}");
        }
    }

    /// A gradient of norm 5 is scaled down to the limit, and left alone below it.
    #[test]
    fn a_gradient_beyond_the_limit_is_scaled_to_it() {
        let device = Device::flex().autodiff();
        let leaves = resnet20().params.map(|id, tensor| match id {
            // The gradient of the sum of squares is twice the value.
            ParamId { conv: ConvId::Own(0), role: Role::Gamma } => {
                Tensor::<1>::from_floats([1.5, 0.0], &device).require_grad()
            }
            ParamId { conv: ConvId::Own(0), role: Role::Beta } => {
                Tensor::<1>::from_floats([2.0], &device).require_grad()
            }
            _ => Tensor::from_inner(tensor),
        });
        let Norm::Batch(BatchNorm { gamma, beta, .. }) = &leaves.conv(ConvId::Own(0)).norm else {
            panic!("a batch norm")
        };
        let gradients = (gamma.clone().square().sum() + beta.clone().square().sum()).backward();
        assert_eq!(clip_factor(&leaves, &gradients, 10.0), None);
        assert!((clip_factor(&leaves, &gradients, 1.0).unwrap() - 0.2).abs() < 1e-6);
    }

    /// The average follows slowly: at first by the warm-up, later by the decay; and only every eighth step.
    #[test]
    fn an_average_follows_the_parameters() {
        let model = resnet20();
        let constant = |value: f64| model.params.as_ref().map(|_, tensor| tensor.zeros_like() + value);
        let mut average = Average { params: constant(0.0) };
        let now = |average: &Average| f64::from(to_host(average.params.conv(ConvId::Own(0)).weight.clone())[0]);
        average.update(&constant(1.0), 0.99, 7, 80_000);
        assert_eq!(now(&average), 0.0);
        average.update(&constant(1.0), 0.99, 8, 80_000);
        assert!((now(&average) - 9.0 / 11.0).abs() < 1e-6, "{}", now(&average));
        let before = now(&average);
        average.update(&constant(0.0), 0.99, 80_000, 80_000);
        assert!((now(&average) - before * 0.99f64.powi(8)).abs() < 1e-6);
        // A phase with fewer steps than that has its last one.
        let mut short = Average { params: constant(0.0) };
        short.update(&constant(1.0), 0.99, 2, 3);
        assert_eq!(now(&short), 0.0);
        short.update(&constant(1.0), 0.99, 3, 3);
        assert!((now(&short) - 9.0 / 11.0).abs() < 1e-6, "{}", now(&short));
    }
}
