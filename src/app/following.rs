//! Follows the gateway's files while it serves: who may use it, and the authority that signs for it. One that is broken changes
//! nothing, and says so. They are looked at as policies are, and for the same reasons.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::authority;
use crate::config;
use crate::firewall::Firewall;
use crate::proxy::Forward;
use crate::telemetry::Clock;
use crate::tls::{Leaves, TlsError};

const EVERY: Duration = Duration::from_millis(250);

/// What is followed.
pub(super) struct Followed {
    gateway: Arc<Forward<Firewall>>,
    config: config::Gateway,
    data_dir: PathBuf,
    clock: Arc<dyn Clock>,
    /// What the authority's files looked like when they were read last.
    look: Vec<Look>,
}

/// A file, when it was changed, and its length.
type Look = (PathBuf, Option<(SystemTime, u64)>);

impl Followed {
    /// The files of a gateway, which were read after `look` was taken.
    pub(super) fn new(
        gateway: &Arc<Forward<Firewall>>,
        config: &config::Gateway,
        data_dir: PathBuf,
        clock: &Arc<dyn Clock>,
        look: Vec<Look>,
    ) -> Self {
        Self { gateway: Arc::clone(gateway), config: config.clone(), data_dir, clock: Arc::clone(clock), look }
    }

    fn users(&self) {
        match self.gateway.login().map(|login| login.follow()) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(count))) => tracing::info!(users = count, "took in who may use the gateway"),
            Some(Err(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the file of those who may use the gateway is broken: those before it stay"
            ),
        }
    }

    fn authority(&mut self) {
        let look = look(&authority::files(&self.config, &self.data_dir));
        if look == self.look {
            return;
        }
        // Files that are replaced one by one belong together a moment later.
        self.look = look;
        if self.look.iter().any(|(_, file)| file.is_none()) {
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

    fn sign(&self) -> Result<Leaves, TlsError> {
        let kept = authority::in_force(&self.config, &self.data_dir, self.clock.now())?;
        authority::leaves(&self.config, kept, &self.clock)
    }
}

/// Looks whether they changed, until it is dropped.
pub(super) async fn follow(mut followed: Followed) {
    loop {
        tokio::time::sleep(EVERY).await;
        let looking = tokio::task::spawn_blocking(move || {
            followed.users();
            followed.authority();
            followed
        });
        match looking.await {
            Ok(after) => followed = after,
            Err(error) => {
                tracing::error!(error = %error, "the gateway's files are followed no longer");
                return;
            }
        }
    }
}

/// What files look like now.
pub(super) fn look(paths: &[PathBuf]) -> Vec<Look> {
    let look = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok();
        (path.clone(), metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))))
    };
    paths.iter().map(look).collect()
}
