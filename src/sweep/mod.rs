//! Sweeps: what a network costs on every chip of a design space.
//!
//! | module | does |
//! |---|---|
//! | `space` | the sweep file: ranges over keys of a hardware file, and the chip of each point |
//! | `row` | what came of a point, and the points that no other one beats |
//! | `store` | the rows of finished points in a folder, which shards share and an interrupted sweep continues |
//! | `run` | evaluates the points of a shard, several at a time |
//!
//! It knows neither packages nor images: what a point costs comes from the caller. `docs/sweep.md` describes files and columns.

mod row;
mod run;
mod space;
mod store;

pub use row::{Figures, Outcome, SweepRow, pareto_front};
pub use run::run;
pub use space::{Space, Value};
pub use store::{Shard, Store};
