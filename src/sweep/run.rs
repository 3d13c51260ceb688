//! Running a sweep: the points of a shard that have no row yet.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::row::{Figures, Outcome, SweepRow};
use super::space::Space;
use super::store::{Shard, Store, Writer};
use super::swept::{Evaluators, Swept};
use crate::error::{Error, Result};
use crate::hardware::{Hardware, family};
use crate::observer::{Observer, Work};
use crate::validation::macro_accuracy;

/// A network on every chip of a space, with its rows in a folder.
#[derive(Debug)]
pub struct Sweep {
    space: Space,
    swept: Swept,
    store: Store,
}

/// A writer of rows, and how many points of the shard have one.
type Progress = (Writer, usize);

impl Sweep {
    /// A sweep whose rows are in a folder, which is made if need be.
    ///
    /// # Errors
    /// A space that asks for accuracy, and no images to measure it on; a folder that cannot be made.
    pub fn new(space: Space, swept: Swept, folder: &Path) -> Result<Self> {
        if space.images().is_some() && swept.test.is_none() {
            return Err(Error::Setting("images: there are none to measure accuracy on; leave the key out".into()));
        }
        let mut fingerprint = Sha256::new_with_prefix(&swept.fingerprint);
        fingerprint.update(space.description());
        fingerprint.update(swept.test.as_ref().map_or(String::new(), |test| test.sha256()));
        let store = Store::new(folder, format!("{:x}", fingerprint.finalize()), space.len())?;
        Ok(Self { space, swept, store })
    }

    /// Points of all shards.
    pub fn points(&self) -> usize {
        self.space.len()
    }

    /// What was made up of a network that nobody has trained, as a sentence.
    pub fn made_up(&self) -> Option<&str> {
        self.swept.made_up.as_ref().map(|made_up| made_up.what.as_str())
    }

    /// Calls `merge` with the rows of all shards, in the order of their points, while no other process does so in the folder.
    ///
    /// # Errors
    /// Those of `merge`; rows that cannot be read, are damaged or belong to another sweep.
    pub fn merge<T>(&self, merge: impl FnOnce(&[SweepRow]) -> Result<T>) -> Result<T> {
        self.store.alone(|| merge(&self.store.rows()?))
    }

    /// Of the division into shards that most have begun of, those with a point that has no row.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn unfinished(&self, rows: &[SweepRow]) -> Result<Vec<Shard>> {
        self.store.unfinished(rows)
    }

    /// Evaluates the points of a shard that have no row yet, several at a time, and stores each row when it is done.
    ///
    /// A chip that cannot work, or not with this network, becomes a row with its error. Images run once for all chips that compute the same.
    ///
    /// # Errors
    /// A row that cannot be written; the others are kept.
    pub fn run(&self, shard: Shard, observer: &dyn Observer) -> Result<()> {
        let (rows, writer) = self.store.open(shard)?;
        let mut known = vec![false; self.points()];
        rows.iter().for_each(|row| known[row.point] = true);
        let all = shard.points(self.points()).count();
        let points: Vec<usize> = shard.points(self.points()).filter(|&point| !known[point]).collect();
        let finished = all - points.len();
        let work = Work::begin(observer, "sweeping", all);
        work.advances(finished);
        let evaluators = self.swept.evaluators()?;
        let progress = Mutex::new((writer, finished));
        for points in self.alike(points) {
            self.run_alike(&points, &evaluators, &progress, &work)?;
        }
        Ok(())
    }

    /// The points by what their chips compute, where images run on them, and then by the family of their chips; those of chips that cannot work among any.
    fn alike(&self, points: Vec<usize>) -> Vec<Vec<usize>> {
        // Families by their hashes, since a sweep may have a million points.
        let key = |point: usize| match self.space.hardware(point) {
            Ok(hardware) => {
                let computes = self.space.images().and_then(|_| hardware.losses_sha256());
                (computes, Some(<[u8; 32]>::from(Sha256::digest(family(&hardware)))))
            }
            Err(_) => (None, None),
        };
        let mut keyed: Vec<_> = points.into_par_iter().map(|point| (key(point), point)).collect();
        keyed.par_sort();
        let alike = keyed.chunk_by(|(a, _), (b, _)| a.0 == b.0);
        alike.map(|points| points.iter().map(|(_, point)| *point).collect()).collect()
    }

    /// Evaluates points whose chips compute the same.
    fn run_alike(
        &self,
        points: &[usize],
        evaluators: &Evaluators,
        progress: &Mutex<Progress>,
        work: &Work,
    ) -> Result<()> {
        // Before the points are shared among threads: the images are, too.
        let run = self.run_images(points, evaluators).map_err(|error| error.to_string());
        points.par_iter().try_for_each(|&point| {
            let figures = |hardware: &Hardware| {
                let evaluation = evaluators.of(hardware)?.evaluator.evaluate(hardware)?;
                run.clone().map(|run| Figures::new(&evaluation, run)).map_err(Error::Setting)
            };
            let outcome = match self.space.hardware(point).and_then(|hardware| figures(&hardware)) {
                Ok(figures) => Outcome::Figures(Box::new(figures)),
                Err(error) => Outcome::Error(error.to_string()),
            };
            let row = SweepRow { point, settings: self.space.settings(point), outcome };
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            let (writer, finished) = &mut *progress;
            writer.push(&row)?;
            *finished += 1;
            work.advances(*finished);
            Ok(())
        })
    }

    /// How many images were run on chips that compute the same, by the first of them that works, and the accuracy on them in percent; nothing where none
    /// are asked for or no chip works.
    fn run_images(&self, points: &[usize], evaluators: &Evaluators) -> Result<Option<(usize, f64)>> {
        let (Some(test), Some(images)) = (&self.swept.test, self.space.images()) else { return Ok(None) };
        let works = |&point: &usize| {
            let hardware = self.space.hardware(point).ok()?;
            let evaluators = evaluators.of(&hardware).ok()?;
            let works = evaluators.evaluator.evaluate(&hardware).is_ok();
            works.then_some((hardware, evaluators.network))
        };
        let Some((hardware, network)) = points.par_iter().find_map_first(works) else { return Ok(None) };
        let images = images.min(test.len());
        Ok(Some((images, macro_accuracy(network, &hardware, test, Some(images))?)))
    }
}
