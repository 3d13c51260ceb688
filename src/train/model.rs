//! The trainable network: parameters by name, and the forward pass of each phase.
//!
//! One forward pass serves all phases; they differ in what a convolution does with its batch norm and in whether weights and
//! values pass through fake quantizers.

use std::collections::BTreeMap;

use burn::tensor::activation::relu;
use burn::tensor::module::{avg_pool2d, batch_norm_train, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::deploy::PictureScale;
use crate::engine::conv2d;
use crate::network::{Array, BATCH_NORM_EPSILON, ConvShape, Graph, Node, Op, Skip, Source, Weights};
use crate::quantize::{BitPlan, Fusion, QuantizeConfig, quantize_values, quantize_weights};

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
    /// Fake quantizers on weights and values.
    Quantized(&'a QuantizeConfig, &'a BitPlan),
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

    /// Pictures as a tensor: bytes less their zero points, times the picture's step.
    pub fn pictures(&self, images: &[u8]) -> Tensor<4> {
        let image = self.graph.image();
        let zero_points = &self.picture.zero_points;
        let step = self.picture.step() as f32;
        let values: Vec<f32> = images
            .chunks(image.pixels())
            .enumerate()
            .flat_map(|(plane, bytes)| {
                let zero_point = f32::from(zero_points[plane % image.channels]);
                bytes.iter().map(move |byte| (f32::from(*byte) - zero_point) * step)
            })
            .collect();
        let batch = images.len() / image.len();
        let shape = [batch, image.channels, image.height, image.width];
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
        let mut pass = Pass { model: self, tensors, mode, statistics: Vec::new(), values: Vec::new() };
        let picture = Value::one(pictures);
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let value = pass.node(index, node, &picture);
            inspect(node, &value);
            if let Op::Conv { logits: true, .. } = node.op {
                let [batch, classes, _, _] = value.dims();
                return Output { logits: value.reshape([batch, classes]), statistics: pass.statistics };
            }
            let value = pass.store(index, node, value);
            pass.values.push(value);
        }
        unreachable!("the last node of a graph gives the logits")
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

struct Pass<'a> {
    model: &'a Model,
    tensors: &'a Tensors,
    mode: Mode<'a>,
    statistics: Vec<Statistics>,
    values: Vec<Value>,
}

impl Pass<'_> {
    /// The node's value before ReLU and rounding.
    fn node(&mut self, index: usize, node: &Node, picture: &Value) -> Tensor<4> {
        let (input_bits, skip_bits) = match self.mode {
            Mode::Quantized(_, plan) => (plan.nodes[index].input, plan.nodes[index].skip.unwrap_or(0)),
            _ => (0, 0),
        };
        let read = |values: &[Value], source: Source, bits: u8| match source {
            Source::Image => picture.form(bits),
            Source::Node(index) => values[index].form(bits),
        };
        let x = read(&self.values, node.source, input_bits);
        match node.op {
            Op::Conv { conv, batch_norm, skip, .. } => {
                let first = node.source == Source::Image;
                let own = self.conv(index, &node.name, x, &conv, batch_norm, first);
                match skip {
                    None => own,
                    Some(Skip::Identity { source, stride, pad_front }) => {
                        own + identity(read(&self.values, source, skip_bits), stride, pad_front, conv.filters())
                    }
                    Some(Skip::Projection { source, conv }) => {
                        let x = read(&self.values, source, skip_bits);
                        own + self.conv(index, &node.projection_name(), x, &conv, true, false)
                    }
                }
            }
            Op::MaxPool { .. } => x,
            Op::AvgPool { kernel } => avg_pool2d(x, AvgPoolOptions::new(kernel).with_stride(kernel)),
        }
    }

    /// ReLU, then the forms that are stored.
    fn store(&self, index: usize, node: &Node, value: Tensor<4>) -> Value {
        if let Op::MaxPool { kernel, stride, padding } = node.op {
            let pool = |value: Tensor<4>| {
                max_pool2d(value, MaxPoolOptions::new([kernel; 2]).with_stride([stride; 2]).with_padding([padding; 2]))
            };
            let Source::Node(source) = node.source else { unreachable!("only convolutions read the picture") };
            return Value(self.values[source].0.iter().map(|(bits, form)| (*bits, pool(form.clone()))).collect());
        }
        let Mode::Quantized(_, plan) = self.mode else {
            let value = if let Op::Conv { .. } = node.op { relu(value) } else { value };
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

    /// A convolution with its batch norm or bias.
    fn conv(
        &mut self,
        index: usize,
        name: &str,
        x: Tensor<4>,
        conv: &ConvShape,
        batch_norm: bool,
        first: bool,
    ) -> Tensor<4> {
        let [kernel_height, kernel_width] = conv.kernel;
        let weight = self.tensor(&format!("{name}.weight"));
        let weight = weight.reshape([conv.filters(), conv.channels(), kernel_height, kernel_width]);
        let weight = if first { weight * self.color_scales() } else { weight };
        let run = |weight: Tensor<4>| conv2d(x.clone(), weight, conv.stride, conv.padding);
        let column = |vector: Tensor<1>| vector.reshape([1, conv.filters() as i64, 1, 1]);
        let folded = |weight: Tensor<4>, gain: Tensor<1>| weight * gain.reshape([conv.filters() as i64, 1, 1, 1]);
        let Mode::Quantized(config, plan) = self.mode else {
            if !batch_norm {
                return run(weight) + column(self.tensor(&format!("{name}.bias")));
            }
            if let Mode::FloatTraining = self.mode {
                return self.normalize(name, run(weight));
            }
            let (gain, bias) = self.running_affine(name);
            return run(folded(weight, gain)) + column(bias);
        };
        let bits = plan.nodes[index].weights;
        if !batch_norm {
            return run(self.quantize_weight(name, weight, bits)) + column(self.tensor(&format!("{name}.bias")));
        }
        match config.fusion {
            Fusion::None => {
                let sums = run(self.quantize_weight(name, weight, bits));
                self.normalize(name, sums)
            }
            Fusion::Frozen => {
                let (gain, bias) = self.running_affine(name);
                run(self.quantize_weight(name, folded(weight, gain), bits)) + column(bias)
            }
            Fusion::Batch => {
                let (mean, variance) = self.batch_statistics(name, run(weight.clone()));
                let (gain, bias) = affine(self, name, mean, variance);
                run(self.quantize_weight(name, folded(weight, gain), bits)) + column(bias)
            }
        }
    }

    fn quantize_weight(&self, name: &str, weight: Tensor<4>, bits: u8) -> Tensor<4> {
        quantize_weights(weight, self.tensor(&format!("{name}.weight_step")), bits)
    }

    fn normalize(&mut self, name: &str, sums: Tensor<4>) -> Tensor<4> {
        let count = sums.shape().num_elements() / sums.dims()[1];
        let (gamma, beta) = (self.tensor(&format!("{name}.gamma")), self.tensor(&format!("{name}.beta")));
        let normalized = batch_norm_train(sums, gamma, beta, BATCH_NORM_EPSILON);
        let (mean, variance) = (normalized.mean, normalized.variance);
        self.statistics.push(Statistics { name: name.into(), mean, variance, count });
        normalized.output
    }

    /// Mean and biased variance of each channel, with gradients, noted for the running statistics.
    fn batch_statistics(&mut self, name: &str, sums: Tensor<4>) -> (Tensor<1>, Tensor<1>) {
        let [batch, channels, height, width] = sums.dims();
        let count = batch * height * width;
        let sums = sums.swap_dims(0, 1).reshape([channels, count]);
        let mean = sums.clone().mean_dim(1);
        let variance = (sums - mean.clone()).square().mean_dim(1).reshape([channels]);
        let mean = mean.reshape([channels]);
        let (noted_mean, noted_variance) = (mean.clone().detach(), variance.clone().detach());
        self.statistics.push(Statistics { name: name.into(), mean: noted_mean, variance: noted_variance, count });
        (mean, variance)
    }

    fn running_affine(&self, name: &str) -> (Tensor<1>, Tensor<1>) {
        affine(self, name, self.tensor(&format!("{name}.mean")), self.tensor(&format!("{name}.var")))
    }

    /// The factor of each color, which belongs to the first layer's weights.
    fn color_scales(&self) -> Tensor<4> {
        let scales: Vec<f32> = self.model.picture.color_scales().map(|scale| scale as f32).collect();
        let colors = scales.len();
        let like = self.tensors.values().next().expect("a network has parameters").device();
        Tensor::from_data(TensorData::new(scales, [1, colors, 1, 1]), &like)
    }
}

/// Gain and bias of a batch norm: `gamma / sqrt(var + eps)` and `beta - gain * mean`.
fn affine(pass: &Pass, name: &str, mean: Tensor<1>, variance: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    let gain = pass.tensor(&format!("{name}.gamma")) / (variance + BATCH_NORM_EPSILON).sqrt();
    let bias = pass.tensor(&format!("{name}.beta")) - gain.clone() * mean;
    (gain, bias)
}

/// Every `stride`-th pixel, with zero channels in front and behind.
fn identity(value: Tensor<4>, stride: usize, pad_front: usize, channels: usize) -> Tensor<4> {
    let [_, _, height, width] = value.dims();
    let value = if stride > 1 {
        let every = |size: usize| Tensor::<1, Int>::arange_step(0..size as i64, stride, &value.device());
        let (rows, cols) = (every(height), every(width));
        value.select(2, rows).select(3, cols)
    } else {
        value
    };
    let [batch, own, height, width] = value.dims();
    if own == channels {
        return value;
    }
    let zeros = |channels: usize| Tensor::zeros([batch, channels, height, width], &value.device());
    let mut parts = vec![zeros(pad_front), value.clone(), zeros(channels - own - pad_front)];
    parts.retain(|part| part.dims()[1] > 0);
    Tensor::cat(parts, 1)
}
