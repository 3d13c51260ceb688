//! Convolution of batches of pictures on the CPU, forward and backward: geometry, choice of algorithm, division among threads.
//!
//! Pictures are `[image][height][width][channels]`, weights `[filters][channels][kernel height][kernel width]`.

use rayon::prelude::*;

use super::direct::Direct;
use super::parallel::in_parts;
use super::winograd::Winograd;

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

/// Parts of the batch with a weight gradient of their own, at most: fixed, so that the order of sums doesn't depend on threads.
const GRADIENT_PARTS: usize = 16;
/// Floats that the weight gradients of more than two parts may take together.
const GRADIENT_FLOATS: usize = 1 << 24;

/// A way to compute a convolution, with its weights prepared.
pub(super) trait Algorithm: Sync {
    /// Images that a thread works on together.
    fn images(&self) -> usize;

    /// Outputs of some images; `buffers` are scratch, `out` is zero.
    fn forward(&self, buffers: &mut [Vec<f32>; 2], x: &[f32], out: &mut [f32]);

    /// Floats of a sum of weight gradients, in the algorithm's own order.
    fn sum_len(&self) -> usize;

    /// Adds what the output gradients of some images mean for their inputs, where `input` is there, and for the weights, where
    /// `weights` is there. `input` is zero.
    fn backward(
        &self,
        buffers: &mut [Vec<f32>; 2],
        x: &[f32],
        out_gradient: &[f32],
        input: Option<&mut [f32]>,
        weights: Option<&mut [f32]>,
    );

    /// The weights' gradient from the sums of all parts.
    fn weight_gradient(&self, sums: &[Vec<f32>]) -> Vec<f32>;
}

/// What an algorithm prepares the weights for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    InputGradient,
}

impl Conv {
    pub(super) fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel[0]) / self.stride + 1
    }

    pub(super) fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel[1]) / self.stride + 1
    }

    pub(super) fn out_pixels(&self) -> usize {
        self.out_height() * self.out_width()
    }

    /// Kernel positions.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Products that an output adds up.
    pub(super) fn depth(&self) -> usize {
        self.taps() * self.channels
    }

    /// Floats of an input.
    pub(super) fn in_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Floats of an output.
    pub(super) fn out_len(&self) -> usize {
        self.filters * self.out_pixels()
    }

    /// Images that give `rows` rows of a matrix with `rows_of_image` rows for each, but in two parts of the batch at least.
    pub(super) fn images_for(&self, rows: usize, rows_of_image: usize) -> usize {
        (rows / rows_of_image).clamp(1, self.batch.div_ceil(2))
    }

    fn algorithm<'a>(&'a self, w: &[f32], exact: bool, direction: Direction) -> Box<dyn Algorithm + 'a> {
        if !exact && Winograd::takes(self) {
            Box::new(Winograd::new(self, w, direction))
        } else {
            Box::new(Direct::new(self, w, direction))
        }
    }

    /// Outputs `[image][out height][out width][filters]`. `finish` gets the index of an image and its output while it is in the cache.
    ///
    /// `exact`: plain sums in a fixed order.
    pub(super) fn forward<R: Send>(
        &self,
        x: &[f32],
        w: &[f32],
        exact: bool,
        finish: impl Fn(usize, &mut [f32]) -> R + Sync + Send,
    ) -> (Vec<f32>, Vec<R>) {
        let algorithm = self.algorithm(w, exact, Direction::Forward);
        let images = algorithm.images();
        let (out, results) = in_parts(
            self.batch * self.out_len(),
            images * self.out_len(),
            Default::default,
            |buffers, part, out| -> Vec<R> {
                let first = part * images;
                let count = out.len() / self.out_len();
                algorithm.forward(buffers, &x[first * self.in_len()..][..count * self.in_len()], out);
                (first..).zip(out.chunks_mut(self.out_len())).map(|(image, out)| finish(image, out)).collect()
            },
        );
        (out, results.into_iter().flatten().collect())
    }

    /// Gradients of the input and of the weights, as far as they are wanted. `gradient` writes the gradient of an image's output.
    pub(super) fn backward(
        &self,
        x: &[f32],
        w: &[f32],
        wanted: [bool; 2],
        gradient: impl Fn(usize, &mut [f32]) + Sync + Send,
    ) -> [Option<Vec<f32>>; 2] {
        let algorithm = self.algorithm(w, false, Direction::InputGradient);
        let images = algorithm.images();
        let parts = (GRADIENT_FLOATS / algorithm.sum_len()).clamp(2, GRADIENT_PARTS);
        // Whole steps of `images`, so that the last one alone may be smaller.
        let part_images = self.batch.div_ceil(images).div_ceil(parts) * images;
        let part_of_batch =
            |(buffers, out_gradient): &mut ([Vec<f32>; 2], Vec<f32>), part, input: Option<&mut [f32]>| {
                let mut sum = vec![0.0; if wanted[1] { algorithm.sum_len() } else { 0 }];
                let mut input = input;
                let first = part * part_images;
                let end = self.batch.min(first + part_images);
                for image in (first..end).step_by(images) {
                    let count = images.min(end - image);
                    out_gradient.resize(count * self.out_len(), 0.0);
                    for (index, out_gradient) in out_gradient.chunks_mut(self.out_len()).enumerate() {
                        gradient(image + index, out_gradient);
                    }
                    let x = &x[image * self.in_len()..][..count * self.in_len()];
                    let place = (image - first) * self.in_len();
                    let input = input.as_deref_mut().map(|input| &mut input[place..][..count * self.in_len()]);
                    algorithm.backward(buffers, x, out_gradient, input, wanted[1].then_some(&mut sum));
                }
                sum
            };
        let scratch = Default::default;
        let (input, sums) = if wanted[0] {
            let (input, sums) =
                in_parts(self.batch * self.in_len(), part_images * self.in_len(), scratch, |scratch, part, input| {
                    part_of_batch(scratch, part, Some(input))
                });
            (Some(input), sums)
        } else {
            let parts = 0..self.batch.div_ceil(part_images);
            let sums =
                parts.into_par_iter().map_init(scratch, |scratch, part| part_of_batch(scratch, part, None)).collect();
            (None, sums)
        };
        [input, wanted[1].then(|| algorithm.weight_gradient(&sums))]
    }
}
