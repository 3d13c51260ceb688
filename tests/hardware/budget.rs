//! Which groups a budget of the chip takes away.

use mars::groups::{GroupGrid, GroupShape};
use mars::hardware::{Hardware, Ledger, Mapping, Policy, Resource, evaluate};
use mars::integer::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use mars::network::zoo;
use mars::prune::fit_budget;
use proptest::prelude::*;

use crate::close;
use crate::common::Random;
use crate::common::recipe::W4A4;
use crate::networks::small_network;

const RESOURCES: [Resource; 3] = [Resource::StoredBits, Resource::Cycles, Resource::Energy];

/// The network with the weights of all other groups at zero, and none of the kept ones.
fn with_groups(network: &IntegerNetwork, group: GroupShape, kept: &[Vec<bool>]) -> IntegerNetwork {
    let mut pruned = network.clone();
    let grids: Vec<GroupGrid> = network.convs().map(|(conv, _)| GroupGrid::new(group, &conv.shape)).collect();
    let mut masks = grids.iter().zip(kept);
    let mut prune = |conv: &mut IntegerConv| {
        let (grid, kept) = masks.next().unwrap();
        for (index, weight) in conv.weights.iter_mut().enumerate() {
            *weight = i8::from(kept[grid.group_of(index)]);
        }
    };
    for layer in &mut pruned.layers {
        if let IntegerLayer::Conv { conv, skip, .. } = layer {
            prune(conv);
            if let Some(IntegerSkip::Projection { conv, .. }) = skip {
                prune(conv);
            }
        }
    }
    pruned
}

/// What the cost model says of it where filter sets are laid over the cores.
fn cost(network: &IntegerNetwork, hardware: &Hardware, resource: Resource) -> f64 {
    let hardware =
        Hardware { mapping: Mapping { policy: Policy::FilterSets, ..Mapping::default() }, ..hardware.clone() };
    let evaluation = evaluate(network, &hardware).unwrap();
    match resource {
        Resource::StoredBits => (evaluation.compression.weight_bits_stored + evaluation.compression.index_bits) as f64,
        Resource::Cycles => evaluation.cost.cycles as f64,
        Resource::Energy => evaluation.cost.energy_uj,
    }
}

fn group_scores(network: &IntegerNetwork, group: GroupShape, random: &mut Random) -> Vec<Vec<f32>> {
    // Layers differ in what their groups matter, as they do in a network.
    let score = |random: &mut Random, scale: f32| scale * (1 + random.below(1000)) as f32;
    let grids = network.convs().map(|(conv, _)| GroupGrid::new(group, &conv.shape));
    grids
        .map(|grid| {
            let scale = 10f32.powi(random.below(3) as i32);
            // What doesn't exist is no loss.
            let exists = |group| f32::from(u8::from(grid.exists(group)));
            (0..grid.groups()).map(|group| score(random, scale) * exists(group)).collect()
        })
        .collect()
}

fn lost(scores: &[Vec<f32>], kept: &[Vec<bool>]) -> f64 {
    let groups = scores.iter().flatten().zip(kept.iter().flatten());
    groups.filter(|(_, kept)| !**kept).map(|(score, _)| f64::from(*score)).sum()
}

/// The groups with the lowest scores go, as many as the cost model says it takes; every layer keeps its best one.
fn by_magnitude(
    network: &IntegerNetwork,
    hardware: &Hardware,
    resource: Resource,
    scores: &[Vec<f32>],
    budget: f64,
) -> Vec<Vec<bool>> {
    let mut order: Vec<(usize, usize)> =
        scores.iter().enumerate().flat_map(|(conv, scores)| (0..scores.len()).map(move |g| (conv, g))).collect();
    order.sort_by(|a, b| scores[a.0][a.1].total_cmp(&scores[b.0][b.1]).then(a.cmp(b)));
    let mut left: Vec<usize> = scores.iter().map(Vec::len).collect();
    order.retain(|(conv, _)| {
        left[*conv] -= 1;
        left[*conv] > 0
    });
    let without = |count: usize| {
        let mut kept: Vec<Vec<bool>> = scores.iter().map(|scores| vec![true; scores.len()]).collect();
        order[..count].iter().for_each(|(conv, group)| kept[*conv][*group] = false);
        kept
    };
    let fits =
        |count: usize| cost(&with_groups(network, hardware.group, &without(count)), hardware, resource) <= budget;
    let (mut too_few, mut enough) = (0, order.len());
    while too_few + 1 < enough {
        let middle = (too_few + enough) / 2;
        if fits(middle) { enough = middle } else { too_few = middle }
    }
    without(enough)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// The budget holds by the cost model's own account of the pruned network, no layer vanishes, and no more is lost than by taking
    /// the groups in the order of their scores.
    #[test]
    fn a_budget_is_met_and_loses_no_more_than_magnitude(
        resource in prop::sample::select(RESOURCES.to_vec()), target in 0.05f64..0.6, filters in 2usize..9, channels in 2usize..9,
        cores in 1usize..5, seed: u64,
    ) {
        let network = W4A4.network(small_network());
        let hardware = Hardware { group: GroupShape { filters, channels }, cores, ..Hardware::mars() };
        let scores = group_scores(&network, hardware.group, &mut Random(seed));
        let all: Vec<Vec<bool>> = scores.iter().map(|scores| vec![true; scores.len()]).collect();
        let budget = cost(&with_groups(&network, hardware.group, &all), &hardware, resource) * (1.0 - target);
        let mut ledger = Ledger::new(&network, &hardware, resource, &all).unwrap();
        let Some(kept) = fit_budget(&mut ledger, &scores, budget) else {
            let one: Vec<Vec<bool>> = scores.iter().map(|s| (0..s.len()).map(|group| group == 0).collect()).collect();
            let least = cost(&with_groups(&network, hardware.group, &one), &hardware, resource);
            prop_assert!(least * 1.2 > budget, "{least} would do for {budget}");
            return Ok(());
        };
        prop_assert!(kept.iter().all(|kept| kept.contains(&true)));
        let found = cost(&with_groups(&network, hardware.group, &kept), &hardware, resource);
        prop_assert!(found <= budget, "{found} of {budget}");
        prop_assert!(close(found, ledger.total()), "{found} {}", ledger.total());
        let magnitude = by_magnitude(&network, &hardware, resource, &scores, budget);
        prop_assert!(lost(&scores, &kept) <= lost(&scores, &magnitude));
        // Going on from there with a smaller budget takes nothing back.
        if let Some(less) = fit_budget(&mut ledger, &scores, 0.9 * found) {
            prop_assert!(kept.iter().flatten().zip(less.iter().flatten()).all(|(before, after)| *before || !after));
        }
    }
}

/// A whole network: the stairs of its accesses, which the order of the scores knows nothing of, are worth a lot.
#[test]
fn cycles_of_a_resnet_are_saved_where_they_are_cheap() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let hardware = Hardware::mars();
    let scores = group_scores(&network, hardware.group, &mut Random(4));
    let all: Vec<Vec<bool>> = scores.iter().map(|scores| vec![true; scores.len()]).collect();
    for resource in RESOURCES {
        let mut ledger = Ledger::new(&network, &hardware, resource, &all).unwrap();
        let budget = 0.7 * ledger.total();
        let kept = fit_budget(&mut ledger, &scores, budget).unwrap();
        let found = cost(&with_groups(&network, hardware.group, &kept), &hardware, resource);
        assert!(found <= budget && found > 0.99 * budget, "{resource:?}: {found} of {budget}");
        let magnitude = by_magnitude(&network, &hardware, resource, &scores, budget);
        let [ours, theirs] = [lost(&scores, &kept), lost(&scores, &magnitude)];
        // All groups but those of the first and last layer have the same bits, so that there is little to choose.
        let share = if resource == Resource::StoredBits { 1.0 } else { 0.97 };
        assert!(ours < share * theirs, "{resource:?}: {ours} and {theirs}");
    }
}
