//! The integer reference: runs an [`IntegerNetwork`] as plain convolutions.
//!
//! It is the measure for the other executions, so it shares nothing with the hardware model but the registers of `simd`: it reads the dense
//! weights and computes each sum as the header of [`integer`](super) says.
//!
//! | file | knows |
//! |---|---|
//! | `mod` | the walk over the layers, and where values lie |
//! | `conv` | accumulators of a convolution |
//! | `passes` | scaling, residual sums, rounding, pooling |

mod conv;
mod passes;

use rayon::prelude::*;

use self::conv::Convolution;
use self::passes::{Skipped, add_products, join, max_pool, place, round, sum_pool};
use super::arithmetic::{Form, Requantize, multiplier};
use super::network::{Codes, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::error::{Error, Result};
use crate::network::{ConvShape, MapShape, Node, Op, PoolShape, SameScale, Skip, Source, parallel_images};

/// A network that is ready to run.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    network: &'a IntegerNetwork,
    steps: Vec<Step<'a>>,
}

/// What a node computes.
#[derive(Clone, Debug)]
enum Step<'a> {
    Conv {
        product: Box<Product>,
        skip: Option<SkipStep>,
        /// `None` for the logits.
        output: Option<&'a Requantize>,
    },
    MaxPool {
        source: usize,
        pool: PoolShape,
    },
    /// For each form where what lies in it comes from.
    Concat(Vec<Vec<Part>>),
    AvgPool {
        value: Value,
        zero_point: u8,
        pool: PoolShape,
        output: &'a Requantize,
    },
}

/// What a concatenation takes.
#[derive(Clone, Copy, Debug)]
struct Part {
    value: Value,
    channels: usize,
}

/// What joins a sum.
#[derive(Clone, Debug)]
enum SkipStep {
    Identity { value: Value, zero_point: u8, input: MapShape, stride: usize, pad_front: usize, multiplier: u32 },
    Projection { product: Box<Product> },
}

/// A convolution of a value, each of whose filters is multiplied.
#[derive(Clone, Debug)]
struct Product {
    value: Value,
    conv: Convolution,
    /// One a filter; none for the logits.
    multipliers: Vec<i64>,
}

/// The image, or one stored form of a node's output.
#[derive(Clone, Copy, Debug)]
enum Value {
    Image,
    Node { index: usize, form: usize },
}

/// What is used again from image to image. Maps are `[height][width][channels]`.
#[derive(Default)]
struct Scratch {
    image: Vec<u8>,
    /// For each node its forms, in the order of [`IntegerNetwork::forms`].
    values: Vec<Vec<Vec<u8>>>,
    bordered: Vec<u8>,
    accumulators: Vec<i32>,
    /// What is requantized.
    sums: Vec<i64>,
}

impl<'a> Reference<'a> {
    /// Prepares a network.
    ///
    /// # Errors
    /// A network that [`IntegerNetwork::validate`] rejects.
    pub fn new(network: &'a IntegerNetwork) -> Result<Self> {
        network.validate()?;
        let nodes = network.graph.nodes().iter().zip(&network.layers).enumerate();
        let steps = nodes.map(|(index, (node, layer))| {
            Step::new(network, index, node, layer)
                .ok_or_else(|| Error::layer(&node.name, "its integers don't fit the graph"))
        });
        Ok(Self { network, steps: steps.collect::<Result<_>>()? })
    }

    /// Logits `[n][classes]` of raw images `[n][channels][height][width]`.
    ///
    /// # Panics
    /// If `images` isn't a whole number of images.
    pub fn logits(&self, images: &[u8]) -> Vec<i32> {
        let image_bytes = self.network.graph.image().len();
        assert_eq!(images.len() % image_bytes, 0, "an image has {image_bytes} bytes");
        let classes = self.network.classes.len();
        let mut logits = vec![0; images.len() / image_bytes * classes];
        images
            .par_chunks_exact(image_bytes)
            .zip(logits.par_chunks_exact_mut(classes))
            .with_min_len((images.len() / image_bytes).div_ceil(self.parallel_images()))
            .for_each_init(Scratch::default, |scratch, (image, logits)| self.run(image, scratch, logits));
        logits
    }

    /// Images that may be computed at a time.
    fn parallel_images(&self) -> usize {
        let nodes = self.network.graph.nodes().iter().enumerate();
        let stored: usize =
            nodes.map(|(node, shape)| shape.output.len() * self.network.forms(Source::Node(node)).len()).sum();
        let layer = |conv: ConvShape| {
            // The input with its border, what filters gather of it, and three kinds of sums, of whole registers.
            let [height, width] = conv.window.bordered([conv.input.height, conv.input.width]);
            let inputs = conv.channels() * (height * width + conv.taps() * conv.output.pixels());
            2 * inputs + 20 * conv.filters().next_multiple_of(16) * conv.output.pixels()
        };
        let layer = self.network.graph.convs().map(|conv| layer(conv.shape)).max().unwrap_or(0);
        parallel_images(stored + layer)
    }

    /// What becomes of a raw image `[channels][height][width]`.
    ///
    /// # Panics
    /// If `image` isn't one image.
    pub fn codes(&self, image: &[u8]) -> Codes {
        let image_bytes = self.network.graph.image().len();
        assert_eq!(image.len(), image_bytes, "an image has {image_bytes} bytes");
        let (mut scratch, mut logits) = (Scratch::default(), vec![0; self.network.classes.len()]);
        self.run(image, &mut scratch, &mut logits);
        Codes { stored: scratch.values.into_iter().flatten().collect(), logits }
    }

    fn run(&self, image: &[u8], scratch: &mut Scratch, logits: &mut [i32]) {
        let MapShape { channels, .. } = self.network.graph.image();
        let pixels = image.len() / channels;
        scratch.image.clear();
        scratch.image.extend((0..image.len()).map(|place| image[place % channels * pixels + place / channels]));
        scratch.values.resize(self.steps.len(), Vec::new());
        for ((index, step), node) in self.steps.iter().enumerate().zip(self.network.graph.nodes()) {
            let mut forms = std::mem::take(&mut scratch.values[index]);
            match step {
                Step::Conv { product, skip, output } => {
                    product.accumulate(scratch);
                    let Some(output) = output else {
                        scratch.copy_logits(node.output, product.conv.lanes(), logits);
                        continue;
                    };
                    scratch.sums.clear();
                    scratch.sums.resize(node.output.len(), 0);
                    product.add(scratch);
                    if let Some(skip) = skip {
                        skip.join(node.output, scratch);
                    }
                    requantize(&scratch.sums, &output.forms, &mut forms);
                }
                Step::MaxPool { source, pool } => {
                    let inputs = &scratch.values[*source];
                    forms.resize(inputs.len(), Vec::new());
                    for (form, values) in forms.iter_mut().zip(inputs) {
                        form.resize(node.output.len(), 0);
                        max_pool(values, *pool, form);
                    }
                }
                Step::Concat(parts) => {
                    forms.resize(parts.len(), Vec::new());
                    for (form, parts) in forms.iter_mut().zip(parts) {
                        form.resize(node.output.len(), 0);
                        let mut first = 0;
                        for Part { value, channels } in parts {
                            place(scratch.value(*value), *channels, first, form, node.output.channels);
                            first += channels;
                        }
                    }
                }
                Step::AvgPool { value, zero_point, pool, output } => {
                    let mut sums = std::mem::take(&mut scratch.sums);
                    sums.resize(node.output.len(), 0);
                    let multiplier = output.multiplier(0).into();
                    sum_pool(scratch.value(*value), (*zero_point).into(), *pool, multiplier, &mut sums);
                    requantize(&sums, &output.forms, &mut forms);
                    scratch.sums = sums;
                }
            }
            scratch.values[index] = forms;
        }
    }
}

impl<'a> Step<'a> {
    /// `None` for integers that don't fit the node, which a validated network hasn't.
    fn new(network: &'a IntegerNetwork, index: usize, node: &Node, layer: &'a IntegerLayer) -> Option<Self> {
        let (input, output) = (node.input, node.output);
        Some(match (node.op, layer) {
            (Op::Conv { conv: shape, skip, .. }, IntegerLayer::Conv { conv, skip: joins, output }) => Self::Conv {
                product: {
                    let multipliers = output.as_ref().map_or(&[][..], |output| &output.multipliers);
                    Box::new(Product::new(network, shape, node.source, conv, multipliers)?)
                },
                skip: match (skip, joins) {
                    (None, None) => None,
                    (Some(skip), Some(joins)) => Some(SkipStep::new(network, skip, joins)?),
                    (None, Some(_)) | (Some(_), None) => return None,
                },
                output: output.as_ref(),
            },
            (Op::SameScale(kind), IntegerLayer::SameScale) => match kind {
                SameScale::MaxPool { window } => Self::MaxPool {
                    source: match node.source {
                        Source::Node(index) => index,
                        Source::Image => return None,
                    },
                    pool: PoolShape { input, output, window },
                },
                SameScale::Concat => {
                    let part = |source: Source, bits: u8| {
                        let channels = network.graph.shape(source).channels;
                        Some(Part { value: Value::new(network, source, bits)?, channels })
                    };
                    let of_form = |bits: u8| node.sources().map(|source| part(source, bits)).collect();
                    Self::Concat(network.forms(Source::Node(index)).into_iter().map(of_form).collect::<Option<_>>()?)
                }
            },
            (Op::AvgPool { window }, IntegerLayer::AvgPool { input_bits, output: requantize }) => Self::AvgPool {
                value: Value::new(network, node.source, *input_bits)?,
                zero_point: zero_point(network, node.source, *input_bits),
                pool: PoolShape { input, output, window },
                output: requantize,
            },
            (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => return None,
        })
    }
}

impl SkipStep {
    fn new(network: &IntegerNetwork, skip: Skip, joins: &IntegerSkip) -> Option<Self> {
        match (skip, joins) {
            (Skip::Identity { source, stride, pad_front }, &IntegerSkip::Identity { bits, multiplier }) => {
                let (value, input) = (Value::new(network, source, bits)?, network.graph.shape(source));
                let zero_point = zero_point(network, source, bits);
                Some(Self::Identity { value, zero_point, input, stride, pad_front, multiplier })
            }
            (Skip::Projection { source, conv: shape, .. }, IntegerSkip::Projection { conv, multipliers }) => {
                let product = Product::new(network, shape, source, conv, multipliers)?;
                Some(Self::Projection { product: Box::new(product) })
            }
            (Skip::Identity { .. } | Skip::Projection { .. }, _) => None,
        }
    }

    /// Adds what joins to `scratch.sums`, which are of the output's shape.
    fn join(&self, output: MapShape, scratch: &mut Scratch) {
        match self {
            Self::Projection { product } => {
                product.accumulate(scratch);
                product.add(scratch);
            }
            Self::Identity { value, zero_point, input, stride, pad_front, multiplier } => {
                let mut sums = std::mem::take(&mut scratch.sums);
                let multiplier = i64::from(*multiplier);
                let skipped =
                    Skipped { input: *input, stride: *stride, first: *pad_front, zero_point: (*zero_point).into() };
                join(scratch.value(*value), skipped, multiplier, output, &mut sums);
                scratch.sums = sums;
            }
        }
    }
}

impl Product {
    /// `None` if the input isn't stored at the bits that the convolution reads.
    fn new(
        network: &IntegerNetwork,
        shape: ConvShape,
        source: Source,
        conv: &IntegerConv,
        multipliers: &[u32],
    ) -> Option<Self> {
        let filters = if multipliers.is_empty() { 0 } else { shape.filters() };
        Some(Self {
            value: Value::new(network, source, conv.input_bits)?,
            conv: Convolution::new(shape, network.padding_values(source, conv.input_bits), conv),
            multipliers: (0..filters).map(|filter| multiplier(multipliers, filter).into()).collect(),
        })
    }

    /// `acc + bias` into `scratch.accumulators`.
    fn accumulate(&self, scratch: &mut Scratch) {
        let mut bordered = std::mem::take(&mut scratch.bordered);
        let mut accumulators = std::mem::take(&mut scratch.accumulators);
        self.conv.accumulate(scratch.value(self.value), &mut bordered, &mut accumulators);
        (scratch.bordered, scratch.accumulators) = (bordered, accumulators);
    }

    /// Adds the accumulators times the multipliers to `scratch.sums`.
    fn add(&self, scratch: &mut Scratch) {
        add_products(&scratch.accumulators, self.conv.lanes(), &self.multipliers, &mut scratch.sums);
    }
}

impl Value {
    /// The form of `bits` bits; `None` if there is none.
    fn new(network: &IntegerNetwork, source: Source, bits: u8) -> Option<Self> {
        let form = network.forms(source).iter().position(|form| *form == bits)?;
        Some(match source {
            Source::Image => Self::Image,
            Source::Node(index) => Self::Node { index, form },
        })
    }
}

impl Scratch {
    fn value(&self, value: Value) -> &[u8] {
        match value {
            Value::Image => &self.image,
            Value::Node { index, form } => &self.values[index][form],
        }
    }

    /// The accumulators of the last layer, `[pixels][lanes]`, as logits, `[channels][pixels]`.
    fn copy_logits(&self, output: MapShape, lanes: usize, logits: &mut [i32]) {
        for (channel, logits) in logits.chunks_exact_mut(output.pixels()).enumerate() {
            for (logit, accumulators) in logits.iter_mut().zip(self.accumulators.chunks_exact(lanes)) {
                *logit = accumulators[channel];
            }
        }
    }
}

/// The code that means 0 in a form of a node's output, which pooling layers and residual sums read.
fn zero_point(network: &IntegerNetwork, source: Source, bits: u8) -> u8 {
    match source {
        Source::Image => unreachable!("only convolutions read the image"),
        Source::Node(index) => network.zero_point(index, bits),
    }
}

/// Stores sums in each of the forms.
fn requantize(sums: &[i64], forms: &[Form], output: &mut Vec<Vec<u8>>) {
    output.resize(forms.len(), Vec::new());
    for (form, values) in forms.iter().zip(output) {
        values.resize(sums.len(), 0);
        round(sums, *form, values);
    }
}

#[cfg(test)]
mod tests;
