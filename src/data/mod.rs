//! Data sets.

/// Data set files that are missing or damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {}
