//! What a chip with losses makes of a convolution in a forward pass: the weights that its cells hold and what its conversions add, with
//! gradients as if nothing was lost.

use burn::tensor::{Tensor, TensorData};

use super::model::{Chip, to_host};
use super::pass::{Layer, Pass};
use crate::integer::IntegerConv;
use crate::network::Source;
use crate::quantize::{Conversions, cells};

/// A convolution as a chip holds it.
pub(super) struct OnChip {
    conversions: Option<Conversions>,
    /// What stuck cells make of the picture's zero points, which the biases know of the weights as they should be; one a filter.
    offsets: Option<Tensor<1>>,
    /// What one unit of its sums stands for before batch norm, one value or one a filter.
    unit: Tensor<1>,
}

impl OnChip {
    /// The same with units as they are before a gain that is divided out of the weights again, one value a filter.
    pub fn before(self, gain: Tensor<1>) -> Self {
        Self { unit: self.unit / gain, ..self }
    }
}

impl Pass<'_> {
    /// Rounded weights as the cells of a chip hold them, with straight-through gradients, and what else there is to know of them.
    ///
    /// `step` is that of the weights and `unit` what one unit of the sums stands for, with the signs that the weights take; one value or one
    /// a filter.
    pub fn load(
        &self,
        layer: &Layer,
        chip: Chip,
        rounded: Tensor<4>,
        step: Tensor<1>,
        unit: Tensor<1>,
    ) -> (Tensor<4>, OnChip) {
        let Layer { conv, weight_bits, input_bits, .. } = layer;
        let scale = step.detach().reshape([-1, 1, 1, 1]);
        let integers = to_host((rounded.clone().detach() / scale.clone()).round());
        let weights = integers.into_iter().map(|weight| weight as i8).collect();
        let bias = vec![0; conv.shape.filters()];
        let integer = IntegerConv { input_bits: *input_bits, weight_bits: *weight_bits, weights, bias };
        let checked = "the plan checked that the weights fit the macro";
        let held = cells(conv, &integer, chip.hardware).expect(checked);
        let zero_points = &self.model.picture.zero_points;
        let (padding, offsets) = match conv.source {
            Source::Image => {
                let [taps, channels] = [conv.shape.taps(), conv.shape.channels()];
                let changes = held.iter().zip(&integer.weights).enumerate();
                let products: Vec<f32> = changes
                    .map(|(index, (held, weight))| {
                        let zero_point = zero_points[index / taps % channels];
                        (f32::from(*held) - f32::from(*weight)) * f32::from(zero_point)
                    })
                    .collect();
                let sums: Vec<f32> = products.chunks(taps * channels).map(|column| column.iter().sum()).collect();
                let changed = sums.iter().any(|sum| *sum != 0.0);
                (zero_points.clone(), changed.then(|| Tensor::from_data(sums.as_slice(), &rounded.device())))
            }
            Source::Node(_) => (vec![0; conv.shape.channels()], None),
        };
        let conversions = Conversions::new(conv, &integer, &held, padding, chip.hardware).expect(checked);
        let on_chip = OnChip { conversions, offsets, unit };
        if held == integer.weights {
            return (rounded, on_chip);
        }
        let held: Vec<f32> = held.into_iter().map(f32::from).collect();
        let held = Tensor::<4>::from_data(TensorData::new(held, rounded.dims()), &rounded.device()) * scale;
        let change = held - rounded.clone().detach();
        (rounded + change, on_chip)
    }

    /// A value of a pass with fake quantizers as the integers that it stands for.
    fn integers(&self, x: &Tensor<4>, source: Source, bits: u8) -> Vec<u8> {
        let step = to_host(self.step(source, bits).detach())[0];
        let values = to_host(x.clone().detach());
        match source {
            Source::Image => {
                let places = self.model.picture.zero_points.iter().cycle();
                values.iter().zip(places).map(|(value, zero)| (value / step + f32::from(*zero) + 0.5) as u8).collect()
            }
            Source::Node(_) => values.iter().map(|value| (value / step + 0.5) as u8).collect(),
        }
    }

    /// Adds to a convolution's values what its conversions add to the sums; `gain` is what a sum is multiplied by on its way there, one value a
    /// filter.
    pub fn convert(
        &mut self,
        layer: &Layer,
        chip: Chip,
        on_chip: OnChip,
        gain: Option<Tensor<1>>,
        x: &Tensor<4>,
        mut value: Tensor<4>,
    ) -> Tensor<4> {
        let OnChip { conversions, offsets, unit } = on_chip;
        let scale = gain.map_or(unit.clone(), |gain| unit * gain).detach().reshape([1, 1, 1, -1]);
        if let Some(conversions) = conversions {
            let errors = conversions.errors(chip.first, &self.integers(x, layer.conv.source, layer.input_bits));
            let errors = errors.into_iter().map(|error| error as f32).collect();
            let errors = Tensor::<4>::from_data(TensorData::new::<f32, _>(errors, value.dims()), &value.device());
            let mut change = errors * scale.clone();
            if chip.corrects {
                let mean = change.clone().mean_dims(&[0, 1, 2]);
                change = change - mean.clone();
                self.corrections.push((layer.conv.name.clone(), mean.reshape([-1])));
            }
            value = value + change;
        }
        match offsets {
            Some(offsets) => value + offsets.reshape([1, 1, 1, -1]) * scale,
            None => value,
        }
    }
}
