//! What a run starts from: checkpoints of all kinds, and packages.

use std::fs;
use std::path::Path;

use mars::integer::IntegerLayer;
use mars::network::{Array, Graph, Weights};
use mars::package::Package;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, command, success};
use crate::place::{FINISHED, TRAIN, json, metrics, new_place, place, refused, train, tree};

/// What training reports is the accuracy of the checkpoint that it leaves.
#[test]
fn a_checkpoint_is_evaluated_without_training() {
    let lines = metrics(&FINISHED.join("run"));
    for (checkpoint, line) in [("0-float", &lines[2]), ("1-sparsify", &lines[4])] {
        let file = format!("run/checkpoints/{checkpoint}.safetensors");
        let arguments = ["--recipe", "recipe.toml", "--evaluate", "--pretrained", &file];
        let before = tree(&FINISHED);
        let (out, err) = success(&train(&FINISHED, &arguments).output().unwrap());
        assert_eq!(out, format!("test accuracy {:.2} %\n", line["test_accuracy"].as_f64().unwrap()));
        assert!(err.is_empty() && tree(&FINISHED) == before, "{err}");
    }
    // What a chip can hold, and how many groups can go, has no say in it.
    let chip = "--hardware=experiments/hardware/library/papistas-cicc2021.toml";
    for setting in [chip, "--set=sparsity.target=0.999", "--set=quantize.weight_bits=7"] {
        let file = "run/checkpoints/0-float.safetensors";
        let arguments = ["--recipe", "recipe.toml", "--evaluate", "--pretrained", file, setting];
        success(&train(&FINISHED, &arguments).output().unwrap());
    }
}

/// A place with `own.safetensors`, random weights of its network that were changed.
pub(super) fn place_with_weights(change: impl Fn(&str, &mut Array)) -> TempDir {
    let dir = new_place();
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    let mut weights = Weights::default();
    for (name, array) in Weights::random(&graph, 5).iter() {
        let mut array = array.clone();
        change(name, &mut array);
        weights.insert(name.into(), array);
    }
    weights.save(&dir.path().join("own.safetensors"), None).unwrap();
    dir
}

/// Trains from `own.safetensors` with these phases, and gives what `deploy.json` says.
fn deployed_from_own(folder: &Path, phases: &str, settings: &[&str]) -> Value {
    let phases = format!("phases=[{phases}]");
    let arguments = ["--recipe", "recipe.toml", "--pretrained", "own.safetensors", "--set", &phases, "--json", "json"];
    success(&train(folder, &[&arguments, settings].concat()).output().unwrap());
    json(&folder.join("json"))
}

/// A package has no scale of its logits, on which the loss depends: it gets one with which the loss is no higher than the checkpoint's.
#[test]
fn logits_of_a_package_get_a_scale() {
    let dir = new_place();
    let loss = |from: &str| {
        let (from, name) = (FINISHED.join("run").join(from), from.replace('/', "-"));
        let phases = "phases=[{kind=\"quantize\",epochs=1,learning_rate=1e-9}]";
        let arguments =
            ["--recipe", "recipe.toml", "--pretrained", from.to_str().unwrap(), "--run", &name, "--set", phases];
        success(&train(dir.path(), &arguments).output().unwrap());
        metrics(&dir.path().join(&name))[0]["loss"].as_f64().unwrap()
    };
    let [of_checkpoint, of_package] = ["checkpoints/last.safetensors", "model.mars"].map(loss);
    assert!(of_package < 1.02 * of_checkpoint, "{of_package} {of_checkpoint}");
}

/// Batch norms that `once` folded change nothing with the statistics that they have. With a batch's they would: they get those of training images.
#[test]
fn a_run_goes_on_from_folded_batch_norms() {
    let dir = new_place();
    let float = FINISHED.join("run/checkpoints/0-float.safetensors");
    let run = |from: &Path, name: &str, settings: &[&str]| {
        let arguments = ["--recipe", "recipe.toml", "--pretrained", from.to_str().unwrap(), "--run", name];
        success(&train(dir.path(), &[&arguments, settings].concat()).output().unwrap());
        dir.path().join(name)
    };
    let once = ["--set", "quantize.fusion=once", "--set", "phases=[{kind=\"quantize\",epochs=0}]"];
    let folded = run(&float, "once", &once).join("checkpoints/last.safetensors");
    let steps = ["--set", "phases=[{kind=\"float\",epochs=1,learning_rate=1e-9},{kind=\"quantize\",epochs=0}]"];
    let [loss, of_folded] = [(&float, "float"), (&folded, "folded")]
        .map(|(from, name)| metrics(&run(from, name, &steps))[0]["loss"].as_f64().unwrap());
    assert!((of_folded / loss - 1.0).abs() < 0.05, "{loss} {of_folded}");
}

/// A layer of nothing but zeros, as a new head often is, learns.
#[test]
fn a_layer_that_is_all_zero_in_a_checkpoint_learns() {
    let zeros = |name: &str, array: &mut Array| {
        if name == "linear.weight" || name == "c.weight" {
            // Of `c` 16 of 24 filters.
            let zeros = if name == "c.weight" { array.values.len() / 3 * 2 } else { array.values.len() };
            array.values[..zeros].fill(0.0);
        }
    };
    let dir = place_with_weights(zeros);
    let arguments = ["--recipe", "recipe.toml", "--pretrained", "own.safetensors", "--json", "json", "--set"];
    let phases = "phases=[{kind=\"quantize\",epochs=1}]";
    let mut command = command(TRAIN, dir.path());
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1"]).args(arguments).arg(phases);
    let output = command.output().unwrap();
    success(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(" % of the groups are zero and stay so (sparsity.keep_zero_groups = false"), "{said}");
    let report = json(&dir.path().join("json"));
    let layers = report["layers"].as_array().unwrap();
    let sparsity = |name: &str| layers.iter().find(|layer| layer["name"] == name).unwrap()["group_sparsity"].as_f64();
    assert_eq!(sparsity("linear"), Some(0.0));
    assert!(sparsity("c").unwrap() > 0.0);
}

#[test]
fn pruning_that_would_not_happen_is_refused_and_more_of_it_is_said() {
    let dir = new_place();
    let quantize = "phases=[{kind=\"quantize\",epochs=0}]";
    let arguments = ["--recipe", "recipe.toml", "--set", quantize, "--set", "sparsity.target=0.5"];
    let parts = ["--set sparsity.target=0.5: no phase of recipe.toml sparsifies"];
    refused(dir.path(), &mut train(dir.path(), &arguments), &parts);

    let arguments = ["--recipe", "recipe.toml", "--set", "sparsity.lambda=10", "--set", "phases.2.epochs=0"];
    let mut command = command(TRAIN, dir.path());
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1"]).args(arguments);
    let output = command.output().unwrap();
    success(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(" % of the groups are zero, sparsity.target = 0.4 asks for 40.0 %"), "{said}");

    // Layers of one group keep it.
    let settings = ["--set", "sparsity.target=0.97", "--set", "sparsity.budget=groups_per_layer"];
    let mut command = common::command(TRAIN, dir.path());
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1", "--recipe", "recipe.toml"]).args(settings);
    let output = command.output().unwrap();
    success(&output);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("asks for 97.0 %: each layer keeps a group, and layers of few groups stay below it"),
        "{said}"
    );
}

#[test]
fn groups_that_are_zero_in_a_checkpoint_stay_zero_and_count() {
    // Of `c`, 24 x 20 x 3 x 3: the group of filters 0 to 15 and channels 0 to 15 at four kernel positions.
    let zero = |index: usize| index / 9 / 20 < 16 && index / 9 % 20 < 16 && index % 9 < 4;
    let dir = place_with_weights(|name, array| {
        if name == "c.weight" {
            array.values.iter_mut().enumerate().filter(|(index, _)| zero(*index)).for_each(|(_, weight)| *weight = 0.0);
        }
    });
    let c = |report: &Value| {
        let layers = report["layers"].as_array().unwrap();
        let c = layers.iter().find(|layer| layer["name"] == "c").unwrap();
        (36.0 * c["group_sparsity"].as_f64().unwrap()).round()
    };
    let quantize = "{kind = \"quantize\", epochs = 1}";
    assert_eq!(c(&deployed_from_own(dir.path(), quantize, &[])), 4.0);
    let all = ["--set", "sparsity.keep_zero_groups=false"];
    assert_eq!(c(&deployed_from_own(dir.path(), quantize, &all)), 0.0);
    // Of 98 groups, 4 are zero before 20 are to be.
    let sparsify = "{kind = \"sparsify\", epochs = 1}, {kind = \"quantize\", epochs = 1}";
    let report = deployed_from_own(dir.path(), sparsify, &["--set", "sparsity.target=0.2"]);
    let share = report["compression"]["group_sparsity"].as_f64().unwrap();
    assert!((share - 0.2).abs() < 0.01 && c(&report) >= 4.0, "{share}");
}

/// A layer of zeros, and one whose values are never above zero, have scales too.
#[test]
fn a_layer_that_gives_nothing_is_no_error() {
    let dir = place_with_weights(|name, array| match name {
        "a.gamma" => array.values.fill(0.0),
        "a.beta" => array.values.fill(-1.0),
        _ => {}
    });
    let report = deployed_from_own(dir.path(), "{kind = \"quantize\", epochs = 0}", &[]);
    for key in ["fake_quant_vs_integer_predictions", "integer_vs_macro_logits", "fake_quant_vs_macro_predictions"] {
        assert_eq!(report["mismatches"][key], 0, "{key}");
    }
}

/// Whatever a channel holds that nobody reads, it decides no scale.
#[test]
fn a_channel_that_nobody_reads_changes_nothing() {
    let accuracy = |factor: f32| {
        let dir = place_with_weights(|name, array| match name {
            "b.weight" => {
                let unread = |index: &usize| index / 9 % 12 == 3;
                let weights = array.values.iter_mut().enumerate();
                weights.filter(|(index, _)| unread(index)).for_each(|(_, weight)| *weight = 0.0);
            }
            "a.gamma" | "a.beta" => array.values[3] = factor,
            _ => {}
        });
        let report = deployed_from_own(dir.path(), "{kind = \"quantize\", epochs = 0}", &[]);
        report["accuracy"].clone()
    };
    assert_eq!(accuracy(1.0), accuracy(1000.0));
}

#[test]
fn statistics_that_a_checkpoint_lacks_are_measured() {
    // What batch norms make of their statistics is the same for inputs of another mean and scale.
    let dir = place_with_weights(|_, _| {});
    let (mut without, full) = (Weights::default(), Weights::load(&dir.path().join("own.safetensors")).unwrap().0);
    for (name, array) in full.iter().filter(|(name, _)| !name.ends_with(".mean") && !name.ends_with(".var")) {
        without.insert(name.into(), array.clone());
    }
    without.save(&dir.path().join("without.safetensors"), None).unwrap();
    let evaluate = |file: &str, loud: bool| {
        let mut command = command(TRAIN, dir.path());
        command.args(["--data-dir", "data", "--recipe", "recipe.toml", "--evaluate", "--pretrained", file]);
        success(&command.args((!loud).then_some("--quiet")).output().unwrap())
    };
    let (out, err) = evaluate("without.safetensors", true);
    let said = "`stem`, `a`, `b`, `b.projection`, `c`: batch norm without running statistics: they are taken from training images";
    assert!(err.contains(said), "{err}");
    assert!(out.starts_with("test accuracy "), "{out}");
    assert_ne!(out, evaluate("own.safetensors", false).0, "a mean of 0 and a variance of 1");
}

#[test]
fn a_checkpoint_says_which_of_its_weights_are_read() {
    let dir = place_with_weights(|_, _| {});
    let own = Weights::load(&dir.path().join("own.safetensors")).unwrap().0;
    let mut both = Weights::default();
    for (name, array) in own.iter() {
        both.insert(format!("model.{name}"), array.clone());
        let zeros = Array { values: vec![0.0; array.values.len()], ..array.clone() };
        both.insert(format!("ema.{name}"), zeros);
    }
    both.save(&dir.path().join("both.safetensors"), None).unwrap();
    let evaluate = |file: &str| {
        train(dir.path(), &["--recipe", "recipe.toml", "--evaluate", "--pretrained", file]).output().unwrap()
    };
    let refused = String::from_utf8(evaluate("both.safetensors").stderr).unwrap();
    let expected = "error: both.safetensors: it holds 2 sets of weights, `ema` and `model`: name one, such as \
                    --pretrained both.safetensors#ema\n";
    assert_eq!(refused, expected);
    assert_eq!(success(&evaluate("both.safetensors#model")).0, success(&evaluate("own.safetensors")).0);
}

/// The float weights of a quantized network say little without its scales: a run from them begins where the one before ended.
#[test]
fn a_quantized_checkpoint_keeps_its_scales() {
    let dir = new_place();
    let last = FINISHED.join("run/checkpoints/last.safetensors");
    let start = ["--recipe", "recipe.toml", "--pretrained", last.to_str().unwrap(), "--run", "again"];
    let phases = ["--set", "phases=[{kind = \"quantize\", epochs = 0}]"];
    success(&train(dir.path(), &[&start[..], &phases].concat()).output().unwrap());
    let [before, again] = [FINISHED.join("run"), dir.path().join("again")]
        .map(|run| Package::read(&run.join("model.mars")).unwrap().network);
    assert!(before == again, "other scales");
    // A layer that is trained anew gets scales of its own, whatever size those of the layer before had.
    let with = |run: &str, settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
        let start = ["--recipe", "recipe.toml", "--run", run];
        let output =
            command(TRAIN, dir.path()).args(start).args(settings).args(["--data-dir", "data"]).output().unwrap();
        success(&output).1
    };
    let column = ["quantize.weight_scale=column", "phases=[{kind=\"quantize\",epochs=0}]"];
    let told = with("column", &[&column[..], &[&format!("pretrained={}", last.display())]].concat());
    assert!(told.contains("the checkpoint's scales are left aside: `quantize.weight_scale` was another one"), "{told}");
    // A recipe of a later version, which has keys that this one doesn't know.
    let (weights, state) = Weights::load(&last).unwrap();
    let mut state = state.unwrap();
    state["recipe"]["of_later"] = true.into();
    weights.save(&dir.path().join("later.safetensors"), Some(state)).unwrap();
    let told = with("later", &["pretrained=later.safetensors", "phases=[{kind=\"quantize\",epochs=0}]"]);
    assert!(told.contains("the checkpoint's scales are left aside: its recipe isn't of this version"), "{told}");
    let wide = fs::read_to_string(dir.path().join("tiny.toml")).unwrap().replacen("filters = 12", "filters = 16", 1);
    fs::write(dir.path().join("other.toml"), wide).unwrap();
    let from = ["pretrained=column/checkpoints/last.safetensors", "model=other.toml", "fresh=[\"a\",\"b\"]"];
    let told = with("fresh", &[&column[..], &from].concat());
    assert!(told.contains("quantizers begin with"), "{told}");
}

#[test]
fn a_package_is_a_start() {
    let dir = new_place();
    let package = FINISHED.join("run/model.mars");
    let package = package.to_str().unwrap();
    let start = ["--recipe", "recipe.toml", "--pretrained", package, "--json", "json"];
    let run = |folder: &str, settings: &[&str]| {
        let arguments = [
            &start,
            &["--run", folder][..],
            &settings.iter().flat_map(|setting| ["--set", *setting]).collect::<Vec<_>>(),
        ]
        .concat();
        success(&train(dir.path(), &arguments).output().unwrap());
        json(&dir.path().join("json"))
    };
    // At the package's own bits a run without training gives what the package gives.
    let again = run("again", &["phases=[{kind = \"quantize\", epochs = 0}]"]);
    let before = json(&FINISHED.join("run/deploy.json"));
    let accuracy = |report: &Value| report["accuracy"]["macro"].as_f64().unwrap();
    assert!((accuracy(&again) - accuracy(&before)).abs() <= 1.0, "{} {}", again["accuracy"], before["accuracy"]);
    assert_eq!(again["compression"], before["compression"]);
    // At others its weights are floats, of which groups stay zero.
    let wide = ["phases=[{kind = \"quantize\", epochs = 1}]", "quantize.weight_bits=8", "quantize.activation_bits=8"];
    let wide = run("wide", &wide);
    assert_eq!(wide["compression"]["group_sparsity"], before["compression"]["group_sparsity"]);
    assert_eq!(wide["mismatches"]["fake_quant_vs_macro_predictions"], 0);
    // A package with a scale a layer has none for each column.
    run("column", &["phases=[{kind = \"quantize\", epochs = 0}]", "quantize.weight_scale=column"]);
    let columns = Package::read(&dir.path().join("column/model.mars")).unwrap().network;
    let per_column = |layer: &IntegerLayer| match layer {
        IntegerLayer::Conv { output: Some(output), .. } => output.multipliers.len() > 1,
        _ => false,
    };
    assert!(columns.layers.iter().any(per_column));
    let network =
        common::tiny_network(10).replacen("kernel = 3", "kernel = 5", 1).replacen("padding = 1", "padding = 2", 1);
    fs::write(dir.path().join("other.toml"), network).unwrap();
    let other = [&start[..], &["--model", "other.toml"]].concat();
    refused(dir.path(), &mut train(dir.path(), &other), &["model.mars: it holds the network `tiny`", "of --model"]);
    // As the model it brings its network, too.
    fs::remove_file(dir.path().join("tiny.toml")).unwrap();
    let recipe = fs::read_to_string(dir.path().join("recipe.toml")).unwrap();
    fs::write(dir.path().join("alone.toml"), recipe.replacen("pretrained = \"none\"\n", "", 1)).unwrap();
    let phases = "phases=[{kind = \"quantize\", epochs = 0}]";
    let alone = ["--recipe", "alone.toml", "--model", package, "--run", "alone", "--json", "json", "--set", phases];
    success(&train(dir.path(), &alone).output().unwrap());
    assert_eq!(json(&dir.path().join("json")), again);
    let resumed = command(TRAIN, dir.path())
        .args(["--resume", "--run", "alone", "--data-dir", "data", "--quiet"])
        .output()
        .unwrap();
    assert!(resumed.status.success(), "{resumed:?}");
    place(dir.path());
    let normalization = ["--set", "normalization.mean=[0.1, 0.2, 0.3]"];
    let other = [&start[..], &normalization].concat();
    refused(
        dir.path(),
        &mut train(dir.path(), &other),
        &["the package's images mean 0 at the bytes", "`normalization`"],
    );
}
