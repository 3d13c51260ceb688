//! Layout: where the array execution keeps inputs and weights in memory.

use crate::groups::GroupGrid;
use crate::hardware::mapping::{Cell, ConvMapping};
use crate::network::ConvShape;
use crate::simd::{DIGITS, Inputs, LANES, OCTET, QUAD, Weights};

/// Rows that an operation takes at once, and what of them lies side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// A digit of an input or a weight is a byte. A register has four rows of one slice: `[lane][row]`; inputs are `[row]`.
    Bytes,
    /// It is a bit. A register has eight rows of four slices: `[lane][slice]`, a bit for each row; inputs are the byte of their rows four times.
    Bits,
}

impl Packing {
    /// Rows of a register.
    fn rows(self) -> usize {
        match self {
            Self::Bytes => QUAD,
            Self::Bits => OCTET,
        }
    }

    /// Slices of a register.
    fn slices(self) -> usize {
        match self {
            Self::Bytes => 1,
            Self::Bits => DIGITS,
        }
    }
}

/// Inputs, one plane for each input phase: `[row][column][block][register]` with the border, channels filled up to whole registers of four bytes.
#[derive(Debug)]
pub(super) struct InputLayout {
    shape: ConvShape,
    grid: GroupGrid,
    /// Registers that the rows of a channel block take.
    pub(super) registers: usize,
    /// Bytes of a channel block of a pixel.
    pub(super) block: usize,
    /// Bytes of a pixel.
    pub(super) pixel: usize,
    /// Pixels of a row of the map with its border.
    row: usize,
}

impl InputLayout {
    pub(super) fn new(shape: ConvShape, grid: GroupGrid, packing: Packing) -> Self {
        let registers = grid.group.channels.div_ceil(packing.rows());
        let block = registers * size_of::<Inputs>();
        let [_, row] = shape.window.bordered([shape.input.height, shape.input.width]);
        Self { shape, grid, registers, block, pixel: grid.channel_blocks() * block, row }
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

/// The registers of a filter set's weights: `[bundle][vector][slices of a register][section][register]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightLayout {
    /// Vectors of lanes that a filter set takes.
    vectors: usize,
    packing: Packing,
    /// Registers that the slices of one row take.
    slices: usize,
    /// Registers that the rows of a section take.
    rows: usize,
}

impl WeightLayout {
    pub(super) fn new(mapping: &ConvMapping, inputs: &InputLayout, packing: Packing) -> Self {
        let vectors = mapping.grid.group.filters.div_ceil(LANES);
        let slices = mapping.precision.slices.div_ceil(packing.slices());
        Self { vectors, packing, slices, rows: inputs.registers }
    }

    /// Registers of a bundle.
    pub(super) fn bundle(&self, sections: usize) -> usize {
        self.vectors * self.slices * self.slice(sections)
    }

    /// Registers of a vector's slices that lie side by side.
    #[inline(always)]
    pub(super) fn slice(&self, sections: usize) -> usize {
        sections * self.rows
    }

    /// Where the slices that share registers with `slice` start, from their bundle's start.
    #[inline(always)]
    pub(super) fn start(&self, sections: usize, vector: usize, slice: usize) -> usize {
        (vector * self.slices + slice / self.packing.slices()) * self.slice(sections)
    }

    /// Stores a digit of a cell in its bundle.
    pub(super) fn store(&self, bundle: &mut [Weights], sections: usize, slice: usize, cell: &Cell, digit: i8) {
        let (vector, lane) = (cell.filter / LANES, cell.filter % LANES);
        let (register, row) = (cell.row / self.packing.rows(), cell.row % self.packing.rows());
        let start = self.start(sections, vector, slice) + cell.section * self.rows;
        let register = &mut bundle[start + register];
        match self.packing {
            Packing::Bytes => register[lane * QUAD + row] = digit,
            Packing::Bits => register[lane * DIGITS + slice % DIGITS] |= digit << row,
        }
    }
}
