//! What follows from the size of a macro: area, outputs, energy and leakage.

use mars::hardware::{Area, Converter, Cost, Geometry, Hardware, MacroShares, Precision, evaluate};
use mars::network::zoo;

use crate::close;
use crate::common::recipe::W4A4;
use crate::networks::small_network;

/// Area is the sum of its parts, and isn't there without its constants.
#[test]
fn area_and_its_throughput_follow_from_the_files_constants() {
    let network = W4A4.network(small_network());
    let without = evaluate(&network, &Hardware { area: None, ..Hardware::mars() }).unwrap();
    assert!(without.area.is_none() && without.cost.tops_per_mm2_executed.is_none());
    let area = Some(Area {
        macro_mm2: 0.25,
        macro_cells: None,
        sram_mm2_fixed: 0.0,
        sram_mm2_per_kib: 0.001,
        logic_mm2_per_core: 0.125,
    });
    let evaluation = evaluate(&network, &Hardware { area, ..Hardware::mars() }).unwrap();
    // 8 macros, 4 x 128 KiB and 256 KiB, 4 cores.
    let area = evaluation.area.unwrap();
    assert!(close(area.total_mm2, 2.0 + 0.512 + 0.256 + 0.5));
    // The shipped file's, with what an SRAM takes besides its cells.
    let shipped = evaluate(&network, &Hardware::mars()).unwrap().area.unwrap();
    assert!(close(shipped.weight_sram_mm2, 4.0 * (0.1147 + 128.0 * 0.001781)));
    assert!((shipped.total_mm2 - 4.64).abs() < 0.005, "{}", shipped.total_mm2);
    let parts = area.macros_mm2 + area.weight_sram_mm2 + area.feature_sram_mm2 + area.logic_mm2;
    assert!(close(parts, area.total_mm2));
    let macs = network.graph.macs() as f64;
    let expected = 2.0 * macs * evaluation.cost.fps / 1e12 / area.total_mm2;
    assert!(close(evaluation.cost.tops_per_mm2_dense_equivalent.unwrap(), expected));
    // Nothing else changes.
    let (tops_per_mm2_dense_equivalent, tops_per_mm2_executed) = (None, None);
    let cost = Cost { tops_per_mm2_dense_equivalent, tops_per_mm2_executed, ..evaluation.cost };
    assert_eq!((cost, evaluation.layers), (without.cost, without.layers));
}

#[test]
fn area_and_outputs_follow_the_geometry() {
    let mars = Hardware::mars();
    let larger = Hardware { rows: 2 * mars.rows, columns: 4 * mars.columns, ..mars.clone() };
    assert!(close(larger.macro_mm2().unwrap(), 8.0 * mars.macro_mm2().unwrap()));
    // An area belongs to the macro of the file that gives it, like every constant.
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("own.toml");
    std::fs::write(&path, "base = \"experiments/hardware/mars.toml\"\nrows = 2048\n[area]\nmacro_mm2 = 0.6\n").unwrap();
    let own = Hardware::load(&path).unwrap();
    assert_eq!((own.rows, own.macro_mm2()), (2048, Some(0.6)));
    assert!(close(Hardware { rows: 4096, ..own }.macro_mm2().unwrap(), 1.2));
    let papistas = Hardware::load("experiments/hardware/library/papistas-cicc2021.toml".as_ref()).unwrap();
    let wider = Hardware { columns: 2 * papistas.columns, ..papistas.clone() };
    let outputs = |chip: &Hardware| chip.precision(2, 7).unwrap().outputs;
    assert_eq!((outputs(&papistas), outputs(&wider)), (512, 1024));
    // Each output has its converter, so that cells and converters, all but the drivers, double with the columns.
    let energy = |chip: &Hardware| chip.precision(2, 7).unwrap().energy_pj;
    let parts = papistas.macro_shares().unwrap();
    assert!(close(energy(&wider), energy(&papistas) * (2.0 * (parts.array + parts.converter) + parts.drivers)));
    let mut crowded = papistas;
    crowded.access[0].outputs = Some(1025);
    let error = crowded.validate().unwrap_err().to_string();
    assert!(error.contains("outputs is 1025, it must be from 1 to 1024"), "{error}");
}

/// One row has no adder tree; what is left are its gates.
#[test]
fn the_delay_of_an_adder_tree_grows_with_its_rows_from_one_on() {
    let guo = Hardware::load("experiments/hardware/library/guo-isscc2023.toml".as_ref()).unwrap();
    let ns = [1, 2, 4, 16].map(|rows_on| Hardware { rows_on, ..guo.clone() }.precision(8, 8).unwrap().ns);
    assert!(ns[0] > 0.0 && ns.is_sorted(), "{ns:?}");
}

#[test]
fn shares_of_an_access_are_chosen_or_those_of_its_components() {
    let adc5 = Hardware::load("experiments/hardware/adc5.toml".as_ref()).unwrap();
    let shares = adc5.macro_shares().unwrap();
    let (cells, converters) = (64.0 * 64.0 * 0.35, 64.0 * (500.0 + 1.024));
    assert!(close(shares.array, cells / (cells + converters)) && shares.drivers == 0.0);
    let sum = |shares: MacroShares| shares.parts().iter().map(|(_, share)| share).sum::<f64>();
    assert!(close(sum(shares), 1.0) && close(sum(Hardware::mars().macro_shares().unwrap()), 1.0));
    let mut unknown = Hardware::mars();
    unknown.energy.macro_shares = None;
    assert!(unknown.macro_shares().is_none());
}

/// An array of another size takes what its parts do, not what the measured one does; where the file doesn't say how, it is refused.
#[test]
fn an_access_on_another_geometry_is_scaled_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    let base = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let derived = |keys: &str| {
        std::fs::write(&path, format!("base = {base:?}\n{keys}\n")).unwrap();
        Hardware::load(&path)
    };
    let mars = Hardware::mars().precision(4, 4).unwrap();
    let access = |chip: &Hardware| {
        let Precision { ns, energy_pj, outputs, .. } = chip.precision(4, 4).unwrap();
        (ns, energy_pj, outputs)
    };
    assert_eq!(access(&derived("cores = 2").unwrap()), (mars.ns, mars.energy_pj, 16));
    assert_eq!(derived("cores = 2").unwrap().scaled_from(), None);

    // Array, converters and drivers are 6, 36 and 58 %; a converter's delay is 0.640 + 0.00653 ns a row.
    let delay = |rows_on: f64| 0.640 + 0.00653 * rows_on;
    for (keys, energy, time) in [
        ("rows = 4096", 0.06 * 4.0 + 0.36 + 0.58, 1.0),
        ("columns = 256", (0.06 + 0.36) * 4.0 + 0.58, 1.0),
        ("rows_on = 128", 0.06 + 0.36 * 2.0 + 0.58 * 2.0, delay(128.0) / delay(64.0)),
        (
            "rows_on = 128\nconverter = { kind = \"bits\", bits = 6, step = 4 }",
            0.06 + 0.36 + 0.58 * 2.0,
            delay(128.0) / delay(64.0),
        ),
        (
            "rows = 4096\ncolumns = 1024\nrows_on = 1024",
            0.06 * 64.0 + 0.36 * 256.0 + 0.58 * 16.0,
            delay(1024.0) / delay(64.0),
        ),
    ] {
        let chip = derived(keys).unwrap();
        let (ns, energy_pj, _) = access(&chip);
        assert!(
            close(energy_pj, energy * mars.energy_pj) && close(ns, time * mars.ns),
            "{keys}: {energy_pj} pJ, {ns} ns"
        );
        assert_eq!(chip.scaled_from(), Some(Geometry { rows: 1024, columns: 64, rows_on: 64 }));
    }
    // The largest array is no longer a thousand times as efficient as the one that was measured.
    let large = derived("rows = 4096\ncolumns = 1024\nrows_on = 1024").unwrap();
    let tops_per_watt = |chip: &Hardware| 2.0 * (chip.rows_on * access(chip).2) as f64 / access(chip).1;
    assert!(tops_per_watt(&large) < 3.0 * tops_per_watt(&Hardware::mars()), "{}", tops_per_watt(&large));

    // Accesses of its own were measured on its own geometry, unless they say otherwise.
    let own = "[[access]]\nweight_bits = 8\ninput_bits = 4\nns = 4\nenergy_pj = 40";
    let chip = derived(&format!("columns = 128\n{own}")).unwrap();
    assert_eq!(chip.precision(8, 4).unwrap().energy_pj, 40.0);
    let shares = "[energy.macro_shares]\narray = 0.06\nconverter = 0.36\ndrivers = 0.58";
    let elsewhere = format!("columns = 128\n{own}\nmeasured = {{ rows = 1024, columns = 64, rows_on = 64 }}\n{shares}");
    assert!(close(derived(&elsewhere).unwrap().precision(8, 4).unwrap().energy_pj, 40.0 * (0.42 * 2.0 + 0.58)));

    // A file without shares, and one on top of it.
    let text = std::fs::read_to_string(&base).unwrap();
    let plain = text.split("[energy.macro_shares]").next().unwrap().replace("measured = {", "# measured = {");
    std::fs::write(&path, plain).unwrap();
    assert_eq!(access(&Hardware::load(&path).unwrap()), (mars.ns, mars.energy_pj, 16));
    let wider = folder.path().join("wider.toml");
    std::fs::write(&wider, "base = \"chip.toml\"\ncolumns = 128").unwrap();
    let error = Hardware::load(&wider).unwrap_err().to_string();
    let message = "access[0].energy_pj 29.9 was measured on 1024 rows x 64 columns with 64 rows on, the macro has 1024 rows x 128 columns with \
                   64 rows on: give energy.macro_shares, by which it is scaled, or an [[access]] of this geometry";
    assert!(error.contains(message), "{error}");
}

/// Rows and columns that aren't on at a time don't change what an access takes, and no rounding makes a cycle of nothing.
#[test]
fn more_rows_or_columns_take_no_more_cycles_an_access() {
    for (clock_mhz, ns) in [(100.0, 30.0), (100.0, 50.0), (250.0, 12.0), (333.0, 3.0), (99.9, 7.3)] {
        for (rows_on, converter) in [(16, Converter::Ideal), (64, Converter::AdderTree), (48, Converter::Ideal)] {
            let mut chip = Hardware { clock_mhz, rows_on, converter, ..Hardware::mars() };
            chip.access.retain(|mode| mode.weight_bits == 4);
            chip.access[0].ns = ns;
            chip.access[0].measured = Some(chip.geometry());
            let cycles = |chip: &Hardware| chip.precision(4, 4).unwrap().cycles;
            let own = cycles(&chip);
            assert!(own as f64 - ns * clock_mhz / 1e3 < 1.0, "{ns} ns at {clock_mhz} MHz: {own}");
            for (rows, columns) in [(chip.rows, 128), (2048, 64), (4096, 256)] {
                assert_eq!(cycles(&Hardware { rows, columns, ..chip.clone() }), own, "{rows_on} of {rows} x {columns}");
            }
        }
    }
}

#[test]
fn an_area_is_of_a_macro_that_the_file_tells() {
    let mut chip = Hardware::mars();
    chip.access[1].measured = Some(Geometry { rows: 256, ..chip.geometry() });
    let error = chip.validate().unwrap_err().to_string();
    assert!(error.contains("area.macro_mm2") && error.contains("area.macro_cells says of which"), "{error}");
    let cells = (chip.rows * chip.columns) as u64;
    chip.area.as_mut().unwrap().macro_cells = Some(cells);
    chip.validate().unwrap();
    assert_eq!(chip.macro_mm2(), Hardware::mars().macro_mm2());
}

#[test]
fn leakage_follows_the_cells_and_an_srams_energy_its_size() {
    let mars = Hardware::mars();
    assert_eq!(
        (mars.leakage_mw_per_macro(), mars.weight_sram_pj_per_bit(), mars.feature_sram_pj_per_bit()),
        (1.4, 0.135, 0.135)
    );
    let mut chip = Hardware { columns: 256, ..mars };
    (chip.memory.weight_sram_kib, chip.memory.feature_sram_kib) = (512, 64);
    assert!(close(chip.leakage_mw_per_macro(), 5.6));
    assert!(close(chip.weight_sram_pj_per_bit(), 0.27) && close(chip.feature_sram_pj_per_bit(), 0.0675));
    // What is given anew belongs to the chip that gives it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chip.toml");
    let base = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let keys =
        "columns = 256\n[memory]\nweight_sram_kib = 512\n[energy]\nleakage_mw_per_macro = 2\nbuffer_pj_per_bit = 0.2";
    std::fs::write(&path, format!("base = {base:?}\n{keys}\n")).unwrap();
    let chip = Hardware::load(&path).unwrap();
    assert_eq!((chip.leakage_mw_per_macro(), chip.weight_sram_pj_per_bit()), (2.0, 0.2));
}

/// A part of a macro leaks and takes what the whole macro does, so more rows are no better in energy for what fewer do.
#[test]
fn rows_that_are_not_used_still_hang_on_the_bit_lines() {
    let network = W4A4.network(zoo("resnet20", 10).unwrap());
    let cost = |rows| evaluate(&network, &Hardware { rows, ..Hardware::mars() }).unwrap();
    let (small, large) = (cost(16_384), cost(32_768));
    assert!(small.resident && large.resident);
    assert_eq!(small.cost.cycles, large.cost.cycles);
    assert!(large.cost.energy_breakdown_uj.array > 1.4 * small.cost.energy_breakdown_uj.array);
    assert!(large.cost.energy_breakdown_uj.leakage > 1.9 * small.cost.energy_breakdown_uj.leakage);
}

/// A macro's area is that of the array that its base measured, also where the chip has accesses of its own.
#[test]
fn a_derived_macro_with_accesses_of_its_own_has_the_area_of_its_cells() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quarter.toml");
    let base = std::path::absolute("experiments/hardware/mars.toml").unwrap();
    let access = "[[access]]\nweight_bits = 8\ninput_bits = 8\nns = 9.0\nenergy_pj = 40.0\n";
    let area = |keys: &str| {
        std::fs::write(&path, format!("base = {base:?}\n{keys}")).unwrap();
        Hardware::load(&path).unwrap().macro_mm2().unwrap()
    };
    let whole = Hardware::mars().macro_mm2().unwrap();
    for keys in ["rows = 256\n".to_owned(), format!("rows = 256\n{access}")] {
        assert!((area(&keys) - whole / 4.0).abs() < 1e-12, "{keys}: {} of {whole}", area(&keys));
    }
    assert!((area(access) - whole).abs() < 1e-12);
}
