//! Convolution by the direct sum, for any kernel, stride and padding: patches of the input as the rows of a matrix product.
//!
//! The order of each sum is fixed: exact for integers as long as they stay below `2^24`.

use super::conv::{Algorithm, Conv, Direction};
use super::parallel::in_parts;
use super::product::{Axis, Product};
use super::simd::lanes;

/// Patches that are worked on together.
const ROWS: usize = 128;

/// A convolution as matrices: patches `[pixels][taps * channels]` times weights `[taps * channels][filters]`.
pub(super) struct Direct<'a> {
    conv: &'a Conv,
    /// Length of a patch.
    depth: usize,
    /// In panels; transposed for the input's gradient.
    weights: Vec<f32>,
}

impl<'a> Direct<'a> {
    pub(super) fn new(conv: &'a Conv, w: &[f32], direction: Direction) -> Self {
        let depth = conv.kernel[0] * conv.kernel[1] * conv.channels;
        Self { conv, depth, weights: weights(conv, depth, w, direction) }
    }

    /// Filters with those that fill the last panel.
    fn padded_filters(&self) -> usize {
        self.conv.filters.next_multiple_of(panel(self.conv.filters))
    }

    /// Copies the patches of pixels `first..` of images into rows `stride` apart.
    fn patches(&self, images: &[f32], first: usize, count: usize, stride: usize, patches: &mut [f32]) {
        let run = self.conv.kernel[1] * self.conv.channels;
        for (pixel, patch) in (first..first + count).zip(patches.chunks_mut(stride)) {
            for (row, patch) in patch[..self.depth].chunks_mut(run).enumerate() {
                let (place, columns) = self.run(pixel, row);
                patch[..columns.start].fill(0.0);
                patch[columns.end..].fill(0.0);
                let len = columns.len();
                patch[columns].copy_from_slice(&images[place..][..len]);
            }
        }
    }

    /// Adds rows of gradients to the pixels that the patches came from.
    fn add_patches(&self, patches: &[f32], first: usize, count: usize, stride: usize, images: &mut [f32]) {
        let run = self.conv.kernel[1] * self.conv.channels;
        for (pixel, patch) in (first..first + count).zip(patches.chunks(stride)) {
            for (row, patch) in patch[..self.depth].chunks(run).enumerate() {
                let (place, columns) = self.run(pixel, row);
                for (to, from) in images[place..].iter_mut().zip(&patch[columns]) {
                    *to += from;
                }
            }
        }
    }

    /// The part of a kernel row that lies on the map: where in the images, and which part of the row.
    fn run(&self, pixel: usize, row: usize) -> (usize, std::ops::Range<usize>) {
        let conv = self.conv;
        let (image, pixel) = (pixel / conv.out_pixels(), pixel % conv.out_pixels());
        let y = (pixel / conv.out_width() * conv.stride + row).checked_sub(conv.padding).filter(|y| *y < conv.height);
        let x = pixel % conv.out_width() * conv.stride;
        let begin = conv.padding.saturating_sub(x).min(conv.kernel[1]);
        let end = (conv.width + conv.padding).saturating_sub(x).clamp(begin, conv.kernel[1]);
        match y {
            Some(y) if begin < end => {
                let place = (image * conv.height + y) * conv.width + x + begin - conv.padding;
                (place * conv.channels, begin * conv.channels..end * conv.channels)
            }
            _ => (0, 0..0),
        }
    }
}

/// Weights `[filters][channels][taps]` as `[taps * channels][filters]` in panels, or transposed; zeros in left-over columns.
fn weights(conv: &Conv, depth: usize, w: &[f32], direction: Direction) -> Vec<f32> {
    let Conv { channels, filters, .. } = *conv;
    let taps = depth / channels;
    let (rows, columns) = match direction {
        Direction::Forward => (depth, filters),
        Direction::InputGradient => (filters, depth),
    };
    let panel = panel(columns);
    let fill = |_: &mut (), index: usize, part: &mut [f32]| {
        for (row, lanes) in part.chunks_mut(panel).enumerate() {
            for (column, lane) in (index * panel..columns).zip(lanes) {
                let (place, filter) = match direction {
                    Direction::Forward => (row, column),
                    Direction::InputGradient => (column, row),
                };
                *lane = w[(filter * channels + place % channels) * taps + place / channels];
            }
        }
    };
    in_parts(columns.next_multiple_of(panel) * rows, rows * panel, || (), fill).0
}

/// Columns of a panel for matrices of `columns` columns.
fn panel(columns: usize) -> usize {
    if columns > lanes() { 2 * lanes() } else { lanes() }
}

/// Parts of rows `0..count`.
fn blocks(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(ROWS).map(move |first| (first, ROWS.min(count - first)))
}

impl Algorithm for Direct<'_> {
    fn images(&self) -> usize {
        self.conv.images_for(ROWS, self.conv.out_pixels())
    }

    fn forward(&self, buffer: &mut Vec<f32>, x: &[f32], out: &mut [f32]) {
        let (filters, depth) = (self.conv.filters, self.depth);
        let (panel, padded) = (panel(filters), self.padded_filters());
        buffer.resize(ROWS * (depth + padded), 0.0);
        let (patches, sums) = buffer.split_at_mut(ROWS * depth);
        for (first, count) in blocks(out.len() / filters) {
            self.patches(x, first, count, depth, patches);
            for (index, b) in self.weights.chunks(depth * panel).enumerate() {
                Product {
                    a: patches,
                    rows: Axis::line(count, depth),
                    depth: Axis::line(depth, 1),
                    b,
                    b_step: panel,
                    c: &mut sums[index * panel..],
                    c_rows: Axis::line(count, padded),
                    width: panel,
                    accumulate: false,
                }
                .compute();
            }
            for (out, sums) in out[first * filters..].chunks_mut(filters).zip(sums.chunks(padded)).take(count) {
                out.copy_from_slice(&sums[..filters]);
            }
        }
    }

    fn sum_len(&self) -> usize {
        self.depth * self.padded_filters()
    }

    fn backward(
        &self,
        buffer: &mut Vec<f32>,
        x: &[f32],
        out_gradient: &[f32],
        mut input: Option<&mut [f32]>,
        mut weights: Option<&mut [f32]>,
    ) {
        let (filters, depth) = (self.conv.filters, self.depth);
        let (panel, padded) = (panel(depth), self.padded_filters());
        let stride = depth.next_multiple_of(panel);
        buffer.resize(ROWS * (stride + padded), 0.0);
        let (patches, gradients) = buffer.split_at_mut(ROWS * stride);
        for (first, count) in blocks(out_gradient.len() / filters) {
            let rows = out_gradient[first * filters..].chunks(filters);
            for (to, from) in gradients.chunks_mut(padded).zip(rows).take(count) {
                to[..filters].copy_from_slice(from);
                to[filters..].fill(0.0);
            }
            if let Some(input) = &mut input {
                for (index, b) in self.weights.chunks(filters * panel).enumerate() {
                    Product {
                        a: gradients,
                        rows: Axis::line(count, padded),
                        depth: Axis::line(filters, 1),
                        b,
                        b_step: panel,
                        c: &mut patches[index * panel..],
                        c_rows: Axis::line(count, stride),
                        width: panel,
                        accumulate: false,
                    }
                    .compute();
                }
                self.add_patches(patches, first, count, stride, input);
            }
            if let Some(sum) = &mut weights {
                self.patches(x, first, count, stride, patches);
                Product {
                    a: patches,
                    rows: Axis::line(depth, 1),
                    depth: Axis::line(count, stride),
                    b: gradients,
                    b_step: padded,
                    c: sum,
                    c_rows: Axis::line(depth, padded),
                    width: padded,
                    accumulate: true,
                }
                .compute();
            }
        }
    }

    fn weight_gradient(&self, sums: &[Vec<f32>]) -> Vec<f32> {
        let Conv { channels, filters, .. } = *self.conv;
        let (taps, padded) = (self.depth / channels, self.padded_filters());
        let fill = |_: &mut (), filter: usize, out: &mut [f32]| {
            for (index, out) in out.iter_mut().enumerate() {
                let place = index % taps * channels + index / taps;
                *out = sums.iter().map(|sum| sum[place * padded + filter]).sum();
            }
        };
        in_parts(filters * self.depth, self.depth, || (), fill).0
    }
}
