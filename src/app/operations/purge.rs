//! Removes the cached bytes of versions and packages from the store.

use serde::{Deserialize, Serialize};

use crate::npm::{Digest, Integrity, PackageName};
use crate::store::{SqliteLedger, StoreError};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    pub tarballs: u64,
    pub packuments: u64,
}

/// Removes tarballs and cached packuments, and returns how many there were. Blocks.
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
