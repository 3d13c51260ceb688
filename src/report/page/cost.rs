//! What a frame costs, and the chip's area.

use maud::{Markup, html};

use super::elements::{section, table};
use crate::hardware::Evaluation;
use crate::report::Subject;
use crate::report::figures::{Figure, figures, on_page};
use crate::report::text::{count, percent, scaling};

pub(super) fn cost(subject: Subject) -> Markup {
    let both = [&subject.evaluation.cost, &subject.evaluation.cost_without_reload];
    let row = |figure: Figure| {
        let [with, without] = both.map(|cost| on_page(&figure.value(cost)));
        vec![on_page(figure.name), with, without]
    };
    let rows: Vec<_> = figures(both.into_iter()).map(row).collect();
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
