//! What macros hold of the layers of a network.

use std::ops::AddAssign;

use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{CoreWork, LayerWork};

/// What a macro holds.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    tiles: u64,
    accesses: u64,
}

impl AddAssign for Held {
    fn add_assign(&mut self, other: Self) {
        self.tiles += other.tiles;
        self.accesses += other.accesses;
    }
}

/// What each macro gets of a placed layer.
#[derive(Debug)]
pub(super) struct LayerHeld {
    cores: Vec<CoreHeld>,
    /// Accesses that all macros hold together.
    accesses: u64,
}

/// The same of a core.
#[derive(Debug)]
struct CoreHeld {
    /// Of a copy's macros, from the first one on that gets a tile.
    macros: Vec<Held>,
    copies: usize,
    /// Whether that one follows the last one of the layer before.
    takes_turns: bool,
    tiles: usize,
}

impl LayerHeld {
    pub(super) fn of(work: &LayerWork) -> Self {
        let of_core = |core: &CoreWork| {
            let mut macros = vec![Held::default(); core.macros];
            for (index, tile) in core.tiles.iter().enumerate() {
                macros[index % core.macros] += Held { tiles: 1, accesses: tile.accesses };
            }
            CoreHeld { macros, copies: core.pixels.len(), takes_turns: core.takes_turns(), tiles: core.tiles.len() }
        };
        Self {
            cores: work.cores.iter().map(of_core).collect(),
            accesses: work.cores.iter().map(CoreWork::held_accesses).sum(),
        }
    }
}

/// The macros of a chip that hold a tile, and the most accesses that one of them holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fullness {
    pub(super) holding: usize,
    pub(super) most: u64,
}

impl Fullness {
    /// Of layers that follow each other.
    pub(super) fn of(layers: &[&LayerHeld], hardware: &Hardware) -> Self {
        let mut full = Self::default();
        each_core(layers, hardware, |macros| {
            full = full.with(macros);
            true
        });
        full
    }

    fn with(self, macros: &[Held]) -> Self {
        Self {
            holding: self.holding + macros.iter().filter(|held| held.tiles > 0).count(),
            most: macros.iter().map(|held| held.accesses).fold(self.most, u64::max),
        }
    }
}

/// The most accesses that a macro holds of layers that follow each other; nothing where a macro has no room for them.
pub(super) fn most_where_all_fit(layers: &[&LayerHeld], hardware: &Hardware) -> Option<u64> {
    let room = hardware.accesses_per_macro() as u64;
    if layers.iter().map(|layer| layer.accesses).sum::<u64>() > room * hardware.macros() as u64 {
        return None;
    }
    let mut full = Fullness::default();
    each_core(layers, hardware, |macros| {
        full = full.with(macros);
        full.most <= room
    });
    (full.most <= room).then_some(full.most)
}

/// Gives what the macros of each core hold, as long as the next core is wanted.
fn each_core(layers: &[&LayerHeld], hardware: &Hardware, mut next: impl FnMut(&[Held]) -> bool) {
    let mut held = vec![Held::default(); hardware.macros_per_core];
    for number in 0..hardware.cores {
        held.fill(Held::default());
        let mut turn = 0;
        for core in layers.iter().map(|layer| &layer.cores[number]).filter(|core| core.tiles > 0) {
            let macros = core.macros.len();
            let first = if core.takes_turns { turn % macros } else { 0 };
            // The macro `first` gets what stands first.
            let (until_last, from_zero) = core.macros.split_at(macros - first);
            for copy in held.chunks_exact_mut(macros).take(core.copies) {
                copy.iter_mut().zip(from_zero.iter().chain(until_last)).for_each(|(held, more)| *held += *more);
            }
            turn += core.tiles;
        }
        if !next(&held) {
            return;
        }
    }
}
