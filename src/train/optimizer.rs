//! Stochastic gradient descent with momentum (PyTorch's formulation) over named tensors.
//!
//! Burn's own keeps its momentum out of reach; ours is named, so that it can be saved with the weights and cleared where a group
//! of weights became zero.

use burn::tensor::Gradients;

use super::model::{Model, Tensors};
use super::recipe::Phase;
use crate::engine::{Descent, descend};

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
        for (name, leaf) in leaves {
            let Some(gradient) = leaf.grad_remove(&mut gradients) else {
                continue;
            };
            // The weights are changed in place where nobody else has them.
            drop(leaf);
            let kind = kind(&name);
            let descent = Descent {
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
                        descend(tensor.zeros_like(), velocity, gradient * tensor.clone(), descent);
                    (tensor * logarithm.exp(), velocity)
                }
                Kind::Weight | Kind::Other => descend(tensor, velocity, gradient, descent),
            };
            model.tensors.insert(name.clone(), tensor);
            self.momentum.insert(name, velocity);
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
