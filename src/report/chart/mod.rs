//! Drawings as SVG, for the page and as files of their own. One style for all, for light and dark; axes, ticks and legends in one place.
//!
//! | module | knows or draws |
//! |---|---|
//! | `style` | colors, files |
//! | `geometry` | coordinates and widths of texts |
//! | `axis` | round ticks, their numbers and rules |
//! | `legend` | what symbols stand for |
//! | `line` | values over epochs |
//! | `scatter` | dots on two axes, joined by lines |
//! | `bars` | shares as horizontal bars |
//! | `stack` | horizontal bars of several parts |
//! | `roofline` | what is reached below what is possible |
//! | `rows` | rows of dots on one axis |
//! | `tornado` | how far a result swings with each unknown |
//! | `timeline` | what is busy when |
//! | `floorplan` | the parts of a chip |
//! | `mask` | which cells of a grid are filled |
//!
//! Units are pixels unless said otherwise.

mod axis;
mod bars;
mod floorplan;
mod geometry;
mod legend;
mod line;
mod mask;
mod roofline;
#[cfg(feature = "train")]
mod rows;
mod scatter;
mod stack;
mod style;
mod timeline;
mod tornado;

pub(super) use bars::{Bar, bars};
pub(super) use floorplan::{Part, floorplan};
pub(super) use line::{Curve, curves};
pub(super) use mask::{SHADES, mask};
pub(super) use roofline::{Reached, roofline};
pub(super) use stack::{PARTS, Stack, stacks};
pub(super) use style::{CSS, Drawing, Key, stacked};
pub(super) use timeline::{Color, Stretch, timeline};

#[cfg(feature = "train")]
pub(crate) use rows::{DotRow, dot_rows};
pub(crate) use scatter::{Dot, Line, Quantity, Scatter, front, scatters};
pub use tornado::{Swing, tornado};
