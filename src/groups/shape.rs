//! The shape of a weight group: what the chip keeps, stores and indexes.

use serde::{Deserialize, Serialize};

/// Filters and channels of a group (16 x 16 by default); it comes from the hardware file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupShape {
    /// Filters that compute side by side on the bit lines.
    pub filters: usize,
    /// Input channels on the word lines.
    pub channels: usize,
}
