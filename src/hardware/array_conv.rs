//! A convolution on the arrays: its kept weights as the accesses read them, and the accesses themselves.
//!
//! It knows nothing of networks, residual sums or requantization.

use super::array::Counters;
use super::config::{Converter, Hardware};
use super::converter::Slice;
use super::kernel::{Inputs, LANES, QUAD, Sums, Task, Weights, dispatch};
use super::mapping::ConvMapping;
use crate::deploy::integer::IntegerConv;
use crate::error::{Error, Result};
use crate::network::{ConvShape, MapShape};
use crate::sparsity::GroupShape;

/// A convolution on the arrays.
#[derive(Debug)]
pub(super) struct ArrayConv {
    name: String,
    pub(super) shape: ConvShape,
    padding_values: Vec<u8>,
    pub(super) bias: Vec<i32>,
    input_bits_per_cycle: u8,
    phases: usize,
    slices: Vec<Slice>,
    converter: Converter,
    group: GroupShape,
    /// Bytes of a channel block of a pixel: the group's channels, filled up to whole quads.
    block: usize,
    /// Bytes of a pixel.
    pixel: usize,
    /// Width of the map with its border.
    row: usize,
    /// Bytes of one input phase of the map with its border.
    plane: usize,
    /// Where each output pixel's window starts in a plane.
    windows: Vec<usize>,
    /// Vectors of lanes that a filter set takes.
    vectors: usize,
    /// Accesses for a bundle.
    parts: usize,
    /// Outputs of an access.
    outputs: usize,
    sets: Vec<ArraySet>,
}

#[derive(Debug)]
struct ArraySet {
    bundles: Vec<Bundle>,
    /// `[bundle][vector][slice][section][quad]`.
    weights: Vec<Weights>,
}

/// Groups that share the word lines.
#[derive(Debug)]
struct Bundle {
    /// Where each section's inputs start, from the window's start.
    sections: Vec<usize>,
    /// For each slice the least and largest partial sum that its weights can give.
    bounds: Vec<[i32; 2]>,
    /// Where its weights start in the set's.
    weights: usize,
}

/// A partial sum that its weights cannot give.
struct OutOfRange {
    set: usize,
    bundle: usize,
    slice: usize,
    phase: usize,
    bounds: [i32; 2],
}

impl ArrayConv {
    pub(super) fn new(
        mapping: &ConvMapping,
        conv: &IntegerConv,
        padding_values: Vec<u8>,
        hardware: &Hardware,
    ) -> Result<Self> {
        let shape = mapping.shape;
        let block = hardware.group.channels.next_multiple_of(QUAD);
        let pixel = mapping.grid.blocks() * block;
        let row = shape.input.width + 2 * shape.padding;
        let windows = (0..shape.output.pixels())
            .map(|out| [out / shape.output.width, out % shape.output.width])
            .map(|[y, x]| (y * shape.stride * row + x * shape.stride) * pixel)
            .collect();
        let mut array = Self {
            name: mapping.name.clone(),
            shape,
            padding_values,
            bias: conv.bias.clone(),
            input_bits_per_cycle: hardware.input_bits_per_cycle,
            phases: mapping.precision.phases,
            slices: Slice::all(mapping.precision.slices, hardware.weight_slice_bits, hardware.converter),
            converter: hardware.converter,
            group: hardware.group,
            block,
            pixel,
            row,
            plane: (shape.input.height + 2 * shape.padding) * row * pixel,
            windows,
            vectors: hardware.group.filters.div_ceil(LANES),
            parts: mapping.parts(),
            outputs: mapping.precision.outputs,
            sets: Vec::new(),
        };
        array.sets = (0..mapping.sets.len()).map(|set| array.load(mapping, set, conv, hardware)).collect();
        array.check_sums()?;
        Ok(array)
    }

    /// Lays out a filter set's kept weights as its accesses read them.
    fn load(&self, mapping: &ConvMapping, set: usize, conv: &IntegerConv, hardware: &Hardware) -> ArraySet {
        let (taps, quads) = (mapping.grid.taps, self.block / QUAD);
        let filters = mapping.set_filters(set);
        let largest_input = (1 << conv.input_bits.min(hardware.input_bits_per_cycle)) - 1;
        let mut weights = Vec::new();
        let mut bundles = Vec::new();
        for groups in mapping.sets[set].chunks(mapping.sections) {
            let sections = groups.iter().map(|group| {
                let (tap, block) = (group % taps, group / taps);
                let [y, x] = [tap / self.shape.kernel[1], tap % self.shape.kernel[1]];
                (y * self.row + x) * self.pixel + block * self.block
            });
            let start = weights.len();
            let mut bounds = vec![[0; 2]; self.slices.len()];
            for vector in 0..self.vectors {
                for (slice, bounds) in bounds.iter_mut().enumerate() {
                    let mut ranges = [[0; 2]; LANES];
                    for group in groups {
                        let (tap, block) = (group % taps, group / taps);
                        for quad in 0..quads {
                            let mut loaded = [0; LANES * QUAD];
                            for (index, digit) in loaded.iter_mut().enumerate() {
                                let (lane, in_block) = (index / QUAD, quad * QUAD + index % QUAD);
                                let in_set = vector * LANES + lane;
                                let channel = block * hardware.group.channels + in_block;
                                if in_set < filters.len()
                                    && in_block < hardware.group.channels
                                    && channel < mapping.grid.channels
                                {
                                    let filter = filters.start + in_set;
                                    let weight = conv.weights[(filter * mapping.grid.channels + channel) * taps + tap];
                                    *digit = self.slices[slice].digit(weight, slice, hardware.weight_slice_bits);
                                    let extreme = i32::from(*digit) * largest_input;
                                    ranges[lane][usize::from(extreme > 0)] += extreme;
                                }
                            }
                            weights.push(loaded);
                        }
                    }
                    bounds[0] = ranges.iter().map(|range| range[0]).fold(bounds[0], i32::min);
                    bounds[1] = ranges.iter().map(|range| range[1]).fold(bounds[1], i32::max);
                }
            }
            bundles.push(Bundle { sections: sections.collect(), bounds, weights: start });
        }
        ArraySet { bundles, weights }
    }

    /// A lossy converter may round sums up; they still have to fit 32 bits.
    fn check_sums(&self) -> Result<()> {
        let bias = self.bias.iter().map(|bias| i64::from(bias.abs())).max().unwrap_or(0);
        for set in &self.sets {
            let mut largest = bias;
            for bundle in &set.bundles {
                for (slice, bounds) in self.slices.iter().zip(&bundle.bounds) {
                    let sums = bounds.map(|sum| i64::from(slice.conversion.convert(sum)).abs());
                    for phase in 0..self.phases {
                        let sum = sums[0].max(sums[1]);
                        largest += sum * i64::from(self.place(*slice, phase).abs());
                    }
                }
            }
            if self.converter != Converter::Ideal && largest > i64::from(i32::MAX) {
                return Err(Error::layer(
                    &self.name,
                    format!("its sums can reach {largest} behind this converter, beyond 32 bits"),
                ));
            }
        }
        Ok(())
    }

    fn place(&self, slice: Slice, phase: usize) -> i32 {
        slice.place << (phase * usize::from(self.input_bits_per_cycle))
    }

    /// Input planes with the border in place.
    pub(super) fn empty_planes(&self) -> Vec<u8> {
        let mut planes = vec![0; self.phases * self.plane];
        for pixel in 0..self.plane / self.pixel {
            self.set_pixel(&mut planes, pixel, &self.padding_values);
        }
        planes
    }

    /// Writes the digits of a pixel's channels to every phase's plane.
    fn set_pixel(&self, planes: &mut [u8], pixel: usize, channels: &[u8]) {
        let mask = u8::MAX >> (8 - self.input_bits_per_cycle);
        for phase in 0..self.phases {
            let shift = phase * usize::from(self.input_bits_per_cycle);
            let pixel = &mut planes[phase * self.plane + pixel * self.pixel..][..self.pixel];
            for (block, channels) in pixel.chunks_exact_mut(self.block).zip(channels.chunks(self.group.channels)) {
                for (digit, value) in block.iter_mut().zip(channels) {
                    *digit = value >> shift & mask;
                }
            }
        }
    }

    /// The accumulators `[pixel][filter]` of one picture, without bias.
    pub(super) fn run(
        &self,
        input: &[u8],
        planes: &mut [u8],
        sums: &mut Vec<i32>,
        counters: &mut Counters,
    ) -> Result<()> {
        let MapShape { channels, height, width } = self.shape.input;
        let padding = self.shape.padding;
        for y in 0..height {
            for x in 0..width {
                let channels = &input[(y * width + x) * channels..][..channels];
                self.set_pixel(planes, (y + padding) * self.row + x + padding, channels);
            }
        }
        sums.clear();
        sums.resize(self.shape.output.len(), 0);
        let done = dispatch(Accumulation { conv: self, planes, sums, counters });
        done.map_err(|at| {
            let [low, high] = at.bounds;
            Error::layer(
                &self.name,
                format!(
                    "a partial sum of access {} of filter set {} (weight slice {}, input phase {}) is not from {low} to {high}",
                    at.bundle * self.parts,
                    at.set,
                    at.slice,
                    at.phase
                ),
            )
        })
    }
}

/// Output pixels that share a load of the weights.
const PIXELS: usize = 4;

struct Accumulation<'a> {
    conv: &'a ArrayConv,
    planes: &'a [u8],
    /// `[pixel][filter]`.
    sums: &'a mut [i32],
    counters: &'a mut Counters,
}

impl Task for Accumulation<'_> {
    type Output = std::result::Result<(), OutOfRange>;

    #[inline(always)]
    fn run<S: Sums>(self) -> Self::Output {
        let conv = self.conv;
        let filters = conv.shape.filters();
        for (index, set) in conv.sets.iter().enumerate() {
            let in_set = conv.group.filters.min(filters - index * conv.group.filters);
            for vector in 0..in_set.div_ceil(LANES) {
                let filter = index * conv.group.filters + vector * LANES;
                let real = LANES.min(in_set - vector * LANES);
                for (first, windows) in (0..).step_by(PIXELS).zip(conv.windows.chunks(PIXELS)) {
                    // The last pixels may be fewer; the last one then stands in for those that are missing.
                    let bases = std::array::from_fn(|pixel| windows[pixel.min(windows.len() - 1)]);
                    let totals = conv
                        .access_pixels::<S>(set, vector, bases, self.planes)
                        .map_err(|at| OutOfRange { set: index, ..at })?;
                    for (pixel, totals) in totals.iter().enumerate().take(windows.len()) {
                        self.sums[(first + pixel) * filters + filter..][..real].copy_from_slice(&totals[..real]);
                    }
                    if vector == 0 {
                        conv.count(set, windows.len() as u64, self.counters);
                    }
                }
            }
        }
        Ok(())
    }
}

impl ArrayConv {
    /// Makes all accesses of a filter set for some output pixels and gives the accumulators of one vector of its filters.
    #[inline(always)]
    fn access_pixels<S: Sums>(
        &self,
        set: &ArraySet,
        vector: usize,
        bases: [usize; PIXELS],
        planes: &[u8],
    ) -> std::result::Result<[[i32; LANES]; PIXELS], OutOfRange> {
        let mut totals = [S::zero(); PIXELS];
        for (index, bundle) in set.bundles.iter().enumerate() {
            let quads = bundle.sections.len() * (self.block / QUAD);
            for (slice, digits) in self.slices.iter().enumerate() {
                let weights = bundle.weights + (vector * self.slices.len() + slice) * quads;
                let weights = &set.weights[weights..][..quads];
                let bounds = bundle.bounds[slice];
                for phase in 0..self.phases {
                    let plane = &planes[phase * self.plane..][..self.plane];
                    let partial = partial_sums::<S>(weights, &bundle.sections, self.block, bases, plane);
                    let place = self.place(*digits, phase);
                    let [low, high] = bounds;
                    if partial.iter().any(|sums| sums.beyond(low, high)) {
                        return Err(OutOfRange { set: 0, bundle: index, slice, phase, bounds });
                    }
                    for (total, sums) in totals.iter_mut().zip(partial) {
                        *total = total.add_product(digits.conversion.apply(sums), place);
                    }
                }
            }
        }
        Ok(totals.map(S::lanes))
    }

    /// `acc + bias` of a pixel's filters.
    #[inline(always)]
    pub(super) fn biased<'a>(&'a self, sums: &'a [i32], pixel: usize) -> impl Iterator<Item = i64> + 'a {
        let sums = &sums[pixel * self.shape.filters()..][..self.shape.filters()];
        sums.iter().zip(&self.bias).map(|(sum, bias)| i64::from(sum + bias))
    }

    fn count(&self, set: &ArraySet, pixels: u64, counters: &mut Counters) {
        let accesses = (set.bundles.len() * self.parts) as u64 * pixels;
        let sections: usize = set.bundles.iter().map(|bundle| bundle.sections.len()).sum();
        counters.accesses += accesses;
        counters.conversions += accesses * (self.outputs * self.slices.len() * self.phases) as u64;
        counters.group_pixels += sections as u64 * pixels;
    }
}

/// The partial sums of one access, slice and phase for some output pixels: each section's inputs are read from the plane and
/// meet its rows' weights.
#[inline(always)]
fn partial_sums<S: Sums>(
    weights: &[Weights],
    sections: &[usize],
    block: usize,
    bases: [usize; PIXELS],
    plane: &[u8],
) -> [S; PIXELS] {
    let mut sums = [S::zero(); PIXELS];
    for (section, weights) in sections.iter().zip(weights.chunks_exact(block / QUAD)) {
        let inputs: [&[Inputs]; PIXELS] = bases.map(|base| plane[base + section..][..block].as_chunks().0);
        for (quad, weights) in weights.iter().enumerate() {
            for (sums, inputs) in sums.iter_mut().zip(inputs) {
                *sums = sums.dot(weights, inputs[quad]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A convolution with one output pixel, all weights the same.
    fn array(channels: usize, kernel: usize, weight: i8, hardware: &Hardware) -> Result<ArrayConv> {
        let map = |channels, side| MapShape { channels, height: side, width: side };
        let shape =
            ConvShape { input: map(channels, kernel), output: map(10, 1), kernel: [kernel; 2], stride: 1, padding: 0 };
        let conv =
            IntegerConv { input_bits: 8, weight_bits: 8, weights: vec![weight; shape.weights()], bias: vec![0; 10] };
        let mapping = ConvMapping::new("conv", shape, &conv, hardware)?;
        ArrayConv::new(&mapping, &conv, vec![0; channels], hardware)
    }

    #[test]
    fn a_partial_sum_out_of_range_names_layer_and_access() {
        let mut array = array(256, 1, 1, &Hardware::mars()).unwrap();
        let run = |array: &ArrayConv| {
            let mut sums = Vec::new();
            array.run(&[255; 256], &mut array.empty_planes(), &mut sums, &mut Counters::default())?;
            Ok::<_, Error>(sums)
        };
        assert_eq!(run(&array).unwrap(), [255 * 256; 10]);
        array.sets[0].bundles[2].bounds[0] = [0, 100];
        assert_eq!(
            run(&array).unwrap_err().to_string(),
            "layer `conv`: a partial sum of access 4 of filter set 0 (weight slice 0, input phase 0) is not from 0 to 100"
        );
    }

    /// 65536 x 127 x 255 fits 32 bits, but not with every partial sum rounded up by a third.
    #[test]
    fn a_converter_whose_sums_pass_32_bits_is_rejected() {
        let mut hardware = Hardware::mars();
        assert!(array(256, 16, 127, &hardware).is_ok());
        hardware.converter = Converter::Bits { bits: 8, step: 9600 };
        let error = array(256, 16, 127, &hardware).unwrap_err().to_string();
        // 1024 accesses, 2 x 9600 at places 1 and 16, 9600 at places 16 and 256.
        assert_eq!(error, "layer `conv`: its sums can reach 3008102400 behind this converter, beyond 32 bits");
    }
}
