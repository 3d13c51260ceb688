//! The chips that the programs know.

use std::path::Path;

use super::text::UNKNOWN;
use crate::builtin;
use crate::error::Result;
use crate::files::read_text;
use crate::hardware::{Hardware, Precision};

/// The built-in hardware files with what they describe: size, and what the macros reach at their widest precision.
///
/// # Errors
/// A file of the same name on the disk that is no hardware file.
pub fn hardware_list() -> Result<String> {
    let mut text = String::new();
    for path in builtin::hardware() {
        let chip = Hardware::load(Path::new(path))?;
        let title = read_text(Path::new(path))?;
        let title = title.lines().next().unwrap_or_default().trim_start_matches('#').trim();
        text += &format!("{path}\n  {title}\n  {}\n", summary(&chip));
    }
    Ok(text)
}

/// What a chip's macros reach without anything around them.
pub(super) struct Alone {
    pub tops_per_watt: f64,
    /// Of all macros.
    pub tops: f64,
}

impl Alone {
    pub fn new(chip: &Hardware, precision: &Precision) -> Self {
        let operations = 2.0 * (chip.rows_on * precision.outputs) as f64;
        Self {
            tops_per_watt: operations / precision.energy_pj,
            tops: chip.macros() as f64 * operations / precision.ns / 1e3,
        }
    }
}

/// Size of a chip, and what its macros alone reach.
fn summary(chip: &Hardware) -> String {
    let Hardware { cores, macros_per_core, rows, columns, rows_on, .. } = chip;
    let widest = chip.access.iter().max_by_key(|mode| (mode.weight_bits, mode.input_bits));
    let widest = widest.map(|mode| (mode.weight_bits, mode.input_bits.max(mode.weight_bits)));
    let peak = widest.and_then(|(bits, inputs)| Some((bits, inputs, chip.precision(bits, inputs).ok()?)));
    let figures = peak.map_or(UNKNOWN.into(), |(bits, inputs, precision)| {
        let Alone { tops_per_watt, tops } = Alone::new(chip, &precision);
        let area = chip.macro_mm2().map_or(String::new(), |area| format!(", {area:.3} mm2 a macro"));
        format!("macros at {bits} x {inputs} b: {tops_per_watt:.1} TOPS/W, {tops:.2} TOPS{area}")
    });
    format!("{cores} x {macros_per_core} macros of {rows} x {columns} cells, {rows_on} rows on; {figures}")
}
