//! The table of partial sums in the terminal.

use super::text::{WIDTH, converter, count, grouped, printable, wrapped};
use crate::hardware::{Converter, Hardware, PartialSums};
use crate::validation::PartialSumsOnImages;

/// Longest name that is printed whole.
const NAME: usize = 19;

/// How partial sums are distributed, layer by layer, and what the chip's converter loses of them.
pub fn partial_sums_table(found: &PartialSumsOnImages, hardware: &Hardware) -> String {
    let network = printable(&found.network, NAME);
    let chip = printable(&found.hardware, NAME);
    let mut lines = vec![
        format!(
            "partial sums of {network} on {chip}, {}; converters: {}",
            count(found.images, "image"),
            converter(hardware.converter)
        ),
        String::new(),
        format!("  {:<NAME$}{:>7}{:>7}{:>7}{:>7}{:>5}", "layer", "least", "median", "99.9 %", "most", "bits"),
    ];
    let is_lossy = found.partial_sums.layers.iter().any(|layer| layer.lossy.is_some());
    if is_lossy {
        lines[2] += &format!("{:>11}{:>7}{:>6}", "saturated", "error", "step");
    }
    lines.extend(found.partial_sums.layers.iter().map(row));
    lines.push(String::new());
    let mut notes = "bits: of a converter with step 1 that loses nothing.".to_owned();
    if found.partial_sums.layers.iter().any(|layer| layer.signed) {
        notes += " +-: the weight slice whose digits have a sign.";
    }
    if is_lossy {
        notes += " saturated: share beyond the codes. error: root of the mean squared difference between a sum and what comes out.";
    }
    if hardware.noise.is_some() {
        notes += " The layer's own noise is in none of these; that of layers before it is in its inputs.";
    }
    if let (Some(step), Converter::Bits { bits, step: own }) = (found.partial_sums.best_step, hardware.converter) {
        notes += &format!(
            " step: the one with the least error at {bits} bits; over all partial sums that is {step}, the chip has {own}."
        );
    }
    lines.extend(wrapped(&notes, WIDTH - 2).iter().map(|line| format!("  {line}")));
    lines.push(String::new());
    lines.join("\n")
}

fn row(layer: &PartialSums) -> String {
    let sign = if layer.signed { " +-" } else { "" };
    let name = format!("{}{sign}", printable(&layer.layer, NAME - 4));
    let PartialSums { least, median, quantile_999, largest, lossless_bits, .. } = layer;
    let mut row = format!("  {name:<NAME$}{least:>7}{median:>7}{quantile_999:>7}{largest:>7}{lossless_bits:>5}");
    if let Some(lossy) = layer.lossy {
        let step = lossy.best_step.map_or(String::new(), |step| grouped(step as u64));
        row += &format!("{:>9.3} %{:>7.3}{step:>6}", 100.0 * lossy.saturated, lossy.rms_error);
    }
    row
}
