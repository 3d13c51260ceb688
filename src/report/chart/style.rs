//! The style of all drawings, and drawings as files of their own.

use maud::{Markup, PreEscaped, html};

use crate::report::text::visible;

/// A drawing with what stands below it, as plain text.
pub(crate) struct Drawing {
    pub svg: Markup,
    pub caption: String,
    /// Width and height.
    pub size: [usize; 2],
}

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

/// A file with drawings below each other, each under its caption.
pub(crate) fn stacked(title: &str, drawings: &[Drawing]) -> String {
    let (mut width, mut height) = (0, 8);
    let mut place = |drawing: &Drawing| {
        let [across, down] = drawing.size;
        let top = height;
        width = width.max(across + 16).max(8 * drawing.caption.chars().count() + 16);
        height += down + 32;
        top
    };
    let body = html! {
        @for drawing in drawings {
            @let top = place(drawing);
            text x="8" y=(top + 12) { (drawing.caption) }
            svg x="8" y=(top + 20) width=(drawing.size[0]) height=(drawing.size[1]) { (drawing.svg) }
        }
    };
    file(title, [width as f64, height as f64], body)
}
