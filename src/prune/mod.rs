//! Pruning: which groups to drop for a budget, and (with training) penalty, proximal step and masks.

mod budget;
#[cfg(feature = "train")]
mod lasso;

pub use budget::fit_budget;
#[cfg(feature = "train")]
pub(crate) use lasso::{ABSENT, Lasso, keep_best};
