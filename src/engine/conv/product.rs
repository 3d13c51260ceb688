//! The one inner loop: a matrix product whose sides are read through two-level indices, so that they can be the pixels of an
//! image, the positions of a kernel or the rows of a plain matrix.

use crate::simd::{Floats, Kernel, Simd, dispatch};

/// Columns that the widest register holds: panels are multiples of it.
pub(super) const COLUMNS: usize = 16;

/// An index of `len` steps of `step` from each of `starts`, which count in `unit`s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis<'a> {
    pub starts: &'a [usize],
    pub unit: usize,
    pub len: usize,
    pub step: usize,
}

impl Axis<'_> {
    /// `len` steps of `step`.
    pub(super) fn line(len: usize, step: usize) -> Self {
        Self { starts: &[0], unit: 0, len, step }
    }

    fn total(&self) -> usize {
        self.starts.len() * self.len
    }

    /// From each offset to the next one, where that is the same everywhere.
    fn distance(&self) -> Option<usize> {
        (self.starts.len() == 1).then_some(self.step)
    }

    /// The largest offset of an index that isn't empty.
    fn last(&self) -> usize {
        let start = self.starts.iter().max().map_or(0, |start| start * self.unit);
        start + (self.len - 1) * self.step
    }
}

/// Offsets of an axis in order.
struct Offsets<'a> {
    axis: Axis<'a>,
    start: usize,
    step: usize,
}

impl Offsets<'_> {
    /// # Safety
    /// The axis has another offset.
    #[inline(always)]
    unsafe fn next(&mut self) -> usize {
        if self.step == self.axis.len {
            self.step = 0;
            self.start += 1;
        }
        // SAFETY: the caller's promise.
        let start = unsafe { *self.axis.starts.get_unchecked(self.start) };
        let offset = start * self.axis.unit + self.step * self.axis.step;
        self.step += 1;
        offset
    }
}

/// The same product so many times, each with its sides so many floats behind those of the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeat {
    pub times: usize,
    pub a: usize,
    pub b: usize,
    pub c: usize,
}

/// A single product.
pub(super) const ONCE: [Repeat; 2] = [Repeat { times: 1, a: 0, b: 0, c: 0 }; 2];

/// `c[r][n] (+)= sum over d of a[rows(r) + depth(d)] * b[b_rows(d)][n]` for `n` in `0..width`, a multiple of the lanes.
pub(super) struct Product<'a> {
    pub a: &'a [f32],
    pub rows: Axis<'a>,
    pub depth: Axis<'a>,
    pub b: &'a [f32],
    /// As many starts, and steps from each, as `depth` has.
    pub b_rows: Axis<'a>,
    pub c: &'a mut [f32],
    pub c_rows: Axis<'a>,
    pub width: usize,
    /// Adds to `c` instead of replacing it.
    pub accumulate: bool,
    /// For each of the first, all of the second.
    pub repeats: [Repeat; 2],
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
    fn run<S: Simd>(self, simd: S) {
        let lanes = S::F32::LANES;
        let (rows, depth) = (self.rows.total(), self.depth.total());
        if rows == 0 || self.width == 0 {
            return;
        }
        assert!(depth > 0 && self.width.is_multiple_of(lanes) && self.c_rows.total() == rows);
        assert!(self.b_rows.starts.len() == self.depth.starts.len() && self.b_rows.len == self.depth.len);
        let further =
            |side: fn(&Repeat) -> usize| self.repeats.iter().map(|repeat| (repeat.times - 1) * side(repeat)).sum();
        let [further_a, further_b, further_c]: [usize; 3] =
            [further(|it| it.a), further(|it| it.b), further(|it| it.c)];
        assert!(self.rows.last() + self.depth.last() + further_a < self.a.len());
        assert!(self.b_rows.last() + self.width + further_b <= self.b.len());
        assert!(self.c_rows.last() + self.width + further_c <= self.c.len());
        let [outer, inner] = self.repeats;
        for place in (0..outer.times).flat_map(|i| (0..inner.times).map(move |j| [i, j])) {
            let at = |side: fn(&Repeat) -> usize| place[0] * side(&outer) + place[1] * side(&inner);
            // SAFETY: what the tiles read and write was checked above.
            unsafe {
                let a = self.a.as_ptr().add(at(|it| it.a));
                let (b, c) = (self.b.as_ptr().add(at(|it| it.b)), self.c.as_mut_ptr().add(at(|it| it.c)));
                let mut first = 0;
                while first + 2 * lanes <= self.width {
                    let sides = Sides { a, b: b.add(first), c: c.add(first) };
                    match self.rows.distance() {
                        Some(WIDE) if S::REGISTERS >= 32 => columns::<S, 12, 2, WIDE>(simd, &self, sides),
                        _ if S::REGISTERS >= 32 => columns::<S, 12, 2, ANY>(simd, &self, sides),
                        _ => columns::<S, 6, 2, ANY>(simd, &self, sides),
                    }
                    first += 2 * lanes;
                }
                if first < self.width {
                    let sides = Sides { a, b: b.add(first), c: c.add(first) };
                    match self.rows.distance() {
                        Some(COLUMNS) if S::REGISTERS >= 32 => columns::<S, 16, 1, COLUMNS>(simd, &self, sides),
                        _ => columns::<S, 8, 1, ANY>(simd, &self, sides),
                    }
                }
            }
        }
    }
}

/// Where the sides of a product begin.
#[derive(Clone, Copy)]
struct Sides {
    a: *const f32,
    b: *const f32,
    c: *mut f32,
}

/// Columns of a wide panel.
const WIDE: usize = 2 * COLUMNS;
/// Stands for rows at any distances.
const ANY: usize = 0;

/// All rows of `VECTORS` registers of columns. Where the rows are `DISTANCE` apart, one pointer serves those of a tile, so that they can be
/// more than there are pointers.
///
/// # Safety
/// The pointers of `sides` reach all rows, depths and columns of the product.
#[inline(always)]
unsafe fn columns<S: Simd, const ROWS: usize, const VECTORS: usize, const DISTANCE: usize>(
    simd: S,
    p: &Product,
    sides: Sides,
) {
    let mut left = p.rows.total();
    let start = |axis| Offsets { axis, start: 0, step: 0 };
    let (mut rows, mut c_rows) = (start(p.rows), start(p.c_rows));
    let at = (&mut rows, &mut c_rows);
    // SAFETY: passed on from the caller; the tiles' rows are those that are left.
    unsafe {
        while left >= ROWS {
            tile::<S, ROWS, VECTORS, DISTANCE>(simd, p, at.0, at.1, sides);
            left -= ROWS;
        }
        if left >= 8 {
            tile::<S, 8, VECTORS, DISTANCE>(simd, p, at.0, at.1, sides);
            left -= 8;
        }
        if left >= 4 {
            tile::<S, 4, VECTORS, DISTANCE>(simd, p, at.0, at.1, sides);
            left -= 4;
        }
        if left >= 2 {
            tile::<S, 2, VECTORS, DISTANCE>(simd, p, at.0, at.1, sides);
            left -= 2;
        }
        if left > 0 {
            tile::<S, 1, VECTORS, DISTANCE>(simd, p, at.0, at.1, sides);
        }
    }
}

/// The next `ROWS` rows of `VECTORS` registers of columns.
///
/// # Safety
/// As [`columns`]; so many rows are left.
#[inline(always)]
unsafe fn tile<S: Simd, const ROWS: usize, const VECTORS: usize, const DISTANCE: usize>(
    simd: S,
    p: &Product,
    rows: &mut Offsets,
    c_rows: &mut Offsets,
    Sides { a, b, c }: Sides,
) {
    // SAFETY: offsets are of the product's rows and depths, checked by the caller.
    unsafe {
        let first = a;
        let mut a = [first; ROWS];
        if DISTANCE == ANY {
            for a in &mut a {
                *a = a.add(rows.next());
            }
        } else {
            let first = first.add(rows.next());
            rows.step += ROWS - 1;
            for (row, a) in a.iter_mut().enumerate() {
                *a = first.add(row * DISTANCE);
            }
        }
        let c: [*mut f32; ROWS] = match p.c_rows.distance() {
            Some(distance) => {
                let first = c.add(c_rows.next());
                c_rows.step += ROWS - 1;
                std::array::from_fn(|row| first.add(row * distance))
            }
            None => std::array::from_fn(|_| c.add(c_rows.next())),
        };
        let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
        if p.accumulate {
            for (sum, c) in sums.iter_mut().zip(&c) {
                for (v, sum) in sum.iter_mut().enumerate() {
                    *sum = simd.load(c.add(v * S::F32::LANES));
                    // Of the next tile: large sums of weights' gradients come from far away.
                    simd.prefetch(c.wrapping_add(ROWS * p.c_rows.step + v * S::F32::LANES));
                }
            }
        }
        for (a_start, b_start) in p.depth.starts.iter().zip(p.b_rows.starts) {
            let mut offset = a_start * p.depth.unit;
            let mut b = b.add(b_start * p.b_rows.unit);
            for _ in 0..p.depth.len {
                let factors: [S::F32; VECTORS] = std::array::from_fn(|v| simd.load(b.add(v * S::F32::LANES)));
                for (sum, a) in sums.iter_mut().zip(&a) {
                    let x = simd.splat(*a.add(offset));
                    for (sum, factor) in sum.iter_mut().zip(&factors) {
                        *sum = sum.add_product(x, *factor);
                    }
                }
                offset += p.depth.step;
                // May point past the end after the last row, where it isn't read.
                b = b.wrapping_add(p.b_rows.step);
            }
        }
        for (sum, c) in sums.iter().zip(&c) {
            for (v, sum) in sum.iter().enumerate() {
                sum.store(c.add(v * S::F32::LANES));
            }
        }
    }
}
