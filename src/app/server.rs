//! A server: builds all components, binds the listeners, runs the background tasks, and shuts down in order.

use std::net::SocketAddr;
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::app::core::{self, Core};
use crate::app::error::AppError;
use crate::app::gateway::{self, GatewayListeners};
use crate::app::listeners::{self, BoundListener, RunningListeners, stopped};
use crate::app::operations::Operations;
use crate::app::operations::messages::Description;
use crate::app::outbound;
use crate::app::session::SessionTemplate;
#[cfg(unix)]
use crate::app::session::control_socket::{self, ControlSocket};
use crate::app::supervisor::Supervisor;
use crate::app::tasks::certificate_reload::{self, CertificateReloader};
use crate::app::tasks::config_reload::{self, ReadConfig, ReloadState, Reloader};
use crate::app::tasks::decision_reload::{self, DecisionLog};
use crate::app::tasks::feeds::{self, FeedScheduler};
use crate::app::tasks::policy_reload::{self, PolicyReloader};
use crate::app::tasks::summary::Summary;
use crate::app::tasks::token_reload;
use crate::app::tasks::trust::TrustRenewal;
use crate::app::tasks::{ledger, prefetch, requests, vetting};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::Firewall;
use crate::net::{HttpClient, ListenAddress, Scheme};
use crate::server::admin::{Admin, HealthChecks, SharedInspector};
use crate::server::auth::oidc::{OidcParts, OidcSignIn};
use crate::server::pages::{FeedStatuses, PageSources, Pages};
use crate::server::registry::{self, RegistryListener};
use crate::server::{self, Authenticator, KeySets, RegistryHandler, TokenExchange};
#[cfg(unix)]
use crate::store::DataDir;
use crate::store::{ReportLedger, TokenLedger};
use crate::telemetry::TaskLabel;
use crate::text::single_line;
use crate::units::timestamp;

/// How long background fetches may take after the drain deadline, which clients may have used up.
const FETCH_GRACE: Duration = Duration::from_secs(1);

/// For how long missing metadata of a registry is shown at startup.
const STRIPPED_SINCE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A server that is bound but not running. No request was sent to upstream.
pub struct App {
    core: Core,
    /// The listeners of the registry, and what answers there.
    bound: Vec<BoundListener>,
    service: Arc<RegistryHandler<Firewall>>,
    admin: Arc<Admin>,
    gateway: Option<GatewayListeners>,
    operations: Arc<Operations>,
    session_template: Arc<SessionTemplate>,
    /// The background tasks. Those of the feeds are already running.
    tasks: Supervisor,
    state: TaskStates,
    #[cfg(unix)]
    data_dir: PathBuf,
    #[cfg(unix)]
    control: Option<ControlSocket>,
}

struct TaskStates {
    feeds: Arc<FeedScheduler>,
    /// The revision of the decisions at startup, and the log of changes since then.
    decisions: (u64, Arc<Mutex<DecisionLog>>),
    auth: Arc<Authenticator>,
    policies: Arc<PolicyReloader>,
    reload: Arc<ReloadState>,
    read: Option<ReadConfig>,
    summary: Arc<Summary>,
    trust: Option<TrustRenewal>,
    /// The certificate of HTTPS listeners.
    certificate: Option<Arc<CertificateReloader>>,
    ledger_retention: Duration,
}

impl App {
    /// Opens and locks the data directory, builds all components and binds the addresses. Blocks on disk I/O.
    ///
    /// # Errors
    /// Returns an error if the data directory is in use or unusable, if upstream cannot be set up, or if a required address
    /// cannot be bound.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let data_dir = core::open_data_dir(&config.store.data_dir).await?;
        #[cfg(unix)]
        if let Err(error) = control_socket::clear(&config.store.data_dir) {
            tracing::warn!(error = %error, "old control socket not removed");
        }
        // Before the data directory is changed: an unusable certificate keeps the server from starting.
        let is_secure = config.listen.iter().any(|listener| listener.scheme == Scheme::Https);
        let files = config.server.tls.clone().filter(|_| is_secure);
        let certificate = files.map(|files| CertificateReloader::open(files, &clock));
        let certificate = certificate.transpose().map_err(AppError::Certificate)?;
        let (core, (revision, decisions)) = Core::open(&data_dir, &config, clock)?;
        // Bound before the feeds are loaded: clients wait in the backlog, and then get an answer that names the unread feeds.
        let bound = listeners::bind(&config.listen, &config.policies.profiles).await?;
        let (addresses, named) = (listeners::addresses(&bound), listeners::with_schemes(&bound));
        let mut tasks = Supervisor::new(&core.metrics);
        let log = DecisionLog::begin(decisions, Arc::clone(&core.metrics), Arc::clone(&core.clock));
        let (auth, exchange) = open_auth(&core, &config)?;
        let feeds = FeedScheduler::open(&core, &config);
        feeds.spawn(0..feeds.at_start, &mut tasks);
        feeds.until_checked(feeds::STARTUP_WAIT).await;
        let state = TaskStates {
            feeds,
            decisions: (revision, Arc::new(Mutex::new(log))),
            auth: Arc::clone(&auth),
            policies: PolicyReloader::new(config.policies.files.clone()),
            reload: Arc::new(ReloadState::new(config.settings.effective.clone(), &core)),
            read: None,
            trust: TrustRenewal::open(&core, &config),
            certificate,
            summary: Summary::new(&core.metrics, config.telemetry.summary_interval),
            ledger_retention: config.store.ledger_retention,
        };
        let mut checks = HealthChecks::default();
        core.add_checks(&mut checks);
        state.feeds.add_checks(&mut checks, &config.feeds);
        state.policies.add_checks(&mut checks);
        tasks.add_checks(&mut checks);
        state.reload.add_checks(&mut checks);
        if let Some(trust) = &state.trust {
            trust.add_checks(&mut checks);
        }
        if let Some(certificate) = &state.certificate {
            certificate.add_checks(&mut checks);
        }
        let inspector = Arc::clone(&core.firewall) as SharedInspector;
        let admin = Admin::new(Arc::clone(&core.metrics), checks, inspector).with_requests(core.approval_requests());
        let admin = Arc::new(admin);
        let (firewall, metrics) = (Arc::clone(&core.firewall), Arc::clone(&core.metrics));
        let service = RegistryHandler::new(firewall, config.server.clone(), &named, Some(Arc::clone(&admin)), metrics)?;
        let pages = open_pages(&core, &config, (&auth, &admin), &state.feeds)?;
        let service = Arc::new(service.with_auth(auth, exchange).with_pages(pages));
        let gateway = GatewayListeners::open(&config, &service, &addresses, &core).await?;
        let gateways = gateway.as_ref().map(|gateway| listeners::addresses(&gateway.bound)).unwrap_or_default();
        let operations = Operations::new(&core, Description::new(&config, &bound, gateways));
        Ok(Self {
            session_template: Arc::new(SessionTemplate::new(&config, &core.trust, &named)),
            bound,
            service,
            admin,
            gateway,
            operations: Arc::new(operations),
            tasks,
            state,
            core,
            #[cfg(unix)]
            data_dir: config.store.data_dir,
            #[cfg(unix)]
            control: None,
        })
    }

    /// Returns the gateway's addresses, with their real ports.
    pub fn gateways(&self) -> Vec<SocketAddr> {
        self.gateway.as_ref().map(|gateway| listeners::addresses(&gateway.bound)).unwrap_or_default()
    }

    /// Returns the addresses for transparently redirected connections, with their real ports.
    pub fn transparent(&self) -> Vec<SocketAddr> {
        self.gateway.as_ref().map(|gateway| listeners::addresses(&gateway.transparent)).unwrap_or_default()
    }

    /// Returns the registry addresses with their schemes and real ports, in the order of the configuration.
    pub(crate) fn listeners(&self) -> Vec<ListenAddress> {
        listeners::with_schemes(&self.bound)
    }

    /// Returns the registry addresses with their real ports, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        listeners::addresses(&self.bound)
    }

    pub(crate) fn firewall(&self) -> &Arc<Firewall> {
        &self.core.firewall
    }

    /// Registers `read` for reloads. Returns a handle that triggers a reload when it is notified.
    pub(crate) fn reload_with(&mut self, read: ReadConfig) -> Arc<Notify> {
        self.state.read = Some(read);
        Arc::clone(&self.state.reload.request)
    }

    /// Returns notices for the operator at startup, one per line.
    pub(crate) fn notices(&self) -> Vec<String> {
        let unread = self.state.feeds.check_read().err().into_iter().map(|unread| format!("not ready: {unread}"));
        unread.chain(self.stripped_metadata()).collect()
    }

    /// Returns what registries left out of their packuments in the last 30 days, one line per registry.
    fn stripped_metadata(&self) -> impl Iterator<Item = String> {
        let since = timestamp::saturating_sub(self.core.clock.now(), STRIPPED_SINCE);
        let known = self.core.ledger.event_details("metadata_stripped", since).unwrap_or_default();
        known.into_iter().map(|(detail, seen)| format!("seen {}: {}", timestamp::format_utc(seen), single_line(&detail)))
    }

    /// Waits until each feed was checked once, at most for `patience`. For commands, which do not retry refused requests.
    pub(crate) async fn until_feeds_are_read(&self, patience: Duration) {
        self.state.feeds.until_checked(patience).await;
    }

    /// Opens the control socket in the data directory, through which `coldframe run` and other commands use this server.
    #[cfg(unix)]
    pub(crate) fn open_control_socket(&mut self) -> std::io::Result<()> {
        DataDir::mark_server(&self.data_dir)?;
        let ours = [self.addresses(), self.gateways(), self.transparent()].concat();
        let (template, operations) = (Arc::clone(&self.session_template), Arc::clone(&self.operations));
        self.control = Some(ControlSocket::open(&self.data_dir, self.core.clone(), template, ours, operations)?);
        Ok(())
    }

    /// Serves until `shutdown` resolves. Then accepts no more requests, lets running ones finish until the drain deadline, and
    /// writes the ledger.
    ///
    /// # Errors
    /// Returns an error if some requests could not be written to the ledger.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let mut listeners = self.start();
        listeners.run_until(shutdown, &self.tasks).await;
        self.shut_down(listeners).await
    }

    /// Starts the listeners and the other background tasks.
    fn start(&mut self) -> RunningListeners {
        let Self { core, service, state, tasks, .. } = self;
        let mut running = RunningListeners::new(service.config.limits.connections);
        let reloader = state.read.take().map(|read| Reloader {
            read,
            state: Arc::clone(&state.reload),
            core: core.clone(),
            policies: Arc::clone(&state.policies),
            service: Arc::clone(service),
            gateway: self.gateway.as_ref().map(|gateway| Arc::clone(&gateway.proxy)),
            session_template: Arc::clone(&self.session_template),
            operations: Arc::clone(&self.operations),
            feeds: Arc::clone(&state.feeds),
            by_listener: self.bound.iter().map(|bound| bound.profile.0).collect(),
        });
        for BoundListener { listener, profile, scheme, .. } in std::mem::take(&mut self.bound) {
            let (service, certificate) = (Arc::clone(service), state.certificate.as_ref().filter(|_| scheme == Scheme::Https));
            let bound = RegistryListener { listener, profile, certificate: certificate.map(|tls| Arc::clone(&tls.certificate)) };
            running.serve(|limit, stop| async move { registry::serve(bound, &limit, &service, stopped(stop)).await });
        }
        #[cfg(unix)]
        if let Some(control) = self.control.take() {
            running.tasks.spawn(control.serve(running.stop.subscribe()));
        }
        if let Some(gateway) = self.gateway.take() {
            tasks.spawn(TaskLabel::Gateway, "gateway files", Arc::clone(&gateway.files), gateway::follow_files);
            gateway.serve(&mut running);
        }
        let retention = state.ledger_retention;
        tasks.spawn(TaskLabel::Retention, "retention", core.clone(), move |core| ledger::prune_daily(core, retention));
        tasks.spawn(TaskLabel::Decisions, "decisions", (core.clone(), state.decisions.clone()), |(core, (revision, log))| {
            decision_reload::run(core, revision, log)
        });
        tasks.spawn(TaskLabel::Tokens, "tokens", (core.clone(), Arc::clone(&state.auth)), |(core, auth)| {
            token_reload::run(core, auth)
        });
        if let Some(reloader) = reloader {
            tasks.spawn(TaskLabel::Policies, "configuration", Arc::new(reloader), config_reload::run);
        }
        tasks.spawn(TaskLabel::Policies, "policies", (Arc::clone(&state.policies), core.clone()), |(policies, core)| {
            policy_reload::run(policies, core)
        });
        tasks.spawn(TaskLabel::Requests, "requests", core.approval_requests(), requests::run);
        tasks.spawn(TaskLabel::Prefetch, "prefetch", core.clone(), prefetch::run);
        state.feeds.spawn_file_scan(tasks);
        tasks.spawn(TaskLabel::Vetting, "vetting", core.clone(), vetting::run);
        tasks.spawn(TaskLabel::Ledger, "ledger", (core.clone(), Arc::<AtomicU64>::default()), |(core, reported)| {
            ledger::retry_writes(core, reported)
        });
        if let Some(certificate) = state.certificate.take() {
            tasks.spawn(TaskLabel::Certificate, "certificate", certificate, certificate_reload::run);
        }
        if let Some(trust) = state.trust.take() {
            tasks.spawn(TaskLabel::Trust, "trust", trust, TrustRenewal::run);
        }
        tasks.spawn(TaskLabel::Summary, "summary", Arc::clone(&state.summary), Summary::follow);
        running
    }

    async fn shut_down(self, listeners: RunningListeners) -> Result<(), AppError> {
        tracing::info!("stopping");
        let deadline = Instant::now() + self.service.config.limits.drain + FETCH_GRACE;
        self.admin.begin_drain();
        listeners.stop(&self.tasks).await;
        self.tasks.shutdown().await;
        self.state.summary.log();
        // Fetches without waiting clients continue for a while and keep the store open.
        if tokio::time::timeout_at(deadline, self.core.firewall.drain()).await.is_err() {
            tracing::warn!("upstream fetches aborted");
        }
        let (core, auth) = (self.core.clone(), Arc::clone(&self.state.auth));
        if let Err(error) = tokio::task::spawn_blocking(move || token_reload::record_uses(&core, &auth)).await {
            tracing::error!(error = %error, "uses of access tokens not recorded");
        }
        let lost = self.core.flush().await;
        // The data directory is still locked, so this is not the socket of another server.
        #[cfg(unix)]
        if let Err(error) = control_socket::clear(&self.data_dir) {
            tracing::warn!(error = %error, "control socket not removed");
        }
        tracing::info!("stopped");
        if lost == 0 { Ok(()) } else { Err(AppError::LedgerLost(lost)) }
    }
}

/// Loads the access tokens, and prepares their exchange if issuers are trusted.
fn open_auth(core: &Core, config: &Config) -> Result<(Arc<Authenticator>, Option<Arc<TokenExchange>>), AppError> {
    let (tokens, server::AuthConfig { requirement, issuers, .. }) = (token_reload::read(core)?, config.server.auth.clone());
    core.ledger.set_applied_token_revision(tokens.0)?;
    let clock = || Arc::clone(&core.clock);
    let auth = Arc::new(Authenticator::new(tokens, requirement, clock(), Arc::clone(&core.metrics)));
    if issuers.is_empty() {
        return Ok((auth, None));
    }
    let client = HttpClient::new(&outbound::like_upstream(&config.upstream, &core.trust));
    let keys = KeySets::new(client, clock(), issuers.iter().map(|issuer| issuer.keys.clone()));
    let ledger = Arc::clone(&core.ledger) as Arc<dyn TokenLedger>;
    let exchange = TokenExchange::new(issuers, keys, ledger, Arc::clone(&auth), clock());
    Ok((auth, Some(Arc::new(exchange))))
}

fn open_pages(
    core: &Core,
    config: &Config,
    (auth, admin): (&Arc<Authenticator>, &Arc<Admin>),
    feeds: &Arc<FeedScheduler>,
) -> Result<Pages, AppError> {
    let oidc = config.server.auth.sign_in.clone().map(|server::SignInConfig { provider, secret }| {
        let parts = OidcParts {
            client: HttpClient::new(&outbound::like_upstream(&config.upstream, &core.trust)),
            clock: Arc::clone(&core.clock),
            ledger: Arc::clone(&core.ledger) as Arc<dyn TokenLedger>,
            auth: Arc::clone(auth),
        };
        OidcSignIn::new(provider, secret.map(|secret| secret.0), parts)
    });
    let sources = PageSources {
        oidc,
        firewall: Arc::clone(&core.firewall),
        ledger: Arc::clone(&core.ledger) as Arc<dyn ReportLedger>,
        auth: Arc::clone(auth),
        admin: Arc::clone(admin),
        feeds: Arc::clone(feeds) as Arc<dyn FeedStatuses>,
        clock: Arc::clone(&core.clock),
    };
    Pages::new(sources).map_err(|_| AppError::NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::store::StoreError;

    #[tokio::test]
    async fn data_directory_is_locked_until_the_app_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().to_str().unwrap();
        let config = || {
            Config::from_pairs(&[("listen", "127.0.0.1:0"), ("upstream", "http://127.0.0.1:1/"), ("data-dir", data_dir)]).unwrap()
        };
        let clock = || Arc::new(SystemClock) as Arc<dyn Clock>;
        let first = App::build(config(), clock()).await.unwrap();
        let refused = App::build(config(), clock()).await.err().unwrap();
        assert!(matches!(refused, AppError::DataDir(StoreError::Locked { .. })), "{refused}");
        first.run(std::future::ready(())).await.unwrap();
        App::build(config(), clock()).await.unwrap();
    }
}
