//! The energy of a frame, component by component.

use maud::{Markup, html};

use super::elements::{drawn, legend, section, table_of_words};
use crate::hardware::{EnergyBreakdown, Evaluation};
use crate::report::text::{energy as microjoules, percent, words};
use crate::report::{Subject, drawings};

pub(super) fn energy(subject: Subject) -> Markup {
    let Evaluation { cost, cost_without_reload, .. } = subject.evaluation;
    let row = |name: Markup, with: f64, without: f64, counts: &str| {
        let share = if cost.energy_uj > 0.0 { with / cost.energy_uj } else { 0.0 };
        let numbers = [microjoules(with), percent(share), microjoules(without)];
        let numbers = numbers.iter().map(|number| html! { (number) });
        [name].into_iter().chain(numbers).chain([html! { (counts) }]).collect::<Vec<_>>()
    };
    let with = cost.energy_breakdown_uj.components();
    let without = cost_without_reload.energy_breakdown_uj.components();
    let values = with.into_iter().zip(without);
    let parts = EnergyBreakdown::TERMS
        .iter()
        .zip(values)
        .map(|(term, ((_, with), (_, without)))| row(html! { (words(term.key)) }, with, without, term.counts));
    let all = row(html! { b { "all" } }, cost.energy_uj, cost_without_reload.energy_uj, "");
    let rows: Vec<_> = parts.chain([all]).collect();
    let headings = ["component", "with reload (µJ)", "share (%)", "without reload (µJ)", "what it counts"];
    let by_layer = drawings::layer_energy(subject);
    section(
        "Energy of a frame",
        html! {
            figure {
                (drawn(&drawings::energy(subject).svg))
                figcaption { "Weight reload charged." }
            }
            (table_of_words(&headings, &rows))
            figure {
                (legend(&by_layer.keys))
                (drawn(&by_layer.svg))
                figcaption { (by_layer.caption) "." }
            }
            (macro_split(subject))
        },
    )
}

/// How the energy of the macros is split, where the hardware file says so.
fn macro_split(subject: Subject) -> Markup {
    let Some(shares) = &subject.evaluation.macro_shares else { return html! {} };
    let array = subject.evaluation.cost.energy_breakdown_uj.array;
    let parts =
        shares.parts().map(|(name, share)| format!("{name} {} µJ ({})", microjoules(share * array), percent(share)));
    html! {
        p.note {
            "Of the macros' energy, by the shares that the hardware file gives: " (parts.join(", ")) ". Where the macro's energy \
            is measured as a whole, these shares are chosen."
        }
    }
}
