//! Sums of products of digits whose bits lie in words, one bit a row: the number of ones in common, weighed by their places.

/// Outputs that are computed side by side.
pub(crate) const LANES: usize = 16;

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

/// Rows side by side, a bit each.
pub(crate) type Word = u16;

/// Words whose ones a [`Ones`] counts.
const COUNTABLE: usize = 31;

/// Partial sums `out[slice][phase][pixel][lane]` of two pixels from inputs `[pixel][bit][word]` and weights `[bit][word][lane]`.
pub(crate) fn digit_sums(digits: Digits, inputs: &[Word], weights: &[[Word; LANES]], out: &mut [[[i32; LANES]; 2]]) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512bitalg") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: detected; a machine with the first has AVX2 too.
            return unsafe { x86::sums_avx512(digits, inputs, weights, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: detected.
            return unsafe { x86::sums_avx2(digits, inputs, weights, out) };
        }
    }
    // SAFETY: needs no instruction set.
    unsafe { sums::<Portable>(digits, inputs, weights, out) }
}

/// The numbers of ones that [`LANES`] words have had in common with inputs, at most [`COUNTABLE`] each.
///
/// # Safety
/// Methods may only be called where the instruction set of the implementor is available.
unsafe trait Ones: Copy {
    unsafe fn zero() -> Self;
    unsafe fn add(self, input: Word, weights: &[Word; LANES]) -> Self;
    unsafe fn counts(self) -> [u16; LANES];
}

/// # Safety
/// The instruction set of `O` is available.
#[inline(always)]
unsafe fn sums<O: Ones>(digits: Digits, inputs: &[Word], weights: &[[Word; LANES]], out: &mut [[[i32; LANES]; 2]]) {
    let Digits { words, slices, slice_bits, phases, phase_bits } = digits;
    if (slice_bits, phase_bits) == (1, 1) {
        macro_rules! of_words {
            ($($count:literal)*) => {
                match words {
                    $($count => {
                        // SAFETY: the caller's promise.
                        return unsafe { bit_sums::<O, $count>(phases, inputs, weights, out) };
                    })*
                    _ => {}
                }
            };
        }
        of_words!(1 2 3 4 8);
    }
    let pixel = inputs.len() / 2;
    for (index, out) in out.iter_mut().enumerate() {
        let (slice, phase) = (index / phases, index % phases);
        for (out, inputs) in out.iter_mut().zip(inputs.chunks_exact(pixel)) {
            let mut sums = [0; LANES];
            for weight_bit in 0..slice_bits {
                let bit = slice * slice_bits + weight_bit;
                let weights = &weights[bit * words..][..words];
                let sign = if slice_bits > 1 && bit + 1 == slices * slice_bits { -1 } else { 1 };
                for input_bit in 0..phase_bits {
                    let inputs = &inputs[(phase * phase_bits + input_bit) * words..][..words];
                    let factor = sign << (weight_bit + input_bit);
                    for (inputs, weights) in inputs.chunks(COUNTABLE).zip(weights.chunks(COUNTABLE)) {
                        // SAFETY: the caller's promise.
                        let counts = unsafe {
                            let mut ones = O::zero();
                            for (input, weights) in inputs.iter().zip(weights) {
                                ones = ones.add(*input, weights);
                            }
                            ones.counts()
                        };
                        for lane in 0..LANES {
                            sums[lane] += factor * i32::from(counts[lane]);
                        }
                    }
                }
            }
            *out = sums;
        }
    }
}

/// The same for digits of one bit, in so few words that their loop is better written out.
///
/// # Safety
/// The instruction set of `O` is available.
#[inline(always)]
unsafe fn bit_sums<O: Ones, const WORDS: usize>(
    phases: usize,
    inputs: &[Word],
    weights: &[[Word; LANES]],
    out: &mut [[[i32; LANES]; 2]],
) {
    const { assert!(WORDS <= COUNTABLE) };
    let (inputs, _) = inputs.as_chunks::<WORDS>();
    let (weights, _) = weights.as_chunks::<WORDS>();
    for (weights, out) in weights.iter().zip(out.chunks_exact_mut(phases)) {
        for (pixel, inputs) in inputs.chunks_exact(phases).enumerate() {
            for (input, out) in inputs.iter().zip(&mut *out) {
                // SAFETY: the caller's promise.
                let counts = unsafe {
                    let mut ones = O::zero();
                    for word in 0..WORDS {
                        ones = ones.add(input[word], &weights[word]);
                    }
                    ones.counts()
                };
                out[pixel] = counts.map(i32::from);
            }
        }
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
struct Portable([u16; LANES]);

// SAFETY: needs no instruction set.
unsafe impl Ones for Portable {
    unsafe fn zero() -> Self {
        Self([0; LANES])
    }

    unsafe fn add(mut self, input: Word, weights: &[Word; LANES]) -> Self {
        for (count, weight) in self.0.iter_mut().zip(weights) {
            *count += (input & weight).count_ones() as u16;
        }
        self
    }

    unsafe fn counts(self) -> [u16; LANES] {
        self.0
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Digits, LANES, Ones, Word, sums};

    /// # Safety
    /// The machine has the features.
    #[target_feature(enable = "avx2,avx512bitalg,avx512vl")]
    pub(super) unsafe fn sums_avx512(
        digits: Digits,
        inputs: &[Word],
        weights: &[[Word; LANES]],
        out: &mut [[[i32; LANES]; 2]],
    ) {
        // SAFETY: the caller's promise.
        unsafe { sums::<Counted>(digits, inputs, weights, out) }
    }

    /// # Safety
    /// The machine has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn sums_avx2(
        digits: Digits,
        inputs: &[Word],
        weights: &[[Word; LANES]],
        out: &mut [[[i32; LANES]; 2]],
    ) {
        // SAFETY: the caller's promise.
        unsafe { sums::<Looked>(digits, inputs, weights, out) }
    }

    /// The 16 words' bits in common, loaded.
    #[inline(always)]
    unsafe fn common(input: Word, weights: &[Word; LANES]) -> __m256i {
        // SAFETY: the caller has AVX2; the load reads the 32 bytes of `weights`, without alignment.
        unsafe { _mm256_and_si256(_mm256_set1_epi16(input as i16), _mm256_loadu_si256(weights.as_ptr().cast())) }
    }

    /// Counts of words, by an instruction of its own.
    #[derive(Clone, Copy)]
    struct Counted(__m256i);

    // SAFETY: the methods' contract is that the instruction set is available.
    unsafe impl Ones for Counted {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_setzero_si256() })
        }

        #[inline(always)]
        unsafe fn add(self, input: Word, weights: &[Word; LANES]) -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_add_epi16(self.0, _mm256_popcnt_epi16(common(input, weights))) })
        }

        #[inline(always)]
        unsafe fn counts(self) -> [u16; LANES] {
            // SAFETY: both types are 32 bytes of integers.
            unsafe { std::mem::transmute(self.0) }
        }
    }

    /// Counts of bytes, whose halves are looked up: at most 8 a word, so that 31 words fit.
    ///
    /// After Muła, Kurz, Lemire, *Faster population counts using AVX2 instructions*, The Computer Journal 2018.
    #[derive(Clone, Copy)]
    struct Looked(__m256i);

    // SAFETY: the methods' contract is that the instruction set is available.
    unsafe impl Ones for Looked {
        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the trait's contract.
            Self(unsafe { _mm256_setzero_si256() })
        }

        #[inline(always)]
        unsafe fn add(self, input: Word, weights: &[Word; LANES]) -> Self {
            // SAFETY: the trait's contract.
            unsafe {
                let ones = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
                let ones = _mm256_broadcastsi128_si256(ones);
                let half = _mm256_set1_epi8(15);
                let common = common(input, weights);
                let low = _mm256_shuffle_epi8(ones, _mm256_and_si256(common, half));
                let high = _mm256_shuffle_epi8(ones, _mm256_and_si256(_mm256_srli_epi16::<4>(common), half));
                Self(_mm256_add_epi8(self.0, _mm256_add_epi8(low, high)))
            }
        }

        #[inline(always)]
        unsafe fn counts(self) -> [u16; LANES] {
            // SAFETY: the trait's contract; both types are 32 bytes of integers.
            unsafe {
                let low = _mm256_and_si256(self.0, _mm256_set1_epi16(0xff));
                std::mem::transmute(_mm256_add_epi16(low, _mm256_srli_epi16::<8>(self.0)))
            }
        }
    }

    #[cfg(test)]
    pub(super) fn run_all(
        digits: Digits,
        inputs: &[Word],
        weights: &[[Word; LANES]],
        out: &mut [[[i32; LANES]; 2]],
    ) -> Vec<Vec<[[i32; LANES]; 2]>> {
        let mut all = Vec::new();
        if is_x86_feature_detected!("avx2") {
            // SAFETY: detected.
            unsafe { sums_avx2(digits, inputs, weights, out) };
            all.push(out.to_vec());
        }
        if is_x86_feature_detected!("avx512bitalg") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: detected.
            unsafe { sums_avx512(digits, inputs, weights, out) };
            all.push(out.to_vec());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Row by row, with numbers instead of bits.
        #[test]
        fn every_vector_unit_adds_up_the_products_of_digits(
            words in prop::sample::select(vec![1, 2, 4, 31, 32, 70]),
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
            let mut out = vec![[[0; LANES]; 2]; slices * phases];
            digit_sums(digits, &inputs, &weights, &mut out);
            prop_assert_eq!(&out, &expected);
            // SAFETY: needs no instruction set.
            unsafe { sums::<Portable>(digits, &inputs, &weights, &mut out) };
            prop_assert_eq!(&out, &expected);
            #[cfg(target_arch = "x86_64")]
            for found in x86::run_all(digits, &inputs, &weights, &mut out) {
                prop_assert_eq!(&found, &expected);
            }
        }
    }
}
