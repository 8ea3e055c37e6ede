//! Runs one command behind a Coldframe: the server on the data directory, or else a firewall in this process. The command gets a
//! gateway of its own, and a report of its requests at the end.

pub(crate) mod remote_session;
pub mod temp_dir;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use crate::app::error::AppError;
use crate::app::listeners::stopped;
use crate::app::run::remote_session::{OpenRefused, RemoteSession, open};
use crate::app::run::temp_dir::RunTempDir;
use crate::app::server::App;
use crate::app::session::recorder::RecordedRequests;
use crate::app::session::{LocalSession, SessionInfo, SessionRequest, SessionTemplate, is_loopback, own_urls, registries};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::Want;
use crate::server::{RefusedDestination, SessionPassword};
use crate::store::{DataDir, SqliteLedger, StoreError};
use crate::telemetry::Metrics;
use crate::tls;

/// How long a command waits for feeds that were never read.
const FEEDS_TIMEOUT: Duration = Duration::from_secs(30);

/// An open session for one command.
pub struct RunSession {
    apart: Option<DataDirFallback>,
    answering: RunBackend,
}

/// Where the firewall of a session runs.
enum RunBackend {
    /// In this process.
    Own { session: LocalSession, stop: watch::Sender<bool>, app: JoinHandle<Result<(), AppError>>, _scratch: Option<RunTempDir> },
    /// In the server on the data directory.
    Running(RemoteSession),
}

/// Options of a session beyond the configuration.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// The user name for the ledger.
    pub user: String,
    /// Why a running server must not be used, if so.
    pub alone: Option<String>,
    /// The project's dependencies by package, for the summary.
    pub wants: Vec<(String, Want)>,
}

/// What a client needs to connect through the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyEndpoint {
    /// The URL of the gateway.
    pub proxy: Url,
    /// The password for the gateway.
    pub pass: SessionPassword,
    /// The registry URL for clients: upstream's own, if the gateway can intercept it.
    pub registry: Url,
}

/// Why a data directory other than the configured one is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirFallback {
    /// Another Coldframe owns it and cannot be used, for this reason. Its decisions and feeds were copied; tarballs are not
    /// shared.
    InUse(String),
    /// It cannot be used, for this reason.
    Unusable(String),
}

/// The report of a command's requests.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// The recorded requests.
    pub noted: RecordedRequests,
    /// Refused requests for other hosts, by host and port.
    pub turned_away: BTreeMap<String, RefusedDestination>,
    /// An error at the end of the session.
    pub trouble: Option<String>,
}

impl RunSession {
    /// Opens a session at the server on the data directory, or else in this process, with the configured data directory or a
    /// temporary one.
    ///
    /// # Errors
    /// Returns the errors of [`App::build`], or an error if no temporary directory can be created.
    pub async fn open(config: Config, needs: RunOptions, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let proxy = &config.gateway.proxy;
        let request = SessionRequest {
            user: needs.user,
            hosts: proxy.targets.named_hosts(),
            itself: own_urls(&config.listen, config.server.public_url.as_ref()),
            allowed: proxy.allowed.clone(),
            tunnels_others: proxy.tunnels_others,
            wants: needs.wants,
        };
        let why = match needs.alone {
            Some(why) => why,
            None => match open(&config.store.data_dir, &request, &registries(&config)).await {
                Ok(remote) => return Ok(Self { apart: None, answering: RunBackend::Running(remote) }),
                Err(OpenRefused(why)) => why,
            },
        };
        Self::open_here(config, &request, why, clock).await
    }

    /// Opens a session in this process. `why` is the reason why a running server cannot be used, if there is one.
    async fn open_here(
        mut config: Config,
        request: &SessionRequest,
        why: String,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        let (apart, scratch) = choose_data_dir(&mut config, why)?;
        let session_template = SessionTemplate::of(&config, &tls::client_config(&config.tls)?).at(&config.listen);
        // The registry listener and the configured gateway are not needed here.
        config.listen.clear();
        config.policies.profiles.clear();
        config.gateway.listen.clear();
        config.gateway.transparent.clear();
        let app = App::build(config, Arc::clone(&clock)).await?;
        // Without feeds, requests are refused, and the command does not retry them.
        app.until_feeds_are_read(FEEDS_TIMEOUT).await;
        let session =
            LocalSession::open(app.firewall(), (&session_template, &[]), request, Arc::new(Metrics::new()), &clock).await?;
        let stop = watch::Sender::new(false);
        let app = tokio::spawn(app.run(stopped(stop.subscribe())));
        Ok(Self { apart, answering: RunBackend::Own { session, stop, app, _scratch: scratch } })
    }

    /// Returns what clients need to connect.
    #[must_use]
    pub fn way(&self) -> &ProxyEndpoint {
        &self.lead().way
    }

    /// Checks whether the gateway intercepts or tunnels requests for a URL.
    #[must_use]
    pub fn is_proxied(&self, url: &Url) -> bool {
        self.lead().reach.takes(url)
    }

    /// Returns the intercepted origins without loopback ones, and whether a registry is on loopback.
    #[must_use]
    pub fn registries(&self) -> (Vec<Url>, bool) {
        let reach = &self.lead().reach;
        let origins = reach.origins.iter().filter_map(|origin| Url::parse(origin).ok());
        (origins.filter(|url| !is_loopback(url)).collect(), reach.on_loopback)
    }

    /// Returns the certificate that clients must trust.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.lead().certificate
    }

    /// Returns a description of the policy.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.lead().policy
    }

    fn lead(&self) -> &SessionInfo {
        match &self.answering {
            RunBackend::Own { session, .. } => &session.lead,
            RunBackend::Running(remote) => &remote.lead,
        }
    }

    /// Checks whether the session is at the server on the data directory.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.answering, RunBackend::Running(_))
    }

    /// Returns why another data directory is used, if so.
    #[must_use]
    pub fn apart(&self) -> Option<&DataDirFallback> {
        self.apart.as_ref()
    }

    /// Lets running requests finish, flushes the ledger, and returns the report.
    pub async fn close(self) -> RunReport {
        match self.answering {
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
    let apart = match DataDir::open(&configured) {
        Ok(_) => return Ok((None, None)),
        Err(StoreError::Locked { .. }) => DataDirFallback::InUse(why),
        Err(error @ StoreError::File { .. }) => DataDirFallback::Unusable(error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let scratch = RunTempDir::make().map_err(AppError::Scratch)?;
    let here = scratch.path().join("data");
    if matches!(apart, DataDirFallback::InUse(_)) {
        // Copies the decisions, the first-seen times and the last state of the feeds, which apply here too.
        fs::create_dir_all(&here).map_err(AppError::Scratch)?;
        SqliteLedger::copy(&configured, &here)?;
        copy_folder(&configured.join("feeds"), &here.join("feeds")).map_err(AppError::Scratch)?;
    }
    config.store.data_dir = here;
    Ok((Some(apart), Some(scratch)))
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
