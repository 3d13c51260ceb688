//! Sums of products of digits whose bits lie in words, one bit a row: the number of ones in common, weighed by their places.

use super::simd::vectorized;

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

vectorized! {
    /// `out[slice][phase][pixel][lane]` for two pixels: inputs `[pixel][bit][word]`, weights `[bit][word][lane]`.
    fn sums(digits: Digits, inputs: &[u64], weights: &[[u64; LANES]], out: &mut [[[i32; LANES]; 2]]) {
        let Digits { words, slices, slice_bits, phases, phase_bits } = digits;
        let pixel = inputs.len() / 2;
        if (words, slice_bits, phase_bits) == (1, 1, 1) {
            for (index, out) in out.iter_mut().enumerate() {
                let (slice, phase) = (index / phases, index % phases);
                for (out, inputs) in out.iter_mut().zip(inputs.chunks_exact(pixel)) {
                    let input = inputs[phase];
                    for (out, weight) in out.iter_mut().zip(&weights[slice]) {
                        *out = (input & weight).count_ones() as i32;
                    }
                }
            }
            return;
        }
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
                        let mut ones = [0; LANES];
                        for (input, weights) in inputs.iter().zip(weights) {
                            for (ones, weight) in ones.iter_mut().zip(weights) {
                                *ones += (input & weight).count_ones() as i32;
                            }
                        }
                        for (sum, ones) in sums.iter_mut().zip(ones) {
                            *sum += sign * (ones << (weight_bit + input_bit));
                        }
                    }
                }
                *out = sums;
            }
        }
    }
}

/// Partial sums `out[slice][phase][pixel][lane]` of two pixels from inputs `[pixel][bit][word]` and weights `[bit][word][lane]`.
pub(crate) fn digit_sums(digits: Digits, inputs: &[u64], weights: &[[u64; LANES]], out: &mut [[[i32; LANES]; 2]]) {
    sums(digits, inputs, weights, out);
}
