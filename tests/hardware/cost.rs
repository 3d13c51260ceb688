//! How much: accesses, cycles, energy and bits moved, against the arithmetic written out here.

use mars::groups::GroupShape;
use mars::hardware::{
    Accumulation, Accumulator, Cost, Evaluation, Evaluator, Hardware, Mapping, Policy, Split, StatedFor, evaluate,
};
use mars::integer::IntegerLayer;
use mars::network::{Shortcut, SkipSpec, zoo};
use rayon::prelude::*;

use crate::close;
use crate::common::recipe::{Recipe, W4A4, W8A8};
use crate::networks::{conv, in_groups, mean, small_network, spec};

/// Dense ceilings at 100 MHz, one 8-bit access a cycle, all macros computing, no padding, no reload.
#[test]
fn dense_ceilings_are_those_of_the_arithmetic() {
    let hardware = Hardware::mars();
    let ceiling = |macs: f64, bits| {
        let precision = hardware.precision(bits, bits).unwrap();
        hardware.peak_macs_per_cycle(&precision) * hardware.clock_mhz * 1e6 / macs
    };
    assert_eq!(ceiling(313_196_544.0, 8).round(), 1308.0);
    assert_eq!(ceiling(555_417_600.0, 8).round(), 737.0);
    assert_eq!(ceiling(313_196_544.0, 4), 2.0 * ceiling(313_196_544.0, 8));
}

#[test]
fn dense_vgg16_at_8_bits_costs_what_the_arithmetic_says() {
    let network = W8A8.network(zoo("vgg16", 10).unwrap());
    let evaluation = evaluate(&network, &Hardware::mars()).unwrap();
    // 14.71 M weights x 8 b x 0.27 pJ/b; the first layer's and the last one's padding adds 0.2 %.
    let cell_writes = evaluation.cost.energy_breakdown_uj.cell_writes;
    assert!((31.7..31.9).contains(&cell_writes), "{cell_writes}");
    // The ceiling counts neither padding nor sums that wait nor the layers that fill only a part of the accesses; without reload
    // macros that start together do best.
    let mapping = Mapping { policy: Policy::Together, ..Mapping::default() };
    let fps = evaluate(&network, &Hardware { mapping, ..Hardware::mars() }).unwrap().cost_without_reload.fps;
    assert!((1150.0..1308.0).contains(&fps), "{fps}");
    // The macro alone: 16.63 TOPS/W, less the accesses that padding takes.
    let array = 2.0 * 313.2 / evaluation.cost.energy_breakdown_uj.array;
    assert!((16.0..16.63).contains(&array), "{array}");
    assert_eq!(evaluation.cost.speedup_vs_dense, 1.0);
    assert_eq!(evaluation.compression.group_sparsity, 0.0);
    assert!(!evaluation.resident && !evaluation.fits_weight_sram);
    // A bitmap takes one bit for each 16 x 16 group of 2048 weight bits, and one more bit for each filter set.
    let groups: u64 = evaluation.layers.iter().map(|layer| layer.groups).sum();
    let sets: usize = network.convs().map(|(conv, _)| conv.shape.filters().div_ceil(16)).sum();
    assert_eq!(evaluation.compression.index_bits, groups + sets as u64);
}

/// Sixteen filters share their word lines, though each of a depthwise layer needs one of sixteen: such a layer takes the accesses and cell
/// writes of a dense one whose groups off the diagonal are pruned, for a sixteenth of its products.
#[test]
fn a_depthwise_layer_costs_what_the_diagonal_of_a_dense_one_costs() {
    let layers = |second| vec![conv("a", 64, 1, 1, 0, None), second];
    let dense = spec([64, 8, 8], layers(conv("b", 64, 3, 1, 1, None)));
    let depthwise = spec([64, 8, 8], layers(in_groups(64, conv("b", 64, 3, 1, 1, None))));
    let depthwise = W8A8.network(depthwise);
    let mut diagonal = W8A8.network(dense);
    let IntegerLayer::Conv { conv: pruned, .. } = &mut diagonal.layers[1] else { unreachable!("it is a convolution") };
    for (index, weight) in pruned.weights.iter_mut().enumerate() {
        let (filter, channel) = (index / 9 / 64, index / 9 % 64);
        *weight = i8::from(filter / 16 == channel / 16);
    }
    let [depthwise, diagonal] = [depthwise, diagonal].map(|network| evaluate(&network, &Hardware::mars()).unwrap());
    let (layer, other) = (&depthwise.layers[1], &diagonal.layers[1]);
    // Nine kernel positions of 16 channels are three accesses of four sections; 16 filters at 8 bits are two parts; four sets.
    assert_eq!((layer.accesses, other.accesses), (3 * 2 * 4 * 64, 3 * 2 * 4 * 64));
    assert!(layer.cycles <= other.cycles, "fewer bits are fetched for the same cells");
    assert_eq!((layer.kept_groups, layer.groups, other.groups), (4 * 9, 4 * 9, 4 * 4 * 9));
    assert_eq!((layer.macs, layer.kept_macs, other.kept_macs), (64 * 9 * 64, 64 * 9 * 64, 16 * 64 * 9 * 64));
    assert!(layer.utilization < 0.05, "{}", layer.utilization);
    let writes = |evaluation: &Evaluation| evaluation.cost.energy_breakdown_uj.cell_writes;
    assert_eq!(writes(&depthwise), writes(&diagonal));
    assert_eq!(depthwise.compression.group_sparsity, 0.0);
}

#[test]
fn weights_of_bits_that_the_macro_lacks_are_charged_at_the_next_precision() {
    let evaluation = |weight_bits| {
        let recipe = Recipe { weight_bits, edge_bits: weight_bits, ..W4A4 };
        evaluate(&recipe.network(small_network()), &Hardware::mars()).unwrap()
    };
    let accesses = |bits| evaluation(bits).layers.iter().map(|layer| layer.accesses).sum::<u64>();
    assert_eq!(accesses(3), accesses(4));
    assert_eq!(accesses(5), accesses(8));
    assert!(accesses(8) > accesses(4));
    let (three, four) = (evaluation(3), evaluation(4));
    assert_eq!(three.cost.energy_breakdown_uj.cell_writes, four.cost.energy_breakdown_uj.cell_writes);
    assert_eq!(three.compression.weight_bits_stored * 4, four.compression.weight_bits_stored * 3);
}

/// Whatever the placement, the same accesses are made, and what it needs beyond them is charged.
#[test]
fn copies_are_written_and_sums_of_other_cores_are_moved() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let with = |policy| {
        evaluate(&network, &Hardware { mapping: Mapping { policy, ..Mapping::default() }, ..Hardware::mars() }).unwrap()
    };
    let [plain, copied, channels] = [Policy::FilterSets, Policy::Duplicate, Policy::InputChannels].map(with);
    assert!(!plain.resident && !copied.resident && !channels.resident);
    let mut most = 1;
    for ((plain, copied), channels) in plain.layers.iter().zip(&copied.layers).zip(&channels.layers) {
        assert_eq!([copied.accesses, channels.accesses], [plain.accesses; 2]);
        let [writes, copied_writes] = [plain, copied].map(|layer| layer.energy_breakdown_uj.cell_writes);
        let copies = copied.mapping.map_or(1, |mapping| mapping.copies);
        assert!(close(copied_writes, copies as f64 * writes), "{}", plain.name);
        most = most.max(copies);
        // Three bundles of 16 channels at nine kernel positions: their sums are written and read by three cores.
        if plain.name == "layer1.0.conv1" {
            assert_eq!(channels.mapping.unwrap().split, Split::InputChannels);
            let moved = [channels, plain].map(|layer| layer.energy_breakdown_uj.feature_buffer);
            // Plainly they are two tiles, between which the sums wait once.
            let sums = 16.0 * 1024.0 * 32.0 * 0.135 / 1e6;
            assert!(close(moved[0] - moved[1], (2.0 * 3.0 - 2.0) * sums), "{moved:?}");
        }
    }
    assert_eq!(most, 8, "a small layer is on every macro");
}

/// A column's scale, and a batch norm that stays outside, need a multiplier for each filter where a layer's scale needs one for each
/// filter set: 15 more of 16 bits for each full set, through the weight SRAM with each load.
#[test]
fn a_multiplier_for_each_filter_is_charged() {
    let layers = vec![conv("a", 40, 3, 1, 1, None), conv("b", 16, 1, 1, 0, None), conv("c", 32, 3, 1, 1, None)];
    let mut network = W8A8.network(spec([3, 9, 7], layers));
    // A macro holds one access, so that weights are loaded.
    let hardware = Hardware {
        rows: 64,
        mapping: Mapping { policy: Policy::FilterSets, ..Mapping::default() },
        ..Hardware::mars()
    };
    let mut cost = |per_column: bool| {
        for (layer, filters) in network.layers.iter_mut().zip([40, 16, 32]) {
            let IntegerLayer::Conv { output: Some(output), .. } = layer else { panic!("it has a requantization") };
            output.multipliers = vec![9; if per_column { filters } else { 1 }];
        }
        evaluate(&network, &hardware).unwrap()
    };
    let (column, layer) = (cost(true), cost(false));
    assert!(!column.resident && !layer.resident);
    // Sets of 16, 16 and 8 filters, one of 16, two of 16.
    let bits = 16 * (15 + 15 + 7 + 15 + 15 + 15);
    let energy = |evaluation: &Evaluation| evaluation.cost.energy_breakdown_uj.weight_buffer;
    let added = f64::from(bits) * Hardware::mars().energy.buffer_pj_per_bit / 1e6;
    assert!((energy(&column) - energy(&layer) - added).abs() < 1e-12, "{} {}", energy(&column), energy(&layer));
    assert!(column.cost.cycles >= layer.cost.cycles);
    assert_eq!(column.compression, layer.compression);
}

#[test]
fn frames_that_share_a_load_share_its_energy() {
    let network = W8A8.network(zoo("resnet20", 10).unwrap());
    let evaluation =
        |frames_per_load| evaluate(&network, &Hardware { frames_per_load, ..Hardware::mars() }).unwrap().cost;
    let (one, ten) = (evaluation(1), evaluation(10));
    assert!(close(one.energy_breakdown_uj.cell_writes, 10.0 * ten.energy_breakdown_uj.cell_writes));
    assert!(ten.cycles < one.cycles && ten.latency_us > one.latency_us);
}

#[test]
fn maps_beyond_the_feature_sram_go_to_the_next_level() {
    let network = W8A8.network(zoo("resnet20", 10).unwrap());
    let mut hardware = Hardware::mars();
    // A bit takes the same whatever the size of its SRAM, and layers lie the same.
    hardware.energy.stated_for = StatedFor::default();
    hardware.mapping.policy = Policy::FilterSets;
    let cost = |hardware: &Hardware| evaluate(&network, hardware).unwrap().cost_without_reload;
    // The image alone: 3072 bytes at 1 pJ/b.
    assert!(close(cost(&hardware).energy_breakdown_uj.next_level, 3072.0 * 8.0 / 1e6));
    let cycles = cost(&hardware).cycles;
    let maps = cost(&hardware).energy_breakdown_uj.feature_buffer;
    hardware.memory.feature_sram_kib = 16;
    let spilled = cost(&hardware).energy_breakdown_uj;
    assert!(spilled.next_level > 1.0 && cost(&hardware).cycles > cycles);
    // Read on its way out, and written when it is back.
    let moved = spilled.next_level - 3072.0 * 8.0 / 1e6;
    assert!(close(spilled.feature_buffer - maps, moved * 0.135));
}

/// Every part of the energy by the formulas of docs/cost-model.md, of two convolutions with a residual sum, a mean and a linear layer on one
/// macro that holds one access, so that each access is loaded, and sums wait between two of them.
#[test]
fn energies_are_those_of_the_formulas() {
    let skip = SkipSpec { from: "a".into(), shortcut: Shortcut::Identity, stride: 1, batch_norm: true };
    let pool = mean("pool");
    let layers = vec![conv("a", 16, 3, 1, 1, None), conv("b", 16, 3, 1, 1, Some(skip)), pool];
    let mut hardware = Hardware { cores: 1, macros_per_core: 1, rows: 64, ..Hardware::mars() };
    hardware.mapping.policy = Policy::FilterSets;
    // Inputs of 8 bits go through a macro for 4 in two passes; the linear layer's have the bits of its weights.
    for (bits, outputs, passes, pj, ns) in [(8, 8, 1, 61.6, 8.4), (4, 16, 2, 29.9, 4.1)] {
        let recipe = Recipe { weight_bits: bits, edge_bits: bits, input_bits: 8, ..W4A4 };
        let network = recipe.network(spec([3, 4, 4], layers.clone()));
        let evaluation = evaluate(&network, &hardware).unwrap();
        assert!(!evaluation.resident && evaluation.fits_weight_sram);
        let bits = f64::from(bits);
        let (pixels, filters) = (16.0, 16.0);
        // Of 16 filters, whose bundles of four groups at nine kernel positions have one, four and four.
        let parts = 16.0 / f64::from(outputs);
        let (accesses, linear) = (2.0 * pixels * 3.0 * parts, parts);
        let passed = accesses * f64::from(passes) + linear;
        let (adder, gate, buffer) = (0.003402, 0.0002835, 0.135);

        // A sixteenth of the cells that the access was measured on, and that leak 1.4 mW.
        let pj = pj * (0.06 / 16.0 + 0.36 + 0.58);

        let weights = (3.0 * 9.0 * filters + 16.0 * 9.0 * filters + 16.0 * 5.0) * bits;
        // A bitmap and a bit that says so; biases, and a multiplier for each filter; logits have none, but room for one.
        let index = 10.0 + 10.0 + 2.0;
        let packed = weights + index + 2.0 * filters * (32.0 + 16.0) + (5.0 * 32.0 + 16.0);
        let image_scale = 3.0 * pixels * 8.0;
        // Each access gathers its own inputs; sums of 16 filters wait twice.
        let (gathered, waited) = (9.0 * 16.0 * 8.0 * parts, 2.0 * filters * 32.0);
        let stored = filters * 8.0;
        let maps = pixels * (2.0 * (gathered + 2.0 * waited + stored) + filters * 8.0);
        let pooled = pixels * filters * 8.0 + filters * bits;
        let logits = 16.0 * bits * parts + 5.0 * 32.0;
        let values = pixels * filters;
        // A product takes as many adders as gates.
        let products = 2.0 * values * 32.0 * 16.0 + values * 8.0 * 31.0 + filters * 16.0 * 16.0;
        let forms = 2.0 * values + filters;
        let sums = 2.0 * values * 32.0 + values * 48.0 + values * 16.0 + 5.0 * 32.0;
        let time = evaluation.cost.cycles as f64 * 10.0;
        let expected = [
            ("macro", passed * pj),
            ("accumulation", passed * f64::from(outputs) * 32.0 * adder),
            ("cell_writes", 19.0 * 16.0 * 16.0 * bits * 0.27),
            ("weight_buffer", packed * buffer),
            ("feature_buffer", (image_scale + maps + pooled + logits) * buffer),
            ("next_level", image_scale),
            ("index_decode", index * 16.0 * adder),
            ("requantization", (products + forms * 48.0 + sums) * adder + (products + forms * 48.0 * 6.0) * gate),
            ("leakage", 1.4 / 16.0 * (time - passed * ns)),
            ("idle_leakage", 0.0),
        ];
        let components = evaluation.cost.energy_breakdown_uj.components();
        assert_eq!(components.len(), expected.len());
        for ((name, found), (other, pj)) in components.into_iter().zip(expected) {
            assert_eq!(name, other);
            assert!(close(found, pj / 1e6), "{bits} bits, {name}: {found} uJ, by the formula {}", pj / 1e6);
        }
    }
}

/// Copies in one core share what comes from the next level; each is written and read from the weight SRAM for itself.
#[test]
fn copies_in_a_core_are_fetched_once() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let mut hardware = Hardware { cores: 1, macros_per_core: 8, ..Hardware::mars() };
    let with = |policy, hardware: &Hardware| {
        evaluate(&network, &Hardware { mapping: Mapping { policy, ..Mapping::default() }, ..hardware.clone() }).unwrap()
    };
    // A bit takes the same whatever the size of its SRAM.
    hardware.energy.stated_for = StatedFor::default();
    hardware.memory.weight_sram_kib = 256;
    let [sram, copied_sram] = [Policy::FilterSets, Policy::Duplicate].map(|policy| with(policy, &hardware));
    hardware.memory.weight_sram_kib = 16;
    let [plain, copied] = [Policy::FilterSets, Policy::Duplicate].map(|policy| with(policy, &hardware));
    assert!(sram.fits_weight_sram && !plain.fits_weight_sram && !copied.resident);
    let energy = |evaluation: &Evaluation| evaluation.cost.energy_breakdown_uj;
    assert!(close(energy(&copied).next_level, energy(&plain).next_level));
    let written = energy(&plain).weight_buffer - energy(&sram).weight_buffer;
    assert!(close(energy(&copied).weight_buffer - energy(&copied_sram).weight_buffer, written));
    assert!(energy(&copied).weight_buffer > energy(&plain).weight_buffer);
}

#[test]
fn component_energies_are_those_of_the_formulas() {
    let hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let precision = hardware.precision(8, 8).unwrap();
    assert_eq!((precision.slices, precision.phases, precision.passes, precision.outputs), (8, 8, 8, 8));
    // Cells 64 x 64 x 0.35 fF, converters 64 x (100 x 5 + 0.001 x 4^5) fF, no drivers at one bit, at 0.9 V.
    let pass = (64.0 * 64.0 * 0.35 + 64.0 * (500.0 + 1.024)) * 0.81 / 1e3;
    assert!(close(precision.energy_pj, 8.0 * pass), "{}", precision.energy_pj);
}

/// A layer of VGG8 (64 x 32 x 32 to 64 channels) on eight macros has 73,728 accesses of 8 x 8 b; zigzag-dse 3.9.1 gives it 0.8829 + 0.5057 uJ for adding up and
/// 1.4554 uJ for local bit lines.
#[test]
fn accumulators_as_wide_as_their_sums_and_local_bit_lines_take_what_another_model_says() {
    let mut hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let words = hardware.precision(8, 8).unwrap();
    assert_eq!((words.accumulation.adders, words.accumulation.registers), (8.0 * 8.0 * 8.0 * 32.0, 0.0));
    hardware.energy.accumulator = Accumulator::Sized;
    hardware.energy.register_pj_per_bit = 0.001701;
    hardware.energy.components.as_mut().unwrap().precharge_ff = 0.35;
    let precision = hardware.precision(8, 8).unwrap();
    // For each of 8 outputs and 8 phases a tree of eight numbers of 5 bits, and a sum of 8 + 5 + 8 bits.
    let Accumulation { adders, registers } = precision.accumulation;
    assert_eq!((adders, registers), (64.0 * (5.0 * 7.0 + 8.0 * 2.5 + 21.0), 64.0 * 21.0));
    let microjoules = |pj: f64| 73_728.0 * pj / 1e6;
    let adding_up = microjoules(adders * 0.003402 + registers * 0.001701);
    assert!((adding_up / 1.3886 - 1.0).abs() < 1e-4, "{adding_up}");
    let precharge = microjoules(precision.energy_pj - words.energy_pj);
    assert!((precharge / 1.4554 - 1.0).abs() < 1e-4, "{precharge}");
}

/// Bits times constants are the energy terms that count bits, and no layer is faster than a part of the chip alone would be.
#[test]
fn what_layers_move_is_what_is_charged_and_bounds_hold() {
    for (name, bits) in [("resnet20", W4A4), ("vgg16", W8A8), ("resnet18", W4A4)] {
        let network = bits.network(zoo(name, 10).unwrap());
        let mut hardware = Hardware::mars();
        // Some maps go to the next level.
        hardware.memory.feature_sram_kib = 64;
        let evaluation = evaluate(&network, &hardware).unwrap();
        let feature_pj = hardware.feature_sram_pj_per_bit();
        for layer in &evaluation.layers {
            let (moved, energy) = (layer.bits_moved, layer.energy_breakdown_uj);
            let uj = |bits: u64, pj: f64| bits as f64 * pj / 1e6;
            let name = &layer.name;
            assert!(close(uj(moved.cells, 0.27), energy.cell_writes), "{name}");
            assert!(close(uj(moved.weight_sram, 0.135), energy.weight_buffer), "{name}");
            assert!(close(uj(moved.feature_sram, feature_pj), energy.feature_buffer), "{name}");
            assert!(close(uj(moved.next_level, 1.0), energy.next_level), "{name}");
            let bounds = layer.bounds;
            let least = bounds.computing.max(bounds.read_port).max(bounds.write_port);
            assert!(layer.cycles >= least, "{name}: {} cycles, at least {bounds:?}", layer.cycles);
            let most = bounds.parts().into_iter().map(|(_, cycles)| cycles).max().unwrap();
            assert!(bounds.parts().contains(&(layer.bound, most)), "{name}: {bounds:?}");
        }
        let Cost { cycles, fps, energy_uj, average_power_mw, energy_delay_uj_us, peak_tops, .. } = evaluation.cost;
        assert!(close(average_power_mw, energy_uj * fps / 1e3));
        assert!(close(energy_delay_uj_us, energy_uj * cycles as f64 / 100.0));
        assert!(close(evaluation.cost.tops_executed, peak_tops * evaluation.cost.utilization));
        if name == "vgg16" {
            // All macros of the chip, wherever the layers lie: 64 rows of 8 weights of 8 bits in each cycle of 10 ns.
            assert!(close(peak_tops, 2.0 * hardware.macros() as f64 * 64.0 * 8.0 * 1e8 / 1e12), "{peak_tops}");
        }
        let watts = average_power_mw / 1e3;
        assert!(close(evaluation.cost.tops_dense_equivalent / watts, evaluation.cost.tops_per_watt_dense_equivalent));
        let sum: u64 = evaluation.layers.iter().map(|layer| layer.bits_moved.total()).sum();
        assert_eq!(evaluation.cost.bits_moved.total(), sum);
    }
}

/// One evaluator for many chips gives what each chip alone does.
#[test]
fn an_evaluator_gives_every_chip_its_own_cost() {
    let network = Recipe { sparsity: 60, ..W4A4 }.network(small_network());
    let evaluator = Evaluator::new(&network).unwrap();
    for (filters, channels, cores) in [(16, 16, 4), (8, 32, 2), (16, 16, 1), (5, 7, 3)] {
        let hardware = Hardware { group: GroupShape { filters, channels }, cores, ..Hardware::mars() };
        let [shared, alone] = [evaluator.evaluate(&hardware).unwrap(), evaluate(&network, &hardware).unwrap()];
        assert_eq!((shared.cost, shared.layers, shared.timeline), (alone.cost, alone.layers, alone.timeline));
    }
}

/// Threads that wait for an evaluator's groups may take up another point that needs them: nobody waits for himself.
#[test]
fn an_evaluator_serves_many_threads() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let threads = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
    for _ in 0..20 {
        let evaluator = Evaluator::new(&network).unwrap();
        threads.install(|| {
            (0..32).into_par_iter().for_each(|point| {
                let group = GroupShape { filters: 8 << (point % 2), channels: 16 };
                evaluator.evaluate(&Hardware { group, ..Hardware::mars() }).unwrap();
            });
        });
    }
}
