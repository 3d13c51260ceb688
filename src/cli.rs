//! What the programs share: flags for data, the exit code, the last word on standard error.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Args, Id, Parser};

use crate::data::DataOptions;
use crate::error::{Error, Result};
use crate::files::write_atomically;
#[cfg(feature = "train")]
use crate::observer::StopSignal;
use crate::observer::{Observer, Silent};
use crate::report::{self, Subject};
use crate::terminal::{Terminal, notice};

/// The arguments of a program, of which `alone` is a flag that goes with no other one but --quiet.
pub fn parse<A: Parser>(alone: &str) -> A {
    let command = A::command();
    let others = command.get_arguments().map(Arg::get_id).filter(|id| ![alone, QUIET].contains(&id.as_str()));
    let others: Vec<Id> = others.cloned().collect();
    let mut command = command.mut_arg(alone, |alone| alone.conflicts_with_all(others));
    let matches = command.get_matches_mut();
    A::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

/// The flag that goes with any other.
const QUIET: &str = "quiet";

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
    #[arg(long, value_name = "FILE", value_parser = in_a_folder)]
    json: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long, id = QUIET)]
    quiet: bool,
}

/// A file whose folder is there, so that nothing is computed that cannot be written.
fn in_a_folder(file: &str) -> std::result::Result<PathBuf, String> {
    let file = PathBuf::from(file);
    match file.parent() {
        _ if file.is_dir() => Err("it is a folder: name a file".into()),
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            Err(format!("there is no folder {}: make it first", folder.display()))
        }
        _ => Ok(file),
    }
}

/// Refuses a file to write that is there.
///
/// # Errors
/// It is there.
pub fn check_new(file: &Path) -> Result<()> {
    match file.exists() {
        true => Err(Error::file(file, "it is there already: remove it, or name another file")),
        false => Ok(()),
    }
}

impl CommonArgs {
    /// Where data sets may come from.
    pub fn data(&self) -> DataOptions {
        DataOptions { data_dir: self.data_dir.clone(), data_url: self.data_url.clone(), ..DataOptions::default() }
    }

    /// Shows progress on standard error, unless that was declined.
    pub fn observer(&self) -> Box<dyn Observer> {
        if self.quiet { Box::new(Silent) } else { Box::new(Terminal::default()) }
    }

    /// Writes the JSON file that was asked for and prints the table.
    ///
    /// # Errors
    /// The file or standard output cannot be written.
    pub fn present<'a>(&self, subject: impl Into<Subject<'a>>) -> Result<()> {
        let subject = subject.into();
        self.write_json(|| subject.to_json())?;
        say(&report::table(subject))
    }

    /// Writes the JSON file that was asked for; without one, `text` isn't made.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_json(&self, text: impl FnOnce() -> Result<String>) -> Result<()> {
        match &self.json {
            Some(file) => write_atomically(Path::new(file), text()?.as_bytes()),
            None => Ok(()),
        }
    }
}

/// Prints text to standard output. A reader that has left, as `head` does, is no error: there is nobody to tell.
///
/// # Errors
/// Standard output cannot be written: the disk is full.
pub fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::io(Path::new("standard output"))(error)),
        _ => Ok(()),
    }
}

/// The signal that Ctrl-C gives: the first one ends a run after its step, the second at once.
///
/// # Errors
/// The system takes no handler.
#[cfg(feature = "train")]
pub fn stop_on_interrupt() -> Result<StopSignal> {
    let signal = StopSignal::default();
    let of_handler = signal.clone();
    let handler = move || {
        if of_handler.stop() {
            std::process::exit(130);
        }
        notice("stopping after this step; press Ctrl-C again to stop at once");
    };
    ctrlc::set_handler(handler).map_err(|error| Error::Setting(format!("no handler for Ctrl-C: {error}")))?;
    Ok(signal)
}

/// The exit code of a program, after saying what went wrong.
pub fn exit(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        notice(&format!("error: {error}"));
        if matches!(error, Error::Arguments(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
    })
}
