//! What keeps an array from giving exact sums: its converter, its noise and its stuck cells.

use serde::{Deserialize, Serialize};

/// Largest sum that one code may stand for.
pub(crate) const MAX_STEP: i32 = 1 << 14;

/// What turns a partial sum (one access, output, weight slice and input phase) into a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", from = "ConverterKeys")]
pub enum Converter {
    /// Exact.
    Ideal,
    /// Exact: a digital macro has no converters but trees of adders, whose energy components can tell.
    AdderTree,
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
    AdderTree {},
    Clipping { range: i32 },
    Bits { bits: u8, step: i32 },
}

impl From<ConverterKeys> for Converter {
    fn from(keys: ConverterKeys) -> Self {
        match keys {
            ConverterKeys::Ideal {} => Self::Ideal,
            ConverterKeys::AdderTree {} => Self::AdderTree,
            ConverterKeys::Clipping { range } => Self::Clipping { range },
            ConverterKeys::Bits { bits, step } => Self::Bits { bits, step },
        }
    }
}

impl Converter {
    /// The value of the key `converter.kind`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Ideal => "ideal",
            Self::AdderTree => "adder_tree",
            Self::Clipping { .. } => "clipping",
            Self::Bits { .. } => "bits",
        }
    }

    /// Sum that one code stands for.
    pub fn lsb(&self) -> i32 {
        match self {
            Self::Bits { step, .. } => *step,
            Self::Ideal | Self::AdderTree | Self::Clipping { .. } => 1,
        }
    }

    /// Whether each partial sum comes out as it is.
    pub fn is_exact(&self) -> bool {
        match self {
            Self::Ideal | Self::AdderTree => true,
            Self::Clipping { .. } | Self::Bits { .. } => false,
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
