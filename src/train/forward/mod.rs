//! The forward pass of each phase.
//!
//! One pass serves all phases; they differ in what a convolution does with its batch norm and in whether weights and values pass through
//! fake quantizers. Values are `[batch, height, width, channels]`.
//!
//! | file | knows |
//! |---|---|
//! | `mod` | the walk over the nodes, and the forms in which values are stored |
//! | `mode` | which pass it is, and what it gives |
//! | `conv` | what becomes of a convolution: fold, round, load, convolve, convert |
//! | `fold` | what of a batch norm goes into the weights |
//! | `chip` | the weights that a lossy chip's cells hold, and what its conversions add |

mod chip;
mod conv;
mod fold;
mod mode;

use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Device, Tensor};

use self::chip::ConvBits;
use self::conv::{ConvInput, ConvPass, ConvPlan, ConvValue, Quantized, Rounding, convolve};
pub(super) use self::fold::gain;
pub(crate) use self::mode::{ChipBias, Inspect, LossyChip, Mode, Output, Statistics};
use crate::engine::{Form, Forms, MAX_FORMS, PoolOptions, Shortcut, max_pool};
use crate::integer::{ImageScale, Reads, zero_point};
use crate::network::{Activation, Conv, ConvId, Graph, Op, Params, SameScale, Skip, Source, Window};
use crate::quantize::{Quantizer, multiplier_errors, value_codes, value_grid};

/// A value in its stored forms.
#[expect(clippy::large_enum_variant, reason = "one for each node")]
enum Value {
    /// The image, and all values where nothing is quantized.
    Whole(Tensor<4>),
    /// Quantized, by the bits of each form.
    Forms(Vec<(u8, Tensor<4>)>),
}

impl Value {
    fn form(&self, bits: Option<u8>) -> Tensor<4> {
        match self {
            Self::Whole(value) => value.clone(),
            Self::Forms(forms) => {
                let form = forms.iter().find(|(form, _)| bits == Some(*form));
                form.expect("a plan stores the forms that are read").1.clone()
            }
        }
    }

    fn map(&self, f: impl Fn(Tensor<4>) -> Tensor<4>) -> Self {
        match self {
            Self::Whole(value) => Self::Whole(f(value.clone())),
            Self::Forms(forms) => Self::Forms(forms.iter().map(|(bits, form)| (*bits, f(form.clone()))).collect()),
        }
    }
}

/// A network with the parameters of a pass, which may track gradients.
pub(crate) struct Pass<'a> {
    pub graph: &'a Graph,
    pub image_scale: &'a ImageScale,
    pub params: &'a Params<Tensor<1>>,
    pub quantizer: &'a dyn Quantizer,
    pub mode: Mode<'a>,
}

/// A pass while it runs.
struct Run<'p> {
    pass: &'p Pass<'p>,
    image: Value,
    /// Those of the nodes so far.
    values: Vec<Value>,
    statistics: Vec<Statistics>,
    corrections: Vec<(ConvId, Tensor<1>)>,
}

impl Run<'_> {
    fn read(&self, source: Source, bits: Option<u8>) -> Tensor<4> {
        match source {
            Source::Image => self.image.form(bits),
            Source::Node(index) => self.values[index].form(bits),
        }
    }

    /// What a node's convolution gives with its residual sum and activation; rounded where `in_forms` asks for that and it can be done at once.
    fn conv(&mut self, index: usize, source: Source, skip: Option<Skip>, end: ConvEnd) -> ConvValue {
        let ConvEnd { activation, in_forms } = end;
        let mut plans = self.pass.plans(index);
        if let (true, ConvPlan::Quantized(plan)) = (in_forms, &mut plans.plan) {
            plan.forms = self.pass.forms(index, &plans.conv);
        }
        let shortcut = skip.map(|skip| match skip {
            Skip::Identity { source, stride, pad_front } => {
                Shortcut { value: self.read(source, plans.skip_bits), stride, front: pad_front }
            }
            Skip::Projection { source, .. } => {
                let (conv, plan) = plans.projection.as_ref().expect("the node's projection");
                let input = ConvInput { x: self.read(source, plans.skip_bits), shortcut: None };
                let ConvValue::Whole(value) = self.convolve(conv, plan, input, Activation::None) else {
                    unreachable!("a projection's values aren't rounded")
                };
                Shortcut { value, stride: 1, front: 0 }
            }
        });
        // The quantizers of values are the ReLUs.
        let own = match self.pass.mode {
            Mode::Float | Mode::FloatTraining | Mode::Measuring { .. } | Mode::Observing => activation,
            Mode::Quantized { .. } => Activation::None,
        };
        let input = ConvInput { x: self.read(source, plans.input_bits), shortcut };
        let value = self.convolve(&plans.conv, &plans.plan, input, own);
        // The ranges of quantizers are clips themselves.
        match (own, self.pass.graph.clip(index), value) {
            (Activation::Relu, Some(clip), ConvValue::Whole(value)) => ConvValue::Whole(value.clamp_max(clip)),
            (_, _, value) => value,
        }
    }

    fn convolve(&mut self, conv: &Conv, plan: &ConvPlan, input: ConvInput, activation: Activation) -> ConvValue {
        let Pass { params, image_scale, quantizer, .. } = *self.pass;
        let own = ConvPass { conv, params: params.conv(conv.id), image_scale, quantizer };
        let output = convolve(&own, plan, input, activation);
        self.statistics.extend(output.statistics);
        self.corrections.extend(output.correction.map(|mean| (conv.id, mean)));
        output.value
    }
}

impl Pass<'_> {
    /// Runs it on images as the model makes them.
    pub fn run(&self, images: Tensor<4>, mut inspect: Option<Inspect>) -> Output {
        let mut run = Run {
            pass: self,
            image: Value::Whole(images),
            values: Vec::new(),
            statistics: Vec::new(),
            corrections: Vec::new(),
        };
        for (index, node) in self.graph.nodes().iter().enumerate() {
            let stored = match node.op {
                Op::Conv { skip, activation, logits, .. } => {
                    let in_forms = inspect.is_none() && !logits;
                    match run.conv(index, node.source, skip, ConvEnd { activation, in_forms }) {
                        ConvValue::Forms(values) => self.stored(index, values),
                        ConvValue::Whole(value) => {
                            inspect.iter_mut().for_each(|inspect| inspect(index, &value));
                            if logits {
                                let [batch, _, _, classes] = value.dims();
                                let Run { statistics, corrections, .. } = run;
                                return Output { logits: value.reshape([batch, classes]), statistics, corrections };
                            }
                            self.store(index, value)
                        }
                    }
                }
                Op::SameScale(SameScale::MaxPool { window: Window { kernel, stride, padding } }) => {
                    let Source::Node(source) = node.source else { unreachable!("only convolutions read the image") };
                    run.values[source].map(|value| max_pool(value, PoolOptions { kernel, stride, padding }))
                }
                Op::SameScale(SameScale::Concat) => {
                    let join = |bits| Tensor::cat(node.sources().map(|source| run.read(source, bits)).collect(), 3);
                    match self.mode {
                        Mode::Quantized { plan, .. } => {
                            let forms = plan.nodes[index].forms.iter();
                            Value::Forms(forms.map(|bits| (*bits, join(Some(*bits)))).collect())
                        }
                        Mode::Float | Mode::FloatTraining | Mode::Measuring { .. } | Mode::Observing => {
                            Value::Whole(join(None))
                        }
                    }
                }
                Op::AvgPool { window: Window { kernel, stride, padding } } => {
                    let padding = padding.map(|[before, behind]| (before, behind));
                    let options = AvgPoolOptions::new(kernel).with_stride(stride).with_padding_pairs(padding);
                    let x = run.read(node.source, self.average_bits(index)).permute([0, 3, 1, 2]);
                    let value = avg_pool2d(x, options).permute([0, 2, 3, 1]);
                    inspect.iter_mut().for_each(|inspect| inspect(index, &value));
                    self.store(index, value)
                }
            };
            run.values.push(stored);
        }
        unreachable!("the last node of a graph gives the logits")
    }

    /// Bits of the form that an average reads.
    fn average_bits(&self, node: usize) -> Option<u8> {
        let Mode::Quantized { plan, .. } = self.mode else { return None };
        match plan.nodes[node].reads {
            Reads::AvgPool { input } => Some(input),
            Reads::Conv(_) | Reads::SameScale => unreachable!("the node is an average"),
        }
    }

    /// What becomes of a node's convolution and of its projection.
    fn plans(&self, index: usize) -> NodePlans<'_> {
        let [own, projection] = self.graph.node_convs(index);
        let conv = own.expect("the node's own convolution");
        let float = |conv: Conv, projection: Option<Conv>, plan: &dyn Fn(ConvId) -> ConvPlan<'static>| {
            let projection = projection.map(|conv| (conv.clone(), plan(conv.id)));
            NodePlans { plan: plan(conv.id), conv, projection, input_bits: None, skip_bits: None }
        };
        let (plan, fusion, chip) = match self.mode {
            Mode::FloatTraining => return float(conv, projection, &|_| ConvPlan::BatchStatistics),
            Mode::Float => return float(conv, projection, &|_| ConvPlan::RunningStatistics),
            Mode::Observing => return float(conv, projection, &|_| ConvPlan::Observed),
            Mode::Measuring { convs } => {
                let plan = |id| match convs.contains(&id) {
                    true => ConvPlan::BatchStatistics,
                    false => ConvPlan::RunningStatistics,
                };
                return float(conv, projection, &plan);
            }
            Mode::Quantized { plan, fusion, chip } => (plan, fusion, chip),
        };
        let bits = plan.nodes[index].conv().expect("the plan is of this graph");
        let unit = |conv: &Conv, bits| {
            let scale = self.params.conv(conv.id).weight_scale.clone();
            scale.expect("a calibrated network") * self.scale(conv.source, bits)
        };
        let joined = projection.map(|conv| {
            let bits = bits.skip.expect("a projection reads a form");
            (unit(&conv, bits), bits, conv)
        });
        let own_unit = unit(&conv, bits.input);
        let error = |unit: &Tensor<1>, other: Option<Tensor<1>>| {
            let scale = (!conv.logits).then(|| self.output_scale(index));
            scale.map(|scale| multiplier_errors(unit.clone(), other, scale))
        };
        let quantized = |conv: &Conv, unit: Tensor<1>, other, input_bits| {
            let (input_scale, zero_points) = (self.scale(conv.source, input_bits), self.zero_points(conv, input_bits));
            let rounding = Rounding { multiplier: error(&unit, other), unit };
            let bits = ConvBits { input: input_bits, weights: bits.weights };
            ConvPlan::Quantized(Quantized { bits, input_scale, zero_points, fusion, rounding, chip, forms: None })
        };
        let own_plan = quantized(&conv, own_unit.clone(), joined.as_ref().map(|(unit, ..)| unit.clone()), bits.input);
        let projection = joined.map(|(unit, bits, conv)| {
            let plan = quantized(&conv, unit, Some(own_unit), bits);
            (conv, plan)
        });
        NodePlans { conv, plan: own_plan, projection, input_bits: Some(bits.input), skip_bits: bits.skip }
    }

    /// The scale of a value in one of its forms, `[1]`.
    fn scale(&self, source: Source, bits: u8) -> Tensor<1> {
        let (Mode::Quantized { plan, .. }, Source::Node(index)) = (self.mode, source) else {
            return Tensor::full([1], self.image_scale.scale(), &self.device());
        };
        self.output_scale(index) / f64::from(1u32 << (bits - plan.narrowest(source)))
    }

    /// The codes that mean 0 in the form that a convolution reads, one a channel.
    fn zero_points(&self, conv: &Conv, bits: u8) -> Vec<u8> {
        match conv.source {
            Source::Image => self.image_scale.zero_points.clone(),
            Source::Node(_) => {
                vec![zero_point(bits, self.graph.is_signed(conv.source)); conv.shape.channels()]
            }
        }
    }

    fn output_scale(&self, node: usize) -> Tensor<1> {
        self.params.output_scale(self.graph.scale_node(node)).expect("a calibrated network").clone()
    }

    /// The forms of a node's value that are stored.
    fn store(&self, index: usize, value: Tensor<4>) -> Value {
        let Mode::Quantized { plan, .. } = self.mode else {
            return Value::Whole(value);
        };
        let is_signed = self.graph.is_signed(Source::Node(index));
        let quantized = plan.nodes[index].forms.iter().map(|&bits| {
            let scale = self.scale(Source::Node(index), bits);
            (bits, self.quantizer.values(value.clone(), scale, value_codes(bits, is_signed)))
        });
        Value::Forms(quantized.collect())
    }

    /// Those forms where a convolution's pass can round to them: the quantizer is the usual one, there are no more than it takes, and no
    /// chip changes the values before.
    fn forms(&self, index: usize, conv: &Conv) -> Option<Forms> {
        let Mode::Quantized { plan, chip: None, .. } = self.mode else { return None };
        let bits = &plan.nodes[index].forms;
        if !self.quantizer.values_are_lsq() || bits.len() > MAX_FORMS {
            return None;
        }
        let is_signed = self.graph.is_signed(Source::Node(index));
        let narrowest = plan.narrowest(Source::Node(index));
        let form = |&bits: &u8| Form {
            grid: value_grid(value_codes(bits, is_signed), conv.shape.output.len()),
            divisor: (1u32 << (bits - narrowest)) as f32,
        };
        Some(Forms { scale: self.output_scale(index), forms: bits.iter().map(form).collect() })
    }

    /// Values in the forms of a node.
    fn stored(&self, index: usize, values: Vec<Tensor<4>>) -> Value {
        let Mode::Quantized { plan, .. } = self.mode else { unreachable!("only quantized values have forms") };
        Value::Forms(plan.nodes[index].forms.iter().copied().zip(values).collect())
    }

    /// The parameters' device.
    fn device(&self) -> Device {
        self.params.iter().next().expect("a network has parameters").1.device()
    }
}

/// What ends a convolution.
struct ConvEnd {
    activation: Activation,
    /// Its values may be rounded at once.
    in_forms: bool,
}

/// What becomes of a node's convolutions, and which forms they read.
struct NodePlans<'a> {
    conv: Conv,
    plan: ConvPlan<'a>,
    projection: Option<(Conv, ConvPlan<'a>)>,
    input_bits: Option<u8>,
    skip_bits: Option<u8>,
}
