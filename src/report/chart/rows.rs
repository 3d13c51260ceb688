//! Rows of dots on one axis, as a file.

use maud::{Markup, html};

use super::axis::{Axis, Scale};
use super::geometry::px;
use super::legend::{Legend, Symbol};
use super::style;
use crate::report::text::shorten;

/// A row of a dot plot.
pub(crate) struct DotRow {
    pub label: String,
    /// Shown where a mouse rests on the row.
    pub title: String,
    /// At least one; a line joins the least and the largest.
    pub values: Vec<f64>,
    /// Values that dots are compared with, one for each mark of the plot.
    pub marks: [Option<f64>; 2],
}

const WIDTH: f64 = 820.0;
/// What the axis fills, from left to right.
const X: [f64; 2] = [350.0, 790.0];
/// Where rows begin, and from one to the next.
const TOP: f64 = 44.0;
const PITCH: f64 = 26.0;
/// Below the rows: the axis and its name.
const FOOT: f64 = 60.0;
/// Characters that there is room for: above the rows, and in front of the axis.
const TITLE: usize = 100;
const LABEL: usize = 52;
/// Classes of the marks.
const MARKS: [&str; 2] = ["mark soft", "mark two"];

/// The file. `names` are those of the axis, of a dot, and of the marks.
pub(crate) fn dot_rows(title: &str, rows: &[DotRow], [axis, dot, mark, other]: [&str; 4]) -> String {
    let bottom = TOP + PITCH * rows.len() as f64;
    let mut values: Vec<f64> =
        rows.iter().flat_map(|row| row.values.iter().copied().chain(row.marks.into_iter().flatten())).collect();
    if values.is_empty() {
        values.extend([0.0, 100.0]);
    }
    let x = Axis { scale: Scale::covering(values, 7.0, 0.1), span: X };
    let entries = [(Symbol::Dot, "dot one", dot), (Symbol::Mark, MARKS[0], mark), (Symbol::Mark, MARKS[1], other)];
    let legend = Legend::new(entries, X);
    let body = html! {
        text.title x="8" y="24" { (shorten(title, TITLE, "…")) }
        (x.horizontal(bottom, Some(TOP)))
        text.end x=(X[1]) y=(bottom + 38.0) { (axis) }
        @for (index, row) in rows.iter().enumerate() {
            @let middle = TOP + PITCH * (index as f64 + 0.5);
            text.end x=(X[0] - 10.0) y=(middle + 4.0) { (shorten(&row.label, LABEL, "…")) }
            (row.draw(&x, middle))
        }
        (legend.draw(bottom + 52.0))
    };
    style::file(title, [WIDTH, bottom + FOOT + legend.height], body)
}

impl DotRow {
    fn draw(&self, x: &Axis, middle: f64) -> Markup {
        let end = |choose: fn(f64, f64) -> f64| self.values.iter().copied().reduce(choose).map(|value| px(x.at(value)));
        html! {
            g {
                title { (self.title) }
                @for (value, class) in self.marks.iter().zip(MARKS) {
                    @if let Some(value) = value { (Symbol::Mark.draw(class, x.at(*value), middle)) }
                }
                @if let (Some(left), Some(right)) = (end(f64::min), end(f64::max)) {
                    path.spread d={ "M" (left) " " (middle) "H" (right) } {}
                }
                @for value in &self.values { (Symbol::Dot.draw("dot one", x.at(*value), middle)) }
            }
        }
    }
}
