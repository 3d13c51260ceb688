//! Horizontal bars of several parts, on one scale.

use maud::html;

use super::geometry::px;
use super::style::{Drawing, Key};
use crate::report::text::shorten;

/// A bar with its parts, from the left.
pub(crate) struct Stack {
    pub label: String,
    /// What stands at the bar's end.
    pub text: String,
    /// Each part's length and what is shown where a mouse rests on it.
    pub parts: Vec<(f64, String)>,
}

/// Colors of parts, as classes.
pub(crate) const PARTS: [&str; 6] = ["part0", "part1", "part2", "part3", "part4", "part5"];
/// From one bar to the next.
const PITCH: usize = 20;
/// Where bars start and how far they may reach, in percent of the width; the rest is for their texts.
const START: f64 = 30.0;
const REACH: f64 = 46.0;

/// Bars as wide as the page, the longest as far as they may reach; their texts keep their size.
pub(crate) fn stacks(title: &str, caption: &str, stacks: &[Stack], keys: Vec<Key>) -> Drawing {
    let longest = stacks.iter().map(|stack| stack.parts.iter().map(|(length, _)| length).sum()).fold(0.0, f64::max);
    let share = |length: f64| if longest > 0.0 { REACH * length / longest } else { 0.0 };
    let height = stacks.len() * PITCH;
    let svg = html! {
        svg.bars role="img" width="100%" height=(height) {
            title { (title) }
            @for (index, Stack { label, text, parts }) in stacks.iter().enumerate() {
                svg y=(index * PITCH) height=(PITCH) {
                    svg width={ (START - 1.0) "%" } { text y="14" { (shorten(label, 21, "…")) } }
                    @let mut left = START;
                    @for (part, (length, name)) in parts.iter().enumerate() {
                        @let from = left;
                        @let width = share(*length);
                        ({ left += width; "" })
                        @if width > 0.0 {
                            rect class=(PARTS[part % PARTS.len()]) x={ (px(10.0 * from) / 10.0) "%" } y="3" width={ (format!("{width:.2}")) "%" } height="14" {
                                title { (label) ": " (name) }
                            }
                        }
                    }
                    text x={ (format!("{left:.2}")) "%" } dx="6" y="14" { (text) }
                }
            }
        }
    };
    Drawing { svg, caption: caption.into(), keys, size: [640, height] }
}
