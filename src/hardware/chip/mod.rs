//! The hardware file: every number of the chip, under the name that the field uses for it.
//!
//! `experiments/hardware/mars.toml` gives each number's source beside it; `docs/cost-model.md` says what each one does.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, with_suggestion};
use crate::files::read_toml;
use crate::groups::GroupShape;

/// A multi-macro SRAM computing-in-memory chip.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Name, for reports.
    pub name: String,
    /// Computing-in-memory cores, which work on different filter sets of a layer.
    pub cores: usize,
    /// Macros of a core, which share its write port.
    pub macros_per_core: usize,
    /// Word lines of a macro.
    pub rows: usize,
    /// Bit lines of a macro, one cell of each row on each.
    pub columns: usize,
    /// Banks of rows; an access turns on `rows_on / partitions` word lines in each.
    pub partitions: usize,
    /// Word lines on at once.
    pub rows_on: usize,
    /// Bits of an input that a word line drives at once.
    pub input_bits_per_cycle: u8,
    /// Bits of a weight whose columns share a converter.
    pub weight_slice_bits: u8,
    /// Clock in MHz.
    pub clock_mhz: f64,
    /// Frames that are computed with a layer's weights before others take their place.
    pub frames_per_load: usize,
    /// What is kept, stored and indexed.
    pub group: GroupShape,
    /// What turns a column's sum into a number.
    pub converter: Converter,
    /// What the array does wrong; absent for one without faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
    /// The precisions that the macro has, with their time and energy.
    pub access: Vec<AccessMode>,
    /// How layers are laid on the cores.
    #[serde(default)]
    pub mapping: Mapping,
    /// Memories and ports around the macros.
    pub memory: Memory,
    /// Energy constants.
    pub energy: Energy,
    /// Area constants; without them no area is reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<Area>,
}

/// What turns a partial sum (one access, output, weight slice and input phase) into a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", from = "ConverterKeys")]
pub enum Converter {
    /// Exact.
    Ideal,
    /// Exact within `-range ..= range`, saturated beyond.
    Clipping {
        /// The largest magnitude.
        range: i32,
    },
    /// `round_half_up(sum / step)`, saturated to the codes that `bits` have, times `step`. Codes start at 0 for slices without
    /// sign and are two's complement for the signed one.
    Bits {
        /// Bits of a code.
        bits: u8,
        /// Sum that one code stands for.
        step: i32,
    },
}

/// The keys of a [`Converter`]: an ideal one has none besides its kind, which serde checks only of a variant with braces.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum ConverterKeys {
    Ideal {},
    Clipping { range: i32 },
    Bits { bits: u8, step: i32 },
}

impl From<ConverterKeys> for Converter {
    fn from(keys: ConverterKeys) -> Self {
        match keys {
            ConverterKeys::Ideal {} => Self::Ideal,
            ConverterKeys::Clipping { range } => Self::Clipping { range },
            ConverterKeys::Bits { bits, step } => Self::Bits { bits, step },
        }
    }
}

impl Converter {
    /// Sum that one code stands for.
    pub fn code(&self) -> i32 {
        match self {
            Self::Bits { step, .. } => *step,
            Self::Ideal | Self::Clipping { .. } => 1,
        }
    }
}

/// Noise of the conversions, and cells that don't hold what is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// Standard deviation of the Gaussian noise on each partial sum before its converter, in codes: of one
    /// [`step`](Converter::Bits), or of the least partial sum for the other converters.
    pub sigma: f64,
    /// Share of cells that hold 0 whatever is written.
    pub stuck_at_zero: f64,
    /// Share of cells that hold 1 whatever is written.
    pub stuck_at_one: f64,
    /// What noise and stuck cells are drawn from.
    pub seed: u64,
}

impl Noise {
    /// Whether a cell is stuck.
    pub fn has_stuck_cells(&self) -> bool {
        self.stuck_at_zero + self.stuck_at_one > 0.0
    }
}

/// One precision of the macro.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessMode {
    /// Bits of a weight.
    pub weight_bits: u8,
    /// Bits of an input that one access takes in, all its phases included.
    pub input_bits: u8,
    /// Duration in nanoseconds.
    pub ns: f64,
    /// Measured energy in picojoules: array, converter and drivers; absent where [`Energy::components`] gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_pj: Option<f64>,
}

/// How layers are laid on the cores: the key `mapping.policy` of a hardware file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The cheapest placement for each layer, by the model's own time and energy.
    #[default]
    Auto,
    /// Filter sets over the cores; each macro starts as soon as it is written.
    FilterSets,
    /// Filter sets over the cores; the macros of a core start together.
    Together,
    /// The input channels of every filter set over all cores.
    InputChannels,
    /// Filter sets over the cores, small layers as often as they fit.
    Duplicate,
}

/// How layers are laid on the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// One policy for all layers, or the cheapest for each.
    pub policy: Policy,
}

/// How the map that a layer reads and the one that it writes share the feature-map SRAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PingPong {
    /// Each takes what it needs.
    #[default]
    Shared,
    /// Each has half of it; layers in a row read and write them in turn.
    Halves,
}

/// Memories and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Weight SRAM of a core, KiB.
    pub weight_sram_kib: u64,
    /// Feature-map SRAM of all cores, KiB.
    pub feature_sram_kib: u64,
    /// How the map that is read and the one that is written share it.
    #[serde(default)]
    pub ping_pong: PingPong,
    /// Port of a core through which its macros are written, bits a cycle.
    pub write_bits_per_cycle: u64,
    /// Weight SRAM of a core to its macros, bits a cycle.
    pub weight_bits_per_cycle: u64,
    /// Feature-map SRAM to a core, bits a cycle.
    pub feature_read_bits_per_cycle: u64,
    /// A core to the feature-map SRAM, bits a cycle.
    pub feature_write_bits_per_cycle: u64,
    /// Next memory level to all cores together, bits a cycle.
    pub next_level_bits_per_cycle: u64,
    /// Index bits that a core decodes in a cycle.
    pub index_bits_per_cycle: u64,
}

/// Energy constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Energy {
    /// Writing a bit of a macro.
    pub cell_write_pj_per_bit: f64,
    /// Reading or writing a bit of a weight or feature-map SRAM.
    pub buffer_pj_per_bit: f64,
    /// Moving a bit from or to the next memory level.
    pub next_level_pj_per_bit: f64,
    /// A switching logic gate.
    pub gate_pj: f64,
    /// A full adder, or a bit of a comparison.
    pub adder_pj_per_bit: f64,
    /// Static power of a macro, mW; a measured access contains it while it lasts.
    pub leakage_mw_per_macro: f64,
    /// How a measured access is split for display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macro_shares: Option<MacroShares>,
    /// Energy of an access from its parts, where it isn't measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub components: Option<Components>,
}

/// Shares of an access's energy, which sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MacroShares {
    /// Cells and bit lines.
    pub array: f64,
    /// Converters.
    pub converter: f64,
    /// Drivers of the word lines.
    pub drivers: f64,
}

impl MacroShares {
    /// Names and shares, for tables.
    pub fn parts(&self) -> [(&'static str, f64); 3] {
        [("array", self.array), ("converter", self.converter), ("drivers", self.drivers)]
    }
}

/// Area constants of everything that is counted; a file gives all of them or none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// A macro with its converters and drivers, mm2.
    pub macro_mm2: f64,
    /// A KiB of weight or feature-map SRAM, mm2.
    pub sram_mm2_per_kib: f64,
    /// Accumulation, index decoder and requantization of a core, mm2.
    pub logic_mm2_per_core: f64,
}

/// Capacitances behind the energy of one input phase of an access (formulas of zigzag-imc; see `docs/cost-model.md`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Components {
    /// Supply, V.
    pub supply_v: f64,
    /// Bit line of one cell, fF.
    pub cell_ff: f64,
    /// Converter, for each of its bits, fF.
    pub adc_linear_ff: f64,
    /// Converter, for each of its `4^bits`, fF.
    pub adc_exponential_ff: f64,
    /// Driver of a row, for each input bit of a phase if there are several, fF.
    pub dac_ff_per_bit: f64,
}

/// How the macro runs weights and inputs of given widths: the mode that is charged, with its passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Precision {
    /// Bits of a weight in the macro, which may be more than the network's.
    pub weight_bits: u8,
    /// Weight slices.
    pub slices: usize,
    /// Input phases in which partial sums are formed.
    pub phases: usize,
    /// Outputs that one access gives.
    pub outputs: usize,
    /// Times that an access is repeated, since its mode takes in fewer input bits.
    pub passes: u64,
    /// Cycles of one access, all passes.
    pub cycles: u64,
    /// Duration of one access, all passes, in nanoseconds.
    pub ns: f64,
    /// Macro energy of one access, all passes, in picojoules.
    pub energy_pj: f64,
}

/// Largest row, column, core, macro and group size; keeps products within 64 bits and partial sums within 32.
const MAX_EXTENT: usize = 1 << 14;
/// Most macros of a chip; the simulator follows each of them.
const MAX_MACROS: u64 = 1 << 15;

/// Largest standard deviation of the noise, as a sum: the simulated noise is rounded exactly up to `2^22`.
const MAX_SIGMA: f64 = 5e5;

/// Longest chain of bases.
const MAX_BASES: usize = 8;

/// The table of a hardware file with its base, and the base's base, beneath it; `files` gets the bases.
fn with_base(path: &Path, mut own: toml::Table, files: &mut Vec<PathBuf>) -> Result<toml::Table> {
    let base = match own.remove("base") {
        None => return Ok(own),
        Some(toml::Value::String(base)) => path.parent().unwrap_or(Path::new("")).join(base),
        Some(_) => return Err(Error::file(path, "base must be the path of a hardware file")),
    };
    if files.len() == MAX_BASES {
        return Err(Error::file(path, format!("more than {MAX_BASES} bases, one on top of the other")));
    }
    files.push(base.clone());
    let mut whole = with_base(&base, read_toml(&base)?, files)?;
    let components = own.get("energy").is_some_and(|energy| energy.get("components").is_some());
    let mut accesses = own.get("access").and_then(toml::Value::as_array).into_iter().flatten();
    let measured = accesses.any(|access| access.get("energy_pj").is_some());
    if let Some(energy) = whole.get_mut("energy").and_then(toml::Value::as_table_mut) {
        // Shares are of a measured access, components of one that isn't.
        if components {
            energy.remove("macro_shares");
        } else if measured {
            energy.remove("components");
        }
    }
    merge(&mut whole, own);
    Ok(whole)
}

fn merge(whole: &mut toml::Table, own: toml::Table) {
    for (key, value) in own {
        match (whole.get_mut(&key), value) {
            // Another kind of converter has other keys.
            (Some(toml::Value::Table(whole)), toml::Value::Table(own)) if !own.contains_key("kind") => {
                merge(whole, own);
            }
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
}

impl Hardware {
    /// Reads and checks a hardware file.
    ///
    /// A file with the key `base` holds only what differs from another hardware file, whose path is from its own folder: tables are
    /// merged key by key, but one with a `kind`; everything else replaces what the base has.
    ///
    /// # Errors
    /// A missing file, wrong TOML, an unknown key (the message lists the known ones), a chain of bases that doesn't end, and everything
    /// that [`validate`](Self::validate) finds.
    pub fn load(path: &Path) -> Result<Self> {
        let own: toml::Table = read_toml(path)?;
        let hardware: Self = if own.contains_key("base") {
            let mut bases = Vec::new();
            let whole = toml::Value::Table(with_base(path, own, &mut bases)?);
            whole.try_into().map_err(|error: toml::de::Error| {
                let message = with_suggestion(&error.to_string().trim().replace('\n', " "));
                let bases: Vec<String> = bases.iter().map(|base| base.display().to_string()).collect();
                Error::file(path, format!("{message} (in this file or its base {})", bases.join(", ")))
            })?
        } else {
            // Read as text, so that messages have lines.
            read_toml(path)?
        };
        hardware.check().map_err(|message| Error::file(path, message))?;
        Ok(hardware)
    }

    /// The shipped `experiments/hardware/mars.toml`.
    pub fn mars() -> Self {
        toml::from_str(include_str!("../../../experiments/hardware/mars.toml"))
            .expect("the shipped hardware file is tested to be valid")
    }

    /// Checks that the chip can work.
    ///
    /// # Errors
    /// [`Error::Setting`], which names the key, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|message| Error::Setting(format!("hardware `{}`: {message}", self.name)))
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (key, value) in [
            ("cores", self.cores),
            ("macros_per_core", self.macros_per_core),
            ("rows", self.rows),
            ("columns", self.columns),
            ("partitions", self.partitions),
            ("rows_on", self.rows_on),
            ("frames_per_load", self.frames_per_load),
            ("group.filters", self.group.filters),
            ("group.channels", self.group.channels),
        ] {
            check_range(key, value as u64, 1, MAX_EXTENT as u64)?;
        }
        check_range("cores x macros_per_core", self.macros() as u64, 1, MAX_MACROS)?;
        check_range("input_bits_per_cycle", self.input_bits_per_cycle.into(), 1, 8)?;
        check_range("weight_slice_bits", self.weight_slice_bits.into(), 1, 8)?;
        if self.rows_on > self.rows {
            return Err(format!("rows_on {} exceeds rows {}", self.rows_on, self.rows));
        }
        for (key, value) in [("rows", self.rows), ("rows_on", self.rows_on)] {
            if !value.is_multiple_of(self.partitions) {
                return Err(format!("{key} {value} does not divide into {} partitions", self.partitions));
            }
        }
        if self.group.channels > self.rows_on {
            return Err(format!(
                "group.channels {} exceeds rows_on {}: a group has to fit the word lines of one access",
                self.group.channels, self.rows_on
            ));
        }
        self.check_memory()?;
        self.check_access()?;
        match self.converter {
            Converter::Ideal => {}
            Converter::Clipping { range } => check_range("converter.range", range, 1, i32::MAX)?,
            Converter::Bits { bits, step } => {
                check_range("converter.bits", bits.into(), 1, 16)?;
                check_range("converter.step", step, 1, 1 << 14)?;
            }
        }
        self.check_noise()
    }

    fn check_memory(&self) -> std::result::Result<(), String> {
        let memory = &self.memory;
        for (key, value) in [
            ("weight_sram_kib", memory.weight_sram_kib),
            ("feature_sram_kib", memory.feature_sram_kib),
            ("write_bits_per_cycle", memory.write_bits_per_cycle),
            ("weight_bits_per_cycle", memory.weight_bits_per_cycle),
            ("feature_read_bits_per_cycle", memory.feature_read_bits_per_cycle),
            ("feature_write_bits_per_cycle", memory.feature_write_bits_per_cycle),
            ("next_level_bits_per_cycle", memory.next_level_bits_per_cycle),
            ("index_bits_per_cycle", memory.index_bits_per_cycle),
        ] {
            check_range(&format!("memory.{key}"), value, 1, 1 << 32)?;
        }
        let energy = &self.energy;
        let mut constants = vec![
            ("cell_write_pj_per_bit", energy.cell_write_pj_per_bit),
            ("buffer_pj_per_bit", energy.buffer_pj_per_bit),
            ("next_level_pj_per_bit", energy.next_level_pj_per_bit),
            ("gate_pj", energy.gate_pj),
            ("adder_pj_per_bit", energy.adder_pj_per_bit),
            ("leakage_mw_per_macro", energy.leakage_mw_per_macro),
        ];
        if let Some(components) = &energy.components {
            check_positive("energy.components.supply_v", components.supply_v)?;
            check_positive("energy.components.cell_ff", components.cell_ff)?;
            constants.extend([
                ("components.adc_linear_ff", components.adc_linear_ff),
                ("components.adc_exponential_ff", components.adc_exponential_ff),
                ("components.dac_ff_per_bit", components.dac_ff_per_bit),
            ]);
        }
        for (key, value) in constants {
            check_range(&format!("energy.{key}"), value, 0.0, 1e6)?;
        }
        if let Some(shares) = &energy.macro_shares {
            let parts = shares.parts();
            parts
                .iter()
                .try_for_each(|(key, share)| check_range(&format!("energy.macro_shares.{key}"), *share, 0.0, 1.0))?;
            let sum: f64 = parts.iter().map(|(_, share)| share).sum();
            if (sum - 1.0).abs() > 1e-6 {
                return Err(format!("energy.macro_shares sum to {sum}, they must sum to 1"));
            }
            if energy.components.is_some() {
                return Err("energy.components gives the shares of an access; drop energy.macro_shares".into());
            }
        }
        let Some(area) = &self.area else { return Ok(()) };
        check_positive("area.macro_mm2", area.macro_mm2)?;
        check_range("area.sram_mm2_per_kib", area.sram_mm2_per_kib, 0.0, 1e6)?;
        check_range("area.logic_mm2_per_core", area.logic_mm2_per_core, 0.0, 1e6)
    }

    fn check_noise(&self) -> std::result::Result<(), String> {
        let Some(noise) = self.noise else { return Ok(()) };
        let shares = noise.stuck_at_zero + noise.stuck_at_one;
        for (key, value, high) in [
            ("sigma", noise.sigma, MAX_SIGMA / f64::from(self.converter.code())),
            ("stuck_at_zero", noise.stuck_at_zero, 1.0),
            ("stuck_at_one", noise.stuck_at_one, 1.0),
            ("stuck_at_zero + noise.stuck_at_one", shares, 1.0),
        ] {
            check_range(&format!("noise.{key}"), value, 0.0, high)?;
        }
        Ok(())
    }

    fn check_access(&self) -> std::result::Result<(), String> {
        check_positive("clock_mhz", self.clock_mhz)?;
        if self.access.is_empty() {
            return Err("access is empty, it must give at least one precision".into());
        }
        for (index, mode) in self.access.iter().enumerate() {
            let key = |key: &str| format!("access[{index}].{key}");
            check_range(&key("weight_bits"), mode.weight_bits.into(), 1, 8)?;
            check_range(&key("input_bits"), mode.input_bits.into(), 1, 8)?;
            check_positive(&key("ns"), mode.ns)?;
            for (key, bits, unit, name) in [
                (key("weight_bits"), mode.weight_bits, self.weight_slice_bits, "weight_slice_bits"),
                (key("input_bits"), mode.input_bits, self.input_bits_per_cycle, "input_bits_per_cycle"),
            ] {
                if bits % unit != 0 {
                    return Err(format!("{key} {bits} is not a multiple of {name} {unit}"));
                }
            }
            if usize::from(mode.weight_bits) > self.columns {
                return Err(format!("{} {} exceeds columns {}", key("weight_bits"), mode.weight_bits, self.columns));
            }
            let same =
                |other: &AccessMode| (other.weight_bits, other.input_bits) == (mode.weight_bits, mode.input_bits);
            if self.access[..index].iter().any(same) {
                return Err(format!("access gives {} x {} bits twice", mode.weight_bits, mode.input_bits));
            }
            match (mode.energy_pj, self.energy.components, self.converter) {
                (Some(energy), None, _) => check_positive(&key("energy_pj"), energy)?,
                (None, Some(_), Converter::Bits { .. }) => {}
                (Some(_), Some(_), _) => {
                    return Err(format!(
                        "{} and energy.components both give the energy of an access; keep one",
                        key("energy_pj")
                    ));
                }
                (None, Some(_), _) => {
                    return Err("energy.components needs converter.kind \"bits\", whose energy it can tell".into());
                }
                (None, None, _) => {
                    return Err(format!("{} is missing, and so is energy.components", key("energy_pj")));
                }
            }
        }
        Ok(())
    }

    /// What keeps the chip from computing what the integer reference does; nothing for an ideal converter without faults.
    pub fn losses(&self) -> Vec<String> {
        let converter = match self.converter {
            Converter::Ideal => None,
            Converter::Clipping { .. } => Some("clipping converter".into()),
            Converter::Bits { bits, .. } => Some(format!("{bits}-bit converter")),
        };
        let noise = self.noise.unwrap_or_default();
        let noisy = (noise.sigma > 0.0).then(|| "noise".into());
        let stuck = noise.has_stuck_cells().then(|| "stuck cells".into());
        [converter, noisy, stuck].into_iter().flatten().collect()
    }

    /// A hash of all that decides what a chip with losses computes; none for one without, which computes the integer network.
    pub fn losses_sha256(&self) -> Option<String> {
        let widths: Vec<_> = self.access.iter().map(|access| (access.weight_bits, access.input_bits)).collect();
        let slicing = (self.weight_slice_bits, self.input_bits_per_cycle, widths);
        let key = (self.group, self.rows_on, self.columns, slicing, self.converter, self.noise);
        let text = serde_json::to_string(&key).expect("numbers and names");
        (!self.losses().is_empty()).then(|| format!("{:x}", Sha256::digest(text)))
    }

    /// Macros of the chip.
    pub fn macros(&self) -> usize {
        self.cores * self.macros_per_core
    }

    /// Groups that one access can hold side by side on the word lines.
    pub fn sections(&self) -> usize {
        self.rows_on / self.group.channels
    }

    /// Accesses whose weights a macro holds at once.
    pub fn accesses_per_macro(&self) -> usize {
        self.rows / self.rows_on
    }

    /// How the macro runs `weight_bits` x `input_bits`: the next wider weights it has, and the narrowest mode that takes in
    /// the input at once, or the widest one several times.
    ///
    /// # Errors
    /// Weights wider than every mode.
    pub fn precision(&self, weight_bits: u8, input_bits: u8) -> std::result::Result<Precision, String> {
        let bits =
            self.access.iter().map(|mode| mode.weight_bits).filter(|bits| *bits >= weight_bits).min().ok_or_else(
                || format!("its weights have {weight_bits} bits, more than every access of hardware `{}`", self.name),
            )?;
        let mode = self
            .access
            .iter()
            .filter(|mode| mode.weight_bits == bits)
            .min_by_key(|mode| (mode.input_bits < input_bits, mode.input_bits.abs_diff(input_bits)))
            .expect("a mode with these bits was just found");
        let passes = u64::from(input_bits.div_ceil(mode.input_bits));
        Ok(Precision {
            weight_bits: bits,
            slices: usize::from(bits / self.weight_slice_bits),
            phases: usize::from(input_bits.div_ceil(self.input_bits_per_cycle)),
            outputs: self.columns / usize::from(bits),
            passes,
            cycles: passes * (mode.ns * self.clock_mhz / 1e3).ceil() as u64,
            ns: passes as f64 * mode.ns,
            energy_pj: passes as f64 * self.access_energy_pj(mode),
        })
    }

    /// Energy of one access: measured, or that of its phases from the components.
    fn access_energy_pj(&self, mode: &AccessMode) -> f64 {
        match mode.energy_pj {
            Some(measured) => measured,
            None => {
                let phases = f64::from(mode.input_bits / self.input_bits_per_cycle);
                let parts = self.component_pj().expect("a checked hardware file gives the energy of each access once");
                phases * parts.iter().sum::<f64>()
            }
        }
    }

    /// Energy of the array, the converters and the drivers in one input phase of an access, pJ, where components give it.
    fn component_pj(&self) -> Option<[f64; 3]> {
        let (Some(parts), Converter::Bits { bits, .. }) = (self.energy.components, self.converter) else { return None };
        let converters = (self.columns / usize::from(self.weight_slice_bits)) as f64;
        let cells = (self.rows_on * self.columns) as f64 * parts.cell_ff;
        let adc =
            converters * (parts.adc_linear_ff * f64::from(bits) + parts.adc_exponential_ff * 4f64.powi(bits.into()));
        let dac_bits = match self.input_bits_per_cycle {
            1 => 0,
            bits => bits,
        };
        let dac = self.rows_on as f64 * parts.dac_ff_per_bit * f64::from(dac_bits);
        Some([cells, adc, dac].map(|ff| ff * parts.supply_v.powi(2) / 1e3))
    }

    /// How the energy of an access is split: as its components say, or as the file chose for a measured one.
    pub fn macro_shares(&self) -> Option<MacroShares> {
        let Some(parts) = self.component_pj() else { return self.energy.macro_shares };
        let [array, converter, drivers] = parts.map(|part| part / parts.iter().sum::<f64>());
        Some(MacroShares { array, converter, drivers })
    }

    /// Multiply-accumulates that the whole chip can do in a cycle at a precision.
    pub fn peak_macs_per_cycle(&self, precision: &Precision) -> f64 {
        (self.macros() * self.rows_on * precision.outputs) as f64 / precision.cycles as f64
    }
}

fn check_range<T: PartialOrd + std::fmt::Display + Copy>(
    key: &str,
    value: T,
    low: T,
    high: T,
) -> std::result::Result<(), String> {
    if (low..=high).contains(&value) {
        Ok(())
    } else {
        Err(format!("{key} is {value}, it must be from {low} to {high}"))
    }
}

fn check_positive(key: &str, value: f64) -> std::result::Result<(), String> {
    if value > 0.0 && value <= 1e6 {
        Ok(())
    } else {
        Err(format!("{key} is {value}, it must be above 0 and at most 1e6"))
    }
}
