//! What the operating system tells of memory and disk; nothing where it doesn't.

use std::path::Path;

/// Memory that programs can still have, in bytes, as Linux tells it: what is free, or what the limits of a container leave.
pub(crate) fn available_memory() -> Option<u64> {
    CONTAINERS.iter().filter_map(Container::left).chain(kibibytes("/proc/meminfo", "MemAvailable:")).min()
}

/// Where a version of control groups tells of a container's memory.
struct Container {
    /// Its limit; no number where there is none.
    limit: &'static str,
    /// What it uses, files included that it has read.
    used: &'static str,
    /// A file and its key for pages of such files, which the system takes back when they are needed.
    cached: [&'static str; 2],
}

/// The second version and the first.
const CONTAINERS: [Container; 2] = [
    Container {
        limit: "/sys/fs/cgroup/memory.max",
        used: "/sys/fs/cgroup/memory.current",
        cached: ["/sys/fs/cgroup/memory.stat", "inactive_file "],
    },
    Container {
        limit: "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        used: "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        cached: ["/sys/fs/cgroup/memory/memory.stat", "total_inactive_file "],
    },
];

impl Container {
    /// Bytes that are left of the limit.
    fn left(&self) -> Option<u64> {
        let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
        let [file, key] = self.cached;
        let used = number(self.used)?.saturating_sub(first_number(file, key).unwrap_or(0));
        Some(number(self.limit)?.saturating_sub(used))
    }
}

/// Memory of this process in bytes, as Linux tells it, without files that it reads by their pages.
#[cfg(feature = "train")]
pub(crate) fn used_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "RssAnon:")
}

/// A line `KEY NUMBER kB` of a file, in bytes.
fn kibibytes(file: &str, key: &str) -> Option<u64> {
    Some(1024 * first_number(file, key)?)
}

/// The first number behind a key in the lines of a file.
fn first_number(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().split(' ').next()?.parse().ok()
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
        assert!(first_number("/proc/meminfo", "MemTotal:") > Some(1 << 10));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(free_disk(&dir.path().join("not/made")).is_some(), free_disk(dir.path()).is_some());
        assert!(free_disk(dir.path()).is_some());
        #[cfg(feature = "train")]
        assert!(used_memory() > Some(1 << 20));
    }
}
