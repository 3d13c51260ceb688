//! Layout: where the array execution keeps inputs and weights in memory.

use crate::groups::GroupGrid;
use crate::hardware::mapping::ConvMapping;
use crate::network::ConvShape;
use crate::simd::{LANES, QUAD};

/// Inputs, one plane for each input phase: `[row][column][block][channel]` with the border, channels filled up to whole quads.
#[derive(Debug)]
pub(super) struct InputLayout {
    shape: ConvShape,
    grid: GroupGrid,
    /// Bytes of a channel block of a pixel.
    pub(super) block: usize,
    /// Bytes of a pixel.
    pub(super) pixel: usize,
    /// Pixels of a row of the map with its border.
    row: usize,
}

impl InputLayout {
    pub(super) fn new(shape: ConvShape, grid: GroupGrid) -> Self {
        let block = grid.group.channels.next_multiple_of(QUAD);
        let [_, row] = shape.window.bordered([shape.input.height, shape.input.width]);
        Self { shape, grid, block, pixel: grid.channel_blocks() * block, row }
    }

    /// Quads of word lines of a channel block.
    #[inline(always)]
    pub(super) fn block_quads(&self) -> usize {
        self.block / QUAD
    }

    /// Pixels of the map with its border.
    pub(super) fn pixels(&self) -> usize {
        let [rows, row] = self.shape.window.bordered([self.shape.input.height, self.shape.input.width]);
        rows * row
    }

    /// Bytes of a plane.
    pub(super) fn plane(&self) -> usize {
        self.pixels() * self.pixel
    }

    /// The pixel of a map's place within the border.
    pub(super) fn pixel_at(&self, y: usize, x: usize) -> usize {
        let [[top, _], [left, _]] = self.shape.window.padding;
        (y + top) * self.row + x + left
    }

    /// Where the window of each output pixel starts in a plane.
    pub(super) fn windows(&self) -> Vec<usize> {
        let ConvShape { output, window, .. } = self.shape;
        (0..output.pixels())
            .map(|out| [out / output.width, out % output.width])
            .map(|[y, x]| (y * window.stride[0] * self.row + x * window.stride[1]) * self.pixel)
            .collect()
    }

    /// Where the inputs of a group of a filter set start, from a window's start.
    pub(super) fn section(&self, set: usize, group: usize) -> usize {
        let (block, tap) = self.grid.place(set, group);
        let [y, x] = self.shape.tap(tap);
        (y * self.row + x) * self.pixel + block * self.block
    }
}

/// The weights of a filter set: `[bundle][vector][slice][section][quad]`, each quad with its lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightLayout {
    /// Vectors of lanes that a filter set takes.
    vectors: usize,
    slices: usize,
    /// Quads of a section.
    quads: usize,
}

impl WeightLayout {
    pub(super) fn new(mapping: &ConvMapping, inputs: &InputLayout) -> Self {
        let vectors = mapping.grid.group.filters.div_ceil(LANES);
        Self { vectors, slices: mapping.precision.slices, quads: inputs.block_quads() }
    }

    /// Quads of a bundle.
    pub(super) fn bundle(&self, sections: usize) -> usize {
        self.vectors * self.slices * self.slice(sections)
    }

    /// Quads of a slice of a vector.
    #[inline(always)]
    pub(super) fn slice(&self, sections: usize) -> usize {
        sections * self.quads
    }

    /// Where a slice of a vector starts, from its bundle's start.
    #[inline(always)]
    pub(super) fn start(&self, sections: usize, vector: usize, slice: usize) -> usize {
        (vector * self.slices + slice) * self.slice(sections)
    }

    /// Where the slices of all vectors start, from their bundle's start.
    pub(super) fn starts_of_slice(&self, sections: usize, slice: usize) -> impl Iterator<Item = usize> {
        let layout = *self;
        (0..self.vectors).map(move |vector| layout.start(sections, vector, slice))
    }
}
