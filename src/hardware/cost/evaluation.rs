//! Evaluation: what a network costs on a chip, per frame, and where its layers lie.

use serde::{Deserialize, Serialize};

use super::area::AreaBreakdown;
use super::bounds::{BitsMoved, Bound, Bounds};
use super::compression::Compression;
use super::energy::EnergyBreakdown;
use crate::error::Result;
use crate::files::to_json;
use crate::hardware::chip::{Geometry, Hardware, MacroShares, Policy};
use crate::hardware::mapping::Placement;
use crate::hardware::timing::{LayerProgram, Timeline};

/// What a network costs on a chip: keys of `deploy.json` and, skipped there, what the report draws beyond them.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Name of the hardware.
    pub hardware: String,
    /// What keeps the chip from computing what the integer reference does ([`Hardware::losses`]).
    pub losses: Vec<String>,
    /// The geometry that accesses were measured on, where it isn't the chip's and they are scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled_from: Option<Geometry>,
    /// How layers were to be laid on the cores; `layers[].mapping` says how they are.
    pub policy: Policy,
    /// What of the chip they were laid on.
    pub used: Used,
    /// The whole chip, with its hash.
    pub chip: Chip,
    /// Its area, where the hardware file has the constants.
    pub area: Option<AreaBreakdown>,
    /// How much smaller the weights are.
    pub compression: Compression,
    /// Per frame, weight reload charged.
    pub cost: Cost,
    /// Per frame, as if all weights stayed in the macros.
    pub cost_without_reload: Cost,
    /// Layers in execution order, weight reload charged.
    pub layers: Vec<LayerCost>,
    /// How the component `macro` of the energy is split, where the hardware file says so.
    #[serde(skip)]
    pub macro_shares: Option<MacroShares>,
    /// Every kept weight has a place in the macros at the same time, so that nothing is reloaded.
    #[serde(skip)]
    pub resident: bool,
    /// The packed model fits the cores' weight SRAMs.
    #[serde(skip)]
    pub fits_weight_sram: bool,
    /// What each core is told to do, weight reload included.
    #[serde(skip)]
    pub programs: Vec<LayerProgram>,
    /// When each part of a core does what, weight reload included.
    #[serde(skip)]
    pub timeline: Timeline,
}

/// A chip as it was described.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chip {
    /// SHA-256 of the description as JSON.
    pub sha256: String,
    /// The keys of its hardware file, bases resolved.
    #[serde(flatten)]
    pub description: Hardware,
}

/// The part of a chip that a network uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Cores.
    pub cores: usize,
    /// Macros of each.
    pub macros_per_core: usize,
    /// Rows of each.
    pub rows: usize,
}

/// Cost of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Cycles.
    pub cycles: u64,
    /// Frames a second.
    pub fps: f64,
    /// From the first load to the last logit, in microseconds; of all frames that share a load.
    pub latency_us: f64,
    /// Energy in microjoules.
    pub energy_uj: f64,
    /// Energy x frames a second, in milliwatts.
    pub average_power_mw: f64,
    /// Energy x time of a frame, in microjoules x microseconds.
    pub energy_delay_uj_us: f64,
    /// What all macros could do at the layers' precisions, in TOPS: executed TOPS / utilization.
    pub peak_tops: f64,
    /// `2 x dense MAC x frames a second`.
    pub tops_dense_equivalent: f64,
    /// `2 x MAC of kept groups x frames a second`, padding not counted.
    pub tops_executed: f64,
    /// `2 x dense MAC / energy`.
    pub tops_per_watt_dense_equivalent: f64,
    /// `2 x MAC of kept groups / energy`, padding not counted.
    pub tops_per_watt_executed: f64,
    /// `2 x dense MAC x frames a second / area`; absent without area constants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tops_per_mm2_dense_equivalent: Option<f64>,
    /// `2 x MAC of kept groups x frames a second / area`; absent without area constants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tops_per_mm2_executed: Option<f64>,
    /// MAC of kept groups / (cycles x peak MAC).
    pub utilization: f64,
    /// Cycles of the same network with every group kept, same bits, same chip / cycles.
    pub speedup_vs_dense: f64,
    /// Parts of `energy_uj`.
    pub energy_breakdown_uj: EnergyBreakdown,
    /// What moves, by memory.
    pub bits_moved: BitsMoved,
}

/// Cost of a layer, per frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerCost {
    /// Name; a projection has its own entry.
    pub name: String,
    /// How it lies on the cores; none for a pooling layer, which all cores share.
    pub mapping: Option<Placement>,
    /// Cycles.
    pub cycles: u64,
    /// Energy in microjoules.
    pub energy_uj: f64,
    /// Zero groups / all groups; none for a pooling layer.
    pub group_sparsity: Option<f64>,
    /// MAC of kept groups / (cycles x peak MAC).
    pub utilization: f64,
    /// Macro accesses.
    pub accesses: u64,
    /// Groups that hold a weight.
    pub kept_groups: u64,
    /// All groups.
    pub groups: u64,
    /// Multiply-accumulates, dense.
    pub macs: u64,
    /// Multiply-accumulates of kept groups on real channels and filters.
    pub kept_macs: u64,
    /// Parts of `energy_uj`.
    pub energy_breakdown_uj: EnergyBreakdown,
    /// What moves, by memory.
    pub bits_moved: BitsMoved,
    /// Least cycles by each part of the chip.
    pub bounds: Bounds,
    /// The part that needs most of them.
    pub bound: Bound,
}

/// Where the layers of a network lie on a chip. Cycles and energy are of a frame, weight reload charged, without the leakage of macros that hold no weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Placements {
    /// Cycles.
    pub cycles: u64,
    /// Microjoules.
    pub energy_uj: f64,
    /// Each convolution.
    pub layers: Vec<LayerPlacement>,
}

impl Placements {
    /// The text of a JSON file.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn to_json(&self) -> Result<String> {
        to_json(self)
    }
}

/// Where a convolution lies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerPlacement {
    /// Its name.
    pub layer: String,
    /// How it lies there.
    pub placement: Placement,
    /// What else it could be; none where there is no other way.
    pub next_best: Option<NextBest>,
}

/// A network with another placement of one layer: of all that this layer may have, the best by the chip's objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NextBest {
    /// The layer's placement.
    pub placement: Placement,
    /// Cycles of a frame.
    pub cycles: u64,
    /// Microjoules of a frame.
    pub energy_uj: f64,
}
