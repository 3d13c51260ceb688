//! 3x3 convolutions by Winograd's minimal filtering, F(4x4, 3x3): a quarter of the products of the direct sum.
//!
//! `Y = A^T [(G w G^T) . (B^T d B)] A` for each 4x4 tile of the output and the 6x6 patch `d` of the input that it reads, with the
//! matrices of Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. The products of all tiles and channels
//! are 36 matrix products. The gradients are the transposed algorithm: of the input `B [(G w G^T) . (A dY A^T)] B^T`, of the
//! weights `G^T [(B^T d B) . (A dY A^T)] G`.
//!
//! The result differs from the direct sum's by rounding, some 1e-6 of the largest product: for training steps only.

mod tiles;
mod transform;
mod weights;

use std::mem::MaybeUninit;

use tiles::{Block, Map, Target, gather, panel, scatter};
use transform::{Input, InputGradient, Output, OutputGradient, PATCH, POINTS, TILE};
use weights::{WeightGradientPanel, WeightPanel};

use super::algorithm::{Algorithm, Buffers, Direction, GradientSums, WeightSum};
use super::geometry::ConvGeometry;
use super::product::{Axis, COLUMNS, Product, Repeat};
use crate::engine::parallel::{in_parts, written_in_parts};
use crate::simd::dispatch;

/// A convolution as 36 matrix products.
pub(super) struct Winograd<'a> {
    conv: &'a ConvGeometry,
    input: Map,
    output: Map,
    /// `[columns / panel][POINTS][rows][panel]`: channels by filters, transposed for the input's gradient.
    weights: Vec<f32>,
}

impl<'a> Winograd<'a> {
    /// True for convolutions that this algorithm computes, and faster than the direct sum.
    pub(super) fn takes(conv: &ConvGeometry) -> bool {
        conv.kernel == [3, 3]
            && conv.stride == [1, 1]
            && conv.padding == [[1, 1], [1, 1]]
            && conv.dilation == [1, 1]
            && conv.height > 2
            && conv.width > 2
            && conv.channels.is_multiple_of(COLUMNS)
            && conv.filters.is_multiple_of(COLUMNS)
    }

    pub(super) fn new(conv: &'a ConvGeometry, w: &[f32], direction: Direction) -> Self {
        let map = |channels| Map { height: conv.height, width: conv.width, channels };
        let (input, output) = (map(conv.channels), map(conv.filters));
        Self { conv, input, output, weights: weights(conv, w, direction) }
    }

    /// Tiles that are worked on together: enough to be worth the reading of the weights, few enough for the cache.
    fn block_tiles(&self) -> usize {
        if self.conv.channels * self.conv.filters > 64 * 64 { 128 } else { 64 }
    }

    /// First tile and number of tiles of each block.
    fn blocks(&self, tiles: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let size = self.block_tiles();
        (0..tiles).step_by(size).map(move |first| (first, size.min(tiles - first)))
    }

    /// `to = from * weights` for each point.
    fn multiply(&self, from: Block, a: &[f32], to: Block, c: &mut [f32]) {
        let panels = from.panels();
        // The panels of `b` lie behind each other.
        let b_rows = Axis { starts: &panels, unit: from.panel * to.panel, len: from.panel, step: to.panel };
        let weights = from.channels * to.panel;
        let points = Repeat { times: POINTS, a: from.stride(), b: weights, c: to.stride() };
        let of_point = Repeat { times: to.channels / to.panel, a: 0, b: POINTS * weights, c: to.tiles * to.panel };
        Product {
            a: &a[..from.len()],
            rows: from.rows(),
            depth: from.columns(&panels),
            b: &self.weights,
            b_rows,
            c: &mut c[..to.len()],
            c_rows: to.rows(),
            width: to.panel,
            accumulate: false,
            repeats: [points, of_point],
        }
        .compute();
    }

    /// Adds the weights' gradient of a block to `sum`, `[filters / panel][POINTS][channels][panel]`.
    fn add_weight_gradient(&self, input: Block, inputs: &[f32], output: Block, gradients: &[f32], sum: &mut [f32]) {
        let panels = input.panels();
        let weights = input.channels * output.panel;
        let points = Repeat { times: POINTS, a: input.stride(), b: output.stride(), c: weights };
        let of_point =
            Repeat { times: output.channels / output.panel, a: 0, b: output.tiles * output.panel, c: POINTS * weights };
        Product {
            a: &inputs[..input.len()],
            rows: input.columns(&panels),
            depth: input.rows(),
            b: &gradients[..output.len()],
            b_rows: output.rows(),
            c: sum,
            c_rows: Axis::line(input.channels, output.panel),
            width: output.panel,
            accumulate: true,
            repeats: [points, of_point],
        }
        .compute();
    }
}

fn weights(conv: &ConvGeometry, w: &[f32], direction: Direction) -> Vec<f32> {
    let ConvGeometry { channels, filters, .. } = *conv;
    let (rows, row_step, columns, column_step) = match direction {
        Direction::Forward => (channels, 9, filters, channels * 9),
        Direction::InputGradient => (filters, channels * 9, channels, 9),
    };
    let panel = panel(columns);
    written_in_parts(
        POINTS * rows * columns,
        POINTS * rows * panel,
        || (),
        |(), index, out| {
            let weights = &w[index * panel * column_step..];
            (dispatch(WeightPanel { weights, rows, row_step, column_step, panel, out }), ())
        },
    )
    .0
}

impl Algorithm for Winograd<'_> {
    fn images(&self) -> usize {
        self.conv.images_for(self.block_tiles(), self.input.tiles())
    }

    fn forward<'o>(&self, buffers: &mut Buffers, x: &[f32], out: &'o mut [MaybeUninit<f32>]) -> &'o mut [f32] {
        let Buffers { input: from, output: to } = buffers;
        let images = x.len() / self.input.len();
        for (first, tiles) in self.blocks(images * self.input.tiles()) {
            let (input, output) = (Block::new(tiles, self.input.channels), Block::new(tiles, self.output.channels));
            from.resize(input.len(), 0.0);
            to.resize(output.len(), 0.0);
            gather::<Input, PATCH>(self.input, 1, 0, x, first, input, from);
            self.multiply(input, from, output, to);
            scatter::<Output, TILE>(self.output, 0, Target::Tiles(out), first, output, to);
        }
        assert_eq!(out.len(), images * self.output.len());
        // SAFETY: the blocks' tiles cover the images, so that each float was written.
        unsafe { out.assume_init_mut() }
    }

    fn sum_len(&self) -> usize {
        POINTS * self.input.channels * self.output.channels
    }

    fn panels(&self) -> usize {
        self.output.channels / panel(self.output.channels)
    }

    fn backward(&self, buffers: &mut Buffers, x: &[f32], out_gradient: &[f32], mut sums: GradientSums) {
        let Buffers { input: of_input, output: of_output } = buffers;
        let images = x.len() / self.input.len();
        // The input's gradient is a sum over all filters.
        let panels = match &sums {
            GradientSums { input: None, weights: Some(WeightSum { panels, .. }) } => panels.clone(),
            GradientSums { .. } => 0..self.panels(),
        };
        for (first, tiles) in self.blocks(images * self.input.tiles()) {
            let inputs = Block::new(tiles, self.input.channels);
            let outputs = Block::of_panels(tiles, panels.len(), panel(self.output.channels));
            of_input.resize(inputs.len(), 0.0);
            of_output.resize(outputs.len(), 0.0);
            let start = panels.start * outputs.panel;
            gather::<OutputGradient, TILE>(self.output, 0, start, out_gradient, first, outputs, of_output);
            if let Some(input) = &mut sums.input {
                self.multiply(outputs, of_output, inputs, of_input);
                scatter::<InputGradient, PATCH>(self.input, 1, Target::Patches(input), first, inputs, of_input);
            }
            if let Some(WeightSum { values, .. }) = &mut sums.weights {
                gather::<Input, PATCH>(self.input, 1, 0, x, first, inputs, of_input);
                self.add_weight_gradient(inputs, of_input, outputs, of_output, values);
            }
        }
    }

    fn weight_gradient(&self, sums: &[Vec<f32>]) -> Vec<f32> {
        let (channels, panel) = (self.input.channels, panel(self.output.channels));
        let part = panel * channels * 9;
        let fill = |total: &mut Vec<f32>, index: usize, out: &mut [f32]| {
            let range = index * POINTS * channels * panel..(index + 1) * POINTS * channels * panel;
            total.clear();
            total.extend_from_slice(&sums[0][range.clone()]);
            for sum in &sums[1..] {
                for (total, value) in total.iter_mut().zip(&sum[range.clone()]) {
                    *total += value;
                }
            }
            dispatch(WeightGradientPanel { values: total, channels, panel, out });
        };
        in_parts(self.output.channels * channels * 9, part, Vec::new, fill).0
    }
}
