//! Groups of weights: their shape, the grid that covers a convolution, and the index that says which of them are kept.
//!
//! | module | gives |
//! |---|---|
//! | `shape` | [`GroupShape`]: filters and channels of a group |
//! | `grid` | [`GroupGrid`]: the groups of a convolution, and the group of each weight |
//! | `index` | [`IndexCode`]: the bits that say which groups of a filter set are kept |

mod grid;
mod index;
mod shape;

pub use grid::GroupGrid;
pub use index::{Index, IndexCode, SELECTOR_BITS};
pub use shape::GroupShape;
