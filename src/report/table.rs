//! The table in the terminal: plain ASCII, at most 80 columns, and some 45 lines.

use crate::estimate::Estimate;
use crate::hardware::Evaluation;
use crate::validation::Deployment;

use super::figures::figures;
use super::subject::{Basis, Subject};
use super::text::{
    NAME, WIDTH, agreement, bounds_summary, bytes, count, empty_layers, energy, executions, mapping_summary,
    other_groups, percent, printable, remarks, scaling, words, wrapped,
};

/// What was run or assumed, compression and cost, as text.
pub fn table<'a>(subject: impl Into<Subject<'a>>) -> String {
    let subject = subject.into();
    let evaluation = subject.evaluation;
    let basis = match subject.basis {
        Basis::Package(deployment) => validated(deployment),
        Basis::Estimate(estimate) => made_up(estimate),
    };
    let mut lines = [basis, weights(evaluation), mapping(subject), costs(evaluation)].join(&String::new());
    lines.push(String::new());
    lines.join("\n")
}

/// How much smaller the weights are.
fn weights(evaluation: &Evaluation) -> Vec<String> {
    let compression = &evaluation.compression;
    let row = |name: &str, value: String| format!("  {name:<28}{value:>14}");
    let mut lines = vec![
        "  weights".into(),
        row("groups that are zero", percent(compression.group_sparsity)),
        row("dense, same bits", bytes(compression.weight_bits_dense)),
        row("stored", bytes(compression.weight_bits_stored)),
        row("index codes", bytes(compression.index_bits)),
        row("smaller than dense", format!("{:.2} x", compression.ratio)),
        row("smaller than 32 bits", format!("{:.2} x", compression.ratio_fp32)),
    ];
    let empty: Vec<&str> = empty_layers(evaluation).collect();
    if !empty.is_empty() {
        let names = printable(&empty.join(", "), 40);
        lines.push(format!("  nothing is left of {}: {names}", count(empty.len(), "layer")));
    }
    lines
}

/// How the network lies on the chip, and what bounds it.
fn mapping(subject: Subject) -> Vec<String> {
    let evaluation = subject.evaluation;
    let mut lines = vec![format!("  {}", mapping_summary(evaluation))];
    lines.extend(wrapped(&bounds_summary(evaluation), WIDTH - 2).iter().map(|line| format!("  {line}")));
    let remarks = remarks(subject).into_iter().flat_map(|sentence| wrapped(&sentence, WIDTH - 2));
    lines.extend(remarks.map(|line| format!("  {line}")));
    lines.extend(evaluation.scaled_from.map(|from| format!("  {}", scaling(from))));
    lines
}

/// What a frame costs, with reload and without, and the chip's area.
fn costs(evaluation: &Evaluation) -> Vec<String> {
    let both = [&evaluation.cost, &evaluation.cost_without_reload];
    let row = |name: &str, [with, without]: [String; 2]| format!("  {name:<28}{with:>14} {without:>15}");
    let mut lines = vec![row("per frame", ["with reload".into(), "without reload".into()])];
    lines.extend(figures(both.into_iter()).map(|figure| row(figure.name, both.map(|cost| figure.value(cost)))));
    let components = both.map(|cost| cost.energy_breakdown_uj.components());
    for (index, (name, _)) in components[0].iter().enumerate() {
        let energies = components.each_ref().map(|components| components[index].1);
        if energies != [0.0; 2] {
            lines.push(row(&format!("  {}", words(name)), energies.map(|uj| format!("{} uJ", energy(uj)))));
        }
    }
    lines.extend(evaluation.area.map(|area| format!("  {:<28}{:>14}", "area", format!("{:.3} mm2", area.total_mm2))));
    lines
}

/// Accuracy and mismatches of a package that was run.
fn validated(deployment: &Deployment) -> Vec<String> {
    let mut lines = vec![format!(
        "{} on {}, {} of {}",
        printable(&deployment.network, NAME),
        printable(&deployment.evaluation.hardware, NAME),
        count(deployment.images, "image"),
        data(deployment),
    )];
    lines.push(String::new());
    lines.push(format!("  {:<25}{:>9}  differs from", "accuracy", "right"));
    for (name, right, differs) in executions(&deployment.accuracy, &deployment.mismatches) {
        let line = format!("  {name:<25}{right:>9}  {differs}");
        lines.push(line.trim_end().into());
    }
    lines.extend(agreement(deployment).split_inclusive("; ").map(|part| format!("  {}", part.trim_end())));
    lines.extend(other_groups(deployment).map(|sentence| format!("  {}", printable(&sentence, WIDTH - 2))));
    lines
}

/// What was assumed of a network that nobody has trained.
fn made_up(estimate: &Estimate) -> Vec<String> {
    let names = [&estimate.network, &estimate.evaluation.hardware].map(|name| printable(name, NAME));
    let mut lines = vec![format!("{} on {}, made up", names[0], names[1]), String::new()];
    lines.extend(wrapped(&printable(&estimate.made_up.what, 1000), WIDTH - 2).iter().map(|line| format!("  {line}")));
    lines
}

/// The package's data set if these are its images, else the one that they are of where that is known, else the start of their hash.
fn data(deployment: &Deployment) -> String {
    let provenance = &deployment.package.provenance;
    if provenance.data_sha256 == deployment.data_sha256 {
        printable(&provenance.dataset, NAME)
    } else if let Some(name) = &deployment.dataset {
        printable(name, NAME)
    } else {
        format!("data {}..", printable(&deployment.data_sha256, 64).get(..12).unwrap_or_default())
    }
}
