//! Scaling: energies and times that were stated for one geometry, on a chip of another. `docs/cost-model.md` has the rules and their doubt.

use super::description::{AccessMode, Geometry, Hardware};
use super::losses::Converter;

/// Delay of a converter for each input of its column, and besides, in nanoseconds (zigzag-imc, 28 nm).
const CONVERTER_NS: (f64, f64) = (0.00653, 0.640);
/// Delay of an adder tree: of its gates, of a level and of a bit that a carry passes, in nanoseconds (zigzag-imc, 28 nm).
const TREE_NS: (f64, f64, f64) = (0.0478 + 0.2103, 0.2294, 0.0956);

impl Hardware {
    /// Rows, columns and rows on at once of its macros.
    pub fn geometry(&self) -> Geometry {
        Geometry { rows: self.rows, columns: self.columns, rows_on: self.rows_on }
    }

    /// The geometry that an access is scaled from; none where it was stated for this one.
    pub fn scaled_from(&self) -> Option<Geometry> {
        self.access.iter().find_map(|mode| mode.measured.filter(|measured| *measured != self.geometry()))
    }

    /// Measured energy of one access on this geometry, in picojoules; without `energy.macro_shares` as it was measured.
    pub(super) fn measured_pj(&self, mode: &AccessMode) -> Option<f64> {
        let energy = mode.energy_pj?;
        let (Some(from), Some(shares)) = (self.other_geometry(mode), self.energy.macro_shares) else {
            return Some(energy);
        };
        let to = self.geometry();
        let ratio = |part: fn(&Geometry) -> usize| part(&to) as f64 / part(&from) as f64;
        let columns = ratio(|geometry| geometry.columns);
        let rows_on = ratio(|geometry| geometry.rows_on);
        // Sums of more products have more values: a converter that tells all of them apart, and the adders of a tree, grow with them.
        let sums = match self.converter {
            Converter::Ideal | Converter::AdderTree => rows_on,
            Converter::Clipping { .. } | Converter::Bits { .. } => 1.0,
        };
        let array = shares.array * ratio(|geometry| geometry.rows) * columns;
        Some(energy * (array + shares.converter * columns * sums + shares.drivers * rows_on))
    }

    /// Duration of one access on this geometry, in nanoseconds.
    pub(super) fn access_ns(&self, mode: &AccessMode) -> f64 {
        let Some(from) = self.other_geometry(mode).filter(|from| from.rows_on != self.rows_on) else { return mode.ns };
        let delay = |rows_on: usize| {
            let (rows, levels) = (rows_on as f64, (rows_on as f64).log2());
            match self.converter {
                Converter::AdderTree => {
                    // Below two rows there is no tree: what is left are its gates.
                    let levels = levels.max(1.0);
                    let carries = f64::from(self.weight_slice_bits) + levels - 2.0;
                    TREE_NS.0 + TREE_NS.1 * (levels - 1.0) + TREE_NS.2 * carries
                }
                Converter::Ideal | Converter::Clipping { .. } | Converter::Bits { .. } => {
                    CONVERTER_NS.0 * rows + CONVERTER_NS.1
                }
            }
        };
        mode.ns * delay(self.rows_on) / delay(from.rows_on)
    }

    /// Clock cycles of one access on this geometry.
    pub(super) fn access_cycles(&self, mode: &AccessMode) -> u64 {
        // What is a whole number of cycles but for its last bits is that number.
        const ROUNDING: f64 = 1e-12;
        (self.access_ns(mode) * self.clock_mhz / 1e3 * (1.0 - ROUNDING)).ceil() as u64
    }

    /// Where an access was measured on another geometry: that one.
    fn other_geometry(&self, mode: &AccessMode) -> Option<Geometry> {
        mode.measured.filter(|measured| *measured != self.geometry())
    }

    /// Area of a macro in mm2, where the file tells it: by cells.
    pub fn macro_mm2(&self) -> Option<f64> {
        let area = self.area?;
        let stated = area.macro_cells.or(self.scaled_from().map(|from| from.cells()));
        Some(area.macro_mm2 * stated.map_or(1.0, |stated| self.geometry().cells() as f64 / stated as f64))
    }

    /// Static power of a macro, in milliwatts: by cells.
    pub fn leakage_mw_per_macro(&self) -> f64 {
        let cells = self.geometry().cells() as f64;
        self.energy.leakage_mw_per_macro * self.energy.stated_for.cells.map_or(1.0, |stated| cells / stated as f64)
    }

    /// Energy of a bit of a core's weight SRAM, in picojoules.
    pub fn weight_sram_pj_per_bit(&self) -> f64 {
        self.sram_pj_per_bit(self.memory.weight_sram_kib, self.energy.stated_for.weight_sram_kib)
    }

    /// Energy of a bit of the feature-map SRAM, in picojoules.
    pub fn feature_sram_pj_per_bit(&self) -> f64 {
        self.sram_pj_per_bit(self.memory.feature_sram_kib, self.energy.stated_for.feature_sram_kib)
    }

    /// A bit passes wires as long as the SRAM's side.
    fn sram_pj_per_bit(&self, kib: u64, stated_kib: Option<u64>) -> f64 {
        self.energy.buffer_pj_per_bit * stated_kib.map_or(1.0, |stated| (kib as f64 / stated as f64).sqrt())
    }

    /// The same chip with times, energies, outputs and leakage of its own geometry, which stay what they are in a part of it.
    pub(crate) fn resolved(&self) -> Self {
        let mut chip = self.clone();
        for (mode, stated) in chip.access.iter_mut().zip(&self.access) {
            let (ns, energy_pj) = (self.access_ns(stated), self.measured_pj(stated));
            let outputs = stated.outputs.map(|_| self.outputs(stated));
            *mode = AccessMode { ns, energy_pj, outputs, measured: None, ..*stated };
        }
        chip.energy.leakage_mw_per_macro = self.leakage_mw_per_macro();
        chip.energy.stated_for.cells = None;
        chip
    }
}
