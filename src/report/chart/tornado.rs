//! Tornado plots as a file: how far a result swings when one unknown at a time goes through its range.

use maud::html;

use super::axis::{Axis, Scale};
use super::geometry::px;
use super::style;
use crate::report::text::shorten;

/// What a result becomes at both ends of an unknown's range.
#[derive(Clone, Debug)]
pub struct Swing {
    /// The unknown.
    pub unknown: String,
    /// The ends of its range, and the result there.
    pub ends: [(String, f64); 2],
}

const WIDTH: f64 = 740.0;
/// What the axis fills from left to right, with room for the ends' names.
const X: [f64; 2] = [310.0, 620.0];
/// Where rows begin, and from one to the next.
const TOP: f64 = 46.0;
const PITCH: f64 = 26.0;
/// Below the rows: the axis and its name.
const FOOT: f64 = 48.0;
/// Characters that there is room for: in front of the axis, and at the ends of a bar.
const LABEL: usize = 26;
const END: usize = 16;

/// Draws swings round the result where nothing swings, the widest first; results in percent.
pub fn tornado(title: &str, center: f64, swings: &[Swing]) -> String {
    let width = |swing: &Swing| (swing.ends[0].1 - swing.ends[1].1).abs();
    let mut swings: Vec<&Swing> = swings.iter().collect();
    swings.sort_by(|a, b| width(b).total_cmp(&width(a)));
    let values = swings.iter().flat_map(|swing| swing.ends.iter().map(|(_, value)| *value)).chain([center]);
    let x = Axis { scale: Scale::covering(values, 5.0, 0.1), span: X };
    let bottom = TOP + PITCH * swings.len() as f64;
    let bar = |swing: &Swing, top: f64| {
        let [mut left, mut right] = [&swing.ends[0], &swing.ends[1]];
        if left.1 > right.1 {
            std::mem::swap(&mut left, &mut right);
        }
        let [from, to] = [left, right].map(|(_, value)| x.at(*value));
        let [low, high] = [left, right].map(|(_, value)| format!("{value:+.1} %"));
        html! {
            g {
                title { (swing.unknown) ": " (low) " at " (left.0) ", " (high) " at " (right.0) }
                text x="8" y=(top + 16.0) { (shorten(&swing.unknown, LABEL, "…")) }
                rect.bar x=(px(from)) y=(top + 4.0) width=(px((to - from).max(1.0))) height="16" {}
                text.end x=(px(from - 5.0)) y=(top + 16.0) { (shorten(&left.0, END, "…")) }
                text x=(px(to + 5.0)) y=(top + 16.0) { (shorten(&right.0, END, "…")) }
            }
        }
    };
    let body = html! {
        text.title x="8" y="20" { (title) }
        (x.horizontal(bottom, Some(TOP)))
        text.end x=(X[1]) y=(bottom + 38.0) { "%" }
        path.center d={ "M" (px(x.at(center))) " " (TOP - 4.0) "V" (bottom) } {}
        text.middle x=(px(x.at(center))) y=(TOP - 8.0) { (format!("{center:+.1} %")) }
        @for (index, swing) in swings.iter().enumerate() { (bar(swing, TOP + PITCH * index as f64)) }
    };
    style::file(title, [WIDTH, bottom + FOOT], body)
}
