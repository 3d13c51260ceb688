//! What a sweep leaves: `sweep.csv`, `sweep.jsonl`, `sweep.svg`, `sweep.html`, and the best points as a table.

use std::collections::HashMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::sweep::{Figures, Outcome, SweepRow, Value, pareto_front};

use super::chart::{Dot, Line, Quantity, Scatter, front, scatters};
use super::sweep_page::page;
use super::text::{WIDTH, count, energy, frames, grouped, printable, quoted, wrapped};

/// Rows that the table shows.
const SHOWN: usize = 20;
/// Characters of a key or a value that are printed.
const CELL: usize = 32;

/// Writes the rows as CSV and JSON lines, the Pareto plots, and a page with both. `made_up` is what was assumed of a network that nobody has trained.
///
/// # Errors
/// A file that cannot be written.
pub fn write_sweep(rows: &[SweepRow], made_up: Option<&str>, folder: &Path) -> Result<()> {
    let front = pareto_front(rows);
    let line = |row| json(row, &front, made_up).map(|text| text.to_string() + "\n");
    let jsonl: String = rows.iter().map(line).collect::<Result<_>>()?;
    write_atomically(&folder.join("sweep.jsonl"), jsonl.as_bytes())?;
    write_atomically(&folder.join("sweep.csv"), csv(rows, &front, made_up.is_some())?.as_bytes())?;
    let plots = scatters("Pareto plots of a sweep", &plots(rows, made_up.is_some()));
    write_atomically(&folder.join("sweep.svg"), plots.as_bytes())?;
    write_atomically(&folder.join("sweep.html"), page(rows, made_up, &front, &plots).as_bytes())
}

/// The points that no other one beats, fastest first, as text.
pub fn sweep_table(rows: &[SweepRow], made_up: Option<&str>) -> String {
    let front = pareto_front(rows);
    let mut best: Vec<(&SweepRow, &Figures)> = rows
        .iter()
        .filter(|row| front.binary_search(&row.point).is_ok())
        .filter_map(|row| Some((row, row.figures()?)))
        .collect();
    best.sort_by(|(_, a), (_, b)| b.cost.fps.total_cmp(&a.cost.fps));
    let failed = rows.iter().filter(|row| row.figures().is_none()).count();
    let mut lines = vec![format!(
        "{}, of which {failed} cannot work; {} that no other one beats",
        count(rows.len(), "point"),
        count(best.len(), "point")
    )];
    let fails = |row: &SweepRow| match &row.outcome {
        Outcome::Error(error) => Some(format!("point {}: {}", row.point, printable(error, 1000))),
        Outcome::Figures(_) => None,
    };
    lines.extend(rows.iter().find_map(fails));
    if !best.is_empty() {
        lines.push(String::new());
        let shown = &best[..best.len().min(SHOWN)];
        lines.extend(aligned(shown));
        if shown.iter().any(|(_, figures)| figures.scaled) {
            lines.push("  * accesses were measured on another array, and are scaled to this one".into());
        }
    }
    if best.len() > SHOWN {
        lines.push(format!("  and {} more", best.len() - SHOWN));
    }
    lines
        .extend(made_up.iter().flat_map(|sentence| wrapped(&format!("Made up: {}", printable(sentence, 1000)), WIDTH)));
    lines.join("\n") + "\n"
}

/// A heading and a line for each point, in columns as wide as what is in them.
fn aligned(points: &[(&SweepRow, &Figures)]) -> Vec<String> {
    let keys = points.iter().take(1).flat_map(|(row, _)| row.settings.iter().map(|(key, _)| short(key)));
    let images = points.iter().find_map(|(_, figures)| figures.images);
    let right = images.map_or("right".into(), |images| format!("right of {}", grouped(images as u64)));
    let heading = ["point", "frames/s", "uJ/frame"].map(str::to_owned).into_iter().chain([right]).chain(keys).collect();
    let line = |(row, figures): &(&SweepRow, &Figures)| -> Vec<String> {
        let cost = &figures.cost;
        let accuracy = figures.accuracy.map_or("-".into(), |accuracy| format!("{accuracy:.2} %"));
        let scaled = if figures.scaled { "*" } else { "" };
        let numbers = [format!("{}{scaled}", row.point), frames(cost.fps), energy(cost.energy_uj), accuracy];
        numbers.into_iter().chain(row.settings.iter().map(|(_, value)| printable(&brief(value), CELL))).collect()
    };
    let lines: Vec<Vec<String>> = [heading].into_iter().chain(points.iter().map(line)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let cell = |(cell, width): (&String, &usize)| format!("  {cell:>width$}");
    lines.iter().map(|line| line.iter().zip(&widths).map(cell).collect()).collect()
}

/// A value in few characters: of a table its kind, unless a key says so, and its other keys.
fn brief(value: &Value) -> String {
    match value {
        Value::Table(table) => {
            let kind = table.get("kind").map(brief).filter(|kind| !table.contains_key(kind));
            let others =
                table.iter().filter(|(key, _)| *key != "kind").map(|(key, value)| format!("{key} {}", brief(value)));
            kind.into_iter().chain(others).collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text.clone(),
        _ => value.to_string(),
    }
}

/// The last part of a key.
fn short(key: &str) -> String {
    printable(key.rsplit('.').next().unwrap_or(key), CELL)
}

fn json(row: &SweepRow, front: &[usize], made_up: Option<&str>) -> Result<serde_json::Value> {
    let mut value = serde_json::to_value(row).map_err(|error| Error::Setting(error.to_string()))?;
    value["pareto"] = front.binary_search(&row.point).is_ok().into();
    if let Some(sentence) = made_up {
        value["made_up"] = sentence.into();
    }
    Ok(value)
}

/// One line a point; the columns of figures are their keys in `deploy.json`, joined by dots. The last one says what is made up.
fn csv(rows: &[SweepRow], front: &[usize], made_up: bool) -> Result<String> {
    let figures = |row: &SweepRow| -> Result<Vec<(String, String)>> {
        let mut cells = Vec::new();
        if let Some(figures) = row.figures() {
            let value = serde_json::to_value(figures).map_err(|error| Error::Setting(error.to_string()))?;
            flatten("", &value, &mut cells);
        }
        Ok(cells)
    };
    let works = rows.iter().find(|row| row.figures().is_some());
    let columns = works.map(figures).transpose()?.unwrap_or_default();
    let keys = rows.first().into_iter().flat_map(|row| row.settings.iter().map(|(key, _)| key.clone()));
    let mut header: Vec<String> = ["point".into()].into_iter().chain(keys).collect();
    header.extend(["error".into(), "pareto".into()]);
    header.extend(columns.iter().map(|(key, _)| key.clone()));
    header.extend(made_up.then(|| "made_up".into()));
    let mut lines = vec![header];
    for row in rows {
        let mut line = vec![row.point.to_string()];
        line.extend(row.settings.iter().map(|(_, value)| match value.as_str() {
            Some(text) => text.into(),
            None => value.to_string(),
        }));
        match &row.outcome {
            Outcome::Error(error) => {
                line.extend([error.clone(), "false".into()]);
                line.resize(line.len() + columns.len(), String::new());
            }
            Outcome::Figures(_) => {
                line.extend([String::new(), front.binary_search(&row.point).is_ok().to_string()]);
                // A figure may be absent for one chip and present for another.
                let mut cells: HashMap<String, String> = figures(row)?.into_iter().collect();
                line.extend(columns.iter().map(|(column, _)| cells.remove(column).unwrap_or_default()));
            }
        }
        line.extend(made_up.then(|| "true".into()));
        lines.push(line);
    }
    let text = |line: &Vec<String>| line.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",") + "\n";
    Ok(lines.iter().map(text).collect())
}

fn flatten(prefix: &str, value: &serde_json::Value, cells: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, cells);
            }
        }
        _ => cells.push((prefix.into(), value.to_string())),
    }
}

/// Frames a second over energy; accuracy over energy and frames a second over area where they are known.
fn plots(rows: &[SweepRow], made_up: bool) -> Vec<Scatter> {
    let of = if made_up { " of a made-up network" } else { "" };
    const ENERGY: Quantity = Quantity { name: "energy of a frame, \u{b5}J", logarithmic: true, rising: false };
    const SPEED: Quantity = Quantity { name: "frames / s", logarithmic: true, rising: true };
    const ACCURACY: Quantity = Quantity { name: "accuracy of the macro model, %", logarithmic: false, rising: true };
    const AREA: Quantity = Quantity { name: "area, mm\u{b2}", logarithmic: true, rising: false };
    type Figure = fn(&Figures) -> Option<f64>;
    let (of_energy, speed): (Figure, Figure) = (|it| Some(it.cost.energy_uj), |it| Some(it.cost.fps));
    let (accuracy, area): (Figure, Figure) = (|it| it.accuracy, |it| it.area.map(|area| area.total_mm2));
    let works: Vec<(&SweepRow, &Figures)> = rows.iter().filter_map(|row| Some((row, row.figures()?))).collect();
    [
        ("Speed over energy", [ENERGY, SPEED], [of_energy, speed]),
        ("Accuracy over energy", [ENERGY, ACCURACY], [of_energy, accuracy]),
        ("Speed over area", [AREA, SPEED], [area, speed]),
    ]
    .into_iter()
    .map(|(title, quantities, [x, y])| {
        // A logarithm has no place for a chip that costs nothing.
        let shown = |value: f64, quantity: Quantity| Some(value).filter(|value| *value > 0.0 || !quantity.logarithmic);
        let dot = |(row, figures): &(&SweepRow, &Figures)| {
            Some(Dot { x: shown(x(figures)?, quantities[0])?, y: shown(y(figures)?, quantities[1])?, title: name(row) })
        };
        let title = format!("{title}{of}, reload charged; no point beats the line in both");
        let dots: Vec<Dot> = works.iter().filter_map(dot).collect();
        let lines = vec![Line { name: "Pareto front".into(), dots: front(quantities, &dots) }];
        Scatter { title, quantities, dots, lines }
    })
    .filter(|plot| !plot.dots.is_empty())
    .collect()
}

fn name(row: &SweepRow) -> String {
    let settings: Vec<String> = row.settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("point {}: {}", row.point, settings.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_converter_is_shown_by_its_keys() {
        let shown = |text: &str| brief(&format!("value = {text}").parse::<toml::Table>().unwrap()["value"]);
        assert_eq!(shown("{ kind = 'bits', bits = 5, step = 2 }"), "bits 5, step 2");
        assert_eq!(shown("{ kind = 'ideal' }"), "ideal");
        assert_eq!(shown("{ kind = 'tree', levels = 3 }"), "tree, levels 3");
    }
}
