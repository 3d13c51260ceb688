//! The names of the files in a run folder.

/// The recipe with every key that is in use.
pub const RECIPE: &str = "recipe.toml";
/// The chip.
pub const HARDWARE: &str = "hardware.toml";
/// The network.
pub const NETWORK: &str = "network.toml";
/// The images that the run uses, as hashes.
pub const DATA: &str = "data.toml";
/// A line for each epoch; `docs/training.md` explains its keys.
pub const METRICS: &str = "metrics.jsonl";
/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The checkpoint that a run goes on from.
pub const LAST: &str = "checkpoints/last.safetensors";
/// The checkpoint of the network that a run learns from.
pub const TEACHER: &str = "checkpoints/teacher.safetensors";
/// The package.
pub const PACKAGE: &str = "model.mars";
/// What the hardware model says of the package.
pub const DEPLOYMENT: &str = "deploy.json";
/// The same for people.
pub const REPORT: &str = "report.html";
/// The folder of the report's drawings.
pub const DRAWINGS: &str = "drawings";
