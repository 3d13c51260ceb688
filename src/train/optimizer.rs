//! Stochastic gradient descent with momentum (PyTorch's formulation) over named tensors.
//!
//! Burn's own keeps its momentum out of reach; ours is named, so that it can be saved with the weights and cleared where a group
//! of weights became zero.

use burn::tensor::{Gradients, Tensor};

use super::model::{Model, Tensors, to_host};
use super::recipe::Phase;
use crate::engine::{SgdOptions, sgd_update};

/// The momentum of each tensor.
#[derive(Default)]
pub(crate) struct Sgd {
    pub momentum: Tensors,
}

impl Sgd {
    /// One step on every leaf that has a gradient. A quantizer's step learns on its logarithm, which `descend` sees as starting from 0.
    pub fn step(
        &mut self,
        model: &mut Model,
        leaves: Tensors,
        mut gradients: Gradients,
        phase: &Phase,
        learning_rate: f64,
    ) {
        let shrinkage = phase.clip_norm.and_then(|limit| shrinkage(&leaves, &gradients, limit));
        for (name, leaf) in leaves {
            let Some(gradient) = leaf.grad_remove(&mut gradients) else {
                continue;
            };
            let gradient = match shrinkage {
                Some(factor) => gradient * factor,
                None => gradient,
            };
            // The weights are changed in place where nobody else has them.
            drop(leaf);
            let kind = kind(&name);
            let descent = SgdOptions {
                learning_rate: learning_rate as f32,
                momentum: phase.momentum as f32,
                nesterov: phase.nesterov,
                weight_decay: if matches!(kind, Kind::Weight) { phase.weight_decay as f32 } else { 0.0 },
            };
            let velocity = self.momentum.remove(&name).unwrap_or_else(|| gradient.zeros_like());
            let tensor = model.tensors.remove(&name).expect("a leaf stands for a tensor");
            let (tensor, velocity) = match kind {
                Kind::Step => {
                    let (logarithm, velocity) =
                        sgd_update(tensor.zeros_like(), velocity, gradient * tensor.clone(), descent);
                    (tensor * logarithm.exp(), velocity)
                }
                Kind::Weight | Kind::Other => sgd_update(tensor, velocity, gradient, descent),
            };
            model.tensors.insert(name.clone(), tensor);
            self.momentum.insert(name, velocity);
        }
    }
}

/// What brings the norm of all gradients together down to `limit`; none where it isn't above.
fn shrinkage(leaves: &Tensors, gradients: &Gradients, limit: f64) -> Option<f64> {
    let squares = leaves.values().filter_map(|leaf| leaf.grad(gradients)).map(|gradient| gradient.square().sum());
    let norm = f64::from(to_host(squares.reduce(|a, b| a + b)?)[0]).sqrt();
    (norm > limit).then(|| limit / norm)
}

/// An exponential average of a network's tensors (Polyak and Juditsky 1992; with the warm-up of TensorFlow's `ExponentialMovingAverage`).
pub(crate) struct Average {
    pub tensors: Tensors,
}

/// Steps between two updates of an average: each passes over all weights, and neighbours in time differ little.
const AVERAGE_EVERY: usize = 8;

impl Average {
    /// Starts from a network as it is.
    pub fn new(model: &Model) -> Self {
        Self { tensors: model.tensors.clone() }
    }

    /// Moves towards the network after `steps` steps of the phase, where it is time; `decay` is that of one step.
    pub fn update(&mut self, model: &Model, decay: f64, steps: usize) {
        if !steps.is_multiple_of(AVERAGE_EVERY) {
            return;
        }
        let updates = (steps / AVERAGE_EVERY) as f64;
        let decay = decay.powi(AVERAGE_EVERY as i32).min((1.0 + updates) / (10.0 + updates));
        for (name, average) in &mut self.tensors {
            let now = model.tensors[name].clone();
            average.inplace(|average: Tensor<1>| average * decay + now * (1.0 - decay));
        }
    }
}

/// How a tensor learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// With weight decay.
    Weight,
    /// On its logarithm: a step stays positive, and how fast it learns doesn't depend on the units of what it quantizes.
    Step,
    /// Batch norm and biases.
    Other,
}

fn kind(name: &str) -> Kind {
    if name.ends_with(".weight") {
        Kind::Weight
    } else if name.ends_with("_step") {
        Kind::Step
    } else {
        Kind::Other
    }
}

/// Running statistics are not trained.
pub(crate) fn trains(name: &str) -> bool {
    !name.ends_with(".mean") && !name.ends_with(".var")
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::super::model::to_host;
    use super::super::recipe::{PhaseKind, Recipe};
    use super::*;
    use crate::network::{Array, Graph, Weights, zoo};

    /// Steps with the same gradient everywhere: only weights decay, steps learn on their logarithm, statistics don't learn, and the second
    /// step has the first one's momentum.
    #[test]
    fn each_kind_of_parameter_follows_its_rule() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let picture = Recipe::default().picture_scale();
        let mut model = Model::new(&graph, &picture, &Weights::random(&graph, 1), &Device::flex());
        model.insert("conv1.weight_step", &Array::vector(vec![0.5]));
        let before = model.tensors.clone();
        let phase =
            Phase { momentum: 0.9, nesterov: false, weight_decay: 0.1, ..Phase::new(PhaseKind::Quantize, 1, 0.0) };
        let (gradient, rate) = (0.25, 0.01);
        let mut sgd = Sgd::default();
        let mut step = |model: &mut Model| {
            let leaf = |(name, tensor): (&String, &Tensor<1>)| {
                let leaf = Tensor::from_inner(tensor.clone());
                (name.clone(), if trains(name) { leaf.require_grad() } else { leaf })
            };
            let leaves: Tensors = model.tensors.iter().map(leaf).collect();
            let loss = leaves.values().map(|leaf| leaf.clone().sum() * gradient).reduce(|a, b| a + b).unwrap();
            sgd.step(model, leaves, loss.backward(), &phase, rate);
        };
        let rule = |name: &str, value: f64, velocity: &mut f64| {
            let (slope, at) = match kind(name) {
                Kind::Weight => (gradient + 0.1 * value, value),
                Kind::Step => (gradient * value, value.ln()),
                Kind::Other => (gradient, value),
            };
            *velocity = 0.9 * *velocity + slope;
            let moved = at - rate * *velocity;
            if matches!(kind(name), Kind::Step) { moved.exp() } else { moved }
        };
        step(&mut model);
        step(&mut model);
        for (name, expected) in [
            ("conv1.weight", Kind::Weight),
            ("conv1.gamma", Kind::Other),
            ("linear.bias", Kind::Other),
            ("conv1.weight_step", Kind::Step),
        ] {
            assert_eq!(kind(name), expected, "{name}");
            for (start, found) in to_host(before[name].clone()).iter().zip(to_host(model.tensors[name].clone())) {
                let mut velocity = 0.0;
                let once = rule(name, f64::from(*start), &mut velocity);
                let twice = rule(name, once, &mut velocity);
                assert!((f64::from(found) - twice).abs() < 1e-6, "{name}: {start} {found} {twice}");
            }
        }
        for name in ["conv1.mean", "conv1.var"] {
            assert_eq!(to_host(model.tensors[name].clone()), to_host(before[name].clone()));
        }
    }

    fn constant(model: &Model, value: f64) -> Tensors {
        let tensors = model.tensors.iter();
        tensors.map(|(name, tensor)| (name.clone(), tensor.zeros_like() + value)).collect()
    }

    /// Two tensors whose gradients have norms 3 and 4 are scaled down together, and left alone below the limit.
    #[test]
    fn a_gradient_beyond_the_limit_is_scaled_to_it() {
        let device = Device::flex().autodiff();
        let leaf =
            |name: &str, values: &[f32]| (name.to_string(), Tensor::<1>::from_floats(values, &device).require_grad());
        let leaves: Tensors = [leaf("a", &[1.5, 0.0]), leaf("b", &[2.0])].into();
        let loss = leaves.values().map(|leaf| leaf.clone().square().sum()).reduce(|a, b| a + b).unwrap();
        let gradients = loss.backward();
        assert_eq!(shrinkage(&leaves, &gradients, 10.0), None);
        assert!((shrinkage(&leaves, &gradients, 1.0).unwrap() - 0.2).abs() < 1e-6);
    }

    /// The average follows slowly: at first by the warm-up, later by the decay; and only every eighth step.
    #[test]
    fn an_average_follows_the_parameters() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let picture = Recipe::default().picture_scale();
        let mut model = Model::new(&graph, &picture, &Weights::random(&graph, 1), &Device::flex());
        model.tensors = constant(&model, 0.0);
        let mut average = Average::new(&model);
        model.tensors = constant(&model, 1.0);
        let now = |average: &Average| f64::from(to_host(average.tensors["conv1.weight"].clone())[0]);
        average.update(&model, 0.99, 7);
        assert_eq!(now(&average), 0.0);
        average.update(&model, 0.99, 8);
        assert!((now(&average) - 9.0 / 11.0).abs() < 1e-6, "{}", now(&average));
        model.tensors = constant(&model, 0.0);
        let before = now(&average);
        average.update(&model, 0.99, 80_000);
        assert!((now(&average) - before * 0.99f64.powi(8)).abs() < 1e-6);
    }
}
