//! What the package was made from.

use maud::{Markup, html};

use super::elements::{section, table_of_words};
use crate::report::text::accuracy;
use crate::validation::Deployment;

pub(super) fn provenance(deployment: &Deployment) -> Markup {
    let provenance = &deployment.package.provenance;
    let rows = [
        ("classes", html! { (classes(&deployment.package.network.classes)) }),
        ("data set", html! { (provenance.dataset) }),
        ("SHA-256 of its test split", html! { code { (provenance.data_sha256) } }),
        ("SHA-256 of the validated split", html! { code { (deployment.data_sha256) } }),
        ("seed", html! { (provenance.seed) }),
        ("made by mars", html! { (provenance.crate_version) }),
        ("float accuracy at export", html! { (accuracy(provenance.float_accuracy)) }),
        ("fake-quant accuracy at export", html! { (accuracy(provenance.fake_quant_accuracy)) }),
    ];
    let rows = rows.map(|(name, value)| vec![html! { (name) }, value]);
    section(
        "Recipe and provenance",
        html! {
            (table_of_words(&["what", "value"], &rows))
            pre tabindex="0" { (provenance.recipe) }
        },
    )
}

/// The number of classes and the first names.
fn classes(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let rest = if names.len() > SHOWN { ", …" } else { "" };
    format!("{}: {}{rest}", names.len(), shown.join(", "))
}
