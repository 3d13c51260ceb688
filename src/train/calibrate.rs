//! First scales of a quantized network, from its weights and from what training images do in it.

use super::forward::Mode;
use super::model::Model;
use super::recipe::Recipe;
use super::tensors::{to_device, to_host};
use crate::data::{Batches, Split};
use crate::error::{Error, Result};
use crate::integer::{BitPlan, Fusion, WeightScale};
use crate::network::{Conv, Op, Source};
use crate::quantize::{activation_limit, calibrate_step, weight_limit};

/// Images that go through the network at a time.
const BATCH: usize = 128;
/// Values of a layer that its scale is searched on, at most.
const SAMPLES: usize = 1 << 17;

/// Gives a float network's quantizers their scales: those with the smallest squared error on its weights and on the values of
/// `recipe.calibration_images` training images, of all where there are fewer.
pub(super) fn calibrate(model: &mut Model, recipe: &Recipe, train: &Split) -> Result<()> {
    let plan = BitPlan::new(&model.graph, &recipe.quantize);
    let weight_scales = weight_scales(model, recipe, &plan)?;
    let output_scales = output_scales(model, recipe, &plan, train)?;
    for (conv, scales) in weight_scales {
        model.params.conv_mut(conv).weight_scale = Some(to_device(&scales, &model.device));
    }
    for (node, scale) in output_scales {
        model.params.set_output_scale(node, to_device(&[scale], &model.device));
    }
    Ok(())
}

/// The scales of each convolution's weights, by its number: one, or one a filter.
fn weight_scales(model: &Model, recipe: &Recipe, plan: &BitPlan) -> Result<Vec<(u32, Vec<f32>)>> {
    let mut scales = Vec::new();
    for (index, bits) in plan.nodes.iter().enumerate() {
        let Some(bits) = bits.conv() else { continue };
        for Conv { name, number, shape, source, batch_norm, logits } in
            model.graph.node_convs(index).into_iter().flatten()
        {
            let column_len = shape.weights() / shape.filters();
            let mut values = to_host(model.params.conv(number).weight.clone());
            let fused = batch_norm && recipe.quantize.fusion != Fusion::None;
            let gains = match model.gain(number) {
                Some(gain) if fused => to_host(gain),
                _ => vec![1.0; shape.filters()],
            };
            let colors: Vec<f32> = match source {
                Source::Image => model.image_scale.color_scales().map(|scale| scale as f32).collect(),
                Source::Node(_) => vec![1.0; shape.channels()],
            };
            for (index, value) in values.iter_mut().enumerate() {
                *value *= gains[index / column_len] * colors[index % column_len / shape.taps()];
            }
            let limit = weight_limit(bits.weights);
            let scale = |values: &[f32]| calibrate_step(values, -limit, limit).map(|scale| scale as f32);
            let layer_scale = scale(&values).ok_or_else(|| Error::layer(&name, "all its weights are zero"))?;
            // The logits need one scale to be comparable.
            let per_column = recipe.quantize.weight_scale == WeightScale::Column && !logits;
            let found = if per_column {
                values.chunks(column_len).map(|column| scale(column).unwrap_or(layer_scale)).collect()
            } else {
                vec![layer_scale]
            };
            scales.push((number, found));
        }
    }
    Ok(scales)
}

/// The scale of each node's quantized output, by node.
fn output_scales(model: &Model, recipe: &Recipe, plan: &BitPlan, train: &Split) -> Result<Vec<(usize, f32)>> {
    let nodes = model.graph.nodes();
    let mut samples: Vec<Vec<f32>> = vec![Vec::new(); nodes.len()];
    let batches = Batches::in_order(train, BATCH).first(recipe.calibration_images);
    let share = SAMPLES / batches.len();
    for batch in batches {
        let mut index = 0;
        model.forward_with(&model.params, model.images(&batch.images), Mode::Float, |_, value| {
            let values = to_host(value.clone());
            let stride = stride(values.len(), share);
            samples[index].extend(values.into_iter().step_by(stride));
            index += 1;
        });
    }
    let mut scales = Vec::new();
    for (index, ((node, bits), samples)) in nodes.iter().zip(&plan.nodes).zip(samples).enumerate() {
        let Some(&narrowest) = bits.forms.first() else { continue };
        match node.op {
            Op::Conv { .. } | Op::AvgPool { .. } => {
                let scale = calibrate_step(&samples, 0.0, activation_limit(narrowest)).ok_or_else(|| {
                    Error::layer(&node.name, "none of the calibration images gives it a value above zero")
                })?;
                scales.push((index, scale as f32));
            }
            // Its forms are those of what it reads.
            Op::MaxPool { .. } => {}
        }
    }
    Ok(scales)
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
