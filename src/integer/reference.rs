//! The integer reference: runs an [`IntegerNetwork`] as plain convolutions.
//!
//! It is the measure for the other executions, so it shares nothing with the hardware model: it reads the dense weights
//! and computes each sum as the header of [`integer`](super) says.

use rayon::prelude::*;

use super::arithmetic::{Form, Requantize, multiplier};
use super::network::{IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::error::{Error, Result};
use crate::network::{ConvShape, MapShape, Node, Op, Skip, Source};

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
        taps: Box<Taps>,
        skip: Option<SkipStep<'a>>,
        /// `None` for the logits.
        output: Option<&'a Requantize>,
    },
    MaxPool {
        source: usize,
        input: MapShape,
        output: MapShape,
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    AvgPool {
        value: Value,
        input: MapShape,
        kernel: [usize; 2],
        output: &'a Requantize,
    },
}

/// What joins a sum.
#[derive(Clone, Debug)]
enum SkipStep<'a> {
    Identity { value: Value, input: MapShape, output: MapShape, stride: usize, pad_front: usize, multiplier: u32 },
    Projection { taps: Box<Taps>, multipliers: &'a [u32] },
}

/// The image, or one stored form of a node's output.
#[derive(Clone, Copy, Debug)]
enum Value {
    Image,
    Node { index: usize, form: usize },
}

/// What is used again from image to image.
#[derive(Default)]
struct Scratch {
    /// For each node its forms, in the order of [`IntegerNetwork::forms`].
    values: Vec<Vec<Vec<u8>>>,
    bordered: Vec<i16>,
    planes: Vec<i16>,
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
        let nodes = network.graph.nodes().iter().zip(&network.layers);
        let steps = nodes.map(|(node, layer)| {
            Step::new(network, node, layer).ok_or_else(|| Error::layer(&node.name, "its integers don't fit the graph"))
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
            .with_min_len((images.len() / image_bytes).div_ceil(self.network.parallel_images()))
            .for_each_init(Scratch::default, |scratch, (image, logits)| self.run(image, scratch, logits));
        logits
    }

    fn run(&self, image: &[u8], scratch: &mut Scratch, logits: &mut [i32]) {
        scratch.values.resize(self.steps.len(), Vec::new());
        for (index, step) in self.steps.iter().enumerate() {
            let mut forms = std::mem::take(&mut scratch.values[index]);
            match step {
                Step::Conv { taps, skip, output } => {
                    taps.accumulate(image, scratch);
                    let Some(output) = output else {
                        logits.copy_from_slice(&scratch.accumulators);
                        continue;
                    };
                    scratch.sums.clear();
                    scratch.sums.resize(scratch.accumulators.len(), 0);
                    scratch.add_accumulators(&output.multipliers, taps.shape.output);
                    if let Some(skip) = skip {
                        skip.join(image, scratch);
                    }
                    requantize(&scratch.sums, &output.forms, &mut forms);
                }
                Step::MaxPool { source, input, output, kernel, stride, padding } => {
                    let inputs = &scratch.values[*source];
                    forms.resize(inputs.len(), Vec::new());
                    for (form, values) in forms.iter_mut().zip(inputs) {
                        form.clear();
                        form.extend(max_pool(values, *input, *output, *kernel, *stride, *padding));
                    }
                }
                Step::AvgPool { value, input, kernel, output } => {
                    let mut sums = std::mem::take(&mut scratch.sums);
                    sums.clear();
                    let multiplier = i64::from(output.multiplier(0));
                    let windows = window_sums(scratch.value(image, *value), *input, *kernel);
                    sums.extend(windows.map(|sum| sum * multiplier));
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
    fn new(network: &'a IntegerNetwork, node: &Node, layer: &'a IntegerLayer) -> Option<Self> {
        Some(match (node.op, layer) {
            (Op::Conv { conv: shape, skip, .. }, IntegerLayer::Conv { conv, skip: joins, output }) => Self::Conv {
                taps: Box::new(Taps::new(network, shape, node.source, conv)?),
                skip: match (skip, joins) {
                    (None, None) => None,
                    (Some(skip), Some(joins)) => Some(SkipStep::new(network, skip, joins, shape.output)?),
                    (None, Some(_)) | (Some(_), None) => return None,
                },
                output: output.as_ref(),
            },
            (Op::MaxPool { kernel, stride, padding }, IntegerLayer::MaxPool) => Self::MaxPool {
                source: match node.source {
                    Source::Node(index) => index,
                    Source::Image => return None,
                },
                input: node.input,
                output: node.output,
                kernel,
                stride,
                padding,
            },
            (Op::AvgPool { kernel }, IntegerLayer::AvgPool { input_bits, output }) => Self::AvgPool {
                value: Value::new(network, node.source, *input_bits)?,
                input: node.input,
                kernel,
                output,
            },
            (Op::Conv { .. } | Op::MaxPool { .. } | Op::AvgPool { .. }, _) => return None,
        })
    }
}

impl<'a> SkipStep<'a> {
    fn new(network: &'a IntegerNetwork, skip: Skip, joins: &'a IntegerSkip, output: MapShape) -> Option<Self> {
        match (skip, joins) {
            (Skip::Identity { source, stride, pad_front }, &IntegerSkip::Identity { bits, multiplier }) => {
                Some(Self::Identity {
                    value: Value::new(network, source, bits)?,
                    input: network.graph.shape(source),
                    output,
                    stride,
                    pad_front,
                    multiplier,
                })
            }
            (Skip::Projection { source, conv: shape }, IntegerSkip::Projection { conv, multipliers }) => {
                Some(Self::Projection { taps: Box::new(Taps::new(network, shape, source, conv)?), multipliers })
            }
            (Skip::Identity { .. } | Skip::Projection { .. }, _) => None,
        }
    }

    /// Adds what joins to `scratch.sums`.
    fn join(&self, image: &[u8], scratch: &mut Scratch) {
        match self {
            Self::Projection { taps, multipliers } => {
                taps.accumulate(image, scratch);
                scratch.add_accumulators(multipliers, taps.shape.output);
            }
            Self::Identity { value, input, output, stride, pad_front, multiplier } => {
                let mut sums = std::mem::take(&mut scratch.sums);
                let values = scratch.value(image, *value);
                let joined = sums.chunks_exact_mut(output.pixels()).skip(*pad_front);
                for (sums, values) in joined.zip(values.chunks_exact(input.pixels())) {
                    let rows = values.chunks_exact(input.width).step_by(*stride);
                    for (sums, row) in sums.chunks_exact_mut(output.width).zip(rows) {
                        for (sum, &value) in sums.iter_mut().zip(row.iter().step_by(*stride)) {
                            *sum += i64::from(value) * i64::from(*multiplier);
                        }
                    }
                }
                scratch.sums = sums;
            }
        }
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
    fn value<'s>(&'s self, image: &'s [u8], value: Value) -> &'s [u8] {
        match value {
            Value::Image => image,
            Value::Node { index, form } => &self.values[index][form],
        }
    }

    /// Adds the accumulators of a convolution, times its multipliers, to the sums.
    fn add_accumulators(&mut self, multipliers: &[u32], output: MapShape) {
        let filters = self.sums.chunks_exact_mut(output.pixels());
        for (filter, (sums, accumulators)) in filters.zip(self.accumulators.chunks_exact(output.pixels())).enumerate() {
            let multiplier = i64::from(multiplier(multipliers, filter));
            for (sum, &accumulator) in sums.iter_mut().zip(accumulators) {
                *sum += i64::from(accumulator) * multiplier;
            }
        }
    }
}

/// Stores sums in each of the forms.
fn requantize(sums: &[i64], forms: &[Form], output: &mut Vec<Vec<u8>>) {
    output.resize(forms.len(), Vec::new());
    for (form, values) in forms.iter().zip(output) {
        values.clear();
        values.extend(sums.iter().map(|&sum| form.apply(sum)));
    }
}

/// Largest value of each window; the border never wins, since values are not negative.
fn max_pool(
    values: &[u8],
    input: MapShape,
    output: MapShape,
    kernel: usize,
    stride: usize,
    padding: usize,
) -> impl Iterator<Item = u8> {
    // What of a window lies within the map.
    let span = move |position: usize, size: usize| {
        let first = position * stride;
        first.saturating_sub(padding)..(first + kernel).saturating_sub(padding).min(size)
    };
    positions(output).map(move |(channel, y, x)| {
        let rows = span(y, input.height);
        let window = rows.flat_map(|y| &values[(channel * input.height + y) * input.width..][span(x, input.width)]);
        window.copied().max().unwrap_or(0)
    })
}

/// Sum of each window; windows do not overlap.
fn window_sums(values: &[u8], input: MapShape, kernel: [usize; 2]) -> impl Iterator<Item = i64> {
    let output =
        MapShape { channels: input.channels, height: input.height / kernel[0], width: input.width / kernel[1] };
    positions(output).map(move |(channel, y, x)| {
        let rows = (0..kernel[0]).map(|row| (channel * input.height + y * kernel[0] + row) * input.width);
        let window = rows.flat_map(|row| &values[row + x * kernel[1]..][..kernel[1]]);
        window.map(|&value| i64::from(value)).sum()
    })
}

/// Channel, row and column of each value of a map, in the order in which they are stored.
fn positions(map: MapShape) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..map.len()).map(move |index| {
        let (channel, pixel) = (index / map.pixels(), index % map.pixels());
        (channel, pixel / map.width, pixel % map.width)
    })
}

/// A convolution's weights without zeros.
#[derive(Clone, Debug)]
struct Taps {
    value: Value,
    shape: ConvShape,
    /// What the border of the input holds for each channel.
    border: Vec<u8>,
    bias: Vec<i32>,
    /// For each filter: which of the shifted input planes is multiplied by what.
    filters: Vec<Vec<(usize, i16)>>,
}

impl Taps {
    /// `None` if the input isn't stored at the bits that the convolution reads.
    fn new(network: &IntegerNetwork, shape: ConvShape, source: Source, conv: &IntegerConv) -> Option<Self> {
        let planes = shape.channels() * shape.taps();
        let filters = conv.weights.chunks_exact(planes).map(|weights| {
            let weights = weights.iter().enumerate().filter(|(_, weight)| **weight != 0);
            weights.map(|(plane, &weight)| (plane, weight.into())).collect()
        });
        Some(Self {
            value: Value::new(network, source, conv.input_bits)?,
            shape,
            border: network.padding_values(source),
            bias: conv.bias.clone(),
            filters: filters.collect(),
        })
    }

    /// `acc + bias`, `[filters][height][width]`, into `scratch.accumulators`.
    fn accumulate(&self, image: &[u8], scratch: &mut Scratch) {
        self.shift_planes(image, scratch);
        let pixels = self.shape.output.pixels();
        let plane = |number: usize| &scratch.planes[number * pixels..][..pixels];
        scratch.accumulators.clear();
        for (filter, &bias) in self.filters.iter().zip(&self.bias) {
            let first = scratch.accumulators.len();
            scratch.accumulators.resize(first + pixels, bias);
            let accumulators = &mut scratch.accumulators[first..];
            // Four planes at a time, to load and store the accumulators less often.
            let (fours, rest) = filter.as_chunks::<4>();
            for four in fours {
                let [p, q, r, s] = four.map(|(number, _)| plane(number));
                let [wp, wq, wr, ws] = four.map(|(_, weight)| weight);
                for ((((acc, &p), &q), &r), &s) in accumulators.iter_mut().zip(p).zip(q).zip(r).zip(s) {
                    *acc += product(wp, p) + product(wq, q) + product(wr, r) + product(ws, s);
                }
            }
            for &(number, weight) in rest {
                for (acc, &value) in accumulators.iter_mut().zip(plane(number)) {
                    *acc += product(weight, value);
                }
            }
        }
    }

    /// For each channel and kernel position the inputs that meet it, `[channels][kernel][kernel][height][width]` of the
    /// output, into `scratch.planes`.
    fn shift_planes(&self, image: &[u8], scratch: &mut Scratch) {
        let ConvShape { input: map, output, kernel, stride, padding } = self.shape;
        let (height, width) = (map.height + 2 * padding, map.width + 2 * padding);
        let mut bordered = std::mem::take(&mut scratch.bordered);
        let mut planes = std::mem::take(&mut scratch.planes);
        planes.clear();
        let channels = scratch.value(image, self.value).chunks_exact(map.pixels());
        for (channel, &border) in channels.zip(&self.border) {
            bordered.clear();
            bordered.resize(height * width, border.into());
            let rows = bordered.chunks_exact_mut(width).skip(padding);
            for (row, values) in rows.zip(channel.chunks_exact(map.width)) {
                for (inner, &value) in row[padding..].iter_mut().zip(values) {
                    *inner = value.into();
                }
            }
            for (ky, kx) in (0..kernel[0]).flat_map(|ky| (0..kernel[1]).map(move |kx| (ky, kx))) {
                for y in 0..output.height {
                    let row = &bordered[(y * stride + ky) * width + kx..][..(output.width - 1) * stride + 1];
                    if stride == 1 {
                        planes.extend_from_slice(row);
                    } else {
                        planes.extend(row.iter().step_by(stride));
                    }
                }
            }
        }
        scratch.bordered = bordered;
        scratch.planes = planes;
    }
}

/// A byte times a weight, which fits 16 bits: 255 * 127 < 2^15.
fn product(weight: i16, value: i16) -> i32 {
    weight.wrapping_mul(value).into()
}

#[cfg(test)]
mod tests;
