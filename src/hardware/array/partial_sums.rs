//! Partial sums: how those of a convolution are distributed where its converters see them, and what converters would make of them.

use std::cell::Cell;

use serde::Serialize;

use super::adc::Conversion;
use crate::hardware::chip::{Converter, MAX_STEP};

/// Most bins of a histogram; sums of a wider range share bins.
const BINS: u64 = 1 << 16;
/// Steps that are compared are at most this part of themselves apart.
const STEP_GROWTH: i32 = 32;

/// How often each partial sum occurred in the weight slices of a convolution that have one kind of digit.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    /// Whether the digits have a sign, so that the converter's codes have one.
    signed: bool,
    /// The first sum of the first bin, a multiple of a bin's width.
    low: i32,
    /// A bin holds `2^shift` neighboring sums, which all count as the first of them.
    shift: u32,
    counts: Vec<Cell<u64>>,
    /// The least sum and the largest one, once there are some.
    extremes: Cell<Option<[i32; 2]>>,
}

impl Histogram {
    /// No sums yet; they will lie from `low` to `high`.
    pub(super) fn new(signed: bool, low: i32, high: i32) -> Self {
        let values = (i64::from(high) - i64::from(low) + 1) as u64;
        let shift = values.div_ceil(BINS).next_power_of_two().ilog2();
        let bins = (high >> shift) - (low >> shift) + 1;
        let counts = vec![Cell::new(0); bins as usize];
        Self { signed, low: low >> shift << shift, shift, counts, extremes: Cell::new(None) }
    }

    pub(super) fn count(&self, sum: i32) {
        let bin = &self.counts[((i64::from(sum) - i64::from(self.low)) >> self.shift) as usize];
        bin.set(bin.get() + 1);
        self.widen([sum, sum]);
    }

    pub(super) fn add(&self, other: &Self) {
        for (bin, other) in self.counts.iter().zip(&other.counts) {
            bin.set(bin.get() + other.get());
        }
        other.extremes.get().into_iter().for_each(|extremes| self.widen(extremes));
    }

    fn widen(&self, [low, high]: [i32; 2]) {
        let [least, largest] = self.extremes.get().unwrap_or([low, high]);
        self.extremes.set(Some([least.min(low), largest.max(high)]));
    }

    /// The sums that occurred, ascending, with how often.
    fn sums(&self) -> impl Iterator<Item = (i32, u64)> {
        let bins = self.counts.iter().enumerate().filter(|(_, count)| count.get() > 0);
        bins.map(move |(bin, count)| (self.low + ((bin as i32) << self.shift), count.get()))
    }

    fn conversions(&self) -> u64 {
        self.counts.iter().map(Cell::get).sum()
    }

    /// The least sum that at least `share` of the sums don't exceed.
    fn quantile(&self, share: f64) -> i32 {
        let rank = (self.conversions() as f64 * share).ceil() as u64;
        let mut below = 0;
        let found = self.sums().find(|(_, count)| {
            below += count;
            below >= rank
        });
        found.map_or(0, |(sum, _)| sum)
    }

    /// The sum of the squared differences between the sums and what a converter makes of them.
    fn squared_error(&self, converter: Converter) -> f64 {
        let conversion = Conversion::new(converter, self.signed);
        let error =
            |(sum, count): (i32, u64)| count as f64 * (f64::from(conversion.convert(sum)) - f64::from(sum)).powi(2);
        self.sums().map(error).sum()
    }

    fn describe(&self, layer: &str, converter: Converter) -> PartialSums {
        let conversions = self.conversions();
        let [least, largest] = self.extremes.get().unwrap_or_default();
        // Codes of slices without sign start at 0, those of the signed one are two's complement.
        let bits = |magnitude: i32| 32 - (magnitude.max(0) as u32).leading_zeros();
        let lossless_bits = match self.signed {
            true => bits(largest).max(bits(-1 - least)) + 1,
            false => bits(largest).max(1),
        };
        let lossy = (!converter.is_exact()).then(|| {
            let conversion = Conversion::new(converter, self.signed);
            let saturates = |sum: i32| conversion.saturates(sum);
            let saturated: u64 = self.sums().filter(|(sum, _)| saturates(*sum)).map(|(_, count)| count).sum();
            let share = |count: f64| count / conversions.max(1) as f64;
            ConversionLoss {
                saturated: share(saturated as f64),
                rms_error: share(self.squared_error(converter)).sqrt(),
                best_step: best_step([self], converter),
            }
        });
        PartialSums {
            layer: layer.into(),
            signed: self.signed,
            conversions,
            least,
            median: self.quantile(0.5),
            quantile_999: self.quantile(0.999),
            largest,
            lossless_bits,
            lossy,
        }
    }
}

/// The step with which a converter of as many bits makes the least squared error; none of converters without a step.
fn best_step<'a>(histograms: impl IntoIterator<Item = &'a Histogram> + Clone, converter: Converter) -> Option<i32> {
    let Converter::Bits { bits, .. } = converter else { return None };
    let widest =
        histograms.clone().into_iter().flat_map(|histogram| histogram.sums().map(|(sum, _)| sum.unsigned_abs()));
    // With a larger step the positive codes alone reach beyond every sum.
    let most = MAX_STEP.min((widest.max().unwrap_or(0) >> (bits - 1)) as i32 + 1);
    let steps = std::iter::successors(Some(1), |step| Some(step + (step / STEP_GROWTH).max(1)));
    let error = |step: i32| -> f64 {
        let histograms = histograms.clone().into_iter();
        histograms.map(|histogram| histogram.squared_error(Converter::Bits { bits, step })).sum()
    };
    let errors = steps.take_while(|step| *step <= most).map(|step| (step, error(step)));
    errors.reduce(|best, next| if next.1 < best.1 { next } else { best }).map(|(step, _)| step)
}

/// How the partial sums of a convolution are distributed over images: one of an access, output, weight slice and input phase, before noise is added to it.
/// More than 65,536 different ones share bins, and count as the first sum of theirs in all but the least and the largest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartialSums {
    /// The convolution.
    pub layer: String,
    /// Whether it is the weight slice whose digits have a sign.
    pub signed: bool,
    /// Partial sums.
    pub conversions: u64,
    /// The least one.
    pub least: i32,
    /// No more than half of them are larger.
    pub median: i32,
    /// No more than one in a thousand is larger.
    pub quantile_999: i32,
    /// The largest one.
    pub largest: i32,
    /// Bits of a converter with step 1 that would lose nothing.
    pub lossless_bits: u32,
    /// What the chip's converter loses; none if it is exact.
    pub lossy: Option<ConversionLoss>,
}

/// What a converter makes of partial sums.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConversionLoss {
    /// Share that lies beyond its codes.
    pub saturated: f64,
    /// Root of the mean squared difference between a sum and what comes out.
    pub rms_error: f64,
    /// The step that would make this least with as many bits; none for a converter without one.
    pub best_step: Option<i32>,
}

/// The partial sums of a network.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartialSumsOfNetwork {
    /// Convolution by convolution.
    pub layers: Vec<PartialSums>,
    /// The step that makes the least squared error over all partial sums with as many bits; none for a converter without one.
    pub best_step: Option<i32>,
}

impl PartialSumsOfNetwork {
    /// `histograms` are those of each convolution with its name.
    pub(super) fn new(histograms: &[(&str, Vec<Histogram>)], converter: Converter) -> Self {
        let all = || {
            histograms.iter().flat_map(|(name, histograms)| histograms.iter().map(move |histogram| (*name, histogram)))
        };
        let best_step = best_step(all().map(|(_, histogram)| histogram).collect::<Vec<_>>(), converter);
        Self { layers: all().map(|(name, histogram)| histogram.describe(name, converter)).collect(), best_step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(signed: bool, low: i32, high: i32, sums: &[(i32, u64)]) -> Histogram {
        let histogram = Histogram::new(signed, low, high);
        for (sum, count) in sums {
            (0..*count).for_each(|_| histogram.count(*sum));
        }
        histogram
    }

    #[test]
    fn a_histogram_tells_range_quantiles_and_losses() {
        let sums = [(0, 500), (1, 309), (31, 150), (32, 40), (40, 1)];
        let converter = Converter::Bits { bits: 5, step: 1 };
        let found = histogram(false, 0, 64, &sums).describe("conv", converter);
        assert_eq!((found.least, found.median, found.quantile_999, found.largest), (0, 0, 32, 40));
        assert_eq!((found.conversions, found.lossless_bits), (1000, 6));
        // 32 comes out as 31, 40 as 31.
        let lossy = found.lossy.unwrap();
        assert_eq!((lossy.saturated, lossy.best_step), (0.041, Some(1)));
        assert!((lossy.rms_error - ((40.0 + 81.0) / 1000.0f64).sqrt()).abs() < 1e-12);
        // Where large sums are frequent, saturating costs more than rounding.
        let large = histogram(false, 0, 64, &[(10, 10), (50, 10), (60, 10)]).describe("conv", converter);
        assert_eq!(large.lossy.unwrap().best_step, Some(2));
        assert_eq!(histogram(false, 0, 64, &sums).describe("conv", Converter::Ideal).lossy, None);
    }

    #[test]
    fn a_quantile_is_exceeded_by_the_rest() {
        let found = histogram(true, -64, 64, &[(-9, 700), (-3, 290), (-1, 10)]);
        assert_eq!([0.5, 0.7, 0.701, 0.99, 0.991].map(|share| found.quantile(share)), [-9, -9, -3, -3, -1]);
        let found = found.describe("conv", Converter::Ideal);
        assert_eq!((found.least, found.largest, found.quantile_999), (-9, -1, -1));
    }

    #[test]
    fn bits_without_loss_are_those_of_both_ends() {
        for (signed, sums, bits) in [
            (false, [(0, 1), (1, 1)], 1),
            (false, [(0, 1), (63, 1)], 6),
            (false, [(0, 1), (64, 1)], 7),
            (true, [(-8, 1), (7, 1)], 4),
            (true, [(-9, 1), (7, 1)], 5),
            (true, [(-8, 1), (8, 1)], 5),
            (true, [(0, 1), (1, 1)], 2),
        ] {
            let found = histogram(signed, -64, 64, &sums).describe("conv", Converter::Ideal);
            assert_eq!(found.lossless_bits, bits, "{sums:?}");
            let lossy =
                histogram(signed, -64, 64, &sums).describe("conv", Converter::Bits { bits: bits as u8, step: 1 });
            assert_eq!(lossy.lossy.unwrap().rms_error, 0.0, "{sums:?}");
        }
    }

    #[test]
    fn sums_of_a_wide_range_share_bins() {
        let wide = histogram(true, -1_000_000, 1_000_000, &[(-1_000_000, 1), (5, 3), (1_000_000, 1)]);
        assert!(wide.counts.len() as u64 <= BINS);
        let found = wide.describe("conv", Converter::Ideal);
        assert_eq!((found.conversions, found.least, found.median, found.largest), (5, -1_000_000, 0, 1_000_000));
        assert_eq!(found.lossless_bits, 21);
    }
}
