//! The one inner loop: a matrix product whose left side is read through a two-level index, so that it can be the pixels of a
//! picture, the positions of a kernel or the rows of a plain matrix.

use super::simd::{Kernel, Vector, dispatch};

/// An index of `outer * inner` steps: `inner_step` apart, then `outer_step`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub outer: usize,
    pub outer_step: usize,
    pub inner: usize,
    pub inner_step: usize,
}

impl Axis {
    /// `len` steps of `step`.
    pub(super) fn line(len: usize, step: usize) -> Self {
        Self { outer: 1, outer_step: 0, inner: len, inner_step: step }
    }

    fn len(&self) -> usize {
        self.outer * self.inner
    }

    #[inline(always)]
    fn offset(&self, index: usize) -> usize {
        index / self.inner * self.outer_step + index % self.inner * self.inner_step
    }

    fn last(&self) -> usize {
        (self.outer - 1) * self.outer_step + (self.inner - 1) * self.inner_step
    }
}

/// `c[r][n] (+)= sum over d of a[rows(r) + depth(d)] * b[d][n]` for `n` in `0..width`, a multiple of the lanes.
pub(super) struct Product<'a> {
    pub a: &'a [f32],
    pub rows: Axis,
    pub depth: Axis,
    /// Rows `b_step` apart.
    pub b: &'a [f32],
    pub b_step: usize,
    /// Rows at `c_rows`.
    pub c: &'a mut [f32],
    pub c_rows: Axis,
    pub width: usize,
    /// Adds to `c` instead of replacing it.
    pub accumulate: bool,
}

impl Product<'_> {
    /// # Panics
    /// If a read or write would leave its slice.
    pub(super) fn compute(self) {
        dispatch(self);
    }
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (rows, depth) = (self.rows.len(), self.depth.len());
        if rows == 0 || self.width == 0 {
            return;
        }
        assert!(depth > 0 && self.width.is_multiple_of(V::LANES) && self.c_rows.len() == rows);
        assert!(self.rows.last() + self.depth.last() < self.a.len());
        assert!((depth - 1) * self.b_step + self.width <= self.b.len());
        assert!(self.c_rows.last() + self.width <= self.c.len());
        let mut first = 0;
        // SAFETY: what the tiles read and write was checked above; the instruction set by the caller.
        unsafe {
            while first + 2 * V::LANES <= self.width {
                let (b, c) = (self.b.as_ptr().add(first), self.c.as_mut_ptr().add(first));
                if V::REGISTERS >= 32 {
                    columns::<V, 12, 2>(&self, b, c);
                } else {
                    columns::<V, 6, 2>(&self, b, c);
                }
                first += 2 * V::LANES;
            }
            if first < self.width {
                let (b, c) = (self.b.as_ptr().add(first), self.c.as_mut_ptr().add(first));
                columns::<V, 8, 1>(&self, b, c);
            }
        }
    }
}

/// All rows of `VECTORS` registers of columns.
#[inline(always)]
unsafe fn columns<V: Vector, const ROWS: usize, const VECTORS: usize>(p: &Product, b: *const f32, c: *mut f32) {
    let rows = p.rows.len();
    let mut row = 0;
    // SAFETY: passed on from the caller; rows stay below `rows`.
    unsafe {
        while row + ROWS <= rows {
            tile::<V, ROWS, VECTORS>(p, row, b, c);
            row += ROWS;
        }
        if ROWS > 6 && row + 6 <= rows {
            tile::<V, 6, VECTORS>(p, row, b, c);
            row += 6;
        }
        if row + 4 <= rows {
            tile::<V, 4, VECTORS>(p, row, b, c);
            row += 4;
        }
        if row + 2 <= rows {
            tile::<V, 2, VECTORS>(p, row, b, c);
            row += 2;
        }
        if row < rows {
            tile::<V, 1, VECTORS>(p, row, b, c);
        }
    }
}

#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const VECTORS: usize>(
    p: &Product,
    row: usize,
    b: *const f32,
    c: *mut f32,
) {
    // SAFETY: indices are of rows below `p.rows.len()` and of depths below `p.depth.len()`, checked by the caller.
    unsafe {
        let mut a: [*const f32; ROWS] = std::array::from_fn(|r| p.a.as_ptr().add(p.rows.offset(row + r)));
        let c: [*mut f32; ROWS] = std::array::from_fn(|r| c.add(p.c_rows.offset(row + r)));
        let mut sums = [[V::zero(); VECTORS]; ROWS];
        if p.accumulate {
            for (sum, c) in sums.iter_mut().zip(&c) {
                for (v, sum) in sum.iter_mut().enumerate() {
                    *sum = V::load(c.add(v * V::LANES));
                }
            }
        }
        let mut b = b;
        for _ in 0..p.depth.outer {
            for d in 0..p.depth.inner {
                let offset = d * p.depth.inner_step;
                let factors: [V; VECTORS] = std::array::from_fn(|v| V::load(b.add(v * V::LANES)));
                for (sum, a) in sums.iter_mut().zip(&a) {
                    let x = V::splat(*a.add(offset));
                    for (sum, factor) in sum.iter_mut().zip(&factors) {
                        *sum = sum.fma(x, *factor);
                    }
                }
                // May point past the end after the last row, where it isn't read.
                b = b.wrapping_add(p.b_step);
            }
            for a in &mut a {
                *a = a.wrapping_add(p.depth.outer_step);
            }
        }
        for (sum, c) in sums.iter().zip(&c) {
            for (v, sum) in sum.iter().enumerate() {
                sum.store(c.add(v * V::LANES));
            }
        }
    }
}
