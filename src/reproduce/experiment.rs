//! The experiment file: the rows of a table in their order, each a recipe with settings on top.

use std::fmt::{Display, Formatter};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::builtin;
use crate::error::{Error, Result, closest};
use crate::files::{exists, read_text};
use crate::foreign::TomlKind;
use crate::train::{Recipe, StartFrom, assignment};

/// Where experiments lie that are named without a path.
pub const FOLDER: &str = "experiments";

/// A table whose rows are runs.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Name: that of its file, without `.toml`.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Heading of the table.
    pub title: String,
    /// What a reader of the table has to know.
    pub note: Option<String>,
    /// Rows, in order.
    pub rows: Vec<Row>,
    /// What a paper says about rows; such an experiment runs only the rows that are named.
    pub claims: Vec<Claim>,
}

/// A row: a recipe with settings on top, run once for each seed.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name, also of its folders: small letters, digits and `-`.
    pub name: String,
    /// What the table calls it.
    pub label: String,
    /// Recipe file, from the working folder.
    pub recipe: PathBuf,
    /// Settings `key=value` on top of it, as `--set` takes them: those of all rows first.
    pub settings: Vec<String>,
    /// Hardware file, from the working folder; without one, the recipe's.
    pub hardware: Option<PathBuf>,
    /// What of another row it starts from.
    pub start: Option<RowStart>,
    /// What it is to reach.
    pub bar: Option<Bar>,
    /// The curve of accuracy against cycles that it is a point of.
    pub curve: Option<String>,
}

/// What a row starts from that another row made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowStart {
    /// The last checkpoint of a row's run of the same seed.
    Checkpoint(String),
    /// The package of a row's first seed, as it is among the results.
    Package(String),
}

impl RowStart {
    /// Name of the other row.
    pub fn row(&self) -> &str {
        match self {
            Self::Checkpoint(row) | Self::Package(row) => row,
        }
    }

    /// Seed of the other row's run, for a run of this seed.
    pub(super) fn seed(&self, seed: u64) -> u64 {
        match self {
            Self::Checkpoint(_) => seed,
            Self::Package(_) => 0,
        }
    }
}

/// An accuracy to reach: so many points below `F`, the float accuracy that a row starts from.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bar {
    /// Points below `F`.
    pub below: f64,
}

/// What a paper says, and the rows that are measured beside it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The claim.
    pub says: String,
    /// How sure it is, and what isn't known about it.
    pub label: String,
    /// What of a row stands beside it.
    pub figure: ClaimedFigure,
    /// Names of the rows.
    pub rows: Vec<String>,
}

/// A figure that papers claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimedFigure {
    /// Frames a second.
    Fps,
    /// TOPS/W, counting the operations of the dense network.
    TopsPerWattDenseEquivalent,
}

impl TryFrom<String> for Bar {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let points = text.trim().strip_prefix('F').map(str::trim_start).and_then(|rest| rest.strip_prefix('-'));
        let below = points.and_then(|points| points.trim().parse().ok()).filter(|below| (0.0..=100.0).contains(below));
        let below = below.ok_or_else(|| {
            format!("bar `{text}`: it must have the form \"F - 0.5\", points below the float accuracy F")
        })?;
        Ok(Self { below })
    }
}

impl Display for Bar {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "F - {:?}", self.below)
    }
}

impl From<Bar> for String {
    fn from(bar: Bar) -> Self {
        bar.to_string()
    }
}

/// What an experiment file says; paths are from its folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    note: Option<String>,
    /// Recipe of the rows that name none.
    recipe: Option<PathBuf>,
    /// Settings of all rows.
    #[serde(default)]
    set: Vec<String>,
    rows: Vec<FileRow>,
    #[serde(default)]
    claims: Vec<Claim>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRow {
    name: String,
    label: String,
    recipe: Option<PathBuf>,
    #[serde(default)]
    set: Vec<String>,
    hardware: Option<PathBuf>,
    start: Option<String>,
    start_package: Option<String>,
    bar: Option<Bar>,
    curve: Option<String>,
}

impl Experiment {
    /// The experiment of a name in `experiments/`, or of a path.
    ///
    /// # Errors
    /// There is none (the message has the closest name), or its file is wrong.
    pub fn find(name: &str) -> Result<Self> {
        if name.ends_with(".toml") || name.contains(['/', '\\']) {
            return Self::load(Path::new(name));
        }
        let path = Path::new(FOLDER).join(format!("{name}.toml"));
        if exists(&path) {
            return Self::load(&path);
        }
        let known: Vec<String> = Self::files()?.iter().map(|path| stem(path)).collect();
        Err(Error::Setting(format!("there is no experiment `{name}` in {FOLDER}: {}", choices(name, &known))))
    }

    /// The files in `experiments/` that are experiments, or the program's own where there is no such folder, sorted; recipes have no rows.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn files() -> Result<Vec<PathBuf>> {
        let folder = Path::new(FOLDER);
        let mut paths: Vec<PathBuf> = match std::fs::read_dir(folder) {
            Ok(entries) => {
                let paths: std::io::Result<_> = entries.map(|entry| Ok(entry?.path())).collect();
                paths.map_err(Error::io(folder))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io(folder)(error)),
        };
        // The folder may hold nothing but results.
        if !paths.iter().any(|path| path.extension().is_some_and(|extension| extension == "toml")) {
            paths = builtin::paths().map(PathBuf::from).collect();
        }
        paths.retain(|path| path.parent() == Some(folder));
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml") && has_rows(path));
        paths.sort();
        Ok(paths)
    }

    /// Reads an experiment file.
    ///
    /// # Errors
    /// A missing file, a recipe, an unknown key, names that are no names or not unique, a row that starts from none before it.
    pub fn load(path: &Path) -> Result<Self> {
        let path = &from_here(path);
        let text = read_text(path)?;
        text.parse().map_or(Ok(()), |table| TomlKind::Experiment.check(path, &table))?;
        let file: File = toml::from_str(&text)
            .map_err(|error| Error::toml(path.display(), &text, &error, |message| Error::file(path, message)))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut rows: Vec<Row> = Vec::new();
        for row in file.rows {
            let wrong = |message: String| Error::file(path, format!("row `{}`: {message}", row.name));
            let letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
            if row.name.is_empty() || !row.name.chars().all(letter) {
                return Err(wrong("a name has small letters, digits and - alone".into()));
            }
            if rows.iter().any(|other| other.name == row.name) {
                return Err(wrong("another row has this name".into()));
            }
            if let Some(other) = rows.iter().find(|other| other.label == row.label) {
                return Err(wrong(format!(
                    "row `{}` has its label, too: a table would not tell them apart",
                    other.name
                )));
            }
            let start = match (row.start, row.start_package) {
                (Some(_), Some(_)) => {
                    return Err(wrong("start and start_package: a row starts from one of them".into()));
                }
                (checkpoint, package) => checkpoint.map(RowStart::Checkpoint).or(package.map(RowStart::Package)),
            };
            if let Some(start) =
                start.as_ref().map(RowStart::row).filter(|start| !rows.iter().any(|other| other.name == *start))
            {
                return Err(wrong(format!("it starts from row `{start}`, which isn't before it")));
            }
            let recipe = row.recipe.as_ref().or(file.recipe.as_ref());
            let recipe = recipe.ok_or_else(|| wrong("neither it nor the experiment names a recipe".into()))?;
            let settings: Vec<String> = file.set.iter().chain(&row.set).cloned().collect();
            check_settings(&settings).map_err(|error| wrong(error.to_string()))?;
            rows.push(Row {
                recipe: folder.join(recipe),
                settings,
                hardware: row.hardware.map(|file| folder.join(file)),
                start,
                bar: row.bar,
                curve: row.curve,
                name: row.name,
                label: row.label,
            });
        }
        for name in file.claims.iter().flat_map(|claim| &claim.rows) {
            if !rows.iter().any(|row| row.name == *name) {
                return Err(Error::file(path, format!("claims: there is no row `{name}`")));
            }
        }
        Ok(Self { name: stem(path), path: path.into(), title: file.title, note: file.note, rows, claims: file.claims })
    }

    /// Where its results lie: `results/NAME` beside its file.
    pub fn results(&self) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join("results").join(&self.name)
    }

    /// The row of a name.
    ///
    /// # Errors
    /// There is none; the message has the closest name.
    pub fn row(&self, name: &str) -> Result<&Row> {
        let row = self.rows.iter().find(|row| row.name == name);
        let known = || self.rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        row.ok_or_else(|| Error::file(&self.path, format!("there is no row `{name}`: {}", choices(name, &known()))))
    }

    /// The recipe of a row with `settings` on top of its own, and with the checkpoint that it starts from: the one that it names, or
    /// the network's own, whether that is there or not; random weights for networks that have none.
    ///
    /// # Errors
    /// A recipe that is missing or wrong.
    pub fn recipe(&self, row: &Row, settings: &[String]) -> Result<Recipe> {
        let wrong = |error: Error| Error::file(&self.path, format!("row `{}`: {error}", row.name));
        check_settings(settings)?;
        let mut settings = row.all_settings(settings);
        // One that starts from another row has something to start from, so that phases of its own begin with no float training.
        settings.extend(row.start.iter().map(|start| assignment("pretrained", start.row())));
        let mut recipe = Recipe::load(Some(&row.recipe), &settings).map_err(wrong)?;
        let checkpoint = recipe.checkpoint().or_else(|| match recipe.pretrained {
            StartFrom::Shipped => recipe.shipped_checkpoint(),
            StartFrom::Random | StartFrom::File(_) => None,
        });
        recipe.pretrained = checkpoint.map_or(StartFrom::Random, StartFrom::File);
        Ok(recipe)
    }
}

impl Row {
    /// What is set on top of the recipe file: its own settings and its hardware, then those of the command line.
    pub(super) fn all_settings(&self, settings: &[String]) -> Vec<String> {
        let hardware = self.hardware.iter().map(|file| assignment("hardware", &file.display().to_string()));
        self.settings.iter().cloned().chain(hardware).chain(settings.iter().cloned()).collect()
    }
}

/// A path as it is named from the current folder, so that what a row's recipe names is the same however the experiment is named.
fn from_here(path: &Path) -> PathBuf {
    match (path.canonicalize(), Path::new(".").canonicalize()) {
        (Ok(whole), Ok(here)) => whole.strip_prefix(here).unwrap_or(path).into(),
        _ => path.into(),
    }
}

/// Seeds belong to the command line, not to a row.
fn check_settings(settings: &[String]) -> Result<()> {
    let seed = settings.iter().find(|setting| setting.split('=').next().is_some_and(|key| key.trim() == "seed"));
    let message =
        |setting| Error::Setting(format!("`{setting}`: every row runs with seeds from 0 on; --seeds says how many"));
    seed.map_or(Ok(()), |setting| Err(message(setting)))
}

/// Whether a file is an experiment; one that isn't TOML is taken for one if it looks like it, so that its error is seen.
fn has_rows(path: &Path) -> bool {
    let text = read_text(path).unwrap_or_default();
    text.parse::<toml::Table>()
        .map_or_else(|_| text.contains("[[rows]]"), |table| TomlKind::of(&table) == Some(TomlKind::Experiment))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The known names, and the closest one first.
fn choices(name: &str, known: &[String]) -> String {
    let closest = closest(name, known.iter().map(String::as_str));
    let known = known.join(", ");
    closest.map_or(format!("there are {known}"), |closest| format!("did you mean `{closest}`? There are {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_points_below_the_float_accuracy() {
        for (text, below) in [("F - 0.5", 0.5), ("F-3", 3.0), (" F -  0 ", 0.0)] {
            assert_eq!(Bar::try_from(text.to_string()).unwrap().below, below);
        }
        for text in ["F + 1", "91", "F - x", "F - -1", "", "F - nan", "G - 1", "F"] {
            let error = Bar::try_from(text.to_string()).unwrap_err();
            assert!(error.contains("it must have the form \"F - 0.5\""), "{error}");
        }
        assert_eq!(Bar { below: 3.0 }.to_string(), "F - 3.0");
    }
}
