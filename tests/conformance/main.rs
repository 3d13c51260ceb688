//! One network, three executions: fake-quant, integer and macro give the same logits, to the last bit.
//!
//! | file | holds |
//! |---|---|
//! | `networks` | random networks of all kinds of layers |
//! | `weights` | weights with which values neither vanish nor saturate |
//! | `executions` | random networks, weights, bits and chips in all executions |
//! | `cases` | networks at the limits of the arithmetic, and chips that lose something |
//! | `training` | what a training step computes, and what is exported of it |

#![cfg(feature = "train")]

mod cases;
#[path = "../common/mod.rs"]
mod common;
mod executions;
mod networks;
mod training;
mod weights;
