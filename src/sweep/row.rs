//! What came of the points of a sweep, and which of them are the best.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::space::Value;
use crate::hardware::{AreaBreakdown, Compression, Cost, Evaluation};

/// A point of a sweep with what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepRow {
    /// Number in the [`Space`](super::Space).
    pub point: usize,
    /// Each ranged key with its value, in the order of the space's keys.
    pub settings: Vec<(String, Value)>,
    /// What it costs, or why it cannot work.
    pub outcome: Outcome,
}

/// What came of a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What it costs.
    Figures(Box<Figures>),
    /// Why the chip cannot work, or not with this network.
    Error(String),
}

/// What a point costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Right predictions of the macro model, in percent; absent where no images were run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Images that it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Every kept weight has a place in the macros at the same time.
    pub resident: bool,
    /// The packed model fits the cores' weight SRAMs.
    pub fits_weight_sram: bool,
    /// Energy and time of accesses are scaled from the geometry that they were measured on.
    pub scaled: bool,
    /// Per frame, weight reload charged.
    pub cost: Cost,
    /// Per frame, as if all weights stayed in the macros.
    pub cost_without_reload: Cost,
    /// How much smaller the weights are.
    pub compression: Compression,
    /// Area, where the hardware file has the constants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<AreaBreakdown>,
}

impl Figures {
    /// The figures of an evaluation; where images were run, with their number and the accuracy on them in percent.
    pub fn new(evaluation: &Evaluation, run: Option<(usize, f64)>) -> Self {
        Self {
            accuracy: run.map(|(_, accuracy)| accuracy),
            images: run.map(|(images, _)| images),
            resident: evaluation.resident,
            fits_weight_sram: evaluation.fits_weight_sram,
            scaled: evaluation.scaled_from.is_some(),
            cost: evaluation.cost,
            cost_without_reload: evaluation.cost_without_reload,
            compression: evaluation.compression,
            area: evaluation.area,
        }
    }

    /// What is compared with other points, bit by bit.
    fn compared(&self) -> [Option<u64>; 4] {
        let area = self.area.map(|area| area.total_mm2);
        [Some(self.cost.fps), Some(self.cost.energy_uj), self.accuracy, area].map(|figure| figure.map(f64::to_bits))
    }

    /// True if it is nowhere worse than `other`: frames a second, energy and, where both have them, accuracy and area.
    fn covers(&self, other: &Self) -> bool {
        let at_least =
            |mine: Option<f64>, theirs: Option<f64>| mine.zip(theirs).is_none_or(|(mine, theirs)| mine >= theirs);
        let area = |figures: &Self| figures.area.map(|area| -area.total_mm2);
        self.cost.fps >= other.cost.fps
            && self.cost.energy_uj <= other.cost.energy_uj
            && at_least(self.accuracy, other.accuracy)
            && at_least(area(self), area(other))
    }

    /// True if it is nowhere worse and somewhere better.
    fn beats(&self, other: &Self) -> bool {
        self.covers(other) && !other.covers(self)
    }
}

impl SweepRow {
    /// What it costs, if it works.
    pub fn figures(&self) -> Option<&Figures> {
        match &self.outcome {
            Outcome::Figures(figures) => Some(figures),
            Outcome::Error(_) => None,
        }
    }
}

/// The points that no other one beats in one figure without losing in another, ascending; equal ones all of them.
///
/// Figures are frames a second, energy, and accuracy and area where they are known.
pub fn pareto_front(rows: &[SweepRow]) -> Vec<usize> {
    // Keys that cost nothing make many points alike, which are looked at once.
    let mut alike: HashMap<_, (&Figures, Vec<usize>)> = HashMap::new();
    for (point, figures) in rows.iter().filter_map(|row| Some((row.point, row.figures()?))) {
        alike.entry(figures.compared()).or_insert((figures, Vec::new())).1.push(point);
    }
    let mut front: Vec<(&Figures, Vec<usize>)> = Vec::new();
    for (figures, points) in alike.into_values() {
        if !front.iter().any(|(other, _)| other.beats(figures)) {
            front.retain(|(other, _)| !figures.beats(other));
            front.push((figures, points));
        }
    }
    let mut points: Vec<usize> = front.into_iter().flat_map(|(_, points)| points).collect();
    points.sort_unstable();
    points
}
