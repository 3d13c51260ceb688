//! The report's drawings of a network on a chip, for `report.html` and as SVG files.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use super::Subject;
use super::chart::{self, Bar, Color, Drawing, Key, PARTS, Reached, SHADES, Stack, Stretch};
use super::text::{count, energy as microjoules, grouped, percent, words};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::groups::GroupGrid;
use crate::hardware::{Activity, EnergyBreakdown, EnergyPart, Evaluation, LayerCost, Span};
use crate::network::Conv;

/// Most rows of a timeline, after those that are the same are one.
const MAX_ROWS: usize = 96;
/// Cells that all grids of kept groups have together at most, which bounds the size of the file.
const CELLS: usize = 160_000;

/// Writes every drawing as an SVG file into a folder, which is made if need be.
pub(super) fn write(subject: Subject, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let kept: Vec<Drawing> = kept(subject).into_iter().map(|map| map.drawing).collect();
    for (name, drawings) in [
        ("timeline-frame", vec![frame(subject)]),
        ("timeline-layer", vec![layer(subject)]),
        ("utilization", vec![utilization(subject)]),
        ("energy", vec![energy(subject)]),
        ("energy-layers", vec![layer_energy(subject)]),
        ("roofline", vec![roofline(subject)]),
        ("chip", vec![chip(subject)]),
        ("kept-groups", kept),
    ] {
        let title = format!("{} of {} on {}", name.replace('-', " "), subject.name, subject.evaluation.hardware);
        write_atomically(&folder.join(format!("{name}.svg")), chart::stacked(&title, &drawings).as_bytes())?;
    }
    Ok(())
}

/// The energy of a frame by component.
pub(super) fn energy(subject: Subject) -> Drawing {
    let parts = subject.evaluation.cost.energy_breakdown_uj.components();
    let largest = parts.iter().map(|(_, part)| *part).fold(0.0, f64::max);
    let bars = parts.map(|(key, part)| Bar {
        label: words(key),
        share: if largest > 0.0 { part / largest } else { 0.0 },
        text: format!("{} µJ", microjoules(part)),
    });
    let caption = "Energy of a frame by component, weight reload charged";
    chart::bars(caption, caption, &bars)
}

// Each part of the energy has a color of its own.
const _: () = assert!(EnergyPart::ALL.len() <= PARTS.len());

/// The parts of an energy for a stack: how much, and what a mouse shows.
pub(super) fn energy_parts(breakdown: &EnergyBreakdown) -> Vec<(f64, String)> {
    let part = |part: EnergyPart| {
        let uj = breakdown.of_part(part);
        (uj, format!("{} {} µJ", part.name(), microjoules(uj)))
    };
    EnergyPart::ALL.map(part).into()
}

/// The colors of [`energy_parts`].
pub(super) fn energy_keys() -> Vec<Key> {
    PARTS.into_iter().zip(EnergyPart::ALL.map(EnergyPart::name)).collect()
}

/// The energy of each layer by component.
pub(super) fn layer_energy(subject: Subject) -> Drawing {
    let stack = |layer: &LayerCost| Stack {
        label: layer.name.clone(),
        text: format!("{} µJ", microjoules(layer.energy_uj)),
        parts: energy_parts(&layer.energy_breakdown_uj),
    };
    let stacks: Vec<Stack> = subject.evaluation.layers.iter().map(stack).collect();
    let caption = "Energy of each layer by component, weight reload charged";
    chart::stacks(caption, caption, &stacks, energy_keys())
}

/// What each layer reaches, below what macros and ports allow.
pub(super) fn roofline(subject: Subject) -> Drawing {
    let Evaluation { layers, chip, .. } = subject.evaluation;
    let clock_hz = chip.description.clock_mhz * 1e6;
    let memory = &chip.description.memory;
    let ports = memory.write_bits_per_cycle
        + memory.weight_bits_per_cycle
        + memory.feature_read_bits_per_cycle
        + memory.feature_write_bits_per_cycle;
    let bits_per_cycle = chip.description.cores as u64 * ports + memory.next_level_bits_per_cycle;
    let tops = |layer: &LayerCost| 2.0 * layer.kept_macs as f64 / (layer.cycles as f64 / clock_hz) / 1e12;
    let reached = |layer: &LayerCost| {
        let (operations, bits) = (2.0 * layer.kept_macs as f64, layer.bits_moved.total() as f64);
        (operations > 0.0 && bits > 0.0 && layer.cycles > 0).then(|| Reached {
            name: layer.name.clone(),
            intensity: operations / bits,
            tops: tops(layer),
        })
    };
    let points: Vec<Reached> = layers.iter().filter_map(reached).collect();
    // A layer's utilization is a share of what all macros do at its bits.
    let peak = |layer: &LayerCost| (layer.utilization > 0.0).then(|| tops(layer) / layer.utilization);
    let peak = layers.iter().filter_map(peak).reduce(f64::max).unwrap_or(subject.evaluation.cost.peak_tops);
    let caption = "Executed operations a second of each layer over those for each bit that moves; the roof is what all macros, at the bits of the layer for which that is most, and all ports together, allow";
    chart::roofline(caption, &points, peak, bits_per_cycle as f64 * clock_hz / 1e12)
}

/// The chip's parts; where no areas are known, each is as large as the others.
pub(super) fn chip(subject: Subject) -> Drawing {
    let hardware = &subject.evaluation.chip.description;
    let cores = hardware.cores;
    let area = subject.evaluation.area.map(|area| {
        [area.macros_mm2, area.weight_sram_mm2, area.feature_sram_mm2, area.logic_mm2].map(|mm2| mm2.max(0.0))
    });
    let part = |index: usize, class, name, number: usize| {
        let area = area.map_or(1.0, |areas| areas[index] / number as f64);
        chart::Part { class, name, number, area }
    };
    let parts = [
        part(0, "part0", "macros", hardware.macros()),
        part(1, "part2", "weight SRAMs", cores),
        part(2, "part3", "feature-map SRAM", 1),
        part(3, "part1", "cores' logic", cores),
    ];
    let caption = match subject.evaluation.area {
        Some(area) => format!("The chip's parts by their area, {:.2} mm² together", area.total_mm2),
        None => "The chip's parts; their areas are not known".to_owned(),
    };
    chart::floorplan(&caption, &parts)
}

/// The share of zero groups in each layer.
pub(super) fn sparsity(subject: Subject) -> Drawing {
    let bar = |layer: &LayerCost| {
        Some(Bar {
            label: layer.name.clone(),
            share: layer.group_sparsity?,
            text: format!("{} of {}", grouped(layer.groups - layer.kept_groups), grouped(layer.groups)),
        })
    };
    let bars: Vec<Bar> = subject.evaluation.layers.iter().filter_map(bar).collect();
    let caption = "Groups that are zero, of all groups of the layer; a full bar is 100 %";
    chart::bars("Share of zero groups, layer by layer", caption, &bars)
}

/// How busy the macros are in each layer.
pub(super) fn utilization(subject: Subject) -> Drawing {
    let bar = |layer: &LayerCost| Bar {
        label: layer.name.clone(),
        share: layer.utilization,
        text: percent(layer.utilization),
    };
    let bars: Vec<Bar> = subject.evaluation.layers.iter().map(bar).collect();
    let caption = "Multiply-accumulates of kept groups over what the macros could do in the layer's cycles, weight reload charged";
    chart::bars("Utilization, layer by layer", caption, &bars)
}

/// A part of a core that is busy or waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Macro(usize),
    Decoder,
    Inputs,
    Outputs,
    NextLevel,
}

/// A row of a timeline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    core: usize,
    part: Part,
}

impl Place {
    fn is_macro(self) -> bool {
        match self.part {
            Part::Macro(_) => true,
            Part::Decoder | Part::Inputs | Part::Outputs | Part::NextLevel => false,
        }
    }

    /// Where a span is drawn, and in which color; none for adders, which work beside the macros.
    fn of(span: &Span) -> Option<(Self, Color)> {
        let (part, color) = match span.activity {
            Activity::LoadWeights => (Part::Macro(span.unit?), Color::Load),
            Activity::Compute => (Part::Macro(span.unit?), Color::Compute),
            Activity::DecodeIndex => (Part::Decoder, Color::Port),
            Activity::LoadInputs => (Part::Inputs, Color::Port),
            Activity::WriteBack => (Part::Outputs, Color::Port),
            Activity::MoveMaps => (Part::NextLevel, Color::Port),
            Activity::Accumulate => return None,
        };
        Some((Self { core: span.core, part }, color))
    }

    fn name(self) -> String {
        let Self { core, part } = self;
        match part {
            Part::Macro(index) => format!("core {core}.{index}"),
            Part::Decoder => format!("{core} decoder"),
            Part::Inputs => format!("{core} inputs"),
            Part::Outputs => format!("{core} outputs"),
            Part::NextLevel => format!("{core} next level"),
        }
    }
}

/// What the macros do in a frame, or in all that share a load.
pub(super) fn frame(subject: Subject) -> Drawing {
    let timeline = &subject.evaluation.timeline;
    let caption =
        format!("What each macro does in {} cycles, {}.", grouped(timeline.cycles()), count(timeline.frames, "frame"));
    let drawing = timeline_of(subject, caption, 0..timeline.cycles(), |place| matches!(place.part, Part::Macro(_)));
    Drawing { keys: vec![("one", "computes"), ("two", "loads weights"), ("none", "waits")], ..drawing }
}

/// What the parts of the cores do in the slowest layer.
pub(super) fn layer(subject: Subject) -> Drawing {
    let timeline = &subject.evaluation.timeline;
    let slowest = timeline.layers.iter().rev().max_by_key(|layer| layer.end - layer.start);
    let (name, shown) = slowest.map_or(("", 0..0), |layer| (layer.name.as_str(), layer.start..layer.end));
    let cycles = grouped(shown.end - shown.start);
    let caption = format!("What the parts of the cores do in layer {name}, the slowest one: {cycles} cycles.");
    let keys = vec![("one", "macro computes"), ("two", "weights are written"), ("three", "decoder, ports")];
    Drawing { keys, ..timeline_of(subject, caption, shown, |_| true) }
}

/// Shade of a span by the share of the time in which its part is busy, from 1.
fn shade(span: &Span) -> usize {
    let share = if span.times > 1 { span.cycles as f64 / span.period as f64 } else { 1.0 };
    ((share * SHADES as f64).ceil() as usize).clamp(1, SHADES)
}

/// A stretch of a row: color, shade, first cycle and the one after the last.
type Spent = (Color, usize, u64, u64);

/// The spans in `shown` whose places are to have a row.
fn timeline_of(subject: Subject, caption: String, shown: Range<u64>, has_row: impl Fn(Place) -> bool) -> Drawing {
    let timeline = &subject.evaluation.timeline;
    let visible = timeline.spans.iter().filter(|span| span.start < shown.end && span.end() > shown.start);
    let spans = visible.filter_map(|span| Place::of(span).map(|(place, color)| (place, color, span)));
    let spans = spans.filter(|(place, ..)| has_row(*place));
    let mut rows: BTreeMap<Place, Vec<Spent>> = BTreeMap::new();
    for (place, color, span) in spans {
        let (start, end) = (span.start.max(shown.start), span.end().min(shown.end));
        rows.entry(place).or_default().push((color, shade(span), start, end));
    }
    // Parts that do the same at the same time share a row.
    let mut folded: Vec<(Place, usize)> = Vec::new();
    let mut row_of: HashMap<(Part, Vec<Spent>), usize> = HashMap::new();
    let mut stretches = Vec::new();
    for (place, mut spent) in rows {
        spent.sort_unstable();
        let kind = if place.is_macro() { Part::Macro(0) } else { place.part };
        let row = *row_of.entry((kind, spent.clone())).or_insert(folded.len());
        if row < folded.len() {
            folded[row].1 += 1;
            continue;
        }
        folded.push((place, 1));
        if row < MAX_ROWS {
            stretches.extend(spent.into_iter().map(|(color, shade, start, end)| Stretch {
                row,
                color,
                shade,
                start,
                end,
            }));
        }
    }
    let left_out = folded.len().saturating_sub(MAX_ROWS);
    let caption = match left_out {
        0 => caption,
        _ => format!(
            "{caption} {} of {} different rows are drawn.",
            grouped(MAX_ROWS as u64),
            grouped(folded.len() as u64)
        ),
    };
    let label = |(place, times): &(Place, usize)| match times {
        1 => place.name(),
        times => format!("{} ×{times}", place.name()),
    };
    let names: Vec<String> = folded.iter().take(MAX_ROWS).map(label).collect();
    stretches.sort_by_key(|stretch| stretch.start);
    let layers = timeline.layers.iter().filter(|layer| layer.start < shown.end && layer.end > shown.start);
    let layers: Vec<_> = layers.map(|layer| (layer.name.as_str(), layer.start, layer.end)).collect();
    chart::timeline(caption, &names, shown, &layers, &stretches)
}

/// The map of a layer's kept groups.
pub(super) struct KeptMap {
    pub drawing: Drawing,
    /// The layer's size in groups, and how many share a cell.
    pub note: String,
    /// Whether cells stand for several groups.
    pub binned: bool,
    /// Whether some of the grid's groups have no weights, as where filters read a part of the channels.
    pub partial: bool,
}

/// Which groups of each layer are kept.
pub(super) fn kept(subject: Subject) -> Vec<KeptMap> {
    let network = subject.network;
    let convs: Vec<_> = network.convs().collect();
    let limit = CELLS / convs.len().max(1);
    convs
        .iter()
        .map(|(Conv { name, shape, .. }, conv)| {
            let grid = GroupGrid::new(network.group, shape);
            let kept: Vec<Option<bool>> =
                (0..).zip(grid.kept(&conv.weights)).map(|(group, kept)| grid.exists(group).then_some(kept)).collect();
            let [rows, columns] = bins(grid.sets(), grid.groups_per_set(), limit);
            let binned = rows > 1 || columns > 1;
            let number = kept.iter().filter(|kept| **kept == Some(true)).count();
            let note = [grid.sets(), grid.blocks(), grid.taps].map(|size| size.to_string()).join(" × ");
            let scale = if binned { format!(", a cell is up to {rows} × {columns} groups") } else { String::new() };
            let caption = format!("{name}: {} of {} kept", grouped(number as u64), grouped(grid.real_groups() as u64));
            let block = if binned { usize::MAX } else { grid.taps };
            let cells = shares(&kept, grid.groups_per_set(), [rows, columns]);
            let (svg, size) = chart::mask(&caption, &cells, block);
            KeptMap {
                drawing: Drawing { svg, caption, keys: Vec::new(), size },
                note: note + &scale,
                binned,
                partial: !grid.is_dense(),
            }
        })
        .collect()
}

/// How many rows and columns of groups share a cell, so that there are at most `limit` cells.
fn bins(rows: usize, columns: usize, limit: usize) -> [usize; 2] {
    let (mut by_row, mut by_column) = (1, 1);
    while rows.div_ceil(by_row) * columns.div_ceil(by_column) > limit.max(1) {
        if rows.div_ceil(by_row) > columns.div_ceil(by_column) {
            by_row *= 2;
        } else {
            by_column *= 2;
        }
    }
    [by_row, by_column]
}

/// The share of kept groups in each cell of `rows x columns` groups, of those that have weights.
fn shares(kept: &[Option<bool>], groups_per_set: usize, [rows, columns]: [usize; 2]) -> Vec<Vec<Option<f64>>> {
    let sets: Vec<&[Option<bool>]> = kept.chunks(groups_per_set).collect();
    let row = |sets: &[&[Option<bool>]]| {
        (0..groups_per_set)
            .step_by(columns)
            .map(|from| {
                let to = (from + columns).min(groups_per_set);
                let cell = || sets.iter().flat_map(|set| &set[from..to]).flatten();
                let groups = cell().count();
                (groups > 0).then(|| cell().filter(|kept| **kept).count() as f64 / groups as f64)
            })
            .collect()
    };
    sets.chunks(rows).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_grids_share_cells_and_no_group_is_lost() {
        assert_eq!(bins(32, 288, 10_000), [1, 1]);
        assert_eq!(bins(3, 5, 6), [1, 4]);
        let mut kept: Vec<Option<bool>> = (0..15).map(|group| Some(group % 2 == 0)).collect();
        let share = |share: f64| Some(share);
        assert_eq!(shares(&kept, 5, [2, 4]), [[share(0.5), share(0.5)], [share(0.5), share(1.0)]]);
        // Groups without weights are neither kept nor zero.
        kept[1] = None;
        kept[14] = None;
        assert_eq!(shares(&kept, 5, [2, 4]), [[share(4.0 / 7.0), share(0.5)], [share(0.5), None]]);
    }
}
