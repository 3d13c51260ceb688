//! What a chip with losses makes of a convolution: the weights that its cells hold, and what its conversions of partial sums add, with
//! gradients as if nothing was lost.
//!
//! chip(x) = convolution of x with the held weights + sum of the conversions' errors

use burn::tensor::{Tensor, TensorData};

use super::mode::{ChipBias, LossyChip};
use crate::integer::IntegerConv;
use crate::network::Conv;
use crate::quantize::{Conversions, cells};
use crate::train::tensors::to_host;

/// Weights as the macros hold them.
pub(super) struct Held<'a> {
    /// `[filters, channels, kernel height, kernel width]`.
    pub weight: Tensor<4>,
    /// What else the chip loses.
    pub losses: Option<Losses<'a>>,
}

/// What a chip loses of a convolution beside what its weights show.
pub(super) struct Losses<'a> {
    chip: LossyChip<'a>,
    /// None where every partial sum is converted exactly.
    conversions: Option<Conversions>,
    /// What stuck cells make of the input's zero points, which the biases know of the weights as they should be; one a filter.
    offsets: Option<Tensor<1>>,
    /// What one unit of its sums stands for before batch norm, one value or one a filter.
    unit: Tensor<1>,
}

impl Losses<'_> {
    /// The same with units as they are before a gain that is divided out of the weights again, one value a filter.
    pub fn before(self, gain: Tensor<1>) -> Self {
        Self { unit: self.unit / gain, ..self }
    }

    /// Adds to a convolution's values what its conversions add to the sums; `gain` is what a sum is multiplied by on its way there, one value a
    /// filter, and `integers` its input. Second, what was taken from each filter where the chip's bias is removed, `[filters]`.
    pub fn convert(
        self,
        mut value: Tensor<4>,
        gain: Option<Tensor<1>>,
        integers: impl FnOnce() -> Vec<u8>,
    ) -> (Tensor<4>, Option<Tensor<1>>) {
        let unit = self.unit;
        let scale = gain.map_or(unit.clone(), |gain| unit * gain).detach().reshape([1, 1, 1, -1]);
        let mut removed = None;
        if let Some(conversions) = self.conversions {
            let errors = conversions.errors(self.chip.first, &integers());
            let errors = errors.into_iter().map(|error| error as f32).collect();
            let errors = Tensor::<4>::from_data(TensorData::new::<f32, _>(errors, value.dims()), &value.device());
            let mut change = errors * scale.clone();
            match self.chip.bias {
                ChipBias::Kept => {}
                ChipBias::Removed => {
                    let mean = change.clone().mean_dims(&[0, 1, 2]);
                    change = change - mean.clone();
                    removed = Some(mean.reshape([-1]));
                }
            }
            value = value + change;
        }
        let value = match self.offsets {
            Some(offsets) => value + offsets.reshape([1, 1, 1, -1]) * scale,
            None => value,
        };
        (value, removed)
    }
}

/// Bits of a convolution's operands.
#[derive(Clone, Copy)]
pub(super) struct ConvBits {
    pub input: u8,
    pub weights: u8,
}

/// Scales with the signs that weights take from a batch norm outside; one value or one a filter.
pub(super) struct SignedScales {
    /// Of the weights.
    pub weights: Tensor<1>,
    /// What one unit of the sums stands for.
    pub sums: Tensor<1>,
}

/// Rounded weights as the cells of a chip hold them, with straight-through gradients; `zero_points` are the codes of the input's channels that mean 0.
pub(super) fn load<'a>(
    conv: &Conv,
    bits: ConvBits,
    zero_points: &[u8],
    chip: LossyChip<'a>,
    rounded: Tensor<4>,
    scales: SignedScales,
) -> Held<'a> {
    let scale = scales.weights.detach().reshape([-1, 1, 1, 1]);
    let integers = to_host((rounded.clone().detach() / scale.clone()).round());
    let weights = integers.into_iter().map(|weight| weight as i8).collect();
    let bias = vec![0; conv.shape.filters()];
    let integer = IntegerConv { input_bits: bits.input, weight_bits: bits.weights, weights, bias };
    let checked = "the recipe's check found that the weights fit the macro";
    let held = cells(conv, &integer, chip.hardware).expect(checked);
    let (taps, depth) = (conv.shape.taps(), conv.shape.depth());
    let offset = |(filter, (held, weights)): (usize, (&[i8], &[i8]))| {
        let zero_points = &zero_points[conv.shape.reads(filter)];
        let columns = held.chunks(taps).zip(weights.chunks(taps)).zip(zero_points);
        let change = |held: &[i8], weights: &[i8]| -> i32 {
            held.iter().zip(weights).map(|(held, weight)| i32::from(*held) - i32::from(*weight)).sum()
        };
        columns.map(|((held, weights), zero)| i64::from(change(held, weights) * i32::from(*zero))).sum::<i64>()
    };
    let shifts = held != integer.weights && zero_points.iter().any(|zero| *zero != 0);
    let offsets = shifts.then(|| {
        let filters = held.chunks(taps * depth).zip(integer.weights.chunks(taps * depth)).enumerate();
        let sums: Vec<f32> = filters.map(|filter| offset(filter) as f32).collect();
        Tensor::from_data(sums.as_slice(), &rounded.device())
    });
    let padding = zero_points.to_vec();
    let conversions = Conversions::new(conv, &integer, &held, padding, chip.hardware).expect(checked);
    let losses = Some(Losses { chip, conversions, offsets, unit: scales.sums });
    if held == integer.weights {
        return Held { weight: rounded, losses };
    }
    let held: Vec<f32> = held.into_iter().map(f32::from).collect();
    let held = Tensor::<4>::from_data(TensorData::new(held, rounded.dims()), &rounded.device()) * scale;
    let change = held - rounded.clone().detach();
    Held { weight: rounded + change, losses }
}

/// A value of a pass with fake quantizers as the codes that stand for it, of which `zero_points` mean 0, one a channel.
pub(super) fn to_integers(x: &Tensor<4>, scale: &Tensor<1>, zero_points: &[u8]) -> Vec<u8> {
    let scale = to_host(scale.clone().detach())[0];
    let values = to_host(x.clone().detach());
    let places = zero_points.iter().cycle();
    values.iter().zip(places).map(|(value, zero)| (value / scale + f32::from(*zero) + 0.5) as u8).collect()
}
