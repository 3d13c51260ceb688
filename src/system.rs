//! What the operating system tells of memory and disk; nothing where it doesn't.

use std::path::Path;

/// Memory that programs can still have, in bytes, as Linux tells it.
pub(crate) fn available_memory() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemAvailable:")
}

/// Most memory that this process has had, in bytes, as Linux tells it.
#[cfg(feature = "train")]
pub(crate) fn peak_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "VmHWM:")
}

/// A line `KEY NUMBER kB` of a file, in bytes.
fn kibibytes(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(1024 * line.trim().split(' ').next()?.parse::<u64>().ok()?)
}

/// Bytes that are free for this user on the disk of a folder, which may be one that is still to be made.
#[cfg(unix)]
pub(crate) fn free_disk(folder: &Path) -> Option<u64> {
    let made = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(made).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

/// Nothing: there is no portable way to ask.
#[cfg(not(unix))]
pub(crate) fn free_disk(_: &Path) -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_of_memory_and_disk() {
        assert!(available_memory() > Some(1 << 20));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(free_disk(&dir.path().join("not/made")).is_some(), free_disk(dir.path()).is_some());
        assert!(free_disk(dir.path()) > Some(0));
        #[cfg(feature = "train")]
        assert!(peak_memory() > Some(1 << 20));
    }
}
