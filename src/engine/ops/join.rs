//! The residual sum of an image: which values join which, forward and backward.

use super::channels;
use crate::simd::vectorized;

/// The residual value's place in an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Join {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub stride: usize,
    pub front: usize,
    pub out_width: usize,
    pub filters: usize,
}

impl Join {
    /// True where each value has a place of its own in the output.
    pub(super) fn same(&self) -> bool {
        self.stride == 1 && self.channels == self.filters
    }

    /// Floats of an image's residual value.
    pub(super) fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Shape of the residual values of `batch` images.
    pub(super) fn shape(&self, batch: usize) -> [usize; 4] {
        [batch, self.height, self.width, self.channels]
    }

    /// Offsets of the output's pixels and of those of the residual value that join them.
    fn pixels(self) -> impl Iterator<Item = (usize, usize)> {
        let rows = (0..self.height).step_by(self.stride).enumerate();
        rows.flat_map(move |(row, y)| {
            (0..self.width).step_by(self.stride).enumerate().map(move |(col, x)| {
                ((row * self.out_width + col) * self.filters + self.front, (y * self.width + x) * self.channels)
            })
        })
    }

    /// Adds an image's residual value to its output.
    pub(super) fn add(self, out: &mut [f32], skip: &[f32]) {
        match self.same() {
            true => channels::add(out, skip),
            false => add_at(self, out, skip),
        }
    }

    /// Takes the residual value's gradient out of the output's.
    pub(super) fn gradient(self, out: &[f32], skip: &mut [f32]) {
        for (from, to) in self.pixels() {
            skip[to..][..self.channels].copy_from_slice(&out[from..][..self.channels]);
        }
    }
}

vectorized! {
    fn add_at(join: Join, out: &mut [f32], skip: &[f32]) {
        for (to, from) in join.pixels() {
            for (out, skip) in out[to..].iter_mut().zip(&skip[from..][..join.channels]) {
                *out += skip;
            }
        }
    }
}
