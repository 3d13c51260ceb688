//! The mapper: which placement each layer gets, by the model's own time and energy.
//!
//! The automatic policy compares every placement with the plain one (filter sets over cores, nothing twice) and takes the one with
//! the least energy x time of those that are neither slower nor costlier.

use super::energy::layer_energy;
use crate::hardware::chip::{Hardware, Policy};
use crate::hardware::mapping::{Layer, LayerWork, Placement};
use crate::hardware::timing::{LayerProgram, Loading, Simulator, program};

/// A network on its cores.
pub(super) struct Mapped<'a> {
    pub(super) works: Vec<LayerWork<'a>>,
    pub(super) loading: Loading,
    pub(super) fits_weight_sram: bool,
}

/// A chip that runs one layer after the other.
#[derive(Clone)]
pub(super) struct Chip<'a> {
    hardware: &'a Hardware,
    loading: Loading,
    pub(super) simulator: Simulator,
    /// Tiles that each core has had.
    turns: Vec<usize>,
}

impl<'a> Chip<'a> {
    pub(super) fn new(hardware: &'a Hardware, loading: Loading) -> Self {
        Self { hardware, loading, simulator: Simulator::new(hardware), turns: vec![0; hardware.cores] }
    }

    /// Writes the programs of the next layer.
    pub(super) fn program(&mut self, work: &LayerWork) -> LayerProgram {
        program(work, self.hardware, self.loading, &mut self.turns)
    }

    /// Runs the next layer; gives its cycles for a frame.
    pub(super) fn run(&mut self, work: &LayerWork) -> u64 {
        let program = self.program(work);
        self.simulator.run(&program, |_| {}).cycles_of_a_frame(self.hardware.frames_per_load)
    }

    /// Runs the next layer; gives what it takes for a frame.
    fn expense(&mut self, work: &LayerWork) -> Expense {
        let cycles = self.run(work);
        Expense { cycles, energy_uj: layer_energy(work, cycles, self.hardware, self.loading).total() }
    }
}

/// What a layer or network takes for a frame.
#[derive(Clone, Copy, Default)]
pub(super) struct Expense {
    pub(super) cycles: u64,
    pub(super) energy_uj: f64,
}

impl Expense {
    /// Energy x time if it is nowhere worse than `plain`.
    fn rank(&self, plain: &Self) -> f64 {
        // Sums in another order may differ in their last bits.
        let worse = self.cycles > plain.cycles || self.energy_uj > plain.energy_uj * (1.0 + 1e-12);
        if worse { f64::INFINITY } else { self.cycles as f64 * self.energy_uj }
    }
}

/// Lays layers on the cores as the hardware file's policy says.
pub(super) fn map<'a>(layers: &'a [Layer], hardware: &Hardware) -> Mapped<'a> {
    let fixed = |policy| {
        let place = |layer: &'a Layer| {
            let placement = layer.conv.as_ref().and_then(|conv| Placement::of_policy(policy, conv, hardware));
            layer.place(placement, hardware)
        };
        Mapped::new(layers.iter().map(place).collect(), hardware)
    };
    if hardware.mapping.policy != Policy::Auto {
        return fixed(hardware.mapping.policy);
    }
    let plain = fixed(Policy::FilterSets);
    let others = [Policy::Together, Policy::InputChannels, Policy::Duplicate].map(fixed);
    let chosen = layer_by_layer(layers, hardware, plain.loading);
    let least = plain.expense(hardware);
    let all = [plain, chosen].into_iter().chain(others).map(|mapped| (mapped.expense(hardware).rank(&least), mapped));
    let best = all.reduce(|best, next| if next.0 < best.0 { next } else { best });
    best.expect("the plain placement is there").1
}

/// The best placement of each layer, after the ones that were chosen before it.
fn layer_by_layer<'a>(layers: &'a [Layer], hardware: &Hardware, loading: Loading) -> Mapped<'a> {
    let mut chip = Chip::new(hardware, loading);
    let works = layers.iter().map(|layer| {
        let placements = match &layer.conv {
            Some(conv) => Placement::all(conv, hardware).into_iter().map(Some).collect(),
            None => vec![None],
        };
        let mut plain = None;
        let mut best: Option<(f64, LayerWork, Chip)> = None;
        for placement in placements {
            let work = layer.place(placement, hardware);
            let mut after = chip.clone();
            let expense = after.expense(&work);
            let rank = expense.rank(plain.get_or_insert(expense));
            if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                best = Some((rank, work, after));
            }
        }
        let (_, work, after) = best.expect("each layer has a placement");
        chip = after;
        work
    });
    Mapped::new(works.collect(), hardware)
}

impl<'a> Mapped<'a> {
    fn new(works: Vec<LayerWork<'a>>, hardware: &Hardware) -> Self {
        let stored = |core: usize| -> u64 { works.iter().map(|work| work.cores[core].stored_bits()).sum() };
        let fits_weight_sram = (0..hardware.cores).all(|core| stored(core) <= hardware.memory.weight_sram_kib * 8192);
        let loading = match fits_macros(&works, hardware) {
            true => Loading::Never,
            false if fits_weight_sram => Loading::WeightSram,
            false => Loading::NextLevel,
        };
        Self { works, loading, fits_weight_sram }
    }

    /// What a frame takes.
    pub(super) fn expense(&self, hardware: &Hardware) -> Expense {
        let mut chip = Chip::new(hardware, self.loading);
        self.works.iter().map(|work| chip.expense(work)).fold(Expense::default(), |sum, layer| Expense {
            cycles: sum.cycles + layer.cycles,
            energy_uj: sum.energy_uj + layer.energy_uj,
        })
    }
}

/// Whether each macro has room for its tiles of all layers, so that nothing is reloaded.
fn fits_macros(works: &[LayerWork], hardware: &Hardware) -> bool {
    let room = hardware.accesses_per_macro() as u64;
    (0..hardware.cores).all(|number| {
        let mut held = vec![0; hardware.macros_per_core];
        let mut turn = 0;
        for core in works.iter().map(|work| &work.cores[number]) {
            for copy in 0..core.pixels.len() {
                for (index, tile) in core.tiles.iter().enumerate() {
                    held[core.unit_of(turn, copy, index)] += tile.accesses;
                }
            }
            turn += core.tiles.len();
            if held.iter().any(|held| *held > room) {
                return false;
            }
        }
        true
    })
}
