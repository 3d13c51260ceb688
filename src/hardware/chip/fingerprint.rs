//! What a lossy chip computes, as names for people and as a hash for programs.

use std::collections::BTreeSet;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::description::Hardware;
use super::losses::{Converter, Noise};

impl Hardware {
    /// What keeps the chip from computing what the integer reference does; nothing for an ideal converter without faults.
    pub fn losses(&self) -> Vec<String> {
        let converter = match self.converter {
            Converter::Ideal | Converter::AdderTree => None,
            Converter::Clipping { .. } => Some("clipping converter".into()),
            Converter::Bits { bits, .. } => Some(format!("{bits}-bit converter")),
        };
        let noise = self.noise.unwrap_or_default();
        let noisy = (noise.sigma > 0.0).then(|| "noise".into());
        let stuck = noise.has_stuck_cells().then(|| "stuck cells".into());
        [converter, noisy, stuck].into_iter().flatten().collect()
    }

    /// A hash of the description.
    pub fn sha256(&self) -> String {
        let text = serde_json::to_string(self).expect("a hardware file is text");
        format!("{:x}", Sha256::digest(text))
    }

    /// A hash of all that decides what a chip with losses computes; none for one without, which computes the integer network.
    pub fn losses_sha256(&self) -> Option<String> {
        let widths: BTreeSet<u8> = self.access.iter().map(|access| access.weight_bits).collect();
        let slicing = (self.weight_slice_bits, self.input_bits_per_cycle, widths);
        self.hash_losses(&(self.group, self.rows_on, slicing, self.converter, self.effective_noise()))
    }

    /// Whether a chip of which [`losses_sha256`](Self::losses_sha256) was this hash computes what this one does. Earlier versions hashed the
    /// columns and the widths of inputs as well.
    pub fn computes_like(&self, losses_sha256: &str) -> bool {
        let widths: Vec<_> = self.access.iter().map(|access| (access.weight_bits, access.input_bits)).collect();
        let slicing = (self.weight_slice_bits, self.input_bits_per_cycle, widths);
        let earlier = (self.group, self.rows_on, self.columns, slicing, self.converter, self.effective_noise());
        [self.losses_sha256(), self.hash_losses(&earlier)].contains(&Some(losses_sha256.into()))
    }

    /// Noise that changes something.
    fn effective_noise(&self) -> Option<Noise> {
        self.noise.filter(|noise| noise.sigma > 0.0 || noise.has_stuck_cells())
    }

    fn hash_losses(&self, key: &impl Serialize) -> Option<String> {
        let text = serde_json::to_string(key).expect("numbers and names");
        (!self.losses().is_empty()).then(|| format!("{:x}", Sha256::digest(text)))
    }
}
