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

/// How far a task is that went from one number of units to another in this time.
fn line(title: &str, total: usize, [before, done]: [usize; 2], time: Duration, detail: &str) -> String {
    let space = if detail.is_empty() { "" } else { " " };
    let each = time.as_secs_f64() / done.saturating_sub(before).max(1) as f64;
    match total.checked_sub(done) {
        Some(left) => format!("{title} {done}/{total}{space}{detail} eta {:.0} s", each * left as f64),
        // Nobody knows how much there is.
        None => format!("{title} {done}{space}{detail}"),
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
            let style = ProgressStyle::with_template(match total {
                0 => "{prefix} {pos} {msg}",
                _ => "{prefix} {pos}/{len} [{bar:30}] {eta} {msg}",
            });
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
                    notice(&line(title, *total, [*before, done], started.elapsed(), &detail()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_much_is_left_where_that_is_known() {
        let said = |total, before_and_done| line("read", total, before_and_done, Duration::from_secs(10), "2 MB/s");
        assert_eq!(said(50, [10, 20]), "read 20/50 2 MB/s eta 30 s");
        assert_eq!(said(0, [0, 20]), "read 20 2 MB/s");
    }
}
