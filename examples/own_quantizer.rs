//! Trains with a quantizer of one's own: the same grid, another gradient.
//!
//! The straight-through estimator (Bengio et al., 2013) passes the gradient where nothing is clipped, and its scales stay where calibration put
//! them. Learned scales, the default, train beside it for comparison.
//!
//! ```text
//! cargo run --release --example own_quantizer
//! ```

use std::ops::RangeInclusive;
use std::sync::Arc;

use burn::tensor::Tensor;
use mars::data::{DataOptions, Dataset};
use mars::hardware::Hardware;
use mars::network::{Graph, Weights, zoo};
use mars::quantize::{Lsq, Quantizer};
use mars::train::{Phase, PhaseKind, Recipe, Training};

struct StraightThrough;

/// `x` rounded to multiples of the scale between two whole numbers; the gradient is that of the clipping alone.
fn round(x: Tensor<4>, scale: Tensor<4>, low: f64, high: f64) -> Tensor<4> {
    let clipped = (x / scale.clone()).clamp(low, high);
    let error = clipped.clone().round() - clipped.clone();
    (clipped + error.detach()) * scale
}

impl Quantizer for StraightThrough {
    fn weights(&self, weights: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4> {
        let limit = f64::from((1u32 << (bits - 1)) - 1);
        round(weights, scale.detach().reshape([-1, 1, 1, 1]), -limit, limit)
    }

    fn values(&self, values: Tensor<4>, scale: Tensor<1>, codes: RangeInclusive<i32>) -> Tensor<4> {
        round(values, scale.detach().reshape([1, 1, 1, 1]), f64::from(*codes.start()), f64::from(*codes.end()))
    }
}

fn main() -> mars::Result<()> {
    let data = Dataset::load("cifar10-mini", &DataOptions::default())?;
    let network = zoo("resnet20", data.classes.len()).expect("a network of the zoo");
    let graph = Graph::new(network.clone())?;
    let weights =
        mars::network::import("checkpoints/resnet20.safetensors".as_ref(), &graph, &Default::default())?.weights;
    let quantizers: [(&str, Arc<dyn Quantizer>); 2] =
        [("straight through", Arc::new(StraightThrough)), ("learned scales", Arc::new(Lsq))];
    for (name, quantizer) in quantizers {
        let recipe = Recipe { phases: vec![Phase::new(PhaseKind::Quantize, 1, 0.001)], ..Recipe::default() };
        let accuracy = train(recipe, network.clone(), data.clone(), &weights, quantizer)?;
        println!("{name:<17} {accuracy:.2} % at 4 bits");
    }
    Ok(())
}

fn train(
    recipe: Recipe,
    network: mars::network::NetworkSpec,
    data: Dataset,
    weights: &Weights,
    quantizer: Arc<dyn Quantizer>,
) -> mars::Result<f64> {
    let mut training = Training::new(recipe, network, data, Hardware::mars())?.starting_from(weights)?;
    training = training.with_quantizer(quantizer);
    let epoch = training.epoch()?.expect("the recipe has an epoch");
    Ok(epoch.test_accuracy.expect("test images are met each epoch"))
}
