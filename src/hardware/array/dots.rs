//! Accesses whose products are bytes: one dot product for each weight slice, input phase, pixel and filter.

use super::accesses::{Access, Accumulators, OutOfRange, PIXELS, Place, WordLines};
use super::conv::{ArrayConv, ArraySet, Bounds};
use super::noise::ConversionNoise;
use super::partial_sums::Histogram;
use crate::simd::{Dot, IntegerSimd, Integers, LANES};

/// What happens to partial sums before they are converted.
pub(super) trait BeforeConversion: Copy {
    /// Takes the partial sums of conversion `number` of a place.
    fn take<S: IntegerSimd>(self, simd: S, conv: &ArrayConv, place: &Place, number: usize, sums: &mut [S::I32; PIXELS]);
}

/// Nothing.
#[derive(Clone, Copy)]
pub(super) struct Noiseless;

impl BeforeConversion for Noiseless {
    #[inline(always)]
    fn take<S: IntegerSimd>(self, _: S, _: &ArrayConv, _: &Place, _: usize, _: &mut [S::I32; PIXELS]) {}
}

/// Noise is added.
#[derive(Clone, Copy)]
pub(super) struct Noisy<'a> {
    pub(super) noise: &'a ConversionNoise,
    pub(super) image: u64,
}

impl BeforeConversion for Noisy<'_> {
    #[inline(always)]
    fn take<S: IntegerSimd>(self, simd: S, _: &ArrayConv, place: &Place, number: usize, sums: &mut [S::I32; PIXELS]) {
        let stream = self.noise.stream(self.image, place.number, place.vector);
        for (pair, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let noise = self.noise.pair(stream, (place.first / 2 + pair) as u32, number as u32);
            for (sums, noise) in sums.iter_mut().zip(noise) {
                *sums = sums.add_product(simd.lanes(noise), 1);
            }
        }
    }
}

/// They are counted, before anything else happens.
#[derive(Clone, Copy)]
pub(super) struct Tallied<'a, T> {
    pub(super) then: T,
    pub(super) histograms: &'a [Histogram],
}

impl<T: BeforeConversion> BeforeConversion for Tallied<'_, T> {
    #[inline(always)]
    fn take<S: IntegerSimd>(
        self,
        simd: S,
        conv: &ArrayConv,
        place: &Place,
        number: usize,
        sums: &mut [S::I32; PIXELS],
    ) {
        let signed = conv.slices[conv.numbers.slice(number)].signed;
        // Slices without sign come first.
        let histogram = if signed { self.histograms.last() } else { self.histograms.first() };
        let histogram = histogram.expect("a histogram for each kind of digit");
        let lanes = conv.lanes(place.number, place.vector);
        for sums in sums.iter().take(place.pixels) {
            sums.to_lanes()[..lanes].iter().for_each(|sum| histogram.count(*sum));
        }
        self.then.take(simd, conv, place, number, sums);
    }
}

/// Dot products of bytes.
#[derive(Clone, Copy)]
pub(super) struct Dots<T> {
    /// Whether partial sums are small enough for [`IntegerSimd::Narrow`].
    pub(super) narrow: bool,
    pub(super) before: T,
}

impl<T: BeforeConversion> Access for Dots<T> {
    #[inline(always)]
    fn accumulate<S: IntegerSimd>(self, simd: S, conv: &ArrayConv, place: Place, planes: &[u8]) -> Accumulators {
        let Place { number: set, set: ArraySet { bundles, weights: cells }, vector, bases, .. } = place;
        let mut totals = [simd.lanes([0; LANES]); PIXELS];
        for (index, bundle) in bundles.iter().enumerate() {
            let sections = bundle.sections.len();
            for (slice, digits) in conv.slices.iter().enumerate() {
                let weights = bundle.weights + conv.weights.start(sections, vector, slice);
                let weights = &cells[weights..][..conv.weights.slice(sections)];
                let bounds = bundle.bounds[slice];
                for (phase, plane) in planes.chunks_exact(conv.plane).enumerate() {
                    let word_lines = WordLines { sections: &bundle.sections, plane, bases, block: conv.inputs.block };
                    let mut partial = match self.narrow {
                        true => sums(word_lines.products(simd.narrow(), weights)),
                        false => sums(word_lines.products(simd.lanes([0; LANES]), weights)),
                    };
                    let factor = conv.place(*digits, phase);
                    let Bounds { low, high } = bounds;
                    if partial.iter().any(|sums| sums.beyond(low, high)) {
                        return Err(OutOfRange { set, bundle: index, slice, phase, bounds });
                    }
                    self.before.take(simd, conv, &place, conv.numbers.of(index, slice, phase), &mut partial);
                    digits.conversion.apply(simd, &mut partial);
                    for (total, sums) in totals.iter_mut().zip(partial) {
                        *total = total.add_product(sums, factor);
                    }
                }
            }
        }
        Ok(totals.map(Integers::to_lanes))
    }
}

/// The sums of each pixel's dot products.
#[inline(always)]
fn sums<D: Dot>(products: [D; PIXELS]) -> [D::Sums; PIXELS] {
    let mut sums = [products[0].sums(); PIXELS];
    // A loop instead of `map`, which is compiled apart and without the vector unit.
    for (sums, products) in sums.iter_mut().zip(products) {
        *sums = products.sums();
    }
    sums
}
