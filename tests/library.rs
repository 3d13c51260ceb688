//! The chip library: each file reproduces what was published of its chip, and what components or one measurement predict of others.
//! `INSTA_UPDATE=always cargo test --test library` rewrites the tables of `docs/hardware-library.md`.

mod common;

use std::path::Path;

use common::{check_file, with_tables};
use mars::hardware::{AccessMode, Accumulator, Components, Converter, Hardware};

/// A chip of the library.
fn chip(name: &str) -> Hardware {
    Hardware::load(&Path::new("experiments/hardware/library").join(format!("{name}.toml"))).unwrap()
}

/// What an access of the macro gives for its energy, in TOPS/W, its digital work behind it not counted.
fn tops_per_watt(chip: &Hardware, weight_bits: u8, input_bits: u8) -> f64 {
    let precision = chip.precision(weight_bits, input_bits).unwrap();
    2.0 * (chip.rows_on * precision.outputs) as f64 / precision.energy_pj
}

/// What all macros give together, in TOPS, an access after the other.
fn tops(chip: &Hardware, weight_bits: u8, input_bits: u8) -> f64 {
    let precision = chip.precision(weight_bits, input_bits).unwrap();
    2.0 * (chip.macros() * chip.rows_on * precision.outputs) as f64 / precision.ns / 1e3
}

fn tops_per_mm2(chip: &Hardware, weight_bits: u8, input_bits: u8) -> f64 {
    tops(chip, weight_bits, input_bits) / (chip.macros() as f64 * chip.area.unwrap().macro_mm2)
}

/// A published figure beside ours.
struct Row {
    chip: &'static str,
    figure: String,
    published: f64,
    computed: f64,
    /// In percent.
    tolerance: f64,
    /// Whether the file was made from this figure.
    is_input: bool,
    note: &'static str,
}

type Figure = fn(&Hardware, u8, u8) -> f64;
const FIGURES: [(&str, Figure); 3] = [("TOPS/W", tops_per_watt), ("TOPS", tops), ("TOPS/mm2", tops_per_mm2)];

/// Each chip with its published figures: which, at which bits of weights and inputs, the value, the tolerance in percent, what it is.
fn published() -> Vec<Row> {
    let rows = [
        ("si-jssc2021", 0, 8, 8, 16.63, 0.5, true, "Q, CIM-Tuner"),
        ("si-jssc2021", 0, 4, 4, 68.4, 0.5, true, "Q, best case"),
        ("wu-isscc2022", 0, 8, 8, 27.75, 0.5, true, "I, UIUC; the title has 37.01"),
        ("wu-isscc2022", 1, 8, 8, 1.241, 0.5, true, "Q, title"),
        ("su-isscc2021", 0, 8, 8, 22.75, 0.5, true, "I, UIUC, 0.7 V"),
        ("su-isscc2021", 0, 4, 4, 94.31, 0.5, true, "I, UIUC, 0.7 V"),
        ("su-isscc2021", 1, 8, 8, 0.213, 0.5, true, "I, 7.2 ns"),
        ("chen-isscc2023", 0, 8, 8, 18.7, 10.0, false, "Q, zigzag-imc; components, activity 0.5 assumed"),
        ("chen-isscc2023", 1, 8, 8, 1.49, 1.0, true, "Q, zigzag-imc"),
        ("chen-isscc2023", 2, 8, 8, 0.79, 5.0, true, "I"),
        ("papistas-cicc2021", 0, 2, 7, 1050.0, 15.0, false, "Q, zigzag-imc; components, its cell capacitance"),
        ("papistas-cicc2021", 1, 2, 7, 23.6, 1.0, true, "I"),
        ("papistas-cicc2021", 2, 2, 7, 12.1, 1.0, true, "I"),
        ("wang-vlsi2022", 0, 8, 8, 16.376, 0.5, true, "Q, 1.0 V"),
        ("wang-vlsi2022", 1, 8, 8, 8.0 * 0.446, 1.0, true, "Q, 0.446 a macro"),
        ("wang-vlsi2022", 2, 8, 8, 3.60, 1.0, true, "Q"),
        ("jia-jssc2020", 0, 1, 1, 400.0, 1.0, true, "Q, 0.85 V"),
        ("jia-jssc2020", 1, 1, 1, 0.874, 1.0, true, "Q"),
        ("guo-isscc2023", 0, 8, 8, 19.5, 0.5, true, "Q"),
        ("guo-isscc2023", 1, 8, 8, 0.0932, 0.5, true, "I"),
        ("guo-isscc2023", 2, 8, 8, 0.638, 0.5, true, "I"),
        ("chih-isscc2021", 0, 4, 4, 89.0, 0.5, true, "I, UIUC"),
        ("chih-isscc2021", 1, 4, 4, 0.819, 0.5, true, "I, 10 ns"),
        ("kim-jssc2021", 0, 8, 1, 2.0 / 0.14435, 0.5, true, "Q, 0.8 V"),
        ("kim-jssc2021", 0, 4, 4, 2.0 / 0.423432, 12.0, false, "Q, 0.8 V"),
        ("kim-jssc2021", 0, 8, 8, 2.0 / 1.169653, 12.0, false, "Q, 0.8 V"),
    ];
    let row = |(name, figure, weight_bits, input_bits, published, tolerance, is_input, note): (
        _,
        usize,
        _,
        _,
        _,
        _,
        _,
        _,
    )| {
        let (unit, compute) = FIGURES[figure];
        let figure = format!("{unit} at {weight_bits} x {input_bits} b");
        Row {
            chip: name,
            figure,
            published,
            computed: compute(&chip(name), weight_bits, input_bits),
            tolerance,
            is_input,
            note,
        }
    };
    let mut rows: Vec<Row> = rows.into_iter().map(row).collect();
    // What an access at 4 b says of one at 8 b, which takes twice the phases.
    for (name, volts) in [("si-jssc2021", "4 to 8 b"), ("su-isscc2021", "4 to 8 b, 0.7 V")] {
        let energy = |bits| chip(name).precision(bits, bits).unwrap().energy_pj;
        let (published, computed) = (energy(8), 2.0 * energy(4));
        let figure = "pJ of an access at 8 x 8 b".into();
        rows.push(Row { chip: name, figure, published, computed, tolerance: 5.0, is_input: false, note: volts });
    }
    let mut low = chip("papistas-cicc2021");
    low.energy.components.as_mut().unwrap().supply_v = 0.6;
    let figure = "TOPS/W at 2 x 7 b, 0.6 V".into();
    let computed = tops_per_watt(&low, 2, 7);
    let note = "Q, UIUC; components, V2";
    rows.push(Row {
        chip: "papistas-cicc2021",
        figure,
        published: 1870.0,
        computed,
        tolerance: 15.0,
        is_input: false,
        note,
    });
    rows
}

fn table(rows: &[&Row]) -> String {
    let mut text = "| chip | figure | published | file | difference | source |\n|---|---|---|---|---|---|\n".to_owned();
    for Row { chip, figure, published, computed, note, .. } in rows {
        let error = 100.0 * (computed / published - 1.0);
        text += &format!(
            "| `{chip}` | {figure} | {} | {} | {error:+.1} % | {note} |\n",
            digits(*published),
            digits(*computed)
        );
    }
    text
}

/// Four digits.
fn digits(value: f64) -> String {
    let decimals = (3 - value.abs().log10().floor() as i32).clamp(0, 4) as usize;
    format!("{value:.decimals$}")
}

/// A published energy of Colonnade: volts, bits of weights and inputs, fJ for a multiply-accumulate.
fn colonnade() -> Vec<(String, u32, u32, f64)> {
    let text = include_str!("fixtures/colonnade.csv");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        (cells[0].to_owned(), cells[1].parse().unwrap(), cells[2].parse().unwrap(), cells[3].parse().unwrap())
    };
    text.lines().skip(1).map(row).collect()
}

/// Errors in percent of all published energies but the three that the prediction starts from: one access at 8 x 1 b for each voltage.
fn colonnade_errors() -> Vec<f64> {
    let rows = colonnade();
    let chip = chip("kim-jssc2021");
    let columns = |weight_bits: u32| chip.columns / (weight_bits as usize + 7);
    let start = |volt: &str| {
        let of = |(at, weights, inputs, energy): &(String, u32, u32, f64)| {
            (at == volt && (*weights, *inputs) == (8, 1)).then_some(*energy)
        };
        rows.iter().find_map(of).unwrap() * (chip.rows_on * columns(8)) as f64
    };
    let mut errors = Vec::new();
    for (volt, weights, inputs, published) in &rows {
        if (*weights, *inputs) == (8, 1) {
            continue;
        }
        let energy = f64::from(*inputs) * start(volt) / (chip.rows_on * columns(*weights)) as f64;
        // Up to 8 bits the hardware file says the same.
        if *weights <= 8 && volt == "0.8" {
            let precision = chip.precision(*weights as u8, *inputs as u8).unwrap();
            let of_file = 1e3 * precision.energy_pj / (chip.rows_on * precision.outputs) as f64;
            assert!((of_file / energy - 1.0).abs() < 1e-3, "{weights} x {inputs} b: {of_file} and {energy}");
        }
        errors.push(100.0 * (energy / published - 1.0));
    }
    errors
}

/// A macro of other people's formulas: its shape, its parts, and the TOPS/W that a reader of these formulas computed by hand.
struct BottomUp {
    name: &'static str,
    rows_on: usize,
    columns: usize,
    bits: [u8; 2],
    slice: u8,
    phase: u8,
    converter: Converter,
    volt: f64,
    cell_ff: f64,
    dac_ff: f64,
    activity: f64,
    published: f64,
    by_hand: f64,
}

/// zigzag-imc's constants on every macro alike: how far one set of constants is from what was measured.
fn bottom_up() -> Vec<BottomUp> {
    let adc = |bits| Converter::Bits { bits, step: 1 };
    let analog = BottomUp {
        name: "",
        rows_on: 16,
        columns: 96,
        bits: [8, 8],
        slice: 1,
        phase: 4,
        converter: adc(5),
        volt: 0.9,
        cell_ff: 0.35,
        dac_ff: 50.0,
        activity: 1.0,
        published: 15.02,
        by_hand: 0.0,
    };
    let digital =
        BottomUp { slice: 8, phase: 1, converter: Converter::AdderTree, dac_ff: 0.0, activity: 0.25, ..analog };
    vec![
        BottomUp { name: "Su, 4 input bits a phase", by_hand: 4.573, ..analog },
        BottomUp { name: "Su, 2 input bits a phase", phase: 2, by_hand: 2.359, ..analog },
        BottomUp {
            name: "Wu",
            rows_on: 64,
            columns: 64,
            phase: 2,
            converter: adc(7),
            published: 27.75,
            by_hand: 5.887,
            ..analog
        },
        BottomUp {
            name: "Si, 2 x 1 b, 6-bit converters",
            volt: 0.85,
            rows_on: 64,
            columns: 64,
            phase: 2,
            converter: adc(6),
            published: 16.63,
            by_hand: 7.621,
            ..analog
        },
        BottomUp {
            name: "Chen, activity 1",
            rows_on: 8,
            columns: 2048,
            slice: 8,
            phase: 1,
            converter: adc(3),
            volt: 0.8,
            cell_ff: 0.275,
            published: 18.7,
            by_hand: 9.837,
            ..analog
        },
        BottomUp {
            name: "Chen, activity 0.5",
            rows_on: 8,
            columns: 2048,
            slice: 8,
            phase: 1,
            converter: adc(3),
            volt: 0.8,
            cell_ff: 0.275,
            activity: 0.5,
            published: 18.7,
            by_hand: 19.675,
            ..analog
        },
        BottomUp {
            name: "Papistas, cell of 0.35 fF",
            rows_on: 1024,
            columns: 1024,
            bits: [2, 7],
            slice: 2,
            phase: 7,
            converter: adc(6),
            volt: 0.8,
            published: 1050.0,
            by_hand: 1583.456,
            ..analog
        },
        BottomUp {
            name: "Papistas, cell of 0.6875 fF",
            rows_on: 1024,
            columns: 1024,
            bits: [2, 7],
            slice: 2,
            phase: 7,
            converter: adc(6),
            volt: 0.8,
            cell_ff: 0.6875,
            published: 1050.0,
            by_hand: 1179.899,
            ..analog
        },
        BottomUp {
            name: "Wang, 1.0 V",
            rows_on: 64,
            columns: 128,
            slice: 8,
            phase: 8,
            converter: adc(8),
            volt: 1.0,
            published: 16.376,
            by_hand: 48.398,
            ..analog
        },
        BottomUp {
            name: "Jia, 0.85 V, 1 b",
            rows_on: 2304,
            columns: 256,
            bits: [1, 1],
            phase: 1,
            converter: adc(8),
            volt: 0.85,
            published: 401.1,
            by_hand: 3814.652,
            ..analog
        },
        BottomUp {
            name: "Jia, 1.2 V, 1 b",
            rows_on: 2304,
            columns: 256,
            bits: [1, 1],
            phase: 1,
            converter: adc(8),
            volt: 1.2,
            published: 192.0,
            by_hand: 1913.949,
            ..analog
        },
        BottomUp {
            name: "Dong, 7 nm",
            rows_on: 64,
            columns: 64,
            bits: [4, 4],
            slice: 4,
            phase: 4,
            converter: adc(4),
            volt: 0.8,
            published: 351.0,
            by_hand: 155.056,
            ..analog
        },
        BottomUp {
            name: "Guo, adder trees",
            rows_on: 128,
            columns: 64,
            phase: 2,
            published: 19.5,
            by_hand: 28.453,
            ..digital
        },
        BottomUp {
            name: "Chih, adder trees",
            rows_on: 256,
            columns: 256,
            bits: [4, 4],
            slice: 4,
            volt: 0.72,
            published: 89.0,
            by_hand: 162.363,
            ..digital
        },
        BottomUp { name: "He, adder trees", rows_on: 128, columns: 128, published: 38.0, by_hand: 27.679, ..digital },
    ]
}

impl BottomUp {
    /// TOPS/W of the macro, with the adders behind an adder tree.
    fn tops_per_watt(&self) -> f64 {
        let [weight_bits, input_bits] = self.bits;
        let mode = AccessMode { weight_bits, input_bits, ns: 1.0, energy_pj: None, measured: None, outputs: None };
        let mut chip = Hardware {
            rows: self.rows_on,
            columns: self.columns,
            partitions: 1,
            rows_on: self.rows_on,
            input_bits_per_cycle: self.phase,
            weight_slice_bits: self.slice,
            converter: self.converter,
            access: vec![mode],
            ..Hardware::mars()
        };
        chip.group.channels = 8;
        let is_digital = self.converter == Converter::AdderTree;
        let [adc_linear_ff, adc_exponential_ff] = if is_digital { [0.0; 2] } else { [100.0, 0.001] };
        let square = self.volt * self.volt / 1e3;
        chip.energy.macro_shares = None;
        chip.energy.accumulator = Accumulator::Sized;
        (chip.energy.adder_pj_per_bit, chip.energy.register_pj_per_bit) = (4.2 * square, 2.1 * square);
        chip.energy.components = Some(Components {
            supply_v: self.volt,
            cell_ff: self.cell_ff,
            adc_linear_ff,
            adc_exponential_ff,
            dac_ff_per_bit: self.dac_ff,
            adder_ff: if is_digital { 4.2 } else { 0.0 },
            precharge_ff: 0.0,
            activity: self.activity,
        });
        chip.validate().unwrap();
        let precision = chip.precision(weight_bits, input_bits).unwrap();
        let behind = precision.accumulation;
        let behind = behind.adders * chip.energy.adder_pj_per_bit + behind.registers * chip.energy.register_pj_per_bit;
        let energy = precision.energy_pj + if is_digital { behind } else { 0.0 };
        2.0 * (chip.rows_on * precision.outputs) as f64 / energy
    }
}

#[test]
fn each_chip_of_the_library_reproduces_its_published_figures() {
    let rows = published();
    for entry in std::fs::read_dir("experiments/hardware/library").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(rows.iter().any(|row| row.chip == name), "{name} has no published figure");
        assert_eq!(chip(&name).name, name);
    }
    for row in &rows {
        let error = 100.0 * (row.computed / row.published - 1.0);
        assert!(error.abs() <= row.tolerance, "{}, {}: {} for {}", row.chip, row.figure, row.computed, row.published);
    }
}

/// One number a voltage predicts the rest: -11.3 to +7.8 %.
#[test]
fn colonnades_energies_follow_from_one_access() {
    let errors = colonnade_errors();
    assert_eq!(errors.len(), 93);
    assert!(errors.iter().all(|error| (-11.35..=7.85).contains(error)), "{errors:?}");
}

#[test]
fn components_are_those_of_the_formulas_on_every_macro() {
    for case in bottom_up() {
        let found = case.tops_per_watt();
        assert!((found / case.by_hand - 1.0).abs() < 1e-3, "{}: {found}, by hand {}", case.name, case.by_hand);
    }
}

#[test]
fn the_page_of_the_library_has_these_numbers() {
    let rows = published();
    let [inputs, predictions] =
        [true, false].map(|is_input| rows.iter().filter(|row| row.is_input == is_input).collect::<Vec<_>>());
    let errors = colonnade_errors();
    let mean = errors.iter().map(|error| error.abs()).sum::<f64>() / errors.len() as f64;
    let [least, most] = [f64::min, f64::max].map(|pick| errors.iter().copied().reduce(pick).unwrap());
    let colonnade = format!(
        "Of Colonnade's 96 published energies (1 to 16 bits of weights, 1 to 16 of inputs, three voltages) three are inputs, an access at 8 x 1 b for each voltage. \
         The other {} come out at **{least:+.1} to {most:+.1} %, {mean:.1} % in the mean of their magnitudes**.\n",
        errors.len()
    );
    let mut constants = "| macro | published TOPS/W | components | difference |\n|---|---|---|---|\n".to_owned();
    for case in bottom_up() {
        let found = case.tops_per_watt();
        let error = 100.0 * (found / case.published - 1.0);
        constants += &format!("| {} | {} | {} | {error:+.0} % |\n", case.name, digits(case.published), digits(found));
    }
    let tables = [table(&inputs), table(&predictions), colonnade, constants];
    let page = include_str!("../docs/hardware-library.md");
    check_file("docs/hardware-library.md", &with_tables(page, &tables));
}
