//! A chip's parts, each as large as its area where that is known.

use maud::html;

use super::geometry::px;
use super::style::Drawing;

/// A kind of part: its color's class, its name, how many there are and the area of one.
pub(crate) struct Part {
    pub class: &'static str,
    pub name: &'static str,
    pub number: usize,
    pub area: f64,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 150.0;
const TOP: f64 = 30.0;
/// Most parts of a kind that are drawn one by one.
const DRAWN: usize = 256;

/// Side by side, a stripe for each kind as wide as its share of the whole area.
pub(crate) fn floorplan(caption: &str, parts: &[Part]) -> Drawing {
    let whole: f64 = parts.iter().map(|part| part.number as f64 * part.area).sum();
    let mut left = 0.0;
    let mut place = |part: &Part| {
        let width = WIDTH * part.number as f64 * part.area / whole;
        left += width;
        (left - width, width)
    };
    let svg = html! {
        svg.chart.floorplan role="img" width="100%" viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } {
            title { (caption) }
            @for part in parts.iter().filter(|part| part.area > 0.0) {
                @let (x, width) = place(part);
                @let name = format!("{} {}", part.number, part.name);
                g {
                    title { (name) }
                    // A kind of many parts is a grid about as wide as high.
                    @let number = part.number.min(DRAWN);
                    @let columns = (((number as f64) * width / (HEIGHT - TOP)).sqrt().ceil() as usize).clamp(1, number);
                    @let rows = number.div_ceil(columns);
                    @let columns = number.div_ceil(rows);
                    @for index in 0..number {
                        @let (column, row) = (index / rows, index % rows);
                        rect class={ (part.class) " cell" } x=(px(x + width * column as f64 / columns as f64)) y=(px(TOP + (HEIGHT - TOP) * row as f64 / rows as f64))
                            width=(px(width / columns as f64)) height=(px((HEIGHT - TOP) / rows as f64)) {}
                    }
                    @if width > 7.0 * name.len() as f64 { text x=(px(x + 2.0)) y="20" { (name) } }
                }
            }
        }
    };
    let keys = parts.iter().map(|part| (part.class, part.name)).collect();
    Drawing { svg, caption: caption.into(), keys, size: [WIDTH as usize, HEIGHT as usize] }
}
