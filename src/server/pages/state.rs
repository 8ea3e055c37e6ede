//! What all pages read.

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;

use crate::clock::Clock;
use crate::firewall::Firewall;
use crate::server::auth::authenticator::Authenticator;
use crate::server::auth::sessions::BrowserSessions;
use crate::store::ReportLedger;

/// The pages of a server.
pub(crate) struct Pages {
    pub(super) firewall: Arc<Firewall>,
    pub(super) ledger: Arc<dyn ReportLedger>,
    pub(super) auth: Arc<Authenticator>,
    pub(super) sessions: BrowserSessions,
}

impl Pages {
    pub(crate) fn new(
        firewall: Arc<Firewall>,
        ledger: Arc<dyn ReportLedger>,
        auth: Arc<Authenticator>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Unspecified> {
        Ok(Self { firewall, ledger, auth, sessions: BrowserSessions::new(clock)? })
    }
}
