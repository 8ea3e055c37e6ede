//! Creates, lists and revokes access tokens in the ledger of a data directory, and waits until a running server applies them.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::app::error::AppError;
use crate::policy::access::secret::{RANDOM_BYTES, TokenSecret};
use crate::policy::decisions::Signature;
use crate::policy::{PackageScope, Principal, Role};
use crate::store::{
    ApplyStatus, NewToken, SqliteLedger, StoreError, TokenCreation, TokenLedger as _, TokenRecord, TokenSelector, TokenWriter,
};

/// How long to wait for the running server to apply a change.
const AT_MOST: Duration = Duration::from_secs(5);

/// What a token is created for.
#[derive(Debug, Clone)]
pub struct TokenRequest {
    pub label: String,
    pub role: Role,
    pub scope: PackageScope,
    pub expires: Option<Timestamp>,
    /// Whom it belongs to.
    pub owner: Principal,
}

/// A new token. The secret is nowhere else.
#[derive(Debug)]
pub struct CreatedToken {
    pub secret: TokenSecret,
    pub record: TokenRecord,
    pub effect: ApplyStatus,
}

/// Creates a token and waits until a running server accepts it. Blocks.
///
/// # Errors
/// Returns an error if the label is taken, if there are too many tokens, or if the ledger cannot be used.
pub fn create(data_dir: &Path, request: TokenRequest, by: Signature) -> Result<CreatedToken, AppError> {
    let mut random = [0; RANDOM_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| AppError::NoRandomness)?;
    let secret = TokenSecret::from_random(random);
    let TokenRequest { label, role, scope, expires, owner } = request;
    let token = NewToken { hash: secret.hash(), label, role, scope, expires, created: by, owner };
    let mut writer = TokenWriter::open(data_dir)?;
    match writer.create(&token)? {
        TokenCreation::Created { id, revision } => {
            let effect = writer.wait_applied(revision, AT_MOST)?;
            Ok(CreatedToken { secret, record: TokenRecord { id, token, last_used: None, revoked: None }, effect })
        }
        TokenCreation::LabelTaken(id) => Err(AppError::LabelTaken(id)),
        TokenCreation::TooMany => Err(AppError::TooManyTokens),
    }
}

/// Returns all tokens in the ledger of a data directory, oldest first. A missing ledger counts as empty.
///
/// # Errors
/// Returns an error if an existing ledger cannot be read.
pub fn list(data_dir: &Path) -> Result<Vec<TokenRecord>, AppError> {
    match SqliteLedger::read_only(data_dir) {
        Ok(ledger) => Ok(ledger.tokens(Timestamp::MIN)?.1),
        Err(StoreError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Revokes tokens and waits until a running server refuses them. Returns those that this call revoked. Blocks.
///
/// # Errors
/// Returns an error if there is none that is not revoked, or if the ledger cannot be used.
pub fn revoke(data_dir: &Path, which: &TokenSelector, by: &Signature) -> Result<(Vec<TokenRecord>, ApplyStatus), AppError> {
    let mut writer = TokenWriter::open(data_dir)?;
    let is_meant = |record: &TokenRecord| match which {
        TokenSelector::Id(id) => record.id == *id,
        TokenSelector::Label(label) => record.token.label == *label,
        TokenSelector::Owner(owner) => record.token.owner.is_same_person(&Principal::Person(owner.as_str().into())),
    };
    let mut meant = writer.tokens()?;
    meant.retain(|record| record.revoked.is_none() && is_meant(record));
    let Some(revision) = writer.revoke(which, by)? else {
        return Err(AppError::NoToken(match which {
            TokenSelector::Id(id) => id.to_string(),
            TokenSelector::Label(name) | TokenSelector::Owner(name) => name.clone(),
        }));
    };
    for record in &mut meant {
        record.revoked = Some(by.clone());
    }
    Ok((meant, writer.wait_applied(revision, AT_MOST)?))
}
