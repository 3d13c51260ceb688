//! Deployment: folding to integers, the package `model.mars`, and the integer reference.

pub mod integer;

mod fold;
mod outline;
mod package;
mod reference;
mod validate;

pub use fold::{FoldOptions, PictureScale, fold};
pub use outline::outline;
pub use package::{Package, PackageError, Predictions, Provenance};
pub use reference::Reference;
pub use validate::{Accuracy, Deployment, Mismatches, macro_accuracy, validate};
