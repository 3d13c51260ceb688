//! The timeline: when each part of a core does what, as the simulator found it.

use std::ops::Range;

use serde::Serialize;

use super::program::Activity;

/// A stretch of time in which a part of a core does something, once or again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The core.
    pub core: usize,
    /// The macro within the core; none where the core as a whole moves maps.
    pub unit: Option<usize>,
    /// Index in [`Timeline::layers`].
    pub layer: usize,
    /// What it does.
    pub activity: Activity,
    /// First cycle.
    pub start: u64,
    /// Cycles at a time.
    pub cycles: u64,
    /// How often.
    pub times: u64,
    /// Cycles from one time to the next.
    pub period: u64,
}

impl Span {
    /// Cycle after the last.
    pub fn end(&self) -> u64 {
        self.start + (self.times - 1) * self.period + self.cycles
    }
}

/// When each layer runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerTime {
    /// Name.
    pub name: String,
    /// First cycle in which its inputs are there.
    pub start: u64,
    /// Cycle after the last.
    pub end: u64,
}

/// A frame's share of the cycles of a layer that `frames` frames go through, in whole cycles.
pub(crate) fn cycles_of_a_frame(time: &Range<u64>, frames: usize) -> u64 {
    (time.end - time.start).div_ceil(frames as u64)
}

/// What happens while `frames` frames are computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Frames ([`Hardware::frames_per_load`](crate::hardware::Hardware::frames_per_load)).
    pub frames: usize,
    /// All layers, one after the other.
    pub layers: Vec<LayerTime>,
    /// What the parts of the cores do.
    pub spans: Vec<Span>,
}

impl Timeline {
    /// Cycles of all frames.
    pub fn cycles(&self) -> u64 {
        self.layers.last().map_or(0, |layer| layer.end)
    }
}
