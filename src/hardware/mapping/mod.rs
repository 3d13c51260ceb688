//! Mapping: where a network lies on the chip.
//!
//! | module | from | to |
//! |---|---|---|
//! | `accesses` | integer weights | [`ConvMapping`]: which kept groups share an access |
//! | `placement` | a mapping | [`Placement`]: the ways in which a layer may be divided among the cores |
//! | `shares` | a mapping | which bundles of which filter sets each core has |
//! | `tiles` | a core's shares | which accesses a macro holds at a time, and what they load, read and write |
//! | `cores` | a placement | what each core does of a layer |
//! | `broadcast` | a placement | the inputs that a read for another core brings |
//! | `outputs`, `traffic` | | what follows the accumulators; bits from and to the feature-map SRAM |
//! | `live` | an integer network | what lies in the feature-map SRAM while a layer runs |
//! | `workload` | an integer network | what the layers compute, move and store |
//!
//! It knows nothing of time or energy.

mod accesses;
mod broadcast;
mod cores;
mod live;
mod outputs;
mod placement;
mod shares;
mod tiles;
mod traffic;
mod workload;

pub(super) use accesses::{Cell, Sets, dense_sets, kept_sets, sets_of};
pub use accesses::{ConvMapping, FilterSet};
pub(super) use cores::CoreWork;
pub(super) use live::LiveValues;
pub use placement::Placement;
pub(super) use shares::sets_of_cores;
pub(super) use tiles::Tile;
pub(super) use workload::{Layer, LayerWork, node_workload, workload};
