//! Records access tokens in the ledger from a process next to the server.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::decisions::Signature;
use crate::store::access_token::{NewToken, TokenCreation, TokenRecord, TokenSelector};
use crate::store::error::StoreError;
use crate::store::sqlite::outside_writer::{ApplyStatus, OutsideWriter};
use crate::store::sqlite::tokens;

/// Creates and revokes the tokens of a data directory.
pub(crate) struct TokenWriter(OutsideWriter);

impl TokenWriter {
    /// Opens the ledger in `root`, which is created if missing. Fails if a server runs and the schema is not this program's.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        OutsideWriter::open(root).map(Self)
    }

    /// Returns all tokens, oldest first.
    pub(crate) fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        self.0.query(|connection| tokens::read(connection, Timestamp::MIN).map(|(_, tokens)| tokens))
    }

    pub(crate) fn create(&mut self, token: &NewToken) -> Result<TokenCreation, StoreError> {
        self.0.write(|connection| tokens::create(connection, token))
    }

    /// Revokes tokens. Returns the revision to wait for, or `None` if there is none that is not revoked.
    pub(crate) fn revoke(&mut self, which: &TokenSelector, by: &Signature) -> Result<Option<u64>, StoreError> {
        self.0.write(|connection| tokens::revoke(connection, which, by))
    }

    /// Waits at most `at_most` until the running server applies all tokens up to `revision`. Blocks.
    pub(crate) fn wait_applied(&self, revision: u64, at_most: Duration) -> Result<ApplyStatus, StoreError> {
        self.0.wait_applied(revision, at_most, |connection| tokens::revision(connection).map(|(_, applied)| applied))
    }
}
