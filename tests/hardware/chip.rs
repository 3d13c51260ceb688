//! What a chip is: its file, its keys, and which are refused.

use std::collections::BTreeSet;
use std::path::Path;

use mars::error::{Allowed, ConfigError, Error};
use mars::hardware::{
    Accumulator, Components, Converter, Hardware, InputReads, LayerMapping, MacroNetwork, Noise, Objective, Split,
    Start, evaluate,
};
use mars::sweep::Space;

use crate::common::recipe::W4A4;
use crate::networks::small_network;

#[test]
fn a_chip_says_what_it_loses() {
    assert!(Hardware::mars().losses().is_empty());
    let noise = Some(Noise { sigma: 0.1, stuck_at_one: 1e-6, ..Noise::default() });
    let hardware = Hardware { noise, converter: Converter::Bits { bits: 5, step: 2 }, ..Hardware::mars() };
    assert_eq!(hardware.losses(), ["5-bit converter", "noise", "stuck cells"]);
    assert_eq!(evaluate(&W4A4.network(small_network()), &hardware).unwrap().losses, hardware.losses());
}

#[test]
fn the_shipped_file_is_the_embedded_one() {
    assert_eq!(Hardware::load("experiments/hardware/mars.toml".as_ref()).unwrap(), Hardware::mars());
    Hardware::mars().validate().unwrap();
}

#[test]
fn a_chip_that_cannot_work_is_rejected_by_the_key_that_is_wrong() {
    let text = include_str!("../../experiments/hardware/mars.toml");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    for (from, to, message) in [
        ("name = \"mars\"", "name = \"\"", "name is empty, reports need it"),
        (
            "measured = { rows = 1024, columns = 64, rows_on = 64 }",
            "measured = { rows = 32, columns = 64, rows_on = 64 }",
            "measured.rows_on 64 exceeds measured.rows 32",
        ),
        ("rows = 1024", "rows = 0", "rows is 0, it must be from 1 to 65536"),
        ("cores = 4", "cores = 0", "cores is 0, it must be from 1 to 4096"),
        (
            "macros_per_core = 2",
            "macros_per_core = 16384 #",
            "chip.toml: cores x macros_per_core is 65536, it must be from 1 to 32768",
        ),
        ("weight_bits = 8", "weight_bits = 9", "access[1].weight_bits is 9, it must be from 1 to 8"),
        ("input_bits_per_cycle = 4", "input_bits_per_cycle = 9", "input_bits_per_cycle is 9, it must be from 1 to 8"),
        ("rows = 1024", "rows = 32", "rows_on 64 exceeds rows 32"),
        ("rows = 1024", "rows = 1020", "rows 1020 does not divide into 8 partitions"),
        (
            "channels = 16",
            "channels = 65",
            "group.channels 65 exceeds rows_on 64: a group has to fit the word lines of one access",
        ),
        (
            "weight_slice_bits = 4",
            "weight_slice_bits = 3",
            "access[0].weight_bits 4 is not a multiple of weight_slice_bits 3",
        ),
        ("columns = 64", "columns = 4", "access[1].weight_bits 8 exceeds columns 4"),
        ("ns = 8.4", "ns = 8.4\noutputs = 65", "access[1].outputs is 65, it must be from 1 to 32"),
        ("energy_pj = 61.6", "", "access[1].energy_pj is missing, and so is energy.components"),
        ("clock_mhz = 100 ", "clock_mhz = nan ", "clock_mhz is NaN, it must be from 1e-6 to 1e6 MHz"),
        (
            "weight_sram_kib = 128",
            "weight_sram_kib = 0",
            "memory.weight_sram_kib is 0, it must be from 1 to 4294967296",
        ),
        ("gate_pj = 0.0002835", "gate_pj = -1", "energy.gate_pj is -1, it must be from 0 to 1000000"),
        ("kind = \"ideal\"", "kind = \"bits\"\nbits = 5\nstep = 0", "converter.step is 0, it must be from 1 to 16384"),
        ("[memory]", "[noise]\nsigma = -0.5\n[memory]", "noise.sigma is -0.5, it must be from 0 to 500000"),
        ("[memory]", "[noise]\nstuck_at_one = 1.5\n[memory]", "noise.stuck_at_one is 1.5, it must be from 0 to 1"),
        (
            "[memory]",
            "[noise]\nstuck_at_one = 0.5\nstuck_at_zero = 0.75\n[memory]",
            "noise.stuck_at_zero + noise.stuck_at_one is 1.25, it must be from 0 to 1",
        ),
        ("[memory]", "[noise]\nsigma = nan\n[memory]", "noise.sigma is NaN, it must be from 0 to 500000"),
        ("array = 0.06", "array = 0.05", "energy.macro_shares sum to 0.99, they must sum to 1"),
        ("macro_mm2 = 0.3233664", "macro_mm2 = 0", "area.macro_mm2 is 0, it must be from 1e-6 to 1e6 mm2"),
        ("sram_mm2_per_kib = 0.001781", "", "missing field `sram_mm2_per_kib`"),
        ("kind = \"ideal\"", "kind = \"ideal\"\nbits = 5", "unknown field `bits`"),
        ("columns = 64", "colums = 64", "unknown field `colums`, expected one of `name`, `cores`"),
        ("cores = 4", "cores = -4", "invalid value: integer `-4`, expected a whole number from 0 on"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = Hardware::load(&path).unwrap_err().to_string();
        assert!(error.contains("chip.toml") && error.contains(message), "{to}: {error}");
    }
    let error = Hardware { rows_on: 0, ..Hardware::mars() }.validate().unwrap_err();
    assert_eq!(error.to_string(), "hardware `mars`: rows_on is 0, it must be from 1 to 65536");
    let Error::Hardware { source, .. } = error else { panic!("{error:?}") };
    let allowed = Allowed::Between { low: "1".into(), high: "65536".into() };
    assert_eq!(*source, ConfigError { key: "rows_on".into(), value: "0".into(), allowed });
    let missing = |path: &str| Hardware::load(path.as_ref()).unwrap_err().to_string();
    let list = "mars-deploy --list-hardware lists the built-in ones";
    assert_eq!(missing("no/such.toml"), format!("no/such.toml: there is no such file; {list}"));
    let meant = "did you mean experiments/hardware/library/wu-isscc2022.toml?";
    let folder = tempfile::tempdir().unwrap();
    let derived = folder.path().join("derived.toml");
    std::fs::write(&derived, "base = \"mars.toml\"\n").unwrap();
    let error = Hardware::load(&derived).unwrap_err().to_string();
    assert!(error.ends_with("did you mean experiments/hardware/mars.toml?"), "{error}");
    assert_eq!(missing("wu-isscc2022"), format!("wu-isscc2022: there is no such file; {meant} {list}"));
}

#[test]
fn weights_wider_than_the_macro_are_rejected_by_the_layers_name() {
    let mut hardware = Hardware::mars();
    hardware.access.retain(|mode| mode.weight_bits == 4);
    let network = W4A4.network(small_network());
    let message = "layer `stem`: its weights have 8 bits, and the widest access of hardware `mars` takes 4: quantize.weight_bits and \
                   first_last_bits of a recipe, or --weight-bits and --first-last-bits with --model, are 4 at most";
    assert_eq!(MacroNetwork::new(&network, &hardware).unwrap_err().to_string(), message);
    assert_eq!(evaluate(&network, &hardware).unwrap_err().to_string(), message);
}

/// A base's converter gives way to one of another kind, the shares of a measured access to components, and those to a measured access.
#[test]
fn a_derived_file_may_have_another_kind_of_converter_and_of_energy() {
    let mars = Hardware::mars();
    let adc5 = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    assert_eq!(adc5.converter, Converter::Bits { bits: 5, step: 1 });
    assert!(adc5.energy.macro_shares.is_none() && adc5.energy.components.is_some());
    assert_eq!((adc5.memory, adc5.rows, adc5.clock_mhz), (mars.memory, mars.rows, mars.clock_mhz));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    let derived = |base: &str, keys: &str| {
        let base = std::path::absolute(Path::new("experiments/hardware").join(base)).unwrap();
        std::fs::write(&path, format!("base = {base:?}\n{keys}\n")).unwrap();
        Hardware::load(&path)
    };
    for (keys, converter) in [
        ("kind = \"clipping\"\nrange = 9", Converter::Clipping { range: 9 }),
        ("kind = \"bits\"\nbits = 6\nstep = 3", Converter::Bits { bits: 6, step: 3 }),
    ] {
        assert_eq!(derived("mars.toml", &format!("[converter]\n{keys}")).unwrap().converter, converter);
        let ideal = folder.path().join("ideal.toml");
        std::fs::write(&ideal, "base = \"chip.toml\"\n[converter]\nkind = \"ideal\"\n").unwrap();
        assert_eq!(Hardware::load(&ideal).unwrap(), Hardware { name: "ideal".into(), ..mars.clone() });
    }
    let measured = "[[access]]\nweight_bits = 8\ninput_bits = 1\nns = 5.3\nenergy_pj = 40.0\n";
    let chip = derived("adc5.toml", measured).unwrap();
    assert!(chip.energy.components.is_none() && chip.precision(8, 8).unwrap().energy_pj == 8.0 * 40.0);

    let wrong = folder.path().join("wrong.toml");
    derived("mars.toml", "colums = 3").unwrap_err();
    std::fs::write(&wrong, "base = \"chip.toml\"\ncores = 2\n").unwrap();
    let error = Hardware::load(&wrong).unwrap_err().to_string();
    for part in
        ["wrong.toml: unknown field `colums`", "did you mean `columns`?", "in this file or its base", "chip.toml"]
    {
        assert!(error.contains(part), "{error}");
    }
}

/// A base is found beside the file or in the program, wherever the file lies; what is built on it has a name of its own.
#[test]
fn a_built_in_base_is_found_from_any_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    std::fs::write(&path, "base = \"experiments/hardware/library/wu-isscc2022.toml\"\ncores = 2\n").unwrap();
    let chip = Hardware::load(&path).unwrap();
    assert_eq!((chip.name.as_str(), chip.cores), ("mine", 2));
    std::fs::write(&path, "base = \"../no-such-chip.toml\"\n").unwrap();
    let error = Hardware::load(&path).unwrap_err().to_string();
    for part in ["mine.toml", "base = \"../no-such-chip.toml\"", "mars-deploy --list-hardware"] {
        assert!(error.contains(part), "{error}");
    }
}

/// The paths of all keys in a table; a list of tables is `[]`.
fn paths(prefix: &str, table: &toml::Table, found: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => paths(&format!("{path}."), inner, found),
            toml::Value::Array(list) => {
                list.iter().filter_map(|it| it.as_table()).for_each(|it| paths(&format!("{path}[]."), it, found));
            }
            _ => drop(found.insert(path)),
        }
    }
}

/// docs/hardware-keys.md has every key that a hardware file can have, and no other one.
#[test]
fn the_documentation_has_every_key_of_a_hardware_file() {
    let page = std::fs::read_to_string("docs/hardware-keys.md").unwrap();
    let rows = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()));
    let told: BTreeSet<String> = rows.collect();
    let mut keys = BTreeSet::new();
    let geometry = Hardware::mars().geometry();
    for converter in [Converter::Clipping { range: 3 }, Converter::Bits { bits: 5, step: 2 }] {
        let mut chip = Hardware { converter, noise: Some(Noise::default()), ..Hardware::mars() };
        chip.access[0].outputs = Some(8);
        chip.access[0].measured = Some(geometry);
        let (split, start) = (Some(Split::FilterSets), Some(Start::Together));
        chip.mapping.objective = Objective::Cycles;
        chip.mapping.layers = vec![LayerMapping { pattern: "*".into(), split, copies: Some(1), start }];
        chip.memory.input_reads = InputReads::Broadcast;
        chip.energy.register_pj_per_bit = 1.0;
        chip.energy.accumulator = Accumulator::Sized;
        chip.energy.components = Some(Components {
            supply_v: 1.0,
            cell_ff: 1.0,
            adc_linear_ff: 1.0,
            adc_exponential_ff: 1.0,
            dac_ff_per_bit: 1.0,
            adder_ff: 1.0,
            precharge_ff: 1.0,
            activity: 0.5,
        });
        let area = chip.area.as_mut().unwrap();
        area.macro_cells = Some(65_536);
        paths("", &toml::Table::try_from(&chip).unwrap(), &mut keys);
    }
    assert_eq!(told, keys);
}

/// A sweep's point is the chip that a file with the same base and keys describes: constants belong to the sizes of who gives them.
#[test]
fn a_point_of_a_sweep_is_the_chip_of_a_file_with_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let base = |name: &str| std::path::absolute(Path::new("experiments/hardware").join(name)).unwrap();
    let write = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let access = "[{ weight_bits = 8, input_bits = 8, ns = 9.0, energy_pj = 40.0 }]";
    for (name, keys) in [
        ("mars.toml", vec![("rows", "512"), ("energy.leakage_mw_per_macro", "1.4")]),
        ("mars.toml", vec![("rows", "512"), ("access", access)]),
        ("mars.toml", vec![("rows", "2048"), ("area.macro_mm2", "0.5")]),
        ("mars.toml", vec![("memory.weight_sram_kib", "64"), ("energy.buffer_pj_per_bit", "0.2")]),
        ("mars.toml", vec![("converter", "{ kind = \"bits\", bits = 5, step = 2 }"), ("columns", "512")]),
        ("adc5.toml", vec![("access", access), ("cores", "2")]),
    ] {
        let own: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let file = write("own.toml", format!("base = {:?}\nname = \"own\"\n{}", base(name), own.concat()));
        let ranges: Vec<String> = keys.iter().map(|(key, value)| format!("\"{key}\" = [{value}]\n")).collect();
        let sweep = write("sweep.toml", format!("base = {:?}\n[ranges]\n{}", base(name), ranges.concat()));
        let point = Space::load(&sweep).unwrap().hardware(0).unwrap();
        assert_eq!(Hardware { name: "own".into(), ..point }, Hardware::load(&file).unwrap(), "{keys:?}");
    }
}
