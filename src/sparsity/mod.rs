//! Group sparsity: the geometry of groups, and which of them go for a budget, and (with training) penalty, proximal
//! step and masks.

mod budget;
mod groups;
#[cfg(feature = "train")]
mod lasso;

pub use budget::fit_budget;
pub use groups::{GroupGrid, GroupShape};
#[cfg(feature = "train")]
pub(crate) use lasso::{Lasso, keep_best};
