//! What a way to compute a convolution has to offer.

use std::mem::MaybeUninit;
use std::ops::Range;

/// A way to compute a convolution, with its weights prepared.
pub(super) trait Algorithm: Sync {
    /// Images that a thread works on together.
    fn images(&self) -> usize;

    /// Writes the outputs of some images.
    fn forward<'o>(&self, buffers: &mut Buffers, x: &[f32], out: &'o mut [MaybeUninit<f32>]) -> &'o mut [f32];

    /// Floats of a sum of weight gradients, in the algorithm's own order.
    fn sum_len(&self) -> usize;

    /// Panels of filters that such a sum consists of, of one size and behind each other: what threads can share.
    fn panels(&self) -> usize;

    /// Adds what the output gradients of some images mean for their inputs and for the weights.
    fn backward(&self, buffers: &mut Buffers, x: &[f32], out_gradient: &[f32], sums: GradientSums);

    /// The weights' gradient from the sums of all parts.
    fn weight_gradient(&self, sums: &[Vec<f32>]) -> Vec<f32>;
}

/// A thread's memory.
#[derive(Default)]
pub(super) struct Buffers {
    /// For what is made of the inputs.
    pub input: Vec<f32>,
    /// For what is made of the outputs.
    pub output: Vec<f32>,
}

/// Where gradients go, as far as they are wanted.
pub(super) struct GradientSums<'a> {
    /// Of the inputs of some images; zero before.
    pub input: Option<&'a mut [f32]>,
    /// Of the weights.
    pub weights: Option<WeightSum<'a>>,
}

/// A sum of weight gradients, or some panels of it.
pub(super) struct WeightSum<'a> {
    /// Which of the algorithm's panels.
    pub panels: Range<usize>,
    /// In the algorithm's own order.
    pub values: &'a mut [f32],
}

impl WeightSum<'_> {
    /// The same sum, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> WeightSum<'_> {
        WeightSum { panels: self.panels.clone(), values: self.values }
    }
}

/// What an algorithm prepares the weights for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    InputGradient,
}
