//! What a node of a graph reads and computes.

use super::shape::{ConvShape, MapShape};
use super::spec::Activation;
use super::window::Window;

/// Where a layer's input comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The image: raw bytes, one zero point a color.
    Image,
    /// The output of the node with this index.
    Node(usize),
}

/// The value that joins a residual sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Every `stride`-th pixel of the source, `pad_front` zero channels in front and as many as needed behind.
    Identity {
        /// Where it comes from.
        source: Source,
        /// Step between the pixels taken.
        stride: usize,
        /// Zero channels in front.
        pad_front: usize,
    },
    /// A 1x1 convolution of the source.
    Projection {
        /// Where it comes from.
        source: Source,
        /// Its geometry.
        conv: ConvShape,
        /// Batch norm instead of a bias.
        batch_norm: bool,
    },
}

/// What a node computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one for each node")]
pub enum Op {
    /// Convolution or linear layer.
    Conv {
        /// Geometry.
        conv: ConvShape,
        /// Batch norm instead of a bias.
        batch_norm: bool,
        /// Residual sum.
        skip: Option<Skip>,
        /// What follows the sums; nothing where they are the logits.
        activation: Activation,
        /// True for the last layer, whose sums are the logits.
        logits: bool,
    },
    /// Mean over windows.
    AvgPool {
        /// The windows; what of one lies in the border counts as zeros.
        window: Window,
    },
    /// Values of what it reads, picked or placed.
    SameScale(SameScale),
}

/// What picks or places values and computes none: they keep their scale, and need no integers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameScale {
    /// Maximum over windows.
    MaxPool {
        /// The windows; a border never wins.
        window: Window,
    },
    /// The channels of its input, and behind them those of [`Node::behind`].
    Concat,
}

/// Which convolution of a network, by the index of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConvId {
    /// The node's own.
    Own(usize),
    /// The projection of the node's residual sum.
    Projection(usize),
}

impl ConvId {
    /// Index of its node.
    pub fn node(self) -> usize {
        match self {
            Self::Own(node) | Self::Projection(node) => node,
        }
    }

    /// The number from which a chip's noise and stuck cells follow: committed results depend on it.
    pub fn number(self) -> u32 {
        match self {
            Self::Own(node) => 2 * node as u32,
            Self::Projection(node) => 2 * node as u32 + 1,
        }
    }
}

/// A convolution or linear layer of a graph: a node's own, or the projection of its residual sum.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Unique name, that of its weights.
    pub name: String,
    /// Which one it is.
    pub id: ConvId,
    /// Geometry.
    pub shape: ConvShape,
    /// What it reads.
    pub source: Source,
    /// Batch norm instead of a bias.
    pub batch_norm: bool,
    /// What the batch norm adds to a variance before its root.
    pub epsilon: f64,
    /// True for the one whose sums are the logits.
    pub logits: bool,
}

/// A layer with its references resolved and its shapes known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique name.
    pub name: String,
    /// Input.
    pub source: Source,
    /// What a concatenation places behind its input, in order; nothing for another node.
    pub behind: Vec<Source>,
    /// Shape of the input.
    pub input: MapShape,
    /// Shape of the output.
    pub output: MapShape,
    /// Computation.
    pub op: Op,
}

impl Node {
    /// Geometry, for a convolution.
    pub fn conv(&self) -> Option<ConvShape> {
        match self.op {
            Op::Conv { conv, .. } => Some(conv),
            Op::AvgPool { .. } | Op::SameScale(_) => None,
        }
    }

    /// All that it reads but a residual: its input, and what a concatenation places behind it.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        std::iter::once(self.source).chain(self.behind.iter().copied())
    }

    /// Geometry of the projection on its residual path.
    pub fn projection(&self) -> Option<ConvShape> {
        match self.op {
            Op::Conv { skip: Some(Skip::Projection { conv, .. }), .. } => Some(conv),
            Op::Conv { skip: Some(Skip::Identity { .. }) | None, .. } | Op::AvgPool { .. } | Op::SameScale(_) => None,
        }
    }

    /// Name under which the projection's weights are stored.
    pub fn projection_name(&self) -> String {
        format!("{}.projection", self.name)
    }

    pub(crate) fn skip_source(&self) -> Option<Source> {
        match self.op {
            Op::Conv { skip: Some(Skip::Identity { source, .. } | Skip::Projection { source, .. }), .. } => {
                Some(source)
            }
            Op::Conv { skip: None, .. } | Op::AvgPool { .. } | Op::SameScale(_) => None,
        }
    }
}
