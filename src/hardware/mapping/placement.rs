//! Placement: the ways in which a layer may be divided among the cores.

use serde::Serialize;

use super::accesses::ConvMapping;
use super::shares::{Share, channels_over_cores, sets_over_cores};
use crate::hardware::chip::{Hardware, LayerMapping, Policy, Split, Start};

/// How one layer lies on the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Placement {
    /// What the cores divide among themselves.
    pub split: Split,
    /// How often the layer's weights are on the chip. Each copy has its own cores, or its own macros of a core if there are more
    /// copies than cores, and computes its share of the output pixels.
    pub copies: usize,
    /// When the macros of a core start.
    pub start: Start,
}

impl Placement {
    /// Filter sets over cores, nothing twice, no macro waits for another.
    pub(crate) const PLAIN: Self = Self { split: Split::FilterSets, copies: 1, start: Start::Staggered };

    /// Every placement that a layer may have on a chip, the plain one first; none where the hardware file decides what isn't possible there.
    ///
    /// Only a layer of which all copies together have no more accesses than the chip's macros hold is copied.
    pub(crate) fn all(mapping: &ConvMapping, hardware: &Hardware) -> Vec<Self> {
        let mut all = Vec::new();
        for copies in Self::copy_numbers(mapping, hardware) {
            for split in [Split::FilterSets, Split::InputChannels] {
                for start in [Start::Staggered, Start::Together] {
                    all.push(Self { split, copies, start });
                }
            }
        }
        // Where there is nothing to divide or to wait for, a placement is the same as a simpler one.
        all.retain(|placement| {
            (placement.split == Split::FilterSets || placement.cores(hardware) > 1)
                && (placement.start == Start::Staggered || placement.macros(hardware) > 1)
                && placement.is_allowed(mapping, hardware)
        });
        all
    }

    /// Whether it is what the hardware file decides about the layer, as far as that makes a difference.
    pub(crate) fn is_allowed(&self, mapping: &ConvMapping, hardware: &Hardware) -> bool {
        let obeys = |rule: &LayerMapping| {
            rule.copies.is_none_or(|copies| copies == self.copies)
                && rule.split.is_none_or(|split| split == self.split || self.cores(hardware) == 1)
                && rule.start.is_none_or(|start| start == self.start || self.macros(hardware) == 1)
        };
        hardware.mapping.layers.iter().filter(|rule| rule.matches(&mapping.name)).all(obeys)
    }

    /// The placement that a fixed policy gives; none for the automatic one.
    pub(crate) fn of_policy(policy: Policy, mapping: &ConvMapping, hardware: &Hardware) -> Option<Self> {
        Some(match policy {
            Policy::Auto => return None,
            Policy::FilterSets => Self::PLAIN,
            Policy::Together => Self { start: Start::Together, ..Self::PLAIN },
            Policy::InputChannels => Self { split: Split::InputChannels, ..Self::PLAIN },
            Policy::Duplicate => {
                let copies = Self::copy_numbers(mapping, hardware).max().unwrap_or(1);
                Self { copies, ..Self::PLAIN }
            }
        })
    }

    /// Numbers of copies: those that divide the cores, then whole numbers of copies in each core.
    pub(crate) fn copy_numbers(mapping: &ConvMapping, hardware: &Hardware) -> impl Iterator<Item = usize> {
        let (cores, macros) = (hardware.cores, hardware.macros_per_core);
        let over_cores = (1..=cores).filter(move |copies| cores.is_multiple_of(*copies));
        let in_cores =
            (2..=macros).filter(move |copies| macros.is_multiple_of(*copies)).map(move |copies| cores * copies);
        let room = hardware.macros() * hardware.accesses_per_macro();
        let accesses = mapping.accesses();
        let pixels = mapping.shape.output.pixels();
        over_cores
            .chain(in_cores)
            .filter(move |copies| *copies == 1 || (*copies <= pixels && accesses * copies <= room))
    }

    /// Cores of a copy.
    pub(super) fn cores(&self, hardware: &Hardware) -> usize {
        (hardware.cores / self.copies).max(1)
    }

    /// Copies in a core.
    pub(super) fn copies_in_core(&self, hardware: &Hardware) -> usize {
        (self.copies / hardware.cores).max(1)
    }

    /// Macros of a copy in one core.
    pub(super) fn macros(&self, hardware: &Hardware) -> usize {
        hardware.macros_per_core / self.copies_in_core(hardware)
    }

    /// Tiles of a core that start together.
    pub(super) fn tiles_per_round(&self, hardware: &Hardware) -> usize {
        match self.start {
            Start::Together => self.macros(hardware),
            Start::Staggered => 1,
        }
    }

    /// What each core of a copy has of a layer.
    pub(super) fn shares(&self, mapping: &ConvMapping, hardware: &Hardware) -> Vec<Vec<Share>> {
        match self.split {
            Split::FilterSets => sets_over_cores(mapping, self.cores(hardware)),
            Split::InputChannels => channels_over_cores(mapping, self.cores(hardware)),
        }
    }
}
