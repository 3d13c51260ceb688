//! Checks that a chip can work.

use std::fmt::Display;

use super::description::{AccessMode, Geometry, Hardware, Policy};
use super::losses::{Converter, MAX_STEP};
use crate::error::{Allowed, ConfigError, Error, Result};

/// Largest size of everything but rows.
const MAX_EXTENT: usize = 1 << 14;
/// Most rows; sums over so many products of 8 x 8 bits still fit 32 bits.
const MAX_ROWS: usize = 1 << 16;
/// Most weights of a group: layers are laid out in whole groups, even where they are smaller.
const MAX_GROUP: usize = 1 << 18;
/// Most clock cycles of an access.
const MAX_ACCESS_CYCLES: f64 = 1e6;
/// Most cells, or KiB of an SRAM, that a constant is stated for.
const MOST_STATED: u64 = 1 << 32;
/// Most macros of a chip; the simulator follows each of them.
const MAX_MACROS: u64 = 1 << 15;
/// Most cores: each placement of a layer has a part for each of them.
const MAX_CORES: usize = 1 << 12;

/// Largest standard deviation of the noise, as a sum: the simulated noise is rounded exactly up to `2^22`.
const MAX_SIGMA: f64 = 5e5;

type Checked = std::result::Result<(), ConfigError>;

impl Hardware {
    /// Checks that the chip can work.
    ///
    /// # Errors
    /// [`Error::Hardware`], which names the key, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|source| Error::Hardware { hardware: self.name.clone(), source: source.into() })
    }

    pub(super) fn check(&self) -> Checked {
        if self.name.trim().is_empty() {
            return refuse("name", "", Allowed::SomeText);
        }
        for (key, value, most) in [
            ("cores", self.cores, MAX_CORES),
            ("macros_per_core", self.macros_per_core, MAX_EXTENT),
            ("rows", self.rows, MAX_ROWS),
            ("columns", self.columns, MAX_EXTENT),
            ("partitions", self.partitions, MAX_EXTENT),
            ("rows_on", self.rows_on, MAX_ROWS),
            ("frames_per_load", self.frames_per_load, MAX_EXTENT),
            ("group.filters", self.group.filters, MAX_EXTENT),
            ("group.channels", self.group.channels, MAX_EXTENT),
            ("group.filters x group.channels", self.group.filters.saturating_mul(self.group.channels), MAX_GROUP),
        ] {
            check_range(key, value as u64, 1, most as u64)?;
        }
        check_range("cores x macros_per_core", self.macros() as u64, 1, MAX_MACROS)?;
        check_range("input_bits_per_cycle", self.input_bits_per_cycle.into(), 1, 8)?;
        check_range("weight_slice_bits", self.weight_slice_bits.into(), 1, 8)?;
        if self.rows_on > self.rows {
            return at_most("rows_on", self.rows_on, "rows", self.rows, None);
        }
        for (key, value) in [("rows", self.rows), ("rows_on", self.rows_on)] {
            if !value.is_multiple_of(self.partitions) {
                return refuse(key, value, Allowed::WholePartitions { partitions: self.partitions });
            }
        }
        for rule in &self.mapping.layers {
            let key = format!("mapping.layers of `{}`: copies", rule.pattern);
            check_range(&key, rule.copies.unwrap_or(1) as u64, 1, MAX_MACROS)?;
        }
        if !self.mapping.layers.is_empty() && self.mapping.policy != Policy::Auto {
            return refuse("mapping.layers", self.mapping.layers.len(), Allowed::WithAutomaticPolicy);
        }
        if self.group.channels > self.rows_on {
            let reason = Some("a group has to fit the word lines of one access");
            return at_most("group.channels", self.group.channels, "rows_on", self.rows_on, reason);
        }
        self.check_memory()?;
        self.check_energy()?;
        self.check_access()?;
        self.check_area()?;
        match self.converter {
            Converter::Ideal | Converter::AdderTree => {}
            Converter::Clipping { range } => check_range("converter.range", range, 1, i32::MAX)?,
            Converter::Bits { bits, step } => {
                check_range("converter.bits", bits.into(), 1, 16)?;
                check_range("converter.step", step, 1, MAX_STEP)?;
            }
        }
        self.check_noise()
    }

    fn check_memory(&self) -> Checked {
        let memory = &self.memory;
        for (key, value) in [
            ("weight_sram_kib", memory.weight_sram_kib),
            ("feature_sram_kib", memory.feature_sram_kib),
            ("write_bits_per_cycle", memory.write_bits_per_cycle),
            ("weight_bits_per_cycle", memory.weight_bits_per_cycle),
            ("feature_read_bits_per_cycle", memory.feature_read_bits_per_cycle),
            ("feature_write_bits_per_cycle", memory.feature_write_bits_per_cycle),
            ("next_level_bits_per_cycle", memory.next_level_bits_per_cycle),
            ("index_bits_per_cycle", memory.index_bits_per_cycle),
        ] {
            check_range(&format!("memory.{key}"), value, 1, 1 << 32)?;
        }
        Ok(())
    }

    fn check_energy(&self) -> Checked {
        let energy = &self.energy;
        let mut constants = vec![
            ("cell_write_pj_per_bit", energy.cell_write_pj_per_bit),
            ("buffer_pj_per_bit", energy.buffer_pj_per_bit),
            ("next_level_pj_per_bit", energy.next_level_pj_per_bit),
            ("gate_pj", energy.gate_pj),
            ("adder_pj_per_bit", energy.adder_pj_per_bit),
            ("register_pj_per_bit", energy.register_pj_per_bit),
            ("leakage_mw_per_macro", energy.leakage_mw_per_macro),
        ];
        if let Some(components) = &energy.components {
            check_positive("energy.components.supply_v", components.supply_v)?;
            check_positive("energy.components.cell_ff", components.cell_ff)?;
            constants.extend([
                ("components.adc_linear_ff", components.adc_linear_ff),
                ("components.adc_exponential_ff", components.adc_exponential_ff),
                ("components.dac_ff_per_bit", components.dac_ff_per_bit),
                ("components.adder_ff", components.adder_ff),
                ("components.precharge_ff", components.precharge_ff),
            ]);
            check_range("energy.components.activity", components.activity, 1e-6, 1.0)?;
        }
        for (key, value) in constants {
            check_range(&format!("energy.{key}"), value, 0.0, 1e6)?;
        }
        let stated = energy.stated_for;
        for (key, value) in [
            ("cells", stated.cells),
            ("weight_sram_kib", stated.weight_sram_kib),
            ("feature_sram_kib", stated.feature_sram_kib),
        ] {
            check_range(&format!("energy.stated_for.{key}"), value.unwrap_or(1), 1, MOST_STATED)?;
        }
        if let Some(shares) = &energy.macro_shares {
            let parts = shares.parts();
            parts
                .iter()
                .try_for_each(|(key, share)| check_range(&format!("energy.macro_shares.{key}"), *share, 0.0, 1.0))?;
            let sum: f64 = parts.iter().map(|(_, share)| share).sum();
            if (sum - 1.0).abs() > 1e-6 {
                return refuse("energy.macro_shares", sum, Allowed::SharesOfOne);
            }
            if energy.components.is_some() {
                return refuse("energy.macro_shares", "a table", Allowed::NothingBesideComponents);
            }
        }
        Ok(())
    }

    fn check_area(&self) -> Checked {
        let Some(area) = &self.area else { return Ok(()) };
        check_range("area.macro_cells", area.macro_cells.unwrap_or(1), 1, MOST_STATED)?;
        let cells = |mode: &AccessMode| mode.measured.unwrap_or(self.geometry()).cells();
        let mut sizes = self.access.iter().map(cells);
        let first = sizes.next();
        if area.macro_cells.is_none() && sizes.any(|cells| Some(cells) != first) {
            return refuse("area.macro_mm2", area.macro_mm2, Allowed::OfStatedCells);
        }
        check_positive("area.macro_mm2", area.macro_mm2)?;
        check_range("area.sram_mm2_per_kib", area.sram_mm2_per_kib, 0.0, 1e6)?;
        check_range("area.sram_mm2_fixed", area.sram_mm2_fixed, 0.0, 1e6)?;
        check_range("area.logic_mm2_per_core", area.logic_mm2_per_core, 0.0, 1e6)
    }

    fn check_noise(&self) -> Checked {
        let Some(noise) = self.noise else { return Ok(()) };
        let shares = noise.stuck_at_zero + noise.stuck_at_one;
        for (key, value, high) in [
            ("sigma", noise.sigma, MAX_SIGMA / f64::from(self.converter.lsb())),
            ("stuck_at_zero", noise.stuck_at_zero, 1.0),
            ("stuck_at_one", noise.stuck_at_one, 1.0),
            ("stuck_at_zero + noise.stuck_at_one", shares, 1.0),
        ] {
            check_range(&format!("noise.{key}"), value, 0.0, high)?;
        }
        Ok(())
    }

    fn check_access(&self) -> Checked {
        check_positive("clock_mhz", self.clock_mhz)?;
        if self.access.is_empty() {
            return refuse("access", "[]", Allowed::SomePrecision);
        }
        for (index, mode) in self.access.iter().enumerate() {
            let key = |key: &str| format!("access[{index}].{key}");
            check_range(&key("weight_bits"), mode.weight_bits.into(), 1, 8)?;
            check_range(&key("input_bits"), mode.input_bits.into(), 1, 8)?;
            check_positive(&key("ns"), mode.ns)?;
            self.check_measured(mode, &key)?;
            let cycles = self.access_ns(mode) * self.clock_mhz / 1e3;
            check_range(&key("ns x clock_mhz / 1000"), cycles, 0.0, MAX_ACCESS_CYCLES)?;
            for (key, bits, unit, other) in [
                (key("weight_bits"), mode.weight_bits, self.weight_slice_bits, "weight_slice_bits"),
                (key("input_bits"), mode.input_bits, self.input_bits_per_cycle, "input_bits_per_cycle"),
            ] {
                if bits % unit != 0 {
                    return refuse(&key, bits, Allowed::MultipleOf { other, unit });
                }
            }
            if usize::from(mode.weight_bits) > self.columns {
                return at_most(&key("weight_bits"), mode.weight_bits.into(), "columns", self.columns, None);
            }
            if let Some(outputs) = mode.outputs {
                let columns = mode.measured.map_or(self.columns, |measured| measured.columns);
                let slices = usize::from(mode.weight_bits.div_ceil(self.weight_slice_bits));
                check_range(&key("outputs"), outputs as u64, 1, (columns / slices) as u64)?;
            }
            let same =
                |other: &AccessMode| (other.weight_bits, other.input_bits) == (mode.weight_bits, mode.input_bits);
            if self.access[..index].iter().any(same) {
                let precision = format!("{} x {} bits", mode.weight_bits, mode.input_bits);
                return refuse("access", precision, Allowed::NewPrecision);
            }
            match (mode.energy_pj, self.energy.components, self.converter) {
                (Some(energy), None, _) => check_positive(&key("energy_pj"), energy)?,
                (None, Some(parts), Converter::Bits { .. }) => {
                    check_positive("energy.components.adc_linear_ff", parts.adc_linear_ff)?;
                }
                (None, Some(parts), Converter::AdderTree) => {
                    check_positive("energy.components.adder_ff", parts.adder_ff)?;
                }
                (Some(energy), Some(_), _) => {
                    return refuse(&key("energy_pj"), energy, Allowed::InsteadOfComponents { both: true });
                }
                (None, Some(_), converter @ (Converter::Ideal | Converter::Clipping { .. })) => {
                    return refuse("converter.kind", converter.kind(), Allowed::BitsBesideComponents);
                }
                (None, None, _) => {
                    return refuse(&key("energy_pj"), "nothing", Allowed::InsteadOfComponents { both: false });
                }
            }
        }
        Ok(())
    }

    /// An access of another geometry needs a way to this one.
    fn check_measured(&self, mode: &AccessMode, key: &dyn Fn(&str) -> String) -> Checked {
        let Some(measured) = mode.measured else { return Ok(()) };
        for (name, value, most) in [
            ("measured.rows", measured.rows, MAX_ROWS),
            ("measured.columns", measured.columns, MAX_EXTENT),
            ("measured.rows_on", measured.rows_on, MAX_ROWS),
        ] {
            check_range(&key(name), value as u64, 1, most as u64)?;
        }
        if measured.rows_on > measured.rows {
            return at_most(&key("measured.rows_on"), measured.rows_on, "measured.rows", measured.rows, None);
        }
        let own = self.geometry();
        match mode.energy_pj {
            Some(energy) if measured != own && self.energy.macro_shares.is_none() => {
                let text = |geometry: Geometry| {
                    let Geometry { rows, columns, rows_on } = geometry;
                    format!("{rows} rows x {columns} columns with {rows_on} rows on")
                };
                refuse(&key("energy_pj"), energy, Allowed::OfThisGeometry { measured: text(measured), own: text(own) })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The error of a key.
fn refuse(key: &str, value: impl Display, allowed: Allowed) -> Checked {
    Err(ConfigError { key: key.into(), value: value.to_string(), allowed })
}

/// The error of a key whose value is above that of another.
fn at_most(key: &str, value: usize, other: &'static str, limit: usize, reason: Option<&'static str>) -> Checked {
    refuse(key, value, Allowed::AtMost { other, limit, reason })
}

fn check_range<T: PartialOrd + Display + Copy>(key: &str, value: T, low: T, high: T) -> Checked {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    refuse(key, value, Allowed::Between { low: low.to_string(), high: high.to_string() })
}

fn check_positive(key: &str, value: f64) -> Checked {
    if (1e-6..=1e6).contains(&value) { Ok(()) } else { refuse(key, value, Allowed::Positive) }
}
