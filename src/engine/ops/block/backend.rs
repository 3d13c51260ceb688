//! A block as an extension of burn's backends.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Flex, backend_extension};

use super::super::flex::{FlexTensor, flex_vector};
use super::backward::{Operands, Saved};
use super::forward::{Forward, Normalized, forward};
use super::operands::{Affine, BlockOptions, FusedOutput, Residual, Statistics};

#[backend_extension(Flex, Autodiff)]
pub(super) trait BlockBackend: Backend {
    fn fused_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] affine: Affine<Self>,
        #[extension_type] residual: Residual<Self>,
        options: BlockOptions,
    ) -> FusedOutput<Self>;
}

impl BlockBackend for Flex {
    fn fused_block(
        x: FlexTensor,
        weight: FlexTensor,
        affine: Affine<Self>,
        residual: Residual<Self>,
        options: BlockOptions,
    ) -> FusedOutput<Self> {
        let Forward { value, normalized, .. } = forward(x, weight, affine, residual, options);
        FusedOutput { value, statistics: statistics(normalized.as_ref(), |values| values) }
    }
}

fn statistics<B: Backend>(
    normalized: Option<&Normalized>,
    tensor: impl Fn(FlexTensor) -> FloatTensor<B>,
) -> Statistics<B> {
    let vector = |values: &Vec<f32>| tensor(flex_vector(values.clone()));
    match normalized {
        None => Statistics::Absent,
        Some(Normalized { norm, .. }) => {
            Statistics::OfBatch { mean: vector(&norm.mean), variance: vector(&norm.variance) }
        }
    }
}

#[derive(Debug)]
struct BlockBackward;

impl Backward<Flex, 5> for BlockBackward {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 5>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        let wanted = Operands::from_array(ops.parents.each_ref().map(|parent| parent.is_some()));
        let found = ops.state.gradients(gradient, wanted).into_array();
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> BlockBackend for Autodiff<Flex, C> {
    fn fused_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        affine: Affine<Self>,
        residual: Residual<Self>,
        options: BlockOptions,
    ) -> FusedOutput<Self> {
        // Stands for an operand that isn't there, and is never tracked.
        let absent = || Self::from_inner(flex_vector(Vec::new())).node();
        let (scale, shift, affine) = match affine {
            Affine::Identity => (absent(), absent(), Affine::Identity),
            Affine::Bias(bias) => (absent(), bias.node(), Affine::Bias(bias.into_primitive())),
            Affine::BatchNorm { gamma, beta, epsilon } => {
                let nodes = (gamma.node(), beta.node());
                let (gamma, beta) = (gamma.into_primitive(), beta.into_primitive());
                (nodes.0, nodes.1, Affine::BatchNorm { gamma, beta, epsilon })
            }
        };
        let (skip, residual) = match residual {
            Residual::Absent => (absent(), Residual::Absent),
            Residual::Added { value, stride, front } => {
                (value.node(), Residual::Added { value: value.into_primitive(), stride, front })
            }
        };
        let nodes = Operands { x: x.node(), weight: weight.node(), scale, shift, skip }.into_array();
        let Forward { value, x, weight, geometry, normalized, join } =
            forward(x.into_primitive(), weight.into_primitive(), affine, residual, options);
        let statistics = statistics(normalized.as_ref(), Self::from_inner);
        let value = match BlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let rectified = options.relu.then(|| value.clone());
                prep.finish(Saved { x, weight, geometry, normalized, rectified, join }, value)
            }
            OpsKind::UnTracked(prep) => prep.finish(value),
        };
        FusedOutput { value, statistics }
    }
}
