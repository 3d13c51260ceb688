//! The layers one by one: sparsity, cost, utilization, and which groups are kept.

use maud::{Markup, html};

use super::elements::{drawn, key, section, table};
use crate::hardware::LayerCost;
use crate::network::ConvShape;
use crate::report::chart::Drawing;
use crate::report::text::{
    UNKNOWN, bound_name, empty_layers, energy, grouped, mapping_summary, percent, placement, remarks,
};
use crate::report::{Subject, drawings};

pub(super) fn sparsity(subject: Subject) -> Markup {
    section(
        "Sparsity of each layer",
        html! {
            (figure(&drawings::sparsity(subject)))
            @for name in empty_layers(subject.evaluation) {
                p.bad { "Nothing is left of layer " (name) ": all its groups are zero." }
            }
        },
    )
}

pub(super) fn layers(subject: Subject) -> Markup {
    let convs: Vec<_> = subject.network.convs().collect();
    let number = |value: Option<String>| value.unwrap_or(UNKNOWN.into());
    let row = |layer: &LayerCost| {
        let kept = || format!("{} of {}", grouped(layer.kept_groups), grouped(layer.groups));
        vec![
            layer.name.clone(),
            grouped(layer.cycles),
            energy(layer.energy_uj),
            number(layer.group_sparsity.map(|_| kept())),
            percent(layer.utilization),
            bound(layer),
            layer.mapping.map_or("all cores".into(), placement),
        ]
    };
    let work = |layer: &LayerCost| {
        let conv = convs.iter().find(|(conv, _)| conv.name == layer.name);
        let moved = layer.bits_moved;
        let mut cells = vec![
            layer.name.clone(),
            number(conv.map(|(conv, _)| dimensions(&conv.shape))),
            number(conv.map(|(_, conv)| format!("{}, {}", conv.weight_bits, conv.input_bits))),
            format!("{:.3}", layer.kept_macs as f64 / 1e6),
        ];
        let bits = [moved.cells, moved.weight_sram, moved.feature_sram, moved.next_level];
        cells.extend(bits.map(|bits| format!("{:.1}", bits as f64 / 1e3)));
        cells
    };
    let layers = &subject.evaluation.layers;
    let rows: Vec<Vec<String>> = layers.iter().map(row).collect();
    let headings = ["layer", "cycles", "energy (µJ)", "kept groups", "utilization (%)", "bound by", "mapping"];
    let works: Vec<Vec<String>> = layers.iter().map(work).collect();
    let work_headings = [
        "layer",
        "weights",
        "bits",
        "MAC (millions)",
        "cells (kb)",
        "weight SRAM (kb)",
        "feature SRAM (kb)",
        "next level (kb)",
    ];
    html! {
        (section("Layers", html! {
            (table(&headings, &rows))
            p.note {
                "Per frame, weight reload charged. " b { "Bound by" } ": the part of the chip that alone needs the most cycles for the layer, and how many of the layer's own they are; weights may come before the layer begins. The mapping says what the cores divide among themselves, how often the layer is on the chip if more than once, and whether the macros of a core start together."
            }
            p.note { (mapping_summary(subject.evaluation)) "." }
            @for remark in remarks(subject) { p.note { (remark) "." } }
            (figure(&drawings::roofline(subject)))
        }))
        (section("What layers compute and move", html! {
            (table(&work_headings, &works))
            p.note {
                "Multiply-accumulates (MAC) are those of kept groups. Weights are filters × channels × kernel height × width; bits are those of a weight and of an input. Kilobits of a frame: written into cells of macros, read and written at the SRAMs, and from and to the next level."
            }
        }))
    }
}

/// What bounds a layer, and its cycles as a share of the layer's.
fn bound(layer: &LayerCost) -> String {
    let cycles = layer.bounds.parts().into_iter().map(|(_, cycles)| cycles).max().unwrap_or(0);
    if layer.cycles == 0 {
        bound_name(layer.bound).into()
    } else {
        format!("{} {:.0} %", bound_name(layer.bound), 100.0 * cycles as f64 / layer.cycles as f64)
    }
}

/// Filters, channels and kernel.
fn dimensions(shape: &ConvShape) -> String {
    let [height, width] = shape.window.kernel;
    format!("{} × {} × {height} × {width}", shape.filters(), shape.depth())
}

pub(super) fn utilization(subject: Subject) -> Markup {
    section("Utilization of each layer", figure(&drawings::utilization(subject)))
}

fn figure(drawing: &Drawing) -> Markup {
    html! { figure { (drawn(&drawing.svg)) figcaption { (drawing.caption) "." } } }
}

pub(super) fn kept(subject: Subject) -> Markup {
    let group = subject.network.group;
    let maps = drawings::kept(subject);
    section(
        "Kept groups of each layer",
        html! {
            p.note {
                (key("one")) "kept " (key("none")) "zero"
                @if maps.iter().any(|map| map.partial) { ", blank: no weights" }
                ". A cell is a group of " (group.filters) " filters × " (group.channels)
                " channels at one kernel position. A row is a filter set; its columns are channel blocks, each with its kernel positions. \
                Beside a name: filter sets × channel blocks × kernel positions."
                @if maps.iter().any(|map| map.binned) {
                    " Where a cell stands for several groups, its shade is the share that is kept."
                }
            }
            div.grids {
                @for map in &maps {
                    div style={ "width:min(100%,max(280px," (map.drawing.size[0]) "px))" } {
                        h3 { (map.drawing.caption) " " small { (map.note) } }
                        (map.drawing.svg)
                    }
                }
            }
        },
    )
}
