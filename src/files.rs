//! Files as all rooms read and write them: whole or not at all, and by one process at a time.

use std::fs::{File, TryLockError};
use std::io::{BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::builtin;
use crate::error::{Error, Result};

/// A file that is read: on the disk, or one of the program's own.
pub(crate) enum Source {
    /// On the disk.
    Disk(File),
    /// Part of the program.
    BuiltIn(Cursor<&'static [u8]>),
}

/// SHA-256 of what a reader gives, in hexadecimal.
pub(crate) fn sha256(reader: &mut impl Read) -> std::io::Result<String> {
    let mut digest = Sha256::new();
    std::io::copy(reader, &mut digest)?;
    Ok(format!("{:x}", digest.finalize()))
}

impl Source {
    /// Opens a file of the disk, or the program's own of this path where the disk has none.
    ///
    /// # Errors
    /// There is none, or it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        match (File::open(path), builtin::find(path)) {
            (Ok(file), _) => Ok(Self::Disk(file)),
            (Err(error), Some(bytes)) if error.kind() == ErrorKind::NotFound => Ok(Self::BuiltIn(Cursor::new(bytes))),
            (Err(error), None) if error.kind() == ErrorKind::NotFound => {
                Err(Error::Missing { path: path.into(), suggestion: builtin::closest(path) })
            }
            (Err(error), _) => Err(Error::io(path)(error)),
        }
    }

    /// Its bytes.
    #[cfg(feature = "train")]
    pub fn len(&self) -> std::io::Result<u64> {
        match self {
            Self::Disk(file) => Ok(file.metadata()?.len()),
            Self::BuiltIn(bytes) => Ok(bytes.get_ref().len() as u64),
        }
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Disk(file) => file.read(buffer),
            Self::BuiltIn(bytes) => bytes.read(buffer),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, place: SeekFrom) -> std::io::Result<u64> {
        match self {
            Self::Disk(file) => file.seek(place),
            Self::BuiltIn(bytes) => bytes.seek(place),
        }
    }
}

/// Whether there is a file of this path, on the disk or in the program.
pub(crate) fn exists(path: &Path) -> bool {
    path.exists() || builtin::find(path).is_some()
}

/// Most bytes of a file that a person writes: a device that never ends isn't read for ever.
const MAX_TEXT: u64 = 1 << 24;

/// Reads a text that a person wrote, or one of the program's own.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = Source::open(path)?.take(MAX_TEXT + 1).read_to_string(&mut text);
    match read.map_err(Error::io(path))? as u64 > MAX_TEXT {
        true => {
            Err(Error::file(path, format!("it has more than {} MiB, which is no text of settings", MAX_TEXT >> 20)))
        }
        false => Ok(text),
    }
}

/// Reads a TOML file into a value whose unknown keys are errors.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    toml::from_str(&text)
        .map_err(|error| Error::toml(path.display(), &text, &error, |message| Error::file(path, message)))
}

/// The TOML text of a value.
pub(crate) fn to_toml(value: &impl Serialize) -> Result<String> {
    toml::to_string(value).map_err(|error| Error::Setting(error.to_string()))
}

/// The JSON text of a value, for people and programs to read.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Setting(error.to_string()))?;
    Ok(text + "\n")
}

/// The text of a file; none where there is no such file.
#[cfg(feature = "train")]
pub(crate) fn read_if_present(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path)(error)),
    }
}

/// Removes a file, where there is one.
#[cfg(feature = "train")]
pub(crate) fn remove_if_present(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A file or folder that lies beside its place until it is whole. Others see by its lock that its process is still there.
pub(crate) struct Part {
    /// Where it lies.
    pub path: PathBuf,
    place: PathBuf,
    lock: Option<File>,
}

impl Part {
    /// Makes a file beside `place`.
    fn file(place: PathBuf) -> std::io::Result<Self> {
        remove_abandoned(&place);
        let path = part_beside(&place);
        let file = File::create_new(&path)?;
        try_lock(&file)?;
        Ok(Self { path, place, lock: Some(file) })
    }

    /// Makes a folder beside `place`.
    pub fn folder(place: PathBuf) -> std::io::Result<Self> {
        remove_abandoned(&place);
        let path = part_beside(&place);
        std::fs::create_dir(&path)?;
        // Systems that don't open folders as files, or don't lock them, keep the parts of killed processes.
        let lock = File::open(&path).ok().filter(|folder| try_lock(folder).is_ok());
        Ok(Self { path, place, lock })
    }

    /// Gives it its name, which a power cut doesn't take back.
    pub fn finish(&self) -> std::io::Result<()> {
        self.lock.as_ref().map_or(Ok(()), File::sync_all)?;
        std::fs::rename(&self.path, &self.place)?;
        sync_folder_of(&self.place)
    }

    /// Removes it. Whatever went wrong before is the error that matters.
    pub fn abandon(&self) {
        let _ = if self.path.is_dir() { std::fs::remove_dir_all(&self.path) } else { std::fs::remove_file(&self.path) };
    }
}

/// Names in the folder of a file are on the disk when this returns.
fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    // Other systems have no such call, or don't open folders.
    #[cfg(unix)]
    File::open(folder_of(path))?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Between two calls of a process that makes a part and locks it there is less than this.
const UNLOCKED: Duration = Duration::from_secs(60);

/// Removes what processes that are gone have left beside a path. What cannot be removed stays.
fn remove_abandoned(place: &Path) {
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for entry in std::fs::read_dir(folder_of(place)).into_iter().flatten().flatten() {
        let other = entry.file_name().to_string_lossy().into_owned();
        let middle = other.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".part"));
        let of_us = middle.is_some_and(|middle| {
            middle
                .split_once('-')
                .is_some_and(|parts| [parts.0, parts.1].iter().all(|part| part.parse::<u32>().is_ok()))
        });
        let aged = entry.metadata().and_then(|found| found.modified());
        let aged = aged.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > UNLOCKED));
        let path = entry.path();
        // Where the file system has no locks, nobody knows.
        if of_us && aged && File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

/// A name beside a path that no other process takes, not even one of another container, whose number may be the same.
pub(crate) fn part_beside(path: &Path) -> PathBuf {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}-{nanoseconds}.part", std::process::id()));
    part.into()
}

/// What a path leads to through links; the last one's target need not be there.
///
/// # Errors
/// A link that cannot be read; links in a circle.
fn target(path: &Path) -> std::io::Result<PathBuf> {
    /// More than any system follows.
    const LINKS: usize = 64;
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        if !std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Ok(path);
        }
        path = folder_of(&path).join(std::fs::read_link(&path)?);
    }
    Err(std::io::Error::other("the links lead in a circle"))
}

/// Locks a file until it is closed; false where another process has it. Where the file system has no locks nobody is kept out.
pub(crate) fn try_lock(file: &File) -> std::io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if has_no_locks(&error) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Makes a lock file, and waits until no other process has it; it is given back when the file is dropped.
pub(crate) fn wait_for_lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::io(path))?;
    match file.lock() {
        Err(error) if !has_no_locks(&error) => Err(Error::io(path)(error)),
        _ => Ok(file),
    }
}

/// Whether the file system is to blame: Lustre without `flock`, NFS without its daemon.
fn has_no_locks(error: &std::io::Error) -> bool {
    /// Linux's "no locks available".
    const ENOLCK: i32 = 37;
    error.kind() == ErrorKind::Unsupported || error.raw_os_error() == Some(ENOLCK)
}

/// Whether writing a path puts a new file in its place: not where it is a pipe or a device, or leads to what another process opened, which would not see
/// that file (`/dev/stdout`).
fn is_replaced(path: &Path) -> bool {
    let opened = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
    let opened_elsewhere = opened.iter().any(|place| path.starts_with(place));
    !opened_elsewhere && std::fs::metadata(path).map_or(true, |found| found.is_file())
}

/// Why no JSON can be written to a path, before anything is computed: a file that is no JSON, such as an input, isn't replaced.
pub(crate) fn refused_as_json(path: &Path) -> Option<String> {
    if path.is_dir() {
        return Some("it is a folder: name a file".into());
    }
    if let Some(reason) = missing_folder(path) {
        return Some(reason);
    }
    if !is_replaced(path) {
        return None;
    }
    let bytes = File::open(path).into_iter().flat_map(|file| BufReader::new(file).bytes());
    let first = bytes.map_while(std::io::Result::ok).find(|byte| !byte.is_ascii_whitespace());
    if first.is_some_and(|byte| !b"{[".contains(&byte)) {
        return Some("it is there and holds no JSON: remove it, or name another file".into());
    }
    let folder = folder_of(path);
    let probe = tempfile::tempfile_in(folder);
    probe.err().map(|error| format!("nothing can be written in {}: {error}", folder.display()))
}

/// What is said of a file whose folder isn't there.
pub(crate) fn missing_folder(path: &Path) -> Option<String> {
    let folder = folder_of(path);
    (!folder.is_dir()).then(|| format!("there is no folder {}: make it first", folder.display()))
}

/// Writes a file beside its place, waits until it is on the disk and renames it, so that a crash, a power cut or a full disk leaves the
/// old one. Several processes may write the same file: one of them is the last. A link's target is replaced; a pipe or a device is written into.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    if !is_replaced(path) {
        return std::fs::write(path, bytes).map_err(Error::io(path));
    }
    let write = || {
        let part = Part::file(target(path)?)?;
        let written = part.lock.as_ref().map_or(Ok(()), |mut file| file.write_all(bytes)).and_then(|()| part.finish());
        written.inspect_err(|_| part.abandon())
    };
    write().map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let [near, far] = ["near", "far"].map(|name| dir.path().join(name));
        for folder in [&near, &far] {
            fs::create_dir(folder).unwrap();
        }
        let link = near.join("last");
        std::os::unix::fs::symlink("../far/first", &link).unwrap();
        std::os::unix::fs::symlink("second", far.join("first")).unwrap();
        // A target that isn't there yet, then one whose old content somebody still reads.
        for text in ["one", "two"] {
            let old = File::open(&link).ok();
            write_atomically(&link, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(far.join("second")).unwrap(), text);
            let before = old.map(|file| std::io::read_to_string(file).unwrap());
            assert_eq!(before.as_deref(), (text == "two").then_some("one"), "the old file was not written into");
        }
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!([names(&near), names(&far)], [vec!["last"], vec!["first", "second"]]);
    }

    #[cfg(unix)]
    #[test]
    fn links_in_a_circle_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("a");
        std::os::unix::fs::symlink("a", &link).unwrap();
        assert!(write_atomically(&link, b"text").unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn what_a_killed_process_left_goes_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("model.mars");
        let old = SystemTime::now() - 2 * UNLOCKED;
        let make = |name: &str| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        for name in ["model.mars.1-2.part", "model.mars.part", "model.mars.x-2.part", "other.mars.1-2.part"] {
            make(name);
        }
        let at_work = make("model.mars.3-4.part");
        assert!(try_lock(&at_work).unwrap());
        File::create(dir.path().join("model.mars.5-6.part")).unwrap();
        write_atomically(&place, b"package").unwrap();
        let left =
            ["model.mars", "model.mars.3-4.part", "model.mars.5-6.part", "model.mars.part", "model.mars.x-2.part"];
        assert_eq!(names(dir.path()), [&left[..], &["other.mars.1-2.part"]].concat());
    }
}
