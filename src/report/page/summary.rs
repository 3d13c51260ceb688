//! What a reader wants first: the figures on cards, whether the executions agree, and how small the weights are.

use maud::{Markup, html};

use super::elements::{section, table, table_of_words};
use crate::estimate::Estimate;
use crate::hardware::Evaluation;
use crate::report::Subject;
use crate::report::text::{
    accuracy as in_percent, agreement, bytes, count, energy, executions, frames, other_groups, percent,
};
use crate::validation::{Agreement, Deployment};

pub(super) fn headline(deployment: &Deployment) -> Markup {
    let Deployment { package, accuracy, .. } = deployment;
    let class = match deployment.agreement() {
        Agreement::All | Agreement::OnChip => "good",
        Agreement::Partly | Agreement::Lossy | Agreement::LossyPartly | Agreement::OtherChip => "part",
        Agreement::No => "bad",
    };
    let same_data = package.provenance.data_sha256 == deployment.data_sha256;
    let data = if same_data { "the test images of " } else { "other images than those of " };
    let cards = [("accuracy of macro model", in_percent(Some(accuracy.macro_model)))];
    html! {
        header {
            h1 { (deployment.network) " on " (deployment.evaluation.hardware) }
            p {
                "Validated on " (count(deployment.images, "image"))
                @if let (false, Some(name)) = (same_data, &deployment.dataset) { " of " b { (name) } }
                ": " (data)
                b { (package.provenance.dataset) } " that it was made with."
            }
            p class=(class) { (agreement(deployment)) }
            @if let Some(sentence) = other_groups(deployment) { p class="part" { (sentence) "." } }
            (figures(&cards, &deployment.evaluation))
        }
    }
}

/// What was assumed of a network that nobody has trained.
pub(super) fn made_up(estimate: &Estimate) -> Markup {
    html! {
        header {
            h1 { (estimate.network) " on " (estimate.evaluation.hardware) }
            p class="part" { b { "Made up. " } (estimate.made_up.what) }
            (figures(&[], &estimate.evaluation))
        }
    }
}

/// The figures on cards, after those that come first.
fn figures(first: &[(&str, String)], evaluation: &Evaluation) -> Markup {
    let Evaluation { compression, cost, .. } = evaluation;
    let others = [
        ("smaller than dense, index included", format!("{:.2} ×", compression.ratio)),
        ("zero groups", percent(compression.group_sparsity)),
        ("frames per second", format!("{} / s", frames(cost.fps))),
        ("energy per frame", format!("{} µJ", energy(cost.energy_uj))),
        ("executed", format!("{:.2} TOPS/W", cost.tops_per_watt_executed)),
    ];
    html! { dl.cards { @for (name, value) in first.iter().chain(&others) { div { dt { (name) } dd { (value) } } } } }
}

pub(super) fn accuracy(deployment: &Deployment) -> Markup {
    let rows = executions(&deployment.accuracy, &deployment.mismatches)
        .into_iter()
        .map(|(name, accuracy, differs)| vec![name.into(), accuracy, differs])
        .collect::<Vec<_>>();
    section(
        "Accuracy",
        html! {
            (table_of_words(&["execution", "accuracy", "differs from"], &rows))
            p.note {
                "Fake-quant runs through the tensor library from the trained weights, the integer reference from the package, the macro \
                 model access by access from the mapped groups; none calls another. The float accuracy is the one at export, on the \
                 whole test split."
            }
        },
    )
}

pub(super) fn compression(subject: Subject) -> Markup {
    let compression = &subject.evaluation.compression;
    let rows = [
        ("weights, dense at the same bits", bytes(compression.weight_bits_dense)),
        ("weights of kept groups", bytes(compression.weight_bits_stored)),
        ("index codes", bytes(compression.index_bits)),
        ("weights and index codes", bytes(compression.weight_bits_stored + compression.index_bits)),
        ("ratio to dense at the same bits", format!("{:.2} ×", compression.ratio)),
        ("ratio to dense at 32 bits", format!("{:.2} ×", compression.ratio_fp32)),
        ("groups that are zero", percent(compression.group_sparsity)),
    ];
    let rows = rows.map(|(name, value)| vec![name.into(), value]);
    section("Compression", table(&["all mapped layers", "size"], &rows))
}
