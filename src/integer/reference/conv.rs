//! Accumulators of a convolution: dot products of bytes, 16 filters and four channels at a time.

use crate::integer::network::IntegerConv;
use crate::network::ConvShape;
use crate::simd::{AddRows, Inputs, IntegerKernel, IntegerSimd, Integers, LANES, QUAD, Weights, dispatch_integers};

/// A convolution, prepared. Maps are `[height][width][channels]`.
#[derive(Clone, Debug)]
pub(super) struct Convolution {
    shape: ConvShape,
    /// Channels of the map with its border: those of the input, up to whole quads.
    channels: usize,
    /// What the border holds for each of them.
    border: Vec<u8>,
    /// Where the window of each output pixel begins in the map with its border.
    windows: Vec<usize>,
    /// Bytes from the begin of a window to its end.
    span: usize,
    blocks: Vec<Block>,
}

/// Sixteen filters; those beyond the last one are zero.
#[derive(Clone, Debug)]
struct Block {
    bias: [i32; LANES],
    /// Where in a window four channels of a kernel position lie that any of the filters has weights for.
    offsets: Vec<usize>,
    /// Their weights.
    weights: Vec<Weights>,
}

impl Convolution {
    /// `border` is what the border of the input holds for each channel.
    pub fn new(shape: ConvShape, mut border: Vec<u8>, conv: &IntegerConv) -> Self {
        let ConvShape { input, output, window, .. } = shape;
        let channels = input.channels.next_multiple_of(QUAD);
        border.resize(channels, 0);
        let [_, width] = window.bordered([input.height, input.width]);
        let row = width * channels;
        let place = |y: usize, x: usize| y * row + x * channels;
        let pixels = (0..output.height).flat_map(|y| (0..output.width).map(move |x| (y, x)));
        Self {
            shape,
            channels,
            border,
            windows: pixels.map(|(y, x)| place(y * window.stride[0], x * window.stride[1])).collect(),
            span: {
                let [height, width] = shape.span();
                place(height - 1, width)
            },
            blocks: (0..shape.filters()).step_by(LANES).map(|first| Block::new(&shape, conv, first, place)).collect(),
        }
    }

    /// Filters that accumulators are computed for, those beyond the last one among them.
    pub fn lanes(&self) -> usize {
        self.blocks.len() * LANES
    }

    /// `acc + bias` for each pixel and lane, `[height][width][lanes]`, of a map. `bordered` is room for the map with its border.
    pub fn accumulate(&self, map: &[u8], bordered: &mut Vec<u8>, accumulators: &mut Vec<i32>) {
        let is_whole = !self.shape.window.has_border() && self.channels == self.shape.channels();
        let map = if is_whole { map } else { self.with_border(map, bordered) };
        // All of them are written.
        accumulators.resize(self.windows.len() * self.lanes(), 0);
        dispatch_integers(Accumulate { conv: self, map, accumulators });
    }

    /// The map with its border, `[rows][columns][channels]`.
    fn with_border<'b>(&self, map: &[u8], bordered: &'b mut Vec<u8>) -> &'b [u8] {
        let ConvShape { input, window, .. } = self.shape;
        let [height, width] = window.bordered([input.height, input.width]);
        let [[top, _], [left, _]] = window.padding;
        bordered.clear();
        for _ in 0..height * width {
            bordered.extend_from_slice(&self.border);
        }
        let rows = bordered.chunks_exact_mut(width * self.channels).skip(top);
        for (row, values) in rows.zip(map.chunks_exact(input.width * input.channels)) {
            let pixels = row.chunks_exact_mut(self.channels).skip(left);
            for (pixel, values) in pixels.zip(values.chunks_exact(input.channels)) {
                pixel[..input.channels].copy_from_slice(values);
            }
        }
        bordered
    }
}

impl Block {
    /// The filters from `first` on; `place` is where a row and a column of the kernel lie in a window.
    fn new(shape: &ConvShape, conv: &IntegerConv, first: usize, place: impl Fn(usize, usize) -> usize) -> Self {
        let [height, width] = shape.window.kernel;
        let filters = first..shape.filters().min(first + LANES);
        let mut block = Self { bias: [0; LANES], offsets: Vec::new(), weights: Vec::new() };
        block.bias[..filters.len()].copy_from_slice(&conv.bias[filters.clone()]);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            for quad in (0..shape.channels()).step_by(QUAD) {
                let mut weights = [0; LANES * QUAD];
                for (lane, filter) in filters.clone().enumerate() {
                    let reads = shape.reads(filter);
                    let channels = (quad..shape.channels()).take(QUAD).enumerate();
                    for (row, channel) in channels.filter(|(_, channel)| reads.contains(channel)) {
                        let place = ((filter * shape.depth() + channel - reads.start) * height + y) * width + x;
                        weights[lane * QUAD + row] = conv.weights[place];
                    }
                }
                if weights != [0; LANES * QUAD] {
                    block.offsets.push(place(y * shape.dilation[0], x * shape.dilation[1]) + quad);
                    block.weights.push(weights);
                }
            }
        }
        block
    }
}

/// Fills `accumulators` from a map with its border.
struct Accumulate<'a> {
    conv: &'a Convolution,
    map: &'a [u8],
    accumulators: &'a mut [i32],
}

impl IntegerKernel for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: IntegerSimd>(self, simd: S) {
        match self.conv.windows.len() {
            ..4 => self.pixels::<S, 1>(simd),
            4..8 => self.pixels::<S, 4>(simd),
            _ => self.pixels::<S, 8>(simd),
        }
    }
}

impl Accumulate<'_> {
    /// So many pixels at a time, whose sums stay in registers; the last ones again where their number doesn't divide.
    #[inline(always)]
    fn pixels<S: IntegerSimd, const PIXELS: usize>(self, simd: S) {
        let Self { conv: Convolution { windows, span, blocks, .. }, map, accumulators } = self;
        let lanes = blocks.len() * LANES;
        for first in (0..windows.len()).step_by(PIXELS) {
            let first = first.min(windows.len() - PIXELS);
            let mut inputs = [&map[..*span]; PIXELS];
            // A loop instead of `from_fn`, which is compiled apart and without the vector unit.
            for (inputs, window) in inputs.iter_mut().zip(&windows[first..]) {
                *inputs = &map[*window..][..*span];
            }
            for (number, block) in blocks.iter().enumerate() {
                let mut sums = [simd.lanes(block.bias); PIXELS];
                for (offset, weights) in block.offsets.iter().zip(&block.weights) {
                    for (sum, inputs) in sums.iter_mut().zip(inputs) {
                        let inputs: Inputs = inputs[*offset..][..QUAD].try_into().expect("a quad");
                        *sum = sum.add_rows(weights, inputs);
                    }
                }
                for (pixel, sum) in sums.into_iter().enumerate() {
                    accumulators[(first + pixel) * lanes + number * LANES..][..LANES].copy_from_slice(&sum.to_lanes());
                }
            }
        }
    }
}
