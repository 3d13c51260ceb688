//! Random networks of all kinds of layers.

use mars::network::{Activation, Border, LayerSpec, NetworkSpec, Shortcut, Sides, SkipSpec, Window};
use proptest::prelude::*;

pub(super) const CLASSES: usize = 5;
/// What batch norms add to a variance: not the default.
pub(super) const EPSILON: f64 = 1e-3;

/// One stretch of a random network; sizes that don't fit the map at hand are made to.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) kind: Kind,
    pub(super) filters: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) batch_norm: bool,
    /// Its last layer has no activation.
    pub(super) is_linear: bool,
    /// What makes windows differ by side.
    pub(super) uneven: Uneven,
}

/// How windows differ by side; sizes that don't fit the map at hand are made to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uneven {
    /// The height of the kernel, where it isn't the width.
    pub(super) height: Option<usize>,
    /// Added to the stride of columns.
    pub(super) stride: usize,
    /// Added to the dilation of rows and of columns.
    pub(super) dilation: [usize; 2],
    /// Added to the border below and on the right.
    pub(super) padding: [usize; 2],
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
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

pub(super) fn stretch() -> impl Strategy<Value = Stretch> {
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
pub(super) enum End {
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

pub(super) fn network_spec(input: [usize; 3], stretches: &[Stretch], end: End) -> NetworkSpec {
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
