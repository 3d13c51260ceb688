//! Checkpoints of others: their arrays arrive under our names, and what doesn't fit is refused by name.

#![cfg(feature = "train")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{Random, torch};
use mars::network::{Array, Conv, ConvId, ConvShape, Graph, ImportOptions, Imported, Weights, zoo};
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
        self.save_with(path, &[]);
    }

    /// With arrays of another type.
    fn save_with(&self, path: &Path, others: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) {
        let counter = 7i64.to_le_bytes().to_vec();
        let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
        for (name, array) in &self.0 {
            let bytes = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push((name.clone(), Dtype::F32, array.shape.clone(), bytes));
            if let Some(norm) = name.strip_suffix(".running_var") {
                tensors.push((format!("{norm}.num_batches_tracked"), Dtype::I64, Vec::new(), counter.clone()));
            }
        }
        tensors.extend(
            others.iter().map(|(name, dtype, shape, bytes)| ((*name).into(), *dtype, shape.clone(), bytes.clone())),
        );
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
        let [height, width] = shape.window.kernel;
        let sizes = [shape.filters(), shape.depth(), height, width];
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
        let [height, width] = shape.window.kernel;
        let shape = vec![shape.filters(), shape.depth(), height, width];
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

fn import(path: &Path, graph: &Graph) -> mars::Result<Weights> {
    Ok(import_with(path, graph, &ImportOptions::default())?.weights)
}

fn import_with(path: &Path, graph: &Graph, options: &ImportOptions) -> mars::Result<Imported> {
    mars::network::import(path, graph, options)
}

/// The error, which is one line that begins with the file.
fn refused(path: &Path, graph: &Graph) -> String {
    let error = import(path, graph).map(drop).unwrap_err().to_string();
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
    let resnet: [(Change, &[&str]); 6] = [
        (|d| d.remove("layer3.1.conv2.weight"), &["it has no `layer3.1.conv2.weight`"]),
        (|d| d.remove("layer3.1.bn2.running_var"), &["it also holds `layer3.1.bn2.running_mean`"]),
        (
            |d| d.remove("layer2.0.downsample.0.weight"),
            &["it has no `layer2.0.conv2.projection.weight` of shape [128, 64, 1, 1]"],
        ),
        (|d| d.remove("fc.weight"), &["it has no `linear.weight` of shape [10, 512, 1, 1]"]),
        (|d| *d.get("bn1.weight") = Array::vector(vec![1.0; 32]), &["`bn1.weight` has shape [32], `conv1` needs [64]"]),
        (
            |d| {
                let extra = d.get("conv1.weight").clone();
                d.0.push(("layer5.0.conv1.weight".into(), extra));
            },
            &["it also holds `layer5.0.conv1.weight`"],
        ),
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
        (|d| d.remove("features.41.weight"), "it also holds `features.41.bias`"),
        (|d| d.remove("features.40.weight"), "it has no `conv4_2.weight` of shape [512, 512, 3, 3]"),
        (
            |d| {
                let bias = d.get("features.0.bias");
                bias.shape = vec![32];
                bias.values.truncate(32);
            },
            "`features.0.bias` has shape [32], `conv1_1` needs [64]",
        ),
        (
            |d| {
                let weight = d.get("classifier.weight");
                weight.shape = vec![10, 256];
                weight.values.truncate(2560);
            },
            "`classifier.weight` gives 10 values from 256, the network's `linear` 10 from 512; --fresh linear",
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
    assert!(error.contains("it has no `layer1.5.conv1.weight`"), "{error}");
    // What a run adds is left out.
    for state in ["momentum:conv1.weight", "kept:conv1", "effects:conv1"] {
        weights.insert(state.into(), Array::vector(vec![0.0]));
    }
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
    assert!(!error.contains("--model"), "{error}");
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

/// A network whose layers a training program may call as it likes.
fn plain() -> Graph {
    let conv = |name: &str, filters: usize| {
        format!("[[layers]]\nop = \"conv\"\nname = \"{name}\"\nfilters = {filters}\nkernel = 3\npadding = 1\n")
    };
    let linear =
        |name: &str, filters: usize| format!("[[layers]]\nop = \"linear\"\nname = \"{name}\"\nfilters = {filters}\n");
    let layers = [conv("a", 8), conv("b", 8), linear("hidden", 12), linear("last", 10)].concat();
    Graph::new(toml::from_str(&format!("name = \"plain\"\ninput = [1, 6, 5]\nclasses = 10\n{layers}")).unwrap())
        .unwrap()
}

/// A checkpoint of [`plain`] with these names of its convolutions, batch norms and linear layers, and what it should become.
fn named(convs: [[&str; 2]; 2], linears: [&str; 2]) -> (StateDict, Weights) {
    let mut writer = Writer { random: Random(7), theirs: StateDict::default(), ours: Weights::default() };
    let graph = plain();
    let (norms, others): (Vec<Conv>, Vec<Conv>) = graph.convs().partition(|conv| conv.batch_norm);
    for (conv, [name, norm]) in norms.iter().zip(convs) {
        writer.conv(&conv.name, name, norm, &conv.shape, false);
    }
    for (conv, name) in others.iter().zip(linears) {
        writer.linear(&conv.name, name, &conv.shape);
    }
    (writer.theirs, writer.ours)
}

const USUAL: [[&str; 2]; 2] = [["a", "a_bn"], ["b", "b_bn"]];

#[test]
fn layers_are_found_by_shape_and_number_where_names_do_not_tell() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "named.safetensors");
    for (convs, linears) in [
        (USUAL, ["hidden", "last"]),
        // `nn.Sequential`.
        ([["0", "1"], ["3", "4"]], ["8", "11"]),
        ([["features.0", "features.1"], ["features.3", "features.4"]], ["classifier.0", "classifier.3"]),
        ([["net.stem.conv", "net.stem.bn"], ["net.body.conv", "net.body.bn"]], ["net.pre_logits", "net.head"]),
        // Batch norms that aren't called after their convolutions.
        ([["conv1", "n1"], ["conv2", "n2"]], ["fc1", "fc2"]),
        ([["blocks.9.c", "blocks.9.z"], ["blocks.10.c", "blocks.10.z"]], ["out.0", "out.1"]),
    ] {
        let (theirs, ours) = named(convs, linears);
        theirs.save(&path);
        assert_same(&import(&path, &plain()).unwrap(), &ours);
    }
}

/// A checkpoint that counts from zero has the network's second name for its third layer.
#[test]
fn names_that_only_some_layers_share_are_not_trusted() {
    let conv = |name: &str| format!("{{ op = \"conv\", name = \"{name}\", filters = 8, kernel = 3, padding = 1 }}, ");
    let layers = ["conv1", "conv2", "conv3"].map(conv).concat();
    let text = format!(
        "name = \"counted\"\ninput = [1, 6, 5]\nclasses = 10\nlayers = [{layers}{{ op = \"linear\", name = \"linear\", filters = 10 }}]"
    );
    let graph = Graph::new(toml::from_str(&text).unwrap()).unwrap();
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "counted.safetensors");
    let save = |first: usize| {
        let mut writer = Writer { random: Random(7), theirs: StateDict::default(), ours: Weights::default() };
        for (number, conv) in graph.convs().enumerate() {
            match conv.logits {
                false => writer.conv(
                    &conv.name,
                    &format!("conv{}", first + number),
                    &format!("bn{}", first + number),
                    &conv.shape,
                    false,
                ),
                true => writer.linear(&conv.name, &conv.name, &conv.shape),
            }
        }
        writer.theirs.save(&path);
        writer.ours
    };
    save(0);
    let error = refused(&path, &graph);
    assert!(
        error.contains("it has no `conv3`, though it has `conv2` of the same shape; say which is which in [names]"),
        "{error}"
    );
    // No name in common: the numbers tell.
    let ours = save(4);
    assert_same(&import(&path, &graph).unwrap(), &ours);
}

#[test]
fn names_that_tell_no_order_need_a_map() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "named.safetensors");
    let graph = Graph::new(
        toml::from_str(&toml::to_string(plain().spec()).unwrap().replace("input = [1,", "input = [8,")).unwrap(),
    )
    .unwrap();
    let mut writer = Writer { random: Random(7), theirs: StateDict::default(), ours: Weights::default() };
    for conv in graph.convs() {
        match conv.name.as_str() {
            "a" => writer.conv("a", "stem", "of_stem", &conv.shape, false),
            "b" => writer.conv("b", "body", "of_body", &conv.shape, false),
            name => writer.linear(name, name, &conv.shape),
        }
    }
    writer.theirs.save(&path);
    let error = refused(&path, &graph);
    assert!(
        error.contains("which of `body` and `stem` comes first can't be told; say which is which in [names]"),
        "{error}"
    );
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let mut names: BTreeMap<String, String> = map(&[("a", "stem")]);
    let import = |names: &BTreeMap<String, String>| {
        import_with(&path, &graph, &ImportOptions { names: Some(names), ..Default::default() })
    };
    let error = import(&names).unwrap_err().to_string();
    assert!(
        error.contains("the batch norm of `a` may be any of of_body, of_stem") && error.contains("`a.norm`"),
        "{error}"
    );
    names.extend(map(&[("a.norm", "of_stem")]));
    assert_same(&import(&names).unwrap().weights, &writer.ours);
    names.extend(map(&[("b", "nowhere")]));
    let error = import(&names).unwrap_err().to_string();
    assert!(error.contains("it has no `nowhere`, which [names] gives for `b`"), "{error}");
    // A slip that would give one module to two layers.
    for slip in [("b", "stem"), ("b.norm", "of_stem")] {
        let mut names: BTreeMap<String, String> = map(&[("a", "stem"), ("a.norm", "of_stem"), ("b", "body")]);
        names.extend(map(&[slip]));
        let error = import(&names).unwrap_err().to_string();
        let (layer, module) = slip;
        let says = format!("`{module}`, which [names] gives for `{layer}`, is what another layer is read from");
        assert!(error.contains(&says), "{error}");
    }
}

#[test]
fn prefixes_that_all_names_share_are_dropped_and_said() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "prefixed.safetensors");
    for names in [USUAL, [["0", "1"], ["3", "4"]]] {
        let (theirs, ours) = named(names, ["hidden", "last"]);
        for prefix in ["", "backbone.", "_orig_mod.module.", "module._orig_mod.", "state_dict.model.net.", "x.y.z."] {
            theirs.clone().prefixed(prefix).save(&path);
            let imported = import_with(&path, &plain(), &ImportOptions::default()).unwrap();
            assert_same(&imported.weights, &ours);
            let said =
                imported.remarks.iter().any(|remark| *remark == format!("its names are read without `{prefix}`"));
            assert_eq!(said, !prefix.is_empty(), "{prefix}");
        }
    }
}

#[test]
fn what_lies_beside_the_weights_is_left_aside_and_named() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "beside.safetensors");
    let (theirs, ours) = named(USUAL, ["hidden", "last"]);
    let mut beside = theirs.prefixed("state_dict.module.");
    let scalar = Array { shape: vec![], values: vec![92.3] };
    beside.0.push(("best_acc1".into(), scalar.clone()));
    beside.0.push(("scheduler.base_lrs".into(), Array::vector(vec![0.1])));
    let momentum = beside.get("state_dict.module.a.weight").clone();
    for index in 0..3 {
        beside.0.push((format!("optimizer.state.{index}.momentum_buffer"), momentum.clone()));
    }
    beside.save(&path);
    let imported = import_with(&path, &plain(), &ImportOptions::default()).unwrap();
    assert_same(&imported.weights, &ours);
    let expected = "left aside: `best_acc1`, `num_batches_tracked` (2), `optimizer` (3), `scheduler`";
    assert!(imported.remarks.contains(&expected.into()), "{:?}", imported.remarks);
}

#[test]
fn of_two_sets_of_weights_none_is_chosen_silently() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "sets.safetensors");
    let (theirs, ours) = named(USUAL, ["hidden", "last"]);
    let (mut other, _) = named(USUAL, ["hidden", "last"]);
    other.0.iter_mut().for_each(|(_, array)| array.values.fill(0.0));
    for [first, second] in [["model", "ema"], ["net", "state_dict"], ["state_dict.student", "state_dict.teacher"]] {
        let mut both = theirs.clone().prefixed(&format!("{first}."));
        both.0.extend(other.clone().prefixed(&format!("{second}.")).0);
        both.save(&path);
        let error = refused(&path, &plain());
        let (a, b) = if first < second { (first, second) } else { (second, first) };
        assert!(error.contains(&format!("it holds 2 sets of weights, `{a}` and `{b}`: name one")), "{error}");
        let keyed = |key: &str| PathBuf::from(format!("{}#{key}", path.display()));
        assert_same(&import(&keyed(first), &plain()).unwrap(), &ours);
        let zero = import(&keyed(second), &plain()).unwrap();
        assert!(zero.iter().all(|(_, array)| array.values.iter().all(|value| *value == 0.0)));
        let error = import(&keyed("mode"), &plain()).unwrap_err().to_string();
        assert!(error.contains("it holds no `mode`; its names begin with"), "{error}");
    }
    // A set of another network is no choice.
    let mut both = theirs.prefixed("student.");
    both.0.extend(resnet18(Style::Torchvision).0.prefixed("teacher.").0);
    both.save(&path);
    let imported = import_with(&path, &plain(), &ImportOptions::default()).unwrap();
    assert_same(&imported.weights, &ours);
    assert!(imported.remarks.iter().any(|remark| remark.contains("`teacher` (")), "{:?}", imported.remarks);
}

/// A student whose teacher is one of its modules.
#[test]
fn a_set_beside_the_layers_of_another_is_one_of_two() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "nested.safetensors");
    let (theirs, ours) = named(USUAL, ["hidden", "head"]);
    let (mut teacher, _) = named(USUAL, ["hidden", "head"]);
    teacher.0.iter_mut().for_each(|(_, array)| array.values.fill(0.0));
    for prefix in ["", "model."] {
        let mut both = theirs.clone();
        both.0.extend(teacher.clone().prefixed("teacher.").0);
        both.prefixed(prefix).save(&path);
        let (key, path_text) = (format!("{prefix}teacher"), path.display().to_string());
        let error = refused(&path, &plain());
        let said = format!("it holds a set of weights and, beside its layers, `{key}`, which fits, too: name one");
        assert!(error.contains(&said), "{error}");
        let ways = [format!("--pretrained {path_text}#{key},"), format!("ignore = [\"{key}\"]")];
        assert!(ways.iter().all(|way| error.contains(way)), "{error}");
        let zero = import(&PathBuf::from(format!("{path_text}#{key}")), &plain()).unwrap();
        assert!(zero.iter().all(|(_, array)| array.values.iter().all(|value| *value == 0.0)));
        let ignore = [key];
        let options = ImportOptions { ignore: &ignore, ..Default::default() };
        assert_same(&import_with(&path, &plain(), &options).unwrap().weights, &ours);
    }
    // An array of an optimizer's is no set.
    let mut one = teacher.prefixed("teacher.");
    one.0.push(("optimizer.weight".into(), Array { shape: vec![12, 240], values: vec![0.5; 2880] }));
    one.save(&path);
    import(&path, &plain()).unwrap();
}

/// A layer's name is no set of weights.
#[test]
fn a_key_that_names_a_layer_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "layers.safetensors");
    named(USUAL, ["hidden", "last"]).0.save(&path);
    let error = import(&PathBuf::from(format!("{}#last", path.display())), &plain()).unwrap_err().to_string();
    assert!(error.contains("layers.safetensors") && error.contains("it has no"), "{error}");
}

#[test]
fn other_float_formats_are_converted() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "formats.safetensors");
    let (theirs, ours) = named(USUAL, ["hidden", "last"]);
    type Encode = fn(f32) -> Vec<u8>;
    let formats: [(Dtype, f32, Encode); 3] = [
        (Dtype::F16, 1e-3, |value| half::f16::from_f32(value).to_le_bytes().to_vec()),
        (Dtype::BF16, 1e-2, |value| half::bf16::from_f32(value).to_le_bytes().to_vec()),
        (Dtype::F64, 0.0, |value| f64::from(value).to_le_bytes().to_vec()),
    ];
    for (dtype, error, encode) in formats {
        let bytes: Vec<Vec<u8>> =
            theirs.0.iter().map(|(_, array)| array.values.iter().flat_map(|value| encode(*value)).collect()).collect();
        let views =
            theirs.0.iter().zip(&bytes).map(|((name, array), bytes)| {
                (name.as_str(), TensorView::new(dtype, array.shape.clone(), bytes).unwrap())
            });
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let found = import(&path, &plain()).unwrap();
        for ((name, found), (_, expected)) in found.iter().zip(ours.iter()) {
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= error * b.abs();
            assert!(found.values.iter().zip(&expected.values).all(close), "{dtype:?} {name}");
        }
    }
    // Integers are no weights.
    let views = theirs.0.iter().map(|(name, array)| (name.as_str(), vec![0; array.values.len()], array.shape.clone()));
    let views: Vec<_> = views.collect();
    let views =
        views.iter().map(|(name, bytes, shape)| (*name, TensorView::new(Dtype::I8, shape.clone(), bytes).unwrap()));
    fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let error = refused(&path, &plain());
    assert!(error.contains("it holds no weights"), "{error}");
}

#[test]
fn pruned_weights_are_multiplied_by_their_masks() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "masked.safetensors");
    let (mut theirs, mut ours) = named(USUAL, ["hidden", "last"]);
    for layer in ["a", "hidden"] {
        let weight = theirs.get(&format!("{layer}.weight")).clone();
        theirs.remove(&format!("{layer}.weight"));
        let mask: Vec<f32> = (0..weight.values.len()).map(|index| (index % 3 % 2) as f32).collect();
        let name = format!("{layer}.weight");
        let shape = ours.get(&name).unwrap().shape.clone();
        let values = weight.values.iter().zip(&mask).map(|(weight, mask)| weight * mask).collect();
        ours.insert(name, Array { shape, values });
        theirs.0.push((format!("{layer}.weight_mask"), Array { values: mask, ..weight.clone() }));
        theirs.0.push((format!("{layer}.weight_orig"), weight));
    }
    let bias = theirs.get("hidden.bias").clone();
    theirs.remove("hidden.bias");
    let mask: Vec<f32> = (0..bias.values.len()).map(|index| (index % 2) as f32).collect();
    let values = bias.values.iter().zip(&mask).map(|(bias, mask)| bias * mask).collect();
    ours.insert("hidden.bias".into(), Array::vector(values));
    theirs.0.push(("hidden.bias_mask".into(), Array::vector(mask)));
    theirs.0.push(("hidden.bias_orig".into(), bias));
    theirs.save(&path);
    assert_same(&import(&path, &plain()).unwrap(), &ours);
}

/// Of a layer that is read each array is: a bias of whole numbers isn't left aside for a bias of zeros.
#[test]
fn arrays_of_a_layer_that_are_no_floats_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "integers.safetensors");
    for name in ["hidden.bias", "a_bn.running_mean", "b.bias", "hidden.bias_mask"] {
        let (mut theirs, _) = named(USUAL, ["hidden", "last"]);
        theirs.0.retain(|(other, _)| other != name);
        theirs.save_with(&path, &[(name, Dtype::I32, vec![8], vec![0; 32])]);
        let error = refused(&path, &plain());
        assert!(error.contains(&format!("`{name}` isn't floats; export its float weights")), "{error}");
        // Who says so leaves it aside.
        let ignore = [name.to_string()];
        let options = ImportOptions { ignore: &ignore, ..Default::default() };
        assert_eq!(import_with(&path, &plain(), &options).is_ok(), name != "a_bn.running_mean", "{name}");
    }
}

/// A network whose batch norms come first is another one.
#[test]
fn a_batch_norm_before_its_convolution_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "before.safetensors");
    for (convs, norm, conv) in
        [([["1", "2"], ["3", "0"]], "0", "3"), ([["net.1", "net.0"], ["net.3", "net.2"]], "net.0", "net.3")]
    {
        let (theirs, _) = named(convs, ["8", "9"]);
        theirs.save(&path);
        let error = refused(&path, &plain());
        assert!(error.contains(&format!("`{norm}` doesn't follow `{conv}`")) && error.contains("[names]"), "{error}");
    }
}

#[test]
fn normed_weights_get_their_lengths() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "normed.safetensors");
    for names in [["weight_v", "weight_g"], ["parametrizations.weight.original1", "parametrizations.weight.original0"]]
    {
        let (mut theirs, ours) = named(USUAL, ["hidden", "last"]);
        for layer in ["a", "hidden", "last"] {
            let Array { shape, values } = theirs.get(&format!("{layer}.weight")).clone();
            theirs.remove(&format!("{layer}.weight"));
            let filters = values.chunks(values.len() / shape[0]);
            let lengths =
                filters.map(|filter| filter.iter().map(|weight| weight * weight).sum::<f32>().sqrt()).collect();
            let ones = shape.iter().enumerate().map(|(index, size)| if index == 0 { *size } else { 1 }).collect();
            let directions = values.iter().map(|weight| 4.0 * weight).collect();
            for (name, array) in
                names.into_iter().zip([Array { shape, values: directions }, Array { shape: ones, values: lengths }])
            {
                theirs.0.push((format!("{layer}.{name}"), array));
            }
        }
        theirs.save(&path);
        assert_same(&import(&path, &plain()).unwrap(), &ours);
        let directions = format!("hidden.{}", names[0]);
        let whole = theirs.get(&directions).clone();
        let mut without = whole.clone();
        without.values[..whole.values.len() / whole.shape[0]].fill(0.0);
        theirs.remove(&directions);
        theirs.0.push((directions.clone(), without));
        theirs.save(&path);
        let message = refused(&path, &plain());
        assert!(message.contains(&format!("`{directions}`: filter 0 has the length 0")), "{message}");
        theirs.remove(&directions);
        theirs.0.push((directions, whole));
        // Lengths over another dimension are told by their own shape.
        let lengths = format!("hidden.{}", names[1]);
        let shape = theirs.get(&lengths).shape.clone();
        let across =
            Array { shape: [vec![1, shape[0]], vec![1; shape.len() - 2]].concat(), ..theirs.get(&lengths).clone() };
        theirs.remove(&lengths);
        theirs.0.push((lengths.clone(), across));
        theirs.save(&path);
        let message = refused(&path, &plain());
        assert!(message.contains(&format!("`{lengths}` has shape [1, ")), "{message}");
        assert!(message.contains("save its weights as one array"), "{message}");
    }
}

/// The newer weight norm has no array whose last name begins with `weight`.
#[test]
fn weights_may_all_be_normed() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "normed.safetensors");
    let (mut theirs, ours) = named(USUAL, ["hidden", "last"]);
    for layer in ["a", "b", "hidden", "last"] {
        let Array { shape, values } = theirs.get(&format!("{layer}.weight")).clone();
        theirs.remove(&format!("{layer}.weight"));
        let filters = values.chunks(values.len() / shape[0]);
        let lengths = filters.map(|filter| filter.iter().map(|weight| weight * weight).sum::<f32>().sqrt()).collect();
        let ones = [vec![shape[0]], vec![1; shape.len() - 1]].concat();
        for (index, array) in [Array { shape: ones, values: lengths }, Array { shape, values }].into_iter().enumerate()
        {
            theirs.0.push((format!("{layer}.parametrizations.weight.original{index}"), array));
        }
    }
    theirs.save(&path);
    let is_near = |found: &Weights| {
        assert_eq!(names(found), names(&ours));
        let pairs = found.iter().zip(ours.iter()).flat_map(|((_, a), (_, b))| a.values.iter().zip(&b.values));
        pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs())
    };
    assert!(is_near(&import(&path, &plain()).unwrap()));
    let mut both = theirs.clone().prefixed("model.");
    both.0.extend(theirs.prefixed("ema.").0);
    both.save(&path);
    let error = refused(&path, &plain());
    assert!(error.contains("it holds 2 sets of weights, `ema` and `model`: name one"), "{error}");
    assert!(is_near(&import(&PathBuf::from(format!("{}#ema", path.display())), &plain()).unwrap()));
}

#[test]
fn batch_norms_may_lack_factors_or_statistics() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "norms.safetensors");
    let (theirs, ours) = named(USUAL, ["hidden", "last"]);
    let constant = |value: f32| Array::vector(vec![value; 8]);
    for (gone, roles, without_statistics, said) in [
        (
            ["weight", "bias"],
            [("gamma", 1.0), ("beta", 0.0)],
            vec![],
            "`a`: batch norm without factors: gamma 1, beta 0",
        ),
        (
            ["running_mean", "running_var"],
            [("mean", 0.0), ("var", 1.0)],
            vec![ConvId::Own(0)],
            "`a`: batch norm without running statistics: they are taken from training images; group, layer and instance norms",
        ),
    ] {
        let (mut theirs, mut ours) = (theirs.clone(), ours.clone());
        gone.iter().for_each(|part| theirs.remove(&format!("a_bn.{part}")));
        for (role, value) in roles {
            ours.insert(format!("a.{role}"), constant(value));
        }
        theirs.save(&path);
        let imported = import_with(&path, &plain(), &ImportOptions::default()).unwrap();
        assert_same(&imported.weights, &ours);
        assert_eq!(imported.without_statistics, without_statistics);
        assert!(imported.remarks.iter().any(|remark| remark.starts_with(said)), "{:?}", imported.remarks);
    }
}

/// Every convolution of the network has a weight and a bias of its own name, which is nobody's mark of our own files.
#[test]
fn a_bias_before_a_batch_norm_moves_into_its_mean() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "biased.safetensors");
    let mut writer = Writer { random: Random(7), theirs: StateDict::default(), ours: Weights::default() };
    for conv in plain().convs() {
        match conv.batch_norm {
            true => writer.conv(&conv.name, &conv.name, &format!("{}_bn", conv.name), &conv.shape, true),
            false => writer.linear(&conv.name, &conv.name, &conv.shape),
        }
    }
    writer.theirs.save(&path);
    assert_same(&import(&path, &plain()).unwrap(), &writer.ours);
}

#[test]
fn a_head_of_other_classes_is_trained_anew() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "head.safetensors");
    let (mut theirs, ours) = named(USUAL, ["hidden", "head"]);
    *theirs.get("head.weight") = Array { shape: vec![100, 12], values: vec![0.5; 1200] };
    *theirs.get("head.bias") = Array::vector(vec![0.5; 100]);
    theirs.clone().prefixed("model.").save(&path);
    let error = refused(&path, &plain());
    let expected = "`model.head.weight` gives 100 values from 12, the network's `last` 10 from 12; --fresh last trains that layer anew";
    assert!(error.contains(expected), "{error}");
    for name in ["last", "head", "model.head"] {
        let fresh = [name.to_string()];
        let options = ImportOptions { fresh: &fresh, seed: 3, ..Default::default() };
        let imported = import_with(&path, &plain(), &options).unwrap();
        let again = import_with(&path, &plain(), &options).unwrap().weights;
        // A checkpoint may have begun with these.
        let random = Weights::random(&plain(), 3);
        for (name, array) in imported.weights.iter() {
            let expected = if name.starts_with("last.") { &again } else { &ours };
            assert!(array == expected.get(name).unwrap(), "{name}");
            assert!(name != "last.weight" || array != random.get(name).unwrap(), "{name}");
        }
        assert!(
            imported.remarks.iter().any(|remark| remark.starts_with("`last` is trained anew")),
            "{:?}",
            imported.remarks
        );
    }
    // What isn't of the layer that is trained anew has no place.
    let fresh = ["last".to_string()];
    for (extra, aside) in [("prelu.weight", "prelu"), ("a.bias_extra", "a.bias_extra"), ("b.fake_quant.scale", "")] {
        let mut theirs = theirs.clone();
        theirs.0.push((extra.into(), Array::vector(vec![0.25; 8])));
        theirs.save(&path);
        let options = ImportOptions { fresh: &fresh, ..Default::default() };
        let error = import_with(&path, &plain(), &options).unwrap_err().to_string();
        assert!(error.contains(&format!("it also holds `{extra}`")), "{error}");
        let way_out = match aside {
            "" => "export its float weights".into(),
            aside => format!("ignore = [\"{aside}\"]"),
        };
        assert!(error.contains(&way_out), "{error}");
    }
    let fresh = ["nowhere".to_string()];
    let error = import_with(&path, &plain(), &ImportOptions { fresh: &fresh, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("neither it nor the network has a layer `nowhere`"), "{error}");
}

/// ResNets as Hugging Face's transformers call their layers; of bottlenecks, projections have the shapes of other convolutions.
#[test]
fn resnets_of_transformers_come_in_as_they_are() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "transformers.safetensors");
    for network in ["resnet18_imagenet", "resnet50_imagenet"] {
        let graph = graph(network);
        let mut writer = Writer { random: Random(5), theirs: StateDict::default(), ours: Weights::default() };
        for Conv { name, shape, logits, .. } in graph.convs() {
            if logits {
                writer.linear(&name, "classifier.1", &shape);
                continue;
            }
            // `layer2.0.conv1`, and `layer2.0.conv3.projection`.
            let parts: Vec<&str> = name.split('.').collect();
            let number = |text: &str, prefix: &str| text.strip_prefix(prefix).unwrap().parse::<usize>().unwrap() - 1;
            let module = match parts[..] {
                [_] => "resnet.embedder.embedder".to_string(),
                [stage, block, _, "projection"] => {
                    format!("resnet.encoder.stages.{}.layers.{block}.shortcut", number(stage, "layer"))
                }
                [stage, block, conv] => {
                    let (stage, conv) = (number(stage, "layer"), number(conv, "conv"));
                    format!("resnet.encoder.stages.{stage}.layers.{block}.layer.{conv}")
                }
                _ => panic!("{name}"),
            };
            let [conv, norm] = ["convolution", "normalization"].map(|part| format!("{module}.{part}"));
            writer.conv(&name, &conv, &norm, &shape, false);
        }
        writer.theirs.save(&path);
        assert_same(&import(&path, &graph).unwrap(), &writer.ours);
    }
}

/// ResNet50 as torchvision names it, with the names of its projections behind their block's, and batch norms behind them.
fn resnet50(projection: &str) -> (StateDict, Weights) {
    let mut writer = Writer { random: Random(5), theirs: StateDict::default(), ours: Weights::default() };
    for Conv { name, shape, logits, .. } in graph("resnet50_imagenet").convs() {
        if logits {
            writer.linear(&name, "fc", &shape);
        } else if let Some(conv) = name.strip_suffix(".projection") {
            let (block, _) = conv.rsplit_once('.').unwrap();
            let [conv, norm] = [0, 1].map(|index| format!("{block}.{projection}.{index}"));
            writer.conv(&name, &conv, &norm, &shape, false);
        } else {
            writer.conv(&name, &name, &name.replace("conv", "bn"), &shape, false);
        }
    }
    (writer.theirs, writer.ours)
}

/// A projection may have the shape of its block's own convolution, which has the network's name.
#[test]
fn a_word_in_a_name_tells_a_projection() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "resnet50.safetensors");
    for projection in ["downsample", "identity_downsample", "shortcut_conv"] {
        let (theirs, ours) = resnet50(projection);
        theirs.save(&path);
        assert_same(&import(&path, &graph("resnet50_imagenet")).unwrap(), &ours);
    }
    resnet50("skip").0.save(&path);
    let error = refused(&path, &graph("resnet50_imagenet"));
    assert!(error.contains("it has no `layer1.0.conv3.projection`, though it has `layer1.0.conv3`"), "{error}");
    assert!(error.contains("[names]"), "{error}");
}

/// Keras counts a block's projection as its convolution 0, others as the last one.
#[test]
fn numbers_do_not_tell_a_projection() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "keras.safetensors");
    let graph = graph("resnet50_imagenet");
    let mut writer = Writer { random: Random(5), theirs: StateDict::default(), ours: Weights::default() };
    for Conv { name, shape, logits, .. } in graph.convs() {
        if logits {
            writer.linear(&name, "predictions", &shape);
            continue;
        }
        let number = |text: &str, prefix: &str| text.strip_prefix(prefix).unwrap().parse::<usize>().unwrap();
        let module = match name.split('.').collect::<Vec<_>>()[..] {
            [_] => "conv1".to_string(),
            [stage, block, conv, ref rest @ ..] => {
                let (stage, block) = (number(stage, "layer") + 1, number(block, "") + 1);
                let conv = if rest.is_empty() { number(conv, "conv") } else { 0 };
                format!("conv{stage}_block{block}_{conv}")
            }
            _ => panic!("{name}"),
        };
        writer.conv(&name, &format!("{module}_conv"), &format!("{module}_bn"), &shape, true);
    }
    writer.theirs.save(&path);
    let error = refused(&path, &graph);
    let said =
        "`layer1.0.conv3.projection` may be any of conv2_block1_0_conv, conv2_block1_3_conv, conv2_block2_3_conv";
    assert!(error.contains(said) && error.contains("say which is which in [names]"), "{error}");
    let names = [("layer1.0.conv3.projection".to_string(), "conv2_block1_0_conv".to_string())].into();
    let options = ImportOptions { names: Some(&names), ..Default::default() };
    assert_same(&import_with(&path, &graph, &options).unwrap().weights, &writer.ours);
}

/// Heads for other losses are left aside where the recipe says so, and are told.
#[test]
fn what_a_network_has_no_place_for_can_be_ignored() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "heads.safetensors");
    for prefix in ["", "module."] {
        let (mut theirs, ours) = named(USUAL, ["hidden", "last"]);
        for (name, shape) in
            [("aux.conv.weight", vec![4, 8, 1, 1]), ("aux.fc.weight", vec![10, 12]), ("scale", vec![7])]
        {
            let values = vec![0.5; shape.iter().product()];
            theirs.0.push((name.into(), Array { shape, values }));
        }
        theirs.prefixed(prefix).save(&path);
        let with =
            |ignore: &[String]| import_with(&path, &plain(), &ImportOptions { ignore, ..ImportOptions::default() });
        let ignored = ["aux", "scale"].map(String::from);
        let imported = with(&ignored).unwrap();
        assert_same(&imported.weights, &ours);
        let told = imported.remarks.iter().any(|remark| remark.contains("`aux` (2)") && remark.contains("`scale`"));
        assert!(told, "{:?}", imported.remarks);
        let error = with(&ignored[1..]).unwrap_err().to_string();
        assert!(error.contains("aux."), "{error}");
        let error = with(&ignored[..1]).unwrap_err().to_string();
        let expected = format!("it also holds `{prefix}scale`, which the network has no place for");
        assert!(
            error.contains(&expected) && error.contains("ignore = [\"") && error.contains("leaves it aside"),
            "{error}"
        );
        // A part of a name is none.
        let error = with(&["aux", "scale", "las"].map(String::from)).unwrap_err().to_string();
        assert!(error.contains("it has no `las`, which `ignore` names"), "{error}");
    }
}

#[test]
fn values_that_no_network_has_are_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "values.safetensors");
    for (name, value) in [("a_bn.bias", f32::NAN), ("b.weight", f32::INFINITY), ("b_bn.running_var", f32::NAN)] {
        let (mut theirs, _) = named(USUAL, ["hidden", "last"]);
        theirs.get(name).values[3] = value;
        theirs.save(&path);
        let error = refused(&path, &plain());
        assert!(error.ends_with(&format!("`{name}` holds {value}")), "{error}");
    }
}

fn tensors(theirs: &StateDict) -> Vec<(String, torch::Tensor)> {
    let tensor = |array: &Array| {
        let mut strides = vec![1; array.shape.len()];
        for index in (1..strides.len()).rev() {
            strides[index - 1] = strides[index] * array.shape[index];
        }
        torch::Tensor { shape: array.shape.clone(), strides, values: array.values.clone() }
    };
    theirs.0.iter().map(|(name, array)| (name.clone(), tensor(array))).collect()
}

/// The directory's first entry is as long as PyTorch's needless records where the stem has 21 characters.
#[test]
fn a_stem_may_have_any_length() {
    let dir = TempDir::new().unwrap();
    let (theirs, ours) = named(USUAL, ["hidden", "last"]);
    let tensors = tensors(&theirs);
    for length in 1..=64 {
        let stem = "x".repeat(length);
        let path = file(&dir, &format!("{stem}.pt"));
        fs::write(&path, torch::save(&stem, &tensors)).unwrap();
        let found = import(&path, &plain()).unwrap_or_else(|error| panic!("{length}: {error}"));
        assert_same(&found, &ours);
    }
}

/// A view whose strides are 0 asks for gigabytes out of a file of kilobytes.
#[test]
fn shapes_are_compared_before_values_are_read() {
    let dir = TempDir::new().unwrap();
    let path = file(&dir, "bomb.pt");
    let (theirs, _) = named(USUAL, ["hidden", "last"]);
    let mut tensors = tensors(&theirs);
    for (_, tensor) in &mut tensors {
        if tensor.shape.len() == 4 {
            *tensor = torch::Tensor { shape: vec![1 << 14, 1 << 12, 3, 3], strides: vec![0; 4], values: vec![1.0] };
        }
    }
    fs::write(&path, torch::save("bomb", &tensors)).unwrap();
    let error = refused(&path, &plain());
    assert!(error.contains("has shape [16384, 4096, 3, 3]") || error.contains("materialize"), "{error}");
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
        fs::write(file(&dir, name), &bytes[1..]).unwrap();
        assert!(refused(&file(&dir, name), &graph).contains("not a readable checkpoint"));
    }
    refused(&file(&dir, "nowhere.pt"), &graph);
    refused(&file(&dir, "nowhere.safetensors"), &graph);
    refused(dir.path(), &graph);
}

/// Files that people take for a checkpoint, an ONNX file or a package are told by what they are.
#[test]
fn files_of_another_kind_are_named() {
    let (graph, _) = small();
    let dir = TempDir::new().unwrap();
    let archive = |name: &str| {
        let mut bytes = b"PK\x03\x04".to_vec();
        bytes.extend(name.bytes());
        bytes.extend([0; 40]);
        bytes
    };
    for (bytes, told) in [
        (Vec::new(), "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n".to_vec(), "`git lfs pull`"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'".to_vec(), "an array of numpy"),
        (b"\x89HDF\r\n\x1a\n\x00\x00".to_vec(), "export the network as ONNX, channels first"),
        (b"\x1f\x8b\x08\x00".to_vec(), "unpack it"),
        (b"<!DOCTYPE html>\n<html>".to_vec(), "a web page"),
        (archive("ts/constants.pkl"), "state_dict()"),
        (archive("weight.npy"), "an archive of numpy"),
        (archive("model.weights.h5"), "export the network as ONNX, channels first"),
    ] {
        let is_archive = bytes.starts_with(b"PK");
        for name in ["net.pt", "net.safetensors", "net.onnx", "net.mars"] {
            fs::write(file(&dir, name), &bytes).unwrap();
        }
        for name in ["net.pt", "net.safetensors", "net.onnx"].into_iter().take(if is_archive { 2 } else { 3 }) {
            let message = refused(&file(&dir, name), &graph);
            assert!(message.contains(told), "{name}: {message}");
        }
        let message = mars::package::Package::read(&file(&dir, "net.mars")).unwrap_err().to_string();
        assert_eq!(message.contains(told), !is_archive, "{message}");
    }
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
