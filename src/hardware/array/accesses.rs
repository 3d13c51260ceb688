//! The accesses of a convolution: word lines, partial sums, conversions and their accumulation.

use super::conv::{ArrayConv, ArraySet, Bounds};
use super::noise::ConversionNoise;
use super::partial_sums::Histogram;
use super::random::Key;
use crate::error::{Error, Result};
use crate::network::MapShape;
use crate::simd::{Dot, Inputs, IntegerKernel, IntegerSimd, Integers, LANES, QUAD, Weights, dispatch_integers};

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

/// A partial sum that its weights cannot give.
struct OutOfRange {
    set: usize,
    bundle: usize,
    slice: usize,
    phase: usize,
    bounds: Bounds,
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
    use super::super::conv::tests::array;
    use super::*;
    use crate::hardware::chip::Hardware;

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
}
