//! The integer network: what the package holds, what the integer reference and the hardware model compute.
//!
//! | module | from | to |
//! |---|---|---|
//! | `arithmetic` | | bounds, and the rounding of a sum |
//! | `network` | | [`IntegerNetwork`]: layers with their integers |
//! | `bits` | a graph, [`QuantizeConfig`] | [`BitPlan`]: which bit width where |
//! | `scales` | a convolution in floats | the scales of its columns |
//! | `fold` | float weights and scales, a bit plan | an integer network |
//! | `unfold` | an integer network | float weights and scales that fold to it |
//! | `outline` | a graph, a bit plan | an integer network whose weights mean nothing |
//! | `reference` | an integer network, images | [`Reference`]: logits, by direct convolution |
//!
//! It knows nothing of burn, of files or of the hardware.
//!
//! Codes are unsigned; a code `q` of a form with the zero point `z` stands for `q - z`. A value may be kept in several *forms*, one for each bit width that its readers ask for, all
//! requantized from the same sum (see `docs/package-format.md`):
//!
//! ```text
//! sum  = (acc + bias_c) * m_c  [+ (skip - z_skip) * m_skip | + (acc2 + bias2_c) * m2_c]        i64
//! form = clamp(((sum + 2^(n-1)) >> n) + z, 0, 2^bits - 1)                                      arithmetic shift, 0 < n < 40
//! ```
//!
//! `acc` sums up codes: what its input's zero point adds, `z` times the sum of the filter's weights, is taken off the bias, and borders hold `z`.

mod arithmetic;
mod bits;
mod fold;
mod network;
mod outline;
mod reference;
mod scales;
mod unfold;

pub use arithmetic::{
    ACCUMULATOR_BITS, BITS, Form, IMAGE_BITS, MAX_BIAS, MAX_MULTIPLIER, MAX_SKIP_MULTIPLIER, MULTIPLIER_BITS,
    Requantize, SHIFT_LIMIT, SKIP_MULTIPLIER_BITS, multiplier, predict, zero_point,
};
pub(crate) use bits::matches_pattern;
pub use bits::{BitPlan, ConvWidths, Fusion, LayerBits, NodeBits, QuantizeConfig, Reads, WeightScale};
pub use fold::{FoldOptions, ImageScale, fold};
pub use network::{Codes, IntegerConv, IntegerLayer, IntegerNetwork, IntegerSkip};
pub use outline::outline;
pub use reference::Reference;
pub use unfold::{Unfolded, unfold};
