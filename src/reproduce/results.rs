//! What is known of finished runs: for each row a folder with its recipe, the figures of each seed, and the package, figures and
//! metrics of the first one, so that anybody can check it.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::{read_if_present, to_json, wait_for_lock, write_atomically};
use crate::hardware::{Cost, Hardware};
use crate::network::NetworkSpec;
use crate::run_folder::{DEPLOYMENT, METRICS, NETWORK, PACKAGE, RECIPE};
use crate::train::Recipe;
use crate::validation::{Deployment, Mismatches};

/// The key of `deploy.json`'s chip that its hardware file doesn't have.
const CHIP_HASH: &str = "sha256";
/// The runs of a row, ascending by seed.
const RUNS: &str = "seeds.json";
/// Files of the first seed's run folder that are kept; the network, where it is a file's.
const KEPT: [&str; 5] = [PACKAGE, DEPLOYMENT, METRICS, NETWORK, RECIPE];

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

    /// The chip that a row's first seed ran on.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn chip(&self, row: &str) -> Result<Hardware> {
        #[derive(Deserialize)]
        struct OnChip {
            chip: serde_json::Map<String, serde_json::Value>,
        }
        let path = self.row_folder(row).join(DEPLOYMENT);
        let wrong = |error: serde_json::Error| Error::file(&path, error.to_string());
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let OnChip { mut chip } = serde_json::from_str(&text).map_err(wrong)?;
        chip.remove(CHIP_HASH);
        serde_json::from_value(chip.into()).map_err(wrong)
    }

    /// The network of a row's first seed; none where it wasn't kept.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn network(&self, row: &str) -> Result<Option<NetworkSpec>> {
        let path = self.row_folder(row).join(NETWORK);
        path.exists().then(|| NetworkSpec::load(&path)).transpose()
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
            let of_a_file = Recipe::load(Some(&folder.join(RECIPE)), &[])?.model_file().is_some();
            for name in KEPT.into_iter().filter(|name| *name != NETWORK || of_a_file) {
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
