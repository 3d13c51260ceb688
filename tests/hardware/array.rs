//! What comes out: partial sums, conversions, noise and stuck cells.

use std::cell::RefCell;

use mars::groups::GroupShape;
use mars::hardware::{Converter, Hardware, MacroNetwork, Noise, evaluate};
use mars::integer::{IntegerConv, IntegerLayer, IntegerNetwork};
use mars::network::ConvShape;
use proptest::prelude::*;

use crate::common::Random;
use crate::common::recipe::{Recipe, W4A4, W8A8};
use crate::definition::{Convolve, direct_accesses, direct_conv, direct_logits};
use crate::networks::{conv, one_layer, signed_network, small_network, spec, with_geometry};

fn agree(network: &IntegerNetwork, hardware: &Hardware, images: &[u8], convolve: &Convolve) {
    let logits = MacroNetwork::new(network, hardware).unwrap().logits(images).unwrap();
    let images = images.chunks(network.graph.image().len());
    let expected: Vec<i32> = images.flat_map(|image| direct_logits(network, image, convolve)).collect();
    assert_eq!(logits, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn macro_logits_are_those_of_the_definition(
        weight_bits in 2u8..=8,
        input_bits in 2u8..=8,
        edge_bits in prop::sample::select(vec![4u8, 8]),
        sparsity in 0u64..=100,
        filters in 1usize..=40,
        channels in 1usize..=32,
        extra_rows in 0usize..=40,
        slice in prop::sample::select(vec![1u8, 2, 4]),
        phase in prop::sample::select(vec![1u8, 2, 4]),
        seed in any::<u64>(),
    ) {
        let group = GroupShape { filters, channels };
        let recipe = Recipe { weight_bits, input_bits, edge_bits, sparsity, group, seed };
        let hardware = Hardware {
            weight_slice_bits: slice,
            input_bits_per_cycle: phase,
            ..with_geometry(group, channels + extra_rows)
        };
        for spec in [small_network(), signed_network()] {
            let network = recipe.network(spec);
            agree(&network, &hardware, &Random(seed).bytes(2 * 3 * 9 * 7), &direct_conv);
        }
    }

    #[test]
    fn a_lossy_converter_sees_each_partial_sum(
        weight_bits in 2u8..=8,
        input_bits in 2u8..=8,
        channels in 1usize..=20,
        slice in prop::sample::select(vec![1u8, 2, 4]),
        phase in prop::sample::select(vec![1u8, 2, 4]),
        converter in prop_oneof![
            (1i32..500).prop_map(|range| Converter::Clipping { range }),
            (1u8..=8, 1i32..40).prop_map(|(bits, step)| Converter::Bits { bits, step }),
        ],
        seed in any::<u64>(),
    ) {
        let group = GroupShape { filters: 16, channels };
        let recipe = Recipe { weight_bits, input_bits, edge_bits: 8, sparsity: 40, group, seed };
        let hardware = Hardware {
            converter,
            weight_slice_bits: slice,
            input_bits_per_cycle: phase,
            ..with_geometry(group, 40)
        };
        let convolve = |shape: &ConvShape, conv: &IntegerConv, values: &[u8], padding: &[u8]| {
            direct_accesses(&hardware, shape, conv, values, padding, &|_, _| {})
        };
        for spec in [small_network(), signed_network()] {
            let network = recipe.network(spec);
            agree(&network, &hardware, &Random(seed).bytes(3 * 9 * 7), &convolve);
        }
    }
}

#[test]
fn a_saturated_layer_of_512_channels_is_exact() {
    let mut network = W8A8.network(spec([512, 2, 2], vec![conv("conv", 16, 3, 1, 1, None)]));
    if let IntegerLayer::Conv { conv, .. } = &mut network.layers[0] {
        conv.weights.fill(-127);
        conv.weights[..512 * 9].fill(127);
    }
    network.zero_points.fill(255);
    agree(&network, &Hardware::mars(), &[255; 2048], &direct_conv);
}

#[test]
fn logits_do_not_depend_on_the_other_images_of_a_batch() {
    let network = W4A4.network(small_network());
    let macros = MacroNetwork::new(&network, &Hardware::mars()).unwrap();
    let images = Random(5).bytes(3 * 9 * 7 * 20);
    let alone: Vec<i32> = images.chunks(3 * 9 * 7).flat_map(|image| macros.logits(image).unwrap()).collect();
    assert_eq!(macros.logits(&images).unwrap(), alone);
    assert!(macros.logits(&images[1..]).unwrap_err().to_string().contains("not whole images"));
}

#[test]
fn a_three_bit_converter_changes_logits_and_runs_a_whole_network() {
    let hardware = Hardware::load("experiments/hardware/adc3.toml".as_ref()).unwrap();
    let network = W4A4.network(small_network());
    let image_scale = Random(1).bytes(3 * 9 * 7);
    let logits = |hardware: &Hardware| MacroNetwork::new(&network, hardware).unwrap().logits(&image_scale).unwrap();
    assert_ne!(logits(&hardware), logits(&Hardware::mars()));
    assert!(evaluate(&network, &hardware).unwrap().cost.energy_uj > 0.0);
}

/// Partial sums are distributed as those of the definition, noise or not.
#[test]
fn partial_sums_are_distributed_as_the_definitions_are() {
    let adc5 = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let noise = Some(Noise { sigma: 0.5, stuck_at_zero: 0.0, stuck_at_one: 0.0, seed: 5 });
    for hardware in
        [Hardware::mars(), Hardware { converter: Converter::Bits { bits: 6, step: 9 }, ..Hardware::mars() }, adc5]
    {
        for spec in [small_network(), signed_network()] {
            let network = W4A4.network(spec);
            let image = Random(8).bytes(3 * 9 * 7);
            let of_convs = RefCell::new(Vec::new());
            let convolve = |shape: &ConvShape, conv: &IntegerConv, values: &[u8], padding: &[u8]| {
                let seen = RefCell::new([Vec::new(), Vec::new()]);
                let saw = |signed: bool, sum: i64| seen.borrow_mut()[usize::from(signed)].push(sum as i32);
                let sums = direct_accesses(&hardware, shape, conv, values, padding, &saw);
                of_convs.borrow_mut().push(seen.into_inner());
                sums
            };
            direct_logits(&network, &image, &convolve);
            let found = MacroNetwork::new(&network, &hardware).unwrap().partial_sums(&image, |_| {}).unwrap().layers;
            let expected =
                of_convs.into_inner().into_iter().flat_map(|[unsigned, signed]| [(false, unsigned), (true, signed)]);
            let expected: Vec<_> = expected.filter(|(_, sums)| !sums.is_empty()).collect();
            assert_eq!(found.len(), expected.len());
            for (found, (signed, mut sums)) in found.into_iter().zip(expected) {
                sums.sort_unstable();
                let count = sums.len();
                let at = |share: f64| sums[(count as f64 * share).ceil() as usize - 1];
                let name = &found.layer;
                assert_eq!((found.signed, found.conversions), (signed, count as u64), "{name}");
                assert_eq!((found.least, found.median), (sums[0], at(0.5)), "{name}");
                assert_eq!((found.quantile_999, found.largest), (at(0.999), sums[count - 1]), "{name}");
            }
        }
        let network = W4A4.network(small_network());
        let first = |noise| {
            let noisy = Hardware { noise, ..hardware.clone() };
            let found = MacroNetwork::new(&network, &noisy).unwrap().partial_sums(&[9; 3 * 9 * 7], |_| {}).unwrap();
            found.layers[0].clone()
        };
        assert_eq!(first(noise), first(None));
    }
}

/// Converters with the bits that the distribution of partial sums asks for lose nothing, those with one less lose something.
#[test]
fn the_bits_that_partial_sums_ask_for_lose_nothing() {
    let network = W4A4.network(small_network());
    let images = Random(3).bytes(3 * 9 * 7 * 12);
    let mut hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let exact = MacroNetwork::new(&network, &Hardware::mars()).unwrap().logits(&images).unwrap();
    let mut run = |bits: u8| {
        hardware.converter = Converter::Bits { bits, step: 1 };
        let chip = MacroNetwork::new(&network, &hardware).unwrap();
        (chip.run(0, &images).unwrap(), chip.partial_sums(&images, |_| {}).unwrap())
    };
    let needed = run(8).1.layers.iter().map(|layer| layer.lossless_bits).max().unwrap() as u8;
    let (execution, found) = run(needed);
    assert_eq!(execution.logits, exact);
    assert!(found.layers.iter().all(|layer| layer.lossy.is_some_and(|lossy| lossy.rms_error == 0.0)));
    // Filters that a group is filled up with are converted, but nobody reads them.
    let conversions: u64 = found.layers.iter().map(|layer| layer.conversions).sum();
    assert!(conversions > 0 && conversions <= execution.counters.conversions, "{conversions}");
    let (execution, found) = run(needed - 1);
    assert_ne!(execution.logits, exact);
    assert!(found.layers.iter().any(|layer| layer.lossy.is_some_and(|lossy| lossy.saturated > 0.0)));

    // However the images are divided among threads.
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let chip = MacroNetwork::new(&network, &hardware).unwrap();
    let [one, four] = [1, 4].map(|threads| pool(threads).install(|| chip.partial_sums(&images, |_| {}).unwrap()));
    assert_eq!(one, four);
}

/// Noise follows from an image's place in its data set: neither batches nor threads nor the order change it.
#[test]
fn noise_does_not_depend_on_batches_threads_or_order() {
    let network = W4A4.network(small_network());
    let noise = Some(Noise { sigma: 0.7, stuck_at_zero: 0.002, stuck_at_one: 0.001, seed: 5 });
    let hardware = Hardware { noise, ..Hardware::mars() };
    let chip = MacroNetwork::new(&network, &hardware).unwrap();
    let images = Random(5).bytes(3 * 9 * 7 * 12);
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let all = pool(1).install(|| chip.run(40, &images).unwrap());
    assert_eq!(pool(5).install(|| chip.run(40, &images).unwrap()), all);
    let image = |index: usize| &images[index * 189..][..189];
    let again = MacroNetwork::new(&network, &hardware).unwrap();
    for index in [11, 3, 0, 7] {
        assert_eq!(again.run(40 + index, image(index)).unwrap().logits, all.logits[5 * index..][..5]);
    }
    assert_ne!(chip.run(41, image(0)).unwrap().logits, all.logits[..5], "another place, other noise");
    let other = Hardware { noise: noise.map(|noise| Noise { seed: 6, ..noise }), ..Hardware::mars() };
    assert_ne!(MacroNetwork::new(&network, &other).unwrap().run(40, &images).unwrap().logits, all.logits);
    let none = Hardware { noise: Some(Noise { seed: 5, ..Noise::default() }), ..Hardware::mars() };
    agree(&network, &none, image(0), &direct_conv);
}

/// Noise of one partial sum in codes, from many images: 128 channels are two accesses of two input phases each.
#[test]
fn noise_has_its_spread_on_each_conversion() {
    let network = one_layer(&[1; 128]);
    for (converter, sigma) in [
        (Converter::Ideal, 3.0),
        (Converter::Bits { bits: 16, step: 1 }, 3.0),
        (Converter::Bits { bits: 12, step: 4 }, 0.75),
        (Converter::Bits { bits: 12, step: 5 }, 0.6),
    ] {
        let noise = Some(Noise { sigma, seed: 1, ..Noise::default() });
        let chip = MacroNetwork::new(&network, &Hardware { converter, noise, ..Hardware::mars() }).unwrap();
        let images = vec![0x88; 128 * 6000];
        let exact = 128.0 * f64::from(0x88);
        let errors: Vec<f64> = chip.logits(&images).unwrap().iter().map(|sum| f64::from(*sum) - exact).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let variance = errors.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / errors.len() as f64;
        // Two accesses, phases of weight 1 and 16; rounding to codes adds a twelfth of a step squared.
        let step: f64 = if let Converter::Bits { step, .. } = converter { step.into() } else { 1.0 };
        let expected = 2.0 * (1.0 + 256.0) * ((sigma * step).powi(2) + step.powi(2) / 12.0);
        assert!((variance / expected - 1.0).abs() < 0.04, "{converter:?}: {variance} for {expected}");
        let deviation = (expected / errors.len() as f64).sqrt();
        // A step that doesn't divide the sum rounds it away from the mean by a known amount at most.
        assert!(mean.abs() < 4.0 * deviation + 0.02 * step * 34.0, "{converter:?}: {mean}");
        // The filters of an image are independent.
        let pairs = errors.chunks(5).flat_map(|sums| (1..5).map(|other| sums[0] * sums[other]));
        let covariance = pairs.sum::<f64>() / (4.0 * 6000.0);
        assert!((covariance / expected).abs() < 0.03, "{converter:?}: {covariance} for {expected}");
    }
}

#[test]
fn noise_cannot_pass_the_converters_range() {
    let network = one_layer(&[1; 64]);
    let sums = |converter, value| {
        let noise = Some(Noise { sigma: 50.0, seed: 1, ..Noise::default() });
        let hardware = Hardware { converter, noise, ..Hardware::mars() };
        MacroNetwork::new(&network, &hardware).unwrap().logits(&vec![value; 64 * 500]).unwrap()
    };
    let ends = |sums: &[i32]| (*sums.iter().min().unwrap(), *sums.iter().max().unwrap());
    // Two phases of at most 9, at places 1 and 16.
    assert_eq!(ends(&sums(Converter::Clipping { range: 9 }, 0)), (-17 * 9, 17 * 9));
    assert_eq!(ends(&sums(Converter::Bits { bits: 3, step: 2 }, 0)), (-17 * 8, 17 * 6));
}

#[test]
fn noise_that_can_pass_32_bits_is_rejected() {
    let noise = Some(Noise { sigma: 5e5, ..Noise::default() });
    let mut network = one_layer(&[1; 4096]);
    let error = MacroNetwork::new(&network, &Hardware { noise, ..Hardware::mars() }).unwrap_err().to_string();
    assert!(error.starts_with("layer `linear`: its sums can reach ") && error.ends_with("beyond 32 bits"), "{error}");
    network.zero_points.fill(0);
    let noise = Some(Noise { sigma: 5e3, ..Noise::default() });
    assert!(MacroNetwork::new(&network, &Hardware { noise, ..Hardware::mars() }).is_ok());
}

/// 4-bit cells that all hold 1 are -1 in two's complement; those that all hold 0 leave the bias.
#[test]
fn stuck_cells_hold_what_they_hold() {
    let network = one_layer(&[3; 32]);
    let sums = |stuck_at_zero, stuck_at_one| {
        let noise = Some(Noise { stuck_at_zero, stuck_at_one, ..Noise::default() });
        MacroNetwork::new(&network, &Hardware { noise, ..Hardware::mars() }).unwrap().logits(&[7; 32]).unwrap()
    };
    assert_eq!(sums(0.0, 0.0), [32 * 7 * 3; 5]);
    assert_eq!(sums(1.0, 0.0), [0; 5]);
    assert_eq!(sums(0.0, 1.0), [-32 * 7; 5]);
    let some = sums(0.1, 0.1);
    assert_eq!(sums(0.1, 0.1), some);
    assert!(some.windows(2).any(|pair| pair[0] != pair[1]), "each weight has its own cells: {some:?}");
    // Groups that aren't kept have no cells.
    let empty = one_layer(&[0; 32]);
    let noise = Some(Noise { stuck_at_one: 1.0, ..Noise::default() });
    let chip = MacroNetwork::new(&empty, &Hardware { noise, ..Hardware::mars() }).unwrap();
    assert_eq!(chip.logits(&[7; 32]).unwrap(), [0; 5]);
}
