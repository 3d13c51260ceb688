//! A training as a program drives it: images made in memory, checkpoints, and what is refused before a step is made.
#![cfg(feature = "train")]

use std::ops::RangeInclusive;
use std::sync::Arc;

use burn::tensor::Tensor;
use mars::data::{Dataset, ImageShape, Split};
use mars::hardware::{Hardware, Noise};
use mars::integer::{Fusion, QuantizeConfig};
use mars::network::{Array, Graph, NetworkSpec, Weights};
use mars::quantize::{Lsq, Quantizer};
use mars::train::{Budget, EvaluateEvery, Event, Phase, PhaseKind, Recipe, SparsityConfig, Training};

const SHAPE: ImageShape = ImageShape { channels: 1, height: 4, width: 4 };
const CLASSES: usize = 3;

/// Images whose brightness tells their class; labels are `shift` classes off.
fn split(images: usize, shift: usize) -> Split {
    let pixels: Vec<u8> = (0..images)
        .flat_map(|image| (0..SHAPE.len()).map(move |pixel| (80 * (image % CLASSES) + 3 * (image + pixel) % 20) as u8))
        .collect();
    let labels = (0..images).map(|image| ((image + shift) % CLASSES) as u16).collect();
    Split { shape: SHAPE, images: pixels.into(), labels }
}

fn dataset() -> Dataset {
    let classes = ["dark", "gray", "bright"].map(String::from).to_vec();
    let validation = Split { shape: SHAPE, ..Split::default() };
    Dataset { name: "brightness".into(), classes, train: split(96, 0), validation, test: split(30, 1) }
}

fn network() -> NetworkSpec {
    let toml = r#"
        name = "small"
        input = [1, 4, 4]
        classes = 3
        layers = [
            { op = "conv", name = "conv", filters = 8, kernel = 3, padding = 1 },
            { op = "avg_pool", name = "pool" },
            { op = "linear", name = "classifier", filters = 3 },
        ]
    "#;
    toml::from_str(toml).unwrap()
}

fn recipe() -> Recipe {
    Recipe {
        batch_size: 16,
        augment: false,
        calibration_images: 48,
        evaluate_every: EvaluateEvery::End,
        phases: vec![Phase::new(PhaseKind::Float, 6, 0.1), Phase::new(PhaseKind::Quantize, 1, 0.001)],
        ..Recipe::default()
    }
}

fn training(recipe: Recipe) -> Training {
    Training::new(recipe, network(), dataset(), Hardware::mars()).unwrap()
}

/// Masks are those of the weights that were given last.
#[test]
fn masks_do_not_outlive_the_weights_that_they_are_of() {
    let graph = Graph::new(network()).unwrap();
    let dense = Weights::random(&graph, 1);
    let mut pruned = dense.clone();
    let conv = dense.get("conv.weight").unwrap().clone();
    let values = conv.values.iter().enumerate().map(|(index, value)| if index % 9 == 0 { 0.0 } else { *value });
    pruned.insert("conv.weight".into(), Array { values: values.collect(), ..conv });
    let masked = training(recipe()).starting_from(&pruned).unwrap();
    assert!(masked.masked_share() > 0.0);
    assert_eq!(masked.starting_from(&dense).unwrap().masked_share(), 0.0);
}

/// Does what is left, and says what accuracy the package tells of the float network.
fn float_accuracy(mut training: Training) -> Option<f64> {
    while training.advance().unwrap() != Event::Finished {}
    training.package().unwrap().provenance.float_accuracy
}

/// An average is of all steps of its phase: one that was taken up or left off on the way would be of some of them.
#[test]
fn an_average_of_a_phase_under_way_is_neither_taken_up_nor_left_off() {
    let with = |average_decay| {
        let mut recipe = recipe();
        recipe.phases[0].average_decay = average_decay;
        recipe
    };
    for (before, after) in [(Some(0.9), None), (None, Some(0.9)), (Some(0.9), Some(0.99))] {
        let mut begun = training(with(before));
        begun.epoch().unwrap();
        let error = training(with(after)).resumed(begun.checkpoint()).err().unwrap();
        assert!(error.starts_with("phases.0 of recipe.toml has run otherwise"), "{error}");
        training(with(before)).resumed(begun.checkpoint()).unwrap();
    }
}

/// What a penalty makes zero at the end of its phase is zero in the average, too, although it wasn't at its beginning.
#[test]
fn an_average_has_the_zeros_of_a_penalty() {
    let mut recipe = recipe();
    recipe.sparsity = SparsityConfig { lambda: 0.7, budget: Budget::Lambda, ..recipe.sparsity };
    let sparsify = Phase { average_decay: Some(0.9), ..Phase::new(PhaseKind::Sparsify, 4, 0.05) };
    recipe.phases[0] = sparsify;
    let mut training = training(recipe);
    let mut last = None;
    while let Some(report) = training.epoch().unwrap().filter(|report| report.phase == PhaseKind::Sparsify) {
        last = Some(report);
    }
    let zero = last.unwrap().group_sparsity;
    assert!((0.05..0.95).contains(&zero), "{zero}");
    assert!(training.masked_share() >= zero, "{} {zero}", training.masked_share());
}

/// Before the first quantized phase the float network meets other images than the test images, of which its accuracy is told.
#[test]
fn the_float_networks_accuracy_is_of_test_images_whenever_they_are_met() {
    let whole = float_accuracy(training(recipe()));
    // Nearly all test images have labels of another class.
    assert!(whole.unwrap() < 50.0, "{whole:?}");
    let mut begun = training(recipe());
    while !matches!(begun.advance().unwrap(), Event::PhaseBegan { phase: 1, .. }) {}
    assert!(begun.position().float_accuracy.unwrap() > 90.0);
    let other = Recipe { evaluate_every: EvaluateEvery::Epoch, ..recipe() };
    assert_eq!(float_accuracy(training(other).resumed(begun.checkpoint()).unwrap()), whole);
}

/// Held-out images are for choosing; what the images are normalized by is measured on the others.
#[test]
fn held_out_images_have_no_part_in_the_normalization() {
    let measured = |validation_images, data| {
        let recipe = Recipe { validation_images, ..recipe() };
        let training = Training::new(recipe, network(), data, Hardware::mars()).unwrap();
        (training.recipe().normalization.clone(), training.data().train.clone())
    };
    let (normalization, train) = measured(48, dataset());
    assert_eq!(train.len(), 48);
    let (of_the_rest, _) = measured(0, Dataset { train, ..dataset() });
    assert_eq!(normalization, of_the_rest);
    assert_ne!(normalization, measured(0, dataset()).0);
}

#[test]
fn images_and_labels_that_do_not_fit_are_refused() {
    let refused = |data: Dataset, says: &str| {
        let recipe = Recipe { validation_images: 6, ..recipe() };
        let error = Training::new(recipe, network(), data, Hardware::mars()).err().unwrap().to_string();
        assert_eq!(error, format!("data set `brightness`, {says}"));
    };
    let mut data = dataset();
    data.train.labels[5] = 3;
    refused(data, "training images: label 3, where there are 3 classes");
    let mut data = dataset();
    data.test.labels.pop();
    refused(data, "test images: 480 bytes aren't 29 images of 16 bytes, one for each label");
    let train = Split { shape: SHAPE, ..Split::default() };
    refused(Dataset { train, ..dataset() }, "training images: there are none");
    let shape = ImageShape { height: 2, width: 8, ..SHAPE };
    let test = Split { shape, ..dataset().test };
    refused(Dataset { test, ..dataset() }, "test images: they are [1, 2, 8], the training images [1, 4, 4]");
}

/// What a package cannot hold is said before the training, not after it.
#[test]
fn a_network_that_no_package_holds_is_refused() {
    let layers = r#"
        name = "long"
        input = [1, 4, 4]
        classes = 3
        layers = [
            { op = "conv", name = "a", filters = 3, kernel = [1, 257], padding = [0, 128] },
            { op = "linear", name = "b", filters = 3 },
        ]
    "#;
    let network: NetworkSpec = toml::from_str(layers).unwrap();
    let error = Training::new(recipe(), network, dataset(), Hardware::mars()).err().unwrap().to_string();
    assert!(error.starts_with("no package can hold network `long`: `header.network.layers[0].kernel`: 257"), "{error}");
}

/// A batch norm over one value a channel would learn a variance of 0.
#[test]
fn a_batch_norm_that_would_see_one_value_is_refused() {
    let mut network = network();
    network.layers.remove(1);
    network.layers.insert(
        1,
        toml::from_str(
            r#"op = "linear"
        name = "wide"
        filters = 8
        batch_norm = true"#,
        )
        .unwrap(),
    );
    let training =
        |batch_size| Training::new(Recipe { batch_size, ..recipe() }, network.clone(), dataset(), Hardware::mars());
    training(94).unwrap();
    let error = training(95).err().unwrap().to_string();
    assert!(error.starts_with("layer `wide`: the last of 96 images in batches of 95 is alone"), "{error}");
    assert!(training(1).is_err());
}

/// Scales belong to bits and rules, of which weights say nothing.
#[test]
fn weights_of_a_quantized_training_start_without_its_scales() {
    let mut first = training(recipe());
    first.finish(|_| {}, &Default::default()).unwrap();
    let names = |weights: &Weights| weights.iter().filter(|(name, _)| name.ends_with("_step")).count();
    assert!(names(&first.weights()) > 0);
    let second = training(recipe()).starting_from(&first.weights()).unwrap();
    assert_eq!(names(&second.weights()), 0);
}

/// Weights and device belong to the beginning: later they would throw away momentum and masks.
#[test]
fn a_training_that_has_begun_does_not_begin_anew() {
    let mut training = training(recipe());
    training.step().unwrap();
    let weights = training.weights();
    let error = training.starting_from(&weights).err().unwrap().to_string();
    assert_eq!(error, "starting_from: the training has begun, or goes on from a checkpoint");
}

/// Sums that a lossy chip's adders cannot hold are found before the training, not after it.
#[test]
fn a_chip_whose_sums_cannot_be_held_is_refused_before_the_first_step() {
    let noise = Some(Noise { sigma: 4e5, ..Noise::default() });
    let recipe = Recipe { phases: vec![Phase::new(PhaseKind::Quantize, 1, 0.001)], ..recipe() };
    let hardware = Hardware { noise, ..Hardware::mars() };
    let mut training = Training::new(recipe, network(), dataset(), hardware).unwrap();
    let error = training.advance().unwrap_err().to_string();
    assert!(error.starts_with("layer `conv`: its sums can reach ") && error.ends_with("beyond 32 bits"), "{error}");
}

/// What an epoch takes is forecast where it has a single step as well.
#[test]
fn a_single_step_can_be_timed() {
    let mut training = training(Recipe { batch_size: 96, ..recipe() });
    assert!(training.measure_epoch(0, 4).unwrap().unwrap() > 0.0);
}

/// What the usual quantizer does, without saying so.
struct Behind;

impl Quantizer for Behind {
    fn weights(&self, weights: Tensor<4>, scale: Tensor<1>, bits: u8) -> Tensor<4> {
        Lsq.weights(weights, scale, bits)
    }

    fn values(&self, values: Tensor<4>, scale: Tensor<1>, codes: RangeInclusive<i32>) -> Tensor<4> {
        Lsq.values(values, scale, codes)
    }
}

/// Losses of four steps: the first one's are the same bits, later ones are near, since the sums of the scales' gradients have another order.
#[test]
fn a_layer_that_rounds_in_its_own_pass_trains_as_one_that_rounds_behind_it() {
    let blocks = r#"
        name = "blocks"
        input = [1, 4, 4]
        classes = 3
        layers = [
            { op = "conv", name = "a", filters = 8, kernel = 3, padding = 1 },
            { op = "conv", name = "b", filters = 8, kernel = 3, padding = 1, activation = "none" },
            { op = "conv", name = "c", filters = 8, kernel = 3, padding = 1, add = { from = "a" } },
            { op = "conv", name = "d", filters = 12, kernel = 3, stride = 2, padding = 1, add = { from = "c", stride = 2 } },
            { op = "avg_pool", name = "pool" },
            { op = "linear", name = "classifier", filters = 3 },
        ]
    "#;
    let losses = |fusion, quantizer: Option<Arc<dyn Quantizer>>| -> Vec<f64> {
        let quantize = QuantizeConfig { fusion, ..QuantizeConfig::default() };
        let phases = vec![Phase::new(PhaseKind::Quantize, 1, 0.01)];
        let recipe = Recipe { quantize, phases, ..recipe() };
        let mut training = Training::new(recipe, toml::from_str(blocks).unwrap(), dataset(), Hardware::mars()).unwrap();
        if let Some(quantizer) = quantizer {
            training = training.with_quantizer(quantizer);
        }
        (0..4).map(|_| training.step().unwrap().unwrap().loss).collect()
    };
    for fusion in [Fusion::Batch, Fusion::Ema, Fusion::Frozen, Fusion::Once, Fusion::None] {
        let (own, behind) = (losses(fusion, None), losses(fusion, Some(Arc::new(Behind))));
        assert_eq!(own[0], behind[0], "{fusion:?}");
        let near = own.iter().zip(&behind).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs());
        assert!(near && own[3] != own[0], "{fusion:?}: {own:?} {behind:?}");
    }
}
