//! What becomes of a convolution in a pass: its weights are folded, rounded and loaded, it convolves, and a chip converts its sums.

use burn::tensor::{Tensor, TensorData};

use super::chip::{ConvBits, Held, SignedScales, load, to_integers};
use super::fold::{Fold, by_filter, gain, options, running_affine};
use super::mode::{LossyChip, Statistics};
use crate::engine::{BlockOutput, Forms, Moments, Norm, Shortcut, conv_block, conv_block_forms};
use crate::integer::{Fusion, ImageScale};
use crate::network::{Activation, BatchNorm, Conv, ConvParams, Norm as ParamNorm, Source};
use crate::quantize::{Quantizer, quantize_biases};

/// How a convolution is computed.
#[expect(clippy::large_enum_variant, reason = "made once a layer and pass")]
pub(super) enum ConvPlan<'a> {
    /// In float, batch norm with the batch's statistics.
    BatchStatistics,
    /// In float, batch norm folded with its running statistics.
    RunningStatistics,
    /// The same; the batch's statistics are noted.
    Observed,
    /// With rounded weights.
    Quantized(Quantized<'a>),
}

/// How a convolution with rounded weights is computed.
pub(super) struct Quantized<'a> {
    pub bits: ConvBits,
    /// Scale of the form that it reads, `[1]`.
    pub input_scale: Tensor<1>,
    /// The codes of that form that mean 0, one a channel.
    pub zero_points: Vec<u8>,
    pub fusion: Fusion,
    pub rounding: Rounding,
    /// The chip, where its conversions lose something.
    pub chip: Option<LossyChip<'a>>,
    /// The forms to which its values are rounded in the pass that makes them; none with a chip.
    pub forms: Option<Forms>,
}

/// What integers do to a folded convolution beside the rounding of its weights.
#[derive(Clone)]
pub(super) struct Rounding {
    /// What one unit of its sums stands for, one value or one a filter.
    pub unit: Tensor<1>,
    /// Its multipliers' relative error; none for the logits.
    pub multiplier: Option<Tensor<1>>,
}

impl Rounding {
    fn apply(&self, weight: Tensor<4>, bias: Tensor<1>) -> (Tensor<4>, Norm) {
        let bias = quantize_biases(bias, self.unit.clone());
        match self.multiplier.clone() {
            None => (weight, Norm::Bias(bias)),
            Some(error) => (weight * by_filter(error.clone()), Norm::Bias(bias * error)),
        }
    }
}

/// What a convolution reads.
pub(super) struct ConvInput {
    /// `[batch, height, width, channels]`.
    pub x: Tensor<4>,
    /// The residual that joins its sums.
    pub shortcut: Option<Shortcut>,
}

/// What a convolution's values are.
#[expect(clippy::large_enum_variant, reason = "made once a layer and consumed at once")]
pub(super) enum ConvValue {
    Whole(Tensor<4>),
    /// Rounded to the forms of its plan.
    Forms(Vec<Tensor<4>>),
}

/// What a convolution gives.
pub(super) struct ConvOutput {
    /// `[batch, height, width, filters]`.
    pub value: ConvValue,
    /// The batch's, where its batch norm saw it.
    pub statistics: Option<Statistics>,
    /// What a chip's conversions added to each filter on average, where that was removed.
    pub correction: Option<Tensor<1>>,
}

/// A convolution of the network with its parameters in a pass.
pub(super) struct ConvPass<'a> {
    pub conv: &'a Conv,
    pub params: &'a ConvParams<Tensor<1>>,
    pub image_scale: &'a ImageScale,
    pub quantizer: &'a dyn Quantizer,
}

/// A convolution with its batch norm or bias, residual sum and activation.
pub(super) fn convolve(layer: &ConvPass, plan: &ConvPlan, input: ConvInput, activation: Activation) -> ConvOutput {
    let weight = layer.weight();
    let mut observed = None;
    let (weight, norm) = match (plan, &layer.params.norm) {
        (ConvPlan::Quantized(plan), _) => return layer.quantized(plan, weight, input, activation),
        (ConvPlan::BatchStatistics | ConvPlan::RunningStatistics | ConvPlan::Observed, ParamNorm::Bias(bias)) => {
            (weight, Norm::Bias(bias.clone()))
        }
        (ConvPlan::BatchStatistics, ParamNorm::Batch(norm)) => (weight, batch_norm(norm)),
        (ConvPlan::RunningStatistics | ConvPlan::Observed, ParamNorm::Batch(norm)) => {
            if matches!(plan, ConvPlan::Observed) {
                let input = ConvInput { x: input.x.clone(), shortcut: None };
                observed = layer.block(weight.clone(), batch_norm(norm), input, Activation::None).statistics;
            }
            let (gain, bias) = running_affine(norm);
            (weight * by_filter(gain), Norm::Bias(bias))
        }
    };
    let images = input.x.dims()[0];
    let output = layer.block(weight, norm, input, activation);
    let statistics = layer.statistics(output.statistics.or(observed), images);
    ConvOutput { value: ConvValue::Whole(output.value), statistics, correction: None }
}

impl ConvPass<'_> {
    /// The weights `[filters, channels of a group, kernel height, kernel width]`; the first layer's have the factor of each color.
    fn weight(&self) -> Tensor<4> {
        let shape = &self.conv.shape;
        let [kernel_height, kernel_width] = shape.window.kernel;
        let weight = self.params.weight.clone();
        let weight = weight.reshape([shape.filters(), shape.depth(), kernel_height, kernel_width]);
        match self.conv.source {
            Source::Image => {
                let colors: Vec<f32> = self.image_scale.color_scales().map(|scale| scale as f32).collect();
                let scales = (0..shape.filters()).flat_map(|filter| &colors[shape.reads(filter)]).copied().collect();
                let scales = TensorData::new::<f32, _>(scales, [shape.filters(), shape.depth(), 1, 1]);
                let scales = Tensor::from_data(scales, &weight.device());
                weight * scales
            }
            Source::Node(_) => weight,
        }
    }

    fn block(&self, weight: Tensor<4>, norm: Norm, input: ConvInput, activation: Activation) -> BlockOutput {
        conv_block(input.x, weight, options(self.conv), norm, input.shortcut, activation == Activation::Relu)
    }

    fn statistics(&self, found: Option<Moments>, images: usize) -> Option<Statistics> {
        let count = images * self.conv.shape.output.pixels();
        found.map(|Moments { mean, variance }| Statistics { conv: self.conv.id, mean, variance, count })
    }

    /// A convolution whose weights are rounded, before or after its batch norm is folded into them.
    fn quantized(&self, plan: &Quantized, weight: Tensor<4>, input: ConvInput, activation: Activation) -> ConvOutput {
        let (x, images) = (input.x.clone(), input.x.dims()[0]);
        let fold = Fold::new(self.conv, &self.params.norm, &weight, &x, plan.fusion);
        let weight = match fold.gain() {
            Some(gain) => weight * by_filter(gain.clone()),
            None => weight,
        };
        let scale = self.params.weight_scale.clone().expect("a calibrated network");
        let rounded = self.quantizer.weights(weight, scale.clone(), plan.bits.weights);
        let Held { weight, losses } = match plan.chip {
            None => Held { weight: rounded, losses: None },
            Some(chip) => {
                // A batch norm outside has a multiplier without a sign: the weights take it.
                let signs = match (&self.params.norm, plan.fusion) {
                    (ParamNorm::Batch(norm), Fusion::None) => {
                        let gamma = norm.gamma.clone();
                        gamma.clone().zeros_like().mask_fill(gamma.lower_elem(0.0), -2.0) + 1.0
                    }
                    _ => Tensor::ones([1], &rounded.device()),
                };
                let scales = SignedScales { weights: scale * signs.clone(), sums: plan.rounding.unit.clone() * signs };
                load(self.conv, plan.bits, &plan.zero_points, chip, rounded, scales)
            }
        };
        let batch_norm = || batch_norm(self.params.batch_norm().expect("a bias is folded"));
        let (weight, norm, losses, folded) = match fold {
            Fold::Into { bias, statistics, .. } => {
                let (weight, norm) = plan.rounding.apply(weight, bias);
                (weight, norm, losses, statistics)
            }
            Fold::Corrected { gain } => {
                let losses = losses.map(|losses| losses.before(gain.clone()));
                (weight / by_filter(gain), batch_norm(), losses, None)
            }
            Fold::Outside => (weight, batch_norm(), losses, None),
        };
        if let Some(forms) = &plan.forms {
            let ConvInput { x, shortcut } = input;
            let output = conv_block_forms(x, weight, options(self.conv), norm, shortcut, forms.clone());
            let statistics = self.statistics(output.statistics.or(folded), images);
            return ConvOutput { value: ConvValue::Forms(output.value), statistics, correction: None };
        }
        let BlockOutput { value, statistics } = self.block(weight, norm, input, activation);
        let (value, correction) = match losses {
            None => (value, None),
            Some(losses) => {
                let gain = match (&statistics, self.params.batch_norm()) {
                    (Some(Moments { variance, .. }), Some(norm)) => {
                        let device = value.device();
                        let like = |tensor: Tensor<1>| Tensor::<1>::from_data(tensor.into_data(), &device);
                        Some(gain(like(norm.gamma.clone()), like(variance.clone()), norm.epsilon))
                    }
                    _ => plan.rounding.multiplier.clone(),
                };
                let integers = || to_integers(&x, &plan.input_scale, &plan.zero_points);
                losses.convert(value, gain, integers)
            }
        };
        let statistics = self.statistics(statistics.or(folded), images);
        ConvOutput { value: ConvValue::Whole(value), statistics, correction }
    }
}

fn batch_norm(norm: &BatchNorm<Tensor<1>>) -> Norm {
    Norm::Batch { gamma: norm.gamma.clone(), beta: norm.beta.clone(), epsilon: norm.epsilon }
}
