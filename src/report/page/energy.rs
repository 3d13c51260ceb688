//! The energy of a frame, component by component.

use maud::{Markup, html};

use super::elements::{section, table_of_words};
use crate::report::drawings;
use crate::report::text::{energy as microjoules, percent, words};
use crate::validation::Deployment;

/// What the components of [`EnergyBreakdown`](crate::hardware::EnergyBreakdown) count, by their keys.
const COMPONENTS: [(&str, &str); 9] = [
    ("macro", "accesses: array, converters, drivers"),
    ("accumulation", "adding up the outputs of accesses"),
    ("cell_writes", "writing weights into the macros"),
    ("weight_buffer", "reading weights, indices and coefficients from the weight SRAMs"),
    ("feature_buffer", "reading and writing feature maps"),
    ("next_level", "weights, spilled maps and the picture, from and to the next memory level"),
    ("index_decode", "decoding the index codes"),
    ("requantization", "multiply, round and shift, residual sums, pooling"),
    ("leakage", "macros that wait"),
];

pub(super) fn energy(deployment: &Deployment) -> Markup {
    let Deployment { cost, cost_without_reload, .. } = deployment;
    let row = |name: Markup, with: f64, without: f64, counts: &str| {
        let share = if cost.energy_uj > 0.0 { with / cost.energy_uj } else { 0.0 };
        let numbers = [microjoules(with), percent(share), microjoules(without)];
        let numbers = numbers.iter().map(|number| html! { (number) });
        [name].into_iter().chain(numbers).chain([html! { (counts) }]).collect::<Vec<_>>()
    };
    let with = cost.energy_breakdown_uj.components();
    let without = cost_without_reload.energy_breakdown_uj.components();
    let parts = with.iter().zip(&without).map(|((key, with), (_, without))| {
        let counts = COMPONENTS.iter().find(|(component, _)| component == key).map_or("", |(_, counts)| counts);
        row(html! { (words(key)) }, *with, *without, counts)
    });
    let all = row(html! { b { "all" } }, cost.energy_uj, cost_without_reload.energy_uj, "");
    let rows: Vec<_> = parts.chain([all]).collect();
    let headings = ["component", "with reload (µJ)", "share (%)", "without reload (µJ)", "what it counts"];
    section(
        "Energy of a frame",
        html! {
            figure {
                (drawings::energy(deployment).svg)
                figcaption { "Weight reload charged." }
            }
            (table_of_words(&headings, &rows))
            (macro_split(deployment))
        },
    )
}

/// How the energy of the macros is split, where the hardware file says so.
fn macro_split(deployment: &Deployment) -> Markup {
    let Some(shares) = &deployment.evaluation.macro_shares else { return html! {} };
    let array = deployment.cost.energy_breakdown_uj.array;
    let parts =
        shares.parts().map(|(name, share)| format!("{name} {} µJ ({})", microjoules(share * array), percent(share)));
    html! {
        p.note {
            "Of the macros' energy, by the shares that the hardware file gives: " (parts.join(", ")) ". Where the macro's energy \
            is measured as a whole, these shares are chosen."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::COMPONENTS;
    use crate::hardware::EnergyBreakdown;

    #[test]
    fn every_component_of_the_energy_is_explained() {
        let components = EnergyBreakdown::default().components();
        assert_eq!(COMPONENTS.map(|(key, _)| key), components.map(|(key, _)| key));
    }
}
