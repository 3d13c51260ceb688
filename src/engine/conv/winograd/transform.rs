//! The matrices of F(4x4, 3x3), applied to registers whose lanes are channels.

use crate::simd::{Floats, Simd};

/// Side of an output tile.
pub(super) const TILE: usize = 4;
/// Side of a patch of the input, and of a transformed tile.
pub(super) const PATCH: usize = 6;
/// Values of a transformed tile, each of which has its own matrix product.
pub(super) const POINTS: usize = PATCH * PATCH;

/// One dimension of a transform.
pub(super) trait Transform<const I: usize, const O: usize> {
    fn apply<S: Simd>(simd: S, d: [S::F32; I]) -> [S::F32; O];
}

/// `B^T`: a patch of the input to the products.
pub(super) struct Input;
/// `A`: a tile of the output's gradient to the products.
pub(super) struct OutputGradient;
/// `A^T`: products to a tile of the output.
pub(super) struct Output;
/// `B`: products to a patch of the input's gradient.
pub(super) struct InputGradient;
/// `G`: weights to the products.
pub(super) struct Weights;
/// `G^T`: products to the weights' gradient.
pub(super) struct WeightGradient;

impl Transform<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, d: [S::F32; 6]) -> [S::F32; 6] {
        let [two, minus_four, minus_five] = [2.0, -4.0, -5.0].map(|factor| simd.splat(factor));
        let (even, odd) = (d[4].add_product(d[2], minus_four), d[3].add_product(d[1], minus_four));
        let (even_2, odd_2) = (d[4] - d[2], (d[3] - d[1]) * two);
        [
            d[4].add_product(d[2], minus_five) - d[0] * minus_four,
            even + odd,
            even - odd,
            even_2 + odd_2,
            even_2 - odd_2,
            d[5].add_product(d[3], minus_five) - d[1] * minus_four,
        ]
    }
}

impl Transform<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, m: [S::F32; 6]) -> [S::F32; 4] {
        let (sum, difference) = (m[1] + m[2], m[1] - m[2]);
        let (sum_2, difference_2) = (m[3] + m[4], m[3] - m[4]);
        [
            m[0] + sum + sum_2,
            difference.add_product(difference_2, simd.splat(2.0)),
            sum.add_product(sum_2, simd.splat(4.0)),
            difference.add_product(difference_2, simd.splat(8.0)) + m[5],
        ]
    }
}

impl Transform<4, 6> for OutputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, y: [S::F32; 4]) -> [S::F32; 6] {
        let (even, odd) = (y[0] + y[2], y[1] + y[3]);
        let even_2 = y[0].add_product(y[2], simd.splat(4.0));
        let odd_2 = (y[1] * simd.splat(2.0)).add_product(y[3], simd.splat(8.0));
        [y[0], even + odd, even - odd, even_2 + odd_2, even_2 - odd_2, y[3]]
    }
}

impl Transform<6, 6> for InputGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, v: [S::F32; 6]) -> [S::F32; 6] {
        let [two, four, five] = [2.0, 4.0, 5.0].map(|factor| simd.splat(factor));
        let (sum, difference) = (v[1] + v[2], v[1] - v[2]);
        let (sum_2, difference_2) = (v[3] + v[4], v[3] - v[4]);
        [
            v[0] * four,
            (v[5] - difference) * four - difference_2 * two,
            simd.splat(0.0) - ((v[0] * five).add_product(sum, four) + sum_2),
            difference.add_product(difference_2, two) - v[5] * five,
            v[0] + sum + sum_2,
            v[5],
        ]
    }
}

impl Transform<3, 6> for Weights {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, g: [S::F32; 3]) -> [S::F32; 6] {
        let share = |divisor: f32| simd.splat(1.0 / divisor);
        let (outer, middle) = ((g[0] + g[2]) * share(-6.0), g[1] * share(6.0));
        let outer_2 = (g[0] * share(24.0)).add_product(g[2], share(6.0));
        let middle_2 = g[1] * share(12.0);
        [g[0] * share(4.0), outer - middle, outer + middle, outer_2 + middle_2, outer_2 - middle_2, g[2]]
    }
}

impl Transform<6, 3> for WeightGradient {
    #[inline(always)]
    fn apply<S: Simd>(simd: S, u: [S::F32; 6]) -> [S::F32; 3] {
        let share = |divisor: f32| simd.splat(1.0 / divisor);
        let (sum, difference) = (u[1] + u[2], u[2] - u[1]);
        let (sum_2, difference_2) = (u[3] + u[4], u[3] - u[4]);
        [
            (u[0] * share(4.0) - sum * share(6.0)).add_product(sum_2, share(24.0)),
            (difference * share(6.0)).add_product(difference_2, share(12.0)),
            u[5].add_product(sum_2 - sum, share(6.0)),
        ]
    }
}

/// Both dimensions.
#[inline(always)]
pub(super) fn transform<T: Transform<I, O>, S: Simd, const I: usize, const O: usize>(
    simd: S,
    d: &[[S::F32; I]; I],
) -> [[S::F32; O]; O] {
    let zero = simd.splat(0.0);
    let mut columns = [[zero; I]; O];
    for j in 0..I {
        let column = T::apply(simd, std::array::from_fn(|i| d[i][j]));
        for (row, value) in columns.iter_mut().zip(column) {
            row[j] = value;
        }
    }
    let mut out = [[zero; O]; O];
    for (out, row) in out.iter_mut().zip(columns) {
        *out = T::apply(simd, row);
    }
    out
}
