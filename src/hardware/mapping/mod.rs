//! Mapping: where a network lies on the chip.
//!
//! | module | from | to |
//! |---|---|---|
//! | `accesses` | integer weights | [`ConvMapping`]: which kept groups share an access |
//! | `placement` | a mapping | which core and macro holds which accesses, for which output pixels |
//! | `workload` | an integer network | what the layers compute, move and store |
//!
//! It knows nothing of time or energy.

mod accesses;
mod placement;
mod workload;

pub use accesses::{ConvMapping, FilterSet};
pub(super) use accesses::{Sets, dense_sets, kept_sets};
pub(super) use placement::{CoreWork, Tile, sets_of_cores};
pub use placement::{Placement, Split, Start};
pub(super) use workload::{Layer, LayerWork, Logic, node_workload, workload};
