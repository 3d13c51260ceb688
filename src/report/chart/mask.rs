//! Which cells of a grid are filled.

use maud::{Markup, html};

use super::geometry::strokes;

/// Shades of cells: how full a cell is where it stands for several groups.
pub(crate) const SHADES: usize = 4;
/// Up to so many rows are parted by rules.
const RULED_ROWS: usize = 20;
const CELL_WIDTH: usize = 10;

/// A grid of cells, `[row][column]`, each with the share of what it stands for, from 0 to 1, or none where it stands for nothing; a rule after each `block`
/// columns. Gives the width and height where there is room, too; few cells are drawn large.
pub(crate) fn mask(title: &str, cells: &[Vec<Option<f64>>], block: usize) -> (Markup, [usize; 2]) {
    let (rows, columns) = (cells.len(), cells.first().map_or(0, Vec::len));
    let pitch = match rows {
        0..=8 => 10,
        9..=20 => 6,
        _ => 4,
    };
    let [width, height] = [CELL_WIDTH * columns, pitch * rows];
    let blocks = (1..columns.div_ceil(block.max(1))).map(|index| index * block);
    let svg = html! {
        svg.mask role="img" viewBox={ "0 0 " (columns) " " (rows) } preserveAspectRatio="none" width=(width) height=(height)
            style={ "width:min(100%," (width) "px);height:" (height) "px" } {
            title { (title) }
            rect.track width=(columns) height=(rows) {}
            @let absent = strokes_of(cells, |cell| cell.is_none());
            @if !absent.is_empty() { path.absent style="fill:none;stroke:var(--page)" d=(absent) {} }
            @for shade in 1..=SHADES {
                @let path = strokes_of(cells, |cell| cell.is_some_and(|share| (share * SHADES as f64).ceil() as usize == shade));
                @if !path.is_empty() { path class={ "kept s" (shade) } d=(path) {} }
            }
            path.block d={
                @for column in blocks { "M" (column) " 0v" (rows) }
                @if rows <= RULED_ROWS { @for row in 1..rows { "M0 " (row) "h" (columns) } }
            } {}
        }
    };
    (svg, [width, height])
}

/// Path data of the cells that are filled.
fn strokes_of(cells: &[Vec<Option<f64>>], filled: impl Fn(Option<f64>) -> bool) -> String {
    let row = |(row, cells): (usize, &Vec<Option<f64>>)| {
        let mut column = 0;
        let runs = cells.chunk_by(|a, b| filled(*a) == filled(*b)).filter_map(|run| {
            let from = column;
            column += run.len() as i64;
            filled(run[0]).then_some((from, column))
        });
        strokes(runs, row as f64 + 0.5)
    };
    cells.iter().enumerate().map(row).collect()
}
