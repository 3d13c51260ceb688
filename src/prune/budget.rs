//! Which groups to drop so that a network fits a budget of the hardware model: those that save most for what they lose.
//!
//! It knows nothing of training: a group's score, what its loss costs in accuracy, is given.

use std::collections::BTreeSet;

use crate::hardware::{FilterSet, GroupId, Ledger, SetGroups};

/// Drops groups until the network costs at most `budget`, and gives the groups that are kept of each convolution.
///
/// `scores` has one list for each convolution, in the order of its grid. The cost is a staircase in the number of kept groups: several groups
/// share one access, and the slowest core decides.
///
/// 1. For each convolution find the next stairs ([`Ledger::steps`]).
/// 2. Drop the stair with the lowest *score lost / cost saved*, choosing its groups with the lowest scores; ask the hardware model again.
/// 3. Repeat until the budget holds.
/// 4. Re-admit groups, the highest score first, while it still holds.
/// 5. Do the same with the groups in the order of their scores alone, and take what loses the lower sum of scores.
///
/// Every convolution keeps a group. `None` where that alone costs more than the budget.
pub fn fit_budget(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64) -> Option<Vec<Vec<bool>>> {
    let start = ledger.snapshot();
    if ledger.total() > budget {
        let by_score = by_score(ledger, scores, budget);
        ledger.rewind(&start);
        let by_steps = by_steps(ledger, scores, budget);
        let loss = |pruned: &[GroupId]| pruned.iter().map(|group| score(ledger, scores, *group)).sum::<f64>();
        let found = by_steps.into_iter().chain(by_score);
        let best = found.min_by(|a, b| loss(a).total_cmp(&loss(b)))?;
        ledger.rewind(&start);
        ledger.prune(&best);
    }
    let masks = (0..ledger.convs()).map(|conv| {
        let mut mask = vec![false; scores[conv].len()];
        let per_set = mask.len() / ledger.sets(conv).len();
        for (set, kept) in ledger.sets(conv).iter().enumerate() {
            kept.groups.iter().for_each(|group| mask[set * per_set + group] = true);
        }
        mask
    });
    Some(masks.collect())
}

/// Groups of a convolution that are left.
fn kept_of(ledger: &Ledger, conv: usize) -> usize {
    ledger.sets(conv).iter().map(|set| set.groups.len()).sum()
}

/// The kept groups of a convolution, set by set.
fn kept_groups(ledger: &Ledger, conv: usize) -> impl Iterator<Item = Vec<GroupId>> {
    let ids =
        move |(set, kept): (usize, &FilterSet)| kept.groups.iter().map(|&index| GroupId { conv, set, index }).collect();
    ledger.sets(conv).iter().enumerate().map(ids)
}

fn score(ledger: &Ledger, scores: &[Vec<f32>], GroupId { conv, set, index }: GroupId) -> f64 {
    let per_set = scores[conv].len() / ledger.sets(conv).len();
    f64::from(scores[conv][set * per_set + index])
}

/// Groups from the lowest score to the highest; ties by their place.
fn ascending(ledger: &Ledger, scores: &[Vec<f32>], mut groups: Vec<GroupId>) -> Vec<GroupId> {
    groups.sort_by(|a, b| score(ledger, scores, *a).total_cmp(&score(ledger, scores, *b)).then(a.cmp(b)));
    groups
}

/// Drops the groups with the lowest scores, as many as it takes; `None` if it takes all.
fn by_score(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64) -> Option<Vec<GroupId>> {
    let start = ledger.snapshot();
    let mut left: Vec<usize> = (0..ledger.convs()).map(|conv| kept_of(ledger, conv)).collect();
    let kept = (0..ledger.convs()).flat_map(|conv| kept_groups(ledger, conv)).flatten().collect();
    let mut order = ascending(ledger, scores, kept);
    order.retain(|group| {
        left[group.conv] -= 1;
        left[group.conv] > 0
    });
    let mut fits = |count: usize| {
        ledger.rewind(&start);
        ledger.prune(&order[..count]);
        ledger.total() <= budget
    };
    if !fits(order.len()) {
        return None;
    }
    let (mut too_few, mut enough) = (0, order.len());
    while too_few + 1 < enough {
        let middle = (too_few + enough) / 2;
        if fits(middle) { enough = middle } else { too_few = middle }
    }
    fits(enough);
    order.truncate(enough);
    Some(readmit(ledger, scores, budget, order))
}

/// A pruning step of a convolution with what it loses and saves.
struct Candidate {
    groups: Vec<GroupId>,
    loss: f64,
    saving: f64,
}

impl Candidate {
    /// Steps that save come first, those with the least loss for it before others; then those that may open the way for others.
    fn rank(&self) -> (bool, f64) {
        if self.saving > 0.0 { (false, self.loss / self.saving) } else { (true, self.loss) }
    }

    fn has_set(&self, set: usize) -> bool {
        self.groups.iter().any(|group| group.set == set)
    }
}

/// Drops step after step; `None` if none is left.
fn by_steps(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64) -> Option<Vec<GroupId>> {
    // Each set's groups, the lowest score last.
    let descending = |groups| ascending(ledger, scores, groups).into_iter().rev().collect();
    let mut queues: Vec<Vec<Vec<GroupId>>> =
        (0..ledger.convs()).map(|conv| kept_groups(ledger, conv).map(descending).collect()).collect();
    let mut candidates: Vec<Vec<Candidate>> =
        (0..ledger.convs()).map(|conv| candidates(ledger, scores, &queues, conv, Vec::new(), &[])).collect();
    let mut pruned = Vec::new();
    while ledger.total() > budget {
        let all =
            candidates.iter().enumerate().flat_map(|(conv, list)| (0..list.len()).map(move |index| (conv, index)));
        let rank = |(conv, index): &(usize, usize)| candidates[*conv][*index].rank();
        let (conv, index) = all.min_by(|a, b| {
            let ((a_late, a), (b_late, b)) = (rank(a), rank(b));
            a_late.cmp(&b_late).then(a.total_cmp(&b))
        })?;
        let groups = candidates[conv].swap_remove(index).groups;
        ledger.prune(&groups);
        for group in &groups {
            queues[conv][group.set].retain(|other| other != group);
        }
        let others = std::mem::take(&mut candidates[conv]);
        candidates[conv] = self::candidates(ledger, scores, &queues, conv, others, &groups);
        pruned.extend(groups);
    }
    Some(readmit(ledger, scores, budget, pruned))
}

/// The steps of a convolution that leave it a group. Those of `known` stay that have no set in common with the groups `just_pruned`.
fn candidates(
    ledger: &mut Ledger,
    scores: &[Vec<f32>],
    queues: &[Vec<Vec<GroupId>>],
    conv: usize,
    known: Vec<Candidate>,
    just_pruned: &[GroupId],
) -> Vec<Candidate> {
    let left = kept_of(ledger, conv);
    let mut known: Vec<Candidate> = known
        .into_iter()
        .filter(|candidate| candidate.groups.len() < left)
        .filter(|candidate| !just_pruned.iter().any(|group| candidate.has_set(group.set)))
        .collect();
    let loss = |ledger: &Ledger, groups: &[GroupId]| groups.iter().map(|group| score(ledger, scores, *group)).sum();
    for step in ledger.steps(conv) {
        let cheapest = step.alternatives.iter().map(|alternatives| {
            let lowest = alternatives.iter().map(|&SetGroups { set, groups }| {
                let queue = &queues[conv][set];
                let groups: Vec<GroupId> = queue[queue.len() - groups..].iter().rev().copied().collect();
                let loss: f64 = loss(ledger, &groups);
                (loss, groups)
            });
            lowest.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
        });
        let mut groups: Vec<GroupId> = cheapest.flat_map(|(_, groups)| groups).collect();
        groups.truncate(left.saturating_sub(1));
        let overlaps = |candidate: &Candidate| groups.iter().any(|group| candidate.has_set(group.set));
        if groups.is_empty() || known.iter().any(overlaps) {
            continue;
        }
        let loss = loss(ledger, &groups);
        let saving = ledger.saving(&groups);
        known.push(Candidate { groups, loss, saving });
    }
    known
}

/// Takes back what the budget allows, the highest score first, and gives the groups that stay pruned. A set from which one group doesn't fit
/// is not asked again.
fn readmit(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64, pruned: Vec<GroupId>) -> Vec<GroupId> {
    let mut full = BTreeSet::new();
    let order = ascending(ledger, scores, pruned).into_iter().rev();
    let stay = order.filter(|&group| {
        if full.contains(&(group.conv, group.set)) {
            return true;
        }
        ledger.restore(group);
        if ledger.total() <= budget {
            return false;
        }
        ledger.prune(&[group]);
        full.insert((group.conv, group.set));
        true
    });
    stay.collect()
}
