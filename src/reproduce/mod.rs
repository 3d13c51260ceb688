//! Experiments: tables whose rows are runs, repeated with several seeds, as `mars-reproduce` makes them.
//!
//! | module | does |
//! |---|---|
//! | `experiment` | the experiment file: rows, each a recipe with settings on top; claims of a paper |
//! | `results` | what is known of finished runs, beside the experiment file |
//! | `differences` | how what gave them differs from what is to run |
//! | `paths` | where runs lie, and what they start from |
//! | `rows` | what is known of each row: mean and spread, or how far it is |
//! | `table` | the rows as Markdown, CSV, JSON and text |
//! | `plot` | the same as SVG |
//! | `curves` | accuracy against cycles as SVG |
//! | `run` | runs what is unfinished |
//!
//! It knows recipes and run folders, not how training works. `docs/reproduce.md` describes the files.

mod curves;
mod differences;
mod experiment;
mod paths;
mod plot;
mod results;
mod rows;
mod run;
mod table;

pub use experiment::{Bar, Claim, ClaimedFigure, Experiment, FOLDER, Row, RowStart};
pub use results::{CostFigures, Results, Run};
pub use rows::State;
pub use run::{Reproduction, Verdict};
pub use table::Table;
