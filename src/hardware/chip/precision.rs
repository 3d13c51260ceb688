//! Precision: how the macro runs weights and inputs of given widths, and what an access takes.

use serde::Serialize;

use super::description::{AccessMode, Accumulator, Hardware, MacroShares};
use super::losses::Converter;
use crate::integer::ACCUMULATOR_BITS;

/// How the macro runs weights and inputs of given widths: the mode that is charged, with its passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Precision {
    /// Bits of a weight in the macro, which may be more than the network's.
    pub weight_bits: u8,
    /// Bits of an input that the mode takes in at a time, which may be more or fewer than the network's.
    pub input_bits: u8,
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
    /// What adds up the outputs of one access, all passes.
    pub accumulation: Accumulation,
}

/// Digital work behind one access.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Accumulation {
    /// Full adders.
    pub adders: f64,
    /// Bits of registers.
    pub registers: f64,
}

/// The numbers of a filter set's conversions, by which noise tells them apart: bundle by bundle, in it slice by slice, in it phase by phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConversionNumbers {
    slices: usize,
    phases: usize,
}

impl ConversionNumbers {
    /// The number of the conversion of a bundle's partial sum for a weight slice and an input phase.
    #[inline(always)]
    pub(crate) fn of(self, bundle: usize, slice: usize, phase: usize) -> usize {
        (bundle * self.slices + slice) * self.phases + phase
    }

    /// The weight slice of a conversion.
    #[inline(always)]
    pub(crate) fn slice(self, number: usize) -> usize {
        number / self.phases % self.slices
    }
}

impl Precision {
    pub(crate) fn conversion_numbers(&self) -> ConversionNumbers {
        ConversionNumbers { slices: self.slices, phases: self.phases }
    }
}

/// Energy of one access of a mode, by part, in picojoules.
struct AccessEnergy {
    phases: f64,
    /// Of one input phase.
    array_pj: f64,
    converter_pj: f64,
    drivers_pj: f64,
    /// Of all phases and passes.
    precharge_pj: f64,
}

impl Hardware {
    /// How the macro runs `weight_bits` x `input_bits`: the next wider weights it has, and the narrowest mode that takes in
    /// the input at once, or the widest one several times.
    ///
    /// # Errors
    /// Weights wider than every mode.
    pub fn precision(&self, weight_bits: u8, input_bits: u8) -> std::result::Result<Precision, String> {
        let of_accesses = || self.access.iter().map(|mode| mode.weight_bits);
        let bits = of_accesses().filter(|bits| *bits >= weight_bits).min().ok_or_else(|| {
            let widest = of_accesses().max().unwrap_or(0);
            format!(
                "its weights have {weight_bits} bits, and the widest access of hardware `{}` takes {widest}: \
                 quantize.weight_bits and first_last_bits of a recipe, or --weight-bits and --first-last-bits with --model, are {widest} at most",
                self.name
            )
        })?;
        let mode = self
            .access
            .iter()
            .filter(|mode| mode.weight_bits == bits)
            .min_by_key(|mode| (mode.input_bits < input_bits, mode.input_bits.abs_diff(input_bits)))
            .expect("a mode with these bits was just found");
        let passes = u64::from(input_bits.div_ceil(mode.input_bits));
        Ok(Precision {
            weight_bits: bits,
            input_bits: mode.input_bits,
            slices: usize::from(bits / self.weight_slice_bits),
            phases: usize::from(input_bits.div_ceil(self.input_bits_per_cycle)),
            outputs: self.outputs(mode),
            passes,
            cycles: passes * self.access_cycles(mode),
            ns: passes as f64 * self.access_ns(mode),
            energy_pj: self.access_energy_pj(mode, passes as f64),
            accumulation: self.accumulation(mode, input_bits, passes as f64),
        })
    }

    /// Outputs of an access: those that the file says grow with the columns.
    pub(super) fn outputs(&self, mode: &AccessMode) -> usize {
        match (mode.outputs, mode.measured) {
            (Some(outputs), Some(measured)) => (outputs * self.columns / measured.columns).max(1),
            (Some(outputs), None) => outputs,
            (None, _) => self.columns / usize::from(mode.weight_bits),
        }
    }

    /// Input phases of an access.
    fn phases(&self, mode: &AccessMode) -> f64 {
        f64::from(mode.input_bits / self.input_bits_per_cycle)
    }

    /// What adds up the outputs of one access.
    fn accumulation(&self, mode: &AccessMode, input_bits: u8, passes: f64) -> Accumulation {
        let outputs = self.outputs(mode) as f64;
        let slices = f64::from(mode.weight_bits / self.weight_slice_bits);
        // An access takes all phases of its mode, also those in which a narrower input has nothing left.
        let phases = passes * self.phases(mode);
        // A measured access gives whole outputs; one of components gives a number for each slice and phase.
        let measured = self.energy.components.is_none();
        match self.energy.accumulator {
            Accumulator::Words => {
                let numbers = if measured { passes } else { slices * phases };
                Accumulation { adders: outputs * numbers * ACCUMULATOR_BITS as f64, registers: 0.0 }
            }
            Accumulator::Sized => {
                let sum_bits = (self.rows_on as f64).log2();
                let (times, meeting, bits) = match self.converter {
                    _ if measured => (passes, 1.0, sum_bits),
                    Converter::Bits { bits, .. } => (phases, slices, f64::from(bits)),
                    Converter::Ideal | Converter::Clipping { .. } | Converter::AdderTree => {
                        (phases, slices * f64::from(self.input_bits_per_cycle), sum_bits)
                    }
                };
                // What meets in the tree of an adder tree's outputs has a slice's bits beside those of its sums.
                let wide = match self.converter {
                    Converter::AdderTree => bits + f64::from(self.weight_slice_bits),
                    Converter::Ideal | Converter::Clipping { .. } | Converter::Bits { .. } => bits,
                };
                let tree = if meeting > 1.0 { wide * (meeting - 1.0) + meeting * (meeting.log2() - 0.5) } else { 0.0 };
                let width = f64::from(input_bits) + bits + f64::from(mode.weight_bits);
                Accumulation { adders: outputs * times * (tree + width), registers: outputs * times * width }
            }
        }
    }

    /// Energy of one access in so many passes: measured, or that of its phases from the components.
    fn access_energy_pj(&self, mode: &AccessMode, passes: f64) -> f64 {
        match self.measured_pj(mode) {
            Some(measured) => passes * measured,
            None => {
                let energy = self.component_energy(mode);
                let energy = energy.expect("a checked hardware file gives the energy of each access once");
                let phase_pj = energy.array_pj + energy.converter_pj + energy.drivers_pj;
                passes * (energy.phases * phase_pj) + energy.precharge_pj
            }
        }
    }

    /// Energy of an access by part, where components give it.
    fn component_energy(&self, mode: &AccessMode) -> Option<AccessEnergy> {
        let parts = self.energy.components?;
        let (rows_on, cells) = (self.rows_on as f64, (self.rows_on * self.columns) as f64);
        // Columns of a slice share a converter or a tree.
        let slices = match mode.outputs {
            Some(_) => self.outputs(mode) * usize::from(mode.weight_bits / self.weight_slice_bits),
            None => self.columns / usize::from(self.weight_slice_bits),
        };
        let input_bits = f64::from(self.input_bits_per_cycle);
        let (array_ff, converter_ff) = match self.converter {
            Converter::Bits { bits, .. } => {
                let adc_ff = parts.adc_linear_ff * f64::from(bits) + parts.adc_exponential_ff * 4f64.powi(bits.into());
                (cells * parts.cell_ff, slices as f64 * adc_ff)
            }
            Converter::AdderTree => {
                // A tree for each input bit adds rows_on products as wide as a slice.
                let bits = f64::from(self.weight_slice_bits);
                let adders = rows_on * (bits + 1.0) - (bits + rows_on.log2() + 1.0);
                (input_bits * cells * parts.cell_ff, input_bits * slices as f64 * adders * parts.adder_ff)
            }
            Converter::Ideal | Converter::Clipping { .. } => return None,
        };
        let dac_bits = match self.input_bits_per_cycle {
            1 => 0,
            bits => bits,
        };
        let drivers_ff = rows_on * parts.dac_ff_per_bit * f64::from(dac_bits);
        let depth = self.rows as f64 / rows_on;
        let pj = |ff: f64| ff * parts.supply_v.powi(2) / 1e3;
        Some(AccessEnergy {
            phases: self.phases(mode),
            array_pj: pj(array_ff * parts.activity),
            converter_pj: pj(converter_ff * parts.activity),
            drivers_pj: pj(drivers_ff),
            precharge_pj: pj(cells * parts.precharge_ff * (1.0 + depth)),
        })
    }

    /// How the energy of an access is split: as its components say (of the first precision, in one pass), or as the file chose for a measured one.
    pub fn macro_shares(&self) -> Option<MacroShares> {
        let energy = self.access.first().and_then(|mode| self.component_energy(mode));
        let Some(AccessEnergy { phases, array_pj, converter_pj, drivers_pj, precharge_pj }) = energy else {
            return self.energy.macro_shares;
        };
        let array_pj = array_pj + precharge_pj / phases;
        let total_pj = array_pj + converter_pj + drivers_pj;
        let share = |pj: f64| pj / total_pj;
        Some(MacroShares { array: share(array_pj), converter: share(converter_pj), drivers: share(drivers_pj) })
    }

    /// Multiply-accumulates that the whole chip can do in a cycle at a precision.
    pub fn peak_macs_per_cycle(&self, precision: &Precision) -> f64 {
        (self.macros() * self.rows_on * precision.outputs) as f64 / precision.cycles as f64
    }
}
