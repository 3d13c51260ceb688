//! What symbols stand for.

use maud::{Markup, html};

use super::geometry::{px, text_width};

/// A symbol of a chart.
#[derive(Clone, Copy)]
pub(super) enum Symbol {
    Dot,
    Square,
    /// A short upright line.
    #[cfg(feature = "train")]
    Mark,
}

/// A symbol, its class and what it stands for.
pub(super) type Entry<'a> = (Symbol, &'static str, &'a str);

/// From one line of a legend to the next.
const LINE: f64 = 18.0;

/// Entries side by side, on as many lines as they need between `left` and `right`.
pub(super) struct Legend<'a> {
    entries: Vec<(Entry<'a>, [f64; 2])>,
    /// Of all lines.
    pub height: f64,
}

impl<'a> Legend<'a> {
    pub(super) fn new(entries: impl IntoIterator<Item = Entry<'a>>, [left, right]: [f64; 2]) -> Self {
        let (mut x, mut y) = (left, 0.0);
        let place = |entry: Entry<'a>| {
            let width = text_width(entry.2) + 12.0;
            if x > left && x + width > right {
                (x, y) = (left, y + LINE);
            }
            let at = [x, y];
            x += width + 12.0;
            (entry, at)
        };
        let entries: Vec<_> = entries.into_iter().map(place).collect();
        let height = entries.last().map_or(0.0, |(_, [_, y])| y + LINE);
        Self { entries, height }
    }

    pub(super) fn draw(&self, top: f64) -> Markup {
        html! {
            @for ((symbol, class, name), [x, y]) in &self.entries {
                (symbol.draw(class, x + 4.0, top + y + 8.0))
                text x=(px(x + 12.0)) y=(px(top + y + 12.0)) { (name) }
            }
        }
    }
}

impl Symbol {
    /// Round a point.
    pub(super) fn draw(self, class: &str, x: f64, y: f64) -> Markup {
        match self {
            Self::Dot => html! { circle class=(class) cx=(px(x)) cy=(px(y)) r="4" {} },
            Self::Square => {
                html! { rect class={ "key " (class) } x=(px(x - 4.0)) y=(px(y - 4.0)) width="8" height="8" {} }
            }
            #[cfg(feature = "train")]
            Self::Mark => html! { path class=(class) d={ "M" (px(x)) " " (px(y - 8.0)) "v16" } {} },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_do_not_fit_begin_a_line() {
        let entry = |name| (Symbol::Dot, "one", name);
        let legend = Legend::new([entry("a name"), entry("another name"), entry("a third")], [10.0, 180.0]);
        let places: Vec<[f64; 2]> = legend.entries.iter().map(|(_, place)| *place).collect();
        assert_eq!(places, [[10.0, 0.0], [76.0, 0.0], [10.0, LINE]]);
        assert_eq!(legend.height, 2.0 * LINE);
        assert_eq!(Legend::new([], [0.0, 9.0]).height, 0.0);
    }
}
