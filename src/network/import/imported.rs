//! What an import gives.

use serde_json::Value;

use crate::network::ConvId;
use crate::network::weights::Weights;

/// Weights out of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The weights, under the network's names; random ones of layers that are trained anew.
    pub weights: Weights,
    /// The convolutions whose batch norms came without running statistics; theirs are a mean of 0 and a variance of 1.
    pub without_statistics: Vec<ConvId>,
    /// What a checkpoint of ours says about quantizers.
    pub quantized: Option<Quantized>,
    /// What a person should know: a prefix that was dropped, what was left aside. A line each.
    pub remarks: Vec<String>,
}

/// The quantizers of a checkpoint of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Their scales, by the names of files.
    pub scales: Weights,
    /// The state of the run that the checkpoint is of.
    pub state: Value,
}

/// Names as a remark lists them: `most` of them, and how many more there are.
pub(super) fn listed<'n>(names: impl ExactSizeIterator<Item = &'n str>, most: usize) -> String {
    let more = names.len().checked_sub(most).filter(|more| *more > 0);
    let first: Vec<String> = names.take(most).map(|name| format!("`{name}`")).collect();
    first.join(", ") + &more.map_or(String::new(), |more| format!(" and {more} more"))
}

impl From<Weights> for Imported {
    /// Weights that nothing is to be said about.
    fn from(weights: Weights) -> Self {
        Self { weights, without_statistics: Vec::new(), quantized: None, remarks: Vec::new() }
    }
}
