//! Follows the gateway's files while it serves: who may use it, and the authority that signs for it. One that is broken changes
//! nothing, and says so. They are looked at as policies are, and for the same reasons.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::ca;
use crate::app::tasks::TaskEnd;
use crate::clock::Clock;
use crate::config;
use crate::files::{EVERY, FilePoller, FileStamps};
use crate::firewall::Firewall;
use crate::server::Forward;
use crate::tls::{LeafIssuer, TlsError};

/// What is followed.
pub(crate) struct GatewayFileWatcher {
    gateway: Arc<Forward<Firewall>>,
    config: config::GatewaySettings,
    data_dir: PathBuf,
    clock: Arc<dyn Clock>,
    users: FilePoller,
    authority: FilePoller,
}

impl GatewayFileWatcher {
    /// The files of a gateway, which were read after they looked like this: its users', and its authority's.
    pub(crate) fn new(
        gateway: &Arc<Forward<Firewall>>,
        config: &config::GatewaySettings,
        data_dir: PathBuf,
        clock: &Arc<dyn Clock>,
        (users, authority): (FileStamps, FileStamps),
    ) -> Self {
        let (users, authority) = (FilePoller::from(users), FilePoller::from(authority));
        Self { gateway: Arc::clone(gateway), config: config.clone(), data_dir, clock: Arc::clone(clock), users, authority }
    }

    fn users(&mut self) {
        let Some(login) = self.gateway.login() else { return };
        if !self.users.are_due(FileStamps::at([login.path()])) {
            return;
        }
        match login.reread() {
            Ok(count) => tracing::info!(users = count, "took in who may use the gateway"),
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the file of those who may use the gateway is broken: those before it stay"
            ),
        }
    }

    fn authority(&mut self) {
        let look = FileStamps::at(&ca::files(&self.config, &self.data_dir));
        let is_lacking = look.lacks_any();
        if !self.authority.are_due(look) {
            return;
        }
        if is_lacking {
            tracing::error!("a file of the authority is gone: it signs on until the end of this process");
            return;
        }
        match self.sign() {
            Ok(leaves) => {
                self.gateway.renew(leaves);
                tracing::info!("another authority signs for the gateway");
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the authority's files changed and cannot be used: the one before them signs on"
            ),
        }
    }

    fn sign(&self) -> Result<LeafIssuer, TlsError> {
        let kept = ca::in_force(&self.config, &self.data_dir, self.clock.now())?;
        ca::leaves(&self.config, kept, &self.clock)
    }
}

/// Looks whether they changed, until it is dropped. Fails when a look at them panicked.
pub(crate) async fn follow(followed: Arc<Mutex<GatewayFileWatcher>>) -> TaskEnd {
    loop {
        tokio::time::sleep(EVERY).await;
        let followed = Arc::clone(&followed);
        let looking = tokio::task::spawn_blocking(move || {
            let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
            followed.users();
            followed.authority();
        });
        looking.await?;
    }
}
