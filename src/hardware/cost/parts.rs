//! Parts of a chip, and what no placement of a network on one takes less than.

use super::energy::{Macros, layer_energy};
use super::plan::Expense;
use crate::hardware::chip::Hardware;
use crate::hardware::mapping::{CoreWork, Layer, LayerWork, Placement};
use crate::hardware::timing::Loading;

/// A part of a chip: so many cores, so many macros of each, so many rows of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) cores: usize,
    pub(super) macros_per_core: usize,
    pub(super) rows: usize,
}

impl Part {
    pub(super) fn macros(self) -> usize {
        self.cores * self.macros_per_core
    }

    /// The chip as if it had nothing but this part.
    pub(super) fn of(self, chip: &Hardware) -> Hardware {
        let Self { cores, macros_per_core, rows } = self;
        Hardware { cores, macros_per_core, rows, ..chip.clone() }
    }
}

/// Most macros of a chip of which every number of cores, macros and rows is looked at.
const MANY_MACROS: usize = 128;

/// Parts of a chip, larger ones first: each number of cores and of macros, with all rows or a power of two of accesses. Of a chip with many macros the
/// numbers are powers of two and its own, with all rows.
pub(super) fn parts(hardware: &Hardware) -> Vec<Part> {
    let many = hardware.macros() > MANY_MACROS;
    let numbers =
        move |most: usize| (1..=most).rev().filter(move |number| !many || number.is_power_of_two() || *number == most);
    let accesses = hardware.accesses_per_macro();
    let powers = (0..=accesses.ilog2()).map(|power| 1 << power).filter(|held| *held < accesses && !many);
    let held: Vec<usize> = powers.chain([accesses]).collect();
    let mut parts = Vec::new();
    for cores in numbers(hardware.cores) {
        for macros_per_core in numbers(hardware.macros_per_core) {
            let rows = held.iter().rev().map(|held| held * hardware.rows_on);
            parts.extend(rows.map(|rows| Part { cores, macros_per_core, rows }));
        }
    }
    parts
}

/// A network on a macro that holds all of it: each access is made once, each input is read once, each output is written once, and no sum waits.
pub(super) struct Least<'a> {
    works: Vec<LayerWork<'a>>,
    chip: &'a Hardware,
    /// Accesses of all layers, each counted once.
    accesses: u64,
    /// What is loaded when it is loaded once.
    cell_bits: u64,
    packed_bits: u64,
    index_bits: u64,
}

impl<'a> Least<'a> {
    /// `chip` is one of whose parts [`Least::on`] tells.
    pub(super) fn new(layers: &'a [Layer], chip: &'a Hardware) -> Self {
        let convs = layers.iter().filter_map(|layer| layer.conv.as_ref());
        let accesses = convs.map(|conv| conv.accesses()).sum::<usize>();
        let rows = accesses.max(1) * chip.rows_on;
        let one_macro = Part { cores: 1, macros_per_core: 1, rows }.of(chip);
        let placement = |layer: &Layer| layer.conv.as_ref().map(|_| Placement::PLAIN);
        let place = |layer: &'a Layer| layer.place(placement(layer), &one_macro).sparing_most(chip);
        let works: Vec<_> = layers.iter().map(place).collect();
        let loaded = |bits: fn(&CoreWork) -> u64| works.iter().flat_map(|work| &work.cores).map(bits).sum();
        let (cell_bits, packed_bits, index_bits) =
            (loaded(CoreWork::cell_bits), loaded(CoreWork::packed_bits), loaded(CoreWork::index_bits));
        Self { works, chip, accesses: accesses as u64, cell_bits, packed_bits, index_bits }
    }

    /// What a frame takes on a part of the chip, at least.
    pub(super) fn on(&self, part: Part) -> Expense {
        let loading = self.loading(part);
        let room = (part.rows / self.chip.rows_on) as u64;
        let layers: Vec<f64> = self.works.iter().map(|work| self.layer_cycles(work, part)).collect();
        let energy = |loading: Loading, holding: usize| -> f64 {
            let macros = Macros { holding, idle: 0 };
            let layers = self.works.iter().zip(&layers);
            layers.map(|(work, cycles)| layer_energy(work, *cycles as u64, self.chip, loading, macros).total()).sum()
        };
        let energy_uj = match loading {
            // Even where all can stay loaded, one macro that is loaded anew may cost less than the leakage of all that hold weights.
            Loading::Never => {
                let holding = self.accesses.div_ceil(room) as usize;
                let resident = energy(loading, holding);
                if holding > 1 { resident.min(energy(self.reloading(part), 1)) } else { resident }
            }
            Loading::WeightSram | Loading::NextLevel => energy(loading, 1),
        };
        let cycles = layers.iter().sum::<f64>().max(self.loading_cycles(part, loading));
        Expense { cycles: cycles as u64, energy_uj }
    }

    /// Where weights come from at best: each is on the chip once.
    fn loading(&self, part: Part) -> Loading {
        let room = (part.macros() * (part.rows / self.chip.rows_on)) as u64;
        if self.accesses <= room { Loading::Never } else { self.reloading(part) }
    }

    /// Where they come from at best where not all of them stay loaded.
    fn reloading(&self, part: Part) -> Loading {
        let weight_sram = part.cores as u64 * self.chip.memory.weight_sram_bits();
        if self.packed_bits <= weight_sram { Loading::WeightSram } else { Loading::NextLevel }
    }

    /// The image and what spills pass the next level alone; the macros and the ports of all cores are busy all the time.
    fn layer_cycles(&self, work: &LayerWork, part: Part) -> f64 {
        let memory = &self.chip.memory;
        let computing = work.layer.compute_cycles() as f64 / part.macros() as f64;
        let traffic = work.cores[0].traffic();
        let port = |bits: u64, width: u64| bits as f64 / (part.cores as u64 * width) as f64;
        let read = port(traffic.read, memory.feature_read_bits_per_cycle);
        let written = port(traffic.written, memory.feature_write_bits_per_cycle);
        let beyond = work.next_level_map_bits() as f64 / memory.next_level_bits_per_cycle as f64;
        computing.max(read).max(written) + beyond
    }

    /// Loads keep ports busy while the macros compute, and each macro from computing.
    fn loading_cycles(&self, part: Part, loading: Loading) -> f64 {
        let memory = &self.chip.memory;
        let frames = self.chip.frames_per_load as f64;
        if loading == Loading::Never {
            return 0.0;
        }
        let port = |bits: u64, width: u64| bits as f64 / width as f64 / frames;
        let cores = part.cores as f64;
        let write = port(self.cell_bits, memory.write_bits_per_cycle);
        let read = port(self.packed_bits, memory.weight_bits_per_cycle);
        let decode = port(self.index_bits, memory.index_bits_per_cycle);
        let fetch = match loading {
            Loading::NextLevel => port(self.packed_bits, memory.next_level_bits_per_cycle),
            Loading::Never | Loading::WeightSram => 0.0,
        };
        let computing: f64 = self.works.iter().map(|work| work.layer.compute_cycles() as f64).sum();
        let in_turn = (computing + write.max(read)) / part.macros() as f64;
        (write.max(read).max(decode) / cores).max(fetch).max(in_turn)
    }
}
