//! When: who does what in which cycle.

use std::collections::{HashMap, HashSet};

use mars::groups::{GroupGrid, GroupShape};
use mars::hardware::{
    Accumulator, Activity, Cost, Evaluation, Hardware, InputReads, LayerCost, MacroNetwork, Mapping, Memory, Objective,
    PingPong, Policy, Span, evaluate,
};
use mars::network::{Conv, Shortcut, SkipSpec, zoo};
use proptest::prelude::*;

use crate::close;
use crate::common::recipe::{Recipe, W4A4, W8A8};
use crate::networks::{conv, mean, signed_network, small_network, spec, with_geometry};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_schedule_is_what_the_array_does_and_its_parts_add_up(
        weight_bits in 2u8..=8,
        input_bits in 2u8..=8,
        sparsity in 0u64..=100,
        filters in 1usize..=40,
        channels in 1usize..=32,
        extra_rows in 0usize..=40,
        cores in 1usize..=8,
        macros_per_core in 1usize..=8,
        frames_per_load in 1usize..=3,
        accesses_per_macro in 1usize..=4,
        weight_sram_kib in 1u64..=4,
        feature_sram_kib in 1u64..=4,
        ping_pong in prop::sample::select(vec![PingPong::Shared, PingPong::Halves]),
        input_reads in prop::sample::select(vec![InputReads::PerCore, InputReads::Broadcast]),
        widths in prop::collection::vec(prop::sample::select(vec![8u64, 64, 100, 512]), 5),
        policy in prop::sample::select(vec![
            Policy::Auto, Policy::FilterSets, Policy::Together, Policy::InputChannels, Policy::Duplicate,
        ]),
        seed in any::<u64>(),
    ) {
        let group = GroupShape { filters, channels };
        let recipe = Recipe { weight_bits, input_bits, edge_bits: 8, sparsity, group, seed };
        let network = recipe.network(if seed % 2 == 0 { small_network() } else { signed_network() });
        let mut hardware = Hardware { cores, macros_per_core, frames_per_load, ..with_geometry(group, channels + extra_rows) };
        hardware.rows = hardware.rows_on * accesses_per_macro;
        hardware.mapping.policy = policy;
        hardware.memory = Memory {
            weight_sram_kib,
            feature_sram_kib,
            ping_pong,
            input_reads,
            write_bits_per_cycle: widths[0],
            weight_bits_per_cycle: widths[1],
            feature_read_bits_per_cycle: widths[2],
            feature_write_bits_per_cycle: widths[3],
            next_level_bits_per_cycle: widths[4],
            ..hardware.memory
        };
        let evaluation = evaluate(&network, &hardware).unwrap();
        let execution = MacroNetwork::new(&network, &hardware).unwrap().run(0, &[9; 3 * 9 * 7]).unwrap();

        // Conservation: each kept group is computed once for each output pixel.
        let counted = |count: fn(&LayerCost) -> u64| evaluation.layers.iter().map(count).sum::<u64>();
        let shapes: Vec<_> = network.convs().collect();
        let group_pixels: usize = shapes.iter().map(|(Conv { shape, .. }, conv)| {
            let kept = GroupGrid::new(group, shape).kept(&conv.weights);
            kept.iter().filter(|kept| **kept).count() * shape.output.pixels()
        }).sum();
        prop_assert_eq!(execution.counters.group_pixels, group_pixels as u64);
        prop_assert_eq!(execution.counters.accesses, counted(|layer| layer.accesses));
        prop_assert_eq!(counted(|layer| layer.macs), network.graph.macs());

        for cost in [&evaluation.cost, &evaluation.cost_without_reload] {
            prop_assert!(cost.cycles >= counted(|layer| layer.accesses).div_ceil((cores * macros_per_core) as u64));
            prop_assert!(close(cost.energy_uj, cost.energy_breakdown_uj.total()));
            prop_assert!((0.0..=1.0).contains(&cost.utilization));
            // A few groups less can be cut into tiles less well.
            prop_assert!(cost.speedup_vs_dense > 0.9, "{}", cost.speedup_vs_dense);
            prop_assert!(cost.tops_per_watt_executed <= cost.tops_per_watt_dense_equivalent);
        }
        prop_assert!(evaluation.cost_without_reload.cycles <= evaluation.cost.cycles);
        prop_assert!(evaluation.cost_without_reload.energy_uj <= evaluation.cost.energy_uj);
        prop_assert_eq!(counted(|layer| layer.cycles), evaluation.cost.cycles);
        prop_assert!(close(evaluation.layers.iter().map(|layer| layer.energy_uj).sum(), evaluation.cost.energy_uj));
        check_timeline(&evaluation, &hardware);

        hardware.mapping.policy = Policy::FilterSets;
        let plain = evaluate(&network, &hardware).unwrap().cost;
        if policy == Policy::Auto {
            let product = |cost: Cost| {
                let energy = cost.energy_uj - cost.energy_breakdown_uj.idle_leakage;
                cost.cycles as f64 * energy
            };
            prop_assert!(product(evaluation.cost) <= product(plain) * (1.0 + 1e-9));
        }
    }
}

/// Every cycle in which a part of a core does something, one span after the other.
fn cycles_of(span: &Span) -> impl Iterator<Item = u64> + '_ {
    (0..span.times).flat_map(move |time| (0..span.cycles).map(move |cycle| span.start + time * span.period + cycle))
}

/// The parts of a core that do one thing at a time.
fn parts_of(span: &Span) -> Vec<(&'static str, Option<usize>)> {
    match span.activity {
        Activity::DecodeIndex => vec![("decoder", None)],
        // Cells that are written don't compute.
        Activity::LoadWeights => vec![("weight port", None), ("cells", span.unit)],
        Activity::LoadInputs => vec![("read port", None)],
        Activity::Compute => vec![("cells", span.unit)],
        Activity::Accumulate => vec![("adders", span.unit)],
        Activity::WriteBack => vec![("write port", None)],
        Activity::MoveMaps => vec![("next level", None)],
    }
}

/// No part of a core does two things in a cycle, nothing that needs a layer's inputs begins before they are there, a tile is
/// computed after it is loaded, and the programs make each access once for each output pixel.
fn check_timeline(evaluation: &Evaluation, hardware: &Hardware) {
    let timeline = &evaluation.timeline;
    let mut used = HashMap::new();
    for span in &timeline.spans {
        let layer = &timeline.layers[span.layer];
        let loads = matches!(span.activity, Activity::LoadWeights | Activity::DecodeIndex);
        assert!(span.end() <= layer.end && (loads || span.start >= layer.start), "{span:?}");
        for part in parts_of(span) {
            let cycles = used.entry((span.core, part)).or_insert_with(HashSet::new);
            assert!(cycles_of(span).all(|cycle| cycles.insert(cycle)), "{part:?} is used twice: {span:?}");
        }
    }
    let mut loaded = HashMap::new();
    for span in &timeline.spans {
        let at = (span.core, span.unit);
        match span.activity {
            Activity::LoadWeights | Activity::DecodeIndex => {
                let end = loaded.entry(at).or_insert(0);
                *end = span.end().max(*end);
            }
            Activity::Compute => assert!(span.start >= loaded.get(&at).copied().unwrap_or(0), "{span:?}"),
            _ => {}
        }
    }
    // With whole cycles for each access, the macros' busy cycles are at least those of the accesses.
    for (index, layer) in evaluation.layers.iter().enumerate() {
        let of_layer = timeline.spans.iter().filter(|span| span.layer == index && span.activity == Activity::Compute);
        let busy: u64 = of_layer.map(|span| span.times * span.cycles).sum();
        assert!(busy >= hardware.frames_per_load as u64 * layer.accesses, "{}", layer.name);
        assert_eq!(busy > 0, layer.accesses > 0, "{}", layer.name);
        let cycles = timeline.layers[index].end - timeline.layers[index].start;
        assert!(cycles * hardware.macros() as u64 >= busy, "{}", layer.name);
    }
    let loads = timeline.spans.iter().any(|span| span.activity == Activity::LoadWeights);
    assert_eq!(loads, !evaluation.resident);
}

/// 64 channels fill the word lines, 128 filters the outputs of 16 accesses, which 8 macros make two by two.
#[test]
fn a_layer_that_fills_every_macro_keeps_them_busy() {
    let pool = mean("pool");
    let layers = vec![conv("a", 64, 1, 1, 0, None), conv("b", 128, 1, 1, 0, None), pool];
    let evaluation = evaluate(&W8A8.network(spec([64, 8, 8], layers)), &Hardware::mars()).unwrap();
    assert!(evaluation.resident);
    // Two cycles for each of 64 pixels, and five until the first inputs are there and the last values are written.
    let layer = &evaluation.layers[1];
    assert_eq!((layer.accesses, layer.cycles, layer.utilization), (16 * 64, 2 * 64 + 5, 128.0 / 133.0));
}

/// One core, one access of two cycles a macro, 64-cycle loads (64 x 64 cells through 64 bits): the second macro loads while the
/// first computes.
#[test]
fn weights_load_while_another_macro_computes() {
    let network = W8A8.network(spec([64, 10, 10], vec![conv("a", 16, 1, 1, 0, None), conv("b", 8, 1, 1, 0, None)]));
    let mut hardware = Hardware { cores: 1, rows: 64, clock_mhz: 200.0, ..Hardware::mars() };
    hardware.mapping.policy = Policy::FilterSets;
    hardware.memory.weight_bits_per_cycle = 1 << 20;
    hardware.memory.next_level_bits_per_cycle = 1 << 20;
    let spans = |hardware: &Hardware| -> Vec<_> {
        let timeline = evaluate(&network, hardware).unwrap().timeline;
        let macros = timeline.spans.into_iter().filter(|span| [LoadWeights, Compute].contains(&span.activity));
        macros.take(4).map(|span| (span.unit.unwrap(), span.activity, span.start, span.end())).collect()
    };
    use Activity::{Compute, LoadWeights};
    // Layer a: 16 filters at 8 bits are two accesses of 100 pixels. The image is there after a cycle, from which on beats of two
    // cycles are counted; the first macro reads its inputs in their first cycle, the second one in the other.
    assert_eq!(
        spans(&hardware),
        [(0, LoadWeights, 0, 64), (0, Compute, 66, 266), (1, LoadWeights, 64, 128), (1, Compute, 131, 331)]
    );
    hardware.macros_per_core = 1;
    assert_eq!(
        spans(&hardware),
        [(0, LoadWeights, 0, 64), (0, Compute, 66, 266), (0, LoadWeights, 266, 330), (0, Compute, 332, 532)]
    );
}

/// Also those in which a narrower input has nothing left: its array and converters work, and what they give is added up.
#[test]
fn an_access_takes_all_phases_of_its_mode() {
    let mut hardware = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    hardware.access.iter_mut().for_each(|mode| mode.input_bits = 8);
    for accumulator in [Accumulator::Words, Accumulator::Sized] {
        hardware.energy.accumulator = accumulator;
        let [narrow, whole] = [7, 8].map(|bits| hardware.precision(8, bits).unwrap());
        assert_eq!((narrow.passes, narrow.phases, narrow.energy_pj), (1, 7, whole.energy_pj));
        // A sized accumulator of a narrower input has a bit less for each of 8 outputs and 8 phases.
        let narrower = if accumulator == Accumulator::Sized { 64.0 } else { 0.0 };
        assert_eq!(narrow.accumulation.adders, whole.accumulation.adders - narrower, "{accumulator:?}");
    }
}

/// Two tiles of a set on two macros that hold their weights from the start: the second one could begin with the first, but for the
/// sums of each pixel.
#[test]
fn sums_are_read_when_they_are_written() {
    let pool = mean("pool");
    let network = W8A8.network(spec([64, 8, 8], vec![conv("conv", 64, 3, 1, 1, None), pool]));
    let mapping = Mapping { policy: Policy::FilterSets, ..Mapping::default() };
    let evaluation = evaluate(&network, &Hardware { mapping, ..Hardware::mars() }).unwrap();
    assert!(evaluation.resident);
    for core in 0..4 {
        let span = |unit, activity| {
            let of =
                |span: &&Span| (span.core, span.unit, span.layer, span.activity) == (core, Some(unit), 0, activity);
            *evaluation.timeline.spans.iter().find(of).unwrap()
        };
        let (written, read) = (span(0, Activity::WriteBack), span(1, Activity::LoadInputs));
        assert_eq!((written.times, written.period), (read.times, read.period));
        assert!(read.start >= written.start + written.cycles, "{written:?} {read:?}");
        assert!(read.start - read.period < written.start + written.cycles, "a beat earlier would do: {read:?}");
    }
}

/// Four tiles of one access: between two of them the sums of both parts of a set wait, 16 filters of 4 bytes for each pixel.
#[test]
fn sums_that_wait_take_room() {
    let (stem, wide) = (conv("stem", 128, 1, 1, 0, None), conv("wide", 16, 1, 1, 0, None));
    let network = W8A8.network(spec([3, 32, 32], vec![stem, wide]));
    let mut hardware = Hardware { cores: 1, macros_per_core: 4, ..Hardware::mars() };
    hardware.mapping.policy = Policy::FilterSets;
    let mut moved_kib = |feature_sram_kib| {
        hardware.memory.feature_sram_kib = feature_sram_kib;
        // At 1 pJ/b, without the image, there and back.
        let cost = evaluate(&network, &hardware).unwrap().cost_without_reload;
        (cost.energy_breakdown_uj.next_level * 1e6 / 8192.0 - 3.0) / 2.0
    };
    // Maps of 128 and 16 KiB, and 64 KiB of sums.
    for (feature_sram_kib, moved) in [(208, 0.0), (207, 1.0)] {
        assert!(close(moved_kib(feature_sram_kib) + 1.0, moved + 1.0), "{feature_sram_kib} KiB");
    }
}

/// Three maps of 4 KiB, of which the residual sum reads one and writes one in the same half.
#[test]
fn halves_of_the_ping_pong_fill_up_apart() {
    let skip = SkipSpec { from: "stem".into(), shortcut: Shortcut::Identity, stride: 1, batch_norm: true };
    let (stem, inner) = (conv("stem", 16, 3, 1, 1, None), conv("inner", 16, 3, 1, 1, None));
    let network = W8A8.network(spec([3, 16, 16], vec![stem, inner, conv("sum", 16, 3, 1, 1, Some(skip))]));
    let mut hardware = Hardware { cores: 1, macros_per_core: 1, ..Hardware::mars() };
    let mut moved_kib = |feature_sram_kib, ping_pong| {
        hardware.memory = Memory { feature_sram_kib, ping_pong, ..hardware.memory };
        let cost = evaluate(&network, &hardware).unwrap().cost_without_reload;
        // At 1 pJ/b, without the image, there and back.
        (cost.energy_breakdown_uj.next_level * 1e6 / 8192.0 - 0.75) / 2.0
    };
    for (feature_sram_kib, shared, halves) in [(16, 0.0, 0.0), (12, 0.0, 2.0), (11, 1.0, 2.5)] {
        assert!(close(moved_kib(feature_sram_kib, PingPong::Shared) + 1.0, shared + 1.0), "{feature_sram_kib} KiB");
        assert!(close(moved_kib(feature_sram_kib, PingPong::Halves) + 1.0, halves + 1.0), "{feature_sram_kib} KiB");
    }
}

/// A read that reaches all cores saves energy of the feature maps, and nothing else; on one core there is nothing to save.
#[test]
fn inputs_that_reach_several_cores_are_read_once() {
    // 64 filters are a set for each of four cores, which all read the same 64 channels at 9 kernel positions.
    let layers = vec![conv("first", 64, 1, 1, 0, None), conv("next", 64, 3, 1, 1, None)];
    let network = W8A8.network(spec([3, 8, 8], layers));
    let cost = |cores, input_reads| {
        // A macro holds all accesses of a set.
        let mut hardware = Hardware { cores, macros_per_core: 1, rows: 2048, ..Hardware::mars() };
        hardware.mapping.policy = Policy::FilterSets;
        hardware.memory.input_reads = input_reads;
        evaluate(&network, &hardware).unwrap()
    };
    let [each, once] = [InputReads::PerCore, InputReads::Broadcast].map(|reads| cost(4, reads));
    let moved = |evaluation: &Evaluation| evaluation.layers[1].bits_moved.feature_sram;
    let inputs = 8 * 8 * 64 * 9 * 8;
    assert_eq!(moved(&each) - moved(&once), 3 * inputs);
    let spared_uj = (each.cost.bits_moved.feature_sram - once.cost.bits_moved.feature_sram) as f64
        * Hardware::mars().energy.buffer_pj_per_bit
        / 1e6;
    assert!(close(each.cost.energy_uj - once.cost.energy_uj, spared_uj));
    assert_eq!(each.cost.cycles, once.cost.cycles);
    let [each, once] = [InputReads::PerCore, InputReads::Broadcast].map(|reads| cost(1, reads));
    assert_eq!(each.cost, once.cost);
}

/// Weights may stay loaded where they lie evenly, though the plain plan, which fills some cores more than others, has to load them anew.
#[test]
fn weights_stay_loaded_where_they_can_lie_evenly() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let chip = |policy| {
        let mut chip = Hardware { cores: 8, macros_per_core: 4, rows: 2048, ..Hardware::mars() };
        chip.mapping = Mapping { policy, objective: Objective::Cycles, layers: Vec::new() };
        chip.memory.weight_sram_kib = 16;
        chip
    };
    let [plain, chosen] = [Policy::FilterSets, Policy::Auto].map(|policy| evaluate(&network, &chip(policy)).unwrap());
    assert!(!plain.resident && chosen.resident);
    assert!(2 * chosen.cost.cycles < plain.cost.cycles, "{} of {}", chosen.cost.cycles, plain.cost.cycles);
}
