//! What a network computes, straight from the definitions of its layers and of an access.

use mars::groups::{GroupGrid, GroupShape};
use mars::hardware::{Converter, Hardware};
use mars::integer::{Form, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip, Requantize, multiplier};
use mars::network::{ConvShape, MapShape, Op, SameScale, Skip, Source, Window};

/// Sums of a convolution, `[filter][pixel]`, straight from its definition. `values` are `[channel][pixel]`.
pub(super) fn direct_conv(shape: &ConvShape, conv: &IntegerConv, values: &[u8], padding: &[u8]) -> Vec<i64> {
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

pub(super) type Convolve<'a> = dyn Fn(&ConvShape, &IntegerConv, &[u8], &[u8]) -> Vec<i64> + 'a;

/// Logits of one image by the formulas of `mars::integer`, layer by layer, dense.
pub(super) fn direct_logits(network: &IntegerNetwork, image: &[u8], convolve: &Convolve) -> Vec<i32> {
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

/// A convolution as the macros are documented to do it: kept groups of a filter set share an access in their order, each
/// access, weight slice and input phase has its partial sum, and the converter sees each of them; `saw` gets it, and whether the slice has a sign.
pub(super) fn direct_accesses(
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
