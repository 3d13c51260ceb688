//! Arrays by module, as PyTorch calls what shares a name up to the last dot: a convolution with its weight and bias, a batch norm.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::arrays::{Arrays, Entry};
use super::options::ImportOptions;
use crate::network::ConvShape;
use crate::network::role::Role;
use crate::network::weights::state;

/// Parts of a module that are weights or statistics.
const WEIGHT: &str = "weight";
const MASKED: [&str; 2] = ["weight_orig", "weight_mask"];
const MASKED_BIAS: [&str; 2] = ["bias_orig", "bias_mask"];
/// Directions and lengths, as the older and the newer weight norm of PyTorch call them.
const NORMALIZED: [[&str; 2]; 2] =
    [["weight_v", "weight_g"], ["parametrizations.weight.original1", "parametrizations.weight.original0"]];
const BIAS: &str = "bias";
/// What PyTorch and MARS call the parts of a batch norm: factor and offset, mean and variance.
const AFFINE: [[&str; 2]; 2] = [["weight", "bias"], ["gamma", "beta"]];
const STATISTICS: [[&str; 2]; 2] = [["running_mean", "running_var"], ["mean", "var"]];

/// The modules whose names begin with a prefix.
pub(super) struct Modules<'a> {
    arrays: &'a Arrays,
    prefix: &'a str,
    modules: BTreeMap<&'a str, Module<'a>>,
}

/// Arrays whose names differ behind the last dot.
pub(super) struct Module<'a> {
    /// Its name without the prefix.
    pub name: &'a str,
    parts: BTreeMap<&'a str, Part<'a>>,
}

/// An array of a module.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// Its name in the file.
    pub name: &'a str,
    pub entry: &'a Entry,
}

/// A convolution's or linear layer's weights.
#[derive(Clone, Copy)]
pub(super) struct WeightParts<'a> {
    pub weight: Part<'a>,
    pub factor: Option<Factor<'a>>,
}

/// What weights are multiplied by.
#[derive(Clone, Copy)]
pub(super) enum Factor<'a> {
    /// A mask of their shape, as `torch.nn.utils.prune` leaves it.
    Mask(Part<'a>),
    /// For each filter a length that its weights are scaled to (weight norm, Salimans and Kingma 2016): `w = g v / |v|`.
    Length(Part<'a>),
}

/// A convolution's or linear layer's bias, and the mask that it is multiplied by.
#[derive(Clone, Copy)]
pub(super) struct BiasParts<'a> {
    pub bias: Part<'a>,
    pub mask: Option<Part<'a>>,
}

/// A batch norm's arrays.
#[derive(Clone, Copy)]
pub(super) struct NormParts<'a> {
    /// Factor and offset; none for `affine=False`.
    pub affine: Option<[Part<'a>; 2]>,
    /// Mean and variance; none for `track_running_stats=False`.
    pub statistics: Option<[Part<'a>; 2]>,
}

/// Whether an array of a checkpoint can be a network's: neither a counter nor a number beside the weights nor the state of a run of ours.
pub(super) fn may_be_weight(name: &str, entry: &Entry) -> bool {
    let is_float = entry.format.is_some() && !entry.shape.is_empty();
    is_float && !name.contains(':') && !Role::names_scale(name)
}

/// Whether it is what our checkpoints hold beside weights, by which a run goes on.
pub(super) fn is_state(name: &str) -> bool {
    state::PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The name of a module and of an array in it; the arrays of a parametrization are those of the module whose weights they make.
pub(super) fn split(name: &str) -> (&str, &str) {
    match name.rsplit_once(".parametrizations.") {
        Some((module, _)) => (module, &name[module.len() + 1..]),
        None => name.rsplit_once('.').unwrap_or(("", name)),
    }
}

/// Whether a part of a module is its weights, or something that they are made of.
pub(super) fn is_of_weights(part: &str) -> bool {
    part.strip_prefix("parametrizations.").unwrap_or(part).starts_with(WEIGHT)
}

impl<'a> Modules<'a> {
    /// `prefix` is empty or ends with a dot.
    pub fn new(arrays: &'a Arrays, prefix: &'a str, options: &ImportOptions) -> Self {
        let mut modules: BTreeMap<&str, Module> = BTreeMap::new();
        for (full, entry) in arrays.iter().filter(|(name, entry)| may_be_weight(name, entry)) {
            let Some(name) = full.strip_prefix(prefix) else { continue };
            if options.ignoring(full, prefix).is_some() {
                continue;
            }
            let (module, part) = split(name);
            let module = modules.entry(module).or_insert_with(|| Module { name: module, parts: BTreeMap::new() });
            module.parts.insert(part, Part { name: full, entry });
        }
        Self { arrays, prefix, modules }
    }

    /// The module of a name, with or without the prefix.
    pub fn find(&self, name: &str) -> Option<&Module<'a>> {
        let short = || self.modules.get(name.strip_prefix(self.prefix)?);
        self.modules.get(name).or_else(short)
    }

    /// All modules, in the order of a network's layers as far as numbers in their names tell it.
    pub fn in_order(&self) -> Vec<&Module<'a>> {
        let mut modules: Vec<&Module> = self.modules.values().collect();
        modules.sort_by(|a, b| compare(a.name, b.name));
        modules
    }

    /// A name without the prefix.
    pub fn short<'n>(&self, name: &'n str) -> &'n str {
        name.strip_prefix(self.prefix).unwrap_or(name)
    }

    /// All arrays.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> {
        self.modules.values().flat_map(|module| module.parts.values().copied())
    }

    /// An array that one of these modules would have if its values were floats.
    pub fn unreadable(&self, modules: &BTreeSet<&str>, options: &ImportOptions) -> Option<&'a str> {
        let pairs = AFFINE.into_iter().chain(STATISTICS).chain([MASKED, MASKED_BIAS]);
        let roles = [BIAS, WEIGHT].into_iter().chain(pairs.flatten());
        let roles: BTreeSet<&str> = roles.collect();
        let is_of = |name: &str| {
            let (module, part) = split(self.short(name));
            modules.contains(module) && roles.contains(part)
        };
        let is_ignored = |name: &str| options.ignoring(name, self.prefix).is_some();
        let is_other = |name: &str, entry: &Entry| entry.format.is_none() && is_of(name) && !is_ignored(name);
        let mut others = self.arrays.iter().filter(|(name, entry)| is_other(name, entry));
        others.next().map(|(name, _)| name)
    }

    /// The format of an array that isn't a float, where that is what it lacks.
    pub fn is_integer(&self, name: &str) -> bool {
        let full = format!("{}{name}", self.prefix);
        self.arrays.iter().any(|(other, entry)| other == full && entry.format.is_none())
    }
}

impl<'a> Module<'a> {
    fn part(&self, name: &str) -> Option<Part<'a>> {
        self.parts.get(name).copied()
    }

    fn pair(&self, names: [&str; 2]) -> Option<[Part<'a>; 2]> {
        Some([self.part(names[0])?, self.part(names[1])?])
    }

    /// Its weights, if it is a convolution or a linear layer.
    pub fn weights(&self) -> Option<WeightParts<'a>> {
        let is_matrix = |part: &Part| matches!(part.entry.shape.len(), 2 | 4);
        let weight = |weight: Part<'a>, factor| is_matrix(&weight).then_some(WeightParts { weight, factor });
        let plain = || weight(self.part(WEIGHT)?, None);
        let masked = || self.pair(MASKED).and_then(|[values, mask]| weight(values, Some(Factor::Mask(mask))));
        let normalized = || {
            let [directions, lengths] = NORMALIZED.into_iter().find_map(|names| self.pair(names))?;
            weight(directions, Some(Factor::Length(lengths)))
        };
        plain().or_else(masked).or_else(normalized)
    }

    /// The bias of its convolution or linear layer.
    pub fn bias(&self) -> Option<BiasParts<'a>> {
        let plain = self.part(BIAS).map(|bias| BiasParts { bias, mask: None });
        plain.or_else(|| self.pair(MASKED_BIAS).map(|[bias, mask]| BiasParts { bias, mask: Some(mask) }))
    }

    /// Its batch norm: its own, where it is one, or that of a layer of ours.
    pub fn norm(&self) -> Option<NormParts<'a>> {
        let vectors =
            |names: [&str; 2]| self.pair(names).filter(|parts| parts.iter().all(|part| part.entry.shape.len() == 1));
        let find = |names: [[&str; 2]; 2]| names.into_iter().find_map(vectors);
        let norm = NormParts { affine: find(AFFINE), statistics: find(STATISTICS) };
        (norm.affine.is_some() || norm.statistics.is_some()).then_some(norm)
    }
}

/// Whether an array has the shape of a convolution's weights; a linear layer reads the flattened map: channels, rows, pixels.
fn part_fits(part: &Part, conv: &ConvShape) -> bool {
    let [height, width] = conv.window.kernel;
    part.entry.shape == [conv.filters(), conv.depth(), height, width]
        || part.entry.shape == [conv.filters(), conv.depth() * conv.taps()]
}

impl<'a> WeightParts<'a> {
    /// Whether it has the shape of a convolution.
    pub fn fits(&self, conv: &ConvShape) -> bool {
        part_fits(&self.weight, conv) && self.factor_misfit(conv).is_none()
    }

    /// Of weights that have the shape of a convolution, the factor that doesn't go with them, and the shape that would.
    pub fn factor_misfit(&self, conv: &ConvShape) -> Option<(Part<'a>, Vec<usize>)> {
        match self.factor.filter(|_| part_fits(&self.weight, conv))? {
            Factor::Mask(mask) => (!part_fits(&mask, conv)).then_some((mask, self.weight.entry.shape.clone())),
            // One for each filter, with as many sizes as the weights.
            Factor::Length(lengths) => {
                let shape = &lengths.entry.shape;
                let fits = shape.first() == Some(&conv.filters()) && lengths.entry.len() == conv.filters();
                (!fits).then_some((lengths, vec![conv.filters(), 1, 1, 1]))
            }
        }
    }

    /// Its arrays.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        let factor = self.factor.map(|(Factor::Mask(part) | Factor::Length(part))| part);
        std::iter::once(self.weight).chain(factor)
    }
}

impl<'a> BiasParts<'a> {
    /// Its arrays.
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        std::iter::once(self.bias).chain(self.mask)
    }
}

impl<'a> NormParts<'a> {
    pub fn parts(&self) -> impl Iterator<Item = Part<'a>> + use<'a> {
        self.affine.into_iter().chain(self.statistics).flatten()
    }

    /// Whether it has one value for each filter.
    pub fn fits(&self, filters: usize) -> bool {
        self.parts().all(|part| part.entry.shape == [filters])
    }
}

/// Pieces of a name: numbers, and what is between them.
fn pieces(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_digit = rest.starts_with(|c: char| c.is_ascii_digit());
        let end = rest.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Orders names by the numbers in them.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    match pieces(a).zip(pieces(b)).find(|(a, b)| a != b) {
        Some((a, b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y).then(a.cmp(b)),
            _ => a.cmp(b),
        },
        None => a.len().cmp(&b.len()),
    }
}

/// Whether numbers alone tell the order of two names.
pub(super) fn is_numbered(a: &str, b: &str) -> bool {
    let is_number = |piece: &str| piece.parse::<u64>().is_ok();
    pieces(a).zip(pieces(b)).find(|(a, b)| a != b).is_some_and(|(a, b)| is_number(a) && is_number(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_tell_the_order_of_names() {
        let mut names = ["features.10", "features.9", "layer1.0.conv2", "layer1.0.conv1", "conv1", "classifier.3"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(names, ["classifier.3", "conv1", "features.9", "features.10", "layer1.0.conv1", "layer1.0.conv2"]);
        assert!(is_numbered("layer1.0.conv1", "layer1.1.conv1") && is_numbered("3", "10"));
        assert!(!is_numbered("stem_a", "stem_b") && !is_numbered("conv", "conv1"));
    }
}
