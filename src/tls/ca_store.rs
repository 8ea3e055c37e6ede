//! Stores the CA in a folder of its own that only its owner can read. Files are replaced atomically, so readers need no lock.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::DnsName;

use crate::files;
use crate::tls::TlsError;
use crate::tls::ca::{self, CertificateAuthority};

/// Maximum number of earlier CAs that may still sign.
const MAX_RETIRING: usize = 8;

/// File name of the current CA: certificate and key.
const CURRENT: &str = "authority.pem";

const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
pub struct CaStore {
    folder: PathBuf,
}

#[derive(Debug)]
pub struct CaSet {
    pub current: CertificateAuthority,
    /// Earlier CAs with the time of their retirement, the first to retire first. Until then they sign for the hosts they permit.
    pub retiring: Vec<(CertificateAuthority, Timestamp)>,
}

impl CaStore {
    /// Returns the store in a data directory. Does not access the file system.
    pub fn new(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("ca") }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join(CURRENT)
    }

    /// Loads the CAs; `None` if none has been created.
    pub(crate) fn read(&self, now: Timestamp) -> Result<Option<CaSet>, TlsError> {
        let Some(current) = read_file(&self.file())? else { return Ok(None) };
        let mut retiring = Vec::new();
        for (path, until) in self.retiring()? {
            if until > now
                && let Some(authority) = read_file(&path)?
            {
                retiring.push((authority, until));
            }
        }
        Ok(Some(CaSet { current, retiring }))
    }

    /// Loads the CAs, or creates one for `hosts` if there is none. If two processes create one at the same time, both use the
    /// first.
    ///
    /// # Errors
    /// Returns the errors of [`CaStore::read`], and an error if the CA cannot be written.
    pub fn load_or_create(&self, hosts: &[DnsName<'_>], now: Timestamp) -> Result<CaSet, TlsError> {
        if let Some(ca_set) = self.read(now)? {
            return Ok(ca_set);
        }
        match self.write(&ca::generate(hosts, now)?)?.persist_noclobber(self.file()) {
            Ok(_) => self.sync()?,
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(failed) => return Err(TlsError::disk("write", &self.file())(failed.error)),
        }
        self.read(now)?.ok_or_else(|| TlsError::Missing { folder: self.folder.clone() })
    }

    /// Replaces the current CA by a new one for `hosts`. The previous CA keeps signing for the hosts it permits until `overlap`
    /// has passed, so that clients have time to trust the new one.
    ///
    /// # Errors
    /// Returns an error if there is no CA yet, too many are retiring, or a file cannot be written.
    pub fn rotate(&self, hosts: &[DnsName<'_>], overlap: Duration, now: Timestamp) -> Result<(), TlsError> {
        let current = self.file();
        if read_file(&current)?.is_none() {
            return Err(TlsError::Missing { folder: self.folder.clone() });
        }
        let mut retiring = self.retiring()?;
        retiring.retain(|(path, until)| *until > now || fs::remove_file(path).is_err());
        if retiring.len() >= MAX_RETIRING {
            return Err(TlsError::TooMany(retiring.len()));
        }
        let fresh = self.write(&ca::generate(hosts, now)?)?;
        let until = now.as_second().saturating_add(i64::try_from(overlap.as_secs()).unwrap_or(i64::MAX));
        let old = self.folder.join(format!("retiring-{until}.pem"));
        // If the process is killed before the rename below, the CA is both current and retiring, which is harmless.
        match fs::hard_link(&current, &old) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(TlsError::disk("write", &old)(error)),
            _ => {}
        }
        fresh.persist(&current).map_err(|failed| TlsError::disk("write", &current)(failed.error))?;
        self.sync()
    }

    /// Lists the files of earlier CAs with the end of their signing period, the first to retire first.
    fn retiring(&self) -> Result<Vec<(PathBuf, Timestamp)>, TlsError> {
        let mut found = Vec::new();
        let failed = || TlsError::disk("list", &self.folder);
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let until = name.strip_prefix("retiring-").and_then(|rest| rest.strip_suffix(".pem"));
            let until = until.and_then(|seconds| Timestamp::from_second(seconds.parse().ok()?).ok());
            found.extend(until.map(|until| (path.clone(), until)));
        }
        found.sort_by_key(|(_, until)| *until);
        Ok(found)
    }

    /// Writes `text` to a temporary file in the folder. It is created readable only by its owner.
    fn write(&self, text: &str) -> Result<tempfile::NamedTempFile, TlsError> {
        files::create_private_folder(&self.folder).map_err(TlsError::disk("create", &self.folder))?;
        let failed = || TlsError::disk("write", &self.folder);
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed())?;
        file.write_all(text.as_bytes()).map_err(failed())?;
        file.as_file().sync_all().map_err(failed())?;
        Ok(file)
    }

    /// Syncs the folder so that renames survive a power loss.
    fn sync(&self) -> Result<(), TlsError> {
        if cfg!(unix) {
            let synced = fs::File::open(&self.folder).and_then(|folder| folder.sync_all());
            synced.map_err(TlsError::disk("write", &self.folder))?;
        }
        Ok(())
    }
}

/// Loads a CA that is managed outside Coldframe, for example a company's intermediate.
pub(crate) fn load_external(certificate: &Path, key: &Path) -> Result<CertificateAuthority, TlsError> {
    let bytes = |path: &Path| files::read_bounded(path, MAX_FILE_BYTES).map_err(TlsError::disk("read", path));
    let unusable = |detail| TlsError::Unusable { path: certificate.to_owned(), detail };
    CertificateAuthority::read(&bytes(certificate)?, &bytes(key)?).map_err(unusable)
}

fn read_file(path: &Path) -> Result<Option<CertificateAuthority>, TlsError> {
    let bytes = match files::read_bounded(path, MAX_FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TlsError::disk("read", path)(error)),
    };
    let unusable = |detail| TlsError::Unusable { path: path.to_owned(), detail };
    CertificateAuthority::read(&bytes, &bytes).map_err(unusable).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&'static str]) -> Vec<DnsName<'static>> {
        names.iter().map(|name| DnsName::try_from(*name).unwrap()).collect()
    }

    fn at(hour: u32) -> Timestamp {
        format!("2026-04-03T{hour:02}:00:00Z").parse().unwrap()
    }

    #[test]
    fn ca_is_created_once_and_readable_only_by_owner() {
        let data = tempfile::tempdir().unwrap();
        let store = CaStore::new(data.path());
        assert!(store.read(at(12)).unwrap().is_none());
        let made = store.load_or_create(&hosts(&["registry.example"]), at(12)).unwrap();
        let again = store.load_or_create(&hosts(&["other.example"]), at(13)).unwrap();
        assert_eq!(made.current.certificate(), again.current.certificate());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&store.file()), mode(&data.path().join("ca"))), (0o600, 0o700));
        }
    }

    #[test]
    fn previous_ca_signs_until_it_retires() {
        let data = tempfile::tempdir().unwrap();
        let store = CaStore::new(data.path());
        let hour = Duration::from_secs(3600);
        assert!(matches!(store.rotate(&hosts(&["a.example"]), hour, at(12)), Err(TlsError::Missing { .. })));
        let first = store.load_or_create(&hosts(&["a.example"]), at(12)).unwrap().current;
        store.rotate(&hosts(&["b.example"]), hour, at(12)).unwrap();
        let ca_set = store.read(at(12)).unwrap().unwrap();
        assert_ne!(ca_set.current.certificate(), first.certificate());
        assert_eq!((ca_set.retiring[0].0.certificate(), ca_set.retiring[0].1), (first.certificate(), at(13)));
        assert!(store.read(at(13)).unwrap().unwrap().retiring.is_empty());
        // The next rotation removes retired CAs.
        store.rotate(&hosts(&["b.example"]), hour, at(14)).unwrap();
        assert_eq!(fs::read_dir(data.path().join("ca")).unwrap().count(), 2);
    }

    #[test]
    fn broken_file_is_reported() {
        let data = tempfile::tempdir().unwrap();
        let store = CaStore::new(data.path());
        store.load_or_create(&hosts(&["a.example"]), at(12)).unwrap();
        fs::write(store.file(), "nothing").unwrap();
        let message = store.read(at(12)).unwrap_err().to_string();
        assert!(message.starts_with("cannot use the CA in `") && message.ends_with(": it contains no certificate"), "{message}");
    }
}
