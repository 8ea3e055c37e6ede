//! Runs one command behind a Coldframe: the server on the data directory, or else a firewall in this process. The command gets a
//! gateway of its own, and a report of its requests at the end.

pub(crate) mod remote_session;
pub mod temp_dir;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use crate::app::error::AppError;
use crate::app::listeners::stopped;
use crate::app::run::remote_session::{RemoteSession, open};
use crate::app::run::temp_dir::RunTempDir;
use crate::app::server::App;
use crate::app::session::{
    LocalSession, RunReport, SessionInfo, SessionRequest, SessionTemplate, is_loopback, own_urls, registries,
};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::Want;
use crate::store::{DataDir, SqliteLedger, StoreError};
use crate::telemetry::Metrics;
use crate::tls;

/// How long a command waits for feeds that were never read.
const FEEDS_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) struct RunSession {
    pub(crate) fallback: Option<DataDirFallback>,
    backend: RunBackend,
}

/// Where the firewall of a session runs.
enum RunBackend {
    Own { session: LocalSession, stop: watch::Sender<bool>, app: JoinHandle<Result<(), AppError>>, _scratch: Option<RunTempDir> },
    Running(RemoteSession),
}

/// Why a data directory other than the configured one is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DataDirFallback {
    /// Another Coldframe owns it and cannot be used, for this reason. Its decisions and feeds were copied, its tarballs not.
    InUse(String),
    Unusable(String),
}

impl RunSession {
    /// Opens a session at the server on the data directory, or else in this process, with the configured data directory or a
    /// temporary one. `user` is the name for the ledger, `local_only` the reason why a running server must not be used, and
    /// `wants` are the project's dependencies by package.
    pub(crate) async fn open(
        mut config: Config,
        user: String,
        local_only: Option<String>,
        wants: Vec<(String, Want)>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let proxy = &config.gateway.proxy;
        let request = SessionRequest {
            registries: registries(&config),
            user,
            hosts: proxy.targets.named_hosts().iter().map(|host| host.as_ref().to_owned()).collect(),
            itself: own_urls(&config.listen, config.server.public_url.as_ref()),
            allowed: proxy.allowed.iter().map(ToString::to_string).collect(),
            tunnels_others: proxy.tunnels_others,
            wants,
        };
        let why = match local_only {
            Some(why) => why,
            None => match open(&config.store.data_dir, &request).await {
                Ok(remote) => return Ok(Self { fallback: None, backend: RunBackend::Running(remote) }),
                Err(why) => why,
            },
        };
        let (fallback, scratch) = choose_data_dir(&mut config, why)?;
        let session_template = SessionTemplate::new(&config, &tls::client_config(&config.tls)?, &config.listen);
        // The registry listener and the configured gateway are not needed here.
        config.listen.clear();
        config.policies.profiles.clear();
        config.gateway.listen.clear();
        config.gateway.transparent.clear();
        let app = App::build(config, Arc::clone(&clock)).await?;
        // Without feeds, requests are refused, and the command does not retry them.
        app.until_feeds_are_read(FEEDS_TIMEOUT).await;
        let session =
            LocalSession::open(app.firewall(), (&session_template, &[]), &request, Arc::new(Metrics::default()), &clock).await?;
        let stop = watch::Sender::new(false);
        let app = tokio::spawn(app.run(stopped(stop.subscribe())));
        Ok(Self { fallback, backend: RunBackend::Own { session, stop, app, _scratch: scratch } })
    }

    /// Checks whether the gateway intercepts or tunnels requests for a URL.
    pub(crate) fn is_proxied(&self, url: &Url) -> bool {
        self.info().reach.takes(url)
    }

    /// Returns the intercepted origins. `http://localhost/` stands for all registries on this machine.
    pub(crate) fn registries(&self) -> Vec<Url> {
        let reach = &self.info().reach;
        let origins = reach.origins.iter().filter_map(|origin| Url::parse(origin).ok()).filter(|url| !is_loopback(url));
        origins.chain(reach.on_loopback.then(|| Url::parse("http://localhost/").ok()).flatten()).collect()
    }

    pub(crate) fn info(&self) -> &SessionInfo {
        match &self.backend {
            RunBackend::Own { session, .. } => &session.lead,
            RunBackend::Running(remote) => &remote.info,
        }
    }

    /// Checks whether the session is at the server on the data directory.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self.backend, RunBackend::Running(_))
    }

    /// Lets running requests finish, flushes the ledger, and returns the report.
    pub(crate) async fn close(self) -> RunReport {
        match self.backend {
            RunBackend::Running(remote) => remote.close().await,
            RunBackend::Own { session, stop, app, _scratch } => {
                let sum = session.close().await;
                stop.send_replace(true);
                let trouble = match app.await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("a coldframe task panicked".to_owned()),
                };
                RunReport { trouble: sum.trouble.or(trouble), ..sum }
            }
        }
    }
}

/// Chooses the data directory: the configured one, or else a temporary one.
fn choose_data_dir(config: &mut Config, why: String) -> Result<(Option<DataDirFallback>, Option<RunTempDir>), AppError> {
    let configured = config.store.data_dir.clone();
    let fallback = match DataDir::open(&configured) {
        Ok(_) => return Ok((None, None)),
        Err(StoreError::Locked { .. }) => DataDirFallback::InUse(why),
        Err(error @ StoreError::File { .. }) => DataDirFallback::Unusable(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let scratch = RunTempDir::make().map_err(AppError::Scratch)?;
    let here = scratch.path().join("data");
    if matches!(fallback, DataDirFallback::InUse(_)) {
        // Copies the decisions, the first-seen times and the last state of the feeds, which apply here too.
        fs::create_dir_all(&here).map_err(AppError::Scratch)?;
        SqliteLedger::copy(&configured, &here)?;
        copy_folder(&configured.join("feeds"), &here.join("feeds")).map_err(AppError::Scratch)?;
    }
    config.store.data_dir = here;
    Ok((Some(fallback), Some(scratch)))
}

/// Copies a directory recursively, if it exists.
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
