//! The recipe of a run: what is trained on what, in which phases. TOML; unknown keys are errors with a suggestion.

mod check;
mod load;
mod phase;
mod schema;

pub use load::assignment;
pub use phase::{Phase, PhaseKind, Schedule};
pub use schema::{Budget, DistillationConfig, EvaluateEvery, Recipe, SparsityConfig, StartFrom};
