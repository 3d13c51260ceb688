//! What the programs share: flags for data, the exit code, the last word on standard error.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
#[cfg(feature = "train")]
use std::time::{Duration, Instant};

use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Arg, Args, Id, Parser};

use crate::data::DataOptions;
use crate::error::{Error, Result};
use crate::files::{missing_folder, refused_as_json, write_atomically};
#[cfg(feature = "train")]
use crate::observer::StopSignal;
use crate::observer::{Observer, Silent};
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
    /// Folder of the data sets, looked at before $MARS_DATA_DIR and datasets/; what is missing in all of them is downloaded into the first
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address to download data sets from instead of the official one
    #[arg(long, value_name = "URL")]
    data_url: Option<String>,
    /// Write the result as JSON to this file too; `-` prints it instead of the table
    #[arg(long, value_name = "FILE", value_parser = json_file)]
    json: Option<PathBuf>,
    /// No progress on standard error
    #[arg(long, id = QUIET)]
    quiet: bool,
}

/// The name of standard output.
const STANDARD_OUTPUT: &str = "-";

/// A file that JSON can be written to, so that nothing is computed in vain.
fn json_file(file: &str) -> std::result::Result<PathBuf, String> {
    let path = PathBuf::from(file);
    match refused_as_json(&path).filter(|_| file != STANDARD_OUTPUT) {
        Some(reason) => Err(reason),
        None => Ok(path),
    }
}

/// Takes the path of a folder, no part of which is a file, so that nothing is computed in vain.
pub fn folder() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.ancestors().find(|path| path.is_file()) {
        Some(file) => Err(format!("{} is a file, where a folder is needed", file.display())),
        None => Ok(path),
    })
}

/// Refuses a file to write that is there, or whose folder isn't.
///
/// # Errors
/// One of them.
pub fn check_new(file: &Path) -> Result<()> {
    if file.exists() {
        return Err(Error::file(file, "it is there already: remove it, or name another file"));
    }
    missing_folder(file).map_or(Ok(()), |reason| Err(Error::file(file, reason)))
}

impl CommonArgs {
    /// Where data sets may come from.
    pub fn data(&self) -> DataOptions {
        DataOptions { data_dir: self.data_dir.clone(), data_url: self.data_url.clone(), ..DataOptions::default() }
    }

    /// The JSON file that was asked for.
    pub fn json_file(&self) -> Option<&Path> {
        self.json.as_deref()
    }

    /// Shows progress on standard error, unless that was declined.
    pub fn observer(&self) -> Box<dyn Observer> {
        if self.quiet { Box::new(Silent) } else { Box::new(Terminal::default()) }
    }

    /// Prints what was found as text, and writes the JSON file that was asked for; without one, `json` isn't made.
    ///
    /// # Errors
    /// The file or standard output cannot be written; the text is printed all the same.
    pub fn show(&self, json: impl FnOnce() -> Result<String>, text: &str) -> Result<()> {
        match &self.json {
            None => say(text),
            Some(file) if file == Path::new(STANDARD_OUTPUT) => say(&json()?),
            Some(file) => {
                let written = write_atomically(file, json()?.as_bytes());
                say(text)?;
                written
            }
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

/// How soon a signal that comes again is the same one.
#[cfg(feature = "train")]
const SAME_SIGNAL: Duration = Duration::from_millis(300);

/// The signal that Ctrl-C gives: the first one ends a run after its step, the second at once.
///
/// # Errors
/// The system takes no handler.
#[cfg(feature = "train")]
pub fn stop_on_interrupt() -> Result<StopSignal> {
    let signal = StopSignal::default();
    let of_handler = signal.clone();
    let mut first = None;
    let handler = move || {
        if of_handler.stop() {
            // Some programs (timeout) send to the process and to its group.
            if first.is_none_or(|first: Instant| first.elapsed() > SAME_SIGNAL) {
                std::process::exit(130);
            }
            return;
        }
        first = Some(Instant::now());
        notice("stopping after this step; press Ctrl-C again to stop at once");
    };
    let ignored = ignored_signals();
    ctrlc::set_handler(handler).map_err(|error| Error::Setting(format!("no handler for Ctrl-C: {error}")))?;
    ignored.into_iter().for_each(ignore);
    Ok(signal)
}

/// Signals that the process was started to ignore: that is all that `nohup` and a script's `&` do to keep a run going.
#[cfg(all(feature = "train", unix))]
fn ignored_signals() -> Vec<libc::c_int> {
    let is_ignored = |signal: &libc::c_int| {
        // SAFETY: `sigaction` is a plain structure, of which all zeros is a value; without a new action the call only fills it.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
        }
    };
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().filter(is_ignored).collect()
}

#[cfg(all(feature = "train", unix))]
fn ignore(signal: libc::c_int) {
    // SAFETY: no handler of ours takes part; the signal is one of those above.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Other systems don't hand ignored signals on.
#[cfg(all(feature = "train", not(unix)))]
fn ignored_signals() -> [i32; 0] {
    []
}

#[cfg(all(feature = "train", not(unix)))]
fn ignore(_: i32) {}

/// The exit code of a program, after saying what went wrong.
pub fn exit(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        notice(&format!("error: {error}"));
        if matches!(error, Error::Arguments(_)) { ExitCode::from(2) } else { ExitCode::FAILURE }
    })
}
