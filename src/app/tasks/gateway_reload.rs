//! Reloads the gateway's user file and CA files when they change. Invalid files are logged and change nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::ca;
use crate::app::supervisor::TaskEnd;
use crate::clock::Clock;
use crate::config;
use crate::files::{FilePoller, FileStamps, POLL_INTERVAL};
use crate::firewall::Firewall;
use crate::server::Gateway;
use crate::tls::{LeafIssuer, TlsError};

pub(crate) struct GatewayFileWatcher {
    gateway: Arc<Gateway<Firewall>>,
    config: config::GatewaySettings,
    data_dir: PathBuf,
    clock: Arc<dyn Clock>,
    users: FilePoller,
    authority: FilePoller,
}

impl GatewayFileWatcher {
    /// Creates a watcher. The stamps of the user file and the CA files were taken before the files were read.
    pub(crate) fn new(
        gateway: &Arc<Gateway<Firewall>>,
        config: &config::GatewaySettings,
        data_dir: PathBuf,
        clock: &Arc<dyn Clock>,
        (users, authority): (FileStamps, FileStamps),
    ) -> Self {
        let (users, authority) = (FilePoller::from(users), FilePoller::from(authority));
        Self { gateway: Arc::clone(gateway), config: config.clone(), data_dir, clock: Arc::clone(clock), users, authority }
    }

    fn users(&mut self) {
        let Some(login) = self.gateway.users() else { return };
        if !self.users.changed(FileStamps::at([login.path()])) {
            return;
        }
        match login.reread() {
            Ok(count) => tracing::info!(users = count, "gateway users reloaded"),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "gateway users not reloaded"),
        }
    }

    fn authority(&mut self) {
        let look = FileStamps::at(&ca::watched_files(&self.config, &self.data_dir));
        let is_lacking = look.any_missing();
        if !self.authority.changed(look) {
            return;
        }
        if is_lacking {
            tracing::error!("gateway CA file missing");
            return;
        }
        match self.sign() {
            Ok(leaves) => {
                self.gateway.set_leaf_issuer(leaves);
                tracing::info!("gateway CA reloaded");
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "gateway CA not reloaded"),
        }
    }

    fn sign(&self) -> Result<LeafIssuer, TlsError> {
        let kept = ca::active_ca(&self.config, &self.data_dir, self.clock.now())?;
        ca::leaf_issuer(&self.config, kept, &self.clock)
    }
}

/// Checks the files until it is dropped. Returns an error if a check panicked.
pub(crate) async fn run(followed: Arc<Mutex<GatewayFileWatcher>>) -> TaskEnd {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let followed = Arc::clone(&followed);
        let looking = tokio::task::spawn_blocking(move || {
            let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
            followed.users();
            followed.authority();
        });
        looking.await?;
    }
}
