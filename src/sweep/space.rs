//! The design space: ranges over keys of a hardware file.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::read_toml;
use crate::foreign::TomlKind;
use crate::groups::GroupShape;
use crate::hardware::{Hardware, base_path, derive};

/// A value of a key, as it stands in a hardware file.
pub type Value = toml::Value;

/// Most points of a sweep.
pub(super) const MAX_POINTS: usize = 1 << 20;

/// What a sweep file says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Hardware file, from the sweep file's folder; the built-in one if absent.
    base: Option<PathBuf>,
    /// Images on which each point's accuracy is measured; none if absent.
    images: Option<usize>,
    /// For each key of the hardware file the list of its values.
    #[serde(default)]
    ranges: toml::Table,
}

/// A hardware file with lists of values for some of its keys: every combination is a point.
#[derive(Clone, Debug)]
pub struct Space {
    base: toml::Table,
    ranges: Vec<Range>,
    images: Option<usize>,
    len: usize,
}

/// A key of the hardware file, from the outermost table on, and its values.
#[derive(Clone, Debug)]
struct Range {
    path: Vec<String>,
    values: Vec<Value>,
}

impl Range {
    fn key(&self) -> String {
        self.path.join(".")
    }
}

/// Rows are JSON, which has no other numbers.
fn is_finite(value: &Value) -> bool {
    match value {
        Value::Float(number) => number.is_finite(),
        Value::Array(values) => values.iter().all(is_finite),
        Value::Table(table) => table.values().all(is_finite),
        _ => true,
    }
}

impl Space {
    /// Reads a sweep file and its hardware file.
    ///
    /// # Errors
    /// Files that cannot be read; unknown keys; a key without values, or with one that a hardware file cannot hold there (a
    /// value that no chip can work with is no error: it becomes a row); more than 2^20 points.
    pub fn load(path: &Path) -> Result<Self> {
        TomlKind::Sweep.check(path, &read_toml(path)?)?;
        let file: File = read_toml(path)?;
        let base = match &file.base {
            Some(base) => Hardware::load(&base_path(path, base)?)?,
            None => Hardware::mars(),
        };
        Self::new(&base, file.ranges, file.images).map_err(|message| Error::file(path, message))
    }

    fn new(base: &Hardware, ranges: toml::Table, images: Option<usize>) -> std::result::Result<Self, String> {
        if images == Some(0) {
            return Err("images is 0: leave it out for a sweep of the cost alone".into());
        }
        let base = toml::Table::try_from(base).map_err(|error| error.to_string())?;
        let mut space = Self { base, ranges: Vec::new(), images, len: 1 };
        space.collect(&mut Vec::new(), ranges)?;
        for (index, range) in space.ranges.iter().enumerate() {
            if space.ranges[..index].iter().any(|other| other.key() == range.key()) {
                return Err(format!("ranges.{} is there twice", range.key()));
            }
            let values = u64::try_from(range.values.len()).ok().filter(|&values| values > 0);
            let values = values.ok_or_else(|| format!("ranges.{} has no values", range.key()))?;
            let len = (space.len as u64).checked_mul(values).filter(|len| *len <= MAX_POINTS as u64);
            space.len = len.ok_or_else(|| format!("the ranges have more than {MAX_POINTS} points"))? as usize;
            for value in &range.values {
                if !is_finite(value) {
                    return Err(format!("ranges.{} = {value}: numbers must be finite", range.key()));
                }
                space
                    .with(&[(range, value)])
                    .map_err(|message| format!("ranges.{} = {value}: {message}", range.key()))?;
            }
        }
        Ok(space)
    }

    /// Takes the lists out of nested tables.
    fn collect(&mut self, path: &mut Vec<String>, table: toml::Table) -> std::result::Result<(), String> {
        for (key, value) in table {
            path.extend(key.split('.').map(String::from));
            match value {
                Value::Array(values) => self.ranges.push(Range { path: path.clone(), values }),
                Value::Table(table) => self.collect(path, table)?,
                _ => return Err(format!("ranges.{} is {value}, it must be a list of values", path.join("."))),
            }
            path.truncate(path.len() - key.split('.').count());
        }
        Ok(())
    }

    /// The chip of a hardware file with this base and some keys of its own.
    fn with(&self, settings: &[(&Range, &Value)]) -> std::result::Result<Hardware, String> {
        let (mut table, mut own) = (self.base.clone(), toml::Table::new());
        for (range, value) in settings {
            let (last, tables) = range.path.split_last().expect("a key has a name");
            let inner = |table| {
                let inner = tables.iter().try_fold(table, |table: &mut toml::Table, key| {
                    table.entry(key).or_insert_with(|| Value::Table(toml::Table::new())).as_table_mut()
                });
                inner.ok_or("no table has this key; give whole values of the outer one")
            };
            let place = inner(&mut table)?;
            if value.is_table() && last != "stated_for" {
                // It takes the place of the base's, as other values do; what constants were stated for is said of each alone.
                place.remove(last);
            }
            inner(&mut own)?.insert(last.clone(), (*value).clone());
        }
        derive(&mut table, own);
        table.try_into().map_err(|error: toml::de::Error| Error::in_words(&error.message().trim().replace('\n', ", ")))
    }

    /// Points.
    pub fn len(&self) -> usize {
        self.len
    }

    /// False: without ranges the base is the only point.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The shapes of groups that chips have which can work.
    pub fn groups(&self) -> Vec<GroupShape> {
        let shape = |point| self.hardware(point).ok().map(|hardware| hardware.group);
        if !self.ranges.iter().any(|range| range.path[0] == "group") {
            return (0..self.len).find_map(shape).into_iter().collect();
        }
        let mut shapes = Vec::new();
        for shape in (0..self.len).into_par_iter().filter_map(shape).collect::<Vec<_>>() {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
        shapes
    }

    /// Images on which accuracy is measured.
    pub fn images(&self) -> Option<usize> {
        self.images
    }

    /// What the sweep is about, for a fingerprint: the base, the ranges and the number of images.
    pub fn description(&self) -> String {
        let ranges: Vec<String> = self
            .ranges
            .iter()
            .map(|range| format!("{} = {}", range.key(), Value::Array(range.values.clone())))
            .collect();
        format!("{}\n{}\nimages = {:?}", self.base, ranges.join("\n"), self.images)
    }

    /// The ranges with their values at a point; the last one changes fastest.
    fn at(&self, point: usize) -> Vec<(&Range, &Value)> {
        let mut rest = point;
        let mut settings: Vec<_> = (self.ranges.iter().rev())
            .map(|range| {
                let value = &range.values[rest % range.values.len()];
                rest /= range.values.len();
                (range, value)
            })
            .collect();
        settings.reverse();
        settings
    }

    /// Keys and values of a point.
    pub fn settings(&self, point: usize) -> Vec<(String, Value)> {
        self.at(point).into_iter().map(|(range, value)| (range.key(), value.clone())).collect()
    }

    /// The chip of a point.
    ///
    /// # Errors
    /// Values that don't fit each other; a chip that cannot work.
    pub fn hardware(&self, point: usize) -> Result<Hardware> {
        let hardware = self.with(&self.at(point)).map_err(Error::Setting)?;
        hardware.validate()?;
        Ok(hardware)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(ranges: &str) -> std::result::Result<Space, String> {
        Space::new(&Hardware::mars(), ranges.parse().unwrap(), None)
    }

    #[test]
    fn every_combination_is_a_point_and_the_last_key_changes_fastest() {
        let space = space("cores = [1, 2]\n\"memory.feature_sram_kib\" = [8, 16, 32]\n[noise]\nsigma = [0.5]").unwrap();
        assert_eq!(space.len(), 6);
        let keys: Vec<String> = space.settings(0).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["cores", "memory.feature_sram_kib", "noise.sigma"]);
        let chips: Vec<_> = (0..6).map(|point| space.hardware(point).unwrap()).collect();
        let values: Vec<_> = chips.iter().map(|chip| (chip.cores, chip.memory.feature_sram_kib)).collect();
        assert_eq!(values, [(1, 8), (1, 16), (1, 32), (2, 8), (2, 16), (2, 32)]);
        assert!(chips.iter().all(|chip| chip.noise.unwrap().sigma == 0.5 && chip.rows == 1024));
        assert_eq!(space.settings(4)[1], ("memory.feature_sram_kib".into(), 16.into()));
    }

    #[test]
    fn whole_tables_are_values_and_no_ranges_are_the_base() {
        let space = space("converter = [{ kind = \"ideal\" }, { kind = \"bits\", bits = 5, step = 2 }]").unwrap();
        assert_eq!(space.hardware(1).unwrap().losses(), ["5-bit converter"]);
        assert_eq!(self::space("").unwrap().hardware(0).unwrap(), Hardware::mars());
    }

    #[test]
    fn the_size_that_one_constant_was_stated_for_leaves_those_of_others() {
        let space =
            space("[energy]\nstated_for = [{ cells = 32768 }]\n[memory]\nfeature_sram_kib = [256, 1024]").unwrap();
        let chips = [0, 1].map(|point| space.hardware(point).unwrap());
        assert_eq!(chips.each_ref().map(|chip| chip.leakage_mw_per_macro()), [2.8; 2]);
        let [one, four] = chips.map(|chip| chip.feature_sram_pj_per_bit());
        assert!((four / one - 2.0).abs() < 1e-12, "{one} {four}");
    }

    #[test]
    fn what_no_hardware_file_can_hold_is_an_error_of_the_sweep_file() {
        for (ranges, message) in [
            ("coers = [1]", "ranges.coers = 1: unknown field `coers`, expected one of `name`, `cores`"),
            ("cores = [\"two\"]", "ranges.cores = \"two\": invalid type"),
            ("cores = 2", "ranges.cores is 2, it must be a list of values"),
            ("cores = []", "ranges.cores has no values"),
            ("clock_mhz = [50.0, inf]", "ranges.clock_mhz = inf: numbers must be finite"),
            ("noise = [{ sigma = nan }]", "ranges.noise = { sigma = nan }: numbers must be finite"),
            ("\"noise.sigma\" = [1.0]\n[noise]\nsigma = [2.0]", "ranges.noise.sigma is there twice"),
            ("converter.bits = [5]", "ranges.converter.bits = 5: unknown field `bits`"),
            ("cores.x = [5]", "ranges.cores.x = 5: no table has this key"),
        ] {
            let error = space(ranges).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
        let many = format!("cores = {0:?}\nrows = {0:?}\ncolumns = {0:?}", [1; 200]);
        assert!(space(&many).unwrap_err().contains("more than 1048576 points"));
    }

    #[test]
    fn a_chip_that_cannot_work_is_an_error_of_its_point() {
        let space = space("rows_on = [64, 2048]").unwrap();
        assert!(space.hardware(0).is_ok());
        assert!(space.hardware(1).unwrap_err().to_string().contains("rows_on 2048 exceeds rows 1024"));
    }
}
