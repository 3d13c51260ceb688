//! Weights to and from the products.

use std::mem::MaybeUninit;

use super::transform::{PATCH, POINTS, WeightGradient, Weights, transform};
use crate::simd::{Floats, Kernel, Simd};

/// Weights `[rows][columns]` of 3x3, `row_step` and `column_step` apart, transformed: `[columns / panel][POINTS][rows][panel]`.
pub(super) struct WeightPanel<'w, 'o> {
    pub weights: &'w [f32],
    pub rows: usize,
    pub row_step: usize,
    pub column_step: usize,
    pub panel: usize,
    pub out: &'o mut [MaybeUninit<f32>],
}

impl<'o> Kernel for WeightPanel<'_, 'o> {
    /// All of `out`.
    type Output = &'o mut [f32];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> &'o mut [f32] {
        let Self { weights, rows, row_step, column_step, panel, out } = self;
        assert!(panel.is_multiple_of(S::F32::LANES) && out.len() == POINTS * rows * panel);
        let mut lanes = [[0.0; 16]; 9];
        assert!(S::F32::LANES <= lanes[0].len());
        for row in 0..rows {
            for first in (0..panel).step_by(S::F32::LANES) {
                for lane in 0..S::F32::LANES {
                    let kernel = &weights[row * row_step + (first + lane) * column_step..][..9];
                    for (lanes, weight) in lanes.iter_mut().zip(kernel) {
                        lanes[lane] = *weight;
                    }
                }
                // SAFETY: `lanes` holds a register's floats; writes end before `POINTS * rows * panel`, checked above.
                unsafe {
                    let mut g = [[simd.splat(0.0); 3]; 3];
                    for (i, g) in g.iter_mut().enumerate() {
                        for (j, g) in g.iter_mut().enumerate() {
                            *g = simd.load(lanes[i * 3 + j].as_ptr());
                        }
                    }
                    let values = transform::<Weights, S, 3, PATCH>(simd, &g);
                    let to = out.as_mut_ptr().cast::<f32>().add(row * panel + first);
                    for (i, values) in values.iter().enumerate() {
                        for (j, value) in values.iter().enumerate() {
                            value.store(to.add((i * PATCH + j) * rows * panel));
                        }
                    }
                }
            }
        }
        // SAFETY: each point, row and lane was written.
        unsafe { out.assume_init_mut() }
    }
}

/// The gradients of a panel of filters, `[panel][channels][3][3]`, from `[POINTS][channels][panel]`.
pub(super) struct WeightGradientPanel<'a> {
    pub values: &'a [f32],
    pub channels: usize,
    pub panel: usize,
    pub out: &'a mut [f32],
}

impl Kernel for WeightGradientPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { values, channels, panel, out } = self;
        assert!(panel.is_multiple_of(S::F32::LANES) && values.len() == POINTS * channels * panel);
        let mut lanes = [[0.0; 16]; 9];
        assert!(S::F32::LANES <= lanes[0].len());
        for channel in 0..channels {
            for first in (0..panel).step_by(S::F32::LANES) {
                // SAFETY: `lanes` holds a register's floats; reads end before `POINTS * channels * panel`, checked above.
                unsafe {
                    let from = values.as_ptr().add(channel * panel + first);
                    let mut u = [[simd.splat(0.0); PATCH]; PATCH];
                    for (i, u) in u.iter_mut().enumerate() {
                        for (j, u) in u.iter_mut().enumerate() {
                            *u = simd.load(from.add((i * PATCH + j) * channels * panel));
                        }
                    }
                    let gradient = transform::<WeightGradient, S, PATCH, 3>(simd, &u);
                    for (i, gradient) in gradient.iter().enumerate() {
                        for (j, value) in gradient.iter().enumerate() {
                            value.store(lanes[i * 3 + j].as_mut_ptr());
                        }
                    }
                }
                for lane in 0..S::F32::LANES {
                    let kernel = &mut out[((first + lane) * channels + channel) * 9..][..9];
                    for (weight, lanes) in kernel.iter_mut().zip(&lanes) {
                        *weight = lanes[lane];
                    }
                }
            }
        }
    }
}
