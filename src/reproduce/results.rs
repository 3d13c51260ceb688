//! What is known of finished runs: for each row a folder with its recipe, the figures of each seed, and the package, figures and
//! metrics of the first one, so that anybody can check it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{self, Source, exists, read_if_present, to_json, wait_for_lock, write_atomically};
use crate::hardware::Cost;
use crate::network::weights_file;
use crate::run_folder::{DEPLOYMENT, METRICS, PACKAGE, RECIPE};
use crate::train::{EvaluateEvery, Recipe, StartFrom};
use crate::validation::{Deployment, Mismatches};

/// The runs of a row, ascending by seed.
const RUNS: &str = "seeds.json";
/// Files of the first seed's run folder that are kept.
const KEPT: [&str; 4] = [PACKAGE, DEPLOYMENT, METRICS, RECIPE];

/// What is left of a finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// Epochs from the float network on that `float_accuracy` is of, those of the row that it starts from included; all epochs of a
    /// run from random weights.
    pub epochs: usize,
    /// `F`: accuracy of the float network before any compression, in percent; absent for one that never was trained in float.
    pub float_accuracy: Option<f64>,
    /// SHA-256 of the checkpoint that it starts from; absent for random weights.
    pub checkpoint_sha256: Option<String>,
    /// [`Split::sha256`](crate::data::Split::sha256) of the test images.
    pub data_sha256: String,
    /// Test images.
    pub images: usize,
    /// Accuracy of the macro model after the last epoch, in percent.
    pub accuracy: f64,
    /// Where the executions differ.
    pub mismatches: Mismatches,
    /// Zero groups / all groups.
    pub group_sparsity: f64,
    /// Dense weights at the same bits / (stored + index bits).
    pub ratio: f64,
    /// Per frame, weight reload charged.
    pub cost: CostFigures,
    /// Per frame, as if all weights stayed in the macros.
    pub cost_without_reload: CostFigures,
}

/// The figures of a [`Cost`] that tables show.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CostFigures {
    /// Cycles.
    pub cycles: f64,
    /// Frames a second.
    pub fps: f64,
    /// Energy in microjoules.
    pub energy_uj: f64,
    /// Operations of the dense network / energy.
    pub tops_per_watt_dense_equivalent: f64,
    /// Operations of kept groups / energy.
    pub tops_per_watt_executed: f64,
}

impl From<&Cost> for CostFigures {
    fn from(cost: &Cost) -> Self {
        Self {
            cycles: cost.cycles as f64,
            fps: cost.fps,
            energy_uj: cost.energy_uj,
            tops_per_watt_dense_equivalent: cost.tops_per_watt_dense_equivalent,
            tops_per_watt_executed: cost.tops_per_watt_executed,
        }
    }
}

impl Run {
    /// A run as its deployment shows it.
    pub(super) fn new(
        seed: u64,
        epochs: usize,
        float_accuracy: Option<f64>,
        checkpoint_sha256: Option<String>,
        deployment: &Deployment,
    ) -> Self {
        Self {
            seed,
            epochs,
            float_accuracy,
            checkpoint_sha256,
            data_sha256: deployment.data_sha256.clone(),
            images: deployment.images,
            accuracy: deployment.accuracy.macro_model,
            mismatches: deployment.mismatches,
            group_sparsity: deployment.evaluation.compression.group_sparsity,
            ratio: deployment.evaluation.compression.ratio,
            cost: (&deployment.evaluation.cost).into(),
            cost_without_reload: (&deployment.evaluation.cost_without_reload).into(),
        }
    }
}

/// A folder of results.
#[derive(Clone, Debug)]
pub struct Results {
    folder: PathBuf,
}

impl Results {
    /// The results in a folder, which need not be there yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// Their folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps other processes from writing here as long as it lives; makes the folder, if it isn't there.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub(super) fn lock(&self) -> Result<File> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        wait_for_lock(&self.folder.join("lock"))
    }

    /// The folder of a row.
    pub fn row_folder(&self, row: &str) -> PathBuf {
        self.folder.join(row)
    }

    /// The finished runs of a row, ascending by seed; none if it never finished.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn runs(&self, row: &str) -> Result<Vec<Run>> {
        let path = self.row_folder(row).join(RUNS);
        let text = read_if_present(&path)?.unwrap_or("[]".into());
        serde_json::from_str(&text).map_err(|error| Error::file(&path, error.to_string()))
    }

    /// The recipe that a row's runs were made with.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn recipe(&self, row: &str) -> Result<Recipe> {
        Recipe::load(Some(&self.row_folder(row).join(RECIPE)), &[])
    }

    /// Adds a run, whose run folder this is.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub(super) fn record(&self, row: &str, run: Run, folder: &Path) -> Result<()> {
        // Another process may have finished another seed at the same time.
        let _lock = self.lock()?;
        let kept = self.row_folder(row);
        std::fs::create_dir_all(&kept).map_err(Error::io(&kept))?;
        let mut runs = self.runs(row)?;
        runs.retain(|other| other.seed != run.seed);
        if runs.iter().all(|other| other.seed > run.seed) {
            for name in KEPT {
                let path = folder.join(name);
                match std::fs::read(&path) {
                    Ok(bytes) => write_atomically(&kept.join(name), &bytes)?,
                    // Calibration alone has no epochs.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound && name == METRICS => {}
                    Err(error) => return Err(Error::io(&path)(error)),
                }
            }
        }
        runs.push(run);
        runs.sort_by_key(|run| run.seed);
        write_atomically(&kept.join(RUNS), to_json(&runs)?.as_bytes())
    }
}

/// Keys in which two recipes differ, each with both values; seeds don't count, checkpoints are compared by their content, when test images are met
/// changes nothing of what is trained, and what the made one measured on its images is none.
pub(super) fn differences(made: &Recipe, planned: &Recipe) -> Result<Vec<String>> {
    let keys = |recipe: &Recipe| -> Result<BTreeMap<String, String>> {
        let (pretrained, evaluate_every) = (StartFrom::default(), EvaluateEvery::default());
        let recipe = Recipe { seed: 0, pretrained, evaluate_every, ..recipe.clone() };
        let value = toml::Value::try_from(&recipe).map_err(|error| Error::Setting(error.to_string()))?;
        let mut keys = BTreeMap::new();
        flatten(String::new(), &value, &mut keys);
        Ok(keys)
    };
    let (made, planned) = (keys(&made.unmeasured(planned))?, keys(planned)?);
    let all: BTreeSet<&String> = made.keys().chain(planned.keys()).collect();
    let text = |value: Option<&String>| value.map_or("absent", String::as_str).to_string();
    let different = all.into_iter().filter(|key| made.get(*key) != planned.get(*key));
    Ok(different.map(|key| format!("{key} = {}, now {}", text(made.get(key)), text(planned.get(key)))).collect())
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
