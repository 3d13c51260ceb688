//! Networks of files, whatever kind they are.

use std::path::Path;

use super::onnx::{OnnxNetwork, is_onnx};
use super::spec::NetworkSpec;
use super::zoo::ZOO;
use crate::error::{Error, Result, did_you_mean};

/// What is said where a name is neither in the zoo nor that of a file.
fn unknown_network(name: &str) -> Error {
    if Path::new(name)
        .extension()
        .is_some_and(|ending| ["pt", "pth", "th", "safetensors"].iter().any(|of_weights| ending == *of_weights))
    {
        let message = format!(
            "`{name}` is called as weights are, which say no network: name the network, and train from the weights with mars-train --pretrained"
        );
        return Error::Setting(message);
    }
    let known = ZOO.join(", ");
    let meant = did_you_mean(name, ZOO.iter().copied());
    Error::Setting(format!("there is no network `{name}`: name one of {known} or a .toml, .onnx or .mars file{meant}"))
}

/// Reads the network of a TOML file, which describes it, or of an ONNX file.
///
/// # Errors
/// Another name; a missing or damaged file; one that is no network.
pub fn read_network(path: &Path) -> Result<NetworkSpec> {
    if is_onnx(path) {
        return OnnxNetwork::load(path).map(|network| network.spec);
    }
    match path.extension().is_some_and(|extension| extension == "toml") {
        true => NetworkSpec::load(path),
        false => Err(unknown_network(&path.to_string_lossy())),
    }
}
