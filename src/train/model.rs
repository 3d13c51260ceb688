//! The trainable network: parameters by name, and the forward pass of each phase.
//!
//! One forward pass serves all phases; they differ in what a convolution does with its batch norm and in whether weights and
//! values pass through fake quantizers. Values are `[batch, height, width, channels]`.

use std::collections::BTreeMap;

use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Device, Tensor, TensorData};

use crate::deploy::PictureScale;
use crate::deploy::integer::IntegerConv;
use crate::engine::{Norm, Shortcut, Window, conv_block, max_pool, moments};
use crate::hardware::Hardware;
use crate::network::{Array, BATCH_NORM_EPSILON, ConvShape, Graph, Node, Op, Skip, Source, Weights};
use crate::quantize::{
    BitPlan, Conversions, Fusion, cells, multiplier_errors, quantize_biases, quantize_values, quantize_weights,
};

/// Arrays by name, flat, on a device.
pub(crate) type Tensors = BTreeMap<String, Tensor<1>>;

/// Share of the batch in the running statistics, as PyTorch's default.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// Which forward pass.
#[derive(Clone, Copy)]
pub(crate) enum Mode<'a> {
    /// Float with the batch's statistics.
    FloatTraining,
    /// Float with the running statistics, folded.
    Float,
    /// Fake quantizers on weights and values; with a chip, its conversions too.
    Quantized(&'a BitPlan, Fusion, Option<Chip<'a>>),
}

/// A chip that loses something, and the number of a batch's first picture, from which its noise follows.
#[derive(Clone, Copy)]
pub(crate) struct Chip<'a> {
    pub hardware: &'a Hardware,
    pub first: u64,
    /// Takes from each filter's values what conversions add to them on average, and notes it.
    pub corrects: bool,
}

/// Mean and biased variance of one batch norm's input.
pub(crate) struct Statistics {
    name: String,
    mean: Tensor<1>,
    variance: Tensor<1>,
    /// Values that each of them comes from.
    count: usize,
}

/// What a forward pass gives.
pub(crate) struct Output {
    /// `[images, classes]`.
    pub logits: Tensor<2>,
    /// Of each batch norm that saw the batch.
    pub statistics: Vec<Statistics>,
    /// What a chip that corrects took from each convolution's filters.
    pub corrections: Vec<(String, Tensor<1>)>,
}

/// A network's parameters on a device, without gradients.
#[derive(Clone)]
pub(crate) struct Model {
    pub graph: Graph,
    pub picture: PictureScale,
    pub device: Device,
    pub tensors: Tensors,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Model {
    /// Places weights on a device.
    pub fn new(graph: &Graph, picture: &PictureScale, weights: &Weights, device: &Device) -> Self {
        let mut model = Self {
            graph: graph.clone(),
            picture: picture.clone(),
            device: device.clone().inner(),
            tensors: Tensors::new(),
            shapes: BTreeMap::new(),
        };
        for (name, array) in weights.iter() {
            model.insert(name, array);
        }
        model
    }

    /// Adds or replaces an array.
    pub fn insert(&mut self, name: &str, array: &Array) {
        self.tensors.insert(name.into(), to_device(array, &self.device));
        self.shapes.insert(name.into(), array.shape.clone());
    }

    /// All arrays, on the host.
    pub fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for (name, tensor) in &self.tensors {
            weights.insert(name.clone(), Array { shape: self.shapes[name].clone(), values: to_host(tensor.clone()) });
        }
        weights
    }

    /// Pictures `[batch][channels][height][width]` as a tensor: bytes less their zero points, times the picture's step.
    pub fn pictures(&self, images: &[u8]) -> Tensor<4> {
        let image = self.graph.image();
        let zero_points = &self.picture.zero_points;
        let step = self.picture.step() as f32;
        let mut values = vec![0.0; images.len()];
        for (values, bytes) in values.chunks_mut(image.len()).zip(images.chunks(image.len())) {
            for (channel, (bytes, zero_point)) in bytes.chunks(image.pixels()).zip(zero_points).enumerate() {
                let places = values[channel..].iter_mut().step_by(image.channels);
                for (value, byte) in places.zip(bytes) {
                    *value = (f32::from(*byte) - f32::from(*zero_point)) * step;
                }
            }
        }
        let batch = images.len() / image.len();
        let shape = [batch, image.height, image.width, image.channels];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// Runs the network on `pictures` with these tensors, which may track gradients. `inspect` sees the value of each node
    /// before it is rounded.
    pub fn forward(
        &self,
        tensors: &Tensors,
        pictures: Tensor<4>,
        mode: Mode,
        mut inspect: impl FnMut(&Node, &Tensor<4>),
    ) -> Output {
        let mut pass =
            Pass { model: self, tensors, mode, statistics: Vec::new(), corrections: Vec::new(), values: Vec::new() };
        let picture = Value::one(pictures);
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let value = pass.node(index, node, &picture);
            inspect(node, &value);
            if let Op::Conv { logits: true, .. } = node.op {
                let [batch, _, _, classes] = value.dims();
                let Pass { statistics, corrections, .. } = pass;
                return Output { logits: value.reshape([batch, classes]), statistics, corrections };
            }
            let value = pass.store(index, node, value);
            pass.values.push(value);
        }
        unreachable!("the last node of a graph gives the logits")
    }

    /// Folds every batch norm with its running statistics: gamma 1, beta the folded bias, and statistics that change nothing. What is
    /// folded already stays as it is, to the last bit.
    pub fn fold_batch_norms(&mut self) {
        for (name, conv) in self.graph.convs().collect::<Vec<_>>() {
            let part = |part: &str| format!("{name}.{part}");
            let arrays = ["weight", "gamma", "beta", "mean", "var"].map(|name| self.tensors.get(&part(name)).cloned());
            let [Some(weight), Some(gamma), Some(beta), Some(mean), Some(var)] = arrays.map(|a| a.map(to_host)) else {
                continue;
            };
            let gain = |filter: usize| gamma[filter] / (var[filter] + BATCH_NORM_EPSILON as f32).sqrt();
            let filters = 0..conv.filters();
            let column = weight.len() / filters.len();
            let folded = weight.iter().enumerate().map(|(index, weight)| weight * gain(index / column)).collect();
            let biases = filters.clone().map(|filter| beta[filter] - gain(filter) * mean[filter]).collect();
            let all = |value: f64| vec![value as f32; filters.len()];
            for (name, values) in [
                ("weight", folded),
                ("beta", biases),
                ("gamma", all(1.0)),
                ("mean", all(0.0)),
                ("var", all(1.0 - BATCH_NORM_EPSILON)),
            ] {
                let shape = self.shapes[&part(name)].clone();
                self.insert(&part(name), &Array { shape, values });
            }
        }
    }

    /// Takes from each convolution's bias, or from that of its batch norm, what conversions add to its filters on average on
    /// `pictures`, layer after layer: each sees what the corrected ones before it give.
    ///
    /// After the bias correction of Nagel et al., *Data-free quantization through weight equalization and bias correction*, ICCV 2019.
    pub fn correct_biases(&mut self, pictures: &[u8], plan: &BitPlan, fusion: Fusion, chip: Chip) {
        let mode = Mode::Quantized(plan, fusion, Some(Chip { corrects: true, ..chip }));
        let output = self.forward(&self.tensors, self.pictures(pictures), mode, |_, _| {});
        for (name, mean) in output.corrections {
            let parts = ["beta", "bias"].map(|part| format!("{name}.{part}"));
            let bias = parts.iter().find(|part| self.tensors.contains_key(*part)).expect("a convolution has a bias");
            self.tensors.get_mut(bias).expect("just found").inplace(|bias| bias - mean);
        }
    }

    /// Moves the running statistics towards the batch's; the variance unbiased, as in PyTorch.
    pub fn update_statistics(&mut self, statistics: Vec<Statistics>) {
        for Statistics { name, mean, variance, count } in statistics {
            let unbiased = variance.inner() * (count as f64 / (count as f64 - 1.0).max(1.0));
            for (part, batch) in [("mean", mean.inner()), ("var", unbiased)] {
                let running = self.tensors.get_mut(&format!("{name}.{part}")).expect("a batch norm has statistics");
                running.inplace(|running| running * (1.0 - STATISTICS_MOMENTUM) + batch * STATISTICS_MOMENTUM);
            }
        }
    }
}

/// An array, flat, on a device.
pub(crate) fn to_device(array: &Array, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(array.values.clone(), [array.values.len()]), device)
}

/// Copies a tensor to the host.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("floats")
}

/// A value in its stored forms; one form of width 0 where nothing is quantized.
#[derive(Clone)]
struct Value(Vec<(u8, Tensor<4>)>);

impl Value {
    fn one(tensor: Tensor<4>) -> Self {
        Self(vec![(0, tensor)])
    }

    fn form(&self, bits: u8) -> Tensor<4> {
        let form = self.0.iter().find(|(form, _)| *form == bits).or(self.0.first());
        form.expect("a value has a form").1.clone()
    }
}

/// A convolution in a pass.
struct Layer<'a> {
    /// Of its node.
    index: usize,
    name: &'a str,
    conv: ConvShape,
    batch_norm: bool,
    /// What it reads, and in which form.
    source: Source,
    input_bits: u8,
    rounding: Option<Rounding>,
}

/// A convolution as a chip holds it.
struct OnChip {
    conversions: Option<Conversions>,
    /// What stuck cells make of the picture's zero points, which the biases know of the weights as they should be; one a filter.
    offsets: Option<Tensor<1>>,
    /// What one unit of its sums stands for before batch norm, one value or one a filter.
    unit: Tensor<1>,
}

/// What a chip has to know of a convolution.
struct ChipLayer<'a> {
    index: usize,
    name: &'a str,
    conv: ConvShape,
    source: Source,
    /// Of its input and of its weights.
    bits: [u8; 2],
    signs: Tensor<1>,
}

/// What integers do to a folded convolution beside the rounding of its weights.
struct Rounding {
    /// What one unit of its sums stands for, one value or one a filter.
    unit: Tensor<1>,
    /// Its multipliers' relative error; none for the logits.
    multiplier: Option<Tensor<1>>,
}

impl Rounding {
    fn apply(self, weight: Tensor<4>, bias: Tensor<1>) -> (Tensor<4>, Norm) {
        let bias = quantize_biases(bias, self.unit);
        match self.multiplier {
            None => (weight, Norm::Bias(bias)),
            Some(error) => (weight * error.clone().reshape([-1, 1, 1, 1]), Norm::Bias(bias * error)),
        }
    }
}

struct Pass<'a> {
    model: &'a Model,
    tensors: &'a Tensors,
    mode: Mode<'a>,
    statistics: Vec<Statistics>,
    corrections: Vec<(String, Tensor<1>)>,
    values: Vec<Value>,
}

impl Pass<'_> {
    /// The node's value before rounding.
    fn node(&mut self, index: usize, node: &Node, picture: &Value) -> Tensor<4> {
        let (input_bits, skip_bits) = match self.mode {
            Mode::Quantized(plan, ..) => (plan.nodes[index].input, plan.nodes[index].skip.unwrap_or(0)),
            _ => (0, 0),
        };
        let read = |values: &[Value], source: Source, bits: u8| match source {
            Source::Image => picture.form(bits),
            Source::Node(index) => values[index].form(bits),
        };
        let x = read(&self.values, node.source, input_bits);
        let Op::Conv { conv, batch_norm, skip, logits } = node.op else {
            return match node.op {
                Op::AvgPool { kernel } => {
                    let options = AvgPoolOptions::new(kernel).with_stride(kernel);
                    avg_pool2d(x.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
                }
                _ => x,
            };
        };
        let [own, joined] = self.roundings(node, input_bits, skip_bits);
        let shortcut = skip.map(|skip| match skip {
            Skip::Identity { source, stride, pad_front } => {
                Shortcut { value: read(&self.values, source, skip_bits), stride, front: pad_front }
            }
            Skip::Projection { source, conv } => {
                let x = read(&self.values, source, skip_bits);
                let name = &node.projection_name();
                let batch_norm = true;
                let layer = Layer { index, name, conv, batch_norm, source, input_bits: skip_bits, rounding: joined };
                Shortcut { value: self.conv(layer, x, None, false), stride: 1, front: 0 }
            }
        });
        // The quantizers of values are ReLUs themselves.
        let relu = !logits && !matches!(self.mode, Mode::Quantized(..));
        let source = node.source;
        let layer = Layer { index, name: &node.name, conv, batch_norm, source, input_bits, rounding: own };
        self.conv(layer, x, shortcut, relu)
    }

    /// The roundings of a node's convolution and of its projection, in a pass with fake quantizers.
    fn roundings(&self, node: &Node, input_bits: u8, skip_bits: u8) -> [Option<Rounding>; 2] {
        let (Mode::Quantized(..), Op::Conv { skip, logits, .. }) = (self.mode, node.op) else {
            return [None, None];
        };
        let unit = |name: &str, source, bits| self.tensor(&format!("{name}.weight_step")) * self.step(source, bits);
        let own = unit(&node.name, node.source, input_bits);
        let joined = match skip {
            Some(Skip::Projection { source, .. }) => Some(unit(&node.projection_name(), source, skip_bits)),
            _ => None,
        };
        let error = |unit: &Tensor<1>, other: Option<Tensor<1>>| {
            let step = (!logits).then(|| self.tensor(&format!("{}.output_step", node.name)));
            step.map(|step| multiplier_errors(unit.clone(), other, step))
        };
        let rounding = |unit: Tensor<1>, other| Rounding { multiplier: error(&unit, other), unit };
        [Some(rounding(own.clone(), joined.clone())), joined.map(|joined| rounding(joined, Some(own)))]
    }

    /// The step of a value in one of its forms.
    fn step(&self, source: Source, bits: u8) -> Tensor<1> {
        let (Mode::Quantized(plan, ..), Source::Node(index)) = (self.mode, source) else {
            return Tensor::full([1], self.model.picture.step(), &self.device());
        };
        let node = &self.model.graph.nodes()[index];
        match node.op {
            Op::MaxPool { .. } => self.step(node.source, bits),
            _ => {
                let finer = bits - plan.narrowest(source);
                self.tensor(&format!("{}.output_step", node.name)) / f64::from(1u32 << finer)
            }
        }
    }

    /// The forms that are stored.
    fn store(&self, index: usize, node: &Node, value: Tensor<4>) -> Value {
        if let Op::MaxPool { kernel, stride, padding } = node.op {
            let pool = |value| max_pool(value, Window { kernel, stride, padding });
            let Source::Node(source) = node.source else { unreachable!("only convolutions read the picture") };
            return Value(self.values[source].0.iter().map(|(bits, form)| (*bits, pool(form.clone()))).collect());
        }
        let Mode::Quantized(plan, ..) = self.mode else {
            return Value::one(value);
        };
        let forms = &plan.nodes[index].forms;
        let step = self.tensor(&format!("{}.output_step", node.name));
        let quantized = forms.iter().map(|&bits| {
            let step = step.clone() / f64::from(1u32 << (bits - forms[0]));
            (bits, quantize_values(value.clone(), step, bits, node.output.len()))
        });
        Value(quantized.collect())
    }

    fn tensor(&self, name: &str) -> Tensor<1> {
        self.tensors[name].clone()
    }

    /// A convolution with its batch norm or bias, residual sum and ReLU.
    fn conv(&mut self, layer: Layer, x: Tensor<4>, shortcut: Option<Shortcut>, relu: bool) -> Tensor<4> {
        let Layer { index, name, conv, batch_norm, source, input_bits, rounding } = layer;
        let [kernel_height, kernel_width] = conv.kernel;
        let weight = self.tensor(&format!("{name}.weight"));
        let weight = weight.reshape([conv.filters(), conv.channels(), kernel_height, kernel_width]);
        let weight = if source == Source::Image { weight * self.color_scales() } else { weight };
        let window = [conv.stride, conv.padding];
        let folded = |gain: Tensor<1>| weight.clone() * gain.reshape([conv.filters() as i64, 1, 1, 1]);
        let (mut on_chip, mut multiplier, mut float_statistics) = (None, None, None);
        let (weight, norm) = match (self.mode, batch_norm) {
            (Mode::FloatTraining, true) => (weight, self.batch_norm(name)),
            (Mode::Float, true) => {
                let (gain, bias) = self.running_affine(name);
                (folded(gain), Norm::Bias(bias))
            }
            (Mode::FloatTraining | Mode::Float, false) => (weight, Norm::Bias(self.tensor(&format!("{name}.bias")))),
            (Mode::Quantized(plan, fusion, chip), _) => {
                let (step, bits) = (self.tensor(&format!("{name}.weight_step")), plan.nodes[index].weights);
                let rounding = rounding.expect("a pass with fake quantizers");
                let unit = rounding.unit.clone();
                multiplier = rounding.multiplier.clone();
                let mut quantize = |weight: Tensor<4>| {
                    let rounded = quantize_weights(weight, step.clone(), bits);
                    let Some(chip) = chip else { return rounded };
                    // A batch norm outside has a multiplier without a sign: the weights take it.
                    let gamma = (batch_norm && fusion == Fusion::None).then(|| self.tensor(&format!("{name}.gamma")));
                    let signs = gamma.map_or(Tensor::ones([1], &rounded.device()), |gamma| {
                        gamma.clone().zeros_like().mask_fill(gamma.clone().lower_elem(0.0), -2.0) + 1.0
                    });
                    let layer = ChipLayer { index, name, conv, source, bits: [input_bits, bits], signs: signs.clone() };
                    let (held, loaded) = self.load(layer, chip, rounded, step.clone(), unit.clone() * signs);
                    on_chip = Some(loaded);
                    held
                };
                let round = |weight, bias| rounding.apply(weight, bias);
                match fusion {
                    _ if !batch_norm => round(quantize(weight), self.tensor(&format!("{name}.bias"))),
                    Fusion::None => (quantize(weight), self.batch_norm(name)),
                    Fusion::Ema => {
                        // The rounded weights as they were before the fold: the batch norm finds their own statistics.
                        let gain = self.running_affine(name).0.detach();
                        let gain = gain.clone().mask_fill(gain.equal_elem(0.0), 1.0);
                        let rounded = quantize(folded(gain.clone()));
                        if let Some(on_chip) = &mut on_chip {
                            on_chip.unit = on_chip.unit.clone() / gain.clone();
                        }
                        (rounded / gain.reshape([conv.filters() as i64, 1, 1, 1]), self.batch_norm(name))
                    }
                    Fusion::Frozen => {
                        let (gain, bias) = self.running_affine(name);
                        round(quantize(folded(gain)), bias)
                    }
                    Fusion::Once => round(quantize(weight), self.tensor(&format!("{name}.beta"))),
                    Fusion::Batch => {
                        let sums = conv_block(x.clone(), weight.clone(), window, Norm::Absent, None, false).value;
                        let [mean, variance] = moments(sums);
                        float_statistics = Some([mean.clone().detach(), variance.clone().detach()]);
                        let (gain, bias) = affine(self, name, mean, variance);
                        round(quantize(folded(gain)), bias)
                    }
                }
            }
        };
        let output = conv_block(x.clone(), weight, window, norm, shortcut, relu);
        let mut value = output.value;
        if let (Some(OnChip { conversions, offsets, unit }), Mode::Quantized(.., Some(chip))) = (on_chip, self.mode)
            && (conversions.is_some() || offsets.is_some())
        {
            let like = |tensor: Tensor<1>| Tensor::<1>::from_data(tensor.into_data(), &value.device());
            let gain = match &output.statistics {
                Some([_, variance]) => {
                    let deviation = like((variance.clone() + BATCH_NORM_EPSILON).sqrt());
                    Some(like(self.tensor(&format!("{name}.gamma"))) / deviation)
                }
                None => multiplier,
            };
            let scale = gain.map_or(unit.clone(), |gain| unit * gain).detach().reshape([1, 1, 1, -1]);
            if let Some(conversions) = conversions {
                let errors = conversions.errors(chip.first, &self.integers(&x, source, input_bits));
                let errors = errors.into_iter().map(|error| error as f32).collect();
                let errors = Tensor::<4>::from_data(TensorData::new::<f32, _>(errors, value.dims()), &value.device());
                let mut change = errors * scale.clone();
                if chip.corrects {
                    let mean = change.clone().mean_dims(&[0, 1, 2]);
                    change = change - mean.clone();
                    self.corrections.push((name.into(), mean.reshape([-1])));
                }
                value = value + change;
            }
            if let Some(offsets) = offsets {
                value = value + offsets.reshape([1, 1, 1, -1]) * scale;
            }
        }
        if let Some(statistics) = output.statistics.or(float_statistics) {
            self.note(name, statistics, &x, &conv);
        }
        value
    }

    /// Rounded weights as the cells of a chip hold them, with straight-through gradients, and what else there is to know of them.
    fn load(
        &self,
        layer: ChipLayer,
        chip: Chip,
        rounded: Tensor<4>,
        step: Tensor<1>,
        unit: Tensor<1>,
    ) -> (Tensor<4>, OnChip) {
        let ChipLayer { index, name, conv, source, bits: [input_bits, weight_bits], signs } = layer;
        // Steps and signs have one value, or one a filter.
        let scale = (step * signs).detach().reshape([-1, 1, 1, 1]);
        let integers = to_host((rounded.clone().detach() / scale.clone()).round());
        let weights = integers.into_iter().map(|weight| weight as i8).collect();
        let integer = IntegerConv { input_bits, weight_bits, weights, bias: vec![0; conv.filters()] };
        let projection = name != self.model.graph.nodes()[index].name;
        let number = (2 * index + usize::from(projection)) as u32;
        let checked = "the plan checked that the weights fit the macro";
        let held = cells(number, name, conv, &integer, chip.hardware).expect(checked);
        let zero_points = &self.model.picture.zero_points;
        let (padding, offsets) = match source {
            Source::Image => {
                let taps = conv.taps();
                let changes = held.iter().zip(&integer.weights).enumerate();
                let products: Vec<f32> = changes
                    .map(|(index, (held, weight))| {
                        let zero_point = zero_points[index / taps % conv.channels()];
                        (f32::from(*held) - f32::from(*weight)) * f32::from(zero_point)
                    })
                    .collect();
                let sums: Vec<f32> =
                    products.chunks(taps * conv.channels()).map(|column| column.iter().sum()).collect();
                let changed = sums.iter().any(|sum| *sum != 0.0);
                (zero_points.clone(), changed.then(|| Tensor::from_data(sums.as_slice(), &rounded.device())))
            }
            Source::Node(_) => (vec![0; conv.channels()], None),
        };
        let conversions = Conversions::new(number, name, conv, &integer, &held, padding, chip.hardware).expect(checked);
        let on_chip = OnChip { conversions, offsets, unit };
        if held == integer.weights {
            return (rounded, on_chip);
        }
        let held: Vec<f32> = held.into_iter().map(f32::from).collect();
        let held = Tensor::<4>::from_data(TensorData::new(held, rounded.dims()), &rounded.device()) * scale;
        let change = held - rounded.clone().detach();
        (rounded + change, on_chip)
    }

    /// A value of a pass with fake quantizers as the integers that it stands for.
    fn integers(&self, x: &Tensor<4>, source: Source, bits: u8) -> Vec<u8> {
        let step = to_host(self.step(source, bits).detach())[0];
        let values = to_host(x.clone().detach());
        match source {
            Source::Image => {
                let places = self.model.picture.zero_points.iter().cycle();
                values.iter().zip(places).map(|(value, zero)| (value / step + f32::from(*zero) + 0.5) as u8).collect()
            }
            Source::Node(_) => values.iter().map(|value| (value / step + 0.5) as u8).collect(),
        }
    }

    fn batch_norm(&self, name: &str) -> Norm {
        let (gamma, beta) = (self.tensor(&format!("{name}.gamma")), self.tensor(&format!("{name}.beta")));
        Norm::Batch { gamma, beta, epsilon: BATCH_NORM_EPSILON }
    }

    /// Notes a batch's mean and variance for the running statistics.
    fn note(&mut self, name: &str, [mean, variance]: [Tensor<1>; 2], x: &Tensor<4>, conv: &ConvShape) {
        let count = x.dims()[0] * conv.output.pixels();
        self.statistics.push(Statistics { name: name.into(), mean, variance, count });
    }

    fn running_affine(&self, name: &str) -> (Tensor<1>, Tensor<1>) {
        affine(self, name, self.tensor(&format!("{name}.mean")), self.tensor(&format!("{name}.var")))
    }

    /// The factor of each color, which belongs to the first layer's weights.
    fn color_scales(&self) -> Tensor<4> {
        let scales: Vec<f32> = self.model.picture.color_scales().map(|scale| scale as f32).collect();
        let colors = scales.len();
        Tensor::from_data(TensorData::new(scales, [1, colors, 1, 1]), &self.device())
    }

    /// The parameters' device.
    fn device(&self) -> Device {
        self.tensors.values().next().expect("a network has parameters").device()
    }
}

/// Gain and bias of a batch norm: `gamma / sqrt(var + eps)` and `beta - gain * mean`.
fn affine(pass: &Pass, name: &str, mean: Tensor<1>, variance: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    let gain = pass.tensor(&format!("{name}.gamma")) / (variance + BATCH_NORM_EPSILON).sqrt();
    let bias = pass.tensor(&format!("{name}.beta")) - gain.clone() * mean;
    (gain, bias)
}

#[cfg(test)]
mod tests {
    use super::super::calibrate::calibrate;
    use super::super::recipe::Recipe;
    use super::*;
    use crate::data::{DataOptions, Dataset};
    use crate::network::zoo;
    use crate::train::run::picture_scale;

    /// The network computes what it did, and folding it again changes no bit, so that a run may begin its phase twice.
    #[test]
    fn folding_batch_norms_changes_nothing_and_happens_once() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let mut weights = Weights::random(&graph, 3);
        for (name, conv) in graph.convs() {
            for (part, shift) in [("gamma", 0.5), ("beta", -0.2), ("mean", -0.4), ("var", 0.3)] {
                if weights.get(&format!("{name}.{part}")).is_ok() {
                    let values = (0..conv.filters()).map(|i| (i * 7 % 13) as f32 / 10.0 + shift).collect();
                    weights.insert(format!("{name}.{part}"), Array::vector(values));
                }
            }
        }
        let mut model = Model::new(&graph, &picture_scale(), &weights, &Device::flex());
        let pictures: Vec<u8> = (0..2 * graph.image().len()).map(|i| (i * 31 % 251) as u8).collect();
        let logits = |model: &Model| {
            to_host(model.forward(&model.tensors, model.pictures(&pictures), Mode::Float, |_, _| {}).logits)
        };
        let before = logits(&model);
        model.fold_batch_norms();
        let largest = before.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        for (a, b) in before.iter().zip(logits(&model)) {
            assert!((a - b).abs() < 1e-4 * largest, "{a} {b}");
        }
        let folded = model.weights();
        assert_ne!(folded, weights);
        model.fold_batch_norms();
        assert!(model.weights() == folded);
    }

    /// On the pictures that biases are corrected on, the first layer's filters mean what they do on a chip without losses.
    #[test]
    fn corrected_biases_take_back_what_conversions_add_on_average() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let recipe = Recipe { calibration_images: 64, ..Recipe::default() };
        let train = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap().train;
        let mut model = Model::new(&graph, &picture_scale(), &Weights::random(&graph, 3), &Device::flex());
        calibrate(&mut model, &recipe, &train).unwrap();
        let plan = BitPlan::new(&graph, &recipe.quantize);
        let hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
        let chip = Chip { hardware: &hardware, first: 0, corrects: false };
        let pictures = &train.images[..8 * graph.image().len()];
        let means = |model: &Model, chip| {
            let mut means = None;
            let mode = Mode::Quantized(&plan, Fusion::Frozen, chip);
            model.forward(&model.tensors, model.pictures(pictures), mode, |_, value| {
                means.get_or_insert_with(|| to_host(value.clone().mean_dims(&[0, 1, 2]).reshape::<1, _>([-1])));
            });
            means.unwrap()
        };
        let mut corrected = model.clone();
        corrected.correct_biases(pictures, &plan, Fusion::Frozen, chip);
        let ideal = means(&model, None);
        let distance = |found: Vec<f32>| found.iter().zip(&ideal).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (plain, corrected) = (distance(means(&model, Some(chip))), distance(means(&corrected, Some(chip))));
        // Biases are whole units of the sums.
        assert!(plain > 0.01 && corrected < plain / 20.0, "{plain} {corrected}");
    }
}
