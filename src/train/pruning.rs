//! Pruning in the loop: the one place that applies penalty and masks to the parameters and to their momentum.

use burn::tensor::{Device, Tensor};

use super::model::Model;
use super::optimizer::Sgd;
use super::recipe::{Budget, Recipe, SparsityConfig};
use super::tensors::{to_device, to_host};
use crate::error::{Error, Result};
use crate::groups::GroupGrid;
use crate::hardware::{Hardware, Ledger, Resource};
use crate::integer::{IntegerNetwork, outline};
use crate::network::{Conv, ConvId, Graph, Op, Params, Source};
use crate::prune::{ABSENT, Lasso, fit_budget, keep_best};

/// Share of a phase that only observes each group's saliency, before the first one is pruned.
const LOOK: f64 = 0.1;
/// Share of a phase over which the target is then approached; the rest trains with it reached.
const RAMP: f64 = 0.25;

/// In place of a pruned group's saliency, which isn't negative.
const PRUNED: f32 = -1.0;

/// The groups of a convolution.
struct ConvGroups {
    /// Number of the convolution.
    conv: ConvId,
    name: String,
    grid: GroupGrid,
    lasso: Lasso,
    /// Of a depthwise convolution the place in [`Pruner::convs`] of the one whose channels it reads.
    behind: Option<usize>,
    /// Sum of each group's saliency over the steps so far, `[groups]`; none before the first step.
    saliency: Option<Tensor<1>>,
    mask: Option<Mask>,
}

/// Which groups of a convolution are kept.
struct Mask {
    kept: Vec<bool>,
    /// One or zero for each weight.
    weights: Tensor<1>,
}

/// Chooses the groups of all convolutions that stay.
pub(super) struct Pruner {
    /// In the network's order.
    convs: Vec<ConvGroups>,
    config: SparsityConfig,
    price: Option<Price>,
    device: Device,
    /// The share that was last reached: there is nothing to choose until another is wanted.
    reached: Option<f64>,
}

/// Checks that as many groups can go as the recipe's budget says; a budget of the hardware model is checked where a [`Pruner`] is made.
///
/// # Errors
/// Names the target and the largest share that can go.
pub(super) fn check_budget(graph: &Graph, recipe: &Recipe, hardware: &Hardware) -> Result<()> {
    if !recipe.sparsifies() || recipe.sparsity.budget != Budget::Groups {
        return Ok(());
    }
    let groups: Vec<usize> =
        graph.convs().map(|conv| GroupGrid::new(hardware.group, &conv.shape).real_groups()).collect();
    let total = groups.iter().sum::<usize>() as f64;
    let most = total - groups.len() as f64;
    let target = recipe.sparsity.target;
    if (target * total).round() > most {
        let most = 100.0 * most / total;
        return Err(Error::Setting(format!(
            "sparsity.target = {target}: each layer keeps a group, so that at most {most:.1} % of them can go"
        )));
    }
    Ok(())
}

/// What a budget of the hardware model is asked from.
struct Price {
    resource: Resource,
    network: IntegerNetwork,
    hardware: Hardware,
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
        let mut price = Self { resource, network, hardware: hardware.clone(), dense: 0.0 };
        price.dense = match resource {
            // Without an index, which a dense network doesn't need.
            Resource::StoredBits => price
                .network
                .convs()
                .map(|(conv, integer)| conv.shape.weights() * usize::from(integer.weight_bits))
                .sum::<usize>() as f64,
            Resource::Cycles | Resource::Energy => price.ledger(&price.masks(|_| true))?.total(),
        };
        // The least that any choice may leave.
        let least = price.ledger(&price.masks(|group| group == 0))?.total();
        let Self { dense, .. } = price;
        if least > dense * (1.0 - recipe.sparsity.target) {
            let most = 100.0 * (1.0 - least / dense).max(0.0);
            return Err(Error::Setting(format!(
                "sparsity.target = {}: each layer keeps a group, so that at most {most:.1} % of the dense network's {resource} can go",
                recipe.sparsity.target
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
        grids.map(|grid| (0..grid.groups()).map(|group| grid.exists(group) && keeps(group)).collect()).collect()
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

impl Pruner {
    /// Groups of the hardware's shape, all of them kept.
    ///
    /// # Errors
    /// A budget that the hardware cannot meet.
    pub fn new(graph: &Graph, recipe: &Recipe, hardware: &Hardware, device: &Device) -> Result<Self> {
        let convs = graph.convs().map(|conv| {
            let grid = GroupGrid::new(hardware.group, &conv.shape);
            let (lasso, behind) = (Lasso::new(grid, device), read_by_depthwise(graph, &conv));
            ConvGroups { conv: conv.id, name: conv.name, grid, lasso, behind, saliency: None, mask: None }
        });
        Ok(Self {
            convs: convs.collect(),
            config: recipe.sparsity.clone(),
            price: if recipe.sparsifies() { Price::new(graph, recipe, hardware)? } else { None },
            device: device.clone(),
            reached: None,
        })
    }

    /// Which groups of each convolution are kept; none while nothing is masked.
    pub fn kept(&self) -> Option<Vec<Vec<bool>>> {
        self.convs.iter().map(|conv| conv.mask.as_ref().map(|mask| mask.kept.clone())).collect()
    }

    /// Sum of each group's saliency over the steps so far, for each convolution; none before the first step.
    pub fn saliency(&self) -> Option<Vec<Vec<f32>>> {
        self.convs.iter().map(|conv| conv.saliency.clone().map(to_host)).collect()
    }

    /// A new phase observes anew what each group does.
    pub fn forget(&mut self) {
        self.reached = None;
        self.convs.iter_mut().for_each(|conv| conv.saliency = None);
    }

    /// Takes over masks and saliencies from a checkpoint.
    ///
    /// # Errors
    /// Another number of groups, with the convolution's name.
    pub fn restore(
        &mut self,
        kept: Option<Vec<Vec<bool>>>,
        saliency: Option<Vec<Vec<f32>>>,
    ) -> std::result::Result<(), String> {
        let lengths = |found: Vec<usize>| {
            let wrong = self.convs.iter().zip(found).find(|(conv, found)| conv.grid.groups() != *found);
            wrong.map_or(Ok(()), |(conv, found)| {
                let groups = conv.grid.groups();
                Err(format!("it has {found} groups of `{}`, the network and hardware have {groups}", conv.name))
            })
        };
        lengths(kept.iter().flatten().map(Vec::len).collect())?;
        lengths(saliency.iter().flatten().map(Vec::len).collect())?;
        for (conv, saliency) in self.convs.iter_mut().zip(saliency.into_iter().flatten()) {
            conv.saliency = Some(to_device(&saliency, &self.device));
        }
        if let Some(kept) = kept {
            self.set(kept);
        }
        Ok(())
    }

    /// The proximal step of the group lasso: `threshold` is the learning rate times lambda.
    pub fn shrink(&self, model: &mut Model, optimizer: &mut Sgd, threshold: f64) {
        if threshold == 0.0 {
            return;
        }
        for ConvGroups { conv, lasso, .. } in &self.convs {
            let factors = lasso.shrinkage(model.folded_weight(*conv), threshold);
            let alive = factors.clone().greater_elem(0.0).float();
            multiply(&mut model.params, *conv, factors);
            multiply_momentum(optimizer, *conv, alive);
        }
    }

    /// Adds each group's saliency in this step; `gradient` gives that of a convolution's weights.
    pub fn observe(&mut self, params: &Params<Tensor<1>>, gradient: impl Fn(ConvId) -> Option<Tensor<1>>) {
        for ConvGroups { conv, lasso, saliency, .. } in &mut self.convs {
            let Some(gradient) = gradient(*conv) else { continue };
            let observed = lasso.saliency(params.conv(*conv).weight.clone(), gradient);
            *saliency = Some(match saliency.take() {
                Some(sum) => sum + observed,
                None => observed,
            });
        }
    }

    /// Masks the groups of least saliency for what they cost, so that the pruned share follows a cubic ramp to the target
    /// (Zhu and Gupta 2017); `progress` runs from 0 to 1 over the phase.
    ///
    /// # Errors
    /// A budget that no choice of groups meets.
    pub fn approach(&mut self, progress: f64) -> Result<()> {
        let ramp = ((progress - LOOK) / RAMP).clamp(0.0, 1.0);
        let wanted = self.config.target * (1.0 - (1.0 - ramp).powi(3));
        if wanted == 0.0 || self.config.budget == Budget::Lambda || self.reached == Some(wanted) {
            return Ok(());
        }
        let kept = self.choose(wanted)?;
        if self.kept().as_ref() != Some(&kept) {
            self.set(kept);
        }
        self.reached = Some(wanted);
        Ok(())
    }

    /// The groups that are kept where this share of what the budget counts is pruned. Those of constants come on top of it; once they are masked, a
    /// larger share takes them first.
    fn choose(&self, wanted: f64) -> Result<Vec<Vec<bool>>> {
        let scores: Vec<Vec<f32>> = self.convs.iter().map(ConvGroups::scores).collect();
        let kept = match (&self.price, self.config.budget) {
            (Some(price), _) => price.fit(&scores, &self.kept().unwrap_or_else(|| price.masks(|_| true)), wanted)?,
            (None, Budget::GroupsPerLayer) => {
                scores.iter().flat_map(|scores| keep_fewer(std::slice::from_ref(scores), wanted)).collect()
            }
            (None, _) => keep_fewer(&scores, wanted),
        };
        Ok(self.without_constants(kept))
    }

    fn without_constants(&self, mut kept: Vec<Vec<bool>>) -> Vec<Vec<bool>> {
        for (conv, group) in self.of_constants(&kept) {
            kept[conv][group] = false;
        }
        kept
    }

    /// Kept groups of depthwise convolutions all of whose channels are constants, since nothing of their filter sets is kept: the convolution and the
    /// group. Only the map's border interrupts what they compute, and their batch norm divides by nearly nothing. Those of a convolution that has no
    /// others aren't among them. What a convolution loses counts for the ones behind it.
    fn of_constants(&self, kept: &[Vec<bool>]) -> Vec<(usize, usize)> {
        let (mut kept, mut all) = (kept.to_vec(), Vec::new());
        for (index, conv) in self.convs.iter().enumerate() {
            let Some(source) = conv.behind else { continue };
            let grid = &self.convs[source].grid;
            let of_sets: Vec<bool> =
                kept[source].chunks(grid.groups_per_set()).map(|set| set.contains(&true)).collect();
            let lives =
                |group: &usize| conv.grid.channels_of(*group).any(|channel| of_sets[channel / grid.group.filters]);
            let groups = (0..kept[index].len()).filter(|group| kept[index][*group]);
            let (living, constant): (Vec<usize>, Vec<usize>) = groups.partition(lives);
            if !living.is_empty() {
                constant.iter().for_each(|group| kept[index][*group] = false);
                all.extend(constant.into_iter().map(|group| (index, group)));
            }
        }
        all
    }

    /// Ends the choice: what is zero now stays zero, and what reads nothing else becomes so.
    pub fn freeze(&mut self, params: &Params<Tensor<1>>) {
        self.set(self.without_constants(self.non_zero(params)));
    }

    /// Masks the groups that are zero already, if there are any, and no others; a layer of nothing but zeros is one that hasn't learnt yet.
    pub fn keep_zeros(&mut self, params: &Params<Tensor<1>>) {
        self.convs.iter_mut().for_each(|conv| conv.mask = None);
        if self.zero_share(params) > 0.0 {
            let layers = self.convs.iter().zip(self.non_zero(params));
            let kept = layers.map(|(conv, kept)| match kept.contains(&true) {
                true => kept,
                false => (0..kept.len()).map(|group| conv.grid.exists(group)).collect(),
            });
            self.set(kept.collect());
        }
    }

    /// Share of all groups that are masked.
    pub fn masked_share(&self) -> f64 {
        self.kept().map_or(0.0, |kept| self.share_but(&kept))
    }

    /// Half a group, as a share of all groups: by so much whole ones may miss the target, and by half a group of each layer where each has its own.
    pub fn rounding(&self) -> f64 {
        let rounded = match self.config.budget {
            Budget::GroupsPerLayer => self.convs.len(),
            Budget::Lambda | Budget::Groups | Budget::StoredBits | Budget::Cycles | Budget::Energy => 1,
        };
        0.5 * rounded as f64 / self.groups() as f64
    }

    /// All groups.
    fn groups(&self) -> usize {
        self.convs.iter().map(|conv| conv.grid.real_groups()).sum()
    }

    /// Sets masked weights to zero.
    pub fn mask(&self, params: &mut Params<Tensor<1>>) {
        for (conv, mask) in self.masks() {
            multiply(params, conv, mask);
        }
    }

    /// Sets to zero the groups that are zero in `from`, those that are masked among them.
    pub fn copy_zeros(&self, from: &Params<Tensor<1>>, to: &mut Params<Tensor<1>>) {
        for (conv, kept) in self.convs.iter().zip(self.non_zero(from)) {
            multiply(to, conv.conv, conv.lasso.mask(&kept, &self.device));
        }
    }

    /// Sets the momentum of masked weights to zero, which would bring them back.
    pub fn mask_momentum(&self, optimizer: &mut Sgd) {
        for (conv, mask) in self.masks() {
            multiply_momentum(optimizer, conv, mask);
        }
    }

    fn masks(&self) -> impl Iterator<Item = (ConvId, Tensor<1>)> {
        self.convs.iter().filter_map(|conv| Some((conv.conv, conv.mask.as_ref()?.weights.clone())))
    }

    /// Share of all groups that are zero.
    pub fn zero_share(&self, params: &Params<Tensor<1>>) -> f64 {
        self.share_but(&self.non_zero(params))
    }

    /// Share of all groups but these.
    fn share_but(&self, kept: &[Vec<bool>]) -> f64 {
        let total = self.groups();
        let kept = kept.iter().flatten().filter(|kept| **kept).count();
        (total - kept) as f64 / total as f64
    }

    /// `sum_g sqrt|g| * ||w'_g||` over all groups.
    pub fn penalty(&self, model: &Model) -> f64 {
        let penalty = |conv: &ConvGroups| to_host(conv.lasso.penalty(model.folded_weight(conv.conv)))[0];
        self.convs.iter().map(|conv| f64::from(penalty(conv))).sum()
    }

    /// Which groups hold a weight that isn't zero.
    fn non_zero(&self, params: &Params<Tensor<1>>) -> Vec<Vec<bool>> {
        self.convs.iter().map(|conv| conv.grid.kept(&to_host(params.conv(conv.conv).weight.clone()))).collect()
    }

    fn set(&mut self, kept: Vec<Vec<bool>>) {
        for (conv, kept) in self.convs.iter_mut().zip(kept) {
            let weights = conv.lasso.mask(&kept, &self.device);
            conv.mask = Some(Mask { kept, weights });
        }
    }
}

impl ConvGroups {
    /// Saliency of each group; those that are masked stay last.
    fn scores(&self) -> Vec<f32> {
        let saliency = self.saliency.clone().expect("a phase observes before it prunes");
        let mut scores = to_host(saliency);
        let kept = self.mask.iter().flat_map(|mask| &mask.kept);
        for (score, _) in scores.iter_mut().zip(kept).filter(|(_, kept)| !**kept) {
            *score = PRUNED;
        }
        for (_, score) in scores.iter_mut().enumerate().filter(|(group, _)| !self.grid.exists(*group)) {
            *score = ABSENT;
        }
        scores
    }
}

/// The number of the convolution whose channels a depthwise one reads, where nothing is added to them on the way.
fn read_by_depthwise(graph: &Graph, conv: &Conv) -> Option<usize> {
    let Source::Node(source) = conv.source else { return None };
    let is_depthwise = conv.shape.groups > 1 && conv.shape.depth() == 1;
    let Op::Conv { skip: None, .. } = graph.nodes()[source].op else { return None };
    graph.convs().position(|other| is_depthwise && other.id == ConvId::Own(source))
}

/// [`keep_best`] that gives back nothing of what is masked.
fn keep_fewer(scores: &[Vec<f32>], wanted: f64) -> Vec<Vec<bool>> {
    let total = scores.iter().flatten().filter(|score| **score != ABSENT).count();
    let masked = scores.iter().flatten().filter(|score| **score == PRUNED).count();
    keep_best(scores, wanted.max(masked as f64 / total as f64))
}

fn multiply(params: &mut Params<Tensor<1>>, conv: ConvId, factors: Tensor<1>) {
    params.conv_mut(conv).weight.inplace(|weight| weight * factors);
}

fn multiply_momentum(optimizer: &mut Sgd, conv: ConvId, factors: Tensor<1>) {
    if let Some(momentum) = &mut optimizer.momentum.conv_mut(conv).weight {
        momentum.inplace(|momentum| momentum * factors);
    }
}

#[cfg(test)]
mod tests {
    use super::super::recipe::{Phase, PhaseKind};
    use super::*;
    use crate::network::{Weights, zoo};

    /// A ResNet-20 of which every group has had some saliency, with momentum everywhere.
    fn observed(target: f64) -> (Model, Sgd, Pruner) {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let mut recipe = Recipe { phases: vec![Phase::new(PhaseKind::Sparsify, 1, 0.01)], ..Recipe::default() };
        recipe.sparsity.target = target;
        let params = Params::from_arrays(&graph, &Weights::random(&graph, 1)).unwrap();
        let model = Model::new(&graph, &recipe.image_scale(), &params, &Device::flex());
        let mut pruner = Pruner::new(&graph, &recipe, &Hardware::mars(), &model.device).unwrap();
        pruner.observe(&model.params, |conv| Some(model.params.conv(conv).weight.ones_like()));
        let momentum = model.params.as_ref().map(|_, tensor| Some(tensor.ones_like()));
        (model, Sgd { momentum }, pruner)
    }

    /// A tenth of the phase to look, then Zhu and Gupta's cubic over a quarter of it.
    #[test]
    fn groups_go_along_the_ramp() {
        let (_, _, mut pruner) = observed(0.5);
        let mut most = 0;
        for (progress, wanted) in [(0.05, 0.0), (0.1, 0.0), (0.225, 0.4375), (0.35, 0.5), (1.0, 0.5)] {
            pruner.approach(progress).unwrap();
            let gone = pruner.kept().iter().flatten().flatten().filter(|kept| !**kept).count();
            let total: usize = pruner.convs.iter().map(|conv| conv.grid.groups()).sum();
            assert!((gone as f64 - wanted * total as f64).abs() < 1.0, "{progress}: {gone} of {total}");
            assert!(gone >= most);
            most = gone;
        }
    }

    /// Where nothing is left of a filter set, a depthwise convolution behind it loses its filters of these channels, and no others, and so does the one
    /// behind that; what reads a residual sum loses none.
    #[test]
    fn depthwise_filters_of_constants_go_with_them() {
        let layers = r#"
            name = "pair"
            input = [3, 8, 8]
            classes = 2
            layers = [
                { op = "conv", name = "expand", filters = 40, kernel = 1 },
                { op = "conv", name = "depthwise", filters = 40, kernel = 3, padding = 1, groups = 40 },
                { op = "conv", name = "again", filters = 40, kernel = 3, padding = 1, groups = 40 },
                { op = "conv", name = "project", filters = 40, kernel = 1, add = { from = "expand" } },
                { op = "conv", name = "behind", filters = 40, kernel = 3, padding = 1, groups = 40 },
                { op = "linear", name = "linear", filters = 2 },
            ]"#;
        let graph = Graph::new(toml::from_str(layers).unwrap()).unwrap();
        let pruner = Pruner::new(&graph, &Recipe::default(), &Hardware::mars(), &Device::flex()).unwrap();
        let all: Vec<Vec<bool>> = pruner.convs.iter().map(|conv| vec![true; conv.grid.groups()]).collect();
        assert_eq!(pruner.of_constants(&all), []);
        // A group a set: the second one, channels 16 to 31, is gone; of the projection all is.
        let mut kept = all;
        kept[0][1] = false;
        kept[3].fill(false);
        let second: Vec<(usize, usize)> =
            [1, 2].into_iter().flat_map(|conv| (9..18).map(move |group| (conv, group))).collect();
        assert_eq!(pruner.of_constants(&kept), second);
        // A convolution keeps what it has left, and the one behind it has constants elsewhere.
        kept[1].iter_mut().enumerate().for_each(|(group, kept)| *kept = (9..18).contains(&group));
        let others: Vec<(usize, usize)> = (0..9).chain(18..27).map(|group| (2, group)).collect();
        assert_eq!(pruner.of_constants(&kept), others);
    }

    /// The next choice of the same share is the same, so that a run that is resumed prunes no more.
    #[test]
    fn constants_are_pruned_once() {
        let graph = Graph::new(zoo("mobilenetv2_half", 10).unwrap()).unwrap();
        for budget in [Budget::Groups, Budget::StoredBits] {
            let mut recipe = Recipe { phases: vec![Phase::new(PhaseKind::Sparsify, 1, 0.01)], ..Recipe::default() };
            (recipe.sparsity.target, recipe.sparsity.budget) = (0.6, budget);
            let params = Params::from_arrays(&graph, &Weights::random(&graph, 1)).unwrap();
            let model = Model::new(&graph, &recipe.image_scale(), &params, &Device::flex());
            let mut pruner = Pruner::new(&graph, &recipe, &Hardware::mars(), &model.device).unwrap();
            pruner.observe(&model.params, |conv| Some(model.params.conv(conv).weight.ones_like()));
            for progress in 10..=40 {
                pruner.approach(f64::from(progress) / 100.0).unwrap();
            }
            let kept = pruner.kept().unwrap();
            assert_eq!(pruner.of_constants(&kept), []);
            assert!(kept.iter().all(|kept| kept.contains(&true)));
            if budget == Budget::Groups {
                assert!((0.6 - pruner.rounding()..0.61).contains(&pruner.masked_share()), "{}", pruner.masked_share());
            }
            pruner.reached = None;
            pruner.approach(1.0).unwrap();
            assert_eq!(pruner.kept().unwrap(), kept);
        }
    }

    /// A masked group has neither weights nor momentum, which would bring them back; the others have all of both.
    #[test]
    fn masks_clear_weights_and_momentum() {
        let (mut model, mut optimizer, mut pruner) = observed(0.5);
        pruner.approach(1.0).unwrap();
        let before = model.params.clone();
        pruner.mask(&mut model.params);
        pruner.mask_momentum(&mut optimizer);
        for ConvGroups { conv, name, grid, mask, .. } in &pruner.convs {
            let host = |params: &Params<Tensor<1>>| to_host(params.conv(*conv).weight.clone());
            let momentum = to_host(optimizer.momentum.conv(*conv).weight.clone().unwrap());
            let weights = host(&before).into_iter().zip(host(&model.params)).zip(momentum);
            let kept = &mask.as_ref().unwrap().kept;
            for (index, ((before, weight), momentum)) in weights.enumerate() {
                let left = f32::from(u8::from(kept[grid.group_of(index)]));
                assert_eq!((weight, momentum), (before * left, left), "{name} {index}");
            }
        }
    }
}
