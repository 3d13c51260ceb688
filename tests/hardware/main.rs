//! The hardware model against computations written here, and against the arithmetic that any result must agree with.
//!
//! | file | asks |
//! |---|---|
//! | `definition` | what a network computes, straight from the definitions of its layers and of an access |
//! | `networks` | networks and chips that several of these tests need |
//! | `array` | what comes out: partial sums, conversions, noise and stuck cells |
//! | `schedule` | when: who does what in which cycle |
//! | `cost` | how much: accesses, cycles, energy and bits moved, against the arithmetic written out here |
//! | `mapping` | where layers lie, and that nothing else would be better |
//! | `chip` | what a chip is: its file, its keys, and which are refused |
//! | `geometry` | what follows from the size of a macro: area, outputs, energy and leakage |
//! | `budget` | which groups a budget of the chip takes away |

#[path = "../common/mod.rs"]
mod common;

mod array;
mod budget;
mod chip;
mod cost;
mod definition;
mod geometry;
mod mapping;
mod networks;
mod schedule;

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}
