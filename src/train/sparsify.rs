//! Group sparsity in the loop: the one place that applies penalty and masks to the model and to the optimizer's momentum.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};

use super::model::{Model, Tensors, to_host};
use super::optimizer::Sgd;
use super::recipe::{Budget, Recipe, SparsityConfig};
use crate::error::{Error, Result};
use crate::groups::GroupGrid;
use crate::hardware::{Hardware, Ledger, Resource};
use crate::integer::{IntegerNetwork, outline};
use crate::network::Graph;
use crate::prune::{Lasso, fit_budget, keep_best};

/// Share of a phase that only looks at what each group does, before the first one goes.
const LOOK: f64 = 0.1;
/// Share of a phase over which the target is then approached; the rest trains with it reached.
const RAMP: f64 = 0.25;

/// In place of a masked group's effect, which isn't negative.
const MASKED: f32 = -1.0;

/// Groups of all convolutions, and which of them are kept.
pub(super) struct Sparsity {
    lassos: BTreeMap<String, (GroupGrid, Lasso)>,
    kept: BTreeMap<String, Vec<bool>>,
    masks: BTreeMap<String, Tensor<1>>,
    /// Sums of each group's effect on the loss so far, `[groups]`.
    effects: Tensors,
    config: SparsityConfig,
    price: Option<Price>,
    device: Device,
}

/// Checks that the hardware can meet the recipe's budget.
///
/// # Errors
/// Names the target and what the network costs at least.
pub(super) fn check_budget(graph: &Graph, recipe: &Recipe, hardware: &Hardware) -> Result<()> {
    if !recipe.sparsifies() {
        return Ok(());
    }
    if recipe.sparsity.budget == Budget::Groups {
        let groups: Vec<usize> =
            graph.convs().map(|conv| GroupGrid::new(hardware.group, &conv.shape).groups()).collect();
        let total = groups.iter().sum::<usize>() as f64;
        let most = total - groups.len() as f64;
        let target = recipe.sparsity.target;
        if (target * total).round() > most {
            let most = 100.0 * most / total;
            return Err(Error::Setting(format!(
                "sparsity.target = {target}: each layer keeps a group, so that at most {most:.1} % of them can go"
            )));
        }
    }
    Price::new(graph, recipe, hardware).map(drop)
}

/// What a budget of the hardware model is asked from.
struct Price {
    resource: Resource,
    network: IntegerNetwork,
    hardware: Hardware,
    /// Names of the network's convolutions, in its order.
    convs: Vec<String>,
    /// What it costs with all groups, in the resource's unit.
    dense: f64,
}

impl Price {
    /// `None` for a budget that needs no hardware.
    fn new(graph: &Graph, recipe: &Recipe, hardware: &Hardware) -> Result<Option<Self>> {
        let resource = match recipe.sparsity.budget {
            Budget::Lambda | Budget::Groups | Budget::GroupsPerLayer => return Ok(None),
            Budget::StoredBits => Resource::StoredBits,
            Budget::Cycles => Resource::Cycles,
            Budget::Energy => Resource::Energy,
        };
        let network = outline(graph, &recipe.quantize, hardware.group);
        let convs: Vec<String> = network.convs().map(|(conv, _)| conv.name).collect();
        let mut price = Self { resource, network, hardware: hardware.clone(), convs, dense: 0.0 };
        price.dense = match resource {
            // Without an index, which a dense network doesn't need.
            Resource::StoredBits => price
                .network
                .convs()
                .map(|(conv, integer)| conv.shape.weights() * usize::from(integer.weight_bits))
                .sum::<usize>() as f64,
            _ => price.ledger(&price.masks(|_| true))?.total(),
        };
        // The least that any choice may leave.
        let least = price.ledger(&price.masks(|group| group == 0))?.total();
        let Self { dense, .. } = price;
        if least > dense * (1.0 - recipe.sparsity.target) {
            return Err(Error::Setting(format!(
                "sparsity.target = {}: with one group a layer, {:.1} % of the dense network's {resource} are left; the target leaves {:.1} %",
                recipe.sparsity.target,
                100.0 * least / dense,
                100.0 * (1.0 - recipe.sparsity.target)
            )));
        }
        Ok(Some(price))
    }

    fn ledger(&self, kept: &[Vec<bool>]) -> Result<Ledger<'_>> {
        Ledger::new(&self.network, &self.hardware, self.resource, kept)
    }

    /// One list for each convolution; `keeps` is asked with a group's number.
    fn masks(&self, keeps: impl Fn(usize) -> bool) -> Vec<Vec<bool>> {
        let grids = self.network.convs().map(|(conv, _)| GroupGrid::new(self.hardware.group, &conv.shape));
        grids.map(|grid| (0..grid.groups()).map(&keeps).collect()).collect()
    }

    /// The groups that are kept of each convolution.
    fn fit(&self, scores: &[Vec<f32>], kept: &[Vec<bool>], share: f64) -> Result<Vec<Vec<bool>>> {
        let mut ledger = self.ledger(kept)?;
        let fitted = fit_budget(&mut ledger, scores, self.dense * (1.0 - share));
        fitted.ok_or_else(|| {
            Error::Setting(format!("sparsity.target: no choice of groups saves {share} of the {}", self.resource))
        })
    }
}

impl Sparsity {
    /// Groups of the hardware's shape.
    ///
    /// # Errors
    /// A budget that the hardware cannot meet.
    pub fn new(graph: &Graph, recipe: &Recipe, hardware: &Hardware, device: &Device) -> Result<Self> {
        let lassos = graph
            .convs()
            .map(|conv| {
                let grid = GroupGrid::new(hardware.group, &conv.shape);
                (conv.name, (grid, Lasso::new(grid, device)))
            })
            .collect();
        Ok(Self {
            lassos,
            kept: BTreeMap::new(),
            masks: BTreeMap::new(),
            effects: Tensors::new(),
            config: recipe.sparsity.clone(),
            price: if recipe.sparsifies() { Price::new(graph, recipe, hardware)? } else { None },
            device: device.clone(),
        })
    }

    /// Which groups are kept, by convolution; empty while nothing is masked.
    pub fn kept(&self) -> &BTreeMap<String, Vec<bool>> {
        &self.kept
    }

    /// Sums of each group's effect on the loss so far, by convolution.
    pub fn effects(&self) -> &Tensors {
        &self.effects
    }

    /// A new phase looks anew at what each group does.
    pub fn forget(&mut self) {
        self.effects.clear();
    }

    /// Takes over masks and effects from a checkpoint.
    pub fn restore(&mut self, kept: BTreeMap<String, Vec<bool>>, effects: Tensors) -> std::result::Result<(), String> {
        let masked = kept.iter().map(|(name, kept)| (name, kept.len()));
        for (name, found) in masked.chain(effects.iter().map(|(name, effects)| (name, effects.dims()[0]))) {
            let groups = self.lassos.get(name).map_or(0, |(grid, _)| grid.groups());
            if groups != found {
                return Err(format!("it has {found} groups of `{name}`, the network and hardware have {groups}"));
            }
        }
        self.effects = effects;
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

    /// Masks the groups that matter least to the loss for what they cost, so that what is gone follows a cubic ramp to the target
    /// (Zhu and Gupta 2017); `progress` runs from 0 to 1 over the phase.
    ///
    /// # Errors
    /// A budget that no choice of groups meets.
    pub fn approach(&mut self, progress: f64) -> Result<()> {
        let ramp = ((progress - LOOK) / RAMP).clamp(0.0, 1.0);
        let wanted = self.config.target * (1.0 - (1.0 - ramp).powi(3));
        if wanted == 0.0 || self.config.budget == Budget::Lambda {
            return Ok(());
        }
        let names: Vec<String> = match &self.price {
            Some(price) => price.convs.clone(),
            None => self.lassos.keys().cloned().collect(),
        };
        let scores: Vec<Vec<f32>> = names.iter().map(|name| self.scores(name)).collect();
        let kept = match (&self.price, self.config.budget) {
            (Some(price), _) => {
                let all = |scores: &Vec<f32>| vec![true; scores.len()];
                let before =
                    names.iter().zip(&scores).map(|(name, s)| self.kept.get(name).cloned().unwrap_or_else(|| all(s)));
                price.fit(&scores, &before.collect::<Vec<_>>(), wanted)?
            }
            (None, Budget::GroupsPerLayer) => {
                scores.iter().flat_map(|scores| keep_fewer(std::slice::from_ref(scores), wanted)).collect()
            }
            (None, _) => keep_fewer(&scores, wanted),
        };
        let kept = names.into_iter().zip(kept).collect();
        if self.kept != kept {
            self.set(kept);
        }
        Ok(())
    }

    /// Effects of a convolution's groups; those that are masked stay last.
    fn scores(&self, name: &str) -> Vec<f32> {
        let mut scores = to_host(self.effects[name].clone());
        for (score, _) in scores.iter_mut().zip(self.kept.get(name).into_iter().flatten()).filter(|(_, kept)| !**kept) {
            *score = MASKED;
        }
        scores
    }

    /// Ends the choice: what is zero now stays zero.
    pub fn freeze(&mut self, model: &Model) {
        let kept = self.zero_map(model);
        self.set(kept);
    }

    /// Sets masked weights to zero.
    pub fn mask(&self, model: &mut Model) {
        for (name, mask) in &self.masks {
            let weight = model.tensors.get_mut(&format!("{name}.weight")).expect("a convolution has weights");
            weight.inplace(|weight| weight * mask.clone());
        }
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

/// [`keep_best`] that gives back nothing of what is masked.
fn keep_fewer(scores: &[Vec<f32>], wanted: f64) -> Vec<Vec<bool>> {
    let total: usize = scores.iter().map(Vec::len).sum();
    let masked = scores.iter().flatten().filter(|score| **score == MASKED).count();
    keep_best(scores, wanted.max(masked as f64 / total as f64))
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
    let Some(gain) = model.gain(name) else { return weight };
    let filters = gain.dims()[0];
    let count = weight.dims()[0];
    (weight.reshape([filters, count / filters]) * gain.reshape([filters, 1])).reshape([count])
}

#[cfg(test)]
mod tests {
    use super::super::recipe::{Phase, PhaseKind};
    use super::*;
    use crate::network::{Weights, zoo};

    /// A ResNet-20 of which every group has had some effect, with momentum everywhere.
    fn observed(target: f64) -> (Model, Sgd, Sparsity) {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let mut recipe = Recipe { phases: vec![Phase::new(PhaseKind::Sparsify, 1, 0.01)], ..Recipe::default() };
        recipe.sparsity.target = target;
        let model = Model::new(&graph, &recipe.picture_scale(), &Weights::random(&graph, 1), &Device::flex());
        let mut sparsity = Sparsity::new(&graph, &recipe, &Hardware::mars(), &model.device).unwrap();
        sparsity.observe(&model, |name| Some(model.tensors[name].ones_like()));
        let momentum = model.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.ones_like())).collect();
        (model, Sgd { momentum }, sparsity)
    }

    /// A tenth of the phase to look, then Zhu and Gupta's cubic over a quarter of it.
    #[test]
    fn groups_go_along_the_ramp() {
        let (_, _, mut sparsity) = observed(0.5);
        let mut most = 0;
        for (progress, wanted) in [(0.05, 0.0), (0.1, 0.0), (0.225, 0.4375), (0.35, 0.5), (1.0, 0.5)] {
            sparsity.approach(progress).unwrap();
            let gone = sparsity.kept().values().flatten().filter(|kept| !**kept).count();
            let total: usize = sparsity.lassos.values().map(|(grid, _)| grid.groups()).sum();
            assert!((gone as f64 - wanted * total as f64).abs() < 1.0, "{progress}: {gone} of {total}");
            assert!(gone >= most);
            most = gone;
        }
    }

    /// A masked group has neither weights nor momentum, which would bring them back; the others have all of both.
    #[test]
    fn masks_clear_weights_and_momentum() {
        let (mut model, mut optimizer, mut sparsity) = observed(0.5);
        sparsity.approach(1.0).unwrap();
        let before = model.tensors.clone();
        sparsity.apply(&mut model, &mut optimizer);
        for (name, kept) in sparsity.kept() {
            let (grid, array) = (sparsity.lassos[name].0, format!("{name}.weight"));
            let host = |tensors: &Tensors| to_host(tensors[&array].clone());
            let weights = host(&before).into_iter().zip(host(&model.tensors)).zip(host(&optimizer.momentum));
            for (index, ((before, weight), momentum)) in weights.enumerate() {
                let left = f32::from(u8::from(kept[grid.group_of(index)]));
                assert_eq!((weight, momentum), (before * left, left), "{array} {index}");
            }
        }
    }
}
