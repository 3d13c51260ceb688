//! Energy: what a placed layer takes, term by term, per frame.
//!
//! [`energy_terms!`] below is the list: a new term is a row there, and its constant in [`Energy`]. Each formula is in `docs/cost-model.md`
//! with its source and its doubt.

use serde::{Deserialize, Serialize};

use super::loaded::Loaded;
use crate::hardware::chip::{Energy, Hardware};
use crate::hardware::mapping::LayerWork;
use crate::hardware::timing::Loading;

/// Bits of the counter that the index decoder steps for each bit of a code.
const INDEX_COUNTER_BITS: u64 = 16;

/// Terms of the energy that are drawn as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnergyPart {
    /// Arrays with their converters and drivers.
    Macros,
    /// Logic beside the macros.
    Digital,
    /// Weights on their way into the macros.
    Weights,
    /// Feature maps in their SRAM.
    FeatureMaps,
    /// What comes from the next memory level and goes there.
    NextLevel,
    /// Macros that wait or hold nothing.
    Leakage,
}

impl EnergyPart {
    /// All parts, in the order in which they are drawn.
    pub const ALL: [Self; 6] =
        [Self::Macros, Self::Digital, Self::Weights, Self::FeatureMaps, Self::NextLevel, Self::Leakage];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Macros => "macros",
            Self::Digital => "digital",
            Self::Weights => "weights",
            Self::FeatureMaps => "feature maps",
            Self::NextLevel => "next level",
            Self::Leakage => "leakage",
        }
    }
}

/// A term of the energy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnergyTerm {
    /// Its key in `energy_breakdown_uj`.
    pub key: &'static str,
    /// The part that it belongs to.
    pub part: EnergyPart,
    /// What it counts.
    pub counts: &'static str,
}

/// Declares [`EnergyBreakdown`] with a field for each row: its name, its key, its part, what it counts, and the microjoules of a layer for a frame.
macro_rules! energy_terms {
    ($($field:ident, $key:literal, $part:ident, $counts:literal, $microjoules:expr;)*) => {
        /// Energy by term, in microjoules.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
        pub struct EnergyBreakdown {
            $(
                #[doc = $counts]
                #[serde(rename = $key)]
                pub $field: f64,
            )*
        }

        impl EnergyBreakdown {
            /// All terms, in the order of the fields.
            pub const TERMS: [EnergyTerm; [$($key),*].len()] =
                [$(EnergyTerm { key: $key, part: EnergyPart::$part, counts: $counts }),*];

            /// The value of each term.
            fn values(&self) -> [f64; Self::TERMS.len()] {
                [$(self.$field),*]
            }

            pub(super) fn plus(self, other: &Self) -> Self {
                Self { $($field: self.$field + other.$field),* }
            }

            fn of_layer(layer: &PlacedLayer) -> Self {
                $(let $field: fn(&PlacedLayer) -> f64 = $microjoules;)*
                Self { $($field: $field(layer)),* }
            }
        }
    };
}

energy_terms! {
    array, "macro", Macros, "accesses: array, converters, drivers",
        |layer| uj(layer.work.layer.accesses(), layer.access_pj());
    accumulation, "accumulation", Digital, "adding up the outputs of accesses",
        |layer| (layer.work.accumulation.adders * layer.constants().adder_pj_per_bit
            + layer.work.accumulation.registers * layer.constants().register_pj_per_bit) / 1e6;
    cell_writes, "cell_writes", Weights, "writing weights into the macros",
        |layer| layer.of_frame(layer.loaded.cells) * layer.constants().cell_write_pj_per_bit;
    weight_buffer, "weight_buffer", Weights, "weights, indices and coefficients into the weight SRAMs and out of them",
        |layer| (layer.of_frame(layer.loaded.packed) + layer.of_frame(layer.loaded.fetched)) * layer.hardware.weight_sram_pj_per_bit();
    feature_buffer, "feature_buffer", FeatureMaps, "reading and writing feature maps",
        |layer| uj(layer.work.traffic().total() + layer.work.next_level_map_bits(), layer.hardware.feature_sram_pj_per_bit());
    next_level, "next_level", NextLevel, "weights, spilled maps and the image, from and to the next memory level",
        |layer| layer.of_frame(layer.loaded.fetched) * layer.constants().next_level_pj_per_bit
            + uj(layer.work.next_level_map_bits(), layer.constants().next_level_pj_per_bit);
    index_decode, "index_decode", Digital, "decoding the index codes",
        |layer| layer.of_frame(layer.loaded.index) * INDEX_COUNTER_BITS as f64 * layer.constants().adder_pj_per_bit;
    requantization, "requantization", Digital, "multiply, round and shift, residual sums, pooling",
        |layer| uj(layer.work.layer.logic.adders, layer.constants().adder_pj_per_bit)
            + uj(layer.work.layer.logic.gates, layer.constants().gate_pj);
    leakage, "leakage", Leakage, "macros that wait",
        // Milliwatts times nanoseconds are picojoules.
        |layer| layer.hardware.leakage_mw_per_macro() * layer.leaking_ns() / 1e6;
    idle_leakage, "idle_leakage", Leakage, "macros that hold no weights",
        |layer| layer.hardware.leakage_mw_per_macro() * layer.macros.idle as f64 * layer.ns() / 1e6;
}

impl EnergyBreakdown {
    /// All terms.
    pub fn total(&self) -> f64 {
        self.values().into_iter().sum()
    }

    /// The sum of a part's terms.
    pub fn of_part(&self, part: EnergyPart) -> f64 {
        let terms = Self::TERMS.iter().zip(self.values());
        terms.filter(|(term, _)| term.part == part).map(|(_, value)| value).sum()
    }

    /// Keys and values, for tables and plots.
    pub fn components(&self) -> [(&'static str, f64); Self::TERMS.len()] {
        let values = self.values();
        std::array::from_fn(|term| (Self::TERMS[term].key, values[term]))
    }
}

/// Energy of a layer that takes `cycles` for a frame.
pub(super) fn layer_energy(
    work: &LayerWork,
    cycles: u64,
    hardware: &Hardware,
    loading: Loading,
    macros: Macros,
) -> EnergyBreakdown {
    EnergyBreakdown::of_layer(&PlacedLayer { work, cycles, hardware, loaded: Loaded::of(work, loading), macros })
}

/// How many macros leak.
#[derive(Clone, Copy, Debug)]
pub(super) struct Macros {
    /// Those that hold a tile of some layer.
    pub(super) holding: usize,
    /// Those that don't.
    pub(super) idle: usize,
}

impl Macros {
    /// All of a chip's, as if each held a tile.
    pub(super) fn all(hardware: &Hardware) -> Self {
        Self { holding: hardware.macros(), idle: 0 }
    }
}

/// `count` times some picojoules, in microjoules.
fn uj(count: u64, pj: f64) -> f64 {
    count as f64 * pj / 1e6
}

/// A placed layer and its time: what the terms follow from.
struct PlacedLayer<'a> {
    work: &'a LayerWork<'a>,
    /// For a frame.
    cycles: u64,
    hardware: &'a Hardware,
    loaded: Loaded,
    macros: Macros,
}

impl PlacedLayer<'_> {
    fn constants(&self) -> &Energy {
        &self.hardware.energy
    }

    /// Energy of an access; none for a pooling layer.
    fn access_pj(&self) -> f64 {
        self.work.layer.conv.as_ref().map_or(0.0, |conv| conv.precision.energy_pj)
    }

    /// A frame's share of bits of a load, in millions.
    fn of_frame(&self, bits: u64) -> f64 {
        bits as f64 / self.hardware.frames_per_load as f64 / 1e6
    }

    /// Its time in nanoseconds.
    fn ns(&self) -> f64 {
        self.cycles as f64 * 1e3 / self.hardware.clock_mhz
    }

    /// Time of the macros that hold weights but that of measured accesses, which contain their leakage, in nanoseconds.
    fn leaking_ns(&self) -> f64 {
        let macro_ns = self.macros.holding as f64 * self.ns();
        let measured_ns = match (self.constants().components, &self.work.layer.conv) {
            (None, Some(conv)) => self.work.layer.accesses() as f64 * conv.precision.ns,
            (None, None) | (Some(_), _) => 0.0,
        };
        (macro_ns - measured_ns).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_term_belongs_to_a_part_and_no_energy_is_left_out() {
        let mut value = 0.0;
        let mut next = |_| {
            value += 1.0;
            value
        };
        let keys = EnergyBreakdown::TERMS.map(|term| term.key);
        let values: serde_json::Map<_, _> = keys.iter().map(|key| (key.to_string(), next(key).into())).collect();
        let breakdown: EnergyBreakdown = serde_json::from_value(values.into()).unwrap();
        let parts = EnergyPart::ALL.map(|part| breakdown.of_part(part));
        assert!(parts.iter().all(|part| *part > 0.0), "{parts:?}");
        assert_eq!(parts.iter().sum::<f64>(), breakdown.total());
        assert_eq!(breakdown.of_part(EnergyPart::Macros), breakdown.array);
        assert_eq!(breakdown.of_part(EnergyPart::Leakage), breakdown.leakage + breakdown.idle_leakage);
    }
}
