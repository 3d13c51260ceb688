//! Training: recipes, the loop, calibration, pruning and checkpoints. It knows no folder and prints nothing.
//!
//! [`Training`] is the way in: a recipe, a network, images and a chip go in by value; steps, epochs or all of it come out.

mod calibrate;
mod check;
mod checkpoint;
mod device;
mod events;
mod forward;
mod health;
mod losses;
mod memory;
mod model;
mod optimizer;
mod predict;
mod pruning;
mod recipe;
mod speed;
mod stretch;
mod tensors;
mod training;

pub use crate::run_folder::EpochReport;
pub use checkpoint::{Checkpoint, Position, State, Tally};
pub use device::{DEFAULT_DEVICE, DEVICES, device};
pub use events::{Event, FloatReport, ScalesFrom, StepReport};
pub use memory::{Allocator, keep_memory};
pub(crate) use predict::largest;
pub use recipe::{
    Budget, DistillationConfig, EvaluateEvery, Phase, PhaseKind, Recipe, Schedule, SparsityConfig, StartFrom,
    assignment,
};
pub use speed::inference_seconds;
pub(crate) use stretch::stretched;
pub use training::Training;
pub(crate) use training::check_recipe;
