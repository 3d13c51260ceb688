//! A batch: which algorithm computes it, and how it is divided among threads.

use std::ops::Range;

use rayon::prelude::*;

use super::algorithm::{Algorithm, Buffers, Direction, GradientSums, WeightSum};
use super::direct::Direct;
use super::geometry::ConvGeometry;
use super::grouped::Grouped;
use super::winograd::Winograd;
use crate::engine::parallel::{in_parts, written_in_parts};

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
        if self.groups > 1 {
            Box::new(Grouped::new(self, w))
        } else if !exact && Winograd::takes(self) {
            Box::new(Winograd::new(self, w, direction))
        } else {
            Box::new(Direct::new(self, w, direction))
        }
    }

    /// Images that a thread works on together where none depends on the others, fewer of them where threads are many, which then read the weights
    /// more often.
    fn images_together(&self, algorithm: &dyn Algorithm) -> usize {
        algorithm.images().min(self.batch.div_ceil(rayon::current_num_threads()))
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
        let images = self.images_together(&*algorithm);
        let (out, results) = written_in_parts(
            self.batch * self.out_len(),
            images * self.out_len(),
            Buffers::default,
            |buffers, part, out| {
                let first = part * images;
                let count = out.len() / self.out_len();
                let out = algorithm.forward(buffers, &x[first * self.in_len()..][..count * self.in_len()], out);
                let images = (first..).zip(out.chunks_mut(self.out_len()));
                let results: Vec<R> = images.map(|(image, out)| finish(image, out)).collect();
                (out, results)
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
        let pass = BackwardPass { conv: self, algorithm: &*algorithm, parts: &parts, x, gradient };
        let (input, sums) = match wanted {
            Gradients { input: true, weight: true } if parts.count() >= rayon::current_num_threads() => {
                let (input, sums) = pass.both();
                (Some(input), sums)
            }
            // Apart, each share of the weights' gradient makes its output's gradient and the transformed input anew: better than threads without work.
            Gradients { input, weight } => {
                (input.then(|| pass.input()), if weight { pass.weights() } else { Vec::new() })
            }
        };
        Gradients { input, weight: wanted.weight.then(|| algorithm.weight_gradient(&sums)) }
    }
}

/// A batch on its way back.
struct BackwardPass<'a, G> {
    conv: &'a ConvGeometry,
    algorithm: &'a dyn Algorithm,
    parts: &'a Parts,
    x: &'a [f32],
    /// Writes the gradient of an image's output.
    gradient: G,
}

impl<G: Fn(usize, &mut [f32]) + Sync + Send> BackwardPass<'_, G> {
    /// The inputs' gradient and each part's sum of the weights'.
    fn both(&self) -> (Vec<f32>, Vec<Vec<f32>>) {
        let [len, part] = [self.conv.batch, self.parts.images].map(|images| images * self.conv.in_len());
        in_parts(len, part, Default::default, |scratch, part, input| {
            let mut sum = vec![0.0; self.algorithm.sum_len()];
            let weights = WeightSum { panels: 0..self.algorithm.panels(), values: &mut sum };
            self.images(scratch, self.parts.range(part), GradientSums { input: Some(input), weights: Some(weights) });
            sum
        })
    }

    /// The inputs' gradient.
    fn input(&self) -> Vec<f32> {
        let images = self.conv.images_together(self.algorithm);
        let [len, part] = [self.conv.batch, images].map(|images| images * self.conv.in_len());
        let input = |scratch: &mut Scratch, part: usize, input: &mut [f32]| {
            let first = part * images;
            let range = first..first + input.len() / self.conv.in_len();
            self.images(scratch, range, GradientSums { input: Some(input), weights: None });
        };
        in_parts(len, part, Default::default, input).0
    }

    /// Each part's sum of the weights' gradient; threads share the panels of a part where parts are too few.
    fn weights(&self) -> Vec<Vec<f32>> {
        let panels = self.algorithm.panels();
        let share = panels.div_ceil(rayon::current_num_threads().div_ceil(self.parts.count()));
        let zeros = |_| vec![0.0; self.algorithm.sum_len()];
        let mut sums: Vec<Vec<f32>> = (0..self.parts.count()).into_par_iter().map(zeros).collect();
        let len = share * (self.algorithm.sum_len() / panels);
        let shares = sums.par_iter_mut().enumerate().flat_map(|(part, sum)| {
            sum.par_chunks_mut(len).enumerate().map(move |(index, values)| (part, index * share, values))
        });
        shares.for_each_init(Default::default, |scratch, (part, first, values)| {
            let weights = WeightSum { panels: first..panels.min(first + share), values };
            self.images(scratch, self.parts.range(part), GradientSums { input: None, weights: Some(weights) });
        });
        sums
    }

    /// Adds what some images mean, a step of them after the other.
    fn images(&self, (buffers, out_gradient): &mut Scratch, range: Range<usize>, mut sums: GradientSums) {
        let conv = self.conv;
        for image in range.clone().step_by(self.parts.step) {
            let count = self.parts.step.min(range.end - image);
            out_gradient.resize(count * conv.out_len(), 0.0);
            for (index, out_gradient) in out_gradient.chunks_mut(conv.out_len()).enumerate() {
                (self.gradient)(image + index, out_gradient);
            }
            let x = &self.x[image * conv.in_len()..][..count * conv.in_len()];
            let place = (image - range.start) * conv.in_len();
            let step = GradientSums {
                input: sums.input.as_deref_mut().map(|input| &mut input[place..][..count * conv.in_len()]),
                weights: sums.weights.as_mut().map(WeightSum::reborrow),
            };
            self.algorithm.backward(buffers, x, out_gradient, step);
        }
    }
}

/// A thread's memory, and the gradient of some outputs.
type Scratch = (Buffers, Vec<f32>);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::conv::geometry::ConvOptions;
    use crate::simd::{Isa, on_each_isa};

    /// Numbers in `-1..1`.
    fn values(len: usize, seed: u32) -> Vec<f32> {
        let mix = |i: u32| (i.wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
        (0..len as u32).map(|i| mix(i) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// An input, weights and an output's gradient.
    fn inputs(conv: &ConvGeometry) -> [Vec<f32>; 3] {
        let lengths = [conv.batch * conv.in_len(), conv.filters * conv.depth(), conv.batch * conv.out_len()];
        [1, 2, 3].map(|seed| values(lengths[seed - 1], seed as u32))
    }

    struct Results<T> {
        out: Vec<T>,
        gradients: Gradients<Vec<T>>,
    }

    /// Pairs of an input, a weight and an output that a convolution multiplies and adds up.
    fn products(conv: &ConvGeometry) -> Vec<[usize; 3]> {
        let ConvGeometry { batch, channels, height, width, filters, stride, padding, groups, .. } = *conv;
        let (depth, in_group) = (channels / groups, filters / groups);
        let mut products = Vec::new();
        for out in 0..batch * conv.out_pixels() {
            let [image, row, column] =
                [out / conv.out_pixels(), out % conv.out_pixels() / conv.out_width(), out % conv.out_width()];
            for tap in 0..conv.taps() {
                let [down, right] = conv.tap(tap);
                let y = (row * stride[0] + down).checked_sub(padding[0][0]).filter(|y| *y < height);
                let x = (column * stride[1] + right).checked_sub(padding[1][0]).filter(|x| *x < width);
                let (Some(y), Some(x)) = (y, x) else { continue };
                for filter in 0..filters {
                    for channel in 0..depth {
                        let own = filter / in_group * depth + channel;
                        let input = ((image * height + y) * width + x) * channels + own;
                        let weight = (filter * depth + channel) * conv.taps() + tap;
                        products.push([input, weight, out * filters + filter]);
                    }
                }
            }
        }
        products
    }

    /// By the definition, in double precision.
    fn definition(conv: &ConvGeometry, [x, w, gradient]: [&[f32]; 3]) -> Results<f64> {
        let mut out = vec![0.0; gradient.len()];
        let mut gradients = Gradients { input: vec![0.0; x.len()], weight: vec![0.0; w.len()] };
        for [input, weight, output] in products(conv) {
            let [value, factor, slope] = [x[input], w[weight], gradient[output]].map(f64::from);
            out[output] += value * factor;
            gradients.input[input] += factor * slope;
            gradients.weight[weight] += value * slope;
        }
        Results { out, gradients }
    }

    fn computed(conv: &ConvGeometry, exact: bool, [x, w, gradient]: [&[f32]; 3]) -> Results<f32> {
        let (out, _) = conv.forward(x, w, exact, |_, _| ());
        let wanted = Gradients { input: true, weight: true };
        let len = conv.out_len();
        let found = conv.backward(x, w, wanted, |image, out| out.copy_from_slice(&gradient[image * len..][..len]));
        Results { out, gradients: Gradients { input: found.input.unwrap(), weight: found.weight.unwrap() } }
    }

    fn assert_same(one: &Results<f32>, other: &Results<f32>, conv: &ConvGeometry) {
        assert!(one.out == other.out, "{conv:?}");
        assert!(one.gradients.input == other.gradients.input, "{conv:?}");
        assert!(one.gradients.weight == other.gradients.weight, "{conv:?}");
    }

    fn assert_near(found: &[f32], expected: &[f64], what: &str) {
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 1e-5 * largest, "{what}, {index}: {found} is not {expected}");
        }
    }

    /// Geometries of both algorithms, with channels that fill registers and that don't. Few and small ones under Miri.
    fn geometries() -> Vec<ConvGeometry> {
        let geometry =
            |[batch, side]: [usize; 2], [channels, filters]: [usize; 2], kernel, [stride, padding]: [usize; 2]| {
                let ConvOptions { stride, padding, dilation, groups } = ConvOptions::square(stride, padding);
                let (height, width) = (side, side + 1);
                ConvGeometry { batch, channels, height, width, filters, kernel, stride, padding, dilation, groups }
            };
        let in_groups = |groups, conv| ConvGeometry { groups, ..conv };
        let dilated = |dilation, conv| ConvGeometry { dilation, ..conv };
        let uneven = |stride, padding, conv| ConvGeometry { stride, padding, ..conv };
        let mut all = vec![
            geometry([1, 3], [8, 8], [3, 3], [1, 1]),
            geometry([2, 3], [2, 3], [2, 1], [2, 0]),
            geometry([1, 2], [64, 4], [1, 1], [1, 0]),
            in_groups(5, geometry([2, 3], [5, 5], [3, 3], [2, 1])),
            in_groups(2, geometry([1, 3], [4, 6], [2, 2], [1, 0])),
            dilated([2, 2], geometry([1, 3], [3, 4], [2, 2], [1, 1])),
            uneven([2, 1], [[2, 0], [0, 1]], geometry([1, 3], [2, 3], [3, 1], [1, 0])),
            // Outputs that see nothing but the border.
            geometry([1, 2], [3, 2], [1, 2], [1, 3]),
            geometry([1, 2], [64, 2], [1, 2], [2, 3]),
            in_groups(2, geometry([1, 2], [4, 2], [1, 2], [1, 3])),
        ];
        if cfg!(not(miri)) {
            all.extend([
                geometry([3, 6], [16, 32], [3, 3], [1, 1]),
                geometry([5, 9], [32, 16], [3, 3], [1, 1]),
                geometry([3, 5], [8, 24], [3, 3], [1, 1]),
                geometry([2, 2], [65, 40], [3, 3], [1, 1]),
                geometry([3, 4], [16, 96], [3, 3], [1, 1]),
                geometry([3, 4], [64, 100], [2, 2], [2, 0]),
                geometry([3, 9], [70, 33], [3, 3], [2, 1]),
                geometry([2, 7], [3, 64], [3, 3], [1, 1]),
                geometry([4, 8], [20, 20], [1, 1], [2, 0]),
                geometry([2, 8], [5, 7], [3, 2], [3, 2]),
                in_groups(48, geometry([5, 7], [48, 48], [3, 3], [1, 1])),
                in_groups(3, geometry([3, 6], [12, 21], [3, 3], [2, 1])),
                in_groups(6, geometry([2, 5], [6, 18], [5, 5], [1, 2])),
                // Winograd's algorithm takes these but for what is added to them.
                dilated([2, 2], geometry([3, 7], [16, 32], [3, 3], [1, 1])),
                uneven([1, 1], [[1, 2], [1, 1]], geometry([2, 7], [16, 16], [3, 3], [1, 1])),
                uneven([1, 2], [[1, 1], [1, 1]], geometry([2, 7], [16, 16], [3, 3], [1, 1])),
                // Each kernel position is a product of its own.
                dilated([1, 3], geometry([2, 8], [64, 20], [3, 3], [1, 2])),
                uneven([2, 1], [[0, 2], [3, 0]], geometry([3, 6], [70, 9], [3, 4], [1, 0])),
                geometry([2, 6], [66, 16], [1, 7], [1, 0]),
                in_groups(
                    4,
                    dilated([3, 1], uneven([1, 2], [[2, 1], [0, 1]], geometry([2, 9], [8, 12], [3, 2], [1, 0]))),
                ),
            ]);
        }
        all
    }

    #[test]
    fn every_instruction_set_computes_the_definition() {
        for conv in geometries() {
            let inputs = inputs(&conv);
            let inputs = inputs.each_ref().map(Vec::as_slice);
            let expected = definition(&conv, inputs);
            for exact in [false, true] {
                for (isa, found) in on_each_isa(|| computed(&conv, exact, inputs)) {
                    let what = format!("{conv:?}, exact {exact}, {isa:?}");
                    assert_near(&found.out, &expected.out, &what);
                    assert_near(&found.gradients.input, &expected.gradients.input, &what);
                    assert_near(&found.gradients.weight, &expected.gradients.weight, &what);
                }
            }
        }
    }

    /// Integers below `2^24` leave nothing to round, so that all instruction sets agree.
    #[test]
    fn exact_sums_of_integers_are_those_of_the_definition() {
        for conv in geometries() {
            let integers =
                |len, seed| values(len, seed).iter().map(|value| (value * 99.0).round()).collect::<Vec<f32>>();
            let x = integers(conv.batch * conv.in_len(), 1);
            let w = integers(conv.filters * conv.depth(), 2);
            let expected = definition(&conv, [&x, &w, &vec![0.0; conv.batch * conv.out_len()]]).out;
            for (isa, (found, _)) in on_each_isa(|| conv.forward(&x, &w, true, |_, _| ())) {
                let found: Vec<f64> = found.into_iter().map(f64::from).collect();
                assert_eq!(found, expected, "{conv:?}, {isa:?}");
            }
        }
    }

    /// What is summed up, and in which order, follows from the shape alone; portable code rounds products too.
    #[test]
    fn avx2_gives_the_bits_of_avx512() {
        for conv in geometries() {
            let inputs = inputs(&conv);
            let found = on_each_isa(|| computed(&conv, false, inputs.each_ref().map(Vec::as_slice)));
            for pair in found.windows(2).filter(|pair| pair[0].0 != Isa::Portable) {
                let [(_, narrow), (_, wide)] = pair else { unreachable!("windows of two") };
                assert_same(narrow, wide, &conv);
            }
        }
    }

    /// Threads share what there is, and sum it up in the same order, however many they are.
    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        for conv in geometries() {
            let inputs = inputs(&conv);
            let found = [1, 2, 3, 5, 16].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| computed(&conv, false, inputs.each_ref().map(Vec::as_slice)))
            });
            found[1..].iter().for_each(|other| assert_same(&found[0], other, &conv));
        }
    }

    #[test]
    fn portable_code_is_always_there() {
        let sets: Vec<Isa> = on_each_isa(|| ()).into_iter().map(|(isa, ())| isa).collect();
        assert_eq!(sets[0], Isa::Portable);
        assert!(sets.is_sorted());
    }
}
