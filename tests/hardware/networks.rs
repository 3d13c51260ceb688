//! Networks and chips that several of these tests need.

use mars::groups::GroupShape;
use mars::hardware::Hardware;
use mars::integer::{IntegerLayer, IntegerNetwork};
use mars::network::{Activation, BATCH_NORM_EPSILON, Border, LayerSpec, NetworkSpec, Shortcut, Sides, SkipSpec};

use crate::common::recipe::{Recipe, W4A4};

pub(super) fn conv(
    name: &str,
    filters: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    add: Option<SkipSpec>,
) -> LayerSpec {
    LayerSpec::Conv {
        name: name.into(),
        input: None,
        filters,
        kernel: kernel.into(),
        stride: stride.into(),
        padding: padding.into(),
        dilation: 1.into(),
        groups: 1,
        batch_norm: true,
        batch_norm_epsilon: None,
        add,
        activation: Activation::Relu,
        clip: None,
    }
}

/// The same layer without an activation.
fn linear(mut layer: LayerSpec) -> LayerSpec {
    let LayerSpec::Conv { activation, .. } = &mut layer else { unreachable!("it is a convolution") };
    *activation = Activation::None;
    layer
}

/// Over the whole map.
pub(super) fn mean(name: &str) -> LayerSpec {
    LayerSpec::AvgPool { name: name.into(), input: None, kernel: None, stride: None, padding: 0.into() }
}

/// Means of windows that overlap, with a border that differs by side.
fn overlapping() -> LayerSpec {
    let (kernel, stride) = (Some(Sides([2, 2])), Some(Sides([1, 1])));
    LayerSpec::AvgPool { name: "overlapping".into(), input: None, kernel, stride, padding: Border([[1, 0], [0, 1]]) }
}

fn concat(name: &str, inputs: &[&str]) -> LayerSpec {
    LayerSpec::Concat { name: name.into(), inputs: inputs.iter().map(|input| input.to_string()).collect() }
}

pub(super) fn in_groups(count: usize, mut layer: LayerSpec) -> LayerSpec {
    let LayerSpec::Conv { groups, .. } = &mut layer else { unreachable!("it is a convolution") };
    *groups = count;
    layer
}

fn dilated(by: [usize; 2], border: [[usize; 2]; 2], mut layer: LayerSpec) -> LayerSpec {
    let LayerSpec::Conv { dilation, padding, .. } = &mut layer else { unreachable!("it is a convolution") };
    (*dilation, *padding) = (Sides(by), Border(border));
    layer
}

pub(super) fn spec(input: [usize; 3], mut layers: Vec<LayerSpec>) -> NetworkSpec {
    layers.push(LayerSpec::Linear {
        name: "linear".into(),
        input: None,
        filters: 5,
        batch_norm: false,
        batch_norm_epsilon: None,
        activation: Activation::Relu,
    });
    NetworkSpec { name: "small".into(), input, classes: 5, batch_norm_epsilon: BATCH_NORM_EPSILON, layers }
}

/// Everything that a network may have: both shortcuts, a stride, padded channels, groups of channels, a dilated kernel, a border that differs by
/// side, both pools, maps behind each other.
pub(super) fn small_network() -> NetworkSpec {
    let skip = |from: &str, shortcut, stride| Some(SkipSpec { from: from.into(), shortcut, stride, batch_norm: true });
    let max_pool = LayerSpec::MaxPool {
        name: "max".into(),
        input: None,
        kernel: Sides([3, 2]),
        stride: 2.into(),
        padding: Border([[1, 2], [0, 1]]),
    };
    let avg_pool = mean("avg");
    spec(
        [3, 9, 7],
        vec![
            conv("stem", 18, 3, 1, 1, None),
            dilated([2, 1], [[3, 1], [1, 1]], conv("a1", 18, 3, 1, 1, None)),
            conv("a2", 18, 3, 1, 1, skip("stem", Shortcut::Identity, 1)),
            conv("b1", 33, 3, 2, 1, None),
            conv("b2", 33, 3, 1, 1, skip("a2", Shortcut::Projection, 2)),
            conv("c1", 40, 3, 2, 1, None),
            in_groups(8, conv("grouped", 40, 3, 1, 1, None)),
            conv("c2", 40, 1, 1, 0, skip("b2", Shortcut::Identity, 2)),
            concat("joined", &["c2", "grouped", "c2"]),
            max_pool,
            overlapping(),
            avg_pool,
        ],
    )
}

/// Values with a sign wherever they may be: read by convolutions with borders, in groups, by both shortcuts and by both pools.
pub(super) fn signed_network() -> NetworkSpec {
    let skip = |from: &str, shortcut, stride| Some(SkipSpec { from: from.into(), shortcut, stride, batch_norm: true });
    let max_pool =
        LayerSpec::MaxPool { name: "max".into(), input: None, kernel: 3.into(), stride: 2.into(), padding: 1.into() };
    let avg_pool = mean("avg");
    spec(
        [3, 9, 7],
        vec![
            linear(conv("stem", 18, 3, 1, 1, None)),
            in_groups(18, conv("a1", 18, 3, 1, 1, None)),
            linear(conv("a2", 24, 1, 1, 0, skip("stem", Shortcut::Identity, 1))),
            conv("b1", 33, 3, 2, 1, None),
            linear(conv("b2", 33, 3, 1, 1, skip("a2", Shortcut::Projection, 2))),
            linear(conv("c", 36, 5, 1, 2, skip("b2", Shortcut::Identity, 1))),
            max_pool,
            linear(conv("d", 36, 1, 1, 0, skip("max", Shortcut::Identity, 1))),
            concat("joined", &["max", "d"]),
            overlapping(),
            avg_pool,
        ],
    )
}

/// A network of one layer: `weights` for each of five filters, at 4 bits.
pub(super) fn one_layer(weights: &[i8]) -> IntegerNetwork {
    let mut network = Recipe { edge_bits: 4, ..W4A4 }.network(spec([weights.len(), 1, 1], Vec::new()));
    let IntegerLayer::Conv { conv, .. } = &mut network.layers[0] else { unreachable!() };
    conv.weights = weights.repeat(5);
    conv.bias.fill(0);
    network
}

pub(super) fn with_geometry(group: GroupShape, rows_on: usize) -> Hardware {
    Hardware { group, rows_on, rows: rows_on * 16, partitions: 1, ..Hardware::mars() }
}
