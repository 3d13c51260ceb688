//! `report.html`: one file that needs no network, for a phone or a desk, light or dark.
//!
//! Templates escape every text; the [`document`] around them then takes out what a reader could not see.

mod chip;
mod cost;
mod elements;
mod energy;
mod layers;
mod provenance;
mod summary;
mod timeline;
mod training;

use maud::html;

use super::document::{Extras, document};
use super::metrics::Metrics;
use super::subject::{Basis, Subject};

/// The page; of a network that nobody has trained without `metrics`.
pub(super) fn page(subject: Subject, metrics: &Metrics) -> String {
    let body = html! {
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
    };
    document(&format!("{} on {}", subject.name, subject.evaluation.hardware), Extras::default(), &body)
}
