//! Floats as files store them.

use half::{bf16, f16};

/// How floats are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatFormat {
    F16,
    Bf16,
    F32,
    F64,
}

impl FloatFormat {
    /// Bytes of a float.
    pub fn size(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// The float of so many bytes.
    pub fn read_little_endian(self, bytes: &[u8]) -> f32 {
        match self {
            Self::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).into(),
            Self::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).into(),
            Self::F32 => f32::from_le_bytes(bytes.try_into().expect("four bytes")),
            Self::F64 => f64::from_le_bytes(bytes.try_into().expect("eight bytes")) as f32,
        }
    }

    /// The same of bytes in this machine's order.
    #[cfg(feature = "train")]
    pub fn read_native_endian(self, bytes: &[u8]) -> f32 {
        let mut little = [0; 8];
        let little = &mut little[..bytes.len()];
        little.copy_from_slice(bytes);
        if cfg!(target_endian = "big") {
            little.reverse();
        }
        self.read_little_endian(little)
    }
}
