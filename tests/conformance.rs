//! One network, three executions: fake-quant, integer and macro give the same logits, to the last bit.

#![cfg(feature = "train")]

mod common;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use common::{Random, provenance};
use mars::data::{DataOptions, Dataset};
use mars::groups::{GroupGrid, GroupShape};
use mars::hardware::{AccessMode, Converter, Hardware, MacroNetwork, Noise, evaluate};
use mars::integer::{
    BitPlan, FoldOptions, Fusion, ImageScale, IntegerConv, IntegerLayer, IntegerNetwork, LayerBits, QuantizeConfig,
    Reference, WeightScale, fold, predict,
};
use mars::network::{
    Activation, Array, Border, Conv, ConvShape, Graph, LayerSpec, NetworkSpec, Op, Params, SameScale, Shortcut, Sides,
    Skip, SkipSpec, Source, Weights, Window,
};
use mars::observer::{Silent, StopSignal};
use mars::package::Package;
use mars::quantize::FakeQuant;
use mars::run::{Cpu, Environment, Outcome, Plan};
use mars::train::{Phase, PhaseKind, Recipe, StartFrom};
use mars::validation::{validate, validate_until};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

const CLASSES: usize = 5;
/// What batch norms add to a variance: not the default.
const EPSILON: f64 = 1e-3;

// Networks.

/// One stretch of a random network; sizes that don't fit the map at hand are made to.
#[derive(Clone, Debug)]
struct Stretch {
    kind: Kind,
    filters: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    batch_norm: bool,
    /// Its last layer has no activation.
    is_linear: bool,
    /// What makes windows differ by side.
    uneven: Uneven,
}

/// How windows differ by side; sizes that don't fit the map at hand are made to.
#[derive(Clone, Copy, Debug, Default)]
struct Uneven {
    /// The height of the kernel, where it isn't the width.
    height: Option<usize>,
    /// Added to the stride of columns.
    stride: usize,
    /// Added to the dilation of rows and of columns.
    dilation: [usize; 2],
    /// Added to the border below and on the right.
    padding: [usize; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Conv,
    /// A convolution whose ReLU is clipped.
    Clipped,
    /// A convolution in groups, depthwise ones among them.
    Grouped,
    /// A convolution without an activation.
    Linear,
    /// Three convolutions, the second depthwise, the third with what the first reads and without an activation: MobileNetV2's.
    Inverted,
    /// Two convolutions, the second with what the first reads: strided, with channels added.
    Identity,
    /// One convolution with a projection of what it reads.
    Projection,
    /// Two convolutions of the same value, added.
    Branches,
    Max,
    Mean,
    Hidden,
    /// Two convolutions of the same value, and a maximum of it or a mean of one of them, behind each other.
    Concat,
}

fn stretch() -> impl Strategy<Value = Stretch> {
    use Kind::{Branches, Clipped, Concat, Conv, Grouped, Hidden, Identity, Inverted, Linear, Max, Mean, Projection};
    let kinds = vec![
        Conv, Clipped, Conv, Grouped, Grouped, Linear, Linear, Inverted, Inverted, Identity, Identity, Projection,
        Projection, Branches, Max, Mean, Hidden, Concat, Concat,
    ];
    let sizes = (1usize..=20, 1usize..=5, 1usize..=3, 0usize..=4);
    (prop::sample::select(kinds), sizes, any::<bool>(), prop::bool::weighted(0.2), uneven()).prop_map(
        |(kind, (filters, kernel, stride, padding), batch_norm, is_linear, uneven)| Stretch {
            kind,
            filters,
            kernel,
            stride,
            padding,
            batch_norm,
            is_linear,
            uneven,
        },
    )
}

fn uneven() -> impl Strategy<Value = Uneven> {
    let draw = (prop::option::of(1usize..=5), 0usize..=2, [0usize..=2, 0usize..=2], [0usize..=2, 0usize..=2]);
    let draw = draw.prop_map(|(height, stride, dilation, padding)| Uneven { height, stride, dilation, padding });
    prop_oneof![Just(Uneven::default()), draw]
}

/// How a network ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Linear,
    MeanThenLinear,
    MeanThenConv,
    /// Folded into the last layer, whose columns share a scale.
    BatchNorm,
}

/// Layers so far, with the shape of the last one's output.
struct Builder {
    layers: Vec<LayerSpec>,
    channels: usize,
    height: usize,
    width: usize,
}

impl Builder {
    fn name(&self) -> String {
        format!("l{}", self.layers.len())
    }

    fn last(&self) -> String {
        self.layers.last().expect("a network begins with a convolution").name().into()
    }

    #[allow(clippy::too_many_arguments)]
    fn conv(
        &mut self,
        input: Option<String>,
        from: [usize; 3],
        filters: usize,
        window: Window,
        dilation: [usize; 2],
        batch_norm: bool,
        add: Option<SkipSpec>,
    ) -> String {
        let name = self.name();
        let kernel = [0, 1].map(|side| (window.kernel[side] - 1) * dilation[side] + 1);
        let [height, width] = Window { kernel, ..window }.windows([from[1], from[2]]).expect("a window that fits");
        (self.channels, self.height, self.width) = (filters, height, width);
        self.layers.push(LayerSpec::Conv {
            batch_norm_epsilon: None,
            name: name.clone(),
            input,
            filters,
            kernel: Sides(window.kernel),
            stride: Sides(window.stride),
            padding: Border(window.padding),
            dilation: Sides(dilation),
            groups: 1,
            batch_norm,
            add,
            activation: Activation::Relu,
            clip: None,
        });
        name
    }

    /// A square one that moves the same both ways.
    fn square(
        &mut self,
        input: Option<String>,
        from: [usize; 3],
        filters: usize,
        window: [usize; 3],
        batch_norm: bool,
        add: Option<SkipSpec>,
    ) -> String {
        let [kernel, stride, padding] = window;
        self.conv(input, from, filters, Window::square(kernel, stride, padding), [1; 2], batch_norm, add)
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    fn add(&mut self, stretch: &Stretch, first: bool) {
        self.add_layers(stretch, first);
        let clipped = self.layers.last().and_then(LayerSpec::clip).is_some();
        if (stretch.is_linear || matches!(stretch.kind, Kind::Linear | Kind::Inverted)) && !clipped {
            self.leave_linear();
        }
    }

    /// Whether a layer's values have a sign.
    fn is_signed(&self, name: &str) -> bool {
        let index = self.layers.iter().position(|layer| layer.name() == name).expect("a layer before it");
        match &self.layers[index] {
            LayerSpec::Conv { activation, .. } | LayerSpec::Linear { activation, .. } => {
                *activation == Activation::None
            }
            layer @ (LayerSpec::MaxPool { .. } | LayerSpec::AvgPool { .. } | LayerSpec::Concat { .. }) => {
                self.is_signed(layer.input().unwrap_or_else(|| self.layers[index - 1].name()))
            }
        }
    }

    /// Takes the activation off the last layer, where it has one.
    fn leave_linear(&mut self) {
        if let Some(LayerSpec::Conv { activation, .. } | LayerSpec::Linear { activation, .. }) = self.layers.last_mut()
        {
            *activation = Activation::None;
        }
    }

    fn add_layers(&mut self, stretch: &Stretch, first: bool) {
        let &Stretch { filters, stride, batch_norm, .. } = stretch;
        let here = self.shape();
        let [channels, height, width] = here;
        let odd = stretch.kernel | 1;
        let same = odd / 2;
        match stretch.kind {
            Kind::Grouped => self.add_grouped(stretch),
            _ if first => self.add_conv(stretch),
            Kind::Clipped => {
                self.add_conv(stretch);
                let Some(LayerSpec::Conv { clip, .. }) = self.layers.last_mut() else { unreachable!("it was added") };
                *clip = Some(1.5);
            }
            Kind::Conv | Kind::Linear => self.add_conv(stretch),
            Kind::Inverted => {
                let from = self.last();
                let wide = channels * (1 + filters % 3);
                self.square(None, here, wide, [1, 1, 0], batch_norm, None);
                let Some(LayerSpec::Conv { clip, .. }) = self.layers.last_mut() else { unreachable!("it was added") };
                *clip = Some(6.0);
                let here = self.shape();
                self.square(None, here, wide, [odd, stride, same], true, None);
                let Some(LayerSpec::Conv { groups, .. }) = self.layers.last_mut() else { unreachable!("it was added") };
                *groups = wide;
                let add = SkipSpec { from, shortcut: Shortcut::Identity, stride, batch_norm: true };
                let here = self.shape();
                self.square(None, here, channels, [1, 1, 0], true, (filters % 4 > 0).then_some(add));
            }
            Kind::Identity => {
                let from = self.last();
                let wider = channels + filters % 6;
                self.square(None, here, filters, [odd, stride, same], batch_norm, None);
                let add = SkipSpec { from, shortcut: Shortcut::Identity, stride, batch_norm: true };
                let here = self.shape();
                self.square(None, here, wider, [3, 1, 1], true, Some(add));
            }
            Kind::Projection => {
                let batch_norm = stretch.padding.is_multiple_of(2);
                let add = SkipSpec { from: self.last(), shortcut: Shortcut::Projection, stride, batch_norm };
                let batch_norm = stretch.batch_norm;
                self.square(None, here, filters, [odd, stride, same], batch_norm, Some(add));
            }
            Kind::Branches => {
                let input = Some(self.last());
                let from = self.square(None, here, filters, [odd, stride, same], true, None);
                let add = SkipSpec { from, shortcut: Shortcut::Identity, stride: 1, batch_norm: true };
                self.square(input, here, filters, [1, stride, 0], batch_norm, Some(add));
            }
            Kind::Concat => {
                let from = self.last();
                let first = self.square(Some(from.clone()), here, filters, [1, stride, 0], batch_norm, None);
                let kernel = 1 + stretch.padding % 3;
                let (mut inputs, mut channels) = (vec![first.clone()], filters);
                // The scale of a maximum is that of what it reads.
                let shares = !self.is_signed(&from) && self.layers.iter().all(|layer| layer.clip().is_none());
                match filters % 3 {
                    0 => {
                        let padding = Border([[kernel / 2, (kernel - 1) / 2]; 2]);
                        let (name, kernel, stride) = (self.name(), Some(kernel.into()), Some(1.into()));
                        self.layers.push(LayerSpec::AvgPool { name, input: Some(first), kernel, stride, padding });
                        inputs.push(self.last());
                        channels += filters;
                    }
                    1 if shares => {
                        let (name, input) = (self.name(), Some(from.clone()));
                        let (kernel, stride, padding) = (odd.into(), stride.into(), same.into());
                        self.layers.push(LayerSpec::MaxPool { name, input, kernel, stride, padding });
                        inputs.push(self.last());
                        channels += here[0];
                    }
                    _ => {}
                }
                inputs.push(self.square(Some(from), here, 1 + filters / 2, [odd, stride, same], true, None));
                let name = self.name();
                self.layers.push(LayerSpec::Concat { name, inputs });
                self.channels = channels + 1 + filters / 2;
            }
            Kind::Max => {
                let largest = Stretch { kernel: stretch.kernel.min(3), ..stretch.clone() };
                let (window, _) =
                    self.window(&Stretch { uneven: Uneven { dilation: [0; 2], ..stretch.uneven }, ..largest });
                let name = self.name();
                let (kernel, stride, padding) = (Sides(window.kernel), Sides(window.stride), Border(window.padding));
                self.layers.push(LayerSpec::MaxPool { name, input: None, kernel, stride, padding });
                [self.height, self.width] = window.windows([height, width]).expect("a window that fits");
            }
            Kind::Mean => {
                let dense = Stretch { uneven: Uneven { dilation: [0; 2], ..stretch.uneven }, ..stretch.clone() };
                let (mut window, _) = self.window(&dense);
                // Every second one lies side by side, as far as it goes.
                let stride = (!filters.is_multiple_of(2)).then_some(Sides(window.stride));
                window.stride = stride.map_or(window.kernel, |stride| stride.0);
                let (kernel, padding) = (Some(Sides(window.kernel)), Border(window.padding));
                let name = self.name();
                self.layers.push(LayerSpec::AvgPool { name, input: None, kernel, stride, padding });
                [self.height, self.width] = window.windows([height, width]).expect("a window that fits");
            }
            Kind::Hidden => {
                let name = self.name();
                self.layers.push(LayerSpec::Linear {
                    name,
                    input: None,
                    filters,
                    batch_norm,
                    batch_norm_epsilon: Some(EPSILON),
                    activation: Activation::Relu,
                });
                (self.channels, self.height, self.width) = (filters, 1, 1);
            }
        }
    }

    /// As many groups as one of the divisors of the channels, and up to three filters for each of a group's channels.
    fn add_grouped(&mut self, stretch: &Stretch) {
        let channels = self.channels;
        let divisors: Vec<usize> = (1..=channels).rev().filter(|groups| channels.is_multiple_of(*groups)).collect();
        let chosen = divisors[stretch.padding % divisors.len()];
        self.add_conv(&Stretch {
            filters: chosen * (1 + stretch.filters % (3 * channels / chosen)),
            ..stretch.clone()
        });
        let Some(LayerSpec::Conv { groups, .. }) = self.layers.last_mut() else { unreachable!("it was added") };
        *groups = chosen;
    }

    fn add_conv(&mut self, stretch: &Stretch) {
        let (window, dilation) = self.window(stretch);
        let here = self.shape();
        self.conv(None, here, stretch.filters, window, dilation, stretch.batch_norm, None);
    }

    /// The window of a stretch that fits the map at hand, and its dilation.
    fn window(&self, stretch: &Stretch) -> (Window, [usize; 2]) {
        let Uneven { height, stride, dilation, padding } = stretch.uneven;
        let mut window = Window::square(stretch.kernel, stretch.stride, stretch.padding);
        window.kernel[0] = height.unwrap_or(stretch.kernel);
        window.stride[1] += stride;
        let mut dilations = [1 + dilation[0], 1 + dilation[1]];
        for (side, size) in [self.height, self.width].into_iter().enumerate() {
            window.padding[side][1] += padding[side];
            let span = |kernel: usize, dilation: usize| (kernel - 1) * dilation + 1;
            let bordered = |window: &Window, span: usize| {
                size + window.padding[side].iter().map(|padding| (*padding).min(span - 1)).sum::<usize>()
            };
            let fits = |window: &Window, dilation: usize| {
                let span = span(window.kernel[side], dilation);
                bordered(window, span) >= span
            };
            if !fits(&window, dilations[side]) {
                dilations[side] = 1;
            }
            if !fits(&window, dilations[side]) {
                window.kernel[side] = size;
            }
            let most = span(window.kernel[side], dilations[side]) - 1;
            window.padding[side] = window.padding[side].map(|padding| padding.min(most));
        }
        (window, dilations)
    }
}

fn network_spec(input: [usize; 3], stretches: &[Stretch], end: End) -> NetworkSpec {
    let [channels, height, width] = input;
    let mut builder = Builder { layers: Vec::new(), channels, height, width };
    for (index, stretch) in stretches.iter().enumerate() {
        builder.add(stretch, index == 0);
    }
    if let End::MeanThenLinear | End::MeanThenConv = end {
        let name = builder.name();
        builder.layers.push(LayerSpec::AvgPool { name, input: None, kernel: None, stride: None, padding: 0.into() });
        (builder.height, builder.width) = (1, 1);
    }
    if let End::MeanThenConv = end {
        let here = builder.shape();
        builder.square(None, here, CLASSES, [1, 1, 0], false, None);
    } else {
        let batch_norm = matches!(end, End::BatchNorm);
        let name = builder.name();
        builder.layers.push(LayerSpec::Linear {
            name,
            input: None,
            filters: CLASSES,
            batch_norm,
            batch_norm_epsilon: None,
            activation: Activation::Relu,
        });
    }
    NetworkSpec { name: "random".into(), input, classes: CLASSES, batch_norm_epsilon: EPSILON, layers: builder.layers }
}

// Weights.

fn image_scale(colors: usize, random: &mut Random) -> ImageScale {
    ImageScale { zero_points: random.bytes(colors), std: (0..colors).map(|_| random.real(0.15, 0.35) as f32).collect() }
}

/// What a network's training may leave behind: empty groups, and statistics that are odd unless they are `tame`.
fn plausible_weights(graph: &Graph, group: GroupShape, zero_groups: f64, tame: bool, random: &mut Random) -> Weights {
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
fn affine(weights: &Weights, name: &str, batch_norm: bool, filter: usize) -> (f64, f64) {
    let part = |part: &str| f64::from(weights.get(&format!("{name}.{part}")).unwrap().values[filter]);
    if !batch_norm {
        return (1.0, part("bias"));
    }
    let gain = part("gamma") / (part("var") + EPSILON).sqrt();
    (gain, part("beta") - gain * part("mean"))
}

/// Columns of a convolution's weights as they are quantized: folded, or raw where batch norm stays outside.
fn columns(weights: &Weights, conv: &Conv, fused: bool, colors: &[f64]) -> Vec<Vec<f64>> {
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
fn float_values(graph: &Graph, weights: &Weights, image_scale: &ImageScale, image: &[u8]) -> Vec<Vec<f64>> {
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
fn add_steps(
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

// Executions.

/// Random images, some dark, some bright, some of little contrast.
fn images(count: usize, len: usize, random: &mut Random) -> Vec<u8> {
    let mut images = Vec::with_capacity(count * len);
    for _ in 0..count {
        let (low, range) = (random.below(200), 1 + random.below(256));
        images.extend((0..len).map(|_| (low + random.below(range)).min(255) as u8));
    }
    images
}

/// A network after its way through the package's bytes.
fn through_the_package(network: &IntegerNetwork) -> IntegerNetwork {
    let package = Package { network: network.clone(), provenance: provenance(), predictions: None };
    let read = Package::from_bytes(&package.to_bytes().unwrap()).unwrap();
    assert_eq!(read, package);
    read.network
}

/// Runs all three executions, which have to agree; fake-quant from the fold, the other two from the package.
fn agree(network: &IntegerNetwork, devices: &[Device], chips: &[Hardware], images: &[u8]) -> Vec<i32> {
    let read = through_the_package(network);
    let integer = Reference::new(&read).unwrap().logits(images);
    for device in devices {
        assert_eq!(FakeQuant::new(network, device).logits(images), integer, "fake-quant and integer");
    }
    for hardware in chips {
        let chip = MacroNetwork::new(&read, hardware).unwrap();
        assert_eq!(chip.logits(images).unwrap(), integer, "macro on {} and integer", hardware.name);
        // The cost model asserts that each kept group is computed exactly once.
        evaluate(&read, hardware).unwrap();
    }
    integer
}

fn ndarray() -> Device {
    mars::train::device("ndarray").unwrap()
}

fn fold_options<'a>(
    quantize: &'a QuantizeConfig,
    image_scale: &'a ImageScale,
    group: GroupShape,
    classes: &'a [String],
) -> FoldOptions<'a> {
    FoldOptions { quantize, image_scale, group, classes }
}

fn class_names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| format!("class {class}")).collect()
}

/// A chip of another shape than the shipped one: rows that the sections don't fill, one macro, few rows.
fn chip(group: GroupShape, extra_rows: usize, one_macro: bool) -> Hardware {
    let rows_on = group.channels + extra_rows;
    let rows = if one_macro { 256.max(rows_on) } else { rows_on * 7 };
    let (cores, macros_per_core) = if one_macro { (1, 1) } else { (3, 2) };
    Hardware { name: "other".into(), group, rows_on, rows, partitions: 1, cores, macros_per_core, ..Hardware::mars() }
}

fn eight_bits() -> QuantizeConfig {
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
struct Case {
    input: [usize; 3],
    stretches: Vec<Stretch>,
    end: End,
    config: QuantizeConfig,
    group: GroupShape,
    extra_rows: usize,
    one_macro: bool,
    zero_groups: f64,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
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
    fn fold(&self, tame: bool) -> Result<(Weights, ImageScale, IntegerNetwork), TestCaseError> {
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

// Named cases.

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

// Training's forward pass and the fold.

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the fake quantizers of training do to a folded weight in `f32`, the fold does in `f64`: a rounding tie may fall on
    /// either side, nothing else differs as long as no scale has to be raised.
    #[test]
    fn folded_weights_are_those_of_the_fake_quantizers(case in case()) {
        let (weights, image_scale, network) = case.fold(true)?;
        let fused = case.config.fusion != Fusion::None;
        let colors: Vec<f64> = image_scale.color_scales().collect();
        let integers: Vec<_> = network.convs().map(|(conv, integer)| (conv.name, integer)).collect();
        for conv in network.graph.convs() {
            let Conv { name, shape, batch_norm, .. } = &conv;
            let integer = integers.iter().find(|(other, _)| other == name).unwrap().1;
            let steps = &weights.get(&format!("{name}.weight_step")).unwrap().values;
            let limit = ((1i32 << (integer.weight_bits - 1)) - 1) as f32;
            let len = shape.depth() * shape.taps();
            for (filter, column) in columns(&weights, &conv, fused, &colors).iter().enumerate() {
                let step = steps[if steps.len() > 1 { filter } else { 0 }];
                let outside = !fused && *batch_norm;
                let gain = affine(&weights, name, *batch_norm, filter).0;
                for (weight, q) in column.iter().zip(&integer.weights[filter * len..]) {
                    // Batch norm outside has a multiplier without a sign: the weight takes it.
                    let sign = if outside { gain.signum() as f32 } else { 1.0 };
                    let exact = (*weight as f32 / step * sign).clamp(-limit, limit);
                    let distance = (exact - f32::from(*q)).abs();
                    prop_assert!(distance <= 0.5 + 1e-3, "{name}: {exact} became {q}");
                }
            }
        }
    }
}

/// Runs a recipe on the small network.
fn run(folder: &Path, data: &Path, device: &str, recipe: &str) -> mars::validation::Deployment {
    run_network(&common::tiny_network(10), folder, data, device, recipe)
}

/// Runs a recipe on a network of a TOML file.
fn run_network(network: &str, folder: &Path, data: &Path, device: &str, recipe: &str) -> mars::validation::Deployment {
    fs::create_dir_all(folder).unwrap();
    let (description, file) = (folder.join("network.toml"), folder.join("in.toml"));
    fs::write(&description, network).unwrap();
    let model = description.display().to_string();
    fs::write(&file, format!("model = {model:?}\npretrained = \"none\"\n{recipe}")).unwrap();
    let recipe = Recipe::load(Some(&file), &[]).unwrap();
    let data = DataOptions { data_dir: Some(data.into()), ..DataOptions::default() };
    let environment = Environment { data: &data, device, observer: &Silent };
    let plan = Plan::new(recipe, Some(folder.join("run")), environment);
    match plan.unwrap().run(&StopSignal::default()).unwrap() {
        Outcome::Finished(_, deployment) => *deployment,
        Outcome::Interrupted(_) => panic!("nobody pressed Ctrl-C"),
    }
}

/// A run without a single step is stopped before its phase, and goes on from there.
#[test]
fn a_run_stops_between_phases_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("network.toml");
    fs::write(&model, common::tiny_network(10)).unwrap();
    let recipe = Recipe {
        model: model.display().to_string(),
        dataset: "cifar10-mini".into(),
        pretrained: StartFrom::Random,
        calibration_images: 16,
        phases: vec![Phase::new(PhaseKind::Quantize, 0, 0.01)],
        ..Recipe::default()
    };
    let environment = Environment { data: &DataOptions::default(), device: "flex", observer: &Silent };
    let run = folder.path().join("run");
    let stop = StopSignal::default();
    stop.stop();
    let plan = Plan::new(recipe, Some(run.clone()), environment).unwrap();
    assert!(matches!(plan.run(&stop).unwrap(), Outcome::Interrupted(_)));
    assert!(!run.join("model.mars").exists());
    let plan = Plan::resume(run.clone(), Cpu::Same, environment).unwrap();
    assert!(matches!(plan.run(&StopSignal::default()).unwrap(), Outcome::Finished(..)));
    assert!(run.join("model.mars").exists());
}

/// The lines of a run's `metrics.jsonl`.
fn metrics(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(value: &serde_json::Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {value}"))
}

/// A recipe that trains in float and then, quantized, with a learning rate that moves nothing; lines may be added at its `top`, to its
/// `quantize` section and to its last `phase`.
fn still(bits: &str, fusion: &str, scale: &str, epochs: &str, top: &str, quantize: &str, phase: &str) -> String {
    format!(
        r#"
        batch_size = 60
        augment = false
        {top}
        [quantize]
        weight_bits = {bits}
        activation_bits = {bits}
        fusion = "{fusion}"
        weight_scale = "{scale}"
        {quantize}
        [[phases]]
        kind = "float"
        epochs = 6
        learning_rate = 0.05
        [[phases]]
        kind = "quantize"
        epochs = {epochs}
        learning_rate = 1e-30
        {phase}
        "#
    )
}

/// Steps of a learning rate that moves nothing show the loss of training's own forward pass; the exported integers have the same.
/// Where training looks at the batch, here all images, the running statistics come to be the batch's.
#[test]
fn training_computes_the_loss_of_what_it_exports() {
    let dir = TempDir::new().unwrap();
    common::write_cifar10(dir.path(), 12, 20);
    let cases = [
        ["6", "frozen", "layer", "1", ""],
        ["6", "frozen", "column", "1", ""],
        ["2", "frozen", "layer", "1", ""],
        ["3", "frozen", "column", "1", ""],
        ["3", "once", "layer", "1", ""],
        ["3", "once", "column", "1", ""],
        ["4", "batch", "layer", "80", "freeze_at = 80"],
        ["4", "ema", "layer", "80", "freeze_at = 80"],
        ["4", "ema", "column", "80", "freeze_at = 80"],
        ["4", "none", "layer", "80", ""],
        ["4", "ema", "layer", "2", "freeze_at = 1"],
        ["4", "batch", "layer", "2", "freeze_at = 0.5"],
    ];
    let signed_cases = [
        ["6", "frozen", "layer", "1", ""],
        ["2", "frozen", "column", "1", ""],
        ["3", "once", "layer", "1", ""],
        ["4", "batch", "layer", "80", "freeze_at = 80"],
        ["4", "ema", "column", "80", "freeze_at = 80"],
        ["4", "none", "layer", "80", ""],
    ];
    let (tiny, bottleneck) = (common::tiny_network(10), common::bottleneck_network(10));
    let joined = common::joined_network(10);
    let joined_cases = [
        ["6", "frozen", "layer", "1", ""],
        ["3", "once", "column", "1", ""],
        ["4", "ema", "layer", "80", "freeze_at = 80"],
        ["4", "none", "layer", "80", ""],
    ];
    let others =
        signed_cases.map(|case| (&bottleneck, case)).into_iter().chain(joined_cases.map(|case| (&joined, case)));
    for (network, case) in cases.map(|case| (&tiny, case)).into_iter().chain(others) {
        let kind = match network {
            network if *network == tiny => "tiny",
            network if *network == bottleneck => "bottleneck",
            _ => "joined",
        };
        let folder = dir.path().join(format!("{kind}-{}", case.join("-").replace([' ', '='], "")));
        let [bits, fusion, scale, epochs, extra] = case;
        let recipe = still(bits, fusion, scale, epochs, "", "", extra);
        let deployment = run_network(network, &folder, dir.path(), "flex", &recipe);
        assert_eq!(deployment.mismatches.fake_quant_vs_macro_predictions, Some(0), "{}", folder.display());
        assert_eq!(deployment.mismatches.integer_vs_macro_logits, 0, "{}", folder.display());
        let reference = Reference::new(&deployment.package.network).unwrap();
        // Running variances are unbiased, a batch's isn't. Elsewhere the losses differ by some 1e-7, or 1e-4 for a value that rounding
        // takes to the other side of a half.
        let tolerance = if case[3] == "80" { 0.02 } else { 1e-3 };
        compare_losses(&folder, dir.path(), |images| reference.logits(images), tolerance);
    }
}

/// Compares the loss and the accuracy of the last epoch with those of `logits` on the training images.
fn compare_losses(folder: &Path, data: &Path, logits: impl Fn(&[u8]) -> Vec<i32>, tolerance: f64) {
    let line = metrics(folder).pop().unwrap();
    let (weights, _) = Weights::load(&folder.join("run/checkpoints/last.safetensors")).unwrap();
    let step = |name: &str| f64::from(weights.get(name).unwrap().values[0]);
    let unit = step("linear.weight_step") * step("mean.output_step");
    let options = DataOptions { data_dir: Some(data.into()), ..DataOptions::default() };
    let train = Dataset::load("cifar10", &options).unwrap().train;
    let (mut loss, mut right) = (0.0, 0);
    for (logits, &label) in logits(&train.images).chunks(10).zip(&train.labels) {
        let logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) * unit).collect();
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        loss += (sum.ln() - logits[usize::from(label)]) / train.len() as f64;
        right += usize::from((0..10).all(|class| logits[class] <= logits[usize::from(label)]));
    }
    let name = folder.display();
    let (trained_loss, trained_accuracy) = (number(&line, "loss"), number(&line, "train_accuracy"));
    assert!((trained_loss / loss - 1.0).abs() < tolerance, "{name}: loss {trained_loss} and {loss}");
    let accuracy = 100.0 * right as f64 / train.len() as f64;
    // Where the losses may differ, so may the images of a network that is hardly trained.
    let same = tolerance > 0.01 || (trained_accuracy - accuracy).abs() < 2.0;
    assert!(same, "{name}: {trained_accuracy} % and {accuracy} %");
}

/// Training that knows the converter computes what the chip does; training that doesn't, what the integers do. Evaluation is the
/// chip's in both.
#[test]
fn converter_aware_training_computes_the_loss_of_the_chip() {
    let dir = TempDir::new().unwrap();
    common::write_cifar10(dir.path(), 12, 20);
    let mars = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let chip = fs::read_to_string("experiments/hardware/adc5.toml").unwrap();
    let chip = chip.replace("base = \"mars.toml\"", &format!("base = {mars:?}")).replace("step = 1", "step = 2");
    let stuck = chip.replace("[converter]", "[noise]\nstuck_at_one = 0.002\nseed = 5\n\n[converter]");
    let noisy = chip.replace("[converter]", "[noise]\nsigma = 0.6\nseed = 5\n\n[converter]");
    for (name, text) in [("coarse", &chip), ("stuck", &stuck), ("noisy", &noisy)] {
        fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
    }
    let cases = [
        ("coarse", "frozen", "layer", true, 1),
        ("coarse", "frozen", "column", true, 1),
        ("stuck", "once", "layer", true, 1),
        ("coarse", "batch", "layer", true, 80),
        ("coarse", "ema", "layer", true, 80),
        ("coarse", "none", "layer", true, 80),
        ("coarse", "frozen", "layer", false, 1),
        ("noisy", "frozen", "layer", true, 1),
    ];
    let signed_cases = [
        ("coarse", "frozen", "layer", true, 1),
        ("stuck", "once", "layer", true, 1),
        ("coarse", "none", "layer", true, 80),
    ];
    let (tiny, bottleneck) = (common::tiny_network(10), common::bottleneck_network(10));
    let cases = cases.map(|case| (&tiny, case)).into_iter().chain(signed_cases.map(|case| (&bottleneck, case)));
    for (network, (chip, fusion, scale, aware, epochs)) in cases {
        let hardware = dir.path().join(format!("{chip}.toml")).display().to_string();
        let chip_file = format!("hardware = \"{hardware}\"");
        let aware_key = format!("converter_aware = {aware}");
        let freeze = if matches!(fusion, "batch" | "ema") { "freeze_at = 80" } else { "" };
        let recipe = still("4", fusion, scale, &epochs.to_string(), &chip_file, &aware_key, freeze);
        let kind = if *network == tiny { "tiny" } else { "bottleneck" };
        let folder = dir.path().join(format!("{kind}-{chip}-{fusion}-{scale}-{aware}"));
        let deployment = run_network(network, &folder, dir.path(), "flex", &recipe);
        let mismatches = &deployment.mismatches;
        assert_eq!(mismatches.fake_quant_vs_macro_predictions, Some(0), "{}", folder.display());
        assert!(mismatches.integer_vs_macro_logits > 0);
        let line = metrics(&folder).pop().unwrap();
        assert_eq!(number(&line, "test_accuracy"), deployment.accuracy.macro_model);
        if chip == "noisy" {
            // Training draws its own noise, the same at every run.
            let again = dir.path().join("again");
            run(&again, dir.path(), "flex", &recipe);
            let losses = [&folder, &again].map(|folder| number(&metrics(folder).pop().unwrap(), "loss"));
            assert_eq!(losses[0], losses[1]);
            continue;
        }
        let hardware = Hardware::load(Path::new(&hardware)).unwrap();
        let macros = MacroNetwork::new(&deployment.package.network, &hardware).unwrap();
        let reference = Reference::new(&deployment.package.network).unwrap();
        let logits = |images: &[u8]| if aware { macros.logits(images).unwrap() } else { reference.logits(images) };
        // Weights that round to the other side with the running statistics meet the converter's stairs.
        // A value that rounding takes to the other side of a half climbs a stair with what follows it: more often where maps are larger.
        let tolerance = match (epochs > 1, *network == tiny) {
            (true, _) => 0.1,
            (false, true) => 2e-3,
            (false, false) => 2e-2,
        };
        compare_losses(&folder, dir.path(), logits, tolerance);
    }
}

#[test]
fn a_step_and_an_evaluation_agree_on_both_devices() {
    agree_on_both_devices(&common::tiny_network(10));
}

#[test]
fn both_devices_agree_on_windows_of_every_kind_and_on_maps_behind_each_other() {
    agree_on_both_devices(&common::joined_network(10));
}

fn agree_on_both_devices(network: &str) {
    let dir = TempDir::new().unwrap();
    common::write_cifar10(dir.path(), 4, 20);
    // One step of each kind; after the first, float noise may tip a rounding or a choice to the other side.
    let recipe = r#"
        batch_size = 20
        calibration_images = 20
        [quantize]
        weight_bits = 8
        activation_bits = 8
        [[phases]]
        kind = "float"
        epochs = 1
        learning_rate = 0.01
        [[phases]]
        kind = "quantize"
        epochs = 1
        learning_rate = 0.001
    "#;
    let results = ["flex", "ndarray"].map(|device| {
        let folder = dir.path().join(device);
        let deployment = run_network(network, &folder, dir.path(), device, recipe);
        let (arrays, _) = Weights::load(&folder.join("run/checkpoints/0-float.safetensors")).unwrap();
        (metrics(&folder), arrays, deployment.mismatches)
    });
    let [(flex_metrics, flex_arrays, flex_mismatches), (metrics, arrays, mismatches)] = results;
    assert_eq!((flex_metrics.len(), metrics.len()), (2, 2));
    for ((a, b), tolerance) in flex_metrics.iter().zip(&metrics).zip([1e-4, 1e-2]) {
        let (a, b) = (number(a, "loss"), number(b, "loss"));
        assert!((a - b).abs() < tolerance, "losses {a} and {b}");
    }
    assert!(flex_arrays.iter().map(|(name, _)| name).eq(arrays.iter().map(|(name, _)| name)));
    for ((name, a), (_, b)) in flex_arrays.iter().zip(arrays.iter()) {
        let difference = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = a.values.iter().fold(1.0, |largest: f32, value| largest.max(value.abs()));
        assert!(difference < 1e-4 * largest, "{name}: {difference}");
    }
    assert_eq!(mismatches, flex_mismatches);
    assert_eq!(mismatches.fake_quant_vs_macro_predictions, Some(0));
}
