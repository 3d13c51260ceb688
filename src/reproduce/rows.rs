//! What is known of an experiment's rows: their finished runs with mean and spread, and how far the others are.

use std::path::Path;

use super::differences::{from_finished, other_checkpoint};
use super::experiment::{Experiment, Row};
use super::paths::{run_folder, start_checkpoint};
use super::results::{Results, Run};
use crate::error::{Error, Result};
use crate::files::read_if_present;
use crate::report::text::{count, grouped};
use crate::run_folder::{METRICS, RECIPE};
use crate::train::Recipe;

/// Differences of accuracies below this are rounding.
const ROUNDING: f64 = 1e-9;

/// A row with its runs.
pub(super) struct TableRow<'a> {
    pub row: &'a Row,
    /// Finished runs, ascending by seed.
    pub runs: Vec<Run>,
    unfinished: Vec<Unfinished>,
    /// Why its runs don't count: a recipe that is wrong, or they were made with something else.
    problem: Option<String>,
    /// Hardware file of its recipe.
    pub hardware: Option<String>,
    /// Settings on top of its own.
    pub settings: Vec<String>,
}

/// A run that was stopped, or that runs now.
struct Unfinished {
    seed: u64,
    epoch: usize,
    /// None where its recipe cannot be read.
    epochs: Option<usize>,
}

/// How far a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has a finished run.
    Finished,
    /// It has none yet, but one that was begun.
    Unfinished,
    /// Nothing was run.
    Missing,
    /// Its recipe is wrong, or its runs were made with something else.
    Unusable,
}

impl State {
    /// The word for it in CSV and JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Unfinished => "unfinished",
            Self::Missing => "missing",
            Self::Unusable => "unusable",
        }
    }
}

/// Mean of several numbers, with the least and the largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub mean: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// Of at least one number.
    fn new(values: &[f64]) -> Self {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let fold = |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose).unwrap_or(f64::NAN);
        Self { mean, min: fold(f64::min), max: fold(f64::max) }
    }
}

impl<'a> TableRow<'a> {
    /// Reads what there is: finished runs from the results, begun ones from the run folders. What cannot be read of this row becomes its
    /// problem, and keeps nobody from the others.
    ///
    /// # Errors
    /// The row's finished runs cannot be read.
    pub fn read(
        experiment: &Experiment,
        row: &'a Row,
        settings: &[String],
        results: &Results,
        folder: &Path,
    ) -> Result<Self> {
        let runs = results.runs(&row.name)?;
        let recipe = experiment.recipe(row, settings);
        let hardware = recipe.as_ref().ok().and_then(|recipe| recipe.hardware.clone());
        let found = recipe.and_then(|recipe| {
            let different = other_than_planned(row, &recipe, &runs, results, folder)?;
            Ok((different, unfinished(row, &runs, folder)?))
        });
        let (problem, unfinished) = found.unwrap_or_else(|error| (Some(error.to_string()), Vec::new()));
        let runs = if problem.is_some() { Vec::new() } else { runs };
        Ok(Self { row, runs, unfinished, problem, hardware, settings: settings.to_vec() })
    }

    /// Mean and spread of a figure over the runs; none without runs, or where one doesn't have it.
    pub fn spread(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<Spread> {
        let values: Vec<f64> = self.runs.iter().map(figure).collect::<Option<_>>()?;
        (!values.is_empty()).then(|| Spread::new(&values))
    }

    /// A figure of the first seed, whose package is kept; none without runs.
    pub fn of_first_seed(&self, figure: impl Fn(&Run) -> f64) -> Option<f64> {
        self.runs.first().map(figure)
    }

    pub fn accuracy(&self) -> Option<Spread> {
        self.spread(|run| Some(run.accuracy))
    }

    /// `F`, on average.
    pub fn float_accuracy(&self) -> Option<f64> {
        self.spread(|run| run.float_accuracy).map(|spread| spread.mean)
    }

    /// Points that the accuracy is above `F`, on average.
    pub fn difference(&self) -> Option<f64> {
        self.spread(|run| Some(run.accuracy - run.float_accuracy?)).map(|spread| spread.mean)
    }

    /// Points that the difference is above the bar.
    pub fn above_bar(&self) -> Option<f64> {
        let above = self.difference()? + self.row.bar?.below;
        Some(if above.abs() < ROUNDING { 0.0 } else { above })
    }

    pub fn state(&self) -> State {
        match self {
            Self { problem: Some(_), .. } => State::Unusable,
            Self { runs, .. } if !runs.is_empty() => State::Finished,
            Self { unfinished, .. } if !unfinished.is_empty() => State::Unfinished,
            _ => State::Missing,
        }
    }

    /// What stands in the place of numbers.
    pub fn status(&self, missing: &str) -> String {
        match self.state() {
            State::Unusable => self.problem.clone().unwrap_or_default(),
            State::Finished | State::Unfinished => self.unfinished(),
            State::Missing => missing.into(),
        }
    }

    pub fn unfinished(&self) -> String {
        let first = |seed| seed == 0 && self.runs.is_empty();
        let seed = |seed| if first(seed) { String::new() } else { format!("seed {seed} ") };
        let runs = self.unfinished.iter();
        let text = runs.map(|run| match run.epochs {
            Some(epochs) => format!("{}unfinished, epoch {} of {epochs}", seed(run.seed), run.epoch),
            None => format!("{}unfinished, its {RECIPE} cannot be read", seed(run.seed)),
        });
        text.collect::<Vec<_>>().join("; ")
    }

    pub fn seeds(&self) -> String {
        let finished = if self.runs.len() == 1 { "one seed".into() } else { count(self.runs.len(), "seed") };
        [finished, self.unfinished()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
    }

    pub fn accuracy_text(&self) -> Option<String> {
        let Spread { mean, min, max } = self.accuracy()?;
        Some(match self.runs.len() {
            1 => format!("{mean:.2} %"),
            _ => format!("{mean:.2} % ({min:.2} to {max:.2})"),
        })
    }

    pub fn bar_text(&self) -> String {
        let Some(bar) = self.row.bar else { return String::new() };
        match self.above_bar() {
            Some(above) if above >= 0.0 => format!("{bar}: met"),
            Some(above) => format!("{bar}: missed by {:.2}", -above),
            None => bar.to_string(),
        }
    }

    /// Differences of fake-quant predictions and of integer logits from the macro model: of the worst run.
    pub fn mismatches(&self) -> String {
        let worst = |found: fn(&Run) -> Option<usize>| {
            let found: Option<Vec<usize>> = self.runs.iter().map(found).collect();
            found.and_then(|found| found.into_iter().max()).map_or("-".into(), |found| grouped(found as u64))
        };
        let predictions = worst(|run| run.mismatches.fake_quant_vs_macro_predictions);
        format!("{predictions} / {}", worst(|run| Some(run.mismatches.integer_vs_macro_logits)))
    }
}

/// How what finished runs were made with differs from what their row says.
fn other_than_planned(
    row: &Row,
    recipe: &Recipe,
    finished: &[Run],
    results: &Results,
    folder: &Path,
) -> Result<Option<String>> {
    if finished.is_empty() {
        return Ok(None);
    }
    let mut different = from_finished(results, &row.name, recipe)?;
    for run in finished {
        let start = start_checkpoint(row, recipe, folder, results, run.seed);
        different.extend(other_checkpoint(start.as_deref(), run.checkpoint_sha256.as_deref())?);
    }
    different.dedup();
    let text = format!("its results are of something else: {}", different.join("; "));
    Ok((!different.is_empty()).then_some(text))
}

/// Runs of a row that were begun and aren't among the finished ones, ascending by seed.
fn unfinished(row: &Row, finished: &[Run], runs: &Path) -> Result<Vec<Unfinished>> {
    let folder = runs.join(&row.name);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(&folder))?,
    };
    let mut seeds = Vec::new();
    for entry in entries {
        let name = entry.map_err(Error::io(&folder))?.file_name();
        let seed = name.to_str().and_then(|name| name.strip_prefix("seed-")?.parse::<u64>().ok());
        seeds.extend(seed.filter(|seed| finished.iter().all(|run| run.seed != *seed)));
    }
    seeds.sort_unstable();
    let mut unfinished = Vec::new();
    for seed in seeds {
        let folder = run_folder(runs, &row.name, seed);
        let recipe = folder.join(RECIPE);
        if recipe.exists() {
            // One that another version wrote, or is writing, keeps nobody from the finished runs.
            let epochs = Recipe::load(Some(&recipe), &[]).ok().map(|recipe| recipe.epochs());
            // There is no file before the first epoch's end.
            let epoch = read_if_present(&folder.join(METRICS))?.map_or(0, |text| text.lines().count());
            unfinished.push(Unfinished { seed, epoch, epochs });
        }
    }
    Ok(unfinished)
}
