//! `mars-reproduce` as a person runs it: tables whose rows are runs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use mars::hardware::Hardware;
use mars::network::{Graph, Weights, ZOO, zoo};
use mars::reproduce::Experiment;
use mars::train::StartFrom;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{self, command, success};
use crate::place::{DEPLOY, FINISHED, REPRODUCE, failed, json, metrics, new_place, refused, train, tree};

const RECIPE: &str = r#"
model = "tiny.toml"
dataset = "cifar10"
batch_size = 16
calibration_images = 64

[quantize]
weight_bits = 4
activation_bits = 4

[[phases]]
kind = "sparsify"
epochs = 1

[[phases]]
kind = "quantize"
epochs = 2
"#;

const EXPERIMENT: &str = r#"
title = "Two rows | and one that goes on"
recipe = "recipe.toml"
set = ["pretrained=float.safetensors"]

[[rows]]
name = "dense"
label = "dense"
set = ["sparsity.target=0", "phases.0.epochs=0", "quantize.fusion=none"]
bar = "F - 100"

[[rows]]
name = "sparse"
label = "30 % zero"
set = ["sparsity.target=0.3", "phases.1.epochs=1"]
hardware = "chip.toml"

[[rows]]
name = "merged"
label = "merged"
start = "dense"
set = ["sparsity.target=0", "phases.0.epochs=0", "phases.1.epochs=0"]
bar = "F - 0.0"
"#;

/// A place with made-up data, a float checkpoint and the experiment `two`.
fn experiment_place() -> TempDir {
    let dir = new_place();
    let folder = dir.path().join("experiments");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
    fs::write(folder.join("two.toml"), EXPERIMENT).unwrap();
    let mars = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/hardware/mars.toml");
    fs::copy(mars, folder.join("mars.toml")).unwrap();
    fs::write(folder.join("chip.toml"), "base = \"mars.toml\"\nname = \"chip\"\n[group]\nfilters = 8\n").unwrap();
    fs::copy(FINISHED.join("run/checkpoints/0-float.safetensors"), dir.path().join("float.safetensors")).unwrap();
    dir
}

fn reproduce(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = command(REPRODUCE, folder);
    command.args(["--data-dir", "data", "--data-url", "http://127.0.0.1:1", "--quiet"]).args(arguments);
    command
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// A cell of `table.csv`, whose cells have no commas here.
fn cell(table: &str, row: &str, column: &str) -> String {
    let mut lines = table.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = header.iter().position(|name| *name == column).unwrap_or_else(|| panic!("no {column}"));
    lines.find(|cells| cells[0] == row).unwrap()[column].into()
}

fn number(table: &str, row: &str, column: &str) -> f64 {
    cell(table, row, column).parse().unwrap()
}

/// All rows with two seeds, through an interruption, to a table whose numbers are those of the runs.
#[test]
fn an_experiment_runs_goes_on_and_writes_its_table() {
    let dir = experiment_place();
    let place = dir.path();
    let [runs, results] = ["runs/reproduce/two", "experiments/results/two"].map(|folder| place.join(folder));
    // Stopped before its first checkpoint: it starts again.
    fs::create_dir_all(runs.join("dense/seed-0")).unwrap();
    fs::write(runs.join("dense/seed-0/recipe.toml"), "model = \"none\"").unwrap();
    fs::write(runs.join("dense/seed-0/metrics.jsonl"), "of a run that lost its checkpoint\n").unwrap();

    #[cfg(unix)]
    {
        let child =
            reproduce(place, &["two", "--seeds", "2"]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (out, err) = crate::interruptions::interrupt_at(child, &runs.join("sparse/seed-0"), 1);
        assert!(err.ends_with("interrupted; the same command goes on\n"), "{err}");
        assert!(out.contains("30 % zero"), "the table so far: {out}");
        assert_eq!(cell(&read(results.join("table.csv")), "dense", "state"), "finished");
    }
    success(&reproduce(place, &["two", "--seeds", "2"]).output().unwrap());

    // A row is the run that mars-train does.
    let plain =
        ["--recipe", "experiments/recipe.toml", "--run", "plain", "--seed", "1", "--pretrained", "float.safetensors"];
    let settings =
        ["sparsity.target=0", "phases.0.epochs=0", "quantize.fusion=none"].map(|setting| ["--set", setting]).concat();
    success(&train(place, &[&plain, &settings[..]].concat()).output().unwrap());
    let deployment = |row: &str, seed: u64| json(&runs.join(row).join(format!("seed-{seed}/deploy.json")));
    assert_eq!(json(&place.join("plain/deploy.json")), deployment("dense", 1));
    let evaluate = ["--recipe", "recipe.toml", "--evaluate", "--pretrained", "float.safetensors"];
    let (float, _) = success(&train(place, &evaluate).output().unwrap());

    // The table's numbers are those of the runs.
    let table = read(results.join("table.csv"));
    let markdown = read(results.join("table.md"));
    for (row, epochs) in [("dense", 2), ("sparse", 2), ("merged", 2)] {
        let [first, second] = [0, 1].map(|seed| deployment(row, seed));
        let both =
            |pointer: &str| [&first, &second].map(|found| found.pointer(pointer).and_then(Value::as_f64).unwrap());
        let [a, b] = both("/accuracy/macro");
        assert!((number(&table, row, "accuracy_mean") - (a + b) / 2.0).abs() < 1e-9, "{row}\n{table}");
        assert_eq!(
            [number(&table, row, "accuracy_min"), number(&table, row, "accuracy_max")],
            [a.min(b), a.max(b)],
            "{row}"
        );
        let f = number(&table, row, "float_accuracy");
        assert_eq!(float, format!("test accuracy {f:.2} %\n"), "{row}");
        assert!((number(&table, row, "difference") - ((a + b) / 2.0 - f)).abs() < 1e-9, "{row}");
        for (column, pointer) in [
            ("group_sparsity", "/compression/group_sparsity"),
            ("ratio", "/compression/ratio"),
            ("cycles", "/cost/cycles"),
            ("fps", "/cost/fps"),
            ("energy_uj", "/cost/energy_uj"),
            ("tops_per_watt_dense_equivalent", "/cost/tops_per_watt_dense_equivalent"),
            ("tops_per_watt_executed", "/cost/tops_per_watt_executed"),
            ("fps_without_reload", "/cost_without_reload/fps"),
        ] {
            let [first, _] = both(pointer);
            let found = number(&table, row, column);
            assert!((found - first).abs() <= 1e-9 * first.abs(), "{row} {column}: {found}, not {first}");
        }
        for key in ["fake_quant_vs_integer_predictions", "fake_quant_vs_macro_predictions", "integer_vs_macro_logits"] {
            assert_eq!(number(&table, row, key), 0.0, "{row} {key}");
        }
        assert_eq!([number(&table, row, "epochs"), number(&table, row, "seeds")], [f64::from(epochs), 2.0]);
        let spread =
            format!("| 2 seeds | {epochs} | {f:.2} % | {:.2} % ({:.2} to {:.2}) |", (a + b) / 2.0, a.min(b), a.max(b));
        assert!(markdown.contains(&spread), "{spread}\n{markdown}");
    }
    let met = |row: &str, below: f64| (number(&table, row, "difference") >= -below).to_string();
    assert_eq!(
        (cell(&table, "dense", "met"), cell(&table, "merged", "met")),
        (met("dense", 100.0), met("merged", 0.0))
    );
    assert_eq!(deployment("sparse", 0)["hardware"], "chip");
    assert!(read(results.join("table.svg")).contains("<svg"));

    // What lies beside the table is enough to check a row, as the Markdown says.
    let check = "mars-deploy experiments/results/two/sparse/model.mars --hardware experiments/chip.toml";
    assert!(markdown.contains(check), "{markdown}");
    let mut deploy = command(DEPLOY, place);
    deploy.args(check.split(' ').skip(1)).args(["--data-dir", "data", "--quiet", "--json", "again.json"]);
    success(&deploy.output().unwrap());
    assert!(read(place.join("again.json")) == read(results.join("sparse/deploy.json")));
    assert_eq!(metrics(&results.join("sparse")).len(), 2);
    assert_eq!(json(&results.join("dense/deploy.json")), deployment("dense", 0), "the first seed's");

    // Finished rows are not run again, with their run folders or without.
    let before = tree(&runs);
    let (out, err) = success(&reproduce(place, &["two", "--seeds", "2", "--json", "table.json"]).output().unwrap());
    assert!(err.is_empty() && tree(&runs) == before && out.contains("dense"), "{out}\n{err}");
    let rows = json(&place.join("table.json"))["rows"].clone();
    assert_eq!((rows[1]["name"].as_str(), rows[1]["runs"].as_array().unwrap().len()), (Some("sparse"), 2));
    fs::remove_dir_all(&runs).unwrap();
    success(&reproduce(place, &["two", "--seeds", "2"]).output().unwrap());
    assert!(!runs.exists() && read(results.join("table.csv")) == table);
    let (out, _) = success(&command(REPRODUCE, place).arg("--list").output().unwrap());
    assert!(out.starts_with("two  Two rows | and one that goes on: 3 finished\n"), "{out}");

    // However the experiment is named.
    let absolute = place.join("experiments/two.toml").canonicalize().unwrap();
    for name in ["./experiments/two.toml", "experiments/../experiments/./two.toml", absolute.to_str().unwrap()] {
        success(&reproduce(place, &[name, "--table", "--results", "experiments/results/two"]).output().unwrap());
        assert!(read(results.join("table.csv")) == table, "{name}");
    }

    // A row goes on from a run folder that is there and is the finished run.
    fs::remove_dir_all(results.join("merged")).unwrap();
    let merged = ["two", "--rows", "merged"];
    let parts = ["it starts from row `dense`, seed 0, ", "run both rows with another", "experiments/results/two/dense"];
    let but = |what| [&parts[..], &[what]].concat();
    failed(&reproduce(place, &merged).output().unwrap(), &but("which is finished, but not in"));
    let trial = ["two", "--rows", "dense", "--set", "phases.1.epochs=1", "--results", "trial"];
    success(&reproduce(place, &trial).output().unwrap());
    failed(&reproduce(place, &merged).output().unwrap(), &but("is another run (phases.1.epochs = 2, now 1)"));

    // Results of something else are neither shown nor taken for this row's.
    let other = reproduce(place, &["two", "--set", "batch_size=8"]).output().unwrap();
    failed(&other, &["results/two/dense", "batch_size = 16, now 8", "--results"]);
    success(&reproduce(place, &["two", "--table", "--set", "batch_size=8"]).output().unwrap());
    assert_eq!(cell(&read(results.join("table.csv")), "dense", "state"), "unusable");
    let markdown = read(results.join("table.md"));
    assert!(markdown.contains("With --set batch_size=8: ") && markdown.contains("two.toml --set batch_size=8 --seeds"));
    assert!(read(results.join("table.md")).contains("its results are of something else: batch_size = 16, now 8"));
    for (file, key, value, change) in [
        ("experiments/chip.toml", "name", "name = \"chip\"\nclock_mhz = 50", "clock_mhz = 100.0, now 50.0"),
        ("tiny.toml", "classes", "batch_norm_epsilon = 0.5\nclasses = 10", "batch_norm_epsilon = absent, now 0.5"),
    ] {
        let text = read(place.join(file));
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        fs::write(place.join(file), text.replacen(line, value, 1)).unwrap();
        let message = format!("{file}: {change}");
        failed(&reproduce(place, &["two", "--rows", "sparse"]).output().unwrap(), &["results/two/sparse", &message]);
        let (out, _) = success(&reproduce(place, &["two", "--table"]).output().unwrap());
        assert!(out.contains(&message), "{out}");
        fs::write(place.join(file), text).unwrap();
    }
    let checkpoint = fs::read(place.join("float.safetensors")).unwrap();
    fs::copy(FINISHED.join("run/checkpoints/last.safetensors"), place.join("float.safetensors")).unwrap();
    failed(
        &reproduce(place, &["two"]).output().unwrap(),
        &["results/two/dense", "start from another checkpoint, now float.safetensors"],
    );
    fs::write(place.join("float.safetensors"), checkpoint).unwrap();
    common::write_cifar10(&place.join("data"), 64, 39);
    failed(&reproduce(place, &["two"]).output().unwrap(), &["results/two/dense", "the test images of cifar10"]);
}

/// One diverging row costs its own place in the table, not the others'.
#[test]
fn a_row_that_fails_does_not_keep_others_from_running() {
    let dir = experiment_place();
    // Its checkpoint holds one set of weights under a key.
    let (weights, _) = Weights::load(&dir.path().join("float.safetensors")).unwrap();
    let mut sets = Weights::default();
    weights.iter().for_each(|(name, array)| sets.insert(format!("ema.{name}"), array.clone()));
    sets.save(&dir.path().join("sets.safetensors"), None).unwrap();
    let experiment = EXPERIMENT.replace("float.safetensors", "sets.safetensors#ema");
    let text = experiment.replace("\"quantize.fusion=none\"", "\"phases.1.learning_rate=1e30\"");
    fs::write(dir.path().join("experiments/two.toml"), text).unwrap();
    let output = reproduce(dir.path(), &["two", "--run", "runs", "--results", "results"]).output().unwrap();
    failed(
        &output,
        &[
            "row `dense`, seed 0: layer `",
            "row `merged`, seed 0: ",
            "it starts from row `dense`, seed 0, which isn't finished",
        ],
    );
    let table = read(dir.path().join("results/table.csv"));
    assert_eq!(
        (cell(&table, "dense", "status"), cell(&table, "sparse", "state")),
        ("\"unfinished".into(), "finished".into())
    );
    assert!(table.contains("\"unfinished, epoch 0 of 2\""), "{table}");
    assert!(!dir.path().join("experiments/results").exists());

    // An unfinished run goes on with its own recipe only, and in one process.
    let text = text_with_rate(&experiment, "0.001");
    fs::write(dir.path().join("experiments/two.toml"), text).unwrap();
    let arguments = ["two", "--run", "runs", "--results", "results", "--rows", "dense"];
    let output = reproduce(dir.path(), &arguments).output().unwrap();
    failed(&output, &["dense", "seed-0", "phases.1.learning_rate = 1", ", now 0.001", "remove the folder"]);
    let lock = File::create(dir.path().join("runs/dense/seed-0/lock")).unwrap();
    lock.lock().unwrap();
    failed(&reproduce(dir.path(), &arguments).output().unwrap(), &["seed-0: another process runs this"]);
    drop(lock);
    fs::remove_dir_all(dir.path().join("runs/dense")).unwrap();
    success(&reproduce(dir.path(), &arguments).output().unwrap());
}

fn text_with_rate(text: &str, rate: &str) -> String {
    text.replace("\"quantize.fusion=none\"", &format!("\"phases.1.learning_rate={rate}\""))
}

#[test]
fn what_cannot_be_reproduced_is_refused() {
    LazyLock::force(&FINISHED);
    let dir = experiment_place();
    let place = dir.path();
    refused(place, &mut reproduce(place, &["twoo"]), &["no experiment `twoo`", "did you mean `two`?"]);
    refused(place, &mut reproduce(place, &["nowhere/two.toml"]), &["nowhere/two.toml"]);
    refused(
        place,
        &mut reproduce(place, &["two", "--rows", "spares"]),
        &["two.toml", "`spares`", "did you mean `sparse`?"],
    );
    refused(
        place,
        &mut reproduce(place, &["experiments/recipe.toml"]),
        &["it is a recipe: mars-train --recipe", "mars-train --recipe experiments/recipe.toml"],
    );
    refused(place, &mut train(place, &["--recipe", "experiments/two.toml"]), &["mars-reproduce experiments/two.toml"]);
    refused(place, &mut reproduce(place, &["two", "--set", "seed=3"]), &["`seed=3`", "--seeds"]);
    refused(
        place,
        &mut reproduce(place, &["two", "--set", "phases.0.epoch=1"]),
        &["row `dense`", "did you mean `epochs`?"],
    );
    refused(
        place,
        &mut reproduce(place, &["two", "--set", "pretrained=nowhere.pt"]),
        &["row `dense` starts from nowhere.pt, which is missing", "--set pretrained=FILE"],
    );
    let elsewhere = TempDir::new().unwrap();
    refused(
        elsewhere.path(),
        &mut reproduce(elsewhere.path(), &["two"]),
        &["there is no experiment `two` in experiments", "resnet20"],
    );
    let cases: [(&str, &str, &[&str]); 11] = [
        ("F - 100", "F + 1", &["two.toml", "bar `F + 1`", "\"F - 0.5\""]),
        ("label = \"dense\"", "lable = \"dense\"", &["two.toml", "`lable`", "`label`"]),
        ("recipe = \"recipe.toml\"", "recipe = \"gone.toml\"", &["row `dense`", "experiments/gone.toml"]),
        ("recipe = \"recipe.toml\"\n", "", &["row `dense`", "names a recipe"]),
        ("name = \"sparse\"", "name = \"dense\"", &["row `dense`", "another row has this name"]),
        ("label = \"30 % zero\"", "label = \"dense\"", &["row `sparse`", "row `dense` has its label"]),
        ("name = \"sparse\"", "name = \"../sparse\"", &["row `../sparse`", "small letters, digits"]),
        ("start = \"dense\"", "start = \"sprase\"", &["row `merged`", "`sprase`, which isn't before it"]),
        (
            "start = \"dense\"",
            "start = \"dense\"\nstart_package = \"dense\"",
            &["row `merged`", "start_package", "one of them"],
        ),
        ("quantize.fusion=none", "quantize.fusion=nome", &["row `dense`", "did you mean `none`?"]),
        ("quantize.fusion=none", "seed=2", &["row `dense`", "--seeds"]),
    ];
    for (old, new, parts) in cases {
        assert!(EXPERIMENT.contains(old));
        fs::write(place.join("experiments/two.toml"), EXPERIMENT.replacen(old, new, 1)).unwrap();
        refused(place, &mut reproduce(place, &["two"]), parts);
    }
    fs::write(place.join("experiments/two.toml"), EXPERIMENT).unwrap();
    for (text, parts) in [
        ("base = \"gone.toml\"", &["gone.toml"][..]),
        ("base = \"chip.toml\"", &["chip.toml: its base", "leads back to itself"]),
        ("base = \"mars.toml\"\n[[mapping.layers]]\npattern = \"a\"\ncopies = 0", &["chip.toml", "copies", "from 1"]),
        ("base = \"mars.toml\"\ncorse = 2", &["chip.toml", "`corse`", "did you mean `cores`?"]),
        ("base = 3", &["chip.toml: base must be the path"]),
        ("base = \"mars.toml\"\n[converter]\nkind = \"bits\"\nbits = 5", &["chip.toml", "`step`"]),
    ] {
        fs::write(place.join("experiments/chip.toml"), text).unwrap();
        let mut command =
            train(place, &["--recipe", "recipe.toml", "--hardware", "experiments/chip.toml", "--run", "run"]);
        refused(place, &mut command, parts);
    }
}

const RUN: &str = r#"{
  "seed": SEED, "epochs": 3, "float_accuracy": 91.72, "checkpoint_sha256": "0", "data_sha256": "", "images": 10000,
  "accuracy": ACCURACY,
  "mismatches": { "fake_quant_vs_integer_predictions": 0, "integer_vs_macro_logits": 0, "fake_quant_vs_macro_predictions": 0 },
  "group_sparsity": 0.5, "ratio": 2.01,
  "cost": { "cycles": 22008, "fps": 4544.0, "energy_uj": 6.052, "tops_per_watt_dense_equivalent": 13.4, "tops_per_watt_executed": 10.49 },
  "cost_without_reload": { "cycles": 20634, "fps": 4846.0, "energy_uj": 5.671, "tops_per_watt_dense_equivalent": 14.3, "tops_per_watt_executed": 11.19 }
}"#;

const CLAIMS: &str = r#"
title = "What a reader sees"
note = "Numbers are made up."
recipe = "recipe.toml"
set = ["pretrained=elsewhere.safetensors"]
rows = [
    { name = "two", label = "two seeds", bar = "F - 0.5", curve = "by cycles" },
    { name = "one", label = "one seed", bar = "F - 0.5", hardware = "chip.toml", curve = "by groups" },
    { name = "begun", label = "begun" },
    { name = "missing", label = "missing", bar = "F - 1.3", curve = "by groups" },
    { name = "stale", label = "stale", set = ["batch_size=8"] },
]

[[claims]]
says = "over 700 frames/s"
label = "Q, an abstract"
figure = "fps"
rows = ["two", "missing"]

[[claims]]
says = "52.3 TOPS/W"
label = "Q, an abstract"
figure = "tops_per_watt_dense_equivalent"
rows = ["two", "begun"]
"#;

/// From made-up results, so that it is the same on every machine.
#[test]
fn tables_read_the_same() {
    let dir = experiment_place();
    let place = dir.path();
    fs::write(place.join("experiments/two.toml"), CLAIMS).unwrap();
    let record = |row: &str, recipe: &str, accuracies: &[&str]| {
        let folder = place.join("experiments/results/two").join(row);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("recipe.toml"), recipe).unwrap();
        let run =
            |(seed, accuracy): (usize, &&str)| RUN.replace("SEED", &seed.to_string()).replace("ACCURACY", accuracy);
        let runs: Vec<String> = accuracies.iter().enumerate().map(run).collect();
        fs::write(folder.join("seeds.json"), format!("[{}]", runs.join(","))).unwrap();
    };
    record("two", RECIPE, &["91.30", "91.14"]);
    record("one", &RECIPE.replacen("batch_size", "hardware = \"experiments/chip.toml\"\nbatch_size", 1), &["91.03"]);
    record("stale", RECIPE, &["91.5"]);
    let chip = Hardware::load(&place.join("experiments/chip.toml")).unwrap();
    for (row, chip) in [("one", chip), ("two", Hardware::mars()), ("stale", Hardware::mars())] {
        let deployment = serde_json::json!({ "chip": chip });
        let place = place.join("experiments/results/two").join(row).join("deploy.json");
        fs::write(place, deployment.to_string()).unwrap();
    }
    // The package of `one` was too large to keep, that of `stale` is another recipe's.
    for row in ["two", "stale"] {
        fs::write(place.join("experiments/results/two").join(row).join("model.mars"), "").unwrap();
    }
    for (row, seed, lines) in [("begun", 0, "{}\n"), ("one", 1, "")] {
        let folder = place.join(format!("runs/reproduce/two/{row}/seed-{seed}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
        fs::write(folder.join("metrics.jsonl"), lines).unwrap();
    }
    // Without --rows an experiment with claims runs nothing.
    let (out, err) = success(&reproduce(place, &["two"]).output().unwrap());
    assert!(err.is_empty(), "{err}");
    insta::assert_snapshot!("text", out);
    for (name, file) in [("markdown", "table.md"), ("csv", "table.csv"), ("svg", "table.svg"), ("curves", "curves.svg")]
    {
        insta::assert_snapshot!(name, read(place.join("experiments/results/two").join(file)));
    }
    let (out, _) = success(&command(REPRODUCE, place).arg("--list").output().unwrap());
    let line = "two  What a reader sees: 2 finished, 1 unfinished, 1 not run yet, 1 unusable (--table says why)\n";
    assert!(out.starts_with(line), "{out}");
}

/// Pictures that are scaled are the same ones when the experiment is asked for again.
#[test]
fn a_row_on_pictures_of_another_size_finishes_once() {
    let dir = experiment_place();
    let place = dir.path();
    for class in 0..10u8 {
        for (split, number) in [("train", 1), ("train", 2), ("test", 3)] {
            let folder = place.join(format!("pictures/{split}/{class}"));
            fs::create_dir_all(&folder).unwrap();
            let pixels: Vec<u8> = (0..8 * 8 * 3).map(|index| 20 * class + number * (index % 7) as u8).collect();
            let color = image::ExtendedColorType::Rgb8;
            image::save_buffer(folder.join(format!("{number}.png")), &pixels, 8, 8, color).unwrap();
        }
    }
    let experiment = r#"
title = "Pictures"
recipe = "recipe.toml"
set = ["pretrained=float.safetensors", "dataset=pictures", "image_size=[32, 32]", "calibration_images=20", "sparsity.target=0"]

[[rows]]
name = "only"
label = "only"
set = ["phases.0.epochs=0", "phases.1.epochs=0"]
"#;
    fs::write(place.join("experiments/pictures.toml"), experiment).unwrap();
    success(&reproduce(place, &["pictures"]).output().unwrap());
    let before = tree(place);
    success(&reproduce(place, &["pictures"]).output().unwrap());
    assert_eq!(tree(place), before);
    // A package says the size, where the recipe doesn't.
    fs::copy(place.join("runs/reproduce/pictures/only/seed-0/model.mars"), place.join("only.mars")).unwrap();
    let of_package = experiment
        .replace("title = \"Pictures\"", "title = \"Package\"")
        .replace("\"pretrained=float.safetensors\", ", "\"model=only.mars\", ")
        .replace("\"image_size=[32, 32]\", ", "");
    fs::write(place.join("experiments/package.toml"), of_package).unwrap();
    success(&reproduce(place, &["package"]).output().unwrap());
    let before = tree(place);
    success(&reproduce(place, &["package"]).output().unwrap());
    assert_eq!(tree(place), before);
    let (out, _) = success(&reproduce(place, &["package", "--table"]).output().unwrap());
    assert!(!out.contains("something else"), "{out}");
}

/// Where only the results are, as in a fresh clone, a row goes on from a package among them.
#[test]
fn a_row_starts_from_the_package_of_another() {
    let dir = experiment_place();
    let place = dir.path();
    let deeper = r#"
[[rows]]
name = "deeper"
label = "deeper"
start_package = "dense"
set = ["sparsity.target=0.5", "phases.1.epochs=1"]
"#;
    fs::write(place.join("experiments/two.toml"), format!("{EXPERIMENT}{deeper}")).unwrap();
    let run = |row: &str| reproduce(place, &["two", "--rows", row]);
    refused(
        place,
        &mut run("deeper"),
        &["row `deeper`, seed 0: ", "it starts from row `dense`, seed 0, which isn't finished"],
    );
    success(&run("dense").output().unwrap());
    fs::remove_dir_all(place.join("runs")).unwrap();
    success(&run("deeper").output().unwrap());
    let results = place.join("experiments/results/two");
    let table = read(results.join("table.csv"));
    assert_eq!(number(&table, "deeper", "float_accuracy"), number(&table, "dense", "float_accuracy"));
    // Two of the dense row, and two of its own.
    assert_eq!(number(&table, "deeper", "epochs"), 4.0);
    assert!((0.45..=0.55).contains(&number(&table, "deeper", "group_sparsity")), "{table}");
    let before = tree(place);
    success(&run("deeper").output().unwrap());
    assert_eq!(tree(place), before);

    // All seeds start from the one package, which has to be there, and to be the same.
    let second = || reproduce(place, &["two", "--rows", "deeper", "--seeds", "2"]);
    let package = results.join("dense/model.mars");
    let bytes = fs::read(&package).unwrap();
    fs::remove_file(&package).unwrap();
    let gone =
        ["row `deeper`, seed 1: ", "row `dense`, seed 0, which is finished, but", "dense/model.mars isn't there"];
    refused(place, &mut second(), &gone);
    fs::write(&package, [&bytes[..], b" "].concat()).unwrap();
    refused(place, &mut second(), &["the finished row differs", "another checkpoint"]);
    fs::write(&package, bytes).unwrap();
    success(&second().output().unwrap());
    assert_eq!(number(&read(results.join("table.csv")), "deeper", "seeds"), 2.0);
}

#[test]
fn a_row_of_an_onnx_file_starts_from_its_weights() {
    let dir = TempDir::new().unwrap();
    let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx/sequential/dynamo.onnx");
    fs::write(
        dir.path().join("recipe.toml"),
        format!("model = {network:?}\n[[phases]]\nkind = \"quantize\"\nepochs = 1\n"),
    )
    .unwrap();
    fs::write(
        dir.path().join("own.toml"),
        "title = \"Own\"\nrecipe = \"recipe.toml\"\n[[rows]]\nname = \"own\"\nlabel = \"own\"\n",
    )
    .unwrap();
    let experiment = Experiment::load(&dir.path().join("own.toml")).unwrap();
    let recipe = experiment.recipe(&experiment.rows[0], &[]).unwrap();
    assert_eq!(recipe.pretrained, StartFrom::File(network));
}

/// Where the run measures mean and deviation of the images, the row's recipe has no other ones: it gets its numbers, and once is enough.
#[test]
fn a_row_whose_normalization_is_measured_is_finished_once() {
    let dir = experiment_place();
    let experiment = EXPERIMENT.replace("set = [\"pretrained", "set = [\"normalization=measured\", \"pretrained");
    fs::write(dir.path().join("experiments/two.toml"), experiment).unwrap();
    let run = || {
        let arguments = ["experiments/two.toml", "--rows", "dense", "--results", "results"];
        success(&reproduce(dir.path(), &arguments).output().unwrap())
    };
    run();
    let table = read(dir.path().join("results/table.csv"));
    assert!(number(&table, "dense", "accuracy_mean") > 0.0, "{table}");
    let weights = dir.path().join("runs/reproduce/two/dense/seed-0/model.mars");
    let before = fs::metadata(&weights).unwrap().modified().unwrap();
    run();
    assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), before, "the row ran again");
}

/// Every row of the shipped experiments has a recipe, a network and a chip, and rows that start from the same network have the same epochs but where
/// each is to go as far as it can.
#[test]
fn shipped_experiments_can_run() {
    let files = Experiment::files().unwrap();
    let names: Vec<_> = files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
    let expected = [
        "bits",
        "converter",
        "cycles",
        "fusion",
        "paper",
        "progressive",
        "resnet20-long",
        "resnet20",
        "shapes",
        "vgg8",
    ];
    assert_eq!(names, expected);
    for path in files {
        let experiment = Experiment::load(&path).unwrap();
        let mut epochs = BTreeSet::new();
        for row in &experiment.rows {
            let recipe = experiment.recipe(row, &[]).unwrap();
            let place = format!("{}, {}", path.display(), row.name);
            assert!(ZOO.contains(&recipe.model.as_str()), "{place}");
            Graph::new(zoo(&recipe.model, 10).unwrap()).unwrap();
            recipe.hardware.iter().for_each(|file| drop(Hardware::load(Path::new(file)).expect(&place)));
            assert!(read(&row.recipe).contains("[[phases]]"), "{place}: default phases depend on what there is");
            if recipe.epochs() > 0 {
                epochs.insert((row.start.as_ref().map(|start| start.row().to_string()), recipe.epochs()));
            }
        }
        let starts: BTreeSet<_> = epochs.iter().map(|(start, _)| start).collect();
        let compares = experiment.name != "resnet20-long";
        assert!(epochs.len() == starts.len() || !compares, "{}: {epochs:?}", path.display());
    }
}
