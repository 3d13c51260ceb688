//! What is committed in `experiments/results` against the code as it is now: the cost of each package, the tables, and the README's.

#![cfg(feature = "train")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::check_file;
use mars::hardware::{Hardware, evaluate};
use mars::integer::outline;
use mars::network::{Graph, zoo};
use mars::package::Package;
use mars::reproduce::{Experiment, Results, Table};
use mars::train::Recipe;
use serde_json::Value;

fn experiments() -> Vec<Experiment> {
    let files = Experiment::files().unwrap();
    let experiments: Vec<_> = files.iter().map(|file| Experiment::load(file).unwrap()).collect();
    experiments.into_iter().filter(|experiment| experiment.results().exists()).collect()
}

/// The folders of finished rows.
fn rows() -> Vec<PathBuf> {
    let folders = experiments().into_iter().flat_map(|experiment| {
        let results = experiment.results();
        experiment.rows.into_iter().map(move |row| results.join(row.name))
    });
    folders.filter(|folder| folder.exists()).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A change of the hardware model has to bring the rows' figures with it (`.ci/costs`).
#[test]
fn each_row_costs_what_the_hardware_model_says() {
    let rows = rows();
    assert!(!rows.is_empty());
    for folder in rows {
        let recipe = Recipe::load(Some(&folder.join("recipe.toml")), &[]).unwrap();
        let chip = recipe.hardware.as_ref().map_or(Hardware::mars(), |file| Hardware::load(Path::new(file)).unwrap());
        let deployment = json(&folder.join("deploy.json"));
        let package = folder.join("model.mars");
        let network = match package.exists() {
            true => Package::read(&package).unwrap().network,
            // A package that is too large to keep: where all groups are kept, the cost follows from the network and its bits.
            false => {
                assert_eq!(deployment["compression"]["group_sparsity"], 0.0, "{} needs its package", folder.display());
                let classes = if recipe.dataset == "cifar100" { 100 } else { 10 };
                let graph = Graph::new(zoo(&recipe.model, classes).unwrap()).unwrap();
                outline(&graph, &recipe.quantize, chip.group)
            }
        };
        let evaluation = evaluate(&network, &chip).unwrap();
        // All but accuracies, which come first: what the commands beneath the tables compare.
        let text = serde_json::to_string_pretty(&evaluation).unwrap();
        let deployment = fs::read_to_string(folder.join("deploy.json")).unwrap();
        assert!(
            deployment.ends_with(&(text[1..].to_owned() + "\n")),
            "deploy.json of {} is another now",
            folder.display()
        );
    }
}

#[test]
fn tables_are_those_of_their_rows() {
    assert!(!experiments().is_empty());
    for experiment in experiments() {
        let results = Results::new(&experiment.results());
        let nowhere = Path::new("runs/of-nobody");
        let table = Table::new(&experiment, |_| &[], &results, nowhere).unwrap();
        for (name, text) in [("table.md", table.markdown()), ("table.csv", table.csv())] {
            check_file(&results.folder().join(name).display().to_string(), &text);
        }
    }
}

/// The lines of a README's table below this header.
fn readme_table(header: &str) -> Vec<String> {
    let readme = fs::read_to_string("README.md").unwrap();
    let below = readme.split_once(header).expect("a table of this header").1;
    below.lines().skip(2).take_while(|line| line.starts_with('|')).map(String::from).collect()
}

/// A number of the first seed of a finished row.
fn figure(row: &Path, pointer: &str) -> f64 {
    let deployment = json(&row.join("deploy.json"));
    deployment.pointer(pointer).and_then(Value::as_f64).unwrap()
}

/// The README's first table has the compressed rows of `experiments/resnet20-long.toml`, its second one those of the paper's networks.
#[test]
fn the_readme_has_the_figures_of_the_results() {
    let experiment = Experiment::find("resnet20-long").unwrap();
    let folder = experiment.results();
    let rows: Vec<PathBuf> =
        experiment.rows.iter().filter(|row| row.start.is_some()).map(|row| folder.join(&row.name)).collect();
    let table = readme_table("| row | epochs behind the float network |");
    assert_eq!(table.len(), rows.len());
    for (line, row) in table.iter().zip(rows) {
        let [fake_quant, integer, macros] =
            ["fake_quant", "integer", "macro"].map(|name| figure(&row, &format!("/accuracy/{name}")));
        let cells = format!(
            " | {fake_quant:.2} % | {integer:.2} % | {macros:.2} % | {:.0} % | {:.0} | {:.1} uJ | {:.1} |",
            100.0 * figure(&row, "/compression/group_sparsity"),
            figure(&row, "/cost/fps"),
            figure(&row, "/cost/energy_uj"),
            figure(&row, "/cost/tops_per_watt_dense_equivalent"),
        );
        assert!(line.ends_with(&cells), "{line} is {cells}");
    }
    let folder = Experiment::find("paper").unwrap().results();
    let networks = ["vgg16", "resnet18", "vgg16-cifar100", "resnet18-cifar100"];
    let rows = networks.iter().flat_map(|network| ["w8a8", "w4a4", "w4a4-sparse90"].map(|row| (*network, row)));
    let table = readme_table("| | float | macro model | smaller |");
    assert_eq!(table.len(), rows.clone().count());
    for (line, (network, row)) in table.iter().zip(rows) {
        let [float, row] = ["float", row].map(|row| folder.join(format!("{network}-{row}")));
        let [energy, efficiency, without_reload] = [
            "/cost/energy_uj",
            "/cost/tops_per_watt_dense_equivalent",
            "/cost_without_reload/tops_per_watt_dense_equivalent",
        ]
        .map(|pointer| figure(&row, pointer));
        let short = |value: f64, limit: f64| match value < limit {
            true => format!("{value:.1}"),
            false => format!("{value:.0}"),
        };
        let cells = format!(
            " | {:.2} % | {:.2} % | {} x | {:.0} | {} uJ | {efficiency:.1} | {without_reload:.1} |",
            figure(&float, "/accuracy/float"),
            figure(&row, "/accuracy/macro"),
            short(figure(&row, "/compression/ratio"), 9.95).trim_end_matches(".0"),
            figure(&row, "/cost/fps"),
            short(energy, 100.0),
        );
        assert!(line.replace("**", "").ends_with(&cells), "{line} is {cells}");
    }
}

/// The layer that docs/cost-model.md works through is that of the results.
#[test]
fn the_cost_model_works_a_layer_of_the_results_through() {
    let page = fs::read_to_string("docs/cost-model.md").unwrap();
    let deployment = json(Path::new("experiments/results/resnet20/w4a4-sparse50/deploy.json"));
    let layers = deployment["layers"].as_array().unwrap();
    let layer = layers.iter().find(|layer| layer["name"] == "layer3.2.conv2").unwrap();
    let number = |key: &str| layer[key].as_f64().unwrap();
    let mut expected = vec![
        format!("| {}, of which {} are kept |", number("groups"), number("kept_groups")),
        format!("| {} |", number("accesses")),
        format!("| {} cycles |", number("cycles")),
        format!("| energy | sum | | {:.3} nJ |", 1e3 * number("energy_uj")),
    ];
    for (key, microjoules) in layer["energy_breakdown_uj"].as_object().unwrap() {
        let nanojoules = 1e3 * microjoules.as_f64().unwrap();
        // The image comes from the next level, and nothing of this layer does.
        match key.as_str() {
            "next_level" => assert_eq!(nanojoules, 0.0),
            _ => expected.push(format!("| {nanojoules:.3} nJ |")),
        }
    }
    for text in expected {
        assert!(page.contains(&text), "{text}");
    }
}
