//! The description of a network that everything reads: the trainable module, the exporter and the mapper.
//!
//! A layer is what the chip executes in one pass: a convolution with its batch norm, an optional residual sum and its
//! activation are *one* layer. It knows nothing of weights, training or hardware.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::window::{Border, Sides};
use crate::error::{Error, Result};
use crate::files::read_text;
#[cfg(feature = "train")]
use crate::files::{to_toml, write_atomically};
use crate::foreign::TomlKind;

/// What batch norms add to a variance before its root, where a network doesn't say otherwise: PyTorch's default.
pub const BATCH_NORM_EPSILON: f64 = 1e-5;

/// A layer graph, as a user writes it in TOML.
///
/// ```
/// let text = r#"
///     name = "tiny"
///     input = [3, 32, 32]
///     classes = 10
///     [[layers]]
///     op = "conv"
///     name = "conv1"
///     filters = 16
///     kernel = 3
///     padding = 1
///     [[layers]]
///     op = "avg_pool"
///     name = "pool"
///     [[layers]]
///     op = "linear"
///     name = "classifier"
///     filters = 10
/// "#;
/// let spec: mars::network::NetworkSpec = toml::from_str(text).unwrap();
/// assert_eq!(mars::network::Graph::new(spec).unwrap().macs(), 16 * 27 * 1024 + 160);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Name of the network, for reports.
    pub name: String,
    /// Shape of the image: channels, height, width.
    pub input: [usize; 3],
    /// Number of classes, equal to the filters of the last layer.
    pub classes: usize,
    /// What batch norms add to a variance before its root, where a layer doesn't say otherwise: 1e-5 if absent, as in PyTorch.
    #[serde(default = "default_epsilon", skip_serializing_if = "is_default_epsilon")]
    pub batch_norm_epsilon: f64,
    /// The layers, each after those it reads.
    pub layers: Vec<LayerSpec>,
}

/// One layer; `input` names the layer it reads and defaults to the one before it (the image for the first).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum LayerSpec {
    /// Convolution with batch norm or bias, then an optional residual sum, then its activation.
    Conv {
        /// Unique name.
        name: String,
        /// The layer it reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        /// Output channels.
        filters: usize,
        /// Height and width of the kernel.
        kernel: Sides,
        /// Step between outputs.
        #[serde(default = "Sides::one")]
        stride: Sides,
        /// Border.
        #[serde(default)]
        padding: Border,
        /// Step between the kernel's own values: 2 leaves out every second pixel.
        #[serde(default = "Sides::one", skip_serializing_if = "Sides::is_one")]
        dilation: Sides,
        /// Groups of channels, each of which is read by as many filters; as many as channels for a depthwise convolution.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        groups: usize,
        /// Batch norm after the convolution; without it the convolution has a bias.
        #[serde(default = "yes")]
        batch_norm: bool,
        /// What its batch norm and that of its projection add to a variance; the network's if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch_norm_epsilon: Option<f64>,
        /// A value that is added before the activation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        add: Option<SkipSpec>,
        /// What follows; nothing follows the last layer.
        #[serde(default, skip_serializing_if = "Activation::is_relu")]
        activation: Activation,
        /// The largest value behind the ReLU in float: 6 makes it a ReLU6. In integers the quantizer's range takes its place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clip: Option<f64>,
    },
    /// Maximum over windows.
    MaxPool {
        /// Unique name.
        name: String,
        /// The layer it reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        /// Height and width of the window.
        kernel: Sides,
        /// Step between windows.
        stride: Sides,
        /// Border.
        #[serde(default)]
        padding: Border,
    },
    /// Mean over windows, whose border counts as zeros; without a kernel, over the whole map.
    AvgPool {
        /// Unique name.
        name: String,
        /// The layer it reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        /// Height and width of the window.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kernel: Option<Sides>,
        /// Step between windows; without it they lie side by side.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Sides>,
        /// Border.
        #[serde(default, skip_serializing_if = "Border::is_none")]
        padding: Border,
    },
    /// The channels of several maps behind each other. They share a quantizer, so that their codes mean the same.
    Concat {
        /// Unique name.
        name: String,
        /// The layers that it reads, in the order of their channels.
        inputs: Vec<String>,
    },
    /// Fully connected layer over the flattened map: a convolution whose kernel is the whole map. The last one gives the
    /// logits; one before it is followed by its activation.
    Linear {
        /// Unique name.
        name: String,
        /// The layer it reads.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<String>,
        /// Output features.
        filters: usize,
        /// Batch norm instead of a bias.
        #[serde(default)]
        batch_norm: bool,
        /// What its batch norm adds to a variance; the network's if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        batch_norm_epsilon: Option<f64>,
        /// What follows; nothing follows the last layer.
        #[serde(default, skip_serializing_if = "Activation::is_relu")]
        activation: Activation,
    },
}

/// What follows the sums of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// A ReLU: values aren't negative.
    #[default]
    Relu,
    /// Nothing: values have a sign, as behind a linear bottleneck.
    None,
}

impl Activation {
    fn is_relu(&self) -> bool {
        *self == Self::Relu
    }
}

/// A residual sum: which value joins, and how its shape is made to fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkipSpec {
    /// The layer whose output joins.
    pub from: String,
    /// How its shape is made to fit.
    #[serde(default)]
    pub shortcut: Shortcut,
    /// Step of the shortcut.
    #[serde(default = "one")]
    pub stride: usize,
    /// Batch norm after a projection; without it the projection has a bias. An identity has neither.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub batch_norm: bool,
}

/// The ways for a residual value to fit the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// Every `stride`-th pixel; missing channels are zeros, half of them in front ("option A").
    #[default]
    Identity,
    /// A 1x1 convolution with batch norm or bias ("option B").
    Projection,
}

fn default_epsilon() -> f64 {
    BATCH_NORM_EPSILON
}

fn is_default_epsilon(epsilon: &f64) -> bool {
    *epsilon == BATCH_NORM_EPSILON
}

fn one() -> usize {
    1
}

fn is_one(value: &usize) -> bool {
    *value == 1
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

impl LayerSpec {
    /// The layer's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Conv { name, .. }
            | Self::MaxPool { name, .. }
            | Self::AvgPool { name, .. }
            | Self::Concat { name, .. }
            | Self::Linear { name, .. } => name,
        }
    }

    /// What its batch norm adds to a variance, where that isn't the network's.
    pub fn batch_norm_epsilon(&self) -> Option<f64> {
        match self {
            Self::Conv { batch_norm_epsilon, .. } | Self::Linear { batch_norm_epsilon, .. } => *batch_norm_epsilon,
            Self::MaxPool { .. } | Self::AvgPool { .. } | Self::Concat { .. } => None,
        }
    }

    /// What follows its sums; none for a pooling layer, whose values have a sign where those that it reads do.
    pub fn activation(&self) -> Option<Activation> {
        match self {
            Self::Conv { activation, .. } | Self::Linear { activation, .. } => Some(*activation),
            Self::MaxPool { .. } | Self::AvgPool { .. } | Self::Concat { .. } => None,
        }
    }

    /// The largest value behind its ReLU, where there is one.
    pub fn clip(&self) -> Option<f64> {
        match self {
            Self::Conv { clip, .. } => *clip,
            Self::MaxPool { .. } | Self::AvgPool { .. } | Self::Concat { .. } | Self::Linear { .. } => None,
        }
    }

    /// The sides of its kernel or window; none where that is the whole map, or there is none.
    pub fn kernel(&self) -> Option<Sides> {
        match self {
            Self::Conv { kernel, .. } | Self::MaxPool { kernel, .. } => Some(*kernel),
            Self::AvgPool { kernel, .. } => *kernel,
            Self::Concat { .. } | Self::Linear { .. } => None,
        }
    }

    /// How far apart the places are that its kernel reads.
    pub fn dilation(&self) -> Option<Sides> {
        match self {
            Self::Conv { dilation, .. } => Some(*dilation),
            Self::MaxPool { .. } | Self::AvgPool { .. } | Self::Concat { .. } | Self::Linear { .. } => None,
        }
    }

    /// The layer it reads, where that isn't the one before it.
    pub fn input(&self) -> Option<&str> {
        match self {
            Self::Conv { input, .. }
            | Self::MaxPool { input, .. }
            | Self::AvgPool { input, .. }
            | Self::Linear { input, .. } => input.as_deref(),
            Self::Concat { inputs, .. } => inputs.first().map(String::as_str),
        }
    }
}

impl NetworkSpec {
    /// Reads a description from a TOML file.
    ///
    /// # Errors
    /// A missing file, wrong TOML, an unknown key.
    pub fn load(path: &Path) -> Result<Self> {
        let text = read_text(path)?;
        text.parse().map_or(Ok(()), |table| TomlKind::Network.check(path, &table))?;
        toml::from_str(&text).map_err(|error| match wrong_layer(&text) {
            Some((layer, message)) => {
                let place = format!("{}: {layer}", path.display());
                let hint =
                    message.starts_with("unknown field `bias`").then_some("(a bias comes with batch_norm = false)");
                Error::unknown_or(place, &message, hint, |message| Error::file(path, format!("{layer}: {message}")))
            }
            None => Error::toml(path.display(), &text, &error, |message| Error::file(path, message)),
        })
    }

    /// Writes it as a TOML file; one that was there is replaced only by a whole one.
    ///
    /// # Errors
    /// A folder that cannot be written.
    #[cfg(feature = "train")]
    pub fn save(&self, path: &Path) -> Result<()> {
        write_atomically(path, to_toml(self)?.as_bytes())
    }

    /// An error about this network.
    pub(crate) fn error(&self, message: impl Into<String>) -> Error {
        Error::Network { network: self.name.clone(), message: message.into() }
    }
}

/// The first layer that isn't one, and why: for an array of tables the reader's error tells no line but the array's first.
fn wrong_layer(text: &str) -> Option<(String, String)> {
    let table: toml::Table = text.parse().ok()?;
    let mut layers = (1..).zip(table.get("layers")?.as_array()?);
    layers.find_map(|(number, layer)| {
        let error = layer.clone().try_into::<LayerSpec>().err()?;
        let name = layer.get("name").and_then(toml::Value::as_str);
        let layer = name.map_or_else(|| format!("layer {number}"), |name| format!("layer `{name}`"));
        Some((layer, error.message().trim().into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(layers: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("net.toml");
        std::fs::write(&file, format!("name = \"net\"\ninput = [1, 8, 8]\nclasses = 2\n{layers}")).unwrap();
        let message = NetworkSpec::load(&file).unwrap_err().to_string();
        message.strip_prefix(&file.display().to_string()).unwrap().into()
    }

    #[test]
    fn what_is_wrong_with_a_layer_comes_with_its_name() {
        let first = "[[layers]]\nop = \"conv\"\nname = \"conv1\"\nfilters = 2\nkernel = 3\n";
        let second = |keys: &str| message(&format!("{first}[[layers]]\n{keys}"));
        assert_eq!(second("op = \"max_pool\"\nname = \"pool\"\nstride = 2"), ": layer `pool`: missing field `kernel`");
        let unknown = second("op = \"linear\"\nname = \"fc\"\nfilter = 2");
        assert!(unknown.starts_with(": layer `fc`: unknown field `filter`, expected"), "{unknown}");
        assert!(unknown.ends_with("did you mean `filters`?"), "{unknown}");
        let biased = second("op = \"linear\"\nname = \"fc\"\nfilters = 2\nbias = true");
        assert!(biased.ends_with("(a bias comes with batch_norm = false)"), "{biased}");
        let filters = second("op = \"linear\"\nname = \"fc\"\nfilters = -2");
        assert!(filters.ends_with("expected a whole number from 0 on"), "{filters}");
        assert!(second("name = \"fc\"").contains(": layer `fc`: missing field `op`"), "{}", second("name = \"fc\""));
        assert!(second("op = \"linear\"").starts_with(": layer 2: "), "{}", second("op = \"linear\""));
        assert!(message("colors = 3\nlayers = []").starts_with(": line 4: unknown field `colors`"));
    }
}
