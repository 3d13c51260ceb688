//! Sweeps: what a network costs on every chip of a design space.
//!
//! | module | does |
//! |---|---|
//! | `space` | the sweep file: ranges over keys of a hardware file, and the chip of each point |
//! | `row` | what came of a point, and the points that no other one beats |
//! | `store` | the rows of finished points in a folder, which shards share and an interrupted sweep continues |
//! | `swept` | the network: a package's, or one that nobody has trained |
//! | `run` | evaluates the points of a shard, several at a time |
//!
//! `docs/sweep.md` describes files and columns.

mod row;
mod run;
mod space;
mod store;
mod swept;

pub use row::{Figures, Outcome, SweepRow, pareto_front};
pub use run::Sweep;
pub use space::{Space, Value};
pub use store::Shard;
pub use swept::Swept;
