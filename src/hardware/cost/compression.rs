//! Compression: how much smaller the weights are.

use serde::{Deserialize, Serialize};

use crate::hardware::mapping::ConvMapping;

/// How much smaller the weights are, over all mapped layers (first, last and projections included).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compression {
    /// Zero groups / all groups.
    pub group_sparsity: f64,
    /// All weights at their bits.
    pub weight_bits_dense: u64,
    /// The kept groups' weights at their bits, without padding.
    pub weight_bits_stored: u64,
    /// Index codes, with the bit that names each one's kind.
    pub index_bits: u64,
    /// `weight_bits_dense / (weight_bits_stored + index_bits)`.
    pub ratio: f64,
    /// The same with all weights at 32 bits.
    pub ratio_fp32: f64,
}

impl Compression {
    /// Adds up what convolutions keep and store.
    pub(super) fn of<'a>(convs: impl Iterator<Item = &'a ConvMapping> + Clone) -> Self {
        let sum = |count: fn(&ConvMapping) -> u64| -> u64 { convs.clone().map(count).sum() };
        let groups = sum(|conv| conv.grid.real_groups() as u64);
        let kept = sum(|conv| conv.kept_groups() as u64);
        let weight_bits_dense = sum(|conv| conv.shape.weights() as u64 * u64::from(conv.weight_bits));
        let weight_bits_stored = sum(|conv| conv.kept_weights() * u64::from(conv.weight_bits));
        let index_bits = sum(|conv| conv.sets.iter().map(|set| set.index_bits).sum());
        let stored = (weight_bits_stored + index_bits) as f64;
        Self {
            group_sparsity: (groups - kept) as f64 / groups as f64,
            weight_bits_dense,
            weight_bits_stored,
            index_bits,
            ratio: weight_bits_dense as f64 / stored,
            ratio_fp32: sum(|conv| conv.shape.weights() as u64 * 32) as f64 / stored,
        }
    }
}
