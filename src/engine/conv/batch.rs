//! A batch: which algorithm computes it, and how it is divided among threads.

use std::ops::Range;

use rayon::prelude::*;

use super::algorithm::{Algorithm, Buffers, Direction, GradientSums};
use super::direct::Direct;
use super::geometry::ConvGeometry;
use super::winograd::Winograd;
use crate::engine::parallel::in_parts;

/// Parts of the batch with a weight gradient of their own, at most: fixed, so that the order of sums doesn't depend on threads.
const GRADIENT_PARTS: usize = 16;
/// Floats that the weight gradients of more than two parts may take together.
const GRADIENT_FLOATS: usize = 1 << 24;

/// A gradient of each kind, or whether it is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gradients<T> {
    pub input: T,
    pub weight: T,
}

impl ConvGeometry {
    fn algorithm<'a>(&'a self, w: &[f32], exact: bool, direction: Direction) -> Box<dyn Algorithm + 'a> {
        if !exact && Winograd::takes(self) {
            Box::new(Winograd::new(self, w, direction))
        } else {
            Box::new(Direct::new(self, w, direction))
        }
    }

    /// Outputs `[image][out height][out width][filters]`, and what `finish` gives for each image: it gets the image's index and
    /// its output while it is in the cache.
    ///
    /// `exact`: plain sums in a fixed order.
    pub(crate) fn forward<R: Send>(
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
            Buffers::default,
            |buffers, part, out| -> Vec<R> {
                let first = part * images;
                let count = out.len() / self.out_len();
                algorithm.forward(buffers, &x[first * self.in_len()..][..count * self.in_len()], out);
                (first..).zip(out.chunks_mut(self.out_len())).map(|(image, out)| finish(image, out)).collect()
            },
        );
        (out, results.into_iter().flatten().collect())
    }

    /// The gradients that are wanted; `gradient` writes the gradient of an image's output.
    pub(crate) fn backward(
        &self,
        x: &[f32],
        w: &[f32],
        wanted: Gradients<bool>,
        gradient: impl Fn(usize, &mut [f32]) + Sync + Send,
    ) -> Gradients<Option<Vec<f32>>> {
        let algorithm = self.algorithm(w, false, Direction::InputGradient);
        let parts = Parts::new(self, &*algorithm);
        let part_of_batch = |(buffers, out_gradient): &mut (Buffers, Vec<f32>), part, mut input: Option<&mut [f32]>| {
            let mut sum = vec![0.0; if wanted.weight { algorithm.sum_len() } else { 0 }];
            let range = parts.range(part);
            for image in range.clone().step_by(parts.step) {
                let count = parts.step.min(range.end - image);
                out_gradient.resize(count * self.out_len(), 0.0);
                for (index, out_gradient) in out_gradient.chunks_mut(self.out_len()).enumerate() {
                    gradient(image + index, out_gradient);
                }
                let x = &x[image * self.in_len()..][..count * self.in_len()];
                let place = (image - range.start) * self.in_len();
                let input = input.as_deref_mut().map(|input| &mut input[place..][..count * self.in_len()]);
                let sums = GradientSums { input, weights: wanted.weight.then_some(&mut sum) };
                algorithm.backward(buffers, x, out_gradient, sums);
            }
            sum
        };
        let (input, sums) = if wanted.input {
            let [len, part] = [self.batch, parts.images].map(|images| images * self.in_len());
            let (input, sums) =
                in_parts(len, part, Default::default, |scratch, part, input| part_of_batch(scratch, part, Some(input)));
            (Some(input), sums)
        } else {
            let sums = (0..parts.count()).into_par_iter();
            (None, sums.map_init(Default::default, |scratch, part| part_of_batch(scratch, part, None)).collect())
        };
        Gradients { input, weight: wanted.weight.then(|| algorithm.weight_gradient(&sums)) }
    }
}

/// A batch cut into parts, each with a sum of weight gradients of its own.
struct Parts {
    /// Images of the batch, of a part, and of a step within it: parts are whole steps, so that the last one alone may be smaller.
    batch: usize,
    images: usize,
    step: usize,
}

impl Parts {
    fn new(conv: &ConvGeometry, algorithm: &dyn Algorithm) -> Self {
        let step = algorithm.images();
        let parts = (GRADIENT_FLOATS / algorithm.sum_len()).clamp(2, GRADIENT_PARTS);
        Self { batch: conv.batch, images: conv.batch.div_ceil(step).div_ceil(parts) * step, step }
    }

    fn count(&self) -> usize {
        self.batch.div_ceil(self.images)
    }

    /// Images of a part.
    fn range(&self, part: usize) -> Range<usize> {
        let first = part * self.images;
        first..self.batch.min(first + self.images)
    }
}
