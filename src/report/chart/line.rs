//! Line charts over epochs.

use maud::{Markup, html};

use super::axis::{Axis, Scale};
use super::geometry::{px, text_width};
use crate::report::text::shorten;

/// A curve of a line chart: one value an epoch.
pub(crate) struct Curve<'a> {
    /// Class of its color.
    pub color: &'static str,
    pub name: &'a str,
    pub values: Vec<f64>,
}

/// Size of a line chart, and the area within it that curves fill.
const SIZE: [f64; 2] = [400.0, 230.0];
const X: [f64; 2] = [44.0, 390.0];
const Y: [f64; 2] = [196.0, 24.0];
/// Baselines of the phases' names; the second one is for a name that would run into the one before.
const NAMES: [f64; 2] = [20.0, 9.0];
/// With more epochs than this, points are not marked.
const MARKED_EPOCHS: usize = 40;

/// A line chart; `phases` are names with the index of their first epoch.
pub(crate) fn curves(title: &str, unit: &str, curves: &[Curve], phases: &[(usize, &str)]) -> Markup {
    let epochs = curves.iter().map(|curve| curve.values.len()).max().unwrap_or(0).max(1);
    let values = curves.iter().flat_map(|curve| curve.values.iter().copied());
    let y = Axis { scale: Scale::covering(values, 4.0, 0.0), span: Y };
    // A single epoch lies in the middle.
    let ends = if epochs == 1 { [0, 2] } else { [1, epochs as u64] };
    let x = Axis { scale: Scale::within(ends, 6), span: X };
    let point = |index: usize, value: f64| (px(x.at((index + 1) as f64)), px(y.at(value)));
    let [width, height] = SIZE;
    html! {
        svg.chart role="img" viewBox={ "0 0 " (width) " " (height) } {
            title { (title) }
            (y.vertical(X[0], X[1]))
            text x="4" y="10" { (unit) }
            (x.horizontal(Y[0], None))
            text.middle x=((X[0] + X[1]) / 2.0) y=(height - 4.0) { "epoch" }
            (self::phases(&x, phases))
            @for Curve { color, name, values } in curves {
                g class={ "curve " (color) } {
                    title { (name) }
                    polyline points={
                        @for (index, value) in values.iter().enumerate() {
                            @let (x, y) = point(index, *value);
                            (x) "," (y) " "
                        }
                    } {}
                    @if values.len() <= MARKED_EPOCHS {
                        @for (index, value) in values.iter().enumerate() {
                            @let (x, y) = point(index, *value);
                            circle cx=(x) cy=(y) r="2.5" {}
                        }
                    }
                }
            }
        }
    }
}

/// A rule where each phase begins, and its name where there is room.
fn phases(x: &Axis, phases: &[(usize, &str)]) -> Markup {
    let mut ends = [X[0]; 2];
    let mut room = |at: f64, name: &str| {
        let [left, right] = [at + 3.0, at + 3.0 + text_width(name)];
        let lane = ends.iter().position(|end| left > *end && right <= SIZE[0])?;
        ends[lane] = right;
        Some(NAMES[lane])
    };
    html! {
        @for &(first, phase) in phases {
            // Between the last epoch of a phase and the first of the next.
            @let at = if first == 0 { X[0] } else { x.at(first as f64 + 0.5) };
            @let name = shorten(phase, 12, "…");
            g {
                title { (phase) }
                path.phase d={ "M" (px(at)) " " (Y[0]) "V" (Y[1]) } {}
                @if let Some(baseline) = room(at, &name) {
                    text x=(px(at + 3.0)) y=(baseline) { (name) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_short_phases_do_not_run_into_each_other() {
        let values = vec![1.0; 30];
        let phases = [(0, "float"), (20, "sparsify"), (21, "quantize"), (22, "hidden"), (29, "last")];
        let svg = curves("title", "%", &[Curve { color: "one", name: "loss", values }], &phases).0;
        for (name, baseline) in [("float", 20), ("sparsify", 20), ("quantize", 9)] {
            assert!(svg.contains(&format!("y=\"{baseline}\">{name}</text>")), "{name}: {svg}");
        }
        for name in ["hidden", "last"] {
            assert!(svg.contains(&format!("<title>{name}</title>")) && !svg.contains(&format!(">{name}</text>")));
        }
        assert_eq!(svg.matches("class=\"phase\"").count(), phases.len());
    }
}
