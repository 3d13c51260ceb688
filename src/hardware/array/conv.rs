//! A convolution on the arrays: its kept weights and its inputs as the accesses read them.
//!
//! It knows nothing of networks, residual sums or requantization.

use std::borrow::Cow;

use super::adc::{CountConversion, Slice};
use super::layout::{InputLayout, Packing, WeightLayout};
use super::noise::{ConversionNoise, STREAM_CONVERSIONS, stuck_weights};
use super::partial_sums::Histogram;
use crate::error::{Error, Result};
use crate::groups::GroupShape;
use crate::hardware::chip::{ConversionNumbers, Hardware};
use crate::hardware::mapping::ConvMapping;
use crate::integer::IntegerConv;
use crate::network::{ConvId, ConvShape};
use crate::simd::{Inputs, LANES, NARROW_LIMIT, OCTET, Weights};

/// A convolution on the arrays.
#[derive(Debug)]
pub(super) struct ArrayConv {
    pub(super) name: String,
    pub(super) shape: ConvShape,
    padding_values: Vec<u8>,
    pub(super) bias: Vec<i32>,
    input_bits_per_cycle: u8,
    pub(super) phases: usize,
    pub(super) slices: Vec<Slice>,
    pub(super) numbers: ConversionNumbers,
    pub(super) noise: Option<ConversionNoise>,
    pub(super) products: Products,
    pub(super) group: GroupShape,
    pub(super) inputs: InputLayout,
    pub(super) weights: WeightLayout,
    /// Bytes of one input phase of the map with its border.
    pub(super) plane: usize,
    /// Where each output pixel's window starts in a plane.
    pub(super) windows: Vec<usize>,
    /// Accesses for a bundle.
    pub(super) parts: usize,
    /// Outputs of an access.
    pub(super) outputs: usize,
    pub(super) sets: Vec<ArraySet>,
}

/// How the products of cells and word lines are added up.
#[derive(Debug)]
pub(super) enum Products {
    /// As dot products of bytes.
    Dots {
        /// Whether partial sums are small enough for [`IntegerSimd::Narrow`](crate::simd::IntegerSimd::Narrow).
        narrow: bool,
    },
    /// As counts of ones, where inputs and weights come bit by bit and nothing happens before a conversion.
    Counts(Box<CountConversion>),
}

#[derive(Debug)]
pub(super) struct ArraySet {
    pub(super) bundles: Vec<Bundle>,
    /// As [`WeightLayout`] says.
    pub(super) weights: Vec<Weights>,
}

/// Groups that share the word lines.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Where each section's inputs start, from the window's start.
    pub(super) sections: Vec<usize>,
    /// For each slice what its weights can give.
    pub(super) bounds: Vec<Bounds>,
    /// Where its weights start in the set's.
    pub(super) weights: usize,
}

/// The least and the largest partial sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) low: i32,
    pub(super) high: i32,
}

impl ArrayConv {
    /// Loads a convolution's weights; its noise and stuck cells follow from `id`.
    ///
    /// # Errors
    /// Sums that can pass 32 bits behind a lossy converter, more accesses than noise can tell apart.
    pub(super) fn new(
        id: ConvId,
        mapping: &ConvMapping,
        conv: &IntegerConv,
        padding_values: Vec<u8>,
        hardware: &Hardware,
    ) -> Result<Self> {
        let shape = mapping.shape;
        let slices = Slice::all(mapping.precision.slices, hardware.weight_slice_bits, hardware.converter);
        let largest_input = (1 << conv.input_bits.min(hardware.input_bits_per_cycle)) - 1;
        let rows = mapping.sections * hardware.group.channels;
        let noise = hardware.noise.as_ref();
        let conversion_noise = noise.and_then(|noise| ConversionNoise::new(noise, hardware.converter, id));
        let bit_by_bit = hardware.weight_slice_bits == 1 && hardware.input_bits_per_cycle == 1;
        let counted = match bit_by_bit && conversion_noise.is_none() {
            true => CountConversion::new(&slices, rows),
            false => None,
        };
        let packing = if counted.is_some() { Packing::Bits } else { Packing::Bytes };
        let inputs = InputLayout::new(shape, mapping.grid, packing);
        let products = counted.map_or_else(
            || {
                let largest_product =
                    i64::from(largest_input) << hardware.weight_slice_bits.min(mapping.precision.weight_bits);
                let half_of_the_rows = (2 * mapping.sections * inputs.registers) as i64;
                Products::Dots { narrow: largest_product * half_of_the_rows <= i64::from(NARROW_LIMIT) }
            },
            |conversion| Products::Counts(Box::new(conversion)),
        );
        let mut array = Self {
            name: mapping.name.clone(),
            shape,
            padding_values,
            bias: conv.bias.clone(),
            input_bits_per_cycle: hardware.input_bits_per_cycle,
            phases: mapping.precision.phases,
            slices,
            numbers: mapping.precision.conversion_numbers(),
            noise: conversion_noise,
            products,
            group: hardware.group,
            plane: inputs.plane(),
            windows: inputs.windows(),
            weights: WeightLayout::new(mapping, &inputs, packing),
            inputs,
            parts: mapping.parts(),
            outputs: mapping.precision.outputs,
            sets: Vec::new(),
        };
        let weights = match noise.filter(|noise| noise.has_stuck_cells()) {
            Some(noise) => Cow::from(stuck_weights(noise, &conv.weights, mapping.precision.weight_bits, id)),
            None => Cow::from(&conv.weights),
        };
        let load = |set| array.load(mapping, set, &weights, largest_input, hardware.weight_slice_bits);
        array.sets = (0..mapping.sets.len()).map(load).collect();
        if !hardware.losses().is_empty() {
            array.check_sums(&hardware.losses().join(", "))?;
        }
        Ok(array)
    }

    /// Lays out a filter set's kept weights as its accesses read them.
    fn load(&self, mapping: &ConvMapping, set: usize, stored: &[i8], largest_input: i32, slice_bits: u8) -> ArraySet {
        let mut weights = Vec::new();
        let mut bundles = Vec::new();
        for groups in mapping.sets[set].groups.chunks(mapping.sections) {
            let start = weights.len();
            weights.resize(start + self.weights.bundle(groups.len()), [0; size_of::<Weights>()]);
            let own = &mut weights[start..];
            let mut bounds = Vec::new();
            for (slice, digits) in self.slices.iter().enumerate() {
                let mut of_filters = vec![Bounds { low: 0, high: 0 }; self.group.filters];
                for cell in mapping.cells(set, groups) {
                    let digit = digits.digit(stored[cell.weight], slice, slice_bits);
                    self.weights.store(own, groups.len(), slice, &cell, digit);
                    let extreme = i32::from(digit) * largest_input;
                    let of_filter = &mut of_filters[cell.filter];
                    of_filter.low += extreme.min(0);
                    of_filter.high += extreme.max(0);
                }
                bounds.push(Bounds {
                    low: of_filters.iter().map(|bounds| bounds.low).fold(0, i32::min),
                    high: of_filters.iter().map(|bounds| bounds.high).fold(0, i32::max),
                });
            }
            let sections = groups.iter().map(|group| self.inputs.section(set, *group));
            bundles.push(Bundle { sections: sections.collect(), bounds, weights: start });
        }
        ArraySet { bundles, weights }
    }

    /// A lossy converter may round sums up, noise and stuck cells raise them; they still have to fit 32 bits.
    fn check_sums(&self, losses: &str) -> Result<()> {
        let noise = self.noise.map_or(0, |noise| noise.largest());
        let bias = self.bias.iter().map(|bias| i64::from(bias.abs())).max().unwrap_or(0);
        for set in &self.sets {
            let mut largest = bias;
            for bundle in &set.bundles {
                for (slice, bounds) in self.slices.iter().zip(&bundle.bounds) {
                    let extremes = [bounds.low - noise, bounds.high + noise];
                    let [low, high] = extremes.map(|sum| i64::from(slice.conversion.convert(sum)).abs());
                    for phase in 0..self.phases {
                        let sum = low.max(high);
                        largest += sum * i64::from(self.place(*slice, phase).abs());
                    }
                }
            }
            if largest > i64::from(i32::MAX) {
                return Err(Error::layer(
                    &self.name,
                    format!("its sums can reach {largest} with what this chip loses ({losses}), beyond 32 bits"),
                ));
            }
            let conversions = set.bundles.len() * self.slices.len() * self.phases;
            if self.noise.is_some() && conversions > STREAM_CONVERSIONS {
                return Err(Error::layer(
                    &self.name,
                    format!("a filter set has {conversions} conversions, noise can tell {STREAM_CONVERSIONS} apart"),
                ));
            }
        }
        Ok(())
    }

    pub(super) fn place(&self, slice: Slice, phase: usize) -> i32 {
        slice.place << (phase * usize::from(self.input_bits_per_cycle))
    }

    /// Bytes of the input planes.
    pub(super) fn planes_len(&self) -> usize {
        self.phases * self.plane
    }

    /// Input planes with the border in place.
    pub(super) fn empty_planes(&self) -> Vec<u8> {
        let mut planes = vec![0; self.planes_len()];
        for pixel in 0..self.inputs.pixels() {
            self.set_pixel(&mut planes, pixel, &self.padding_values);
        }
        planes
    }

    /// Writes the digits of a pixel's channels to every phase's plane.
    pub(super) fn set_pixel(&self, planes: &mut [u8], pixel: usize, channels: &[u8]) {
        let place =
            |phase: usize, block: usize| phase * self.plane + pixel * self.inputs.pixel + block * self.inputs.block;
        for (block, channels) in channels.chunks(self.group.channels).enumerate() {
            match &self.products {
                Products::Dots { .. } => {
                    let mask = u8::MAX >> (8 - self.input_bits_per_cycle);
                    for phase in 0..self.phases {
                        let shift = phase * usize::from(self.input_bits_per_cycle);
                        for (digit, value) in planes[place(phase, block)..][..channels.len()].iter_mut().zip(channels) {
                            *digit = value >> shift & mask;
                        }
                    }
                }
                Products::Counts(_) => {
                    for (register, channels) in channels.chunks(OCTET).enumerate() {
                        let mut rows = [0; OCTET];
                        rows[..channels.len()].copy_from_slice(channels);
                        for (phase, bits) in transposed(rows).into_iter().enumerate().take(self.phases) {
                            let start = place(phase, block) + register * size_of::<Inputs>();
                            planes[start..][..size_of::<Inputs>()].copy_from_slice(&[bits; size_of::<Inputs>()]);
                        }
                    }
                }
            }
        }
    }

    /// Histograms of its partial sums, one for each kind of digit, without sums yet.
    pub(super) fn histograms(&self) -> Vec<Histogram> {
        let of_digits = |signed: bool| {
            let slices = || (0..self.slices.len()).filter(move |slice| self.slices[*slice].signed == signed);
            let bundles = || self.sets.iter().flat_map(|set| &set.bundles);
            let bounds = || bundles().flat_map(|bundle| slices().map(|slice| bundle.bounds[slice]));
            let (low, high) = (bounds().map(|bounds| bounds.low).min()?, bounds().map(|bounds| bounds.high).max()?);
            Some(Histogram::new(signed, low, high))
        };
        [false, true].into_iter().filter_map(of_digits).collect()
    }

    /// `acc + bias` of a pixel's filters.
    #[inline(always)]
    pub(super) fn biased<'a>(&'a self, sums: &'a [i32], pixel: usize) -> impl Iterator<Item = i64> + 'a {
        let sums = &sums[pixel * self.shape.filters()..][..self.shape.filters()];
        sums.iter().zip(&self.bias).map(|(sum, bias)| i64::from(sum + bias))
    }

    /// Filters of a set.
    pub(super) fn set_filters(&self, set: usize) -> usize {
        self.group.filters.min(self.shape.filters() - set * self.group.filters)
    }

    /// Lanes of a set's vector that are filters.
    pub(super) fn lanes(&self, set: usize, vector: usize) -> usize {
        LANES.min(self.set_filters(set) - vector * LANES)
    }
}

/// Bit `row` of byte `column` is bit `column` of byte `row`.
///
/// Blocks off the diagonal change places, of 1, 2 and 4 bits (Warren, *Hacker's Delight*, 7-3).
fn transposed(rows: [u8; OCTET]) -> [u8; OCTET] {
    let mut bits = u64::from_le_bytes(rows);
    for (shift, mask) in [(7, 0x00AA_00AA_00AA_00AA), (14, 0x0000_CCCC_0000_CCCC), (28, 0x0000_0000_F0F0_F0F0)] {
        let differ = (bits ^ bits >> shift) & mask;
        bits ^= differ ^ differ << shift;
    }
    bits.to_le_bytes()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hardware::chip::Converter;
    use crate::network::{MapShape, Window};

    /// A convolution with one output pixel, all weights the same.
    pub fn array(channels: usize, kernel: usize, weight: i8, hardware: &Hardware) -> Result<ArrayConv> {
        let mapped = mapped(channels, kernel, hardware, vec![weight; 10 * channels * kernel * kernel]);
        mapped.map(|(_, array)| array)
    }

    /// The same with weights `[10, channels, kernel, kernel]`.
    pub fn mapped(
        channels: usize,
        kernel: usize,
        hardware: &Hardware,
        weights: Vec<i8>,
    ) -> Result<(ConvMapping, ArrayConv)> {
        let map = |channels, side| MapShape { channels, height: side, width: side };
        let shape = ConvShape {
            input: map(channels, kernel),
            output: map(10, 1),
            window: Window::square(kernel, 1, 0),
            dilation: [1; 2],
            groups: 1,
        };
        let conv = IntegerConv { input_bits: 8, weight_bits: 8, weights, bias: vec![0; 10] };
        let mapping = ConvMapping::new("conv", shape, &conv, hardware)?;
        let array = ArrayConv::new(ConvId::Own(0), &mapping, &conv, vec![0; channels], hardware)?;
        Ok((mapping, array))
    }

    proptest! {
        #[test]
        fn bits_change_places(rows in any::<[u8; 8]>()) {
            let columns = transposed(rows);
            for (row, column) in (0..64).map(|at| (at / 8, at % 8)) {
                prop_assert_eq!(columns[column] >> row & 1, rows[row] >> column & 1);
            }
        }
    }

    /// 65536 x 127 x 255 fits 32 bits, but not with every partial sum rounded up by a third.
    #[test]
    fn a_converter_whose_sums_pass_32_bits_is_rejected() {
        let mut hardware = Hardware::mars();
        assert!(array(256, 16, 127, &hardware).is_ok());
        hardware.converter = Converter::Bits { bits: 8, step: 9600 };
        let error = array(256, 16, 127, &hardware).unwrap_err().to_string();
        // 1024 accesses, 2 x 9600 at places 1 and 16, 9600 at places 16 and 256.
        assert_eq!(
            error,
            "layer `conv`: its sums can reach 3008102400 with what this chip loses (8-bit converter), beyond 32 bits"
        );
    }
}
