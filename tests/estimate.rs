//! The cost of networks that nobody has trained: equal to that of a trained one with the same groups, and always said to be made up.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use mars::estimate::{Assumptions, Estimate, Pattern, named_network};
use mars::hardware::{Hardware, evaluate};
use mars::package::Package;
use serde_json::Value;
use tempfile::TempDir;

const W4A4: Assumptions = Assumptions {
    weight_bits: 4,
    activation_bits: 4,
    first_last_bits: 8,
    sparsity: 0.0,
    pattern: Pattern::LargeLayers,
};

fn deploy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mars-deploy")).args(arguments).output().unwrap()
}

fn refusal(arguments: &[&str]) -> String {
    let output = deploy(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// What training will find is what the estimate said: a dense network costs the same with and without its weights.
#[test]
fn a_dense_network_costs_what_it_costs_once_it_is_trained() {
    for (network, results) in
        [("resnet20", "experiments/results/resnet20/w4a4"), ("vgg8", "experiments/results/vgg8/w4a4")]
    {
        let package = Package::read(&Path::new(results).join("model.mars")).unwrap();
        let trained = evaluate(&package.network, &Hardware::mars()).unwrap();
        assert_eq!(trained.compression.group_sparsity, 0.0);
        let estimate = Estimate::new(named_network(network, None, None).unwrap(), W4A4, &Hardware::mars()).unwrap();
        assert_eq!(estimate.evaluation.cost, trained.cost, "{network}");
        assert_eq!(estimate.evaluation.layers, trained.layers, "{network}");
    }
}

/// A share that no group is small enough for would be claimed and not be there.
#[test]
fn a_sparsity_without_a_group_to_spare_is_refused() {
    let layers = r#"
        name = "small"
        input = [3, 8, 8]
        classes = 2
        layers = [
            { op = "conv", name = "a", filters = 16, kernel = 3, padding = 1 },
            { op = "conv", name = "b", filters = 16, kernel = 1 },
            { op = "linear", name = "c", filters = 2 },
        ]"#;
    let assumptions = Assumptions { sparsity: 0.5, ..W4A4 };
    let error = Estimate::new(toml::from_str(layers).unwrap(), assumptions, &Hardware::mars()).unwrap_err().to_string();
    let expected = "a sparsity of 0.5: the layers of `small` have too few groups to make one of them zero";
    assert_eq!(error, expected);
}

/// Trades of room among equal layers that are the same but for rounding went on for ever here.
#[test]
fn a_tight_chip_is_mapped() {
    let chip = Hardware { cores: 8, macros_per_core: 4, rows: 512, ..Hardware::mars() };
    let assumptions = Assumptions { sparsity: 0.7, ..W4A4 };
    let estimate = Estimate::new(named_network("resnet20", None, None).unwrap(), assumptions, &chip).unwrap();
    assert!(estimate.evaluation.cost.cycles > 0);
}

/// A chip whose accesses take narrow weights alone needs a narrow first and last layer.
#[test]
fn the_first_and_the_last_layer_have_bits_of_their_own() {
    let papistas = Hardware::load("experiments/hardware/library/papistas-cicc2021.toml".as_ref()).unwrap();
    let network = || named_network("resnet20", None, None).unwrap();
    let assumptions = Assumptions { weight_bits: 2, ..W4A4 };
    let error = Estimate::new(network(), assumptions, &papistas).unwrap_err().to_string();
    assert!(error.starts_with("layer `conv1`: its weights have 8 bits"), "{error}");
    let estimate = Estimate::new(network(), Assumptions { first_last_bits: 2, ..assumptions }, &papistas).unwrap();
    assert!(estimate.made_up.what.contains("2 bits in the first and last layer"), "{}", estimate.made_up.what);
}

#[test]
fn every_output_says_that_it_is_made_up() {
    let folder = TempDir::new().unwrap();
    let [run, json] = ["run", "estimate.json"].map(|name| folder.path().join(name).display().to_string());
    let output = deploy(&[
        "--model",
        "resnet20",
        "--weight-bits",
        "4",
        "--activation-bits",
        "4",
        "--sparsity",
        "0.9",
        "--run",
        &run,
        "--json",
        &json,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("resnet20 on mars, made up\n"), "{table}");
    assert!(table.contains("Nothing was trained: there are no weights, no images and no accuracy."), "{table}");
    assert!(table.is_ascii() && table.lines().all(|line| line.len() <= 80), "{table}");

    let page = fs::read_to_string(Path::new(&run).join("report.html")).unwrap();
    assert!(page.contains("<b>Made up. </b>Nothing was trained"));
    for absent in ["<h2>Accuracy</h2>", "<h2>Training</h2>", "<h2>Recipe and provenance</h2>"] {
        assert!(!page.contains(absent), "{absent}");
    }

    let text = fs::read_to_string(&json).unwrap();
    assert_eq!(text, fs::read_to_string(Path::new(&run).join("deploy.json")).unwrap());
    let json: Value = serde_json::from_str(&text).unwrap();
    let what = json["made_up"]["what"].as_str().unwrap();
    assert!(what.contains("90 % of the groups are zero but for the first and the last layer"), "{what}");
    assert_eq!(json["made_up"]["image"], serde_json::json!([3, 32, 32]));
    assert!(json.get("accuracy").is_none() && json.get("images").is_none());
    assert!(json["cost"]["cycles"].as_u64().unwrap() > 1000);
}

#[test]
fn networks_for_imagenet_have_its_images_and_classes() {
    for (name, macs) in [
        ("resnet18_imagenet", 1_814_073_344),
        ("resnet50_imagenet", 4_089_184_256),
        ("vgg16_imagenet", 15_470_264_320),
        ("mobilenetv2_imagenet", 300_774_272),
    ] {
        let estimate = Estimate::new(named_network(name, None, None).unwrap(), W4A4, &Hardware::mars()).unwrap();
        assert_eq!((estimate.made_up.image, estimate.made_up.classes), ([3, 224, 224], 1000));
        assert_eq!(estimate.evaluation.layers.iter().map(|layer| layer.macs).sum::<u64>(), macs, "{name}");
    }
    let spec = named_network("resnet18_imagenet", Some(64), Some(10)).unwrap();
    assert_eq!((spec.input, spec.classes), ([3, 64, 64], 10));
}

#[test]
fn what_cannot_be_estimated_is_refused_with_the_way_out() {
    let file = TempDir::new().unwrap();
    let toml = file.path().join("tiny.toml");
    fs::write(&toml, "name = \"tiny\"\ninput = [3, 8, 8]\nclasses = 2\nlayers = [{ op = \"linear\", name = \"linear\", filters = 2 }]")
        .unwrap();
    let toml = toml.display().to_string();
    assert!(deploy(&["--model", &toml]).status.success());
    for (arguments, message) in [
        (vec!["--model", "resnet21"], "there is no network `resnet21`: name one of resnet20,"),
        (vec!["--model", "nowhere.toml"], "nowhere.toml: "),
        (vec!["--model", &toml, "--classes", "3"], "leave out --image-size and --classes"),
        (vec!["--model", "resnet20", "--sparsity", "1"], "--sparsity 1: it is a share, from 0 to below 1"),
        (vec!["--model", "resnet20", "--sparsity", "-0.5"], "--sparsity -0.5: it is a share, from 0 to below 1"),
        (vec!["--model", "resnet20", "--weight-bits", "9"], "--weight-bits 9: it must be from 2 to 8"),
        (vec!["--model", "vgg16", "--image-size", "16"], "network `vgg16`: "),
        (vec!["--model", "vgg16_imagenet", "--image-size", "700"], "weights, at most"),
        (vec!["--model", "vgg16", "--sparsity", "0.97"], "even has no limit"),
        (vec!["--sparsity", "0.9", "tests/fixtures/tiny.mars"], "--sparsity <SHARE>' cannot be used with"),
        (vec!["--model", "resnet20", "tests/fixtures/tiny.mars"], "cannot be used with"),
    ] {
        let said = refusal(&arguments);
        assert!(said.contains(message), "{arguments:?}: {said}");
    }
}

/// Chips by a network, trained or not; packages on a chip; and what lacks a network.
#[test]
fn chips_and_packages_are_compared_side_by_side() {
    let folder = TempDir::new().unwrap();
    let run = folder.path().display().to_string();
    let library = |name: &str| format!("experiments/hardware/library/{name}.toml");
    let (wu, guo) = (library("wu-isscc2022"), library("guo-isscc2023"));
    let output = deploy(&["--model", "resnet20", "--weight-bits", "4", "--compare", &wu, &guo, "--run", &run]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("Made up: Nothing was trained"), "{table}");
    assert!(
        table.contains("wu-isscc2022") && table.contains("guo-isscc2023") && table.contains("area, mm2"),
        "{table}"
    );
    let page = fs::read_to_string(folder.path().join("compare.html")).unwrap();
    assert!(page.contains("<b>Made up. </b>Nothing was trained") && page.matches("<svg class").count() == 2);
    let json: Value = serde_json::from_str(&fs::read_to_string(folder.path().join("compare.json")).unwrap()).unwrap();
    let alone = Estimate::new(
        named_network("resnet20", None, None).unwrap(),
        Assumptions { activation_bits: 8, ..W4A4 },
        &Hardware::load(wu.as_ref()).unwrap(),
    );
    assert_eq!(json[0]["cost"]["cycles"], alone.unwrap().evaluation.cost.cycles);
    assert_eq!(json[1]["chip"]["name"], "guo-isscc2023");

    let package = |name: &str| format!("experiments/results/resnet20/{name}/model.mars");
    let output = deploy(&["--compare", &package("w4a4"), &package("w4a4-sparse50"), "--hardware", &wu]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("w4a4") && table.contains("w4a4-sparse50") && !table.contains("Made up"), "{table}");
    let output = deploy(&[&package("w4a4"), "--compare", &wu, &guo]);
    assert!(output.status.success());
    assert!(refusal(&["--compare", &wu, &guo]).contains("name a package or --model"));
    assert!(refusal(&["--model", "resnet20", "--compare", &wu]).contains("2 values required"));
}

/// A sweep of a network that nobody has trained costs each chip as `--model` does, draws groups of each chip's shape, and says what is made up.
#[test]
fn an_untrained_network_can_be_swept() {
    let folder = TempDir::new().unwrap();
    let [sweep, out] = ["sweep.toml", "out"].map(|name| folder.path().join(name).display().to_string());
    let read = |name: &str| fs::read_to_string(Path::new(&out).join(name)).unwrap();
    fs::write(&sweep, "[ranges]\ncores = [2, 4]\ngroup.filters = [8, 16]\n").unwrap();
    let network = ["--model", "resnet20", "--weight-bits", "4", "--activation-bits", "4", "--sparsity", "0.5"];
    let output = deploy(&[&network[..], &["--sweep", &sweep, "--run", &out, "--quiet"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let assumptions = Assumptions { sparsity: 0.5, ..W4A4 };
    let sentence = "Nothing was trained: there are no weights, no images and no accuracy.";
    let rows: Vec<Value> = read("sweep.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 4);
    for row in rows {
        let mut chip = Hardware::mars();
        let setting = |key: &str| {
            let settings = row["settings"].as_array().unwrap();
            settings.iter().find(|setting| setting[0] == key).unwrap()[1].as_u64().unwrap() as usize
        };
        (chip.cores, chip.group.filters) = (setting("cores"), setting("group.filters"));
        let estimate = Estimate::new(named_network("resnet20", None, None).unwrap(), assumptions, &chip).unwrap();
        let found = &row["outcome"]["figures"]["cost"]["cycles"];
        assert_eq!(*found, estimate.evaluation.cost.cycles, "{row}");
        assert!(row["made_up"].as_str().unwrap().starts_with(sentence));
    }
    assert!(read("sweep.csv").lines().all(|line| line.ends_with(",made_up") || line.ends_with(",true")));
    assert!(read("sweep.html").contains(sentence));
    assert!(read("sweep.svg").contains("of a made-up network"));
    assert!(String::from_utf8(output.stdout).unwrap().contains("Made up: Nothing was trained"));
    // A chip that cannot work is a row, the first one as well.
    fs::write(&sweep, "[ranges]\ncores = [0, 2]\n").unwrap();
    let other = folder.path().join("other").display().to_string();
    let output = deploy(&[&network[..], &["--sweep", &sweep, "--run", &other, "--quiet"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("2 points, of which 1 cannot work"));
    fs::write(&sweep, "images = 10\n[ranges]\ncores = [2]\n").unwrap();
    assert!(refusal(&["--model", "resnet20", "--sweep", &sweep]).contains("nobody has trained resnet20"));
}

/// Columns have names that differ, and a chip that cannot work is said behind the others.
#[test]
fn what_is_compared_can_be_told_apart_and_a_chip_that_cannot_work_ends_nothing() {
    let folder = TempDir::new().unwrap();
    let chip = |place: &str| {
        let path = folder.path().join(place).join("my.toml");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "base = \"experiments/hardware/mars.toml\"\n").unwrap();
        path.display().to_string()
    };
    let [first, second] = [chip("first"), chip("second")];
    let narrow = "experiments/hardware/library/papistas-cicc2021.toml";
    let output = deploy(&["--model", "resnet20", "--compare", &first, &second, narrow]);
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(output.status.code(), Some(1));
    assert!(out.contains("first/my") && out.contains("second/my") && out.contains("\n  cycles "), "{out}");
    assert!(err.starts_with("error: ") && err.contains("papistas") && err.contains("its weights have 8 bits"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}

/// A chip of the program is where one's own begins, and needs no other file.
#[test]
fn a_chip_can_be_written_to_begin_from() {
    let folder = TempDir::new().unwrap();
    for (named, has) in
        [(None, "# "), (Some("experiments/hardware/library/chen-isscc2023.toml"), "with all keys of its base")]
    {
        let file = folder.path().join(named.map_or("own.toml", |_| "chen.toml"));
        let write = ["--write-hardware", file.to_str().unwrap()];
        let named_chip = named.map_or(Vec::new(), |name| vec!["--hardware", name]);
        assert!(deploy(&[&write[..], &named_chip].concat()).status.success());
        assert!(fs::read_to_string(&file).unwrap().lines().next().unwrap().contains(has));
        let whole = named.map_or(Hardware::mars(), |name| Hardware::load(name.as_ref()).unwrap());
        assert_eq!(Hardware::load(&file).unwrap(), whole);
        assert!(refusal(&write).contains("it is there already"));
    }
}
