//! The figures of a frame's cost, as every table shows them.

use super::text::{UNKNOWN, energy, fixed, frames, grouped, percent, three_digits, tops};
use crate::hardware::Cost;

/// A figure of a frame's cost.
#[derive(Clone, Copy)]
pub(super) struct Figure {
    /// In ASCII, for the terminal.
    pub name: &'static str,
    /// In ASCII; empty where the name or the number says it.
    pub unit: &'static str,
    /// None where the chip's area would have to be known.
    number: fn(&Cost) -> Option<String>,
}

const FIGURES: [Figure; 14] = [
    figure("cycles", "", |cost| Some(grouped(cost.cycles))),
    figure("frames per second", "", |cost| Some(frames(cost.fps))),
    figure("latency", "us", |cost| Some(fixed(cost.latency_us, 2))),
    figure("speed-up over dense", "x", |cost| Some(format!("{:.2}", cost.speedup_vs_dense))),
    figure("utilization", "", |cost| Some(percent(cost.utilization))),
    figure("TOPS, executed", "", |cost| Some(tops(cost.tops_executed))),
    figure("TOPS, peak", "", |cost| Some(tops(cost.peak_tops))),
    figure("average power", "mW", |cost| Some(fixed(cost.average_power_mw, 2))),
    figure("energy x delay", "uJ us", |cost| Some(fixed(cost.energy_delay_uj_us, 2))),
    figure("TOPS/mm2, dense-equivalent", "", |cost| cost.tops_per_mm2_dense_equivalent.map(tops)),
    figure("TOPS/mm2, executed", "", |cost| cost.tops_per_mm2_executed.map(tops)),
    figure("TOPS/W, dense-equivalent", "", |cost| Some(three_digits(cost.tops_per_watt_dense_equivalent, 2))),
    figure("TOPS/W, executed", "", |cost| Some(three_digits(cost.tops_per_watt_executed, 2))),
    figure("energy", "uJ", |cost| Some(energy(cost.energy_uj))),
];

const fn figure(name: &'static str, unit: &'static str, number: fn(&Cost) -> Option<String>) -> Figure {
    Figure { name, unit, number }
}

/// The figures that one of these costs has; the energy last, so that its components may follow.
pub(super) fn figures<'a>(costs: impl Iterator<Item = &'a Cost> + Clone) -> impl Iterator<Item = Figure> {
    FIGURES.into_iter().filter(move |figure| costs.clone().any(|cost| (figure.number)(cost).is_some()))
}

impl Figure {
    /// The name and, where there is one, the unit.
    pub fn title(self) -> String {
        match self.unit {
            "" => self.name.into(),
            unit => format!("{}, {unit}", self.name),
        }
    }

    /// The number without its unit.
    pub fn number(self, cost: &Cost) -> String {
        (self.number)(cost).unwrap_or(UNKNOWN.into())
    }

    /// The number with its unit.
    pub fn value(self, cost: &Cost) -> String {
        format!("{} {}", self.number(cost), self.unit).trim_end().into()
    }
}

/// Names and units of figures as a page writes them.
pub(super) fn on_page(ascii: &str) -> String {
    let text = ascii.replace("uJ", "µJ").replace(" us", " µs").replace("mm2", "mm²").replace(" x ", " × ");
    text.strip_suffix(" x").map_or(text.clone(), |number| format!("{number} ×"))
}
