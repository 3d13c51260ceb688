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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::groups::{GroupGrid, GroupShape};
    use crate::hardware::mapping::{FilterSet, Split, Start, workload};
    use crate::integer::{QuantizeConfig, outline};
    use crate::network::{Graph, NetworkSpec};

    const NETWORK: &str = r#"
        name = "tiny"
        input = [6, 5, 5]
        classes = 2
        layers = [
            { op = "conv", name = "conv", filters = 10, kernel = 3, padding = 1 },
            { op = "conv", name = "next", filters = 10, kernel = 3, padding = 1, add = { from = "conv" } },
            { op = "avg_pool", name = "mean" },
            { op = "linear", name = "linear", filters = 2 },
        ]
    "#;

    /// A chip of `cores` x `macros` whose macros hold `held` accesses.
    fn chip(cores: usize, macros_per_core: usize, held: usize) -> Hardware {
        let group = GroupShape { filters: 4, channels: 4 };
        let mut chip = Hardware { cores, macros_per_core, rows: 16 * held, rows_on: 16, group, ..Hardware::mars() };
        chip.columns = 16;
        chip
    }

    /// Its layers; of each convolution's groups those whose number leaves less than `kept` when divided by 5.
    fn layers(chip: &Hardware, kept: usize) -> Vec<Layer> {
        let graph = Graph::new(toml::from_str::<NetworkSpec>(NETWORK).unwrap()).unwrap();
        let network = outline(&graph, &QuantizeConfig::default(), chip.group);
        let kept_sets: Vec<_> = network
            .convs()
            .map(|(conv, _)| {
                let grid = GroupGrid::new(chip.group, &conv.shape);
                let groups = |set: usize| (0..grid.groups_per_set()).filter(|group| (group + set) % 5 < kept).collect();
                Arc::new((0..grid.sets()).map(|set| FilterSet::new(&grid, groups(set))).collect())
            })
            .collect();
        workload(&network, chip, &kept_sets).unwrap()
    }

    /// Every way to divide a layer: any split, start and number of copies that gives each copy whole cores, or each core whole copies.
    fn every_placement(layer: &Layer, chip: &Hardware) -> Vec<Placement> {
        let conv = layer.conv.as_ref().unwrap();
        let mut all = Vec::new();
        for copies in 1..=chip.macros().min(conv.shape.output.pixels()) {
            let over_cores = chip.cores.is_multiple_of(copies);
            let in_cores = copies.is_multiple_of(chip.cores) && chip.macros().is_multiple_of(copies);
            let fit = conv.accesses() * copies <= chip.macros() * chip.accesses_per_macro();
            if (over_cores || in_cores) && (copies == 1 || fit) {
                for split in [Split::FilterSets, Split::InputChannels] {
                    all.extend([Start::Staggered, Start::Together].map(|start| Placement { split, copies, start }));
                }
            }
        }
        all
    }

    /// The mapper finds for a layer what trying every placement finds.
    #[test]
    fn no_placement_of_a_layer_is_cheaper_than_the_mappers() {
        let mut improved = 0;
        for (cores, macros) in [(1, 1), (1, 4), (2, 1), (2, 2), (2, 3), (3, 2), (4, 2)] {
            for (held, kept) in [(1, 1), (1, 5), (2, 2), (4, 3), (64, 5)] {
                let chip = chip(cores, macros, held);
                let layers = layers(&chip, kept);
                let layer = &layers[..1];
                let expense =
                    |placement| Mapped::new(vec![layer[0].place(Some(placement), &chip)], &chip).expense(&chip);
                let plain = expense(Placement::PLAIN);
                let ranks =
                    every_placement(&layer[0], &chip).into_iter().map(|placement| expense(placement).rank(&plain));
                let least = ranks.fold(f64::INFINITY, f64::min);
                let found = map(layer, &chip).expense(&chip).rank(&plain);
                assert_eq!(found, least, "{cores} x {macros} macros of {held} accesses, {kept} of 5 groups");
                improved += usize::from(found < plain.rank(&plain));
            }
        }
        assert!(improved > 10, "the plain placement is the best one of nearly all: {improved}");
    }

    /// Of two layers the mapper looks at one after the other; it is never worse than any policy for both.
    #[test]
    fn no_policy_is_cheaper_than_the_mapper() {
        for (cores, macros, held, kept) in [(2, 2, 4, 3), (4, 2, 16, 5), (2, 3, 2, 2), (1, 4, 64, 4)] {
            let chip = chip(cores, macros, held);
            let layers = layers(&chip, kept);
            let expense = |policy| {
                let chip = Hardware { mapping: crate::hardware::Mapping { policy }, ..chip.clone() };
                map(&layers, &chip).expense(&chip)
            };
            let plain = expense(Policy::FilterSets);
            let found = expense(Policy::Auto).rank(&plain);
            for policy in [Policy::FilterSets, Policy::Together, Policy::InputChannels, Policy::Duplicate] {
                assert!(found <= expense(policy).rank(&plain), "{policy:?} on {cores} x {macros} macros");
            }
        }
    }
}
