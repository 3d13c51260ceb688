//! The trainable network: parameters by name, on a device.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};

use super::pass::Pass;
use crate::hardware::Hardware;
use crate::integer::{BitPlan, Fusion, PictureScale};
use crate::network::{Array, BATCH_NORM_EPSILON, Conv, Graph, Node, Weights};

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
    Quantized { plan: &'a BitPlan, fusion: Fusion, chip: Option<Chip<'a>> },
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
    pub name: String,
    pub mean: Tensor<1>,
    pub variance: Tensor<1>,
    /// Values that each of them comes from.
    pub count: usize,
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
        Pass::new(self, tensors, mode).run(pictures, &mut inspect)
    }

    /// What a convolution's batch norm multiplies each filter by, with its running statistics; none where it has a bias instead.
    pub fn gain(&self, name: &str) -> Option<Tensor<1>> {
        let [gamma, variance] = ["gamma", "var"].map(|part| self.tensors.get(&format!("{name}.{part}")).cloned());
        Some(gain(gamma?, variance?))
    }

    /// Folds every batch norm with its running statistics: gamma 1, beta the folded bias, and statistics that change nothing. What is
    /// folded already stays as it is, to the last bit.
    pub fn fold_batch_norms(&mut self) {
        for Conv { name, shape, .. } in self.graph.convs().filter(|conv| conv.batch_norm).collect::<Vec<_>>() {
            let part = |part: &str| format!("{name}.{part}");
            let [weight, beta, mean] =
                ["weight", "beta", "mean"].map(|name| to_host(self.tensors[&part(name)].clone()));
            let gains = to_host(self.gain(&name).expect("a batch norm has a gain"));
            let filters = shape.filters();
            let column = weight.len() / filters;
            let folded = weight.iter().enumerate().map(|(index, weight)| weight * gains[index / column]).collect();
            let biases = beta.iter().zip(&gains).zip(&mean).map(|((beta, gain), mean)| beta - gain * mean).collect();
            let all = |value: f64| vec![value as f32; filters];
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
        let mode = Mode::Quantized { plan, fusion, chip: Some(Chip { corrects: true, ..chip }) };
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

/// What a batch norm multiplies each filter by: `gamma / sqrt(variance + epsilon)`.
pub(super) fn gain(gamma: Tensor<1>, variance: Tensor<1>) -> Tensor<1> {
    gamma / (variance + BATCH_NORM_EPSILON).sqrt()
}

/// An array, flat, on a device.
pub(crate) fn to_device(array: &Array, device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(array.values.clone(), [array.values.len()]), device)
}

/// Copies a tensor to the host.
pub(crate) fn to_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("floats")
}

#[cfg(test)]
mod tests {
    use super::super::calibrate::calibrate;
    use super::super::recipe::Recipe;
    use super::*;
    use crate::data::{DataOptions, Dataset};
    use crate::network::zoo;

    /// The network computes what it did, and folding it again changes no bit, so that a run may begin its phase twice.
    #[test]
    fn folding_batch_norms_changes_nothing_and_happens_once() {
        let graph = Graph::new(zoo("resnet20", 10).unwrap()).unwrap();
        let mut weights = Weights::random(&graph, 3);
        for Conv { name, shape, .. } in graph.convs().filter(|conv| conv.batch_norm) {
            for (part, shift) in [("gamma", 0.5), ("beta", -0.2), ("mean", -0.4), ("var", 0.3)] {
                let values = (0..shape.filters()).map(|i| (i * 7 % 13) as f32 / 10.0 + shift).collect();
                weights.insert(format!("{name}.{part}"), Array::vector(values));
            }
        }
        let mut model = Model::new(&graph, &Recipe::default().picture_scale(), &weights, &Device::flex());
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
        let mut model =
            Model::new(&graph, &Recipe::default().picture_scale(), &Weights::random(&graph, 3), &Device::flex());
        calibrate(&mut model, &recipe, &train).unwrap();
        let plan = BitPlan::new(&graph, &recipe.quantize);
        let hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
        let chip = Chip { hardware: &hardware, first: 0, corrects: false };
        let pictures = &train.images[..8 * graph.image().len()];
        let means = |model: &Model, chip| {
            let mut means = None;
            let mode = Mode::Quantized { plan: &plan, fusion: Fusion::Frozen, chip };
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
