//! The composition root: builds all components from a configuration and a clock, connects them, and runs the server.
//! Reads no flags, configuration files or environment variables.

mod admin_pages;
pub mod ca;
mod listeners;
pub mod operations;
mod outbound;
pub mod probe;
pub mod remote;
pub mod run;
pub mod session;
pub mod standalone;
pub mod tasks;

pub use tasks::feeds::{FeedScheduler, FeedStatus};

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use url::Url;

pub use operations::{Description, Explained};
pub use remote::client_policy::fetch_client_policy;
pub use remote::health::check_readiness;
pub use remote::{Owner, RemoteServer};
pub use run::RunSession;
pub use run::temp_dir::RunTempDir;
pub use standalone::check::Checker;
pub use standalone::policy_diff::diff_policies;
pub use standalone::{IndicatorHitSummary, explain, exposure, indicator_hits};
pub use tasks::config_reload::ReadConfig;

use crate::app::listeners::BoundListener;
use crate::app::operations::{ListenerDescription, Operations, PolicyDescription};
use crate::app::session::SessionTemplate;
use crate::app::tasks::Supervisor;
use crate::app::tasks::config_reload::Reloader;
use crate::app::tasks::gateway_reload::GatewayFileWatcher;
use crate::app::tasks::policy_reload::PolicyReloader;
use crate::app::tasks::summary::Summary;

use crate::config::{self, Config, Effective, SettingKey, Settings};
use crate::feed::FeedStore;
use crate::files::FileStamps;
use crate::firewall::{Firewall, FirewallDeps, FirewallError};
use crate::net::{ConnectionLimit, OutboundProxy};
use crate::npm::PackageName;
use crate::server::admin::{Admin, ClientPolicy, HealthCheck, SharedInspector};

use crate::clock::Clock;
use crate::server::gateway::{self, transparent};
use crate::server::{AdminTokenError, EgressContext, Forward, PasswordFileError, RegistryHandler, registry};
use crate::store::{BlobStore, DataDir, DiskBlobs, Ledger, PackageKey, SqliteLedger, StoreError};
use crate::telemetry::{CallbackGauge, Metrics, TaskLabel};
use crate::tls::{self, TlsError};
use crate::upstream::{AllCircuits, Registries, UpstreamConfigError};

/// Why a server cannot start or run, or why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A required address cannot be bound.
    #[error("cannot listen on `{address}`")]
    Listen { address: SocketAddr, source: std::io::Error },
    /// The data directory cannot be opened.
    #[error("cannot use the data directory")]
    DataDir(#[source] StoreError),
    /// A certificate file cannot be read.
    #[error("cannot load trusted certificates")]
    Tls(#[from] TlsError),
    /// The gateway has no CA that covers its hosts.
    #[error("cannot set up the gateway's CA")]
    Authority(#[source] TlsError),
    /// The admin tokens cannot be read.
    #[error("cannot load admin tokens")]
    Tokens(#[from] AdminTokenError),
    /// The file of gateway users cannot be read.
    #[error("cannot load gateway users")]
    Users(#[from] PasswordFileError),
    /// An upstream address or a proxy is invalid.
    #[error("cannot set up upstream")]
    Upstream(#[from] UpstreamConfigError),
    /// A temporary directory cannot be created.
    #[error("cannot create a temporary directory")]
    Scratch(#[source] std::io::Error),
    /// Some ledger rows were not written to disk.
    #[error("requests missing from the ledger: {0}")]
    LedgerLost(u64),
    /// No version matches a decision.
    #[error("upstream has no version of `{name}` that matches: {asked}")]
    NothingFits {
        name: PackageName,
        /// The requested version, range or dist-tag.
        asked: String,
    },
    /// A decision cannot be confirmed or revoked.
    #[error("decision {id} {why}")]
    Undecidable {
        /// The number of the decision.
        id: i64,
        why: &'static str,
    },
    /// No configured feed has this advisory.
    #[error("no configured feed has an advisory with this id or alias: `{0}`; name the version as `PACKAGE@VERSION` instead")]
    NoAdvisory(String),
    /// A feed cannot be exported.
    #[error("cannot export the feed")]
    Feed(#[from] crate::feed::FeedError),
    /// A remote server cannot be queried, or did not answer.
    #[error("request to the coldframe at `{server}` failed: {detail}")]
    Server { server: Box<str>, detail: String },
    /// The running server on the data directory cannot be queried, or failed.
    #[error("request to the running coldframe on `{}` failed: {detail}", data_dir.display())]
    Control { data_dir: PathBuf, detail: String },
    /// The firewall returned an error.
    #[error(transparent)]
    Rejected(#[from] FirewallError),
}

/// How long to retry opening a data directory that is in use.
const DATA_DIR_WAIT: Duration = Duration::from_secs(2);

/// How long background fetches may take after the drain deadline, which clients may have used up.
const SETTLING: Duration = Duration::from_secs(1);

/// The gateway with its bound listeners.
struct GatewayListeners {
    bound: Vec<BoundListener>,
    addresses: Vec<SocketAddr>,
    /// Listeners for transparently redirected connections.
    transparent: Vec<BoundListener>,
    transparent_addresses: Vec<SocketAddr>,
    proxy: Arc<Forward<Firewall>>,
    followed: GatewayFileWatcher,
}

/// A server that is bound but not running. No request was sent to upstream.
pub struct App {
    bound: Vec<BoundListener>,
    addresses: Vec<SocketAddr>,
    gateway: Option<GatewayListeners>,
    operations: Arc<Operations>,
    firewall: Arc<Firewall>,
    service: Arc<RegistryHandler<Firewall>>,
    admin: Arc<Admin>,
    ledger: Arc<SqliteLedger>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    ledger_retention: Duration,
    /// The revision of the applied decisions, and their log state.
    decided: (u64, crate::app::tasks::decision_reload::Log),
    feeds: Arc<FeedScheduler>,
    /// The background tasks. Those of the feeds are already running.
    tasks: Supervisor,
    /// Tasks of feeds that are added at runtime.
    feed_tasks: Supervisor,
    summary_interval: Duration,
    policies: Arc<PolicyReloader>,
    session_template: Arc<SessionTemplate>,
    data_dir: PathBuf,
    settings: Effective,
    read: Option<ReadConfig>,
    reload_asked: Arc<Notify>,
    /// Why the last configuration that was read is not fully active.
    reload_trouble: Arc<Mutex<Option<String>>>,
    #[cfg(unix)]
    control: Option<crate::app::session::control_socket::ControlSocket>,
}

impl App {
    /// Opens and locks the data directory, builds all components and binds the addresses. Blocks on disk I/O.
    ///
    /// # Errors
    /// Returns an error if the data directory is in use or unusable, if upstream cannot be set up, or if a required address
    /// cannot be bound.
    pub async fn build(config: Config, clock: Arc<dyn Clock>) -> Result<Self, AppError> {
        let data_dir = open_data_dir(&config.store.data_dir).await.map_err(AppError::DataDir)?;
        #[cfg(unix)]
        if let Err(error) = crate::app::session::control_socket::clear(&config.store.data_dir) {
            tracing::warn!(error = %error, "old control socket not removed");
        }
        let ledger = Arc::new(SqliteLedger::open(&data_dir).map_err(AppError::DataDir)?);
        let blobs = DiskBlobs::open(&data_dir, config.store.cache_size).map_err(AppError::DataDir)?;
        let metrics = Arc::new(Metrics::new());
        let counted = Arc::clone(&blobs);
        metrics.register_gauge(CallbackGauge::BlobBytes, Box::new(move || counted.statistics().bytes));
        let trust = tls::client_config(&config.tls)?;
        let session_template = SessionTemplate::of(&config, &trust);
        let registries = Registries::open(&config.upstream, &trust)?;
        let blobs = blobs as Arc<dyn BlobStore>;
        let circuits = registries.circuits();
        let watched = circuits.clone();
        metrics.register_gauge(CallbackGauge::CircuitsOpen, Box::new(move || watched.open()));
        let (decided, decisions) = ledger.decisions().map_err(AppError::DataDir)?;
        ledger.set_applied_revision(decided).map_err(AppError::DataDir)?;
        let decided = (
            decided,
            crate::app::tasks::decision_reload::Log::begin(decisions.clone(), Arc::clone(&metrics), Arc::clone(&clock)),
        );
        let firewall = Arc::new(Firewall::new(FirewallDeps {
            registries,
            ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
            blobs: Arc::clone(&blobs),
            clock: Arc::clone(&clock),
            metrics: Arc::clone(&metrics),
            policy: config.policies.default,
            further_policies: config.policies.further,
            decisions,
            config: config.firewall,
        }));
        // A weak reference, because the firewall holds the metrics. A cycle would keep the data directory locked.
        let weighed = Arc::downgrade(&firewall);
        let weight = move || weighed.upgrade().map_or(0, |firewall| firewall.memory_bytes());
        metrics.register_gauge(CallbackGauge::MemoryBytes, Box::new(weight));
        // Bound before the feeds are loaded: clients wait in the backlog meanwhile, and then get an answer that names the unread
        // feeds.
        let bound = crate::app::listeners::bind(&config.listen, &config.policies.profiles).await?;
        let addresses: Vec<_> = bound.iter().map(|bound| bound.address).collect();
        let feeds = FeedScheduler::open(crate::app::tasks::feeds::FeedSchedulerDeps {
            followed: config.feeds.followed,
            serve_without: config.feeds.serve_without,
            feed_store: FeedStore::of(&config.store.data_dir),
            client: crate::app::outbound::feed_client(&config.upstream, &trust),
            firewall: Arc::clone(&firewall),
            ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
            blobs: Arc::clone(&blobs),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        });
        crate::app::outbound::register_gauges(&feeds, &metrics);
        let names = config.policies.files.names.clone();
        let mut tasks = Supervisor::new(&metrics);
        for (at, name) in feeds.names().into_iter().enumerate() {
            let feeds = Arc::clone(&feeds);
            tasks.spawn(TaskLabel::Feed, format!("feed {name}"), move || Arc::clone(&feeds).follow(at));
        }
        let feed_tasks = Supervisor::new(&metrics);
        feeds.first_looks().await;
        let policies = PolicyReloader::new(config.policies.files);
        let judge = Arc::clone(&firewall) as SharedInspector;
        let (mut checks, mut remarks) = (
            health_checks(&ledger, &firewall),
            vec![("upstream", upstream_warning(circuits)), ("policy", policies.reload_warning())],
        );
        let reload_trouble = Arc::default();
        remarks.push(("configuration", crate::app::tasks::config_reload::remark(Arc::clone(&reload_trouble))));
        checks.extend([
            ("feeds", crate::app::outbound::lacking(&feeds)),
            ("tasks", tasks.check()),
            ("tasks", feed_tasks.check()),
        ]);
        remarks.extend([("tasks", tasks.remark()), ("tasks", feed_tasks.remark())]);
        if config.feeds.readiness { &mut checks } else { &mut remarks }
            .push(("feeds", crate::app::outbound::freshness_check(&feeds)));
        let admin = Arc::new(Admin::new(Arc::clone(&metrics), checks, remarks, judge));
        let session_template = Arc::new(session_template.at(&addresses));
        let public_url = config.server.public_url.clone();
        let service = RegistryHandler::new(
            Arc::clone(&firewall),
            config.server,
            &addresses,
            crate::app::admin_pages::own(&admin),
            Arc::clone(&metrics),
        )?;
        let (service, ledger_retention) = (Arc::new(service), config.store.ledger_retention);
        let gateway = if config.gateway.listen.is_empty() && config.gateway.transparent.is_empty() {
            None
        } else {
            let parent = crate::app::outbound::outbound_proxy(&config.upstream, &trust);
            Some(GatewayListeners::open(&config.gateway, &config.store.data_dir, &service, (&addresses, parent), &clock).await?)
        };
        let gateways = gateway.as_ref().map_or(&[][..], |gate| &gate.addresses);
        let description = describe(&config.settings, (&bound, gateways), &names, public_url);
        let operations = Arc::new(Operations::new(&firewall, &ledger, blobs, description));
        Ok(Self {
            bound,
            addresses,
            gateway,
            operations,
            firewall,
            service,
            admin,
            ledger,
            metrics,
            clock,
            ledger_retention,
            decided,
            feeds,
            tasks,
            feed_tasks,
            summary_interval: config.telemetry.summary_interval,
            policies,
            session_template,
            data_dir: config.store.data_dir,
            settings: config.settings.effective().clone(),
            read: None,
            reload_asked: Arc::default(),
            reload_trouble,
            #[cfg(unix)]
            control: None,
        })
    }

    /// Returns the gateway's addresses, with their real ports.
    #[must_use]
    pub fn gateways(&self) -> &[SocketAddr] {
        self.gateway.as_ref().map_or(&[], |gate| &gate.addresses)
    }

    /// Returns the addresses for transparently redirected connections, with their real ports.
    #[must_use]
    pub fn transparent(&self) -> &[SocketAddr] {
        self.gateway.as_ref().map_or(&[], |gate| &gate.transparent_addresses)
    }

    /// Returns the registry addresses with their real ports, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the firewall.
    #[must_use]
    pub fn firewall(&self) -> &Arc<Firewall> {
        &self.firewall
    }

    /// Registers `read` for reloads. Returns a handle that triggers a reload when it is notified.
    pub fn reload_with(&mut self, read: ReadConfig) -> Arc<Notify> {
        self.read = Some(read);
        Arc::clone(&self.reload_asked)
    }

    /// Returns notices for the operator at startup, one per line.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.feeds.lacking().err().into_iter().map(|lacking| format!("not ready: {lacking}")).collect()
    }

    /// Waits until each feed was checked once, at most for `patience`. For commands, which do not retry refused requests.
    pub async fn until_feeds_are_read(&self, patience: Duration) {
        self.feeds.until_looked_at(patience).await;
    }

    /// Opens the control socket in the data directory, through which `coldframe run` and other commands use this server.
    ///
    /// # Errors
    /// Returns an error if the socket cannot be created.
    #[cfg(unix)]
    pub fn open_control_socket(&mut self) -> std::io::Result<()> {
        DataDir::mark_server(&self.data_dir)?;
        let ours = [self.addresses(), self.gateways(), self.transparent()].concat();
        let parts = crate::app::session::control_socket::ControlContext {
            firewall: Arc::clone(&self.firewall),
            ledger: Arc::clone(&self.ledger),
            metrics: Arc::clone(&self.metrics),
            clock: Arc::clone(&self.clock),
            session_template: Arc::clone(&self.session_template),
            ours,
            operations: Arc::clone(&self.operations),
            sessions: crate::app::session::control_socket::ControlContext::sessions(),
        };
        self.control = Some(crate::app::session::control_socket::ControlSocket::open(&self.data_dir, parts)?);
        Ok(())
    }

    /// Serves until `shutdown` resolves. Then accepts no more requests, lets running ones finish until the drain deadline, and
    /// writes the ledger.
    ///
    /// # Errors
    /// Returns an error if some requests could not be written to the ledger.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), AppError> {
        let stop = watch::Sender::new(false);
        let room = ConnectionLimit::of(self.service.config().limits.connections);
        let mut doors = JoinSet::<()>::new();
        let by_listener: Vec<_> = self.bound.iter().map(|bound| bound.profile.0).collect();
        let proxy = self.gateway.as_ref().map(|gate| Arc::clone(&gate.proxy));
        for BoundListener { listener, profile, .. } in self.bound {
            let (service, room, mut stopped) = (Arc::clone(&self.service), Arc::clone(&room), stop.subscribe());
            doors.spawn(async move {
                let stopped = async move {
                    // An error means that the sender is gone.
                    let _ = stopped.wait_for(|stop| *stop).await;
                };
                let _ended = registry::serve(listener, &room, &service, profile, stopped).await;
            });
        }
        let mut tasks = self.tasks;
        #[cfg(unix)]
        let commanded = self.control.is_some();
        #[cfg(unix)]
        if let Some(control) = self.control {
            doors.spawn(control.serve(stop.subscribe()));
        }
        if let Some(GatewayListeners { bound, transparent, proxy, followed, .. }) = self.gateway {
            let followed = Arc::new(Mutex::new(followed));
            tasks.spawn(TaskLabel::Gateway, "gateway files", move || {
                crate::app::tasks::gateway_reload::run(Arc::clone(&followed))
            });
            for (BoundListener { listener, .. }, is_transparent) in
                bound.into_iter().map(|bound| (bound, false)).chain(transparent.into_iter().map(|bound| (bound, true)))
            {
                let (proxy, room, mut stopped) = (Arc::clone(&proxy), Arc::clone(&room), stop.subscribe());
                doors.spawn(async move {
                    let stopped = async move {
                        // An error means that the sender is gone.
                        let _ = stopped.wait_for(|stop| *stop).await;
                    };
                    let _ended = if is_transparent {
                        transparent::serve(listener, &room, &proxy, stopped).await
                    } else {
                        gateway::serve(listener, &room, &proxy, stopped).await
                    };
                });
            }
        }
        let (ledger, clock, retention) = (Arc::clone(&self.ledger), self.clock, self.ledger_retention);
        tasks.spawn(TaskLabel::Retention, "retention", move || {
            crate::app::tasks::retention::run(Arc::clone(&ledger), Arc::clone(&clock), retention)
        });
        let ((decided, log), ledger, firewall) = (self.decided, Arc::clone(&self.ledger), Arc::clone(&self.firewall));
        let log = Arc::new(Mutex::new(log));
        tasks.spawn(TaskLabel::Decisions, "decisions", move || {
            crate::app::tasks::decision_reload::run(Arc::clone(&ledger), Arc::clone(&firewall), decided, Arc::clone(&log))
        });
        if let Some(read) = self.read {
            let reloader = Arc::new(Reloader::new(
                self.reload_asked,
                self.reload_trouble,
                (self.settings, by_listener),
                crate::app::tasks::config_reload::Parts {
                    policies: Arc::clone(&self.policies),
                    firewall: Arc::clone(&self.firewall),
                    service: Arc::clone(&self.service),
                    gateway: proxy,
                    session_template: self.session_template,
                    operations: self.operations,
                    feeds: Arc::clone(&self.feeds),
                    feed_tasks: Mutex::new(self.feed_tasks),
                },
            ));
            tasks.spawn(TaskLabel::Policies, "configuration", move || {
                crate::app::tasks::config_reload::follow(Arc::clone(&reloader), Arc::clone(&read))
            });
        }
        let (policies, firewall, metrics) = (self.policies, Arc::clone(&self.firewall), Arc::clone(&self.metrics));
        tasks.spawn(TaskLabel::Policies, "policies", move || {
            crate::app::tasks::policy_reload::run(Arc::clone(&policies), Arc::clone(&firewall), Arc::clone(&metrics))
        });
        let (firewall, metrics) = (Arc::clone(&self.firewall), Arc::clone(&self.metrics));
        tasks.spawn(TaskLabel::Prefetch, "prefetch", move || {
            crate::app::tasks::prefetch::run(Arc::clone(&firewall), Arc::clone(&metrics))
        });
        let (ledger, metrics, reported) = (Arc::clone(&self.ledger), Arc::clone(&self.metrics), Arc::default());
        tasks.spawn(TaskLabel::Ledger, "ledger", move || {
            crate::app::tasks::ledger_health::run(Arc::clone(&ledger), Arc::clone(&metrics), Arc::clone(&reported))
        });
        let summary = Summary::new(&self.metrics, self.summary_interval);
        let reported = Arc::clone(&summary);
        tasks.spawn(TaskLabel::Summary, "summary", move || Arc::clone(&reported).follow());
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = doors.join_next() => if let Err(error) = ended {
                    tasks.note_lost(TaskLabel::Listener, "listener", &error);
                },
            }
        }
        tracing::info!("stopping");
        let deadline = tokio::time::Instant::now() + self.service.config().limits.drain + SETTLING;
        self.admin.begin_drain();
        stop.send_replace(true);
        while let Some(ended) = doors.join_next().await {
            if let Err(error) = ended {
                tasks.note_lost(TaskLabel::Listener, "listener", &error);
            }
        }
        tasks.shutdown().await;
        summary.log();
        // Fetches without waiting clients continue for a while and keep the store open.
        let settled = tokio::time::timeout_at(deadline, self.firewall.drain()).await;
        if settled.is_err() {
            tracing::warn!("upstream fetches aborted");
        }
        let lost = flush(self.ledger).await;
        #[cfg(unix)]
        if commanded && let Err(error) = crate::app::session::control_socket::clear(&self.data_dir) {
            tracing::warn!(error = %error, "control socket not removed");
        }
        tracing::info!("stopped");
        if lost == 0 { Ok(()) } else { Err(AppError::LedgerLost(lost)) }
    }
}

impl GatewayListeners {
    /// Loads or creates the CA, and binds all addresses.
    async fn open(
        config: &config::GatewaySettings,
        data_dir: &Path,
        service: &Arc<RegistryHandler<Firewall>>,
        (registry, parent): (&[SocketAddr], OutboundProxy),
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, AppError> {
        // Creates the CA if there is none. The files are stamped before they are read, so that a change in between is noticed
        // later.
        crate::app::ca::active_ca(config, data_dir, clock.now()).map_err(AppError::Authority)?;
        let stamps = (FileStamps::at(&config.proxy.users), FileStamps::at(&crate::app::ca::watched_files(config, data_dir)));
        let kept = crate::app::ca::active_ca(config, data_dir, clock.now()).map_err(AppError::Authority)?;
        let leaves = crate::app::ca::leaf_issuer(config, kept, clock).map_err(AppError::Authority)?;
        let (bound, transparent) = (
            crate::app::listeners::bind_all(&config.listen, "--gateway").await?,
            crate::app::listeners::bind_all(&config.transparent, "--transparent").await?,
        );
        let addresses: Vec<_> = bound.iter().map(|bound| bound.address).collect();
        let transparent_addresses: Vec<_> = transparent.iter().map(|bound| bound.address).collect();
        let ours = registry.iter().chain(&addresses).chain(&transparent_addresses).copied().collect();
        if !parent.is_none() {
            tracing::warn!(
                "gateway tunnels through an outbound proxy, which resolves names itself and may connect to unchecked addresses"
            );
        }
        let proxy = Arc::new(Forward::new(Arc::clone(service), &config.proxy, leaves, EgressContext { ours, parent })?);
        let followed = GatewayFileWatcher::new(&proxy, config, data_dir.to_owned(), clock, stamps);
        Ok(Self { bound, addresses, transparent, transparent_addresses, proxy, followed })
    }
}

/// Describes a server to other processes. `bound` and `gateways` are its addresses, `names` its policies.
fn describe(
    settings: &Settings,
    (bound, gateways): (&[BoundListener], &[SocketAddr]),
    names: &[String],
    public_url: Option<Url>,
) -> Description {
    let listeners: Vec<_> =
        bound.iter().map(|bound| ListenerDescription { address: bound.address, profile: bound.profile.0 }).collect();
    let names: Vec<_> = names.iter().map(|name| settings.policy_path(name)).collect();
    let mut effective = settings.effective().clone();
    let listen = listeners.iter().map(|listener| match (listener.profile, names.get(listener.profile)) {
        (0, _) | (_, None) => listener.address.to_string(),
        (_, Some(policy)) => format!("{}={policy}", listener.address),
    });
    effective.set(SettingKey::Listen, listen.collect());
    if !gateways.is_empty() {
        effective.set(SettingKey::Gateway, gateways.iter().map(ToString::to_string).collect());
    }
    let unknown = ClientPolicy { minimum_release_age_seconds: 0, exclude: Vec::new() };
    Description {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        listeners,
        gateways: gateways.to_vec(),
        public_url,
        policies: names.into_iter().map(|name| PolicyDescription { name, terms: unknown.clone() }).collect(),
        upstreams: Vec::new(),
        settings: effective,
    }
}

/// Opens the data directory. Retries for a while if it is locked, because a killed process keeps its lock until it is fully gone.
async fn open_data_dir(path: &Path) -> Result<DataDir, StoreError> {
    let deadline = tokio::time::Instant::now() + DATA_DIR_WAIT;
    loop {
        match DataDir::open(path) {
            Err(StoreError::Locked { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(DATA_DIR_WAIT / 20).await;
            }
            opened => return opened,
        }
    }
}

/// Returns the readiness checks. Upstream is not among them: a server that can serve its cache is ready, and a check would send
/// requests.
fn health_checks(ledger: &Arc<SqliteLedger>, firewall: &Arc<Firewall>) -> Vec<(&'static str, HealthCheck)> {
    let (ledger, firewall) = (Arc::clone(ledger), Arc::clone(firewall));
    let reads = move || {
        let name = PackageName::parse("coldframe").map_err(|error| error.to_string())?;
        ledger.package(&PackageKey { upstream: "".into(), name }).map(drop).map_err(|error| error.to_string())
    };
    vec![("ledger", Arc::new(reads)), ("clock", Arc::new(move || firewall.check_clock()))]
}

/// Returns a warning while circuits to upstream hosts are open.
fn upstream_warning(circuits: AllCircuits) -> HealthCheck {
    Arc::new(move || match circuits.open() {
        0 => Ok(()),
        open => Err(format!("circuit open for {open} upstream host(s) after repeated failures; cached packages are served")),
    })
}

/// Writes the pending ledger rows. Returns how many rows were lost since the start.
async fn flush(ledger: Arc<SqliteLedger>) -> u64 {
    let flushed = tokio::task::spawn_blocking(move || {
        ledger.flush();
        ledger.lost_rows()
    });
    flushed.await.unwrap_or_else(|error| {
        tracing::error!(error = %error, "ledger flush failed");
        // The number is unknown, but at least one.
        1
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

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
