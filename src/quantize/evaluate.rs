//! Fake-quant evaluation: the integer network's arithmetic through the tensor library, exact to the last bit; on a chip that loses
//! something, with the weights that its cells hold and what its conversions add.
//!
//! Values are integers held in floats. A convolution's sums are exact as long as no partial sum can reach `2^24`; where one could,
//! the input channels, and within a channel the kernel positions, are split and the parts are added as integers. Requantization runs on
//! 64-bit integers.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{DType, Device, Int, IntDType, Tensor, TensorData};

use super::conversion::{Conversions, cells};
use crate::engine::{ConvOptions, exact_conv};
use crate::error::Result;
use crate::hardware::Hardware;
use crate::integer::{Form, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
use crate::network::{Conv, ConvShape, MapShape, Node, Op, SameScale, Skip, Source, Window};

/// Floats hold every integer below this.
const EXACT: i64 = 1 << 24;

/// A network ready for evaluation on a device.
pub struct FakeQuant<'a> {
    network: &'a IntegerNetwork,
    /// By name.
    convs: BTreeMap<String, ExactConv>,
    device: Device,
}

/// A convolution split into parts whose sums are exact: channels, and the weights of some of their kernel positions.
struct ExactConv {
    shape: ConvShape,
    parts: Vec<(Range<usize>, Tensor<4>)>,
    bias: Tensor<4, Int>,
    conversions: Option<Conversions>,
}

/// The stored forms of a value.
type Forms = Vec<(u8, Tensor<4>)>;

/// What is there when a node is computed.
struct Computed<'a> {
    /// The number of the first image.
    first: u64,
    pixels: &'a Tensor<4>,
    values: &'a [Forms],
}

impl<'a> FakeQuant<'a> {
    /// Places a network on a device, as the integer reference computes it.
    pub fn new(network: &'a IntegerNetwork, device: &Device) -> Self {
        Self::build(network, None, device).expect("without a chip there is nothing that doesn't fit")
    }

    /// Places a network on a device, as a chip computes it: with its converter, noise and stuck cells.
    ///
    /// # Errors
    /// Weights wider than the macro can hold.
    pub fn on_chip(network: &'a IntegerNetwork, hardware: &Hardware, device: &Device) -> Result<Self> {
        Self::build(network, Some(hardware), device)
    }

    fn build(network: &'a IntegerNetwork, chip: Option<&Hardware>, device: &Device) -> Result<Self> {
        let device = device.clone().inner();
        let place = |(conv, integer): (Conv, &IntegerConv)| {
            let exact =
                ExactConv::new(&conv, integer, network.padding_values(conv.source, integer.input_bits), chip, &device)?;
            Ok((conv.name, exact))
        };
        let convs = network.convs().map(place).collect::<Result<_>>()?;
        Ok(Self { network, convs, device })
    }

    /// Logits `[images][classes]` of a data set's first images, `[images][channels][height][width]`.
    ///
    /// # Panics
    /// Images that aren't whole.
    pub fn logits(&self, images: &[u8]) -> Vec<i32> {
        self.logits_from(0, images)
    }

    /// The same of images from number `first` of their data set on, from which a chip's noise follows.
    pub fn logits_from(&self, first: usize, images: &[u8]) -> Vec<i32> {
        let first = first as u64;
        let image = self.network.graph.image();
        let batch = images.len() / image.len();
        let bytes: Vec<f32> = images.iter().map(|byte| f32::from(*byte)).collect();
        let data = TensorData::new(bytes, [batch, image.channels, image.height, image.width]);
        let pixels = Tensor::<4>::from_data(data, &self.device).permute([0, 2, 3, 1]);
        let mut values: Vec<Forms> = Vec::new();
        let nodes = self.network.graph.nodes();
        for (node, layer) in nodes.iter().zip(&self.network.layers) {
            let forms = match (node.op, layer) {
                (Op::Conv { skip, .. }, IntegerLayer::Conv { conv, skip: integer_skip, output }) => {
                    let computed = Computed { first, pixels: &pixels, values: &values };
                    let sums = self.sums(&node.name, node.source, conv, &computed);
                    let Some(output) = output else {
                        let logits = sums.into_data().convert::<i64>();
                        let logits = logits.try_into_vec::<i64>().expect("64-bit integers");
                        return logits.into_iter().map(|logit| logit as i32).collect();
                    };
                    let sums = sums * self.columns(&output.multipliers);
                    let sums = match (skip, integer_skip) {
                        (Some(skip), Some(integer)) => sums + self.joined(node, skip, integer, &computed),
                        (None, None) => sums,
                        (Some(_), None) | (None, Some(_)) => {
                            unreachable!("a validated network has a skip where its node has one")
                        }
                    };
                    requantize(sums, &output.forms)
                }
                (Op::SameScale(kind), IntegerLayer::SameScale) => match kind {
                    SameScale::MaxPool { window } => {
                        let Window { kernel, stride, padding } = window;
                        let padding = padding.map(|[before, behind]| (before, behind));
                        let options = MaxPoolOptions::new(kernel).with_stride(stride).with_padding_pairs(padding);
                        let pooled = forms_of(node.source, &values).iter().map(|(bits, value)| {
                            let pooled = max_pool2d(value.clone().permute([0, 3, 1, 2]), options.clone());
                            (*bits, pooled.permute([0, 2, 3, 1]))
                        });
                        pooled.collect()
                    }
                    SameScale::Concat => {
                        let forms = self.network.forms(Source::Node(values.len()));
                        let joined = forms.into_iter().map(|bits| {
                            let parts = node.sources().map(|source| self.input(source, bits, &pixels, &values));
                            (bits, Tensor::cat(parts.collect(), 3))
                        });
                        joined.collect()
                    }
                },
                (Op::AvgPool { window }, IntegerLayer::AvgPool { input_bits, output }) => {
                    let value = self.units(node.source, *input_bits, &values);
                    let sums = window_sums(value, window);
                    requantize(sums * i64::from(output.multipliers[0]), &output.forms)
                }
                (Op::Conv { .. } | Op::AvgPool { .. } | Op::SameScale(_), _) => {
                    unreachable!("a validated network has a layer of the kind of each node")
                }
            };
            values.push(forms);
        }
        unreachable!("the last layer of a validated network returns the logits")
    }

    /// The sums of a convolution of this name.
    fn sums(&self, name: &str, source: Source, conv: &IntegerConv, computed: &Computed) -> Tensor<4, Int> {
        let input = self.input(source, conv.input_bits, computed.pixels, computed.values);
        self.convs[name].sums(computed.first, input, self.borders(source, conv.input_bits))
    }

    /// What joins a node's sums.
    fn joined(&self, node: &Node, skip: Skip, integer: &IntegerSkip, computed: &Computed) -> Tensor<4, Int> {
        match (skip, integer) {
            (Skip::Identity { source, .. }, IntegerSkip::Identity { bits, multiplier }) => {
                let value = self.units(source, *bits, computed.values);
                identity(value, skip, node.output) * i64::from(*multiplier)
            }
            (Skip::Projection { source, .. }, IntegerSkip::Projection { conv, multipliers }) => {
                self.sums(&node.projection_name(), source, conv, computed) * self.columns(multipliers)
            }
            (Skip::Identity { .. } | Skip::Projection { .. }, _) => {
                unreachable!("a validated network has a skip of the kind of each node's")
            }
        }
    }

    fn input(&self, source: Source, bits: u8, pixels: &Tensor<4>, values: &[Forms]) -> Tensor<4> {
        match source {
            Source::Image => pixels.clone(),
            Source::Node(_) => {
                let forms = forms_of(source, values);
                let form = forms.iter().find(|(form, _)| *form == bits);
                form.expect("a validated network stores the forms that are read").1.clone()
            }
        }
    }

    /// A stored value as the integers that it stands for: codes less their zero point.
    fn units(&self, source: Source, bits: u8, values: &[Forms]) -> Tensor<4, Int> {
        let forms = forms_of(source, values).iter();
        let (_, codes) =
            forms.clone().find(|(form, _)| *form == bits).expect("a validated network stores what is read");
        let codes = integers(codes.clone());
        match source {
            Source::Node(index) if self.network.zero_point(index, bits) != 0 => {
                codes - i64::from(self.network.zero_point(index, bits))
            }
            Source::Image | Source::Node(_) => codes,
        }
    }

    /// What borders of a value hold, where that isn't 0 for all channels.
    fn borders(&self, source: Source, bits: u8) -> Option<Vec<u8>> {
        Some(self.network.padding_values(source, bits)).filter(|values| values.iter().any(|value| *value != 0))
    }

    /// Multipliers as a tensor that broadcasts over `[batch, height, width, filters]`.
    fn columns(&self, multipliers: &[u32]) -> Tensor<4, Int> {
        let values = multipliers.iter().map(|multiplier| i64::from(*multiplier)).collect();
        integer_column(values, &self.device)
    }
}

fn forms_of(source: Source, values: &[Forms]) -> &Forms {
    match source {
        Source::Node(index) => &values[index],
        Source::Image => unreachable!("only convolutions read the image"),
    }
}

fn integer_column(values: Vec<i64>, device: &Device) -> Tensor<4, Int> {
    let data = TensorData::new(values.clone(), [1, 1, 1, values.len()]);
    Tensor::from_data(data, (device, DType::I64))
}

fn integers(value: Tensor<4>) -> Tensor<4, Int> {
    value.int().cast(IntDType::I64)
}

/// All forms of the same sums: `clamp(((sum + 2^(n-1)) >> n) + z, 0, 2^bits - 1)`.
fn requantize(sums: Tensor<4, Int>, forms: &[Form]) -> Forms {
    forms
        .iter()
        .map(|form| {
            let rounded = (sums.clone() + (1i64 << (form.shift - 1))).bitwise_right_shift_scalar(i64::from(form.shift));
            let codes = rounded + i64::from(form.zero_point);
            (form.bits, codes.clamp(0i64, (1i64 << form.bits) - 1).float())
        })
        .collect()
}

/// Every `stride`-th pixel, with zero channels in front and behind.
fn identity(value: Tensor<4, Int>, skip: Skip, output: MapShape) -> Tensor<4, Int> {
    let Skip::Identity { stride, pad_front, .. } = skip else {
        unreachable!("called for identity residuals");
    };
    let value = if stride > 1 { subsample(value, stride) } else { value };
    let [batch, height, width, channels] = value.dims();
    if channels == output.channels {
        return value;
    }
    let joined = Tensor::zeros([batch, height, width, output.channels], (&value.device(), DType::I64));
    let place = [0..batch, 0..height, 0..width, pad_front..pad_front + channels];
    joined.slice_assign(place, value)
}

/// Every `stride`-th row and pixel.
fn subsample(value: Tensor<4, Int>, stride: usize) -> Tensor<4, Int> {
    let device = value.device();
    let [_, height, width, _] = value.dims();
    let every = |size: usize| Tensor::<1, Int>::arange_step(0..size as i64, stride, &device);
    value.select(1, every(height)).select(2, every(width))
}

/// The sum of each window, whose border holds zeros: over rows, then over columns.
fn window_sums(value: Tensor<4, Int>, window: Window) -> Tensor<4, Int> {
    let Window { kernel, stride, padding } = window;
    let [batch, height, width, channels] = value.dims();
    let [rows, columns] = window.windows([height, width]).expect("a window of the graph fits its map");
    let device = value.device();
    let value = match window.has_border() {
        false => value,
        true => {
            let [[top, _], [left, _]] = padding;
            let [height, width] = window.bordered([height, width]);
            let zeros = Tensor::zeros([batch, height, width, channels], (&device, DType::I64));
            let [_, rows, columns, _] = value.dims();
            zeros.slice_assign([0..batch, top..top + rows, left..left + columns, 0..channels], value)
        }
    };
    let along = |value: Tensor<4, Int>, side: usize, windows: usize| {
        let places = |first: usize| {
            let places = Tensor::<1, Int>::arange(0..windows as i64, &device) * stride[side] as i64;
            value.clone().select(1 + side, places + first as i64)
        };
        (0..kernel[side]).map(places).reduce(|sum, part| sum + part).expect("a window holds a value")
    };
    along(along(value, 0, rows), 1, columns)
}

impl ExactConv {
    fn new(
        conv: &Conv,
        integer: &IntegerConv,
        padding: Vec<u8>,
        chip: Option<&Hardware>,
        device: &Device,
    ) -> Result<Self> {
        let (held, conversions) = match chip {
            None => (integer.weights.clone(), None),
            Some(hardware) => {
                let held = cells(conv, integer, hardware)?;
                let conversions = Conversions::new(conv, integer, &held, padding, hardware)?;
                (held, conversions)
            }
        };
        let shape = conv.shape;
        let [height, width] = shape.window.kernel;
        let weights: Vec<f32> = held.iter().map(|weight| f32::from(*weight)).collect();
        let data = TensorData::new(weights, [shape.filters(), shape.depth(), height, width]);
        let weights = Tensor::<4>::from_data(data, device);
        let part = |channels: Range<usize>, taps: Range<usize>| {
            if channels.len() == shape.depth() && taps.len() == shape.taps() {
                return (0..shape.channels(), weights.clone());
            }
            let ones = |range: &Range<usize>, count| -> Vec<f32> {
                (0..count).map(|place| f32::from(u8::from(range.contains(&place)))).collect()
            };
            let mask = TensorData::new(ones(&taps, shape.taps()), [1, 1, height, width]);
            let part = weights.clone() * Tensor::<4>::from_data(mask, device);
            if shape.groups == 1 {
                return (channels.clone(), part.narrow(1, channels.start, channels.len()));
            }
            // A range of each group's channels is no range of the map's.
            let mask = TensorData::new(ones(&channels, shape.depth()), [1, shape.depth(), 1, 1]);
            (0..shape.channels(), part * Tensor::<4>::from_data(mask, device))
        };
        let parts = exact_parts(&shape, integer.input_bits, &held);
        let parts = parts.into_iter().map(|(channels, taps)| part(channels, taps)).collect();
        let bias = integer_column(integer.bias.iter().map(|bias| i64::from(*bias)).collect(), device);
        Ok(Self { shape, parts, bias, conversions })
    }

    /// `acc + bias` as 64-bit integers of images from number `first` on; `borders` is what borders hold for each channel, where that isn't 0.
    fn sums(&self, first: u64, input: Tensor<4>, borders: Option<Vec<u8>>) -> Tensor<4, Int> {
        let errors = self.conversions.as_ref().map(|conversions| {
            let device = input.device();
            let values = input.clone().into_data().convert::<u8>().try_into_vec::<u8>().expect("bytes");
            let errors: Vec<i64> = conversions.errors(first, &values).into_iter().map(i64::from).collect();
            let MapShape { channels, height, width } = self.shape.output;
            let data = TensorData::new(errors, [input.dims()[0], height, width, channels]);
            Tensor::<4, Int>::from_data(data, (&device, DType::I64))
        });
        let Window { stride, padding, .. } = self.shape.window;
        let (input, padding) = match borders {
            Some(values) if self.shape.window.has_border() => {
                (with_borders(input, &values, self.shape.window), Default::default())
            }
            _ => (input, padding),
        };
        let options = ConvOptions { stride, padding, dilation: self.shape.dilation, groups: self.shape.groups };
        // A linear layer's kernel is its whole input map, whatever shape that has.
        let parts = self.parts.iter().map(|(range, weights)| {
            let input = match range.len() == self.shape.channels() {
                true => input.clone(),
                false => input.clone().narrow(3, range.start, range.len()),
            };
            integers(exact_conv(input, weights.clone(), options))
        });
        let sums = parts.reduce(|sum, part| sum + part).expect("a convolution has channels") + self.bias.clone();
        match errors {
            Some(errors) => sums + errors,
            None => sums,
        }
    }
}

/// A map with the border of a window, which holds a value for each channel.
fn with_borders(map: Tensor<4>, values: &[u8], window: Window) -> Tensor<4> {
    let [batch, height, width, channels] = map.dims();
    let device = map.device();
    let values: Vec<f32> = values.iter().map(|value| f32::from(*value)).collect();
    let column = Tensor::<4>::from_data(TensorData::new(values, [1, 1, 1, channels]), &device);
    let [rows, columns] = window.bordered([height, width]);
    let [[top, _], [left, _]] = window.padding;
    let bordered = column.expand([batch, rows, columns, channels]);
    bordered.slice_assign([0..batch, top..top + height, left..left + width, 0..channels], map)
}

/// Taps of one channel whose sum cannot reach 2^24.
const EXACT_TAPS: usize = 512;

/// Ranges of channels that a filter reads and of kernel positions in each of which no filter's partial sum can reach 2^24.
fn exact_parts(shape: &ConvShape, input_bits: u8, weights: &[i8]) -> Vec<(Range<usize>, Range<usize>)> {
    let largest_input = (1i64 << input_bits) - 1;
    let all = 0..shape.taps();
    let mut parts = Vec::new();
    let (mut start, mut bounds) = (0, vec![0i64; shape.filters()]);
    for channel in 0..shape.depth() {
        let added: Vec<i64> = (0..shape.filters())
            .map(|filter| {
                let taps = &weights[(filter * shape.depth() + channel) * shape.taps()..][..shape.taps()];
                taps.iter().map(|weight| i64::from(*weight).abs()).sum::<i64>() * largest_input
            })
            .collect();
        let alone = added.iter().any(|added| *added >= EXACT);
        if channel > start && bounds.iter().zip(&added).any(|(bound, added)| bound + added >= EXACT) {
            parts.push((start..channel, all.clone()));
            (start, bounds) = (channel, vec![0; shape.filters()]);
        }
        if alone {
            let taps = (0..shape.taps()).step_by(EXACT_TAPS);
            parts.extend(taps.map(|tap| (channel..channel + 1, tap..(tap + EXACT_TAPS).min(shape.taps()))));
            start = channel + 1;
            continue;
        }
        for (bound, added) in bounds.iter_mut().zip(added) {
            *bound += added;
        }
    }
    if start < shape.depth() {
        parts.push((start..shape.depth(), all));
    }
    parts
}
