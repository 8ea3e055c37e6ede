//! Who sits at this terminal, as the ledger names them. Refuses to prove it: whoever may write the data directory may claim
//! to be anybody, and the file system decides who that is.

use jiff::Timestamp;

use crate::policy::decision::Signature;

/// The signature of whoever runs this program, at `now`.
pub(super) fn signature(now: Timestamp) -> Signature {
    Signature { who: name(), at: now }
}

/// The name of whoever runs this program.
#[expect(clippy::disallowed_methods, reason = "who runs a program is told by its environment")]
pub(super) fn name() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    user(&variable)
}

/// The owner of the process by the system's own list, for `USER` says what one likes; behind `sudo`, who called it.
#[cfg(unix)]
fn user(variable: &dyn Fn(&'static str) -> Option<String>) -> String {
    let id = rustix::process::getuid();
    if let Some(caller) = variable("SUDO_USER").filter(|_| id.is_root()) {
        return caller;
    }
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_of(&known, id.as_raw()).unwrap_or_else(|| format!("uid {}", id.as_raw()))
}

#[cfg(not(unix))]
fn user(variable: &dyn Fn(&'static str) -> Option<String>) -> String {
    variable("USERNAME").unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(unix)]
fn name_of(known: &str, id: u32) -> Option<String> {
    known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(id) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_as_the_system_does() {
        let known = "root:x:0:0:root:/root:/bin/bash\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!((name_of(known, 1000).as_deref(), name_of(known, 0).as_deref()), (Some("ada"), Some("root")));
        assert_eq!(name_of(known, 7), None);
    }
}
