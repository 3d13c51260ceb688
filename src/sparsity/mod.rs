//! Group sparsity: the geometry of groups, and (with training) penalty, proximal step, masks and budgets.

mod groups;
#[cfg(feature = "train")]
mod lasso;

pub use groups::{GroupGrid, GroupShape};
#[cfg(feature = "train")]
pub use lasso::{Lasso, keep_best};
