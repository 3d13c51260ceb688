//! Scatter plots as one SVG file of its own, with its style inside, for light and dark.

use super::svg::nice_step;
use super::text::{Escape, grouped};

/// An axis and how its numbers lie on it.
#[derive(Clone, Copy)]
pub(crate) struct Axis {
    pub name: &'static str,
    pub logarithmic: bool,
    /// Whether more is better.
    pub rising: bool,
}

/// A point of a plot.
pub(crate) struct Dot {
    pub x: f64,
    pub y: f64,
    /// Shown where a mouse rests on it.
    pub title: String,
}

/// Dots that are joined, in their order.
pub(crate) struct Line {
    /// For the legend, where there is more than one line.
    pub name: String,
    pub dots: Vec<usize>,
}

/// A scatter plot.
pub(crate) struct Scatter {
    pub title: String,
    pub axes: [Axis; 2],
    pub dots: Vec<Dot>,
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
/// What the points fill of a plot, from left to right and from bottom to top.
const X: [f64; 2] = [70.0, 620.0];
const Y: [f64; 2] = [345.0, 40.0];
/// Where the legend begins: at the bottom, where plots of what rises leave room.
const LEGEND: f64 = 290.0;

const STYLE: &str = "svg{background:#fff}text{font:12px system-ui,sans-serif;fill:#1b1f24}.title{font-weight:600}\
    .end{text-anchor:end}.middle{text-anchor:middle}.rule{stroke:#d5dae0;fill:none}.dot{fill:#2563eb;fill-opacity:.45}\
    .line{fill:none;stroke-width:2}.line0{stroke:#d9580c}.line1{stroke:#2563eb}.line2{stroke:#15803d}\
    .on0{fill:#d9580c}.on1{fill:#2563eb}.on2{fill:#15803d}\
    @media (prefers-color-scheme:dark){svg{background:#14171b}text{fill:#e4e8ed}.rule{stroke:#363d46}.dot{fill:#6ba3ff}\
    .line0{stroke:#ff9a52}.line1{stroke:#6ba3ff}.line2{stroke:#4ade80}.on0{fill:#ff9a52}.on1{fill:#6ba3ff}.on2{fill:#4ade80}}";
/// How many lines have a color of their own.
const COLORS: usize = 3;

/// Plots one above the other.
pub(crate) fn page(title: &str, plots: &[Scatter]) -> String {
    let height = HEIGHT * plots.len() as f64;
    let plots: String = (plots.iter().enumerate())
        .map(|(index, plot)| format!("<g transform=\"translate(0 {})\">\n{}</g>\n", HEIGHT * index as f64, plot.draw()))
        .collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n{plots}</svg>\n",
        Escape(title)
    )
}

/// The dots that no other one beats, from the best in x on; of equal ones the first.
pub(super) fn front([x, y]: [Axis; 2], dots: &[Dot]) -> Vec<usize> {
    let better = |axis: Axis, value: f64| if axis.rising { -value } else { value };
    let mut order: Vec<usize> = (0..dots.len()).collect();
    order.sort_by(|&a, &b| {
        let [a, b] = [&dots[a], &dots[b]];
        better(x, a.x).total_cmp(&better(x, b.x)).then(better(y, a.y).total_cmp(&better(y, b.y)))
    });
    let mut best = f64::INFINITY;
    order.retain(|&index| {
        let value = better(y, dots[index].y);
        let leads = value < best;
        best = best.min(value);
        leads
    });
    order
}

/// The numbers that an axis covers, on its scale, and those that are written beside it.
struct Scale {
    axis: Axis,
    range: [f64; 2],
    ticks: Vec<f64>,
}

impl Scale {
    fn new(axis: Axis, values: impl Iterator<Item = f64> + Clone) -> Self {
        let (low, high) = (values.clone().fold(f64::MAX, f64::min), values.fold(f64::MIN, f64::max));
        let ticks: Vec<f64> = if axis.logarithmic {
            let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
            let decades = (low..=high).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
            // Over many decades only their starts.
            decades.filter(|tick| high - low <= 3 || (tick.log10() - tick.log10().round()).abs() < 1e-9).collect()
        } else {
            let step = nice_step((high - low).max(1e-3 * high.abs()).max(1e-3) / 5.0);
            let first = (low / step).floor() as i64;
            (first..=((high / step).ceil() as i64).max(first + 1)).map(|tick| tick as f64 * step).collect()
        };
        // From the last tick that is not above all values to the first one that is not below.
        let from = ticks.iter().rposition(|tick| *tick <= low).unwrap_or(0);
        let to =
            ticks.iter().position(|tick| *tick >= high).unwrap_or(ticks.len() - 1).max(from + 1).min(ticks.len() - 1);
        let ticks = ticks[from..=to].to_vec();
        let place = |value: f64| if axis.logarithmic { value.log10() } else { value };
        Self { axis, range: [place(ticks[0]), place(ticks[ticks.len() - 1])], ticks }
    }

    fn place(&self, value: f64, [from, to]: [f64; 2]) -> f64 {
        let value = if self.axis.logarithmic { value.log10() } else { value };
        let [low, high] = self.range;
        from + (value - low) / (high - low).max(f64::MIN_POSITIVE) * (to - from)
    }
}

/// A tick's number, without needless digits.
fn number(value: f64) -> String {
    match value {
        value if value >= 1e3 => grouped(value.round() as u64),
        value => format!("{}", (value * 1e6).round() / 1e6),
    }
}

impl Scatter {
    fn draw(&self) -> String {
        let [x, y] = [
            Scale::new(self.axes[0], self.dots.iter().map(|dot| dot.x)),
            Scale::new(self.axes[1], self.dots.iter().map(|dot| dot.y)),
        ];
        let mut out = format!("<text class=\"title\" x=\"{}\" y=\"20\">{}</text>\n", X[0], Escape(&self.title));
        let mut put = |text: String| out.push_str(&text);
        for tick in &x.ticks {
            let at = x.place(*tick, X);
            put(format!(
                "<path class=\"rule\" d=\"M{at:.1} {}V{}\"/><text class=\"middle\" x=\"{at:.1}\" y=\"{}\">{}</text>\n",
                Y[0],
                Y[1],
                Y[0] + 17.0,
                number(*tick)
            ));
        }
        for tick in &y.ticks {
            let at = y.place(*tick, Y);
            put(format!(
                "<path class=\"rule\" d=\"M{} {at:.1}H{}\"/><text class=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>\n",
                X[0],
                X[1],
                X[0] - 6.0,
                at + 4.0,
                number(*tick)
            ));
        }
        put(format!("<text x=\"4\" y=\"34\">{}</text>\n", Escape(y.axis.name)));
        put(format!("<text class=\"end\" x=\"{}\" y=\"{}\">{}</text>\n", X[1], Y[0] + 38.0, Escape(x.axis.name)));
        for (index, dot) in self.dots.iter().enumerate() {
            let line = self.lines.iter().position(|line| line.dots.contains(&index));
            let class = line.map_or("dot".into(), |line| format!("on{}", line % COLORS));
            put(format!(
                "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"><title>{}</title></circle>\n",
                x.place(dot.x, X),
                y.place(dot.y, Y),
                Escape(&dot.title)
            ));
        }
        for (index, line) in self.lines.iter().enumerate() {
            let points = line.dots.iter().map(|&dot| &self.dots[dot]);
            let points: Vec<String> =
                points.map(|dot| format!("{:.1},{:.1}", x.place(dot.x, X), y.place(dot.y, Y))).collect();
            let color = index % COLORS;
            put(format!("<polyline class=\"line line{color}\" points=\"{}\"/>\n", points.join(" ")));
            if self.lines.len() > 1 {
                let top = LEGEND + 18.0 * index as f64;
                put(format!(
                    "<circle class=\"on{color}\" cx=\"{}\" cy=\"{top}\" r=\"4\"/><text class=\"end\" x=\"{}\" y=\"{}\">{}</text>\n",
                    X[1] - 10.0,
                    X[1] - 20.0,
                    top + 4.0,
                    Escape(&line.name)
                ));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> Scatter {
        let axis = |rising| Axis { name: "axis", logarithmic: true, rising };
        let dots: Vec<Dot> = points.iter().map(|&(x, y)| Dot { x, y, title: "<chip>".into() }).collect();
        let axes = [axis(false), axis(true)];
        let lines = vec![Line { name: "front".into(), dots: front(axes, &dots) }];
        Scatter { title: "plot".into(), axes, dots, lines }
    }

    #[test]
    fn the_front_holds_what_nothing_beats() {
        // Low x and high y are good.
        let plot = plot(&[(3.0, 5.0), (1.0, 2.0), (2.0, 2.0), (1.0, 1.0), (5.0, 9.0), (6.0, 9.0), (4.0, 4.0)]);
        assert_eq!(plot.lines[0].dots, [1, 0, 4]);
    }

    #[test]
    fn every_dot_lies_within_the_plot() {
        for points in [vec![(1.0, 1.0)], vec![(0.013, 7e5), (0.9, 2.0), (44.0, 1e9)], vec![(5.0, 50.0), (5.0, 50.0)]] {
            let text = page("<chip>", &[plot(&points)]);
            let values = |name: &str| {
                let start = format!(" {name}=\"");
                let parts = text.split(&start).skip(1);
                parts.map(|part| part.split('"').next().unwrap().parse::<f64>().unwrap()).collect::<Vec<_>>()
            };
            assert!(values("cx").iter().all(|x| (X[0] - 0.1..=X[1] + 0.1).contains(x)), "{text}");
            assert!(values("cy").iter().all(|y| (Y[1] - 0.1..=Y[0] + 0.1).contains(y)), "{text}");
            assert!(!text.contains("<chip>") && !text.contains("NaN"));
        }
    }
}
