//! `report.html`: one file that needs no network, for a phone or a desk, light or dark.
//!
//! Templates escape every text; [`text::visible`] then takes out what a reader could not see.

mod cost;
mod energy;
mod layers;
mod provenance;
mod summary;
mod timeline;
mod training;

use maud::{DOCTYPE, Markup, PreEscaped, Render, html};

use super::metrics::Metrics;
use super::text;
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
                style { (PreEscaped(include_str!("../style.css"))) }
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

fn section(title: &str, body: Markup) -> Markup {
    html! { section { h2 { (title) } (body) } }
}

/// A table whose first column names the rows.
fn table<C: Render>(headings: &[&str], rows: &[Vec<C>]) -> Markup {
    table_of_class(None, headings, rows)
}

/// A table whose first column names the rows and whose last one holds words.
fn table_of_words<C: Render>(headings: &[&str], rows: &[Vec<C>]) -> Markup {
    table_of_class(Some("words"), headings, rows)
}

fn table_of_class<C: Render>(class: Option<&str>, headings: &[&str], rows: &[Vec<C>]) -> Markup {
    html! {
        div.scroll tabindex="0" {
            table class=[class] {
                thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                tbody {
                    @for row in rows {
                        tr {
                            th scope="row" { (row[0]) }
                            @for cell in &row[1..] { td { (cell) } }
                        }
                    }
                }
            }
        }
    }
}

/// The colors of a drawing: class of a [`key`](self::key) and what it stands for.
fn legend(entries: &[(&str, &str)]) -> Markup {
    html! { p { @for (color, name) in entries { (key(color)) (name) " " } } }
}

/// A square in a color of the style.
fn key(color: &str) -> Markup {
    html! { span class={ "key " (color) } {} }
}
