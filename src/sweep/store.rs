//! The rows of a sweep in a folder: JSON lines, one file for each shard, each written by one process.
//!
//! A file's first line says which sweep it belongs to. A row is appended in one write when its point is done; a line that was cut
//! short by a crash is dropped when the sweep continues.

use std::fmt::{Display, Formatter};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::row::SweepRow;
use super::space::MAX_POINTS;
use crate::error::{Error, Result};
use crate::files::{sha256, try_lock, wait_for_lock};

/// A part of a sweep: the points with `number % count == index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    count: usize,
}

impl Shard {
    /// The whole sweep.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Its points, of `len`.
    pub fn points(self, len: usize) -> impl Iterator<Item = usize> {
        (self.index..len).step_by(self.count)
    }

    fn file(self) -> String {
        format!("rows-{}-of-{}.jsonl", self.index + 1, self.count)
    }

    /// The shard whose rows are in a file of this name.
    fn of_file(name: &str) -> Option<Self> {
        let (index, count) = name.strip_prefix("rows-")?.strip_suffix(".jsonl")?.split_once("-of-")?;
        format!("{index}/{count}").parse().ok().filter(|shard: &Self| shard.file() == name)
    }
}

impl Display for Shard {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.index + 1, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    /// Reads `I/N`, counted from 1.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().ok();
        let shard = text.split_once('/').and_then(|(index, count)| Some((number(index)?, number(count)?)));
        match shard {
            Some((index, count @ 1..=MAX_POINTS)) if (1..=count).contains(&index) => {
                Ok(Self { index: index - 1, count })
            }
            _ => Err(format!("it must be I/N with I from 1 to N, and N at most {MAX_POINTS}")),
        }
    }
}

/// First line of a file of rows.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Header {
    /// Fingerprint of everything that rows follow from, but for the program.
    sweep: String,
    /// SHA-256 of the program.
    program: String,
    points: usize,
}

/// The folder of a sweep.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    header: Header,
}

/// The file of a shard, locked.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    /// Appends a row. Of one that cannot be written nothing is left, so that a later one stands in a line of its own.
    pub(super) fn push(&mut self, row: &SweepRow) -> Result<()> {
        let whole = self.file.stream_position().map_err(Error::io(&self.path))?;
        append(&mut self.file, &self.path, row).inspect_err(|_| {
            // Where this fails as well, the next call drops the line that was cut off.
            let _ = self.file.set_len(whole).and_then(|()| self.file.seek(SeekFrom::Start(whole)));
        })
    }
}

/// Builds of one version may reckon differently, so that their rows don't stand beside each other.
fn program_sha256() -> Result<String> {
    let path = std::env::current_exe().map_err(Error::io(Path::new("the program")))?;
    File::open(&path).and_then(|mut program| sha256(&mut program)).map_err(Error::io(&path))
}

fn append(file: &mut File, path: &Path, line: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string(line).map_err(|error| Error::file(path, error.to_string()))?;
    text.push('\n');
    file.write_all(text.as_bytes()).map_err(Error::io(path))
}

impl Store {
    /// The rows of a sweep in a folder, which is made if need be; `sweep` is a fingerprint of everything that they follow from, but for
    /// this program.
    ///
    /// # Errors
    /// A folder that cannot be made; a program that cannot be read.
    pub fn new(folder: &Path, sweep: String, points: usize) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        Ok(Self { folder: folder.into(), header: Header { sweep, program: program_sha256()?, points } })
    }

    /// All rows so far, and the file of a shard, ready for more.
    ///
    /// # Errors
    /// Files that cannot be read or belong to another sweep; a shard that another process writes.
    pub(super) fn open(&self, shard: Shard) -> Result<(Vec<SweepRow>, Writer)> {
        let path = self.folder.join(shard.file());
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&path).map_err(Error::io(&path))?;
        if !try_lock(&file).map_err(Error::io(&path))? {
            return Err(Error::file(&path, "another process writes this shard"));
        }
        // Before anything is written into a folder of another sweep, where an empty file means nothing.
        let rows = self.rows()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io(&path))?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(Error::io(&path))?;
        if whole == 0 {
            append(&mut file, &path, &self.header)?;
        }
        Ok((rows, Writer { path, file }))
    }

    /// The rows of all shards, in the order of their points; of a point that two shards have, one.
    ///
    /// # Errors
    /// Files that cannot be read, are damaged or belong to another sweep.
    pub fn rows(&self) -> Result<Vec<SweepRow>> {
        let mut rows = Vec::new();
        for shard in self.begun()? {
            self.read(&self.folder.join(shard.file()), &mut rows)?;
        }
        rows.sort_by_key(|row: &SweepRow| row.point);
        rows.dedup_by_key(|row| row.point);
        Ok(rows)
    }

    /// The shards that have a file.
    fn begun(&self) -> Result<Vec<Shard>> {
        let folder = std::fs::read_dir(&self.folder).map_err(Error::io(&self.folder))?;
        let shard = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.map(|entry| Shard::of_file(&entry.file_name().to_string_lossy()))
        };
        let shards: Result<Vec<_>> = folder.map(shard).map(|shard| shard.map_err(Error::io(&self.folder))).collect();
        Ok(shards?.into_iter().flatten().collect())
    }

    /// Of the division into shards that most have begun of, those with a point that has no row.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn unfinished(&self, rows: &[SweepRow]) -> Result<Vec<Shard>> {
        let begun = self.begun()?;
        let of_count = |count: usize| begun.iter().filter(|shard| shard.count == count).count();
        let count = begun.iter().map(|shard| shard.count).max_by_key(|count| (of_count(*count), *count)).unwrap_or(1);
        let mut known = vec![false; self.header.points];
        rows.iter().for_each(|row| known[row.point] = true);
        let shards = (0..count).map(|index| Shard { index, count });
        Ok(shards.filter(|shard| shard.points(self.header.points).any(|point| !known[point])).collect())
    }

    fn read(&self, path: &Path, rows: &mut Vec<SweepRow>) -> Result<()> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        // What follows the last end of a line is being written, or was when a process died.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let mut lines = (1..).zip(bytes[..whole].split(|byte| *byte == b'\n'));
        let Some((_, first)) = lines.next().filter(|(_, line)| !line.is_empty()) else { return Ok(()) };
        let header: Option<Header> = serde_json::from_slice(first).ok();
        if header.as_ref() != Some(&self.header) {
            let of_this_sweep = header.is_some_and(|header| header.sweep == self.header.sweep);
            let writer = if of_this_sweep {
                "another build of the program wrote it"
            } else {
                "it belongs to another sweep or package"
            };
            return Err(Error::file(path, format!("{writer}: choose another --run folder, or delete it")));
        }
        for (number, line) in lines {
            let row: SweepRow = serde_json::from_slice(line).map_err(|error| {
                Error::file(path, format!("line {number}: {error}; delete the line to redo its point"))
            })?;
            if row.point >= self.header.points {
                return Err(Error::file(path, format!("line {number}: point {} of {}", row.point, self.header.points)));
            }
            rows.push(row);
        }
        Ok(())
    }

    /// Runs `merge` while no other process does so in this folder.
    ///
    /// # Errors
    /// Those of `merge`; a lock file that cannot be made.
    pub fn alone<T>(&self, merge: impl FnOnce() -> Result<T>) -> Result<T> {
        let _lock = wait_for_lock(&self.folder.join("merge.lock"))?;
        merge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_part_the_points() {
        let shards = ["1/3", "2/3", "3/3"].map(|text| text.parse::<Shard>().unwrap());
        let mut points: Vec<usize> = shards.iter().flat_map(|shard| shard.points(10)).collect();
        points.sort_unstable();
        assert_eq!(points, (0..10).collect::<Vec<_>>());
        assert_eq!("1/1".parse(), Ok(Shard::WHOLE));
        for text in ["0/3", "4/3", "1", "1/0", "a/2", "-1/2", "1/2/3"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
