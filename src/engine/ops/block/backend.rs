//! A block as an extension of burn's backends.

use std::sync::{Arc, Mutex};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Flex, backend_extension};

use super::super::flex::{FlexTensor, flex_vector};
use super::affine::Normalized;
use super::backward::Operands;
use super::forward::{End, Forward, Saved, forward};
use super::operands::{Affine, BlockOptions, FusedOutput, Residual, Rounding, Statistics, Values};
use super::rounding::MAX_FORMS;

#[backend_extension(Flex, Autodiff)]
pub(super) trait BlockBackend: Backend {
    fn fused_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] affine: Affine<Self>,
        #[extension_type] residual: Residual<Self>,
        #[extension_type] rounding: Rounding<Self>,
        options: BlockOptions,
    ) -> FusedOutput<Self>;
}

impl BlockBackend for Flex {
    fn fused_block(
        x: FlexTensor,
        weight: FlexTensor,
        affine: Affine<Self>,
        residual: Residual<Self>,
        rounding: Rounding<Self>,
        options: BlockOptions,
    ) -> FusedOutput<Self> {
        let Forward { values, saved } = forward(x, weight, affine, residual, rounding, options);
        FusedOutput { values: Values::new(values), statistics: statistics(saved.normalized.as_ref(), |values| values) }
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

/// The gradients of a block's values, which those of the forms that were read hand over.
type Handover = Arc<[Mutex<Option<FlexTensor>>; MAX_FORMS]>;

const NO_PANIC: &str = "nothing panics while it holds the lock";

/// A block as a node of the graph. A node has one tensor: of a block with forms it is one without a meaning, on which each form is a
/// node of its own.
#[derive(Debug)]
struct BlockBackward;

/// One of a block's forms.
#[derive(Debug)]
struct FormBackward;

impl Backward<Flex, 6> for BlockBackward {
    type State = (Saved, Handover);

    fn backward(self, ops: Ops<Self::State, 6>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (saved, handover) = ops.state;
        // The only owner, so that it can be written over.
        let own = grads.consume::<Flex>(&ops.node).to_contiguous();
        let gradients = match saved.end {
            End::Plain | End::Relu(_) => [Some(own), None],
            End::Rounded(_) => handover.each_ref().map(|gradient| gradient.lock().expect(NO_PANIC).take()),
        };
        let wanted = Operands::from_array(ops.parents.each_ref().map(|parent| parent.is_some()));
        let found = saved.gradients(gradients, wanted).into_array();
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

impl Backward<Flex, 1> for FormBackward {
    /// The form's place.
    type State = (usize, Handover);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (form, handover) = ops.state;
        let gradient = grads.consume::<Flex>(&ops.node).to_contiguous();
        *handover[form].lock().expect(NO_PANIC) = Some(gradient);
        let [block] = ops.parents;
        grads.register::<Flex>(block.expect("a block that is tracked").id, flex_vector(vec![0.0]));
    }
}

impl<C: CheckpointStrategy> BlockBackend for Autodiff<Flex, C> {
    fn fused_block(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        affine: Affine<Self>,
        residual: Residual<Self>,
        rounding: Rounding<Self>,
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
        let (forms, rounding) = match rounding {
            Rounding::Absent => (absent(), Rounding::Absent),
            Rounding::To { scale, forms } => (scale.node(), Rounding::To { scale: scale.into_primitive(), forms }),
        };
        let nodes = Operands { x: x.node(), weight: weight.node(), scale, shift, skip, forms }.into_array();
        let Forward { mut values, saved } =
            forward(x.into_primitive(), weight.into_primitive(), affine, residual, rounding, options);
        let statistics = statistics(saved.normalized.as_ref(), Self::from_inner);
        let values = match BlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::UnTracked(_) => values.into_iter().map(Self::from_inner).collect(),
            OpsKind::Tracked(prep) => {
                let handover = Handover::default();
                match saved.end {
                    End::Plain | End::Relu(_) => vec![prep.finish((saved, handover), values.remove(0))],
                    End::Rounded(_) => {
                        let block = prep.finish((saved, handover.clone()), flex_vector(vec![0.0]));
                        let form =
                            |(place, value)| match FormBackward.prepare::<C>([block.node()]).compute_bound().stateful()
                            {
                                OpsKind::Tracked(prep) => prep.finish((place, handover.clone()), value),
                                OpsKind::UnTracked(_) => unreachable!("the block is tracked"),
                            };
                        values.into_iter().enumerate().map(form).collect()
                    }
                }
            }
        };
        FusedOutput { values: Values::new(values), statistics }
    }
}
