//! Runs what is unfinished of an experiment, row by row, seed after seed.

use std::collections::btree_map::{BTreeMap, Entry};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::differences::{differences, from_finished, other_checkpoint, sha256};
use super::experiment::{Experiment, Row, RowStart};
use super::paths::{run_folder, start_checkpoint};
use super::results::{Results, Run};
use super::table::Table;
use crate::data::DataOptions;
use crate::error::{Error, Result};
use crate::files::{exists, read_if_present, remove_if_present, to_json, write_atomically};
use crate::network::weights_file;
use crate::observer::{Observer, StopSignal};
use crate::package::is_package;
use crate::run::{Cpu, Environment, Outcome, Plan, dataset};
use crate::run_folder::{DEPLOYMENT, EpochReport, LAST, METRICS, PACKAGE, PhaseKind, RECIPE, RunLock};
use crate::train::{Recipe, StartFrom};
use crate::validation::Deployment;

/// The file in a run folder that says what the run started from.
const START: &str = "start.json";

/// What to run of an experiment, and where.
#[derive(Clone)]
pub struct Reproduction<'a> {
    /// The experiment.
    pub experiment: &'a Experiment,
    /// The rows to run, in this order.
    pub rows: Vec<&'a Row>,
    /// Seeds 0 to `seeds - 1`.
    pub seeds: u64,
    /// Settings `key=value` on top of these rows'.
    pub settings: Vec<String>,
    /// Where data sets lie.
    pub data: DataOptions,
    /// Name of the device.
    pub device: String,
    /// Folder of the run folders `ROW/seed-S`.
    pub runs: PathBuf,
    /// What is finished.
    pub results: Results,
    /// Hears how far it is.
    pub observer: &'a dyn Observer,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All rows are finished.
    Finished,
    /// Ctrl-C: the same call goes on.
    Interrupted,
}

/// A run that isn't finished.
struct Job<'a> {
    row: &'a Row,
    recipe: Recipe,
    seed: u64,
    data_sha256: String,
}

/// What a run started from.
#[derive(PartialEq, Serialize, Deserialize)]
struct Start {
    /// SHA-256 of the checkpoint; absent for random weights.
    checkpoint_sha256: Option<String>,
    /// Of the test images.
    data_sha256: String,
    /// Accuracy of the checkpoint, in percent.
    float_accuracy: Option<f64>,
}

impl Reproduction<'_> {
    /// Runs what is unfinished and writes the tables after each run. A run that fails doesn't keep the others from running.
    ///
    /// # Errors
    /// Before anything runs: a recipe, checkpoint or data set that is missing or wrong; a finished row that another recipe, chip,
    /// network, checkpoint or data set gave. At the end: the runs that failed.
    pub fn run(&self, stop: &StopSignal) -> Result<Verdict> {
        let jobs = self.jobs()?;
        let mut failed = Vec::new();
        for job in &jobs {
            if stop.is_stopped() {
                return Ok(Verdict::Interrupted);
            }
            let name = format!("row `{}`, seed {}", job.row.name, job.seed);
            self.observer.notice(&name);
            let outcome = self.run_job(job, stop);
            let written = self.write_table();
            match outcome.and_then(|verdict| written.map(|_| verdict)) {
                Ok(Verdict::Finished) => {}
                Ok(Verdict::Interrupted) => return Ok(Verdict::Interrupted),
                Err(error) => {
                    self.observer.notice(&format!("{name} failed: {error}"));
                    failed.push(format!("{name}: {error}"));
                }
            }
        }
        match failed.as_slice() {
            [] => Ok(Verdict::Finished),
            failed => Err(Error::Setting(failed.join("; "))),
        }
    }

    /// Writes the table of what there is.
    ///
    /// # Errors
    /// Results that cannot be read, a file that cannot be written.
    pub fn write_table(&self) -> Result<Table<'_>> {
        let _lock = self.results.lock()?;
        let runs = |row: &Row| self.rows.iter().any(|other| other.name == row.name);
        let settings = |row: &Row| if runs(row) { self.settings.as_slice() } else { &[] };
        let table = Table::new(self.experiment, settings, &self.results, &self.runs)?;
        table.write()?;
        Ok(table)
    }

    fn environment(&self) -> Environment<'_> {
        Environment { data: &self.data, device: &self.device, observer: self.observer }
    }

    /// What is left to run, checked.
    fn jobs(&self) -> Result<Vec<Job<'_>>> {
        let mut data = BTreeMap::new();
        let mut jobs = Vec::new();
        for seed in 0..self.seeds {
            for &row in &self.rows {
                let recipe = self.experiment.recipe(row, &self.settings)?;
                // A package says the size of its images.
                let package = Some(recipe.model.clone()).filter(|model| is_package(Path::new(model)));
                let data_sha256 = match data.entry((recipe.dataset.clone(), recipe.image_size, package)) {
                    Entry::Occupied(known) => String::clone(known.get()),
                    Entry::Vacant(unknown) => {
                        unknown.insert(dataset(&recipe, self.environment())?.test.sha256()).clone()
                    }
                };
                let job = Job { row, recipe, seed, data_sha256 };
                if !self.is_finished(&job)? {
                    self.check_start(&job, &jobs)?;
                    jobs.push(job);
                }
            }
        }
        Ok(jobs)
    }

    /// Whether the results have the run; those that something else gave are an error.
    fn is_finished(&self, job: &Job) -> Result<bool> {
        let runs = self.results.runs(&job.row.name)?;
        if runs.is_empty() {
            return Ok(false);
        }
        let mut different = from_finished(&self.results, &job.row.name, &job.recipe)?;
        let run = runs.iter().find(|run| run.seed == job.seed);
        if let Some(run) = run {
            different.extend(self.other_start(job, run.checkpoint_sha256.as_deref(), &run.data_sha256)?);
        }
        if different.is_empty() {
            return Ok(run.is_some());
        }
        let message = format!(
            "the finished row differs from what is to run ({}): remove this folder and the row's in {} to run it again, or name \
             another --results and --run",
            different.join("; "),
            self.runs.display()
        );
        Err(Error::file(&self.results.row_folder(&job.row.name), message))
    }

    /// What of the checkpoint and the data that a run started from isn't what is to run.
    fn other_start(&self, job: &Job, checkpoint_sha256: Option<&str>, data_sha256: &str) -> Result<Vec<String>> {
        let checkpoint = other_checkpoint(self.checkpoint(job).as_deref(), checkpoint_sha256)?;
        let test_images =
            (data_sha256 != job.data_sha256).then(|| format!("the test images of {}", job.recipe.dataset));
        Ok(checkpoint.into_iter().chain(test_images).collect())
    }

    fn checkpoint(&self, job: &Job) -> Option<PathBuf> {
        start_checkpoint(job.row, &job.recipe, &self.runs, &self.results, job.seed)
    }

    /// Checks that what a run starts from is there, or is made by one `before` it.
    fn check_start(&self, job: &Job, before: &[Job]) -> Result<()> {
        let row = &job.row.name;
        let Some(start) = &job.row.start else {
            let Some(file) = self.checkpoint(job).filter(|file| !exists(&weights_file(file).0)) else { return Ok(()) };
            let message = format!(
                "row `{row}` starts from {}, which is missing: train it (checkpoints/README.md), or name another with --set pretrained=FILE",
                file.display()
            );
            return Err(Error::file(&self.experiment.path, message));
        };
        let seed = start.seed(job.seed);
        if before.iter().any(|other| other.row.name == start.row() && other.seed == seed) {
            return Ok(());
        }
        self.start_run(start, job.seed)
            .map(drop)
            .map_err(|error| Error::Setting(format!("row `{row}`, seed {}: {error}", job.seed)))
    }

    fn run_job(&self, job: &Job, stop: &StopSignal) -> Result<Verdict> {
        let folder = run_folder(&self.runs, &job.row.name, job.seed);
        let lock = RunLock::new(&folder)?;
        let before = match &job.row.start {
            Some(start) => Some(self.start_run(start, job.seed)?),
            None => None,
        };
        let checkpoint = self.checkpoint(job);
        let resume = folder.join(LAST).exists();
        if resume {
            self.check_resumed(job, &folder)?;
        } else {
            // Of a run that was stopped before its first checkpoint, or lost it.
            for name in [RECIPE, METRICS] {
                remove_if_present(&folder.join(name))?;
            }
        }
        let plan = if resume {
            Plan::resume(folder.clone(), Cpu::Same, self.environment())?
        } else {
            let pretrained = checkpoint.clone().map_or(StartFrom::Random, StartFrom::File);
            let recipe = Recipe { pretrained, seed: job.seed, ..job.recipe.clone() };
            Plan::new(recipe, Some(folder.clone()), self.environment())?
        };
        if !resume {
            let float_accuracy = match &checkpoint {
                Some(file) => {
                    let accuracy = plan.evaluate()?.accuracy;
                    self.observer.notice(&format!("float accuracy of {}: {accuracy:.2} %", file.display()));
                    Some(accuracy)
                }
                None => None,
            };
            let checkpoint_sha256 = checkpoint.as_deref().map(|file| sha256(&weights_file(file).0)).transpose()?;
            let start = Start { checkpoint_sha256, data_sha256: job.data_sha256.clone(), float_accuracy };
            write_atomically(&folder.join(START), to_json(&start)?.as_bytes())?;
        }
        match plan.run_locked(&lock, stop)? {
            Outcome::Interrupted(_) => Ok(Verdict::Interrupted),
            Outcome::Finished(_, deployment) => {
                deployment.check_agreement(&folder.join(PACKAGE))?;
                self.record(job, &folder, before, &deployment)?;
                Ok(Verdict::Finished)
            }
        }
    }

    /// The finished run that a run of this seed starts from.
    fn start_run(&self, start: &RowStart, seed: u64) -> Result<Run> {
        let (row, seed) = (start.row(), start.seed(seed));
        let wrong = |message: String| {
            Error::file(&self.experiment.path, format!("it starts from row `{row}`, seed {seed}, {message}"))
        };
        let run = self.results.runs(row)?.into_iter().find(|run| run.seed == seed);
        let run = run.ok_or_else(|| wrong("which isn't finished: run that row first".into()))?;
        if let RowStart::Package(_) = start {
            let package = self.results.row_folder(row).join(PACKAGE);
            return match package.exists() {
                true => Ok(run),
                false => Err(wrong(format!("which is finished, but {} isn't there", package.display()))),
            };
        }
        let folder = run_folder(&self.runs, row, seed);
        let again = format!(
            "run both rows with another --results and --run, or remove {} to run that row again",
            self.results.row_folder(row).display()
        );
        // A run that isn't finished has no report yet.
        if !folder.join(LAST).exists() || !folder.join(DEPLOYMENT).exists() {
            return Err(wrong(format!("which is finished, but not in {}: {again}", folder.display())));
        }
        let made = Recipe::load(Some(&folder.join(RECIPE)), &[])?;
        match differences(&self.results.recipe(row)?, &made)?.as_slice() {
            [] => Ok(run),
            different => {
                let different = different.join("; ");
                Err(wrong(format!("but {} is another run ({different}): {again}", folder.display())))
            }
        }
    }

    /// A run goes on only from where the same recipe, checkpoint and data brought it.
    fn check_resumed(&self, job: &Job, folder: &Path) -> Result<()> {
        let made = Recipe::load(Some(&folder.join(RECIPE)), &[])?;
        let mut different = differences(&made, &job.recipe)?;
        let start = read_start(folder)?;
        different.extend(self.other_start(job, start.checkpoint_sha256.as_deref(), &start.data_sha256)?);
        if different.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the unfinished run differs from what is to run ({}): remove the folder to start again, or name another --run",
            different.join("; ")
        );
        Err(Error::file(folder, message))
    }

    fn record(&self, job: &Job, folder: &Path, before: Option<Run>, deployment: &Deployment) -> Result<()> {
        let start = read_start(folder)?;
        let (epochs, float_accuracy) = match before {
            Some(run) => (run.epochs, run.float_accuracy),
            None => {
                let float = float_accuracy(&job.recipe, folder, start.float_accuracy, deployment.accuracy.float)?;
                (0, float)
            }
        };
        let epochs = epochs + job.recipe.epochs();
        let run = Run::new(job.seed, epochs, float_accuracy, start.checkpoint_sha256, deployment);
        self.results.record(&job.row.name, run, folder)
    }
}

fn read_start(folder: &Path) -> Result<Start> {
    let path = folder.join(START);
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(|error| Error::file(&path, error.to_string()))
}

/// Test accuracy of the float network before any compression: of a run that trains it what `folder` says, or where its test images are met at the end alone
/// and all groups stay, what it `deployed`; of another what it `started` from.
fn float_accuracy(recipe: &Recipe, folder: &Path, started: Option<f64>, deployed: Option<f64>) -> Result<Option<f64>> {
    Ok(match recipe.phases[0].kind {
        PhaseKind::Float => last_float_accuracy(folder)?.or(deployed.filter(|_| !recipe.sparsifies())),
        PhaseKind::Sparsify | PhaseKind::Quantize => started,
    })
}

/// Test accuracy after the last float epoch before any compression, if there was one.
fn last_float_accuracy(folder: &Path) -> Result<Option<f64>> {
    let path = folder.join(METRICS);
    let lines: Vec<EpochReport> = read_if_present(&path)?
        .unwrap_or_default()
        .lines()
        .map(|line| serde_json::from_str(line).map_err(|error| Error::file(&path, error.to_string())))
        .collect::<Result<_>>()?;
    let float = lines.iter().take_while(|line| line.phase == PhaseKind::Float);
    Ok(float.last().and_then(|line| line.test_accuracy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Phase;

    #[test]
    fn a_run_that_trains_its_float_network_does_not_take_the_accuracy_of_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let found = |kinds: &[PhaseKind]| {
            let phases = kinds.iter().map(|&kind| Phase::new(kind, 1, 0.1)).collect();
            let recipe = Recipe { phases, ..Recipe::default() };
            float_accuracy(&recipe, folder.path(), Some(10.0), Some(90.0)).unwrap()
        };
        use PhaseKind::{Float, Quantize, Sparsify};
        assert_eq!(found(&[Float, Quantize]), Some(90.0));
        assert_eq!(found(&[Float, Sparsify, Quantize]), None);
        assert_eq!([found(&[Quantize]), found(&[Sparsify, Quantize])], [Some(10.0); 2]);
    }

    /// What a float phase after groups are gone comes to isn't the float network's.
    #[test]
    fn the_float_accuracy_is_of_the_network_before_compression() {
        let folder = tempfile::tempdir().unwrap();
        let phases = |kinds: &[PhaseKind]| {
            let line = |(index, &phase): (usize, &PhaseKind)| {
                let epoch = EpochReport {
                    phase,
                    epoch: 1,
                    loss: 1.0,
                    train_accuracy: 50.0,
                    validation_accuracy: None,
                    test_accuracy: Some(index as f64 + 0.5),
                    learning_rate: 0.1,
                    images_per_second: 100.0,
                    group_sparsity: 0.0,
                    penalty: 0.0,
                    seconds: 1.0,
                };
                serde_json::to_string(&epoch).unwrap() + "\n"
            };
            let lines: String = kinds.iter().enumerate().map(line).collect();
            std::fs::write(folder.path().join(METRICS), lines).unwrap();
            last_float_accuracy(folder.path()).unwrap()
        };
        use PhaseKind::{Float, Quantize, Sparsify};
        assert_eq!(phases(&[Float, Float, Sparsify, Float, Quantize]), Some(1.5));
        assert_eq!(phases(&[Sparsify, Float, Quantize]), None);
    }
}
