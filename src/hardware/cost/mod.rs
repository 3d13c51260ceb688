//! Cost: how much a network takes on the chip, per frame.
//!
//! | module | from | to |
//! |---|---|---|
//! | `loaded` | a placed layer | the bits that a load of its weights moves |
//! | `energy` | a placed layer, its cycles | [`EnergyBreakdown`] |
//! | `area` | a chip | [`AreaBreakdown`] |
//! | `bounds` | a placed layer | [`BitsMoved`]; [`Bounds`]: what keeps it from being faster |
//! | `compression` | mappings | [`Compression`]: how much smaller the weights are |
//! | `room` | shares and accesses of placements | the placement of each layer with which all fit |
//! | `plan` | placed layers, a chip | what a frame takes |
//! | `descent` | a plan | the plan that no placement of a single layer makes better |
//! | `search` | layers, a chip | the best placement of each on all of it |
//! | `parts` | layers, a chip | its parts, and what no placement takes less than |
//! | `mapper` | layers, a chip | the best part of it |
//! | `rules` | a network, a chip | whether what the chip's file decides about layers can be |
//! | `evaluation` | | [`Evaluation`]: all of these, and [`Placements`] |
//! | `evaluator` | a network, a chip | its evaluation |
//! | `ledger` | a network, a chip | [`Ledger`]: what a network costs while its groups are pruned |

mod area;
mod bounds;
mod compression;
mod descent;
mod energy;
mod evaluation;
mod evaluator;
mod held;
mod ledger;
mod loaded;
mod mapper;
mod parts;
mod plan;
mod room;
#[cfg(feature = "train")]
mod rules;
mod search;

pub use area::AreaBreakdown;
pub use bounds::{BitsMoved, Bound, Bounds};
pub use compression::Compression;
pub use energy::{EnergyBreakdown, EnergyPart, EnergyTerm};
pub use evaluation::{Chip, Cost, Evaluation, LayerCost, LayerPlacement, NextBest, Placements, Used};
pub use evaluator::{Evaluator, evaluate};
pub use ledger::{GroupId, Ledger, PruningStep, Resource, SetGroups, Snapshot};
pub(crate) use mapper::family;
#[cfg(feature = "train")]
pub(crate) use rules::{check_placements, check_rules};
