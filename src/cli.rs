//! What the programs share: flags for data, the exit code, the last word on standard error.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::data::DataOptions;
use crate::deploy::Deployment;
use crate::error::{Result, write_atomically};
use crate::report;

/// Flags that say where data sets lie and what is printed.
#[derive(Args, Debug)]
pub struct CommonArgs {
    /// Folder of the data sets [default: $MARS_DATA_DIR, then datasets/; downloaded where missing]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to download data sets from instead of the official one
    #[arg(long, value_name = "URL")]
    data_url: Option<String>,
    /// Write the result as JSON to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long)]
    pub quiet: bool,
}

impl CommonArgs {
    /// Where data sets may come from.
    pub fn data(&self) -> DataOptions {
        DataOptions { data_dir: self.data_dir.clone(), data_url: self.data_url.clone(), quiet: self.quiet }
    }

    /// Prints the table and writes the JSON file that was asked for.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn present(&self, deployment: &Deployment) -> Result<()> {
        print!("{}", report::table(deployment));
        match &self.json {
            Some(file) => write_atomically(Path::new(file), deployment.to_json()?.as_bytes()),
            None => Ok(()),
        }
    }
}

/// The exit code of a program, after saying what went wrong.
pub fn exit(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
