//! From float weights and steps to the integer network: fold, scale, round, choose multipliers and shifts.
//!
//! This is the one place where floats become integers, in `f64`: the export and the fake-quant evaluation both start from here.
//!
//! ```text
//! gain_c = gamma / sqrt(var + eps)     w' = w * gain_c            b' = beta - gain_c * mean
//! q = round(w' / s_c)                  bias = round(b' / (s_c * s_in)) [- sum q * z for the picture]
//! m_c / 2^n = s_c * s_in / s_out       m_skip / 2^n = s_skip / s_out
//! ```

use super::bits::{BitPlan, Fusion, NodeBits, QuantizeConfig};
use super::network::{
    Form, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip, MAX_BIAS, MAX_MULTIPLIER, MAX_SKIP_MULTIPLIER,
    Requantize, SHIFT_LIMIT,
};
use crate::error::{Error, Result};
use crate::groups::GroupShape;
use crate::network::{BATCH_NORM_EPSILON, ConvShape, Graph, Node, Op, Skip, Source, Weights};

/// How the picture's bytes become numbers: `(byte - zero_point) / (255 * std)`, one pair a color.
#[derive(Clone, Debug, PartialEq)]
pub struct PictureScale {
    /// The byte that means 0.
    pub zero_points: Vec<u8>,
    /// Standard deviations of the colors, of values from 0 to 1.
    pub std: Vec<f32>,
}

impl PictureScale {
    /// The real value that one unit of a byte stands for: `1 / (255 * std)`, the mean over the colors.
    pub fn step(&self) -> f64 {
        let steps = self.std.iter().map(|std| 1.0 / (255.0 * f64::from(*std)));
        steps.sum::<f64>() / self.std.len() as f64
    }

    /// What is left of `1 / (255 * std)` for each color beside the common [`step`](Self::step); it is folded into the first
    /// layer's weights.
    pub fn color_scales(&self) -> impl Iterator<Item = f64> {
        let step = self.step();
        self.std.iter().map(move |std| 1.0 / (255.0 * f64::from(*std)) / step)
    }
}

/// What the fold needs to know beside the weights.
#[derive(Clone, Debug)]
pub struct FoldOptions<'a> {
    /// Bits, fusion and weight scale.
    pub quantize: &'a QuantizeConfig,
    /// The picture's bytes.
    pub picture: &'a PictureScale,
    /// Group shape, written into the network.
    pub group: GroupShape,
    /// Names of the classes.
    pub classes: &'a [String],
}

/// Smallest ratio of a column's scale to the layer's largest: below it the column's multiplier would have no bits left.
const SCALE_RATIO_FLOOR: f64 = 1.0 / (1 << 14) as f64;
/// The same beside an identity residual, whose multiplier has more bits.
const SKIP_RATIO_FLOOR: f64 = 1.0 / (1 << 28) as f64;

/// Folds and rounds a network.
///
/// # Errors
/// Names the layer: a missing array, a step that isn't positive, a scale that no multiplier and shift can express, sums
/// beyond 32 bits.
pub fn fold(graph: &Graph, weights: &Weights, options: &FoldOptions) -> Result<IntegerNetwork> {
    let plan = BitPlan::new(graph, options.quantize);
    let folder = Folder { graph, weights, options, plan: &plan };
    let layers = graph
        .nodes()
        .iter()
        .zip(&plan.nodes)
        .map(|(node, bits)| folder.layer(node, bits))
        .collect::<Result<Vec<IntegerLayer>>>()?;
    let network = IntegerNetwork {
        graph: graph.clone(),
        zero_points: options.picture.zero_points.clone(),
        classes: options.classes.to_vec(),
        group: options.group,
        layers,
    };
    network.validate()?;
    Ok(network)
}

struct Folder<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    options: &'a FoldOptions<'a>,
    plan: &'a BitPlan,
}

/// A convolution in integers with the real value that one unit of its sums stands for, a column each.
struct FoldedConv {
    conv: IntegerConv,
    /// `s_c * s_in`; one entry where all columns share it.
    units: Vec<f64>,
}

/// A convolution in floats: weights and biases with batch norm and colors folded in.
struct RealConv<'a> {
    weights: &'a [f32],
    gains: Vec<f64>,
    biases: Vec<f64>,
    /// Factor of each input channel.
    colors: Vec<f64>,
    taps: usize,
}

impl RealConv<'_> {
    /// The folded weights of a filter.
    fn column(&self, filter: usize) -> impl Iterator<Item = f64> {
        let len = self.colors.len() * self.taps;
        let weights = self.weights[filter * len..][..len].iter().enumerate();
        weights.map(move |(index, weight)| f64::from(*weight) * self.gains[filter] * self.colors[index / self.taps])
    }

    /// The scale of the layer, or of each column: where steps are learned for columns, and with a batch norm that stays `outside`, whose
    /// gain each column's scale takes up.
    ///
    /// Floors keep biases below `2^30`, `s_c * s_in` at `unit_floor`, and multipliers above zero; a column without weights takes the
    /// largest scale.
    fn scales(&self, steps: &[f64], outside: bool, input_step: f64, unit_floor: f64) -> Vec<f64> {
        // Half of the limit, so that rounding and the picture's zero points stay within it.
        let bias_limit = f64::from(MAX_BIAS) / 2.0;
        let floor = |filter: usize| unit_floor.max(self.biases[filter].abs() / bias_limit) / input_step;
        let filters = 0..self.gains.len();
        if steps.len() == 1 && !outside {
            return vec![filters.map(floor).fold(steps[0], f64::max)];
        }
        let wished: Vec<f64> = filters
            .map(|filter| match self.column(filter).all(|weight| weight == 0.0) {
                true => 0.0,
                false => {
                    let scale = broadcast(steps, filter) * if outside { self.gains[filter].abs() } else { 1.0 };
                    scale.max(floor(filter))
                }
            })
            .collect();
        let largest = wished.iter().copied().fold(0.0, f64::max);
        let largest = if largest > 0.0 { largest } else { steps[0] };
        let scales = wished.iter().enumerate().map(|(filter, &scale)| {
            let scale = if scale == 0.0 { largest } else { scale };
            scale.max(largest * SCALE_RATIO_FLOOR).max(floor(filter))
        });
        scales.collect()
    }
}

/// The value of a filter, from a list that holds one for all or one for each.
fn broadcast(values: &[f64], filter: usize) -> f64 {
    values[if values.len() > 1 { filter } else { 0 }]
}

impl Folder<'_> {
    fn layer(&self, node: &Node, bits: &NodeBits) -> Result<IntegerLayer> {
        match node.op {
            Op::MaxPool { .. } => Ok(IntegerLayer::MaxPool),
            Op::AvgPool { kernel } => {
                let window = (kernel[0] * kernel[1]) as f64;
                let unit = self.step(node.source, bits.input)? / window;
                let requantize = self.requantizer(node, bits, &[unit], &[], None)?;
                Ok(IntegerLayer::AvgPool { input_bits: bits.input, output: requantize.output })
            }
            Op::Conv { conv: shape, batch_norm, skip, logits } => {
                let fold_main =
                    |floor: f64| self.conv(&node.name, &shape, node.source, bits, bits.input, batch_norm, floor);
                let mut main = fold_main(0.0)?;
                if logits {
                    return self.logits(node, main);
                }
                let (skip, requantize) = match (skip, bits.skip) {
                    (None, _) => (None, self.requantizer(node, bits, &main.units, &[], None)?),
                    (Some(Skip::Identity { source, .. }), Some(skip_bits)) => {
                        let step = self.step(source, skip_bits)?;
                        if main.units.iter().any(|unit| *unit < step * SKIP_RATIO_FLOOR) {
                            main = fold_main(step * SKIP_RATIO_FLOOR)?;
                        }
                        let requantize = self.requantizer(node, bits, &main.units, &[], Some(step))?;
                        let multiplier = requantize.scale(step).round() as u32;
                        (Some(IntegerSkip::Identity { bits: skip_bits, multiplier }), requantize)
                    }
                    (Some(Skip::Projection { source, conv: shape }), Some(skip_bits)) => {
                        let name = node.projection_name();
                        let fold_projection =
                            |floor: f64| self.conv(&name, &shape, source, bits, skip_bits, true, floor);
                        let mut projection = fold_projection(0.0)?;
                        // They share a shift: where one is much weaker, its multipliers would have no bits left.
                        let units = || main.units.iter().chain(&projection.units);
                        let floor = units().copied().fold(0.0, f64::max) * SCALE_RATIO_FLOOR;
                        if units().any(|unit| *unit < floor) {
                            (main, projection) = (fold_main(floor)?, fold_projection(floor)?);
                        }
                        let requantize = self.requantizer(node, bits, &main.units, &projection.units, None)?;
                        let multipliers = requantize.multipliers(&projection.units);
                        (Some(IntegerSkip::Projection { conv: projection.conv, multipliers }), requantize)
                    }
                    (Some(_), None) => unreachable!("a plan gives every residual its bits"),
                };
                Ok(IntegerLayer::Conv { conv: main.conv, skip, output: Some(requantize.output) })
            }
        }
    }

    /// The logits share one scale, so that they can be compared: columns of other scales would need another multiplier each.
    fn logits(&self, node: &Node, main: FoldedConv) -> Result<IntegerLayer> {
        if main.units.len() > 1 {
            return Err(Error::layer(&node.name, "the last layer's logits need one scale, not one a column"));
        }
        Ok(IntegerLayer::Conv { conv: main.conv, skip: None, output: None })
    }

    #[allow(clippy::too_many_arguments)]
    fn conv(
        &self,
        name: &str,
        shape: &ConvShape,
        source: Source,
        bits: &NodeBits,
        input_bits: u8,
        batch_norm: bool,
        unit_floor: f64,
    ) -> Result<FoldedConv> {
        let (gains, biases) = self.affine(name, shape, batch_norm)?;
        let real = RealConv {
            weights: &self.weights.get(&format!("{name}.weight"))?.values,
            gains,
            biases,
            colors: match source {
                Source::Image => self.options.picture.color_scales().collect(),
                Source::Node(_) => vec![1.0; shape.channels()],
            },
            taps: shape.taps(),
        };
        let input_step = self.step(source, input_bits)?;
        let steps = self.positive(&format!("{name}.weight_step"))?;
        let outside = self.options.quantize.fusion == Fusion::None && batch_norm;
        let scales = real.scales(&steps, outside, input_step, unit_floor);
        let limit = f64::from((1 << (bits.weights - 1)) - 1);
        let mut weights = Vec::with_capacity(shape.weights());
        let mut biases = Vec::with_capacity(shape.filters());
        for (filter, bias) in real.biases.iter().enumerate() {
            let scale = broadcast(&scales, filter);
            let column = real.column(filter).map(|weight| (weight / scale).round().clamp(-limit, limit) as i8);
            let column: Vec<i8> = column.collect();
            let mut bias = (bias / (scale * input_step)).round() as i64;
            if source == Source::Image {
                for (index, weight) in column.iter().enumerate() {
                    bias -= i64::from(*weight) * i64::from(self.options.picture.zero_points[index / shape.taps()]);
                }
            }
            let bias = i32::try_from(bias).ok().filter(|bias| bias.abs() <= MAX_BIAS);
            biases.push(bias.ok_or_else(|| Error::layer(name, format!("the bias of filter {filter} reaches 2^30")))?);
            weights.extend(column);
        }
        let conv = IntegerConv { input_bits, weight_bits: bits.weights, weights, bias: biases };
        Ok(FoldedConv { conv, units: scales.iter().map(|scale| scale * input_step).collect() })
    }

    /// Gain and bias of each filter.
    fn affine(&self, name: &str, shape: &ConvShape, batch_norm: bool) -> Result<(Vec<f64>, Vec<f64>)> {
        let part = |part: &str| -> Result<Vec<f64>> {
            Ok(self.weights.get(&format!("{name}.{part}"))?.values.iter().map(|v| f64::from(*v)).collect())
        };
        if !batch_norm {
            return Ok((vec![1.0; shape.filters()], part("bias")?));
        }
        let (gamma, beta, mean, var) = (part("gamma")?, part("beta")?, part("mean")?, part("var")?);
        let gains: Vec<f64> = gamma.iter().zip(&var).map(|(g, v)| g / (v + BATCH_NORM_EPSILON).sqrt()).collect();
        let biases = beta.iter().zip(&gains).zip(&mean).map(|((beta, gain), mean)| beta - gain * mean).collect();
        Ok((gains, biases))
    }

    /// Step of a value in one of its forms.
    fn step(&self, source: Source, bits: u8) -> Result<f64> {
        let Source::Node(index) = source else {
            return Ok(self.options.picture.step());
        };
        let node = &self.graph.nodes()[index];
        if let Op::MaxPool { .. } = node.op {
            return self.step(node.source, bits);
        }
        let step = self.positive(&format!("{}.output_step", node.name))?[0];
        Ok(step / f64::from(1u32 << (bits - self.plan.narrowest(source))))
    }

    fn positive(&self, name: &str) -> Result<Vec<f64>> {
        let steps = &self.weights.get(name)?.values;
        if steps.is_empty() || steps.iter().any(|step| !(step.is_finite() && *step > 0.0)) {
            return Err(Error::Setting(format!("`{name}` must hold positive steps, found {steps:?}")));
        }
        Ok(steps.iter().map(|step| f64::from(*step)).collect())
    }

    /// Chooses the largest shift with which every multiplier stays within its bits.
    fn requantizer(
        &self,
        node: &Node,
        bits: &NodeBits,
        units: &[f64],
        projection_units: &[f64],
        skip_step: Option<f64>,
    ) -> Result<Requantizer> {
        let output_step = self.positive(&format!("{}.output_step", node.name))?[0];
        let narrowest = bits.forms[0];
        let widest = bits.forms[bits.forms.len() - 1];
        let largest = |units: &[f64]| units.iter().copied().fold(0.0, f64::max) / output_step;
        let fits = |shift: u8| {
            let scale = f64::from(shift).exp2();
            let multiplier = largest(units).max(largest(projection_units)) * scale;
            let skip = skip_step.unwrap_or(0.0) / output_step * scale;
            multiplier.round() <= f64::from(MAX_MULTIPLIER) && skip.round() <= f64::from(MAX_SKIP_MULTIPLIER)
        };
        let unusable = || {
            Error::layer(
                &node.name,
                format!(
                    "no shift expresses its output step {output_step}: its sums and what joins them are too far from it"
                ),
            )
        };
        let shift = (widest - narrowest + 1..SHIFT_LIMIT).rev().find(|shift| fits(*shift)).ok_or_else(unusable)?;
        let mut requantizer = Requantizer {
            output_step,
            shift,
            output: Requantize {
                multipliers: Vec::new(),
                forms: bits.forms.iter().map(|&bits| Form { bits, shift: shift - (bits - narrowest) }).collect(),
            },
        };
        requantizer.output.multipliers = requantizer.multipliers(units);
        let all = requantizer.output.multipliers.iter().copied().chain(requantizer.multipliers(projection_units));
        if all.chain(skip_step.map(|step| requantizer.scale(step).round() as u32)).any(|multiplier| multiplier == 0) {
            return Err(unusable());
        }
        Ok(requantizer)
    }
}

struct Requantizer {
    output_step: f64,
    shift: u8,
    output: Requantize,
}

impl Requantizer {
    /// `unit / output_step * 2^n`.
    fn scale(&self, unit: f64) -> f64 {
        unit / self.output_step * f64::from(self.shift).exp2()
    }

    fn multipliers(&self, units: &[f64]) -> Vec<u32> {
        units.iter().map(|unit| self.scale(*unit).round() as u32).collect()
    }
}
