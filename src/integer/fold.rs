//! From float weights and scales to the integer network: fold, scale, round, choose multipliers and shifts.
//!
//! This is the one place where floats become integers, in `f64`: the export and the fake-quant evaluation both start from here.
//!
//! ```text
//! gain_c = gamma / sqrt(var + eps)     w' = w * gain_c            b' = beta - gain_c * mean
//! q = round(w' / s_c)                  bias = round(b' / (s_c * s_in)) - sum q * z, the zero points of what is read
//! m_c / 2^n = s_c * s_in / s_out       m_skip / 2^n = s_skip / s_out
//! ```

use super::arithmetic::{
    Form, MAX_BIAS, MAX_MULTIPLIER, MAX_SKIP_MULTIPLIER, Requantize, SHIFT_LIMIT, SKIP_MULTIPLIER_BITS, zero_point,
};
use super::bits::{BitPlan, Fusion, NodeBits, QuantizeConfig, Reads};
use super::network::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use super::scales::{BatchNormRule, Limits, RealConv, SCALE_RATIO_FLOOR, Scales};
use crate::error::{Error, Result};
use crate::groups::GroupShape;
use crate::network::{
    Array, ConvId, ConvParams, ConvShape, Graph, Node, Norm, Op, ParamId, Params, Role, Skip, Source,
};

/// How the image's bytes become numbers: `(byte - zero_point) / (255 * std)`, one pair a color.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageScale {
    /// The byte that means 0.
    pub zero_points: Vec<u8>,
    /// Standard deviations of the colors, of values from 0 to 1.
    pub std: Vec<f32>,
}

impl ImageScale {
    /// The real value that one unit of a byte stands for: `1 / (255 * std)`, the mean over the colors.
    pub fn scale(&self) -> f64 {
        let scales = self.std.iter().map(|std| 1.0 / (255.0 * f64::from(*std)));
        scales.sum::<f64>() / self.std.len() as f64
    }

    /// What is left of `1 / (255 * std)` for each color beside the common [`scale`](Self::scale); it is folded into the first
    /// layer's weights.
    pub fn color_scales(&self) -> impl Iterator<Item = f64> {
        let scale = self.scale();
        self.std.iter().map(move |std| 1.0 / (255.0 * f64::from(*std)) / scale)
    }
}

/// What the fold needs to know beside the weights.
#[derive(Clone, Debug)]
pub struct FoldOptions<'a> {
    /// Bits, fusion and weight scale.
    pub quantize: &'a QuantizeConfig,
    /// The image's bytes.
    pub image_scale: &'a ImageScale,
    /// Group shape, written into the network.
    pub group: GroupShape,
    /// Names of the classes.
    pub classes: &'a [String],
}

/// Smallest ratio of a column's scale to an identity residual's, whose multiplier has more bits: beside the largest `m_skip` the column's is 4 at least.
const SKIP_RATIO_FLOOR: f64 = 1.0 / (1u32 << (SKIP_MULTIPLIER_BITS - 3)) as f64;

/// Folds and rounds a network.
///
/// # Errors
/// Names the layer: a scale that is missing or isn't positive, one that no multiplier and shift can express, sums beyond 32 bits.
pub fn fold(graph: &Graph, params: &Params<Array>, options: &FoldOptions) -> Result<IntegerNetwork> {
    let plan = BitPlan::new(graph, options.quantize);
    let folder = Folder { graph, params, options, plan: &plan };
    let layers = graph
        .nodes()
        .iter()
        .zip(&plan.nodes)
        .enumerate()
        .map(|(index, (node, bits))| folder.layer(index, node, bits))
        .collect::<Result<Vec<IntegerLayer>>>()?;
    let network = IntegerNetwork {
        graph: graph.clone(),
        zero_points: options.image_scale.zero_points.clone(),
        classes: options.classes.to_vec(),
        group: options.group,
        layers,
    };
    network.validate()?;
    Ok(network)
}

struct Folder<'a> {
    graph: &'a Graph,
    params: &'a Params<Array>,
    options: &'a FoldOptions<'a>,
    plan: &'a BitPlan,
}

/// A convolution of the graph, with the widths that the plan gives it.
struct Planned<'a> {
    id: ConvId,
    name: &'a str,
    shape: ConvShape,
    source: Source,
    input_bits: u8,
    weight_bits: u8,
    batch_norm: BatchNormRule,
}

/// A convolution in integers.
struct FoldedConv {
    conv: IntegerConv,
    /// The real value of one unit of its accumulators: `s_c * s_in`.
    units: Scales,
}

/// What joins a convolution's accumulators before they are requantized.
enum Joining<'a> {
    Nothing,
    /// A value with this scale.
    Identity {
        scale: f64,
    },
    /// The accumulators of another convolution, with their units.
    Projection {
        units: &'a Scales,
    },
}

impl Folder<'_> {
    fn layer(&self, index: usize, node: &Node, bits: &NodeBits) -> Result<IntegerLayer> {
        match (node.op, bits.reads) {
            (Op::SameScale(_), Reads::SameScale) => Ok(IntegerLayer::SameScale),
            (Op::AvgPool { window }, Reads::AvgPool { input }) => {
                let unit = Scales::Shared(self.scale(node.source, input)? / window.taps() as f64);
                let output = self.requantize(index, bits, &unit, &Joining::Nothing)?.output;
                Ok(IntegerLayer::AvgPool { input_bits: input, output })
            }
            (Op::Conv { conv: shape, batch_norm, skip, logits, .. }, Reads::Conv(widths)) => {
                let planned = Planned {
                    id: ConvId::Own(index),
                    name: &node.name,
                    shape,
                    source: node.source,
                    input_bits: widths.input,
                    weight_bits: widths.weights,
                    batch_norm: self.batch_norm(batch_norm),
                };
                if logits {
                    return self.logits(&planned);
                }
                match (skip, widths.skip) {
                    (None, _) => {
                        let main = self.conv(&planned, 0.0)?;
                        let output = self.requantize(index, bits, &main.units, &Joining::Nothing)?.output;
                        Ok(IntegerLayer::Conv { conv: main.conv, skip: None, output: Some(output) })
                    }
                    (Some(Skip::Identity { source, .. }), Some(skip_bits)) => {
                        self.with_identity(index, bits, &planned, self.scale(source, skip_bits)?, skip_bits)
                    }
                    (Some(Skip::Projection { source, conv: shape, batch_norm }), Some(skip_bits)) => {
                        let name = node.projection_name();
                        let batch_norm = self.batch_norm(batch_norm);
                        let projection = Planned {
                            id: ConvId::Projection(index),
                            name: &name,
                            shape,
                            source,
                            input_bits: skip_bits,
                            batch_norm,
                            ..planned
                        };
                        self.with_projection(index, bits, &planned, &projection)
                    }
                    (Some(_), None) => unreachable!("a plan gives every residual its bits"),
                }
            }
            (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => {
                unreachable!("the plan is of this graph")
            }
        }
    }

    /// The logits share one scale, so that they can be compared: columns of other scales would need another multiplier each.
    fn logits(&self, planned: &Planned) -> Result<IntegerLayer> {
        let FoldedConv { conv, units } = self.conv(planned, 0.0)?;
        match units {
            Scales::Shared(_) => Ok(IntegerLayer::Conv { conv, skip: None, output: None }),
            Scales::PerColumn(_) => {
                Err(Error::layer(planned.name, "the last layer's logits need one scale, not one a column"))
            }
        }
    }

    /// A convolution whose accumulators a value of scale `scale` joins.
    fn with_identity(
        &self,
        index: usize,
        bits: &NodeBits,
        planned: &Planned,
        scale: f64,
        skip_bits: u8,
    ) -> Result<IntegerLayer> {
        let mut main = self.conv(planned, 0.0)?;
        if main.units.any_below(scale * SKIP_RATIO_FLOOR) {
            main = self.conv(planned, scale * SKIP_RATIO_FLOOR)?;
        }
        let requantizer = self.requantize(index, bits, &main.units, &Joining::Identity { scale })?;
        let multiplier = requantizer.multiplier(scale);
        let skip = Some(IntegerSkip::Identity { bits: skip_bits, multiplier });
        Ok(IntegerLayer::Conv { conv: main.conv, skip, output: Some(requantizer.output) })
    }

    /// A convolution whose accumulators those of another one join.
    ///
    /// They share a shift: where one is much weaker, its multipliers would have no bits left, so its units get a floor.
    fn with_projection(
        &self,
        index: usize,
        bits: &NodeBits,
        planned: &Planned,
        projection: &Planned,
    ) -> Result<IntegerLayer> {
        let (mut main, mut joined) = (self.conv(planned, 0.0)?, self.conv(projection, 0.0)?);
        let floor = main.units.largest().max(joined.units.largest()) * SCALE_RATIO_FLOOR;
        if main.units.any_below(floor) || joined.units.any_below(floor) {
            (main, joined) = (self.conv(planned, floor)?, self.conv(projection, floor)?);
        }
        let joining = Joining::Projection { units: &joined.units };
        let requantizer = self.requantize(index, bits, &main.units, &joining)?;
        let multipliers = requantizer.multipliers(&joined.units);
        let skip = Some(IntegerSkip::Projection { conv: joined.conv, multipliers });
        Ok(IntegerLayer::Conv { conv: main.conv, skip, output: Some(requantizer.output) })
    }

    /// What becomes of a convolution's batch norm, if it has one.
    fn batch_norm(&self, has: bool) -> BatchNormRule {
        match (has, self.options.quantize.fusion) {
            (false, _) => BatchNormRule::Absent,
            (true, Fusion::None) => BatchNormRule::Outside,
            (true, Fusion::Batch | Fusion::Ema | Fusion::Frozen | Fusion::Once) => BatchNormRule::Folded,
        }
    }

    /// Folds and rounds a convolution whose accumulators have units of at least `least_unit`.
    fn conv(&self, planned: &Planned, least_unit: f64) -> Result<FoldedConv> {
        let Planned { id, name, shape, source, .. } = *planned;
        let params = self.params.conv(id);
        let (gains, biases) = affine(params);
        let real = RealConv {
            weights: &params.weight.values,
            gains,
            biases,
            colors: match source {
                Source::Image => self.options.image_scale.color_scales().collect(),
                Source::Node(_) => vec![1.0; shape.channels()],
            },
            shape,
        };
        let limits = Limits { input_scale: self.scale(source, planned.input_bits)?, least_unit };
        let learned = Scales::new(self.positive(id, Role::WeightScale, params.weight_scale.as_ref())?);
        let scales = real.scales(&learned, planned.batch_norm, &limits);
        let limit = f64::from((1 << (planned.weight_bits - 1)) - 1);
        let mut weights = Vec::with_capacity(shape.weights());
        let mut biases = Vec::with_capacity(shape.filters());
        let zero_points = self.zero_points(source, planned.input_bits);
        for (filter, bias) in real.biases.iter().enumerate() {
            let scale = scales.get(filter);
            if !bias.is_finite() || !real.column(filter).all(f64::is_finite) {
                return Err(Error::layer(name, format!("filter {filter} has a weight or a bias that isn't finite")));
            }
            let column = real.column(filter).map(|weight| (weight / scale).round().clamp(-limit, limit) as i8);
            let column: Vec<i8> = column.collect();
            let mut bias = (bias / (scale * limits.input_scale)).round() as i64;
            let zero_points = &zero_points[shape.reads(filter)];
            for (index, weight) in column.iter().enumerate() {
                bias -= i64::from(*weight) * i64::from(zero_points[index / shape.taps()]);
            }
            let bias = i32::try_from(bias).ok().filter(|bias| bias.abs() <= MAX_BIAS);
            biases.push(bias.ok_or_else(|| Error::layer(name, format!("the bias of filter {filter} reaches 2^30")))?);
            weights.extend(column);
        }
        let Planned { input_bits, weight_bits, .. } = *planned;
        let conv = IntegerConv { input_bits, weight_bits, weights, bias: biases };
        Ok(FoldedConv { conv, units: scales.times(limits.input_scale) })
    }

    /// The code of each channel that means 0 in one of a value's forms.
    fn zero_points(&self, source: Source, bits: u8) -> Vec<u8> {
        match source {
            Source::Image => self.options.image_scale.zero_points.clone(),
            Source::Node(_) => vec![self.zero_point(source, bits); self.graph.shape(source).channels],
        }
    }

    /// The code that means 0 in one of the forms of a node's output.
    fn zero_point(&self, source: Source, bits: u8) -> u8 {
        zero_point(bits, self.graph.is_signed(source))
    }

    /// Scale of a value in one of its forms.
    fn scale(&self, source: Source, bits: u8) -> Result<f64> {
        let Source::Node(index) = source else {
            return Ok(self.options.image_scale.scale());
        };
        Ok(self.output_scale(index)? / f64::from(1u32 << (bits - self.plan.narrowest(source))))
    }

    fn output_scale(&self, node: usize) -> Result<f64> {
        let node = self.graph.scale_node(node);
        Ok(self.positive(ConvId::Own(node), Role::OutputScale, self.params.output_scale(node))?[0])
    }

    /// The values of a quantizer's scale.
    fn positive(&self, conv: ConvId, role: Role, scale: Option<&Array>) -> Result<Vec<f64>> {
        let values = scale.map_or(&[][..], |scale| &scale.values);
        if values.is_empty() || values.iter().any(|scale| !(scale.is_finite() && *scale > 0.0)) {
            let name = ParamId { conv, role }.name(self.graph);
            return Err(Error::Setting(format!("`{name}` must hold positive scales, found {values:?}")));
        }
        Ok(values.iter().map(|scale| f64::from(*scale)).collect())
    }

    /// Chooses the largest shift with which every multiplier stays within its bits.
    fn requantize(&self, node: usize, bits: &NodeBits, units: &Scales, joining: &Joining) -> Result<Requantizer> {
        let output_scale = self.output_scale(node)?;
        let narrowest = self.plan.narrowest(Source::Node(node));
        let widest = bits.forms[bits.forms.len() - 1];
        let fits = |shift: u8| {
            let multiplier = |unit: f64| (unit / output_scale * f64::from(shift).exp2()).round();
            multiplier(units.largest()) <= f64::from(MAX_MULTIPLIER)
                && match joining {
                    Joining::Nothing => true,
                    Joining::Identity { scale } => multiplier(*scale) <= f64::from(MAX_SKIP_MULTIPLIER),
                    Joining::Projection { units } => multiplier(units.largest()) <= f64::from(MAX_MULTIPLIER),
                }
        };
        let unusable = || {
            Error::layer(
                &self.graph.nodes()[node].name,
                format!(
                    "no shift expresses its output scale {output_scale}: its sums and what joins them are too far from it"
                ),
            )
        };
        let shift = (widest - narrowest + 1..SHIFT_LIMIT).rev().find(|shift| fits(*shift)).ok_or_else(unusable)?;
        let form = |bits: u8| Form {
            bits,
            shift: shift - (bits - narrowest),
            zero_point: self.zero_point(Source::Node(node), bits),
        };
        let mut requantizer = Requantizer {
            output_scale,
            shift,
            output: Requantize { multipliers: Vec::new(), forms: bits.forms.iter().map(|&bits| form(bits)).collect() },
        };
        requantizer.output.multipliers = requantizer.multipliers(units);
        let joined = match joining {
            Joining::Nothing => Vec::new(),
            Joining::Identity { scale } => vec![requantizer.multiplier(*scale)],
            Joining::Projection { units } => requantizer.multipliers(units),
        };
        if requantizer.output.multipliers.iter().chain(&joined).any(|multiplier| *multiplier == 0) {
            return Err(unusable());
        }
        Ok(requantizer)
    }
}

/// Gain and bias of each filter.
fn affine(params: &ConvParams<Array>) -> (Vec<f64>, Vec<f64>) {
    let doubles = |array: &Array| -> Vec<f64> { array.values.iter().map(|value| f64::from(*value)).collect() };
    match &params.norm {
        Norm::Bias(bias) => (vec![1.0; bias.values.len()], doubles(bias)),
        Norm::Batch(norm) => {
            let (gamma, beta) = (doubles(&norm.gamma), doubles(&norm.beta));
            let (mean, variance) = (doubles(&norm.mean), doubles(&norm.variance));
            let gains: Vec<f64> =
                gamma.iter().zip(&variance).map(|(gamma, variance)| gamma / (variance + norm.epsilon).sqrt()).collect();
            let biases = beta.iter().zip(&gains).zip(&mean).map(|((beta, gain), mean)| beta - gain * mean).collect();
            (gains, biases)
        }
    }
}

/// A requantization with what its multipliers are relative to.
struct Requantizer {
    output_scale: f64,
    shift: u8,
    output: Requantize,
}

impl Requantizer {
    /// `unit / output_scale * 2^n`, rounded.
    fn multiplier(&self, unit: f64) -> u32 {
        (unit / self.output_scale * f64::from(self.shift).exp2()).round() as u32
    }

    fn multipliers(&self, units: &Scales) -> Vec<u32> {
        units.values().iter().map(|unit| self.multiplier(*unit)).collect()
    }
}
