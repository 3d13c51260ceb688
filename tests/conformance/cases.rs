//! Networks at the limits of the arithmetic, and chips that lose something.

use std::cell::Cell;
use std::path::Path;

use burn::tensor::Device;
use mars::data::{DataOptions, Dataset};
use mars::groups::GroupShape;
use mars::hardware::{AccessMode, Converter, Hardware, MacroNetwork, Noise};
use mars::integer::{ImageScale, IntegerConv, IntegerLayer, IntegerNetwork, QuantizeConfig, Reference, fold, predict};
use mars::network::{Activation, Array, Graph, LayerSpec, NetworkSpec, Params, Weights};
use mars::observer::{Silent, StopSignal};
use mars::package::Package;
use mars::quantize::FakeQuant;
use mars::validation::{validate, validate_until};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use crate::common::{self, Random, provenance};
use crate::executions::{
    agree, case, chip, class_names, eight_bits, fold_options, images, ndarray, through_the_package,
};
use crate::networks::{CLASSES, EPSILON};
use crate::weights::{add_steps, image_scale, plausible_weights};

/// A convolution with all weights at the limit.
struct Saturated {
    name: &'static str,
    filters: usize,
    kernel: usize,
    padding: usize,
    weight: f32,
    output_step: f32,
}

/// A chain of them, folded at 8 bits with steps of 1. After the first layer column `n` has `n` weights one nearer to zero: sums that
/// f32 cannot tell apart.
fn saturated(input: [usize; 3], convs: &[Saturated]) -> IntegerNetwork {
    let mut layers = Vec::new();
    let mut weights = Weights::default();
    let mut channels = input[0];
    for (index, &Saturated { name, filters, kernel, padding, weight, output_step }) in convs.iter().enumerate() {
        layers.push(LayerSpec::Conv {
            name: name.into(),
            input: None,
            filters,
            kernel: kernel.into(),
            stride: 1.into(),
            padding: padding.into(),
            dilation: 1.into(),
            groups: 1,
            batch_norm: false,
            batch_norm_epsilon: None,
            add: None,
            activation: Activation::Relu,
            clip: None,
        });
        let mut insert = |part: &str, shape: Vec<usize>, value: &dyn Fn(usize) -> f32| {
            let values = (0..shape.iter().product()).map(value).collect();
            weights.insert(format!("{name}.{part}"), Array { shape, values });
        };
        let column = channels * kernel * kernel;
        let nearer = |i: usize| index > 0 && i % column < i / column;
        insert("weight", vec![filters, channels, kernel, kernel], &|i| {
            if nearer(i) { weight - weight.signum() } else { weight }
        });
        insert("bias", vec![filters], &|_| 0.0);
        insert("weight_step", vec![1], &|_| 1.0);
        insert("output_step", vec![1], &|_| output_step);
        channels = filters;
    }
    let graph = Graph::new(NetworkSpec {
        name: "saturated".into(),
        input,
        classes: CLASSES,
        batch_norm_epsilon: EPSILON,
        layers,
    })
    .unwrap();
    // An image step of 1, so that sums are what the weights say.
    let image_scale = ImageScale { zero_points: vec![0; input[0]], std: vec![1.0 / 255.0; input[0]] };
    let (config, classes) = (eight_bits(), class_names(CLASSES));
    fold(
        &graph,
        &Params::from_arrays(&graph, &weights).unwrap(),
        &fold_options(&config, &image_scale, Hardware::mars().group, &classes),
    )
    .unwrap()
}

/// A 3x3 layer of 512 channels and the logits after it, with all weights at the limit and all inputs at 255.
#[test]
fn sums_beyond_the_reach_of_f32_are_exact() {
    let network = saturated(
        [3, 3, 3],
        &[
            Saturated { name: "wide", filters: 512, kernel: 1, padding: 0, weight: 127.0, output_step: 1.0 },
            Saturated { name: "deep", filters: 512, kernel: 3, padding: 1, weight: 127.0, output_step: 585_000.0 },
            Saturated { name: "logits", filters: CLASSES, kernel: 3, padding: 0, weight: -127.0, output_step: 1.0 },
        ],
    );
    let mut images = vec![255; 2 * 27];
    // Only the corner pixel of the second image is dark.
    for color in 0..3 {
        images[27 + color * 9] = 0;
    }
    let logits = agree(&network, &[Device::flex(), ndarray()], &[Hardware::mars()], &images);
    assert!(logits.iter().all(|logit| *logit < -(1 << 24)), "{logits:?}");
    let distinct = logits.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct > CLASSES, "{logits:?}");
}

/// A linear layer over a whole map of 32 x 32: a single channel's sum passes what f32 can tell apart.
#[test]
fn kernels_of_a_whole_map_are_exact() {
    let network = saturated(
        [3, 32, 32],
        &[
            Saturated { name: "wide", filters: 2, kernel: 1, padding: 0, weight: 127.0, output_step: 381.0 },
            Saturated { name: "logits", filters: CLASSES, kernel: 32, padding: 0, weight: 127.0, output_step: 1.0 },
        ],
    );
    let mut image = vec![255; 3 * 1024];
    image[5] = 254;
    let logits = agree(&network, &[Device::flex(), ndarray()], &[Hardware::mars()], &image);
    assert!(logits.iter().all(|logit| *logit > 1 << 25), "{logits:?}");
    let distinct = logits.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(distinct, CLASSES, "{logits:?}");
}

/// A small network for 32x32 images with the weights of a seed, folded.
fn deployed(bits: u8, seed: u64) -> IntegerNetwork {
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    let mut random = Random(seed);
    let image_scale = image_scale(3, &mut random);
    let config = QuantizeConfig { weight_bits: bits, activation_bits: bits, ..QuantizeConfig::default() };
    let group = Hardware::mars().group;
    let mut weights = plausible_weights(&graph, group, 0.2, true, &mut random);
    let image = random.bytes(graph.image().len());
    add_steps(&mut weights, &graph, &config, &image_scale, &image, [0.9, 1.0], &mut random);
    let classes = class_names(10);
    fold(&graph, &Params::from_arrays(&graph, &weights).unwrap(), &fold_options(&config, &image_scale, group, &classes))
        .unwrap()
}

#[test]
fn ties_go_to_the_lowest_class_in_all_executions() {
    assert_eq!((predict(&[3, 3, 1]), predict(&[1, 3, 3]), predict(&[-2, -2, -2])), (0, 1, 0));
    let mut network = deployed(4, 5);
    let Some(IntegerLayer::Conv { conv: IntegerConv { weights, bias, .. }, .. }) = network.layers.last_mut() else {
        panic!("the last layer gives the logits");
    };
    // The classes 5 to 9 are those from 0 to 4 again.
    let half = weights.len() / 2;
    weights.copy_within(..half, half);
    bias.copy_within(..5, 5);
    let images = Random(6).bytes(20 * 3072);
    let logits = agree(&network, &[Device::flex()], &[Hardware::mars()], &images);
    for logits in logits.chunks(10) {
        assert_eq!(logits[..5], logits[5..]);
        assert!(predict(logits) < 5);
    }
}

/// With a converter that loses bits the macro is still a function of the image alone, the integers are the ideal, and what
/// `validate` counts is the difference.
#[test]
fn a_lossy_converter_is_deterministic_and_its_difference_is_counted() {
    let hardware = Hardware::load(Path::new("experiments/hardware/adc3.toml")).unwrap();
    let network = through_the_package(&deployed(8, 9));
    let data = TempDir::new().unwrap();
    common::write_cifar10(data.path(), 1, 30);
    let options = DataOptions { data_dir: Some(data.path().into()), ..DataOptions::default() };
    let test = Dataset::load("cifar10", &options).unwrap().test;

    let chip = MacroNetwork::new(&network, &hardware).unwrap();
    let logits = chip.logits(&test.images).unwrap();
    assert_eq!(MacroNetwork::new(&network, &hardware).unwrap().logits(&test.images).unwrap(), logits);
    let alone: Vec<i32> = (0..test.len()).flat_map(|index| chip.logits(test.image(index)).unwrap()).collect();
    assert_eq!(alone, logits, "one image at a time");

    let ideal = Reference::new(&network).unwrap().logits(&test.images);
    let differing = ideal.iter().zip(&logits).filter(|(a, b)| a != b).count();
    assert!(differing > 0);
    let package = Package { network, provenance: provenance(), predictions: None };
    let deployment = validate(&package, &hardware, &test, None, &Silent).unwrap();
    assert_eq!(deployment.mismatches.integer_vs_macro_logits, differing);
    assert_eq!(deployment.mismatches.fake_quant_vs_macro_predictions, None);
    let ideal = Hardware { converter: mars::hardware::Converter::Ideal, ..Hardware::mars() };
    assert_eq!(validate(&package, &ideal, &test, None, &Silent).unwrap().mismatches.integer_vs_macro_logits, 0);
    let stop = StopSignal::default();
    assert!(validate_until(&package, &ideal, &test, None, &Silent, &stop).unwrap().is_some());
    stop.stop();
    assert!(validate_until(&package, &ideal, &test, None, &Silent, &stop).unwrap().is_none());
}

/// A chip that loses something: its converter, its noise, its cells.
fn lossy_chip(group: GroupShape, random: &mut Random) -> Hardware {
    let weight_slice_bits = [1, 1, 2, 4][random.below(4)];
    let input_bits_per_cycle = [1, 1, 2, 4, 8][random.below(5)];
    let converter = match random.below(4) {
        0 => Converter::Ideal,
        1 => Converter::Clipping { range: 1 + random.below(200) as i32 },
        2 => Converter::Bits { bits: 1 + random.below(8) as u8, step: 1 + random.below(40) as i32 },
        // Codes that no table holds.
        _ => Converter::Bits { bits: 12, step: 17 + random.below(3) as i32 },
    };
    let sigma = if converter == Converter::Ideal || random.below(2) == 0 { random.real(0.1, 3.0) } else { 0.0 };
    let stuck = |random: &mut Random| if random.below(3) == 0 { random.real(0.0, 0.05) } else { 0.0 };
    let noise = Noise { sigma, stuck_at_zero: stuck(random), stuck_at_one: stuck(random), seed: random.next() };
    let access = [4, 8]
        .map(|weight_bits| AccessMode {
            weight_bits,
            input_bits: 8,
            ns: 8.0,
            energy_pj: Some(10.0),
            measured: None,
            outputs: None,
        })
        .to_vec();
    let chip = chip(group, random.below(50), random.below(2) == 0);
    let noise = Some(noise);
    Hardware { weight_slice_bits, input_bits_per_cycle, converter, noise, access, ..chip }
}

/// Fake-quant evaluation and the macro execution lose the same, on every logit, wherever in its data set an image is.
#[test]
fn a_chip_loses_the_same_in_fake_quant_and_macro() {
    let (cases, refused) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig { max_global_rejects: 8, failure_persistence: None, ..ProptestConfig::with_cases(150) };
    let random = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, random);
    let result = runner.run(&(case(), prop::bool::weighted(0.2)), |(mut case, wide)| {
        if wide {
            case.group.channels += 60;
        }
        let (_, _, network) = case.fold(false)?;
        let mut random = Random(!case.seed);
        let hardware = lossy_chip(case.group, &mut random);
        let images = images(3, case.input.iter().product(), &mut random);
        let first = random.below(1000);
        cases.set(cases.get() + 1);
        let chip = match MacroNetwork::new(&through_the_package(&network), &hardware) {
            Ok(chip) => chip,
            Err(error) => {
                let message = error.to_string();
                prop_assert!(message.contains("beyond 32 bits"), "{message}");
                refused.set(refused.get() + 1);
                return Ok(());
            }
        };
        let expected = chip.run(first, &images).unwrap().logits;
        let found = FakeQuant::on_chip(&network, &hardware, &Device::flex()).unwrap().logits_from(first, &images);
        let Hardware { weight_slice_bits, input_bits_per_cycle, converter, noise, .. } = hardware;
        prop_assert!(
            found == expected,
            "{weight_slice_bits} {input_bits_per_cycle} {converter:?} {noise:?}: {found:?} {expected:?}"
        );
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let (cases, refused) = (cases.get(), refused.get());
    assert!(refused * 50 <= cases, "{refused} of {cases} chips were refused");
}
