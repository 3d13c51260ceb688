//! From an integer network back to float weights: a package as the start of a training.
//!
//! Integers have no real scale: a network whose values are all `k` times as large has the same classes. With `u` the real value of one unit of
//! a layer's multiplied sums,
//!
//! ```text
//! s_out = u * 2^n        s_w * s_in = u * m        s_skip = u * m_skip        w = s_w * q        b = (bias + sum q * z) * u * m
//! ```
//!
//! So the scale of an output follows from the skip where an identity joins, from the input of a mean, and from what shares it; else it is free.

use std::cmp::Reverse;

use super::arithmetic::{Form, multiplier, zero_point};
use super::bits::BitPlan;
use super::fold::ImageScale;
use super::network::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::error::{Error, Result};
use crate::network::{Array, Conv, ConvId, Graph, Op, ParamId, Role, Skip, Source, Weights};

/// Real value of the largest code of a layer's output, where it is free: about that of a batch norm's output behind a ReLU.
const LARGEST_OUTPUT: f64 = 4.0;

/// The floats of an integer network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unfolded {
    /// Weights, biases and batch norms.
    pub weights: Weights,
    /// Scales of quantizers, of the network's own bits.
    pub scales: Weights,
}

/// Float weights and scales that [`fold`](super::fold()) turns into the network again, where it folds batch norms; of the 31 bits of a skip's multiplier
/// a float holds 24, and where two scales are tied to each other in several ways, as by a mean and a sum of the same value, the largest multiplier of these
/// stays, and the others are what it gives, rounded. Batch norms change nothing: their factor is 1 and their mean 0.
///
/// # Errors
/// The network's zero points aren't those of `image_scale`, or zero points and shifts of its values aren't the ones that [`fold`](super::fold())
/// gives; a scale beyond what floats hold.
pub fn unfold(network: &IntegerNetwork, image_scale: &ImageScale) -> Result<Unfolded> {
    if network.zero_points != image_scale.zero_points {
        return Err(Error::Setting(format!(
            "the package's images mean 0 at the bytes {:?}, the recipe's at {:?}: set `normalization` to what the package was trained with",
            network.zero_points, image_scale.zero_points
        )));
    }
    for (node, layer) in network.graph.nodes().iter().zip(&network.layers) {
        let (IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. }) = layer else {
            continue;
        };
        let other = |form: &&Form| form.zero_point != 0 && form.zero_point != zero_point(form.bits, true);
        if let Some(form) = output.forms.iter().find(other) {
            return Err(Error::layer(
                &node.name,
                format!(
                    "its form of {} bits has the zero point {}; training has {}: start from float weights",
                    form.bits,
                    form.zero_point,
                    zero_point(form.bits, true)
                ),
            ));
        }
        // A bit more is half a scale in training, so one shift less.
        let range = |form: &Form| form.bits + form.shift;
        let first = output.forms[0];
        if let Some(form) = output.forms.iter().find(|form| range(form) != range(&first)) {
            return Err(Error::layer(
                &node.name,
                format!(
                    "its forms of {} and {} bits have the shifts {} and {}; training has one shift less for each bit more: start from float \
                     weights",
                    first.bits, form.bits, first.shift, form.shift
                ),
            ));
        }
    }
    let plan = BitPlan::of(network);
    let scales = scales(network, &plan);
    let mut unfolder = Unfolder { network, image_scale, plan, scales, unfolded: Unfolded::default() };
    for (index, layer) in network.layers.iter().enumerate() {
        unfolder.layer(index, layer)?;
    }
    Ok(unfolder.unfolded)
}

struct Unfolder<'a> {
    network: &'a IntegerNetwork,
    image_scale: &'a ImageScale,
    plan: BitPlan,
    /// By node: see [`scales`].
    scales: Vec<f64>,
    unfolded: Unfolded,
}

impl Unfolder<'_> {
    fn graph(&self) -> &Graph {
        &self.network.graph
    }

    /// The real value of one unit of a value in one of its forms.
    fn scale(&self, source: Source, bits: u8) -> f64 {
        let Source::Node(index) = source else { return self.image_scale.scale() };
        self.scales[self.graph().scale_node(index)] / f64::from(1u32 << (bits - self.plan.narrowest(source)))
    }

    fn layer(&mut self, index: usize, layer: &IntegerLayer) -> Result<()> {
        let [own, projection] = self.network.graph.node_convs(index);
        let output = match layer {
            IntegerLayer::SameScale => return Ok(()),
            IntegerLayer::AvgPool { output, .. } => output,
            IntegerLayer::Conv { conv, skip, output } => {
                let own = own.expect("the node's own convolution");
                let Some(output) = output else { return self.logits(&own, conv) };
                let form = output.forms[0];
                let unit = self.scale(Source::Node(index), form.bits) / f64::from(form.shift).exp2();
                self.conv(&own, conv, &output.multipliers, unit)?;
                if let (Some(IntegerSkip::Projection { conv, multipliers }), Some(projection)) = (skip, &projection) {
                    self.conv(projection, conv, multipliers, unit)?;
                }
                output
            }
        };
        if !output.forms.is_empty() && self.graph().scale_node(index) == index {
            self.insert(ConvId::Own(index), Role::OutputScale, vec![self.scales[index]])?;
        }
        Ok(())
    }

    /// The logits' scale is free: their weights get the root mean square `1 / sqrt(inputs)`.
    fn logits(&mut self, conv: &Conv, integers: &IntegerConv) -> Result<()> {
        let squares: f64 = integers.weights.iter().map(|weight| f64::from(*weight).powi(2)).sum();
        let filters = conv.shape.filters() as f64;
        let gain = if squares > 0.0 { (filters / squares).sqrt() } else { 1.0 };
        self.conv(conv, integers, &[1], gain * self.scale(conv.source, integers.input_bits))
    }

    /// Weights, bias and scale of a convolution, whose multiplied sums have this unit.
    fn conv(&mut self, conv: &Conv, integers: &IntegerConv, multipliers: &[u32], unit: f64) -> Result<()> {
        let (filters, taps) = (conv.shape.filters(), conv.shape.taps());
        let column = integers.weights.len() / filters;
        let input = self.scale(conv.source, integers.input_bits);
        let unit_of = |filter: usize| unit * f64::from(multiplier(multipliers, filter));
        let colors: Vec<f64> = match conv.source {
            Source::Image => self.image_scale.color_scales().collect(),
            Source::Node(_) => vec![1.0; conv.shape.channels()],
        };
        let weights = integers.weights.iter().enumerate().map(|(place, weight)| {
            let (filter, place) = (place / column, place % column);
            f64::from(*weight) * unit_of(filter) / input / colors[conv.shape.reads(filter)][place / taps]
        });
        let weights: Vec<f64> = weights.collect();
        let zero_points = self.network.padding_values(conv.source, integers.input_bits);
        let biases = integers.bias.iter().zip(integers.weights.chunks(column)).enumerate();
        let biases = biases.map(|(filter, (bias, weights))| {
            let zero_points = &zero_points[conv.shape.reads(filter)];
            let zeros = weights
                .iter()
                .zip(0..)
                .map(|(weight, place)| i64::from(*weight) * i64::from(zero_points[place / taps]));
            (i64::from(*bias) + zeros.sum::<i64>()) as f64 * unit_of(filter)
        });
        let biases: Vec<f64> = biases.collect();
        self.insert(conv.id, Role::Weight, weights)?;
        if conv.batch_norm {
            let all = |value: f64| vec![value; filters];
            self.insert(conv.id, Role::Gamma, all(1.0))?;
            self.insert(conv.id, Role::Beta, biases)?;
            self.insert(conv.id, Role::Mean, all(0.0))?;
            self.insert(conv.id, Role::Variance, all(1.0 - conv.epsilon))?;
        } else {
            self.insert(conv.id, Role::Bias, biases)?;
        }
        let scales = (0..multipliers.len()).map(|column| unit_of(column) / input);
        self.insert(conv.id, Role::WeightScale, scales.collect())
    }

    fn insert(&mut self, conv: ConvId, role: Role, values: Vec<f64>) -> Result<()> {
        let id = ParamId { conv, role };
        let name = id.name(self.graph());
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        let fits = |value: &f32| value.is_finite() && (*value > 0.0 || !role.is_scale());
        if let Some(value) = values.iter().find(|value| !fits(value)) {
            let message =
                format!("`{name}` would be {value:e}: its multipliers and shifts give scales beyond what floats hold");
            return Err(Error::Setting(message));
        }
        let array = Array { shape: id.shape(self.graph(), values.len()), values };
        let Unfolded { weights, scales } = &mut self.unfolded;
        if role.is_scale() { scales } else { weights }.insert(name, array);
        Ok(())
    }
}

/// The real value of one unit of each node's output, in the narrowest form of those that share its scale; of the first such node alone.
fn scales(network: &IntegerNetwork, plan: &BitPlan) -> Vec<f64> {
    let graph = &network.graph;
    let mut scales: Vec<Option<f64>> = vec![None; network.layers.len()];
    let mut ties: Vec<Tie> = (0..scales.len()).filter_map(|node| Tie::new(network, plan, node)).collect();
    // The largest multiplier tells the ratio best.
    ties.sort_by_key(|tie| Reverse(tie.multiplier));
    for (node, layer) in network.layers.iter().enumerate() {
        let has_forms = match layer {
            IntegerLayer::Conv { output, .. } => output.is_some(),
            IntegerLayer::AvgPool { .. } => true,
            IntegerLayer::SameScale => false,
        };
        if !has_forms || graph.scale_node(node) != node || scales[node].is_some() {
            continue;
        }
        let bits = plan.narrowest(Source::Node(node));
        let zero_point = zero_point(bits, graph.is_signed(Source::Node(node)));
        scales[node] = Some(LARGEST_OUTPUT / f64::from((1u32 << bits) - 1 - u32::from(zero_point)));
        // All that is tied to it follows.
        let follows = |scales: &[Option<f64>], tie: &Tie| match (scales[tie.output], scales[tie.source]) {
            (None, Some(source)) => Some((tie.output, source * tie.ratio)),
            (Some(output), None) => Some((tie.source, output / tie.ratio)),
            (None, None) | (Some(_), Some(_)) => None,
        };
        while let Some((node, scale)) = ties.iter().find_map(|tie| follows(&scales, tie)) {
            scales[node] = Some(scale);
        }
    }
    // Those that share another node's scale, or have none, are never asked for.
    scales.into_iter().map(Option::unwrap_or_default).collect()
}

/// An output whose scale is `ratio` times that of a value that it reads; each by the first node that shares it.
struct Tie {
    output: usize,
    source: usize,
    ratio: f64,
    /// The multiplier that it follows from.
    multiplier: u32,
}

impl Tie {
    /// What an identity or a mean ties; nothing for another node.
    fn new(network: &IntegerNetwork, plan: &BitPlan, node: usize) -> Option<Self> {
        let (source, bits, divisor, multiplier, output) = match (network.graph.nodes()[node].op, &network.layers[node])
        {
            (
                Op::Conv { skip: Some(Skip::Identity { source, .. }), .. },
                IntegerLayer::Conv { skip: Some(IntegerSkip::Identity { bits, multiplier }), output, .. },
            ) => (source, *bits, f64::from(*multiplier), *multiplier, output.as_ref()?),
            (Op::AvgPool { window }, IntegerLayer::AvgPool { input_bits, output }) => {
                let multiplier = output.multiplier(0);
                let divisor = window.taps() as f64 * f64::from(multiplier);
                (network.graph.nodes()[node].source, *input_bits, divisor, multiplier, output)
            }
            (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => return None,
        };
        let Source::Node(from) = source else { return None };
        let form = output.forms[0];
        let finer = |bits: u8, source| f64::from(bits - plan.narrowest(source));
        let exponent = f64::from(form.shift) + finer(form.bits, Source::Node(node)) - finer(bits, source);
        let first = |node| network.graph.scale_node(node);
        Some(Self { output: first(node), source: first(from), ratio: exponent.exp2() / divisor, multiplier })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::GroupShape;
    use crate::integer::{BitPlan, FoldOptions, QuantizeConfig, WeightScale, fold};
    use crate::network::{NetworkSpec, Params, zoo};

    /// A network with random weights and biases, and scales of about their size.
    fn quantized(graph: &Graph, config: &QuantizeConfig, image_scale: &ImageScale) -> IntegerNetwork {
        let mut weights = Weights::random(graph, 7);
        for conv in graph.convs() {
            let id = |role| ParamId { conv: conv.id, role }.name(graph);
            let filters = conv.shape.filters();
            let array = weights.get(&id(Role::Weight)).unwrap().clone();
            let largest = |values: &[f32]| values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let limit = ((1 << (config.weight_bits - 1)) - 1) as f32;
            let per_column = config.weight_scale == WeightScale::Column && !conv.logits;
            let columns = if per_column { filters } else { 1 };
            let scales = array.values.chunks(array.values.len() / columns).map(|values| largest(values) / limit);
            weights.insert(id(Role::WeightScale), Array::vector(scales.collect()));
            let offset = if conv.batch_norm { Role::Beta } else { Role::Bias };
            let biases = (0..filters).map(|filter| (filter * 5 % 7) as f32 / 7.0 - 0.4).collect();
            weights.insert(id(offset), Array::vector(biases));
        }
        for node in 0..graph.nodes().len() {
            let name = ParamId { conv: ConvId::Own(node), role: Role::OutputScale }.name(graph);
            weights.insert(name, Array::vector(vec![0.11 + 0.01 * node as f32]));
        }
        folded(graph, &weights, config, image_scale)
    }

    fn folded(graph: &Graph, weights: &Weights, config: &QuantizeConfig, image_scale: &ImageScale) -> IntegerNetwork {
        let classes: Vec<String> = (0..graph.spec().classes).map(|class| class.to_string()).collect();
        let group = GroupShape { filters: 16, channels: 16 };
        let options = FoldOptions { quantize: config, image_scale, group, classes: &classes };
        fold(graph, &Params::from_arrays(graph, weights).unwrap(), &options).unwrap()
    }

    fn scale() -> ImageScale {
        ImageScale { zero_points: vec![124, 116, 104], std: vec![0.229, 0.224, 0.225] }
    }

    fn skip_multiplier(layer: &mut IntegerLayer) -> Option<&mut u32> {
        match layer {
            IntegerLayer::Conv { skip: Some(IntegerSkip::Identity { multiplier, .. }), .. } => Some(multiplier),
            _ => None,
        }
    }

    /// As only a forged package has them: from block to block the scale becomes a small fraction.
    #[test]
    fn scales_beyond_floats_are_an_error() {
        let block = |index: usize| {
            format!(
                "{{ op = 'conv', name = 'c{}', filters = 4, kernel = 1, add = {{ from = 'c{index}' }} }},\n",
                index + 1
            )
        };
        let blocks: String = (0..40).map(block).collect();
        let spec = format!(
            "name = 'deep'\ninput = [3, 4, 4]\nclasses = 2\nlayers = [\n{{ op = 'conv', name = 'c0', filters = 4, kernel = 1 }},\n{blocks}
             {{ op = 'avg_pool', name = 'p' }},\n{{ op = 'linear', name = 'l', filters = 2 }},\n]"
        );
        let graph = Graph::new(toml::from_str(&spec).unwrap()).unwrap();
        let mut network = quantized(&graph, &QuantizeConfig::default(), &scale());
        for layer in &mut network.layers {
            if let IntegerLayer::Conv {
                skip: Some(IntegerSkip::Identity { multiplier, .. }),
                output: Some(output),
                ..
            } = layer
            {
                *multiplier = (1 << 31) - 1;
                output.forms.iter_mut().for_each(|form| form.shift = 9 - form.bits);
            }
        }
        let error = unfold(&network, &scale()).expect_err("no float holds them").to_string();
        assert!(error.contains("beyond what floats hold"), "{error}");
    }

    #[test]
    fn what_is_unfolded_folds_to_the_same_integers() {
        let own = "name = 'own'\ninput = [3, 8, 8]\nclasses = 10\nlayers = [
            { op = 'conv', name = 'a', filters = 16, kernel = 3, padding = 1, batch_norm = false },
            { op = 'max_pool', name = 'm', kernel = 2, stride = 2 },
            { op = 'conv', name = 'b', filters = 32, kernel = 3, padding = 1,
              add = { from = 'm', shortcut = 'projection' } },
            { op = 'linear', name = 'c', filters = 20 },
            { op = 'linear', name = 'd', filters = 10 },
        ]";
        let own: NetworkSpec = toml::from_str(own).unwrap();
        let signed = "name = 'signed'\ninput = [3, 8, 8]\nclasses = 10\nlayers = [
            { op = 'conv', name = 'a', filters = 12, kernel = 3, padding = 1, groups = 3, activation = 'none' },
            { op = 'conv', name = 'b', filters = 12, kernel = 3, padding = 1, groups = 12 },
            { op = 'conv', name = 'c', filters = 12, kernel = 1, activation = 'none', add = { from = 'a' } },
            { op = 'max_pool', name = 'm', kernel = 2, stride = 2 },
            { op = 'conv', name = 'd', filters = 16, kernel = 1, activation = 'none',
              add = { from = 'm', shortcut = 'projection' } },
            { op = 'avg_pool', name = 'p' },
            { op = 'linear', name = 'e', filters = 10 },
        ]";
        let signed: NetworkSpec = toml::from_str(signed).unwrap();
        // A mean and a sum are joined with what came before them.
        let joined = "name = 'joined'\ninput = [3, 8, 8]\nclasses = 10\nlayers = [
            { op = 'conv', name = 'a', filters = 12, kernel = 3, padding = 1 },
            { op = 'conv', name = 'b', filters = 8, kernel = 1, input = 'a' },
            { op = 'avg_pool', name = 'm', kernel = 3, stride = 1, padding = 1, input = 'a' },
            { op = 'conv', name = 'z', filters = 12, kernel = 1, input = 'b' },
            { op = 'conv', name = 'c', filters = 12, kernel = 3, padding = 1, add = { from = 'z' } },
            { op = 'concat', name = 'j', inputs = ['b', 'm', 'c'] },
            { op = 'max_pool', name = 'p', kernel = 2, stride = 2 },
            { op = 'conv', name = 'd', filters = 8, kernel = 1 },
            { op = 'concat', name = 'k', inputs = ['p', 'd'] },
            { op = 'linear', name = 'e', filters = 10 },
        ]";
        let joined: NetworkSpec = toml::from_str(joined).unwrap();
        for spec in [zoo("resnet20", 10).unwrap(), zoo("resnet18", 10).unwrap(), own, signed, joined] {
            let graph = Graph::new(spec).unwrap();
            for (bits, weight_scale) in [(4, WeightScale::Layer), (8, WeightScale::Column)] {
                let config =
                    QuantizeConfig { weight_bits: bits, activation_bits: bits, weight_scale, ..Default::default() };
                let network = quantized(&graph, &config, &scale());
                let Unfolded { mut weights, scales } = unfold(&network, &scale()).unwrap();
                scales.iter().for_each(|(name, array)| weights.insert(name.into(), array.clone()));
                assert_eq!(BitPlan::of(&network), BitPlan::new(&graph, &config));
                let mut again = folded(&graph, &weights, &config, &scale());
                for (again, layer) in again.layers.iter_mut().zip(&network.layers) {
                    if let (Some(again), Some(multiplier)) =
                        (skip_multiplier(again), skip_multiplier(&mut layer.clone()))
                    {
                        assert!(again.abs_diff(*multiplier) <= *multiplier >> 22, "{again} {multiplier}");
                        *again = *multiplier;
                    }
                }
                assert!(again == network, "{} at {bits} bits", graph.spec().name);
            }
        }
    }

    /// Training's forms of values with a sign are symmetric.
    #[test]
    fn a_form_with_another_zero_point_is_refused() {
        let spec = "name = 'n'\ninput = [3, 4, 4]\nclasses = 2\nlayers = [
            { op = 'conv', name = 'a', filters = 2, kernel = 3, activation = 'none' },
            { op = 'linear', name = 'b', filters = 2 },
        ]";
        let graph = Graph::new(toml::from_str(spec).unwrap()).unwrap();
        let mut network = quantized(&graph, &QuantizeConfig::default(), &scale());
        let IntegerLayer::Conv { output: Some(output), .. } = &mut network.layers[0] else { unreachable!() };
        assert_eq!(output.forms[0].zero_point, 128);
        output.forms[0].zero_point = 100;
        let error = unfold(&network, &scale()).unwrap_err().to_string();
        assert!(error.contains("layer `a`") && error.contains("the zero point 100; training has 128"), "{error}");
    }

    /// Training's forms of one value have one range, so that one of them tells the scale of all.
    #[test]
    fn forms_of_one_value_with_other_ranges_are_refused() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let config = QuantizeConfig { weight_bits: 4, activation_bits: 4, ..Default::default() };
        let mut network = quantized(&graph, &config, &scale());
        let IntegerLayer::Conv { output: Some(output), .. } = &mut network.layers[0] else { unreachable!() };
        let [narrow, wide] = &mut output.forms[..] else { panic!("{output:?}") };
        assert_eq!(([narrow.bits, wide.bits], narrow.shift), ([4, 8], wide.shift + 4));
        wide.shift += 1;
        let says = format!("forms of 4 and 8 bits have the shifts {} and {}", narrow.shift, wide.shift);
        network.validate().unwrap();
        let error = unfold(&network, &scale()).unwrap_err().to_string();
        assert!(error.contains("layer `conv1`") && error.contains(&says), "{error}");
    }

    #[test]
    fn other_zero_points_are_another_network() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let config = QuantizeConfig { weight_bits: 4, activation_bits: 4, ..Default::default() };
        let network = quantized(&graph, &config, &scale());
        let other = ImageScale { zero_points: vec![125, 123, 114], ..scale() };
        let error = unfold(&network, &other).unwrap_err().to_string();
        assert!(error.contains("[124, 116, 104], the recipe's at [125, 123, 114]"), "{error}");
    }
}
