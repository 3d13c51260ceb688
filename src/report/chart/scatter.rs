//! Scatter plots, one above the other in a file.

use std::collections::HashSet;

use maud::{Markup, html};

use super::axis::{Axis, Scale};
use super::geometry::px;
use super::legend::{Legend, Symbol};
use super::style;
use crate::report::text::shorten;

/// What an axis shows.
#[derive(Clone, Copy)]
pub(crate) struct Quantity {
    pub name: &'static str,
    pub logarithmic: bool,
    /// Whether more is better.
    pub rising: bool,
}

impl Quantity {
    /// As it is written beside the axis.
    fn name(self) -> String {
        if self.logarithmic { format!("{}, log scale", self.name) } else { self.name.into() }
    }
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
    /// Of x and y.
    pub quantities: [Quantity; 2],
    pub dots: Vec<Dot>,
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 640.0;
/// Without a legend.
const HEIGHT: f64 = 400.0;
/// What the points fill, from left to right and from bottom to top.
const X: [f64; 2] = [70.0, 600.0];
const Y: [f64; 2] = [345.0, 52.0];
/// Characters that there is room for above the points.
const TITLE: usize = 88;
/// Dots that are all drawn; of more, those beside each other are one.
const MANY: usize = 5_000;
/// Dots whose places differ by less are beside each other, in pixels: less than a dot's width.
const BESIDE: f64 = 3.0;
/// Classes of lines, in turn.
const COLORS: [&str; 3] = ["two", "one", "three"];

/// The file.
pub(crate) fn scatters(title: &str, plots: &[Scatter]) -> String {
    let mut height = 0.0;
    let mut place = |plot: &Scatter| {
        let top = height;
        height += HEIGHT + plot.legend().height;
        top
    };
    let body = html! {
        @for plot in plots {
            g transform={ "translate(0 " (place(plot)) ")" } { (plot.draw()) }
        }
    };
    style::file(title, [WIDTH, height], body)
}

/// The dots that no other one beats, from the best in x on; of equal ones the first.
pub(crate) fn front([x, y]: [Quantity; 2], dots: &[Dot]) -> Vec<usize> {
    let better = |quantity: Quantity, value: f64| if quantity.rising { -value } else { value };
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

impl Scatter {
    /// The names of the lines, where there are several.
    fn legend(&self) -> Legend<'_> {
        let lines = self.lines.iter().enumerate().filter(|_| self.lines.len() > 1);
        Legend::new(lines.map(|(index, line)| (Symbol::Dot, dot_color(index), line.name.as_str())), X)
    }

    /// The class of a dot: of the first line that it is on, as dots that are on none are paler.
    fn color(&self, dot: usize) -> &'static str {
        let line = self.lines.iter().position(|line| line.dots.contains(&dot));
        line.map_or("dot pale one", |line| dot_color(line))
    }

    /// The dots that are drawn, in their order: those on lines lie above the others. Of many others that lie beside each other, the first is drawn.
    fn order(&self, place: impl Fn(&Dot) -> [f64; 2]) -> impl Iterator<Item = usize> {
        let mut on_line = vec![false; self.dots.len()];
        self.lines.iter().flat_map(|line| &line.dots).for_each(|dot| on_line[*dot] = true);
        let (above, mut below): (Vec<usize>, Vec<usize>) = (0..self.dots.len()).partition(|dot| on_line[*dot]);
        if self.dots.len() > MANY {
            let mut taken = HashSet::new();
            below.retain(|&dot| taken.insert(place(&self.dots[dot]).map(|at| (at / BESIDE) as i64)));
        }
        below.into_iter().chain(above)
    }

    fn draw(&self) -> Markup {
        let axis = |quantity: Quantity, values: Vec<f64>, span| {
            let scale =
                if quantity.logarithmic { Scale::logarithmic(values) } else { Scale::covering(values, 5.0, 1e-3) };
            Axis { scale, span }
        };
        let [across, up] = self.quantities;
        let x = axis(across, self.dots.iter().map(|dot| dot.x).collect(), X);
        let y = axis(up, self.dots.iter().map(|dot| dot.y).collect(), Y);
        html! {
            text.title x="8" y="20" { (shorten(&self.title, TITLE, "…")) }
            (x.horizontal(Y[0], Some(Y[1])))
            (y.vertical(X[0], X[1]))
            text x="8" y="42" { (up.name()) }
            text.end x=(X[1]) y=(Y[0] + 38.0) { (across.name()) }
            @for (index, line) in self.lines.iter().enumerate() {
                polyline class={ "line " (COLORS[index % COLORS.len()]) } points={
                    @for dot in line.dots.iter().map(|&dot| &self.dots[dot]) { (px(x.at(dot.x))) "," (px(y.at(dot.y))) " " }
                } {}
            }
            @for index in self.order(|dot| [x.at(dot.x), y.at(dot.y)]) {
                @let dot = &self.dots[index];
                g { title { (dot.title) } (Symbol::Dot.draw(self.color(index), x.at(dot.x), y.at(dot.y))) }
            }
            (self.legend().draw(HEIGHT - 4.0))
        }
    }
}

/// The class of dots on a line.
fn dot_color(line: usize) -> &'static str {
    ["dot two", "dot one", "dot three"][line % COLORS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> Scatter {
        let quantity = |rising| Quantity { name: "quantity", logarithmic: true, rising };
        let dots: Vec<Dot> = points.iter().map(|&(x, y)| Dot { x, y, title: "<chip>".into() }).collect();
        let quantities = [quantity(false), quantity(true)];
        let lines = vec![Line { name: "front".into(), dots: front(quantities, &dots) }];
        Scatter { title: "plot".into(), quantities, dots, lines }
    }

    #[test]
    fn the_front_holds_what_nothing_beats() {
        // Low x and high y are good.
        let plot = plot(&[(3.0, 5.0), (1.0, 2.0), (2.0, 2.0), (1.0, 1.0), (5.0, 9.0), (6.0, 9.0), (4.0, 4.0)]);
        assert_eq!(plot.lines[0].dots, [1, 0, 4]);
        assert_eq!(
            plot.order(|_| [0.0; 2]).collect::<Vec<_>>(),
            [2, 3, 5, 6, 0, 1, 4],
            "those on the line lie above the others"
        );
    }

    #[test]
    fn a_plot_of_many_dots_stays_small_and_keeps_its_front() {
        let many: Vec<(f64, f64)> =
            (0..100_000).map(|i| (1.0 + f64::from(i % 317), 1.0 + f64::from(i / 317))).collect();
        let plot = plot(&many);
        let text = scatters("plot", std::slice::from_ref(&plot));
        let drawn = text.matches("<circle").count();
        assert!((1_000..25_000).contains(&drawn), "{drawn}");
        assert_eq!(text.matches("class=\"dot two\"").count(), plot.lines[0].dots.len());
    }

    #[test]
    fn every_dot_lies_within_the_plot() {
        for points in [vec![(1.0, 1.0)], vec![(0.013, 7e5), (0.9, 2.0), (44.0, 1e9)], vec![(5.0, 50.0), (5.0, 50.0)]] {
            let text = scatters("<chip>", &[plot(&points)]);
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
