//! Deployment: the package `model.mars`, and the validation of its three executions.

mod package;
mod validate;

pub use package::{Package, PackageError, Predictions, Provenance};
pub use validate::{Accuracy, Deployment, Mismatches, macro_accuracy, validate};
