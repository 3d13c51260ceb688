//! Which groups to drop so that a network fits a budget of the hardware model: those that buy most for what they lose.
//!
//! It knows nothing of training: a group's score, what its loss costs in accuracy, is given.

use crate::hardware::{FilterSet, Ledger};

/// A group: convolution, filter set, number in the set.
type Group = (usize, usize, usize);

/// Drops groups until the network costs at most `budget`, and gives the groups that are kept of each convolution.
///
/// `scores` has one list for each convolution, in the order of its grid. Where the cost falls in stairs (four groups share an access, the
/// slowest core decides), a step of a stair is dropped as a whole: of each filter set that it concerns the groups with the lowest scores. At
/// each turn the step with the least score for what it saves goes; the hardware model is asked again for what has changed. In the end
/// groups come back, the highest score first, as long as the budget holds. The same is done with the groups in the order of their scores
/// alone; what loses less is taken.
///
/// Every convolution keeps a group. `None` where that alone costs more than the budget.
pub fn fit_budget(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64) -> Option<Vec<Vec<bool>>> {
    let start = ledger.snapshot();
    if ledger.total() > budget {
        let plain = in_order(ledger, scores, budget);
        ledger.rewind(&start);
        let by_steps = by_steps(ledger, scores, budget);
        let loss = |dropped: &[Group]| dropped.iter().map(|group| score(ledger, scores, *group)).sum::<f64>();
        let found = by_steps.into_iter().chain(plain);
        let best = found.min_by(|a, b| loss(a).total_cmp(&loss(b)))?;
        ledger.rewind(&start);
        drop_all(ledger, &best);
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

fn kept_groups(ledger: &Ledger) -> Vec<Group> {
    let sets = |conv: usize| ledger.sets(conv).iter().enumerate().map(move |(set, kept)| (conv, set, &kept.groups));
    (0..ledger.convs())
        .flat_map(sets)
        .flat_map(|(conv, set, groups)| groups.iter().map(move |g| (conv, set, *g)))
        .collect()
}

fn score(ledger: &Ledger, scores: &[Vec<f32>], (conv, set, group): Group) -> f64 {
    let per_set = scores[conv].len() / ledger.sets(conv).len();
    f64::from(scores[conv][set * per_set + group])
}

fn drop_all(ledger: &mut Ledger, groups: &[Group]) {
    for conv in 0..ledger.convs() {
        let own: Vec<(usize, usize)> =
            groups.iter().filter(|(of, ..)| *of == conv).map(|(_, set, group)| (*set, *group)).collect();
        if !own.is_empty() {
            ledger.drop_groups(conv, &own);
        }
    }
}

/// Groups from the lowest score to the highest; ties by their place.
fn ascending(ledger: &Ledger, scores: &[Vec<f32>], mut groups: Vec<Group>) -> Vec<Group> {
    groups.sort_by(|a, b| score(ledger, scores, *a).total_cmp(&score(ledger, scores, *b)).then(a.cmp(b)));
    groups
}

/// Drops the groups with the lowest scores, as many as it takes; `None` if it takes all.
fn in_order(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64) -> Option<Vec<Group>> {
    let start = ledger.snapshot();
    let mut left: Vec<usize> = (0..ledger.convs()).map(|conv| kept_of(ledger, conv)).collect();
    let mut order = ascending(ledger, scores, kept_groups(ledger));
    order.retain(|(conv, ..)| {
        left[*conv] -= 1;
        left[*conv] > 0
    });
    let mut fits = |count: usize| {
        ledger.rewind(&start);
        drop_all(ledger, &order[..count]);
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
    Some(give_back(ledger, scores, budget, order))
}

/// A step of a convolution with what it loses and saves.
struct Candidate {
    groups: Vec<(usize, usize)>,
    loss: f64,
    saving: f64,
}

impl Candidate {
    /// Steps that save come first, those with the least loss for it before others; then those that may open the way for others.
    fn rank(&self) -> (bool, f64) {
        if self.saving > 0.0 { (false, self.loss / self.saving) } else { (true, self.loss) }
    }
}

/// Drops step after step; `None` if none is left.
fn by_steps(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64) -> Option<Vec<Group>> {
    // Each set's groups, the lowest score last.
    let mut queues: Vec<Vec<Vec<usize>>> = (0..ledger.convs())
        .map(|conv| {
            let sets = ledger.sets(conv).iter().enumerate();
            let queue = |(set, kept): (usize, &FilterSet)| {
                let groups = kept.groups.iter().map(|group| (conv, set, *group)).collect();
                ascending(ledger, scores, groups).into_iter().rev().map(|(.., group)| group).collect()
            };
            sets.map(queue).collect()
        })
        .collect();
    let mut candidates: Vec<Vec<Candidate>> =
        (0..ledger.convs()).map(|conv| candidates(ledger, scores, &queues, conv, Vec::new(), &[])).collect();
    let mut dropped = Vec::new();
    while ledger.total() > budget {
        let all =
            candidates.iter().enumerate().flat_map(|(conv, list)| (0..list.len()).map(move |index| (conv, index)));
        let rank = |(conv, index): &(usize, usize)| candidates[*conv][*index].rank();
        let (conv, index) = all.min_by(|a, b| {
            let ((a_late, a), (b_late, b)) = (rank(a), rank(b));
            a_late.cmp(&b_late).then(a.total_cmp(&b))
        })?;
        let groups = candidates[conv].swap_remove(index).groups;
        ledger.drop_groups(conv, &groups);
        for (set, group) in &groups {
            queues[conv][*set].retain(|other| other != group);
            dropped.push((conv, *set, *group));
        }
        let others = std::mem::take(&mut candidates[conv]);
        candidates[conv] = self::candidates(ledger, scores, &queues, conv, others, &groups);
    }
    Some(give_back(ledger, scores, budget, dropped))
}

/// The steps of a convolution that leave it a group; those of `known` that have no set in common with the groups that just `went` stay.
fn candidates(
    ledger: &mut Ledger,
    scores: &[Vec<f32>],
    queues: &[Vec<Vec<usize>>],
    conv: usize,
    known: Vec<Candidate>,
    went: &[(usize, usize)],
) -> Vec<Candidate> {
    let left = kept_of(ledger, conv);
    let mut known: Vec<Candidate> = known
        .into_iter()
        .filter(|candidate| candidate.groups.len() < left)
        .filter(|candidate| candidate.groups.iter().all(|(set, _)| went.iter().all(|(other, _)| other != set)))
        .collect();
    for step in ledger.steps(conv) {
        let choices = step.iter().map(|choices| {
            let tails = choices.iter().map(|&(set, count)| {
                let queue = &queues[conv][set];
                let groups: Vec<(usize, usize)> =
                    queue[queue.len() - count..].iter().rev().map(|group| (set, *group)).collect();
                let loss: f64 = groups.iter().map(|(set, group)| score(ledger, scores, (conv, *set, *group))).sum();
                (loss, groups)
            });
            tails.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
        });
        let mut groups: Vec<(usize, usize)> = choices.flat_map(|(_, groups)| groups).collect();
        groups.truncate(left.saturating_sub(1));
        let same = |candidate: &Candidate| candidate.groups.iter().any(|(set, _)| groups.iter().any(|(s, _)| s == set));
        if groups.is_empty() || known.iter().any(same) {
            continue;
        }
        let loss = groups.iter().map(|(set, group)| score(ledger, scores, (conv, *set, *group))).sum();
        let saving = ledger.saving(conv, &groups);
        known.push(Candidate { groups, loss, saving });
    }
    known
}

/// Takes back what the budget allows, the highest score first; a set from which nothing fits is not asked again.
fn give_back(ledger: &mut Ledger, scores: &[Vec<f32>], budget: f64, dropped: Vec<Group>) -> Vec<Group> {
    let mut full = std::collections::BTreeSet::new();
    let order = ascending(ledger, scores, dropped).into_iter().rev();
    let gone = order.filter(|&(conv, set, group)| {
        if full.contains(&(conv, set)) {
            return true;
        }
        ledger.restore(conv, set, group);
        if ledger.total() <= budget {
            return false;
        }
        ledger.drop_groups(conv, &[(set, group)]);
        full.insert((conv, set));
        true
    });
    gone.collect()
}
