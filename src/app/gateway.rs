//! The gateway of a server: its listeners, its CA, and the watcher of its files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::app::core::Core;
use crate::app::error::AppError;
use crate::app::listeners::{self, BoundListener, RunningListeners, stopped};
use crate::app::supervisor::TaskEnd;
use crate::app::{ca, outbound};
use crate::clock::Clock;
use crate::config::{Config, GatewaySettings};
use crate::files::{FilePoller, FileStamps, POLL_INTERVAL};
use crate::firewall::Firewall;
use crate::net::OutboundProxy;
use crate::server::gateway::{self, transparent};
use crate::server::{EgressContext, Gateway, RegistryHandler};

pub(crate) struct GatewayListeners {
    pub(crate) bound: Vec<BoundListener>,
    /// Listeners for transparently redirected connections.
    pub(crate) transparent: Vec<BoundListener>,
    pub(crate) proxy: Arc<Gateway<Firewall>>,
    pub(crate) files: Arc<Mutex<GatewayFileWatcher>>,
}

/// Reloads the user file and the CA files when they change. Invalid files are logged and change nothing.
pub(crate) struct GatewayFileWatcher {
    gateway: Arc<Gateway<Firewall>>,
    config: GatewaySettings,
    data_dir: PathBuf,
    clock: Arc<dyn Clock>,
    users: FilePoller,
    authority: FilePoller,
}

impl GatewayListeners {
    /// Loads or creates the CA, and binds all addresses. `registry` has those of the registry. Returns `None` without a gateway.
    pub(crate) async fn open(
        config: &Config,
        service: &Arc<RegistryHandler<Firewall>>,
        registry: &[SocketAddr],
        core: &Core,
    ) -> Result<Option<Self>, AppError> {
        let (settings, data_dir) = (&config.gateway, &config.store.data_dir);
        if settings.listen.is_empty() && settings.transparent.is_empty() {
            return Ok(None);
        }
        // Creates the CA if there is none. The files are stamped before they are read, so that a later change is noticed.
        ca::active_ca(settings, data_dir, core.clock.now()).map_err(AppError::Authority)?;
        let users = FilePoller::from(FileStamps::at(&settings.proxy.users));
        let authority = FilePoller::from(FileStamps::at(&ca::watched_files(settings, data_dir)));
        let leaves = ca::leaf_issuer(settings, data_dir, &core.clock).map_err(AppError::Authority)?;
        let bound = listeners::bind_all(&settings.listen, "--gateway").await?;
        let transparent = listeners::bind_all(&settings.transparent, "--transparent").await?;
        let ours = [registry, &listeners::addresses(&bound), &listeners::addresses(&transparent)].concat();
        let parent = OutboundProxy::new(&outbound::like_upstream(&config.upstream, &core.trust));
        if !parent.is_none() {
            tracing::warn!(
                "gateway tunnels through an outbound proxy, which resolves names itself and may connect to unchecked addresses"
            );
        }
        let egress = EgressContext { ours, parent };
        let proxy = Arc::new(Gateway::new(Arc::clone(service), &settings.proxy, leaves, egress)?);
        let (gateway, clock) = (Arc::clone(&proxy), Arc::clone(&core.clock));
        let (config, data_dir) = (settings.clone(), data_dir.clone());
        let files = GatewayFileWatcher { gateway, config, data_dir, clock, users, authority };
        Ok(Some(Self { bound, transparent, proxy, files: Arc::new(Mutex::new(files)) }))
    }

    pub(crate) fn serve(self, running: &mut RunningListeners) {
        for BoundListener { listener, .. } in self.bound {
            let proxy = Arc::clone(&self.proxy);
            running.serve(|limit, stop| async move { gateway::serve(listener, &limit, &proxy, stopped(stop)).await });
        }
        for BoundListener { listener, .. } in self.transparent {
            let proxy = Arc::clone(&self.proxy);
            running.serve(|limit, stop| async move { transparent::serve(listener, &limit, &proxy, stopped(stop)).await });
        }
    }
}

impl GatewayFileWatcher {
    fn reload_users(&mut self) {
        let Some(login) = &self.gateway.users else { return };
        if !self.users.changed(FileStamps::at([&login.path])) {
            return;
        }
        match login.reread() {
            Ok(count) => tracing::info!(users = count, "gateway users reloaded"),
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "gateway users not reloaded"),
        }
    }

    fn reload_authority(&mut self) {
        let look = FileStamps::at(&ca::watched_files(&self.config, &self.data_dir));
        let is_lacking = look.any_missing();
        if !self.authority.changed(look) {
            return;
        }
        if is_lacking {
            tracing::error!("gateway CA file missing");
            return;
        }
        match ca::leaf_issuer(&self.config, &self.data_dir, &self.clock) {
            Ok(leaves) => {
                self.gateway.leaf_issuer.store(Arc::new(leaves));
                tracing::info!("gateway CA reloaded");
            }
            Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "gateway CA not reloaded"),
        }
    }
}

/// Checks the files until it is dropped. Returns an error if a check panicked.
pub(crate) async fn follow_files(followed: Arc<Mutex<GatewayFileWatcher>>) -> TaskEnd {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let followed = Arc::clone(&followed);
        let looking = tokio::task::spawn_blocking(move || {
            let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
            followed.reload_users();
            followed.reload_authority();
        });
        looking.await?;
    }
}
