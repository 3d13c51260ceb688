//! Rows over time: what is busy when.

use std::collections::BTreeMap;
use std::ops::Range;

use maud::{Markup, html};

use super::axis::{Axis, Scale};
use super::geometry::{px, strokes, text_width};
use super::style::Drawing;
use crate::report::text::{grouped, shorten};

/// What a stretch of time is spent on; later ones are drawn over earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Color {
    Load,
    Compute,
    Port,
}

impl Color {
    fn class(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Compute => "compute",
            Self::Port => "port",
        }
    }
}

/// A stretch of time in a row.
pub(crate) struct Stretch {
    pub row: usize,
    pub color: Color,
    /// From 1 to [`SHADES`](super::mask::SHADES).
    pub shade: usize,
    pub start: u64,
    pub end: u64,
}

/// The rows' labels, each row with the gap below it, and the axis below.
const LEFT: usize = 112;
const RIGHT: usize = 36;
const ROW: usize = 18;
const PITCH: usize = 22;
const FOOT: usize = 36;
/// What a layer's name takes, lying on its side, and characters of it that are shown.
const LAYER_LABEL: f64 = 13.0;
const LAYER_NAME: usize = 18;

/// Rows over time in cycles, from the first of `shown` to its end; `layers` are names with first and last cycle. Stretches lie within
/// `shown`, ascending by their starts.
pub(crate) fn timeline(
    caption: String,
    rows: &[String],
    shown: Range<u64>,
    layers: &[(&str, u64, u64)],
    stretches: &[Stretch],
) -> Drawing {
    let plot = (13 * layers.len()).clamp(860, 4000);
    let names: Vec<String> = layers.iter().map(|(name, ..)| shorten(name, LAYER_NAME, "…")).collect();
    let top = names.iter().map(|name| text_width(name)).fold(0.0, f64::max) as usize + 8;
    let bottom = top + rows.len() * PITCH;
    let [width, height] = [LEFT + plot + RIGHT, bottom + FOOT];
    let x = Axis { scale: Scale::within([shown.start, shown.end], 8), span: [LEFT as f64, (LEFT + plot) as f64] };
    let at = |cycle: u64| x.at(cycle as f64);
    let svg = html! {
        svg.timeline role="img" width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) } {
            title { (caption) }
            @for (index, (&(name, start, end), short)) in layers.iter().zip(&names).enumerate() {
                @let (left, right) = (at(start), at(end));
                g {
                    title { (name) ": cycles " (grouped(start)) " to " (grouped(end)) }
                    rect class={ "band" (index % 2) } x=(px(left)) y=(top) width=(px(right - left)) height=(bottom - top) {}
                    @if right - left >= LAYER_LABEL {
                        text transform={ "translate(" (px((left + right) / 2.0 + 4.0)) " " (top - 5) ") rotate(-90)" } { (short) }
                    }
                }
            }
            @for (row, name) in rows.iter().enumerate() {
                text.end x=(LEFT - 6) y=(top + row * PITCH + 14) { (name) }
            }
            (self::stretches(stretches, &x, top))
            (x.horizontal(bottom as f64, None))
            text.middle x=(LEFT + plot / 2) y=(bottom + 32) { "cycles" }
        }
    };
    Drawing { svg, caption, keys: Vec::new(), size: [width, height] }
}

/// The stretches of a row in the same color as one path.
fn stretches(stretches: &[Stretch], x: &Axis, top: usize) -> Markup {
    // Tenths of a pixel as whole numbers keep paths short.
    let tenths = |cycle: u64| (10.0 * x.at(cycle as f64)).round() as i64;
    let mut paths: BTreeMap<(Color, usize, usize), Vec<(i64, i64)>> = BTreeMap::new();
    for &Stretch { row, color, shade, start, end } in stretches {
        paths.entry((color, shade, row)).or_default().push((tenths(start), tenths(end)));
    }
    html! {
        @for ((color, shade, row), spans) in paths {
            @let middle = (top + row * PITCH + ROW / 2 + 2) as f64;
            path class={ "span " (color.class()) " s" (shade) } transform="scale(.1 1)" stroke-width=(ROW) d=(strokes(spans.into_iter(), middle)) {}
        }
    }
}
