//! How what finished runs were made with differs from what is to run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::results::Results;
use crate::error::{Error, Result};
use crate::files::{self, Source, exists};
use crate::network::weights_file;
use crate::run;
use crate::train::{EvaluateEvery, Recipe, StartFrom};

/// How the recipe of a row's finished runs, and what its files held then, differ from those that are planned. A file that is gone cannot be compared.
///
/// # Errors
/// Results or files that cannot be read.
pub(super) fn from_finished(results: &Results, row: &str, planned: &Recipe) -> Result<Vec<String>> {
    let mut different = differences(&results.recipe(row)?, planned)?;
    let chip = planned.hardware.as_deref().unwrap_or("the built-in mars.toml");
    if planned.hardware.is_none() || exists(Path::new(chip)) {
        let changed = other_keys(&results.chip(row)?, &run::hardware(planned)?)?;
        different.extend(changed.into_iter().map(|key| format!("{chip}: {key}")));
    }
    if let (Some(made), Some(file)) = (results.network(row)?, planned.model_file().filter(|file| exists(file))) {
        let changed = other_keys(&made, &run::network_of_file(planned)?)?;
        different.extend(changed.into_iter().map(|key| format!("{}: {key}", file.display())));
    }
    Ok(different)
}

/// Keys in which two recipes differ, each with both values; seeds don't count, checkpoints are compared by their content, when test images are met
/// changes nothing of what is trained, and what the made one found out by itself is none.
pub(super) fn differences(made: &Recipe, planned: &Recipe) -> Result<Vec<String>> {
    let compared = |recipe: &Recipe| {
        let (pretrained, evaluate_every) = (StartFrom::default(), EvaluateEvery::default());
        Recipe { seed: 0, pretrained, evaluate_every, ..recipe.clone() }
    };
    other_keys(&compared(&made.before_run(planned)), &compared(planned))
}

/// Keys in which two values differ, each with what both have.
fn other_keys(made: &impl Serialize, planned: &impl Serialize) -> Result<Vec<String>> {
    let (made, planned) = (keys(made)?, keys(planned)?);
    let all: BTreeSet<&String> = made.keys().chain(planned.keys()).collect();
    let text = |value: Option<&String>| value.map_or("absent", String::as_str).to_string();
    let different = all.into_iter().filter(|key| made.get(*key) != planned.get(*key));
    Ok(different.map(|key| format!("{key} = {}, now {}", text(made.get(key)), text(planned.get(key)))).collect())
}

/// The keys of a value with those of its tables, joined by dots.
fn keys(value: &impl Serialize) -> Result<BTreeMap<String, String>> {
    let value = toml::Value::try_from(value).map_err(|error| Error::Setting(error.to_string()))?;
    let mut keys = BTreeMap::new();
    flatten(String::new(), &value, &mut keys);
    Ok(keys)
}

/// How the checkpoint that a run is to start from (none: random weights) differs from the one that it started from, of which the hash is
/// known; one that isn't there cannot be compared.
pub(super) fn other_checkpoint(planned: Option<&Path>, made_sha256: Option<&str>) -> Result<Option<String>> {
    let other = match (planned, made_sha256) {
        (None, None) => false,
        (Some(file), Some(made)) => {
            let (file, _) = weights_file(file);
            exists(&file) && sha256(&file)? != made
        }
        _ => true,
    };
    let planned = planned.map_or("random weights".into(), |file| file.display().to_string());
    let made = if made_sha256.is_some() { "another checkpoint" } else { "random weights" };
    Ok(other.then(|| format!("start from {made}, now {planned}")))
}

/// Of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> Result<String> {
    files::sha256(&mut Source::open(path)?).map_err(Error::io(path))
}

fn flatten(key: String, value: &toml::Value, keys: &mut BTreeMap<String, String>) {
    let inner = |name: &str| if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(name, value)| flatten(inner(name), value, keys)),
        toml::Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| flatten(inner(&index.to_string()), value, keys));
        }
        _ => {
            keys.insert(key, value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_differ_in_what_decides_the_result() {
        let settings = |settings: &[&str]| -> Recipe {
            let settings: Vec<String> = settings.iter().map(|setting| setting.to_string()).collect();
            Recipe::load(None, &settings).unwrap()
        };
        let made = settings(&["pretrained=a", "seed=1"]);
        let same = settings(&["pretrained=a", "seed=2"]);
        assert_eq!(differences(&made, &same).unwrap(), [""; 0]);
        let other = settings(&["pretrained=b", "phases.1.epochs=7", "sparsity.target=0.25"]);
        let expected = ["phases.1.epochs = 1, now 7", "sparsity.target = 0.5, now 0.25"];
        assert_eq!(differences(&made, &other).unwrap(), expected);
    }

    #[test]
    fn checkpoints_differ_in_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        let [file, gone] = ["file", "gone"].map(|name| dir.path().join(name));
        std::fs::write(&file, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let other = |planned: Option<&Path>, made| other_checkpoint(planned, made).unwrap();
        assert_eq!(other(Some(&file), Some(abc)), None);
        assert_eq!(other(Some(&gone), Some("0")), None);
        assert_eq!(other(None, None), None);
        assert!(other(Some(&file), Some("0")).unwrap().starts_with("start from another checkpoint, now "));
        assert!(other(Some(&gone), None).unwrap().starts_with("start from random weights, now "));
        assert_eq!(other(None, Some(abc)).unwrap(), "start from another checkpoint, now random weights");
    }
}
