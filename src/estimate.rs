//! What a network will cost that nobody has trained: its layers and bits are given, which of its groups are zero is made up.

use std::ops::Range;
use std::path::Path;

use clap::ValueEnum;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::files::to_json;
use crate::groups::{GroupGrid, GroupShape};
use crate::hardware::{Evaluation, Hardware, evaluate};
use crate::integer::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip, QuantizeConfig, outline};
use crate::network::{ConvShape, Graph, MAX_WEIGHTS, NetworkSpec, Source, zoo};
use crate::package::network_of_file;

/// What the zero groups of an estimate are drawn from.
pub const SEED: u64 = 1;
/// Shares of groups that can be zero.
pub const SPARSITY: Range<f64> = 0.0..1.0;
/// Most of a layer's groups that [`Pattern::LargeLayers`] makes zero.
const MOST_OF_A_LAYER: f64 = 0.99;

/// Where the zero groups of a network are that nobody has pruned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Only in layers with at least half as many input channels as the layer with the most: pruning often spares early layers.
    #[default]
    LargeLayers,
    /// The same share of each layer.
    Even,
}

/// What is assumed of a network that isn't trained: all that its cost follows from beside its layers and the chip.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Assumptions {
    /// Bits of a weight, 2 to 8.
    pub weight_bits: u8,
    /// Bits of a convolution's input, 2 to 8.
    pub activation_bits: u8,
    /// Bits of weights and inputs of the first and last layer, 2 to 8; the image has 8.
    pub first_last_bits: u8,
    /// Zero groups of all layers but the first and the last / all their groups, from 0 to below 1.
    pub sparsity: f64,
    /// Which layers they are in.
    pub pattern: Pattern,
}

/// What an [`Estimate`] was made up from: the key `made_up` of its JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MadeUp {
    /// All of it as a sentence.
    pub what: String,
    /// What was asked for.
    #[serde(flatten)]
    pub assumptions: Assumptions,
    /// Bits of residual values.
    pub skip_bits: u8,
    /// What the zero groups are drawn from.
    pub seed: u64,
    /// Shape of an image: channels, height, width.
    pub image: [usize; 3],
    /// Classes.
    pub classes: usize,
}

/// A network that nobody has trained, on a chip.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Name of the network.
    pub network: String,
    /// What was made up.
    pub made_up: MadeUp,
    /// What it costs.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// The network with its zero groups; weights of others mean nothing.
    #[serde(skip)]
    pub integer: IntegerNetwork,
}

/// A network of the zoo, or of a TOML, ONNX or package file. Those of the zoo have 10 classes and images of 32 x 32 unless something else is said, networks
/// for ImageNet 1,000 and 224 x 224.
///
/// # Errors
/// There is none of that name; a size or classes for a file, which says its own.
pub fn named_network(model: &str, image_size: Option<usize>, classes: Option<usize>) -> Result<NetworkSpec> {
    let for_imagenet = model.ends_with("_imagenet");
    let classes_or = classes.unwrap_or(if for_imagenet { 1000 } else { 10 });
    let side = image_size.unwrap_or(if for_imagenet { 224 } else { 32 });
    if let Some(spec) = zoo(model, classes_or) {
        return Ok(NetworkSpec { input: [spec.input[0], side, side], ..spec });
    }
    let spec = network_of_file(Path::new(model))?;
    match (image_size, classes) {
        (None, None) => Ok(spec),
        (Some(_), _) | (None, Some(_)) => Err(Error::Setting(format!(
            "{model} says its image size and its classes: leave out --image-size and --classes"
        ))),
    }
}

impl Assumptions {
    /// A network without weights of its own, with these bits and zero groups of this shape.
    ///
    /// # Errors
    /// A description that isn't a network; bits or a sparsity that cannot be.
    pub fn network(&self, spec: NetworkSpec, group: GroupShape) -> Result<IntegerNetwork> {
        let config = self.quantize();
        config.check()?;
        let graph = Graph::new(spec)?;
        if graph.weights() > MAX_WEIGHTS as u64 {
            let message = format!("it has {} weights, at most {MAX_WEIGHTS} are costed", graph.weights());
            return Err(graph.spec().error(message));
        }
        let mut network = outline(&graph, &config, group);
        drop_groups(&mut network, self.sparsity, self.pattern)?;
        Ok(network)
    }

    fn quantize(&self) -> QuantizeConfig {
        let Self { weight_bits, activation_bits, first_last_bits, .. } = *self;
        QuantizeConfig { weight_bits, activation_bits, first_last_bits, ..QuantizeConfig::default() }
    }
}

impl Estimate {
    /// Costs a network on a chip; groups are those of the chip.
    ///
    /// # Errors
    /// A description that isn't a network; bits or a sparsity that cannot be; a chip that isn't valid.
    pub fn new(spec: NetworkSpec, assumptions: Assumptions, hardware: &Hardware) -> Result<Self> {
        hardware.validate()?;
        let integer = assumptions.network(spec, hardware.group)?;
        let evaluation = evaluate(&integer, hardware)?;
        let spec = integer.graph.spec();
        Ok(Self { network: spec.name.clone(), made_up: MadeUp::new(spec, assumptions), evaluation, integer })
    }

    /// Its JSON text: the keys of `deploy.json` that need no images, and `made_up`.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn to_json(&self) -> Result<String> {
        to_json(self)
    }
}

impl MadeUp {
    /// What is made up of a network under these assumptions.
    pub fn new(spec: &NetworkSpec, assumptions: Assumptions) -> Self {
        let skip_bits = assumptions.quantize().skip_bits;
        let (image, classes) = (spec.input, spec.classes);
        let mut made_up = Self { what: String::new(), assumptions, skip_bits, seed: SEED, image, classes };
        made_up.what = made_up.sentence();
        made_up
    }

    fn sentence(&self) -> String {
        let Self { assumptions, skip_bits, seed, image, classes, .. } = self;
        let Assumptions { weight_bits, activation_bits, first_last_bits, sparsity, pattern } = assumptions;
        let [channels, height, width] = image;
        let zeros = match pattern {
            _ if *sparsity == 0.0 => "no group is zero".to_owned(),
            Pattern::Even => format!(
                "{} % of the groups of each layer but the first and the last are zero, as near as whole groups come and one of each is kept, drawn from seed {seed}",
                percent(*sparsity)
            ),
            Pattern::LargeLayers => format!(
                "{} % of the groups are zero but for the first and the last layer, all of them in layers with at least half as many input channels as the one with the most, drawn from seed {seed}",
                percent(*sparsity)
            ),
        };
        format!(
            "Nothing was trained: there are no weights, no images and no accuracy. Assumed are {weight_bits}-bit weights and \
             {activation_bits}-bit inputs ({first_last_bits} bits in the first and last layer, {skip_bits} for residual values), images of \
             {channels} x {height} x {width} and {classes} classes; {zeros}."
        )
    }
}

/// A share in percent, without a fraction where it has none.
fn percent(share: f64) -> f64 {
    (share * 1e4).round() / 100.0
}

/// Makes a share of the groups zero, drawn from [`SEED`], but one of each layer; never in the layers that read the image nor in the last one, whose groups don't count.
///
/// # Errors
/// A share that isn't from 0 to below 1, or that the pattern's layers cannot hold.
pub fn drop_groups(network: &mut IntegerNetwork, sparsity: f64, pattern: Pattern) -> Result<()> {
    if !SPARSITY.contains(&sparsity) {
        return Err(Error::Setting(format!("a sparsity of {sparsity}: it must be from 0 to below 1")));
    }
    let shapes: Vec<(ConvShape, Source)> = network.convs().map(|(conv, _)| (conv.shape, conv.source)).collect();
    let grids: Vec<GroupGrid> = shapes.iter().map(|(shape, _)| GroupGrid::new(network.group, shape)).collect();
    let last = shapes.len() - 1;
    let prunable = |index: &usize| shapes[*index].1 != Source::Image && *index != last;
    let most = (0..=last).filter(prunable).map(|index| shapes[index].0.depth()).max().unwrap_or(0);
    let chosen = |index: &usize| match pattern {
        Pattern::Even => prunable(index),
        Pattern::LargeLayers => prunable(index) && 2 * shapes[*index].0.depth() >= most,
    };
    let groups = |wanted: &dyn Fn(&usize) -> bool| -> usize {
        (0..=last).filter(wanted).map(|index| grids[index].real_groups()).sum()
    };
    let (all, of_chosen) = (groups(&prunable), groups(&chosen));
    if sparsity == 0.0 {
        return Ok(());
    }
    if of_chosen == 0 {
        return Err(Error::Setting(format!(
            "a sparsity of {sparsity}: `{}` has no layer between the first and the last, which keep all groups",
            network.graph.spec().name
        )));
    }
    let share = sparsity * all as f64 / of_chosen as f64;
    if pattern == Pattern::LargeLayers && share > MOST_OF_A_LAYER {
        let most = MOST_OF_A_LAYER * of_chosen as f64 / all as f64;
        let message = format!(
            "a sparsity of {sparsity}: the large layers of `{}` have too few groups; at most {:.2} with the pattern large-layers, even has no limit",
            network.graph.spec().name,
            (100.0 * most).floor() / 100.0
        );
        return Err(Error::Setting(message));
    }
    let name = network.graph.spec().name.clone();
    let mut random = SplitMix(SEED);
    let mut dropped = 0;
    for (index, conv) in convs_mut(network).into_iter().enumerate().filter(|(index, _)| chosen(index)) {
        let grid = &grids[index];
        let mut order: Vec<usize> = (0..grid.groups()).filter(|group| grid.exists(*group)).collect();
        random.shuffle(&mut order);
        let mut zero = vec![false; grid.groups()];
        // Pruning leaves every layer a group.
        let count = ((share * order.len() as f64).round() as usize).min(order.len().saturating_sub(1));
        order[..count].iter().for_each(|&group| zero[group] = true);
        dropped += count;
        for (index, weight) in conv.weights.iter_mut().enumerate() {
            if zero[grid.group_of(index)] {
                *weight = 0;
            }
        }
    }
    if dropped == 0 {
        return Err(Error::Setting(format!(
            "a sparsity of {sparsity}: the layers of `{name}` have too few groups to make one of them zero"
        )));
    }
    Ok(())
}

/// All convolutions in the order of [`IntegerNetwork::convs`].
fn convs_mut(network: &mut IntegerNetwork) -> Vec<&mut IntegerConv> {
    let mut convs = Vec::new();
    for layer in &mut network.layers {
        match layer {
            IntegerLayer::Conv { conv, skip, .. } => {
                convs.push(conv);
                match skip {
                    Some(IntegerSkip::Projection { conv, .. }) => convs.push(conv),
                    Some(IntegerSkip::Identity { .. }) | None => {}
                }
            }
            IntegerLayer::SameScale | IntegerLayer::AvgPool { .. } => {}
        }
    }
    convs
}

/// SplitMix64 (Steele et al., OOPSLA 2014): the same numbers on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for at in (1..items.len()).rev() {
            items.swap(at, (self.next() % (at as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> IntegerNetwork {
        let graph = Graph::new(zoo(name, 10).unwrap()).unwrap();
        outline(&graph, &QuantizeConfig::default(), GroupShape { filters: 16, channels: 16 })
    }

    /// Zero groups and groups of each convolution.
    fn zeros(network: &IntegerNetwork) -> Vec<(String, usize, usize)> {
        let convs = network.convs().map(|(conv, integer)| {
            let kept = GroupGrid::new(network.group, &conv.shape).kept(&integer.weights);
            (conv.name, kept.iter().filter(|kept| !**kept).count(), kept.len())
        });
        convs.collect()
    }

    #[test]
    fn a_network_with_nothing_to_drop_says_so() {
        let spec = "name = 'two'\ninput = [3, 8, 8]\nclasses = 10\nlayers = [
            { op = 'conv', name = 'a', filters = 16, kernel = 3 }, { op = 'linear', name = 'b', filters = 10 }]";
        let graph = Graph::new(toml::from_str(spec).unwrap()).unwrap();
        let mut network = outline(&graph, &QuantizeConfig::default(), GroupShape { filters: 16, channels: 16 });
        drop_groups(&mut network, 0.0, Pattern::Even).unwrap();
        let error = drop_groups(&mut network, 0.5, Pattern::Even).unwrap_err().to_string();
        assert!(error.contains("`two` has no layer between the first and the last"), "{error}");
    }

    #[test]
    fn an_even_pattern_drops_the_same_share_of_each_layer_but_the_first_and_the_last() {
        for name in ["resnet20", "resnet18", "vgg16"] {
            let mut network = network(name);
            drop_groups(&mut network, 0.75, Pattern::Even).unwrap();
            let zeros = zeros(&network);
            for (index, (layer, zero, groups)) in zeros.iter().enumerate() {
                let expected = match index {
                    0 => 0,
                    last if last == zeros.len() - 1 => 0,
                    _ => (0.75 * *groups as f64).round() as usize,
                };
                assert_eq!(*zero, expected, "{name} {layer}");
            }
        }
    }

    #[test]
    fn a_layer_keeps_a_group() {
        let mut network = network("resnet20");
        drop_groups(&mut network, 0.95, Pattern::Even).unwrap();
        assert!(zeros(&network).iter().all(|(_, zero, groups)| zero < groups));
    }

    #[test]
    fn large_layers_hold_the_zero_groups_of_all() {
        for (name, least) in [("vgg16", 256), ("resnet18", 256), ("resnet20", 32)] {
            let mut network = network(name);
            drop_groups(&mut network, 0.5, Pattern::LargeLayers).unwrap();
            let channels: Vec<usize> = network.convs().map(|(conv, _)| conv.shape.channels()).collect();
            let zeros = zeros(&network);
            let last = zeros.len() - 1;
            let (mut zero, mut all) = (0, 0);
            for (index, (layer, dropped, groups)) in zeros.iter().enumerate().take(last).skip(1) {
                assert_eq!(*dropped > 0, channels[index] >= least, "{name} {layer}");
                (zero, all) = (zero + dropped, all + groups);
            }
            assert!((zero as f64 / all as f64 - 0.5).abs() < 0.005, "{name}: {zero} of {all}");
        }
    }

    #[test]
    fn a_share_that_cannot_be_is_refused() {
        let refused =
            |sparsity, pattern| drop_groups(&mut network("resnet20"), sparsity, pattern).unwrap_err().to_string();
        for sparsity in [-0.1, 1.0, f64::NAN] {
            assert!(refused(sparsity, Pattern::Even).contains("it must be from 0 to below 1"));
        }
        assert!(
            refused(0.95, Pattern::LargeLayers).contains("at most 0.92"),
            "{}",
            refused(0.95, Pattern::LargeLayers)
        );
    }
}
