//! How training went, epoch by epoch.

use maud::{Markup, html};

use super::elements::{legend, section};
use crate::report::chart::{self, Curve};
use crate::report::metrics::{Metrics, measured};
use crate::report::text::count;
use crate::run_folder::EpochReport;

pub(super) fn training(metrics: &Metrics) -> Markup {
    let body = match metrics {
        Metrics::Missing => {
            html! { p.note { "There is no metrics.jsonl in this folder, so there are no curves to draw." } }
        }
        Metrics::Unreadable(reason) => html! { p.note { "metrics.jsonl cannot be read: " (reason) "." } },
        Metrics::Read { epochs, skipped } => html! {
            @if let Some(last) = epochs.last() {
                (curves(epochs))
                (after(epochs, last))
            } @else {
                p.note { "metrics.jsonl holds no epochs." }
            }
            @if let Some(first) = skipped.first() {
                p.bad {
                    "Skipped " (count(skipped.len(), "line")) " of metrics.jsonl that could not be read, the first of them line "
                    (first) "."
                }
            }
        },
    };
    section("Training", body)
}

fn curves(epochs: &[EpochReport]) -> Markup {
    let mut phases: Vec<(usize, &str)> = Vec::new();
    for (index, epoch) in epochs.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| &epochs[before]);
        if before.is_none_or(|before| before.phase != epoch.phase || epoch.epoch <= before.epoch) {
            phases.push((index, epoch.phase.name()));
        }
    }
    let curve =
        |color, name, value: fn(&EpochReport) -> f64| Curve { color, name, values: epochs.iter().map(value).collect() };
    let mut percents = Vec::new();
    let mut colors = Vec::new();
    if let Some((name, values)) = measured(epochs) {
        percents.push(Curve { color: "one", name, values });
        colors.push(("one", name));
    }
    percents.push(curve("two", "train accuracy", |epoch| epoch.train_accuracy));
    colors.push(("two", "train accuracy"));
    if epochs.iter().any(|epoch| epoch.group_sparsity > 0.0) {
        percents.push(curve("three", "zero groups", |epoch| 100.0 * epoch.group_sparsity));
        colors.push(("three", "zero groups"));
    }
    let loss = [curve("one", "loss", |epoch| epoch.loss)];
    html! {
        div.charts {
            figure { (legend(&colors)) (chart::curves("Accuracy by epoch, in percent", "%", &percents, &phases)) }
            figure { (legend(&[("one", "loss")])) (chart::curves("Loss by epoch, in nats", "nats", &loss, &phases)) }
        }
    }
}

fn after(epochs: &[EpochReport], last: &EpochReport) -> Markup {
    let EpochReport { train_accuracy, loss, .. } = last;
    let measured = measured(epochs).and_then(|(name, values)| Some((name, *values.last()?)));
    html! {
        p.note {
            "Epochs of all phases, one after the other; a dashed line is where a phase begins. After the last of "
            (count(epochs.len(), "epoch")) ": "
            @if let Some((name, accuracy)) = measured {
                (name) " " (format!("{accuracy:.2}")) " %, "
            }
            "train accuracy " (format!("{train_accuracy:.2}")) " %, loss " (format!("{loss:.4}")) " nats."
        }
    }
}
