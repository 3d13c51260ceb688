//! First steps of a quantized network, from its weights and from what training pictures do in it.

use super::model::{Mode, Model, to_host};
use super::recipe::Recipe;
use crate::data::{Batches, Split};
use crate::error::{Error, Result};
use crate::network::{Array, BATCH_NORM_EPSILON, Op, Source, Weights};
use crate::quantize::{BitPlan, Fusion, WeightScale, activation_limit, calibrate_step, weight_limit};

/// Pictures that go through the network at a time.
const BATCH: usize = 128;
/// Values of a layer that its step is searched on, at most.
const SAMPLES: usize = 1 << 17;

/// Adds `weight_step` and `output_step` to a float network: the steps with the smallest squared error on its weights and on the values
/// of `recipe.calibration_images` training pictures, rounded up to whole batches.
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
    for (node, bits) in model.graph.nodes().iter().zip(&plan.nodes) {
        let Op::Conv { conv, batch_norm, logits, .. } = node.op else {
            continue;
        };
        let own = (node.name.clone(), conv, batch_norm, node.source == Source::Image, logits);
        let projection = node.projection().map(|conv| (node.projection_name(), conv, true, false, false));
        for (name, conv, batch_norm, first, logits) in std::iter::once(own).chain(projection) {
            let column_len = conv.weights() / conv.filters();
            let mut values = weights.get(&format!("{name}.weight"))?.values.clone();
            let fused = batch_norm && recipe.quantize.fusion != Fusion::None;
            let gains = if fused { gains(&weights, &name)? } else { vec![1.0; conv.filters()] };
            let colors: Vec<f32> = match first {
                true => model.picture.color_scales().map(|scale| scale as f32).collect(),
                false => vec![1.0; conv.channels()],
            };
            for (index, value) in values.iter_mut().enumerate() {
                *value *= gains[index / column_len] * colors[index % column_len / conv.taps()];
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

fn gains(weights: &Weights, name: &str) -> Result<Vec<f32>> {
    let gamma = &weights.get(&format!("{name}.gamma"))?.values;
    let var = &weights.get(&format!("{name}.var"))?.values;
    Ok(gamma.iter().zip(var).map(|(gamma, var)| gamma / (var + BATCH_NORM_EPSILON as f32).sqrt()).collect())
}

fn output_steps(model: &Model, recipe: &Recipe, plan: &BitPlan, train: &Split) -> Result<Steps> {
    let nodes = model.graph.nodes();
    let mut samples: Vec<Vec<f32>> = vec![Vec::new(); nodes.len()];
    let batches = recipe.calibration_images.min(train.len()).div_ceil(BATCH);
    let share = SAMPLES / batches;
    for batch in Batches::in_order(train, BATCH).take(batches) {
        let mut index = 0;
        model.forward(&model.tensors, model.pictures(&batch.images), Mode::Float, |_, value| {
            let values = to_host(value.clone());
            // A step that shares no factor with the map's sizes reaches all channels and pixels.
            let stride = (values.len() / share).max(1) | 1;
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
