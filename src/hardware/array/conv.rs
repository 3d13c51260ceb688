//! A convolution on the arrays: its kept weights as the accesses read them, and the accesses themselves.
//!
//! It knows nothing of networks, residual sums or requantization.

use std::borrow::Cow;

use super::adc::Slice;
use super::layout::{InputLayout, WeightLayout};
use super::noise::{ConversionNoise, STREAM_CONVERSIONS, stuck_weights};
use super::partial_sums::Histogram;
use super::random::Key;
use crate::error::{Error, Result};
use crate::groups::GroupShape;
use crate::hardware::chip::{ConversionNumbers, Hardware};
use crate::hardware::mapping::ConvMapping;
use crate::integer::IntegerConv;
use crate::network::{ConvShape, MapShape};
use crate::simd::{
    Dot, Inputs, IntegerKernel, IntegerSimd, Integers, LANES, NARROW_LIMIT, QUAD, Weights, dispatch_integers,
};

/// What the array did, for all images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Accesses, each with all its weight slices and input phases.
    pub accesses: u64,
    /// Partial sums formed and converted, those of padded filters included.
    pub conversions: u64,
    /// Kept groups times the output pixels for which they were computed.
    pub group_pixels: u64,
}

/// A convolution on the arrays.
#[derive(Debug)]
pub(super) struct ArrayConv {
    pub(super) name: String,
    pub(super) shape: ConvShape,
    padding_values: Vec<u8>,
    pub(super) bias: Vec<i32>,
    input_bits_per_cycle: u8,
    phases: usize,
    slices: Vec<Slice>,
    numbers: ConversionNumbers,
    noise: Option<ConversionNoise>,
    /// Whether partial sums are small enough for [`IntegerSimd::Narrow`].
    narrow: bool,
    group: GroupShape,
    inputs: InputLayout,
    weights: WeightLayout,
    /// Bytes of one input phase of the map with its border.
    plane: usize,
    /// Where each output pixel's window starts in a plane.
    windows: Vec<usize>,
    /// Accesses for a bundle.
    parts: usize,
    /// Outputs of an access.
    outputs: usize,
    sets: Vec<ArraySet>,
}

#[derive(Debug)]
struct ArraySet {
    bundles: Vec<Bundle>,
    /// As [`WeightLayout`] says.
    weights: Vec<Weights>,
}

/// Groups that share the word lines.
#[derive(Debug)]
struct Bundle {
    /// Where each section's inputs start, from the window's start.
    sections: Vec<usize>,
    /// For each slice what its weights can give.
    bounds: Vec<Bounds>,
    /// Where its weights start in the set's.
    weights: usize,
}

/// The least and the largest partial sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    low: i32,
    high: i32,
}

/// A partial sum that its weights cannot give.
struct OutOfRange {
    set: usize,
    bundle: usize,
    slice: usize,
    phase: usize,
    bounds: Bounds,
}

impl ArrayConv {
    /// Loads a convolution's weights; `layer` is the number that its noise and stuck cells follow from.
    ///
    /// # Errors
    /// Sums that can pass 32 bits behind a lossy converter, more accesses than noise can tell apart.
    pub(super) fn new(
        layer: u32,
        mapping: &ConvMapping,
        conv: &IntegerConv,
        padding_values: Vec<u8>,
        hardware: &Hardware,
    ) -> Result<Self> {
        let shape = mapping.shape;
        let inputs = InputLayout::new(shape, mapping.grid);
        let slices = Slice::all(mapping.precision.slices, hardware.weight_slice_bits, hardware.converter);
        let largest_input = (1i64 << conv.input_bits.min(hardware.input_bits_per_cycle)) - 1;
        let largest_product = largest_input << (hardware.weight_slice_bits.min(mapping.precision.weight_bits));
        let noise = hardware.noise.as_ref();
        let mut array = Self {
            name: mapping.name.clone(),
            shape,
            padding_values,
            bias: conv.bias.clone(),
            input_bits_per_cycle: hardware.input_bits_per_cycle,
            phases: mapping.precision.phases,
            slices,
            numbers: mapping.precision.conversion_numbers(),
            noise: noise.and_then(|noise| ConversionNoise::new(noise, hardware.converter, layer)),
            narrow: largest_product * (2 * mapping.sections * inputs.block_quads()) as i64 <= i64::from(NARROW_LIMIT),
            group: hardware.group,
            plane: inputs.plane(),
            windows: inputs.windows(),
            weights: WeightLayout::new(mapping, &inputs),
            inputs,
            parts: mapping.parts(),
            outputs: mapping.precision.outputs,
            sets: Vec::new(),
        };
        let weights = match noise.filter(|noise| noise.has_stuck_cells()) {
            Some(noise) => Cow::from(stuck_weights(noise, &conv.weights, mapping.precision.weight_bits, layer)),
            None => Cow::from(&conv.weights),
        };
        let largest_input = (1 << conv.input_bits.min(hardware.input_bits_per_cycle)) - 1;
        let load = |set| array.load(mapping, set, &weights, largest_input, hardware.weight_slice_bits);
        array.sets = (0..mapping.sets.len()).map(load).collect();
        if !hardware.losses().is_empty() {
            array.check_sums()?;
        }
        Ok(array)
    }

    /// Lays out a filter set's kept weights as its accesses read them.
    fn load(&self, mapping: &ConvMapping, set: usize, stored: &[i8], largest_input: i32, slice_bits: u8) -> ArraySet {
        let mut weights = Vec::new();
        let mut bundles = Vec::new();
        for groups in mapping.sets[set].groups.chunks(mapping.sections) {
            let start = weights.len();
            weights.resize(start + self.weights.bundle(groups.len()), [0; LANES * QUAD]);
            let own = &mut weights[start..];
            for (slice, digits) in self.slices.iter().enumerate() {
                for cell in mapping.cells(set, groups) {
                    let (vector, lane) = (cell.filter / LANES, cell.filter % LANES);
                    let (quad, row) = (cell.row / QUAD, cell.row % QUAD);
                    let quad =
                        self.weights.start(groups.len(), vector, slice) + self.weights.slice(cell.section) + quad;
                    own[quad][lane * QUAD + row] = digits.digit(stored[cell.weight], slice, slice_bits);
                }
            }
            let bounds = (0..self.slices.len()).map(|slice| self.bounds(own, groups.len(), slice, largest_input));
            let sections = groups.iter().map(|group| self.inputs.section(set, *group));
            bundles.push(Bundle { sections: sections.collect(), bounds: bounds.collect(), weights: start });
        }
        ArraySet { bundles, weights }
    }

    /// The partial sums that the weights of a bundle's slice can give with inputs up to `largest_input`.
    fn bounds(&self, bundle: &[Weights], sections: usize, slice: usize, largest_input: i32) -> Bounds {
        let mut bounds = Bounds { low: 0, high: 0 };
        for start in self.weights.starts_of_slice(sections, slice) {
            let mut lanes = [Bounds { low: 0, high: 0 }; LANES];
            for quad in &bundle[start..][..self.weights.slice(sections)] {
                for (lane, digits) in lanes.iter_mut().zip(quad.as_chunks::<QUAD>().0) {
                    for digit in digits {
                        let extreme = i32::from(*digit) * largest_input;
                        lane.low += extreme.min(0);
                        lane.high += extreme.max(0);
                    }
                }
            }
            bounds.low = lanes.iter().map(|lane| lane.low).fold(bounds.low, i32::min);
            bounds.high = lanes.iter().map(|lane| lane.high).fold(bounds.high, i32::max);
        }
        bounds
    }

    /// A lossy converter may round sums up, noise and stuck cells raise them; they still have to fit 32 bits.
    fn check_sums(&self) -> Result<()> {
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
                    format!("its sums can reach {largest} behind this converter, beyond 32 bits"),
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

    fn place(&self, slice: Slice, phase: usize) -> i32 {
        slice.place << (phase * usize::from(self.input_bits_per_cycle))
    }

    /// Input planes with the border in place.
    pub(super) fn empty_planes(&self) -> Vec<u8> {
        let mut planes = vec![0; self.phases * self.plane];
        for pixel in 0..self.inputs.pixels() {
            self.set_pixel(&mut planes, pixel, &self.padding_values);
        }
        planes
    }

    /// Writes the digits of a pixel's channels to every phase's plane.
    fn set_pixel(&self, planes: &mut [u8], pixel: usize, channels: &[u8]) {
        let mask = u8::MAX >> (8 - self.input_bits_per_cycle);
        for phase in 0..self.phases {
            let shift = phase * usize::from(self.input_bits_per_cycle);
            let pixel = &mut planes[phase * self.plane + pixel * self.inputs.pixel..][..self.inputs.pixel];
            for (block, channels) in pixel.chunks_exact_mut(self.inputs.block).zip(channels.chunks(self.group.channels))
            {
                for (digit, value) in block.iter_mut().zip(channels) {
                    *digit = value >> shift & mask;
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

    /// The accumulators `[pixel][filter]` of image `image` of its data set, without bias. Partial sums are counted in `histograms`, where there are some, before noise.
    pub(super) fn run(
        &self,
        image: u64,
        input: &[u8],
        planes: &mut [u8],
        sums: &mut Vec<i32>,
        counters: &mut Counters,
        histograms: Option<&[Histogram]>,
    ) -> Result<()> {
        let MapShape { channels, height, width } = self.shape.input;
        for y in 0..height {
            for x in 0..width {
                let channels = &input[(y * width + x) * channels..][..channels];
                self.set_pixel(planes, self.inputs.pixel_at(y, x), channels);
            }
        }
        sums.clear();
        sums.resize(self.shape.output.len(), 0);
        let done = match (&self.noise, histograms) {
            (None, None) => dispatch_integers(Accumulation { conv: self, planes, sums, counters, before: Noiseless }),
            (Some(noise), None) => {
                dispatch_integers(Accumulation { conv: self, planes, sums, counters, before: Noisy { noise, image } })
            }
            (None, Some(histograms)) => {
                let before = Counted { then: Noiseless, conv: self, histograms };
                dispatch_integers(Accumulation { conv: self, planes, sums, counters, before })
            }
            (Some(noise), Some(histograms)) => {
                let before = Counted { then: Noisy { noise, image }, conv: self, histograms };
                dispatch_integers(Accumulation { conv: self, planes, sums, counters, before })
            }
        };
        done.map_err(|at| {
            let Bounds { low, high } = at.bounds;
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
const PIXELS: usize = 8;

/// What happens to partial sums before they are converted.
trait BeforeConversion: Copy {
    /// What it needs to know of one vector of a filter set.
    type Vector: Copy;

    fn vector(self, set: usize, vector: usize) -> Self::Vector;
    /// Takes the partial sums of neighboring pixels from `first` on, conversion `number` of the vector.
    fn take<S: IntegerSimd>(
        self,
        simd: S,
        vector: Self::Vector,
        first: usize,
        number: usize,
        sums: &mut [S::I32; PIXELS],
    );
}

/// Nothing.
#[derive(Clone, Copy)]
struct Noiseless;

impl BeforeConversion for Noiseless {
    type Vector = ();

    #[inline(always)]
    fn vector(self, _: usize, _: usize) {}

    #[inline(always)]
    fn take<S: IntegerSimd>(self, _: S, (): (), _: usize, _: usize, _: &mut [S::I32; PIXELS]) {}
}

/// Noise is added.
#[derive(Clone, Copy)]
struct Noisy<'a> {
    noise: &'a ConversionNoise,
    image: u64,
}

impl BeforeConversion for Noisy<'_> {
    /// What picks its numbers.
    type Vector = Key;

    #[inline(always)]
    fn vector(self, set: usize, vector: usize) -> Key {
        self.noise.stream(self.image, set, vector)
    }

    #[inline(always)]
    fn take<S: IntegerSimd>(self, simd: S, stream: Key, first: usize, number: usize, sums: &mut [S::I32; PIXELS]) {
        for (pair, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let noise = self.noise.pair(stream, (first / 2 + pair) as u32, number as u32);
            for (sums, noise) in sums.iter_mut().zip(noise) {
                *sums = sums.add_product(simd.lanes(noise), 1);
            }
        }
    }
}

/// They are counted, before anything else happens.
#[derive(Clone, Copy)]
struct Counted<'a, T> {
    then: T,
    conv: &'a ArrayConv,
    histograms: &'a [Histogram],
}

impl<T: BeforeConversion> BeforeConversion for Counted<'_, T> {
    /// Beside the other's: how many lanes are filters.
    type Vector = (T::Vector, usize);

    #[inline(always)]
    fn vector(self, set: usize, vector: usize) -> Self::Vector {
        (self.then.vector(set, vector), self.conv.lanes(set, vector))
    }

    #[inline(always)]
    fn take<S: IntegerSimd>(
        self,
        simd: S,
        (vector, lanes): Self::Vector,
        first: usize,
        number: usize,
        sums: &mut [S::I32; PIXELS],
    ) {
        let signed = self.conv.slices[self.conv.numbers.slice(number)].signed;
        // Slices without sign come first.
        let histogram = if signed { self.histograms.last() } else { self.histograms.first() };
        let histogram = histogram.expect("a histogram for each kind of digit");
        for sums in sums.iter().take(self.conv.windows.len() - first) {
            sums.to_lanes()[..lanes].iter().for_each(|sum| histogram.count(*sum));
        }
        self.then.take(simd, vector, first, number, sums);
    }
}

/// What accesses compute together.
#[derive(Clone, Copy)]
struct Place<'a> {
    set: &'a ArraySet,
    /// The vector of its filters.
    vector: usize,
    /// Where the windows of the output pixels start.
    bases: [usize; PIXELS],
}

struct Accumulation<'a, T> {
    conv: &'a ArrayConv,
    planes: &'a [u8],
    /// `[pixel][filter]`.
    sums: &'a mut [i32],
    counters: &'a mut Counters,
    before: T,
}

impl<T: BeforeConversion> IntegerKernel for Accumulation<'_, T> {
    type Output = std::result::Result<(), OutOfRange>;

    #[inline(always)]
    fn run<S: IntegerSimd>(self, simd: S) -> Self::Output {
        let conv = self.conv;
        let filters = conv.shape.filters();
        for (index, set) in conv.sets.iter().enumerate() {
            for vector in 0..conv.set_filters(index).div_ceil(LANES) {
                let filter = index * conv.group.filters + vector * LANES;
                let real = conv.lanes(index, vector);
                let of_vector = self.before.vector(index, vector);
                for (first, windows) in (0..).step_by(PIXELS).zip(conv.windows.chunks(PIXELS)) {
                    // The last pixels may be fewer; the last one then stands in for those that are missing.
                    let bases = std::array::from_fn(|pixel| windows[pixel.min(windows.len() - 1)]);
                    let take = |number: usize, sums: &mut [S::I32; PIXELS]| {
                        self.before.take(simd, of_vector, first, number, sums);
                    };
                    let place = Place { set, vector, bases };
                    let totals = conv
                        .access_pixels(simd, place, self.planes, take)
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
    ///
    /// `before_conversion` takes the partial sums of one conversion of each lane and pixel, which are numbered from 0.
    #[inline(always)]
    fn access_pixels<S: IntegerSimd>(
        &self,
        simd: S,
        Place { set, vector, bases }: Place,
        planes: &[u8],
        before_conversion: impl Fn(usize, &mut [S::I32; PIXELS]),
    ) -> std::result::Result<[[i32; LANES]; PIXELS], OutOfRange> {
        let mut totals = [simd.lanes([0; LANES]); PIXELS];
        for (index, bundle) in set.bundles.iter().enumerate() {
            let sections = bundle.sections.len();
            let quads = self.weights.slice(sections);
            for (slice, digits) in self.slices.iter().enumerate() {
                let weights = bundle.weights + self.weights.start(sections, vector, slice);
                let weights = &set.weights[weights..][..quads];
                let bounds = bundle.bounds[slice];
                for (phase, plane) in planes.chunks_exact(self.plane).enumerate() {
                    let inputs = WordLines { sections: &bundle.sections, plane, bases, block: self.inputs.block };
                    let mut partial = match self.narrow {
                        true => inputs.partial_sums(simd.narrow(), weights),
                        false => inputs.partial_sums(simd.lanes([0; LANES]), weights),
                    };
                    let place = self.place(*digits, phase);
                    let Bounds { low, high } = bounds;
                    if partial.iter().any(|sums| sums.beyond(low, high)) {
                        return Err(OutOfRange { set: 0, bundle: index, slice, phase, bounds });
                    }
                    before_conversion(self.numbers.of(index, slice, phase), &mut partial);
                    digits.conversion.apply(simd, &mut partial);
                    for (total, sums) in totals.iter_mut().zip(partial) {
                        *total = total.add_product(sums, place);
                    }
                }
            }
        }
        Ok(totals.map(Integers::to_lanes))
    }

    /// `acc + bias` of a pixel's filters.
    #[inline(always)]
    pub(super) fn biased<'a>(&'a self, sums: &'a [i32], pixel: usize) -> impl Iterator<Item = i64> + 'a {
        let sums = &sums[pixel * self.shape.filters()..][..self.shape.filters()];
        sums.iter().zip(&self.bias).map(|(sum, bias)| i64::from(sum + bias))
    }

    /// Filters of a set.
    fn set_filters(&self, set: usize) -> usize {
        self.group.filters.min(self.shape.filters() - set * self.group.filters)
    }

    /// Lanes of a set's vector that are filters.
    fn lanes(&self, set: usize, vector: usize) -> usize {
        LANES.min(self.set_filters(set) - vector * LANES)
    }

    fn count(&self, set: &ArraySet, pixels: u64, counters: &mut Counters) {
        let accesses = (set.bundles.len() * self.parts) as u64 * pixels;
        let sections: usize = set.bundles.iter().map(|bundle| bundle.sections.len()).sum();
        counters.accesses += accesses;
        counters.conversions += accesses * (self.outputs * self.slices.len() * self.phases) as u64;
        counters.group_pixels += sections as u64 * pixels;
    }
}

/// What the word lines of a bundle take for some output pixels in one input phase.
#[derive(Clone, Copy)]
struct WordLines<'a> {
    /// Where each section's inputs start, from the window's start.
    sections: &'a [usize],
    plane: &'a [u8],
    /// Where the windows start.
    bases: [usize; PIXELS],
    /// Bytes of a section.
    block: usize,
}

impl WordLines<'_> {
    /// The partial sums of an access with the weights of one slice, `[section][quad]`.
    #[inline(always)]
    fn partial_sums<D: Dot>(self, zero: D, weights: &[Weights]) -> [D::Sums; PIXELS] {
        let Self { sections, plane, bases, block } = self;
        let mut sums = [zero; PIXELS];
        for (section, weights) in sections.iter().zip(weights.chunks_exact(block / QUAD)) {
            let mut inputs = [&plane[..block]; PIXELS];
            for (inputs, base) in inputs.iter_mut().zip(bases) {
                *inputs = &plane[base + section..][..block];
            }
            for (quad, weights) in weights.iter().enumerate() {
                for (sums, inputs) in sums.iter_mut().zip(inputs) {
                    let inputs: Inputs = inputs[quad * QUAD..][..QUAD].try_into().expect("a quad");
                    *sums = sums.dot(weights, inputs);
                }
            }
        }
        let mut done = [zero.sums(); PIXELS];
        // A loop instead of `map`, which is compiled apart and without the vector unit.
        for (done, sums) in done.iter_mut().zip(sums) {
            *done = sums.sums();
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::chip::Converter;
    use crate::network::Window;

    /// A convolution with one output pixel, all weights the same.
    fn array(channels: usize, kernel: usize, weight: i8, hardware: &Hardware) -> Result<ArrayConv> {
        let map = |channels, side| MapShape { channels, height: side, width: side };
        let shape = ConvShape {
            input: map(channels, kernel),
            output: map(10, 1),
            window: Window::square(kernel, 1, 0),
            dilation: [1; 2],
            groups: 1,
        };
        let conv =
            IntegerConv { input_bits: 8, weight_bits: 8, weights: vec![weight; shape.weights()], bias: vec![0; 10] };
        let mapping = ConvMapping::new("conv", shape, &conv, hardware)?;
        ArrayConv::new(0, &mapping, &conv, vec![0; channels], hardware)
    }

    #[test]
    fn a_partial_sum_out_of_range_names_layer_and_access() {
        let mut array = array(256, 1, 1, &Hardware::mars()).unwrap();
        let run = |array: &ArrayConv| {
            let mut sums = Vec::new();
            array.run(0, &[255; 256], &mut array.empty_planes(), &mut sums, &mut Counters::default(), None)?;
            Ok::<_, Error>(sums)
        };
        assert_eq!(run(&array).unwrap(), [255 * 256; 10]);
        array.sets[0].bundles[2].bounds[0] = Bounds { low: 0, high: 100 };
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
