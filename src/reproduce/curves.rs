//! The curves of an experiment: accuracy against cycles, as one SVG file.

use super::rows::TableRow;
use crate::report::chart::{Dot, Line, Quantity, Scatter, scatters};

const CYCLES: Quantity =
    Quantity { name: "cycles of a frame, weight reload charged", logarithmic: false, rising: false };
const ACCURACY: Quantity = Quantity { name: "accuracy of the macro model, %", logarithmic: false, rising: true };

/// The file: the finished rows of each curve, joined in the order of their cycles; none if no such row is finished.
pub(super) fn curves(title: &str, rows: &[TableRow]) -> Option<String> {
    let mut dots = Vec::new();
    let mut lines: Vec<Line> = Vec::new();
    for row in rows {
        let (Some(curve), Some(accuracy), Some(x)) =
            (&row.row.curve, row.accuracy(), row.of_first_seed(|run| run.cost.cycles))
        else {
            continue;
        };
        let line = lines.iter().position(|line| line.name == *curve).unwrap_or_else(|| {
            lines.push(Line { name: curve.clone(), dots: Vec::new() });
            lines.len() - 1
        });
        lines[line].dots.push(dots.len());
        let y = accuracy.mean;
        dots.push(Dot { x, y, title: format!("{}: {y:.2} %, {x:.0} cycles", row.row.label) });
    }
    for line in &mut lines {
        line.dots.sort_by(|&a, &b| dots[a].x.total_cmp(&dots[b].x));
    }
    let plot = Scatter { title: title.into(), quantities: [CYCLES, ACCURACY], dots, lines };
    (!plot.dots.is_empty()).then(|| scatters(title, &[plot]))
}
