//! `sweep.html`: the plots of a sweep, the keys that vary, and a table that can be sorted.

use std::collections::HashSet;

use maud::{Markup, PreEscaped, html};

use super::document::{Extras, document};
use super::text::{UNKNOWN, accuracy, count, energy, frames, grouped, percent};
use crate::sweep::{Figures, Outcome, SweepRow, Value};

/// Most rows of the table: those that no other one beats, then the others in their order, then those that cannot work.
const SHOWN: usize = 2_000;

/// Sorts the table by the column whose heading is pressed; once more turns it round. What cannot work stays last.
const SCRIPT: &str = "document.querySelectorAll('#points th').forEach((head, column) => head.onclick = () => {\
const body = document.querySelector('#points tbody'), rows = [...body.rows], down = head.dataset.down !== '1';\
document.querySelectorAll('#points th').forEach(other => delete other.dataset.down);\
head.dataset.down = down ? '1' : '0';\
const fails = row => row.querySelector('td.error') ? 1 : 0;\
const key = row => { const cell = row.cells[column], text = cell?.dataset.key ?? cell?.textContent ?? ''; return text === '' || isNaN(text) ? text : Number(text) };\
rows.sort((a, b) => { const [x, y] = [key(a), key(b)];\
const order = typeof x === typeof y ? (x > y) - (x < y) : typeof x === 'number' ? -1 : 1; return fails(a) - fails(b) || (down ? order : -order) });\
body.append(...rows) })";

/// The page; `front` are the points that no other one beats, ascending, `plots` an SVG text.
pub(super) fn page(rows: &[SweepRow], made_up: Option<&str>, front: &[usize], plots: &str) -> String {
    let on_front = |row: &&SweepRow| front.binary_search(&row.point).is_ok();
    let best = rows.iter().filter(|row| on_front(row));
    let (works, fails): (Vec<&SweepRow>, Vec<_>) =
        rows.iter().filter(|row| !on_front(row)).partition(|row| row.figures().is_some());
    let shown: Vec<&SweepRow> = best.chain(works).chain(fails).take(SHOWN).collect();
    let title = format!("A sweep of {}", count(rows.len(), "chip"));
    let body = html! {
        h1 { (title) }
        @if let Some(sentence) = made_up { p class="part" { b { "Made up. " } (sentence) } }
        p {
            (count(front.len(), "point")) " that no other one beats in speed, energy, accuracy and area, as far as they are known; "
            (count(rows.iter().filter(|row| row.figures().is_none()).count(), "point")) " cannot work."
        }
        (keys(rows))
        section { h2 { "Plots" } p.note { "A dot tells its chip where a mouse rests on it; of more than 5,000 chips, those that lie beside each other are one dot, but for the front." } div.scroll tabindex="0" { (PreEscaped(plots)) } }
        (points(rows, front, &shown))
    };
    let css = "#points thead th{cursor:pointer}#points td.error{text-align:left;white-space:normal;overflow-wrap:anywhere}\
.scroll>svg{height:auto}";
    document(&title, Extras { script: Some(SCRIPT), css }, &body)
}

/// The keys that vary, with their values.
fn keys(rows: &[SweepRow]) -> Markup {
    let names = rows.first().into_iter().flat_map(|row| row.settings.iter().map(|(key, _)| key));
    let values = |key: &str| {
        let values = rows.iter().flat_map(|row| row.settings.iter().filter(|(name, _)| name == key));
        let mut seen = HashSet::new();
        let new = values.map(|(_, value)| plain(value)).filter(|text| seen.insert(text.clone()));
        new.collect::<Vec<_>>().join(", ")
    };
    html! {
        section {
            h2 { "What varies" }
            div.scroll tabindex="0" {
                table.words {
                    thead { tr { th scope="col" { "key" } th scope="col" { "values" } } }
                    tbody { @for name in names { tr { th scope="row" { (name) } td { (values(name)) } } } }
                }
            }
        }
    }
}

/// A value without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

type Column = (&'static str, fn(&Figures) -> String, fn(&Figures) -> Option<f64>);

/// Heading, text, and what it is sorted by.
const COLUMNS: [Column; 7] = [
    ("frames / s", |it| frames(it.cost.fps), |it| Some(it.cost.fps)),
    ("energy (µJ)", |it| energy(it.cost.energy_uj), |it| Some(it.cost.energy_uj)),
    ("power (mW)", |it| format!("{:.2}", it.cost.average_power_mw), |it| Some(it.cost.average_power_mw)),
    (
        "TOPS/W, dense-equivalent",
        |it| format!("{:.2}", it.cost.tops_per_watt_dense_equivalent),
        |it| Some(it.cost.tops_per_watt_dense_equivalent),
    ),
    ("utilization", |it| percent(it.cost.utilization), |it| Some(it.cost.utilization)),
    (
        "area (mm²)",
        |it| it.area.map_or(UNKNOWN.into(), |area| format!("{:.3}", area.total_mm2)),
        |it| it.area.map(|area| area.total_mm2),
    ),
    ("accuracy", |it| accuracy(it.accuracy), |it| it.accuracy),
];

fn points(rows: &[SweepRow], front: &[usize], shown: &[&SweepRow]) -> Markup {
    let names: Vec<&str> =
        rows.first().into_iter().flat_map(|row| row.settings.iter().map(|(key, _)| key.as_str())).collect();
    html! {
        section {
            h2 { "Points" }
            p.note {
                "A heading sorts by its column, once more the other way round. Weight reload is charged. Scaled: accesses were measured on another array. "
                @if shown.len() < rows.len() { (grouped(shown.len() as u64)) " of " (grouped(rows.len() as u64)) " points are shown. " }
                "All of them are in sweep.csv."
                @if let Some(images) = rows.iter().find_map(|row| row.figures()?.images) {
                    " Accuracy is the macro model's on " (count(images, "image")) "."
                }
            }
            div.scroll tabindex="0" {
                table id="points" {
                    thead {
                        tr {
                            th scope="col" { "point" }
                            th scope="col" { "Pareto" }
                            th scope="col" { "scaled" }
                            @for name in &names { th scope="col" { (name) } }
                            @for (heading, ..) in COLUMNS { th scope="col" { (heading) } }
                        }
                    }
                    tbody {
                        @for row in shown {
                            tr {
                                th scope="row" { (row.point) }
                                td { @if front.binary_search(&row.point).is_ok() { "yes" } }
                                td { @if row.figures().is_some_and(|figures| figures.scaled) { "yes" } }
                                @for (_, value) in &row.settings { td { (plain(value)) } }
                                @match &row.outcome {
                                    Outcome::Figures(figures) => {
                                        @for (_, text, key) in COLUMNS {
                                            td data-key=[key(figures)] { (text(figures)) }
                                        }
                                    }
                                    Outcome::Error(error) => { td.error colspan=(COLUMNS.len()) { (error) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
