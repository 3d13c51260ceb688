//! Scales of a convolution's columns: what they are, and how small they may become.

use super::arithmetic::{MAX_BIAS, MULTIPLIER_BITS};
use crate::network::ConvShape;

/// Smallest ratio of a column's scale to the layer's largest: the largest multiplier has all its bits, so the column's is 2 at least.
pub(super) const SCALE_RATIO_FLOOR: f64 = 1.0 / (1u32 << (MULTIPLIER_BITS - 2)) as f64;

/// What becomes of a convolution's batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchNormRule {
    /// There is none, but a bias.
    Absent,
    /// Its gain is in the weights.
    Folded,
    /// Its gain is in the scale of each column.
    Outside,
}

/// Input and limits of a convolution's scales.
pub(super) struct Limits {
    /// Scale of its input.
    pub(super) input_scale: f64,
    /// Least unit of its accumulators.
    pub(super) least_unit: f64,
}

/// A convolution in floats: weights and biases with batch norm and colors folded in.
pub(super) struct RealConv<'a> {
    pub(super) weights: &'a [f32],
    pub(super) gains: Vec<f64>,
    pub(super) biases: Vec<f64>,
    /// Factor of each input channel.
    pub(super) colors: Vec<f64>,
    pub(super) shape: ConvShape,
}

impl RealConv<'_> {
    /// The folded weights of a filter.
    pub(super) fn column(&self, filter: usize) -> impl Iterator<Item = f64> {
        let (len, taps) = (self.shape.depth() * self.shape.taps(), self.shape.taps());
        let colors = &self.colors[self.shape.reads(filter)];
        let weights = self.weights[filter * len..][..len].iter().enumerate();
        weights.map(move |(index, weight)| f64::from(*weight) * self.gains[filter] * colors[index / taps])
    }

    /// The least scale with which a filter's bias stays below `2^30`, and the unit of its accumulator is not less than the limit.
    fn least_scale(&self, filter: usize, limits: &Limits) -> f64 {
        // Half of the bias's limit, so that rounding and the image's zero points stay within it.
        let bias_limit = f64::from(MAX_BIAS) / 2.0;
        limits.least_unit.max(self.biases[filter].abs() / bias_limit) / limits.input_scale
    }

    /// Returns one scale for the layer. Returns one per column if (a) scales are learned per column or (b) batch norm is not folded; then
    /// a column's scale includes its gain.
    pub(super) fn scales(&self, learned: &Scales, batch_norm: BatchNormRule, limits: &Limits) -> Scales {
        let filters = 0..self.gains.len();
        match (learned, batch_norm) {
            (Scales::Shared(scale), BatchNormRule::Absent | BatchNormRule::Folded) => {
                Scales::Shared(filters.map(|filter| self.least_scale(filter, limits)).fold(*scale, f64::max))
            }
            (Scales::PerColumn(_), _) | (_, BatchNormRule::Outside) => self.column_scales(learned, batch_norm, limits),
        }
    }

    /// A scale for each column, which keeps its multiplier above zero; a column without weights takes the largest one.
    fn column_scales(&self, learned: &Scales, batch_norm: BatchNormRule, limits: &Limits) -> Scales {
        let wanted = |filter: usize| {
            let gain = match batch_norm {
                BatchNormRule::Outside => self.gains[filter].abs(),
                BatchNormRule::Absent | BatchNormRule::Folded => 1.0,
            };
            let has_weights = self.column(filter).any(|weight| weight != 0.0);
            has_weights.then(|| (learned.get(filter) * gain).max(self.least_scale(filter, limits)))
        };
        let wanted: Vec<Option<f64>> = (0..self.gains.len()).map(wanted).collect();
        let largest = wanted.iter().flatten().copied().reduce(f64::max).unwrap_or(learned.get(0));
        let scales = wanted.iter().enumerate().map(|(filter, scale)| {
            let scale = scale.unwrap_or(largest);
            scale.max(largest * SCALE_RATIO_FLOOR).max(self.least_scale(filter, limits))
        });
        Scales::new(scales.collect())
    }
}

/// A positive number for all columns of a convolution, or for each.
pub(super) enum Scales {
    Shared(f64),
    PerColumn(Vec<f64>),
}

impl Scales {
    /// One value for all, or one for each.
    pub(super) fn new(values: Vec<f64>) -> Self {
        match values.as_slice() {
            [value] => Self::Shared(*value),
            _ => Self::PerColumn(values),
        }
    }

    pub(super) fn values(&self) -> &[f64] {
        match self {
            Self::Shared(value) => std::slice::from_ref(value),
            Self::PerColumn(values) => values,
        }
    }

    pub(super) fn get(&self, filter: usize) -> f64 {
        match self {
            Self::Shared(value) => *value,
            Self::PerColumn(values) => values[filter],
        }
    }

    pub(super) fn largest(&self) -> f64 {
        self.values().iter().copied().fold(0.0, f64::max)
    }

    pub(super) fn any_below(&self, floor: f64) -> bool {
        self.values().iter().any(|value| *value < floor)
    }

    pub(super) fn times(&self, factor: f64) -> Self {
        Self::new(self.values().iter().map(|value| value * factor).collect())
    }
}
