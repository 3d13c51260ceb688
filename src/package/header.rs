//! The JSON header of a package, as `docs/package-format.md` describes it.

use serde::{Deserialize, Serialize};

use super::provenance::Provenance;
use crate::groups::{GroupShape, IndexCode};
use crate::integer::{Form, IntegerConv, IntegerLayer, IntegerSkip, Requantize};
use crate::network::{NetworkSpec, Op, SameScale};

/// What is read first, to tell another version from a damaged file.
#[derive(Deserialize)]
pub(super) struct VersionHeader {
    pub(super) version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u64,
    pub(super) sha256: String,
    pub(super) network: NetworkSpec,
    pub(super) zero_points: Vec<u8>,
    pub(super) classes: Vec<String>,
    pub(super) group: GroupShape,
    pub(super) layers: Vec<LayerHeader>,
    pub(super) predictions: Option<PredictionsHeader>,
    pub(super) provenance: Provenance,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PredictionsHeader {
    pub(super) data_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chip_sha256: Option<String>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum LayerHeader {
    Conv { conv: ConvHeader, skip: Option<SkipHeader>, output: Option<RequantizeHeader> },
    // Braces, since serde accepts any key beside a unit variant's tag.
    MaxPool {},
    Concat {},
    AvgPool { input_bits: u8, output: RequantizeHeader },
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConvHeader {
    pub(super) input_bits: u8,
    pub(super) weight_bits: u8,
    /// One for each filter set.
    pub(super) index: Vec<IndexHeader>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IndexHeader {
    pub(super) code: IndexCode,
    pub(super) bits: usize,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum SkipHeader {
    Identity { bits: u8, multiplier: u32 },
    Projection { conv: ConvHeader, multipliers: Vec<u32> },
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequantizeHeader {
    multipliers: Vec<u32>,
    forms: Vec<FormHeader>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FormHeader {
    bits: u8,
    shift: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    zero_point: u8,
}

fn is_zero(value: &u8) -> bool {
    *value == 0
}

impl From<&Form> for FormHeader {
    fn from(&Form { bits, shift, zero_point }: &Form) -> Self {
        Self { bits, shift, zero_point }
    }
}

impl From<FormHeader> for Form {
    fn from(FormHeader { bits, shift, zero_point }: FormHeader) -> Self {
        Self { bits, shift, zero_point }
    }
}

impl LayerHeader {
    /// The header of a node's layer; `index` gives the indices of a convolution, first its own, then its projection's.
    pub(super) fn new(op: Op, layer: &IntegerLayer, mut index: impl Iterator<Item = Vec<IndexHeader>>) -> Self {
        let mut conv_header = |conv: &IntegerConv| ConvHeader {
            input_bits: conv.input_bits,
            weight_bits: conv.weight_bits,
            index: index.next().unwrap_or_default(),
        };
        match layer {
            IntegerLayer::Conv { conv, skip, output } => Self::Conv {
                conv: conv_header(conv),
                skip: skip.as_ref().map(|skip| match skip {
                    &IntegerSkip::Identity { bits, multiplier } => SkipHeader::Identity { bits, multiplier },
                    IntegerSkip::Projection { conv, multipliers } => {
                        SkipHeader::Projection { conv: conv_header(conv), multipliers: multipliers.clone() }
                    }
                }),
                output: output.as_ref().map(RequantizeHeader::from),
            },
            IntegerLayer::SameScale => {
                let Op::SameScale(kind) = op else { unreachable!("a valid network has the layers of its graph") };
                kind.into()
            }
            IntegerLayer::AvgPool { input_bits, output } => {
                Self::AvgPool { input_bits: *input_bits, output: output.into() }
            }
        }
    }
}

impl From<SameScale> for LayerHeader {
    fn from(kind: SameScale) -> Self {
        match kind {
            SameScale::MaxPool { .. } => Self::MaxPool {},
            SameScale::Concat => Self::Concat {},
        }
    }
}

impl From<&Requantize> for RequantizeHeader {
    fn from(output: &Requantize) -> Self {
        Self { multipliers: output.multipliers.clone(), forms: output.forms.iter().map(FormHeader::from).collect() }
    }
}

impl From<RequantizeHeader> for Requantize {
    fn from(header: RequantizeHeader) -> Self {
        Self { multipliers: header.multipliers, forms: header.forms.into_iter().map(Form::from).collect() }
    }
}
