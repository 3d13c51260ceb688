//! Validates a package on its data set with the hardware model: accuracy and cost.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use mars::cli::{CommonArgs, exit};
use mars::data::Dataset;
use mars::deploy::{Package, validate};
use mars::error::{Error, Result};
use mars::hardware::Hardware;
use mars::report;

/// Run a package on the hardware model: is it what training promised, and what does it cost?
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    /// The package, model.mars
    package: PathBuf,
    /// Hardware file, TOML [default: the built-in mars.toml]
    #[arg(long, value_name = "FILE")]
    hardware: Option<PathBuf>,
    /// Data set [default: the one that it was trained on]
    #[arg(long)]
    dataset: Option<String>,
    /// Validate on the first N test pictures only
    #[arg(long, value_name = "N")]
    images: Option<usize>,
    /// Write report.html and deploy.json into this folder
    #[arg(long = "run", value_name = "DIR")]
    folder: Option<PathBuf>,
    #[command(flatten)]
    common: CommonArgs,
}

fn main() -> ExitCode {
    exit(run(Arguments::parse()))
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let package = Package::read(&arguments.package)?;
    let hardware = match &arguments.hardware {
        Some(file) => Hardware::load(file)?,
        None => Hardware::mars(),
    };
    let name = arguments.dataset.as_deref().unwrap_or(&package.provenance.dataset);
    let dataset = Dataset::load(name, &arguments.common.data())?;
    let classes = [package.network.classes.len(), dataset.classes.len()];
    if classes[0] != classes[1] {
        let message =
            format!("it has {} classes, data set `{name}` has {}: name another --dataset", classes[0], classes[1]);
        return Err(Error::file(&arguments.package, message));
    }
    let deployment = validate(&package, &hardware, &dataset.test, arguments.images, arguments.common.quiet)?;
    if let Some(folder) = &arguments.folder {
        report::write(&deployment, folder)?;
    }
    arguments.common.present(&deployment)?;
    Ok(ExitCode::SUCCESS)
}
