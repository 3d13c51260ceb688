//! Runs an experiment, a table whose rows are runs, with seeds, and writes the table.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use mars::cli::{CommonArgs, exit, folder, parse, say, stop_on_interrupt};
use mars::error::{Error, Result};
use mars::reproduce::{Experiment, FOLDER, Reproduction, Results, State, Table, Verdict};
use mars::simd::isa_limit;
use mars::terminal::notice;
use mars::train::{Allocator, DEFAULT_DEVICE, keep_memory};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Run an experiment, a table whose rows are runs, and write the table: Markdown, CSV and SVG, with mean and spread over the seeds.
/// What is finished is not run again; what was interrupted goes on. An experiment with a paper's claims (`paper`) prints them beside
/// what was measured, and runs only the rows that are named with --rows.
#[derive(Parser, Debug)]
#[command(
    version,
    override_usage = "mars-reproduce [OPTIONS] <NAME>\n       mars-reproduce --list",
    allow_negative_numbers = true
)]
struct Arguments {
    /// Name of an experiment in experiments/, or its file
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// List the experiments and how far they are
    #[arg(long)]
    list: bool,
    /// Only rewrite the table from what there is
    #[arg(long, conflicts_with_all = ["seeds", "rows"])]
    table: bool,
    /// Run with seeds 0 to N - 1 [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Run only these rows, in this order
    #[arg(long, value_name = "ROW,..", value_delimiter = ',')]
    rows: Vec<String>,
    /// Set a key of the recipe of every row that runs, e.g. phases.0.epochs=10 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Device: flex, ndarray, or one that the build was made with
    #[arg(long, default_value = DEFAULT_DEVICE)]
    device: String,
    /// Folder of the run folders [default: runs/reproduce/NAME]
    #[arg(long = "run", value_name = "DIR", value_parser = folder())]
    runs: Option<PathBuf>,
    /// Folder of the table and of what is finished [default: results/NAME beside the experiment]
    #[arg(long, value_name = "DIR", value_parser = folder())]
    results: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    keep_memory();
    let arguments = parse::<Arguments>("list");
    exit(isa_limit().and_then(|_| match &arguments.name {
        Some(name) => reproduce(&arguments, name),
        None => list(),
    }))
}

fn reproduce(arguments: &Arguments, name: &str) -> Result<ExitCode> {
    let experiment = Experiment::find(name)?;
    let rows = match arguments.rows.as_slice() {
        [] => experiment.rows.iter().collect(),
        names => names.iter().map(|name| experiment.row(name)).collect::<Result<_>>()?,
    };
    let results = arguments.results.clone().unwrap_or_else(|| experiment.results());
    let observer = arguments.common.observer();
    let reproduction = Reproduction {
        experiment: &experiment,
        rows,
        seeds: arguments.seeds.unwrap_or(1),
        settings: arguments.settings.clone(),
        data: arguments.common.data(),
        device: arguments.device.clone(),
        runs: arguments.runs.clone().unwrap_or_else(|| runs(&experiment)),
        results: Results::new(&results),
        observer: &*observer,
    };
    let only_claims = !experiment.claims.is_empty() && arguments.rows.is_empty();
    if only_claims && !arguments.table && (arguments.seeds.is_some() || !arguments.settings.is_empty()) {
        let message = format!("{name} trains nothing unless rows are named: --seeds and --set go with --rows ROW,..");
        return Err(Error::Arguments(message));
    }
    let verdict =
        if arguments.table || only_claims { Verdict::Finished } else { reproduction.run(&stop_on_interrupt()?)? };
    let table = reproduction.write_table()?;
    let text = format!("{}\ntable.md, table.csv and table.svg are in {}\n", table.text(), results.display());
    arguments.common.show(|| table.json(), &text)?;
    match verdict {
        Verdict::Finished => Ok(ExitCode::SUCCESS),
        Verdict::Interrupted => {
            notice("interrupted; the same command goes on");
            Ok(ExitCode::from(130))
        }
    }
}

fn runs(experiment: &Experiment) -> PathBuf {
    Path::new("runs/reproduce").join(&experiment.name)
}

/// One line for each experiment.
fn list() -> Result<ExitCode> {
    let files = Experiment::files()?;
    let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let width = files.iter().map(|path| name(path).len()).max().unwrap_or(0);
    let mut text = String::new();
    for path in files {
        let name = name(&path);
        let state = Experiment::load(&path).and_then(|experiment| {
            let results = Results::new(&experiment.results());
            let states = Table::new(&experiment, |_| &[], &results, &runs(&experiment))?.states();
            let of = |state| states.iter().filter(|found| **found == state).count();
            let counts = [
                (of(State::Finished), "finished"),
                (of(State::Unfinished), "unfinished"),
                (of(State::Missing), "not run yet"),
                (of(State::Unusable), "unusable (--table says why)"),
            ];
            let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, state)| format!("{count} {state}"));
            Ok(format!("{}: {}", experiment.title, counts.collect::<Vec<_>>().join(", ")))
        });
        match state {
            Ok(state) => text += &format!("{name:<width$}  {state}\n"),
            Err(error) => text += &format!("{name:<width$}  error: {error}\n"),
        }
    }
    text += &format!("\nRun one: mars-reproduce NAME; they are the files with [[rows]] in {FOLDER}.\n");
    say(&text)?;
    Ok(ExitCode::SUCCESS)
}
