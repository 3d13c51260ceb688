//! Convolution of batches of images on the CPU, forward and backward.
//!
//! Images are `[image][height][width][channels]`, weights `[filters][channels][kernel height][kernel width]`, where
//! a filter has the channels of its group.

mod algorithm;
mod batch;
mod direct;
mod geometry;
mod grouped;
mod product;
mod winograd;

pub(super) use batch::Gradients;
pub(super) use geometry::ConvGeometry;
pub use geometry::ConvOptions;
