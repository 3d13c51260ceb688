//! The bar that a person sees in a terminal while something takes long.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of `steps` steps on standard error, with `{msg}` for what else is to be said; hidden where nothing is to be seen.
pub fn progress_bar(title: &str, steps: usize, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg} eta {eta}");
    ProgressBar::new(steps as u64).with_prefix(title.to_owned()).with_style(style.expect("a valid template"))
}
