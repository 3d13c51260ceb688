//! Experiments: tables whose rows are runs, repeated with several seeds, as `mars-reproduce` makes them.
//!
//! | module | does |
//! |---|---|
//! | `experiment` | the experiment file: rows, each a recipe with settings on top; claims of a paper |
//! | `results` | what is known of finished runs, beside the experiment file |
//! | `run` | runs what is unfinished |
//! | `table` | a row's mean and spread; Markdown, CSV, JSON and text |
//! | `plot` | the same as SVG |
//! | `curves` | accuracy against cycles as SVG |
//!
//! It knows recipes and run folders, not how training works. `docs/reproduce.md` describes the files.

mod curves;
mod experiment;
mod plot;
mod results;
mod run;
mod table;

pub use experiment::{Bar, Claim, ClaimedFigure, Experiment, FOLDER, Row};
pub use results::{Figures, Results, Run};
pub use run::{Reproduction, Verdict};
pub use table::{State, Table};
