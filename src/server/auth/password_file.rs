//! The file of gateway users, one `name:$argon2id$…` per line. Only hashes are stored.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};

use crate::files;

const MAX_NAME_BYTES: usize = 64;

const MAX_FILE_BYTES: u64 = 4 << 20;

/// Maximum cost of a hash: KiB of memory, passes and lanes. A costlier hash would let any client exhaust the server.
const MAX_HASH_COST: (u32, u32, u32) = (128 << 10, 16, 8);

pub(crate) type PasswordHashes = HashMap<Arc<str>, PasswordHash>;

/// Why a user file cannot be read or changed. Never contains a password or hash.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    #[error("cannot {action} gateway users: `{}`", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("line {line} of `{}` {why}", path.display())]
    Line {
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        why: &'static str,
    },
    #[error("invalid user name, expected 1 to {MAX_NAME_BYTES} letters, digits or `.`, `_`, `-`, `+`, `@`: `{0}`")]
    Name(String),
    #[error("password is empty")]
    Empty,
    #[error("cannot hash password")]
    Hash,
}

/// Reads the users in the file at `path`. Ignores blank lines and those that start with `#`.
/// Returns an error if the file cannot be read, or for the first invalid line.
pub(crate) fn read(path: &Path) -> Result<PasswordHashes, PasswordFileError> {
    let text = load(path).map_err(failed("read", path))?;
    let mut users = PasswordHashes::new();
    for (line, text) in (1..).zip(text.lines().map(str::trim)) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (name, hash) = entry(text).map_err(|why| PasswordFileError::Line { path: path.to_owned(), line, why })?;
        if users.insert(name.into(), hash).is_some() {
            return Err(PasswordFileError::Line { path: path.to_owned(), line, why: "has a duplicate user name" });
        }
    }
    Ok(users)
}

/// Returns the line for `name` with `password`.
/// Returns an error if either is invalid, or if the system has no randomness.
pub(crate) fn hash_line(name: &str, password: &str) -> Result<String, PasswordFileError> {
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

/// Replaces the line of `name` in the file at `path`, or removes it if `line` is `None`. Returns whether there was one. Other
/// lines are unchanged. The file is replaced atomically, and a new file is readable only by its owner.
pub(crate) fn update(path: &Path, name: &str, line: Option<&str>) -> Result<bool, PasswordFileError> {
    let before = match load(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        before => before.map_err(failed("read", path))?,
    };
    let is_theirs = |text: &&str| text.trim().split_once(':').is_some_and(|(known, _)| known == name);
    let existed = before.lines().any(|text| is_theirs(&text));
    let mut lines: Vec<&str> = before.lines().filter(|text| !is_theirs(text)).collect();
    lines.extend(line);
    let mut text = lines.join("\n");
    text.push('\n');
    replace(path, &text).map_err(failed("write", path))?;
    Ok(existed)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    if let Ok(before) = fs::metadata(path) {
        fs::set_permissions(file.path(), before.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn load(path: &Path) -> io::Result<String> {
    files::read_bounded(path, MAX_FILE_BYTES).and_then(files::into_text)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PasswordFileError {
    move |source| PasswordFileError::File { action, path: path.to_owned(), source }
}

fn entry(text: &str) -> Result<(&str, PasswordHash), &'static str> {
    let (name, hash) = text.split_once(':').ok_or("is not `name:$argon2id$…`")?;
    if !is_name(name) {
        return Err("has an invalid user name");
    }
    let hash = PasswordHash::new(hash).map_err(|_| "has an invalid password hash")?;
    if !hash.algorithm.as_str().starts_with("argon2") || hash.salt.is_none() || hash.hash.is_none() {
        return Err("has a hash that is not argon2");
    }
    let costs = Params::try_from(&hash).map_err(|_| "has an argon2 hash with invalid parameters")?;
    let (memory, passes, lanes) = MAX_HASH_COST;
    if costs.m_cost() > memory || costs.t_cost() > passes || costs.p_cost() > lanes {
        return Err("has a hash that needs more than 128 MiB, 16 passes or 8 lanes");
    }
    Ok((name, hash))
}

/// Checks a user name. Names appear in the ledger before an address, and in lists.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+@".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a line with a hash that is cheap to check.
    pub(in crate::server) fn cheap(name: &str, password: &str) -> String {
        let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, Params::new(64, 1, 1, None).unwrap());
        let hash: PasswordHash = argon2.hash_password_with_salt(password.as_bytes(), b"salt and pepper!").unwrap();
        format!("{name}:{hash}")
    }

    #[test]
    fn line_is_replaced_or_removed_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        assert!(!update(&path, "ada", Some(&hash_line("ada", "one").unwrap())).unwrap());
        fs::write(&path, format!("# ours\n\n{}", fs::read_to_string(&path).unwrap())).unwrap();
        assert!(!update(&path, "eve@acme.example", Some(&cheap("eve@acme.example", "x"))).unwrap());
        assert!(update(&path, "ada", Some(&cheap("ada", "two"))).unwrap());
        assert_eq!(read(&path).unwrap().len(), 2);
        assert!(update(&path, "ada", None).unwrap() && !update(&path, "ada", None).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# ours\n\neve@acme.example:$argon2id$v=19$m=64,"), "{text}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn invalid_line_error_has_its_number_and_no_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let good = cheap("ada", "one");
        for (text, expected) in [
            ("ada", "line 2 of `users` is not `name:$argon2id$…`"),
            ("a,b:$argon2id$", "line 2 of `users` has an invalid user name"),
            ("eve:plain", "line 2 of `users` has an invalid password hash"),
            ("eve:$2b$12$abcdefghijklmnopqrstuv", "line 2 of `users` has a"),
            (&good.replace("ada:", "eve:").replace("m=64", "m=999999"), "line 2 of `users` has a hash that needs more than"),
            (&good, "line 2 of `users` has a duplicate user name"),
        ] {
            fs::write(&path, format!("{good}\n{text}\n")).unwrap();
            let error = read(&path).unwrap_err().to_string().replace(&path.display().to_string(), "users");
            assert!(error.starts_with(expected) && !error.contains("salt"), "{error}");
        }
        assert!(
            matches!(hash_line("a:b", "x"), Err(PasswordFileError::Name(_)))
                && matches!(hash_line("ada", ""), Err(PasswordFileError::Empty))
        );
    }
}
