//! What long work tells whoever started it, and how it is told to stop. The library prints nothing itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Hears how far a piece of work is. One piece goes on at a time.
pub trait Observer: Sync {
    /// A message for a person, in one line.
    fn notice(&self, message: &str);

    /// A piece of work begins; `done` of its `total` units were done before. A total of 0 says that nobody knows it.
    fn begins(&self, title: &str, total: usize, done: usize);

    /// `done` units are done; `detail` tells more, and is asked only where that is shown.
    fn advances(&self, done: usize, detail: &dyn Fn() -> String);

    /// The piece of work has ended. `line` says how, where that is worth a line of its own.
    fn ends(&self, line: Option<&str>);
}

/// A piece of work that ends where it goes out of scope, by an error as well.
pub struct Work<'a>(&'a dyn Observer);

impl<'a> Work<'a> {
    /// Begins it; `total` are its units.
    pub fn begin(observer: &'a dyn Observer, title: &str, total: usize) -> Self {
        observer.begins(title, total, 0);
        Self(observer)
    }

    /// `done` units are done.
    pub fn advances(&self, done: usize) {
        self.0.advances(done, &String::new);
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.ends(None);
    }
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn notice(&self, _: &str) {}
    fn begins(&self, _: &str, _: usize, _: usize) {}
    fn advances(&self, _: usize, _: &dyn Fn() -> String) {}
    fn ends(&self, _: Option<&str>) {}
}

/// Asks a run to stop after its current step, or batch of images. Clones are the same signal.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// Asks to stop; true where that was asked before.
    pub fn stop(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Whether somebody asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
