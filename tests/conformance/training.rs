//! What a training step computes, and what is exported of it.

use std::fs;
use std::path::Path;

use mars::data::{DataOptions, Dataset};
use mars::hardware::{Hardware, MacroNetwork};
use mars::integer::{Fusion, Reference};
use mars::network::{Conv, Weights};
use mars::observer::{Silent, StopSignal};
use mars::run::{Cpu, Environment, Outcome, Plan};
use mars::train::{Phase, PhaseKind, Recipe, StartFrom};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::common;
use crate::executions::case;
use crate::weights::{affine, columns};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// What the fake quantizers of training do to a folded weight in `f32`, the fold does in `f64`: a rounding tie may fall on
    /// either side, nothing else differs as long as no scale has to be raised.
    #[test]
    fn folded_weights_are_those_of_the_fake_quantizers(case in case()) {
        let (weights, image_scale, network) = case.fold(true)?;
        let fused = case.config.fusion != Fusion::None;
        let colors: Vec<f64> = image_scale.color_scales().collect();
        let integers: Vec<_> = network.convs().map(|(conv, integer)| (conv.name, integer)).collect();
        for conv in network.graph.convs() {
            let Conv { name, shape, batch_norm, .. } = &conv;
            let integer = integers.iter().find(|(other, _)| other == name).unwrap().1;
            let steps = &weights.get(&format!("{name}.weight_step")).unwrap().values;
            let limit = ((1i32 << (integer.weight_bits - 1)) - 1) as f32;
            let len = shape.depth() * shape.taps();
            for (filter, column) in columns(&weights, &conv, fused, &colors).iter().enumerate() {
                let step = steps[if steps.len() > 1 { filter } else { 0 }];
                let outside = !fused && *batch_norm;
                let gain = affine(&weights, name, *batch_norm, filter).0;
                for (weight, q) in column.iter().zip(&integer.weights[filter * len..]) {
                    // Batch norm outside has a multiplier without a sign: the weight takes it.
                    let sign = if outside { gain.signum() as f32 } else { 1.0 };
                    let exact = (*weight as f32 / step * sign).clamp(-limit, limit);
                    let distance = (exact - f32::from(*q)).abs();
                    prop_assert!(distance <= 0.5 + 1e-3, "{name}: {exact} became {q}");
                }
            }
        }
    }
}

/// Runs a recipe on the small network.
fn run(folder: &Path, data: &Path, device: &str, recipe: &str) -> mars::validation::Deployment {
    run_network(&common::tiny_network(10), folder, data, device, recipe)
}

/// Runs a recipe on a network of a TOML file.
fn run_network(network: &str, folder: &Path, data: &Path, device: &str, recipe: &str) -> mars::validation::Deployment {
    fs::create_dir_all(folder).unwrap();
    let (description, file) = (folder.join("network.toml"), folder.join("in.toml"));
    fs::write(&description, network).unwrap();
    let model = description.display().to_string();
    fs::write(&file, format!("model = {model:?}\npretrained = \"none\"\n{recipe}")).unwrap();
    let recipe = Recipe::load(Some(&file), &[]).unwrap();
    let data = DataOptions { data_dir: Some(data.into()), ..DataOptions::default() };
    let environment = Environment { data: &data, device, observer: &Silent };
    let plan = Plan::new(recipe, Some(folder.join("run")), environment);
    match plan.unwrap().run(&StopSignal::default()).unwrap() {
        Outcome::Finished(_, deployment) => *deployment,
        Outcome::Interrupted(_) => panic!("nobody pressed Ctrl-C"),
    }
}

/// A run without a single step is stopped before its phase, and goes on from there.
#[test]
fn a_run_stops_between_phases_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("network.toml");
    fs::write(&model, common::tiny_network(10)).unwrap();
    let recipe = Recipe {
        model: model.display().to_string(),
        dataset: "cifar10-mini".into(),
        pretrained: StartFrom::Random,
        calibration_images: 16,
        phases: vec![Phase::new(PhaseKind::Quantize, 0, 0.01)],
        ..Recipe::default()
    };
    let environment = Environment { data: &DataOptions::default(), device: "flex", observer: &Silent };
    let run = folder.path().join("run");
    let stop = StopSignal::default();
    stop.stop();
    let plan = Plan::new(recipe, Some(run.clone()), environment).unwrap();
    assert!(matches!(plan.run(&stop).unwrap(), Outcome::Interrupted(_)));
    assert!(!run.join("model.mars").exists());
    let plan = Plan::resume(run.clone(), Cpu::Same, environment).unwrap();
    assert!(matches!(plan.run(&StopSignal::default()).unwrap(), Outcome::Finished(..)));
    assert!(run.join("model.mars").exists());
}

/// The lines of a run's `metrics.jsonl`.
fn metrics(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(value: &serde_json::Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {value}"))
}

/// A recipe that trains in float and then, quantized, with a learning rate that moves nothing; lines may be added at its `top`, to its
/// `quantize` section and to its last `phase`.
fn still(bits: &str, fusion: &str, scale: &str, epochs: &str, top: &str, quantize: &str, phase: &str) -> String {
    format!(
        r#"
        batch_size = 60
        augment = false
        {top}
        [quantize]
        weight_bits = {bits}
        activation_bits = {bits}
        fusion = "{fusion}"
        weight_scale = "{scale}"
        {quantize}
        [[phases]]
        kind = "float"
        epochs = 6
        learning_rate = 0.05
        [[phases]]
        kind = "quantize"
        epochs = {epochs}
        learning_rate = 1e-30
        {phase}
        "#
    )
}

/// Steps of a learning rate that moves nothing show the loss of training's own forward pass; the exported integers have the same.
/// Where training looks at the batch, here all images, the running statistics come to be the batch's.
#[test]
fn training_computes_the_loss_of_what_it_exports() {
    let dir = TempDir::new().unwrap();
    common::write_cifar10(dir.path(), 12, 20);
    let cases = [
        ["6", "frozen", "layer", "1", ""],
        ["6", "frozen", "column", "1", ""],
        ["2", "frozen", "layer", "1", ""],
        ["3", "frozen", "column", "1", ""],
        ["3", "once", "layer", "1", ""],
        ["3", "once", "column", "1", ""],
        ["4", "batch", "layer", "80", "freeze_at = 80"],
        ["4", "ema", "layer", "80", "freeze_at = 80"],
        ["4", "ema", "column", "80", "freeze_at = 80"],
        ["4", "none", "layer", "80", ""],
        ["4", "ema", "layer", "2", "freeze_at = 1"],
        ["4", "batch", "layer", "2", "freeze_at = 0.5"],
    ];
    let signed_cases = [
        ["6", "frozen", "layer", "1", ""],
        ["2", "frozen", "column", "1", ""],
        ["3", "once", "layer", "1", ""],
        ["4", "batch", "layer", "80", "freeze_at = 80"],
        ["4", "ema", "column", "80", "freeze_at = 80"],
        ["4", "none", "layer", "80", ""],
    ];
    let (tiny, bottleneck) = (common::tiny_network(10), common::bottleneck_network(10));
    let joined = common::joined_network(10);
    let joined_cases = [
        ["6", "frozen", "layer", "1", ""],
        ["3", "once", "column", "1", ""],
        ["4", "ema", "layer", "80", "freeze_at = 80"],
        ["4", "none", "layer", "80", ""],
    ];
    let others =
        signed_cases.map(|case| (&bottleneck, case)).into_iter().chain(joined_cases.map(|case| (&joined, case)));
    for (network, case) in cases.map(|case| (&tiny, case)).into_iter().chain(others) {
        let kind = match network {
            network if *network == tiny => "tiny",
            network if *network == bottleneck => "bottleneck",
            _ => "joined",
        };
        let folder = dir.path().join(format!("{kind}-{}", case.join("-").replace([' ', '='], "")));
        let [bits, fusion, scale, epochs, extra] = case;
        let recipe = still(bits, fusion, scale, epochs, "", "", extra);
        let deployment = run_network(network, &folder, dir.path(), "flex", &recipe);
        assert_eq!(deployment.mismatches.fake_quant_vs_macro_predictions, Some(0), "{}", folder.display());
        assert_eq!(deployment.mismatches.integer_vs_macro_logits, 0, "{}", folder.display());
        let reference = Reference::new(&deployment.package.network).unwrap();
        // Running variances are unbiased, a batch's isn't. Elsewhere the losses differ by some 1e-7, or 1e-4 for a value that rounding
        // takes to the other side of a half.
        let tolerance = if case[3] == "80" { 0.02 } else { 1e-3 };
        compare_losses(&folder, dir.path(), |images| reference.logits(images), tolerance);
    }
}

/// Compares the loss and the accuracy of the last epoch with those of `logits` on the training images.
fn compare_losses(folder: &Path, data: &Path, logits: impl Fn(&[u8]) -> Vec<i32>, tolerance: f64) {
    let line = metrics(folder).pop().unwrap();
    let (weights, _) = Weights::load(&folder.join("run/checkpoints/last.safetensors")).unwrap();
    let step = |name: &str| f64::from(weights.get(name).unwrap().values[0]);
    let unit = step("linear.weight_step") * step("mean.output_step");
    let options = DataOptions { data_dir: Some(data.into()), ..DataOptions::default() };
    let train = Dataset::load("cifar10", &options).unwrap().train;
    let (mut loss, mut right) = (0.0, 0);
    for (logits, &label) in logits(&train.images).chunks(10).zip(&train.labels) {
        let logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) * unit).collect();
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        loss += (sum.ln() - logits[usize::from(label)]) / train.len() as f64;
        right += usize::from((0..10).all(|class| logits[class] <= logits[usize::from(label)]));
    }
    let name = folder.display();
    let (trained_loss, trained_accuracy) = (number(&line, "loss"), number(&line, "train_accuracy"));
    assert!((trained_loss / loss - 1.0).abs() < tolerance, "{name}: loss {trained_loss} and {loss}");
    let accuracy = 100.0 * right as f64 / train.len() as f64;
    // Where the losses may differ, so may the images of a network that is hardly trained.
    let same = tolerance > 0.01 || (trained_accuracy - accuracy).abs() < 2.0;
    assert!(same, "{name}: {trained_accuracy} % and {accuracy} %");
}

/// Training that knows the converter computes what the chip does; training that doesn't, what the integers do. Evaluation is the
/// chip's in both.
#[test]
fn converter_aware_training_computes_the_loss_of_the_chip() {
    let dir = TempDir::new().unwrap();
    common::write_cifar10(dir.path(), 12, 20);
    let mars = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let chip = fs::read_to_string("experiments/hardware/adc5.toml").unwrap();
    let chip = chip.replace("base = \"mars.toml\"", &format!("base = {mars:?}")).replace("step = 1", "step = 2");
    let stuck = chip.replace("[converter]", "[noise]\nstuck_at_one = 0.002\nseed = 5\n\n[converter]");
    let noisy = chip.replace("[converter]", "[noise]\nsigma = 0.6\nseed = 5\n\n[converter]");
    for (name, text) in [("coarse", &chip), ("stuck", &stuck), ("noisy", &noisy)] {
        fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
    }
    let cases = [
        ("coarse", "frozen", "layer", true, 1),
        ("coarse", "frozen", "column", true, 1),
        ("stuck", "once", "layer", true, 1),
        ("coarse", "batch", "layer", true, 80),
        ("coarse", "ema", "layer", true, 80),
        ("coarse", "none", "layer", true, 80),
        ("coarse", "frozen", "layer", false, 1),
        ("noisy", "frozen", "layer", true, 1),
    ];
    let signed_cases = [
        ("coarse", "frozen", "layer", true, 1),
        ("stuck", "once", "layer", true, 1),
        ("coarse", "none", "layer", true, 80),
    ];
    let (tiny, bottleneck) = (common::tiny_network(10), common::bottleneck_network(10));
    let cases = cases.map(|case| (&tiny, case)).into_iter().chain(signed_cases.map(|case| (&bottleneck, case)));
    for (network, (chip, fusion, scale, aware, epochs)) in cases {
        let hardware = dir.path().join(format!("{chip}.toml")).display().to_string();
        let chip_file = format!("hardware = \"{hardware}\"");
        let aware_key = format!("converter_aware = {aware}");
        let freeze = if matches!(fusion, "batch" | "ema") { "freeze_at = 80" } else { "" };
        let recipe = still("4", fusion, scale, &epochs.to_string(), &chip_file, &aware_key, freeze);
        let kind = if *network == tiny { "tiny" } else { "bottleneck" };
        let folder = dir.path().join(format!("{kind}-{chip}-{fusion}-{scale}-{aware}"));
        let deployment = run_network(network, &folder, dir.path(), "flex", &recipe);
        let mismatches = &deployment.mismatches;
        assert_eq!(mismatches.fake_quant_vs_macro_predictions, Some(0), "{}", folder.display());
        assert!(mismatches.integer_vs_macro_logits > 0);
        let line = metrics(&folder).pop().unwrap();
        assert_eq!(number(&line, "test_accuracy"), deployment.accuracy.macro_model);
        if chip == "noisy" {
            // Training draws its own noise, the same at every run.
            let again = dir.path().join("again");
            run(&again, dir.path(), "flex", &recipe);
            let losses = [&folder, &again].map(|folder| number(&metrics(folder).pop().unwrap(), "loss"));
            assert_eq!(losses[0], losses[1]);
            continue;
        }
        let hardware = Hardware::load(Path::new(&hardware)).unwrap();
        let macros = MacroNetwork::new(&deployment.package.network, &hardware).unwrap();
        let reference = Reference::new(&deployment.package.network).unwrap();
        let logits = |images: &[u8]| if aware { macros.logits(images).unwrap() } else { reference.logits(images) };
        // Weights that round to the other side with the running statistics meet the converter's stairs.
        // A value that rounding takes to the other side of a half climbs a stair with what follows it: more often where maps are larger.
        let tolerance = match (epochs > 1, *network == tiny) {
            (true, _) => 0.1,
            (false, true) => 2e-3,
            (false, false) => 2e-2,
        };
        compare_losses(&folder, dir.path(), logits, tolerance);
    }
}

#[test]
fn a_step_and_an_evaluation_agree_on_both_devices() {
    agree_on_both_devices(&common::tiny_network(10));
}

#[test]
fn both_devices_agree_on_windows_of_every_kind_and_on_maps_behind_each_other() {
    agree_on_both_devices(&common::joined_network(10));
}

fn agree_on_both_devices(network: &str) {
    let dir = TempDir::new().unwrap();
    common::write_cifar10(dir.path(), 4, 20);
    // One step of each kind; after the first, float noise may tip a rounding or a choice to the other side.
    let recipe = r#"
        batch_size = 20
        calibration_images = 20
        [quantize]
        weight_bits = 8
        activation_bits = 8
        [[phases]]
        kind = "float"
        epochs = 1
        learning_rate = 0.01
        [[phases]]
        kind = "quantize"
        epochs = 1
        learning_rate = 0.001
    "#;
    let results = ["flex", "ndarray"].map(|device| {
        let folder = dir.path().join(device);
        let deployment = run_network(network, &folder, dir.path(), device, recipe);
        let (arrays, _) = Weights::load(&folder.join("run/checkpoints/0-float.safetensors")).unwrap();
        (metrics(&folder), arrays, deployment.mismatches)
    });
    let [(flex_metrics, flex_arrays, flex_mismatches), (metrics, arrays, mismatches)] = results;
    assert_eq!((flex_metrics.len(), metrics.len()), (2, 2));
    for ((a, b), tolerance) in flex_metrics.iter().zip(&metrics).zip([1e-4, 1e-2]) {
        let (a, b) = (number(a, "loss"), number(b, "loss"));
        assert!((a - b).abs() < tolerance, "losses {a} and {b}");
    }
    assert!(flex_arrays.iter().map(|(name, _)| name).eq(arrays.iter().map(|(name, _)| name)));
    for ((name, a), (_, b)) in flex_arrays.iter().zip(arrays.iter()) {
        let difference = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let largest = a.values.iter().fold(1.0, |largest: f32, value| largest.max(value.abs()));
        assert!(difference < 1e-4 * largest, "{name}: {difference}");
    }
    assert_eq!(mismatches, flex_mismatches);
    assert_eq!(mismatches.fake_quant_vs_macro_predictions, Some(0));
}
