//! Access tokens of clients, as the ledger keeps them: everything but the token.

use jiff::Timestamp;

use crate::policy::access::secret::TokenHash;
use crate::policy::decisions::Signature;
use crate::policy::{PackageScope, Principal, Role};
use crate::store::error::StoreError;
use crate::text::words;

/// The most tokens that are neither revoked nor expired. A server keeps all of them in memory.
pub(crate) const MAX_USABLE_TOKENS: u64 = 10_000;

/// The most active tokens with one label that were exchanged.
pub(crate) const MAX_PER_LABEL: u64 = 500;

/// A token to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    pub hash: TokenHash,
    pub label: String,
    pub role: Role,
    pub scope: PackageScope,
    pub expires: Option<Timestamp>,
    /// Who created it, and when.
    pub created: Signature,
    /// Who answers for what is done with it.
    pub owner: Principal,
}

/// A recorded token and its later changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// The number that operators use for it.
    pub id: i64,
    pub token: NewToken,
    /// When a server last accepted it, to the hour.
    pub last_used: Option<Timestamp>,
    /// Who revoked it, and when.
    pub revoked: Option<Signature>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    Active,
    Expired,
    Revoked,
}

words! { TokenState { Active = "active", Expired = "expired", Revoked = "revoked", } }

impl TokenRecord {
    pub fn state(&self, now: Timestamp) -> TokenState {
        if self.revoked.is_some() {
            TokenState::Revoked
        } else if self.token.expires.is_some_and(|expires| expires <= now) {
            TokenState::Expired
        } else {
            TokenState::Active
        }
    }
}

/// How an operator names a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSelector {
    Id(i64),
    /// All tokens with this label.
    Label(String),
    /// All tokens that belong to this person, and the machine tokens that this person made.
    Owner(String),
}

/// The result of recording a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCreation {
    /// Its number, and the revision to wait for.
    Created { id: i64, revision: u64 },
    /// The active token with this number has the label.
    LabelTaken(i64),
    /// There are [`MAX_USABLE_TOKENS`] active tokens, or too many that were exchanged.
    TooMany,
}

/// Access tokens in the ledger. Methods block.
#[expect(
    clippy::missing_errors_doc,
    reason = "each method fails if the ledger cannot be read or written, and changes nothing then"
)]
pub trait TokenLedger: Send + Sync {
    /// Returns the revision of the tokens, and those that did not end before an instant, oldest first.
    fn tokens(&self, ended: Timestamp) -> Result<(u64, Vec<TokenRecord>), StoreError>;

    /// Returns the revision of the tokens. Cheap enough to poll several times a second.
    fn token_revision(&self) -> Result<u64, StoreError>;

    /// Records that the server applies the tokens of `revision`. Other processes wait for this.
    fn set_applied_token_revision(&self, revision: u64) -> Result<(), StoreError>;

    /// Records a token. Active tokens have different labels.
    fn create_token(&self, token: &NewToken) -> Result<TokenCreation, StoreError>;

    /// Records a token that was exchanged. Several may have one label, up to a limit per label and in total, which leaves room for
    /// tokens of operators.
    fn issue_token(&self, token: &NewToken) -> Result<TokenCreation, StoreError>;

    /// Revokes the selected tokens. Returns the revision to wait for, or `None` if there is none that is not revoked.
    fn revoke_token(&self, which: &TokenSelector, by: &Signature) -> Result<Option<u64>, StoreError>;

    /// Records when tokens were last used. Does not change the revision.
    fn record_token_uses(&self, uses: &[(i64, Timestamp)]) -> Result<(), StoreError>;
}
