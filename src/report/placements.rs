//! The table of placements in the terminal.

use super::text::{UNKNOWN, WIDTH, energy, grouped, printable, wrapped};
use crate::hardware::{LayerPlacement, Placement, Placements, Split, Start};

/// Longest name that is printed whole, and what the column of names takes at least.
const NAME: usize = 40;
const NAMES: usize = 18;
/// Longest placement: all copies of the largest chip by channels, together.
const PLACEMENT: usize = 21;

/// Where each layer of a network lies on a chip, and what a frame would take with the next best placement of one layer.
pub fn placements_table(found: &Placements, network: &str, chip: &str) -> String {
    let Placements { cycles, energy_uj, layers } = found;
    let names = [network, chip].map(|name| printable(name, NAME));
    let longest = layers.iter().map(|layer| layer.layer.chars().count().min(NAME)).max().unwrap_or(0);
    let width = NAMES.max(longest + 1);
    let mut lines = vec![
        format!("placements of {} on {}: {} cycles a frame,", names[0], names[1], grouped(*cycles)),
        format!("  {} uJ without the leakage of macros that hold no weights", energy(*energy_uj)),
        String::new(),
    ];
    let header = ["layer", "lies", "next best"];
    lines.push(format!(
        "  {:<width$}{:<PLACEMENT$}{:<PLACEMENT$}{:>9}{:>9}",
        header[0], header[1], header[2], "cycles", "energy"
    ));
    lines.extend(layers.iter().map(|layer| row(layer, found, width)));
    lines.push(String::new());
    let notes = "4 x sets together: four copies of the layer; in each, cores divide the filter sets (or the input channels), \
                 and the macros of a core start at the same time. cycles, energy: of a frame, if this layer alone were placed so; weight reload charged. \
                 The mapper may miss what is better for several layers together. \
                 [[mapping.layers]] in the hardware file decides for layers by name.";
    lines.extend(wrapped(notes, WIDTH - 2).iter().map(|line| format!("  {line}")));
    lines.push(String::new());
    lines.join("\n")
}

fn row(layer: &LayerPlacement, found: &Placements, width: usize) -> String {
    let (name, own) = (printable(&layer.layer, NAME), short(layer.placement));
    let head = format!("  {name:<width$}{own:<PLACEMENT$}");
    let Some(next) = layer.next_best else { return format!("{head}{UNKNOWN}") };
    // Rounded first, so that nothing is less than nothing.
    let more = |new: f64, own: f64| format!("{:+.1} %", (1000.0 * (new / own - 1.0)).round() / 10.0 + 0.0);
    let cycles = more(next.cycles as f64, found.cycles as f64);
    let energy = more(next.energy_uj, found.energy_uj);
    format!("{head}{:<PLACEMENT$}{cycles:>9}{energy:>9}", short(next.placement))
}

/// A placement in few characters.
fn short(placement: Placement) -> String {
    let split = match placement.split {
        Split::FilterSets => "sets",
        Split::InputChannels => "channels",
    };
    let start = match placement.start {
        Start::Staggered => "",
        Start::Together => " together",
    };
    match placement.copies {
        1 => format!("{split}{start}"),
        copies => format!("{copies} x {split}{start}"),
    }
}
