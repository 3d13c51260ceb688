//! The accuracy of an experiment's rows as one SVG file, with its style inside, for light and dark: a dot for each seed, a line over
//! their spread, and marks for the float accuracy and the bar.

use super::table::{Spread, TableRow};
use crate::report::svg::nice_step;
use crate::report::text::{Escape, shorten};

const WIDTH: f64 = 720.0;
/// What the axis fills, from left to right.
const X: [f64; 2] = [250.0, 700.0];
/// Where rows begin, and from one to the next.
const TOP: f64 = 56.0;
const PITCH: f64 = 26.0;
/// Below the rows: the axis and the legend.
const FOOT: f64 = 62.0;

/// Characters that there is room for above the rows, in front of the axis, and on it.
const TITLE: usize = 92;
const LABEL: usize = 36;
const STATUS: usize = 70;

const STYLE: &str = "svg{background:#fff}text{font:12px system-ui,sans-serif;fill:#1b1f24}.title{font-weight:600}.end{text-anchor:end}\
    .middle{text-anchor:middle}.rule{stroke:#d5dae0}.spread{stroke:#2563eb;stroke-width:3;stroke-opacity:.4}.seed{fill:#2563eb}\
    .float{stroke:#6b7280;stroke-width:2;stroke-dasharray:3 2}.bar{stroke:#d9580c;stroke-width:2}.none{fill:#6b7280}\
    @media (prefers-color-scheme:dark){svg{background:#14171b}text{fill:#e4e8ed}.rule{stroke:#363d46}.spread{stroke:#6ba3ff}\
    .seed{fill:#6ba3ff}.float{stroke:#9aa3ad}.bar{stroke:#ff9a52}.none{fill:#9aa3ad}}";

/// The file.
pub(super) fn plot(title: &str, rows: &[TableRow]) -> String {
    let bottom = TOP + PITCH * rows.len() as f64;
    let height = bottom + FOOT;
    let float = |row: &TableRow| row.float_accuracy();
    let bar = |row: &TableRow| Some(row.float_accuracy()? - row.row.bar?.below);
    let shown = rows.iter().flat_map(|row| {
        let seeds = row.runs.iter().map(|run| run.accuracy);
        seeds.chain(float(row)).chain(bar(row)).collect::<Vec<_>>()
    });
    let scale = Scale::new(shown.collect());
    let mut body = String::new();
    for tick in scale.ticks() {
        let x = scale.place(tick);
        body += &format!(
            "<path class=\"rule\" d=\"M{x:.1} {}V{bottom}\"/><text class=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>\n",
            TOP - 6.0,
            bottom + 16.0,
            (tick * 100.0).round() / 100.0,
        );
    }
    for (index, row) in rows.iter().enumerate() {
        let middle = TOP + PITCH * (index as f64 + 0.5);
        let label = Escape(&row.row.label);
        body += &format!(
            "<text class=\"end\" x=\"{}\" y=\"{}\">{}</text>\n",
            X[0] - 10.0,
            middle + 4.0,
            Escape(&shorten(&row.row.label, LABEL, "…"))
        );
        let Some(Spread { mean, min, max }) = row.accuracy() else {
            let status = shorten(&row.status("not run yet"), STATUS, "…");
            body += &format!(
                "<text class=\"none\" x=\"{}\" y=\"{}\">{}</text>\n",
                X[0] + 6.0,
                middle + 4.0,
                Escape(&status)
            );
            continue;
        };
        body += &format!("<g><title>{label}: {mean:.2} % ({min:.2} to {max:.2})</title>");
        for (class, value) in [("float", float(row)), ("bar", bar(row))] {
            if let Some(value) = value {
                let x = scale.place(value);
                body += &format!("<path class=\"{class}\" d=\"M{x:.1} {}v16\"/>", middle - 8.0);
            }
        }
        body += &format!("<path class=\"spread\" d=\"M{:.1} {middle}H{:.1}\"/>", scale.place(min), scale.place(max));
        for run in &row.runs {
            body +=
                &format!("<circle class=\"seed\" cx=\"{:.1}\" cy=\"{middle}\" r=\"4\"/>", scale.place(run.accuracy));
        }
        body += "</g>\n";
    }
    let legend = bottom + 44.0;
    body += &format!(
        "<circle class=\"seed\" cx=\"{0}\" cy=\"{1}\" r=\"4\"/><text x=\"{2}\" y=\"{legend}\">a seed, last epoch</text>\n\
         <path class=\"float\" d=\"M{3} {4}v16\"/><text x=\"{5}\" y=\"{legend}\">float F</text>\n\
         <path class=\"bar\" d=\"M{6} {4}v16\"/><text x=\"{7}\" y=\"{legend}\">bar</text>\n\
         <text class=\"end\" x=\"{8}\" y=\"{legend}\">accuracy of the macro model, %</text>\n",
        X[0],
        legend - 4.0,
        X[0] + 10.0,
        X[0] + 135.0,
        legend - 12.0,
        X[0] + 142.0,
        X[0] + 205.0,
        X[0] + 212.0,
        X[1],
    );
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n<text class=\"title\" x=\"10\" y=\"24\">{1}</text>\n{body}</svg>\n",
        Escape(title),
        Escape(&shorten(title, TITLE, "…")),
    )
}

/// An axis from one round number to another that covers all values.
struct Scale {
    step: f64,
    /// In steps.
    range: [i64; 2],
}

impl Scale {
    /// Without values from 0 to 100.
    fn new(values: Vec<f64>) -> Self {
        let low = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let high = values.iter().copied().reduce(f64::max).unwrap_or(100.0);
        let step = nice_step(((high - low) / 7.0).max(0.1));
        let from = (low / step).floor() as i64;
        Self { step, range: [from, ((high / step).ceil() as i64).max(from + 1)] }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.range[0]..=self.range[1]).map(|tick| tick as f64 * self.step)
    }

    fn place(&self, value: f64) -> f64 {
        let [from, to] = self.range.map(|end| end as f64 * self.step);
        X[0] + (value - from) / (to - from) * (X[1] - X[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_covers_all_values_with_few_round_ticks() {
        for values in [vec![], vec![91.72], vec![88.2, 91.72], vec![10.0, 99.9], vec![91.7, 91.71], vec![50.0, 50.0]] {
            let scale = Scale::new(values.clone());
            let ticks: Vec<f64> = scale.ticks().collect();
            assert!((2..=9).contains(&ticks.len()), "{values:?}: {ticks:?}");
            assert!(values.iter().all(|value| (X[0]..=X[1]).contains(&scale.place(*value))), "{values:?}: {ticks:?}");
        }
    }
}
