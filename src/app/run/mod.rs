//! One command behind a Coldframe: the one that runs on the data directory, else one that lives in this process as long as the
//! command runs. Either way it is reached through a gateway of the command's own, and says at its end what became of what was
//! asked. Refuses to know the command.

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

use crate::app::run::remote_session::{OpenRefused, RemoteSession, open};
use crate::app::run::temp_dir::RunTempDir;
use crate::app::session::recorder::RecordedRequests;
use crate::app::session::{LocalSession, SessionInfo, SessionRequest, SessionTemplate, is_loopback, itself, registries};
use crate::app::{App, AppError};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::Want;
use crate::server::{RefusedDestination, SessionPassword};
use crate::store::{DataDir, SqliteLedger, StoreError};
use crate::telemetry::Metrics;
use crate::tls;

/// How long a command waits for feeds that were never read.
const FEEDS_TIMEOUT: Duration = Duration::from_secs(30);

/// A Coldframe that runs.
pub struct RunSession {
    apart: Option<DataDirFallback>,
    answering: RunBackend,
}

/// Who answers.
enum RunBackend {
    /// This process.
    Own { session: LocalSession, stop: watch::Sender<bool>, app: JoinHandle<Result<(), AppError>>, _scratch: Option<RunTempDir> },
    /// The one that runs on the data directory.
    Running(RemoteSession),
}

/// What a command needs beyond the configuration.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Who runs it, as the ledger shall name them.
    pub user: String,
    /// Why a Coldframe that runs already is not to answer, if it is not.
    pub alone: Option<String>,
    /// What the project wants, by package: for the summary alone.
    pub wants: Vec<(String, Want)>,
}

/// The way that a client has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyEndpoint {
    /// The gateway.
    pub proxy: Url,
    /// What it asks clients for.
    pub pass: SessionPassword,
    /// The registry that clients are to name: the one they would name without us, where the gateway can answer for it.
    pub registry: Url,
}

/// Why the data directory is not the configured one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirFallback {
    /// Another Coldframe has it, and does not answer, for this reason. What that one decided and keeps of feeds was taken over;
    /// tarballs are not shared.
    InUse(String),
    /// It cannot be used.
    Unusable(String),
}

/// What became of the command's requests.
#[derive(Debug, Clone, Default)]
pub struct RunReport {
    /// What was asked of us.
    pub noted: RecordedRequests,
    /// The places beside the registries that were asked for and refused.
    pub turned_away: BTreeMap<String, RefusedDestination>,
    /// What went wrong at the end.
    pub trouble: Option<String>,
}

impl RunSession {
    /// Starts one: at the Coldframe that runs on the data directory, else here, where the data directory is the configured one,
    /// or one for the occasion.
    ///
    /// # Errors
    /// As [`App::build`]; when there is neither a data directory nor place for a temporary one.
    pub async fn open(config: Config, needs: RunOptions, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let door = &config.gateway.door;
        let wish = SessionRequest {
            user: needs.user,
            hosts: door.targets.named_hosts(),
            itself: itself(&config.listen, config.proxy.public_url.as_ref()),
            allowed: door.allowed.clone(),
            tunnels_others: door.tunnels_others,
            wants: needs.wants,
        };
        let why = match needs.alone {
            Some(why) => why,
            None => match open(&config.store.data_dir, &wish, &registries(&config)).await {
                Ok(guest) => return Ok(Self { apart: None, answering: RunBackend::Running(guest) }),
                Err(OpenRefused(why)) => why,
            },
        };
        Self::open_here(config, &wish, why, clock).await
    }

    /// `why` is why no other answers, should there be one.
    async fn open_here(mut config: Config, wish: &SessionRequest, why: String, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let (apart, scratch) = settle_down(&mut config, why)?;
        let premises = SessionTemplate::of(&config, &tls::client_config(&config.tls)?).at(&config.listen);
        // Its own pages and its registry's door are nobody's here.
        config.listen.clear();
        config.listener_policies.clear();
        config.gateway.listen.clear();
        config.gateway.transparent.clear();
        let app = App::build(config, Arc::clone(&clock)).await?;
        // A command is refused what it asks for before the feeds are read, and does not ask again.
        app.until_feeds_are_read(FEEDS_TIMEOUT).await;
        let session = LocalSession::open(app.firewall(), (&premises, &[]), wish, Arc::new(Metrics::new()), &clock).await?;
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let app = tokio::spawn(app.run(async move {
            // An error means that the sender is gone, and with it whoever could ask for more.
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Ok(Self { apart, answering: RunBackend::Own { session, stop, app, _scratch: scratch } })
    }

    /// The way that clients have to go.
    #[must_use]
    pub fn way(&self) -> &ProxyEndpoint {
        &self.lead().way
    }

    /// Whether a request for an address is answered, or let through.
    #[must_use]
    pub fn takes(&self, url: &Url) -> bool {
        self.lead().reach.takes(url)
    }

    /// The addresses that are answered for, those of this machine left out; and whether a registry is on this machine.
    #[must_use]
    pub fn registries(&self) -> (Vec<Url>, bool) {
        let reach = &self.lead().reach;
        let origins = reach.origins.iter().filter_map(|origin| Url::parse(origin).ok());
        (origins.filter(|url| !is_loopback(url)).collect(), reach.on_loopback)
    }

    /// The certificate that clients have to trust.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.lead().certificate
    }

    /// The policy by which it answers, in words.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.lead().policy
    }

    fn lead(&self) -> &SessionInfo {
        match &self.answering {
            RunBackend::Own { session, .. } => &session.lead,
            RunBackend::Running(guest) => &guest.lead,
        }
    }

    /// Whether the Coldframe that runs on the data directory answers.
    #[must_use]
    pub fn is_running_ones(&self) -> bool {
        matches!(self.answering, RunBackend::Running(_))
    }

    /// Why the data directory is not the configured one, if it is not.
    #[must_use]
    pub fn apart(&self) -> Option<&DataDirFallback> {
        self.apart.as_ref()
    }

    /// Lets what is under way finish, has the ledger written, and says what became of everything.
    pub async fn close(self) -> RunReport {
        match self.answering {
            RunBackend::Running(guest) => guest.leave().await,
            RunBackend::Own { session, stop, app, _scratch } => {
                let sum = session.close().await;
                stop.send_replace(true);
                let trouble = match app.await {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some("a task of coldframe's died".to_owned()),
                };
                RunReport { trouble: sum.trouble.or(trouble), ..sum }
            }
        }
    }
}

/// Sees to a data directory: the configured one, else one for the occasion.
fn settle_down(config: &mut Config, why: String) -> Result<(Option<DataDirFallback>, Option<RunTempDir>), AppError> {
    let configured = config.store.data_dir.clone();
    let apart = match DataDir::open(&configured) {
        Ok(_) => return Ok((None, None)),
        Err(StoreError::Locked { .. }) => DataDirFallback::InUse(why),
        Err(error @ StoreError::File { .. }) => DataDirFallback::Unusable(error.to_string()),
        Err(error) => return Err(AppError::DataDir(error)),
    };
    let scratch = RunTempDir::make().map_err(AppError::Scratch)?;
    let here = scratch.path().join("data");
    if matches!(apart, DataDirFallback::InUse(_)) {
        // What people decided and when releases were first seen holds here too, and what feeds said last.
        fs::create_dir_all(&here).map_err(AppError::Scratch)?;
        SqliteLedger::copy(&configured, &here).map_err(AppError::DataDir)?;
        copy_folder(&configured.join("feeds"), &here.join("feeds")).map_err(AppError::Scratch)?;
    }
    config.store.data_dir = here;
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
