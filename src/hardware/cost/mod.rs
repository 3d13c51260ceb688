//! Cost: how much a network takes on the chip, per frame.
//!
//! | module | from | to |
//! |---|---|---|
//! | `energy` | a placed layer, its cycles | [`EnergyBreakdown`] |
//! | `area` | a chip | [`AreaBreakdown`] |
//! | `bounds` | a placed layer | [`BitsMoved`]; [`Bounds`]: what keeps it from being faster |
//! | `compression` | mappings | [`Compression`]: how much smaller the weights are |
//! | `mapper` | layers | the cheapest placement of each |
//! | `evaluator` | a network, a chip | [`Evaluation`]: all of these |
//! | `ledger` | a network, a chip | [`Ledger`]: what a network costs while its groups are pruned |

mod area;
mod bounds;
mod compression;
mod energy;
mod evaluator;
mod ledger;
mod mapper;

pub use area::AreaBreakdown;
pub use bounds::{BitsMoved, Bound, Bounds};
pub use compression::Compression;
pub use energy::{EnergyBreakdown, EnergyTerm};
pub use evaluator::{Chip, Cost, Evaluation, Evaluator, LayerCost, Used, evaluate};
pub use ledger::{GroupId, Ledger, PruningStep, Resource, SetGroups, Snapshot};
