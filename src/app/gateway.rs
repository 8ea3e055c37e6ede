//! The gateway of a server: its listeners, its CA, and the watcher of its files.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use crate::app::core::Core;
use crate::app::error::AppError;
use crate::app::listeners::{self, BoundListener, RunningListeners};
use crate::app::tasks::gateway_reload::GatewayFileWatcher;
use crate::app::{ca, outbound};
use crate::config::Config;
use crate::files::FileStamps;
use crate::firewall::Firewall;
use crate::server::gateway::{self, transparent};
use crate::server::{EgressContext, Gateway, RegistryHandler};

/// The gateway with its bound listeners.
pub(crate) struct GatewayListeners {
    pub(crate) bound: Vec<BoundListener>,
    /// Listeners for transparently redirected connections.
    pub(crate) transparent: Vec<BoundListener>,
    pub(crate) proxy: Arc<Gateway<Firewall>>,
    pub(crate) files: Arc<Mutex<GatewayFileWatcher>>,
}

impl GatewayListeners {
    /// Loads or creates the CA, and binds all addresses. `registry` has the addresses of the registry. Returns `None` if no
    /// gateway is configured.
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
        // Creates the CA if there is none. The files are stamped before they are read, so that a change in between is noticed
        // later.
        ca::active_ca(settings, data_dir, core.clock.now()).map_err(AppError::Authority)?;
        let stamps = (FileStamps::at(&settings.proxy.users), FileStamps::at(&ca::watched_files(settings, data_dir)));
        let active = ca::active_ca(settings, data_dir, core.clock.now()).map_err(AppError::Authority)?;
        let leaves = ca::leaf_issuer(settings, active, &core.clock).map_err(AppError::Authority)?;
        let bound = listeners::bind_all(&settings.listen, "--gateway").await?;
        let transparent = listeners::bind_all(&settings.transparent, "--transparent").await?;
        let ours = [registry, &listeners::addresses(&bound), &listeners::addresses(&transparent)].concat();
        let parent = outbound::outbound_proxy(&config.upstream, &core.trust);
        if !parent.is_none() {
            tracing::warn!(
                "gateway tunnels through an outbound proxy, which resolves names itself and may connect to unchecked addresses"
            );
        }
        let egress = EgressContext { ours, parent };
        let proxy = Arc::new(Gateway::new(Arc::clone(service), &settings.proxy, leaves, egress)?);
        let files = GatewayFileWatcher::new(&proxy, settings, data_dir.clone(), &core.clock, stamps);
        Ok(Some(Self { bound, transparent, proxy, files: Arc::new(Mutex::new(files)) }))
    }

    pub(crate) fn serve(self, running: &mut RunningListeners) {
        for BoundListener { listener, .. } in self.bound {
            let (proxy, limit, stopped) = (Arc::clone(&self.proxy), running.limit(), running.stopped());
            running.spawn(async move {
                let _drained = gateway::serve(listener, &limit, &proxy, stopped).await;
            });
        }
        for BoundListener { listener, .. } in self.transparent {
            let (proxy, limit, stopped) = (Arc::clone(&self.proxy), running.limit(), running.stopped());
            running.spawn(async move {
                let _drained = transparent::serve(listener, &limit, &proxy, stopped).await;
            });
        }
    }
}
