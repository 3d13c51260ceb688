//! A roofline: what is reached over the operations for each bit that moves, below what the macros and the ports allow.

use maud::html;

use super::axis::{Axis, Scale};
use super::geometry::px;
use super::legend::Symbol;
use super::style::Drawing;

/// A point below the roof.
pub(crate) struct Reached {
    pub name: String,
    /// Operations for each bit.
    pub intensity: f64,
    pub tops: f64,
}

const WIDTH: usize = 640;
const HEIGHT: usize = 320;
/// What the points fill, from left to right and from bottom to top.
const X: [f64; 2] = [60.0, 610.0];
const Y: [f64; 2] = [270.0, 36.0];

/// The roof: `peak` TOPS, and `tops_per_intensity` times the operations for each bit.
pub(crate) fn roofline(caption: &str, points: &[Reached], peak: f64, tops_per_intensity: f64) -> Drawing {
    let ridge = peak / tops_per_intensity;
    let intensities = points.iter().map(|point| point.intensity).chain([ridge / 4.0, ridge * 4.0]);
    let speeds = points.iter().map(|point| point.tops).chain([peak, peak / 4.0]);
    let x = Axis { scale: Scale::logarithmic(intensities), span: X };
    let y = Axis { scale: Scale::logarithmic(speeds), span: Y };
    // The slope begins where it enters the plot.
    let [left, right] = x.scale.ends();
    let from = left.max(y.scale.ends()[0] / tops_per_intensity);
    let roof = [(from, from * tops_per_intensity), (ridge, peak), (right, peak)];
    let svg = html! {
        svg.chart.roofline role="img" width="100%" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } {
            title { (caption) }
            (x.horizontal(Y[0], Some(Y[1])))
            (y.vertical(X[0], X[1]))
            text x="8" y="20" { "TOPS" }
            text.end x=(X[1]) y=(Y[0] + 36.0) { "operations for each bit that moves" }
            polyline class="line two" points={ @for (at, tops) in roof { (px(x.at(at))) "," (px(y.at(tops))) " " } } {}
            @for Reached { name, intensity, tops } in points {
                g {
                    title { (name) ": " (format!("{tops:.4}")) " TOPS at " (format!("{intensity:.2}")) " operations a bit" }
                    (Symbol::Dot.draw("dot one", x.at(*intensity), y.at(*tops)))
                }
            }
        }
    };
    Drawing { svg, caption: caption.into(), keys: Vec::new(), size: [WIDTH, HEIGHT] }
}
