//! What can be wrong with a value of a configuration file.

use std::fmt::{Display, Formatter};

/// A key whose value cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, with the tables that it is in: `memory.index_bits_per_cycle`, `access[0].ns`.
    pub key: String,
    /// Its value, as it stands in the file.
    pub value: String,
    /// What it may be.
    pub allowed: Allowed,
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Allowed {
    /// From one value to another, both included.
    Between {
        /// The least.
        low: String,
        /// The largest.
        high: String,
    },
    /// From a millionth to a million.
    Positive,
    /// At most the value of another key.
    AtMost {
        /// The other key.
        other: &'static str,
        /// Its value.
        limit: usize,
        /// Why, where that isn't plain.
        reason: Option<&'static str>,
    },
    /// A multiple of the partitions.
    WholePartitions {
        /// How many there are.
        partitions: usize,
    },
    /// A multiple of the value of another key.
    MultipleOf {
        /// The other key.
        other: &'static str,
        /// Its value.
        unit: u8,
    },
    /// Shares whose sum is 1.
    SharesOfOne,
    /// So few frames that their cycles can be counted.
    CountableCycles {
        /// What their accesses may take.
        cycles: u128,
        /// The most that are counted.
        limit: u64,
    },
    /// Text that reports show.
    SomeText,
    /// A list that isn't empty.
    SomePrecision,
    /// A precision that isn't in the list yet.
    NewPrecision,
    /// Nothing where the key `energy.components` gives the shares of an access.
    NothingBesideComponents,
    /// A value where `energy.components` is absent, and only there.
    InsteadOfComponents {
        /// Whether both are there; else neither is.
        both: bool,
    },
    /// What was measured on the geometry that the macro has, or can be scaled to it.
    OfThisGeometry {
        /// What it was measured on.
        measured: String,
        /// What the macro has.
        own: String,
    },
    /// A kind whose energy `energy.components` can tell.
    BitsBesideComponents,
    /// An area whose macro is told, where accesses were measured on macros of several sizes.
    OfStatedCells,
    /// Nothing unless the mapper chooses placements.
    WithAutomaticPolicy,
}

/// Ends of keys, and the units of their values.
const UNITS: [(&str, &str); 6] =
    [(".ns", " ns"), ("_pj", " pJ"), ("_ff", " fF"), ("_v", " V"), ("_mhz", " MHz"), ("_mm2", " mm2")];

impl Display for ConfigError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { key, value, allowed } = self;
        match allowed {
            Allowed::Between { low, high } => write!(f, "{key} is {value}, it must be from {low} to {high}"),
            Allowed::Positive => {
                let unit = UNITS.iter().find(|(end, _)| key.ends_with(end)).map_or("", |(_, unit)| unit);
                write!(f, "{key} is {value}, it must be from 1e-6 to 1e6{unit}")
            }
            Allowed::AtMost { other, limit, reason: None } => write!(f, "{key} {value} exceeds {other} {limit}"),
            Allowed::AtMost { other, limit, reason: Some(reason) } => {
                write!(f, "{key} {value} exceeds {other} {limit}: {reason}")
            }
            Allowed::WholePartitions { partitions } => {
                write!(f, "{key} {value} does not divide into {partitions} partitions")
            }
            Allowed::OfStatedCells => write!(
                f,
                "{key} {value} may be of any of the macros that accesses were measured on: area.macro_cells says of which, by its cells"
            ),
            Allowed::WithAutomaticPolicy => write!(f, "{key}: these layers need mapping.policy = \"auto\""),
            Allowed::MultipleOf { other, unit } => write!(f, "{key} {value} is not a multiple of {other} {unit}"),
            Allowed::CountableCycles { cycles, limit } => {
                write!(
                    f,
                    "{key} is {value}: accesses of so many frames may take {cycles} cycles, at most {limit} are counted"
                )
            }
            Allowed::SharesOfOne => write!(f, "{key} sum to {value}, they must sum to 1"),
            Allowed::SomeText => write!(f, "{key} is empty, reports need it"),
            Allowed::SomePrecision => write!(f, "{key} is empty, it must give at least one precision"),
            Allowed::NewPrecision => write!(f, "{key} gives {value} twice"),
            Allowed::NothingBesideComponents => {
                write!(f, "energy.components gives the shares of an access; drop {key}")
            }
            Allowed::InsteadOfComponents { both: true } => {
                write!(f, "{key} and energy.components both give the energy of an access; keep one")
            }
            Allowed::InsteadOfComponents { both: false } => {
                write!(f, "{key} is missing, and so is energy.components")
            }
            Allowed::OfThisGeometry { measured, own } => {
                write!(
                    f,
                    "{key} {value} was measured on {measured}, the macro has {own}: give energy.macro_shares, by which it is scaled, or \
                     an [[access]] of this geometry"
                )
            }
            Allowed::BitsBesideComponents => {
                write!(
                    f,
                    "{key} is \"{value}\", whose energy energy.components cannot tell: \"bits\" or \"adder_tree\""
                )
            }
        }
    }
}

impl std::error::Error for ConfigError {}
