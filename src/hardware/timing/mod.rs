//! Timing: when each part of the chip does what, exact to the cycle.
//!
//! | module | from | to |
//! |---|---|---|
//! | `program` | a placed layer | `TimedWork`: the cycles of its steps, one by one; [`LayerProgram`]: all steps of each core |
//! | `simulator` | steps | when each step begins and ends |
//! | `timeline` | | [`Timeline`]: what the simulator found |
//!
//! It knows nothing of energy.

mod program;
mod simulator;
mod timeline;

pub use program::{Activity, Instruction, LayerProgram, TimeSlot};
pub(super) use program::{Loading, TimedWork};
pub(super) use simulator::Simulator;
pub(super) use timeline::cycles_of_a_frame;
pub use timeline::{LayerTime, Span, Timeline};
