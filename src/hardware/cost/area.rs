//! Area: how much silicon the chip takes, where its constants are known.

use serde::{Deserialize, Serialize};

use crate::hardware::chip::Hardware;

/// Area by component, in mm2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AreaBreakdown {
    /// Macros with their converters and drivers.
    pub macros_mm2: f64,
    /// Weight SRAMs of all cores.
    pub weight_sram_mm2: f64,
    /// Feature-map SRAM.
    pub feature_sram_mm2: f64,
    /// Logic of all cores.
    pub logic_mm2: f64,
    /// All of it.
    pub total_mm2: f64,
}

impl AreaBreakdown {
    /// The area of a chip whose file has the constants.
    pub(super) fn new(hardware: &Hardware) -> Option<Self> {
        let area = hardware.area?;
        let sram = |kib: u64| area.sram_mm2_fixed + kib as f64 * area.sram_mm2_per_kib;
        let parts = [
            hardware.macros() as f64 * hardware.macro_mm2()?,
            hardware.cores as f64 * sram(hardware.memory.weight_sram_kib),
            sram(hardware.memory.feature_sram_kib),
            hardware.cores as f64 * area.logic_mm2_per_core,
        ];
        let [macros_mm2, weight_sram_mm2, feature_sram_mm2, logic_mm2] = parts;
        Some(Self { macros_mm2, weight_sram_mm2, feature_sram_mm2, logic_mm2, total_mm2: parts.iter().sum() })
    }
}
