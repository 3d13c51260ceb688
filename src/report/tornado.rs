//! Tornado plots as an SVG file of its own: how far a result swings when one unknown at a time goes through its range.

use super::svg::file;
use super::text::{Escape, shorten};

/// What a result becomes at both ends of an unknown's range.
#[derive(Clone, Debug)]
pub struct Swing {
    /// The unknown.
    pub unknown: String,
    /// The ends of its range, and the result there.
    pub ends: [(String, f64); 2],
}

const WIDTH: usize = 720;
/// What the bars may reach from left to right, with room for the ends' names.
const X: [f64; 2] = [300.0, 630.0];
const PITCH: usize = 26;
const TOP: usize = 46;

/// Draws swings round the result where nothing swings, the widest first; results in percent.
pub fn tornado(title: &str, center: f64, swings: &[Swing]) -> String {
    let width = |swing: &Swing| (swing.ends[0].1 - swing.ends[1].1).abs();
    let mut swings: Vec<&Swing> = swings.iter().collect();
    swings.sort_by(|a, b| width(b).total_cmp(&width(a)));
    let values = || swings.iter().flat_map(|swing| swing.ends.iter().map(|(_, value)| *value)).chain([center]);
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    let x = |value: f64| X[0] + (value - low) / (high - low).max(f64::MIN_POSITIVE) * (X[1] - X[0]);
    let bottom = TOP + PITCH * swings.len();

    let mut out = format!(
        "<text x=\"8\" y=\"20\" style=\"font-weight:600\">{}</text>\n\
         <path class=\"rule\" d=\"M{1:.1} {2}V{bottom}\"/><text class=\"middle\" x=\"{1:.1}\" y=\"{3}\">{center:+.1} %</text>\n",
        Escape(title),
        x(center),
        TOP - 6,
        TOP - 10,
    );
    for (index, swing) in swings.iter().enumerate() {
        let top = TOP + index * PITCH;
        let mut ends = [&swing.ends[0], &swing.ends[1]];
        ends.sort_by(|a, b| a.1.total_cmp(&b.1));
        let [left, right] = ends.map(|(name, value)| (shorten(name, 16, "…"), *value));
        out += &format!(
            "<g><title>{name}: {:+.1} % at {}, {:+.1} % at {}</title><text x=\"8\" y=\"{}\">{}</text>\
             <rect class=\"bar\" x=\"{:.1}\" y=\"{}\" width=\"{:.1}\" height=\"16\"/>\
             <text class=\"end\" x=\"{:.1}\" y=\"{4}\">{1}</text><text x=\"{:.1}\" y=\"{4}\">{3}</text></g>\n",
            left.1,
            Escape(&left.0),
            right.1,
            Escape(&right.0),
            top + 16,
            Escape(&shorten(&swing.unknown, 26, "…")),
            x(left.1),
            top + 4,
            (x(right.1) - x(left.1)).max(1.0),
            x(left.1) - 5.0,
            x(right.1) + 5.0,
            name = Escape(&swing.unknown),
        );
    }
    file(&out, [WIDTH, bottom + 12])
}
