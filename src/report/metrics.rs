//! The epochs of `metrics.jsonl`. Reading never fails: what cannot be read is counted, and the report says so.

use std::io::ErrorKind;
use std::path::Path;

use crate::run_folder::{EpochReport, METRICS};

/// Accuracies on images that weren't trained on, one an epoch, and what they are called; none where such images wait for the end of the run.
pub(super) fn measured(epochs: &[EpochReport]) -> Option<(&'static str, Vec<f64>)> {
    let all = |value: fn(&EpochReport) -> Option<f64>| epochs.iter().map(value).collect::<Option<Vec<f64>>>();
    let test = all(|epoch| epoch.test_accuracy).map(|values| ("test accuracy", values));
    test.or_else(|| all(|epoch| epoch.validation_accuracy).map(|values| ("validation accuracy", values)))
}

/// What a run folder says about training.
pub(super) enum Metrics {
    /// There is no file.
    Missing,
    /// There is one that cannot be read, and why.
    Unreadable(String),
    /// Epochs in the order of the file, and the numbers of the lines that aren't epochs.
    Read { epochs: Vec<EpochReport>, skipped: Vec<usize> },
}

impl Metrics {
    /// Reads `metrics.jsonl` of a run folder.
    pub(super) fn read(folder: &Path) -> Self {
        match std::fs::read(folder.join(METRICS)) {
            Ok(bytes) => Self::parse(&String::from_utf8_lossy(&bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::Missing,
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }

    fn parse(text: &str) -> Self {
        let (mut epochs, mut skipped) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str(line) {
                Ok(epoch) => epochs.push(epoch),
                Err(_) => skipped.push(index + 1),
            }
        }
        Self::Read { epochs, skipped }
    }
}
