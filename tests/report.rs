//! What people read: the table and the page, against snapshots, and what they say of hostile, missing or damaged files.

mod common;

use std::fs;
use std::process::{Command, Stdio};

use mars::data::{CIFAR_SHAPE, Split};
use mars::hardware::{Hardware, evaluate};
use mars::integer::{IMAGE_BITS, IntegerLayer, IntegerNetwork, Reference, predict};
use mars::network::{NetworkSpec, zoo};
use mars::observer::Silent;
use mars::package::{Package, Predictions, Provenance};
use mars::report;
use mars::validation::{Accuracy, Deployment, Mismatches, validate};
use tempfile::TempDir;

use common::Random;
use common::recipe::{Recipe, W4A4};

/// A name as a hostile file may hold it.
const HOSTILE: &str = "<script>alert('1')</script>&\"\u{202e}\u{1b}[31m";

const METRICS: &str = r#"{"phase":"sparsify","epoch":1,"loss":1.9,"train_accuracy":31.5,"test_accuracy":40.25,"learning_rate":0.01,"images_per_second":900,"group_sparsity":0.1,"penalty":50,"seconds":60}
{"phase":"sparsify","epoch":2,"loss":1.25,"train_accuracy":52,"test_accuracy":55,"learning_rate":0.01,"images_per_second":900,"group_sparsity":0.4,"penalty":50,"seconds":60}
{"phase":"quantize","epoch":1,"loss":1.5,"train_accuracy":48.5,"test_accuracy":51,"learning_rate":0.01,"images_per_second":900,"group_sparsity":0.4,"penalty":50,"seconds":60}
"#;

/// Random weights of 4 bits, 8 in the first and last layer; of each hundred groups `sparsity` are dropped.
fn network(spec: NetworkSpec, sparsity: u64) -> IntegerNetwork {
    Recipe { input_bits: IMAGE_BITS, sparsity, ..W4A4 }.network(spec)
}

/// Every kind of layer, small.
fn small(first_layer: &str) -> IntegerNetwork {
    let spec = r#"
        name = "small"
        input = [3, 32, 32]
        classes = 4
        [[layers]]
        op = "conv"
        name = "FIRST"
        filters = 24
        kernel = 3
        stride = 4
        padding = 1
        [[layers]]
        op = "conv"
        name = "identity"
        filters = 24
        kernel = 3
        padding = 1
        add = { from = "FIRST" }
        [[layers]]
        op = "conv"
        name = "projected"
        filters = 40
        kernel = 3
        stride = 2
        padding = 1
        add = { from = "identity", shortcut = "projection", stride = 2 }
        [[layers]]
        op = "max_pool"
        name = "largest"
        kernel = 2
        stride = 2
        [[layers]]
        op = "avg_pool"
        name = "mean"
        [[layers]]
        op = "linear"
        name = "linear"
        filters = 4
    "#;
    let name = toml::Value::from(first_layer).to_string();
    let spec = spec.replace("\"FIRST\"", &name);
    network(toml::from_str(&spec).unwrap(), 40)
}

fn images() -> Split {
    let mut random = Random(3);
    Split { shape: CIFAR_SHAPE, images: random.bytes(6 * CIFAR_SHAPE.len()).into(), labels: vec![0, 1, 2, 3, 0, 1] }
}

fn provenance(data_sha256: String) -> Provenance {
    Provenance {
        recipe: "model = \"small\"\nseed = 7\n".into(),
        data_sha256,
        float_accuracy: Some(50.0),
        fake_quant_accuracy: Some(33.333),
        ..common::provenance()
    }
}

/// A package whose fake-quant predictions are those of the integer reference.
fn package(network: IntegerNetwork, test: &Split) -> Package {
    let logits = Reference::new(&network).unwrap().logits(&test.images);
    let predictions = Predictions {
        data_sha256: test.sha256(),
        chip_sha256: None,
        classes: logits.chunks(network.classes.len()).map(|logits| predict(logits) as u16).collect(),
    };
    Package { network, provenance: provenance(test.sha256()), predictions: Some(predictions) }
}

fn deploy(package: &Package) -> Deployment {
    validate(package, &Hardware::mars(), &images(), None, &Silent).unwrap()
}

/// The page, with or without a `metrics.jsonl` beside it.
fn page(deployment: &Deployment, metrics: Option<&[u8]>) -> String {
    let folder = TempDir::new().unwrap();
    if let Some(metrics) = metrics {
        fs::write(folder.path().join("metrics.jsonl"), metrics).unwrap();
    }
    report::write(deployment, folder.path()).unwrap();
    assert!(folder.path().join("deploy.json").exists());
    fs::read_to_string(folder.path().join("report.html")).unwrap()
}

/// The page with a line break before each tag that isn't a part of a line, for snapshots.
fn readable(page: &str) -> String {
    const INLINE: [&str; 13] =
        ["/", "b>", "circle", "code", "dd", "dt", "rect", "small", "span", "td", "text", "th ", "title"];
    let line = |tag: &str| if INLINE.iter().any(|inline| tag.starts_with(inline)) { "<" } else { "\n<" };
    let tags = page.split('<').skip(1);
    tags.fold(String::new(), |text, tag| text.trim_end_matches('\n').to_owned() + line(tag) + tag) + "\n"
}

/// Each tag that is opened is closed, in order.
fn assert_nested(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closes </{name}>");
        } else if !tag.ends_with('/') && !["!DOCTYPE", "meta"].contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn table_and_page_read_as_they_did() {
    let deployment = deploy(&package(small("stem"), &images()));
    let table = report::table(&deployment);
    assert!(table.is_ascii() && table.lines().count() <= 45 && table.lines().all(|line| line.len() <= 80));
    insta::assert_snapshot!("table", table);
    let page = page(&deployment, Some(METRICS.as_bytes()));
    assert_nested(&page);
    insta::assert_snapshot!("page", readable(&page));
}

#[test]
fn what_is_not_known_is_a_dash_and_not_a_zero() {
    let mut package = package(small("stem"), &images());
    package.predictions = None;
    package.provenance = provenance("ab".repeat(32));
    let deployment = deploy(&package);
    insta::assert_snapshot!("table_without_predictions", report::table(&deployment));
    let page = page(&deployment, None);
    assert!(page.contains("<th scope=\"row\">fake-quant</th><td>-</td><td>-</td>"));
    assert!(page.contains("other images than those of"));
}

#[test]
fn executions_that_differ_are_not_said_to_agree() {
    let mut package = package(small("stem"), &images());
    for class in &mut package.predictions.as_mut().unwrap().classes[..2] {
        *class = (*class + 1) % 4;
    }
    let deployment = deploy(&package);
    let table = report::table(&deployment);
    assert!(table.contains("integer in 2 images, macro in 2"), "{table}");
    assert!(table.contains("The executions differ") && !table.contains("agree"), "{table}");
    assert!(page(&deployment, None).contains("<p class=\"bad\">The executions differ"));
}

#[test]
fn a_layer_of_which_nothing_is_left_is_named() {
    let mut network = small("stem");
    let IntegerLayer::Conv { conv, .. } = &mut network.layers[1] else { unreachable!() };
    conv.weights.fill(0);
    let deployment = deploy(&package(network, &images()));
    assert!(report::table(&deployment).contains("nothing is left of 1 layer: identity\n"));
    assert!(page(&deployment, None).contains("Nothing is left of layer identity: all its groups are zero."));
}

#[test]
fn names_from_files_cannot_become_markup_or_terminal_codes() {
    let mut package = package(small(HOSTILE), &images());
    package.network.classes[0] = HOSTILE.into();
    package.provenance.dataset = HOSTILE.into();
    package.provenance.recipe = HOSTILE.into();
    package.provenance.crate_version = HOSTILE.into();
    let mut deployment = deploy(&package);
    deployment.network = HOSTILE.into();
    deployment.evaluation.hardware = HOSTILE.into();
    let metrics = METRICS.replace("\"sparsify\"", &serde_json::to_string(HOSTILE).unwrap());
    let page = page(&deployment, Some(metrics.as_bytes()));
    assert_nested(&page);
    // No phase has such a name.
    assert!(page.contains("After the last of 1 epoch: ") && page.contains("Skipped 2 lines of metrics.jsonl"));
    assert!(!page.contains("<script"));
    assert!(!page.contains(['\u{202e}', '\u{1b}']));
    assert!(page.contains("&lt;script&gt;alert('1')&lt;/script&gt;&amp;&quot;\u{fffd}\u{fffd}[31m: cycles"));
    let table = report::table(&deployment);
    assert!(table.bytes().all(|byte| matches!(byte, b'\n' | b' '..=b'~')), "{table}");
}

#[test]
fn page_needs_no_network() {
    let page = page(&deploy(&package(small("stem"), &images())), Some(METRICS.as_bytes()));
    for reference in ["http:", "https:", "url(", "@import", "<link", "<script", "<img", "src="] {
        assert!(!page.contains(reference), "{reference}");
    }
    assert!(page.contains("<meta name=\"viewport\""));
    assert_eq!(page.matches("<svg class").count(), page.matches("role=\"img\"").count());
}

#[test]
fn drawings_are_files_of_their_own() {
    let folder = TempDir::new().unwrap();
    let deployment = deploy(&package(small(HOSTILE), &images()));
    report::write_drawings(&deployment, folder.path()).unwrap();
    for name in [
        "timeline-frame",
        "timeline-layer",
        "utilization",
        "energy",
        "energy-layers",
        "roofline",
        "chip",
        "kept-groups",
    ] {
        let drawing = fs::read_to_string(folder.path().join(format!("{name}.svg"))).unwrap();
        assert!(drawing.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\""), "{name}: {drawing}");
        assert!(!drawing.contains("<script") && !drawing.contains("NaN"), "{name}");
        assert_nested(&drawing);
    }
    let drawing = fs::read_to_string(folder.path().join("timeline-layer.svg")).unwrap();
    for part in ["core 0.0", "0 inputs", "0 outputs"] {
        assert!(drawing.contains(&format!(">{part}")), "{part}");
    }
}

/// A chip of thousands of macros, most of which do the same or nothing.
#[test]
fn the_timeline_of_a_huge_chip_has_a_row_for_macros_that_do_the_same() {
    let hardware = Hardware { cores: 128, macros_per_core: 128, ..Hardware::mars() };
    let deployment = validate(&package(small("stem"), &images()), &hardware, &images(), Some(1), &Silent).unwrap();
    let page = page(&deployment, None);
    let heights = page.split("<svg class=\"timeline\"").skip(1).map(|svg| {
        let height = svg.split(" height=\"").nth(1).unwrap().split('"').next().unwrap();
        height.parse::<usize>().unwrap()
    });
    let heights: Vec<usize> = heights.collect();
    assert!(heights.len() == 2 && heights.iter().all(|height| *height < 2_400), "{heights:?}");
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
}

/// The page in a real browser, at a desk and on a phone: it is drawn, with all its sections, and no wider than the screen.
#[test]
#[ignore = "needs chromium on the path: `.ci/more browser`"]
fn a_browser_draws_the_page_no_wider_than_a_phone() {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell", "headless_shell"];
    let runs =
        |name: &&str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let browser = names.into_iter().find(runs).expect("none of the browsers is on the path");
    let folder = TempDir::new().unwrap();
    let page = page(&deploy(&package(small("stem"), &images())), Some(METRICS.as_bytes()));
    // The page itself may run no scripts; this copy says how wide it is.
    let measured = page.replace("default-src 'none'; style-src 'unsafe-inline'", "default-src 'unsafe-inline'").replace(
        "</body>",
        "<script>document.title = 'width ' + document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>",
    );
    let file = folder.path().join("page.html");
    fs::write(&file, measured).unwrap();
    for width in [360, 1280] {
        // Chromium's own window is at least 500 pixels wide, a frame in it may be narrower.
        let frame = folder.path().join("frame.html");
        fs::write(
            &frame,
            format!(
                "<!DOCTYPE html><iframe src=\"page.html\" style=\"width:{width}px;height:800px;border:0\" onload=\"\
                 const page = this.contentDocument; document.body.dataset.found = page.title + ', ' + \
                 page.querySelectorAll('h2').length + ' sections'\"></iframe>"
            ),
        )
        .unwrap();
        let output = Command::new(browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--allow-file-access-from-files",
            ])
            .args(["--window-size=1400,900", "--virtual-time-budget=5000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg(format!("file://{}", frame.display()))
            .output()
            .unwrap();
        let found = String::from_utf8_lossy(&output.stdout);
        let sections = page.matches("<h2>").count();
        let expected = format!("data-found=\"width {width} of {width}, {sections} sections\"");
        assert!(found.contains(&expected), "{browser} at {width}: expected {expected} in {found}");
    }
}

#[test]
fn metrics_that_are_missing_or_damaged_are_said_and_the_rest_is_drawn() {
    let deployment = deploy(&package(small("stem"), &images()));
    assert!(page(&deployment, None).contains("There is no metrics.jsonl in this folder"));
    assert!(page(&deployment, Some(b"\n")).contains("metrics.jsonl holds no epochs"));
    let damaged = [METRICS.as_bytes(), b"\n{\"phase\":\"qua\xff\n{\"loss\":null}\n"].concat();
    let page = page(&deployment, Some(&damaged));
    assert_nested(&page);
    assert!(page.contains("Skipped 2 lines of metrics.jsonl that could not be read, the first of them line 5."));
    assert!(page.contains("After the last of 3 epochs: test accuracy 51.00 %"));
    // Two phases of a kind, as where a learning rate starts again: each chart has a line for both.
    let restarted = METRICS.replace("\"quantize\"", "\"sparsify\"");
    assert_eq!(self::page(&deployment, Some(restarted.as_bytes())).matches("class=\"phase\"").count(), 4);

    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("metrics.jsonl")).unwrap();
    report::write(&deployment, folder.path()).unwrap();
    let page = fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(page.contains("metrics.jsonl cannot be read: "));
}

/// A deployment whose accuracies are made up, since images would take minutes.
fn without_running(network: IntegerNetwork) -> Deployment {
    let hardware = Hardware::mars();
    let evaluation = evaluate(&network, &hardware).unwrap();
    Deployment {
        network: network.graph.spec().name.clone(),
        images: 10_000,
        data_sha256: "ab".repeat(32),
        dataset: None,
        accuracy: Accuracy { float: None, fake_quant: None, integer: 90.0, macro_model: 90.0, macro_model_top5: None },
        mismatches: Mismatches {
            fake_quant_vs_integer_predictions: None,
            integer_vs_macro_logits: 0,
            fake_quant_vs_macro_predictions: None,
        },
        evaluation,
        package: Package { network, provenance: provenance("ab".repeat(32)), predictions: None },
    }
}

#[test]
fn page_of_vgg16_stays_below_a_megabyte_and_a_half() {
    let page = page(&without_running(network(zoo("vgg16", 10).unwrap(), 50)), None);
    assert_nested(&page);
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    if let Some(path) = std::env::var_os("KEEP_PAGE") {
        fs::write(path, page).unwrap();
    }
}
