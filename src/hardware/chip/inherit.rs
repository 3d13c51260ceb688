//! Hardware files, and those that hold only what differs from a base.

use std::path::{Path, PathBuf};

use super::description::Hardware;
use crate::builtin;
use crate::error::{Error, Result};
use crate::files::{self, read_text, read_toml, to_toml, write_atomically};
use crate::foreign::TomlKind;

/// Longest chain of bases.
const MAX_BASES: usize = 8;

/// The table of a hardware file with its base, and the base's base, beneath it; `files` gets the bases.
fn with_base(path: &Path, mut own: toml::Table, files: &mut Vec<PathBuf>) -> Result<toml::Table> {
    let base = match own.remove("base") {
        None => {
            let keys = own.clone();
            state_sizes(&mut own, &keys);
            return Ok(own);
        }
        Some(toml::Value::String(base)) => base_path(path, Path::new(&base))?,
        Some(_) => return Err(Error::file(path, "base must be the path of a hardware file")),
    };
    if base == path || files.contains(&base) {
        return Err(Error::file(path, format!("its base {} leads back to itself", base.display())));
    }
    if files.len() == MAX_BASES {
        return Err(Error::file(path, format!("more than {MAX_BASES} bases, one on top of the other")));
    }
    files.push(base.clone());
    let mut whole = with_base(&base, read_toml(&base)?, files)?;
    if let (false, Some(stem)) = (own.contains_key("name"), path.file_stem()) {
        // It isn't the chip of its base.
        own.insert("name".into(), stem.to_string_lossy().into_owned().into());
    }
    derive(&mut whole, own);
    Ok(whole)
}

/// Makes the table of a chip that of one with some keys of its own.
pub(crate) fn derive(whole: &mut toml::Table, own: toml::Table) {
    let components = own.get("energy").is_some_and(|energy| energy.get("components").is_some());
    let mut accesses = own.get("access").and_then(toml::Value::as_array).into_iter().flatten();
    let measured = accesses.any(|access| access.get("energy_pj").is_some());
    if own.contains_key("access") {
        state_area_of_accesses(whole);
    }
    if let Some(energy) = whole.get_mut("energy").and_then(toml::Value::as_table_mut) {
        // Shares are of the accesses that were measured, components of those that weren't.
        if components || measured {
            energy.remove("macro_shares");
        }
        if measured {
            energy.remove("components");
        }
    }
    let keys = own.clone();
    merge(whole, own);
    state_sizes(whole, &keys);
    state_area(whole, &keys);
}

/// The hardware file that `file` names as its base: a path from its own folder, or the name of one that is part of the program.
///
/// # Errors
/// Neither is there.
pub(crate) fn base_path(file: &Path, base: &Path) -> Result<PathBuf> {
    let beside = file.parent().unwrap_or(Path::new("")).join(base);
    if files::exists(&beside) {
        return Ok(beside);
    }
    if builtin::find(base).is_some() {
        return Ok(base.into());
    }
    let meant = builtin::closest_hardware(base).map_or(String::new(), |file| format!("; did you mean {file}?"));
    let message = format!(
        "base = {base:?}: there is no {}; a base is a path from the file's own folder, or one of `mars-deploy --list-hardware`{meant}",
        beside.display()
    );
    Err(Error::file(file, message))
}

/// Notes what the constants were stated for that a file gives with its `keys`: the sizes that the chip has there.
fn state_sizes(whole: &mut toml::Table, keys: &toml::Table) {
    let sizes = |table: &toml::Table, names: &[&str]| -> toml::Table {
        names.iter().filter_map(|name| Some(((*name).to_owned(), table.get(*name)?.clone()))).collect()
    };
    let geometry = sizes(whole, &["rows", "columns", "rows_on"]);
    if keys.contains_key("access") && geometry.len() == 3 {
        let accesses = whole.get_mut("access").and_then(toml::Value::as_array_mut).into_iter().flatten();
        for access in accesses.filter_map(toml::Value::as_table_mut) {
            access.entry("measured").or_insert_with(|| geometry.clone().into());
        }
    }
    let energy_keys = keys.get("energy").and_then(toml::Value::as_table);
    let gives = |key: &str| energy_keys.is_some_and(|energy| energy.contains_key(key));
    let memory = || Some(sizes(whole.get("memory")?.as_table()?, &["weight_sram_kib", "feature_sram_kib"]));
    let mut stated = toml::Table::new();
    if gives("leakage_mw_per_macro") {
        stated.extend(cells(whole).map(|cells| ("cells".to_owned(), cells)));
    }
    if gives("buffer_pj_per_bit") {
        stated.extend(memory().into_iter().flatten());
    }
    if let Some(said) = energy_keys.and_then(|energy| energy.get("stated_for")).and_then(toml::Value::as_table) {
        stated.extend(said.clone());
    }
    let energy = whole.get_mut("energy").and_then(toml::Value::as_table_mut);
    let place = energy.map(|energy| energy.entry("stated_for").or_insert_with(|| toml::Table::new().into()));
    // Where it is no table, what reads it says so.
    if let Some(toml::Value::Table(place)) = place {
        place.extend(stated);
    }
}

/// Notes the cells of the macro whose area a file with a base gives: those of its own macro. Without a base they are those of its accesses.
fn state_area(whole: &mut toml::Table, keys: &toml::Table) {
    let own = keys.get("area").and_then(toml::Value::as_table);
    if own.is_some_and(|own| own.contains_key("macro_mm2") && !own.contains_key("macro_cells")) {
        let cells = cells(whole);
        let area = whole.get_mut("area").and_then(toml::Value::as_table_mut);
        area.into_iter().for_each(|area| area.extend(cells.clone().map(|cells| ("macro_cells".to_owned(), cells))));
    }
}

/// Notes the cells of a macro whose area is that of its accesses, before others take their place.
fn state_area_of_accesses(whole: &mut toml::Table) {
    let accesses = whole.get("access").and_then(toml::Value::as_array).into_iter().flatten();
    let stated =
        accesses.filter_map(|access| cells(access.get("measured")?.as_table()?)).next().or_else(|| cells(whole));
    let area = whole.get_mut("area").and_then(toml::Value::as_table_mut);
    if let (Some(area), Some(stated)) = (area, stated) {
        area.entry("macro_cells").or_insert(stated);
    }
}

/// Cells of the macro; none where rows or columns are no numbers.
fn cells(whole: &toml::Table) -> Option<toml::Value> {
    let size = |key| whole.get(key)?.as_integer();
    Some(size("rows")?.checked_mul(size("columns")?)?.into())
}

fn merge(whole: &mut toml::Table, own: toml::Table) {
    for (key, value) in own {
        match (whole.get_mut(&key), value) {
            // Another kind of converter has other keys.
            (Some(toml::Value::Table(whole)), toml::Value::Table(own)) if !own.contains_key("kind") => {
                merge(whole, own);
            }
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
}

/// Of a file that isn't there: where the names of those stand that are part of the programs.
fn missing(error: Error) -> Error {
    match error {
        Error::Missing { path, .. } => {
            let meant = builtin::closest_hardware(&path).map_or(String::new(), |file| format!("did you mean {file}? "));
            let message = format!("there is no such file; {meant}mars-deploy --list-hardware lists the built-in ones");
            Error::file(&path, message)
        }
        error => error,
    }
}

impl Hardware {
    /// Reads and checks a hardware file.
    ///
    /// A file with the key `base` holds only what differs from another hardware file, whose path is from its own folder. Tables are merged
    /// recursively. Two things replace instead of merging: arrays, and tagged tables (those with a `kind`). Constants belong to the sizes that the
    /// chip has in the file that gives them, unless they say what they were stated for.
    ///
    /// # Errors
    /// A missing file, wrong TOML, an unknown key (the message lists the known ones), a chain of bases that doesn't end, and everything
    /// that [`validate`](Self::validate) finds.
    pub fn load(path: &Path) -> Result<Self> {
        let own: toml::Table = read_toml(path).map_err(missing)?;
        TomlKind::Hardware.check(path, &own)?;
        if !own.contains_key("base") {
            // Read as text, so that messages have lines.
            read_toml::<Self>(path)?;
        }
        let mut bases = Vec::new();
        let whole = toml::Value::Table(with_base(path, own, &mut bases)?);
        let hardware: Self = whole.try_into().map_err(|error: toml::de::Error| {
            let bases: Vec<String> = bases.iter().map(|base| base.display().to_string()).collect();
            let place = format!("(in this file or its base {})", bases.join(", "));
            let message = error.to_string().trim().replace('\n', " ");
            Error::unknown_or(path.display(), &message, Some(&place), |message| Error::file(path, message))
        })?;
        hardware.check().map_err(|source| Error::HardwareFile { path: path.into(), source: source.into() })?;
        Ok(hardware)
    }

    /// Writes a hardware file so that it needs no other one: as it is, or where it has a base with all keys of that.
    ///
    /// # Errors
    /// Those of [`load`](Self::load); a file that cannot be written.
    pub fn write_whole(from: &Path, to: &Path) -> Result<()> {
        let whole = Self::load(from)?;
        let text = match read_toml::<toml::Table>(from)?.contains_key("base") {
            false => read_text(from)?,
            true => format!(
                "# {} with all keys of its base that aren't defaults (docs/hardware-keys.md). Sources of its numbers stand there and in its base.\n{}",
                from.display(),
                to_toml(&whole)?
            ),
        };
        write_atomically(to, text.as_bytes())
    }
}
