//! Accesses whose inputs and weights come bit by bit: a partial sum is the number of word lines where both are one.
//!
//! Counts of four weight slices lie side by side in bytes. A converter is a table then, and slices are weighted and added up in one step.

use super::accesses::{Access, Accumulators, OutOfRange, PIXELS, Place, WordLines};
use super::adc::CountConversion;
use super::conv::ArrayConv;
use super::partial_sums::Histogram;
use crate::simd::{Counts as _, DIGITS, IntegerSimd, Integers};

/// Counts of ones.
#[derive(Clone, Copy)]
pub(super) struct Counts<'a> {
    pub(super) conversion: &'a CountConversion,
    /// What counts are tallied in.
    pub(super) histograms: Option<&'a [Histogram]>,
}

impl Access for Counts<'_> {
    #[inline(always)]
    fn accumulate<S: IntegerSimd>(self, simd: S, conv: &ArrayConv, place: Place, planes: &[u8]) -> Accumulators {
        let CountConversion { table, places } = self.conversion;
        let zero = simd.counts();
        let mut totals = [zero.sums(); PIXELS];
        for (phase, plane) in planes.chunks_exact(conv.plane).enumerate() {
            let mut sums = [zero.sums(); PIXELS];
            for (index, bundle) in place.set.bundles.iter().enumerate() {
                let sections = bundle.sections.len();
                for (slice, places) in (0..).step_by(DIGITS).zip(places) {
                    let start = bundle.weights + conv.weights.start(sections, place.vector, slice);
                    let weights = &place.set.weights[start..][..conv.weights.slice(sections)];
                    let word_lines =
                        WordLines { sections: &bundle.sections, plane, bases: place.bases, block: conv.inputs.block };
                    let counts = word_lines.products(zero, weights);
                    let slices = slice..conv.slices.len().min(slice + DIGITS);
                    let mut largest = [0; DIGITS];
                    for (largest, bounds) in largest.iter_mut().zip(&bundle.bounds[slices.clone()]) {
                        *largest = bounds.high as u8;
                    }
                    let of_all = counts.into_iter().fold(zero, S::Counts::max);
                    if of_all.beyond(largest) {
                        let beyond = |digit: usize| {
                            of_all
                                .to_bytes()
                                .into_iter()
                                .skip(digit)
                                .step_by(DIGITS)
                                .any(|count| count > largest[digit])
                        };
                        let slice = slices.clone().find(|found| beyond(found - slice)).unwrap_or(slice);
                        let bounds = bundle.bounds[slice];
                        return Err(OutOfRange { set: place.number, bundle: index, slice, phase, bounds });
                    }
                    if let Some(histogram) = self.histograms.and_then(<[_]>::first) {
                        let lanes = conv.lanes(place.number, place.vector);
                        for counts in counts.iter().take(place.pixels) {
                            for digits in &counts.to_bytes().as_chunks::<DIGITS>().0[..lanes] {
                                digits[..slices.len()].iter().for_each(|count| histogram.count((*count).into()));
                            }
                        }
                    }
                    for (sums, counts) in sums.iter_mut().zip(counts) {
                        *sums = counts.lookup(table).weighted(*sums, *places);
                    }
                }
            }
            for (total, sums) in totals.iter_mut().zip(sums) {
                *total = total.add_product(sums, 1 << phase);
            }
        }
        Ok(totals.map(Integers::to_lanes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::accesses::Counters;
    use super::super::conv::tests::mapped;
    use super::super::conv::{Bounds, Products};
    use super::*;
    use crate::hardware::chip::{Converter, Hardware};
    use crate::simd::TABLE;

    /// A chip that takes weights and inputs bit by bit.
    fn bit_by_bit(rows_on: usize, converter: Converter) -> Hardware {
        Hardware { rows_on, converter, weight_slice_bits: 1, input_bits_per_cycle: 1, ..Hardware::mars() }
    }

    fn run(array: &ArrayConv, input: &[u8]) -> crate::Result<Vec<i32>> {
        let mut sums = Vec::new();
        array.run(0, input, &mut array.empty_planes(), &mut sums, &mut Counters::default(), None)?;
        Ok(sums)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn sums_are_those_of_each_conversion_by_itself(
            (channels, weights, input) in (1usize..40).prop_flat_map(|channels| {
                let weights = prop::collection::vec(any::<i8>(), 10 * channels * 9);
                (Just(channels), weights, prop::collection::vec(any::<u8>(), channels * 9))
            }),
            rows_on in prop::sample::select(vec![16, 64, 128, 240]),
            converter in prop::sample::select(vec![
                Converter::Ideal,
                Converter::Clipping { range: 20 },
                Converter::Bits { bits: 5, step: 2 },
                Converter::Bits { bits: 3, step: 5 },
            ]),
        ) {
            let hardware = bit_by_bit(rows_on, converter);
            let (mapping, array) = mapped(channels, 3, &hardware, weights.clone()).unwrap();
            // Counts above the table's end are all the same behind a converter, or bytes are multiplied instead.
            let counted = matches!(array.products, Products::Counts(_));
            prop_assert_eq!(counted, rows_on < TABLE || !matches!(converter, Converter::Ideal));
            let expected: Vec<i32> = (0..10).map(|filter| {
                let mut sum = 0;
                for groups in mapping.sets[0].groups.chunks(mapping.sections) {
                    for (slice, phase) in (0..8).flat_map(|slice| (0..8).map(move |phase| (slice, phase))) {
                        let cells = mapping.cells(0, groups).filter(|cell| cell.filter == filter);
                        let count = cells.filter(|cell| {
                            let [channel, tap] = [cell.weight / 9 % channels, cell.weight % 9];
                            weights[cell.weight] >> slice & 1 == 1 && input[tap * channels + channel] >> phase & 1 == 1
                        });
                        let converted = array.slices[0].conversion.convert(count.count() as i32);
                        sum += converted * array.place(array.slices[slice], phase);
                    }
                }
                sum
            }).collect();
            prop_assert_eq!(run(&array, &input).unwrap(), expected);
        }
    }

    #[test]
    fn a_count_that_its_weights_cannot_give_is_named() {
        let hardware = bit_by_bit(64, Converter::Ideal);
        let (_, mut array) = mapped(256, 1, &hardware, vec![-1; 2560]).unwrap();
        assert_eq!(run(&array, &[255; 256]).unwrap(), [-255 * 256; 10]);
        array.sets[0].bundles[2].bounds[6] = Bounds { low: 0, high: 63 };
        assert_eq!(
            run(&array, &[255; 256]).unwrap_err().to_string(),
            "layer `conv`: a partial sum of access 4 of filter set 0 (weight slice 6, input phase 0) is not from 0 to 63"
        );
    }
}
