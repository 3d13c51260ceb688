//! Convolution by the direct sum, for any kernel, stride, dilation and padding: matrix products that read the images in place.
//!
//! A kernel position pairs pixels of the input with pixels of the output, and is a matrix product over them. With many channels
//! each position is a product of its own, over those outputs whose input lies on the map; with few channels the products
//! would be short, so that one product takes all positions, from a copy of the image with zeros around.
//!
//! The order of each sum is fixed: exact for integers as long as they stay below `2^24`.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::algorithm::{Algorithm, Buffers, Direction, GradientSums, WeightSum};
use super::geometry::ConvGeometry;
use super::product::{Axis, COLUMNS, ONCE, Product};
use crate::engine::parallel::{in_parts, zeroed};

/// Pixels that are worked on together.
const PIXELS: usize = 512;
/// Channels from which each kernel position has its own product.
const MANY_CHANNELS: usize = 64;
/// Floats between pixels whose distance would otherwise be a power of two, so that they don't fall on the same lines of the cache.
const GAP: usize = 16;

/// A convolution as matrix products, its weights in panels.
pub(super) struct Direct<'a> {
    conv: &'a ConvGeometry,
    /// Forward, `[filters / panel][taps * channels][panel]`; for the input's gradient, `[channels / panel][taps][filters][panel]`.
    weights: Vec<f32>,
    /// Products for the output and for the weights' gradient.
    sums: Vec<Pairs>,
    /// Products for the input's gradient, one for each kernel position.
    taps: Vec<Pairs>,
}

/// Pixels of the input and of the output that a product pairs.
struct Pairs {
    /// Kernel positions in it.
    taps: Range<usize>,
    /// What the first output pixel reads: where each run of floats starts, in pixels of the input.
    runs: Vec<usize>,
    /// Floats in a run.
    run: usize,
    /// Rows of output pixels of an image.
    rows: usize,
    /// Output pixels in a row.
    columns: usize,
    /// The first pixel of the input for each row of the images.
    inputs: Vec<usize>,
    /// The first output pixel of each row.
    outputs: Vec<usize>,
}

/// Input pixels as they lie in memory.
#[derive(Clone, Copy)]
struct Frame {
    height: usize,
    width: usize,
    /// Zeros above the map and on its left.
    border: [usize; 2],
    /// Floats from pixel to pixel.
    pitch: usize,
}

impl Frame {
    fn len(&self) -> usize {
        self.height * self.width * self.pitch
    }

    /// Copies images of `channels` into a frame.
    fn fill(&self, conv: &ConvGeometry, images: &[f32], frame: &mut Vec<f32>) {
        let row = conv.width * conv.channels;
        frame.clear();
        frame.resize(images.len() / conv.in_len() * self.len(), 0.0);
        for (image, frame) in images.chunks(conv.in_len()).zip(frame.chunks_mut(self.len())) {
            for (y, row) in image.chunks(row).enumerate() {
                let [top, left] = self.border;
                let to = &mut frame[((y + top) * self.width + left) * self.pitch..];
                if self.pitch == conv.channels {
                    to[..row.len()].copy_from_slice(row);
                } else {
                    for (to, pixel) in to.chunks_mut(self.pitch).zip(row.chunks(conv.channels)) {
                        to[..pixel.len()].copy_from_slice(pixel);
                    }
                }
            }
        }
    }
}

impl<'a> Direct<'a> {
    pub(super) fn new(conv: &'a ConvGeometry, w: &[f32], direction: Direction) -> Self {
        let taps = || (0..conv.taps()).map(|tap| Pairs::of_tap(conv, tap)).collect();
        Self {
            conv,
            weights: weights(conv, w, direction),
            sums: if many_channels(conv) { taps() } else { vec![Pairs::of_all_taps(conv)] },
            taps: if direction == Direction::InputGradient { taps() } else { Vec::new() },
        }
    }

    /// Filters with those that fill the last panel.
    fn padded_filters(&self) -> usize {
        self.conv.filters.next_multiple_of(panel(self.conv.filters))
    }

    /// `out += ` the convolution of `x`, whose pixels lie as in `frame`; `out` has whole panels of filters.
    fn add_sums(&self, x: &[f32], images: usize, out: &mut [f32]) {
        let (pitch, filters) = (self.conv.channels, self.padded_filters());
        let (panel, depth) = (panel(self.conv.filters), self.conv.depth());
        for (index, weights) in self.weights.chunks(depth * panel).enumerate() {
            for pairs in &self.sums {
                let rows = ..images * pairs.rows;
                let first = pairs.taps.start * self.conv.channels;
                let b_runs: Vec<usize> = (0..pairs.runs.len()).collect();
                Product {
                    a: x,
                    rows: pairs.inputs(rows, self.conv.stride[1] * pitch, pitch),
                    depth: Axis { starts: &pairs.runs, unit: pitch, len: pairs.run, step: 1 },
                    b: &weights[first * panel..],
                    b_rows: Axis { starts: &b_runs, unit: pairs.run * panel, len: pairs.run, step: panel },
                    c: &mut out[index * panel..],
                    c_rows: pairs.outputs(rows, filters),
                    width: panel,
                    accumulate: true,
                    repeats: ONCE,
                }
                .compute();
            }
        }
    }

    /// Adds the gradient of the inputs, pixels `pitch` apart.
    fn add_input_gradient(&self, out_gradient: &[f32], images: usize, pitch: usize, input: &mut [f32]) {
        let ConvGeometry { channels, filters, stride, .. } = *self.conv;
        let panel = panel(channels);
        for (tap, pairs) in self.taps.iter().enumerate() {
            let rows = ..images * pairs.rows;
            for (index, weights) in self.weights.chunks(self.taps.len() * filters * panel).enumerate() {
                Product {
                    a: out_gradient,
                    rows: pairs.outputs(rows, filters),
                    depth: Axis::line(filters, 1),
                    b: &weights[tap * filters * panel..][..filters * panel],
                    b_rows: Axis::line(filters, panel),
                    c: &mut input[index * panel..],
                    c_rows: pairs.inputs(rows, stride[1] * pitch, pitch),
                    width: panel,
                    accumulate: true,
                    repeats: ONCE,
                }
                .compute();
            }
        }
    }

    /// Adds the gradient of the weights, `[filters / panel][taps * channels][panel]`, from output gradients in panels.
    fn add_weight_gradient(&self, x: &[f32], pitch: usize, gradients: &[f32], images: usize, sum: &mut [f32]) {
        let conv = self.conv;
        let (panel, depth) = (panel(conv.filters), conv.depth());
        for pairs in &self.sums {
            // Few enough pixels for the cache.
            let step = (PIXELS / pairs.columns.max(1)).max(1);
            let rows = images * pairs.rows;
            for first in (0..rows).step_by(step) {
                let block = first..rows.min(first + step);
                let of_panels = gradients.chunks(images * conv.out_pixels() * panel);
                for (b, c) in of_panels.zip(sum.chunks_mut(depth * panel)) {
                    let length = pairs.runs.len() * pairs.run;
                    Product {
                        a: x,
                        rows: Axis { starts: &pairs.runs, unit: pitch, len: pairs.run, step: 1 },
                        depth: pairs.inputs(block.clone(), conv.stride[1] * pitch, pitch),
                        b,
                        b_rows: pairs.outputs(block.clone(), panel),
                        c: &mut c[pairs.taps.start * conv.channels * panel..],
                        c_rows: Axis::line(length, panel),
                        width: panel,
                        accumulate: true,
                        repeats: ONCE,
                    }
                    .compute();
                }
            }
        }
    }
}

fn many_channels(conv: &ConvGeometry) -> bool {
    conv.channels >= MANY_CHANNELS
}

/// Where [`Direct::sums`] read the input.
fn frame(conv: &ConvGeometry) -> Frame {
    let (height, width, pitch) = (conv.height, conv.width, conv.channels);
    if many_channels(conv) {
        return Frame { height, width, border: [0; 2], pitch };
    }
    let [[top, _], [left, _]] = conv.padding;
    Frame { height: conv.bordered(0), width: conv.bordered(1), border: [top, left], pitch }
}

/// Images that are worked on together.
fn images(conv: &ConvGeometry) -> usize {
    conv.images_for(PIXELS, conv.out_pixels())
}

impl Pairs {
    /// The outputs whose input at one kernel position lies on the map.
    fn of_tap(conv: &ConvGeometry, tap: usize) -> Self {
        let [[top, _], [left, _]] = conv.padding;
        let reach = |offset: usize, before: usize, stride: usize, size: usize, out: usize| {
            let first = before.saturating_sub(offset).div_ceil(stride);
            let end = (size + before).saturating_sub(offset).div_ceil(stride).min(out);
            first.min(end)..end
        };
        let [y, x] = conv.tap(tap);
        let rows = reach(y, top, conv.stride[0], conv.height, conv.out_height());
        let columns = reach(x, left, conv.stride[1], conv.width, conv.out_width());
        let count = if columns.is_empty() { 0 } else { images(conv) };
        let places = || (0..count).flat_map(|image| rows.clone().map(move |row| (image, row)));
        let input = |(image, row): (usize, usize)| {
            let row = image * conv.height + row * conv.stride[0] + y - top;
            row * conv.width + columns.start * conv.stride[1] + x - left
        };
        let output =
            |(image, row): (usize, usize)| (image * conv.out_height() + row) * conv.out_width() + columns.start;
        Self {
            taps: tap..tap + 1,
            runs: vec![0],
            run: conv.channels,
            rows: if columns.is_empty() { 0 } else { rows.len() },
            columns: columns.len(),
            inputs: places().map(input).collect(),
            outputs: places().map(output).collect(),
        }
    }

    /// All outputs at all kernel positions, zeros included.
    fn of_all_taps(conv: &ConvGeometry) -> Self {
        let (frame, height) = (frame(conv), conv.out_height());
        let places = || (0..images(conv)).flat_map(|image| (0..height).map(move |row| (image, row)));
        // Neighbors in a row of the kernel lie behind each other, unless it is dilated.
        let together = if conv.dilation[1] == 1 { conv.kernel[1] } else { 1 };
        let place = |[row, column]: [usize; 2]| row * frame.width + column;
        Self {
            taps: 0..conv.taps(),
            runs: (0..conv.taps()).step_by(together).map(|tap| place(conv.tap(tap))).collect(),
            run: together * conv.channels,
            rows: height,
            columns: conv.out_width(),
            inputs: places().map(|(image, row)| (image * frame.height + row * conv.stride[0]) * frame.width).collect(),
            outputs: places().map(|(image, row)| (image * height + row) * conv.out_width()).collect(),
        }
    }

    fn inputs<R>(&self, rows: R, step: usize, pitch: usize) -> Axis<'_>
    where
        R: std::slice::SliceIndex<[usize], Output = [usize]>,
    {
        Axis { starts: &self.inputs[rows], unit: pitch, len: self.columns, step }
    }

    fn outputs<R>(&self, rows: R, pitch: usize) -> Axis<'_>
    where
        R: std::slice::SliceIndex<[usize], Output = [usize]>,
    {
        Axis { starts: &self.outputs[rows], unit: pitch, len: self.columns, step: pitch }
    }
}

/// Weights `[filters][channels][taps]` in panels; zeros in left-over columns.
fn weights(conv: &ConvGeometry, w: &[f32], direction: Direction) -> Vec<f32> {
    let ConvGeometry { channels, filters, .. } = *conv;
    let (taps, depth) = (conv.taps(), conv.depth());
    match direction {
        Direction::Forward => {
            let panel = panel(filters);
            let fill = |(): &mut (), index: usize, part: &mut [f32]| {
                let kernels = w[index * panel * depth..].chunks(depth).take(panel);
                for block in blocks(channels) {
                    for (lane, kernels) in kernels.clone().enumerate() {
                        for channel in block.clone() {
                            for (tap, weight) in kernels[channel * taps..][..taps].iter().enumerate() {
                                part[(tap * channels + channel) * panel + lane] = *weight;
                            }
                        }
                    }
                }
            };
            in_parts(filters.next_multiple_of(panel) * depth, depth * panel, || (), fill).0
        }
        Direction::InputGradient => {
            let panel = panel(channels);
            let fill = |(): &mut (), index: usize, part: &mut [f32]| {
                let lanes = index * panel..channels.min((index + 1) * panel);
                for (filter, kernels) in w.chunks(depth).enumerate() {
                    for (lane, channel) in lanes.clone().enumerate() {
                        for (tap, weight) in kernels[channel * taps..][..taps].iter().enumerate() {
                            part[(tap * filters + filter) * panel + lane] = *weight;
                        }
                    }
                }
            };
            in_parts(channels.next_multiple_of(panel) * taps * filters, taps * filters * panel, || (), fill).0
        }
    }
}

/// Channels whose weights stay in the cache while the filters of a panel are interleaved.
fn blocks(channels: usize) -> impl Iterator<Item = Range<usize>> {
    const BLOCK: usize = 16;
    (0..channels).step_by(BLOCK).map(move |first| first..channels.min(first + BLOCK))
}

/// Columns of a panel for matrices of `columns` columns: the same for all instruction sets, as what is summed up together follows
/// from the panels' size.
fn panel(columns: usize) -> usize {
    if columns > COLUMNS { 2 * COLUMNS } else { COLUMNS }
}

/// Copies some panels of rows of `columns`.
fn pack(values: &[f32], columns: usize, wanted: Range<usize>, panels: &mut Vec<f32>) {
    let (panel, rows) = (panel(columns), values.len() / columns);
    panels.clear();
    panels.resize(wanted.len() * panel * rows, 0.0);
    for (index, panels) in wanted.zip(panels.chunks_mut(rows * panel)) {
        let first = index * panel;
        let count = panel.min(columns - first);
        for (to, row) in panels.chunks_mut(panel).zip(values.chunks(columns)) {
            to[..count].copy_from_slice(&row[first..][..count]);
        }
    }
}

impl Algorithm for Direct<'_> {
    fn images(&self) -> usize {
        images(self.conv)
    }

    fn forward<'o>(&self, buffers: &mut Buffers, x: &[f32], out: &'o mut [MaybeUninit<f32>]) -> &'o mut [f32] {
        let images = x.len() / self.conv.in_len();
        let Buffers { input: framed, output: sums } = buffers;
        let frame = frame(self.conv);
        let x = if frame.len() == self.conv.in_len() {
            x
        } else {
            frame.fill(self.conv, x, framed);
            framed
        };
        let out = zeroed(out);
        let (filters, padded) = (self.conv.filters, self.padded_filters());
        if filters == padded {
            self.add_sums(x, images, out);
            return out;
        }
        sums.clear();
        sums.resize(out.len() / filters * padded, 0.0);
        self.add_sums(x, images, sums);
        for (out, sums) in out.chunks_mut(filters).zip(sums.chunks(padded)) {
            out.copy_from_slice(&sums[..filters]);
        }
        out
    }

    fn sum_len(&self) -> usize {
        self.conv.depth() * self.padded_filters()
    }

    fn panels(&self) -> usize {
        self.padded_filters() / panel(self.conv.filters)
    }

    fn backward(&self, buffers: &mut Buffers, x: &[f32], out_gradient: &[f32], sums: GradientSums) {
        let images = x.len() / self.conv.in_len();
        let Buffers { input: framed, output: gradients } = buffers;
        if let Some(input) = sums.input {
            let channels = self.conv.channels;
            let pitch = channels.next_multiple_of(panel(channels));
            if pitch == channels {
                self.add_input_gradient(out_gradient, images, pitch, input);
            } else {
                framed.clear();
                framed.resize(input.len() / channels * pitch, 0.0);
                self.add_input_gradient(out_gradient, images, pitch, framed);
                for (to, from) in input.chunks_mut(channels).zip(framed.chunks(pitch)) {
                    to.copy_from_slice(&from[..channels]);
                }
            }
        }
        if let Some(WeightSum { panels, values }) = sums.weights {
            let mut frame = frame(self.conv);
            frame.pitch += if many_channels(self.conv) { GAP } else { 0 };
            frame.fill(self.conv, x, framed);
            pack(out_gradient, self.conv.filters, panels, gradients);
            self.add_weight_gradient(framed, frame.pitch, gradients, images, values);
        }
    }

    fn weight_gradient(&self, sums: &[Vec<f32>]) -> Vec<f32> {
        let (channels, taps, depth) = (self.conv.channels, self.conv.taps(), self.conv.depth());
        let panel = panel(self.conv.filters);
        let fill = |total: &mut Vec<f32>, index: usize, out: &mut [f32]| {
            for block in blocks(channels) {
                // `[tap][channel][lane]`.
                total.clear();
                for tap in 0..taps {
                    let place = ((index * taps + tap) * channels + block.start) * panel;
                    let (start, len) = (total.len(), block.len() * panel);
                    total.extend_from_slice(&sums[0][place..][..len]);
                    for sum in &sums[1..] {
                        for (total, value) in total[start..].iter_mut().zip(&sum[place..][..len]) {
                            *total += value;
                        }
                    }
                }
                for (lane, out) in out.chunks_mut(depth).enumerate() {
                    let out = out[block.start * taps..block.end * taps].chunks_mut(taps).enumerate();
                    for (channel, kernel) in out {
                        for (tap, weight) in kernel.iter_mut().enumerate() {
                            *weight = total[(tap * block.len() + channel) * panel + lane];
                        }
                    }
                }
            }
        };
        in_parts(self.conv.filters * depth, panel * depth, Vec::new, fill).0
    }
}
