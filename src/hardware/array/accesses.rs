//! The accesses of a convolution, pixel by pixel and filter set by filter set.

use super::conv::{ArrayConv, ArraySet, Bounds};
use crate::simd::{AddRows, Inputs, IntegerKernel, IntegerSimd, LANES, Weights, dispatch_integers};

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
pub(super) struct OutOfRange {
    pub(super) set: usize,
    pub(super) bundle: usize,
    pub(super) slice: usize,
    pub(super) phase: usize,
    pub(super) bounds: Bounds,
}

/// Output pixels that share a load of the weights.
pub(super) const PIXELS: usize = 8;

/// What accesses compute together: some output pixels of one vector of a filter set.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// Number of the filter set.
    pub(super) number: usize,
    pub(super) set: &'a ArraySet,
    /// The vector of its filters.
    pub(super) vector: usize,
    /// The first pixel, and how many there are.
    pub(super) first: usize,
    pub(super) pixels: usize,
    /// Where the windows of the output pixels start; the last one stands in for those that are missing.
    pub(super) bases: [usize; PIXELS],
}

/// The accumulators of a place, or the partial sum that is out of its range.
pub(super) type Accumulators = Result<[[i32; LANES]; PIXELS], OutOfRange>;

/// What the word lines of a bundle take for some output pixels in one input phase.
#[derive(Clone, Copy)]
pub(super) struct WordLines<'a> {
    /// Where each section's inputs start, from the window's start.
    pub(super) sections: &'a [usize],
    pub(super) plane: &'a [u8],
    /// Where the windows start.
    pub(super) bases: [usize; PIXELS],
    /// Bytes of a section.
    pub(super) block: usize,
}

impl WordLines<'_> {
    /// The products of all rows with weights `[section][register]`, added up for each pixel.
    #[inline(always)]
    pub(super) fn products<R: AddRows>(self, zero: R, weights: &[Weights]) -> [R; PIXELS] {
        let Self { sections, plane, bases, block } = self;
        let mut sums = [zero; PIXELS];
        for (section, weights) in sections.iter().zip(weights.chunks_exact(block / size_of::<Inputs>())) {
            let mut inputs = [&plane[..block]; PIXELS];
            for (inputs, base) in inputs.iter_mut().zip(bases) {
                *inputs = &plane[base + section..][..block];
            }
            for (register, weights) in weights.iter().enumerate() {
                for (sums, inputs) in sums.iter_mut().zip(inputs) {
                    let inputs = inputs[register * size_of::<Inputs>()..][..size_of::<Inputs>()].try_into();
                    *sums = sums.add_rows(weights, inputs.expect("a register's inputs"));
                }
            }
        }
        sums
    }
}

/// How accesses form, convert and accumulate partial sums.
pub(super) trait Access: Copy {
    /// Makes all accesses of a place and gives the accumulators of its filters. Must be `#[inline(always)]`, as [`IntegerKernel::run`] is.
    fn accumulate<S: IntegerSimd>(self, simd: S, conv: &ArrayConv, place: Place, planes: &[u8]) -> Accumulators;
}

struct Accumulation<'a, A> {
    conv: &'a ArrayConv,
    planes: &'a [u8],
    /// `[pixel][filter]`.
    sums: &'a mut [i32],
    counters: &'a mut Counters,
    access: A,
}

impl<A: Access> IntegerKernel for Accumulation<'_, A> {
    type Output = Result<(), OutOfRange>;

    #[inline(always)]
    fn run<S: IntegerSimd>(self, simd: S) -> Self::Output {
        let conv = self.conv;
        let filters = conv.shape.filters();
        for (number, set) in conv.sets.iter().enumerate() {
            for vector in 0..conv.set_filters(number).div_ceil(LANES) {
                let filter = number * conv.group.filters + vector * LANES;
                let real = conv.lanes(number, vector);
                for (first, windows) in (0..).step_by(PIXELS).zip(conv.windows.chunks(PIXELS)) {
                    let pixels = windows.len();
                    let bases = std::array::from_fn(|pixel| windows[pixel.min(pixels - 1)]);
                    let place = Place { number, set, vector, first, pixels, bases };
                    let totals = self.access.accumulate(simd, conv, place, self.planes)?;
                    for (pixel, totals) in totals.iter().enumerate().take(pixels) {
                        self.sums[(first + pixel) * filters + filter..][..real].copy_from_slice(&totals[..real]);
                    }
                    if vector == 0 {
                        conv.count(set, pixels as u64, self.counters);
                    }
                }
            }
        }
        Ok(())
    }
}

impl ArrayConv {
    /// Makes all accesses of all output pixels: their accumulators `[pixel][filter]`.
    pub(super) fn accumulate(
        &self,
        planes: &[u8],
        sums: &mut [i32],
        counters: &mut Counters,
        access: impl Access,
    ) -> Result<(), OutOfRange> {
        dispatch_integers(Accumulation { conv: self, planes, sums, counters, access })
    }

    fn count(&self, set: &ArraySet, pixels: u64, counters: &mut Counters) {
        let accesses = (set.bundles.len() * self.parts) as u64 * pixels;
        let sections: usize = set.bundles.iter().map(|bundle| bundle.sections.len()).sum();
        counters.accesses += accesses;
        counters.conversions += accesses * (self.outputs * self.slices.len() * self.phases) as u64;
        counters.group_pixels += sections as u64 * pixels;
    }
}
