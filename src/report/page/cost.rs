//! What a frame costs, and the chip's area.

use maud::{Markup, html};

use super::elements::{section, table};
use crate::hardware::{Cost, Evaluation};
use crate::report::Subject;
use crate::report::text::{UNKNOWN, count, energy, frames, grouped, percent, scaling, tops};

type Value = fn(&Cost) -> String;

const ROWS: [(&str, Value); 12] = [
    ("time", |cost| format!("{} cycles", grouped(cost.cycles))),
    ("latency", |cost| format!("{:.2} µs", cost.latency_us)),
    ("throughput", |cost| format!("{} frames/s", frames(cost.fps))),
    ("energy", |cost| format!("{} µJ", energy(cost.energy_uj))),
    ("efficiency, dense-equivalent", |cost| format!("{:.2} TOPS/W", cost.tops_per_watt_dense_equivalent)),
    ("efficiency, executed", |cost| format!("{:.2} TOPS/W", cost.tops_per_watt_executed)),
    ("average power", |cost| format!("{:.2} mW", cost.average_power_mw)),
    ("energy × delay", |cost| format!("{:.2} µJ µs", cost.energy_delay_uj_us)),
    ("speed, executed", |cost| format!("{} TOPS", tops(cost.tops_executed))),
    ("speed, peak", |cost| format!("{} TOPS", tops(cost.peak_tops))),
    ("utilization", |cost| percent(cost.utilization)),
    ("speed-up over dense", |cost| format!("{:.2} ×", cost.speedup_vs_dense)),
];
/// Where the chip's area is known.
const ROWS_PER_AREA: [(&str, Value); 2] = [
    ("density, dense-equivalent", |cost| density(cost.tops_per_mm2_dense_equivalent)),
    ("density, executed", |cost| density(cost.tops_per_mm2_executed)),
];

fn density(per_mm2: Option<f64>) -> String {
    per_mm2.map_or(UNKNOWN.into(), |per_mm2| format!("{} TOPS/mm²", tops(per_mm2)))
}

pub(super) fn cost(subject: Subject) -> Markup {
    let per_area = ROWS_PER_AREA.iter().filter(|_| subject.evaluation.area.is_some());
    let rows: Vec<_> = ROWS
        .iter()
        .chain(per_area)
        .map(|(name, value)| {
            vec![String::from(*name), value(&subject.evaluation.cost), value(&subject.evaluation.cost_without_reload)]
        })
        .collect();
    section(
        "Cost of a frame",
        html! {
            (table(&["per frame", "with reload", "without reload"], &rows))
            p.note { (reload(subject.evaluation)) }
            @if let Some(from) = subject.evaluation.scaled_from {
                p.note { b { (scaling(from)) } ", by the shares of array, converter and drivers that the hardware file gives." }
            }
            p.note {
                b { "Dense-equivalent" } " TOPS/W counts two operations for every multiply-accumulate of the dense network, those of \
                zero groups included, which are never computed. " b { "Executed" } " TOPS/W counts only those of kept groups on real \
                channels and filters; padding is not counted. " b { "Utilization" } " is executed multiply-accumulates over what the \
                macros could do in these cycles. The dense comparison has the same bits and the same chip."
            }
        },
    )
}

/// What the columns with and without reload charge.
fn reload(evaluation: &Evaluation) -> Markup {
    if evaluation.resident {
        return html! {
            "All kept weights have a place in the macros at the same time, so nothing is reloaded and both columns are the same."
        };
    }
    let from = if evaluation.fits_weight_sram {
        "come from the cores' weight SRAMs"
    } else {
        "do not fit the cores' weight SRAMs and come from the next memory level"
    };
    html! {
        b { "With reload" } ", the weights " (from) " and are written into the macros once for "
        (count(evaluation.timeline.frames, "frame")) "; latency is that of all frames that share a load. "
        b { "Without reload" } " is the same as if all weights stayed in the macros."
    }
}

/// The area by component; nothing where the hardware file has no constants for it.
pub(super) fn area(subject: Subject) -> Markup {
    let Some(area) = &subject.evaluation.area else { return html! {} };
    let rows = [
        (html! { "macros, with converters and drivers" }, area.macros_mm2),
        (html! { "weight SRAMs" }, area.weight_sram_mm2),
        (html! { "feature-map SRAM" }, area.feature_sram_mm2),
        (html! { "logic" }, area.logic_mm2),
        (html! { b { "all" } }, area.total_mm2),
    ];
    let rows =
        rows.map(|(name, mm2)| vec![name, html! { (format!("{mm2:.4}")) }, html! { (percent(mm2 / area.total_mm2)) }]);
    section("Area", table(&["component", "area (mm²)", "share (%)"], &rows))
}
