//! Bit-serial dot products: operands are bit planes, packed in words of one bit a row; a sum of products is
//! `sum of popcount(input & weight) << (input bit + weight bit)`.

use crate::simd::{COUNTABLE, IntegerKernel, IntegerSimd, LANES, Popcounts, Word, dispatch_integers};

/// How numbers are cut into digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digits {
    /// Words that hold the rows.
    pub words: usize,
    /// Digits of a weight and bits of each; where digits have several bits, the highest one of all counts negatively.
    pub slices: usize,
    pub slice_bits: usize,
    /// Digits of an input and bits of each.
    pub phases: usize,
    pub phase_bits: usize,
}

/// Partial sums of two pixels, a lane for each output.
type Pair = [[i32; LANES]; 2];

/// Partial sums `out[slice][phase]` of two pixels from inputs `[pixel][bit][word]` and weights `[bit][word][lane]`.
pub(crate) fn digit_sums(digits: Digits, inputs: &[Word], weights: &[[Word; LANES]], out: &mut [Pair]) {
    dispatch_integers(DigitSums { digits, inputs, weights, out });
}

struct DigitSums<'a> {
    digits: Digits,
    inputs: &'a [Word],
    weights: &'a [[Word; LANES]],
    out: &'a mut [Pair],
}

impl IntegerKernel for DigitSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: IntegerSimd>(self, simd: S) {
        let Digits { words, slice_bits, phase_bits, .. } = self.digits;
        match (slice_bits, phase_bits, words) {
            (1, 1, 1) => self.of_bits::<S, 1>(simd),
            (1, 1, 2) => self.of_bits::<S, 2>(simd),
            (1, 1, 3) => self.of_bits::<S, 3>(simd),
            (1, 1, 4) => self.of_bits::<S, 4>(simd),
            (1, 1, 8) => self.of_bits::<S, 8>(simd),
            _ => self.of_digits(simd),
        }
    }
}

impl DigitSums<'_> {
    #[inline(always)]
    fn of_digits<S: IntegerSimd>(self, simd: S) {
        let Digits { words, slices, slice_bits, phases, phase_bits } = self.digits;
        let pixel = self.inputs.len() / 2;
        for (index, out) in self.out.iter_mut().enumerate() {
            let (slice, phase) = (index / phases, index % phases);
            for (out, inputs) in out.iter_mut().zip(self.inputs.chunks_exact(pixel)) {
                let mut sums = [0; LANES];
                for weight_bit in 0..slice_bits {
                    let bit = slice * slice_bits + weight_bit;
                    let weights = &self.weights[bit * words..][..words];
                    let sign = if slice_bits > 1 && bit + 1 == slices * slice_bits { -1 } else { 1 };
                    for input_bit in 0..phase_bits {
                        let inputs = &inputs[(phase * phase_bits + input_bit) * words..][..words];
                        let factor = sign << (weight_bit + input_bit);
                        for (inputs, weights) in inputs.chunks(COUNTABLE).zip(weights.chunks(COUNTABLE)) {
                            let mut popcounts = simd.popcounts();
                            for (input, weights) in inputs.iter().zip(weights) {
                                popcounts = popcounts.add(*input, weights);
                            }
                            for (sum, count) in sums.iter_mut().zip(popcounts.counts()) {
                                *sum += factor * i32::from(count);
                            }
                        }
                    }
                }
                *out = sums;
            }
        }
    }

    /// The same for digits of one bit, in so few words that their loop is better written out.
    #[inline(always)]
    fn of_bits<S: IntegerSimd, const WORDS: usize>(self, simd: S) {
        const { assert!(WORDS <= COUNTABLE) };
        let phases = self.digits.phases;
        let (inputs, _) = self.inputs.as_chunks::<WORDS>();
        let (weights, _) = self.weights.as_chunks::<WORDS>();
        for (weights, out) in weights.iter().zip(self.out.chunks_exact_mut(phases)) {
            for (pixel, inputs) in inputs.chunks_exact(phases).enumerate() {
                for (input, out) in inputs.iter().zip(&mut *out) {
                    let mut popcounts = simd.popcounts();
                    for word in 0..WORDS {
                        popcounts = popcounts.add(input[word], &weights[word]);
                    }
                    out[pixel] = popcounts.counts().map(i32::from);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::simd::on_each_isa;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Row by row, with numbers instead of bits.
        #[test]
        fn every_instruction_set_adds_up_the_products_of_digits(
            words in prop::sample::select(vec![1, 2, 3, 4, 8, 31, 32, 70]),
            [slices, slice_bits, phases, phase_bits] in [1usize..=3, 1usize..=3, 1usize..=3, 1usize..=2],
            full in any::<bool>(),
            seed in any::<u64>(),
        ) {
            let digits = Digits { words, slices, slice_bits, phases, phase_bits };
            let mut state = seed;
            let mut word = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if full { Word::MAX } else { (state >> 40) as Word }
            };
            let inputs: Vec<Word> = (0..2 * phases * phase_bits * words).map(|_| word()).collect();
            let weights: Vec<[Word; LANES]> =
                (0..slices * slice_bits * words).map(|_| std::array::from_fn(|_| word())).collect();
            let bit = |word: Word, row: usize| i32::from(word >> (row % 16) & 1);
            let mut expected = vec![[[0; LANES]; 2]; slices * phases];
            for (index, expected) in expected.iter_mut().enumerate() {
                let [slice, phase] = [index / phases, index % phases];
                for (pixel, expected) in expected.iter_mut().enumerate() {
                    for (lane, expected) in expected.iter_mut().enumerate() {
                        for row in 0..16 * words {
                            let input: i32 = (0..phase_bits)
                                .map(|b| bit(inputs[((pixel * phases + phase) * phase_bits + b) * words + row / 16], row) << b)
                                .sum();
                            let mut weight: i32 = (0..slice_bits)
                                .map(|b| bit(weights[(slice * slice_bits + b) * words + row / 16][lane], row) << b)
                                .sum();
                            if slice_bits > 1 && slice + 1 == slices && weight >> (slice_bits - 1) == 1 {
                                weight -= 1 << slice_bits;
                            }
                            *expected += input * weight;
                        }
                    }
                }
            }
            for (isa, found) in on_each_isa(|| {
                let mut out = vec![[[0; LANES]; 2]; slices * phases];
                digit_sums(digits, &inputs, &weights, &mut out);
                out
            }) {
                prop_assert_eq!(&found, &expected, "{:?}", isa);
            }
        }
    }
}
