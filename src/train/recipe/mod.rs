//! The recipe of a run: what is trained on what, in which phases. TOML; unknown keys are errors with a suggestion.

mod check;
mod load;
mod phase;
mod schema;

pub use crate::run_folder::PhaseKind;
pub use load::assignment;
pub use phase::{Phase, Schedule};
pub use schema::{Budget, DistillationConfig, EvaluateEvery, Recipe, SparsityConfig, StartFrom};
