//! Where layers lie, and that nothing else would be better.

use std::path::Path;

use mars::hardware::{
    Evaluator, Hardware, LayerMapping, LayerPlacement, Mapping, Objective, Placement, Placements, Policy, Split, Start,
    evaluate,
};
use mars::integer::{QuantizeConfig, outline};
use mars::network::{Graph, zoo};
use mars::package::Package;

use crate::common::recipe::W4A4;
use crate::networks::small_network;

/// Layers in a row change each other's time: macros that one leaves early take the weights of the next one meanwhile.
#[test]
fn what_a_file_decides_about_layers_in_a_row_is_not_better_than_what_is_found() {
    for (network, bits) in [("resnet20", 8), ("resnet20", 4), ("resnet32", 8)] {
        let graph = Graph::new(zoo(network, 10).unwrap()).unwrap();
        let config = QuantizeConfig { weight_bits: bits, activation_bits: bits, ..QuantizeConfig::default() };
        let network = outline(&graph, &config, Hardware::mars().group);
        let evaluator = Evaluator::new(&network).unwrap();
        let product = |layers: Vec<LayerMapping>| {
            let mut hardware = Hardware::mars();
            hardware.mapping.layers = layers;
            let cost = evaluator.evaluate(&hardware).unwrap().cost;
            cost.cycles as f64 * (cost.energy_uj - cost.energy_breakdown_uj.idle_leakage)
        };
        let found = product(Vec::new());
        for pattern in ["layer1.*", "layer2.*", "layer3.*", "*"] {
            for start in [Start::Staggered, Start::Together] {
                let rule = LayerMapping { pattern: pattern.into(), start: Some(start), copies: None, split: None };
                let decided = product(vec![rule]);
                assert!(found <= decided * 1.002, "{} {bits}: {pattern} {start:?}", graph.spec().name);
            }
        }
    }
}

/// One core has nothing to divide: its sums need no second reading.
#[test]
fn input_channels_on_one_core_are_filter_sets() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let cost = |policy| {
        let hardware = Hardware { cores: 1, mapping: Mapping { policy, ..Mapping::default() }, ..Hardware::mars() };
        evaluate(&network, &hardware).unwrap().cost
    };
    assert_eq!(cost(Policy::InputChannels), cost(Policy::FilterSets));
}

/// What the hardware file decides about layers by name is so, the mapper chooses the rest, and what cannot be is refused.
#[test]
fn a_hardware_file_decides_placements_by_name() {
    let network = W4A4.network(small_network());
    let names: Vec<String> = evaluate(&network, &Hardware::mars())
        .unwrap()
        .layers
        .into_iter()
        .filter(|layer| layer.mapping.is_some())
        .map(|layer| layer.name)
        .collect();
    let with = |mapping: &str| Hardware { mapping: toml::from_str(mapping).unwrap(), ..Hardware::mars() };
    let layer = &names[1];
    let hardware = with(&format!(
        "policy = \"auto\"\n[[layers]]\npattern = \"*\"\ncopies = 1\n[[layers]]\npattern = \"{layer}\"\nsplit = \"input_channels\"\n"
    ));
    let evaluation = evaluate(&network, &hardware).unwrap();
    let placements = || evaluation.layers.iter().filter_map(|layer| Some((&layer.name, layer.mapping?)));
    assert!(placements().all(|(_, placement)| placement.copies == 1), "{:?}", placements().collect::<Vec<_>>());
    let of_layer = placements().find(|(name, _)| *name == layer).unwrap().1;
    assert!(of_layer.split == Split::InputChannels || evaluation.used.cores == 1);

    let error = |rules: &str| evaluate(&network, &with(rules)).unwrap_err().to_string();
    let found = error("policy = \"auto\"\n[[layers]]\npattern = \"nobody*\"\ncopies = 1\n");
    assert!(
        found.starts_with("mapping.layers: no layer matches `nobody*`; there are ") && found.contains(layer),
        "{found}"
    );
    let found = error(&format!("policy = \"auto\"\n[[layers]]\npattern = \"{layer}\"\ncopies = 3\n"));
    assert!(found.contains(layer) && found.contains("mapping.layers leaves it no placement on this chip"), "{found}");
    let fixed = "policy = \"together\"\n[[layers]]\npattern = \"*\"\ncopies = 1\n";
    let found = with(fixed).validate().unwrap_err().to_string();
    assert!(found.contains("mapping.layers: these layers need mapping.policy = \"auto\""), "{found}");
}

/// Nobody finds a better place for a single layer than the mapper's: it looks at each once all are placed.
#[test]
fn no_layer_alone_lies_better_elsewhere() {
    for results in ["vgg8/w4a4", "bits/w2a2", "cycles/groups-80", "shapes/8x16"] {
        let file = Path::new("experiments/results").join(results).join("model.mars");
        let network = Package::read(&file).unwrap().network;
        let evaluator = Evaluator::new(&network).unwrap();
        for objective in [Objective::Cycles, Objective::Energy, Objective::Product] {
            let worth = |cycles: u64, energy_uj: f64| match objective {
                Objective::Cycles => cycles as f64,
                Objective::Energy => energy_uj,
                Objective::Product => cycles as f64 * energy_uj,
            };
            let mapping = Mapping { objective, ..Mapping::default() };
            let found = evaluator.placements(&Hardware { mapping, ..Hardware::mars() }).unwrap();
            let least = worth(found.cycles, found.energy_uj) * (1.0 - 1e-12);
            for LayerPlacement { layer, next_best, .. } in found.layers {
                let better = next_best.filter(|next| worth(next.cycles, next.energy_uj) < least);
                assert!(better.is_none(), "{results}, {objective:?}, {layer}: {better:?}");
            }
        }
    }
}

/// More feature-map SRAM is never slower where cycles alone count, although the search may miss the best plan of each size.
#[test]
fn doubled_feature_sram_is_never_slower() {
    for (results, cores) in [("resnet20/w4a4-sparse50", 7), ("progressive/w3a3", 5)] {
        let file = Path::new("experiments/results").join(results).join("model.mars");
        let network = Package::read(&file).unwrap().network;
        let evaluator = Evaluator::new(&network).unwrap();
        let cycles = |feature_sram_kib: u64| {
            let mut chip = Hardware { cores, macros_per_core: 2, rows: 2048, ..Hardware::mars() };
            chip.mapping.objective = Objective::Cycles;
            (chip.memory.feature_sram_kib, chip.memory.weight_sram_kib) = (feature_sram_kib, 16);
            evaluator.placements(&chip).unwrap().cycles
        };
        let found: Vec<u64> = (4..10).map(|power| cycles(1 << power)).collect();
        assert!(found.is_sorted_by(|less, more| less >= more), "{results}: {found:?}");
        assert!(found[0] > found[5], "{results}: SRAM changes nothing");
    }
}

/// Placements that are all decided cost at most what they cost where they were chosen, since another part of the chip may suit them better, as far as
/// the search may miss what is best; a decision for the next best one costs at most what was told.
#[test]
fn the_next_best_placement_costs_what_is_told() {
    let network = W4A4.network(small_network());
    let evaluator = Evaluator::new(&network).unwrap();
    let chip = Hardware::mars();
    let found = evaluator.placements(&chip).unwrap();
    let worth = |cycles: u64, energy_uj: f64| cycles as f64 * energy_uj;
    let decided = |other: Option<usize>| {
        let rule = |(index, layer): (usize, &LayerPlacement)| {
            let next = layer.next_best.filter(|_| other == Some(index)).map(|next| next.placement);
            let Placement { split, copies, start } = next.unwrap_or(layer.placement);
            let (split, copies, start) = (Some(split), Some(copies), Some(start));
            LayerMapping { pattern: layer.layer.clone(), split, copies, start }
        };
        let layers = found.layers.iter().enumerate().map(rule).collect();
        let decided = Hardware { mapping: Mapping { layers, ..chip.mapping.clone() }, ..chip.clone() };
        let Placements { cycles, energy_uj, .. } = evaluator.placements(&decided).unwrap();
        worth(cycles, energy_uj)
    };
    let chosen = worth(found.cycles, found.energy_uj);
    assert!((0.98..1.0 + 1e-12).contains(&(decided(None) / chosen)), "{} of {chosen}", decided(None));
    let mut told = 0;
    for (index, layer) in found.layers.iter().enumerate() {
        let Some(next) = layer.next_best else { continue };
        assert_ne!(next.placement, layer.placement);
        assert!(decided(Some(index)) <= worth(next.cycles, next.energy_uj) * (1.0 + 1e-12), "{}", layer.layer);
        told += 1;
    }
    assert!(told > 3, "{found:?}");
}

/// The largest chips that a file may describe: many macros, and a large array.
#[test]
fn large_chips_are_evaluated() {
    let network = outline(
        &Graph::new(zoo("resnet20", 10).unwrap()).unwrap(),
        &QuantizeConfig { weight_bits: 4, activation_bits: 4, ..QuantizeConfig::default() },
        Hardware::mars().group,
    );
    let many = Hardware { cores: 256, macros_per_core: 64, ..Hardware::mars() };
    let large = Hardware { rows: 65_536, rows_on: 65_536, columns: 4_096, ..Hardware::mars() };
    let slow = Hardware { frames_per_load: 1 << 14, clock_mhz: 1e6, ..Hardware::mars() };
    for hardware in [many, large, slow] {
        assert!(evaluate(&network, &hardware).unwrap().cost.cycles > 0, "{}", hardware.name);
    }
}
