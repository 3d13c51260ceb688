//! Chips, mappings or packages side by side: a table, and `compare.html` with drawings.

use std::collections::BTreeSet;
use std::path::Path;

use maud::{Markup, html};
use serde::Serialize;

use super::chart::{self, Stack};
use super::document::{Extras, document};
use super::drawings::{energy_keys, energy_parts};
use super::figures::{Figure, figures, on_page};
use super::text::{UNKNOWN, WIDTH, bounds_summary, energy, grouped, percent, printable, scaling, words, wrapped};
use crate::error::{Error, Result};
use crate::files::{to_json, write_atomically};
use crate::hardware::Evaluation;

/// A network on a chip, beside others: an entry of `compare.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// What tells it from the others.
    pub name: String,
    /// Name of the network.
    pub network: String,
    /// What was assumed, of a network that nobody has trained.
    pub made_up: Option<String>,
    /// What it costs.
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

/// Characters of a name in the table.
const NAME: usize = 14;

type Value = fn(&Evaluation) -> String;

/// What is compared below the figures of the cost.
const OTHERS: [(&str, Value); 4] = [
    ("area, mm2", |it| it.area.map_or(UNKNOWN.into(), |area| format!("{:.3}", area.total_mm2))),
    ("groups that are zero", |it| percent(it.compression.group_sparsity)),
    ("cycles without reload", |it| grouped(it.cost_without_reload.cycles)),
    ("energy without reload, uJ", |it| energy(it.cost_without_reload.energy_uj)),
];

/// A name, and what each has there.
type Row = (String, Vec<String>);

/// The rows: the figures of the cost, components of the energy beneath it, the others; in ASCII.
fn rows(all: &[Compared]) -> Vec<Row> {
    let of_figure =
        |figure: Figure| (figure.title(), all.iter().map(|it| figure.number(&it.evaluation.cost)).collect());
    let of_component =
        |(name, values): (&str, Vec<f64>)| (format!("  {}, uJ", words(name)), values.into_iter().map(energy).collect());
    let of_other = |(name, value): (&str, Value)| (name.into(), all.iter().map(|it| value(&it.evaluation)).collect());
    let figures = figures(all.iter().map(|it| &it.evaluation.cost)).map(of_figure);
    figures.chain(components(all).into_iter().map(of_component)).chain(OTHERS.into_iter().map(of_other)).collect()
}

/// The table: a column for each, weight reload charged where nothing else is said.
pub fn comparison_table(all: &[Compared]) -> String {
    let mut text = String::new();
    let heads = heads(all);
    for sentence in assumptions(all) {
        let of_it: Vec<&str> = (heads.iter().zip(all))
            .filter(|(_, it)| it.made_up.as_deref() == Some(sentence))
            .map(|(head, _)| head.as_str())
            .collect();
        let whose = if of_it.len() < all.len() { format!(" of {}", of_it.join(", ")) } else { String::new() };
        let lines = wrapped(&format!("Made up{whose}: {}", printable(sentence, 1000)), WIDTH);
        text += &(lines.join("\n") + "\n\n");
    }
    let mut line = |name: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:>NAME$}")).collect();
        text += &format!("  {name:<26}{cells}\n");
    };
    line("per frame", heads.clone());
    if all.iter().any(|it| it.network != all[0].network) {
        line("network", all.iter().map(|it| printable(&it.network, NAME)).collect());
        line("chip", all.iter().map(|it| printable(&it.evaluation.chip.description.name, NAME)).collect());
    }
    for (name, cells) in rows(all) {
        line(&name, cells);
    }
    for (head, it) in heads.iter().zip(all) {
        text += &format!("  {head}: {}\n", notes(&it.evaluation));
    }
    text
}

/// What columns are called: short names, numbered where those aren't enough to tell them apart.
fn heads(all: &[Compared]) -> Vec<String> {
    let short: Vec<String> = all.iter().map(|it| printable(&it.name, NAME)).collect();
    if short.iter().collect::<BTreeSet<_>>().len() == all.len() {
        return short;
    }
    (1..).zip(all).map(|(number, it)| format!("{number}: {}", printable(&it.name, NAME - 4))).collect()
}

/// What is said of one beside its numbers.
fn notes(evaluation: &Evaluation) -> String {
    let scaled = evaluation.scaled_from.map(|from| format!("; {}", scaling(from)));
    bounds_summary(evaluation) + &scaled.unwrap_or_default()
}

/// What was made up, each once.
fn assumptions(all: &[Compared]) -> Vec<&str> {
    let mut sentences: Vec<&str> = Vec::new();
    for sentence in all.iter().filter_map(|it| it.made_up.as_deref()) {
        if !sentences.contains(&sentence) {
            sentences.push(sentence);
        }
    }
    sentences
}

/// The components of the energy that one of them has.
fn components(all: &[Compared]) -> Vec<(&'static str, Vec<f64>)> {
    let of = |it: &Compared| it.evaluation.cost.energy_breakdown_uj.components();
    let Some(first) = all.first().map(of) else { return Vec::new() };
    let row = |index: usize| (first[index].0, all.iter().map(|it| of(it)[index].1).collect::<Vec<f64>>());
    (0..first.len()).map(row).filter(|(_, values)| values.iter().any(|value| *value > 0.0)).collect()
}

/// The JSON text: an entry for each, with the keys of `deploy.json`.
///
/// # Errors
/// None that is known: every field has a form in JSON.
pub fn comparison_json(all: &[Compared]) -> Result<String> {
    to_json(&all)
}

/// Writes `compare.html` and `compare.json` into a folder, which is made if need be.
///
/// # Errors
/// A file that cannot be written.
pub fn write_comparison(all: &[Compared], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    write_atomically(&folder.join("compare.json"), comparison_json(all)?.as_bytes())?;
    write_atomically(&folder.join("compare.html"), page(all).as_bytes())
}

fn page(all: &[Compared]) -> String {
    let names: Vec<&str> = all.iter().map(|it| it.name.as_str()).collect();
    let title = names.join(", ");
    let body = html! {
        h1 { (title) }
        @for sentence in assumptions(all) { p class="part" { b { "Made up. " } (sentence) } }
        (table(all))
        (drawings(all))
    };
    document(&title, Extras::default(), &body)
}

fn table(all: &[Compared]) -> Markup {
    html! {
        section {
            h2 { "Per frame" }
            div.scroll tabindex="0" {
                table {
                    thead { tr { th scope="col" { "weight reload charged" } @for it in all { th scope="col" { (it.name) } } } }
                    tbody {
                        tr { th scope="row" { "network" } @for it in all { td { (it.network) } } }
                        tr { th scope="row" { "chip" } @for it in all { td { (it.evaluation.hardware) } } }
                        @for (name, cells) in rows(all) {
                            tr { th.component[name.starts_with(' ')] scope="row" { (on_page(name.trim_start())) } @for cell in cells { td { (cell) } } }
                        }
                    }
                }
            }
            @for it in all { p.note { b { (it.name) } ": " (notes(&it.evaluation)) "." } }
        }
    }
}

/// Energy and cycles as bars.
fn drawings(all: &[Compared]) -> Markup {
    let of_energy = |it: &Compared| Stack {
        label: it.name.clone(),
        text: format!("{} µJ", energy(it.evaluation.cost.energy_uj)),
        parts: energy_parts(&it.evaluation.cost.energy_breakdown_uj),
    };
    let of_time = |it: &Compared| {
        let us = 1e6 / it.evaluation.cost.fps;
        Stack { label: it.name.clone(), text: format!("{us:.1} µs"), parts: vec![(us, format!("{us:.1} µs"))] }
    };
    let energies: Vec<Stack> = all.iter().map(of_energy).collect();
    let times: Vec<Stack> = all.iter().map(of_time).collect();
    let energies = chart::stacks(
        "Energy of a frame",
        "Energy of a frame by component, weight reload charged",
        &energies,
        energy_keys(),
    );
    let times = chart::stacks("Time of a frame", "Time of a frame, weight reload charged", &times, Vec::new());
    html! {
        section {
            h2 { "Energy and time" }
            figure {
                p { @for (color, name) in &energies.keys { span class={ "key " (color) } {} (name) " " } }
                div.scroll tabindex="0" { (energies.svg) }
                figcaption { (energies.caption) "." }
            }
            figure { div.scroll tabindex="0" { (times.svg) } figcaption { (times.caption) "." } }
        }
    }
}
