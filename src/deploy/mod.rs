//! Deployment: folding to integers, the package `model.mars`, and the integer reference.

pub mod integer;

mod package;

pub use package::PackageError;
