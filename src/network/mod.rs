//! The layer graph: its description, its validated form and the zoo.

mod graph;
#[cfg(feature = "train")]
mod import;
mod params;
mod spec;
mod weights;
mod zoo;

pub use graph::{Conv, ConvShape, Graph, MapShape, Node, Op, Skip, Source};
#[cfg(feature = "train")]
pub use import::{ImportOptions, Imported, import};
pub use params::{BatchNorm, ConvParams, Norm, ParamId, Params, Role};
pub use spec::{BATCH_NORM_EPSILON, LayerSpec, NetworkSpec, Shortcut, SkipSpec};
pub use weights::{Array, Weights};
pub use zoo::{ZOO, zoo};
