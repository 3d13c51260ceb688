//! The hardware model against computations written here, and against the arithmetic that any result must agree with.

mod common;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use mars::error::{Allowed, ConfigError, Error};
use mars::groups::{GroupGrid, GroupShape};
use mars::hardware::{
    Accumulation, Accumulator, Activity, Area, Components, Converter, Cost, Evaluation, Evaluator, Geometry, Hardware,
    InputReads, LayerCost, LayerMapping, LayerPlacement, Ledger, MacroNetwork, MacroShares, Mapping, Memory, Noise,
    Objective, PingPong, Placement, Placements, Policy, Precision, Resource, Span, Split, Start, StatedFor, evaluate,
};
use mars::integer::{
    Form, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip, QuantizeConfig, Requantize, multiplier, outline,
};
use mars::network::{
    Activation, BATCH_NORM_EPSILON, Border, Conv, ConvShape, Graph, LayerSpec, MapShape, NetworkSpec, Op, SameScale,
    Shortcut, Sides, Skip, SkipSpec, Source, Window, zoo,
};
use mars::package::Package;
use mars::prune::fit_budget;
use mars::sweep::Space;
use proptest::prelude::*;
use rayon::prelude::*;

use common::Random;
use common::recipe::{Recipe, W4A4, W8A8};

/// Sums of a convolution, `[filter][pixel]`, straight from its definition. `values` are `[channel][pixel]`.
fn direct_conv(shape: &ConvShape, conv: &IntegerConv, values: &[u8], padding: &[u8]) -> Vec<i64> {
    let MapShape { height, width, .. } = shape.input;
    let Window { stride, padding: [[top, _], [left, _]], .. } = shape.window;
    let mut sums = Vec::new();
    for filter in 0..shape.filters() {
        for out in 0..shape.output.pixels() {
            let mut sum = i64::from(conv.bias[filter]);
            for (index, channel) in shape.reads(filter).enumerate() {
                for tap in 0..shape.taps() {
                    let kernel = shape.window.kernel;
                    let y = out / shape.output.width * stride[0] + tap / kernel[1] * shape.dilation[0];
                    let x = out % shape.output.width * stride[1] + tap % kernel[1] * shape.dilation[1];
                    let inside = (top..height + top).contains(&y) && (left..width + left).contains(&x);
                    let value = match inside {
                        true => values[channel * height * width + (y - top) * width + x - left],
                        false => padding[channel],
                    };
                    let weight = conv.weights[(filter * shape.depth() + index) * shape.taps() + tap];
                    sum += i64::from(weight) * i64::from(value);
                }
            }
            sums.push(sum);
        }
    }
    sums
}

type Convolve<'a> = dyn Fn(&ConvShape, &IntegerConv, &[u8], &[u8]) -> Vec<i64> + 'a;

/// Logits of one image by the formulas of `mars::integer`, layer by layer, dense.
fn direct_logits(network: &IntegerNetwork, image: &[u8], convolve: &Convolve) -> Vec<i32> {
    let mut values: Vec<Vec<(u8, Vec<u8>)>> = Vec::new();
    let nodes = network.graph.nodes();
    for (node, layer) in nodes.iter().zip(&network.layers) {
        let read = |source: Source, bits: u8| match source {
            Source::Image => image.to_vec(),
            Source::Node(index) => values[index].iter().find(|(form, _)| *form == bits).unwrap().1.clone(),
        };
        let requantize = |output: &Requantize, sums: &[i64]| -> Vec<(u8, Vec<u8>)> {
            let clamp = |form: &Form, sum: i64| {
                let rounded = (sum + (1i64 << (form.shift - 1))).div_euclid(1i64 << form.shift);
                (rounded + i64::from(form.zero_point)).clamp(0, (1i64 << form.bits) - 1) as u8
            };
            let form = |form: &Form| (form.bits, sums.iter().map(|sum| clamp(form, *sum)).collect());
            output.forms.iter().map(form).collect()
        };
        // What a value stands for, which pooling layers and residual sums read.
        let units = |source: Source, bits: u8| -> Vec<i64> {
            let Source::Node(index) = source else { unreachable!("only convolutions read the image") };
            let zero_point = i64::from(network.zero_point(index, bits));
            read(source, bits).into_iter().map(|code| i64::from(code) - zero_point).collect()
        };
        let pixels = node.output.pixels();
        match (node.op, layer) {
            (Op::Conv { conv: shape, skip, .. }, IntegerLayer::Conv { conv, skip: integer_skip, output }) => {
                let input = read(node.source, conv.input_bits);
                let sums = convolve(&shape, conv, &input, &network.padding_values(node.source, conv.input_bits));
                let Some(output) = output else {
                    return sums.iter().map(|sum| *sum as i32).collect();
                };
                let mut sums: Vec<i64> =
                    (0..).zip(&sums).map(|(index, sum)| sum * i64::from(output.multiplier(index / pixels))).collect();
                match (skip, integer_skip) {
                    (
                        Some(Skip::Identity { source, stride, pad_front }),
                        Some(IntegerSkip::Identity { bits, multiplier }),
                    ) => {
                        let from = network.graph.shape(source);
                        let value = units(source, *bits);
                        for channel in 0..from.channels {
                            for pixel in 0..pixels {
                                let y = pixel / node.output.width * stride;
                                let x = pixel % node.output.width * stride;
                                let value = value[channel * from.pixels() + y * from.width + x];
                                sums[(channel + pad_front) * pixels + pixel] += value * i64::from(*multiplier);
                            }
                        }
                    }
                    (
                        Some(Skip::Projection { source, conv: shape, .. }),
                        Some(IntegerSkip::Projection { conv, multipliers }),
                    ) => {
                        let input = read(source, conv.input_bits);
                        let joined = convolve(&shape, conv, &input, &network.padding_values(source, conv.input_bits));
                        for (index, sum) in joined.iter().enumerate() {
                            sums[index] += sum * i64::from(multiplier(multipliers, index / pixels));
                        }
                    }
                    _ => {}
                }
                values.push(requantize(output, &sums));
            }
            (Op::SameScale(SameScale::MaxPool { window }), IntegerLayer::SameScale) => {
                let Window { kernel, stride, padding } = window;
                let forms = network.forms(node.source);
                let pooled = forms.iter().map(|&bits| {
                    let value = read(node.source, bits);
                    let mut pooled = Vec::new();
                    for channel in 0..node.output.channels {
                        for pixel in 0..pixels {
                            let mut largest = 0;
                            let [[top, _], [left, _]] = padding;
                            for tap in 0..kernel[0] * kernel[1] {
                                let y = pixel / node.output.width * stride[0] + tap / kernel[1];
                                let x = pixel % node.output.width * stride[1] + tap % kernel[1];
                                if (top..node.input.height + top).contains(&y)
                                    && (left..node.input.width + left).contains(&x)
                                {
                                    let at = (y - top) * node.input.width + x - left;
                                    largest = largest.max(value[channel * node.input.pixels() + at]);
                                }
                            }
                            pooled.push(largest);
                        }
                    }
                    (bits, pooled)
                });
                let pooled = pooled.collect();
                values.push(pooled);
            }
            (Op::SameScale(SameScale::Concat), IntegerLayer::SameScale) => {
                let forms = network.forms(Source::Node(values.len())).into_iter();
                let joined = forms.map(|bits| (bits, node.sources().flat_map(|source| read(source, bits)).collect()));
                let joined = joined.collect();
                values.push(joined);
            }
            (Op::AvgPool { window }, IntegerLayer::AvgPool { input_bits, output }) => {
                let value = units(node.source, *input_bits);
                let mut sums = vec![0; node.output.len()];
                for (index, value) in value.iter().enumerate() {
                    let channel = index / node.input.pixels();
                    let place = [index % node.input.pixels() / node.input.width, index % node.input.width];
                    // The value is in every window that begins at most a kernel before it.
                    for pixel in 0..pixels {
                        let first = [pixel / node.output.width, pixel % node.output.width];
                        let within = |side: usize| {
                            let first = first[side] * window.stride[side];
                            (first..first + window.kernel[side]).contains(&(place[side] + window.padding[side][0]))
                        };
                        if within(0) && within(1) {
                            sums[channel * pixels + pixel] += value;
                        }
                    }
                }
                sums.iter_mut().for_each(|sum| *sum *= i64::from(output.multipliers[0]));
                values.push(requantize(output, &sums));
            }
            _ => unreachable!(),
        }
    }
    unreachable!("the last layer gives the logits")
}

fn conv(name: &str, filters: usize, kernel: usize, stride: usize, padding: usize, add: Option<SkipSpec>) -> LayerSpec {
    LayerSpec::Conv {
        name: name.into(),
        input: None,
        filters,
        kernel: kernel.into(),
        stride: stride.into(),
        padding: padding.into(),
        dilation: 1.into(),
        groups: 1,
        batch_norm: true,
        batch_norm_epsilon: None,
        add,
        activation: Activation::Relu,
        clip: None,
    }
}

/// The same layer without an activation.
fn linear(mut layer: LayerSpec) -> LayerSpec {
    let LayerSpec::Conv { activation, .. } = &mut layer else { unreachable!("it is a convolution") };
    *activation = Activation::None;
    layer
}

/// Over the whole map.
fn mean(name: &str) -> LayerSpec {
    LayerSpec::AvgPool { name: name.into(), input: None, kernel: None, stride: None, padding: 0.into() }
}

/// Means of windows that overlap, with a border that differs by side.
fn overlapping() -> LayerSpec {
    let (kernel, stride) = (Some(Sides([2, 2])), Some(Sides([1, 1])));
    LayerSpec::AvgPool { name: "overlapping".into(), input: None, kernel, stride, padding: Border([[1, 0], [0, 1]]) }
}

fn concat(name: &str, inputs: &[&str]) -> LayerSpec {
    LayerSpec::Concat { name: name.into(), inputs: inputs.iter().map(|input| input.to_string()).collect() }
}

fn in_groups(count: usize, mut layer: LayerSpec) -> LayerSpec {
    let LayerSpec::Conv { groups, .. } = &mut layer else { unreachable!("it is a convolution") };
    *groups = count;
    layer
}

fn dilated(by: [usize; 2], border: [[usize; 2]; 2], mut layer: LayerSpec) -> LayerSpec {
    let LayerSpec::Conv { dilation, padding, .. } = &mut layer else { unreachable!("it is a convolution") };
    (*dilation, *padding) = (Sides(by), Border(border));
    layer
}

fn spec(input: [usize; 3], mut layers: Vec<LayerSpec>) -> NetworkSpec {
    layers.push(LayerSpec::Linear {
        name: "linear".into(),
        input: None,
        filters: 5,
        batch_norm: false,
        batch_norm_epsilon: None,
        activation: Activation::Relu,
    });
    NetworkSpec { name: "small".into(), input, classes: 5, batch_norm_epsilon: BATCH_NORM_EPSILON, layers }
}

/// Everything that a network may have: both shortcuts, a stride, padded channels, groups of channels, a dilated kernel, a border that differs by
/// side, both pools, maps behind each other.
fn small_network() -> NetworkSpec {
    let skip = |from: &str, shortcut, stride| Some(SkipSpec { from: from.into(), shortcut, stride, batch_norm: true });
    let max_pool = LayerSpec::MaxPool {
        name: "max".into(),
        input: None,
        kernel: Sides([3, 2]),
        stride: 2.into(),
        padding: Border([[1, 2], [0, 1]]),
    };
    let avg_pool = mean("avg");
    spec(
        [3, 9, 7],
        vec![
            conv("stem", 18, 3, 1, 1, None),
            dilated([2, 1], [[3, 1], [1, 1]], conv("a1", 18, 3, 1, 1, None)),
            conv("a2", 18, 3, 1, 1, skip("stem", Shortcut::Identity, 1)),
            conv("b1", 33, 3, 2, 1, None),
            conv("b2", 33, 3, 1, 1, skip("a2", Shortcut::Projection, 2)),
            conv("c1", 40, 3, 2, 1, None),
            in_groups(8, conv("grouped", 40, 3, 1, 1, None)),
            conv("c2", 40, 1, 1, 0, skip("b2", Shortcut::Identity, 2)),
            concat("joined", &["c2", "grouped", "c2"]),
            max_pool,
            overlapping(),
            avg_pool,
        ],
    )
}

/// Values with a sign wherever they may be: read by convolutions with borders, in groups, by both shortcuts and by both pools.
fn signed_network() -> NetworkSpec {
    let skip = |from: &str, shortcut, stride| Some(SkipSpec { from: from.into(), shortcut, stride, batch_norm: true });
    let max_pool =
        LayerSpec::MaxPool { name: "max".into(), input: None, kernel: 3.into(), stride: 2.into(), padding: 1.into() };
    let avg_pool = mean("avg");
    spec(
        [3, 9, 7],
        vec![
            linear(conv("stem", 18, 3, 1, 1, None)),
            in_groups(18, conv("a1", 18, 3, 1, 1, None)),
            linear(conv("a2", 24, 1, 1, 0, skip("stem", Shortcut::Identity, 1))),
            conv("b1", 33, 3, 2, 1, None),
            linear(conv("b2", 33, 3, 1, 1, skip("a2", Shortcut::Projection, 2))),
            linear(conv("c", 36, 5, 1, 2, skip("b2", Shortcut::Identity, 1))),
            max_pool,
            linear(conv("d", 36, 1, 1, 0, skip("max", Shortcut::Identity, 1))),
            concat("joined", &["max", "d"]),
            overlapping(),
            avg_pool,
        ],
    )
}

fn with_geometry(group: GroupShape, rows_on: usize) -> Hardware {
    Hardware { group, rows_on, rows: rows_on * 16, partitions: 1, ..Hardware::mars() }
}

fn agree(network: &IntegerNetwork, hardware: &Hardware, images: &[u8], convolve: &Convolve) {
    let logits = MacroNetwork::new(network, hardware).unwrap().logits(images).unwrap();
    let images = images.chunks(network.graph.image().len());
    let expected: Vec<i32> = images.flat_map(|image| direct_logits(network, image, convolve)).collect();
    assert_eq!(logits, expected);
}

/// A convolution as the macros are documented to do it: kept groups of a filter set share an access in their order, each
/// access, weight slice and input phase has its partial sum, and the converter sees each of them; `saw` gets it, and whether the slice has a sign.
fn direct_accesses(
    hardware: &Hardware,
    shape: &ConvShape,
    conv: &IntegerConv,
    values: &[u8],
    padding: &[u8],
    saw: &dyn Fn(bool, i64),
) -> Vec<i64> {
    let GroupShape { filters, channels } = hardware.group;
    let Window { stride, padding: [[top, _], [left, _]], .. } = shape.window;
    let grid = GroupGrid::new(hardware.group, shape);
    let kept = grid.kept(&conv.weights);
    let bits = u32::from(hardware.precision(conv.weight_bits, conv.input_bits).unwrap().weight_bits);
    let (slice_bits, phase_bits) = (u32::from(hardware.weight_slice_bits), u32::from(hardware.input_bits_per_cycle));
    // The products of one group: a 1x1 convolution of its channels at its kernel position.
    let products = |filter: usize, group: usize, out: usize| -> Vec<(u32, u32)> {
        let (block, tap) = grid.place(filter / filters, group);
        grid.block_channels(block)
            .filter(|channel| shape.reads(filter).contains(channel))
            .map(|channel| {
                let kernel = shape.window.kernel;
                let y = out / shape.output.width * stride[0] + tap / kernel[1] * shape.dilation[0];
                let x = out % shape.output.width * stride[1] + tap % kernel[1] * shape.dilation[1];
                let (y, x) = (y.wrapping_sub(top), x.wrapping_sub(left));
                let value = match y < shape.input.height && x < shape.input.width {
                    true => values[channel * shape.input.pixels() + y * shape.input.width + x],
                    false => padding[channel],
                };
                let weight = conv.weights[grid.weight(filter, channel, tap)];
                (i32::from(weight).rem_euclid(1 << bits) as u32, u32::from(value))
            })
            .collect()
    };
    let convert = |sum: i64, signed: bool| match hardware.converter {
        Converter::Ideal | Converter::AdderTree => sum,
        Converter::Clipping { range } => sum.max(-i64::from(range)).min(range.into()),
        Converter::Bits { bits, step } => {
            let code = (sum as f64 / f64::from(step) + 0.5).floor() as i64;
            let codes = 1i64 << bits;
            let code = if signed { code.max(-codes / 2).min(codes / 2 - 1) } else { code.max(0).min(codes - 1) };
            code * i64::from(step)
        }
    };
    let mut sums = Vec::new();
    for filter in 0..shape.filters() {
        let set = filter / filters * grid.groups_per_set();
        let groups: Vec<usize> = (0..grid.groups_per_set()).filter(|group| kept[set + group]).collect();
        for out in 0..shape.output.pixels() {
            let mut total = i64::from(conv.bias[filter]);
            for access in groups.chunks(hardware.rows_on / channels) {
                let rows: Vec<_> = access.iter().flat_map(|&group| products(filter, group, out)).collect();
                for slice in 0..bits / slice_bits {
                    for phase in 0..u32::from(conv.input_bits).div_ceil(phase_bits) {
                        let top = slice + 1 == bits / slice_bits;
                        let digit = |weight: u32| {
                            let digit = i64::from(weight >> (slice * slice_bits) & ((1 << slice_bits) - 1));
                            let negative = top && slice_bits > 1 && digit >> (slice_bits - 1) == 1;
                            if negative { digit - (1 << slice_bits) } else { digit }
                        };
                        let input = |value: u32| i64::from(value >> (phase * phase_bits) & ((1 << phase_bits) - 1));
                        let sum = rows.iter().map(|&(weight, value)| digit(weight) * input(value)).sum();
                        saw(top && slice_bits > 1, sum);
                        let sign = if top && slice_bits == 1 { -1 } else { 1 };
                        let sum = sign * convert(sum, top && slice_bits > 1);
                        total += sum << (slice * slice_bits + phase * phase_bits);
                    }
                }
            }
            sums.push(total);
        }
    }
    sums
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

    #[test]
    fn the_schedule_is_what_the_array_does_and_its_parts_add_up(
        weight_bits in 2u8..=8,
        input_bits in 2u8..=8,
        sparsity in 0u64..=100,
        filters in 1usize..=40,
        channels in 1usize..=32,
        extra_rows in 0usize..=40,
        cores in 1usize..=8,
        macros_per_core in 1usize..=8,
        frames_per_load in 1usize..=3,
        accesses_per_macro in 1usize..=4,
        weight_sram_kib in 1u64..=4,
        feature_sram_kib in 1u64..=4,
        ping_pong in prop::sample::select(vec![PingPong::Shared, PingPong::Halves]),
        input_reads in prop::sample::select(vec![InputReads::PerCore, InputReads::Broadcast]),
        widths in prop::collection::vec(prop::sample::select(vec![8u64, 64, 100, 512]), 5),
        policy in prop::sample::select(vec![
            Policy::Auto, Policy::FilterSets, Policy::Together, Policy::InputChannels, Policy::Duplicate,
        ]),
        seed in any::<u64>(),
    ) {
        let group = GroupShape { filters, channels };
        let recipe = Recipe { weight_bits, input_bits, edge_bits: 8, sparsity, group, seed };
        let network = recipe.network(if seed % 2 == 0 { small_network() } else { signed_network() });
        let mut hardware = Hardware { cores, macros_per_core, frames_per_load, ..with_geometry(group, channels + extra_rows) };
        hardware.rows = hardware.rows_on * accesses_per_macro;
        hardware.mapping.policy = policy;
        hardware.memory = Memory {
            weight_sram_kib,
            feature_sram_kib,
            ping_pong,
            input_reads,
            write_bits_per_cycle: widths[0],
            weight_bits_per_cycle: widths[1],
            feature_read_bits_per_cycle: widths[2],
            feature_write_bits_per_cycle: widths[3],
            next_level_bits_per_cycle: widths[4],
            ..hardware.memory
        };
        let evaluation = evaluate(&network, &hardware).unwrap();
        let execution = MacroNetwork::new(&network, &hardware).unwrap().run(0, &[9; 3 * 9 * 7]).unwrap();

        // Conservation: each kept group is computed once for each output pixel.
        let counted = |count: fn(&LayerCost) -> u64| evaluation.layers.iter().map(count).sum::<u64>();
        let shapes: Vec<_> = network.convs().collect();
        let group_pixels: usize = shapes.iter().map(|(Conv { shape, .. }, conv)| {
            let kept = GroupGrid::new(group, shape).kept(&conv.weights);
            kept.iter().filter(|kept| **kept).count() * shape.output.pixels()
        }).sum();
        prop_assert_eq!(execution.counters.group_pixels, group_pixels as u64);
        prop_assert_eq!(execution.counters.accesses, counted(|layer| layer.accesses));
        prop_assert_eq!(counted(|layer| layer.macs), network.graph.macs());

        for cost in [&evaluation.cost, &evaluation.cost_without_reload] {
            prop_assert!(cost.cycles >= counted(|layer| layer.accesses).div_ceil((cores * macros_per_core) as u64));
            prop_assert!(close(cost.energy_uj, cost.energy_breakdown_uj.total()));
            prop_assert!((0.0..=1.0).contains(&cost.utilization));
            // A few groups less can be cut into tiles less well.
            prop_assert!(cost.speedup_vs_dense > 0.9, "{}", cost.speedup_vs_dense);
            prop_assert!(cost.tops_per_watt_executed <= cost.tops_per_watt_dense_equivalent);
        }
        prop_assert!(evaluation.cost_without_reload.cycles <= evaluation.cost.cycles);
        prop_assert!(evaluation.cost_without_reload.energy_uj <= evaluation.cost.energy_uj);
        prop_assert_eq!(counted(|layer| layer.cycles), evaluation.cost.cycles);
        prop_assert!(close(evaluation.layers.iter().map(|layer| layer.energy_uj).sum(), evaluation.cost.energy_uj));
        check_timeline(&evaluation, &hardware);

        hardware.mapping.policy = Policy::FilterSets;
        let plain = evaluate(&network, &hardware).unwrap().cost;
        if policy == Policy::Auto {
            let product = |cost: Cost| {
                let energy = cost.energy_uj - cost.energy_breakdown_uj.idle_leakage;
                cost.cycles as f64 * energy
            };
            prop_assert!(product(evaluation.cost) <= product(plain) * (1.0 + 1e-9));
        }
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// Every cycle in which a part of a core does something, one span after the other.
fn cycles_of(span: &Span) -> impl Iterator<Item = u64> + '_ {
    (0..span.times).flat_map(move |time| (0..span.cycles).map(move |cycle| span.start + time * span.period + cycle))
}

/// The parts of a core that do one thing at a time.
fn parts_of(span: &Span) -> Vec<(&'static str, Option<usize>)> {
    match span.activity {
        Activity::DecodeIndex => vec![("decoder", None)],
        // Cells that are written don't compute.
        Activity::LoadWeights => vec![("weight port", None), ("cells", span.unit)],
        Activity::LoadInputs => vec![("read port", None)],
        Activity::Compute => vec![("cells", span.unit)],
        Activity::Accumulate => vec![("adders", span.unit)],
        Activity::WriteBack => vec![("write port", None)],
        Activity::MoveMaps => vec![("next level", None)],
    }
}

/// No part of a core does two things in a cycle, nothing that needs a layer's inputs begins before they are there, a tile is
/// computed after it is loaded, and the programs make each access once for each output pixel.
fn check_timeline(evaluation: &Evaluation, hardware: &Hardware) {
    let timeline = &evaluation.timeline;
    let mut used = HashMap::new();
    for span in &timeline.spans {
        let layer = &timeline.layers[span.layer];
        let loads = matches!(span.activity, Activity::LoadWeights | Activity::DecodeIndex);
        assert!(span.end() <= layer.end && (loads || span.start >= layer.start), "{span:?}");
        for part in parts_of(span) {
            let cycles = used.entry((span.core, part)).or_insert_with(HashSet::new);
            assert!(cycles_of(span).all(|cycle| cycles.insert(cycle)), "{part:?} is used twice: {span:?}");
        }
    }
    let mut loaded = HashMap::new();
    for span in &timeline.spans {
        let at = (span.core, span.unit);
        match span.activity {
            Activity::LoadWeights | Activity::DecodeIndex => {
                let end = loaded.entry(at).or_insert(0);
                *end = span.end().max(*end);
            }
            Activity::Compute => assert!(span.start >= loaded.get(&at).copied().unwrap_or(0), "{span:?}"),
            _ => {}
        }
    }
    // With whole cycles for each access, the macros' busy cycles are at least those of the accesses.
    for (index, layer) in evaluation.layers.iter().enumerate() {
        let of_layer = timeline.spans.iter().filter(|span| span.layer == index && span.activity == Activity::Compute);
        let busy: u64 = of_layer.map(|span| span.times * span.cycles).sum();
        assert!(busy >= hardware.frames_per_load as u64 * layer.accesses, "{}", layer.name);
        assert_eq!(busy > 0, layer.accesses > 0, "{}", layer.name);
        let cycles = timeline.layers[index].end - timeline.layers[index].start;
        assert!(cycles * hardware.macros() as u64 >= busy, "{}", layer.name);
    }
    let loads = timeline.spans.iter().any(|span| span.activity == Activity::LoadWeights);
    assert_eq!(loads, !evaluation.resident);
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

/// Dense ceilings at 100 MHz, one 8-bit access a cycle, all macros computing, no padding, no reload.
#[test]
fn dense_ceilings_are_those_of_the_arithmetic() {
    let hardware = Hardware::mars();
    let ceiling = |macs: f64, bits| {
        let precision = hardware.precision(bits, bits).unwrap();
        hardware.peak_macs_per_cycle(&precision) * hardware.clock_mhz * 1e6 / macs
    };
    assert_eq!(ceiling(313_196_544.0, 8).round(), 1308.0);
    assert_eq!(ceiling(555_417_600.0, 8).round(), 737.0);
    assert_eq!(ceiling(313_196_544.0, 4), 2.0 * ceiling(313_196_544.0, 8));
}

#[test]
fn dense_vgg16_at_8_bits_costs_what_the_arithmetic_says() {
    let network = W8A8.network(zoo("vgg16", 10).unwrap());
    let evaluation = evaluate(&network, &Hardware::mars()).unwrap();
    // 14.71 M weights x 8 b x 0.27 pJ/b; the first layer's and the last one's padding adds 0.2 %.
    let cell_writes = evaluation.cost.energy_breakdown_uj.cell_writes;
    assert!((31.7..31.9).contains(&cell_writes), "{cell_writes}");
    // The ceiling counts neither padding nor sums that wait nor the layers that fill only a part of the accesses; without reload
    // macros that start together do best.
    let mapping = Mapping { policy: Policy::Together, ..Mapping::default() };
    let fps = evaluate(&network, &Hardware { mapping, ..Hardware::mars() }).unwrap().cost_without_reload.fps;
    assert!((1150.0..1308.0).contains(&fps), "{fps}");
    // The macro alone: 16.63 TOPS/W, less the accesses that padding takes.
    let array = 2.0 * 313.2 / evaluation.cost.energy_breakdown_uj.array;
    assert!((16.0..16.63).contains(&array), "{array}");
    assert_eq!(evaluation.cost.speedup_vs_dense, 1.0);
    assert_eq!(evaluation.compression.group_sparsity, 0.0);
    assert!(!evaluation.resident && !evaluation.fits_weight_sram);
    // A bitmap takes one bit for each 16 x 16 group of 2048 weight bits, and one more bit for each filter set.
    let groups: u64 = evaluation.layers.iter().map(|layer| layer.groups).sum();
    let sets: usize = network.convs().map(|(conv, _)| conv.shape.filters().div_ceil(16)).sum();
    assert_eq!(evaluation.compression.index_bits, groups + sets as u64);
}

/// 64 channels fill the word lines, 128 filters the outputs of 16 accesses, which 8 macros make two by two.
#[test]
fn a_layer_that_fills_every_macro_keeps_them_busy() {
    let pool = mean("pool");
    let layers = vec![conv("a", 64, 1, 1, 0, None), conv("b", 128, 1, 1, 0, None), pool];
    let evaluation = evaluate(&W8A8.network(spec([64, 8, 8], layers)), &Hardware::mars()).unwrap();
    assert!(evaluation.resident);
    // Two cycles for each of 64 pixels, and five until the first inputs are there and the last values are written.
    let layer = &evaluation.layers[1];
    assert_eq!((layer.accesses, layer.cycles, layer.utilization), (16 * 64, 2 * 64 + 5, 128.0 / 133.0));
}

/// Sixteen filters share their word lines, though each of a depthwise layer needs one of sixteen: such a layer takes the accesses and cell
/// writes of a dense one whose groups off the diagonal are pruned, for a sixteenth of its products.
#[test]
fn a_depthwise_layer_costs_what_the_diagonal_of_a_dense_one_costs() {
    let layers = |second| vec![conv("a", 64, 1, 1, 0, None), second];
    let dense = spec([64, 8, 8], layers(conv("b", 64, 3, 1, 1, None)));
    let depthwise = spec([64, 8, 8], layers(in_groups(64, conv("b", 64, 3, 1, 1, None))));
    let depthwise = W8A8.network(depthwise);
    let mut diagonal = W8A8.network(dense);
    let IntegerLayer::Conv { conv: pruned, .. } = &mut diagonal.layers[1] else { unreachable!("it is a convolution") };
    for (index, weight) in pruned.weights.iter_mut().enumerate() {
        let (filter, channel) = (index / 9 / 64, index / 9 % 64);
        *weight = i8::from(filter / 16 == channel / 16);
    }
    let [depthwise, diagonal] = [depthwise, diagonal].map(|network| evaluate(&network, &Hardware::mars()).unwrap());
    let (layer, other) = (&depthwise.layers[1], &diagonal.layers[1]);
    // Nine kernel positions of 16 channels are three accesses of four sections; 16 filters at 8 bits are two parts; four sets.
    assert_eq!((layer.accesses, other.accesses), (3 * 2 * 4 * 64, 3 * 2 * 4 * 64));
    assert!(layer.cycles <= other.cycles, "fewer bits are fetched for the same cells");
    assert_eq!((layer.kept_groups, layer.groups, other.groups), (4 * 9, 4 * 9, 4 * 4 * 9));
    assert_eq!((layer.macs, layer.kept_macs, other.kept_macs), (64 * 9 * 64, 64 * 9 * 64, 16 * 64 * 9 * 64));
    assert!(layer.utilization < 0.05, "{}", layer.utilization);
    let writes = |evaluation: &Evaluation| evaluation.cost.energy_breakdown_uj.cell_writes;
    assert_eq!(writes(&depthwise), writes(&diagonal));
    assert_eq!(depthwise.compression.group_sparsity, 0.0);
}

/// One core, one access of two cycles a macro, 64-cycle loads (64 x 64 cells through 64 bits): the second macro loads while the
/// first computes.
#[test]
fn weights_load_while_another_macro_computes() {
    let network = W8A8.network(spec([64, 10, 10], vec![conv("a", 16, 1, 1, 0, None), conv("b", 8, 1, 1, 0, None)]));
    let mut hardware = Hardware { cores: 1, rows: 64, clock_mhz: 200.0, ..Hardware::mars() };
    hardware.mapping.policy = Policy::FilterSets;
    hardware.memory.weight_bits_per_cycle = 1 << 20;
    hardware.memory.next_level_bits_per_cycle = 1 << 20;
    let spans = |hardware: &Hardware| -> Vec<_> {
        let timeline = evaluate(&network, hardware).unwrap().timeline;
        let macros = timeline.spans.into_iter().filter(|span| [LoadWeights, Compute].contains(&span.activity));
        macros.take(4).map(|span| (span.unit.unwrap(), span.activity, span.start, span.end())).collect()
    };
    use Activity::{Compute, LoadWeights};
    // Layer a: 16 filters at 8 bits are two accesses of 100 pixels. The image is there after a cycle, from which on beats of two
    // cycles are counted; the first macro reads its inputs in their first cycle, the second one in the other.
    assert_eq!(
        spans(&hardware),
        [(0, LoadWeights, 0, 64), (0, Compute, 66, 266), (1, LoadWeights, 64, 128), (1, Compute, 131, 331)]
    );
    hardware.macros_per_core = 1;
    assert_eq!(
        spans(&hardware),
        [(0, LoadWeights, 0, 64), (0, Compute, 66, 266), (0, LoadWeights, 266, 330), (0, Compute, 332, 532)]
    );
}

#[test]
fn weights_of_bits_that_the_macro_lacks_are_charged_at_the_next_precision() {
    let evaluation = |weight_bits| {
        let recipe = Recipe { weight_bits, edge_bits: weight_bits, ..W4A4 };
        evaluate(&recipe.network(small_network()), &Hardware::mars()).unwrap()
    };
    let accesses = |bits| evaluation(bits).layers.iter().map(|layer| layer.accesses).sum::<u64>();
    assert_eq!(accesses(3), accesses(4));
    assert_eq!(accesses(5), accesses(8));
    assert!(accesses(8) > accesses(4));
    let (three, four) = (evaluation(3), evaluation(4));
    assert_eq!(three.cost.energy_breakdown_uj.cell_writes, four.cost.energy_breakdown_uj.cell_writes);
    assert_eq!(three.compression.weight_bits_stored * 4, four.compression.weight_bits_stored * 3);
}

/// Whatever the placement, the same accesses are made, and what it needs beyond them is charged.
#[test]
fn copies_are_written_and_sums_of_other_cores_are_moved() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let with = |policy| {
        evaluate(&network, &Hardware { mapping: Mapping { policy, ..Mapping::default() }, ..Hardware::mars() }).unwrap()
    };
    let [plain, copied, channels] = [Policy::FilterSets, Policy::Duplicate, Policy::InputChannels].map(with);
    assert!(!plain.resident && !copied.resident && !channels.resident);
    let mut most = 1;
    for ((plain, copied), channels) in plain.layers.iter().zip(&copied.layers).zip(&channels.layers) {
        assert_eq!([copied.accesses, channels.accesses], [plain.accesses; 2]);
        let [writes, copied_writes] = [plain, copied].map(|layer| layer.energy_breakdown_uj.cell_writes);
        let copies = copied.mapping.map_or(1, |mapping| mapping.copies);
        assert!(close(copied_writes, copies as f64 * writes), "{}", plain.name);
        most = most.max(copies);
        // Three bundles of 16 channels at nine kernel positions: their sums are written and read by three cores.
        if plain.name == "layer1.0.conv1" {
            assert_eq!(channels.mapping.unwrap().split, Split::InputChannels);
            let moved = [channels, plain].map(|layer| layer.energy_breakdown_uj.feature_buffer);
            // Plainly they are two tiles, between which the sums wait once.
            let sums = 16.0 * 1024.0 * 32.0 * 0.135 / 1e6;
            assert!(close(moved[0] - moved[1], (2.0 * 3.0 - 2.0) * sums), "{moved:?}");
        }
    }
    assert_eq!(most, 8, "a small layer is on every macro");
}

/// A column's scale, and a batch norm that stays outside, need a multiplier for each filter where a layer's scale needs one for each
/// filter set: 15 more of 16 bits for each full set, through the weight SRAM with each load.
#[test]
fn a_multiplier_for_each_filter_is_charged() {
    let layers = vec![conv("a", 40, 3, 1, 1, None), conv("b", 16, 1, 1, 0, None), conv("c", 32, 3, 1, 1, None)];
    let mut network = W8A8.network(spec([3, 9, 7], layers));
    // A macro holds one access, so that weights are loaded.
    let hardware = Hardware {
        rows: 64,
        mapping: Mapping { policy: Policy::FilterSets, ..Mapping::default() },
        ..Hardware::mars()
    };
    let mut cost = |per_column: bool| {
        for (layer, filters) in network.layers.iter_mut().zip([40, 16, 32]) {
            let IntegerLayer::Conv { output: Some(output), .. } = layer else { panic!("it has a requantization") };
            output.multipliers = vec![9; if per_column { filters } else { 1 }];
        }
        evaluate(&network, &hardware).unwrap()
    };
    let (column, layer) = (cost(true), cost(false));
    assert!(!column.resident && !layer.resident);
    // Sets of 16, 16 and 8 filters, one of 16, two of 16.
    let bits = 16 * (15 + 15 + 7 + 15 + 15 + 15);
    let energy = |evaluation: &Evaluation| evaluation.cost.energy_breakdown_uj.weight_buffer;
    let added = f64::from(bits) * Hardware::mars().energy.buffer_pj_per_bit / 1e6;
    assert!((energy(&column) - energy(&layer) - added).abs() < 1e-12, "{} {}", energy(&column), energy(&layer));
    assert!(column.cost.cycles >= layer.cost.cycles);
    assert_eq!(column.compression, layer.compression);
}

#[test]
fn frames_that_share_a_load_share_its_energy() {
    let network = W8A8.network(zoo("resnet20", 10).unwrap());
    let evaluation =
        |frames_per_load| evaluate(&network, &Hardware { frames_per_load, ..Hardware::mars() }).unwrap().cost;
    let (one, ten) = (evaluation(1), evaluation(10));
    assert!(close(one.energy_breakdown_uj.cell_writes, 10.0 * ten.energy_breakdown_uj.cell_writes));
    assert!(ten.cycles < one.cycles && ten.latency_us > one.latency_us);
}

#[test]
fn maps_beyond_the_feature_sram_go_to_the_next_level() {
    let network = W8A8.network(zoo("resnet20", 10).unwrap());
    let mut hardware = Hardware::mars();
    // A bit takes the same whatever the size of its SRAM, and layers lie the same.
    hardware.energy.stated_for = StatedFor::default();
    hardware.mapping.policy = Policy::FilterSets;
    let cost = |hardware: &Hardware| evaluate(&network, hardware).unwrap().cost_without_reload;
    // The image alone: 3072 bytes at 1 pJ/b.
    assert!(close(cost(&hardware).energy_breakdown_uj.next_level, 3072.0 * 8.0 / 1e6));
    let cycles = cost(&hardware).cycles;
    let maps = cost(&hardware).energy_breakdown_uj.feature_buffer;
    hardware.memory.feature_sram_kib = 16;
    let spilled = cost(&hardware).energy_breakdown_uj;
    assert!(spilled.next_level > 1.0 && cost(&hardware).cycles > cycles);
    // Read on its way out, and written when it is back.
    let moved = spilled.next_level - 3072.0 * 8.0 / 1e6;
    assert!(close(spilled.feature_buffer - maps, moved * 0.135));
}

/// Two tiles of a set on two macros that hold their weights from the start: the second one could begin with the first, but for the
/// sums of each pixel.
#[test]
fn sums_are_read_when_they_are_written() {
    let pool = mean("pool");
    let network = W8A8.network(spec([64, 8, 8], vec![conv("conv", 64, 3, 1, 1, None), pool]));
    let mapping = Mapping { policy: Policy::FilterSets, ..Mapping::default() };
    let evaluation = evaluate(&network, &Hardware { mapping, ..Hardware::mars() }).unwrap();
    assert!(evaluation.resident);
    for core in 0..4 {
        let span = |unit, activity| {
            let of =
                |span: &&Span| (span.core, span.unit, span.layer, span.activity) == (core, Some(unit), 0, activity);
            *evaluation.timeline.spans.iter().find(of).unwrap()
        };
        let (written, read) = (span(0, Activity::WriteBack), span(1, Activity::LoadInputs));
        assert_eq!((written.times, written.period), (read.times, read.period));
        assert!(read.start >= written.start + written.cycles, "{written:?} {read:?}");
        assert!(read.start - read.period < written.start + written.cycles, "a beat earlier would do: {read:?}");
    }
}

/// Four tiles of one access: between two of them the sums of both parts of a set wait, 16 filters of 4 bytes for each pixel.
#[test]
fn sums_that_wait_take_room() {
    let (stem, wide) = (conv("stem", 128, 1, 1, 0, None), conv("wide", 16, 1, 1, 0, None));
    let network = W8A8.network(spec([3, 32, 32], vec![stem, wide]));
    let mut hardware = Hardware { cores: 1, macros_per_core: 4, ..Hardware::mars() };
    hardware.mapping.policy = Policy::FilterSets;
    let mut moved_kib = |feature_sram_kib| {
        hardware.memory.feature_sram_kib = feature_sram_kib;
        // At 1 pJ/b, without the image, there and back.
        let cost = evaluate(&network, &hardware).unwrap().cost_without_reload;
        (cost.energy_breakdown_uj.next_level * 1e6 / 8192.0 - 3.0) / 2.0
    };
    // Maps of 128 and 16 KiB, and 64 KiB of sums.
    for (feature_sram_kib, moved) in [(208, 0.0), (207, 1.0)] {
        assert!(close(moved_kib(feature_sram_kib) + 1.0, moved + 1.0), "{feature_sram_kib} KiB");
    }
}

/// Three maps of 4 KiB, of which the residual sum reads one and writes one in the same half.
#[test]
fn halves_of_the_ping_pong_fill_up_apart() {
    let skip = SkipSpec { from: "stem".into(), shortcut: Shortcut::Identity, stride: 1, batch_norm: true };
    let (stem, inner) = (conv("stem", 16, 3, 1, 1, None), conv("inner", 16, 3, 1, 1, None));
    let network = W8A8.network(spec([3, 16, 16], vec![stem, inner, conv("sum", 16, 3, 1, 1, Some(skip))]));
    let mut hardware = Hardware { cores: 1, macros_per_core: 1, ..Hardware::mars() };
    let mut moved_kib = |feature_sram_kib, ping_pong| {
        hardware.memory = Memory { feature_sram_kib, ping_pong, ..hardware.memory };
        let cost = evaluate(&network, &hardware).unwrap().cost_without_reload;
        // At 1 pJ/b, without the image, there and back.
        (cost.energy_breakdown_uj.next_level * 1e6 / 8192.0 - 0.75) / 2.0
    };
    for (feature_sram_kib, shared, halves) in [(16, 0.0, 0.0), (12, 0.0, 2.0), (11, 1.0, 2.5)] {
        assert!(close(moved_kib(feature_sram_kib, PingPong::Shared) + 1.0, shared + 1.0), "{feature_sram_kib} KiB");
        assert!(close(moved_kib(feature_sram_kib, PingPong::Halves) + 1.0, halves + 1.0), "{feature_sram_kib} KiB");
    }
}

/// Layers in a row change each other's time: macros that one leaves early take the weights of the next one meanwhile.
#[test]
fn what_a_file_decides_about_layers_in_a_row_is_not_better_than_what_is_found() {
    for (network, bits) in [("resnet20", 8), ("resnet20", 4), ("resnet32", 8)] {
        let graph = Graph::new(zoo(network, 10).unwrap()).unwrap();
        let config = QuantizeConfig { weight_bits: bits, activation_bits: bits, ..QuantizeConfig::default() };
        let network = outline(&graph, &config, Hardware::mars().group);
        let evaluator = Evaluator::new(&network).unwrap();
        let product = |layers: Vec<LayerMapping>| {
            let mut hardware = Hardware::mars();
            hardware.mapping.layers = layers;
            let cost = evaluator.evaluate(&hardware).unwrap().cost;
            cost.cycles as f64 * (cost.energy_uj - cost.energy_breakdown_uj.idle_leakage)
        };
        let found = product(Vec::new());
        for pattern in ["layer1.*", "layer2.*", "layer3.*", "*"] {
            for start in [Start::Staggered, Start::Together] {
                let rule = LayerMapping { pattern: pattern.into(), start: Some(start), copies: None, split: None };
                let decided = product(vec![rule]);
                assert!(found <= decided * 1.002, "{} {bits}: {pattern} {start:?}", graph.spec().name);
            }
        }
    }
}

/// A read that reaches all cores saves energy of the feature maps, and nothing else; on one core there is nothing to save.
#[test]
fn inputs_that_reach_several_cores_are_read_once() {
    // 64 filters are a set for each of four cores, which all read the same 64 channels at 9 kernel positions.
    let layers = vec![conv("first", 64, 1, 1, 0, None), conv("next", 64, 3, 1, 1, None)];
    let network = W8A8.network(spec([3, 8, 8], layers));
    let cost = |cores, input_reads| {
        // A macro holds all accesses of a set.
        let mut hardware = Hardware { cores, macros_per_core: 1, rows: 2048, ..Hardware::mars() };
        hardware.mapping.policy = Policy::FilterSets;
        hardware.memory.input_reads = input_reads;
        evaluate(&network, &hardware).unwrap()
    };
    let [each, once] = [InputReads::PerCore, InputReads::Broadcast].map(|reads| cost(4, reads));
    let moved = |evaluation: &Evaluation| evaluation.layers[1].bits_moved.feature_sram;
    let inputs = 8 * 8 * 64 * 9 * 8;
    assert_eq!(moved(&each) - moved(&once), 3 * inputs);
    let spared_uj = (each.cost.bits_moved.feature_sram - once.cost.bits_moved.feature_sram) as f64
        * Hardware::mars().energy.buffer_pj_per_bit
        / 1e6;
    assert!(close(each.cost.energy_uj - once.cost.energy_uj, spared_uj));
    assert_eq!(each.cost.cycles, once.cost.cycles);
    let [each, once] = [InputReads::PerCore, InputReads::Broadcast].map(|reads| cost(1, reads));
    assert_eq!(each.cost, once.cost);
}

/// Every part of the energy by the formulas of docs/cost-model.md, of two convolutions with a residual sum, a mean and a linear layer on one
/// macro that holds one access, so that each access is loaded, and sums wait between two of them.
#[test]
fn energies_are_those_of_the_formulas() {
    let skip = SkipSpec { from: "a".into(), shortcut: Shortcut::Identity, stride: 1, batch_norm: true };
    let pool = mean("pool");
    let layers = vec![conv("a", 16, 3, 1, 1, None), conv("b", 16, 3, 1, 1, Some(skip)), pool];
    let mut hardware = Hardware { cores: 1, macros_per_core: 1, rows: 64, ..Hardware::mars() };
    hardware.mapping.policy = Policy::FilterSets;
    // Inputs of 8 bits go through a macro for 4 in two passes; the linear layer's have the bits of its weights.
    for (bits, outputs, passes, pj, ns) in [(8, 8, 1, 61.6, 8.4), (4, 16, 2, 29.9, 4.1)] {
        let recipe = Recipe { weight_bits: bits, edge_bits: bits, input_bits: 8, ..W4A4 };
        let network = recipe.network(spec([3, 4, 4], layers.clone()));
        let evaluation = evaluate(&network, &hardware).unwrap();
        assert!(!evaluation.resident && evaluation.fits_weight_sram);
        let bits = f64::from(bits);
        let (pixels, filters) = (16.0, 16.0);
        // Of 16 filters, whose bundles of four groups at nine kernel positions have one, four and four.
        let parts = 16.0 / f64::from(outputs);
        let (accesses, linear) = (2.0 * pixels * 3.0 * parts, parts);
        let passed = accesses * f64::from(passes) + linear;
        let (adder, gate, buffer) = (0.003402, 0.0002835, 0.135);

        // A sixteenth of the cells that the access was measured on, and that leak 1.4 mW.
        let pj = pj * (0.06 / 16.0 + 0.36 + 0.58);

        let weights = (3.0 * 9.0 * filters + 16.0 * 9.0 * filters + 16.0 * 5.0) * bits;
        // A bitmap and a bit that says so; biases, and a multiplier for each filter; logits have none, but room for one.
        let index = 10.0 + 10.0 + 2.0;
        let packed = weights + index + 2.0 * filters * (32.0 + 16.0) + (5.0 * 32.0 + 16.0);
        let image_scale = 3.0 * pixels * 8.0;
        // Each access gathers its own inputs; sums of 16 filters wait twice.
        let (gathered, waited) = (9.0 * 16.0 * 8.0 * parts, 2.0 * filters * 32.0);
        let stored = filters * 8.0;
        let maps = pixels * (2.0 * (gathered + 2.0 * waited + stored) + filters * 8.0);
        let pooled = pixels * filters * 8.0 + filters * bits;
        let logits = 16.0 * bits * parts + 5.0 * 32.0;
        let values = pixels * filters;
        // A product takes as many adders as gates.
        let products = 2.0 * values * 32.0 * 16.0 + values * 8.0 * 31.0 + filters * 16.0 * 16.0;
        let forms = 2.0 * values + filters;
        let sums = 2.0 * values * 32.0 + values * 48.0 + values * 16.0 + 5.0 * 32.0;
        let time = evaluation.cost.cycles as f64 * 10.0;
        let expected = [
            ("macro", passed * pj),
            ("accumulation", passed * f64::from(outputs) * 32.0 * adder),
            ("cell_writes", 19.0 * 16.0 * 16.0 * bits * 0.27),
            ("weight_buffer", packed * buffer),
            ("feature_buffer", (image_scale + maps + pooled + logits) * buffer),
            ("next_level", image_scale),
            ("index_decode", index * 16.0 * adder),
            ("requantization", (products + forms * 48.0 + sums) * adder + (products + forms * 48.0 * 6.0) * gate),
            ("leakage", 1.4 / 16.0 * (time - passed * ns)),
        ];
        for ((name, found), (other, pj)) in evaluation.cost.energy_breakdown_uj.components().into_iter().zip(expected) {
            assert_eq!(name, other);
            assert!(close(found, pj / 1e6), "{bits} bits, {name}: {found} uJ, by the formula {}", pj / 1e6);
        }
    }
}

/// Copies in one core share what comes from the next level; each is written and read from the weight SRAM for itself.
#[test]
fn copies_in_a_core_are_fetched_once() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let mut hardware = Hardware { cores: 1, macros_per_core: 8, ..Hardware::mars() };
    let with = |policy, hardware: &Hardware| {
        evaluate(&network, &Hardware { mapping: Mapping { policy, ..Mapping::default() }, ..hardware.clone() }).unwrap()
    };
    // A bit takes the same whatever the size of its SRAM.
    hardware.energy.stated_for = StatedFor::default();
    hardware.memory.weight_sram_kib = 256;
    let [sram, copied_sram] = [Policy::FilterSets, Policy::Duplicate].map(|policy| with(policy, &hardware));
    hardware.memory.weight_sram_kib = 16;
    let [plain, copied] = [Policy::FilterSets, Policy::Duplicate].map(|policy| with(policy, &hardware));
    assert!(sram.fits_weight_sram && !plain.fits_weight_sram && !copied.resident);
    let energy = |evaluation: &Evaluation| evaluation.cost.energy_breakdown_uj;
    assert!(close(energy(&copied).next_level, energy(&plain).next_level));
    let written = energy(&plain).weight_buffer - energy(&sram).weight_buffer;
    assert!(close(energy(&copied).weight_buffer - energy(&copied_sram).weight_buffer, written));
    assert!(energy(&copied).weight_buffer > energy(&plain).weight_buffer);
}

/// One core has nothing to divide: its sums need no second reading.
#[test]
fn input_channels_on_one_core_are_filter_sets() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let cost = |policy| {
        let hardware = Hardware { cores: 1, mapping: Mapping { policy, ..Mapping::default() }, ..Hardware::mars() };
        evaluate(&network, &hardware).unwrap().cost
    };
    assert_eq!(cost(Policy::InputChannels), cost(Policy::FilterSets));
}

#[test]
fn component_energies_are_those_of_the_formulas() {
    let hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let precision = hardware.precision(8, 8).unwrap();
    assert_eq!((precision.slices, precision.phases, precision.passes, precision.outputs), (8, 8, 8, 8));
    // Cells 64 x 64 x 0.35 fF, converters 64 x (100 x 5 + 0.001 x 4^5) fF, no drivers at one bit, at 0.9 V.
    let pass = (64.0 * 64.0 * 0.35 + 64.0 * (500.0 + 1.024)) * 0.81 / 1e3;
    assert!(close(precision.energy_pj, 8.0 * pass), "{}", precision.energy_pj);
}

/// Also those in which a narrower input has nothing left: its array and converters work, and what they give is added up.
#[test]
fn an_access_takes_all_phases_of_its_mode() {
    let mut hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    hardware.access.iter_mut().for_each(|mode| mode.input_bits = 8);
    for accumulator in [Accumulator::Words, Accumulator::Sized] {
        hardware.energy.accumulator = accumulator;
        let [narrow, whole] = [7, 8].map(|bits| hardware.precision(8, bits).unwrap());
        assert_eq!((narrow.passes, narrow.phases, narrow.energy_pj), (1, 7, whole.energy_pj));
        // A sized accumulator of a narrower input has a bit less for each of 8 outputs and 8 phases.
        let narrower = if accumulator == Accumulator::Sized { 64.0 } else { 0.0 };
        assert_eq!(narrow.accumulation.adders, whole.accumulation.adders - narrower, "{accumulator:?}");
    }
}

/// A layer of VGG8 (64 x 32 x 32 to 64 channels) on eight macros has 73,728 accesses of 8 x 8 b; zigzag-dse 3.9.1 gives it 0.8829 + 0.5057 uJ for adding up and
/// 1.4554 uJ for local bit lines.
#[test]
fn accumulators_as_wide_as_their_sums_and_local_bit_lines_take_what_another_model_says() {
    let mut hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let words = hardware.precision(8, 8).unwrap();
    assert_eq!((words.accumulation.adders, words.accumulation.registers), (8.0 * 8.0 * 8.0 * 32.0, 0.0));
    hardware.energy.accumulator = Accumulator::Sized;
    hardware.energy.register_pj_per_bit = 0.001701;
    hardware.energy.components.as_mut().unwrap().precharge_ff = 0.35;
    let precision = hardware.precision(8, 8).unwrap();
    // For each of 8 outputs and 8 phases a tree of eight numbers of 5 bits, and a sum of 8 + 5 + 8 bits.
    let Accumulation { adders, registers } = precision.accumulation;
    assert_eq!((adders, registers), (64.0 * (5.0 * 7.0 + 8.0 * 2.5 + 21.0), 64.0 * 21.0));
    let microjoules = |pj: f64| 73_728.0 * pj / 1e6;
    let adding_up = microjoules(adders * 0.003402 + registers * 0.001701);
    assert!((adding_up / 1.3886 - 1.0).abs() < 1e-4, "{adding_up}");
    let precharge = microjoules(precision.energy_pj - words.energy_pj);
    assert!((precharge / 1.4554 - 1.0).abs() < 1e-4, "{precharge}");
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

/// What the hardware file decides about layers by name is so, the mapper chooses the rest, and what cannot be is refused.
#[test]
fn a_hardware_file_decides_placements_by_name() {
    let network = W4A4.network(small_network());
    let names: Vec<String> = evaluate(&network, &Hardware::mars())
        .unwrap()
        .layers
        .into_iter()
        .filter(|layer| layer.mapping.is_some())
        .map(|layer| layer.name)
        .collect();
    let with = |mapping: &str| Hardware { mapping: toml::from_str(mapping).unwrap(), ..Hardware::mars() };
    let layer = &names[1];
    let hardware = with(&format!(
        "policy = \"auto\"\n[[layers]]\npattern = \"*\"\ncopies = 1\n[[layers]]\npattern = \"{layer}\"\nsplit = \"input_channels\"\n"
    ));
    let evaluation = evaluate(&network, &hardware).unwrap();
    let placements = || evaluation.layers.iter().filter_map(|layer| Some((&layer.name, layer.mapping?)));
    assert!(placements().all(|(_, placement)| placement.copies == 1), "{:?}", placements().collect::<Vec<_>>());
    let of_layer = placements().find(|(name, _)| *name == layer).unwrap().1;
    assert!(of_layer.split == Split::InputChannels || evaluation.used.cores == 1);

    let error = |rules: &str| evaluate(&network, &with(rules)).unwrap_err().to_string();
    let found = error("policy = \"auto\"\n[[layers]]\npattern = \"nobody*\"\ncopies = 1\n");
    assert!(
        found.starts_with("mapping.layers: no layer matches `nobody*`; there are ") && found.contains(layer),
        "{found}"
    );
    let found = error(&format!("policy = \"auto\"\n[[layers]]\npattern = \"{layer}\"\ncopies = 3\n"));
    assert!(found.contains(layer) && found.contains("mapping.layers leaves it no placement on this chip"), "{found}");
    let fixed = "policy = \"together\"\n[[layers]]\npattern = \"*\"\ncopies = 1\n";
    let found = with(fixed).validate().unwrap_err().to_string();
    assert!(found.contains("mapping.layers: these layers need mapping.policy = \"auto\""), "{found}");
}

/// Nobody finds a better place for a single layer than the mapper's: it looks at each once all are placed.
#[test]
fn no_layer_alone_lies_better_elsewhere() {
    for results in ["vgg8/w4a4", "bits/w2a2", "cycles/groups-80", "shapes/8x16"] {
        let file = Path::new("experiments/results").join(results).join("model.mars");
        let network = Package::read(&file).unwrap().network;
        let evaluator = Evaluator::new(&network).unwrap();
        for objective in [Objective::Cycles, Objective::Energy, Objective::Product] {
            let worth = |cycles: u64, energy_uj: f64| match objective {
                Objective::Cycles => cycles as f64,
                Objective::Energy => energy_uj,
                Objective::Product => cycles as f64 * energy_uj,
            };
            let mapping = Mapping { objective, ..Mapping::default() };
            let found = evaluator.placements(&Hardware { mapping, ..Hardware::mars() }).unwrap();
            let least = worth(found.cycles, found.energy_uj) * (1.0 - 1e-12);
            for LayerPlacement { layer, next_best, .. } in found.layers {
                let better = next_best.filter(|next| worth(next.cycles, next.energy_uj) < least);
                assert!(better.is_none(), "{results}, {objective:?}, {layer}: {better:?}");
            }
        }
    }
}

/// More feature-map SRAM is never slower where cycles alone count, although the search may miss the best plan of each size.
#[test]
fn doubled_feature_sram_is_never_slower() {
    for (results, cores) in [("resnet20/w4a4-sparse50", 7), ("progressive/w3a3", 5)] {
        let file = Path::new("experiments/results").join(results).join("model.mars");
        let network = Package::read(&file).unwrap().network;
        let evaluator = Evaluator::new(&network).unwrap();
        let cycles = |feature_sram_kib: u64| {
            let mut chip = Hardware { cores, macros_per_core: 2, rows: 2048, ..Hardware::mars() };
            chip.mapping.objective = Objective::Cycles;
            (chip.memory.feature_sram_kib, chip.memory.weight_sram_kib) = (feature_sram_kib, 16);
            evaluator.placements(&chip).unwrap().cycles
        };
        let found: Vec<u64> = (4..10).map(|power| cycles(1 << power)).collect();
        assert!(found.is_sorted_by(|less, more| less >= more), "{results}: {found:?}");
        assert!(found[0] > found[5], "{results}: SRAM changes nothing");
    }
}

/// Placements that are all decided cost at most what they cost where they were chosen, since another part of the chip may suit them better, as far as
/// the search may miss what is best; a decision for the next best one costs at most what was told.
#[test]
fn the_next_best_placement_costs_what_is_told() {
    let network = W4A4.network(small_network());
    let evaluator = Evaluator::new(&network).unwrap();
    let chip = Hardware::mars();
    let found = evaluator.placements(&chip).unwrap();
    let worth = |cycles: u64, energy_uj: f64| cycles as f64 * energy_uj;
    let decided = |other: Option<usize>| {
        let rule = |(index, layer): (usize, &LayerPlacement)| {
            let next = layer.next_best.filter(|_| other == Some(index)).map(|next| next.placement);
            let Placement { split, copies, start } = next.unwrap_or(layer.placement);
            let (split, copies, start) = (Some(split), Some(copies), Some(start));
            LayerMapping { pattern: layer.layer.clone(), split, copies, start }
        };
        let layers = found.layers.iter().enumerate().map(rule).collect();
        let decided = Hardware { mapping: Mapping { layers, ..chip.mapping.clone() }, ..chip.clone() };
        let Placements { cycles, energy_uj, .. } = evaluator.placements(&decided).unwrap();
        worth(cycles, energy_uj)
    };
    let chosen = worth(found.cycles, found.energy_uj);
    assert!((0.98..1.0 + 1e-12).contains(&(decided(None) / chosen)), "{} of {chosen}", decided(None));
    let mut told = 0;
    for (index, layer) in found.layers.iter().enumerate() {
        let Some(next) = layer.next_best else { continue };
        assert_ne!(next.placement, layer.placement);
        assert!(decided(Some(index)) <= worth(next.cycles, next.energy_uj) * (1.0 + 1e-12), "{}", layer.layer);
        told += 1;
    }
    assert!(told > 3, "{found:?}");
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

/// A network of one layer: `weights` for each of five filters, at 4 bits.
fn one_layer(weights: &[i8]) -> IntegerNetwork {
    let mut network = Recipe { edge_bits: 4, ..W4A4 }.network(spec([weights.len(), 1, 1], Vec::new()));
    let IntegerLayer::Conv { conv, .. } = &mut network.layers[0] else { unreachable!() };
    conv.weights = weights.repeat(5);
    conv.bias.fill(0);
    network
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

#[test]
fn a_chip_says_what_it_loses() {
    assert!(Hardware::mars().losses().is_empty());
    let noise = Some(Noise { sigma: 0.1, stuck_at_one: 1e-6, ..Noise::default() });
    let hardware = Hardware { noise, converter: Converter::Bits { bits: 5, step: 2 }, ..Hardware::mars() };
    assert_eq!(hardware.losses(), ["5-bit converter", "noise", "stuck cells"]);
    assert_eq!(evaluate(&W4A4.network(small_network()), &hardware).unwrap().losses, hardware.losses());
}

/// Bits times constants are the energy terms that count bits, and no layer is faster than a part of the chip alone would be.
#[test]
fn what_layers_move_is_what_is_charged_and_bounds_hold() {
    for (name, bits) in [("resnet20", W4A4), ("vgg16", W8A8), ("resnet18", W4A4)] {
        let network = bits.network(zoo(name, 10).unwrap());
        let mut hardware = Hardware::mars();
        // Some maps go to the next level.
        hardware.memory.feature_sram_kib = 64;
        let evaluation = evaluate(&network, &hardware).unwrap();
        let feature_pj = hardware.feature_sram_pj_per_bit();
        for layer in &evaluation.layers {
            let (moved, energy) = (layer.bits_moved, layer.energy_breakdown_uj);
            let uj = |bits: u64, pj: f64| bits as f64 * pj / 1e6;
            let name = &layer.name;
            assert!(close(uj(moved.cells, 0.27), energy.cell_writes), "{name}");
            assert!(close(uj(moved.weight_sram, 0.135), energy.weight_buffer), "{name}");
            assert!(close(uj(moved.feature_sram, feature_pj), energy.feature_buffer), "{name}");
            assert!(close(uj(moved.next_level, 1.0), energy.next_level), "{name}");
            let bounds = layer.bounds;
            let least = bounds.computing.max(bounds.read_port).max(bounds.write_port);
            assert!(layer.cycles >= least, "{name}: {} cycles, at least {bounds:?}", layer.cycles);
            let most = bounds.parts().into_iter().map(|(_, cycles)| cycles).max().unwrap();
            assert!(bounds.parts().contains(&(layer.bound, most)), "{name}: {bounds:?}");
        }
        let Cost { cycles, fps, energy_uj, average_power_mw, energy_delay_uj_us, peak_tops, .. } = evaluation.cost;
        assert!(close(average_power_mw, energy_uj * fps / 1e3));
        assert!(close(energy_delay_uj_us, energy_uj * cycles as f64 / 100.0));
        assert!(close(evaluation.cost.tops_executed, peak_tops * evaluation.cost.utilization));
        if name == "vgg16" {
            // All macros of the chip, wherever the layers lie: 64 rows of 8 weights of 8 bits in each cycle of 10 ns.
            assert!(close(peak_tops, 2.0 * hardware.macros() as f64 * 64.0 * 8.0 * 1e8 / 1e12), "{peak_tops}");
        }
        let watts = average_power_mw / 1e3;
        assert!(close(evaluation.cost.tops_dense_equivalent / watts, evaluation.cost.tops_per_watt_dense_equivalent));
        let sum: u64 = evaluation.layers.iter().map(|layer| layer.bits_moved.total()).sum();
        assert_eq!(evaluation.cost.bits_moved.total(), sum);
    }
}

/// Area is the sum of its parts, and isn't there without its constants.
#[test]
fn area_and_its_throughput_follow_from_the_files_constants() {
    let network = W4A4.network(small_network());
    let without = evaluate(&network, &Hardware { area: None, ..Hardware::mars() }).unwrap();
    assert!(without.area.is_none() && without.cost.tops_per_mm2_executed.is_none());
    let area = Some(Area {
        macro_mm2: 0.25,
        macro_cells: None,
        sram_mm2_fixed: 0.0,
        sram_mm2_per_kib: 0.001,
        logic_mm2_per_core: 0.125,
    });
    let evaluation = evaluate(&network, &Hardware { area, ..Hardware::mars() }).unwrap();
    // 8 macros, 4 x 128 KiB and 256 KiB, 4 cores.
    let area = evaluation.area.unwrap();
    assert!(close(area.total_mm2, 2.0 + 0.512 + 0.256 + 0.5));
    // The shipped file's, with what an SRAM takes besides its cells.
    let shipped = evaluate(&network, &Hardware::mars()).unwrap().area.unwrap();
    assert!(close(shipped.weight_sram_mm2, 4.0 * (0.1147 + 128.0 * 0.001781)));
    assert!((shipped.total_mm2 - 4.64).abs() < 0.005, "{}", shipped.total_mm2);
    let parts = area.macros_mm2 + area.weight_sram_mm2 + area.feature_sram_mm2 + area.logic_mm2;
    assert!(close(parts, area.total_mm2));
    let macs = network.graph.macs() as f64;
    let expected = 2.0 * macs * evaluation.cost.fps / 1e12 / area.total_mm2;
    assert!(close(evaluation.cost.tops_per_mm2_dense_equivalent.unwrap(), expected));
    // Nothing else changes.
    let (tops_per_mm2_dense_equivalent, tops_per_mm2_executed) = (None, None);
    let cost = Cost { tops_per_mm2_dense_equivalent, tops_per_mm2_executed, ..evaluation.cost };
    assert_eq!((cost, evaluation.layers), (without.cost, without.layers));
}

#[test]
fn area_and_outputs_follow_the_geometry() {
    let mars = Hardware::mars();
    let larger = Hardware { rows: 2 * mars.rows, columns: 4 * mars.columns, ..mars.clone() };
    assert!(close(larger.macro_mm2().unwrap(), 8.0 * mars.macro_mm2().unwrap()));
    // An area belongs to the macro of the file that gives it, like every constant.
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("own.toml");
    std::fs::write(&path, "base = \"experiments/hardware/mars.toml\"\nrows = 2048\n[area]\nmacro_mm2 = 0.6\n").unwrap();
    let own = Hardware::load(&path).unwrap();
    assert_eq!((own.rows, own.macro_mm2()), (2048, Some(0.6)));
    assert!(close(Hardware { rows: 4096, ..own }.macro_mm2().unwrap(), 1.2));
    let papistas = Hardware::load("experiments/hardware/library/papistas-cicc2021.toml".as_ref()).unwrap();
    let wider = Hardware { columns: 2 * papistas.columns, ..papistas.clone() };
    let outputs = |chip: &Hardware| chip.precision(2, 7).unwrap().outputs;
    assert_eq!((outputs(&papistas), outputs(&wider)), (512, 1024));
    // Each output has its converter, so that cells and converters, all but the drivers, double with the columns.
    let energy = |chip: &Hardware| chip.precision(2, 7).unwrap().energy_pj;
    let parts = papistas.macro_shares().unwrap();
    assert!(close(energy(&wider), energy(&papistas) * (2.0 * (parts.array + parts.converter) + parts.drivers)));
    let mut crowded = papistas;
    crowded.access[0].outputs = Some(1025);
    let error = crowded.validate().unwrap_err().to_string();
    assert!(error.contains("outputs is 1025, it must be from 1 to 1024"), "{error}");
}

/// One row has no adder tree; what is left are its gates.
#[test]
fn the_delay_of_an_adder_tree_grows_with_its_rows_from_one_on() {
    let guo = Hardware::load("experiments/hardware/library/guo-isscc2023.toml".as_ref()).unwrap();
    let ns = [1, 2, 4, 16].map(|rows_on| Hardware { rows_on, ..guo.clone() }.precision(8, 8).unwrap().ns);
    assert!(ns[0] > 0.0 && ns.is_sorted(), "{ns:?}");
}

#[test]
fn shares_of_an_access_are_chosen_or_those_of_its_components() {
    let adc5 = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let shares = adc5.macro_shares().unwrap();
    let (cells, converters) = (64.0 * 64.0 * 0.35, 64.0 * (500.0 + 1.024));
    assert!(close(shares.array, cells / (cells + converters)) && shares.drivers == 0.0);
    let sum = |shares: MacroShares| shares.parts().iter().map(|(_, share)| share).sum::<f64>();
    assert!(close(sum(shares), 1.0) && close(sum(Hardware::mars().macro_shares().unwrap()), 1.0));
    let mut unknown = Hardware::mars();
    unknown.energy.macro_shares = None;
    assert!(unknown.macro_shares().is_none());
}

/// One evaluator for many chips gives what each chip alone does.
#[test]
fn an_evaluator_gives_every_chip_its_own_cost() {
    let network = Recipe { sparsity: 60, ..W4A4 }.network(small_network());
    let evaluator = Evaluator::new(&network).unwrap();
    for (filters, channels, cores) in [(16, 16, 4), (8, 32, 2), (16, 16, 1), (5, 7, 3)] {
        let hardware = Hardware { group: GroupShape { filters, channels }, cores, ..Hardware::mars() };
        let [shared, alone] = [evaluator.evaluate(&hardware).unwrap(), evaluate(&network, &hardware).unwrap()];
        assert_eq!((shared.cost, shared.layers, shared.timeline), (alone.cost, alone.layers, alone.timeline));
    }
}

/// Threads that wait for an evaluator's groups may take up another point that needs them: nobody waits for himself.
#[test]
fn an_evaluator_serves_many_threads() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let threads = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
    for _ in 0..20 {
        let evaluator = Evaluator::new(&network).unwrap();
        threads.install(|| {
            (0..32).into_par_iter().for_each(|point| {
                let group = GroupShape { filters: 8 << (point % 2), channels: 16 };
                evaluator.evaluate(&Hardware { group, ..Hardware::mars() }).unwrap();
            });
        });
    }
}

/// A base's converter gives way to one of another kind, the shares of a measured access to components, and those to a measured access.
#[test]
fn a_derived_file_may_have_another_kind_of_converter_and_of_energy() {
    let mars = Hardware::mars();
    let adc5 = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    assert_eq!(adc5.converter, Converter::Bits { bits: 5, step: 1 });
    assert!(adc5.energy.macro_shares.is_none() && adc5.energy.components.is_some());
    assert_eq!((adc5.memory, adc5.rows, adc5.clock_mhz), (mars.memory, mars.rows, mars.clock_mhz));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    let derived = |base: &str, keys: &str| {
        let base = std::path::absolute(Path::new("experiments/hardware").join(base)).unwrap();
        std::fs::write(&path, format!("base = {base:?}\n{keys}\n")).unwrap();
        Hardware::load(&path)
    };
    for (keys, converter) in [
        ("kind = \"clipping\"\nrange = 9", Converter::Clipping { range: 9 }),
        ("kind = \"bits\"\nbits = 6\nstep = 3", Converter::Bits { bits: 6, step: 3 }),
    ] {
        assert_eq!(derived("mars.toml", &format!("[converter]\n{keys}")).unwrap().converter, converter);
        let ideal = folder.path().join("ideal.toml");
        std::fs::write(&ideal, "base = \"chip.toml\"\n[converter]\nkind = \"ideal\"\n").unwrap();
        assert_eq!(Hardware::load(&ideal).unwrap(), Hardware { name: "ideal".into(), ..mars.clone() });
    }
    let measured = "[[access]]\nweight_bits = 8\ninput_bits = 1\nns = 5.3\nenergy_pj = 40.0\n";
    let chip = derived("adc5.toml", measured).unwrap();
    assert!(chip.energy.components.is_none() && chip.precision(8, 8).unwrap().energy_pj == 8.0 * 40.0);

    let wrong = folder.path().join("wrong.toml");
    derived("mars.toml", "colums = 3").unwrap_err();
    std::fs::write(&wrong, "base = \"chip.toml\"\ncores = 2\n").unwrap();
    let error = Hardware::load(&wrong).unwrap_err().to_string();
    for part in
        ["wrong.toml: unknown field `colums`", "did you mean `columns`?", "in this file or its base", "chip.toml"]
    {
        assert!(error.contains(part), "{error}");
    }
}

/// A base is found beside the file or in the program, wherever the file lies; what is built on it has a name of its own.
#[test]
fn a_built_in_base_is_found_from_any_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, "base = \"experiments/hardware/library/wu-isscc2022.toml\"\ncores = 2\n").unwrap();
    let chip = Hardware::load(&path).unwrap();
    assert_eq!((chip.name.as_str(), chip.cores), ("mine", 2));
    std::fs::write(&path, "base = \"../no-such-chip.toml\"\n").unwrap();
    let error = Hardware::load(&path).unwrap_err().to_string();
    for part in ["mine.toml", "base = \"../no-such-chip.toml\"", "mars-deploy --list-hardware"] {
        assert!(error.contains(part), "{error}");
    }
}

/// An array of another size takes what its parts do, not what the measured one does; where the file doesn't say how, it is refused.
#[test]
fn an_access_on_another_geometry_is_scaled_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    let base = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let derived = |keys: &str| {
        std::fs::write(&path, format!("base = {base:?}\n{keys}\n")).unwrap();
        Hardware::load(&path)
    };
    let mars = Hardware::mars().precision(4, 4).unwrap();
    let access = |chip: &Hardware| {
        let Precision { ns, energy_pj, outputs, .. } = chip.precision(4, 4).unwrap();
        (ns, energy_pj, outputs)
    };
    assert_eq!(access(&derived("cores = 2").unwrap()), (mars.ns, mars.energy_pj, 16));
    assert_eq!(derived("cores = 2").unwrap().scaled_from(), None);

    // Array, converters and drivers are 6, 36 and 58 %; a converter's delay is 0.640 + 0.00653 ns a row.
    let delay = |rows_on: f64| 0.640 + 0.00653 * rows_on;
    for (keys, energy, time) in [
        ("rows = 4096", 0.06 * 4.0 + 0.36 + 0.58, 1.0),
        ("columns = 256", (0.06 + 0.36) * 4.0 + 0.58, 1.0),
        ("rows_on = 128", 0.06 + 0.36 * 2.0 + 0.58 * 2.0, delay(128.0) / delay(64.0)),
        (
            "rows_on = 128\nconverter = { kind = \"bits\", bits = 6, step = 4 }",
            0.06 + 0.36 + 0.58 * 2.0,
            delay(128.0) / delay(64.0),
        ),
        (
            "rows = 4096\ncolumns = 1024\nrows_on = 1024",
            0.06 * 64.0 + 0.36 * 256.0 + 0.58 * 16.0,
            delay(1024.0) / delay(64.0),
        ),
    ] {
        let chip = derived(keys).unwrap();
        let (ns, energy_pj, _) = access(&chip);
        assert!(
            close(energy_pj, energy * mars.energy_pj) && close(ns, time * mars.ns),
            "{keys}: {energy_pj} pJ, {ns} ns"
        );
        assert_eq!(chip.scaled_from(), Some(Geometry { rows: 1024, columns: 64, rows_on: 64 }));
    }
    // The largest array is no longer a thousand times as efficient as the one that was measured.
    let large = derived("rows = 4096\ncolumns = 1024\nrows_on = 1024").unwrap();
    let tops_per_watt = |chip: &Hardware| 2.0 * (chip.rows_on * access(chip).2) as f64 / access(chip).1;
    assert!(tops_per_watt(&large) < 3.0 * tops_per_watt(&Hardware::mars()), "{}", tops_per_watt(&large));

    // Accesses of its own were measured on its own geometry, unless they say otherwise.
    let own = "[[access]]\nweight_bits = 8\ninput_bits = 4\nns = 4\nenergy_pj = 40";
    let chip = derived(&format!("columns = 128\n{own}")).unwrap();
    assert_eq!(chip.precision(8, 4).unwrap().energy_pj, 40.0);
    let shares = "[energy.macro_shares]\narray = 0.06\nconverter = 0.36\ndrivers = 0.58";
    let elsewhere = format!("columns = 128\n{own}\nmeasured = {{ rows = 1024, columns = 64, rows_on = 64 }}\n{shares}");
    assert!(close(derived(&elsewhere).unwrap().precision(8, 4).unwrap().energy_pj, 40.0 * (0.42 * 2.0 + 0.58)));

    // A file without shares, and one on top of it.
    let text = std::fs::read_to_string(&base).unwrap();
    let plain = text.split("[energy.macro_shares]").next().unwrap().replace("measured = {", "# measured = {");
    std::fs::write(&path, plain).unwrap();
    assert_eq!(access(&Hardware::load(&path).unwrap()), (mars.ns, mars.energy_pj, 16));
    let wider = folder.path().join("wider.toml");
    std::fs::write(&wider, "base = \"chip.toml\"\ncolumns = 128").unwrap();
    let error = Hardware::load(&wider).unwrap_err().to_string();
    let message = "access[0].energy_pj 29.9 was measured on 1024 rows x 64 columns with 64 rows on, the macro has 1024 rows x 128 columns with \
                   64 rows on: give energy.macro_shares, by which it is scaled, or an [[access]] of this geometry";
    assert!(error.contains(message), "{error}");
}

#[test]
fn leakage_follows_the_cells_and_an_srams_energy_its_size() {
    let mars = Hardware::mars();
    assert_eq!(
        (mars.leakage_mw_per_macro(), mars.weight_sram_pj_per_bit(), mars.feature_sram_pj_per_bit()),
        (1.4, 0.135, 0.135)
    );
    let mut chip = Hardware { columns: 256, ..mars };
    (chip.memory.weight_sram_kib, chip.memory.feature_sram_kib) = (512, 64);
    assert!(close(chip.leakage_mw_per_macro(), 5.6));
    assert!(close(chip.weight_sram_pj_per_bit(), 0.27) && close(chip.feature_sram_pj_per_bit(), 0.0675));
    // What is given anew belongs to the chip that gives it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    let base = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let keys =
        "columns = 256\n[memory]\nweight_sram_kib = 512\n[energy]\nleakage_mw_per_macro = 2\nbuffer_pj_per_bit = 0.2";
    std::fs::write(&path, format!("base = {base:?}\n{keys}\n")).unwrap();
    let chip = Hardware::load(&path).unwrap();
    assert_eq!((chip.leakage_mw_per_macro(), chip.weight_sram_pj_per_bit()), (2.0, 0.2));
}

/// A part of a macro leaks and takes what the whole macro does, so more rows are no better in energy for what fewer do.
#[test]
fn rows_that_are_not_used_still_hang_on_the_bit_lines() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let cost = |rows| evaluate(&network, &Hardware { rows, ..Hardware::mars() }).unwrap();
    let (small, large) = (cost(16_384), cost(32_768));
    assert!(small.resident && large.resident);
    assert_eq!(small.cost.cycles, large.cost.cycles);
    assert!(large.cost.energy_breakdown_uj.array > 1.4 * small.cost.energy_breakdown_uj.array);
    assert!(large.cost.energy_breakdown_uj.leakage > 1.9 * small.cost.energy_breakdown_uj.leakage);
}

#[test]
fn the_shipped_file_is_the_embedded_one() {
    assert_eq!(Hardware::load("experiments/hardware/mars.toml".as_ref()).unwrap(), Hardware::mars());
    Hardware::mars().validate().unwrap();
}

#[test]
fn a_chip_that_cannot_work_is_rejected_by_the_key_that_is_wrong() {
    let text = include_str!("../experiments/hardware/mars.toml");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    for (from, to, message) in [
        ("name = \"mars\"", "name = \"\"", "name is empty, reports need it"),
        ("rows = 1024", "rows = 0", "rows is 0, it must be from 1 to 65536"),
        ("cores = 4", "cores = 0", "cores is 0, it must be from 1 to 16384"),
        (
            "macros_per_core = 2",
            "macros_per_core = 16384 #",
            "chip.toml: cores x macros_per_core is 65536, it must be from 1 to 32768",
        ),
        ("weight_bits = 8", "weight_bits = 9", "access[1].weight_bits is 9, it must be from 1 to 8"),
        ("input_bits_per_cycle = 4", "input_bits_per_cycle = 9", "input_bits_per_cycle is 9, it must be from 1 to 8"),
        ("rows = 1024", "rows = 32", "rows_on 64 exceeds rows 32"),
        ("rows = 1024", "rows = 1020", "rows 1020 does not divide into 8 partitions"),
        (
            "channels = 16",
            "channels = 65",
            "group.channels 65 exceeds rows_on 64: a group has to fit the word lines of one access",
        ),
        (
            "weight_slice_bits = 4",
            "weight_slice_bits = 3",
            "access[0].weight_bits 4 is not a multiple of weight_slice_bits 3",
        ),
        ("columns = 64", "columns = 4", "access[1].weight_bits 8 exceeds columns 4"),
        ("ns = 8.4", "ns = 8.4\noutputs = 65", "access[1].outputs is 65, it must be from 1 to 32"),
        ("energy_pj = 61.6", "", "access[1].energy_pj is missing, and so is energy.components"),
        ("clock_mhz = 100 ", "clock_mhz = nan ", "clock_mhz is NaN, it must be from 1e-6 to 1e6"),
        (
            "weight_sram_kib = 128",
            "weight_sram_kib = 0",
            "memory.weight_sram_kib is 0, it must be from 1 to 4294967296",
        ),
        ("gate_pj = 0.0002835", "gate_pj = -1", "energy.gate_pj is -1, it must be from 0 to 1000000"),
        ("kind = \"ideal\"", "kind = \"bits\"\nbits = 5\nstep = 0", "converter.step is 0, it must be from 1 to 16384"),
        ("[memory]", "[noise]\nsigma = -0.5\n[memory]", "noise.sigma is -0.5, it must be from 0 to 500000"),
        ("[memory]", "[noise]\nstuck_at_one = 1.5\n[memory]", "noise.stuck_at_one is 1.5, it must be from 0 to 1"),
        (
            "[memory]",
            "[noise]\nstuck_at_one = 0.5\nstuck_at_zero = 0.75\n[memory]",
            "noise.stuck_at_zero + noise.stuck_at_one is 1.25, it must be from 0 to 1",
        ),
        ("[memory]", "[noise]\nsigma = nan\n[memory]", "noise.sigma is NaN, it must be from 0 to 500000"),
        ("array = 0.06", "array = 0.05", "energy.macro_shares sum to 0.99, they must sum to 1"),
        ("macro_mm2 = 0.3233664", "macro_mm2 = 0", "area.macro_mm2 is 0, it must be from 1e-6 to 1e6"),
        ("sram_mm2_per_kib = 0.001781", "", "missing field `sram_mm2_per_kib`"),
        ("kind = \"ideal\"", "kind = \"ideal\"\nbits = 5", "unknown field `bits`"),
        ("columns = 64", "colums = 64", "unknown field `colums`, expected one of `name`, `cores`"),
        ("cores = 4", "cores = -4", "invalid value: integer `-4`, expected a whole number from 0 on"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = Hardware::load(&path).unwrap_err().to_string();
        assert!(error.contains("chip.toml") && error.contains(message), "{to}: {error}");
    }
    let error = Hardware { rows_on: 0, ..Hardware::mars() }.validate().unwrap_err();
    assert_eq!(error.to_string(), "hardware `mars`: rows_on is 0, it must be from 1 to 65536");
    let Error::Hardware { source, .. } = error else { panic!("{error:?}") };
    let allowed = Allowed::Between { low: "1".into(), high: "65536".into() };
    assert_eq!(*source, ConfigError { key: "rows_on".into(), value: "0".into(), allowed });
    let missing = |path: &str| Hardware::load(path.as_ref()).unwrap_err().to_string();
    let list = "mars-deploy --list-hardware lists the built-in ones";
    assert_eq!(missing("no/such.toml"), format!("no/such.toml: there is no such file; {list}"));
    let meant = "did you mean experiments/hardware/library/wu-isscc2022.toml?";
    assert_eq!(missing("wu-isscc2022"), format!("wu-isscc2022: there is no such file; {meant} {list}"));
}

#[test]
fn weights_wider_than_the_macro_are_rejected_by_the_layers_name() {
    let mut hardware = Hardware::mars();
    hardware.access.retain(|mode| mode.weight_bits == 4);
    let network = W4A4.network(small_network());
    let message = "layer `stem`: its weights have 8 bits, and the widest access of hardware `mars` takes 4: quantize.weight_bits and \
                   first_last_bits of a recipe, or --weight-bits and --first-last-bits with --model, are 4 at most";
    assert_eq!(MacroNetwork::new(&network, &hardware).unwrap_err().to_string(), message);
    assert_eq!(evaluate(&network, &hardware).unwrap_err().to_string(), message);
}

// Budgets.

const RESOURCES: [Resource; 3] = [Resource::StoredBits, Resource::Cycles, Resource::Energy];

/// The network with the weights of all other groups at zero, and none of the kept ones.
fn with_groups(network: &IntegerNetwork, group: GroupShape, kept: &[Vec<bool>]) -> IntegerNetwork {
    let mut pruned = network.clone();
    let grids: Vec<GroupGrid> = network.convs().map(|(conv, _)| GroupGrid::new(group, &conv.shape)).collect();
    let mut masks = grids.iter().zip(kept);
    let mut prune = |conv: &mut IntegerConv| {
        let (grid, kept) = masks.next().unwrap();
        for (index, weight) in conv.weights.iter_mut().enumerate() {
            *weight = i8::from(kept[grid.group_of(index)]);
        }
    };
    for layer in &mut pruned.layers {
        if let IntegerLayer::Conv { conv, skip, .. } = layer {
            prune(conv);
            if let Some(IntegerSkip::Projection { conv, .. }) = skip {
                prune(conv);
            }
        }
    }
    pruned
}

/// What the cost model says of it where filter sets are laid over the cores.
fn cost(network: &IntegerNetwork, hardware: &Hardware, resource: Resource) -> f64 {
    let hardware =
        Hardware { mapping: Mapping { policy: Policy::FilterSets, ..Mapping::default() }, ..hardware.clone() };
    let evaluation = evaluate(network, &hardware).unwrap();
    match resource {
        Resource::StoredBits => (evaluation.compression.weight_bits_stored + evaluation.compression.index_bits) as f64,
        Resource::Cycles => evaluation.cost.cycles as f64,
        Resource::Energy => evaluation.cost.energy_uj,
    }
}

fn group_scores(network: &IntegerNetwork, group: GroupShape, random: &mut Random) -> Vec<Vec<f32>> {
    // Layers differ in what their groups matter, as they do in a network.
    let score = |random: &mut Random, scale: f32| scale * (1 + random.below(1000)) as f32;
    let grids = network.convs().map(|(conv, _)| GroupGrid::new(group, &conv.shape));
    grids
        .map(|grid| {
            let scale = 10f32.powi(random.below(3) as i32);
            // What doesn't exist is no loss.
            let exists = |group| f32::from(u8::from(grid.exists(group)));
            (0..grid.groups()).map(|group| score(random, scale) * exists(group)).collect()
        })
        .collect()
}

fn lost(scores: &[Vec<f32>], kept: &[Vec<bool>]) -> f64 {
    let groups = scores.iter().flatten().zip(kept.iter().flatten());
    groups.filter(|(_, kept)| !**kept).map(|(score, _)| f64::from(*score)).sum()
}

/// The groups with the lowest scores go, as many as the cost model says it takes; every layer keeps its best one.
fn by_magnitude(
    network: &IntegerNetwork,
    hardware: &Hardware,
    resource: Resource,
    scores: &[Vec<f32>],
    budget: f64,
) -> Vec<Vec<bool>> {
    let mut order: Vec<(usize, usize)> =
        scores.iter().enumerate().flat_map(|(conv, scores)| (0..scores.len()).map(move |g| (conv, g))).collect();
    order.sort_by(|a, b| scores[a.0][a.1].total_cmp(&scores[b.0][b.1]).then(a.cmp(b)));
    let mut left: Vec<usize> = scores.iter().map(Vec::len).collect();
    order.retain(|(conv, _)| {
        left[*conv] -= 1;
        left[*conv] > 0
    });
    let without = |count: usize| {
        let mut kept: Vec<Vec<bool>> = scores.iter().map(|scores| vec![true; scores.len()]).collect();
        order[..count].iter().for_each(|(conv, group)| kept[*conv][*group] = false);
        kept
    };
    let fits =
        |count: usize| cost(&with_groups(network, hardware.group, &without(count)), hardware, resource) <= budget;
    let (mut too_few, mut enough) = (0, order.len());
    while too_few + 1 < enough {
        let middle = (too_few + enough) / 2;
        if fits(middle) { enough = middle } else { too_few = middle }
    }
    without(enough)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// The budget holds by the cost model's own account of the pruned network, no layer vanishes, and no more is lost than by taking
    /// the groups in the order of their scores.
    #[test]
    fn a_budget_is_met_and_loses_no_more_than_magnitude(
        resource in prop::sample::select(RESOURCES.to_vec()), target in 0.05f64..0.6, filters in 2usize..9, channels in 2usize..9,
        cores in 1usize..5, seed: u64,
    ) {
        let network = W4A4.network(small_network());
        let hardware = Hardware { group: GroupShape { filters, channels }, cores, ..Hardware::mars() };
        let scores = group_scores(&network, hardware.group, &mut Random(seed));
        let all: Vec<Vec<bool>> = scores.iter().map(|scores| vec![true; scores.len()]).collect();
        let budget = cost(&with_groups(&network, hardware.group, &all), &hardware, resource) * (1.0 - target);
        let mut ledger = Ledger::new(&network, &hardware, resource, &all).unwrap();
        let Some(kept) = fit_budget(&mut ledger, &scores, budget) else {
            let one: Vec<Vec<bool>> = scores.iter().map(|s| (0..s.len()).map(|group| group == 0).collect()).collect();
            let least = cost(&with_groups(&network, hardware.group, &one), &hardware, resource);
            prop_assert!(least * 1.2 > budget, "{least} would do for {budget}");
            return Ok(());
        };
        prop_assert!(kept.iter().all(|kept| kept.contains(&true)));
        let found = cost(&with_groups(&network, hardware.group, &kept), &hardware, resource);
        prop_assert!(found <= budget, "{found} of {budget}");
        prop_assert!(close(found, ledger.total()), "{found} {}", ledger.total());
        let magnitude = by_magnitude(&network, &hardware, resource, &scores, budget);
        prop_assert!(lost(&scores, &kept) <= lost(&scores, &magnitude));
        // Going on from there with a smaller budget takes nothing back.
        if let Some(less) = fit_budget(&mut ledger, &scores, 0.9 * found) {
            prop_assert!(kept.iter().flatten().zip(less.iter().flatten()).all(|(before, after)| *before || !after));
        }
    }
}

/// A whole network: the stairs of its accesses, which the order of the scores knows nothing of, are worth a lot.
#[test]
fn cycles_of_a_resnet_are_saved_where_they_are_cheap() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let hardware = Hardware::mars();
    let scores = group_scores(&network, hardware.group, &mut Random(4));
    let all: Vec<Vec<bool>> = scores.iter().map(|scores| vec![true; scores.len()]).collect();
    for resource in RESOURCES {
        let mut ledger = Ledger::new(&network, &hardware, resource, &all).unwrap();
        let budget = 0.7 * ledger.total();
        let kept = fit_budget(&mut ledger, &scores, budget).unwrap();
        let found = cost(&with_groups(&network, hardware.group, &kept), &hardware, resource);
        assert!(found <= budget && found > 0.99 * budget, "{resource:?}: {found} of {budget}");
        let magnitude = by_magnitude(&network, &hardware, resource, &scores, budget);
        let [ours, theirs] = [lost(&scores, &kept), lost(&scores, &magnitude)];
        // All groups but those of the first and last layer have the same bits, so that there is little to choose.
        let share = if resource == Resource::StoredBits { 1.0 } else { 0.97 };
        assert!(ours < share * theirs, "{resource:?}: {ours} and {theirs}");
    }
}

/// The largest chips that a file may describe: many macros, and a large array.
#[test]
fn large_chips_are_evaluated() {
    let network = outline(
        &Graph::new(zoo("resnet20", 10).unwrap()).unwrap(),
        &QuantizeConfig { weight_bits: 4, activation_bits: 4, ..QuantizeConfig::default() },
        Hardware::mars().group,
    );
    let many = Hardware { cores: 256, macros_per_core: 64, ..Hardware::mars() };
    let large = Hardware { rows: 65_536, rows_on: 65_536, columns: 4_096, ..Hardware::mars() };
    let slow = Hardware { frames_per_load: 1 << 14, clock_mhz: 1e6, ..Hardware::mars() };
    for hardware in [many, large, slow] {
        assert!(evaluate(&network, &hardware).unwrap().cost.cycles > 0, "{}", hardware.name);
    }
}

/// Weights may stay loaded where they lie evenly, though the plain plan, which fills some cores more than others, has to load them anew.
#[test]
fn weights_stay_loaded_where_they_can_lie_evenly() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let chip = |policy| {
        let mut chip = Hardware { cores: 8, macros_per_core: 4, rows: 2048, ..Hardware::mars() };
        chip.mapping = Mapping { policy, objective: Objective::Cycles, layers: Vec::new() };
        chip.memory.weight_sram_kib = 16;
        chip
    };
    let [plain, chosen] = [Policy::FilterSets, Policy::Auto].map(|policy| evaluate(&network, &chip(policy)).unwrap());
    assert!(!plain.resident && chosen.resident);
    assert!(2 * chosen.cost.cycles < plain.cost.cycles, "{} of {}", chosen.cost.cycles, plain.cost.cycles);
}

/// The paths of all keys in a table; a list of tables is `[]`.
fn paths(prefix: &str, table: &toml::Table, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => paths(&format!("{path}."), inner, found),
            toml::Value::Array(list) => {
                list.iter().filter_map(|it| it.as_table()).for_each(|it| paths(&format!("{path}[]."), it, found));
            }
            _ => drop(found.insert(path)),
        }
    }
}

/// docs/hardware-keys.md has every key that a hardware file can have, and no other one.
#[test]
fn the_documentation_has_every_key_of_a_hardware_file() {
    let page = std::fs::read_to_string("docs/hardware-keys.md").unwrap();
    let rows = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    let told: BTreeSet<String> = rows.collect();
    let mut keys = BTreeSet::new();
    let geometry = Hardware::mars().geometry();
    for converter in [Converter::Clipping { range: 3 }, Converter::Bits { bits: 5, step: 2 }] {
        let mut chip = Hardware { converter, noise: Some(Noise::default()), ..Hardware::mars() };
        chip.access[0].outputs = Some(8);
        chip.access[0].measured = Some(geometry);
        let (split, start) = (Some(Split::FilterSets), Some(Start::Together));
        chip.mapping.objective = Objective::Cycles;
        chip.mapping.layers = vec![LayerMapping { pattern: "*".into(), split, copies: Some(1), start }];
        chip.memory.input_reads = InputReads::Broadcast;
        chip.energy.register_pj_per_bit = 1.0;
        chip.energy.accumulator = Accumulator::Sized;
        chip.energy.components = Some(Components {
            supply_v: 1.0,
            cell_ff: 1.0,
            adc_linear_ff: 1.0,
            adc_exponential_ff: 1.0,
            dac_ff_per_bit: 1.0,
            adder_ff: 1.0,
            precharge_ff: 1.0,
            activity: 0.5,
        });
        let area = chip.area.as_mut().unwrap();
        area.macro_cells = Some(65_536);
        paths("", &toml::Table::try_from(&chip).unwrap(), &mut keys);
    }
    assert_eq!(told, keys);
}

/// A sweep's point is the chip that a file with the same base and keys describes: constants belong to the sizes of who gives them.
#[test]
fn a_point_of_a_sweep_is_the_chip_of_a_file_with_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let base = |name: &str| std::path::absolute(Path::new("experiments/hardware").join(name)).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let access = "[{ weight_bits = 8, input_bits = 8, ns = 9.0, energy_pj = 40.0 }]";
    for (name, keys) in [
        ("mars.toml", vec![("rows", "512"), ("energy.leakage_mw_per_macro", "1.4")]),
        ("mars.toml", vec![("rows", "512"), ("access", access)]),
        ("mars.toml", vec![("rows", "2048"), ("area.macro_mm2", "0.5")]),
        ("mars.toml", vec![("memory.weight_sram_kib", "64"), ("energy.buffer_pj_per_bit", "0.2")]),
        ("mars.toml", vec![("converter", "{ kind = \"bits\", bits = 5, step = 2 }"), ("columns", "512")]),
        ("adc5.toml", vec![("access", access), ("cores", "2")]),
    ] {
        let own: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let file = write("own.toml", format!("base = {:?}\nname = \"own\"\n{}", base(name), own.concat()));
        let ranges: Vec<String> = keys.iter().map(|(key, value)| format!("\"{key}\" = [{value}]\n")).collect();
        let sweep = write("sweep.toml", format!("base = {:?}\n[ranges]\n{}", base(name), ranges.concat()));
        let point = Space::load(&sweep).unwrap().hardware(0).unwrap();
        assert_eq!(Hardware { name: "own".into(), ..point }, Hardware::load(&file).unwrap(), "{keys:?}");
    }
}

/// A macro's area is that of the array that its base measured, also where the chip has accesses of its own.
#[test]
fn a_derived_macro_with_accesses_of_its_own_has_the_area_of_its_cells() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quarter.toml");
    let base = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let access = "[[access]]\nweight_bits = 8\ninput_bits = 8\nns = 9.0\nenergy_pj = 40.0\n";
    let area = |keys: &str| {
        std::fs::write(&path, format!("base = {base:?}\n{keys}")).unwrap();
        Hardware::load(&path).unwrap().macro_mm2().unwrap()
    };
    let whole = Hardware::mars().macro_mm2().unwrap();
    for keys in ["rows = 256\n".to_owned(), format!("rows = 256\n{access}")] {
        assert!((area(&keys) - whole / 4.0).abs() < 1e-12, "{keys}: {} of {whole}", area(&keys));
    }
    assert!((area(access) - whole).abs() < 1e-12);
}
