//! From an integer network back to float weights: a package as the start of a training.
//!
//! Integers have no real scale: a network whose values are all `k` times as large has the same classes. With `u` the real value of one unit of
//! a layer's multiplied sums,
//!
//! ```text
//! s_out = u * 2^n        s_w * s_in = u * m        s_skip = u * m_skip        w = s_w * q        b = (bias + sum q * z) * u * m
//! ```
//!
//! So `u` follows from the skip where an identity joins, and is free elsewhere.

use super::arithmetic::{Form, multiplier, signed_zero_point};
use super::fold::ImageScale;
use super::network::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::error::{Error, Result};
use crate::network::{Array, Conv, Graph, Op, ParamId, Role, Skip, Source, Weights};

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
/// a float holds 24. Batch norms change nothing: their factor is 1 and their mean 0.
///
/// # Errors
/// The network's zero points aren't those of `image_scale`, or those of its values aren't the ones that [`fold`](super::fold()) gives; a scale
/// beyond what floats hold.
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
        let other = |form: &&Form| form.zero_point != 0 && form.zero_point != signed_zero_point(form.bits);
        if let Some(Form { bits, zero_point, .. }) = output.forms.iter().find(other) {
            return Err(Error::layer(
                &node.name,
                format!(
                    "its form of {bits} bits has the zero point {zero_point}; training has {}: start from float weights",
                    signed_zero_point(*bits)
                ),
            ));
        }
    }
    let mut unfolder = Unfolder { network, image_scale, units: Vec::new(), unfolded: Unfolded::default() };
    for (index, layer) in network.layers.iter().enumerate() {
        unfolder.layer(index, layer);
    }
    Ok(unfolder.unfolded)
}

struct Unfolder<'a> {
    network: &'a IntegerNetwork,
    image_scale: &'a ImageScale,
    /// For each node so far the real value of one unit of its multiplied sums.
    units: Vec<f64>,
    unfolded: Unfolded,
}

impl Unfolder<'_> {
    fn graph(&self) -> &Graph {
        &self.network.graph
    }

    /// The real value of one unit of a value in one of its forms.
    fn scale(&self, source: Source, bits: u8) -> f64 {
        let Source::Node(index) = source else { return self.image_scale.step() };
        match &self.network.layers[index] {
            IntegerLayer::MaxPool => self.scale(self.graph().nodes()[index].source, bits),
            IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. } => {
                let form = output.forms.iter().find(|form| form.bits == bits);
                let form = form.expect("a valid network reads forms that exist");
                self.units[index] * f64::from(form.shift).exp2()
            }
            IntegerLayer::Conv { output: None, .. } => unreachable!("nothing reads the logits"),
        }
    }

    fn layer(&mut self, index: usize, layer: &IntegerLayer) {
        let node = &self.network.graph.nodes()[index];
        let [own, projection] = self.network.graph.node_convs(index);
        let unit = match layer {
            // Never read: its forms are its source's.
            IntegerLayer::MaxPool => 0.0,
            IntegerLayer::AvgPool { input_bits, output } => {
                let Op::AvgPool { window } = node.op else { unreachable!("a layer of its node's kind") };
                let sums = self.scale(node.source, *input_bits) / window.taps() as f64;
                sums / f64::from(output.multiplier(0))
            }
            IntegerLayer::Conv { conv, skip, output } => {
                let own = own.expect("the node's own convolution");
                let Some(output) = output else {
                    self.logits(&own, conv);
                    return self.units.push(0.0);
                };
                let narrowest = output.forms.iter().min_by_key(|form| form.bits).expect("a form");
                let codes = f64::from((1u32 << narrowest.bits) - 1 - u32::from(narrowest.zero_point));
                let free = LARGEST_OUTPUT / codes / f64::from(narrowest.shift).exp2();
                let joined = match (skip, node.op) {
                    (
                        Some(IntegerSkip::Identity { bits, multiplier }),
                        Op::Conv { skip: Some(Skip::Identity { source, .. }), .. },
                    ) => Some(self.scale(source, *bits) / f64::from(*multiplier)),
                    _ => None,
                };
                let unit = joined.unwrap_or(free);
                self.conv(&own, conv, &output.multipliers, unit);
                if let (Some(IntegerSkip::Projection { conv, multipliers }), Some(projection)) = (skip, &projection) {
                    self.conv(projection, conv, multipliers, unit);
                }
                unit
            }
        };
        self.units.push(unit);
        if let IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. } = layer {
            let narrowest = output.forms.iter().min_by_key(|form| form.bits).expect("a form");
            let scale = unit * f64::from(narrowest.shift).exp2();
            self.insert(2 * index as u32, Role::OutputScale, vec![scale]);
        }
    }

    /// The logits' scale is free: their weights get the root mean square `1 / sqrt(inputs)`.
    fn logits(&mut self, conv: &Conv, integers: &IntegerConv) {
        let squares: f64 = integers.weights.iter().map(|weight| f64::from(*weight).powi(2)).sum();
        let filters = conv.shape.filters() as f64;
        let gain = if squares > 0.0 { (filters / squares).sqrt() } else { 1.0 };
        self.conv(conv, integers, &[1], gain * self.scale(conv.source, integers.input_bits));
    }

    /// Weights, bias and scale of a convolution, whose multiplied sums have this unit.
    fn conv(&mut self, conv: &Conv, integers: &IntegerConv, multipliers: &[u32], unit: f64) {
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
        let number = conv.number;
        self.insert(number, Role::Weight, weights);
        if conv.batch_norm {
            let all = |value: f64| vec![value; filters];
            self.insert(number, Role::Gamma, all(1.0));
            self.insert(number, Role::Beta, biases);
            self.insert(number, Role::Mean, all(0.0));
            self.insert(number, Role::Variance, all(1.0 - conv.epsilon));
        } else {
            self.insert(number, Role::Bias, biases);
        }
        let scales = (0..multipliers.len()).map(|column| unit_of(column) / input);
        self.insert(number, Role::WeightScale, scales.collect());
    }

    fn insert(&mut self, conv: u32, role: Role, values: Vec<f64>) {
        let id = ParamId { conv, role };
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        let array = Array { shape: id.shape(self.graph(), values.len()), values };
        let name = id.name(self.graph());
        let Unfolded { weights, scales } = &mut self.unfolded;
        if role.is_scale() { scales } else { weights }.insert(name, array);
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
            let id = |role| ParamId { conv: conv.number, role }.name(graph);
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
        for node in 0..graph.nodes().len() as u32 {
            let name = ParamId { conv: 2 * node, role: Role::OutputScale }.name(graph);
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
        for spec in [zoo("resnet20", 10).unwrap(), zoo("resnet18", 10).unwrap(), own, signed] {
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
