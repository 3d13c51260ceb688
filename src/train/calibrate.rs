//! First scales of a quantized network, from its weights and from what training images do in it.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::forward::{Mode, Statistics};
use super::model::{Model, unbiased};
use super::recipe::Recipe;
use super::tensors::{to_device, to_host};
use crate::data::{Batches, Split};
use crate::integer::{BitPlan, Fusion};
use crate::network::{BatchNorm, Conv, ConvId, Norm, Op, Skip, Source};
use crate::quantize::{calibrate_scale, value_codes, weight_limit};

/// Images that go through the network at a time, of large ones fewer.
const BATCH: usize = 128;
/// Values of a layer that its scale is searched on, at most.
const SAMPLES: usize = 1 << 17;
/// The scale of weights that are all zero, as where a batch norm's factors are, and of values that are: fine enough for a bias beside them.
const SCALE_OF_ZEROS: f32 = 1.0 / 1024.0;

/// Scales of a network's quantizers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scales {
    /// Of each convolution's weights: one, or one a filter.
    pub weights: Vec<(ConvId, Vec<f32>)>,
    /// Of outputs, by node.
    pub outputs: Vec<(usize, f32)>,
}

impl Scales {
    /// Gives them to a network.
    pub fn place(self, model: &mut Model) {
        for (conv, scales) in self.weights {
            model.params.conv_mut(conv).weight_scale = Some(to_device(&scales, &model.device));
        }
        for (node, scale) in self.outputs {
            model.params.set_output_scale(node, to_device(&[scale], &model.device));
        }
    }
}

/// Gives a float network's quantizers their scales: those with the smallest squared error on its weights and on the values of
/// `recipe.calibration_images` training images, of all where there are fewer.
pub(super) fn calibrate(model: &mut Model, recipe: &Recipe, train: &Split) {
    let plan = BitPlan::new(&model.graph, &recipe.quantize);
    let read = read_channels(model);
    let weights = weight_scales(model, recipe, &plan, &read);
    let outputs = output_scales(model, recipe, &plan, &read, train);
    Scales { weights, outputs }.place(model);
}

/// The scales of each convolution's weights: one, or one a filter.
fn weight_scales(model: &Model, recipe: &Recipe, plan: &BitPlan, read: &[Vec<bool>]) -> Vec<(ConvId, Vec<f32>)> {
    let mut scales = Vec::new();
    for (index, bits) in plan.nodes.iter().enumerate() {
        let Some(bits) = bits.conv() else { continue };
        for Conv { id, shape, source, batch_norm, logits, .. } in model.graph.node_convs(index).into_iter().flatten() {
            let column_len = shape.weights() / shape.filters();
            let mut values = to_host(model.params.conv(id).weight.clone());
            let fused = batch_norm && recipe.quantize.fusion != Fusion::None;
            let gains = match model.gain(id) {
                Some(gain) if fused => to_host(gain),
                _ => vec![1.0; shape.filters()],
            };
            let colors: Vec<f32> = match source {
                Source::Image => model.image_scale.color_scales().map(|scale| scale as f32).collect(),
                Source::Node(_) => vec![1.0; shape.channels()],
            };
            for (index, value) in values.iter_mut().enumerate() {
                let filter = index / column_len;
                *value *= gains[filter] * colors[shape.reads(filter).start + index % column_len / shape.taps()];
            }
            let limit = weight_limit(bits.weights);
            let scale = |values: &[f32]| calibrate_scale(values, -limit, limit).map(|scale| scale as f32);
            let read_values: Vec<f32> = values
                .chunks(column_len)
                .zip(&read[index])
                .filter(|(_, read)| **read)
                .flat_map(|(column, _)| column)
                .copied()
                .collect();
            let layer_scale = scale(&read_values).unwrap_or(SCALE_OF_ZEROS);
            let found = if recipe.quantize.weight_scale.is_per_filter(logits) {
                values.chunks(column_len).map(|column| scale(column).unwrap_or(layer_scale)).collect()
            } else {
                vec![layer_scale]
            };
            scales.push((id, found));
        }
    }
    scales
}

/// For each node, which channels of its output somebody reads. The values of others matter to nobody, however large they are.
fn read_channels(model: &Model) -> Vec<Vec<bool>> {
    let nodes = model.graph.nodes();
    let mut read: Vec<Vec<bool>> = nodes.iter().map(|node| vec![false; node.output.channels]).collect();
    if let Some(logits) = read.last_mut() {
        logits.fill(true);
    }
    for (index, node) in nodes.iter().enumerate().rev() {
        let mut mark = |source: Source, reads: &dyn Fn(usize) -> bool| {
            let Source::Node(source) = source else { return };
            (0..).zip(&mut read[source]).for_each(|(channel, read)| *read |= reads(channel));
        };
        for conv in model.graph.node_convs(index).into_iter().flatten() {
            let weights = to_host(model.params.conv(conv.id).weight.clone());
            let (taps, depth) = (conv.shape.taps(), conv.shape.depth());
            let mut used = vec![false; conv.shape.channels()];
            for (place, _) in weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
                used[conv.shape.reads(place / taps / depth).start + place / taps % depth] = true;
            }
            mark(conv.source, &|channel| used[channel]);
        }
        match node.op {
            Op::Conv { skip: Some(Skip::Identity { source, .. }), .. } => mark(source, &|_| true),
            Op::Conv { skip: Some(Skip::Projection { .. }) | None, .. } => {}
            Op::AvgPool { .. } | Op::SameScale(_) => {
                let mut handed_on = &read[index].clone()[..];
                for source in node.sources() {
                    let Source::Node(source) = source else { continue };
                    let (own, others) = handed_on.split_at(read[source].len());
                    handed_on = others;
                    (read[source].iter_mut().zip(own)).for_each(|(read, handed_on)| *read |= handed_on);
                }
            }
        }
    }
    read
}

/// Gives the batch norms of these convolutions the statistics of training images: those of `recipe.calibration_images`, in batches that each
/// norm itself as a network without running statistics does.
pub(super) fn measure_statistics(model: &mut Model, convs: &[ConvId], recipe: &Recipe, train: &Split) {
    if convs.is_empty() {
        return;
    }
    for (conv, [mean, variance]) in statistics(model, Mode::Measuring { convs }, recipe, train) {
        let norm = batch_norm(model, conv);
        (norm.mean, norm.variance) = (mean, variance);
    }
}

/// Gives batch norms that change nothing but by their offset, as those of a package or of [`Fusion::Once`](crate::integer::Fusion::Once), the statistics
/// of training images, and with them factors and offsets with which they still change nothing: with a batch's statistics in place of their own they would.
pub(super) fn measure_folded(model: &mut Model, recipe: &Recipe, train: &Split) {
    if model.graph.convs().all(|conv| !conv.batch_norm) {
        return;
    }
    for (conv, [mean, variance]) in statistics(model, Mode::Observing, recipe, train) {
        let norm = batch_norm(model, conv);
        norm.gamma = (variance.clone() + norm.epsilon).sqrt();
        norm.beta = norm.beta.clone() + mean.clone();
        (norm.mean, norm.variance) = (mean, variance);
    }
}

/// Scales the logits so that their cross-entropy on `recipe.calibration_images` training images is least; predictions stay (temperature scaling: Guo et al.,
/// *On Calibration of Modern Neural Networks*, ICML 2017). The network's batch norms have to change nothing but by their offset.
pub(super) fn measure_logits(model: &mut Model, recipe: &Recipe, train: &Split) {
    let mut logits = Vec::new();
    for batch in Batches::in_order(train, model.graph.images_at_a_time(BATCH)).first(recipe.calibration_images) {
        let of_batch = to_host(model.forward(model.images(&batch.images), Mode::Float).logits);
        let rows = of_batch.chunks(of_batch.len() / batch.labels.len());
        logits.extend(rows.zip(&batch.labels).map(|(row, label)| (row.to_vec(), usize::from(*label))));
    }
    let factor = sharpness(&logits) as f32;
    let last = model.graph.convs().find(|conv| conv.logits).expect("a network has logits");
    let params = model.params.conv_mut(last.id);
    params.weight.inplace(|weight| weight * factor);
    params.offset_mut().inplace(|offset| offset * factor);
    if let Some(scale) = &mut params.weight_scale {
        scale.inplace(|scale| scale * factor);
    }
}

/// The factor of logits, each row with its label, whose cross-entropy is least. Logits that tell all labels get as large as that says something.
fn sharpness(logits: &[(Vec<f32>, usize)]) -> f64 {
    /// Of a logit: beyond it nothing is left to gain.
    const LARGEST: f64 = 100.0;
    let largest =
        logits.iter().flat_map(|(row, _)| row).fold(0.0, |largest: f64, logit| largest.max(logit.abs().into()));
    if largest == 0.0 {
        return 1.0;
    }
    // The loss is convex in the factor: this is its slope.
    let slope = |factor: f64| -> f64 {
        let of_row = |(row, label): &(Vec<f32>, usize)| {
            let row: Vec<f64> = row.iter().map(|logit| f64::from(*logit)).collect();
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let odds: Vec<f64> = row.iter().map(|logit| (factor * (logit - top)).exp()).collect();
            let mean: f64 = row.iter().zip(&odds).map(|(logit, odds)| logit * odds).sum();
            mean / odds.iter().sum::<f64>() - row[*label]
        };
        logits.iter().map(of_row).sum()
    };
    let (mut low, mut high) = (0.0, LARGEST / largest);
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    // Of logits that say nothing a factor of 0 would be best, with which nothing could be learned.
    high.max(1e-3 * LARGEST / largest)
}

fn batch_norm(model: &mut Model, conv: ConvId) -> &mut BatchNorm<Tensor<1>> {
    match &mut model.params.conv_mut(conv).norm {
        Norm::Batch(norm) => norm,
        Norm::Bias(_) => unreachable!("statistics are of a batch norm"),
    }
}

/// Mean and variance of each batch norm's input that a pass over `recipe.calibration_images` training images sees.
fn statistics(model: &Model, mode: Mode, recipe: &Recipe, train: &Split) -> BTreeMap<ConvId, [Tensor<1>; 2]> {
    let batches = Batches::in_order(train, model.graph.images_at_a_time(BATCH)).first(recipe.calibration_images);
    let images = recipe.calibration_images.min(train.len()) as f64;
    let mut sums: BTreeMap<ConvId, [Tensor<1>; 2]> = BTreeMap::new();
    for batch in batches {
        let share = batch.labels.len() as f64 / images;
        let output = model.forward(model.images(&batch.images), mode);
        for Statistics { conv, mean, variance, count } in output.statistics {
            let parts = [mean * share, variance * (share * unbiased(count))];
            let sum = match sums.remove(&conv) {
                Some([mean, variance]) => [mean + parts[0].clone(), variance + parts[1].clone()],
                None => parts,
            };
            sums.insert(conv, sum);
        }
    }
    sums
}

/// The scale of each node's quantized output, by node.
fn output_scales(
    model: &Model,
    recipe: &Recipe,
    plan: &BitPlan,
    read: &[Vec<bool>],
    train: &Split,
) -> Vec<(usize, f32)> {
    let nodes = model.graph.nodes();
    let mut samples: Vec<Vec<f32>> = vec![Vec::new(); nodes.len()];
    let batches = Batches::in_order(train, model.graph.images_at_a_time(BATCH)).first(recipe.calibration_images);
    let share = (SAMPLES / batches.len()).max(1);
    for batch in batches {
        let mut inspect = |index: usize, value: &Tensor<4>| {
            let values = to_host(value.clone());
            let stride = stride(values.len(), share);
            let read = &read[index];
            let values = values.into_iter().enumerate().step_by(stride);
            samples[index].extend(values.filter(|(place, _)| read[place % read.len()]).map(|(_, value)| value));
        };
        model.forward_with(&model.params, model.images(&batch.images), Mode::Float, Some(&mut inspect));
    }
    // What shares a scale is looked at together.
    for (index, node) in nodes.iter().enumerate() {
        let own = match node.op {
            Op::Conv { .. } | Op::AvgPool { .. } => std::mem::take(&mut samples[index]),
            // Its values are those of what it reads.
            Op::SameScale(_) => continue,
        };
        samples[model.graph.scale_node(index)].extend(own);
    }
    let mut scales = Vec::new();
    for (index, (bits, samples)) in plan.nodes.iter().zip(samples).enumerate() {
        if model.graph.scale_node(index) != index || bits.forms.is_empty() {
            continue;
        }
        let source = Source::Node(index);
        let codes = value_codes(plan.narrowest(source), model.graph.is_signed(source));
        let [least, limit] = [*codes.start(), *codes.end()].map(f64::from);
        let scale = calibrate_scale(&samples, least, limit).map_or(SCALE_OF_ZEROS, |scale| scale as f32);
        // The quantizer clips where the network does, or below.
        let sharing = (index..nodes.len()).filter(|node| model.graph.scale_node(*node) == index);
        let clip = sharing.filter_map(|node| model.graph.clip(node)).reduce(f64::min);
        let most = clip.map_or(f32::INFINITY, |clip| (clip / limit) as f32);
        scales.push((index, scale.min(most)));
    }
    scales
}

/// The distance of samples, about `share` out of `values`: the least one that shares no factor with `values` and so with none of a map's
/// sizes, which reaches all channels and pixels alike.
fn stride(values: usize, share: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let least = (values / share).max(1);
    (least..).find(|stride| gcd(*stride, values) == 1).expect("a prime comes sometime")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of logits whose labels are drawn with their own odds the factor is 1, whatever they were multiplied by.
    #[test]
    fn logits_get_the_scale_that_tells_their_odds() {
        // Two classes: of each hundred images with a difference d of the logits, 100 / (1 + exp(-d)) are of the first class.
        let rows = |scale: f32| {
            let of_class =
                |difference: f32, label: usize, images: usize| vec![(vec![scale * difference, 0.0], label); images];
            [(2.0f32, 88, 12), (1.0, 73, 27), (-1.0, 27, 73)]
                .into_iter()
                .flat_map(|(difference, first, second)| {
                    [of_class(difference, 0, first), of_class(difference, 1, second)].concat()
                })
                .collect::<Vec<_>>()
        };
        for scale in [0.01, 1.0, 30.0] {
            let factor = sharpness(&rows(scale)) * f64::from(scale);
            assert!((factor - 1.0).abs() < 0.02, "{factor}");
        }
        // They tell every label, or nothing, or are nothing.
        let certain = sharpness(&[(vec![4.0, 0.0], 0), (vec![0.0, 2.0], 1)]);
        assert!((5.0..=25.0).contains(&certain), "{certain}");
        let against = sharpness(&[(vec![4.0, 0.0], 1)]);
        assert!(against > 0.0 && against < 0.1, "{against}");
        assert_eq!(sharpness(&[(vec![0.0, 0.0], 1)]), 1.0);
    }

    #[test]
    fn samples_come_from_all_channels_and_pixels() {
        let share = SAMPLES / 8;
        for side in [1, 4, 8, 11] {
            for channels in 1..=64 {
                let map = side * side * channels;
                let values = BATCH * map;
                let stride = stride(values, share);
                let mut seen = vec![false; map];
                (0..values).step_by(stride).for_each(|value| seen[value % map] = true);
                let samples = values.div_ceil(stride);
                assert!(samples >= share.min(values) / 4, "{samples} of {values}");
                let reached = seen.iter().filter(|seen| **seen).count();
                assert_eq!(reached, map.min(samples), "{channels} channels on {side}x{side}: distance {stride}");
            }
        }
    }
}
