//! Bounds: what a layer moves, and the least time that each part of the chip needs for it.

use serde::{Deserialize, Serialize};

use super::loaded::Loaded;
use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{CoreWork, LayerWork};
use crate::hardware::timing::Loading;

/// Bits that a frame moves at each memory, of a load that frames share rounded up; each term of the energy that counts bits is one of these, unrounded, times its
/// constant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BitsMoved {
    /// Written into cells of the macros.
    pub cells: u64,
    /// Read from the cores' weight SRAMs, and written to them where they come from the next level.
    pub weight_sram: u64,
    /// Read from the feature-map SRAM and written to it.
    pub feature_sram: u64,
    /// From and to the next memory level.
    pub next_level: u64,
}

impl BitsMoved {
    pub(super) fn of(work: &LayerWork, hardware: &Hardware, loading: Loading) -> Self {
        let of_frame = |bits: u64| bits.div_ceil(hardware.frames_per_load as u64);
        let Loaded { cells, packed, fetched, .. } = Loaded::of(work, loading);
        let maps_beyond = work.next_level_map_bits();
        Self {
            cells: of_frame(cells),
            weight_sram: of_frame(packed) + of_frame(fetched),
            feature_sram: work.traffic().total() + maps_beyond,
            next_level: of_frame(fetched) + maps_beyond,
        }
    }

    pub(super) fn plus(self, other: &Self) -> Self {
        Self {
            cells: self.cells + other.cells,
            weight_sram: self.weight_sram + other.weight_sram,
            feature_sram: self.feature_sram + other.feature_sram,
            next_level: self.next_level + other.next_level,
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.cells + self.weight_sram + self.feature_sram + self.next_level
    }
}

/// What can keep a layer from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The macros' accesses.
    Computing,
    /// Writing weights into the macros.
    Loading,
    /// Reading inputs from the feature-map SRAM.
    ReadPort,
    /// Writing outputs to the feature-map SRAM.
    WritePort,
    /// The next memory level.
    NextLevel,
    /// Decoding index codes.
    Decoder,
}

/// Least cycles of a layer for a frame, by each part alone: all macros busy, or the busiest core's port without a pause. Weights may come while an earlier layer
/// computes, so a layer can take less than `loading` and `decoder`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// [`Bound::Computing`].
    pub computing: u64,
    /// [`Bound::Loading`].
    pub loading: u64,
    /// [`Bound::ReadPort`].
    pub read_port: u64,
    /// [`Bound::WritePort`].
    pub write_port: u64,
    /// [`Bound::NextLevel`].
    pub next_level: u64,
    /// [`Bound::Decoder`].
    pub decoder: u64,
}

impl Bounds {
    pub(super) fn of(work: &LayerWork, hardware: &Hardware, loading: Loading) -> Self {
        let memory = &hardware.memory;
        let frames = hardware.frames_per_load as u64;
        let slowest = |cycles: &dyn Fn(&CoreWork) -> u64| work.cores.iter().map(cycles).max().unwrap_or(0);
        let load = |core: &CoreWork| memory.load_cycles(core.cell_bits(), core.packed_bits()).div_ceil(frames);
        let decode = |core: &CoreWork| memory.decode_cycles(core.index_bits()).div_ceil(frames);
        let loads = |cycles: &dyn Fn(&CoreWork) -> u64| match loading {
            Loading::Never => 0,
            Loading::WeightSram | Loading::NextLevel => slowest(cycles),
        };
        Self {
            computing: work.layer.compute_cycles().div_ceil(hardware.macros() as u64),
            loading: loads(&load),
            read_port: slowest(&|core| memory.read_cycles(core.traffic().read)),
            write_port: slowest(&|core| memory.write_back_cycles(core.traffic().written)),
            next_level: memory.next_level_cycles(BitsMoved::of(work, hardware, loading).next_level),
            decoder: loads(&decode),
        }
    }

    /// Each part with its cycles.
    pub fn parts(&self) -> [(Bound, u64); 6] {
        [
            (Bound::Computing, self.computing),
            (Bound::Loading, self.loading),
            (Bound::ReadPort, self.read_port),
            (Bound::WritePort, self.write_port),
            (Bound::NextLevel, self.next_level),
            (Bound::Decoder, self.decoder),
        ]
    }

    /// The part that needs most; of equal ones the first.
    pub fn tightest(&self) -> Bound {
        let [first, rest @ ..] = self.parts();
        rest.into_iter().fold(first, |most, part| if part.1 > most.1 { part } else { most }).0
    }
}
