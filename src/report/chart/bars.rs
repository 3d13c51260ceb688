//! Horizontal bars of shares.

use maud::html;

use super::style::Drawing;
use crate::report::text::shorten;

/// A bar.
pub(crate) struct Bar {
    pub label: String,
    /// Length, from 0 to 1.
    pub share: f64,
    /// What stands at the bar's end.
    pub text: String,
}

/// From one bar to the next.
const PITCH: usize = 24;
/// Where bars start and how far they may reach, in percent of the width; the rest is for their texts, which are as long as `12,345 of 67,890` on a phone.
const START: f64 = 40.0;
const REACH: f64 = 25.0;

/// Bars as wide as the page; their texts keep their size.
pub(crate) fn bars(title: &str, caption: &str, bars: &[Bar]) -> Drawing {
    let height = bars.len() * PITCH;
    let track = html! { rect.track x={ (START) "%" } y="4" width={ (REACH) "%" } height="16" {} };
    let svg = html! {
        svg.bars role="img" width="100%" height=(height) {
            title { (title) }
            @for (index, Bar { label, share, text }) in bars.iter().enumerate() {
                svg y=(index * PITCH) height=(PITCH) {
                    title { (label) ": " (text) }
                    // A label that is too long ends before its bar.
                    svg width={ (START - 1.0) "%" } { text y="16" { (shorten(label, 21, "…")) } }
                    (track)
                    rect.bar x={ (START) "%" } y="4" width={ (format!("{:.2}", REACH * share.clamp(0.0, 1.0))) "%" } height="16" {}
                    text x={ (START + REACH) "%" } dx="6" y="16" { (text) }
                }
            }
        }
    };
    Drawing { svg, caption: caption.into(), keys: Vec::new(), size: [640, height] }
}
