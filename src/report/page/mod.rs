//! `report.html`: one file that needs no network, for a phone or a desk, light or dark.
//!
//! Templates escape every text; [`text::visible`] then takes out what a reader could not see.

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
use super::{chart, text};
use crate::validation::Deployment;

/// The page.
pub(super) fn page(deployment: &Deployment, metrics: &Metrics) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'";
                title { (deployment.network) " on " (deployment.hardware) }
                style { (PreEscaped(chart::CSS)) (PreEscaped(include_str!("page.css"))) }
            }
            body {
                (summary::headline(deployment))
                (summary::accuracy(deployment))
                (summary::compression(deployment))
                (cost::cost(deployment))
                (energy::energy(deployment))
                (cost::area(deployment))
                (layers::sparsity(deployment))
                (layers::layers(deployment))
                (layers::utilization(deployment))
                (timeline::timeline(deployment))
                (layers::kept(deployment))
                (training::training(metrics))
                (provenance::provenance(deployment))
            }
        }
    };
    text::visible(&page.0)
}
