//! Cases computed by hand, and a comparison with the definition, pixel by pixel.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::groups::GroupShape;
use crate::integer::{IMAGE_BITS, predict};
use crate::network::{Conv, Graph, NetworkSpec, SameScale, Window};
use crate::simd::on_each_isa;

fn conv(input_bits: u8, weights: &[i8], bias: &[i32]) -> IntegerConv {
    IntegerConv { input_bits, weight_bits: 8, weights: weights.into(), bias: bias.into() }
}

fn requantize(multipliers: &[u32], forms: &[(u8, u8)]) -> Requantize {
    Requantize {
        multipliers: multipliers.into(),
        forms: forms.iter().map(|&(bits, shift)| Form { bits, shift, zero_point: 0 }).collect(),
    }
}

fn layer(conv: IntegerConv, skip: Option<IntegerSkip>, output: Requantize) -> IntegerLayer {
    IntegerLayer::Conv { conv, skip, output: Some(output) }
}

fn last(conv: IntegerConv) -> IntegerLayer {
    IntegerLayer::Conv { conv, skip: None, output: None }
}

/// A network whose colors have the zero points 10, 20, ...
fn network(spec: &str, layers: Vec<IntegerLayer>) -> IntegerNetwork {
    let spec: NetworkSpec = toml::from_str(spec).unwrap();
    IntegerNetwork {
        zero_points: (1..=spec.input[0]).map(|color| (10 * color) as u8).collect(),
        classes: vec![String::new(); spec.classes],
        group: GroupShape { filters: 16, channels: 16 },
        graph: Graph::new(spec).unwrap(),
        layers,
    }
}

fn logits(network: &IntegerNetwork, image: &[u8]) -> Vec<i32> {
    Reference::new(network).unwrap().logits(image)
}

#[test]
fn the_border_of_the_image_holds_zero_points() {
    let spec = "name = 'n'\ninput = [1, 2, 2]\nclasses = 4
        layers = [{ op = 'conv', name = 'c', filters = 1, kernel = 3, padding = 1 }]";
    let network = network(spec, vec![last(conv(8, &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[0]))]);
    assert_eq!(logits(&network, &[1, 2, 3, 4]), [247, 277, 337, 367]);
}

/// `head` layers, then a 1x1 convolution with the weight 1 that shows each of their outputs.
fn shown(
    input: &str,
    classes: usize,
    head: &str,
    mut layers: Vec<IntegerLayer>,
    bits: u8,
    channels: usize,
) -> IntegerNetwork {
    let spec = format!(
        "name = 'n'\ninput = {input}\nclasses = {classes}
        layers = [{head}, {{ op = 'conv', name = 'shown', filters = {channels}, kernel = 1 }}]"
    );
    let ones: Vec<i8> = (0..channels * channels).map(|at| i8::from(at % (channels + 1) == 0)).collect();
    layers.push(last(conv(bits, &ones, &vec![0; channels])));
    network(&spec, layers)
}

#[test]
fn a_sum_is_rounded_half_up_and_saturates() {
    let head = "{ op = 'conv', name = 'c', filters = 1, kernel = 1 }";
    let show = |weight, bias, image: &[u8]| {
        let layers = vec![layer(conv(8, &[weight], &[bias]), None, requantize(&[3], &[(4, 2)]))];
        logits(&shown("[1, 2, 3]", 6, head, layers, 4, 1), image)
    };
    // (3x + 2) >> 2, at most 15: 0, 5/4, 8/4, 11/4, 59/4, 62/4.
    assert_eq!(show(1, 0, &[0, 1, 2, 3, 19, 20]), [0, 1, 2, 2, 14, 15]);
    assert_eq!(show(1, 0, &[21, 255, 255, 0, 0, 0]), [15, 15, 15, 0, 0, 0]);
    // 3 (bias - x): half of a step below zero is rounded up to zero, the rest is clamped to zero.
    assert_eq!(show(-1, 2, &[0, 1, 2, 3, 4, 255]), [2, 1, 0, 0, 0, 0]);
}

#[test]
fn each_form_and_each_filter_is_requantized_on_its_own() {
    let head = "{ op = 'conv', name = 'c', filters = 2, kernel = 1 }";
    let output = requantize(&[1, 4], &[(8, 1), (3, 2)]);
    let layers = vec![layer(conv(8, &[1, 1], &[0, 5]), None, output)];
    // Form 8: (10 + 1) >> 1 and (15 * 4 + 1) >> 1; form 3: (10 + 2) >> 2 and (60 + 2) >> 2, at most 7.
    assert_eq!(logits(&shown("[1, 1, 1]", 2, head, layers.clone(), 8, 2), &[10]), [5, 30]);
    assert_eq!(logits(&shown("[1, 1, 1]", 2, head, layers, 3, 2), &[10]), [3, 7]);
}

/// A layer without an activation: codes around the zero point, which the next layer's bias takes off again.
#[test]
fn a_value_without_activation_keeps_its_sign() {
    let head = "{ op = 'conv', name = 'c', filters = 1, kernel = 1, activation = 'none' }";
    let mut output = requantize(&[3], &[(4, 2)]);
    output.forms[0].zero_point = 8;
    let layers = vec![layer(conv(8, &[-1], &[2]), None, output)];
    let mut network = shown("[1, 2, 4]", 8, head, layers, 4, 1);
    let IntegerLayer::Conv { conv, .. } = &mut network.layers[1] else { unreachable!() };
    conv.bias[0] = -8;
    // 3 (2 - x) / 4, half of a step below zero rounded up: from -8 to 7.
    assert_eq!(logits(&network, &[0, 1, 2, 3, 4, 5, 13, 255]), [2, 1, 0, -1, -1, -2, -8, -8]);
}

#[test]
fn zero_points_belong_to_values_with_a_sign() {
    let head = |activation: &str| {
        format!("{{ op = 'conv', name = 'c', filters = 1, kernel = 1, activation = '{activation}' }}")
    };
    let network = |activation: &str, zero_point| {
        let mut output = requantize(&[3], &[(4, 2)]);
        output.forms[0].zero_point = zero_point;
        shown("[1, 1, 1]", 1, &head(activation), vec![layer(conv(8, &[1], &[0]), None, output)], 4, 1)
    };
    let error = |activation, zero_point| network(activation, zero_point).validate().unwrap_err().to_string();
    assert!(error("relu", 8).contains("the zero point 8: behind a ReLU it is 0"), "{}", error("relu", 8));
    assert!(error("none", 0).contains("the zero point 0: without an activation it is from 1 to 15"));
    assert!(error("none", 16).contains("the zero point 16: without an activation it is from 1 to 15"));
    assert!(network("none", 15).validate().is_ok() && network("relu", 0).validate().is_ok());
}

#[test]
fn an_identity_skip_takes_every_second_pixel_between_zero_channels() {
    let head = "{ op = 'conv', name = 'a', filters = 1, kernel = 1 },
        { op = 'conv', name = 'b', filters = 3, kernel = 1, stride = 2, add = { from = 'a', stride = 2 } }";
    let skip = IntegerSkip::Identity { bits: 8, multiplier: 6 };
    let layers = vec![
        layer(conv(8, &[1], &[0]), None, requantize(&[2], &[(8, 1), (4, 1)])),
        layer(conv(4, &[1, 1, 1], &[0, 0, 0]), Some(skip), requantize(&[2], &[(8, 1)])),
    ];
    let network = shown("[1, 3, 3]", 12, head, layers, 8, 3);
    let image = [1, 9, 2, 9, 9, 9, 3, 9, 40];
    // Own sum: the pixel at 4 bits (40 saturates at 15); the middle channel gets three times the pixel at 8 bits.
    assert_eq!(logits(&network, &image), [1, 2, 3, 15, 4, 8, 12, 135, 1, 2, 3, 15]);
}

#[test]
fn a_projection_joins_before_rounding_with_its_own_bias_and_multiplier() {
    let head = "{ op = 'conv', name = 'a', filters = 1, kernel = 1 },
        { op = 'conv', name = 'b', filters = 1, kernel = 1, add = { from = 'a', shortcut = 'projection' } }";
    let skip = IntegerSkip::Projection { conv: conv(8, &[2], &[1]), multipliers: vec![5] };
    let layers = vec![
        layer(conv(8, &[1], &[0]), None, requantize(&[2], &[(8, 1)])),
        layer(conv(8, &[-3], &[10]), Some(skip), requantize(&[3], &[(8, 4)])),
    ];
    let network = shown("[1, 1, 2]", 2, head, layers, 8, 1);
    // ((10 - 3x) * 3 + (2x + 1) * 5 + 8) >> 4 = (43 + x) >> 4.
    assert_eq!(logits(&network, &[4, 5]), [2, 3]);
}

#[test]
fn a_maximum_keeps_its_forms_and_ignores_the_border() {
    let head = "{ op = 'conv', name = 'c', filters = 1, kernel = 1 },
        { op = 'max_pool', name = 'm', kernel = 3, stride = 2, padding = 1 }";
    let layers = vec![layer(conv(8, &[1], &[0]), None, requantize(&[2], &[(8, 1), (3, 1)])), IntegerLayer::SameScale];
    let image = [1, 2, 3, 4, 0, 6, 5, 0, 0];
    assert_eq!(logits(&shown("[1, 3, 3]", 4, head, layers.clone(), 8, 1), &image), [4, 6, 5, 6]);
    assert_eq!(logits(&shown("[1, 3, 3]", 4, head, layers, 3, 1), &[200; 9]), [7; 4]);
}

#[test]
fn a_mean_is_a_sum_and_one_rounding() {
    let head = "{ op = 'conv', name = 'c', filters = 1, kernel = 1 }, { op = 'avg_pool', name = 'm', kernel = 2 }";
    let layers = vec![
        layer(conv(8, &[1], &[0]), None, requantize(&[2], &[(8, 1)])),
        IntegerLayer::AvgPool { input_bits: 8, output: requantize(&[1], &[(8, 2)]) },
    ];
    let network = shown("[1, 2, 4]", 2, head, layers, 8, 1);
    assert_eq!(logits(&network, &[1, 2, 255, 255, 3, 4, 255, 255]), [3, 255]);
}

#[test]
fn equal_logits_give_the_lowest_class() {
    let spec = "name = 'n'\ninput = [1, 1, 1]\nclasses = 3\nlayers = [{ op = 'linear', name = 'l', filters = 3 }]";
    let network = network(spec, vec![last(conv(8, &[1, 2, 2], &[0; 3]))]);
    let logits = logits(&network, &[7, 0]);
    assert_eq!(logits, [7, 14, 14, 0, 0, 0]);
    assert_eq!(logits.chunks(3).map(predict).collect::<Vec<_>>(), [1, 0]);
}

#[test]
fn a_saturated_layer_of_512_channels_is_exact() {
    let spec = "name = 'n'\ninput = [512, 3, 3]\nclasses = 2
        layers = [{ op = 'conv', name = 'c', filters = 2, kernel = 3 }]";
    let weights: Vec<i8> = [127, -127].iter().flat_map(|&weight| [weight; 4608]).collect();
    let network = network(spec, vec![last(conv(8, &weights, &[1, -1]))]);
    let bound = 4608 * 127 * 255;
    for (isa, found) in on_each_isa(|| logits(&network, &[255; 4608])) {
        assert_eq!(found, [bound + 1, -bound - 1], "{isa:?}");
    }
}

#[test]
fn a_network_that_breaks_a_rule_is_not_run() {
    let spec = "name = 'n'\ninput = [1, 1, 1]\nclasses = 1\nlayers = [{ op = 'linear', name = 'l', filters = 1 }]";
    let network = network(spec, vec![last(conv(4, &[1], &[0]))]);
    assert!(Reference::new(&network).unwrap_err().to_string().contains("layer `l`"));
}

/// Channel, row and column of each value of a map, in the order in which they are stored.
fn positions(map: MapShape) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..map.len()).map(move |index| {
        let (channel, pixel) = (index / map.pixels(), index % map.pixels());
        (channel, pixel / map.width, pixel % map.width)
    })
}

/// The logits by definition: every sum from its pixels, one by one.
fn by_definition(network: &IntegerNetwork, image: &[u8]) -> Vec<i32> {
    type Stored = HashMap<(Source, u8), Vec<u8>>;
    let zero_point = |source, bits| match source {
        Source::Image => unreachable!(),
        Source::Node(index) => i64::from(network.zero_point(index, bits)),
    };
    let at = |map: MapShape, c: usize, y: usize, x: usize| (c * map.height + y) * map.width + x;
    let accumulate = |stored: &Stored, source, shape: ConvShape, conv: &IntegerConv, f: usize, y: usize, x: usize| {
        let values = &stored[&(source, conv.input_bits)];
        let mut sum = conv.bias[f];
        for (index, c) in shape.reads(f).enumerate() {
            let Window { kernel, stride, padding } = shape.window;
            for (ky, kx) in (0..kernel[0]).flat_map(|ky| (0..kernel[1]).map(move |kx| (ky, kx))) {
                let weight = ((f * shape.depth() + index) * kernel[0] + ky) * kernel[1] + kx;
                let row = (y * stride[0] + ky * shape.dilation[0]).wrapping_sub(padding[0][0]);
                let column = (x * stride[1] + kx * shape.dilation[1]).wrapping_sub(padding[1][0]);
                let value = if row < shape.input.height && column < shape.input.width {
                    values[at(shape.input, c, row, column)]
                } else if source == Source::Image {
                    network.zero_points[c]
                } else {
                    zero_point(source, conv.input_bits) as u8
                };
                sum += i32::from(conv.weights[weight]) * i32::from(value);
            }
        }
        sum
    };
    let mut stored = Stored::from([((Source::Image, IMAGE_BITS), image.to_vec())]);
    for (index, (node, layer)) in network.graph.nodes().iter().zip(&network.layers).enumerate() {
        let mut sums = Vec::new();
        for (c, y, x) in positions(node.output) {
            match (node.op, layer) {
                (Op::Conv { conv: shape, skip, .. }, IntegerLayer::Conv { conv, skip: joins, output }) => {
                    let own = i64::from(accumulate(&stored, node.source, shape, conv, c, y, x));
                    let Some(output) = output else {
                        sums.push(own);
                        continue;
                    };
                    let joined = match (skip, joins) {
                        (
                            Some(Skip::Identity { source, stride, pad_front }),
                            Some(IntegerSkip::Identity { bits, multiplier }),
                        ) => {
                            let map = network.graph.shape(source);
                            let inside = c >= pad_front && c - pad_front < map.channels;
                            let value = |c| stored[&(source, *bits)][at(map, c, y * stride, x * stride)];
                            let value = |c| i64::from(value(c)) - zero_point(source, *bits);
                            if inside { value(c - pad_front) * i64::from(*multiplier) } else { 0 }
                        }
                        (
                            Some(Skip::Projection { source, conv: shape, .. }),
                            Some(IntegerSkip::Projection { conv, multipliers }),
                        ) => {
                            let sum = accumulate(&stored, source, shape, conv, c, y, x);
                            i64::from(sum) * i64::from(multipliers[c % multipliers.len()])
                        }
                        _ => 0,
                    };
                    sums.push(own * i64::from(output.multipliers[c % output.multipliers.len()]) + joined);
                }
                (
                    Op::AvgPool { window: Window { kernel, stride, padding } },
                    IntegerLayer::AvgPool { input_bits, output },
                ) => {
                    let values = &stored[&(node.source, *input_bits)];
                    let mut sum = 0;
                    for (row, column) in (0..kernel[0]).flat_map(|row| (0..kernel[1]).map(move |column| (row, column)))
                    {
                        let row = (y * stride[0] + row).wrapping_sub(padding[0][0]);
                        let column = (x * stride[1] + column).wrapping_sub(padding[1][0]);
                        if row < node.input.height && column < node.input.width {
                            sum += i64::from(values[at(node.input, c, row, column)])
                                - zero_point(node.source, *input_bits);
                        }
                    }
                    sums.push(sum * i64::from(output.multipliers[0]));
                }
                _ => {}
            }
        }
        let source = Source::Node(index);
        match (layer, node.op) {
            (IntegerLayer::Conv { output: None, .. }, _) => return sums.iter().map(|&sum| sum as i32).collect(),
            (IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. }, _) => {
                for form in &output.forms {
                    let half = 1i64 << (form.shift - 1);
                    let value = |sum: &i64| {
                        let code = (sum + half).div_euclid(2 * half) + i64::from(form.zero_point);
                        code.clamp(0, (1 << form.bits) - 1) as u8
                    };
                    stored.insert((source, form.bits), sums.iter().map(value).collect());
                }
            }
            (IntegerLayer::SameScale, Op::SameScale(SameScale::Concat)) => {
                for bits in network.forms(source) {
                    let codes = node.sources().flat_map(|source| stored[&(source, bits)].clone()).collect();
                    stored.insert((source, bits), codes);
                }
            }
            (IntegerLayer::SameScale, Op::SameScale(SameScale::MaxPool { window })) => {
                let Window { kernel, stride, padding } = window;
                for bits in network.forms(node.source) {
                    let values = &stored[&(node.source, bits)];
                    let window = |(c, y, x): (usize, usize, usize)| {
                        let places = (0..kernel[0]).flat_map(|row| (0..kernel[1]).map(move |column| (row, column)));
                        let inside = places.filter_map(|(row, column)| {
                            let row = (y * stride[0] + row).checked_sub(padding[0][0])?;
                            let column = (x * stride[1] + column).checked_sub(padding[1][0])?;
                            let inside = row < node.input.height && column < node.input.width;
                            inside.then(|| values[at(node.input, c, row, column)])
                        });
                        inside.max().unwrap()
                    };
                    let largest = positions(node.output).map(window).collect();
                    stored.insert((source, bits), largest);
                }
            }
            _ => unreachable!(),
        }
    }
    unreachable!()
}

/// A network with every operation; `random` gives its integers. Where its values have signs, no layer has an activation; where it
/// isn't `square`, its windows differ by side.
fn every_operation(
    sizes: [usize; 6],
    is_signed: bool,
    square: bool,
    random: &mut impl FnMut() -> u32,
) -> IntegerNetwork {
    let [colors, side, channels, more, kernel, classes] = sizes;
    let padding = kernel / 2;
    let activation = if is_signed { "none" } else { "relu" };
    let (first, largest, mean) = match square {
        true => (format!("kernel = {kernel}, padding = {padding}"), "kernel = 2, stride = 1, padding = 1", ""),
        false => (
            format!("kernel = [2, {kernel}], dilation = [3, 2], padding = [2, {}, 1, {}]", 2 * padding, 2 * padding),
            "kernel = [1, 3], stride = [1, 2], padding = [0, 2, 0, 1]",
            ", kernel = [2, 3], stride = [1, 2], padding = [1, 2, 0, 1]",
        ),
    };
    let spec = format!(
        "name = 'n'\ninput = [{colors}, {side}, {}]\nclasses = {classes}
        layers = [
            {{ op = 'conv', name = 'a', filters = {channels}, {first},
               activation = '{activation}' }},
            {{ op = 'conv', name = 'b', filters = {more}, kernel = {kernel}, padding = {padding}, stride = 2,
               activation = '{activation}', add = {{ from = 'a', stride = 2 }} }},
            {{ op = 'conv', name = 'c', filters = 3, kernel = 1, activation = '{activation}',
               add = {{ from = 'b', shortcut = 'projection' }} }},
            {{ op = 'max_pool', name = 'm', {largest} }},
            {{ op = 'concat', name = 'j', inputs = ['m', 'm'] }},
            {{ op = 'avg_pool', name = 'p'{mean} }},
            {{ op = 'linear', name = 'l', filters = {classes} }}
        ]",
        side + 1
    );
    let graph = Graph::new(toml::from_str(&spec).unwrap()).unwrap();
    let mut convs = graph.convs().map(|Conv { shape, .. }| {
        let count = shape.weights();
        let weights: Vec<i8> =
            (0..count).map(|_| random() as i8).map(|w| if w & 1 == 0 { 0 } else { w.max(-127) }).collect();
        let bias: Vec<i32> = (0..shape.filters()).map(|_| random() as i32 % 100_000).collect();
        (weights, bias)
    });
    let mut next = |bits| {
        let (weights, bias) = convs.next().unwrap();
        conv(bits, &weights, &bias)
    };
    let many: Vec<u32> = (1..).map(|m| m * 300).take(more).collect();
    let layers = vec![
        layer(next(8), None, requantize(&[3000], &[(8, 20), (4, 23)])),
        layer(
            next(4),
            Some(IntegerSkip::Identity { bits: 8, multiplier: 1_000_000 }),
            requantize(&many, &[(5, 23), (8, 22)]),
        ),
        layer(
            next(8),
            Some(IntegerSkip::Projection { conv: next(5), multipliers: vec![5000, 6000, 7000] }),
            requantize(&[2000], &[(6, 22), (8, 19)]),
        ),
        IntegerLayer::SameScale,
        IntegerLayer::SameScale,
        IntegerLayer::AvgPool { input_bits: 6, output: requantize(&[20_000], &[(8, 18)]) },
        last(next(8)),
    ];
    drop(convs);
    let mut network = network(&spec, layers);
    for layer in &mut network.layers {
        if let IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. } = layer {
            for form in output.forms.iter_mut().filter(|_| is_signed) {
                form.zero_point = 1 + (random() % ((1 << form.bits) - 1)) as u8;
            }
        }
    }
    network
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_computes_the_definition(
        colors in 1usize..4,
        side in 3usize..9,
        channels in prop_oneof![1usize..5, 14usize..36],
        extra in 0usize..4,
        kernel in prop_oneof![Just(1usize), Just(3), Just(5)],
        classes in 1usize..5,
        is_signed in any::<bool>(),
        square in any::<bool>(),
        seed in any::<u32>(),
    ) {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        let network = every_operation([colors, side, channels, channels + extra, kernel, classes], is_signed, square, &mut random);
        let image_bytes = network.graph.image().len();
        let images: Vec<u8> = (0..3 * image_bytes).map(|_| random() as u8).collect();
        let expected: Vec<i32> = images.chunks(image_bytes).flat_map(|image| by_definition(&network, image)).collect();
        for (isa, found) in on_each_isa(|| logits(&network, &images)) {
            prop_assert_eq!(&found, &expected, "{:?}", isa);
        }
    }
}
