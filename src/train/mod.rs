//! Training: recipes, phases, the loop, checkpoints and metrics.

mod calibrate;
mod checkpoint;
mod lock;
mod memory;
mod model;
mod on_chip;
mod optimizer;
mod pass;
mod progress;
mod recipe;
mod run;
mod sparsify;
mod speed;
mod trainer;

pub use checkpoint::{Checkpoint, Position, Tally};
pub use lock::RunLock;
pub use memory::{Allocator, keep_memory};
pub use recipe::{Budget, DistillationConfig, Phase, PhaseKind, Recipe, Schedule, SparsityConfig, assignment};
pub use run::{DEFAULT_DEVICE, DEVICES, Outcome, Plan, Request, device};
pub use speed::{inference_seconds, step_seconds};
pub use trainer::INTERRUPTED;
