//! MARS: train and compress CNNs for SRAM computing-in-memory chips.
#![doc = "See `ARCHITECTURE.md` for the map of the rooms."]

pub mod cli;
pub mod data;
pub mod deploy;
#[cfg(feature = "train")]
pub mod engine;
pub mod error;
pub mod hardware;
pub mod network;
pub mod quantize;
pub mod report;
pub mod sparsity;
#[cfg(feature = "train")]
pub mod train;

pub use error::{Error, Result};
