//! What the operating system tells of memory and disk; nothing where it doesn't.

use std::path::Path;

/// Memory that programs can still have, in bytes, as Linux tells it: what is free, or what the limits of a container leave.
pub(crate) fn available_memory() -> Option<u64> {
    let number = |file: &str| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let left = |[limit, used]: [&str; 2]| Some(number(limit)?.saturating_sub(number(used)?));
    CONTAINERS.into_iter().filter_map(left).chain(kibibytes("/proc/meminfo", "MemAvailable:")).min()
}

/// A container's limit and what it uses, as the second and the first version of control groups tell them; no number where there is no limit.
const CONTAINERS: [[&str; 2]; 2] = [
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"],
    ["/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"],
];

/// Memory of this process in bytes, as Linux tells it, without files that it reads by their pages.
#[cfg(feature = "train")]
pub(crate) fn used_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "RssAnon:")
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
        assert!(free_disk(dir.path()).is_some());
        #[cfg(feature = "train")]
        assert!(used_memory() > Some(1 << 20));
    }
}
