//! The programs as a person runs them.
//!
//! | file | asks |
//! |---|---|
//! | `place` | where the programs run, and what they leave there |
//! | `job` | whole jobs: from a recipe to a report, and a package on a chip |
//! | `starts` | what a run starts from: checkpoints of all kinds, and packages |
//! | `interruptions` | what stops a run, and that it goes on to the same bytes |
//! | `refusals` | what is refused, in one message that says what to do |
//! | `reproduce` | tables whose rows are runs |

#![cfg(feature = "train")]

#[path = "../common/mod.rs"]
mod common;
mod interruptions;
mod job;
mod place;
mod refusals;
mod reproduce;
mod starts;

/// Help and refusals as `tests/cmd/*.trycmd` show them; `TRYCMD=overwrite` rewrites them.
#[test]
fn help_and_refusals_are_as_documented() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
