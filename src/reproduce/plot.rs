//! The accuracy of an experiment's rows as one SVG file: a dot for each seed, a line over their spread, and marks for the float accuracy
//! and the bar.

use super::rows::{Spread, TableRow};
use crate::report::chart::{DotRow, Dots, dot_rows};

/// The file.
pub(super) fn plot(title: &str, rows: &[TableRow]) -> String {
    let rows: Vec<DotRow> = rows.iter().map(dot_row).collect();
    dot_rows(title, &rows, ["accuracy of the macro model, %", "a seed, last epoch", "float F", "bar"])
}

fn dot_row(row: &TableRow) -> DotRow {
    let label = row.row.label.clone();
    let Some(Spread { mean, min, max }) = row.accuracy() else {
        return DotRow { label, dots: Err(row.status("not run yet")) };
    };
    let title = format!("{label}: {mean:.2} % ({min:.2} to {max:.2})");
    let float = row.float_accuracy();
    let bar = float.zip(row.row.bar).map(|(float, bar)| float - bar.below);
    let values = row.runs.iter().map(|run| run.accuracy).collect();
    DotRow { label, dots: Ok(Dots { title, values, marks: [float, bar] }) }
}
