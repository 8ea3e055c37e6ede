//! What all pages read.

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;

use crate::clock::Clock;
use crate::firewall::Firewall;
use crate::server::admin::Admin;
use crate::server::auth::authenticator::Authenticator;
use crate::server::auth::oidc::OidcSignIn;
use crate::server::auth::sessions::BrowserSessions;
use crate::server::error::RequestError;
use crate::server::pages::feed_status::FeedStatuses;
use crate::store::{ReportLedger, StoreError};

/// The pages of a server.
pub(crate) struct Pages {
    pub(super) firewall: Arc<Firewall>,
    pub(super) ledger: Arc<dyn ReportLedger>,
    pub(super) auth: Arc<Authenticator>,
    pub(super) admin: Arc<Admin>,
    pub(super) feeds: Arc<dyn FeedStatuses>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sessions: BrowserSessions,
    /// `None` unless a provider is configured.
    pub(super) oidc: Option<OidcSignIn>,
}

/// What the pages show.
pub(crate) struct PageSources {
    pub(crate) firewall: Arc<Firewall>,
    pub(crate) ledger: Arc<dyn ReportLedger>,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) admin: Arc<Admin>,
    pub(crate) feeds: Arc<dyn FeedStatuses>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) oidc: Option<OidcSignIn>,
}

impl Pages {
    pub(crate) fn new(sources: PageSources) -> Result<Self, Unspecified> {
        let PageSources { firewall, ledger, auth, admin, feeds, clock, oidc } = sources;
        let sessions = BrowserSessions::new(Arc::clone(&clock))?;
        Ok(Self { firewall, ledger, auth, admin, feeds, clock, sessions, oidc })
    }

    /// Reads the ledger off the async threads.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&dyn ReportLedger) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let ledger = Arc::clone(&self.ledger);
        match tokio::task::spawn_blocking(move || query(&*ledger)).await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "ledger read failed");
                Err(RequestError::LedgerUnreadable)
            }
            Err(error) => {
                tracing::error!(error = %error, "ledger task failed");
                Err(RequestError::LedgerUnreadable)
            }
        }
    }
}
