//! Drawings as inline SVG. They carry classes, not colors: the page's style gives those, for light and dark.
//!
//! Texts that are passed in are escaped here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use super::drawings::Drawing;
use super::text::{Escape, grouped, shorten};

/// A bar of a horizontal bar chart.
pub(super) struct Bar {
    pub label: String,
    /// Length, from 0 to 1.
    pub share: f64,
    /// What stands at the bar's end.
    pub text: String,
}

/// Pixels from one bar to the next.
const BAR_PITCH: usize = 24;
/// Where bars start and how far they may reach, in percent of the width; the rest is for their texts.
const BAR_START: f64 = 40.0;
const BAR_REACH: f64 = 34.0;

/// Pixels that [`bars`] take where there is room.
pub(super) fn bars_size(bars: &[Bar]) -> [usize; 2] {
    [640, bars.len() * BAR_PITCH]
}

/// A horizontal bar chart as wide as the page; its texts keep their size.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let rows: String = bars
        .iter()
        .enumerate()
        .map(|(index, bar)| {
            let top = index * BAR_PITCH;
            let (label, text) = (Escape(&bar.label), Escape(&bar.text));
            let short = shorten(&bar.label, 21, "…");
            let length = BAR_REACH * bar.share.clamp(0.0, 1.0);
            format!(
                "<g><title>{label}: {text}</title><svg y=\"{top}\" width=\"{}%\" height=\"{BAR_PITCH}\"><text y=\"16\">{}</text></svg>\
                 <rect class=\"track\" x=\"{BAR_START}%\" y=\"{}\" width=\"{BAR_REACH}%\" height=\"16\"/>\
                 <rect class=\"bar\" x=\"{BAR_START}%\" y=\"{}\" width=\"{length:.2}%\" height=\"16\"/>\
                 <text x=\"{}%\" dx=\"6\" y=\"{}\">{text}</text></g>\n",
                BAR_START - 1.0,
                Escape(&short),
                top + 4,
                top + 4,
                BAR_START + BAR_REACH,
                top + 16,
            )
        })
        .collect();
    format!(
        "<svg class=\"bars\" role=\"img\" width=\"100%\" height=\"{}\"><title>{}</title>\n{rows}</svg>\n",
        bars.len() * BAR_PITCH,
        Escape(title),
    )
}

/// A curve of a line chart: one value an epoch.
pub(super) struct Curve<'a> {
    /// Number of the style, from 1.
    pub style: usize,
    pub name: &'a str,
    pub values: Vec<f64>,
}

/// Size of a line chart, and the area within it that curves fill.
const CHART: [f64; 2] = [400.0, 230.0];
const CHART_X: [f64; 2] = [44.0, 390.0];
const CHART_Y: [f64; 2] = [196.0, 24.0];
/// With more epochs than this, points are not marked.
const MARKED_EPOCHS: usize = 40;

/// A line chart over epochs; `phases` are names with the index of their first epoch.
pub(super) fn curves(title: &str, unit: &str, curves: &[Curve], phases: &[(usize, &str)]) -> String {
    let epochs = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0);
    let values = || curves.iter().flat_map(|curve| curve.values.iter().copied());
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    let step = nice_step((high - low) / 4.0);
    let (low, high) = ((low / step).floor() * step, (high / step).ceil().max((low / step).floor() + 1.0) * step);
    let place = |share: f64, [from, to]: [f64; 2]| from + share * (to - from);
    let x = |epoch: usize| match epochs {
        0 | 1 => place(0.5, CHART_X),
        _ => place(epoch as f64 / (epochs - 1) as f64, CHART_X),
    };
    let y = |value: f64| place((value - low) / (high - low), CHART_Y);

    let [width, height] = CHART;
    let mut out = format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {width} {height}\"><title>{}</title>\n",
        Escape(title)
    );
    let mut put = |text: String| out.push_str(&text);
    let digits = (0..6).find(|&digits| step * 10f64.powi(digits) >= 0.999).unwrap_or(6) as usize;
    for tick in 0..=((high - low) / step).round().min(20.0) as usize {
        let value = low + tick as f64 * step;
        put(format!(
            "<path class=\"rule\" d=\"M{} {:.1}H{}\"/><text class=\"end\" x=\"{}\" y=\"{:.1}\">{value:.digits$}</text>\n",
            CHART_X[0],
            y(value),
            CHART_X[1],
            CHART_X[0] - 5.0,
            y(value) + 4.0,
        ));
    }
    put(format!("<text x=\"4\" y=\"10\">{}</text>\n", Escape(unit)));
    let epoch_step = (nice_step(epochs as f64 / 6.0) as usize).max(1);
    let ticks = (1..=epochs).filter(|epoch| *epoch == 1 || epoch.is_multiple_of(epoch_step));
    for epoch in ticks.filter(|epoch| *epoch > 1 || epoch_step < 5 || epochs < 5) {
        put(format!("<text class=\"middle\" x=\"{:.1}\" y=\"{}\">{epoch}</text>\n", x(epoch - 1), CHART_Y[0] + 15.0,));
    }
    put(format!("<text class=\"middle\" x=\"{}\" y=\"{}\">epoch</text>\n", place(0.5, CHART_X), height - 4.0,));
    for &(first, phase) in phases {
        // Between the last epoch of a phase and the first of the next.
        let at = if first == 0 { CHART_X[0] } else { (x(first - 1) + x(first)) / 2.0 };
        put(format!(
            "<path class=\"phase\" d=\"M{at:.1} {}V{}\"/><text class=\"phase\" x=\"{:.1}\" y=\"{}\">{}</text>\n",
            CHART_Y[0],
            CHART_Y[1],
            at + 3.0,
            CHART_Y[1] - 4.0,
            Escape(&shorten(phase, 12, "…")),
        ));
    }
    for Curve { style, name, values } in curves {
        let points: Vec<String> =
            values.iter().enumerate().map(|(epoch, value)| format!("{:.1},{:.1}", x(epoch), y(*value))).collect();
        put(format!(
            "<g class=\"curve c{style}\"><title>{}</title><polyline points=\"{}\"/>",
            Escape(name),
            points.join(" ")
        ));
        if points.len() <= MARKED_EPOCHS {
            for (epoch, value) in values.iter().enumerate() {
                put(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>", x(epoch), y(*value)));
            }
        }
        put("</g>\n".into());
    }
    out + "</svg>\n"
}

/// The next of 1, 2, 5, 10, 20, ... from `least` on.
pub(crate) fn nice_step(least: f64) -> f64 {
    if !least.is_normal() || least < 1e-6 {
        return 1.0;
    }
    let power = 10f64.powi(least.log10().floor() as i32);
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

/// A stretch of time in a row of a [`timeline`].
pub(super) struct Stretch {
    pub row: usize,
    /// Number of its color, from 0.
    pub kind: usize,
    pub start: u64,
    pub end: u64,
}

/// Pixels of a timeline: the rows' labels, each row with the gap below it, and the axis below.
const ROW_LABELS: usize = 86;
const ROW: usize = 18;
const ROW_PITCH: usize = 22;
const AXIS: usize = 34;
/// Pixels that a layer's name takes, lying on its side.
const LAYER_LABEL: f64 = 11.0;
/// Characters of it that are shown, and pixels of each.
const LAYER_NAME: usize = 18;
const CHARACTER: usize = 7;
/// Coordinates of stretches are in tenths of a pixel.
const TENTHS: f64 = 10.0;

/// Rows over time in cycles, from the first of `shown` to its end; `layers` are names with first and last cycle, `kinds` the classes
/// of stretches, which lie within `shown`.
pub(super) fn timeline(
    title: &str,
    rows: &[String],
    shown: Range<u64>,
    layers: &[(&str, u64, u64)],
    kinds: &[&str],
    stretches: &[Stretch],
) -> (String, [usize; 2]) {
    let cycles = (shown.end - shown.start).max(1);
    let plot = (13 * layers.len()).clamp(860, 4000);
    let names = layers.iter().map(|(name, ..)| name.chars().count().min(LAYER_NAME));
    let labels = CHARACTER * names.max().unwrap_or(0) + 8;
    let (width, height) = (ROW_LABELS + plot + 10, labels + rows.len() * ROW_PITCH + AXIS);
    let x = |cycle: u64| ROW_LABELS as f64 + (cycle - shown.start) as f64 / cycles as f64 * plot as f64;
    let top = |row: usize| labels + row * ROW_PITCH;
    let bottom = top(rows.len());

    let mut out = format!(
        "<svg class=\"timeline\" role=\"img\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\"><title>{}</title>\n",
        Escape(title)
    );
    let mut put = |text: String| out.push_str(&text);
    for (index, &(name, start, end)) in layers.iter().enumerate() {
        let (left, right) = (x(start), x(end));
        put(format!(
            "<g><title>{}: cycles {} to {}</title><rect class=\"band{}\" x=\"{left:.1}\" y=\"{labels}\" width=\"{:.1}\" height=\"{}\"/>",
            Escape(name),
            grouped(start),
            grouped(end),
            index % 2,
            right - left,
            bottom - labels,
        ));
        if right - left >= LAYER_LABEL {
            let middle = (left + right) / 2.0 + 4.0;
            put(format!(
                "<text transform=\"translate({middle:.1} {}) rotate(-90)\">{}</text>",
                labels - 5,
                Escape(&shorten(name, LAYER_NAME, "…")),
            ));
        }
        put("</g>\n".into());
    }
    for (row, name) in rows.iter().enumerate() {
        put(format!("<text class=\"end\" x=\"{}\" y=\"{}\">{}</text>\n", ROW_LABELS - 6, top(row) + 14, Escape(name),));
    }
    let tenths = |cycle| (TENTHS * x(cycle)).round() as i64;
    let mut lines: BTreeMap<(usize, usize), Vec<(i64, i64)>> = BTreeMap::new();
    for stretch in stretches {
        let span = (tenths(stretch.start), tenths(stretch.end));
        lines.entry((stretch.kind, stretch.row)).or_default().push(span);
    }
    for ((kind, row), spans) in lines {
        let (class, path) = (kinds[kind], line(spans.into_iter(), top(row) as f64 + ROW as f64 / 2.0 + 2.0));
        put(format!("<path class=\"span {class}\" transform=\"scale(.1 1)\" stroke-width=\"{ROW}\" d=\"{path}\"/>\n"));
    }
    let step = nice_step(cycles as f64 / 8.0).max(1.0) as u64;
    for cycle in (shown.start.div_ceil(step)..=shown.end / step).map(|tick| tick * step) {
        put(format!(
            "<path class=\"rule\" d=\"M{0:.1} {bottom}v5\"/><text class=\"middle\" x=\"{0:.1}\" y=\"{1}\">{2}</text>\n",
            x(cycle),
            bottom + 17,
            grouped(cycle),
        ));
    }
    put(format!("<text class=\"middle\" x=\"{}\" y=\"{}\">cycles</text>\n", ROW_LABELS + plot / 2, bottom + 31,));
    (out + "</svg>\n", [width, height])
}

/// Path data of horizontal strokes `from..to` at one height.
fn line(strokes: impl Iterator<Item = (i64, i64)>, y: f64) -> String {
    let (mut path, mut pen) = (String::new(), None);
    for (from, to) in strokes {
        // Writing to a string cannot fail.
        let _ = match pen {
            None => write!(path, "M{from} {y}h{}", to - from),
            Some(pen) if pen == from => write!(path, "h{}", to - from),
            Some(pen) => write!(path, "m{} 0h{}", from - pen, to - from),
        };
        pen = Some(to);
    }
    path
}

/// A drawing as a file of its own: with its namespace and the page's style. `size` in pixels.
pub(super) fn file(drawing: &str, [width, height]: [usize; 2]) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <style>\n{}svg{{background:var(--page)}}\n</style>\n{drawing}</svg>\n",
        include_str!("style.css"),
    )
}

/// Drawings below each other, each under its caption. Gives the size, too.
pub(super) fn stacked(drawings: &[Drawing]) -> (String, [usize; 2]) {
    let (mut out, mut width, mut top) = (String::new(), 0, 8);
    for Drawing { caption, svg, size: [across, down] } in drawings {
        let _ = write!(
            out,
            "<text x=\"8\" y=\"{}\">{}</text>\n<svg x=\"8\" y=\"{}\" width=\"{across}\" height=\"{down}\">\n{}</svg>\n",
            top + 12,
            Escape(caption),
            top + 20,
            svg.0,
        );
        width = width.max(across + 16).max(8 * caption.chars().count() + 16);
        top += down + 32;
    }
    (out, [width, top])
}

/// Shades of a grid's cells: how full a cell is where it stands for several groups.
pub(super) const SHADES: usize = 4;

/// Up to so many rows of a grid are parted by rules.
const RULED_ROWS: usize = 20;

/// Pixels that a [`grid`] takes where there is room. Few cells are drawn large.
pub(super) fn grid_size(cells: &[Vec<f64>]) -> [usize; 2] {
    let pitch = match cells.len() {
        0..=8 => 10,
        9..=20 => 6,
        _ => 4,
    };
    [10 * cells.first().map_or(0, Vec::len), pitch * cells.len()]
}

/// A grid of cells, `[row][column]`, each with the share of what it stands for, from 0 to 1; a rule after each `block` columns.
pub(super) fn grid(title: &str, cells: &[Vec<f64>], block: usize) -> String {
    let (rows, columns) = (cells.len(), cells.first().map_or(0, Vec::len));
    let [width, height] = grid_size(cells);
    let mut paths = String::new();
    for shade in 1..=SHADES {
        let mut path = String::new();
        for (row, cells) in cells.iter().enumerate() {
            let filled = |share: &f64| (share * SHADES as f64).ceil() as usize == shade;
            let mut column = 0;
            let runs = cells.chunk_by(|a, b| filled(a) == filled(b)).filter_map(|run| {
                let from = column;
                column += run.len() as i64;
                filled(&run[0]).then_some((from, column))
            });
            path += &line(runs, row as f64 + 0.5);
        }
        if !path.is_empty() {
            let _ = writeln!(paths, "<path class=\"kept s{shade}\" d=\"{path}\"/>");
        }
    }
    let blocks = (1..columns.div_ceil(block.max(1))).map(|index| (index * block) as i64);
    let mut rules = String::new();
    for column in blocks {
        let _ = write!(rules, "M{column} 0v{rows}");
    }
    for row in (1..rows).filter(|_| rows <= RULED_ROWS) {
        let _ = write!(rules, "M0 {row}h{columns}");
    }
    format!(
        "<svg class=\"grid\" role=\"img\" viewBox=\"0 0 {columns} {rows}\" preserveAspectRatio=\"none\" \
         width=\"{width}\" height=\"{height}\" style=\"width:min(100%,{width}px);height:{height}px\"><title>{}</title>\n\
         <rect class=\"track\" width=\"{columns}\" height=\"{rows}\"/>\n{paths}<path class=\"block\" d=\"{rules}\"/></svg>\n",
        Escape(title),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_that_touch_are_one_run_of_the_pen() {
        assert_eq!(line([(2, 5), (5, 6), (9, 10)].into_iter(), 0.5), "M2 0.5h3h1m3 0h1");
        assert_eq!(line(std::iter::empty(), 0.5), "");
    }

    #[test]
    fn steps_are_round_numbers() {
        assert_eq!([0.03, 0.9, 1.0, 1.1, 30.0, 600.0].map(nice_step), [0.05, 1.0, 1.0, 2.0, 50.0, 1000.0]);
        assert_eq!([0.0, f64::NAN, f64::INFINITY].map(nice_step), [1.0; 3]);
    }
}
