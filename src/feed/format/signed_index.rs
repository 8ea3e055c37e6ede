//! The signed index of a feed that Coldframe exported: serial, expiry and hashes. The signature is checked with the configured
//! key only.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::feed::config::PublicKey;
use crate::feed::error::FeedError;
use crate::feed::state::FeedState;
use crate::units::timestamp;

/// File names of the index and its signature.
pub(crate) const INDEX: &str = "index.json";
pub(crate) const SIGNATURE: &str = "index.json.sig";

/// The archive that the index lists.
pub(crate) const ARCHIVE: &str = "npm/all.zip";

/// Maximum size of an index, in bytes.
pub(crate) const MAX_INDEX_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SignedIndex {
    /// The format version. Distinguishes the index from other files with this name.
    pub(crate) coldframe_feed: u32,
    pub(crate) id_prefix: String,
    /// Grows with every export.
    pub(crate) serial: u64,
    pub(crate) generated: Timestamp,
    pub(crate) expires: Timestamp,
    pub(crate) records: u64,
    /// Hash and size of each file, by path.
    pub(crate) files: BTreeMap<String, IndexedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexedFile {
    /// SHA-256, hex.
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

impl SignedIndex {
    /// Parses an index. Returns `None` if the bytes are something else, such as an index of another tool.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|index: &Self| index.coldframe_feed == 1)
    }

    /// Checks serial and expiry against the previous state and the current time.
    pub(crate) fn check(&self, state: &FeedState, now: Timestamp) -> Result<&IndexedFile, FeedError> {
        let invalid = |text: String| FeedError::Index(text.into());
        if let Some(last) = state.serial.filter(|last| self.serial < *last) {
            return Err(invalid(format!("its serial went back from {last} to {}", self.serial)));
        }
        if self.expires <= now {
            return Err(invalid(format!("it expired {}", timestamp::format_utc(self.expires))));
        }
        self.files.get(ARCHIVE).ok_or_else(|| invalid(format!("it does not list `{ARCHIVE}`")))
    }
}

/// Verifies that `signature` (Base64) over `index` was made with `key`.
pub(crate) fn verify(key: &PublicKey, index: &[u8], signature: Option<&[u8]>) -> Result<(), FeedError> {
    let invalid = |text: &str| FeedError::Index(text.into());
    let signature = signature.ok_or_else(|| invalid("`index.json.sig` not found"))?;
    let signature = STANDARD.decode(signature.trim_ascii()).map_err(|_| invalid("the signature is not Base64"))?;
    let verified = UnparsedPublicKey::new(&ED25519, &key.0).verify(index, &signature);
    verified.map_err(|_| invalid("the signature does not match the configured `key`"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn only_the_signature_of_the_pinned_key_is_valid() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = PublicKey(pair.public_key().as_ref().try_into().unwrap());
        let signature = STANDARD.encode(pair.sign(b"index"));
        verify(&key, b"index", Some(format!("{signature}\n").as_bytes())).unwrap();
        for (index, signature) in [
            (b"other".as_slice(), Some(signature.as_bytes())),
            (b"index", None),
            (b"index", Some(b"AAAA")),
            (b"index", Some(b"?")),
        ] {
            assert!(verify(&key, index, signature).is_err());
        }
        let other = PublicKey(Ed25519KeyPair::generate().unwrap().public_key().as_ref().try_into().unwrap());
        assert!(verify(&other, b"index", Some(signature.as_bytes())).is_err());
    }
}
