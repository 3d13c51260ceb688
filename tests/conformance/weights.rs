//! Weights with which values neither vanish nor saturate.

use mars::groups::{GroupGrid, GroupShape};
use mars::integer::{BitPlan, Fusion, ImageScale, QuantizeConfig, WeightScale};
use mars::network::{Activation, Array, Conv, ConvShape, Graph, Op, SameScale, Skip, Source, Weights, Window};

use crate::common::Random;
use crate::networks::EPSILON;

pub(super) fn image_scale(colors: usize, random: &mut Random) -> ImageScale {
    ImageScale { zero_points: random.bytes(colors), std: (0..colors).map(|_| random.real(0.15, 0.35) as f32).collect() }
}

/// What a network's training may leave behind: empty groups, and statistics that are odd unless they are `tame`.
pub(super) fn plausible_weights(
    graph: &Graph,
    group: GroupShape,
    zero_groups: f64,
    tame: bool,
    random: &mut Random,
) -> Weights {
    let mut weights = Weights::random(graph, random.next());
    for Conv { name, shape: conv, batch_norm, .. } in graph.convs() {
        let mut vector = |part: &str, draw: &mut dyn FnMut(&mut Random) -> f64| {
            let values = (0..conv.filters()).map(|_| draw(random) as f32).collect();
            weights.insert(format!("{name}.{part}"), Array::vector(values));
        };
        if batch_norm {
            vector("gamma", &mut |random| match random.below(8) {
                0 => -random.real(0.3, 1.5),
                1 if !tame => random.real(-1e-4, 1e-4),
                2 if !tame => 0.0,
                _ => random.real(0.3, 1.5),
            });
            vector("beta", &mut |random| random.real(-0.5, 0.8));
            vector("mean", &mut |random| random.real(-1.0, 1.0));
            vector("var", &mut |random| random.real(0.2, 3.0));
        } else {
            vector("bias", &mut |random| random.real(-0.5, 0.8));
        }
        let grid = GroupGrid::new(group, &conv);
        let kept: Vec<bool> = (0..grid.groups()).map(|_| random.real(0.0, 1.0) >= zero_groups).collect();
        let array = weights.get(&format!("{name}.weight")).unwrap().clone();
        let mut values = array.values;
        for (_, value) in values.iter_mut().enumerate().filter(|(index, _)| !kept[grid.group_of(*index)]) {
            *value = 0.0;
        }
        // Filters that hardly fire: their variance undoes how small their weights are.
        let faint: Vec<usize> = (0..conv.filters()).filter(|_| batch_norm && !tame && random.below(6) == 0).collect();
        for filter in faint {
            let len = values.len() / conv.filters();
            values[filter * len..][..len].iter_mut().for_each(|value| *value *= 1e-3);
            let mut var = weights.get(&format!("{name}.var")).unwrap().clone();
            var.values[filter] = 1e-6;
            weights.insert(format!("{name}.var"), var);
        }
        weights.insert(format!("{name}.weight"), Array { shape: array.shape, values });
    }
    weights
}

/// Gain and bias of a filter's batch norm, in `f64`.
pub(super) fn affine(weights: &Weights, name: &str, batch_norm: bool, filter: usize) -> (f64, f64) {
    let part = |part: &str| f64::from(weights.get(&format!("{name}.{part}")).unwrap().values[filter]);
    if !batch_norm {
        return (1.0, part("bias"));
    }
    let gain = part("gamma") / (part("var") + EPSILON).sqrt();
    (gain, part("beta") - gain * part("mean"))
}

/// Columns of a convolution's weights as they are quantized: folded, or raw where batch norm stays outside.
pub(super) fn columns(weights: &Weights, conv: &Conv, fused: bool, colors: &[f64]) -> Vec<Vec<f64>> {
    let Conv { name, shape, source, batch_norm, .. } = conv;
    let values = &weights.get(&format!("{name}.weight")).unwrap().values;
    let len = shape.depth() * shape.taps();
    let column = |(filter, column): (usize, &[f32])| -> Vec<f64> {
        let first = shape.reads(filter).start;
        let color = |index: usize| if *source == Source::Image { colors[first + index / shape.taps()] } else { 1.0 };
        let gain = if fused { affine(weights, name, *batch_norm, filter).0 } else { 1.0 };
        column.iter().enumerate().map(|(i, weight)| f64::from(*weight) * gain * color(i)).collect()
    };
    values.chunks(len).enumerate().map(column).collect()
}

/// A convolution of `[channels][height][width]` in `f64`, with zeros around.
fn float_conv(shape: &ConvShape, columns: &[Vec<f64>], input: &[f64]) -> Vec<f64> {
    let Window { kernel, stride, padding } = shape.window;
    let mut sums = Vec::with_capacity(shape.output.len());
    for (filter, column) in columns.iter().enumerate() {
        for out in 0..shape.output.pixels() {
            let (top, left) = (out / shape.output.width * stride[0], out % shape.output.width * stride[1]);
            let mut sum = 0.0;
            for (index, weight) in column.iter().enumerate() {
                let (channel, tap) = (shape.reads(filter).start + index / shape.taps(), index % shape.taps());
                let y = (top + tap / kernel[1] * shape.dilation[0]).wrapping_sub(padding[0][0]);
                let x = (left + tap % kernel[1] * shape.dilation[1]).wrapping_sub(padding[1][0]);
                if y < shape.input.height && x < shape.input.width {
                    sum += weight * input[channel * shape.input.pixels() + y * shape.input.width + x];
                }
            }
            sums.push(sum);
        }
    }
    sums
}

/// Values of every node of the float network for one image; the last ones are the logits.
pub(super) fn float_values(graph: &Graph, weights: &Weights, image_scale: &ImageScale, image: &[u8]) -> Vec<Vec<f64>> {
    let colors: Vec<f64> = image_scale.color_scales().collect();
    let pixels = graph.image().pixels();
    let zero = |index: usize| f64::from(image_scale.zero_points[index / pixels]);
    let image: Vec<f64> =
        image.iter().enumerate().map(|(index, byte)| (f64::from(*byte) - zero(index)) * image_scale.scale()).collect();
    let mut values: Vec<Vec<f64>> = Vec::new();
    let convs: Vec<Conv> = graph.convs().collect();
    for node in graph.nodes() {
        let read = |source: Source| match source {
            Source::Image => &image,
            Source::Node(index) => &values[index],
        };
        let sums = |name: &str| {
            let conv = convs.iter().find(|conv| conv.name == name).expect("a convolution of the graph");
            let sums = float_conv(&conv.shape, &columns(weights, conv, true, &colors), read(conv.source));
            let pixels = conv.shape.output.pixels();
            let bias = |index: usize| affine(weights, name, conv.batch_norm, index / pixels).1;
            sums.iter().enumerate().map(|(index, sum)| sum + bias(index)).collect::<Vec<f64>>()
        };
        let (input, output) = (node.input, node.output);
        // The largest or the sum of a window, of what lies inside.
        let pool = |Window { kernel, stride, padding }: Window, join: fn(f64, f64) -> f64| {
            let value = read(node.source);
            let pooled = (0..output.len()).map(|index| {
                let (channel, pixel) = (index / output.pixels(), index % output.pixels());
                let (top, left) = (pixel / output.width * stride[0], pixel % output.width * stride[1]);
                let taps = (0..kernel[0] * kernel[1]).filter_map(|tap| {
                    let y = (top + tap / kernel[1]).wrapping_sub(padding[0][0]);
                    let x = (left + tap % kernel[1]).wrapping_sub(padding[1][0]);
                    let inside = y < input.height && x < input.width;
                    inside.then(|| value[channel * input.pixels() + y * input.width + x])
                });
                taps.reduce(join).expect("a window reaches the map")
            });
            pooled.collect::<Vec<f64>>()
        };
        let value = match node.op {
            Op::Conv { skip, activation, .. } => {
                let mut value = sums(&node.name);
                match skip {
                    Some(Skip::Identity { source, stride, pad_front }) => {
                        let from = graph.shape(source);
                        for (index, joined) in read(source).iter().enumerate() {
                            let (channel, pixel) = (index / from.pixels(), index % from.pixels());
                            let (y, x) = (pixel / from.width, pixel % from.width);
                            if y.is_multiple_of(stride) && x.is_multiple_of(stride) {
                                let place = (channel + pad_front) * output.pixels();
                                value[place + y / stride * output.width + x / stride] += joined;
                            }
                        }
                    }
                    Some(Skip::Projection { .. }) => {
                        value
                            .iter_mut()
                            .zip(sums(&node.projection_name()))
                            .for_each(|(value, joined)| *value += joined);
                    }
                    None => {}
                }
                if activation == Activation::Relu {
                    let clip = graph.clip(values.len()).unwrap_or(f64::INFINITY);
                    value.iter_mut().for_each(|value| *value = value.max(0.0).min(clip));
                }
                value
            }
            Op::SameScale(SameScale::MaxPool { window }) => pool(window, f64::max),
            Op::SameScale(SameScale::Concat) => node.sources().flat_map(|source| read(source).clone()).collect(),
            Op::AvgPool { window } => {
                let mut value = pool(window, |a, b| a + b);
                value.iter_mut().for_each(|value| *value /= window.taps() as f64);
                value
            }
        };
        values.push(value);
    }
    values
}

/// Adds steps as calibration would choose them, and worse ones: a `share` of what covers all values of an image.
pub(super) fn add_steps(
    weights: &mut Weights,
    graph: &Graph,
    config: &QuantizeConfig,
    image_scale: &ImageScale,
    image: &[u8],
    share: [f64; 2],
    random: &mut Random,
) {
    let plan = BitPlan::new(graph, config);
    let colors: Vec<f64> = image_scale.color_scales().collect();
    let largest = |values: &[f64]| values.iter().fold(0.0f64, |a, b| a.max(b.abs()));
    let values = float_values(graph, weights, image_scale, image);
    let convs: Vec<Conv> = graph.convs().collect();
    for (index, (node, bits)) in graph.nodes().iter().zip(&plan.nodes).enumerate() {
        let own = |name: &str| *name == node.name || *name == node.projection_name();
        for conv in convs.iter().filter(|conv| own(&conv.name)) {
            let limit = f64::from((1u32 << (bits.conv().unwrap().weights - 1)) - 1);
            let columns = columns(weights, conv, config.fusion != Fusion::None, &colors);
            let layer = columns.iter().map(|column| largest(column)).fold(0.0, f64::max);
            let layer = if layer > 0.0 { layer } else { 1.0 };
            let share = random.real(share[0], share[1]);
            let step = |largest: f64| (if largest > 0.0 { largest } else { layer } * share / limit) as f32;
            let logits = matches!(node.op, Op::Conv { logits: true, .. });
            let steps = match config.weight_scale == WeightScale::Column && !logits {
                true => columns.iter().map(|column| step(largest(column))).collect(),
                false => vec![step(layer)],
            };
            weights.insert(format!("{}.weight_step", conv.name), Array::vector(steps));
        }
        if graph.scale_node(index) == index && !bits.forms.is_empty() {
            let narrowest = plan.narrowest(Source::Node(index));
            let is_signed = graph.is_signed(Source::Node(index));
            let limit = f64::from((1u32 << (narrowest - u8::from(is_signed))) - 1);
            // Of all that shares the step.
            let sharing = (index..values.len()).filter(|node| graph.scale_node(*node) == index);
            let range = sharing.map(|node| largest(&values[node])).fold(0.0, f64::max);
            let step = if range > 0.0 { range } else { 1.0 } * random.real(share[0], share[1]) / limit;
            weights.insert(format!("{}.output_step", node.name), Array::vector(vec![step as f32]));
        }
    }
}
