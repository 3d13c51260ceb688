//! The table of an experiment: what its rows' runs gave on average and how far they spread, as Markdown, CSV, JSON and text.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::curves::curves;
use super::experiment::{Bar, Claim, ClaimedFigure, Experiment, Row};
use super::plot::plot;
use super::results::{CostFigures, Results, Run};
use super::rows::{State, TableRow};
use crate::error::Result;
use crate::files::{remove_if_present, to_json, write_atomically};
use crate::report::text::{energy, for_a_shell, grouped, percent, quoted};
use crate::run_folder::PACKAGE;

/// The rows of an experiment with what is known of them.
pub struct Table<'a> {
    experiment: &'a Experiment,
    results: &'a Results,
    rows: Vec<TableRow<'a>>,
}

impl<'a> Table<'a> {
    /// Reads what there is: finished runs from the results, begun ones from the run folders.
    ///
    /// `settings` gives those on top of a row's; runs that were made with another recipe or from another checkpoint don't count.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn new<'s>(
        experiment: &'a Experiment,
        settings: impl Fn(&Row) -> &'s [String],
        results: &'a Results,
        runs: &Path,
    ) -> Result<Self> {
        let rows = experiment.rows.iter().map(|row| TableRow::read(experiment, row, settings(row), results, runs));
        Ok(Self { experiment, results, rows: rows.collect::<Result<_>>()? })
    }

    /// How far each row is, in order.
    pub fn states(&self) -> Vec<State> {
        self.rows.iter().map(TableRow::state).collect()
    }

    /// Writes `table.md`, `table.csv`, `table.svg`, and `curves.svg` if there are any, beside the results.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) fn write(&self) -> Result<()> {
        let folder = self.results.folder();
        write_atomically(&folder.join("table.md"), self.markdown().as_bytes())?;
        write_atomically(&folder.join("table.csv"), self.csv().as_bytes())?;
        write_atomically(&folder.join("table.svg"), plot(&self.experiment.title, &self.rows).as_bytes())?;
        let file = folder.join("curves.svg");
        match curves(&self.experiment.title, &self.rows) {
            Some(page) => write_atomically(&file, page.as_bytes()),
            None => remove_if_present(&file),
        }
    }

    /// The table as Markdown, with what its columns mean and how to check a row.
    pub fn markdown(&self) -> String {
        let Experiment { title, note, claims, path, .. } = self.experiment;
        let mut text = format!("# {title}\n\n");
        let settings = self.settings();
        if !settings.is_empty() {
            text += &format!("With{settings}: what is said of data and training may be something else.\n\n");
        }
        if let Some(note) = note {
            text += &format!("{}\n\n", note.trim());
        }
        if !claims.is_empty() {
            text += &markdown_table(&CLAIM_HEADINGS, &self.claim_cells());
            text += &format!("\n{CLAIM_NOTE}\n\n");
        }
        let rows: Vec<_> = self.rows.iter().map(markdown_cells).collect();
        let headings: Vec<&str> = rows.first().into_iter().flatten().map(|(heading, _)| *heading).collect();
        let rows: Vec<Vec<String>> =
            rows.iter().map(|cells| cells.iter().map(|(_, cell)| cell.clone()).collect()).collect();
        text += &markdown_table(&headings, &rows);
        text += "\nAccuracy is that of the macro model on all test images after the last epoch, which is what training reported as \
                 fake-quant; of several seeds the mean (and the least to the largest). F is the float network before any compression. \
                 All else is of the first seed. Costs are per frame with weight reload charged. *Smaller*: dense weights at the same bits / (stored weights and \
                 index codes). Dense-equivalent TOPS/W counts the operations of the dense network, executed those of kept groups: \
                 one is never to be compared with the other. *Differ*: fake-quant predictions / integer logits that are not the \
                 macro model's.\n\n![table.svg](table.svg)\n";
        if curves(title, &self.rows).is_some() {
            text += "\n![curves.svg](curves.svg)\n";
        }
        let checks: String =
            self.rows.iter().filter(|row| !row.runs.is_empty()).filter_map(|row| self.check(row)).collect();
        if !checks.is_empty() {
            text += &format!(
                "\nCheck a row in a minute (its first seed; `deploy.json` beside it is the answer):\n\n```\n{checks}```\n"
            );
        }
        let seeds = self.rows.iter().map(|row| row.runs.len()).max().unwrap_or(0).max(1);
        let rows = if claims.is_empty() {
            String::new()
        } else {
            format!(" --rows {}", self.rows.iter().map(|row| row.row.name.as_str()).collect::<Vec<_>>().join(","))
        };
        text + &format!(
            "\nRun them again: `mars-reproduce {}{rows}{settings} --seeds {seeds} --run FOLDER --results FOLDER`.\n",
            for_a_shell(&path.display().to_string())
        )
    }

    /// The settings on top of the experiment's, as arguments; empty where there are none.
    fn settings(&self) -> String {
        let settings: BTreeSet<&String> = self.rows.iter().flat_map(|row| &row.settings).collect();
        settings.into_iter().map(|setting| format!(" --set {}", for_a_shell(setting))).collect()
    }

    /// The command that checks a row whose package is kept: some are too large.
    fn check(&self, row: &TableRow) -> Option<String> {
        let package = self.results.row_folder(&row.row.name).join(PACKAGE);
        let hardware = row.hardware.as_ref().map_or(String::new(), |file| format!(" --hardware {}", for_a_shell(file)));
        let name = for_a_shell(&package.display().to_string());
        package.exists().then(|| format!("mars-deploy {name}{hardware}\n"))
    }

    /// The rows as CSV: one line each, numbers as they are.
    pub fn csv(&self) -> String {
        let lines: Vec<Vec<(&str, String)>> = self.rows.iter().map(csv_cells).collect();
        let header = lines.first().into_iter().map(|cells| cells.iter().map(|(key, _)| key.to_string()).collect());
        let lines = lines.iter().map(|cells| cells.iter().map(|(_, cell)| quoted(cell)).collect());
        header.chain(lines).map(|cells: Vec<String>| cells.join(",") + "\n").collect()
    }

    /// The rows with all runs, as JSON.
    ///
    /// # Errors
    /// None that is known: every field has a form in JSON.
    pub fn json(&self) -> Result<String> {
        let row = |row: &TableRow| {
            json!({
                "name": row.row.name,
                "label": row.row.label,
                "state": row.state().name(),
                "status": row.status("not run yet"),
                "bar": row.row.bar,
                "met": row.above_bar().map(|above| above >= 0.0),
                "accuracy_mean": row.accuracy().map(|spread| spread.mean),
                "difference_mean": row.difference(),
                "runs": row.runs,
            })
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        let Experiment { name, title, .. } = self.experiment;
        to_json(&json!({ "name": name, "title": title, "rows": rows }))
    }

    /// The rows in a few columns, and the claims, for a terminal.
    pub fn text(&self) -> String {
        let width = self.rows.iter().map(|row| row.row.label.chars().count()).max().unwrap_or(0);
        let mut text = self.claims_text(width);
        text += &format!("{}{}\n\n", self.experiment.title, self.settings());
        let head = format!("  {:<width$} {:>6} {:>8}  {:<27} {:>6}  bar", "row", "epochs", "F", "accuracy", "points");
        text += &(head + "\n");
        for row in &self.rows {
            let label = &row.row.label;
            let line = match row.runs.first() {
                None => format!("  {label:<width$} {:>6} {:>8}  {}", "", "", row.status("not run yet")),
                Some(run) => format!(
                    "  {label:<width$} {:>6} {:>8}  {:<27} {:>6}  {}{}",
                    run.epochs,
                    row.float_accuracy().map_or("-".into(), |accuracy| format!("{accuracy:.2} %")),
                    row.accuracy_text().unwrap_or_default(),
                    row.difference().map_or("-".into(), |difference| format!("{difference:+.2}")),
                    row.bar_text(),
                    match row.unfinished() {
                        text if text.is_empty() => text,
                        text => format!("  ({text})"),
                    },
                ),
            };
            text += &format!("{}\n", line.trim_end());
        }
        text
    }

    fn claims_text(&self, width: usize) -> String {
        let mut text = String::new();
        for Claim { says, label, figure, rows } in &self.experiment.claims {
            text += &format!("{says}\n  [{label}]\n");
            for row in self.rows.iter().filter(|row| rows.contains(&row.row.name)) {
                let ours = match claimed(row, *figure) {
                    Some([with, without]) => format!("{with}; without weight reload {without}"),
                    None => row.status("not trained yet"),
                };
                text += &format!("    {:<width$}  {ours}\n", row.row.label);
            }
        }
        if !text.is_empty() {
            text += &format!("{CLAIM_NOTE}\n\n");
        }
        text
    }

    fn claim_cells(&self) -> Vec<Vec<String>> {
        let cells = |claim: &Claim, row: &TableRow| {
            let ours = claimed(row, claim.figure).map_or([row.status("not trained yet"), String::new()], |ours| ours);
            [[claim.says.clone(), claim.label.clone(), row.row.label.clone()].to_vec(), ours.to_vec()].concat()
        };
        let of = |claim: &'a Claim| {
            self.rows.iter().filter(|row| claim.rows.contains(&row.row.name)).map(move |row| cells(claim, row))
        };
        self.experiment.claims.iter().flat_map(of).collect()
    }
}

const CLAIM_HEADINGS: [&str; 5] = ["the paper", "label", "ours", "with weight reload", "without"];
const CLAIM_NOTE: &str = "Labels: Q quoted, I inferred, R recalled. Ours are measured on trained, exported packages with this project's\n\
                          choice of bits, sparsity and clock; the paper's aren't known. Dense-equivalent TOPS/W stand beside a claim;\n\
                          executed TOPS/W are another count, never to be compared with it.";

/// What stands beside a claim, with weight reload and without.
fn claimed(row: &TableRow, figure: ClaimedFigure) -> Option<[String; 2]> {
    let text = |figures: fn(&Run) -> &CostFigures| {
        let of = |figure: fn(&CostFigures) -> f64| row.of_first_seed(|run| figure(figures(run)));
        Some(match figure {
            ClaimedFigure::Fps => format!("{:.0} frames/s", of(|cost| cost.fps)?),
            ClaimedFigure::TopsPerWattDenseEquivalent => format!(
                "{:.1} TOPS/W dense-equivalent, {:.1} executed",
                of(|cost| cost.tops_per_watt_dense_equivalent)?,
                of(|cost| cost.tops_per_watt_executed)?
            ),
        })
    };
    Some([text(|run| &run.cost)?, text(|run| &run.cost_without_reload)?])
}

fn markdown_table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let head: Vec<String> = headings.iter().map(|heading| heading.to_string()).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    format!("{}|{}\n{rows}", line(&head), "---|".repeat(headings.len()))
}

/// The cells of a row under their headings; one that wasn't run says so in place of its seeds.
fn markdown_cells(row: &TableRow) -> Vec<(&'static str, String)> {
    let run = row.runs.first();
    let unknown = if run.is_some() { "-" } else { "" };
    let number = |value: Option<f64>, text: fn(f64) -> String| value.map_or(unknown.into(), text);
    vec![
        ("row", row.row.label.clone()),
        ("seeds", if run.is_some() { row.seeds() } else { row.status("not run yet") }),
        ("epochs", run.map_or(String::new(), |run| run.epochs.to_string())),
        ("float F", number(row.float_accuracy(), |accuracy| format!("{accuracy:.2} %"))),
        ("accuracy", row.accuracy_text().unwrap_or_default()),
        ("difference", number(row.difference(), |difference| format!("{difference:+.2}"))),
        ("bar", row.bar_text()),
        ("groups zero", number(row.of_first_seed(|run| run.group_sparsity), percent)),
        ("smaller", number(row.of_first_seed(|run| run.ratio), |ratio| format!("{ratio:.2} x"))),
        ("cycles", number(row.of_first_seed(|run| run.cost.cycles), |cycles| grouped(cycles.round() as u64))),
        ("frames/s", number(row.of_first_seed(|run| run.cost.fps), |fps| format!("{fps:.0}"))),
        ("energy", number(row.of_first_seed(|run| run.cost.energy_uj), |uj| format!("{} uJ", energy(uj)))),
        (
            "TOPS/W, dense-equivalent",
            number(row.of_first_seed(|run| run.cost.tops_per_watt_dense_equivalent), |tops| format!("{tops:.2}")),
        ),
        (
            "TOPS/W, executed",
            number(row.of_first_seed(|run| run.cost.tops_per_watt_executed), |tops| format!("{tops:.2}")),
        ),
        ("differ", if run.is_some() { row.mismatches() } else { String::new() }),
    ]
}

fn csv_cells(row: &TableRow) -> Vec<(&'static str, String)> {
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    let first = |figure: fn(&Run) -> f64| number(row.of_first_seed(figure));
    let most =
        |found: fn(&Run) -> Option<usize>| number(row.spread(|run| found(run).map(|it| it as f64)).map(|it| it.max));
    let accuracy = row.accuracy();
    vec![
        ("row", row.row.name.clone()),
        ("label", row.row.label.clone()),
        ("state", row.state().name().into()),
        ("status", row.status("not run yet")),
        ("seeds", row.runs.len().to_string()),
        ("epochs", row.runs.first().map_or(String::new(), |run| run.epochs.to_string())),
        ("images", row.runs.first().map_or(String::new(), |run| run.images.to_string())),
        ("float_accuracy", number(row.float_accuracy())),
        ("accuracy_mean", number(accuracy.map(|spread| spread.mean))),
        ("accuracy_min", number(accuracy.map(|spread| spread.min))),
        ("accuracy_max", number(accuracy.map(|spread| spread.max))),
        ("difference", number(row.difference())),
        ("bar", row.row.bar.map_or(String::new(), |bar: Bar| bar.to_string())),
        ("met", row.above_bar().map_or(String::new(), |above| (above >= 0.0).to_string())),
        ("group_sparsity", first(|run| run.group_sparsity)),
        ("ratio", first(|run| run.ratio)),
        ("cycles", first(|run| run.cost.cycles)),
        ("fps", first(|run| run.cost.fps)),
        ("energy_uj", first(|run| run.cost.energy_uj)),
        ("tops_per_watt_dense_equivalent", first(|run| run.cost.tops_per_watt_dense_equivalent)),
        ("tops_per_watt_executed", first(|run| run.cost.tops_per_watt_executed)),
        ("cycles_without_reload", first(|run| run.cost_without_reload.cycles)),
        ("fps_without_reload", first(|run| run.cost_without_reload.fps)),
        ("energy_uj_without_reload", first(|run| run.cost_without_reload.energy_uj)),
        (
            "tops_per_watt_dense_equivalent_without_reload",
            first(|run| run.cost_without_reload.tops_per_watt_dense_equivalent),
        ),
        ("tops_per_watt_executed_without_reload", first(|run| run.cost_without_reload.tops_per_watt_executed)),
        ("fake_quant_vs_integer_predictions", most(|run| run.mismatches.fake_quant_vs_integer_predictions)),
        ("fake_quant_vs_macro_predictions", most(|run| run.mismatches.fake_quant_vs_macro_predictions)),
        ("integer_vs_macro_logits", most(|run| Some(run.mismatches.integer_vs_macro_logits))),
    ]
}
