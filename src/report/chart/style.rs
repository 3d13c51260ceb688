//! The style of all drawings, and drawings as files of their own.

use maud::{Markup, PreEscaped, html};

use super::legend::{Legend, Symbol};
use crate::report::text::visible;

/// A drawing with what stands below it, as plain text.
pub(crate) struct Drawing {
    pub svg: Markup,
    pub caption: String,
    /// What its colors stand for: their classes and names.
    pub keys: Vec<Key>,
    /// Width and height.
    pub size: [usize; 2],
}

/// A color's class, and what it stands for.
pub(crate) type Key = (&'static str, &'static str);

/// Colors for light and dark, and the classes of charts.
pub(crate) const CSS: &str = include_str!("chart.css");

/// A file: with its namespace and the style.
pub(super) fn file(title: &str, [width, height]: [f64; 2], body: Markup) -> String {
    let svg = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) } role="img" {
            title { (title) }
            style { (PreEscaped(CSS)) "svg{background:var(--page)}" }
            (body)
        }
    };
    visible(&svg.0) + "\n"
}

/// Colors of keys that no other class has, in files.
const KEYS: &str =
    ".key.one{fill:var(--one)}.key.two{fill:var(--two)}.key.three{fill:var(--three)}.key.none{fill:var(--track)}";

/// A file with drawings below each other, each under its caption and its keys.
pub(crate) fn stacked(title: &str, drawings: &[Drawing]) -> String {
    let (mut width, mut height) = (0, 8);
    let mut place = |drawing: &Drawing| {
        let [across, down] = drawing.size;
        let top = height;
        width = width.max(across + 16).max(8 * drawing.caption.chars().count() + 16);
        let legend =
            Legend::new(drawing.keys.iter().map(|(class, name)| (Symbol::Square, *class, *name)), [8.0, width as f64]);
        height += down + 32 + legend.height as usize;
        (top, legend)
    };
    let body = html! {
        @if drawings.iter().any(|drawing| !drawing.keys.is_empty()) { style { (KEYS) } }
        @for drawing in drawings {
            @let (top, legend) = place(drawing);
            text x="8" y=(top + 12) { (drawing.caption) }
            (legend.draw(top as f64 + 16.0))
            svg x="8" y=(top + 20 + legend.height as usize) width=(drawing.size[0]) height=(drawing.size[1]) { (drawing.svg) }
        }
    };
    file(title, [width as f64, height as f64], body)
}
