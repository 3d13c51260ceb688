//! What several test programs need: made-up data sets in the official layouts, a small network, random numbers, generated files.

// Each test program compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub(crate) mod onnx;
pub(crate) mod recipe;
pub(crate) mod torch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mars::data::CIFAR_SHAPE;
use mars::groups::GroupShape;
use mars::integer::{IntegerLayer, IntegerNetwork};
use mars::network::Graph;
use mars::package::Provenance;

/// SplitMix64: the same numbers on every machine.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From `low` to `high`.
    pub(crate) fn real(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// An image of a class: stripes whose colour, direction and width tell it, with noise.
pub(crate) fn synthetic_image(class: usize, random: &mut Random) -> Vec<u8> {
    let mut image = Vec::with_capacity(CIFAR_SHAPE.len());
    for color in 0..3 {
        let level = 40 + (class * (color + 3) * 37) % 170;
        for pixel in 0..CIFAR_SHAPE.pixels() {
            let along = if class.is_multiple_of(2) { pixel / CIFAR_SHAPE.width } else { pixel % CIFAR_SHAPE.width };
            let stripe = if (along / (2 + class % 4)).is_multiple_of(2) { 40 } else { 0 };
            image.push((level + stripe + random.below(30)) as u8);
        }
    }
    image
}

/// Records of `images` images: `label_bytes` labels each (a coarse one first, if there are two), then the image. One in five has
/// an image of another class, so that no network is right about all.
fn records(images: usize, classes: usize, label_bytes: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(images * (CIFAR_SHAPE.len() + label_bytes));
    for _ in 0..images {
        let class = random.below(classes);
        if label_bytes == 2 {
            bytes.push((class / 5) as u8);
        }
        bytes.push(class as u8);
        let shown = if random.below(5) == 0 { random.below(classes) } else { class };
        bytes.extend(synthetic_image(shown, random));
    }
    bytes
}

/// CIFAR-10's unpacked folder with `train` images in each of five files and `test` in the sixth.
pub(crate) fn write_cifar10(data_dir: &Path, train: usize, test: usize) -> PathBuf {
    let folder = data_dir.join("cifar-10-batches-bin");
    fs::create_dir_all(&folder).unwrap();
    let mut random = Random(1);
    for batch in 1..=5 {
        fs::write(folder.join(format!("data_batch_{batch}.bin")), records(train, 10, 1, &mut random)).unwrap();
    }
    fs::write(folder.join("test_batch.bin"), records(test, 10, 1, &mut random)).unwrap();
    let names: String = (0..10).map(|class| format!("class {class}\n")).collect();
    fs::write(folder.join("batches.meta.txt"), names).unwrap();
    folder
}

/// CIFAR-100's unpacked folder.
pub(crate) fn write_cifar100(data_dir: &Path, train: usize, test: usize) -> PathBuf {
    let folder = data_dir.join("cifar-100-binary");
    fs::create_dir_all(&folder).unwrap();
    let mut random = Random(2);
    fs::write(folder.join("train.bin"), records(train, 100, 2, &mut random)).unwrap();
    fs::write(folder.join("test.bin"), records(test, 100, 2, &mut random)).unwrap();
    let names = |kind: &str, count: usize| -> String { (0..count).map(|class| format!("{kind}_{class}\n")).collect() };
    fs::write(folder.join("fine_label_names.txt"), names("fine", 100)).unwrap();
    fs::write(folder.join("coarse_label_names.txt"), names("coarse", 20)).unwrap();
    folder
}

/// Windows that differ by side, a dilated kernel, means that overlap and have a border, and maps behind each other, one of which is read by
/// others, too.
pub(crate) fn joined_network(classes: usize) -> String {
    format!(
        r#"
name = "joined"
input = [3, 32, 32]
classes = {classes}
layers = [
    {{ op = "conv", name = "stem", filters = 8, kernel = [3, 4], stride = [2, 3], padding = [2, 0, 1, 1] }},
    {{ op = "conv", name = "dilated", filters = 12, kernel = 3, padding = 2, dilation = 2 }},
    {{ op = "avg_pool", name = "overlapping", input = "stem", kernel = [3, 2], stride = 1, padding = [1, 1, 1, 0] }},
    {{ op = "conv", name = "wide", input = "stem", filters = 6, kernel = [1, 5], padding = [0, 2], batch_norm = false }},
    {{ op = "concat", name = "first", inputs = ["dilated", "overlapping", "wide"] }},
    {{ op = "max_pool", name = "max", kernel = 2, stride = 2, padding = [0, 0, 0, 1] }},
    {{ op = "conv", name = "narrow", filters = 26, kernel = 1, add = {{ from = "max" }} }},
    {{ op = "concat", name = "second", inputs = ["narrow", "max"] }},
    {{ op = "avg_pool", name = "mean" }},
    {{ op = "linear", name = "linear", filters = {classes} }},
]
"#
    )
}

/// A network for 32x32 images with both shortcuts and both pools, as a user would write it.
pub(crate) fn tiny_network(classes: usize) -> String {
    format!(
        r#"
name = "tiny"
input = [3, 32, 32]
classes = {classes}

[[layers]]
op = "conv"
name = "stem"
filters = 8
kernel = 3
stride = 2
padding = 1

[[layers]]
op = "max_pool"
name = "max"
kernel = 2
stride = 2

[[layers]]
op = "conv"
name = "a"
filters = 12
kernel = 3
stride = 2
padding = 1

[[layers]]
op = "conv"
name = "b"
filters = 20
kernel = 3
padding = 1
add = {{ from = "max", shortcut = "projection", stride = 2 }}

[[layers]]
op = "conv"
name = "c"
filters = 24
kernel = 3
padding = 1
add = {{ from = "b" }}

[[layers]]
op = "avg_pool"
name = "mean"

[[layers]]
op = "linear"
name = "linear"
filters = {classes}
"#
    )
}

/// A network for 32x32 images whose values have signs, as MobileNetV2's: inverted residuals with linear bottlenecks, of which one joins a sum, a
/// convolution without an activation before a projection, and pools of such values.
pub(crate) fn bottleneck_network(classes: usize) -> String {
    format!(
        r#"
name = "bottleneck"
input = [3, 32, 32]
classes = {classes}
layers = [
    {{ op = "conv", name = "stem", filters = 8, kernel = 3, stride = 2, padding = 1, activation = "none" }},
    {{ op = "max_pool", name = "max", kernel = 3, stride = 2, padding = 1 }},
    {{ op = "conv", name = "expand", filters = 24, kernel = 1, clip = 6.0 }},
    {{ op = "conv", name = "depthwise", filters = 24, kernel = 3, padding = 1, groups = 24, clip = 6.0 }},
    {{ op = "conv", name = "bottleneck", filters = 8, kernel = 1, activation = "none", add = {{ from = "max" }} }},
    {{ op = "conv", name = "grouped", filters = 16, kernel = 3, stride = 2, padding = 1, groups = 4, activation = "none" }},
    {{ op = "conv", name = "sum", filters = 16, kernel = 3, padding = 1, activation = "none",
      add = {{ from = "bottleneck", shortcut = "projection", stride = 2 }} }},
    {{ op = "avg_pool", name = "mean" }},
    {{ op = "linear", name = "linear", filters = {classes} }},
]
"#
    )
}

/// An integer network with the same zero point for each color and made-up names of classes.
pub(crate) fn integer_network(graph: Graph, group: GroupShape, layers: Vec<IntegerLayer>) -> IntegerNetwork {
    IntegerNetwork {
        zero_points: vec![124; graph.spec().input[0]],
        classes: (0..graph.spec().classes).map(|class| format!("class {class}")).collect(),
        group,
        layers,
        graph,
    }
}

/// Where a package comes from, made up.
pub(crate) fn provenance() -> Provenance {
    Provenance {
        recipe: String::new(),
        seed: 7,
        crate_version: "0.1.0".into(),
        dataset: "cifar10-mini".into(),
        data_sha256: "5a".repeat(32),
        float_accuracy: None,
        fake_quant_accuracy: None,
    }
}

/// Runs a program in a folder, without the user's data sets.
pub(crate) fn command(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env_remove("MARS_DATA_DIR").stdin(Stdio::null());
    command
}

/// Standard output and error of a program that was expected to succeed.
pub(crate) fn success(output: &Output) -> (String, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    (out, err)
}

/// A page with these tables between its marks of what is computed.
pub(crate) fn with_tables(page: &str, tables: &[String]) -> String {
    let mut parts = page.split("<!-- computed -->\n").map(|part| part.split("<!-- end -->").last().unwrap());
    let mut text = parts.next().unwrap().to_owned();
    for (table, after) in tables.iter().zip(parts) {
        text += &format!("<!-- computed -->\n{table}<!-- end -->{after}");
    }
    assert_eq!(text.matches("<!-- end -->").count(), tables.len());
    text
}

/// Whether generated files are to be written instead of compared: the variable of `insta`, which does the same with snapshots.
pub(crate) fn updates() -> bool {
    std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always")
}

/// Compares with a generated file of the repository, or writes it.
pub(crate) fn check_file(path: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if updates() {
        fs::write(&path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let advice = format!("{} differs; INSTA_UPDATE=always rewrites it", path.display());
    for (number, (expected, found)) in (1..).zip(expected.lines().zip(found.lines())) {
        assert!(expected == found, "{advice}\nline {number}:\nexpected {expected}\nfound    {found}");
    }
    assert!(expected == found, "{advice}\none ends before the other; found:\n{found}");
}
