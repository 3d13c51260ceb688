//! Which arrays of a checkpoint are the network's weights: those behind a prefix that all of their names share.

use super::arrays::Arrays;
use super::matching::{Matching, Misfit, match_layers};
use super::modules::{Modules, is_of_weights, may_be_weight, split};
use super::options::ImportOptions;
use crate::network::Graph;

/// Parts of a prefix that are tried: a real one has four at most.
const DEEPEST: usize = 8;

/// Weights that fit a network, behind a prefix that is empty or ends with a dot.
pub(super) struct Set<'a> {
    pub prefix: &'a str,
    pub matching: Matching<'a>,
}

impl Set<'_> {
    /// What its names begin with, up to the last dot.
    pub fn key(&self) -> String {
        self.prefix.trim_end_matches('.').into()
    }
}

/// All sets of weights behind `key` that fit the network. One whose layers lie beside others comes before those.
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
            && is_of_weights(part)
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
        let (best, mut misfits) = self.attempts(shared, &ends, &[]);
        if let Some(best) = best {
            return Ok(vec![best]);
        }
        let mut sets: Vec<Set> = Vec::new();
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
        if sets.is_empty() {
            return Err(misfits.into_iter().rev().max_by_key(|misfit| misfit.found).expect("an attempt"));
        }
        // The layers of a set may lie beside another set, as a student's beside its teacher.
        let nested: Vec<String> = sets.iter().map(Set::key).collect();
        let (outer, _) = self.attempts(shared, &ends, &nested);
        let outer = outer.filter(|set| !set.matching.layers.is_empty());
        Ok(outer.into_iter().chain(sets).collect())
    }

    /// The set without the arrays of `nested` ones that fits best, of those behind the parts of `shared` up to each of `ends`; and why others don't
    /// fit.
    fn attempts(&self, shared: &'a str, ends: &[usize], nested: &[String]) -> (Option<Set<'a>>, Vec<Misfit>) {
        let ignore = [self.options.ignore, nested].concat();
        let options = ImportOptions { ignore: &ignore, ..*self.options };
        let (mut fits, mut misfits) = (Vec::new(), Vec::new());
        for end in ends {
            let prefix = &shared[..*end];
            match match_layers(self.graph, &Modules::new(self.arrays, prefix, &options), &options) {
                Ok(matching) => fits.push(Set { prefix, matching }),
                Err(misfit) => misfits.push(misfit),
            }
        }
        // Where layers are told by shape and number, names fit with and without a prefix.
        let best = fits.into_iter().max_by_key(|set| (set.matching.by_name, set.prefix.len()));
        (best, misfits)
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
