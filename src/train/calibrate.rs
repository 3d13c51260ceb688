//! First steps of a quantized network, from its weights and from what training pictures do in it.

use super::model::{Mode, Model, to_host};
use super::recipe::Recipe;
use crate::data::{Batches, Split};
use crate::error::{Error, Result};
use crate::integer::{BitPlan, Fusion, WeightScale};
use crate::network::{Array, Conv, Op, Source};
use crate::quantize::{activation_limit, calibrate_step, weight_limit};

/// Pictures that go through the network at a time.
const BATCH: usize = 128;
/// Values of a layer that its step is searched on, at most.
const SAMPLES: usize = 1 << 17;

/// Adds `weight_step` and `output_step` to a float network: the steps with the smallest squared error on its weights and on the values
/// of `recipe.calibration_images` training pictures, of all where there are fewer.
pub(super) fn calibrate(model: &mut Model, recipe: &Recipe, train: &Split) -> Result<()> {
    let plan = BitPlan::new(&model.graph, &recipe.quantize);
    let mut steps = weight_steps(model, recipe, &plan)?;
    steps.extend(output_steps(model, recipe, &plan, train)?);
    for (name, values) in steps {
        model.insert(&name, &Array::vector(values));
    }
    Ok(())
}

type Steps = Vec<(String, Vec<f32>)>;

fn weight_steps(model: &Model, recipe: &Recipe, plan: &BitPlan) -> Result<Steps> {
    let weights = model.weights();
    let mut steps = Steps::new();
    for (index, bits) in plan.nodes.iter().enumerate() {
        for Conv { name, shape, source, batch_norm, logits, .. } in model.graph.node_convs(index).into_iter().flatten()
        {
            let column_len = shape.weights() / shape.filters();
            let mut values = weights.get(&format!("{name}.weight"))?.values.clone();
            let fused = batch_norm && recipe.quantize.fusion != Fusion::None;
            let gains = if fused {
                to_host(model.gain(&name).expect("a batch norm has a gain"))
            } else {
                vec![1.0; shape.filters()]
            };
            let colors: Vec<f32> = match source {
                Source::Image => model.picture.color_scales().map(|scale| scale as f32).collect(),
                Source::Node(_) => vec![1.0; shape.channels()],
            };
            for (index, value) in values.iter_mut().enumerate() {
                *value *= gains[index / column_len] * colors[index % column_len / shape.taps()];
            }
            let limit = weight_limit(bits.weights);
            let step = |values: &[f32]| calibrate_step(values, -limit, limit).map(|step| step as f32);
            let layer_step = step(&values).ok_or_else(|| Error::layer(&name, "all its weights are zero"))?;
            // The logits need one scale to be comparable.
            let per_column = recipe.quantize.weight_scale == WeightScale::Column && !logits;
            let found = if per_column {
                values.chunks(column_len).map(|column| step(column).unwrap_or(layer_step)).collect()
            } else {
                vec![layer_step]
            };
            steps.push((format!("{name}.weight_step"), found));
        }
    }
    Ok(steps)
}

fn output_steps(model: &Model, recipe: &Recipe, plan: &BitPlan, train: &Split) -> Result<Steps> {
    let nodes = model.graph.nodes();
    let mut samples: Vec<Vec<f32>> = vec![Vec::new(); nodes.len()];
    let batches = Batches::in_order(train, BATCH).first(recipe.calibration_images);
    let share = SAMPLES / batches.len();
    for batch in batches {
        let mut index = 0;
        model.forward(&model.tensors, model.pictures(&batch.images), Mode::Float, |_, value| {
            let values = to_host(value.clone());
            let stride = stride(values.len(), share);
            samples[index].extend(values.into_iter().step_by(stride));
            index += 1;
        });
    }
    let mut steps = Steps::new();
    for ((node, bits), samples) in nodes.iter().zip(&plan.nodes).zip(samples) {
        if let (Op::Conv { .. } | Op::AvgPool { .. }, Some(&narrowest)) = (node.op, bits.forms.first()) {
            let step = calibrate_step(&samples, 0.0, activation_limit(narrowest)).ok_or_else(|| {
                Error::layer(&node.name, "none of the calibration pictures gives it a value above zero")
            })?;
            steps.push((format!("{}.output_step", node.name), vec![step as f32]));
        }
    }
    Ok(steps)
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
