//! The index of a feed that another Coldframe exported: serial, expiry, hashes, and the signature over it. Refuses to trust a
//! key that the feed brings along.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::feed::FeedError;
use crate::feed::config::PublicKey;
use crate::feed::store::FeedState;
use crate::units::timestamp;

/// The index, and the signature beside it.
pub(crate) const INDEX: &str = "index.json";
pub(crate) const SIGNATURE: &str = "index.json.sig";

/// The archive that the index vouches for.
pub(crate) const ARCHIVE: &str = "npm/all.zip";

/// The largest index that is read, in bytes.
pub(crate) const LARGEST: u64 = 4 << 20;

/// What the index says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SignedIndex {
    /// The format, and what tells it from other people's indexes.
    pub(crate) coldframe_feed: u32,
    /// What the ids begin with.
    pub(crate) id_prefix: String,
    /// Grows with every export.
    pub(crate) serial: u64,
    /// When it was made.
    pub(crate) generated: Timestamp,
    /// Until when it may be used.
    pub(crate) expires: Timestamp,
    /// How many records there are.
    pub(crate) records: u64,
    /// What each file hashes to, by its path.
    pub(crate) files: BTreeMap<String, IndexedFile>,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexedFile {
    /// SHA-256, hex.
    pub(crate) sha256: String,
    /// In bytes.
    pub(crate) size: u64,
}

impl SignedIndex {
    /// Reads an index; `None` when the bytes are something else, such as another's index.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|index: &Self| index.coldframe_feed == 1)
    }

    /// Whether it may be used now, after what was used before.
    pub(crate) fn check(&self, state: &FeedState, now: Timestamp) -> Result<&IndexedFile, FeedError> {
        let wrong = |text: String| FeedError::Index(text.into());
        if let Some(last) = state.serial.filter(|last| self.serial < *last) {
            return Err(wrong(format!("its serial went back from {last} to {}", self.serial)));
        }
        if self.expires <= now {
            return Err(wrong(format!("it expired {}", timestamp::tell(self.expires))));
        }
        self.files.get(ARCHIVE).ok_or_else(|| wrong(format!("it does not vouch for `{ARCHIVE}`")))
    }
}

/// Whether `signature` (Base64) over `index` was made with `key`.
pub(crate) fn verify(key: &PublicKey, index: &[u8], signature: Option<&[u8]>) -> Result<(), FeedError> {
    let wrong = |text: &str| FeedError::Index(text.into());
    let signature = signature.ok_or_else(|| wrong("there is no signature"))?;
    let signature = STANDARD.decode(signature.trim_ascii()).map_err(|_| wrong("the signature is no Base64"))?;
    let verified = UnparsedPublicKey::new(&ED25519, key.as_bytes()).verify(index, &signature);
    verified.map_err(|_| wrong("the signature is not that of the key in the configuration"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    #[test]
    fn only_the_signature_of_the_pinned_key_holds() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = PublicKey::new(pair.public_key().as_ref().try_into().unwrap());
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
        let other = PublicKey::new(Ed25519KeyPair::generate().unwrap().public_key().as_ref().try_into().unwrap());
        assert!(verify(&other, b"index", Some(signature.as_bytes())).is_err());
    }
}
