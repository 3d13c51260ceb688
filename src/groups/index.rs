//! Index codes: which groups of a filter set remain.
//!
//! One index serves a whole filter set. Two codes exist; the shorter one is stored, with [`SELECTOR_BITS`] that say which:
//!
//! * **bitmap**: one bit for each group, 1 for a kept one.
//! * **runs**: for each kept group the number of dropped ones before it, plus one, as an Elias gamma code; then the same
//!   for the dropped groups at the end, if there are any. A run of `r` is `floor(log2(r + 1))` zeros, then `r + 1` in
//!   binary from its highest bit.
//!
//! Bit `i` of a code is bit `i % 8` of byte `i / 8`, counted from the lowest; the last byte's unused bits are 0.
//! It knows nothing of weights, networks or files.

use serde::{Deserialize, Serialize};

/// Bits that tell the two codes apart, one for each filter set.
pub const SELECTOR_BITS: u64 = 1;

/// A code for the kept groups of one filter set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexCode {
    /// One bit a group.
    Bitmap,
    /// Runs of dropped groups, each an Elias gamma code.
    Runs,
}

/// A filter set's index as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The code.
    pub code: IndexCode,
    /// Its bits, the lowest of each byte first.
    pub bytes: Vec<u8>,
    /// How many of them count.
    pub bit_len: usize,
}

impl IndexCode {
    /// Encodes `kept` (one entry for each group of the set) with the shorter code; the bitmap wins a tie.
    pub fn cheapest(kept: &[bool]) -> Index {
        Self::shorter(kept).encode(kept)
    }

    /// The code that takes fewer bits for `kept`; the bitmap wins a tie.
    pub fn shorter(kept: &[bool]) -> Self {
        if Self::Runs.bit_len(kept) < Self::Bitmap.bit_len(kept) { Self::Runs } else { Self::Bitmap }
    }

    /// Length of the code in bits, without [`SELECTOR_BITS`].
    pub fn bit_len(self, kept: &[bool]) -> usize {
        match self {
            Self::Bitmap => kept.len(),
            Self::Runs => runs(kept).map(|run| 2 * (run + 1).ilog2() as usize + 1).sum(),
        }
    }

    /// Encodes `kept`.
    pub fn encode(self, kept: &[bool]) -> Index {
        let mut bits = BitWriter::default();
        match self {
            Self::Bitmap => kept.iter().for_each(|&bit| bits.push(bit)),
            Self::Runs => {
                for run in runs(kept) {
                    let value = run + 1;
                    let width = value.ilog2();
                    (0..width).for_each(|_| bits.push(false));
                    (0..=width).rev().for_each(|place| bits.push(value >> place & 1 == 1));
                }
            }
        }
        Index { code: self, bytes: bits.bytes, bit_len: bits.len }
    }

    /// Decodes `bit_len` bits of `bytes` into one entry for each of the `groups` groups of a set.
    ///
    /// Any input is safe. `groups` comes from the layer's geometry, which the caller has checked; the result takes that many
    /// bytes.
    ///
    /// # Errors
    /// A wrong length, a code that ends early, late or beyond the last group, unused bits that are not 0.
    pub fn decode(self, bytes: &[u8], bit_len: usize, groups: usize) -> Result<Vec<bool>, String> {
        if bytes.len() != bit_len.div_ceil(8) {
            return Err(format!("{} bytes hold an index of {bit_len} bits", bytes.len()));
        }
        let bit = |index: usize| bytes[index / 8] >> (index % 8) & 1 == 1;
        if (bit_len..bytes.len() * 8).any(bit) {
            return Err("the unused bits of an index are not 0".into());
        }
        match self {
            Self::Bitmap if bit_len == groups => Ok((0..groups).map(bit).collect()),
            Self::Bitmap => Err(format!("a bitmap of {bit_len} bits for {groups} groups")),
            Self::Runs => {
                let mut bits = (0..bit_len).map(bit);
                let mut kept = Vec::new();
                let mut group = 0usize;
                while group < groups {
                    let run = gamma(&mut bits).ok_or("a run ends early or is too long")? - 1;
                    group = usize::try_from(run).ok().and_then(|run| group.checked_add(run)).unwrap_or(usize::MAX);
                    if group > groups {
                        return Err(format!("a run passes the last of {groups} groups"));
                    }
                    if group < groups {
                        kept.push(group);
                        group += 1;
                    }
                }
                if bits.next().is_some() {
                    return Err(format!("bits are left after the last of {groups} groups"));
                }
                let mut mask = Vec::new();
                mask.try_reserve_exact(groups)
                    .map_err(|_| format!("an index of {groups} groups does not fit the memory"))?;
                mask.resize(groups, false);
                kept.into_iter().for_each(|group| mask[group] = true);
                Ok(mask)
            }
        }
    }
}

/// Numbers of dropped groups before each kept one, then those at the end if there are any.
fn runs(kept: &[bool]) -> impl Iterator<Item = usize> {
    let mut rest = kept;
    std::iter::from_fn(move || {
        let run = rest.iter().take_while(|kept| !**kept).count();
        let all = rest.len();
        rest = rest.get(run + 1..).unwrap_or_default();
        (all > 0).then_some(run)
    })
}

/// Reads an Elias gamma code of at most 63 bits after its zeros; never 0.
fn gamma(bits: &mut impl Iterator<Item = bool>) -> Option<u64> {
    let mut width = 0;
    while !bits.next()? {
        width += 1;
    }
    if width > 62 {
        return None;
    }
    (0..width).try_fold(1u64, |value, _| Some(value << 1 | u64::from(bits.next()?)))
}

#[derive(Default)]
struct BitWriter {
    bytes: Vec<u8>,
    len: usize,
}

impl BitWriter {
    fn push(&mut self, bit: bool) {
        if self.len.is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.bytes[self.len / 8] |= u8::from(bit) << (self.len % 8);
        self.len += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODES: [IndexCode; 2] = [IndexCode::Bitmap, IndexCode::Runs];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_mask_comes_back(kept in prop::collection::vec(prop::bool::weighted(0.2), 0..300)) {
            for code in CODES {
                let index = code.encode(&kept);
                prop_assert_eq!(index.bit_len, code.bit_len(&kept));
                prop_assert_eq!(code.decode(&index.bytes, index.bit_len, kept.len()), Ok(kept.clone()));
            }
            let cheapest = IndexCode::cheapest(&kept).bit_len;
            prop_assert_eq!(cheapest, CODES.map(|code| code.bit_len(&kept)).into_iter().min().unwrap());
        }

        #[test]
        fn garbage_gives_an_error_or_a_mask_of_the_right_length(
            bytes in prop::collection::vec(any::<u8>(), 0..12),
            bit_len in 0usize..100,
            groups in 0usize..100,
        ) {
            for code in CODES {
                if let Ok(kept) = code.decode(&bytes, bit_len, groups) {
                    prop_assert_eq!(kept.len(), groups);
                    // A code is unique: what decodes also encodes to the same bits.
                    prop_assert_eq!(code.encode(&kept).bytes, bytes.clone());
                }
            }
        }
    }

    #[test]
    fn a_sparse_set_takes_the_runs_and_a_dense_one_the_bitmap() {
        let mut kept = vec![false; 144];
        kept[40] = true;
        assert_eq!(IndexCode::cheapest(&kept).code, IndexCode::Runs);
        // 41 = 0b101001 takes 5 zeros and 6 bits; 103 dropped at the end: 104 takes 6 and 7.
        assert_eq!(IndexCode::cheapest(&kept).bit_len, 11 + 13);
        kept.fill(true);
        kept[7] = false;
        assert_eq!(IndexCode::cheapest(&kept).code, IndexCode::Bitmap);
    }

    #[test]
    fn the_bits_of_runs_are_those_of_the_documentation() {
        let index = IndexCode::Runs.encode(&[false, false, true, true]);
        // run 2: 0 1 1; run 0: 1; nothing at the end.
        assert_eq!((index.bytes, index.bit_len), (vec![0b1110], 4));
    }

    #[test]
    fn a_huge_run_is_an_error() {
        let mut bytes = vec![0u8; 16];
        bytes[7] = 0x40;
        assert!(IndexCode::Runs.decode(&bytes, 125, 10).is_err());
        assert!(IndexCode::Runs.decode(&[0xff], 3, 10).unwrap_err().contains("unused bits"));
        assert!(IndexCode::Runs.decode(&[], 0, 10).is_err());
        assert!(IndexCode::Bitmap.decode(&[1], 8, 9).unwrap_err().contains("9 groups"));
    }
}
