//! Coordinates, and how wide texts are.

use std::fmt::Write;

/// A coordinate to a tenth of a pixel.
pub(super) fn px(coordinate: f64) -> f64 {
    (10.0 * coordinate).round() / 10.0
}

/// About how wide a text is at the charts' size of letters.
pub(super) fn text_width(text: &str) -> f64 {
    7.0 * text.chars().count() as f64
}

/// Path data of horizontal strokes `from..to` at one height.
pub(super) fn strokes(strokes: impl Iterator<Item = (i64, i64)>, y: f64) -> String {
    let (mut path, mut pen) = (String::new(), None);
    for (from, to) in strokes {
        // Writing to a string cannot fail.
        let _ = match pen {
            None => write!(path, "M{from} {y}h{}", to - from),
            Some(pen) if pen == from => write!(path, "h{}", to - from),
            Some(pen) => write!(path, "m{} 0h{}", from - pen, to - from),
        };
        pen = Some(to);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_that_touch_are_one_run_of_the_pen() {
        assert_eq!(strokes([(2, 5), (5, 6), (9, 10)].into_iter(), 0.5), "M2 0.5h3h1m3 0h1");
        assert_eq!(strokes(std::iter::empty(), 0.5), "");
    }
}
