//! How long steps take: for benchmarks.

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;

use super::model::{Mode, Model, to_host};
use super::recipe::Recipe;
use super::run::model_graph;
use super::trainer::{Job, Trainer};
use crate::data::{Batches, Dataset};
use crate::error::Result;
use crate::hardware::Hardware;
use crate::network::Weights;

/// Seconds of each of `steps` training steps of the recipe's first phase, from random weights: batch, augmentation, forward,
/// backward, optimizer.
///
/// # Errors
/// A network or a recipe that doesn't fit.
pub fn step_seconds(recipe: &Recipe, dataset: &Dataset, device: &Device, steps: usize) -> Result<Vec<f64>> {
    let graph = model_graph(&recipe.model, dataset)?;
    let hardware = Hardware::mars();
    let job = Job {
        recipe,
        graph: &graph,
        dataset,
        picture: &recipe.picture_scale(),
        hardware: &hardware,
        device,
        teacher: None,
        folder: Path::new(""),
        quiet: true,
    };
    Trainer::new(job, &Weights::random(&graph, recipe.seed))?.time_steps(steps)
}

/// Seconds of each of `passes` of the float network over a batch of test pictures, from bytes to logits.
///
/// # Errors
/// A network that doesn't fit.
pub fn inference_seconds(recipe: &Recipe, dataset: &Dataset, device: &Device, passes: usize) -> Result<Vec<f64>> {
    let graph = model_graph(&recipe.model, dataset)?;
    let model = Model::new(&graph, &recipe.picture_scale(), &Weights::random(&graph, recipe.seed), device);
    let batches = Batches::in_order(&dataset.test, recipe.batch_size).cycle().take(passes);
    let seconds = batches.map(|batch| {
        let started = Instant::now();
        to_host(model.forward(&model.tensors, model.pictures(&batch.images), Mode::Float, |_, _| {}).logits);
        started.elapsed().as_secs_f64()
    });
    Ok(seconds.collect())
}
