//! Sweeps as a person runs them: whole, interrupted, in shards.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use mars::data::{DataOptions, Dataset};
use mars::hardware::{Area, Evaluator, Hardware, MacroNetwork, Noise};
use mars::integer::{Form, IMAGE_BITS, IntegerConv, IntegerLayer, Requantize, predict};
use mars::network::Graph;
use mars::observer::Silent;
use mars::package::{Package, Predictions};
use mars::sweep::{Figures, Outcome, SweepRow, pareto_front};
use mars::validation::validate;
use tempfile::TempDir;

use common::{integer_network, provenance};

const PACKAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny.mars");

/// Two chips that work, one that a bank doesn't divide and one that a group doesn't fit, each with two clocks.
const SWEEP: &str = "[ranges]\nclock_mhz = [50, 100.5]\nrows_on = [64, 32, 60, 8]\n";

fn folder(sweep: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("sweep.toml"), sweep).unwrap();
    folder
}

fn deploy(folder: &Path, arguments: &[&str]) -> Output {
    deploy_package(folder, PACKAGE, arguments)
}

fn deploy_package(folder: &Path, package: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mars-deploy"));
    command.current_dir(folder).args([package, "--sweep", "sweep.toml", "--run", "out", "--quiet"]).args(arguments);
    command.output().unwrap()
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = deploy(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refuse(folder: &Path, arguments: &[&str]) -> String {
    let output = deploy(folder, arguments);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn read(folder: &Path, name: &str) -> String {
    fs::read_to_string(folder.join("out").join(name)).unwrap()
}

fn rows(folder: &Path) -> Vec<SweepRow> {
    let row = |line: &str| {
        let mut row: serde_json::Value = serde_json::from_str(line).unwrap();
        row.as_object_mut().unwrap().remove("pareto").unwrap();
        serde_json::from_value(row).unwrap()
    };
    read(folder, "sweep.jsonl").lines().map(row).collect()
}

#[test]
fn each_point_has_a_row_and_a_chip_that_cannot_work_says_why() {
    let folder = folder(SWEEP);
    let out = succeed(folder.path(), &[]);
    assert!(out.starts_with("8 points, of which 4 cannot work; "), "{out}");
    assert!(out.contains("\npoint 2: hardware `mars`: rows_on 60 does not divide into 8 partitions\n"), "{out}");
    let best = pareto_front(&rows(folder.path()));
    let marked = read(folder.path(), "sweep.jsonl").matches("\"pareto\":true").count();
    assert!(marked > 0 && marked == best.len(), "{marked} {best:?}");
    let rows = rows(folder.path());
    assert_eq!(rows.iter().map(|row| row.point).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    let error = |point: usize| match &rows[point].outcome {
        Outcome::Error(error) => error.clone(),
        Outcome::Figures(_) => String::new(),
    };
    assert_eq!(error(2), "hardware `mars`: rows_on 60 does not divide into 8 partitions");
    assert_eq!(
        error(7),
        "hardware `mars`: group.channels 16 exceeds rows_on 8: a group has to fit the word lines of one access"
    );

    // A row is what the chip alone costs.
    let package = Package::read(PACKAGE.as_ref()).unwrap();
    let chip = Hardware { clock_mhz: 100.5, rows_on: 32, ..Hardware::mars() };
    let alone = Figures::new(&Evaluator::new(&package.network).unwrap().evaluate(&chip).unwrap(), None);
    assert_eq!(rows[5].figures(), Some(&alone));

    let csv = read(folder.path(), "sweep.csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 9);
    assert!(lines[0].starts_with("point,clock_mhz,rows_on,error,pareto,") && lines[0].contains(",cost.fps,"));
    assert!(lines[6].starts_with("5,100.5,32,,") && lines[6].contains(&format!(",{:?},", alone.cost.fps)));
    let columns = |line: &str| line.split(',').count();
    assert!(lines[1..].iter().all(|line| columns(line) == columns(lines[0])), "{csv}");
    let svg = read(folder.path(), "sweep.svg");
    let page = read(folder.path(), "sweep.html");
    assert_eq!(page.matches("<tr>").count(), 1 + 2 + 1 + 8, "{page}");
    assert!(page.contains("<th scope=\"row\">clock_mhz</th><td>50") && !page.contains("src="));
    let [works, fails] = [page.rfind("<td data-key="), page.find("<td class=\"error\"")];
    assert!(works < fails, "those that cannot work come last: {page}");
    // Four chips, over energy and over area.
    assert!(
        svg.starts_with("<svg ") && svg.matches("<circle").count() == 8 && svg.contains("clock_mhz = 50, rows_on = 64")
    );
}

/// A crash leaves half a line; the rows before it stay, and nothing else changes.
#[test]
fn an_interrupted_sweep_continues() {
    let folder = folder(SWEEP);
    succeed(folder.path(), &[]);
    let whole = ["sweep.csv", "sweep.jsonl", "sweep.svg"].map(|name| read(folder.path(), name));
    let path = folder.path().join("out/rows-1-of-1.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let kept: String = text.lines().take(4).map(|line| line.to_owned() + "\n").collect();
    let cut = kept.clone() + &text.lines().nth(4).unwrap()[..20];
    fs::write(&path, cut).unwrap();
    succeed(folder.path(), &[]);
    assert!(fs::read_to_string(&path).unwrap().starts_with(&kept));
    assert_eq!(["sweep.csv", "sweep.jsonl", "sweep.svg"].map(|name| read(folder.path(), name)), whole);
    // Even the first line may be half.
    fs::write(&path, &text[..10]).unwrap();
    succeed(folder.path(), &[]);
    assert_eq!(read(folder.path(), "sweep.csv"), whole[0]);
    // A line that is whole but damaged is named.
    fs::write(&path, text.replacen("\"point\":3,", "\"point\":x,", 1)).unwrap();
    let error = refuse(folder.path(), &[]);
    assert!(error.contains("rows-1-of-1.jsonl: line ") && error.contains("delete the line"), "{error}");
}

/// A finished row isn't computed again: one that somebody changed stays as it is.
#[test]
fn rows_that_are_there_are_kept() {
    let folder = folder(SWEEP);
    succeed(folder.path(), &[]);
    let path = folder.path().join("out/rows-1-of-1.jsonl");
    let changed = fs::read_to_string(&path).unwrap().replacen("\"resident\":true", "\"resident\":false", 1);
    fs::write(&path, &changed).unwrap();
    succeed(folder.path(), &[]);
    assert_eq!(fs::read_to_string(&path).unwrap(), changed);
    assert_eq!(rows(folder.path()).iter().filter_map(SweepRow::figures).filter(|figures| !figures.resident).count(), 1);
}

#[test]
fn shards_give_what_the_whole_sweep_gives() {
    let [whole, parts] = [folder(SWEEP), folder(SWEEP)];
    succeed(whole.path(), &[]);
    assert!(succeed(parts.path(), &["--shard", "2/3"]).contains("5 of 8 points are left to other shards"));
    let error = refuse(parts.path(), &["--merge"]);
    assert!(error.contains("5 of 8 points have no row: run --shard 1/3, 3/3"), "{error}");
    succeed(parts.path(), &["--shard", "3/3"]);
    assert!(!parts.path().join("out/sweep.csv").exists());
    // The last shard merges.
    succeed(parts.path(), &["--shard", "1/3"]);
    let read_all = |folder: &Path| ["sweep.csv", "sweep.jsonl", "sweep.svg"].map(|name| read(folder, name));
    assert_eq!(read_all(parts.path()), read_all(whole.path()));
    fs::remove_file(parts.path().join("out/sweep.csv")).unwrap();
    succeed(parts.path(), &["--merge"]);
    assert_eq!(read_all(parts.path()), read_all(whole.path()));
    // Rows of other shards count, whatever their number.
    succeed(parts.path(), &[]);
    assert_eq!(read(parts.path(), "rows-1-of-1.jsonl").lines().count(), 1);
}

#[test]
fn rows_of_another_sweep_are_refused() {
    let folder = folder(SWEEP);
    succeed(folder.path(), &[]);
    fs::write(folder.path().join("sweep.toml"), SWEEP.replace("50", "51")).unwrap();
    let error = refuse(folder.path(), &[]);
    assert!(error.contains("rows-1-of-1.jsonl: it belongs to another sweep or package: choose another"), "{error}");
    refuse(folder.path(), &["--shard", "1/2"]);
    fs::write(folder.path().join("sweep.toml"), SWEEP).unwrap();
    succeed(folder.path(), &[]);
    let rows = folder.path().join("out/rows-1-of-1.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    let program = text.split('"').skip_while(|part| *part != "program").nth(2).unwrap();
    fs::write(&rows, text.replacen(program, &program.replace(|_: char| true, "0"), 1)).unwrap();
    let error = refuse(folder.path(), &[]);
    assert!(error.contains("rows-1-of-1.jsonl: another build of the program wrote it: choose another"), "{error}");
}

#[test]
fn flags_and_files_that_make_no_sense_are_refused() {
    let folder = folder("[ranges]\ncoers = [1]\n");
    let error = refuse(folder.path(), &[]);
    assert!(error.contains("sweep.toml: ranges.coers = 1: unknown field `coers`"), "{error}");
    assert!(error.ends_with("did you mean `cores`?\n"), "{error}");
    assert!(refuse(folder.path(), &["--shard", "3/2"]).contains("it must be I/N with I from 1 to N"));
    assert!(refuse(folder.path(), &["--hardware", "mars.toml"]).contains("cannot be used with"));
    fs::write(folder.path().join("sweep.toml"), SWEEP).unwrap();
    let error = refuse(folder.path(), &["--dataset", "cifar10-mini"]);
    assert!(error.contains("sweep.toml: --dataset cifar10-mini: this sweep runs no images"), "{error}");
    fs::write(folder.path().join("sweep.toml"), "[ranges]\nrows_on = [60, 8]\n").unwrap();
    assert!(refuse(folder.path(), &[]).contains("sweep.toml: none of its chips can work"));
    fs::write(folder.path().join("sweep.toml"), "images = 0\n").unwrap();
    assert!(refuse(folder.path(), &[]).contains("images is 0: leave it out"));
    fs::write(folder.path().join("sweep.toml"), "base = \"no.toml\"\n").unwrap();
    assert!(refuse(folder.path(), &[]).contains("sweep.toml: base = \"no.toml\": there is no no.toml"));
}

#[test]
fn points_on_the_front_are_beaten_by_none() {
    let package = Package::read(PACKAGE.as_ref()).unwrap();
    let evaluator = Evaluator::new(&package.network).unwrap();
    let figures = Figures::new(&evaluator.evaluate(&Hardware::mars()).unwrap(), None);
    let row = |point: usize, fps: f64, energy_uj: f64, accuracy: Option<f64>| {
        let mut figures = Figures { accuracy, ..figures.clone() };
        (figures.cost.fps, figures.cost.energy_uj) = (fps, energy_uj);
        SweepRow { point, settings: Vec::new(), outcome: Outcome::Figures(Box::new(figures)) }
    };
    let error = SweepRow { point: 9, settings: Vec::new(), outcome: Outcome::Error("no".into()) };
    let rows = [row(0, 9.0, 5.0, None), row(1, 9.0, 4.0, None), row(2, 3.0, 1.0, None), row(3, 3.0, 1.0, None), error];
    // Equal ones are both there.
    assert_eq!(pareto_front(&rows), [1, 2, 3]);
    let rows = [row(0, 9.0, 5.0, Some(90.0)), row(1, 9.0, 4.0, Some(80.0)), row(2, 3.0, 4.0, Some(80.0))];
    assert_eq!(pareto_front(&rows), [0, 1]);
}

/// A network of ten classes for CIFAR-10's images.
fn ten_classes() -> Package {
    let spec = r#"
        name = "ten"
        input = [3, 32, 32]
        classes = 10
        [[layers]]
        op = "conv"
        name = "conv"
        filters = 8
        kernel = 4
        stride = 4
        [[layers]]
        op = "avg_pool"
        name = "mean"
        [[layers]]
        op = "linear"
        name = "linear"
        filters = 10
    "#;
    let conv = |weights: usize, filters: usize| IntegerConv {
        input_bits: IMAGE_BITS,
        weight_bits: 4,
        weights: (0..weights).map(|index| ((index * index + 3 * index) % 15) as i8 - 7).collect(),
        bias: vec![0; filters],
    };
    let output =
        |shift| Requantize { multipliers: vec![30_000], forms: vec![Form { bits: IMAGE_BITS, shift, zero_point: 0 }] };
    let layers = vec![
        IntegerLayer::Conv { conv: conv(8 * 48, 8), skip: None, output: Some(output(18)) },
        IntegerLayer::AvgPool { input_bits: IMAGE_BITS, output: output(21) },
        IntegerLayer::Conv { conv: conv(80, 10), skip: None, output: None },
    ];
    let graph = Graph::new(toml::from_str(spec).unwrap()).unwrap();
    let network = integer_network(graph, Hardware::mars().group, layers);
    Package { network, provenance: provenance(), predictions: None }
}

/// With images, accuracy is that of the macro model; noise costs some.
#[test]
fn accuracy_is_measured_where_images_are_asked_for() {
    let folder = folder("images = 60\n[ranges]\nnoise.sigma = [0.0, 1e4]\n");
    let package = ten_classes();
    package.write(&folder.path().join("model.mars")).unwrap();
    let output = deploy_package(folder.path(), "model.mars", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let accuracy: Vec<f64> = rows(folder.path()).iter().map(|row| row.figures().unwrap().accuracy.unwrap()).collect();
    let data = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let noise = Some(Noise { sigma: 1e4, ..Noise::default() });
    for (found, noise) in accuracy.into_iter().zip([None, noise]) {
        let hardware = Hardware { noise, ..Hardware::mars() };
        let deployment = validate(&package, &hardware, &data.test, Some(60), &Silent).unwrap();
        assert_eq!(found, deployment.accuracy.macro_model);
        assert_eq!(deployment.mismatches.integer_vs_macro_logits > 0, noise.is_some());
    }
    assert!(read(folder.path(), "sweep.svg").contains("Accuracy over energy"));
    let csv = read(folder.path(), "sweep.csv");
    assert!([",accuracy,", ",images,"].iter().all(|column| csv.lines().next().unwrap().contains(column)), "{csv}");
    assert!(read(folder.path(), "sweep.html").contains("macro model's on 60 images"));
}

#[test]
fn a_lossy_chip_is_said_to_be_lossy() {
    let data = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let hardware = Hardware { noise: Some(Noise { sigma: 1e3, ..Noise::default() }), ..Hardware::mars() };
    let package = ten_classes();
    let deployment = |hardware| validate(&package, hardware, &data.test, Some(20), &Silent).unwrap();
    let table = mars::report::table(&deployment(&hardware));
    assert!(
        table.contains("The macro model is lossy (noise);\n  the integer reference is that of an ideal chip;\n  the package holds no"),
        "{table}"
    );
    assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    assert!(!mars::report::table(&deployment(&Hardware::mars())).contains("lossy"));
}

/// Fake-quant predictions belong to the chip that they were made for, and the report knows which.
#[test]
fn predictions_of_a_lossy_chip_are_compared_on_that_chip_alone() {
    let data = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let noisy = |seed| Hardware { noise: Some(Noise { sigma: 1e3, seed, ..Noise::default() }), ..Hardware::mars() };
    let mut package = ten_classes();
    let mut said = |made_for: &Hardware, run_on: &Hardware, changed: usize| {
        let logits = MacroNetwork::new(&package.network, made_for).unwrap().logits(&data.test.images).unwrap();
        let mut classes: Vec<u16> = logits.chunks(10).map(|logits| predict(logits) as u16).collect();
        classes[..changed].iter_mut().for_each(|class| *class = (*class + 1) % 10);
        let (data_sha256, chip_sha256) = (data.test.sha256(), made_for.losses_sha256());
        package.predictions = Some(Predictions { data_sha256, chip_sha256, classes });
        let table = mars::report::table(&validate(&package, run_on, &data.test, Some(30), &Silent).unwrap());
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
        table
    };
    let (ideal, noisy, other) = (Hardware::mars(), noisy(1), noisy(2));
    // More columns and narrower inputs change when accesses are made, and no sum.
    let mut wider = Hardware { columns: 2 * noisy.columns, ..noisy.clone() };
    wider.access.iter_mut().for_each(|mode| mode.input_bits = 4);
    assert!(said(&noisy, &wider, 0).contains("fake-quant saw the same, and agrees on every image"));
    assert!(said(&noisy, &wider, 1).contains("The executions differ, which"));
    // A committed package has the hash of an earlier version.
    let committed = Package::read("experiments/results/converter/aware4/model.mars".as_ref()).unwrap();
    let seen = committed.predictions.unwrap().chip_sha256.unwrap();
    let chip = |name: &str| Hardware::load(format!("experiments/hardware/{name}.toml").as_ref()).unwrap();
    assert!(chip("adc4").computes_like(&seen) && !chip("adc3").computes_like(&seen));
    assert!(said(&noisy, &noisy, 0).contains("fake-quant saw the same, and agrees on every image"));
    assert!(said(&noisy, &noisy, 1).contains("The executions differ, which"));
    assert!(said(&noisy, &other, 0).contains("fake-quant predictions are those of another chip that is lossy"));
    assert!(said(&noisy, &ideal, 0).contains("fake-quant predictions are those of a chip that loses something"));
    for chip in [&ideal, &other] {
        assert!(said(&noisy, chip, 0).contains("pass that chip with --hardware: a run folder has it as hardware.toml"));
    }
    assert!(
        said(&ideal, &noisy, 0).contains("integer reference and fake-quant predictions are those of an ideal chip")
    );
    assert!(said(&ideal, &ideal, 0).contains("Fake-quant, integer reference and macro model agree"));
    assert!(said(&ideal, &ideal, 1).contains("The executions differ, which"));
}

/// The result is shown all the same, and the exit code is 1.
#[test]
fn executions_that_differ_without_a_reason_are_a_failure() {
    let data = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let folder = TempDir::new().unwrap();
    let mut package = ten_classes();
    let logits = MacroNetwork::new(&package.network, &Hardware::mars()).unwrap().logits(&data.test.images).unwrap();
    let mut classes: Vec<u16> = logits.chunks(10).map(|logits| predict(logits) as u16).collect();
    let mut run = |classes: &[u16]| {
        package.predictions =
            Some(Predictions { data_sha256: data.test.sha256(), chip_sha256: None, classes: classes.to_vec() });
        package.write(&folder.path().join("model.mars")).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_mars-deploy"))
            .args(["model.mars", "--dataset", "cifar10-mini", "--images", "20", "--json", "out.json", "--quiet"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), out, err)
    };
    let (code, _, err) = run(&classes);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    classes[3] = (classes[3] + 1) % 10;
    let (code, out, err) = run(&classes);
    assert!(code == Some(1) && out.contains("integer in 1 images, macro in 1") && out.contains("TOPS/W"), "{out}");
    assert!(err.starts_with("error: model.mars: its executions differ") && err.lines().count() == 1, "{err}");
    assert!(
        fs::read_to_string(folder.path().join("out.json"))
            .unwrap()
            .contains("\"fake_quant_vs_integer_predictions\": 1")
    );
}

/// A package may be counted on a chip of another group shape, which changes what is zero: both outputs say so.
#[test]
fn groups_of_another_shape_are_said_to_be_counted_anew() {
    let data = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let mut package = ten_classes();
    let said = |package: &Package| {
        let folder = TempDir::new().unwrap();
        let deployment = validate(package, &Hardware::mars(), &data.test, Some(5), &Silent).unwrap();
        mars::report::write(&deployment, folder.path()).unwrap();
        [mars::report::table(&deployment), fs::read_to_string(folder.path().join("report.html")).unwrap()]
    };
    assert!(!said(&package).iter().any(|text| text.contains("Trained with groups")));
    package.network.group.filters = 8;
    for text in said(&package) {
        assert!(text.contains("Trained with groups of 8 x 16, counted here as 16 x 16 of `mars`"), "{text}");
    }
}

/// An access that was measured on another array takes the time and the energy of this one.
#[test]
fn the_report_shows_the_accesses_that_are_charged() {
    let data = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let folder = TempDir::new().unwrap();
    let chip = Hardware { rows_on: 128, ..Hardware::mars() };
    let stated = chip.access[0];
    let charged = chip.precision(stated.weight_bits, stated.input_bits).unwrap();
    assert!(charged.ns > stated.ns);
    let deployment = validate(&ten_classes(), &chip, &data.test, Some(5), &Silent).unwrap();
    mars::report::write(&deployment, folder.path()).unwrap();
    let [weight_bits, input_bits] = [stated.weight_bits, stated.input_bits];
    let expected = format!("{weight_bits} x {input_bits} b in {:.2} ns, {:.2} pJ", charged.ns, charged.energy_pj);
    assert!(fs::read_to_string(folder.path().join("report.html")).unwrap().contains(&expected), "no {expected}");
}

/// Area and its densities are shown where the hardware file has the constants, and nowhere else.
#[test]
fn area_is_shown_where_it_is_known() {
    let data = Dataset::load("cifar10-mini", &DataOptions::default()).unwrap();
    let package = ten_classes();
    let page = |hardware: &Hardware| {
        let folder = TempDir::new().unwrap();
        let deployment = validate(&package, hardware, &data.test, Some(5), &Silent).unwrap();
        mars::report::write(&deployment, folder.path()).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        (read("report.html"), read("deploy.json"), mars::report::table(&deployment))
    };
    let (html, json, table) = page(&Hardware { area: None, ..Hardware::mars() });
    assert!(![&html, &json, &table].into_iter().any(|text| text.contains("mm2") || text.contains("mm²")));
    assert!(html.contains("by the shares that the hardware file gives: array "));
    let area = Some(Area {
        macro_mm2: 0.25,
        macro_cells: None,
        sram_mm2_fixed: 0.0,
        sram_mm2_per_kib: 0.0,
        logic_mm2_per_core: 0.0,
    });
    let (html, json, table) = page(&Hardware { area, ..Hardware::mars() });
    assert!(html.contains("<td>2.0000</td>") && html.contains("TOPS/mm²"));
    assert!(json.contains("\"tops_per_mm2_executed\""));
    assert!(table.contains("2.000 mm2") && table.lines().all(|line| line.len() <= 80) && table.lines().count() <= 45);
}
