//! Which arrays of a checkpoint are the network's weights: those behind a prefix that all of their names share.

use super::arrays::Arrays;
use super::matching::{Matching, Misfit, match_layers};
use super::modules::{Modules, may_be_weight, split};
use super::options::ImportOptions;
use crate::network::Graph;

/// Parts of a prefix that are tried: a real one has four at most.
const DEEPEST: usize = 8;

/// Weights that fit a network, behind a prefix that is empty or ends with a dot.
pub(super) struct Set<'a> {
    pub prefix: &'a str,
    pub matching: Matching<'a>,
}

/// All sets of weights behind `key` that fit the network.
///
/// # Errors
/// None fits: what the one that fits best lacks.
pub(super) fn find_sets<'a>(
    arrays: &'a Arrays,
    key: Option<&str>,
    graph: &Graph,
    options: &ImportOptions,
) -> Result<Vec<Set<'a>>, Misfit> {
    let within = |name: &&str| key.is_none_or(|key| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    let matrices = arrays.iter().filter(|(name, entry)| {
        let (_, part) = split(name);
        may_be_weight(name, entry)
            && options.ignoring(name, "").is_none()
            && matches!(entry.shape.len(), 2 | 4)
            && part.starts_with("weight")
    });
    let names: Vec<&str> = matrices.map(|(name, _)| name).filter(within).collect();
    let needed = graph.convs().count().saturating_sub(options.fresh.len()).max(1);
    Search { arrays, graph, options, needed }.explore(&names, key.map_or(0, |key| key.len() + 1))
}

struct Search<'a, 's> {
    arrays: &'a Arrays,
    graph: &'s Graph,
    options: &'s ImportOptions<'s>,
    /// Convolutions that a set must have.
    needed: usize,
}

impl<'a> Search<'a, '_> {
    /// The sets among sorted names of weights, of which the first `from` bytes are a prefix already.
    fn explore(&self, names: &[&'a str], from: usize) -> Result<Vec<Set<'a>>, Misfit> {
        let Some(shared) = shared_prefix(names) else {
            return Err(Misfit { reason: "it holds no weights".into(), way_out: "name another file".into(), found: 0 });
        };
        // Of a single name nothing but its key is shared.
        let shared = &names[0][..shared.len().max(from)];
        let ends = shared.match_indices('.').map(|(dot, _)| dot + 1).filter(|end| *end > from);
        let ends: Vec<usize> = std::iter::once(from).chain(ends).take(DEEPEST).collect();
        let attempt = |end: &usize| {
            let prefix = &shared[..*end];
            let matching = match_layers(self.graph, &Modules::new(self.arrays, prefix, self.options), self.options);
            matching.map(|matching| Set { prefix, matching })
        };
        let (mut fits, mut misfits) = (Vec::new(), Vec::new());
        for attempt in ends.iter().map(attempt) {
            match attempt {
                Ok(set) => fits.push(set),
                Err(misfit) => misfits.push(misfit),
            }
        }
        // Where layers are told by shape and number, names fit with and without a prefix.
        if let Some(best) = fits.into_iter().max_by_key(|set| (set.matching.by_name, set.prefix.len())) {
            return Ok(vec![best]);
        }
        let mut sets = Vec::new();
        let deepest = shared.len();
        let part = |name: &&'a str| name[deepest..].split_once('.').map(|(part, _)| part);
        for group in names.chunk_by(|a, b| part(a) == part(b)) {
            if group.len() >= self.needed && group.len() < names.len() {
                match self.explore(group, deepest) {
                    Ok(found) => sets.extend(found),
                    Err(misfit) => misfits.push(misfit),
                }
            }
        }
        match sets.is_empty() {
            false => Ok(sets),
            true => Err(misfits.into_iter().rev().max_by_key(|misfit| misfit.found).expect("an attempt")),
        }
    }
}

/// What the names of all modules' parents begin with, up to a dot; none without names.
fn shared_prefix<'a>(names: &[&'a str]) -> Option<&'a str> {
    let (first, last) = (names.first()?, names.last()?);
    // Sorted names: what the first and the last share, all do.
    let shared = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let parent = |name: &str| split(split(name).0).0.len();
    let shortest = names.iter().map(|name| parent(name)).min()?;
    // The dot behind a parent's name is part of the prefix.
    let within = &first.as_bytes()[..shared.min(shortest + 1)];
    Some(&first[..within.iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_a_module() {
        for (names, prefix) in [
            (&["conv1.weight", "fc.weight"][..], ""),
            (&["net.fc.weight"], "net."),
            (&["\u{5c42}1.weight", "\u{5c42}2.weight"], ""),
            (&["\u{e9}\u{5c42}.weight", "\u{e8}\u{5c42}.weight"], ""),
            (&["a.b.conv1.weight", "a.b.conv2.weight"], "a.b."),
            (&["a.projection.weight", "a.weight"], ""),
            (&["model.conv1.weight", "model_ema.conv1.weight"], ""),
            (&["0.weight", "3.weight"], ""),
            (&["weight"], ""),
        ] {
            assert_eq!(shared_prefix(names), Some(prefix), "{names:?}");
        }
    }
}
