//! Stochastic gradient descent with momentum (PyTorch's formulation) over named tensors.
//!
//! Burn's own keeps its momentum out of reach; ours is named, so that it can be saved with the weights and cleared where a group
//! of weights became zero.

use burn::tensor::{Gradients, Tensor};

use super::model::{Model, Tensors};
use super::recipe::Phase;

/// The momentum of each tensor.
#[derive(Default)]
pub(crate) struct Sgd {
    pub momentum: Tensors,
}

impl Sgd {
    /// One step on every leaf that has a gradient: `v = mu v + g`, `w -= lr (g + mu v)` with Nesterov, `w -= lr v` without.
    pub fn step(
        &mut self,
        model: &mut Model,
        leaves: &Tensors,
        mut gradients: Gradients,
        phase: &Phase,
        learning_rate: f64,
    ) {
        for (name, leaf) in leaves {
            let Some(gradient) = leaf.grad_remove(&mut gradients) else {
                continue;
            };
            let tensor = model.tensors.get_mut(name).expect("a leaf stands for a tensor");
            let gradient = match kind(name) {
                Kind::Weight => gradient + tensor.clone() * phase.weight_decay,
                Kind::Step => gradient * tensor.clone(),
                Kind::Other => gradient,
            };
            let velocity = match self.momentum.remove(name) {
                Some(velocity) => velocity * phase.momentum + gradient.clone(),
                None => gradient.clone(),
            };
            let step: Tensor<1> =
                if phase.nesterov { gradient + velocity.clone() * phase.momentum } else { velocity.clone() };
            self.momentum.insert(name.clone(), velocity);
            tensor.inplace(|tensor| match kind(name) {
                Kind::Step => tensor * (step * -learning_rate).exp(),
                _ => tensor - step * learning_rate,
            });
        }
    }
}

/// How a tensor learns.
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
