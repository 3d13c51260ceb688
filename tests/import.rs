//! Checkpoints of others: their arrays arrive under our names, and what doesn't fit is refused by name.

#![cfg(feature = "train")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Random;
use mars::network::{Array, Conv, ConvShape, Graph, Weights, import, zoo};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

/// A state dict as PyTorch has it, in the order of its layers.
#[derive(Clone, Default)]
struct StateDict(Vec<(String, Array)>);

impl StateDict {
    fn add(&mut self, name: String, shape: &[usize], random: &mut Random) -> Vec<f32> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.real(0.1, 1.0) as f32).collect();
        self.0.push((name, Array { shape: shape.into(), values: values.clone() }));
        values
    }

    fn get(&mut self, name: &str) -> &mut Array {
        &mut self.0.iter_mut().find(|(other, _)| other == name).unwrap_or_else(|| panic!("no `{name}`")).1
    }

    fn remove(&mut self, name: &str) {
        self.get(name);
        self.0.retain(|(other, _)| other != name);
    }

    fn prefixed(mut self, prefix: &str) -> Self {
        self.0.iter_mut().for_each(|(name, _)| *name = format!("{prefix}{name}"));
        self
    }

    /// As `safetensors.torch.save_file` writes it, with the integers that batch norms count batches in.
    fn save(&self, path: &Path) {
        let counter = 7i64.to_le_bytes().to_vec();
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, array) in &self.0 {
            let bytes = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push((name.clone(), Dtype::F32, array.shape.clone(), bytes));
            if let Some(norm) = name.strip_suffix(".running_var") {
                tensors.push((format!("{norm}.num_batches_tracked"), Dtype::I64, Vec::new(), counter.clone()));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, bytes)| (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

/// How somebody names the layers of a network.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Style {
    Torchvision,
    Kuangliu,
}

/// Builds a state dict and what it should become.
struct Writer {
    random: Random,
    theirs: StateDict,
    ours: Weights,
}

impl Writer {
    fn conv(&mut self, ours: &str, conv: &str, norm: &str, shape: &ConvShape, bias: bool) {
        let filters = [shape.filters()];
        let sizes = [shape.filters(), shape.channels(), shape.kernel[0], shape.kernel[1]];
        let random = &mut self.random;
        let weight = self.theirs.add(format!("{conv}.weight"), &sizes, random);
        self.ours.insert(format!("{ours}.weight"), Array { shape: sizes.to_vec(), values: weight });
        let bias = bias.then(|| self.theirs.add(format!("{conv}.bias"), &filters, random));
        for (theirs, part) in [("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "var")]
        {
            let mut values = self.theirs.add(format!("{norm}.{theirs}"), &filters, random);
            if let ("mean", Some(bias)) = (part, &bias) {
                values.iter_mut().zip(bias).for_each(|(mean, bias)| *mean -= bias);
            }
            self.ours.insert(format!("{ours}.{part}"), Array::vector(values));
        }
    }

    fn linear(&mut self, ours: &str, theirs: &str, shape: &ConvShape) {
        let inputs = shape.weights() / shape.filters();
        let weight = self.theirs.add(format!("{theirs}.weight"), &[shape.filters(), inputs], &mut self.random);
        let shape = vec![shape.filters(), shape.channels(), shape.kernel[0], shape.kernel[1]];
        let bias = self.theirs.add(format!("{theirs}.bias"), &shape[..1], &mut self.random);
        self.ours.insert(format!("{ours}.weight"), Array { shape, values: weight });
        self.ours.insert(format!("{ours}.bias"), Array::vector(bias));
    }
}

fn graph(name: &str) -> Graph {
    Graph::new(zoo(name, 10).unwrap()).unwrap()
}

/// ResNet18: `layer2.0.conv1`, `bn1`, and `downsample.0` and `fc` or `shortcut.0` and `linear`.
fn resnet18(style: Style) -> (StateDict, Weights) {
    let mut writer = Writer { random: Random(18), theirs: StateDict::default(), ours: Weights::default() };
    for Conv { name, shape, .. } in graph("resnet18").convs() {
        if let Some(conv) = name.strip_suffix(".projection") {
            let block = conv.strip_suffix(".conv2").unwrap();
            let shortcut = if style == Style::Torchvision { "downsample" } else { "shortcut" };
            let [conv, norm] = [0, 1].map(|index| format!("{block}.{shortcut}.{index}"));
            writer.conv(&name, &conv, &norm, &shape, false);
        } else if name == "linear" {
            writer.linear(&name, if style == Style::Torchvision { "fc" } else { "linear" }, &shape);
        } else {
            writer.conv(&name, &name, &name.replace("conv", "bn"), &shape, false);
        }
    }
    (writer.theirs, writer.ours)
}

/// VGG16-BN: `features.N`, where both have biases before batch norm, with pools and ReLUs counted, and `classifier`.
fn vgg16(style: Style) -> (StateDict, Weights) {
    let mut writer = Writer { random: Random(16), theirs: StateDict::default(), ours: Weights::default() };
    let (mut index, mut stage) = (0, "1".to_string());
    for Conv { name, shape, .. } in graph("vgg16").convs() {
        if name == "linear" {
            let classifier = if style == Style::Torchvision { "classifier.0" } else { "classifier" };
            writer.linear(&name, classifier, &shape);
            continue;
        }
        let of = name.trim_start_matches("conv").split('_').next().unwrap().to_string();
        if of != stage {
            (index, stage) = (index + 1, of);
        }
        writer.conv(&name, &format!("features.{index}"), &format!("features.{}", index + 1), &shape, true);
        index += 3;
    }
    (writer.theirs, writer.ours)
}

fn assert_same(found: &Weights, expected: &Weights) {
    assert_eq!(names(found), names(expected));
    for ((name, found), (_, expected)) in found.iter().zip(expected.iter()) {
        assert!(found == expected, "{name}");
    }
}

fn names(weights: &Weights) -> Vec<&str> {
    weights.iter().map(|(name, _)| name).collect()
}

/// The error, which is one line that begins with the file.
fn refused(path: &Path, graph: &Graph) -> String {
    let error = import(path, graph).unwrap_err().to_string();
    assert!(error.lines().count() == 1 && error.starts_with(path.to_str().unwrap()), "{error}");
    error
}

fn file(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

#[test]
fn resnet18_comes_in_under_both_names() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "resnet18.safetensors");
    for style in [Style::Torchvision, Style::Kuangliu] {
        let (theirs, ours) = resnet18(style);
        for prefix in ["", "module."] {
            theirs.clone().prefixed(prefix).save(&path);
            assert_same(&import(&path, &graph("resnet18")).unwrap(), &ours);
        }
    }
}

#[test]
fn vgg16_comes_in_with_biases_moved_into_the_means() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "vgg16.safetensors");
    for style in [Style::Torchvision, Style::Kuangliu] {
        let (theirs, ours) = vgg16(style);
        assert!(theirs.0.iter().any(|(name, _)| name == "features.41.running_mean"), "the last one of both");
        theirs.save(&path);
        assert_same(&import(&path, &graph("vgg16")).unwrap(), &ours);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "bad.safetensors");
    type Change = fn(&mut StateDict);
    let resnet: [(Change, &[&str]); 7] = [
        (|d| d.remove("layer3.1.conv2.weight"), &["it has no `layer3.1.conv2.weight`"]),
        (|d| d.remove("layer3.1.bn2.running_var"), &["it has no `layer3.1.bn2.running_var`"]),
        (|d| d.remove("layer2.0.downsample.0.weight"), &["it has no `layer2.0.", ".0.weight`"]),
        (|d| d.remove("fc.weight"), &["it has none of", "\"fc\""]),
        (|d| d.get("bn1.weight").shape = vec![32, 2], &["`conv1.gamma`", "[32, 2]", "[64]"]),
        (
            |d| {
                let extra = d.get("conv1.weight").clone();
                d.0.push(("layer5.0.conv1.weight".into(), extra));
            },
            &["it also holds `layer5.0.conv1.weight`"],
        ),
        (|d| d.get("layer1.0.bn1.bias").values[3] = f32::NAN, &["`layer1.0.conv1.beta` holds NaN"]),
    ];
    let (good, _) = resnet18(Style::Torchvision);
    for (change, parts) in resnet {
        let mut bad = good.clone();
        change(&mut bad);
        bad.save(&path);
        let error = refused(&path, &graph("resnet18"));
        assert!(error.contains("not a checkpoint of `resnet18`"), "{error}");
        for part in parts {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }
    let vgg: [(Change, &str); 4] = [
        (|d| d.remove("features.41.weight"), "it has no `features.41.weight`"),
        (|d| d.remove("features.40.weight"), "its `features` end before `conv5_3`"),
        (
            |d| {
                let bias = d.get("features.0.bias");
                bias.shape = vec![32];
                bias.values.truncate(32);
            },
            "`features.0.bias` has shape [32], its batch norm [64]",
        ),
        (
            |d| {
                let weight = d.get("classifier.weight");
                weight.shape = vec![10, 256];
                weight.values.truncate(2560);
            },
            "`classifier.weight` doesn't read a map of",
        ),
    ];
    let (good, _) = vgg16(Style::Kuangliu);
    for (change, part) in vgg {
        let mut bad = good.clone();
        change(&mut bad);
        bad.save(&path);
        let error = refused(&path, &graph("vgg16"));
        assert!(error.contains(part), "no `{part}` in {error}");
    }
}

#[test]
fn a_checkpoint_of_our_own_must_be_of_the_same_network() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "own.safetensors");
    let mut weights = Weights::random(&graph("resnet32"), 1);
    weights.save(&path, None).unwrap();
    assert_same(&import(&path, &graph("resnet32")).unwrap(), &weights);
    // All of ResNet-20's arrays are there with their shapes, but these are another network's weights.
    let error = refused(&path, &graph("resnet20"));
    assert!(error.contains("it also holds `layer1.3.conv1."), "{error}");
    let error = refused(&path, &graph("resnet44"));
    assert!(error.contains("no array `layer1.5.conv1.weight`"), "{error}");
    // What a run adds is left out.
    weights.insert("momentum:conv1.weight".into(), Array::vector(vec![0.0]));
    weights.insert("conv1.weight_step".into(), Array::vector(vec![0.5]));
    weights.save(&path, None).unwrap();
    assert_same(&import(&path, &graph("resnet32")).unwrap(), &Weights::random(&graph("resnet32"), 1));
}

/// A variance below zero would make all logits NaN, and any accuracy a guess.
#[test]
fn a_negative_variance_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "own.safetensors");
    let mut weights = Weights::random(&graph("resnet20"), 1);
    weights.insert("layer2.0.conv1.var".into(), Array::vector([vec![1.0; 31], vec![-0.5]].concat()));
    weights.save(&path, None).unwrap();
    let error = refused(&path, &graph("resnet20"));
    assert!(error.contains("`layer2.0.conv1.var` holds -0.5: no variance is below 0"), "{error}");
}

/// Without batch norm nothing but the biases tells our names from others'.
#[test]
fn our_own_network_without_batch_norm_comes_back() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "own.safetensors");
    let spec = common::tiny_network(10).replace("kernel = 3\n", "kernel = 3\nbatch_norm = false\n");
    let spec = spec.replace("add = { from = \"max\", shortcut = \"projection\", stride = 2 }\n", "");
    let graph = Graph::new(toml::from_str(&spec.replace("name = \"linear\"", "name = \"last\"")).unwrap()).unwrap();
    let weights = Weights::random(&graph, 1);
    let mut saved = weights.clone();
    saved.insert("momentum:a.weight".into(), Array::vector(vec![0.0]));
    saved.save(&path, None).unwrap();
    assert_same(&import(&path, &graph).unwrap(), &weights);
}

#[test]
fn other_number_formats_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "half.safetensors");
    let bytes = [0; 4];
    let view = TensorView::new(Dtype::F16, vec![2], &bytes).unwrap();
    fs::write(&path, safetensors::serialize([("conv1.weight", view)], None).unwrap()).unwrap();
    let error = refused(&path, &graph("resnet20"));
    assert!(error.contains("`conv1.weight` is F16, expected F32"), "{error}");
}

/// A small checkpoint's bytes.
fn small() -> (Graph, Vec<u8>) {
    let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "small.safetensors");
    Weights::random(&graph, 1).save(&path, None).unwrap();
    (graph, fs::read(path).unwrap())
}

#[test]
fn damaged_files_are_errors() {
    let (graph, bytes) = small();
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "bad.safetensors");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for length in (0..header + 64).step_by(7).chain([bytes.len() - 1]) {
        fs::write(&path, &bytes[..length]).unwrap();
        refused(&path, &graph);
    }
    // A flipped bit in the header may still be a header (metadata, spaces); it must not be a crash or other weights.
    let expected = Weights::random(&graph, 1);
    for bit in (0..header * 8).step_by(11) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &flipped).unwrap();
        if let Ok(weights) = import(&path, &graph) {
            assert_same(&weights, &expected);
        }
    }
    for name in ["bad.pt", "bad.th", "bad"] {
        fs::write(file(&dir, name), &bytes).unwrap();
        assert!(refused(&file(&dir, name), &graph).contains("not a readable PyTorch checkpoint"));
    }
    refused(&file(&dir, "nowhere.pt"), &graph);
    refused(&file(&dir, "nowhere.safetensors"), &graph);
    refused(dir.path(), &graph);
}

/// Beginnings of every container that PyTorch has written, and of pickles.
fn beginning() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        vec![],
        b"PK\x03\x04".to_vec(),
        b"\x80\x02}q\x00(X\x06\x00\x00\x00conv1.".to_vec(),
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00".to_vec(),
        b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01".to_vec(),
        b"sys_info\0".to_vec(),
        b"\x93NUMPY".to_vec(),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_import_panic(
        start in beginning(),
        rest in prop::collection::vec(any::<u8>(), 0..300),
        name in prop::sample::select(vec!["x.pt", "x.th", "x.safetensors"]),
    ) {
        let dir = TempDir::new().unwrap();
        let path = file(&dir, name);
        fs::write(&path, [start, rest].concat()).unwrap();
        let graph = Graph::new(toml::from_str(&common::tiny_network(10)).unwrap()).unwrap();
        prop_assert!(!refused(&path, &graph).is_empty());
    }
}
