//! Issues access tokens to those that an OIDC provider vouches for.

use std::sync::Arc;

use crate::server::auth::authenticator::Authenticator;
use crate::server::error::RequestError;
use crate::store::{NewToken, TokenCreation, TokenLedger, TokenRecord};

/// Records a token and applies it at once. The ledger bounds the tokens of a label, and of all.
pub(crate) async fn issue_token(
    ledger: &Arc<dyn TokenLedger>,
    auth: &Authenticator,
    token: NewToken,
) -> Result<TokenRecord, RequestError> {
    let (ledger, recorded) = (Arc::clone(ledger), token.clone());
    let creation = tokio::task::spawn_blocking(move || ledger.issue_token(&recorded)).await;
    match creation {
        Ok(Ok(TokenCreation::Created { id, revision })) => {
            let record = TokenRecord { id, token, last_used: None, revoked: None };
            auth.add(revision, record.clone());
            Ok(record)
        }
        Ok(Ok(TokenCreation::LabelTaken(_) | TokenCreation::TooMany)) => Err(RequestError::TooManyTokens),
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "access token not recorded");
            Err(RequestError::TaskFailed)
        }
        Err(error) => {
            tracing::error!(error = %error, "access token task failed");
            Err(RequestError::TaskFailed)
        }
    }
}
