//! Running a sweep: the points of a shard that have no row yet.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::row::{Figures, Outcome, SweepRow};
use super::space::Space;
use super::store::{Shard, Store};
use crate::error::Result;
use crate::hardware::Hardware;

/// Evaluates the points of a shard that have no row yet, several at a time, and stores each row when it is done.
///
/// A chip that cannot work, or not with this network, becomes a row with its error. `done` is told how many points of the shard have rows:
/// before the first one that is evaluated, and after each.
///
/// # Errors
/// A row that cannot be written; the others are kept.
pub fn run(
    space: &Space,
    store: &Store,
    shard: Shard,
    evaluate: impl Fn(&Hardware) -> Result<Figures> + Sync,
    done: impl Fn(usize) + Sync,
) -> Result<()> {
    let (rows, writer) = store.open(shard)?;
    let mut known = vec![false; space.len()];
    rows.iter().for_each(|row| known[row.point] = true);
    let points: Vec<usize> = shard.points(space.len()).filter(|&point| !known[point]).collect();
    let finished = shard.points(space.len()).count() - points.len();
    done(finished);
    let state = Mutex::new((writer, finished));
    points.into_par_iter().try_for_each(|point| {
        let outcome = match space.hardware(point).and_then(|hardware| evaluate(&hardware)) {
            Ok(figures) => Outcome::Figures(Box::new(figures)),
            Err(error) => Outcome::Error(error.to_string()),
        };
        let row = SweepRow { point, settings: space.settings(point), outcome };
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        let (writer, finished) = &mut *state;
        writer.push(&row)?;
        *finished += 1;
        done(*finished);
        Ok(())
    })
}
