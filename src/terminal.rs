//! An observer that shows work on standard error: a bar in a terminal, a line now and then in a log.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::observer::Observer;

/// How often a log gets a line.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Writes a line to standard error. What cannot be written is dropped: a training goes on when whoever read its log has left.
/// Control characters, which a file's name or content may have brought, are written as escapes.
pub fn notice(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

fn printable(line: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    line.chars().map(escaped).collect()
}

/// Shows work on standard error.
#[derive(Default)]
pub struct Terminal {
    task: Mutex<Option<Task>>,
}

struct Task {
    title: String,
    total: usize,
    /// Units that were done when it began.
    before: usize,
    started: Instant,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Terminal {
    fn with(&self, f: impl FnOnce(&mut Option<Task>)) {
        // A panic elsewhere leaves nothing half done in a task.
        f(&mut self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }
}

impl Observer for Terminal {
    fn notice(&self, message: &str) {
        self.with(|task| match task {
            Some(Task { display: Display::Bar(bar), .. }) => bar.suspend(|| notice(message)),
            _ => notice(message),
        });
    }

    fn begins(&self, title: &str, total: usize, done: usize) {
        let started = Instant::now();
        let display = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix} {pos}/{len} [{bar:30}] {eta} {msg}");
            let bar = ProgressBar::new(total as u64);
            bar.set_style(style.expect("a valid template").progress_chars("=> "));
            bar.set_prefix(title.to_string());
            bar.set_position(done as u64);
            bar.reset_eta();
            Display::Bar(bar)
        } else {
            Display::Lines { last: started }
        };
        self.with(|task| *task = Some(Task { title: title.into(), total, before: done, started, display }));
    }

    fn advances(&self, done: usize, detail: &dyn Fn() -> String) {
        self.with(|task| {
            let Some(Task { title, total, before, started, display }) = task else { return };
            match display {
                Display::Bar(bar) => {
                    bar.set_message(detail());
                    bar.set_position(done as u64);
                }
                Display::Lines { last } if last.elapsed() >= LINE_EVERY => {
                    *last = Instant::now();
                    let each = started.elapsed().as_secs_f64() / (done - *before).max(1) as f64;
                    let left = each * (*total - done) as f64;
                    let detail = detail();
                    let space = if detail.is_empty() { "" } else { " " };
                    notice(&format!("{title} {done}/{total}{space}{detail} eta {left:.0} s"));
                }
                Display::Lines { .. } => {}
            }
        });
    }

    fn ends(&self, line: Option<&str>) {
        self.with(|task| {
            let Some(Task { title, display, .. }) = task.take() else { return };
            if let Display::Bar(bar) = display {
                bar.finish_and_clear();
            }
            if let Some(line) = line {
                notice(&format!("{title} {line}"));
            }
        });
    }
}
