//! The file of those who may use the gateway: a line each, `name:$argon2id$…`. Refuses to hold a password longer than it takes
//! to hash it, and to know who asks for what.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};

use crate::files;

/// The longest name, in bytes.
const LONGEST_NAME: usize = 64;

/// The largest file, in bytes.
const LARGEST: u64 = 4 << 20;

/// What a hash may cost at most: KiB of memory, passes over it, lanes. A file that asks for more would have strangers take it all.
const DEAREST: (u32, u32, u32) = (128 << 10, 16, 8);

/// Everybody in a file.
pub(crate) type PasswordHashes = HashMap<Arc<str>, PasswordHash>;

/// Why a file of users is of no use, or cannot be changed. Never holds a password or a hash.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    /// It cannot be read or written.
    #[error("cannot {action} the users in `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A line is none.
    #[error("line {line} of `{}` {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name is none.
    #[error("a user's name is 1 to {LONGEST_NAME} letters, digits and `.`, `_`, `-`, `+`, `@`, not: `{0}`")]
    Name(String),
    /// A password is none.
    #[error("a password is at least one character")]
    Empty,
    /// It cannot be hashed.
    #[error("cannot hash a password")]
    Hash,
}

/// Everybody in the file at `path`. Blank lines and those that begin with `#` say nothing.
///
/// # Errors
/// The first line that is wrong; when it cannot be read.
pub(crate) fn read(path: &Path) -> Result<PasswordHashes, PasswordFileError> {
    let text = load(path).map_err(failed("read", path))?;
    let mut users = PasswordHashes::new();
    for (line, text) in (1..).zip(text.lines().map(str::trim)) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (name, hash) = entry(text).map_err(|why| PasswordFileError::Line { path: path.to_owned(), line, why })?;
        if users.insert(name.into(), hash).is_some() {
            return Err(PasswordFileError::Line { path: path.to_owned(), line, why: "names a user again" });
        }
    }
    Ok(users)
}

/// The line for `name` with `password`.
///
/// # Errors
/// When either is none; when the system has no randomness.
pub fn line(name: &str, password: &str) -> Result<String, PasswordFileError> {
    if !is_name(name) {
        return Err(PasswordFileError::Name(name.escape_debug().to_string()));
    }
    if password.is_empty() {
        return Err(PasswordFileError::Empty);
    }
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| PasswordFileError::Hash)?;
    let hash: PasswordHash =
        Argon2::default().hash_password_with_salt(password.as_bytes(), &salt).map_err(|_| PasswordFileError::Hash)?;
    Ok(format!("{name}:{hash}"))
}

/// Writes `line` into the file at `path` in place of the one that `name` has there, or takes that out; whether there was one. The
/// file is replaced whole, and is its owner's alone where it was not there before. Other lines stay as they are.
///
/// # Errors
/// When it cannot be read or written.
pub fn put(path: &Path, name: &str, line: Option<&str>) -> Result<bool, PasswordFileError> {
    let before = match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        before => before.map_err(failed("read", path))?,
    };
    let is_theirs = |text: &&str| text.trim().split_once(':').is_some_and(|(known, _)| known == name);
    let there = before.lines().any(|text| is_theirs(&text));
    let mut lines: Vec<&str> = before.lines().filter(|text| !is_theirs(text)).collect();
    lines.extend(line);
    let mut text = lines.join("\n");
    text.push('\n');
    replace(path, &text).map_err(failed("write", path))?;
    Ok(there)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    if let Ok(before) = fs::metadata(path) {
        fs::set_permissions(file.path(), before.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|lost| lost.error)?;
    Ok(())
}

fn load(path: &Path) -> io::Result<String> {
    files::read(path, LARGEST).and_then(files::text)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PasswordFileError {
    move |source| PasswordFileError::File { action, path: path.to_owned(), source }
}

fn entry(text: &str) -> Result<(&str, PasswordHash), &'static str> {
    let (name, hash) = text.split_once(':').ok_or("is not `name:$argon2id$…`")?;
    if !is_name(name) {
        return Err("names nobody");
    }
    let hash = PasswordHash::new(hash).map_err(|_| "holds no hash of a password")?;
    if !hash.algorithm.as_str().starts_with("argon2") || hash.salt.is_none() || hash.hash.is_none() {
        return Err("holds no argon2 hash");
    }
    let costs = Params::try_from(&hash).map_err(|_| "holds an argon2 hash whose parameters are none")?;
    let (memory, passes, lanes) = DEAREST;
    if costs.m_cost() > memory || costs.t_cost() > passes || costs.p_cost() > lanes {
        return Err("holds a hash that takes more than 128 MiB, 16 passes or 8 lanes to check");
    }
    Ok((name, hash))
}

/// Names stand in the ledger before an address, and in lists.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+@".contains(&byte);
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A line whose hash takes next to nothing to check.
    pub(in crate::server) fn cheap(name: &str, password: &str) -> String {
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let hash: PasswordHash = argon2.hash_password_with_salt(password.as_bytes(), b"salt and pepper!").unwrap();
        format!("{name}:{hash}")
    }

    #[test]
    fn a_line_is_replaced_or_taken_out_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        assert!(!put(&path, "ada", Some(&line("ada", "one").unwrap())).unwrap());
        fs::write(&path, format!("# ours\n\n{}", fs::read_to_string(&path).unwrap())).unwrap();
        assert!(!put(&path, "eve@acme.example", Some(&cheap("eve@acme.example", "x"))).unwrap());
        assert!(put(&path, "ada", Some(&cheap("ada", "two"))).unwrap());
        assert_eq!(read(&path).unwrap().len(), 2);
        assert!(put(&path, "ada", None).unwrap() && !put(&path, "ada", None).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# ours\n\neve@acme.example:$argon2id$v=19$m=64,"), "{text}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_its_line_and_shows_no_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let good = cheap("ada", "one");
        for (text, told) in [
            ("ada", "line 2 of `users` is not `name:$argon2id$…`"),
            ("a,b:$argon2id$", "line 2 of `users` names nobody"),
            ("eve:plain", "line 2 of `users` holds no hash of a password"),
            ("eve:$2b$12$abcdefghijklmnopqrstuv", "line 2 of `users` holds no"),
            (&good.replace("ada:", "eve:").replace("m=64", "m=999999"), "line 2 of `users` holds a hash that takes more than"),
            (&good, "line 2 of `users` names a user again"),
        ] {
            fs::write(&path, format!("{good}\n{text}\n")).unwrap();
            let wrong = read(&path).unwrap_err().to_string().replace(&path.display().to_string(), "users");
            assert!(wrong.starts_with(told) && !wrong.contains("salt"), "{wrong}");
        }
        assert!(
            matches!(line("a:b", "x"), Err(PasswordFileError::Name(_)))
                && matches!(line("ada", ""), Err(PasswordFileError::Empty))
        );
    }
}
