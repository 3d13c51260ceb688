//! What each fuzz target does with the bytes of a file: the reader gives a value or an error, never a panic, and what was read is written and
//! read back the same. `tests/corpora.rs` replays the corpora with these functions.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mars::data::{DataOptions, Dataset};
use mars::hardware::{Hardware, MacroNetwork, evaluate};
use mars::integer::{QuantizeConfig, outline};
use mars::network::{Graph, NetworkSpec, OnnxNetwork, Params, import};
use mars::package::Package;
use mars::reproduce::Experiment;
use mars::sweep::Space;
use mars::train::{Checkpoint, Recipe};
use sha2::{Digest, Sha256};

/// A package, `model.mars`.
pub fn package(bytes: &[u8]) {
    if let Ok(package) = Package::from_bytes(bytes) {
        let written = package.to_bytes().expect("what was read can be written");
        assert_eq!(Package::from_bytes(&written).expect("what was written can be read"), package);
    }
}

/// A checkpoint of a run, or weights in a safetensors file.
pub fn checkpoint(bytes: &[u8]) {
    with_file("safetensors", bytes, |path| {
        let checkpoint = Checkpoint::load(path, tiny());
        if let Ok(checkpoint) = checkpoint {
            checkpoint.save(path, tiny()).expect("what was read can be written");
            assert!(Checkpoint::load(path, tiny()).expect("what was written can be read") == checkpoint);
        }
        let _ = import(path, tiny(), &Default::default());
    });
}

/// A checkpoint that PyTorch saved.
pub fn pytorch(bytes: &[u8]) {
    with_file("pt", bytes, |path| drop(import(path, tiny32(), &Default::default())));
}

/// An ONNX file; what is a network has its weights.
pub fn onnx(bytes: &[u8]) {
    with_file("onnx", bytes, |path| {
        let Ok(OnnxNetwork { spec, weights }) = OnnxNetwork::load(path) else { return };
        if let Ok(graph) = Graph::new(spec) {
            Params::from_arrays(&graph, &weights).expect("weights of its own network");
        }
    });
}

/// A hardware file; a chip that is one costs and holds a small network.
pub fn hardware(bytes: &[u8]) {
    with_file("toml", bytes, |path| {
        if let Ok(hardware) = Hardware::load(path) {
            let bits = QuantizeConfig { weight_bits: 4, activation_bits: 4, ..QuantizeConfig::default() };
            let network = outline(tiny(), &bits, hardware.group);
            let _ = evaluate(&network, &hardware);
            let _ = MacroNetwork::new(&network, &hardware);
        }
    });
}

/// NumPy's arrays of images and labels.
pub fn npz(bytes: &[u8]) {
    with_file("npz", bytes, |path| {
        let name = path.to_str().expect("a temporary folder with a plain name");
        drop(Dataset::load(name, &DataOptions::default()));
    });
}

/// An image of a folder, beside others that are as they should be.
pub fn image(bytes: &[u8]) {
    const GOOD: &[u8] = include_bytes!("corpus/image/gray.png");
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (place, bytes) in [("train/a", GOOD), ("train/b", bytes), ("test/a", GOOD)] {
        let place = folder.path().join(place);
        std::fs::create_dir_all(&place).expect("a temporary folder");
        std::fs::write(place.join("image.png"), bytes).expect("a temporary file");
    }
    let options = DataOptions { image_size: Some([3, 5]), ..DataOptions::default() };
    drop(Dataset::load(folder.path().to_str().expect("a plain name"), &options));
}

/// An IDX file of images, beside labels for three of them.
pub fn idx(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let labels = [0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1];
    for (images, name) in
        [("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")]
    {
        std::fs::write(folder.path().join(images), bytes).expect("a temporary file");
        std::fs::write(folder.path().join(name), labels).expect("a temporary file");
    }
    drop(Dataset::load(folder.path().to_str().expect("a plain name"), &DataOptions::default()));
}

/// A sweep.
pub fn sweep(bytes: &[u8]) {
    with_file("toml", bytes, |path| drop(Space::load(path)));
}

/// An experiment.
pub fn experiment(bytes: &[u8]) {
    with_file("toml", bytes, |path| drop(Experiment::load(path)));
}

/// A recipe.
pub fn recipe(bytes: &[u8]) {
    with_file("toml", bytes, |path| drop(Recipe::load(Some(path), &[])));
}

/// A network.
pub fn network(bytes: &[u8]) {
    with_file("toml", bytes, |path| drop(NetworkSpec::load(path).and_then(Graph::new)));
}

/// A file with the checksum that its content asks for, so that readers look behind it; as it is where it has none.
pub fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    const KEY: &[u8] = b"\\\"sha256\\\":\\\"";
    const DIGITS: usize = 64;
    let Some(place) = bytes.windows(KEY.len()).position(|window| window == KEY) else { return bytes };
    let Some(digits) = bytes.get_mut(place + KEY.len()..).and_then(|rest| rest.get_mut(..DIGITS)) else { return bytes };
    digits.fill(b'0');
    let checksum = format!("{:x}", Sha256::digest(&bytes));
    bytes[place + KEY.len()..][..DIGITS].copy_from_slice(checksum.as_bytes());
    bytes
}

/// The network of the corpus's checkpoint.
fn tiny() -> &'static Graph {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    GRAPH.get_or_init(|| graph(include_str!("corpus/network/tiny.toml")))
}

/// The network of the corpus's file of PyTorch.
fn tiny32() -> &'static Graph {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    GRAPH.get_or_init(|| graph(include_str!("corpus/network/tiny32.toml")))
}

fn graph(toml: &str) -> Graph {
    Graph::new(toml::from_str(toml).expect("a description")).expect("a valid network")
}

/// Readers that take paths get one in a folder that is gone afterwards.
fn with_file(extension: &str, bytes: &[u8], f: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path: PathBuf = folder.path().join("input").with_extension(extension);
    std::fs::write(&path, bytes).expect("a temporary file");
    f(&path);
}
