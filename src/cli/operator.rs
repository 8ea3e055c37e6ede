//! Names the user that runs a command, for the ledger: the kernel's owner of the process. Variables such as `SUDO_USER` are
//! ignored because any user can set them. A process that can write the data directory can forge any name.

use jiff::Timestamp;

use crate::policy::decisions::Signature;

pub(crate) fn signature(now: Timestamp) -> Signature {
    Signature { who: name(), at: now }
}

#[cfg(unix)]
pub(crate) fn name() -> String {
    let id = rustix::process::getuid();
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(&known, id.as_raw()).unwrap_or_else(|| format!("uid {}", id.as_raw()))
}

#[cfg(not(unix))]
#[expect(clippy::disallowed_methods, reason = "the only source on this platform")]
pub(crate) fn name() -> String {
    std::env::var("USERNAME").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

/// Returns why two users of this system may be the same person, or `None` if they are distinct.
pub(crate) fn not_told_apart() -> Option<&'static str> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let is_marked = ["/.dockerenv", "/run/.containerenv"].iter().any(|path| std::path::Path::new(path).exists());
    if is_marked || has_root_of_container(&read("/proc/self/mountinfo")) {
        return Some("a user in a container can be chosen freely and does not identify a person");
    }
    let users = read("/proc/self/uid_map");
    let is_namespace = !users.is_empty() && !maps_all_users(&users);
    is_namespace.then_some("a user in a user namespace can be chosen freely and does not identify a person")
}

#[cfg(unix)]
fn name_of(known: &str, id: u32) -> Option<String> {
    known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(id) && !name.is_empty()).then(|| name.to_owned())
    })
}

/// Checks whether the root file system is a layered one, as container runtimes mount it.
fn has_root_of_container(mounts: &str) -> bool {
    let root = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    let kind = |line: &str| line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next().map(str::to_owned));
    root.and_then(kind).is_some_and(|kind| matches!(kind.as_str(), "overlay" | "fuse.fuse-overlayfs" | "aufs"))
}

fn maps_all_users(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn user_name_comes_from_passwd() {
        let known = "root:x:0:0:root:/root:/bin/bash\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!((name_of(known, 1000).as_deref(), name_of(known, 0).as_deref()), (Some("ada"), Some("root")));
        assert_eq!(name_of(known, 7), None);
    }

    #[test]
    fn user_namespace_is_detected_by_its_map() {
        assert!(maps_all_users("         0          0 4294967295\n"));
        for own in ["0 1000 1", "0 0 1", "0 100000 65536", "0 0 4294967295\n5 5 1"] {
            assert!(!maps_all_users(own), "{own}");
        }
    }

    #[test]
    fn container_is_detected_by_its_layered_root() {
        let layered = "1 0 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a\n2 1 0:5 / /proc rw - proc proc rw\n";
        assert!(has_root_of_container(layered));
        let plain = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n2 1 0:9 / /var/lib/docker/x rw - overlay overlay rw\n";
        assert!(!has_root_of_container(plain) && !has_root_of_container(""));
    }
}
