//! What the operating system tells of memory and disk; nothing where it doesn't.

use std::path::Path;

/// Memory that programs can still have, in bytes, as Linux tells it: what is free, or what the limits of a container leave.
pub(crate) fn available_memory() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limited = CONTROL_GROUPS.iter().filter_map(|version| version.left(Path::new("/sys/fs/cgroup"), &groups));
    limited.chain(kibibytes("/proc/meminfo", "MemAvailable:")).min()
}

/// Where a version of control groups tells of memory; names of files are those of a group's folder.
struct ControlGroups {
    /// The folder of its groups, within that of all versions.
    folder: &'static str,
    /// Its controller in `/proc/self/cgroup`.
    controller: &'static str,
    /// The limit; no number where there is none.
    limit: &'static str,
    /// What is used, files included that were read.
    used: &'static str,
    /// The key in `memory.stat` for pages of such files, which the system takes back when they are needed.
    cached: &'static str,
}

/// The second version and the first.
const CONTROL_GROUPS: [ControlGroups; 2] = [
    ControlGroups { folder: "", controller: "", limit: "memory.max", used: "memory.current", cached: "inactive_file " },
    ControlGroups {
        folder: "memory",
        controller: "memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cached: "total_inactive_file ",
    },
];

impl ControlGroups {
    /// Bytes that are left of the limits of the process's group and of those that it is in. `groups` are the lines `NUMBER:CONTROLLERS:GROUP` of
    /// `/proc/self/cgroup`.
    fn left(&self, root: &Path, groups: &str) -> Option<u64> {
        let of_version = |line: &str| {
            let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == self.controller).then(|| group.to_owned())
        };
        let group = groups.lines().find_map(of_version)?;
        // A container may see a group of the machine's that isn't in its own tree: the tree's root is looked at anyway.
        let group = Path::new(group.trim_start_matches('/'));
        group.ancestors().filter_map(|group| self.left_of(&root.join(self.folder).join(group))).min()
    }

    /// Bytes that are left of one group's limit.
    fn left_of(&self, group: &Path) -> Option<u64> {
        let number = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
        let cached = first_number(&group.join("memory.stat"), self.cached).unwrap_or(0);
        Some(number(self.limit)?.saturating_sub(number(self.used)?.saturating_sub(cached)))
    }
}

/// Memory of this process in bytes, as Linux tells it, without files that it reads by their pages.
#[cfg(feature = "train")]
pub(crate) fn used_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "RssAnon:")
}

/// A line `KEY NUMBER kB` of a file, in bytes.
fn kibibytes(file: &str, key: &str) -> Option<u64> {
    Some(1024 * first_number(Path::new(file), key)?)
}

/// The first number behind a key in the lines of a file.
fn first_number(file: &Path, key: &str) -> Option<u64> {
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

    /// The least of what the limits of a process's group and of those around it leave, in both versions.
    #[test]
    fn limits_of_all_groups_count() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        write("slice/memory.max", "1000\n");
        write("slice/memory.current", "900\n");
        write("slice/memory.stat", "anon 1\ninactive_file 50\n");
        write("slice/job/memory.max", "800\n");
        write("slice/job/memory.current", "100\n");
        write("memory/job/memory.limit_in_bytes", "70\n");
        write("memory/job/memory.usage_in_bytes", "30\n");
        let [second, first] = CONTROL_GROUPS.map(|version| {
            ["0::/slice/job\n", "0::/\n", "0::/elsewhere/job\n", "12:cpu,memory:/job\n1:name=systemd:/\n", ""]
                .map(|groups| version.left(dir.path(), groups))
        });
        assert_eq!(second, [Some(150), None, None, None, None]);
        assert_eq!(first, [None, None, None, Some(40), None]);
    }

    #[test]
    fn linux_tells_of_memory_and_disk() {
        assert!(available_memory() > Some(1 << 20));
        assert!(first_number(Path::new("/proc/meminfo"), "MemTotal:") > Some(1 << 10));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(free_disk(&dir.path().join("not/made")).is_some(), free_disk(dir.path()).is_some());
        assert!(free_disk(dir.path()).is_some());
        #[cfg(feature = "train")]
        assert!(used_memory() > Some(1 << 20));
    }
}
