//! The layer graph: its description, its validated form and the zoo.

mod file;
mod floats;
mod graph;
#[cfg(feature = "train")]
mod import;
mod node;
mod onnx;
mod params;
mod resolve;
mod role;
mod shape;
mod spec;
mod weights;
mod window;
mod zoo;

pub use file::read_network;
pub use graph::Graph;
pub(crate) use graph::parallel_images;
#[cfg(feature = "train")]
pub(crate) use import::weights_file;
#[cfg(feature = "train")]
pub use import::{ImportOptions, Imported, Quantized, import};
pub use node::{Conv, ConvId, Node, Op, SameScale, Skip, Source};
pub use onnx::OnnxNetwork;
#[cfg(feature = "train")]
pub(crate) use onnx::is_onnx;
pub use params::{BatchNorm, ConvParams, Norm, ParamId, Params};
pub use role::Role;
pub use shape::{ConvShape, MapShape, PoolShape};
pub(crate) use shape::{MAX_EXTENT, MAX_LAYERS, MAX_WEIGHTS, channels_read};
pub use spec::{Activation, BATCH_NORM_EPSILON, LayerSpec, NetworkSpec, Shortcut, SkipSpec};
#[cfg(feature = "train")]
pub(crate) use weights::state;
pub use weights::{Array, Weights};
pub use window::{Border, Sides, Window};
pub use zoo::{ZOO, zoo};
