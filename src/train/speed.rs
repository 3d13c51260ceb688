//! How long passes take: for benchmarks.

use std::time::Instant;

use burn::tensor::Device;

use super::forward::Mode;
use super::model::Model;
use super::recipe::Recipe;
use super::tensors::to_host;
use crate::data::{Batches, Dataset};
use crate::error::{Error, Result};
use crate::network::{Graph, NetworkSpec, Params, Weights};

/// Seconds of each of `passes` of the float network over a batch of test images, from bytes to logits.
///
/// # Errors
/// A network that doesn't fit; a batch of more images than there are for testing.
pub fn inference_seconds(
    recipe: &Recipe,
    network: NetworkSpec,
    dataset: &Dataset,
    device: &Device,
    passes: usize,
) -> Result<Vec<f64>> {
    let graph = Graph::new(network)?;
    let params = Params::from_arrays(&graph, &Weights::random(&graph, recipe.seed))?;
    let model = Model::new(&graph, &recipe.image_scale(), &params, device);
    let whole = dataset.test.len() / recipe.batch_size * recipe.batch_size;
    if whole == 0 {
        let message = format!("a batch of {} images, where there are {}", recipe.batch_size, dataset.test.len());
        return Err(Error::Setting(message));
    }
    let batches = Batches::in_order(&dataset.test, recipe.batch_size).first(whole).cycle().take(passes);
    let seconds = batches.map(|batch| {
        let started = Instant::now();
        to_host(model.forward(model.images(&batch.images), Mode::Float).logits);
        started.elapsed().as_secs_f64()
    });
    Ok(seconds.collect())
}
