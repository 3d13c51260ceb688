//! The layer graph: its description, its validated form and the zoo.

mod graph;
mod spec;
mod zoo;

pub use graph::{ConvShape, Graph, MapShape, Node, Op, Skip, Source};
pub use spec::{LayerSpec, NetworkSpec, Shortcut, SkipSpec};
pub use zoo::{ZOO, zoo};
