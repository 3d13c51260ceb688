//! Where the network of a package comes from.

use serde::{Deserialize, Serialize};

/// Where a network comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The recipe, resolved, as TOML.
    pub recipe: String,
    /// Seed of the run.
    pub seed: u64,
    /// Version of this crate that wrote the package.
    pub crate_version: String,
    /// Name of the data set.
    pub dataset: String,
    /// [`Split::sha256`](crate::data::Split::sha256) of its test split.
    pub data_sha256: String,
    /// Accuracy of the float network on the test split, in percent.
    pub float_accuracy: Option<f64>,
    /// Accuracy of the fake-quant network on the test split, in percent.
    pub fake_quant_accuracy: Option<f64>,
}
