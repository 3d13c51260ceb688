//! Which module of a checkpoint is which layer of a network: by a name that is given, by the layer's own, or by shape and number.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::{BiasParts, Module, Modules, NormParts, Part, WeightParts, compare, is_numbered, split};
use super::options::ImportOptions;
use crate::network::role::Role;
use crate::network::{Conv, ConvId, Graph};

/// Where the parameters of each convolution come from.
pub(super) struct Matching<'a> {
    /// Those that come from the checkpoint.
    pub layers: Vec<MatchedLayer<'a>>,
    /// Those that are trained anew.
    pub fresh: Vec<Conv>,
    /// How many were found by name.
    pub by_name: usize,
    /// Arrays that have no place in the network, since a layer is trained anew.
    pub unused: Vec<Part<'a>>,
}

/// Where the parameters of a convolution come from.
pub(super) struct MatchedLayer<'a> {
    pub conv: Conv,
    pub weights: WeightParts<'a>,
    pub bias: Option<BiasParts<'a>>,
    pub norm: Option<NormParts<'a>>,
}

/// What doesn't fit.
#[derive(Debug)]
pub(super) struct Misfit {
    pub reason: String,
    pub way_out: String,
    /// Convolutions that were found before.
    pub found: usize,
}

type Fit<T> = Result<T, Misfit>;

const ANOTHER_NETWORK: &str = "--model names another network";
const NAMES: &str = "say which is which in [names] of the recipe";

/// Finds the parameters of all convolutions.
///
/// # Errors
/// The first thing that doesn't fit.
pub(super) fn match_layers<'a>(graph: &Graph, modules: &Modules<'a>, options: &ImportOptions) -> Fit<Matching<'a>> {
    let mut matcher = Matcher { modules, options, taken: BTreeSet::new(), given_up: BTreeSet::new(), found: 0 };
    let (wanted, mut fresh) = matcher.split_fresh(graph)?;
    let (weights, by_name, left) = matcher.weights(graph, wanted)?;
    fresh.extend(left);
    let norms = matcher.norms(&weights)?;
    let layer = |((conv, module), norm): ((Conv, &Module<'a>), Option<NormParts<'a>>)| {
        let weights = module.weights().expect("a module with weights");
        MatchedLayer { conv, weights, bias: module.bias(), norm }
    };
    let layers: Vec<MatchedLayer> = weights.into_iter().zip(norms).map(layer).collect();
    for MatchedLayer { conv, bias, .. } in &layers {
        let mut parts = bias.iter().flat_map(BiasParts::parts);
        if let Some(Part { name, entry }) = parts.find(|part| part.entry.shape != [conv.shape.filters()]) {
            return matcher.misshapen(name, &entry.shape, &conv.name, &[conv.shape.filters()], ANOTHER_NETWORK);
        }
    }
    if let Some(name) = modules.unreadable(&matcher.taken, options) {
        return matcher.misfit(format!("`{name}` isn't floats"), "export its float weights");
    }
    let unused = matcher.unused(&layers, &fresh)?;
    Ok(Matching { layers, fresh, by_name, unused })
}

struct Matcher<'m, 'a> {
    modules: &'m Modules<'a>,
    options: &'m ImportOptions<'m>,
    /// Modules that belong to a layer, by name.
    taken: BTreeSet<&'a str>,
    /// Modules that the user doesn't want.
    given_up: BTreeSet<&'a str>,
    found: usize,
}

type Found<'m, 'a> = Vec<(Conv, &'m Module<'a>)>;

impl<'m, 'a> Matcher<'m, 'a> {
    fn misfit<T>(&self, reason: String, way_out: impl Into<String>) -> Fit<T> {
        Err(Misfit { reason, way_out: way_out.into(), found: self.found })
    }

    fn misshapen<T>(&self, name: &str, found: &[usize], layer: &str, needed: &[usize], way_out: &str) -> Fit<T> {
        self.misfit(format!("`{name}` has shape {found:?}, `{layer}` needs {needed:?}"), way_out)
    }

    /// The convolutions that are wanted from the checkpoint, and those that are trained anew.
    fn split_fresh(&mut self, graph: &Graph) -> Fit<(Vec<Conv>, Vec<Conv>)> {
        for name in self.options.fresh {
            if graph.convs().any(|conv| conv.name == *name) {
                continue;
            }
            match self.modules.find(name) {
                Some(module) => self.given_up.insert(module.name),
                None => {
                    let reason = format!("neither it nor the network has a layer `{name}`");
                    return self.misfit(reason, "--fresh names the layers that are trained anew");
                }
            };
        }
        Ok(graph.convs().partition(|conv| !self.options.fresh.contains(&conv.name)))
    }

    /// The modules of the convolutions' weights, how many of them have the layer's name, and convolutions that are left for modules that the
    /// user doesn't want.
    fn weights(&mut self, graph: &Graph, wanted: Vec<Conv>) -> Fit<(Found<'m, 'a>, usize, Vec<Conv>)> {
        let mut found: BTreeMap<ConvId, &'m Module<'a>> = BTreeMap::new();
        for conv in &wanted {
            if let Some(module) = self.named(graph, conv)? {
                self.take(module);
                found.insert(conv.id, module);
            }
        }
        let by_name = found.len();
        let modules = self.modules;
        let mut left: Vec<&Conv> = wanted.iter().filter(|conv| !found.contains_key(&conv.id)).collect();
        let mut none_left = Vec::new();
        while let Some(first) = left.first() {
            let shape = first.shape.weight_shape();
            let (alike, others) = left.iter().partition::<Vec<&Conv>, _>(|conv| conv.shape.weight_shape() == shape);
            let fits = |module: &&Module| {
                self.is_free(module) && module.weights().is_some_and(|weights| weights.fits(&first.shape))
            };
            let fitting: Vec<&Module> = modules.in_order().into_iter().filter(fits).collect();
            if fitting.is_empty() && none_left.len() + alike.len() <= self.given_up.len() {
                none_left.extend(alike.into_iter().cloned());
            } else {
                let pairs = self.pairs(&alike, &fitting)?;
                // A checkpoint that counts its layers otherwise has some names in common with the network's.
                let by_own_name = |conv: &&Conv| {
                    found.contains_key(&conv.id)
                        && conv.shape.weight_shape() == shape
                        && !self.options.names.is_some_and(|names| names.contains_key(&conv.name))
                };
                let by_own_name: Vec<&Conv> = wanted.iter().filter(by_own_name).collect();
                for (conv, module) in &pairs {
                    // Names that tell projections tell them from the block's own convolutions, too.
                    let is_told = names_projection(module.name) == is_projection(conv);
                    let may_be = |other: &&&Conv| !is_told || is_projection(other) == is_projection(conv);
                    if let Some(other) = by_own_name.iter().find(may_be) {
                        let reason =
                            format!("it has no `{}`, though it has `{}` of the same shape", conv.name, other.name);
                        return self.misfit(reason, NAMES);
                    }
                }
                for (conv, module) in pairs {
                    self.take(module);
                    found.insert(conv.id, module);
                }
            }
            left = others;
        }
        let found = wanted.iter().filter_map(|conv| Some((conv.clone(), *found.get(&conv.id)?))).collect();
        Ok((found, by_name, none_left))
    }

    fn take(&mut self, module: &Module<'a>) {
        self.taken.insert(module.name);
        self.found += 1;
    }

    fn is_free(&self, module: &Module) -> bool {
        !self.taken.contains(module.name) && !self.given_up.contains(module.name)
    }

    /// The module whose name the user gives, or that is called as the layer is.
    fn named(&self, graph: &Graph, conv: &Conv) -> Fit<Option<&'m Module<'a>>> {
        if let Some(name) = self.options.names.and_then(|names| names.get(&conv.name)) {
            let Some(module) = self.modules.find(name) else {
                return self.misfit(format!("it has no `{name}`, which [names] gives for `{}`", conv.name), NAMES);
            };
            if !self.is_free(module) {
                return self.given_twice(name, &conv.name);
            }
            return match module.weights() {
                Some(weights) if weights.fits(&conv.shape) => Ok(Some(module)),
                _ => {
                    self.misfit(format!("`{name}`, which [names] gives for `{}`, isn't of its shape", conv.name), NAMES)
                }
            };
        }
        let fits = |module: &&Module| {
            self.is_free(module) && module.weights().is_some_and(|weights| weights.fits(&conv.shape))
        };
        let mut names = layer_names(graph, conv).into_iter();
        Ok(names.find_map(|name| self.modules.find(&name).filter(fits)))
    }

    fn given_twice<T>(&self, module: &str, layer: &str) -> Fit<T> {
        let reason = format!(
            "`{module}`, which [names] gives for `{layer}`, is what another layer is read from, or what --fresh leaves out"
        );
        self.misfit(reason, NAMES)
    }

    /// Convolutions of one shape with the modules of that shape; projections among both go together. Where the network has both kinds, names tell
    /// as many of each: numbers don't, since a block may count its projection first or last.
    fn pairs<'c>(&self, convs: &[&'c Conv], modules: &[&'m Module<'a>]) -> Fit<Vec<(&'c Conv, &'m Module<'a>)>> {
        let (of_convs, own_convs): (Vec<&Conv>, Vec<&Conv>) = convs.iter().partition(|conv| is_projection(conv));
        let (of_modules, own_modules): (Vec<&Module>, Vec<&Module>) =
            modules.iter().partition(|module| names_projection(module.name));
        let is_told = of_convs.len() == of_modules.len() && own_convs.len() == own_modules.len();
        let untold = of_convs.first().copied().filter(|_| !is_told && !own_convs.is_empty());
        let kinds = match is_told {
            true => vec![(own_convs, own_modules), (of_convs, of_modules)],
            false => vec![(convs.to_vec(), modules.to_vec())],
        };
        let mut pairs = Vec::new();
        for (convs, modules) in kinds.into_iter().filter(|(convs, _)| !convs.is_empty()) {
            self.check_order(&convs, &modules)?;
            pairs.extend(convs.into_iter().zip(modules));
        }
        match untold {
            None => Ok(pairs),
            Some(projection) => self.any_of(projection, modules),
        }
    }

    fn any_of<T>(&self, conv: &Conv, modules: &[&Module]) -> Fit<T> {
        let names: Vec<&str> = modules.iter().map(|module| module.name).collect();
        self.misfit(format!("`{}` may be any of {}", conv.name, names.join(", ")), NAMES)
    }

    /// Convolutions of one shape take the modules of that shape in the order of their numbers: there must be as many, and an order.
    fn check_order(&self, convs: &[&Conv], modules: &[&Module]) -> Fit<()> {
        let first = convs[0];
        let shape = first.shape.weight_shape();
        if modules.len() > convs.len() {
            return self.any_of(first, modules);
        }
        if modules.len() < convs.len() {
            return self.missing(first, &shape);
        }
        match modules.windows(2).find(|pair| !is_numbered(pair[0].name, pair[1].name)) {
            None => Ok(()),
            Some(pair) => {
                let reason = format!("which of `{}` and `{}` comes first can't be told", pair[0].name, pair[1].name);
                self.misfit(reason, NAMES)
            }
        }
    }

    /// Why no module fits a convolution.
    fn missing<T>(&self, conv: &Conv, shape: &[usize]) -> Fit<T> {
        let name = format!("{}.weight", conv.name);
        if self.modules.is_integer(&name) {
            return self.misfit(format!("`{name}` is integers"), "export its float weights");
        }
        if let Some(found) = self.modules.find(&conv.name).and_then(Module::weights) {
            if let Some((Part { name, entry }, needed)) = found.factor_misfit(&conv.shape) {
                return self.misshapen(name, &entry.shape, &conv.name, &needed, "save its weights as one array");
            }
            let Part { name, entry } = found.weight;
            return self.misshapen(name, &entry.shape, &conv.name, shape, &self.anew(conv));
        }
        let free = self.modules.in_order().into_iter().filter(|module| self.is_free(module));
        let mut weights = free.filter_map(Module::weights).map(|weights| weights.weight);
        match (conv.logits, weights.next(), weights.next()) {
            (true, Some(Part { name, entry }), None) => {
                let (filters, inputs) = (entry.shape[0], entry.shape[1..].iter().product::<usize>());
                let (classes, needed) = (shape[0], shape[1..].iter().product::<usize>());
                let reason = format!(
                    "`{name}` gives {filters} values from {inputs}, the network's `{}` {classes} from {needed}",
                    conv.name
                );
                self.misfit(reason, self.anew(conv))
            }
            _ => self.misfit(format!("it has no `{name}` of shape {shape:?}"), self.anew(conv)),
        }
    }

    fn anew(&self, conv: &Conv) -> String {
        match conv.logits {
            true => format!("--fresh {} trains that layer anew", conv.name),
            false => ANOTHER_NETWORK.into(),
        }
    }

    /// The batch norm of each convolution, where the network has one.
    fn norms(&mut self, convs: &Found<'m, 'a>) -> Fit<Vec<Option<NormParts<'a>>>> {
        let modules = self.modules;
        let mut norms: Vec<Option<NormParts>> = vec![None; convs.len()];
        for (norm, (conv, module)) in norms.iter_mut().zip(convs).filter(|(_, (conv, _))| conv.batch_norm) {
            *norm = self.named_norm(conv, module)?;
        }
        loop {
            let left = |(norm, (conv, _)): &(&Option<NormParts>, &(Conv, &Module))| conv.batch_norm && norm.is_none();
            let Some((_, (first, _))) = norms.iter().zip(convs).find(left) else { return Ok(norms) };
            let filters = first.shape.filters();
            let alike: Vec<usize> = (0..convs.len())
                .filter(|&index| left(&(&norms[index], &convs[index])) && convs[index].0.shape.filters() == filters)
                .collect();
            let fits = |module: &&Module| self.is_free(module) && module.norm().is_some_and(|norm| norm.fits(filters));
            let fitting: Vec<&Module> = modules.in_order().into_iter().filter(fits).collect();
            if fitting.len() < alike.len() {
                let reason = format!("it has no batch norm of {filters} values for `{}`", first.name);
                return self.misfit(reason, ANOTHER_NETWORK);
            }
            let numbered = fitting.windows(2).all(|pair| is_numbered(pair[0].name, pair[1].name));
            if fitting.len() > alike.len() || !numbered {
                let names: Vec<&str> = fitting.iter().map(|module| module.name).collect();
                let reason = format!("the batch norm of `{}` may be any of {}", first.name, names.join(", "));
                return self.misfit(reason, format!("{NAMES}, as `{}.norm`", first.name));
            }
            let pairs: Vec<(usize, &Module)> = alike.into_iter().zip(fitting).collect();
            if let Some((index, module)) = pairs.iter().find(|(index, norm)| !is_behind(norm, convs[*index].1)) {
                let (conv, of) = (&convs[*index].0.name, convs[*index].1.name);
                let reason = format!("the batch norm of `{conv}` isn't found: `{}` doesn't follow `{of}`", module.name);
                return self.misfit(reason, format!("{NAMES}, as `{conv}.norm`"));
            }
            for (index, module) in pairs {
                self.taken.insert(module.name);
                norms[index] = module.norm();
            }
        }
    }

    /// The batch norm whose name the user gives, or that goes with a convolution's.
    fn named_norm(&mut self, conv: &Conv, module: &Module<'a>) -> Fit<Option<NormParts<'a>>> {
        let filters = conv.shape.filters();
        let key = format!("{}.norm", conv.name);
        if let Some(name) = self.options.names.and_then(|names| names.get(&key)) {
            let norm = self.modules.find(name).and_then(|found| Some((found.name, found.norm()?)));
            let is_free = |found: &Module| found.name == module.name || self.is_free(found);
            if self.modules.find(name).is_some_and(|found| !is_free(found)) {
                return self.given_twice(name, &key);
            }
            return match norm.filter(|(_, norm)| norm.fits(filters)) {
                Some((name, norm)) => {
                    self.taken.insert(name);
                    Ok(Some(norm))
                }
                None => self.misfit(format!("`{name}`, which [names] gives for `{key}`, isn't of its shape"), NAMES),
            };
        }
        if let Some(norm) = module.norm().filter(|norm| norm.fits(filters)) {
            return Ok(Some(norm));
        }
        for name in norm_names(module.name) {
            let Some(found) = self.modules.find(&name).filter(|found| self.is_free(found)) else { continue };
            let Some(norm) = found.norm() else { continue };
            if let Some(part) = norm.parts().find(|part| part.entry.shape != [filters]) {
                return self.misshapen(part.name, &part.entry.shape, &conv.name, &[filters], ANOTHER_NETWORK);
            }
            self.taken.insert(found.name);
            return Ok(Some(norm));
        }
        Ok(None)
    }

    /// Arrays that belong to no layer: there are none, unless they are of layers that others, trained anew, have taken the place of.
    fn unused(&self, layers: &[MatchedLayer<'a>], fresh: &[Conv]) -> Fit<Vec<Part<'a>>> {
        let weights = layers.iter().flat_map(|layer| layer.weights.parts());
        let biases = layers.iter().filter_map(|layer| layer.bias).flat_map(|bias| bias.parts());
        let norms = layers.iter().filter_map(|layer| layer.norm).flat_map(|norm| norm.parts());
        let used: BTreeSet<&str> = weights.chain(biases).chain(norms).map(|part| part.name).collect();
        let unused: Vec<Part> = self.modules.parts().filter(|part| !used.contains(part.name)).collect();
        let modules = self.modules.in_order().into_iter().filter(|module| !self.taken.contains(module.name));
        let (weights, others): (Vec<_>, Vec<_>) = modules.partition(|module| module.weights().is_some());
        let norms: Vec<_> = others.into_iter().filter(|module| module.norm().is_some()).collect();
        let fresh_norms = fresh.iter().filter(|conv| conv.batch_norm).count() + self.given_up.len();
        let replaced: BTreeSet<&str> = match weights.len() <= fresh.len() && norms.len() <= fresh_norms {
            true => weights.iter().chain(&norms).map(|module| module.name).collect(),
            false => BTreeSet::new(),
        };
        let has_no_place = |part: &&Part| {
            let module = split(self.modules.short(part.name)).0;
            !replaced.contains(module) && !self.given_up.contains(module)
        };
        match unused.iter().find(has_no_place) {
            None => Ok(unused),
            Some(part) => {
                let reason = format!("it also holds `{}`, which the network has no place for", part.name);
                let quantizer = ["fake_quant", "activation_post_process", "quant."];
                if quantizer.iter().any(|mark| part.name.contains(mark)) {
                    return self.misfit(reason, "export its float weights");
                }
                // Of a layer whose weights are read it is the array alone.
                let (module, _) = split(part.name);
                let is_read = module.is_empty() || self.taken.contains(self.modules.short(module));
                let aside = if is_read { part.name } else { module };
                self.misfit(
                    reason,
                    format!("{ANOTHER_NETWORK}, and ignore = [\"{aside}\"] in the recipe leaves it aside"),
                )
            }
        }
    }
}

/// What checkpoints call a layer: as the network does, and a projection as the block's `shortcut` or `downsample`.
fn layer_names(graph: &Graph, conv: &Conv) -> Vec<String> {
    let mut names = vec![conv.name.clone()];
    if let ConvId::Projection(node) = conv.id {
        let block = graph.nodes()[node].name.rsplit_once('.').map_or(String::new(), |(block, _)| format!("{block}."));
        names.extend(PROJECTIONS.map(|name| format!("{block}{name}.0")));
    }
    names
}

/// What checkpoints call a block's projection, alone or with a word more (`identity_downsample`).
const PROJECTIONS: [&str; 2] = ["shortcut", "downsample"];

fn names_projection(module: &str) -> bool {
    PROJECTIONS.iter().any(|name| module.contains(name))
}

fn is_projection(conv: &Conv) -> bool {
    matches!(conv.id, ConvId::Projection(_))
}

/// Whether a batch norm may be that of a convolution: it doesn't come before it, where numbers alone tell their order.
fn is_behind(norm: &Module, conv: &Module) -> bool {
    !is_numbered(conv.name, norm.name) || compare(conv.name, norm.name).is_lt()
}

/// What checkpoints call the batch norm of a convolution.
fn norm_names(conv: &str) -> Vec<String> {
    let (block, last) = conv.rsplit_once('.').map_or(("", conv), |(block, last)| (block, last));
    let beside = |name: String| if block.is_empty() { name } else { format!("{block}.{name}") };
    let mut names = Vec::new();
    if let Ok(number) = last.parse::<u64>() {
        names.extend(number.checked_add(1).map(|next| beside(next.to_string())));
    }
    if last == "convolution" {
        names.push(beside("normalization".into()));
    }
    for norm in ["bn", "norm"] {
        if let Some((front, behind)) = last.rsplit_once("conv") {
            names.push(beside(format!("{front}{norm}{behind}")));
        }
        names.push(format!("{conv}_{norm}"));
        names.push(format!("{conv}.{norm}"));
    }
    names
}

/// The roles of a batch norm's arrays, in the order of [`NormParts`].
pub(super) const AFFINE: [Role; 2] = [Role::Gamma, Role::Beta];
pub(super) const STATISTICS: [Role; 2] = [Role::Mean, Role::Variance];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_norm_goes_with_its_convolution() {
        assert!(norm_names("layer1.0.conv2").contains(&"layer1.0.bn2".into()));
        assert!(norm_names("features.7").contains(&"features.8".into()) && norm_names("0").contains(&"1".into()));
        assert!(norm_names("layer.0.convolution").contains(&"layer.0.normalization".into()));
        assert!(norm_names("stem.conv").contains(&"stem.norm".into()));
        assert!(norm_names("a").contains(&"a_bn".into()));
        assert!(norm_names("conv2_block1_0_conv").contains(&"conv2_block1_0_bn".into()));
    }
}
