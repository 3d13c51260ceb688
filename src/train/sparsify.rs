//! Group sparsity in the loop: the one place that applies penalty and masks to the model and to the optimizer's momentum.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};

use super::model::{Model, Tensors, to_host};
use super::optimizer::Sgd;
use crate::network::{BATCH_NORM_EPSILON, Graph};
use crate::sparsity::{GroupGrid, GroupShape, Lasso, keep_best};

/// Share of a phase that only looks at what each group does, before the first one goes.
const LOOK: f64 = 0.1;
/// Share of a phase over which the target is then approached; the rest trains with it reached.
const RAMP: f64 = 0.25;

/// Groups of all convolutions, and which of them are kept.
pub(super) struct Sparsity {
    lassos: BTreeMap<String, (GroupGrid, Lasso)>,
    kept: BTreeMap<String, Vec<bool>>,
    masks: BTreeMap<String, Tensor<1>>,
    /// Sums of each group's effect on the loss so far, `[groups]`.
    effects: Tensors,
    device: Device,
}

impl Sparsity {
    pub fn new(graph: &Graph, group: GroupShape, device: &Device) -> Self {
        let lassos = graph
            .convs()
            .map(|(name, conv)| {
                let grid = GroupGrid::new(group, &conv);
                (name, (grid, Lasso::new(grid, device)))
            })
            .collect();
        Self { lassos, kept: BTreeMap::new(), masks: BTreeMap::new(), effects: Tensors::new(), device: device.clone() }
    }

    /// Which groups are kept, by convolution; empty while nothing is masked.
    pub fn kept(&self) -> &BTreeMap<String, Vec<bool>> {
        &self.kept
    }

    /// Sums of each group's effect on the loss so far, by convolution.
    pub fn effects(&self) -> &Tensors {
        &self.effects
    }

    /// Takes over masks and effects from a checkpoint.
    pub fn restore(&mut self, kept: BTreeMap<String, Vec<bool>>, effects: Tensors) -> std::result::Result<(), String> {
        self.effects = effects;
        for (name, kept) in &kept {
            let groups = self.lassos.get(name).map_or(0, |(grid, _)| grid.groups());
            if groups != kept.len() {
                return Err(format!(
                    "it has {} groups of `{name}`, the network and hardware have {groups}",
                    kept.len()
                ));
            }
        }
        self.set(kept);
        Ok(())
    }

    /// The proximal step of the group lasso: `threshold` is the learning rate times lambda.
    pub fn shrink(&self, model: &mut Model, optimizer: &mut Sgd, threshold: f64) {
        if threshold == 0.0 {
            return;
        }
        for (name, (_, lasso)) in &self.lassos {
            let factors = lasso.shrinkage(folded(model, name), threshold);
            let alive = factors.clone().greater_elem(0.0).float();
            multiply(model, optimizer, name, factors, alive);
        }
    }

    /// Notes what each group does to the loss in this step; `gradient` gives that of an array.
    pub fn observe(&mut self, model: &Model, gradient: impl Fn(&str) -> Option<Tensor<1>>) {
        for (name, (_, lasso)) in &self.lassos {
            let array = format!("{name}.weight");
            let Some(gradient) = gradient(&array) else { continue };
            let effects = lasso.effects(model.tensors[&array].clone(), gradient);
            let sum = match self.effects.remove(name) {
                Some(sum) => sum + effects,
                None => effects,
            };
            self.effects.insert(name.clone(), sum);
        }
    }

    /// Masks the groups that matter least to the loss, so that the share of zero groups follows a cubic ramp to `target`
    /// (Zhu and Gupta 2017); `progress` runs from 0 to 1 over the phase.
    pub fn approach(&mut self, target: f64, progress: f64) {
        let ramp = ((progress - LOOK) / RAMP).clamp(0.0, 1.0);
        let reached = self.kept.values().flatten().filter(|kept| !**kept).count();
        let total: usize = self.lassos.values().map(|(grid, _)| grid.groups()).sum();
        let wanted = target * (1.0 - (1.0 - ramp).powi(3));
        if (wanted * total as f64).round() as usize <= reached {
            return;
        }
        let scores: Vec<Vec<f32>> = self.lassos.keys().map(|name| self.scores(name)).collect();
        let kept = keep_best(&scores, wanted);
        self.set(self.lassos.keys().cloned().zip(kept).collect());
    }

    /// Effects of a convolution's groups; those that are masked stay last.
    fn scores(&self, name: &str) -> Vec<f32> {
        let mut scores = to_host(self.effects[name].clone());
        for (score, _) in scores.iter_mut().zip(self.kept.get(name).into_iter().flatten()).filter(|(_, kept)| !**kept) {
            *score = -1.0;
        }
        scores
    }

    /// Ends the choice: what is zero now stays zero.
    pub fn freeze(&mut self, model: &Model) {
        let kept = self.zero_map(model);
        self.set(kept);
    }

    /// Sets masked weights and their momentum to zero.
    pub fn apply(&self, model: &mut Model, optimizer: &mut Sgd) {
        for (name, mask) in &self.masks {
            multiply(model, optimizer, name, mask.clone(), mask.clone());
        }
    }

    /// Share of all groups that are zero.
    pub fn zero_share(&self, model: &Model) -> f64 {
        let kept = self.zero_map(model);
        let total: usize = kept.values().map(Vec::len).sum();
        kept.values().flatten().filter(|kept| !**kept).count() as f64 / total as f64
    }

    /// `sum_g sqrt|g| * ||w'_g||` over all groups.
    pub fn penalty(&self, model: &Model) -> f64 {
        self.lassos.iter().map(|(name, (_, lasso))| f64::from(to_host(lasso.penalty(folded(model, name)))[0])).sum()
    }

    fn zero_map(&self, model: &Model) -> BTreeMap<String, Vec<bool>> {
        let kept = self.lassos.iter().map(|(name, (grid, _))| {
            (name.clone(), grid.kept(&to_host(model.tensors[&format!("{name}.weight")].clone())))
        });
        kept.collect()
    }

    fn set(&mut self, kept: BTreeMap<String, Vec<bool>>) {
        self.masks =
            kept.iter().map(|(name, kept)| (name.clone(), self.lassos[name].1.mask(kept, &self.device))).collect();
        self.kept = kept;
    }
}

fn multiply(model: &mut Model, optimizer: &mut Sgd, name: &str, factors: Tensor<1>, momentum_factors: Tensor<1>) {
    let name = format!("{name}.weight");
    let weight = model.tensors.get_mut(&name).expect("a convolution has weights");
    weight.inplace(|weight| weight * factors);
    if let Some(velocity) = optimizer.momentum.get_mut(&name) {
        velocity.inplace(|velocity| velocity * momentum_factors);
    }
}

/// Weights folded with the running statistics, flat.
fn folded(model: &Model, name: &str) -> Tensor<1> {
    let weight = model.tensors[&format!("{name}.weight")].clone();
    let (Some(gamma), Some(var)) =
        (model.tensors.get(&format!("{name}.gamma")), model.tensors.get(&format!("{name}.var")))
    else {
        return weight;
    };
    let gain = gamma.clone() / (var.clone() + BATCH_NORM_EPSILON).sqrt();
    let filters = gain.dims()[0];
    let count = weight.dims()[0];
    (weight.reshape([filters, count / filters]) * gain.reshape([filters, 1])).reshape([count])
}
