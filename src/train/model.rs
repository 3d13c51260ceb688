//! The trainable network: its parameters on a device.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::forward::{ChipBias, Inspect, LossyChip, Mode, Output, Pass, Statistics, gain};
use super::tensors::{to_device, to_host};
use crate::integer::{BitPlan, Fusion, ImageScale};
use crate::network::{Array, BatchNorm, ConvId, Graph, Norm, Params};
use crate::quantize::{Lsq, Quantizer};

/// Share of the batch in the running statistics, as PyTorch's default.
const STATISTICS_MOMENTUM: f64 = 0.1;

/// A network's parameters on a device, flat and without gradients.
#[derive(Clone)]
pub(crate) struct Model {
    pub graph: Graph,
    pub image_scale: ImageScale,
    pub device: Device,
    pub params: Params<Tensor<1>>,
    pub quantizer: Arc<dyn Quantizer>,
}

impl Model {
    /// Places parameters on a device.
    pub fn new(graph: &Graph, image_scale: &ImageScale, params: &Params<Array>, device: &Device) -> Self {
        let device = device.clone().inner();
        let params = params.as_ref().map(|_, array| to_device(&array.values, &device));
        Self { graph: graph.clone(), image_scale: image_scale.clone(), device, params, quantizer: Arc::new(Lsq) }
    }

    /// The parameters on the host.
    pub fn params_on_host(&self) -> Params<Array> {
        to_arrays(&self.params, &self.graph)
    }

    /// Images `[batch][channels][height][width]` as a tensor: bytes less their zero points, times the image's scale.
    pub fn images(&self, images: &[u8]) -> Tensor<4> {
        let image = self.graph.image();
        let zero_points = &self.image_scale.zero_points;
        let scale = self.image_scale.scale() as f32;
        let mut values = vec![0.0; images.len()];
        for (values, bytes) in values.chunks_mut(image.len()).zip(images.chunks(image.len())) {
            for (channel, (bytes, zero_point)) in bytes.chunks(image.pixels()).zip(zero_points).enumerate() {
                let places = values[channel..].iter_mut().step_by(image.channels);
                for (value, byte) in places.zip(bytes) {
                    *value = (f32::from(*byte) - f32::from(*zero_point)) * scale;
                }
            }
        }
        let batch = images.len() / image.len();
        let shape = [batch, image.height, image.width, image.channels];
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// Runs the network on images with these parameters, which may track gradients.
    pub fn forward_with(
        &self,
        params: &Params<Tensor<1>>,
        images: Tensor<4>,
        mode: Mode,
        inspect: Option<Inspect>,
    ) -> Output {
        let Self { graph, image_scale, quantizer, .. } = self;
        Pass { graph, image_scale, params, quantizer: &**quantizer, mode }.run(images, inspect)
    }

    /// Runs the network on images as it is.
    pub fn forward(&self, images: Tensor<4>, mode: Mode) -> Output {
        self.forward_with(&self.params, images, mode, None)
    }

    /// What a convolution's batch norm multiplies each filter by, with its running statistics; none where it has a bias instead.
    pub fn gain(&self, conv: ConvId) -> Option<Tensor<1>> {
        let norm = self.params.conv(conv).batch_norm()?;
        Some(gain(norm.gamma.clone(), norm.variance.clone(), norm.epsilon))
    }

    /// A convolution's weights folded with its running statistics, flat.
    pub fn folded_weight(&self, conv: ConvId) -> Tensor<1> {
        let weight = self.params.conv(conv).weight.clone();
        let Some(gain) = self.gain(conv) else { return weight };
        let filters = gain.dims()[0];
        let count = weight.dims()[0];
        (weight.reshape([filters, count / filters]) * gain.reshape([filters, 1])).reshape([count])
    }

    /// Folds every batch norm with its running statistics: gamma 1, beta the folded bias, and statistics that change nothing. What is
    /// folded already stays as it is, to the last bit.
    pub fn fold_batch_norms(&mut self) {
        for conv in self.graph.convs() {
            let Some(gains) = self.gain(conv.id).map(to_host) else { continue };
            let device = self.device.clone();
            let params = self.params.conv_mut(conv.id);
            let Some(BatchNorm { beta, mean, epsilon, .. }) = params.batch_norm() else { continue };
            let epsilon = *epsilon;
            let [weight, beta, mean] = [&params.weight, beta, mean].map(|tensor| to_host(tensor.clone()));
            let column = weight.len() / gains.len();
            let folded: Vec<f32> =
                weight.iter().enumerate().map(|(index, weight)| weight * gains[index / column]).collect();
            let biases: Vec<f32> =
                beta.iter().zip(&gains).zip(&mean).map(|((beta, gain), mean)| beta - gain * mean).collect();
            let all = |value: f64| to_device(&vec![value as f32; gains.len()], &device);
            params.weight = to_device(&folded, &device);
            params.norm = Norm::Batch(BatchNorm {
                gamma: all(1.0),
                beta: to_device(&biases, &device),
                mean: all(0.0),
                variance: all(1.0 - epsilon),
                epsilon,
            });
        }
    }

    /// Whether every batch norm changes nothing but by its offset, as [`fold_batch_norms`](Self::fold_batch_norms) leaves them.
    pub fn is_folded(&self) -> bool {
        let is = |tensor: &Tensor<1>, value: f64| to_host(tensor.clone()).iter().all(|found| *found == value as f32);
        let mut norms = self.graph.convs().filter_map(|conv| self.params.conv(conv.id).batch_norm());
        norms.all(|norm| is(&norm.gamma, 1.0) && is(&norm.mean, 0.0) && is(&norm.variance, 1.0 - norm.epsilon))
    }

    /// Takes from each convolution's bias, or from that of its batch norm, what conversions add to its filters on average on
    /// `images`, layer after layer: each sees what the corrected ones before it give.
    ///
    /// After the bias correction of Nagel et al., *Data-free quantization through weight equalization and bias correction*, ICCV 2019.
    pub fn correct_biases(&mut self, images: &[u8], plan: &BitPlan, fusion: Fusion, chip: LossyChip) {
        let mode = Mode::Quantized { plan, fusion, chip: Some(LossyChip { bias: ChipBias::Removed, ..chip }) };
        let output = self.forward(self.images(images), mode);
        for (conv, mean) in output.corrections {
            self.params.conv_mut(conv).offset_mut().inplace(|offset| offset - mean);
        }
    }

    /// Moves the running statistics towards the batch's; the variance unbiased, as in PyTorch.
    pub fn update_statistics(&mut self, statistics: Vec<Statistics>) {
        for Statistics { conv, mean, variance, count } in statistics {
            let unbiased = variance.inner() * unbiased(count);
            let Norm::Batch(norm) = &mut self.params.conv_mut(conv).norm else {
                unreachable!("statistics are of a batch norm")
            };
            for (running, batch) in [(&mut norm.mean, mean.inner()), (&mut norm.variance, unbiased)] {
                running.inplace(|running| running * (1.0 - STATISTICS_MOMENTUM) + batch * STATISTICS_MOMENTUM);
            }
        }
    }
}

/// What turns the variance of so many values into an estimate without bias, which PyTorch's running variances are.
pub(super) fn unbiased(count: usize) -> f64 {
    count as f64 / (count as f64 - 1.0).max(1.0)
}

/// Flat tensors by parameter as arrays on the host.
pub(crate) fn to_arrays(params: &Params<Tensor<1>>, graph: &Graph) -> Params<Array> {
    params.as_ref().map(|id, tensor| {
        let values = to_host(tensor.clone());
        Array { shape: id.shape(graph, values.len()), values }
    })
}

#[cfg(test)]
mod tests {
    use super::super::calibrate::calibrate;
    use super::super::recipe::Recipe;
    use super::*;
    use crate::data::{DataOptions, Dataset};
    use crate::hardware::{Converter, Hardware, Noise};
    use crate::integer::{FoldOptions, QuantizeConfig, fold};
    use crate::network::{Weights, zoo};
    use crate::quantize::FakeQuant;

    fn resnet20(graph: &Graph, seed: u64) -> Params<Array> {
        Params::from_arrays(graph, &Weights::random(graph, seed)).unwrap()
    }

    /// The network computes what it did, and folding it again changes no bit, so that a run may begin its phase twice.
    #[test]
    fn folding_batch_norms_changes_nothing_and_happens_once() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let mut params = resnet20(&graph, 3);
        for conv in graph.convs() {
            let Norm::Batch(BatchNorm { gamma, beta, mean, variance, .. }) = &mut params.conv_mut(conv.id).norm else {
                continue;
            };
            for (array, shift) in [(gamma, 0.5), (beta, -0.2), (mean, -0.4), (variance, 0.3)] {
                *array = Array::vector((0..conv.shape.filters()).map(|i| (i * 7 % 13) as f32 / 10.0 + shift).collect());
            }
        }
        let mut model = Model::new(&graph, &Recipe::default().image_scale(), &params, &Device::flex());
        let images: Vec<u8> = (0..2 * graph.image().len()).map(|i| (i * 31 % 251) as u8).collect();
        let logits = |model: &Model| to_host(model.forward(model.images(&images), Mode::Float).logits);
        let before = logits(&model);
        model.fold_batch_norms();
        let largest = before.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        for (a, b) in before.iter().zip(logits(&model)) {
            assert!((a - b).abs() < 1e-4 * largest, "{a} {b}");
        }
        let folded = model.params_on_host();
        assert_ne!(folded, params);
        model.fold_batch_norms();
        assert!(model.params_on_host() == folded);
    }

    /// A chip with a converter that rounds.
    fn coarse() -> Hardware {
        let converter = Converter::Bits { bits: 5, step: 2 };
        Hardware { converter, ..Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap() }
    }

    /// On the images that biases are corrected on, the first layer's filters mean what they do on a chip without losses.
    #[test]
    fn corrected_biases_take_back_what_conversions_add_on_average() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let recipe = Recipe { calibration_images: 64, ..Recipe::default() };
        let train = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap().train;
        let mut model = Model::new(&graph, &Recipe::default().image_scale(), &resnet20(&graph, 3), &Device::flex());
        calibrate(&mut model, &recipe, &train);
        let plan = BitPlan::new(&graph, &recipe.quantize);
        let hardware = coarse();
        let chip = LossyChip { hardware: &hardware, first: 0, bias: ChipBias::Kept };
        let images = &train.images[..8 * graph.image().len()];
        let means = |model: &Model, chip| {
            let mut means = None;
            let mode = Mode::Quantized { plan: &plan, fusion: Fusion::Frozen, chip };
            let mut inspect = |_, value: &Tensor<4>| {
                means.get_or_insert_with(|| to_host(value.clone().mean_dims(&[0, 1, 2]).reshape::<1, _>([-1])));
            };
            model.forward_with(&model.params, model.images(images), mode, Some(&mut inspect));
            means.unwrap()
        };
        let mut corrected = model.clone();
        corrected.correct_biases(images, &plan, Fusion::Frozen, chip);
        let ideal = means(&model, None);
        let distance = |found: Vec<f32>| found.iter().zip(&ideal).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let (plain, corrected) = (distance(means(&model, Some(chip))), distance(means(&corrected, Some(chip))));
        // Biases are whole units of the sums.
        assert!(plain > 0.01 && corrected < plain / 20.0, "{plain} {corrected}");
    }

    /// Values with a sign on a chip with a coarse converter and stuck cells: the pass that trains gives the logits that evaluation gives.
    #[test]
    fn signed_values_meet_a_chip_in_training_as_in_evaluation() {
        let network = "name = 'signed'\ninput = [3, 32, 32]\nclasses = 10\nlayers = [
            { op = 'conv', name = 'a', filters = 8, kernel = 3, stride = 2, padding = 1, activation = 'none' },
            { op = 'max_pool', name = 'm', kernel = 3, stride = 2, padding = 1 },
            { op = 'conv', name = 'b', filters = 24, kernel = 1, clip = 6.0 },
            { op = 'conv', name = 'c', filters = 24, kernel = 3, padding = 1, groups = 24, activation = 'none' },
            { op = 'conv', name = 'd', filters = 8, kernel = 3, padding = 1, activation = 'none', add = { from = 'm' } },
            { op = 'conv', name = 'e', filters = 16, kernel = 3, padding = 1, stride = 2, activation = 'none',
              add = { from = 'd', shortcut = 'projection', stride = 2 } },
            { op = 'avg_pool', name = 'mean' },
            { op = 'linear', name = 'linear', filters = 10 },
        ]";
        let graph = Graph::new(toml::from_str(network).unwrap()).unwrap();
        let recipe = Recipe { calibration_images: 64, ..Recipe::default() };
        let train = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap().train;
        let mut model = Model::new(&graph, &recipe.image_scale(), &resnet20(&graph, 3), &Device::flex());
        calibrate(&mut model, &recipe, &train);
        let plan = BitPlan::new(&graph, &recipe.quantize);
        let noise = Noise { sigma: 0.0, stuck_at_zero: 0.0, stuck_at_one: 0.01, seed: 5 };
        let adc = coarse();
        for hardware in
            [Hardware { noise: Some(noise), ..Hardware::mars() }, adc.clone(), Hardware { noise: Some(noise), ..adc }]
        {
            let chip = Some(LossyChip { hardware: &hardware, first: 0, bias: ChipBias::Kept });
            let mode = Mode::Quantized { plan: &plan, fusion: Fusion::Frozen, chip };
            let images = &train.images[..16 * graph.image().len()];
            let trained = to_host(model.forward(model.images(images), mode).logits.reshape::<1, _>([-1]));
            let quantize = QuantizeConfig { fusion: Fusion::Frozen, ..recipe.quantize.clone() };
            let options = FoldOptions {
                quantize: &quantize,
                image_scale: &recipe.image_scale(),
                group: hardware.group,
                classes: &vec![String::new(); 10],
            };
            let network = fold(&graph, &model.params_on_host(), &options).unwrap();
            let evaluated = FakeQuant::on_chip(&network, &hardware, &model.device).unwrap().logits(images);
            let [weights, mean] = [
                model.params.conv(ConvId::Own(7)).weight_scale.clone().unwrap(),
                model.params.output_scale(6).unwrap().clone(),
            ];
            let unit = to_host(weights * mean)[0];
            let evaluated: Vec<f32> = evaluated.iter().map(|logit| *logit as f32 * unit).collect();
            let largest = evaluated.iter().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
            let same = |image: usize| {
                let logits = image * 10..image * 10 + 10;
                trained[logits.clone()].iter().zip(&evaluated[logits]).all(|(a, b)| (a - b).abs() < 1e-4 * largest)
            };
            let same = (0..16).filter(|image| same(*image)).count();
            // In 32 bits a value may round to the other side of a half.
            assert!(same >= 14, "{same} of 16 images have the same logits");
        }
    }
}
