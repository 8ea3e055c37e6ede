//! Removes the cached bytes of versions and packages from the store.

use serde::{Deserialize, Serialize};

use crate::npm::{Digest, Integrity, PackageName};
use crate::store::{SqliteLedger, StoreError};

/// What was removed from the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// The number of tarballs.
    pub tarballs: u64,
    /// The number of cached packuments.
    pub packuments: u64,
}

/// Removes tarballs and cached packuments, and returns how many there were. Blocks.
///
/// # Errors
/// Returns an error if the ledger cannot be read, or if a file cannot be removed.
pub(crate) fn purge(
    ledger: &SqliteLedger,
    integrities: &[Integrity],
    packages: &[PackageName],
    remove: impl Fn(&Digest) -> Result<bool, StoreError>,
) -> Result<Purged, StoreError> {
    let mut purged = Purged::default();
    for integrity in integrities {
        purged.tarballs += u64::from(remove(integrity.strongest())?);
    }
    for name in packages {
        for digest in ledger.documents(name)? {
            purged.packuments += u64::from(remove(&digest)?);
        }
    }
    Ok(purged)
}
