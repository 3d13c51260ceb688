//! ONNX files: what PyTorch's exporters write is the network that they were given, and what cannot be said is refused by node.

#![cfg(feature = "train")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::onnx::{Is, OnnxFile};
use common::{command, success, write_cifar10};
use mars::data::{Dataset, ImageShape, Split};
use mars::hardware::Hardware;
use mars::network::{
    Activation, Border, Graph, ImportOptions, LayerSpec, NetworkSpec, OnnxNetwork, Params, Sides, import,
};
use mars::train::{Recipe, StartFrom, Training};
use tempfile::TempDir;

const TRAIN: &str = env!("CARGO_BIN_EXE_mars-train");
const DEPLOY: &str = env!("CARGO_BIN_EXE_mars-deploy");
const FIXTURES: &str = "tests/fixtures/onnx";
const SHAPE: ImageShape = ImageShape { channels: 3, height: 32, width: 32 };
const IMAGES: usize = 4;

/// The images of `benches/peers/onnx_fixtures.py`.
fn images() -> Dataset {
    let bytes = (0..IMAGES * SHAPE.len()).map(|index| ((index * index / 3 + 31 * index) / 5) as u8);
    let split = Split { shape: SHAPE, images: bytes.collect(), labels: vec![0, 1, 2, 3] };
    let classes = (0..10).map(|class| class.to_string()).collect();
    let validation = Split { shape: SHAPE, ..Split::default() };
    Dataset { name: "made up".into(), classes, train: split.clone(), validation, test: split }
}

fn logits(network: &OnnxNetwork) -> Vec<Vec<f32>> {
    let recipe = Recipe { batch_size: IMAGES, pretrained: StartFrom::Random, ..Recipe::default() };
    let recipe = Recipe { phases: Recipe::default_phases(true), ..recipe };
    let training = Training::new(recipe, network.spec.clone(), images(), Hardware::mars()).unwrap();
    training.starting_from(&network.weights).unwrap().float_test_logits().unwrap()
}

/// What a network ends with, of logits.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit.exp() / sum).collect()
}

#[test]
fn exported_networks_compute_what_onnx_runtime_computes() {
    let expected = fs::read_to_string(Path::new(FIXTURES).join("outputs.json")).unwrap();
    let expected: BTreeMap<String, Vec<Vec<f32>>> = serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 22);
    for (file, expected) in expected {
        let network = OnnxNetwork::load(&Path::new(FIXTURES).join(&file)).unwrap();
        let found = logits(&network).into_iter().map(|logits| match file.split('/').next() {
            Some("lenet") => softmax(&logits).into_iter().map(f32::ln).collect(),
            Some("sequential") => softmax(&logits),
            _ => logits,
        });
        let found: Vec<Vec<f32>> = found.collect();
        let all = || expected.iter().flatten().copied();
        let range = all().fold(f32::MIN, f32::max) - all().fold(f32::MAX, f32::min);
        for (expected, found) in expected.iter().zip(&found) {
            let apart = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-4 * range, "{file}: {apart} of {range}");
            let best = |logits: &[f32]| (0..10).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            assert_eq!(best(expected), best(found), "{file}");
        }
    }
}

fn load(file: &str) -> OnnxNetwork {
    OnnxNetwork::load(&Path::new(FIXTURES).join(file)).unwrap()
}

#[test]
fn layers_have_the_names_of_their_modules() {
    let names =
        |file: &str| -> Vec<String> { load(file).spec.layers.iter().map(|layer| layer.name().into()).collect() };
    let expected = ["conv1", "blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2"];
    for file in
        ["resnet-padded/TorchScript-open-batch.onnx", "resnet-padded/dynamo.onnx", "resnet-projected/TorchScript.onnx"]
    {
        let names = names(file);
        assert_eq!(
            (&names[..5], names.last().unwrap().as_str()),
            (&expected.map(String::from)[..], "linear"),
            "{file}"
        );
    }
    assert_eq!(names("lenet/TorchScript.onnx"), ["conv1", "MaxPool", "conv2", "MaxPool_1", "fc1", "fc2"]);
}

#[test]
fn batch_norms_that_are_left_alone_stay_batch_norms() {
    let norms = |file: &str| {
        let NetworkSpec { layers, batch_norm_epsilon, .. } = load(file).spec;
        let of = |layer: &LayerSpec| match layer {
            LayerSpec::Conv { batch_norm, add, batch_norm_epsilon, .. } => {
                Some((*batch_norm, add.as_ref().is_none_or(|add| add.batch_norm), *batch_norm_epsilon))
            }
            _ => None,
        };
        (layers.iter().filter_map(of).collect::<Vec<_>>(), batch_norm_epsilon)
    };
    let (apart, epsilon) = norms("resnet-projected/TorchScript-norm-apart.onnx");
    let of_its_own = (true, true, Some(1e-3));
    assert_eq!((apart[0], epsilon), (of_its_own, 1e-5), "the number that was meant");
    assert!(apart[1..].iter().all(|layer| *layer == (true, true, None)), "{apart:?}");
    let (folded, _) = norms("resnet-projected/dynamo-open-batch.onnx");
    assert!(folded.iter().all(|(norm, ..)| !norm) && !folded[4].1, "{folded:?}");
}

#[test]
fn a_border_of_its_own_and_a_maximum_before_the_relu_are_the_layers() {
    let spec = load("sequential/TorchScript-norm-apart.onnx").spec;
    assert!(matches!(spec.layers[0], LayerSpec::Conv { padding: Border([[1, 1], [1, 1]]), .. }), "{spec:?}");
    assert!(matches!(spec.layers[1], LayerSpec::AvgPool { kernel: Some(Sides([16, 16])), .. }), "{spec:?}");
    assert!(matches!(spec.layers[2], LayerSpec::Linear { batch_norm: true, .. }), "{spec:?}");
}

// Files by hand.

/// A convolution of 4 filters, its ReLU, and a linear layer of what `between` gives as `z`.
fn around(between: impl FnOnce(OnnxFile) -> OnnxFile, features: i64) -> OnnxFile {
    let file = OnnxFile::new(&[0, 3, 8, 8]).floats("w", &[4, 3, 3, 3]).floats("v", &[10, features]);
    let file =
        file.node("Conv", &["x", "w"], "c", &[("pads", Is::Numbers(&[1, 1, 1, 1]))]).node("Relu", &["c"], "r", &[]);
    let file = between(file).node("Flatten", &["z"], "f", &[]);
    file.node("Gemm", &["f", "v"], "y", &[("transB", Is::Number(1))])
}

fn read(bytes: &[u8]) -> mars::error::Result<OnnxNetwork> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("net.onnx");
    fs::write(&path, bytes).unwrap();
    let network = OnnxNetwork::load(&path)?;
    let graph = Graph::new(network.spec.clone())?;
    Params::from_arrays(&graph, &network.weights)?;
    Ok(network)
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let message = read(bytes).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` lacks `{part}`");
    }
}

#[test]
fn a_file_by_hand_is_a_network() {
    let file = around(
        |file| {
            file.node(
                "MaxPool",
                &["r"],
                "z",
                &[("kernel_shape", Is::Numbers(&[2, 2])), ("strides", Is::Numbers(&[2, 2]))],
            )
        },
        64,
    );
    let network = read(&file.bytes()).unwrap();
    assert_eq!((network.spec.name.as_str(), network.spec.input, network.spec.classes), ("net", [3, 8, 8], 10));
    assert_eq!(network.weights.get("node of y.weight").unwrap().shape, [10, 4, 4, 4]);
}

#[test]
fn a_depthwise_convolution_is_one_with_as_many_groups_as_channels() {
    let file = around(
        |file| {
            let file = file.floats("u", &[8, 1, 3, 3]);
            file.node("Conv", &["r", "u"], "d", &[("group", Is::Number(4))]).node("Relu", &["d"], "z", &[])
        },
        8 * 36,
    );
    let spec = read(&file.bytes()).unwrap().spec;
    assert!(matches!(spec.layers[1], LayerSpec::Conv { groups: 4, filters: 8, .. }), "{spec:?}");
}

/// `r`, a convolution `d` of it without an activation, and what reads them.
fn behind_linear(between: impl FnOnce(OnnxFile) -> OnnxFile) -> OnnxFile {
    around(
        |file| {
            let file = file.floats("u", &[4, 4, 1, 1]).floats("k", &[4, 4, 3, 3]).floats("m", &[4, 4, 3, 3]);
            between(file.node("Conv", &["r", "u"], "d", &[]))
        },
        256,
    )
}

fn activations(file: &OnnxFile) -> (NetworkSpec, Vec<Option<Activation>>) {
    let spec = read(&file.bytes()).unwrap().spec;
    let activations = spec.layers.iter().map(LayerSpec::activation).collect();
    (spec, activations)
}

#[test]
fn a_convolution_that_is_read_before_a_relu_has_no_activation() {
    const RELU: Option<Activation> = Some(Activation::Relu);
    const NONE: Option<Activation> = Some(Activation::None);
    let same = [("pads", Is::Numbers(&[1, 1, 1, 1]))];
    let chain = behind_linear(|file| file.node("Conv", &["d", "k"], "e", &same).node("Relu", &["e"], "z", &[]));
    assert_eq!(activations(&chain).1, [RELU, NONE, RELU, RELU]);

    // A linear bottleneck, which the next layer and the sum read.
    let bottleneck =
        behind_linear(|file| file.node("Conv", &["d", "k"], "e", &same).node("Add", &["e", "d"], "z", &[]));
    let (spec, found) = activations(&bottleneck);
    assert_eq!(found, [RELU, NONE, NONE, RELU]);
    assert!(matches!(&spec.layers[2], LayerSpec::Conv { add: Some(add), .. } if add.from == "node of d"), "{spec:?}");

    // Two convolutions of which neither is a projection: one is stored.
    let sum = behind_linear(|file| {
        let file = file.node("Conv", &["d", "k"], "e", &same).node("Conv", &["d", "m"], "h", &same);
        file.node("Add", &["e", "h"], "g", &[]).node("Relu", &["g"], "z", &[])
    });
    assert_eq!(activations(&sum).1, [RELU, NONE, NONE, RELU, RELU]);

    // The image's own projection is stored, too, since only layers' outputs are projected.
    let image = OnnxFile::new(&[0, 3, 8, 8]).floats("w", &[4, 3, 3, 3]).floats("u", &[4, 3, 1, 1]);
    let image = image.floats("v", &[10, 256]).node("Conv", &["x", "w"], "c", &same);
    let image = image.node("Conv", &["x", "u"], "d", &[]).node("Add", &["c", "d"], "a", &[]);
    let image = image.node("Relu", &["a"], "r", &[]).node("Flatten", &["r"], "f", &[]);
    assert_eq!(activations(&image.node("Gemm", &["f", "v"], "y", &[("transB", Is::Number(1))])).1, [NONE, RELU, RELU]);

    // A mean of values with a sign.
    let mean = around(
        |file| {
            let file = file.floats("u", &[4, 4, 1, 1]).node("Conv", &["r", "u"], "d", &[]);
            file.node("GlobalAveragePool", &["d"], "z", &[])
        },
        4,
    );
    assert_eq!(activations(&mean).1, [RELU, NONE, None, RELU]);
}

#[test]
fn a_border_of_zeros_may_be_the_largest_of_values_with_a_sign() {
    let file = behind_linear(|file| {
        let window = [("kernel_shape", Is::Numbers(&[3, 3])), ("strides", Is::Numbers(&[1, 1]))];
        let file = file.integers("p", &[0, 0, 1, 1, 0, 0, 1, 1]).node("Pad", &["d", "p"], "e", &[]);
        file.node("MaxPool", &["e"], "z", &window)
    });
    refused(&file.bytes(), &["node `node of z` (MaxPool)", "a border of zeros, which may win"]);
}

#[test]
fn windows_that_differ_by_side_are_read_as_they_are() {
    let file = around(
        |file| {
            let file = file.floats("u", &[4, 4, 3, 1]).integers("p", &[0, 0, 1, 0, 0, 0, 2, 3]);
            let conv = [
                ("dilations", Is::Numbers(&[2, 5])),
                ("strides", Is::Numbers(&[1, 2])),
                ("pads", Is::Numbers(&[1, 0, 0, 0])),
            ];
            let file = file.node("Pad", &["r", "p"], "q", &[]).node("Conv", &["q", "u"], "d", &conv);
            let pool = [("kernel_shape", Is::Numbers(&[2, 3])), ("pads", Is::Numbers(&[0, 1, 1, 0]))];
            file.node("Relu", &["d"], "e", &[]).node("MaxPool", &["e"], "z", &pool)
        },
        4 * 8 * 5,
    );
    let spec = read(&file.bytes()).unwrap().spec;
    // A single column has no dilation.
    let LayerSpec::Conv { kernel, stride, padding, dilation, .. } = &spec.layers[1] else { panic!("{spec:?}") };
    assert_eq!((*kernel, *stride, *dilation), (Sides([3, 1]), Sides([1, 2]), Sides([2, 1])));
    assert_eq!(*padding, Border([[2, 2], [0, 3]]));
    let LayerSpec::MaxPool { kernel, stride, padding, .. } = &spec.layers[2] else { panic!("{spec:?}") };
    assert_eq!((*kernel, *stride, *padding), (Sides([2, 3]), Sides([1, 1]), Border([[0, 1], [1, 0]])));
}

#[test]
fn means_overlap_and_count_the_zeros_of_their_border() {
    let file = around(
        |file| {
            let pool = [
                ("kernel_shape", Is::Numbers(&[3, 2])),
                ("strides", Is::Numbers(&[2, 1])),
                ("pads", Is::Numbers(&[1, 0, 1, 1])),
                ("count_include_pad", Is::Number(1)),
            ];
            let file = file.node("AveragePool", &["r"], "d", &pool);
            // A border of its own counts, whatever the node says of one that it adds.
            let file = file.integers("p", &[0, 0, 1, 1, 0, 0, 0, 0]).node("Pad", &["d", "p"], "e", &[]);
            file.node("AveragePool", &["e"], "z", &[("kernel_shape", Is::Numbers(&[2, 2]))])
        },
        4 * 4 * 8,
    );
    let spec = read(&file.bytes()).unwrap().spec;
    let LayerSpec::AvgPool { kernel, stride, padding, .. } = &spec.layers[1] else { panic!("{spec:?}") };
    assert_eq!((*kernel, *stride), (Some(Sides([3, 2])), Some(Sides([2, 1]))));
    assert_eq!(*padding, Border([[1, 1], [0, 1]]));
    let LayerSpec::AvgPool { kernel, stride, padding, .. } = &spec.layers[2] else { panic!("{spec:?}") };
    assert_eq!((*kernel, *stride), (Some(Sides([2, 2])), Some(Sides([1, 1]))));
    assert_eq!(*padding, Border([[1, 0], [1, 0]]));
}

#[test]
fn maps_are_joined_along_their_channels_whether_flat_or_not() {
    let joined = |between: fn(OnnxFile) -> OnnxFile, features| {
        let file = around(
            |file| {
                let file = file.floats("u", &[2, 4, 1, 1]).floats("t", &[3, 4, 1, 1]);
                between(file.node("Conv", &["r", "u"], "d", &[]).node("Conv", &["r", "t"], "e", &[]))
            },
            features,
        );
        let spec = read(&file.bytes()).unwrap().spec;
        let LayerSpec::Concat { inputs, .. } = &spec.layers[3] else { panic!("{spec:?}") };
        (inputs.clone(), spec.layers[1].activation(), spec.layers[2].activation())
    };
    let inputs = vec!["node of d".to_string(), "node of e".to_string()];
    let relu = Some(Activation::Relu);
    let behind_relu = |file: OnnxFile| {
        let file = file.node("Relu", &["d"], "f1", &[]).node("Relu", &["e"], "f2", &[]);
        file.node("Concat", &["f1", "f2"], "z", &[("axis", Is::Number(-3))])
    };
    assert_eq!(joined(behind_relu, 5 * 64), (inputs.clone(), relu, relu));
    let before_any = |file: OnnxFile| file.node("Concat", &["d", "e"], "z", &[("axis", Is::Number(1))]);
    assert_eq!(joined(before_any, 5 * 64), (inputs.clone(), Some(Activation::None), Some(Activation::None)));
    let flat = |file: OnnxFile| {
        let file = file.node("Relu", &["d"], "f1", &[]).node("Relu", &["e"], "f2", &[]);
        let file = file.node("Flatten", &["f1"], "g1", &[]).node("Flatten", &["f2"], "g2", &[]);
        file.node("Concat", &["g1", "g2"], "z", &[("axis", Is::Number(1))])
    };
    assert_eq!(joined(flat, 5 * 64), (inputs, relu, relu));
}

#[test]
fn a_maximum_that_rounds_up_has_room_below_and_on_the_right() {
    let padding = |strides: &'static [i64], features| {
        let pool =
            [("kernel_shape", Is::Numbers(&[3, 3])), ("strides", Is::Numbers(strides)), ("ceil_mode", Is::Number(1))];
        let file = around(|file| file.node("MaxPool", &["r"], "z", &pool), features);
        match &read(&file.bytes()).unwrap().spec.layers[1] {
            LayerSpec::MaxPool { padding, .. } => *padding,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(padding(&[2, 2], 4 * 16), Border([[0, 1], [0, 1]]));
    assert_eq!(padding(&[5, 1], 4 * 2 * 6), Border([[0, 0], [0, 0]]));
    // Windows at 0, 4 and 8 would be three, but the map ends before the last one.
    assert_eq!(padding(&[4, 4], 4 * 4), Border([[0, 0], [0, 0]]));
    // A border that a node of its own gives the map is part of it: the last window begins there, and holds no pixel of the map.
    let pool = |kind: &str, file: OnnxFile| {
        let file = file.integers("p", &[0, 0, 0, 0, 0, 0, 1, 1]).node("Pad", &["r", "p"], "q", &[]);
        let windows = [
            ("kernel_shape", Is::Numbers(&[2, 2])),
            ("strides", Is::Numbers(&[4, 4])),
            ("ceil_mode", Is::Number(1)),
            ("count_include_pad", Is::Number(1)),
        ];
        file.node(kind, &["q"], "z", &windows[..if kind == "MaxPool" { 3 } else { 4 }])
    };
    let maximum = read(&around(|file| pool("MaxPool", file), 4 * 9).bytes()).unwrap_err().to_string();
    assert!(maximum.contains("2 below, 0 left, 2 right must be smaller than the window 2"), "{maximum}");
    let mean = read(&around(|file| pool("AveragePool", file), 4 * 9).bytes()).unwrap_err().to_string();
    assert!(mean.contains("rounded up"), "{mean}");
}

#[test]
fn a_border_that_keeps_a_maps_size_is_computed() {
    let padding = |auto_pad, strides: &'static [i64], features| {
        let file = around(
            |file| {
                let file = file.floats("u", &[4, 4, 4, 3]);
                let conv = [
                    ("auto_pad", Is::Text(auto_pad)),
                    ("strides", Is::Numbers(strides)),
                    ("dilations", Is::Numbers(&[1, 2])),
                ];
                file.node("Conv", &["r", "u"], "d", &conv).node("Relu", &["d"], "z", &[])
            },
            features,
        );
        match &read(&file.bytes()).unwrap().spec.layers[1] {
            LayerSpec::Conv { padding, .. } => *padding,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(padding("SAME_UPPER", &[1, 1], 4 * 64), Border([[1, 2], [2, 2]]));
    assert_eq!(padding("SAME_LOWER", &[1, 1], 4 * 64), Border([[2, 1], [2, 2]]));
    // Three rows reach over 3 + 3 + 4 pixels, four columns over 2 + 2 + 2 + 5.
    assert_eq!(padding("SAME_UPPER", &[3, 2], 4 * 12), Border([[1, 1], [1, 2]]));
    assert_eq!(padding("VALID", &[1, 1], 4 * 20), Border([[0, 0], [0, 0]]));
}

#[test]
fn a_maximum_over_the_whole_map_is_one_window() {
    let layers = |between: fn(OnnxFile) -> OnnxFile| read(&around(between, 4).bytes()).unwrap().spec.layers;
    let window = |layers: &[LayerSpec]| match &layers[1] {
        LayerSpec::MaxPool { kernel, padding, .. } => (*kernel, *padding),
        other => panic!("{other:?}"),
    };
    let whole = layers(|file| file.node("GlobalMaxPool", &["r"], "z", &[]));
    assert_eq!(window(&whole), (Sides([8, 8]), Border::default()));
    let bordered = layers(|file| {
        let file = file.integers("p", &[0, 0, 1, 0, 0, 0, 2, 3]).node("Pad", &["r", "p"], "q", &[]);
        file.node("GlobalMaxPool", &["q"], "z", &[])
    });
    assert_eq!(window(&bordered), (Sides([11, 11]), Border([[1, 2], [0, 3]])));
    // The maximum of one value is that value.
    let again = layers(|file| file.node("GlobalMaxPool", &["r"], "q", &[]).node("GlobalMaxPool", &["q"], "z", &[]));
    assert_eq!((again.len(), window(&again)), (whole.len(), window(&whole)));
}

/// A network whose values have 16 bits between an image and logits of 32, behind which a softmax comes.
#[test]
fn casts_to_floats_change_nothing() {
    let to = |kind| [("to", Is::Number(kind))];
    for kind in [1, 10, 11, 16] {
        let file = OnnxFile::new(&[0, 3, 8, 8]).floats("w", &[4, 3, 3, 3]).floats("v", &[10, 144]);
        let file = file.node("Cast", &["x"], "h", &to(kind)).node("Conv", &["h", "w"], "c", &[]);
        let file = file.node("Cast", &["c"], "d", &to(1)).node("Relu", &["d"], "r", &[]);
        let file = file.node("CastLike", &["r", "c"], "z", &[]).node("Flatten", &["z"], "f", &[]);
        let file = file.node("Gemm", &["f", "v"], "g", &[("transB", Is::Number(1))]);
        let file = file.node("Softmax", &["g"], "s", &[]).node("Cast", &["s"], "y", &to(1));
        let spec = read(&file.bytes()).unwrap().spec;
        let activations: Vec<_> = spec.layers.iter().map(LayerSpec::activation).collect();
        assert_eq!(activations, [Some(Activation::Relu); 2], "{spec:?}");
    }
}

#[test]
fn a_sum_of_two_is_an_addition() {
    let file = around(
        |file| {
            let file = file.floats("u", &[4, 4, 1, 1]).floats("b", &[4, 1, 1]).node("Conv", &["r", "u"], "d", &[]);
            let file = file.node("Sum", &["b", "d"], "e", &[]).node("Sum", &["e", "r"], "g", &[]);
            file.node("Relu", &["g"], "z", &[])
        },
        256,
    );
    let network = read(&file.bytes()).unwrap();
    assert!(matches!(&network.spec.layers[1], LayerSpec::Conv { add: Some(_), .. }), "{:?}", network.spec);
    assert_eq!(network.weights.get("node of d.bias").unwrap().values, [-0.5, 0.2, -0.2, 0.5]);
}

#[test]
fn a_zero_that_a_writer_leaves_out_is_a_zero() {
    const INT: i64 = 2;
    const FLOAT: i64 = 1;
    let mean = [("axes", Is::Numbers(&[2, 3])), ("keepdims", Is::LeftOut(INT))];
    let clip = [("min", Is::LeftOut(FLOAT)), ("max", Is::Float(6.0))];
    let file = around(
        |file| {
            let file = file.floats("u", &[4, 4, 1, 1]).floats("t", &[4, 4]).node("Conv", &["r", "u"], "d", &[]);
            let file = file.node("Clip", &["d"], "e", &clip).node("ReduceMean", &["e"], "m", &mean);
            // A linear layer reads a list.
            file.node("MatMul", &["m", "t"], "z", &[])
        },
        4,
    );
    let spec = read(&file.bytes()).unwrap().spec;
    assert!(matches!(spec.layers[1], LayerSpec::Conv { clip: Some(6.0), .. }), "{spec:?}");
    let flat = around(|file| file.node("Flatten", &["r"], "z", &[("axis", Is::LeftOut(INT))]), 256);
    refused(&flat.bytes(), &["node `node of z` (Flatten)", "from axis 0 on"]);
}

fn clipped(low: f32, high: f32, what: &str) -> OnnxFile {
    around(
        |file| {
            let [low, high] = [low, high].map(f32::to_le_bytes);
            let file = file.tensor("low", 1, &[], 9, &low).tensor("high", 1, &[], 9, &high);
            let file = file.floats("u", &[4, 4, 1, 1]).node("Conv", &["r", "u"], "d", &[]);
            let file = if what == "e" { file.node("Relu", &["d"], "e", &[]) } else { file };
            file.node("Clip", &[what, "low", "high"], "z", &[])
        },
        256,
    )
}

#[test]
fn a_relu6_is_a_relu_that_is_clipped() {
    let spec = read(&clipped(0.0, 6.0, "d").bytes()).unwrap().spec;
    assert!(matches!(spec.layers[1], LayerSpec::Conv { clip: Some(6.0), .. }), "{spec:?}");
    refused(&clipped(-1.0, 1.0, "d").bytes(), &["node `node of z` (Clip)", "it clips at -1"]);
    refused(&clipped(0.0, 6.0, "e").bytes(), &["behind a ReLU"]);
    refused(&clipped(0.0, 1e6, "d").bytes(), &["clip = 1000000"]);
}

/// Each thing that cannot be said: its node, its kind, and what to do.
#[test]
fn what_no_layer_can_express_is_refused_by_node_kind_and_way_out() {
    let pads = |pads| ("pads", Is::Numbers(pads));
    let pool = [("kernel_shape", Is::Numbers(&[2, 2])), ("strides", Is::Numbers(&[2, 2]))];
    type Between = Box<dyn FnOnce(OnnxFile) -> OnnxFile>;
    let second = |attributes: &'static [(&'static str, Is<'static>)]| -> Between {
        Box::new(|file| {
            file.floats("u", &[4, 4, 3, 3]).node("Conv", &["r", "u"], "d", attributes).node("Relu", &["d"], "z", &[])
        })
    };
    let cases: Vec<(Between, &[&str])> = vec![
        (
            Box::new(|file| file.node("HardSwish", &["r"], "z", &[])),
            &["node `node of z` (HardSwish)", "put one in its place"],
        ),
        (
            Box::new(|file| file.node("Concat", &["r", "r"], "z", &[("axis", Is::Number(2))])),
            &["(Concat)", "along axis 2", "axis 1"],
        ),
        (
            Box::new(|file| {
                let file = file.floats("u", &[4, 4, 1, 1]).node("Conv", &["r", "u"], "d", &[]);
                file.node("Concat", &["r", "d"], "z", &[("axis", Is::Number(1))])
            }),
            &["(Concat)", "behind a ReLU and some isn't", "or behind none"],
        ),
        (
            Box::new(|file| {
                let file =
                    file.floats("u", &[4, 4, 3, 3]).node("Conv", &["r", "u"], "d", &[]).node("Relu", &["d"], "e", &[]);
                file.node("Concat", &["r", "e"], "z", &[("axis", Is::Number(1))])
            }),
            &["(Concat)", "maps 8 x 8 and 6 x 6"],
        ),
        (
            Box::new(|file| file.node("Concat", &["x", "r"], "z", &[("axis", Is::Number(1))])),
            &["(Concat)", "the image is part of it"],
        ),
        (Box::new(|file| file.node("Split", &["r"], "z", &[("axis", Is::Number(1))])), &["(Split)", "read whole"]),
        (Box::new(|file| file.node("LayerNormalization", &["r"], "z", &[])), &["batch norm alone"]),
        (Box::new(|file| file.node("If", &["r"], "z", &[])), &["without control flow"]),
        (Box::new(|file| file.node("Einsum", &["r"], "z", &[])), &["(Einsum)", "docs/onnx.md"]),
        (
            Box::new(|file| file.floats("s", &[1]).node("Mul", &["r", "s"], "z", &[])),
            &["(Mul)", "belongs into the weights"],
        ),
        (Box::new(|file| file.node("Mul", &["r", "r"], "z", &[])), &["(Mul)", "a gate"]),
        (Box::new(|file| file.floats("s", &[1]).node("Sub", &["x", "s"], "z", &[])), &["(Sub)", "normalization.mean"]),
        (
            Box::new(|file| {
                let file = file.floats("u", &[4, 4, 1, 1]).node("Div", &["u", "u"], "k", &[]);
                file.node("Conv", &["r", "k"], "z", &[])
            }),
            &["node `node of k` (Div)", "do_constant_folding"],
        ),
        (
            Box::new(|file| file.node("Transpose", &["r"], "z", &[("perm", Is::Numbers(&[0, 2, 3, 1]))])),
            &["(Transpose)", "channels, rows, columns", "--inputs-as-nchw"],
        ),
        (Box::new(|file| file.node("Cast", &["r"], "z", &[("to", Is::Number(7))])), &["(Cast)", "whole numbers"]),
        (
            Box::new(|file| file.integers("n", &[1]).node("CastLike", &["r", "n"], "z", &[])),
            &["(CastLike)", "whole numbers"],
        ),
        (Box::new(|file| file.node("Sum", &["r", "r", "r"], "z", &[])), &["(Sum)", "3 inputs instead of two"]),
        (
            Box::new(|file| file.floats("s", &[4]).node("BatchNormalization", &["r", "s", "s", "s", "s"], "z", &[])),
            &["no convolution comes right before it"],
        ),
        (second(&[("group", Is::Number(2))]), &["for 2 groups of 4 channels, its input has 4"]),
        (second(&[("group", Is::Number(-1))]), &["no number of groups"]),
        (second(&[("dilations", Is::Numbers(&[4, 4]))]), &["node `node of d` (Conv)", "larger than the map"]),
        (second(&[("pads", Is::Numbers(&[0, 0, 1]))]), &["its pads aren't those of a map with two sides"]),
        (second(&[("auto_pad", Is::Text("SAME"))]), &["its auto_pad is SAME"]),
        (
            Box::new(move |file| {
                file.node(
                    "AveragePool",
                    &["r"],
                    "z",
                    &[("kernel_shape", Is::Numbers(&[3, 3])), pool[1], ("ceil_mode", Is::Number(1))],
                )
            }),
            &["rounded up"],
        ),
        (
            Box::new(move |file| file.node("AveragePool", &["r"], "z", &[pool[0], pool[1], pads(&[1, 1, 1, 1])])),
            &["count_include_pad=False", "count_include_pad=True"],
        ),
        (Box::new(|file| file.node("ReduceMean", &["r"], "z", &[("axes", Is::Numbers(&[1, 2]))])), &["axes [1, 2]"]),
        (Box::new(|file| file.node("Add", &["r", "r"], "z", &[])), &["both values are stored"]),
        (
            Box::new(|file| {
                let file = file.node("Flatten", &["r"], "l", &[]).floats("u", &[256, 256]);
                file.node("Gemm", &["l", "u"], "g", &[]).node("Add", &["g", "l"], "z", &[])
            }),
            &["(Add)", "joins a convolution, and `node of g` is a linear layer"],
        ),
        (
            Box::new(|file| {
                file.integers("p", &[0, 0, 1, 1, 0, 0, 1, 1]).node(
                    "Pad",
                    &["r", "p"],
                    "z",
                    &[("mode", Is::Text("reflect"))],
                )
            }),
            &["made by reflect"],
        ),
        (
            Box::new(move |file| file.node("MaxPool", &["r"], "z", &[pool[0], ("dilations", Is::Numbers(&[2, 1]))])),
            &["its window is dilated", "dense"],
        ),
        (
            Box::new(|file| file.integers("p", &[0, 0, 1, 1, 0, 0, 1, 1]).node("Pad", &["r", "p"], "z", &[])),
            &["(Flatten)", "cut or padded"],
        ),
        (Box::new(|file| file.integers("s", &[0, -1, 2]).node("Reshape", &["r", "s"], "z", &[])), &["flattened whole"]),
        (Box::new(|file| file.integers("s", &[7, 7]).node("Reshape", &["r", "s"], "z", &[])), &["doesn't become"]),
        (
            Box::new(|file| file.integers("a", &[1]).integers("b", &[9]).node("Slice", &["r", "a", "b"], "z", &[])),
            &["(Slice)", "every n-th pixel"],
        ),
        (Box::new(|file| file.node("Softmax", &["r"], "z", &[])), &["a softmax comes last"]),
        (
            Box::new(|file| file.floats("k", &[4, 3, 1, 1]).node("Conv", &["r", "k"], "z", &[])),
            &["for 1 groups of 3 channels, its input has 4"],
        ),
        (
            Box::new(|file| {
                file.floats("u", &[4, 4, 1, 1]).node("Conv", &["r", "u"], "d", &[]).node("Relu", &["d"], "e", &[]).node(
                    "Conv",
                    &["e", "u"],
                    "z",
                    &[],
                )
            }),
            &["another layer's too"],
        ),
        (
            Box::new(|file| {
                let file = file.floats("u", &[4, 4, 1, 1]).node("Identity", &["u"], "same", &[]);
                let file = file.node("Conv", &["r", "u"], "d", &[]).node("Relu", &["d"], "e", &[]);
                file.node("Conv", &["e", "same"], "z", &[])
            }),
            &["another layer's too"],
        ),
        (
            Box::new(|file| {
                let file = file.node("Flatten", &["r"], "flat", &[]).integers("point", &[-1, 256, 1, 1]);
                file.node("Reshape", &["flat", "point"], "map", &[]).node("GlobalAveragePool", &["map"], "z", &[])
            }),
            &["node `node of map` (Reshape)", "it makes [1, 256, 1, 1]", "flattened whole"],
        ),
        (
            Box::new(|file| {
                file.floats("u", &[4, 4, 1, 1]).node("Conv", &["r", "u"], "d", &[]).node("Relu", &["d"], "e", &[]).node(
                    "Add",
                    &["d", "e"],
                    "z",
                    &[],
                )
            }),
            &["node `node of e` (Relu)", "stored before its activation"],
        ),
        (Box::new(|file| file.node("Relu", &["q"], "z", &[])), &["nothing before it gives `q`"]),
    ];
    for (between, parts) in cases {
        refused(&around(between, 256).bytes(), parts);
    }
}

#[test]
fn graphs_that_are_no_network_are_refused() {
    let whole = || around(|file| file.node("Identity", &["r"], "z", &[]), 256);
    read(&whole().bytes()).unwrap();
    refused(&whole().input("second", &[1, 3, 8, 8]).bytes(), &["2 inputs", "one image"]);
    for sizes in [&[0, 3, 8][..], &[1, 3, 0, 8], &[0, 0, 8, 8]] {
        refused(&OnnxFile::new(sizes).node("Relu", &["x"], "y", &[]).bytes(), &["input `x` has the sizes"]);
    }
    refused(&OnnxFile::new(&[1, 3, 8, 8]).node("Relu", &["x"], "y", &[]).bytes(), &["it reads the image"]);
    let relu = OnnxFile::new(&[1, 3, 8, 8]).floats("w", &[4, 3, 8, 8]).node("Conv", &["x", "w"], "c", &[]);
    refused(&relu.node("Relu", &["c"], "y", &[]).bytes(), &["what an activation or a pooling layer gives"]);
    refused(&OnnxFile::new(&[1, 3, 8, 8]).bytes(), &["doesn't depend on its input"]);
    refused(&whole().floats("w", &[4, 3, 3, 3]).bytes(), &["two tensors of one name"]);
    refused(&whole().node("Relu", &["r"], "z", &[]).bytes(), &["two outputs of one name"]);
    refused(b"", &["not a readable ONNX file (it is empty)"]);
    refused(b"\x89PNG\r\n", &["not a readable ONNX file"]);
}

/// Sizes are compared with what is there before memory is taken for them.
#[test]
fn tensors_that_claim_more_than_they_have_are_refused() {
    let with = |sizes: &[i64], field: u64, values: &[u8]| {
        let file = OnnxFile::new(&[1, 3, 8, 8]).tensor("w", 1, sizes, field, values);
        file.node("Conv", &["x", "w"], "y", &[]).bytes()
    };
    let huge = [1 << 20, 3, 1 << 20, 1 << 10];
    refused(&with(&huge, 9, &[0; 8]), &["more than 268435456 weights"]);
    refused(&with(&[4, 3, 3, 3], 9, &[0; 8]), &["`w` has 8 bytes", "need 432"]);
    refused(&with(&[4, 3, 3, 3], 5, &[0; 8]), &["holds no floats"]);
    refused(&with(&[i64::MAX, i64::MAX], 9, &[]), &["sizes that cannot be"]);
    refused(&with(&[-1, 3], 9, &[]), &["sizes that cannot be"]);
    refused(&with(&[4, 3, 3, 3], 9, &f32::NAN.to_le_bytes().repeat(108)), &["`w` holds NaN"]);
    for (place, said) in [
        ("../w", "isn't within the file's own folder"),
        ("/etc/passwd", "own folder"),
        ("missing.data", "missing.data"),
    ] {
        let entry = |key: &str, value: &str| common::onnx::Message::default().bytes(1, key).bytes(2, value).0;
        refused(&with(&[4, 3, 3, 3], 13, &entry("location", place)), &[said]);
    }
}

/// A size of 0 makes any other size free of bytes.
#[test]
fn empty_tensors_ask_for_no_memory() {
    let conv = |sizes: &[i64]| {
        let file = OnnxFile::new(&[1, 3, 8, 8]).tensor("w", 1, sizes, 9, &[]);
        file.node("Conv", &["x", "w"], "y", &[]).bytes()
    };
    refused(&conv(&[1 << 60, 3, 0, 0]), &["its weights `w` are empty"]);
    let image = OnnxFile::new(&[1, 1 << 31, 1 << 31, 1 << 31]).node("Relu", &["x"], "y", &[]);
    refused(&image.bytes(), &["at most 65536"]);
    let numbers = |sizes: &[i64], kind: &str, inputs: &[&str]| {
        let file = OnnxFile::new(&[1, 3, 8, 8]).tensor("n", 7, sizes, 9, &[]).integers("zero", &[0]);
        file.node(kind, inputs, "m", &[]).node("Reshape", &["x", "m"], "y", &[]).bytes()
    };
    for (sizes, kind, inputs) in [
        (&[1 << 40, 0][..], "Slice", &["n", "zero", "zero"][..]),
        (&[0, 1 << 62], "Transpose", &["n"]),
        (&[0, 1 << 40, 1 << 20], "Gather", &["n", "zero"]),
    ] {
        refused(&numbers(sizes, kind, inputs), &["net.onnx"]);
    }
}

/// A linear layer whose weights are `[features, filters]` or `[filters, features]`, scaled, with a bias of `[1, filters]`.
#[test]
fn linear_layers_are_read_as_onnx_says() {
    let image = || OnnxFile::new(&[1, 2, 1, 1]).node("Flatten", &["x"], "f", &[]);
    // What `floats` gives six weights.
    let stored = [-0.5, 0.2, -0.2, 0.5, 0.1, -0.3f32];
    let turned = [-0.5, 0.5, 0.2, 0.1, -0.2, -0.3f32];
    let scaled = [("alpha", Is::Float(2.0)), ("beta", Is::Float(3.0))];
    let transposed = |perm: &'static [i64]| {
        move |file: OnnxFile| file.node("Transpose", &["w"], "t", &[("perm", Is::Numbers(perm))])
    };
    let gemm = image().floats("w", &[2, 3]).floats("b", &[1, 3]).node("Gemm", &["f", "w", "b"], "y", &scaled);
    let network = read(&gemm.bytes()).unwrap();
    let layer =
        |network: &OnnxNetwork, role: &str| network.weights.get(&format!("node of y.{role}")).unwrap().values.clone();
    assert_eq!(layer(&network, "weight"), turned.map(|weight| 2.0 * weight));
    assert_eq!(layer(&network, "bias"), [-0.5, 0.2, -0.2f32].map(|bias| 3.0 * bias));
    let rows = image().floats("w", &[3, 2]).node("Gemm", &["f", "w"], "y", &[("transB", Is::Number(1))]);
    assert_eq!(layer(&read(&rows.bytes()).unwrap(), "weight"), stored);
    let same = transposed(&[0, 1])(image().floats("w", &[2, 3])).node("MatMul", &["f", "t"], "y", &[]);
    assert_eq!(layer(&read(&same.bytes()).unwrap(), "weight"), turned, "an order that changes nothing");
    let other = transposed(&[1, 0])(image().floats("w", &[3, 2])).node("MatMul", &["f", "t"], "y", &[]);
    assert_eq!(layer(&read(&other.bytes()).unwrap(), "weight"), stored);
}

/// `r = relu(c)` and `r.view(c.size(0), -1)`: the shape of sums outlives them.
#[test]
fn the_shape_of_sums_is_known_behind_their_relu() {
    let file = OnnxFile::new(&[0, 3, 8, 8]).floats("w", &[4, 3, 3, 3]).floats("v", &[10, 144]);
    let file = file.integers("first", &[0]).integers("rest", &[-1]);
    let file = file.node("Conv", &["x", "w"], "c", &[]).node("Relu", &["c"], "r", &[]).node("Shape", &["c"], "s", &[]);
    let file =
        file.node("Gather", &["s", "first"], "n", &[]).node("Concat", &["n", "rest"], "t", &[("axis", Is::Number(0))]);
    let file = file.node("Reshape", &["r", "t"], "z", &[]).node("Gemm", &["z", "v"], "y", &[("transB", Is::Number(1))]);
    assert_eq!(read(&file.bytes()).unwrap().spec.classes, 10);
}

#[test]
fn a_constant_behind_a_flatten_is_no_bias() {
    let file = OnnxFile::new(&[1, 3, 8, 8]).floats("w", &[4, 3, 3, 3]).floats("b", &[144]).floats("v", &[10, 144]);
    let file =
        file.node("Conv", &["x", "w"], "c", &[]).node("Flatten", &["c"], "f", &[]).node("Add", &["f", "b"], "a", &[]);
    let file = file.node("Relu", &["a"], "r", &[]).node("Gemm", &["r", "v"], "y", &[("transB", Is::Number(1))]);
    refused(&file.bytes(), &["node `node of a` (Add)", "behind a flatten", "right behind it"]);
}

#[test]
fn weights_are_those_of_the_description_that_the_same_file_gives() {
    let dir = TempDir::new().unwrap();
    let file = Path::new(FIXTURES).join("resnet-projected/TorchScript.onnx").canonicalize().unwrap();
    write_cifar10(dir.path(), 4, 8);
    let run = |arguments: &[&str]| command(TRAIN, dir.path()).args(arguments).output().unwrap();
    let model = file.to_str().unwrap();
    let (out, _) = success(&run(&["--model", model, "--write-network", "net.toml"]));
    assert_eq!(out, "net.toml is written; mars-train --model net.toml trains it\n");
    let spec = NetworkSpec::load(&dir.path().join("net.toml")).unwrap();
    assert_eq!(spec, OnnxNetwork::load(&file).unwrap().spec);
    let evaluate = |model: &str, more: &[&str]| {
        let arguments = ["--dataset", "cifar10", "--data-dir", ".", "--evaluate", "--model", model];
        success(&run(&[&arguments, more].concat()))
    };
    let (accuracy, said) = evaluate(model, &[]);
    assert!(accuracy.starts_with("test accuracy ") && said.contains("starting from "), "{accuracy} {said}");
    assert_eq!(evaluate("net.toml", &["--pretrained", model]).0, accuracy);
    let (_, said) = evaluate("net.toml", &["--pretrained", model, "--fresh", "linear"]);
    assert!(said.contains("`linear` is trained anew"), "{said}");

    // A description of one's own may compute something else with the weights; that is said. The constant of batch norms is the weights' own.
    let of = |spec: NetworkSpec, options: &ImportOptions| import(&file, &Graph::new(spec).unwrap(), options);
    assert!(of(spec.clone(), &ImportOptions::default()).unwrap().remarks.is_empty());
    let mut clipped = spec.clone();
    let LayerSpec::Conv { name, clip, .. } = &mut clipped.layers[0] else { panic!("{spec:?}") };
    *clip = Some(6.0);
    let said = format!("`{name}`: the file's weights, with another stride");
    let remarks = of(clipped, &ImportOptions::default()).unwrap().remarks;
    assert!(remarks.len() == 1 && remarks[0].starts_with(&said), "{remarks:?}");
    let apart = Path::new(FIXTURES).join("resnet-projected/TorchScript-norm-apart.onnx");
    let other = NetworkSpec { batch_norm_epsilon: 1e-4, ..OnnxNetwork::load(&apart).unwrap().spec };
    let error = import(&apart, &Graph::new(other).unwrap(), &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("adds 1e-5 to variances, the network 1e-4"), "{error}");
    // Of a file with several constants, or a network with some of its own, the recipe's wouldn't be enough.
    assert!(error.contains("--write-network"), "{error}");
    let file_of_one = around(
        |file| {
            let ones = [1.0f32; 4].map(f32::to_le_bytes).concat();
            let file = file.floats("u", &[4, 4, 1, 1]).tensor("s", 1, &[4], 9, &ones);
            let file = file.node("Conv", &["r", "u"], "d", &[]);
            file.node("BatchNormalization", &["d", "s", "s", "s", "s"], "e", &[]).node("Relu", &["e"], "z", &[])
        },
        256,
    );
    let one = dir.path().join("one.onnx");
    fs::write(&one, file_of_one.bytes()).unwrap();
    let other = NetworkSpec { batch_norm_epsilon: 1e-4, ..OnnxNetwork::load(&one).unwrap().spec };
    let error = import(&one, &Graph::new(other).unwrap(), &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("batch_norm_epsilon = 1e-5 in the recipe"), "{error}");
    let names = BTreeMap::from([(format!("{}.norm", spec.layers[0].name()), "bn".to_string())]);
    let options = ImportOptions { names: Some(&names), ..Default::default() };
    let error = of(spec.clone(), &options).unwrap_err().to_string();
    assert!(error.contains("in an ONNX file a layer has its own batch norm"), "{error}");

    let graph = Graph::new(NetworkSpec { layers: spec.layers[..4].to_vec(), ..spec }).unwrap_err();
    assert!(graph.to_string().contains("last layer"), "{graph}");
    let other = Graph::new(load("means/TorchScript.onnx").spec).unwrap();
    let error = import(&file, &other, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("it has no `conv.weight`") && error.contains("--write-network"), "{error}");
}

#[test]
fn what_pytorch_exports_is_costed_before_it_is_trained() {
    let dir = TempDir::new().unwrap();
    let file = Path::new(FIXTURES).join("lenet/TorchScript.onnx").canonicalize().unwrap();
    OnnxNetwork::load(&file).unwrap().spec.save(&dir.path().join("net.toml")).unwrap();
    let cost = |model: &Path| success(&command(DEPLOY, dir.path()).arg("--model").arg(model).output().unwrap()).0;
    let table = cost(&file);
    assert!(table.contains("cycles"), "{table}");
    assert_eq!(table, cost(Path::new("net.toml")));
}

/// From a file of PyTorch's to a package, and on after the run has been cut off.
#[test]
fn a_network_of_pytorch_is_quantized_and_exported() {
    let dir = TempDir::new().unwrap();
    write_cifar10(dir.path(), 8, 8);
    let file = Path::new(FIXTURES).join("resnet-padded/dynamo.onnx").canonicalize().unwrap();
    let settings = ["calibration_images=16", "batch_size=8", "phases=[{kind='quantize',epochs=1,learning_rate=1e-3}]"];
    let mut train = command(TRAIN, dir.path());
    train.args(["--dataset", "cifar10", "--data-dir", ".", "--run", "run", "--model"]).arg(file);
    train.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let (out, _) = success(&train.output().unwrap());
    assert!(out.contains("agree on every image"), "{out}");
    let recipe = fs::read_to_string(dir.path().join("run/recipe.toml")).unwrap();
    assert_eq!(recipe.matches("dynamo.onnx").count(), 2, "the network and its weights: {recipe}");
}
