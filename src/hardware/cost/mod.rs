//! Cost: how much a network takes on the chip, per frame.
//!
//! | module | from | to |
//! |---|---|---|
//! | `energy` | a placed layer, its cycles | [`EnergyBreakdown`] |
//! | `mapper` | layers | the cheapest placement of each |
//! | `evaluator` | a network, a chip | [`Evaluation`]: cycles, energy, compression, area |
//! | `ledger` | a network, a chip | [`Ledger`]: what a network costs while its groups are pruned |

mod energy;
mod evaluator;
mod ledger;
mod mapper;

pub use energy::{EnergyBreakdown, EnergyTerm};
pub use evaluator::{AreaBreakdown, Compression, Cost, Evaluation, Evaluator, LayerCost, evaluate};
pub use ledger::{GroupId, Ledger, PruningStep, Resource, SetGroups, Snapshot};
