//! The package: what is written comes back, and whatever else is read gives an error.

mod common;

use std::fs;
use std::path::Path;

use mars::error::PackageError;
use mars::groups::GroupShape;
use mars::integer::{Form, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip, Requantize};
use mars::network::{Activation, Graph, LayerSpec, NetworkSpec, Shortcut, Source};
use mars::package::{Package, Predictions, Provenance};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use common::integer_network;

const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn conv(input_bits: u8, weight_bits: u8, weights: Vec<i8>, filters: usize) -> IntegerConv {
    let bias = (0..filters as i32).map(|filter| filter * 1000 - 1500).collect();
    IntegerConv { input_bits, weight_bits, weights, bias }
}

/// Weights of `bits` bits, of which each run of four between two others is 0.
fn weights(count: usize, bits: u8) -> Vec<i8> {
    let limit = (1i64 << (bits - 1)) - 1;
    let value = |position: usize| (position as i64 * 37 % (2 * limit + 1) - limit) as i8;
    (0..count).map(|position| if position / 4 % 3 == 1 { 0 } else { value(position) }).collect()
}

fn requantize(multipliers: &[u32], forms: &[(u8, u8)]) -> Requantize {
    Requantize {
        multipliers: multipliers.into(),
        forms: forms.iter().map(|&(bits, shift)| Form { bits, shift, zero_point: 0 }).collect(),
    }
}

fn provenance() -> Provenance {
    Provenance { recipe: "seed = 7\n".into(), float_accuracy: Some(91.7), ..common::provenance() }
}

fn network(spec: &str, group: [usize; 2], layers: Vec<IntegerLayer>) -> IntegerNetwork {
    let group = GroupShape { filters: group[0], channels: group[1] };
    integer_network(Graph::new(toml::from_str(spec).unwrap()).unwrap(), group, layers)
}

/// The example of docs/package-format.md.
fn tiny() -> Package {
    let spec = r#"
        name = "tiny"
        input = [2, 2, 2]
        classes = 2
        [[layers]]
        op = "conv"
        name = "conv1"
        filters = 3
        kernel = 1
        [[layers]]
        op = "linear"
        name = "linear"
        filters = 2
    "#;
    let mut linear = vec![0; 24];
    linear[11] = 100;
    linear[23] = -7;
    let layers = vec![
        IntegerLayer::Conv {
            conv: conv(8, 4, vec![1, -2, 3, 0, 0, 0], 3),
            skip: None,
            output: Some(requantize(&[300, 301, 302], &[(8, 10)])),
        },
        IntegerLayer::Conv { conv: conv(8, 8, linear, 2), skip: None, output: None },
    ];
    Package {
        network: network(spec, [2, 2], layers),
        provenance: provenance(),
        predictions: Some(Predictions { data_sha256: "b3".repeat(32), chip_sha256: None, classes: vec![0, 1, 1] }),
    }
}

/// More classes than a byte counts.
fn many() -> Package {
    let spec = r#"
        name = "many"
        input = [1, 1, 1]
        classes = 300
        [[layers]]
        op = "linear"
        name = "linear"
        filters = 300
    "#;
    let layers = vec![IntegerLayer::Conv { conv: conv(8, 8, weights(300, 8), 300), skip: None, output: None }];
    Package {
        network: network(spec, [16, 16], layers),
        provenance: provenance(),
        predictions: Some(Predictions { data_sha256: "b3".repeat(32), chip_sha256: None, classes: vec![299, 0, 256] }),
    }
}

#[test]
fn more_classes_than_a_byte_counts_take_version_2() {
    let bytes = many().to_bytes().unwrap();
    assert_eq!(Package::from_bytes(&bytes).unwrap(), many());
    assert_eq!((version(&bytes), version(&small().to_bytes().unwrap())), ('2', '1'));
    let other = Predictions { classes: vec![300], ..many().predictions.unwrap() };
    let error = Package { predictions: Some(other), ..many() }.to_bytes().unwrap_err().to_string();
    assert!(error.contains("class 300 of a network with 300 classes"), "{error}");
}

/// The version that a package says.
fn version(bytes: &[u8]) -> char {
    let text = String::from_utf8_lossy(bytes);
    let (_, after) = text.split_once("version\\\":").unwrap();
    after.chars().next().unwrap()
}

/// A network whose description says what those of older versions could not.
#[track_caller]
fn takes_version_3(change: impl Fn(&mut NetworkSpec)) {
    let mut package = small();
    let mut spec = package.network.graph.spec().clone();
    change(&mut spec);
    package.network.graph = Graph::new(spec).unwrap();
    let bytes = package.to_bytes().unwrap();
    assert_eq!(version(&bytes), '3');
    assert_eq!(Package::from_bytes(&bytes).unwrap(), package);
}

#[test]
fn a_projection_with_a_bias_takes_version_3() {
    takes_version_3(|spec| {
        let skips = spec.layers.iter_mut().filter_map(|layer| match layer {
            LayerSpec::Conv { add, .. } => add.as_mut(),
            _ => None,
        });
        skips.filter(|skip| skip.shortcut == Shortcut::Projection).for_each(|skip| skip.batch_norm = false);
    });
}

#[test]
fn a_clipped_relu_takes_version_3() {
    takes_version_3(|spec| {
        let LayerSpec::Conv { clip, .. } = &mut spec.layers[0] else { unreachable!("it is a convolution") };
        *clip = Some(6.0);
    });
}

/// `small` without activations, each form with a zero point of its own.
fn signed() -> Package {
    let mut package = small();
    let mut spec = package.network.graph.spec().clone();
    for layer in &mut spec.layers {
        if let LayerSpec::Conv { activation, .. } = layer {
            *activation = Activation::None;
        }
    }
    package.network.graph = Graph::new(spec).unwrap();
    for layer in &mut package.network.layers {
        if let IntegerLayer::Conv { output: Some(output), .. } | IntegerLayer::AvgPool { output, .. } = layer {
            output.forms.iter_mut().for_each(|form| form.zero_point = 3 + form.bits / 2);
        }
    }
    package
}

#[test]
fn values_with_a_sign_take_version_4() {
    let bytes = signed().to_bytes().unwrap();
    assert_eq!(version(&bytes), '4');
    assert_eq!(Package::from_bytes(&bytes).unwrap(), signed());
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains(r#"\"zero_point\":7"#) && text.contains(r#"\"activation\":\"none\""#));
}

#[test]
fn a_zero_point_has_a_place_in_its_form() {
    let error = header_error(&signed(), |header| header["layers"][1]["output"]["forms"][0]["zero_point"] = json!(8));
    assert!(error.contains("layer `identity`: form of 3 bits has the zero point 8"), "{error}");
    let error = header_error(&small(), |header| header["layers"][0]["output"]["forms"][0]["zero_point"] = json!(1));
    assert!(error.contains("layer `stem`: form of 4 bits has the zero point 1: behind a ReLU it is 0"), "{error}");
}

#[test]
fn groups_of_channels_take_version_3() {
    let spec = r#"
        name = "grouped"
        input = [4, 3, 3]
        classes = 2
        layers = [
            { op = "conv", name = "conv", filters = 6, kernel = 2, groups = 2 },
            { op = "linear", name = "linear", filters = 2 },
        ]
    "#;
    let layers = vec![
        IntegerLayer::Conv {
            conv: conv(8, 3, weights(6 * 2 * 4, 3), 6),
            skip: None,
            output: Some(requantize(&[5], &[(4, 20)])),
        },
        IntegerLayer::Conv { conv: conv(4, 8, weights(2 * 24, 8), 2), skip: None, output: None },
    ];
    let package = Package { network: network(spec, [4, 3], layers), provenance: provenance(), predictions: None };
    let bytes = package.to_bytes().unwrap();
    assert_eq!((version(&bytes), Package::from_bytes(&bytes).unwrap()), ('3', package));
}

/// A convolution whose window is written so, of which `outputs` pixels remain, and the package that it is in.
fn windowed(keys: &str, taps: usize, outputs: usize) -> Package {
    let spec = format!(
        "name = 'windowed'\ninput = [4, 6, 6]\nclasses = 2
        layers = [{{ op = 'conv', name = 'conv', filters = 6, {keys} }}, {{ op = 'linear', name = 'linear', filters = 2 }}]"
    );
    let layers = vec![
        IntegerLayer::Conv {
            conv: conv(8, 3, weights(6 * 4 * taps, 3), 6),
            skip: None,
            output: Some(requantize(&[5], &[(4, 20)])),
        },
        IntegerLayer::Conv { conv: conv(4, 8, weights(12 * outputs, 8), 2), skip: None, output: None },
    ];
    Package { network: network(&spec, [4, 3], layers), provenance: provenance(), predictions: None }
}

#[test]
fn windows_that_differ_by_side_and_dilated_kernels_take_version_4() {
    for (keys, taps, outputs, expected) in [
        ("kernel = [3, 3], padding = [1, 1]", 9, 36, '1'),
        ("kernel = 3, padding = 1, dilation = 1", 9, 36, '1'),
        ("kernel = [3, 1]", 3, 24, '4'),
        ("kernel = 3, stride = [1, 2]", 9, 8, '4'),
        ("kernel = 3, padding = [1, 0]", 9, 24, '4'),
        ("kernel = 3, padding = [2, 1, 0, 1]", 9, 36, '4'),
        ("kernel = 3, dilation = 2", 9, 4, '4'),
    ] {
        let package = windowed(keys, taps, outputs);
        let bytes = package.to_bytes().unwrap();
        assert_eq!(version(&bytes), expected, "{keys}");
        assert_eq!(Package::from_bytes(&bytes).unwrap(), package);
    }
}

#[test]
fn means_that_overlap_have_a_border_or_leave_pixels_over_take_version_4() {
    for (keys, outputs, expected) in [
        ("", 1, '1'),
        (", kernel = 3", 4, '1'),
        (", kernel = [3, 2]", 6, '4'),
        (", kernel = 3, stride = 1", 16, '4'),
        (", kernel = 3, padding = 1", 4, '4'),
        (", kernel = 4", 1, '4'),
    ] {
        let spec = format!(
            "name = 'mean'\ninput = [4, 6, 6]\nclasses = 2
            layers = [{{ op = 'conv', name = 'conv', filters = 3, kernel = 1 }}, {{ op = 'avg_pool', name = 'mean'{keys} }},
                {{ op = 'linear', name = 'linear', filters = 2 }}]"
        );
        let layers = vec![
            IntegerLayer::Conv {
                conv: conv(8, 3, weights(12, 3), 3),
                skip: None,
                output: Some(requantize(&[5], &[(4, 20)])),
            },
            IntegerLayer::AvgPool { input_bits: 4, output: requantize(&[4], &[(4, 4)]) },
            IntegerLayer::Conv { conv: conv(4, 8, weights(6 * outputs, 8), 2), skip: None, output: None },
        ];
        let package = Package { network: network(&spec, [4, 3], layers), provenance: provenance(), predictions: None };
        let bytes = package.to_bytes().unwrap();
        assert_eq!(version(&bytes), expected, "{keys}");
        assert_eq!(Package::from_bytes(&bytes).unwrap(), package);
    }
}

/// Two maps behind each other, of forms in these widths, with these zero points.
fn joined(forms: [&[(u8, u8)]; 2], zero_points: [u8; 2], activation: &str) -> Package {
    let spec = format!(
        "name = 'joined'\ninput = [4, 3, 3]\nclasses = 2
        layers = [{{ op = 'conv', name = 'a', filters = 3, kernel = 1, activation = '{activation}' }},
            {{ op = 'conv', name = 'b', filters = 2, kernel = 3, padding = 1, input = 'image', activation = '{activation}' }},
            {{ op = 'concat', name = 'both', inputs = ['b', 'a'] }},
            {{ op = 'linear', name = 'linear', filters = 2 }}]"
    );
    let conv_layer = |weights, filters, forms: &[(u8, u8)], zero_point: u8| {
        let mut output = requantize(&[5], forms);
        output.forms.iter_mut().for_each(|form| form.zero_point = zero_point);
        IntegerLayer::Conv { conv: conv(8, 3, weights, filters), skip: None, output: Some(output) }
    };
    let layers = vec![
        conv_layer(weights(12, 3), 3, forms[0], zero_points[0]),
        conv_layer(weights(72, 3), 2, forms[1], zero_points[1]),
        IntegerLayer::SameScale,
        IntegerLayer::Conv { conv: conv(4, 8, weights(90, 8), 2), skip: None, output: None },
    ];
    Package { network: network(&spec, [4, 3], layers), provenance: provenance(), predictions: None }
}

#[test]
fn maps_behind_each_other_take_version_4_and_share_a_width_and_a_zero_point() {
    let package = joined([&[(4, 20), (8, 16)], &[(5, 19), (4, 20)]], [0, 0], "relu");
    let bytes = package.to_bytes().unwrap();
    assert_eq!(version(&bytes), '4');
    assert_eq!(Package::from_bytes(&bytes).unwrap(), package);
    assert_eq!(package.network.forms(Source::Node(2)), [4]);
    let error = |package: Package| package.to_bytes().unwrap_err().to_string();
    let apart = error(joined([&[(8, 16)], &[(4, 20)]], [0, 0], "relu"));
    assert!(apart.contains("layer `both`: what it reads has no width in common"), "{apart}");
    let apart = error(joined([&[(4, 16)], &[(4, 20)]], [8, 7], "none"));
    assert!(apart.contains("layer `both`: what it reads has several zero points in its form of 4 bits"), "{apart}");
}

/// Every kind of layer and skip.
fn small() -> Package {
    let spec = r#"
        name = "small"
        input = [3, 8, 8]
        classes = 3
        [[layers]]
        op = "conv"
        name = "stem"
        filters = 4
        kernel = 3
        padding = 1
        [[layers]]
        op = "conv"
        name = "identity"
        filters = 5
        kernel = 3
        padding = 1
        add = { from = "stem" }
        [[layers]]
        op = "conv"
        name = "projected"
        filters = 6
        kernel = 3
        stride = 2
        padding = 1
        add = { from = "identity", shortcut = "projection", stride = 2 }
        [[layers]]
        op = "max_pool"
        name = "max"
        kernel = 2
        stride = 2
        [[layers]]
        op = "avg_pool"
        name = "mean"
        [[layers]]
        op = "linear"
        name = "linear"
        filters = 3
    "#;
    let layers = vec![
        IntegerLayer::Conv {
            conv: conv(8, 8, weights(4 * 27, 8), 4),
            skip: None,
            output: Some(requantize(&[5], &[(4, 20), (8, 16)])),
        },
        IntegerLayer::Conv {
            conv: conv(4, 4, weights(5 * 36, 4), 5),
            skip: Some(IntegerSkip::Identity { bits: 8, multiplier: 70_000 }),
            output: Some(requantize(&[1, 2, 3, 4, 5], &[(3, 20)])),
        },
        IntegerLayer::Conv {
            conv: conv(3, 2, weights(6 * 45, 2), 6),
            skip: Some(IntegerSkip::Projection { conv: conv(3, 5, weights(30, 5), 6), multipliers: vec![9] }),
            output: Some(requantize(&[65_535], &[(8, 39)])),
        },
        IntegerLayer::SameScale,
        IntegerLayer::AvgPool { input_bits: 8, output: requantize(&[4], &[(8, 4)]) },
        IntegerLayer::Conv { conv: conv(8, 8, vec![0; 18], 3), skip: None, output: None },
    ];
    Package { network: network(spec, [2, 3], layers), provenance: provenance(), predictions: None }
}

/// A package as its parts: the header, the container's other entries, the tensors' bytes.
struct Parts {
    header: Value,
    tensors: serde_json::Map<String, Value>,
    data: Vec<u8>,
}

impl Parts {
    fn new(bytes: &[u8]) -> Self {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut tensors: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        let metadata = tensors.remove("__metadata__").unwrap();
        Self {
            header: serde_json::from_str(metadata["mars"].as_str().unwrap()).unwrap(),
            tensors,
            data: bytes[8 + length..].into(),
        }
    }

    /// The bytes with a checksum that is right, as a careful forger would make them.
    fn seal(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header["sha256"] = ZEROS.into();
        let mut container = self.tensors.clone();
        container.insert("__metadata__".into(), json!({ "mars": header.to_string() }));
        let mut text = serde_json::to_string(&container).unwrap();
        while !text.len().is_multiple_of(8) {
            text.push(' ');
        }
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend(&self.data);
        let checksum = format!("{:x}", Sha256::digest(&bytes));
        let place = bytes.windows(64).position(|window| window == ZEROS.as_bytes()).unwrap();
        bytes[place..place + 64].copy_from_slice(checksum.as_bytes());
        bytes
    }

    /// Where a tensor's bytes lie in `data`.
    fn place(&self, tensor: &str) -> std::ops::Range<usize> {
        let offsets = &self.tensors[tensor]["data_offsets"];
        offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize
    }
}

/// The error after a change of the header and a new checksum.
fn header_error(package: &Package, change: impl FnOnce(&mut Value)) -> String {
    let mut parts = Parts::new(&package.to_bytes().unwrap());
    change(&mut parts.header);
    Package::from_bytes(&parts.seal()).unwrap_err().to_string()
}

/// A reader that was written to an early version isn't told that it can read what came later.
#[test]
fn a_version_that_cannot_hold_the_package_is_refused() {
    let error = header_error(&signed(), |header| {
        assert_eq!(header["version"], 4);
        header["version"] = 3.into();
    });
    assert!(error.contains("`header.version`: it is 3, but what the package holds needs 4"), "{error}");
    // A later one holds all that an earlier one does.
    let mut parts = Parts::new(&tiny().to_bytes().unwrap());
    parts.header["version"] = 4.into();
    assert_eq!(Package::from_bytes(&parts.seal()).unwrap(), tiny());
}

#[test]
fn a_package_comes_back() {
    for package in [tiny(), small(), signed()] {
        let bytes = package.to_bytes().unwrap();
        assert_eq!(package.to_bytes().unwrap(), bytes);
        assert_eq!(Package::from_bytes(&bytes).unwrap(), package);
        assert_eq!(Package::from_bytes(&Parts::new(&bytes).seal()).unwrap(), package);
    }
}

#[test]
fn text_that_looks_like_the_checksum_changes_nothing() {
    let mut package = tiny();
    package.provenance.recipe = ZEROS.repeat(2);
    package.network.classes[0] = ZEROS.into();
    assert_eq!(Package::from_bytes(&package.to_bytes().unwrap()).unwrap(), package);
}

#[test]
fn only_kept_groups_are_stored() {
    let parts = Parts::new(&tiny().to_bytes().unwrap());
    // Filters 0 and 1 in one group of 2x2 weights at 4 bits; filter 2 is zero.
    assert_eq!(parts.data[parts.place("conv1.index")], [1, 0]);
    assert_eq!(parts.data[parts.place("conv1.weights")], [0xe1, 0x03]);
    // Seven groups are dropped before the only kept one, channel 2 at tap 3: a run of 7 is 0001000.
    assert_eq!(parts.data[parts.place("linear.index")], [0b1000]);
    assert_eq!(parts.data[parts.place("linear.weights")], [100, 0xf9]);
}

/// Packages of version 1 stay readable, and the example of docs/package-format.md stays true. A new version of the format writes a
/// new fixture with `INSTA_UPDATE=always`.
#[test]
fn the_format_is_frozen() {
    let path = Path::new("tests/fixtures/tiny.mars");
    if common::updates() {
        tiny().write(path).unwrap();
    }
    assert_eq!(Package::read(path).unwrap(), tiny());
    assert_eq!(fs::read(path).unwrap(), tiny().to_bytes().unwrap());
}

#[test]
fn a_file_is_named_in_the_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.mars");
    let error = Package::read(&path).unwrap_err().to_string();
    assert!(error.contains("model.mars"), "{error}");
    small().write(&path).unwrap();
    assert_eq!(Package::read(&path).unwrap(), small());
    fs::write(&path, "no package").unwrap();
    let error = Package::read(&path).unwrap_err().to_string();
    assert!(
        error.contains("model.mars is not a usable package: it has been cut short, or it is another kind of file"),
        "{error}"
    );
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small().to_bytes().unwrap();
    for length in 0..bytes.len() {
        assert!(Package::from_bytes(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(Package::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn every_flipped_bit_is_an_error() {
    for (package, step) in [(tiny(), 1), (small(), 7)] {
        let mut bytes = package.to_bytes().unwrap();
        for bit in (0..bytes.len() * 8).step_by(step) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Package::from_bytes(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_changed_number_is_told_by_the_checksum() {
    let mut bytes = small().to_bytes().unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let error = Package::from_bytes(&bytes).unwrap_err();
    assert!(matches!(error, PackageError::Checksum { .. }), "{error}");
}

#[test]
fn a_wrong_header_is_named_by_field() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 30] = [
        (|h| h["version"] = 5.into(), "`header.version` is 5, this program reads 4"),
        (|h| h["extra"] = 1.into(), "unknown field `extra`"),
        (|h| h["layers"][3]["extra"] = 1.into(), "unknown field `extra`"),
        (|h| h["layers"][0]["conv"]["extra"] = 1.into(), "unknown field `extra`"),
        (|h| h["network"]["extra"] = 1.into(), "unknown field `extra`"),
        (|h| h["provenance"]["extra"] = 1.into(), "unknown field `extra`"),
        (|h| drop(h.as_object_mut().unwrap().remove("group")), "missing field `group`"),
        (|h| h["group"]["filters"] = 0.into(), "`header.group`"),
        (|h| h["group"]["channels"] = u64::MAX.into(), "`header.layers[1].conv.index[0]`"),
        (|h| h["zero_points"] = json!([1, 2]), "2 zero points for 3 colors"),
        (|h| h["zero_points"] = json!([1, 2, 256]), "expected u8"),
        (|h| h["classes"] = json!(["a"]), "1 class names for 3 classes"),
        (|h| drop(h["layers"].as_array_mut().unwrap().pop()), "5 entries for 6 layers"),
        (|h| h["layers"][0] = h["layers"][3].clone(), "`header.layers[0].op`: it isn't that of layer `stem`"),
        (|h| h["layers"][3] = h["layers"][0].clone(), "`header.layers[3].op`"),
        (|h| h["layers"][1]["skip"] = h["layers"][2]["skip"].clone(), "`header.layers[1].skip.conv`"),
        (|h| h["layers"][1]["skip"] = Value::Null, "layer `identity`: its residual differs"),
        (|h| h["layers"][0]["conv"]["weight_bits"] = 9.into(), "`header.layers[0].conv.weight_bits`: 9 is not"),
        (|h| h["layers"][0]["conv"]["weight_bits"] = 7.into(), "tensor `stem.weights`: it has"),
        (|h| h["layers"][1]["conv"]["input_bits"] = 5.into(), "layer `identity`: it reads its input at 5 bits"),
        (|h| h["layers"][0]["conv"]["index"] = json!([]), "`header.layers[0].conv.index`: 0 entries for 2"),
        (|h| h["layers"][0]["conv"]["index"][1]["bits"] = 1.into(), "header.layers[0].conv.index[1]"),
        (|h| h["layers"][0]["conv"]["index"][1]["bits"] = u64::MAX.into(), "ends before the index of filter set 1"),
        (|h| h["layers"][0]["output"]["multipliers"] = json!([70_000]), "layer `stem`: multiplier 70000"),
        (|h| h["layers"][0]["output"]["forms"][0]["shift"] = 40.into(), "layer `stem`: form of 4 bits with shift 40"),
        (|h| h["predictions"] = json!({ "data_sha256": "ab".repeat(32) }), "tensor `predictions`: it is missing"),
        (|h| h["provenance"]["data_sha256"] = "5A".repeat(32).into(), "`header.provenance.data_sha256`"),
        (|h| h["provenance"]["float_accuracy"] = 101.into(), "`header.provenance.float_accuracy`"),
        (|h| h["network"]["layers"][0]["name"] = "other".into(), "its input `stem` is not a layer"),
        (
            |h| h["network"]["layers"][5]["name"] = "projected.projection".into(),
            "is the name of a layer and of `projected`'s projection",
        ),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let error = header_error(&small(), change);
        assert!(error.contains(expected), "case {number}: {error}");
    }
}

/// None of these may allocate what it asks for.
#[test]
fn absurd_sizes_are_errors() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 11] = [
        (|h| h["network"]["input"] = json!([65536, 65536, 65536]), "values"),
        (|h| h["network"]["input"] = json!([u64::MAX, 2, 2]), "input"),
        (|h| h["network"]["layers"][1]["filters"] = 65536.into(), "must be a conv or linear layer"),
        (|h| h["network"]["layers"][0]["filters"] = 65536.into(), "`header.layers[0].conv.index`"),
        (|h| h["network"]["layers"][0]["kernel"] = 257.into(), "`header.network.layers[0].kernel`: 257 is above 256"),
        (
            |h| h["network"]["layers"][0]["kernel"] = json!([1, 257]),
            "`header.network.layers[0].kernel`: 257 is above 256",
        ),
        (|h| h["network"]["layers"][0]["padding"] = json!([1, 2, 3]), "[top, left, bottom, right]"),
        (|h| h["network"]["layers"][0]["dilation"] = 257.into(), "`header.network.layers[0].dilation`: 257"),
        (|h| h["network"]["layers"][0]["filters"] = u64::MAX.into(), "65536"),
        (
            |h| {
                let layer = json!({ "op": "conv", "name": "c", "filters": 65536, "kernel": 1 });
                h["network"]["layers"].as_array_mut().unwrap().insert(1, layer.clone());
                h["network"]["layers"].as_array_mut().unwrap().insert(2, layer);
                h["network"]["layers"][2]["name"] = "d".into();
            },
            "weights",
        ),
        (
            |h| {
                let layer =
                    |number: usize| json!({ "op": "max_pool", "name": number.to_string(), "kernel": 1, "stride": 1 });
                h["network"]["layers"] = (0..5000).map(layer).collect();
            },
            "5000 layers",
        ),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        let error = header_error(&tiny(), change);
        assert!(error.contains(expected), "case {number}: {error}");
    }
    for length in [0, 8, 1 << 20, u64::MAX] {
        let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
        assert!(Package::from_bytes(&bytes).is_err());
    }
}

#[test]
fn a_wrong_tensor_is_named() {
    let error = |change: fn(&mut Parts)| {
        let mut parts = Parts::new(&tiny().to_bytes().unwrap());
        change(&mut parts);
        Package::from_bytes(&parts.seal()).unwrap_err().to_string()
    };
    let cases = [
        (
            error(|parts| {
                let offsets = [parts.data.len(), parts.data.len() + 1];
                parts.data.push(0);
                let tensor = json!({ "dtype": "U8", "shape": [1], "data_offsets": offsets });
                parts.tensors.insert("x".into(), tensor);
            }),
            "tensor `x`: the header describes no such tensor",
        ),
        (
            error(|parts| {
                let bias = parts.tensors.remove("conv1.bias").unwrap();
                parts.tensors.insert("conv1.offset".into(), bias);
            }),
            "tensor `conv1.bias`: it is missing",
        ),
        (
            error(|parts| parts.tensors["conv1.bias"]["dtype"] = "F32".into()),
            "tensor `conv1.bias`: it is F32 of shape [3], expected I32",
        ),
        (
            error(|parts| parts.tensors["conv1.weights"]["shape"] = json!([1, 2])),
            "tensor `conv1.weights`: it is U8 of shape [1, 2]",
        ),
        (
            error(|parts| parts.header["predictions"] = Value::Null),
            "tensor `predictions`: the header describes no such tensor",
        ),
        (
            error(|parts| {
                let place = parts.place("predictions").start;
                parts.data[place] = 2;
            }),
            "tensor `predictions`: class 2 of a network with 2 classes",
        ),
        (
            error(|parts| {
                let place = parts.place("conv1.weights").start;
                parts.data[place] = 0xe8;
            }),
            "tensor `conv1.weights`: weight -8 of group 0",
        ),
        (
            error(|parts| {
                let place = parts.place("conv1.index").start;
                parts.data[place] = 3;
            }),
            "`header.layers[0].conv.index[0]`: the unused bits",
        ),
        (
            error(|parts| {
                let place = parts.place("conv1.bias").start;
                parts.data[place..place + 4].copy_from_slice(&i32::MIN.to_le_bytes());
            }),
            "layer `conv1`: bias -2147483648 of filter 0",
        ),
    ];
    for (number, (error, expected)) in cases.into_iter().enumerate() {
        assert!(error.contains(expected), "case {number}: {error}");
    }
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let mut package = tiny();
    package.network.zero_points.clear();
    assert!(package.to_bytes().unwrap_err().to_string().contains("zero points"));
    let mut package = tiny();
    package.provenance.float_accuracy = Some(f64::NAN);
    assert!(package.to_bytes().unwrap_err().to_string().contains("provenance.float_accuracy"));
    let mut package = tiny();
    package.predictions.as_mut().unwrap().classes[0] = 2;
    assert!(package.to_bytes().unwrap_err().to_string().contains("class 2"));
}

/// A package of few kilobytes, refused where it is written as where it is read: its second layer gathers 64 x 65,536 inputs for each
/// of 287 x 287 outputs.
#[test]
fn a_small_file_cannot_ask_for_much_memory() {
    let spec = r#"
        name = "wide"
        input = [3, 32, 32]
        classes = 2
        layers = [
            { op = "conv", name = "a", filters = 64, kernel = 1 },
            { op = "conv", name = "b", filters = 1, kernel = 256, padding = 255 },
            { op = "linear", name = "linear", filters = 2 },
        ]
    "#;
    let layer = |filters: usize, weights: usize, output| IntegerLayer::Conv {
        conv: conv(8, 4, vec![0; filters * weights], filters),
        skip: None,
        output,
    };
    let stored = || Some(requantize(&[300], &[(8, 10)]));
    let layers = vec![layer(64, 3, stored()), layer(1, 64 << 16, stored()), layer(2, 287 * 287, None)];
    let package = Package { network: network(spec, [16, 16], layers), provenance: provenance(), predictions: None };
    let error = package.to_bytes().unwrap_err().to_string();
    assert!(error.contains("more inputs of filters than 67108864"), "{error}");
}

/// JSON pointers of all values in a JSON value that hold no others.
fn leaves(value: &Value, pointer: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(values) => (0..).map(|index: usize| index.to_string()).zip(values).collect(),
        Value::Object(values) => values.iter().map(|(key, value)| (key.clone(), value)).collect(),
        _ => return vec![pointer.into()],
    };
    let leaves = |(key, value)| leaves(value, &format!("{pointer}/{key}"));
    children.into_iter().flat_map(leaves).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Package::from_bytes(&bytes).is_err());
        let length = (bytes.len() as u64).to_le_bytes();
        prop_assert!(Package::from_bytes(&[&length[..], &bytes].concat()).is_err());
    }

    /// Even with a right checksum, what is read is a sound package or an error.
    #[test]
    fn a_forged_package_is_sound_or_an_error(
        place in any::<usize>(),
        replacement in prop_oneof![
            (0u64..70_000).prop_map(Value::from),
            (-70_000i64..0).prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            Just(Value::Null),
            Just(Value::from("stem")),
            Just(Value::from("runs")),
            Just(json!([])),
        ],
        change_header in any::<bool>(),
        byte in any::<u8>(),
    ) {
        let mut parts = Parts::new(&small().to_bytes().unwrap());
        if change_header {
            let leaves = leaves(&parts.header, "");
            *parts.header.pointer_mut(&leaves[place % leaves.len()]).unwrap() = replacement;
        } else {
            let length = parts.data.len();
            parts.data[place % length] = byte;
        }
        if let Ok(package) = Package::from_bytes(&parts.seal()) {
            prop_assert!(package.network.validate().is_ok());
            prop_assert_eq!(Package::from_bytes(&package.to_bytes().unwrap()).unwrap(), package);
        }
    }
}
