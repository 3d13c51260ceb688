//! What cores and macros do, cycle by cycle.

use maud::{Markup, html};

use super::elements::{drawn, legend, section};
use crate::report::chart::Drawing;
use crate::report::{Subject, drawings};

pub(super) fn timeline(subject: Subject) -> Markup {
    let figure = |drawing: Drawing, note: &str| {
        html! {
            figure {
                (legend(&drawing.keys))
                (drawn(&drawing.svg))
                figcaption { (drawing.caption) " " (note) }
            }
        }
    };
    let frame = figure(
        drawings::frame(subject),
        "A row is a macro, numbered core.macro; a stripe is a layer, whose name stands above it where there is room. A core's macros \
         load one after the other, and may load while those of an earlier layer compute. Macros that do the same share a row (×).",
    );
    let layer =
        figure(drawings::layer(subject), "The paler, the smaller the share of the time in which a part is busy.");
    section("What cores and macros do", html! { (frame) (layer) })
}
