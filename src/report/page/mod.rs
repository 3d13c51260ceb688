//! `report.html`: one file that needs no network, for a phone or a desk, light or dark.
//!
//! Templates escape every text; [`text::visible`] then takes out what a reader could not see.

mod chip;
mod cost;
mod elements;
mod energy;
mod layers;
mod provenance;
mod summary;
mod timeline;
mod training;

use maud::{DOCTYPE, PreEscaped, html};

use super::metrics::Metrics;
use super::subject::{Basis, Subject};
use super::{chart, text};

/// Its style, beside that of the drawings.
pub(super) const PAGE_CSS: &str = include_str!("page.css");

/// The page; of a network that nobody has trained without `metrics`.
pub(super) fn page(subject: Subject, metrics: &Metrics) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (subject.name) " on " (subject.hardware) }
                style { (PreEscaped(chart::CSS)) (PreEscaped(PAGE_CSS)) }
            }
            body {
                @match subject.basis {
                    Basis::Package(deployment) => { (summary::headline(deployment)) (summary::accuracy(deployment)) }
                    Basis::Estimate(estimate) => (summary::made_up(estimate)),
                }
                (summary::compression(subject))
                (cost::cost(subject))
                (energy::energy(subject))
                (cost::area(subject))
                (chip::chip(subject))
                (layers::sparsity(subject))
                (layers::layers(subject))
                (layers::utilization(subject))
                (timeline::timeline(subject))
                (layers::kept(subject))
                @match subject.basis {
                    Basis::Package(deployment) => { (training::training(metrics)) (provenance::provenance(deployment)) }
                    Basis::Estimate(_) => {}
                }
            }
        }
    };
    text::visible(&page.0)
}
