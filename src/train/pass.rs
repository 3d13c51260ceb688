//! The forward pass of each phase.
//!
//! One pass serves all phases; they differ in what a convolution does with its batch norm and in whether weights and values pass through
//! fake quantizers. Values are `[batch, height, width, channels]`.

use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Device, Tensor, TensorData};

use super::model::{Chip, Mode, Model, Output, Statistics, Tensors, gain};
use super::on_chip::OnChip;
use crate::engine::{ConvOptions, Moments, Norm, PoolWindow, Shortcut, conv_block, max_pool, moments};
use crate::integer::Fusion;
use crate::network::{BATCH_NORM_EPSILON, Conv, ConvShape, Node, Op, Skip, Source};
use crate::quantize::{multiplier_errors, quantize_biases, quantize_values, quantize_weights};

/// A value in its stored forms, by their bits; the picture, and all values where nothing is quantized, in one without.
struct Value(Vec<(Option<u8>, Tensor<4>)>);

impl Value {
    fn whole(tensor: Tensor<4>) -> Self {
        Self(vec![(None, tensor)])
    }

    fn form(&self, bits: u8) -> Tensor<4> {
        let form = self.0.iter().find(|(form, _)| form.is_none_or(|form| form == bits));
        form.expect("a plan stores the forms that are read").1.clone()
    }
}

/// A convolution in a pass.
pub(super) struct Layer {
    pub conv: Conv,
    pub weight_bits: u8,
    /// The form that it reads.
    pub input_bits: u8,
    /// In a pass with fake quantizers.
    rounding: Option<Rounding>,
}

/// What integers do to a folded convolution beside the rounding of its weights.
#[derive(Clone)]
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

/// What of a batch norm is folded into weights that are rounded.
struct Fold {
    /// What the weights are multiplied by before they are rounded, one value a filter.
    gain: Option<Tensor<1>>,
    /// What joins the sums; where there is none, the gain is divided out again and batch norm follows.
    bias: Option<Tensor<1>>,
    /// The batch's mean and variance, where they were needed.
    statistics: Option<Moments>,
}

/// A convolution's weights in some mode, and what follows its sums.
struct Prepared {
    weight: Tensor<4>,
    norm: Norm,
    /// The relative error of its multipliers, which weights and bias have taken in.
    multiplier: Option<Tensor<1>>,
    on_chip: Option<OnChip>,
    /// The batch's mean and variance, where batch norm doesn't find them itself.
    statistics: Option<Moments>,
}

impl Prepared {
    fn float(weight: Tensor<4>, norm: Norm) -> Self {
        Self { weight, norm, multiplier: None, on_chip: None, statistics: None }
    }
}

/// A forward pass, node after node.
pub(super) struct Pass<'a> {
    pub model: &'a Model,
    tensors: &'a Tensors,
    mode: Mode<'a>,
    statistics: Vec<Statistics>,
    pub corrections: Vec<(String, Tensor<1>)>,
    values: Vec<Value>,
}

impl<'a> Pass<'a> {
    pub fn new(model: &'a Model, tensors: &'a Tensors, mode: Mode<'a>) -> Self {
        Self { model, tensors, mode, statistics: Vec::new(), corrections: Vec::new(), values: Vec::new() }
    }

    /// Runs it on pictures; `inspect` sees the value of each node before it is rounded.
    pub fn run(mut self, pictures: Tensor<4>, inspect: &mut dyn FnMut(&Node, &Tensor<4>)) -> Output {
        let picture = Value::whole(pictures);
        for (index, node) in self.model.graph.nodes().iter().enumerate() {
            let value = self.node(index, node, &picture);
            inspect(node, &value);
            if let Op::Conv { logits: true, .. } = node.op {
                let [batch, _, _, classes] = value.dims();
                let Self { statistics, corrections, .. } = self;
                return Output { logits: value.reshape([batch, classes]), statistics, corrections };
            }
            let value = self.store(index, node, value);
            self.values.push(value);
        }
        unreachable!("the last node of a graph gives the logits")
    }

    /// The node's value before rounding.
    fn node(&mut self, index: usize, node: &Node, picture: &Value) -> Tensor<4> {
        let (weight_bits, input_bits, skip_bits) = match self.mode {
            Mode::Quantized { plan, .. } => {
                let bits = &plan.nodes[index];
                (bits.weights, bits.input, bits.skip.unwrap_or(0))
            }
            _ => (0, 0, 0),
        };
        let read = |values: &[Value], source: Source, bits: u8| match source {
            Source::Image => picture.form(bits),
            Source::Node(index) => values[index].form(bits),
        };
        let x = read(&self.values, node.source, input_bits);
        let Op::Conv { skip, logits, .. } = node.op else {
            return match node.op {
                Op::AvgPool { kernel } => {
                    let options = AvgPoolOptions::new(kernel).with_stride(kernel);
                    avg_pool2d(x.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
                }
                _ => x,
            };
        };
        let [rounding, joined_rounding] = self.roundings(node, input_bits, skip_bits);
        let [own, projection] = self.model.graph.node_convs(index);
        let shortcut = skip.map(|skip| match skip {
            Skip::Identity { source, stride, pad_front } => {
                Shortcut { value: read(&self.values, source, skip_bits), stride, front: pad_front }
            }
            Skip::Projection { source, .. } => {
                let x = read(&self.values, source, skip_bits);
                let conv = projection.expect("the node's projection");
                let layer = Layer { conv, weight_bits, input_bits: skip_bits, rounding: joined_rounding };
                Shortcut { value: self.conv(layer, x, None, false), stride: 1, front: 0 }
            }
        });
        // The quantizers of values are ReLUs themselves.
        let relu = !logits && !matches!(self.mode, Mode::Quantized { .. });
        let layer = Layer { conv: own.expect("the node's own convolution"), weight_bits, input_bits, rounding };
        self.conv(layer, x, shortcut, relu)
    }

    /// The roundings of a node's convolution and of its projection, in a pass with fake quantizers.
    fn roundings(&self, node: &Node, input_bits: u8, skip_bits: u8) -> [Option<Rounding>; 2] {
        let (Mode::Quantized { .. }, Op::Conv { skip, logits, .. }) = (self.mode, node.op) else {
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
    pub fn step(&self, source: Source, bits: u8) -> Tensor<1> {
        let (Mode::Quantized { plan, .. }, Source::Node(index)) = (self.mode, source) else {
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
            let pool = |value| max_pool(value, PoolWindow { kernel, stride, padding });
            let Source::Node(source) = node.source else { unreachable!("only convolutions read the picture") };
            return Value(self.values[source].0.iter().map(|(bits, form)| (*bits, pool(form.clone()))).collect());
        }
        let Mode::Quantized { plan, .. } = self.mode else {
            return Value::whole(value);
        };
        let forms = &plan.nodes[index].forms;
        let step = self.tensor(&format!("{}.output_step", node.name));
        let quantized = forms.iter().map(|&bits| {
            let step = step.clone() / f64::from(1u32 << (bits - forms[0]));
            (Some(bits), quantize_values(value.clone(), step, bits, node.output.len()))
        });
        Value(quantized.collect())
    }

    fn tensor(&self, name: &str) -> Tensor<1> {
        self.tensors[name].clone()
    }

    /// A convolution with its batch norm or bias, residual sum and ReLU.
    fn conv(&mut self, layer: Layer, x: Tensor<4>, shortcut: Option<Shortcut>, relu: bool) -> Tensor<4> {
        let Conv { name, shape, source, batch_norm, .. } = &layer.conv;
        let [kernel_height, kernel_width] = shape.kernel;
        let weight = self.tensor(&format!("{name}.weight"));
        let weight = weight.reshape([shape.filters(), shape.channels(), kernel_height, kernel_width]);
        let weight = if *source == Source::Image { weight * self.color_scales() } else { weight };
        let Prepared { weight, norm, multiplier, on_chip, statistics } = match (self.mode, *batch_norm) {
            (Mode::FloatTraining, true) => Prepared::float(weight, self.batch_norm(name)),
            (Mode::Float, true) => {
                let (gain, bias) = self.running_affine(name);
                Prepared::float(weight * by_filter(gain), Norm::Bias(bias))
            }
            (Mode::FloatTraining | Mode::Float, false) => {
                Prepared::float(weight, Norm::Bias(self.tensor(&format!("{name}.bias"))))
            }
            (Mode::Quantized { fusion, chip, .. }, _) => self.quantized(&layer, weight, &x, fusion, chip),
        };
        let output = conv_block(x.clone(), weight, options(shape), norm, shortcut, relu);
        let value = match (on_chip, self.mode) {
            (Some(on_chip), Mode::Quantized { chip: Some(chip), .. }) => {
                let gain = match &output.statistics {
                    Some(Moments { variance, .. }) => {
                        let device = output.value.device();
                        let like = |tensor: Tensor<1>| Tensor::<1>::from_data(tensor.into_data(), &device);
                        Some(gain(like(self.tensor(&format!("{name}.gamma"))), like(variance.clone())))
                    }
                    None => multiplier,
                };
                self.convert(&layer, chip, on_chip, gain, &x, output.value)
            }
            _ => output.value,
        };
        if let Some(statistics) = output.statistics.or(statistics) {
            self.note(name, statistics, &x, shape);
        }
        value
    }

    /// A convolution whose weights are rounded, before or after its batch norm is folded into them.
    fn quantized(
        &self,
        layer: &Layer,
        weight: Tensor<4>,
        x: &Tensor<4>,
        fusion: Fusion,
        chip: Option<Chip>,
    ) -> Prepared {
        let Conv { name, batch_norm, .. } = &layer.conv;
        let rounding = layer.rounding.clone().expect("a pass with fake quantizers");
        let (unit, multiplier) = (rounding.unit.clone(), rounding.multiplier.clone());
        let parameter = |part: &str| self.tensor(&format!("{name}.{part}"));
        let Fold { gain, bias, statistics } = self.fold(&layer.conv, &weight, x, fusion);
        let weight = match &gain {
            Some(gain) => weight * by_filter(gain.clone()),
            None => weight,
        };
        let step = parameter("weight_step");
        let rounded = quantize_weights(weight, step.clone(), layer.weight_bits);
        let (held, on_chip) = match chip {
            None => (rounded, None),
            Some(chip) => {
                // A batch norm outside has a multiplier without a sign: the weights take it.
                let gamma = (*batch_norm && fusion == Fusion::None).then(|| parameter("gamma"));
                let signs = gamma.map_or(Tensor::ones([1], &rounded.device()), |gamma| {
                    gamma.clone().zeros_like().mask_fill(gamma.lower_elem(0.0), -2.0) + 1.0
                });
                let (held, on_chip) = self.load(layer, chip, rounded, step * signs.clone(), unit * signs);
                (held, Some(on_chip))
            }
        };
        match (bias, gain) {
            (Some(bias), _) => {
                let (weight, norm) = rounding.apply(held, bias);
                Prepared { weight, norm, multiplier, on_chip, statistics }
            }
            (None, None) => Prepared { weight: held, norm: self.batch_norm(name), multiplier, on_chip, statistics },
            // The rounded weights as they were before the fold: the batch norm finds their own statistics.
            (None, Some(gain)) => {
                let on_chip = on_chip.map(|on_chip| on_chip.before(gain.clone()));
                let (weight, norm) = (held / by_filter(gain), self.batch_norm(name));
                Prepared { weight, norm, multiplier, on_chip, statistics }
            }
        }
    }

    fn fold(&self, conv: &Conv, weight: &Tensor<4>, x: &Tensor<4>, fusion: Fusion) -> Fold {
        let Conv { name, shape, batch_norm, .. } = conv;
        let parameter = |part: &str| Some(self.tensor(&format!("{name}.{part}")));
        if !*batch_norm {
            return Fold { gain: None, bias: parameter("bias"), statistics: None };
        }
        match fusion {
            Fusion::None => Fold { gain: None, bias: None, statistics: None },
            Fusion::Ema => {
                let gain = self.running_affine(name).0.detach();
                // It is divided out again.
                let gain = gain.clone().mask_fill(gain.equal_elem(0.0), 1.0);
                Fold { gain: Some(gain), bias: None, statistics: None }
            }
            Fusion::Frozen => {
                let (gain, bias) = self.running_affine(name);
                Fold { gain: Some(gain), bias: Some(bias), statistics: None }
            }
            Fusion::Once => Fold { gain: None, bias: parameter("beta"), statistics: None },
            Fusion::Batch => {
                let sums = conv_block(x.clone(), weight.clone(), options(shape), Norm::Absent, None, false).value;
                let Moments { mean, variance } = moments(sums);
                let statistics = Moments { mean: mean.clone().detach(), variance: variance.clone().detach() };
                let (gain, bias) = affine(self, name, mean, variance);
                Fold { gain: Some(gain), bias: Some(bias), statistics: Some(statistics) }
            }
        }
    }

    fn batch_norm(&self, name: &str) -> Norm {
        let (gamma, beta) = (self.tensor(&format!("{name}.gamma")), self.tensor(&format!("{name}.beta")));
        Norm::Batch { gamma, beta, epsilon: BATCH_NORM_EPSILON }
    }

    /// Notes a batch's mean and variance for the running statistics.
    fn note(&mut self, name: &str, Moments { mean, variance }: Moments, x: &Tensor<4>, conv: &ConvShape) {
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
    let gain = gain(pass.tensor(&format!("{name}.gamma")), variance);
    let bias = pass.tensor(&format!("{name}.beta")) - gain.clone() * mean;
    (gain, bias)
}

/// One value a filter, as it meets a convolution's weights.
fn by_filter(values: Tensor<1>) -> Tensor<4> {
    values.reshape([-1, 1, 1, 1])
}

fn options(shape: &ConvShape) -> ConvOptions {
    ConvOptions { stride: shape.stride, padding: shape.padding }
}
