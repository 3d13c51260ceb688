//! Direct convolution over batches of pictures on the CPU, forward and backward, built on the kernels.

use rayon::prelude::*;

use super::kernel::{Pass, accumulate, correlate, tile_width};

/// Geometry of a batch convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conv {
    pub batch: usize,
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    pub filters: usize,
    pub kernel: [usize; 2],
    pub stride: usize,
    pub padding: usize,
}

/// Parts that the batch is divided into for the weight gradient: fixed, so that the sums' order doesn't depend on threads.
const GRADIENT_CHUNKS: usize = 8;

impl Conv {
    pub(super) fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel[0]) / self.stride + 1
    }

    pub(super) fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel[1]) / self.stride + 1
    }

    fn out_pixels(&self) -> usize {
        self.out_height() * self.out_width()
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn image_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    fn out_len(&self) -> usize {
        self.filters * self.out_pixels()
    }

    fn padded_width(&self) -> usize {
        self.width + 2 * self.padding
    }

    fn padded_plane(&self) -> usize {
        (self.height + 2 * self.padding) * self.padded_width()
    }

    /// Offset of each kernel position within a padded plane.
    fn offsets(&self) -> Vec<usize> {
        let [rows, cols] = self.kernel;
        (0..rows)
            .flat_map(|ky| (0..cols).map(move |kx| (ky, kx)))
            .map(|(ky, kx)| ky * self.padded_width() + kx)
            .collect()
    }

    fn forward_pass<'a>(&self, padded: &'a [f32], offsets: &'a [usize]) -> Pass<'a> {
        Pass {
            input: padded,
            plane: self.padded_plane(),
            channels: self.channels,
            offsets,
            rows: self.out_height(),
            cols: self.out_width(),
            row_step: self.stride * self.padded_width(),
            col_step: self.stride,
        }
    }

    /// Output `[batch, filters, out_height, out_width]` of input `x` `[batch, channels, height, width]` and weights `w`
    /// `[filters, channels, kernel height, kernel width]`.
    pub(super) fn forward(&self, x: &[f32], w: &[f32]) -> Vec<f32> {
        let taps = self.taps();
        let width = tile_width(self.filters);
        let packed = pack(self.filters, self.channels, taps, width, |filter, channel, tap| {
            w[(filter * self.channels + channel) * taps + tap]
        });
        let offsets = self.offsets();
        let mut out = vec![0.0; self.batch * self.out_len()];
        out.par_chunks_mut(self.out_len()).zip(x.par_chunks(self.image_len())).for_each_init(
            || (vec![0.0; self.channels * self.padded_plane()], vec![0.0; self.out_pixels() * width]),
            |(padded, tile), (out, image)| {
                self.pad(image, padded);
                let pass = self.forward_pass(padded, &offsets);
                for (block, weights) in packed.iter().enumerate() {
                    correlate(&pass, weights, width, tile);
                    let first = block * width;
                    let planes = out.chunks_mut(self.out_pixels()).skip(first).take(width);
                    for (m, plane) in planes.enumerate() {
                        for (value, lanes) in plane.iter_mut().zip(tile.chunks(width)) {
                            *value = lanes[m];
                        }
                    }
                }
            },
        );
        out
    }

    /// Gradient of the input, `[batch, channels, height, width]`, from that of the output.
    pub(super) fn input_gradient(&self, w: &[f32], out_gradient: &[f32]) -> Vec<f32> {
        let phases: Vec<Phase> = (0..self.stride)
            .flat_map(|a| (0..self.stride).map(move |b| (a, b)))
            .filter_map(|(a, b)| Phase::new(self, a, b, w))
            .collect();
        let width = tile_width(self.channels);
        let margin = self.margin();
        let (out_height, out_width) = (self.out_height(), self.out_width());
        let (bordered_height, bordered_width) = self.bordered();
        let plane = bordered_height * bordered_width;
        let mut gradient = vec![0.0; self.batch * self.image_len()];
        gradient.par_chunks_mut(self.image_len()).zip(out_gradient.par_chunks(self.out_len())).for_each_init(
            || (vec![0.0; self.filters * plane], Vec::new()),
            |(bordered, tile), (gradient, out_gradient)| {
                for (to, from) in bordered.chunks_mut(plane).zip(out_gradient.chunks(out_height * out_width)) {
                    for (row, from) in from.chunks(out_width).enumerate() {
                        to[(margin[0] + row) * bordered_width + margin[1]..][..out_width].copy_from_slice(from);
                    }
                }
                for phase in &phases {
                    let pass = Pass {
                        input: bordered,
                        plane,
                        channels: self.filters,
                        offsets: &phase.offsets,
                        rows: phase.rows,
                        cols: phase.cols,
                        row_step: bordered_width,
                        col_step: 1,
                    };
                    tile.resize(phase.rows * phase.cols * width, 0.0);
                    for (block, weights) in phase.weights.iter().enumerate() {
                        correlate(&pass, weights, width, tile);
                        let first = block * width;
                        let planes = gradient.chunks_mut(self.height * self.width).skip(first).take(width);
                        for (m, plane) in planes.enumerate() {
                            for (row, lanes) in tile.chunks(phase.cols * width).enumerate() {
                                let line =
                                    &mut plane[(phase.first[0] + self.stride * row) * self.width..][..self.width];
                                let pixels = line[phase.first[1]..].iter_mut().step_by(self.stride);
                                for (value, lanes) in pixels.zip(lanes.chunks(width)) {
                                    *value = lanes[m];
                                }
                            }
                        }
                    }
                }
            },
        );
        gradient
    }

    /// Gradient of the weights, `[filters, channels, kernel height, kernel width]`.
    pub(super) fn weight_gradient(&self, x: &[f32], out_gradient: &[f32]) -> Vec<f32> {
        let taps = self.taps();
        let width = tile_width(self.filters);
        let blocks = self.filters.div_ceil(width);
        let block_len = self.channels * taps * width;
        let offsets = self.offsets();
        let images = self.batch.div_ceil(GRADIENT_CHUNKS);
        let sums: Vec<Vec<f32>> = x
            .par_chunks(images * self.image_len())
            .zip(out_gradient.par_chunks(images * self.out_len()))
            .map(|(images, out_gradients)| {
                let mut sum = vec![0.0; blocks * block_len];
                let mut padded = vec![0.0; self.channels * self.padded_plane()];
                let mut lanes = vec![0.0; self.out_pixels() * width];
                for (image, out_gradient) in images.chunks(self.image_len()).zip(out_gradients.chunks(self.out_len())) {
                    self.pad(image, &mut padded);
                    let pass = self.forward_pass(&padded, &offsets);
                    for (block, sum) in sum.chunks_mut(block_len).enumerate() {
                        let planes = out_gradient.chunks(self.out_pixels()).skip(block * width).take(width);
                        for (m, plane) in planes.enumerate() {
                            for (lanes, value) in lanes.chunks_mut(width).zip(plane) {
                                lanes[m] = *value;
                            }
                        }
                        accumulate(&pass, &lanes, width, sum);
                    }
                }
                sum
            })
            .collect();
        let mut gradient = vec![0.0; self.filters * self.channels * taps];
        for (filter, gradient) in gradient.chunks_mut(self.channels * taps).enumerate() {
            let (block, lane) = (filter / width, filter % width);
            for (row, gradient) in gradient.iter_mut().enumerate() {
                *gradient = sums.iter().map(|sum| sum[block * block_len + row * width + lane]).sum();
            }
        }
        gradient
    }

    fn pad(&self, image: &[f32], padded: &mut [f32]) {
        // Borders were zero when the buffer was made and nothing writes there.
        for (to, from) in padded.chunks_mut(self.padded_plane()).zip(image.chunks(self.height * self.width)) {
            for (row, from) in from.chunks(self.width).enumerate() {
                to[(self.padding + row) * self.padded_width() + self.padding..][..self.width].copy_from_slice(from);
            }
        }
    }

    /// Zero rows and columns before the output gradient, as many as the kernel can reach back.
    fn margin(&self) -> [usize; 2] {
        [self.kernel[0] - 1, self.kernel[1] - 1]
    }

    /// Height and width of the output gradient with its margins.
    fn bordered(&self) -> (usize, usize) {
        let reach = |size: usize| (size - 1 + self.padding) / self.stride + 1;
        let [top, left] = self.margin();
        (top + self.out_height().max(reach(self.height)), left + self.out_width().max(reach(self.width)))
    }
}

/// The input pixels `(first + stride * i)`, which the same kernel positions reach.
struct Phase {
    first: [usize; 2],
    rows: usize,
    cols: usize,
    offsets: Vec<usize>,
    /// Packed `[filters][taps of the phase][input channels]`.
    weights: Vec<Vec<f32>>,
}

impl Phase {
    /// `None` where no kernel position reaches: the gradient stays zero.
    fn new(conv: &Conv, a: usize, b: usize, w: &[f32]) -> Option<Self> {
        // Input row i = a + s q is reached from output row q + (a + p - k) / s by the kernel rows k = a + p (mod s).
        let reach = |first: usize, kernel: usize, margin: usize| -> Vec<(usize, usize)> {
            (0..kernel)
                .filter(|k| (first + conv.padding + conv.stride * kernel - k).is_multiple_of(conv.stride))
                .map(|k| {
                    let steps = (first + conv.padding) as isize - k as isize;
                    (k, (margin as isize + steps.div_euclid(conv.stride as isize)) as usize)
                })
                .collect()
        };
        let [top, left] = conv.margin();
        let (rows, cols) = (reach(a, conv.kernel[0], top), reach(b, conv.kernel[1], left));
        if rows.is_empty() || cols.is_empty() || a >= conv.height || b >= conv.width {
            return None;
        }
        let (_, bordered_width) = conv.bordered();
        let taps: Vec<(usize, usize)> = rows
            .iter()
            .flat_map(|&(ky, row)| {
                cols.iter().map(move |&(kx, col)| (ky * conv.kernel[1] + kx, row * bordered_width + col))
            })
            .collect();
        let weights =
            pack(conv.channels, conv.filters, taps.len(), tile_width(conv.channels), |channel, filter, tap| {
                w[(filter * conv.channels + channel) * conv.taps() + taps[tap].0]
            });
        Some(Self {
            first: [a, b],
            rows: (conv.height - a).div_ceil(conv.stride),
            cols: (conv.width - b).div_ceil(conv.stride),
            offsets: taps.into_iter().map(|(_, offset)| offset).collect(),
            weights,
        })
    }
}

/// Weights in blocks of `width` outputs, each `[inputs][taps][width]`, zeros where outputs are left over.
fn pack(
    outputs: usize,
    inputs: usize,
    taps: usize,
    width: usize,
    weight: impl Fn(usize, usize, usize) -> f32,
) -> Vec<Vec<f32>> {
    (0..outputs.div_ceil(width))
        .map(|block| {
            let mut packed = vec![0.0; inputs * taps * width];
            for (index, lanes) in packed.chunks_mut(width).enumerate() {
                for (lane, output) in lanes.iter_mut().zip(block * width..outputs) {
                    *lane = weight(output, index / taps, index % taps);
                }
            }
            packed
        })
        .collect()
}
