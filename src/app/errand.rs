//! A Coldframe for one command: it lives in this process as long as the command runs, is reached through a gateway of its
//! own, and says at its end what became of what was asked. Refuses to know the command.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::{Host, Url};

use super::front::{ANY_PORT, Front};
use super::witness::{Noted, Witness};
use super::{App, AppError, feeds};
use crate::config::Config;
use crate::proxy::{Gateway, Targets, TurnedAway};
use crate::store::{DataDir, SqliteLedger, StoreError};
use crate::telemetry::{Clock, Metrics};
use crate::tls;
use crate::upstream::npmrc;

/// A Coldframe that runs.
pub struct Errand {
    way: Way,
    gateway: Gateway,
    certificate: CertificateDer<'static>,
    apart: Option<Apart>,
    stop: watch::Sender<bool>,
    front: JoinHandle<(Noted, BTreeMap<String, TurnedAway>)>,
    app: JoinHandle<Result<(), AppError>>,
    _scratch: Option<TempDir>,
}

/// The way that a client has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The gateway.
    pub proxy: Url,
    /// The registry that clients are to name: the one they would name without us, where the gateway can answer for it.
    pub registry: Url,
}

/// Why the data directory is not the configured one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Apart {
    /// Another Coldframe has it. What that one decided and keeps of feeds was taken over; tarballs are not shared.
    InUse,
    /// It cannot be used.
    Unusable(String),
}

/// What became of the command's requests.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// What was asked of us.
    pub noted: Noted,
    /// The places beside the registries that were asked for and refused.
    pub turned_away: BTreeMap<String, TurnedAway>,
    /// What went wrong at the end.
    pub trouble: Option<String>,
}

impl Errand {
    /// Starts one. The data directory is the configured one, or one for the occasion where another process has that.
    ///
    /// # Errors
    /// As [`App::build`]; when there is neither a data directory nor place for a temporary one.
    pub async fn open(mut config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let (apart, scratch) = settle_down(&mut config)?;
        let registry = registry_for(&config);
        let mut gateway = config.gateway.door.clone();
        complete(&mut gateway.targets, &config);
        // The command is led there without a password.
        gateway.users = None;
        let (service, parent) = (config.proxy.clone(), feeds::parent(&config.upstream, &tls::client_config(&config.tls)?));
        // Its own pages and its registry's door are nobody's here, but a server has one.
        config.listen = vec![ANY_PORT];
        config.listener_policies.clear();
        config.gateway.listen.clear();
        config.gateway.transparent.clear();
        let app = App::build(config, Arc::clone(&clock)).await?;
        let witness = Arc::new(Witness::before(Arc::clone(app.firewall())));
        let connections = service.limits.connections;
        let front = Front::open(Arc::clone(&witness), (service, &gateway, parent), Arc::new(Metrics::new()), &clock).await?;
        let proxy = Url::parse(&format!("http://{}/", front.address())).unwrap_or_else(|_| registry.clone());
        let certificate = front.certificate().clone();
        let stop = watch::Sender::new(false);
        let stopped = |mut receiver: watch::Receiver<bool>| async move {
            // An error means that the sender is gone, and with it whoever could ask for more.
            let _ = receiver.wait_for(|stop| *stop).await;
        };
        let (ending, closing) = (stopped(stop.subscribe()), stopped(stop.subscribe()));
        let front = tokio::spawn(async move {
            let turned_away = front.serve(connections, ending).await;
            (witness.noted(), turned_away)
        });
        let app = tokio::spawn(app.run(closing));
        Ok(Self { way: Way { proxy, registry }, gateway, certificate, apart, stop, front, app, _scratch: scratch })
    }

    /// The way that clients have to go.
    #[must_use]
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Whether a request for an address is answered here, or let through.
    #[must_use]
    pub fn takes(&self, url: &Url) -> bool {
        let Gateway { targets, allowed, tunnels_others, .. } = &self.gateway;
        let found = url.host_str().zip(url.port_or_known_default()).and_then(|(host, port)| targets.find(host, port));
        let answered = found.is_some_and(|aim| aim.secure == (url.scheme() == "https"));
        answered || *tunnels_others || allowed.iter().any(|glob| glob.reach(url).is_some())
    }

    /// The certificate that clients have to trust.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Why the data directory is not the configured one, if it is not.
    #[must_use]
    pub fn apart(&self) -> Option<&Apart> {
        self.apart.as_ref()
    }

    /// Lets what is under way finish, writes the ledger, and says what became of everything.
    pub async fn close(self) -> Sum {
        self.stop.send_replace(true);
        let died = || "a task of coldframe's died".to_owned();
        let trouble = match self.app.await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(died()),
        };
        match self.front.await {
            Ok((noted, turned_away)) => Sum { noted, turned_away, trouble },
            Err(_) => Sum { trouble: Some(died()), ..Sum::default() },
        }
    }
}

/// Sees to a data directory: the configured one, else one for the occasion.
fn settle_down(config: &mut Config) -> Result<(Option<Apart>, Option<TempDir>), AppError> {
    let configured = config.store.data_dir.clone();
    let apart = match DataDir::open(&configured) {
        Ok(_) => return Ok((None, None)),
        Err(StoreError::Locked { .. }) => Apart::InUse,
        Err(error @ StoreError::File { .. }) => Apart::Unusable(error.to_string()),
        Err(error) => return Err(AppError::DataDir(error)),
    };
    let scratch = tempfile::Builder::new().prefix("coldframe-run-").tempdir().map_err(AppError::Scratch)?;
    if apart == Apart::InUse {
        // What people decided and when releases were first seen holds here too, and what feeds said last.
        SqliteLedger::copy(&configured, scratch.path()).map_err(AppError::DataDir)?;
        copy_folder(&configured.join("feeds"), &scratch.path().join("feeds")).map_err(AppError::Scratch)?;
    }
    scratch.path().clone_into(&mut config.store.data_dir);
    Ok((Some(apart), Some(scratch)))
}

/// Copies what lies in a folder, if there is one.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    fs::create_dir_all(to)?;
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The registry that clients name: upstream's own address where the gateway can answer for it, so that lockfiles come out as
/// they do without us; else npm's default, which is answered from upstream all the same.
fn registry_for(config: &Config) -> Url {
    let upstream = config.upstream.default.address();
    match upstream.host() {
        Some(Host::Domain(_)) if !is_this_machine(&upstream) => upstream,
        _ if upstream.scheme() == "http" => upstream,
        _ => npmrc::built_in(),
    }
}

fn is_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(|host| host == "localhost" || host.ends_with(".localhost"))
}

/// Adds what a gateway has its clients go to directly, which these must not: registries at addresses, and the addresses at
/// which a Coldframe would listen by this configuration, for lockfiles and `.npmrc` files name those.
fn complete(targets: &mut Targets, config: &Config) {
    for registry in std::iter::once(&config.upstream.default).chain(config.upstream.scoped.values()) {
        if !matches!(registry.url.host(), Some(Host::Domain(_))) || is_this_machine(&registry.url) {
            targets.add_unnamed(&registry.address());
        }
    }
    for listener in &config.listen {
        let here = |host: &str| Url::parse(&format!("http://{host}:{}/", listener.port())).ok();
        let itself = (!listener.ip().is_unspecified()).then(|| Url::parse(&format!("http://{listener}/")).ok()).flatten();
        let names = ["127.0.0.1", "localhost", "[::1]"].into_iter().filter_map(here);
        itself.into_iter().chain(names).for_each(|url| targets.add_unnamed(&url));
    }
    if let Some(public) = &config.proxy.public_url {
        targets.add_registry(public);
        if !matches!(public.host(), Some(Host::Domain(_))) || is_this_machine(public) {
            targets.add_unnamed(public);
        }
    }
}
