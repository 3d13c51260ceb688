//! Versions of the format.

use std::ops::RangeInclusive;

use safetensors::tensor::Dtype;

use crate::integer::IntegerNetwork;
use crate::network::{Activation, Border, LayerSpec, Node, Op, Sides, Skip};

/// The versions that are read; a package is written in the first one that can hold it.
pub(super) const VERSIONS: RangeInclusive<u64> = 1..=4;
/// Most classes whose numbers have one byte.
const BYTE_CLASSES: usize = 256;
/// The first version that can hold a network: the second one has predictions of two bytes, the third one groups, clips and projections with a bias, the
/// fourth one values with a sign, windows that differ by side, dilated kernels, means that overlap, have a border or leave pixels over, and concatenations.
pub(super) fn version(network: &IntegerNetwork) -> u64 {
    let uneven = |kernel: Sides, stride: Sides, padding: Border| {
        !(kernel.is_square() && stride.is_square() && padding.is_even())
    };
    let is_of_version_4 = |layer: &LayerSpec| {
        let windows = match layer {
            LayerSpec::Conv { kernel, stride, padding, dilation, .. } => {
                uneven(*kernel, *stride, *padding) || *dilation != Sides::from(1)
            }
            LayerSpec::MaxPool { kernel, stride, padding, .. } => uneven(*kernel, *stride, *padding),
            LayerSpec::AvgPool { kernel, stride, padding, .. } => {
                kernel.is_some_and(|kernel| !kernel.is_square()) || stride.is_some() || !padding.is_none()
            }
            LayerSpec::Concat { .. } => true,
            LayerSpec::Linear { .. } => false,
        };
        windows || layer.activation() == Some(Activation::None)
    };
    let leaves_pixels = |node: &Node| match node.op {
        Op::AvgPool { window } => !window.tiles([node.input.height, node.input.width]),
        Op::Conv { .. } | Op::SameScale(_) => false,
    };
    let is_of_version_3 = |node: &Node| {
        let in_groups = node.conv().is_some_and(|conv| conv.groups > 1);
        in_groups || matches!(node.op, Op::Conv { skip: Some(Skip::Projection { batch_norm: false, .. }), .. })
    };
    let (layers, nodes) = (&network.graph.spec().layers, network.graph.nodes());
    if layers.iter().any(is_of_version_4) || nodes.iter().any(leaves_pixels) {
        4
    } else if layers.iter().any(|layer| layer.clip().is_some()) || nodes.iter().any(is_of_version_3) {
        3
    } else if network.classes.len() > BYTE_CLASSES {
        2
    } else {
        1
    }
}

/// How the number of a class is stored.
pub(super) fn predictions_dtype(classes: usize) -> Dtype {
    if classes > BYTE_CLASSES { Dtype::U16 } else { Dtype::U8 }
}
