//! Loaded: the bits that a load of a layer's weights moves.

use crate::hardware::mapping::{CoreWork, LayerWork};
use crate::hardware::timing::Loading;

/// Bits that all cores move for a load, which serves `frames_per_load` frames; none where weights stay in the macros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Written into cells.
    pub(super) cells: u64,
    /// Read from the cores' weight SRAMs.
    pub(super) packed: u64,
    /// Of those the index codes.
    pub(super) index: u64,
    /// From the next level into the weight SRAMs; copies in a core share it.
    pub(super) fetched: u64,
}

impl Loaded {
    pub(super) fn of(work: &LayerWork, loading: Loading) -> Self {
        let sum = |bits: fn(&CoreWork) -> u64| work.cores.iter().map(bits).sum();
        let of_all = || Self {
            cells: sum(CoreWork::cell_bits),
            packed: sum(CoreWork::packed_bits),
            index: sum(CoreWork::index_bits),
            fetched: 0,
        };
        match loading {
            Loading::Never => Self::default(),
            Loading::WeightSram => of_all(),
            Loading::NextLevel => Self { fetched: sum(CoreWork::stored_bits), ..of_all() },
        }
    }
}
