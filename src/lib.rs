//! MARS: train and compress CNNs for SRAM computing-in-memory chips.
#![doc = "See `ARCHITECTURE.md` for the map of the rooms."]

pub mod data;
pub mod deploy;
pub mod error;
pub mod hardware;
pub mod network;
pub mod sparsity;

pub use error::{Error, Result};
