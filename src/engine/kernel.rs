//! Convolution on plain slices: one picture at a time, lanes run over output channels.
//!
//! Two kernels do all the work. [`correlate`] computes `out[p][m] = sum_k,t in[k][base(p) + offset(t)] * w[k][t][m]`
//! and serves the forward pass and the input gradient (with the kernel turned round, once for each phase of the stride);
//! [`accumulate`] computes `w[k][t][m] += sum_p in[k][base(p) + offset(t)] * out[p][m]`, the weight gradient. A tile of
//! outputs stays in registers while the sum runs; its size follows the instruction set.
//!
//! Sums run in a fixed order, so that results don't depend on the number of threads.

use super::simd::{Portable, Vector};

/// Where a pass reads and writes: a grid of `rows` x `cols` pixels over planes of inputs.
pub(super) struct Pass<'a> {
    /// Input planes, `channels * plane` floats.
    pub input: &'a [f32],
    /// Distance between two channels' planes.
    pub plane: usize,
    /// Input channels.
    pub channels: usize,
    /// Offset of each kernel position from a pixel's base.
    pub offsets: &'a [usize],
    /// Output rows.
    pub rows: usize,
    /// Output pixels a row.
    pub cols: usize,
    /// Distance between the bases of two rows.
    pub row_step: usize,
    /// Distance between the bases of two pixels.
    pub col_step: usize,
}

impl Pass<'_> {
    fn base(&self, pixel: usize) -> usize {
        pixel / self.cols * self.row_step + pixel % self.cols * self.col_step
    }

    fn pixels(&self) -> usize {
        self.rows * self.cols
    }

    /// Panics unless every read of the pass is inside `input`: what the kernels' unchecked reads rely on.
    fn check(&self) {
        let last_base = (self.rows - 1) * self.row_step + (self.cols - 1) * self.col_step;
        let last_offset = self.offsets.iter().max().copied().unwrap_or(0);
        assert!((self.channels - 1) * self.plane + last_base + last_offset < self.input.len());
    }
}

/// Instruction set that the kernels run with.
#[derive(Clone, Copy)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

fn isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return Isa::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Isa::Avx2;
        }
    }
    Isa::Portable
}

/// Output channels that one register tile covers for a layer of `channels` outputs; packed weights are padded to it.
pub(super) fn tile_width(channels: usize) -> usize {
    let lanes = match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => 16,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 8,
        Isa::Portable => 8,
    };
    if channels > lanes { 2 * lanes } else { lanes }
}

/// `out[p * width + m] = sum` over channels and kernel positions for one block of `width` output channels.
///
/// `weights` are packed `[channels][offsets][width]`, `out` is `[pixels][width]`; `width` comes from [`tile_width`].
pub(super) fn correlate(pass: &Pass, weights: &[f32], width: usize, out: &mut [f32]) {
    pass.check();
    assert_eq!(weights.len(), pass.channels * pass.offsets.len() * width);
    assert_eq!(out.len(), pass.pixels() * width);
    match isa() {
        // SAFETY: the instruction set was detected; sizes and reads were checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::correlate(pass, weights, width, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::correlate(pass, weights, width, out) },
        // SAFETY: sizes and reads were checked above.
        Isa::Portable => unsafe { run_correlate::<Portable, 4, 6>(pass, weights, width, out) },
    }
}

/// `weights[k][t][m] += sum` over pixels of `input * out`: layouts as in [`correlate`].
pub(super) fn accumulate(pass: &Pass, out: &[f32], width: usize, weights: &mut [f32]) {
    pass.check();
    assert_eq!(weights.len(), pass.channels * pass.offsets.len() * width);
    assert_eq!(out.len(), pass.pixels() * width);
    match isa() {
        // SAFETY: the instruction set was detected; sizes and reads were checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::accumulate(pass, out, width, weights) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::accumulate(pass, out, width, weights) },
        // SAFETY: sizes and reads were checked above.
        Isa::Portable => unsafe { run_accumulate::<Portable, 4, 6>(pass, out, width, weights) },
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($module:ident, $features:literal, $vector:ty, $wide:literal, $narrow:literal) => {
        mod $module {
            use super::*;

            #[target_feature(enable = $features)]
            pub(super) unsafe fn correlate(pass: &Pass, weights: &[f32], width: usize, out: &mut [f32]) {
                // SAFETY: the caller checked sizes and instruction set.
                unsafe { run_correlate::<$vector, $wide, $narrow>(pass, weights, width, out) }
            }

            #[target_feature(enable = $features)]
            pub(super) unsafe fn accumulate(pass: &Pass, out: &[f32], width: usize, weights: &mut [f32]) {
                // SAFETY: the caller checked sizes and instruction set.
                unsafe { run_accumulate::<$vector, $wide, $narrow>(pass, out, width, weights) }
            }
        }
    };
}

// Tile heights leave room for the operands: 32 registers with AVX-512, 16 with AVX2.
#[cfg(target_arch = "x86_64")]
compiled_for!(avx512, "avx512f", std::arch::x86_64::__m512, 12, 12);
#[cfg(target_arch = "x86_64")]
compiled_for!(avx2, "avx2,fma", std::arch::x86_64::__m256, 6, 8);

/// # Safety
/// Reads of `pass`, `weights` and `out` were checked; the instruction set of `V` is available.
#[inline(always)]
unsafe fn run_correlate<V: Vector, const WIDE: usize, const NARROW: usize>(
    pass: &Pass,
    weights: &[f32],
    width: usize,
    out: &mut [f32],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        if width == V::LANES {
            correlate_tiles::<V, NARROW, 1>(pass, weights, out);
        } else {
            correlate_tiles::<V, WIDE, 2>(pass, weights, out);
        }
    }
}

/// # Safety
/// As [`run_correlate`].
#[inline(always)]
unsafe fn correlate_tiles<V: Vector, const PIXELS: usize, const VECTORS: usize>(
    pass: &Pass,
    weights: &[f32],
    out: &mut [f32],
) {
    let pixels = pass.pixels();
    let full = pixels / PIXELS * PIXELS;
    for start in (0..full).step_by(PIXELS) {
        // SAFETY: passed on from the caller; `start + PIXELS <= pixels`.
        unsafe { correlate_tile::<V, PIXELS, VECTORS>(pass, weights, start, out) };
    }
    for start in full..pixels {
        // SAFETY: as above.
        unsafe { correlate_tile::<V, 1, VECTORS>(pass, weights, start, out) };
    }
}

/// # Safety
/// As [`run_correlate`], and `start + PIXELS` is at most the pass's pixels.
#[inline(always)]
unsafe fn correlate_tile<V: Vector, const PIXELS: usize, const VECTORS: usize>(
    pass: &Pass,
    weights: &[f32],
    start: usize,
    out: &mut [f32],
) {
    let width = V::LANES * VECTORS;
    let bases: [usize; PIXELS] = std::array::from_fn(|i| pass.base(start + i));
    // SAFETY: every read is `channel * plane + offset + base`, checked by `Pass::check`; weights and out by the caller.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; PIXELS];
        let mut weight = weights.as_ptr();
        for channel in 0..pass.channels {
            let plane = pass.input.as_ptr().add(channel * pass.plane);
            for &offset in pass.offsets {
                let input = plane.add(offset);
                let w: [V; VECTORS] = std::array::from_fn(|v| V::load(weight.add(v * V::LANES)));
                for (sum, &base) in sums.iter_mut().zip(&bases) {
                    let x = V::splat(input.add(base));
                    for (sum, &w) in sum.iter_mut().zip(&w) {
                        *sum = sum.fma(x, w);
                    }
                }
                weight = weight.add(width);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            for (v, sum) in sum.iter().enumerate() {
                sum.store(out.as_mut_ptr().add((start + i) * width + v * V::LANES));
            }
        }
    }
}

/// # Safety
/// As [`run_correlate`].
#[inline(always)]
unsafe fn run_accumulate<V: Vector, const WIDE: usize, const NARROW: usize>(
    pass: &Pass,
    out: &[f32],
    width: usize,
    weights: &mut [f32],
) {
    // SAFETY: passed on from the caller.
    unsafe {
        if width == V::LANES {
            accumulate_tiles::<V, NARROW, 1>(pass, out, weights);
        } else {
            accumulate_tiles::<V, WIDE, 2>(pass, out, weights);
        }
    }
}

/// # Safety
/// As [`run_correlate`].
#[inline(always)]
unsafe fn accumulate_tiles<V: Vector, const ROWS: usize, const VECTORS: usize>(
    pass: &Pass,
    out: &[f32],
    weights: &mut [f32],
) {
    let rows = pass.channels * pass.offsets.len();
    let full = rows / ROWS * ROWS;
    for start in (0..full).step_by(ROWS) {
        // SAFETY: passed on from the caller; `start + ROWS <= rows`.
        unsafe { accumulate_tile::<V, ROWS, VECTORS>(pass, out, start, weights) };
    }
    for start in full..rows {
        // SAFETY: as above.
        unsafe { accumulate_tile::<V, 1, VECTORS>(pass, out, start, weights) };
    }
}

/// # Safety
/// As [`run_correlate`], and `start + ROWS` is at most channels times offsets.
#[inline(always)]
unsafe fn accumulate_tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    pass: &Pass,
    out: &[f32],
    start: usize,
    weights: &mut [f32],
) {
    let width = V::LANES * VECTORS;
    let taps = pass.offsets.len();
    let starts: [usize; ROWS] =
        std::array::from_fn(|i| (start + i) / taps * pass.plane + pass.offsets[(start + i) % taps]);
    // SAFETY: every read is `channel * plane + offset + base`, checked by `Pass::check`; weights and out by the caller.
    unsafe {
        let mut sums: [[V; VECTORS]; ROWS] = std::array::from_fn(|i| {
            std::array::from_fn(|v| V::load(weights.as_ptr().add((start + i) * width + v * V::LANES)))
        });
        let mut gradient = out.as_ptr();
        for row in 0..pass.rows {
            let mut input = pass.input.as_ptr().add(row * pass.row_step);
            for _ in 0..pass.cols {
                let g: [V; VECTORS] = std::array::from_fn(|v| V::load(gradient.add(v * V::LANES)));
                for (sum, &start) in sums.iter_mut().zip(&starts) {
                    let x = V::splat(input.add(start));
                    for (sum, &g) in sum.iter_mut().zip(&g) {
                        *sum = sum.fma(x, g);
                    }
                }
                gradient = gradient.add(width);
                // May point past the end after the last pixel, where it isn't read.
                input = input.wrapping_add(pass.col_step);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            for (v, sum) in sum.iter().enumerate() {
                sum.store(weights.as_mut_ptr().add((start + i) * width + v * V::LANES));
            }
        }
    }
}
