//! How bytes become floats.

use std::fmt::Formatter;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::split::Split;

/// What a recipe says of how bytes become floats.
#[derive(Clone, Debug, PartialEq)]
pub enum NormalizationConfig {
    /// These constants.
    Constants(Normalization),
    /// What is measured on the training images; `"measured"` in a recipe. A run's own recipe says what that was.
    Measured,
}

/// What a recipe says for [`NormalizationConfig::Measured`].
const MEASURED: &str = "measured";

/// How bytes become floats: `(byte / 255 - mean) / std` for each channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalization {
    /// Mean of each channel, from 0 to 1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl Default for Normalization {
    /// The constants of the akamaster checkpoints (those of ImageNet).
    fn default() -> Self {
        Self { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }
}

impl Normalization {
    /// Mean and standard deviation of each channel over all pixels of a split; a channel that is the same everywhere counts as varying by one byte.
    pub fn measured(split: &Split) -> Self {
        let (shape, mut mean, mut std) = (split.shape, Vec::new(), Vec::new());
        for channel in 0..shape.channels {
            let planes =
                split.images.chunks(shape.len()).map(|image| &image[channel * shape.pixels()..][..shape.pixels()]);
            let (mut sum, mut squares) = (0u64, 0u64);
            for byte in planes.flatten() {
                sum += u64::from(*byte);
                squares += u64::from(*byte).pow(2);
            }
            let count = (split.len() * shape.pixels()).max(1) as f64;
            let average = sum as f64 / count;
            let variance = squares as f64 / count - average * average;
            mean.push((average / 255.0) as f32);
            std.push((variance.sqrt().max(1.0) / 255.0) as f32);
        }
        Self { mean, std }
    }

    /// The byte that means 0, for each channel: `round(255 * mean)`.
    pub fn zero_points(&self) -> Vec<u8> {
        // A float to integer cast saturates, so a mean outside 0 to 1 gives the nearest byte.
        self.mean.iter().map(|mean| (255.0 * mean).round() as u8).collect()
    }
}

impl Serialize for NormalizationConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Constants(normalization) => normalization.serialize(serializer),
            Self::Measured => serializer.serialize_str(MEASURED),
        }
    }
}

impl<'de> Deserialize<'de> for NormalizationConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ConfigVisitor)
    }
}

struct ConfigVisitor;

impl<'de> Visitor<'de> for ConfigVisitor {
    type Value = NormalizationConfig;

    fn expecting(&self, f: &mut Formatter) -> std::fmt::Result {
        write!(f, "`mean` and `std` of each channel, or \"{MEASURED}\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        match text {
            MEASURED => Ok(NormalizationConfig::Measured),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Normalization::deserialize(MapAccessDeserializer::new(map)).map(NormalizationConfig::Constants)
    }
}
