//! The chip itself: its parts drawn, and the keys of its hardware file.

use maud::{Markup, html};

use super::elements::{drawn, legend, section, table_of_words};
use crate::hardware::{InputReads, Noise, PingPong, Precision};
use crate::report::Subject;
use crate::report::chips::Alone;
use crate::report::drawings;
use crate::report::text::{converter, grouped, three_digits};

pub(super) fn chip(subject: Subject) -> Markup {
    let chip = &subject.evaluation.chip;
    let hardware = &chip.description;
    let memory = &hardware.memory;
    let bits = |bits: u64| format!("{} bits a cycle", grouped(bits));
    let accesses = hardware.access.iter().map(|mode| {
        // A mode takes in its own input bits in one pass.
        let precision = hardware.precision(mode.weight_bits, mode.input_bits);
        let precision = precision.expect("the chip has this mode");
        let Precision { ns, energy_pj, .. } = precision;
        let Alone { tops_per_watt, tops } = Alone::new(hardware, &precision);
        format!(
            "{} x {} b in {ns:.2} ns, {energy_pj:.2} pJ (all macros, without memories: {tops_per_watt:.1} TOPS/W, {tops:.2} TOPS)",
            mode.weight_bits, mode.input_bits
        )
    });
    let energy = &hardware.energy;
    let per_bit = |pj: f64| format!("{} pJ a bit", three_digits(pj, 3));
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
        ("converter", converter(hardware.converter)),
        ("noise and stuck cells", noise(hardware.noise)),
        ("weight SRAM of a core", format!("{} KiB", memory.weight_sram_kib)),
        ("feature-map SRAM", format!("{} KiB", memory.feature_sram_kib)),
        (
            "inputs from there",
            match memory.input_reads {
                InputReads::PerCore => "read by each core".into(),
                InputReads::Broadcast => "one read for all cores that need them".into(),
            },
        ),
        (
            "its halves",
            match memory.ping_pong {
                PingPong::Shared => "shared by the map that is read and the one that is written".into(),
                PingPong::Halves => "one for the map that is read, one for the map that is written".into(),
            },
        ),
        ("writing cells, a core", bits(memory.write_bits_per_cycle)),
        ("weight SRAM to macros, a core", bits(memory.weight_bits_per_cycle)),
        ("decoding index codes, a core", bits(memory.index_bits_per_cycle)),
        ("reading features, a core", bits(memory.feature_read_bits_per_cycle)),
        ("writing features, a core", bits(memory.feature_write_bits_per_cycle)),
        ("next level, all cores", bits(memory.next_level_bits_per_cycle)),
        ("energy of a cell that is written", per_bit(energy.cell_write_pj_per_bit)),
        ("energy of the weight SRAM", per_bit(hardware.weight_sram_pj_per_bit())),
        ("energy of the feature-map SRAM", per_bit(hardware.feature_sram_pj_per_bit())),
        ("energy of the next level", per_bit(energy.next_level_pj_per_bit)),
        ("leakage of a macro", format!("{} mW", three_digits(hardware.leakage_mw_per_macro(), 2))),
        (
            "area of a macro",
            hardware.macro_mm2().map_or("not given".into(), |mm2| format!("{} mm²", three_digits(mm2, 3))),
        ),
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

fn noise(noise: Option<Noise>) -> String {
    match noise {
        None => "none".into(),
        Some(Noise { sigma, stuck_at_zero, stuck_at_one, seed }) => format!(
            "sigma of {sigma} codes; {} % of the cells stuck at 0, {} % at 1; seed {seed}",
            100.0 * stuck_at_zero,
            100.0 * stuck_at_one
        ),
    }
}
