//! The accuracy of an experiment's rows that have run as one SVG file: a dot for each seed, a line over their spread, and marks for the float accuracy
//! and the bar.

use super::rows::{Spread, TableRow};
use crate::report::chart::{DotRow, dot_rows};

/// The file.
pub(super) fn plot(title: &str, rows: &[TableRow]) -> String {
    let rows: Vec<DotRow> = rows.iter().filter_map(dot_row).collect();
    dot_rows(title, &rows, ["accuracy of the macro model, %", "a seed, last epoch", "float F", "bar"])
}

/// None of a row that has no run.
fn dot_row(row: &TableRow) -> Option<DotRow> {
    let Spread { mean, min, max } = row.accuracy()?;
    let label = row.row.label.clone();
    let title = format!("{label}: {mean:.2} % ({min:.2} to {max:.2})");
    let float = row.float_accuracy();
    let bar = float.zip(row.row.bar).map(|(float, bar)| float - bar.below);
    Some(DotRow { label, title, values: row.runs.iter().map(|run| run.accuracy).collect(), marks: [float, bar] })
}
