//! Random networks, weights, bits and chips in all executions.

use std::cell::Cell;

use burn::tensor::Device;
use mars::groups::GroupShape;
use mars::hardware::{Hardware, MacroNetwork, evaluate};
use mars::integer::{
    FoldOptions, Fusion, ImageScale, IntegerNetwork, LayerBits, QuantizeConfig, Reference, WeightScale, fold,
};
use mars::network::{Graph, NetworkSpec, Params, Source, Weights};
use mars::package::Package;
use mars::quantize::FakeQuant;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::common::{Random, provenance};
use crate::networks::{CLASSES, EPSILON, End, Kind, Stretch, Uneven, network_spec, stretch};
use crate::weights::{add_steps, float_values, image_scale, plausible_weights};

/// Random images, some dark, some bright, some of little contrast.
pub(super) fn images(count: usize, len: usize, random: &mut Random) -> Vec<u8> {
    let mut images = Vec::with_capacity(count * len);
    for _ in 0..count {
        let (low, range) = (random.below(200), 1 + random.below(256));
        images.extend((0..len).map(|_| (low + random.below(range)).min(255) as u8));
    }
    images
}

/// A network after its way through the package's bytes.
pub(super) fn through_the_package(network: &IntegerNetwork) -> IntegerNetwork {
    let package = Package { network: network.clone(), provenance: provenance(), predictions: None };
    let read = Package::from_bytes(&package.to_bytes().unwrap()).unwrap();
    assert_eq!(read, package);
    read.network
}

/// Runs all three executions, which have to agree; fake-quant from the fold, the other two from the package.
pub(super) fn agree(network: &IntegerNetwork, devices: &[Device], chips: &[Hardware], images: &[u8]) -> Vec<i32> {
    let read = through_the_package(network);
    let reference = Reference::new(&read).unwrap();
    let integer = reference.logits(images);
    // All that is stored of the first image on its way, too.
    let first = &images[..network.graph.image().len()];
    let codes = reference.codes(first);
    assert_eq!(codes.logits, integer[..codes.logits.len()], "one image and several");
    for device in devices {
        assert_eq!(FakeQuant::new(network, device).logits(images), integer, "fake-quant and integer");
    }
    for hardware in chips {
        let chip = MacroNetwork::new(&read, hardware).unwrap();
        assert_eq!(chip.logits(images).unwrap(), integer, "macro on {} and integer", hardware.name);
        assert_eq!(chip.codes(0, first).unwrap(), codes, "layers of macro on {} and integer", hardware.name);
        // The cost model asserts that each kept group is computed exactly once.
        evaluate(&read, hardware).unwrap();
    }
    integer
}

pub(super) fn ndarray() -> Device {
    mars::train::device("ndarray").unwrap()
}

pub(super) fn fold_options<'a>(
    quantize: &'a QuantizeConfig,
    image_scale: &'a ImageScale,
    group: GroupShape,
    classes: &'a [String],
) -> FoldOptions<'a> {
    FoldOptions { quantize, image_scale, group, classes }
}

pub(super) fn class_names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| format!("class {class}")).collect()
}

/// A chip of another shape than the shipped one: rows that the sections don't fill, one macro, few rows.
pub(super) fn chip(group: GroupShape, extra_rows: usize, one_macro: bool) -> Hardware {
    let rows_on = group.channels + extra_rows;
    let rows = if one_macro { 256.max(rows_on) } else { rows_on * 7 };
    let (cores, macros_per_core) = if one_macro { (1, 1) } else { (3, 2) };
    Hardware { name: "other".into(), group, rows_on, rows, partitions: 1, cores, macros_per_core, ..Hardware::mars() }
}

pub(super) fn eight_bits() -> QuantizeConfig {
    QuantizeConfig { weight_bits: 8, activation_bits: 8, ..QuantizeConfig::default() }
}

fn config() -> impl Strategy<Value = QuantizeConfig> {
    let fusion = prop::sample::select(vec![
        (Fusion::Frozen, WeightScale::Layer),
        (Fusion::Frozen, WeightScale::Column),
        (Fusion::None, WeightScale::Layer),
    ]);
    let layer = (0usize..8, prop::option::of(2u8..=8), prop::option::of(2u8..=8)).prop_map(
        |(number, weight_bits, activation_bits)| LayerBits {
            pattern: format!("*{number}"),
            weight_bits,
            activation_bits,
        },
    );
    let layers = prop::collection::vec(layer, 0..3);
    (2u8..=8, 2u8..=8, 2u8..=8, 2u8..=8, fusion, layers).prop_map(
        |(weight_bits, activation_bits, skip_bits, first_last_bits, (fusion, weight_scale), layers)| QuantizeConfig {
            weight_bits,
            activation_bits,
            skip_bits,
            first_last_bits,
            fusion,
            weight_scale,
            converter_aware: true,
            layers,
        },
    )
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) input: [usize; 3],
    stretches: Vec<Stretch>,
    end: End,
    pub(super) config: QuantizeConfig,
    pub(super) group: GroupShape,
    extra_rows: usize,
    one_macro: bool,
    zero_groups: f64,
    pub(super) seed: u64,
}

pub(super) fn case() -> impl Strategy<Value = Case> {
    let input = prop::sample::select(vec![[3, 5, 7], [3, 8, 8], [3, 11, 6], [1, 9, 9], [4, 6, 5]]);
    let end = prop::sample::select(vec![End::Linear, End::MeanThenLinear, End::MeanThenConv, End::BatchNorm]);
    let network = (input, prop::collection::vec(stretch(), 1..6), end, config());
    let group = (1usize..=20, 1usize..=20).prop_map(|(filters, channels)| GroupShape { filters, channels });
    let zero_groups = prop::sample::select(vec![0.0, 0.0, 0.1, 0.3, 0.8]);
    (network, (group, 0usize..=50, any::<bool>(), zero_groups, any::<u64>())).prop_map(
        |((input, stretches, end, config), (group, extra_rows, one_macro, zero_groups, seed))| Case {
            input,
            stretches,
            end,
            config,
            group,
            extra_rows,
            one_macro,
            zero_groups,
            seed,
        },
    )
}

impl Case {
    /// The folded network and its float weights.
    pub(super) fn fold(&self, tame: bool) -> Result<(Weights, ImageScale, IntegerNetwork), TestCaseError> {
        let mut random = Random(self.seed);
        // Batch norm outside would give each logit its own scale.
        let end = match (self.end, self.config.fusion) {
            (End::BatchNorm, Fusion::None) => End::Linear,
            (end, _) => end,
        };
        let graph = Graph::new(network_spec(self.input, &self.stretches, end)).unwrap();
        let image_scale = image_scale(self.input[0], &mut random);
        let mut weights = plausible_weights(&graph, self.group, self.zero_groups, tame, &mut random);
        let image = random.bytes(graph.image().len());
        add_steps(&mut weights, &graph, &self.config, &image_scale, &image, [0.15, 0.7], &mut random);
        let params = Params::from_arrays(&graph, &weights).unwrap();
        let classes = class_names(CLASSES);
        let options = fold_options(&self.config, &image_scale, self.group, &classes);
        let network = fold(&graph, &params, &options).map_err(|error| match error.to_string() {
            // A faint filter with its batch norm outside may have a unit of thousands of output scales.
            message if message.contains("no shift expresses") => TestCaseError::reject(message),
            message => TestCaseError::fail(message),
        })?;
        Ok((weights, image_scale, network))
    }
}

/// Images of 1 to 64 pixels a side, gray or in color, and more classes than a byte counts.
#[test]
fn images_of_any_size_and_many_classes_give_the_same_logits_in_all_executions() {
    let mut random = Random(64);
    let sides = [[1, 1], [1, 64], [2, 1], [64, 64], [33, 7]];
    let drawn: Vec<[usize; 2]> = (0..7).map(|_| [1 + random.below(64), 1 + random.below(64)]).collect();
    for (number, [height, width]) in sides.into_iter().chain(drawn).enumerate() {
        let (channels, classes) = ([1, 3][number % 2], [2, 257, 300][number % 3]);
        let text = format!(
            r#"
name = "any"
input = [{channels}, {height}, {width}]
classes = {classes}
[[layers]]
op = "conv"
name = "a"
filters = 9
kernel = 3
padding = 1
[[layers]]
op = "conv"
name = "b"
filters = 20
kernel = 3
padding = 1
stride = 2
add = {{ from = "a", shortcut = "projection", stride = 2 }}
[[layers]]
op = "avg_pool"
name = "mean"
[[layers]]
op = "linear"
name = "linear"
filters = {classes}
"#
        );
        let graph = Graph::new(NetworkSpec { batch_norm_epsilon: EPSILON, ..toml::from_str(&text).unwrap() }).unwrap();
        let (config, group) = (eight_bits(), Hardware::mars().group);
        let image_scale = image_scale(channels, &mut random);
        let mut weights = plausible_weights(&graph, group, 0.1, true, &mut random);
        let image = random.bytes(graph.image().len());
        add_steps(&mut weights, &graph, &config, &image_scale, &image, [0.15, 0.7], &mut random);
        let names = class_names(classes);
        let params = Params::from_arrays(&graph, &weights).unwrap();
        let network = fold(&graph, &params, &fold_options(&config, &image_scale, group, &names)).unwrap();
        let images = images(2, graph.image().len(), &mut random);
        let chips = [Hardware::mars(), chip(group, 5, number % 2 == 0)];
        let logits = agree(&network, &[Device::flex()], &chips, &images);
        assert_eq!(logits.len(), 2 * classes);
    }
}

#[test]
fn random_networks_give_the_same_logits_in_all_executions() {
    let (cases, alive) = (Cell::new(0), Cell::new(0));
    let config =
        ProptestConfig { cases: 800, max_global_rejects: 4, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new_with_rng(
        config.clone(),
        proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm),
    )
    .run(&case(), |case| {
        let (_, _, network) = case.fold(false)?;
        let images = images(3, case.input.iter().product(), &mut Random(!case.seed));
        let mut devices = vec![Device::flex()];
        if cases.get() % 5 == 0 {
            devices.push(ndarray());
        }
        let chips = [Hardware::mars(), chip(case.group, case.extra_rows, case.one_macro)];
        let logits = agree(&network, &devices, &chips, &images);
        cases.set(cases.get() + 1);
        let (first, others) = logits.split_at(CLASSES);
        alive.set(alive.get() + usize::from(others.chunks(CLASSES).any(|logits| logits != first)));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let (cases, alive) = (cases.get(), alive.get());
    assert!(5 * alive > 2 * cases, "only {alive} of {cases} networks tell images apart");
}

/// What the executions agree on is the network and not another one: at 8 bits its logits are near those in `f64`.
#[test]
fn eight_bits_are_near_the_float_network() {
    let config = QuantizeConfig { weight_scale: WeightScale::Column, ..eight_bits() };
    let (mut worst, mut mean) = (0.0f64, 0.0);
    for seed in 0..40 {
        let mut random = Random(seed);
        let kinds = [
            Kind::Conv,
            Kind::Clipped,
            Kind::Grouped,
            Kind::Linear,
            Kind::Inverted,
            Kind::Identity,
            Kind::Projection,
            Kind::Branches,
            Kind::Max,
            Kind::Mean,
            Kind::Hidden,
            Kind::Concat,
        ];
        let stretches: Vec<Stretch> = (0..4)
            .map(|_| Stretch {
                kind: kinds[random.below(kinds.len())],
                filters: 4 + random.below(12),
                kernel: 1 + random.below(4),
                stride: 1 + random.below(2),
                padding: random.below(3),
                batch_norm: random.below(2) == 0,
                is_linear: random.below(4) == 0,
                uneven: Uneven {
                    height: (random.below(3) == 0).then(|| 1 + random.below(4)),
                    stride: random.below(2),
                    dilation: [random.below(2), random.below(2)],
                    padding: [random.below(2), random.below(2)],
                },
            })
            .collect();
        let input = [3, 9, 8];
        let graph = Graph::new(network_spec(input, &stretches, End::Linear)).unwrap();
        let image_scale = image_scale(3, &mut random);
        let group = Hardware::mars().group;
        let mut weights = plausible_weights(&graph, group, 0.0, true, &mut random);
        let image = random.bytes(graph.image().len());
        add_steps(&mut weights, &graph, &config, &image_scale, &image, [1.0, 1.0], &mut random);
        let classes = class_names(CLASSES);
        let network = fold(
            &graph,
            &Params::from_arrays(&graph, &weights).unwrap(),
            &fold_options(&config, &image_scale, group, &classes),
        )
        .unwrap();
        let float = float_values(&graph, &weights, &image_scale, &image).pop().unwrap();
        let integer = Reference::new(&network).unwrap().logits(&image);
        let largest = float.iter().fold(0.0f64, |largest, logit| largest.max(logit.abs()));
        let weight_step =
            weights.get(&format!("{}.weight_step", graph.nodes().last().unwrap().name)).unwrap().values[0];
        let source = graph.nodes().last().unwrap().source;
        let unit = f64::from(weight_step) * step_of(&graph, &weights, source);
        let error = float.iter().zip(&integer).map(|(a, b)| (a - f64::from(*b) * unit).abs()).fold(0.0, f64::max);
        mean += error / largest / 40.0;
        worst = worst.max(error / largest);
    }
    assert!(mean < 0.025 && worst < 0.08, "{mean} on average, {worst} at worst");
}

/// The step of a value that has one form.
fn step_of(graph: &Graph, weights: &Weights, source: Source) -> f64 {
    let Source::Node(index) = source else { panic!("these networks have hidden layers") };
    let node = &graph.nodes()[graph.scale_node(index)];
    f64::from(weights.get(&format!("{}.output_step", node.name)).unwrap().values[0])
}
