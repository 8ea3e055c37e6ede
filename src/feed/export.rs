//! Exports the denials of this instance as a feed: OSV records and a signed index with serial, expiry and hashes.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use tempfile::NamedTempFile;

use crate::feed::config::PublicKey;
use crate::feed::error::FeedError;
use crate::feed::format::signed_index::{ARCHIVE, INDEX, IndexedFile, SIGNATURE, SignedIndex};
use crate::feed::format::zip;
use crate::feed::osv::{self, OsvRecord};
use crate::feed::store::persist;
use crate::npm::{Algorithm, Digest};

/// The key that signs exports.
pub struct FeedSigner(Ed25519KeyPair);

impl FeedSigner {
    /// Opens the key in the data directory `root`. Creates it if it is missing, readable by its owner only.
    ///
    /// # Errors
    /// Returns an error if the key cannot be created or read, or is invalid.
    pub fn open(root: &Path) -> Result<Self, FeedError> {
        let folder = root.join("feeds");
        fs::create_dir_all(&folder).map_err(FeedError::file("create", &folder))?;
        let path = folder.join("signing.key");
        if let Err(error) = make(&path)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(FeedError::file("create", path)(error));
        }
        let bytes = fs::read(&path).map_err(FeedError::file("read", &path))?;
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|error| FeedError::broken(path.display().to_string(), error))?;
        Ok(Self(pair))
    }

    /// Returns the key that consumers of the export pin.
    pub(crate) fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().unwrap_or_default())
    }
}

/// Writes a new key, completely or not at all.
fn make(path: &Path) -> std::io::Result<()> {
    let pair = Ed25519KeyPair::generate().map_err(std::io::Error::other)?;
    let document = pair.to_pkcs8().map_err(std::io::Error::other)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let written = file.write_all(document.as_ref()).and_then(|()| file.sync_all());
    if written.is_err() {
        // A partial key would block the creation of a complete one.
        let _ = fs::remove_file(path);
    }
    written
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSummary {
    pub records: usize,
    pub serial: u64,
    pub expires: Timestamp,
}

#[derive(Debug, Clone, Copy)]
pub struct FeedExport<'a> {
    /// The prefix of the ids of `records`.
    pub id_prefix: &'a str,
    pub records: &'a [OsvRecord],
    /// When the export expires for consumers.
    pub expires: Timestamp,
}

/// Writes the records to `directory` in the layout of OSV's bucket, with a signed index. Replaces an earlier export. The index is
/// written last, so that a concurrent reader detects mismatched hashes.
///
/// # Errors
/// Returns an error if a file cannot be written.
pub fn export(
    directory: &Path,
    FeedExport { id_prefix, records, expires }: FeedExport<'_>,
    signer: &FeedSigner,
    now: Timestamp,
) -> Result<ExportSummary, FeedError> {
    let folder = directory.join("npm");
    fs::create_dir_all(&folder).map_err(FeedError::file("create", &folder))?;
    let before = fs::read(directory.join(INDEX)).ok().and_then(|bytes| SignedIndex::read(&bytes));
    // The serial must grow even if the directory was emptied: consumers remember the last one.
    let serial = before.map_or(0, |index| index.serial + 1).max(u64::try_from(now.as_second()).unwrap_or_default());
    sweep(&folder, records)?;
    let mut texts = BTreeMap::new();
    for record in records {
        let text = serde_json::to_vec(record).map_err(|error| FeedError::broken(record.id.as_str(), error))?;
        texts.insert(format!("{}.json", record.id), text);
    }
    for (name, text) in &texts {
        write(&folder.join(name), text)?;
    }
    zip::write_zip(&folder.join("all.zip.new"), texts.iter().map(|(name, text)| (name.as_str(), text.as_slice())))?;
    let archive = directory.join(ARCHIVE);
    fs::rename(folder.join("all.zip.new"), &archive).map_err(FeedError::file("rename a temporary file to", &archive))?;
    let mut changes: Vec<(&str, &str)> = records.iter().map(|record| (record.modified.as_str(), record.id.as_str())).collect();
    changes.sort_unstable_by(|left, right| right.cmp(left));
    let changes: Vec<String> = changes.iter().map(|(at, id)| format!("{at},{id}\n")).collect();
    write(&folder.join("modified_id.csv"), changes.concat().as_bytes())?;
    let mut files = BTreeMap::new();
    for name in [ARCHIVE, "npm/modified_id.csv"] {
        let path = directory.join(name);
        let bytes = fs::read(&path).map_err(FeedError::file("read", &path))?;
        let sha256 = Digest::of(Algorithm::Sha256, &bytes).to_hex();
        files.insert(name.to_owned(), IndexedFile { sha256, size: bytes.len() as u64 });
    }
    let index = SignedIndex {
        coldframe_feed: 1,
        id_prefix: id_prefix.to_owned(),
        serial,
        generated: now,
        expires,
        records: records.len() as u64,
        files,
    };
    let text = serde_json::to_vec_pretty(&index).map_err(|error| FeedError::broken(INDEX, error))?;
    let signature = STANDARD.encode(signer.0.sign(&text));
    write(&directory.join(SIGNATURE), format!("{signature}\n").as_bytes())?;
    write(&directory.join(INDEX), &text)?;
    Ok(ExportSummary { records: records.len(), serial, expires })
}

/// Removes records of an earlier export that are not in this one.
fn sweep(folder: &Path, records: &[OsvRecord]) -> Result<(), FeedError> {
    for entry in fs::read_dir(folder).map_err(FeedError::file("list", folder))?.flatten() {
        let path = entry.path();
        let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        if osv::is_json(&path) && records.iter().all(|record| record.id != id) {
            fs::remove_file(&path).map_err(FeedError::file("remove", &path))?;
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), FeedError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(FeedError::file("create a file in", folder))?;
    file.write_all(bytes).map_err(FeedError::file("write", path))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // A web server may serve the files as another user.
        let readable = fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(readable).map_err(FeedError::file("change the permissions of", path))?;
    }
    persist(file, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::osv::{OsvAffected, OsvPackage};

    fn record(id: &str) -> OsvRecord {
        let package = OsvPackage { ecosystem: "npm".to_owned(), name: "axios".to_owned() };
        let affected = OsvAffected { package, versions: vec!["1.14.1".to_owned()], ..OsvAffected::default() };
        OsvRecord {
            id: id.to_owned(),
            modified: "2026-04-01T00:00:00Z".to_owned(),
            affected: vec![affected],
            ..OsvRecord::default()
        }
    }

    #[test]
    fn key_is_created_once_and_private_and_serial_grows() {
        let home = tempfile::tempdir().unwrap();
        let signer = FeedSigner::open(home.path()).unwrap();
        assert_eq!(FeedSigner::open(home.path()).unwrap().public_key(), signer.public_key());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(home.path().join("feeds/signing.key")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let (now, out) = (Timestamp::from_second(1_780_000_000).unwrap(), home.path().join("out"));
        let once =
            |records: &[OsvRecord]| export(&out, FeedExport { id_prefix: "ACME", records, expires: now }, &signer, now).unwrap();
        let first = once(&[record("ACME-1"), record("ACME-2")]);
        let second = once(&[record("ACME-2")]);
        assert_eq!((first.records, second.records, second.serial), (2, 1, first.serial + 1));
        assert!(!out.join("npm/ACME-1.json").exists() && out.join("npm/ACME-2.json").exists());
        assert_eq!(fs::read_to_string(out.join("npm/modified_id.csv")).unwrap(), "2026-04-01T00:00:00Z,ACME-2\n");
    }
}
