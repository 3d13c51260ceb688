//! Group lasso by a proximal step, and the masks that a budget leaves.
//!
//! After the optimizer's step each group's raw weights are multiplied by `max(0, 1 - lr * lambda * sqrt|g| / ||w'_g||)`
//! (Yuan and Lin 2006; the norm is that of the weights folded with the running statistics, which is what the chip holds).
//! It knows nothing of the optimizer.

use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};

use crate::groups::GroupGrid;

/// A norm by which any size of a group can be divided.
const LEAST_NORM: f32 = 1e-30;

/// Groups of one convolution's weights, on a device.
pub struct Lasso {
    grid: GroupGrid,
    /// Square root of the number of real weights in each group, `[sets, 1, blocks, 1, taps]`.
    root_sizes: Tensor<5>,
    /// Where each weight lies in `[sets, filters, blocks, channels, taps]`, if filters don't read all channels.
    places: Option<Tensor<1, Int>>,
}

impl Lasso {
    /// Places a grid on a device.
    pub fn new(grid: GroupGrid, device: &Device) -> Self {
        let sizes = (0..grid.groups()).map(|group| (grid.real_weights(group) as f32).sqrt()).collect();
        let places = (!grid.is_dense()).then(|| {
            let places: Vec<i64> =
                (0..grid.filters * grid.depth * grid.taps).map(|weight| place(&grid, weight)).collect();
            Tensor::from_data(TensorData::new(places.clone(), [places.len()]), (device, DType::I64))
        });
        Self { grid, root_sizes: group_tensor(&grid, sizes, device), places }
    }

    /// `||w'_g||` of each group, `[sets, 1, blocks, 1, taps]`; `folded` is `[filters * channels * taps]`.
    fn norms(&self, folded: Tensor<1>) -> Tensor<5> {
        self.grouped(folded).square().sum_dim(1).sum_dim(3).sqrt()
    }

    /// Squared effect on the loss of taking each group away, to first order: `(sum_g weight * gradient)^2`, `[groups]`
    /// (Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, equation 8).
    pub fn saliency(&self, weights: Tensor<1>, gradient: Tensor<1>) -> Tensor<1> {
        let saliency = self.grouped(weights * gradient).sum_dim(1).sum_dim(3).square();
        saliency.reshape([self.grid.groups()])
    }

    /// `sum_g sqrt|g| * ||w'_g||`, the penalty's value before lambda.
    pub fn penalty(&self, folded: Tensor<1>) -> Tensor<1> {
        (self.norms(folded) * self.root_sizes.clone()).sum()
    }

    /// The factor of each weight, flat, for `threshold = lr * lambda`: exactly zero where a group falls below.
    pub fn shrinkage(&self, folded: Tensor<1>, threshold: f64) -> Tensor<1> {
        let norms = self.norms(folded);
        // A group that is zero stays zero, whatever its factor; the floor only keeps the quotient finite.
        let factors = (self.root_sizes.clone() / norms.clamp_min(LEAST_NORM) * -threshold + 1.0).clamp_min(0.0);
        self.spread(factors)
    }

    /// One or zero for each weight, flat, from the groups that are kept.
    pub fn mask(&self, kept: &[bool], device: &Device) -> Tensor<1> {
        self.spread(group_tensor(&self.grid, kept.iter().map(|kept| f32::from(u8::from(*kept))).collect(), device))
    }

    fn padded(&self) -> [usize; 5] {
        let GroupGrid { group, taps, .. } = self.grid;
        [self.grid.sets(), group.filters, self.grid.blocks(), group.channels, taps]
    }

    /// Weights as `[sets, filters, blocks, channels, taps]`, zeros where filters or channels are left over.
    fn grouped(&self, weights: Tensor<1>) -> Tensor<5> {
        let GroupGrid { filters, channels, taps, .. } = self.grid;
        let [sets, set, blocks, block, _] = self.padded();
        if let Some(places) = &self.places {
            let padded = Tensor::zeros([sets * set * blocks * block * taps], &weights.device());
            return padded.select_assign(0, places.clone(), weights, IndexingUpdateOp::Add).reshape(self.padded());
        }
        let weights = weights.reshape([filters, channels, taps]);
        let weights = if (filters, channels) == (sets * set, blocks * block) {
            weights
        } else {
            let padded = Tensor::zeros([sets * set, blocks * block, taps], &weights.device());
            padded.slice_assign([0..filters, 0..channels, 0..taps], weights)
        };
        weights.reshape([sets, set, blocks, block, taps])
    }

    /// One number a group to one a weight.
    fn spread(&self, groups: Tensor<5>) -> Tensor<1> {
        let GroupGrid { filters, channels, taps, .. } = self.grid;
        let [sets, set, blocks, block, _] = self.padded();
        if let Some(places) = &self.places {
            return groups.expand(self.padded()).reshape([-1]).select(0, places.clone());
        }
        let weights = groups.expand(self.padded()).reshape([sets * set, blocks * block, taps]);
        weights.slice([0..filters, 0..channels]).reshape([filters * channels * taps])
    }
}

/// Where a weight lies in `[sets, filters, blocks, channels, taps]`.
fn place(grid: &GroupGrid, weight: usize) -> i64 {
    let filter = weight / grid.taps / grid.depth;
    let channel = grid.reads(filter).start + weight / grid.taps % grid.depth;
    let (set, group) = (filter / grid.group.filters, grid.group_of(weight));
    let block = group / grid.taps % grid.blocks();
    let row = (set * grid.group.filters + filter % grid.group.filters) * grid.blocks() + block;
    ((row * grid.group.channels + channel % grid.group.channels) * grid.taps + weight % grid.taps) as i64
}

fn group_tensor(grid: &GroupGrid, values: Vec<f32>, device: &Device) -> Tensor<5> {
    Tensor::from_data(TensorData::new(values, [grid.sets(), 1, grid.blocks(), 1, grid.taps]), device)
}

/// In place of a score where a group has no weights.
pub const ABSENT: f32 = f32::NEG_INFINITY;

/// Chooses the groups to keep so that a share `target` of all groups is zero: those with the lowest scores go first, and every
/// layer keeps at least one group.
///
/// `scores` holds one list a layer; the result has the same shape. A group without weights has the score [`ABSENT`]; it is none of the groups.
pub fn keep_best(scores: &[Vec<f32>], target: f64) -> Vec<Vec<bool>> {
    let exists = |score: &&f32| **score != ABSENT;
    let total = scores.iter().flatten().filter(exists).count();
    let budget = (target * total as f64).round() as usize;
    let mut order: Vec<(f32, usize, usize)> = Vec::with_capacity(total);
    for (layer, groups) in scores.iter().enumerate() {
        let groups = groups.iter().enumerate().filter(|(_, score)| exists(score));
        order.extend(groups.map(|(group, score)| (*score, layer, group)));
    }
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut kept: Vec<Vec<bool>> =
        scores.iter().map(|groups| groups.iter().map(|score| exists(&score)).collect()).collect();
    let mut left: Vec<usize> = kept.iter().map(|groups| groups.iter().filter(|kept| **kept).count()).collect();
    let mut dropped = 0;
    for (_, layer, group) in order {
        if dropped == budget {
            break;
        }
        if left[layer] > 1 {
            kept[layer][group] = false;
            left[layer] -= 1;
            dropped += 1;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupShape;
    use crate::network::{ConvShape, MapShape, Window};

    /// Five filters and three channels in groups of 2 x 2: the last set and block are partly filled.
    fn dense() -> GroupGrid {
        GroupGrid::dense(GroupShape { filters: 2, channels: 2 }, 5, 3, 2)
    }

    /// Both with 30 weights: one whose filters read all channels, and one of three groups of two channels and five filters.
    fn lassos() -> [Lasso; 2] {
        let map = |channels| MapShape { channels, height: 1, width: 1 };
        let (input, output) = (map(6), map(15));
        let conv = ConvShape { input, output, window: Window::square(1, 1, 0), dilation: [1; 2], groups: 3 };
        let grouped = GroupGrid::new(dense().group, &conv);
        [dense(), grouped].map(|grid| Lasso::new(grid, &Device::flex()))
    }

    fn weights() -> Vec<f32> {
        (0..30).map(|i| ((i * 7 % 11) as f32 - 5.0) / 10.0).collect()
    }

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn host(tensor: Tensor<1>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    /// Norm of each group, from the definition.
    fn norms(grid: &GroupGrid, weights: &[f32]) -> Vec<f32> {
        let mut squares = vec![0.0; grid.groups()];
        for (index, weight) in weights.iter().enumerate() {
            squares[grid.group_of(index)] += weight * weight;
        }
        squares.into_iter().map(f32::sqrt).collect()
    }

    #[test]
    fn an_effect_is_the_square_of_its_groups_sum() {
        let weights = weights();
        let gradient: Vec<f32> = (0..30).map(|i| (i * 5 % 7) as f32 - 3.0).collect();
        for lasso in lassos() {
            let mut sums = vec![0.0; lasso.grid.groups()];
            for index in 0..30 {
                sums[lasso.grid.group_of(index)] += weights[index] * gradient[index];
            }
            let saliency = host(lasso.saliency(tensor(&weights), tensor(&gradient)));
            assert!(saliency.iter().zip(sums).all(|(saliency, sum)| (saliency - sum * sum).abs() < 1e-5));
        }
    }

    #[test]
    fn the_proximal_step_shrinks_strong_groups_and_zeroes_weak_ones() {
        for lasso in lassos() {
            let (grid, mut weights) = (lasso.grid, weights());
            let weak = grid.group_of(20);
            for (index, weight) in weights.iter_mut().enumerate().filter(|(index, _)| grid.group_of(*index) == weak) {
                *weight = 0.001 * (index % 3) as f32;
            }
            let threshold = 0.01;
            let factors = host(lasso.shrinkage(tensor(&weights), threshold));
            let norms = norms(&grid, &weights);
            for (index, factor) in factors.iter().enumerate() {
                let group = grid.group_of(index);
                let expected = 1.0 - threshold as f32 * (grid.real_weights(group) as f32).sqrt() / norms[group];
                let expected = expected.max(0.0);
                assert!((factor - expected).abs() < 1e-5, "weight {index}: {factor} {expected}");
            }
            assert!(factors.contains(&0.0) && factors.iter().any(|factor| *factor > 0.9));
        }
    }

    /// The weakest penalty that a float holds, too, has factors for groups of zeros.
    #[test]
    fn factors_are_finite() {
        for lasso in lassos() {
            for threshold in [1e-44, 1e-30, 1.0, 1e30] {
                let factors = host(lasso.shrinkage(tensor(&[0.0; 30]), threshold));
                assert!(factors.iter().all(|factor| (0.0..=1.0).contains(factor)), "{threshold}: {factors:?}");
            }
        }
    }

    #[test]
    fn a_mask_covers_exactly_the_groups_that_go() {
        for lasso in lassos() {
            let kept: Vec<bool> = (0..lasso.grid.groups()).map(|group| group % 3 != 1).collect();
            let mask = host(lasso.mask(&kept, &Device::flex()));
            for (index, value) in mask.iter().enumerate() {
                assert_eq!(*value == 1.0, kept[lasso.grid.group_of(index)]);
            }
        }
    }

    #[test]
    fn the_budget_is_met_and_no_layer_vanishes() {
        let scores = vec![vec![0.5, 0.6, 0.7, 0.8], vec![1e-6], vec![0.9, 1e-3, 0.55]];
        let kept = keep_best(&scores, 0.5);
        assert_eq!(kept, [vec![false, false, true, true], vec![true], vec![true, false, false]]);
        let scores = vec![vec![0.5, ABSENT, 0.7, 0.8, 0.1], vec![ABSENT, 0.3]];
        let kept = keep_best(&scores, 0.4);
        assert_eq!(kept, [vec![false, false, true, true, false], vec![false, true]], "two of five that exist");
    }
}
