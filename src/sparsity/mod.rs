//! Group sparsity: the geometry of groups, and (with training) penalty, proximal step, masks and budgets.

mod groups;

pub use groups::{GroupGrid, GroupShape};
