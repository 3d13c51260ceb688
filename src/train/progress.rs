//! What a person sees while a run goes on: a bar in a terminal, a line now and then in a log.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::progress::progress_bar;

/// Time between two lines in a log.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// Progress of one epoch, on standard error.
pub(crate) struct Progress {
    title: String,
    steps: usize,
    done: usize,
    started: Instant,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

impl Progress {
    pub fn new(title: String, steps: usize, done: usize, quiet: bool) -> Self {
        let display = if quiet {
            Display::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = progress_bar(&title, steps, false);
            bar.set_position(done as u64);
            bar.reset_eta();
            Display::Bar(bar)
        } else {
            Display::Lines { last: Instant::now() }
        };
        Self { title, steps, done: 0, started: Instant::now(), display }
    }

    /// One more step; `message` is made only where it is shown.
    pub fn step(&mut self, position: usize, message: impl FnOnce() -> String) {
        self.done += 1;
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_message(message());
                bar.set_position(position as u64);
            }
            Display::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let left = self.started.elapsed().as_secs_f64() / self.done as f64 * (self.steps - position) as f64;
                eprintln!("{} {position}/{} {} eta {left:.0} s", self.title, self.steps, message());
            }
            _ => {}
        }
    }

    /// Ends with a line that stays.
    pub fn finish(self, line: &str) {
        match self.display {
            Display::Bar(bar) => {
                bar.finish_and_clear();
                eprintln!("{} {line}", self.title);
            }
            Display::Lines { .. } => eprintln!("{} {line}", self.title),
            Display::Nothing => {}
        }
    }
}
