//! Precision: how the macro runs weights and inputs of given widths, and what an access takes.

use serde::Serialize;

use super::description::{AccessMode, Hardware, MacroShares};
use super::losses::Converter;

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
}

impl Precision {
    pub(crate) fn conversion_numbers(&self) -> ConversionNumbers {
        ConversionNumbers { slices: self.slices, phases: self.phases }
    }
}

/// Energy of one input phase of an access, by part, in picojoules.
struct PhaseEnergy {
    array_pj: f64,
    converter_pj: f64,
    drivers_pj: f64,
}

impl PhaseEnergy {
    fn total_pj(&self) -> f64 {
        self.array_pj + self.converter_pj + self.drivers_pj
    }
}

impl Hardware {
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
            cycles: passes * (self.access_ns(mode) * self.clock_mhz / 1e3).ceil() as u64,
            ns: passes as f64 * self.access_ns(mode),
            energy_pj: passes as f64 * self.access_energy_pj(mode),
        })
    }

    /// Energy of one access: measured, or that of its phases from the components.
    fn access_energy_pj(&self, mode: &AccessMode) -> f64 {
        match self.measured_pj(mode) {
            Some(measured) => measured,
            None => {
                let phases = f64::from(mode.input_bits / self.input_bits_per_cycle);
                let phase = self.phase_energy().expect("a checked hardware file gives the energy of each access once");
                phases * phase.total_pj()
            }
        }
    }

    /// Energy of one input phase of an access, where components give it.
    fn phase_energy(&self) -> Option<PhaseEnergy> {
        let (Some(parts), Converter::Bits { bits, .. }) = (self.energy.components, self.converter) else { return None };
        let converters = (self.columns / usize::from(self.weight_slice_bits)) as f64;
        let array_ff = (self.rows_on * self.columns) as f64 * parts.cell_ff;
        let converter_ff =
            converters * (parts.adc_linear_ff * f64::from(bits) + parts.adc_exponential_ff * 4f64.powi(bits.into()));
        let dac_bits = match self.input_bits_per_cycle {
            1 => 0,
            bits => bits,
        };
        let drivers_ff = self.rows_on as f64 * parts.dac_ff_per_bit * f64::from(dac_bits);
        let pj = |ff: f64| ff * parts.supply_v.powi(2) / 1e3;
        Some(PhaseEnergy { array_pj: pj(array_ff), converter_pj: pj(converter_ff), drivers_pj: pj(drivers_ff) })
    }

    /// How the energy of an access is split: as its components say, or as the file chose for a measured one.
    pub fn macro_shares(&self) -> Option<MacroShares> {
        let Some(phase) = self.phase_energy() else { return self.energy.macro_shares };
        let share = |pj: f64| pj / phase.total_pj();
        Some(MacroShares {
            array: share(phase.array_pj),
            converter: share(phase.converter_pj),
            drivers: share(phase.drivers_pj),
        })
    }

    /// Multiply-accumulates that the whole chip can do in a cycle at a precision.
    pub fn peak_macs_per_cycle(&self, precision: &Precision) -> f64 {
        (self.macros() * self.rows_on * precision.outputs) as f64 / precision.cycles as f64
    }
}
