//! The chip itself: its parts drawn, and the keys of its hardware file.

use maud::{Markup, html};

use super::elements::{drawn, legend, section, table_of_words};
use crate::hardware::Precision;
use crate::report::Subject;
use crate::report::drawings;
use crate::report::text::grouped;

pub(super) fn chip(subject: Subject) -> Markup {
    let chip = &subject.evaluation.chip;
    let hardware = &chip.description;
    let memory = &hardware.memory;
    let bits = |bits: u64| format!("{} bits a cycle", grouped(bits));
    let accesses = hardware.access.iter().map(|mode| {
        // A mode takes in its own input bits in one pass.
        let precision = hardware.precision(mode.weight_bits, mode.input_bits);
        let Precision { ns, energy_pj, .. } = precision.expect("the chip has this mode");
        format!("{} x {} b in {ns:.2} ns, {energy_pj:.2} pJ", mode.weight_bits, mode.input_bits)
    });
    let rows = [
        ("macros", format!("{} cores of {}", hardware.cores, hardware.macros_per_core)),
        (
            "cells of a macro",
            format!(
                "{} rows x {} columns, {} rows on",
                grouped(hardware.rows as u64),
                grouped(hardware.columns as u64),
                hardware.rows_on
            ),
        ),
        ("accesses, weight x input bits", accesses.collect::<Vec<_>>().join("; ")),
        ("clock", format!("{} MHz", hardware.clock_mhz)),
        ("group", format!("{} filters x {} channels", hardware.group.filters, hardware.group.channels)),
        ("weight SRAM of a core", format!("{} KiB", memory.weight_sram_kib)),
        ("feature-map SRAM", format!("{} KiB", memory.feature_sram_kib)),
        ("writing cells, a core", bits(memory.write_bits_per_cycle)),
        ("reading features, a core", bits(memory.feature_read_bits_per_cycle)),
        ("writing features, a core", bits(memory.feature_write_bits_per_cycle)),
        ("next level, all cores", bits(memory.next_level_bits_per_cycle)),
        ("SHA-256 of its description", chip.sha256.clone()),
    ];
    let rows = rows.map(|(name, value)| vec![html! { (name) }, html! { (value) }]);
    let drawing = drawings::chip(subject);
    section(
        "Chip",
        html! {
            figure {
                (legend(&drawing.keys))
                (drawn(&drawing.svg))
                figcaption { (drawing.caption) "." }
            }
            (table_of_words(&["what", "value"], &rows))
        },
    )
}
