//! Reloads the configuration on request: applies what can change at runtime, reports the rest. An invalid one changes nothing.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::app::core::Core;
use crate::app::operations::Operations;
use crate::app::session::SessionTemplate;
use crate::app::supervisor::{Supervisor, TaskEnd};
use crate::app::tasks::feeds::FeedScheduler;
use crate::app::tasks::policy_reload::PolicyReloader;
use crate::config::policy::PolicyFiles;
use crate::config::{Config, Diagnostics, Effective, SettingKey};
use crate::firewall::Firewall;
use crate::net::ListenAddress;
use crate::server::admin::HealthChecks;
use crate::server::{Gateway, RegistryHandler};
use crate::upstream::Renewed;

/// Reads the configuration from the same sources as at startup.
pub type ReadConfig = Arc<dyn Fn() -> Result<Config, Diagnostics> + Send + Sync>;

const OF_POLICIES: &[SettingKey] = &[SettingKey::Policy, SettingKey::MinReleaseAge, SettingKey::FixLane, SettingKey::Exclude];

/// Settings of the hosts that the gateway tunnels to.
const OF_HOSTS: &[SettingKey] = &[SettingKey::AllowHost, SettingKey::DefaultEgress];

const OF_FEEDS: &[SettingKey] = &[
    SettingKey::Feed,
    SettingKey::FeedInterval,
    SettingKey::FeedExpiry,
    SettingKey::FeedMayBeEmpty,
    SettingKey::UnsafeServeWithoutFeed,
];

/// Settings of the hosts that tarballs come from.
const OF_TARBALLS: &[SettingKey] = &[SettingKey::TarballHost, SettingKey::RedirectHost];

/// The state of reloads.
pub(crate) struct ReloadState {
    /// The active settings.
    running: Mutex<Effective>,
    /// Triggers a reload when it is notified.
    pub(crate) request: Arc<Notify>,
    /// Why the last configuration that was read is not fully active.
    problem: Arc<Mutex<Option<String>>>,
    /// Tasks of feeds that were added at runtime.
    feed_tasks: Mutex<Supervisor>,
}

/// Reads the configuration, and applies it to the components that accept new settings.
pub(crate) struct Reloader {
    pub(crate) read: ReadConfig,
    pub(crate) state: Arc<ReloadState>,
    pub(crate) core: Core,
    pub(crate) policies: Arc<PolicyReloader>,
    pub(crate) service: Arc<RegistryHandler<Firewall>>,
    pub(crate) gateway: Option<Arc<Gateway<Firewall>>>,
    pub(crate) session_template: Arc<SessionTemplate>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) feeds: Arc<FeedScheduler>,
    /// The policy of each registry address.
    pub(crate) by_listener: Vec<usize>,
}

/// What a reload did with each changed setting.
#[derive(Debug, Default)]
struct ReloadOutcome {
    applied: Vec<SettingKey>,
    needs_restart: Vec<SettingKey>,
    failed: Vec<SettingKey>,
    has_new_credentials: bool,
    /// Problems that belong to no setting.
    notes: Vec<String>,
}

impl ReloadState {
    pub(crate) fn new(running: Effective, core: &Core) -> Self {
        let feed_tasks = Mutex::new(Supervisor::new(&core.metrics));
        Self { running: Mutex::new(running), request: Arc::default(), problem: Arc::default(), feed_tasks }
    }

    pub(crate) fn add_checks(&self, checks: &mut HealthChecks) {
        let problem = Arc::clone(&self.problem);
        let check = move || problem.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err);
        checks.warn("configuration", check);
        self.feed_tasks.lock().unwrap_or_else(PoisonError::into_inner).add_checks(checks);
    }
}

impl Reloader {
    /// Reads the configuration and applies it. Blocks.
    fn reload(&self) {
        let problem = match (self.read)() {
            Ok(config) => self.apply(&config).report(),
            Err(errors) => Some(report_errors(&errors)),
        };
        // Policy files may have changed even if no setting has.
        self.policies.asked.notify_one();
        *self.state.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Applies what can change at runtime.
    fn apply(&self, config: &Config) -> ReloadOutcome {
        let mut running = self.state.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = config.settings.effective.clone();
        let mut outcome = ReloadOutcome::default();
        let renewed = self.renew_upstream(config, &mut outcome);
        if self.core.firewall.set_trust(&config.firewall) {
            tracing::info!(signing_keys.count = config.firewall.signing_keys.len(), "keys of signatures and provenance reloaded");
        }
        for key in running.changed(&fresh) {
            self.list_for(key, config, renewed, &mut outcome).push(key);
        }
        if outcome.changes(OF_POLICIES) || outcome.changes(&[SettingKey::Listen]) {
            self.choose_policies(config, &mut outcome);
        }
        if outcome.changes(OF_FEEDS) {
            self.feeds.replace(&config.feeds, &mut self.state.feed_tasks.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if outcome.changes(OF_HOSTS) {
            let proxy = &config.gateway.proxy;
            if let Some(gateway) = &self.gateway {
                gateway.renew_egress(proxy);
            }
            self.session_template.renew_egress(proxy);
        }
        for key in outcome.needs_restart.iter().chain(&outcome.failed) {
            fresh.keep(&running, *key);
        }
        let names: Vec<_> = self.policies.chosen().names.iter().map(|name| config.settings.policy_path(name)).collect();
        self.operations.reloaded(&names, fresh.clone());
        *running = fresh;
        outcome
    }

    /// Applies the credentials and hosts of upstream.
    fn renew_upstream(&self, config: &Config, outcome: &mut ReloadOutcome) -> Renewed {
        let renewed = self.core.firewall.renew_upstream(&config.upstream).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn Error, "upstream credentials not reloaded");
            outcome.notes.push("cannot use upstream's credentials".to_owned());
            Renewed::default()
        });
        if renewed.credentials {
            tracing::info!("upstream credentials reloaded");
            outcome.has_new_credentials = true;
        }
        if renewed.needs_restart {
            tracing::warn!("upstream credentials added or removed, restart needed");
            outcome.notes.push("upstream credentials added or removed, restart needed".to_owned());
        }
        renewed
    }

    /// Returns the list that a changed setting belongs to. Applies new admin tokens, and whether clients need a token.
    fn list_for<'o>(
        &self,
        key: SettingKey,
        config: &Config,
        renewed: Renewed,
        outcome: &'o mut ReloadOutcome,
    ) -> &'o mut Vec<SettingKey> {
        let can_change = match key {
            // If the addresses are the same, only their policies differ.
            SettingKey::Listen => !self.listens_elsewhere(config),
            SettingKey::AdminTokenFile => {
                let Err(error) = self.service.renew_tokens(config.server.admin_tokens.as_deref()) else {
                    return &mut outcome.applied;
                };
                tracing::error!(error = &error as &dyn Error, "admin tokens not reloaded");
                return &mut outcome.failed;
            }
            SettingKey::RequireAuth => {
                let auth = self.service.auth.as_ref();
                auth.inspect(|auth| auth.set_requirement(config.server.auth.requirement)).is_some()
            }
            SettingKey::SigningKeys | SettingKey::SigstoreRoot => true,
            key if OF_TARBALLS.contains(&key) => renewed.hosts,
            key => [OF_POLICIES, OF_HOSTS, OF_FEEDS].iter().any(|keys| keys.contains(&key)),
        };
        if can_change { &mut outcome.applied } else { &mut outcome.needs_restart }
    }

    /// Chooses the policies of the configuration, which the policy reload then loads.
    fn choose_policies(&self, config: &Config, outcome: &mut ReloadOutcome) {
        let names = self.policies.chosen().names;
        let renamed = renamed(&names, &self.by_listener, &config.policies.files.names, &config.policies.profiles);
        if renamed.is_none() {
            outcome.postpone(SettingKey::Policy);
            outcome.postpone(SettingKey::Listen);
        }
        self.policies.choose(PolicyFiles { names: renamed.unwrap_or(names), ..config.policies.files.clone() });
    }

    /// Checks whether the configuration has other addresses than the open ones. Port 0 matches any port.
    fn listens_elsewhere(&self, config: &Config) -> bool {
        let running = self.operations.addresses();
        let is_same = |(wanted, bound): (&ListenAddress, &ListenAddress)| {
            let (scheme, wanted, bound) = (wanted.scheme == bound.scheme, wanted.socket, bound.socket);
            scheme && wanted.ip() == bound.ip() && (wanted.port() == bound.port() || wanted.port() == 0)
        };
        running.len() != config.listen.len() || !config.listen.iter().zip(&running).all(is_same)
    }
}

impl ReloadOutcome {
    /// Checks whether a setting in `keys` was applied.
    fn changes(&self, keys: &[SettingKey]) -> bool {
        self.applied.iter().any(|key| keys.contains(key))
    }

    /// Marks an applied setting as one that needs a restart.
    fn postpone(&mut self, key: SettingKey) {
        if self.changes(&[key]) {
            self.applied.retain(|applied| *applied != key);
            self.needs_restart.push(key);
        }
    }

    /// Logs the outcome, and returns the problems, if there are any.
    fn report(self) -> Option<String> {
        let Self { applied, needs_restart, failed, has_new_credentials, notes: mut problems } = self;
        if applied.is_empty() && needs_restart.is_empty() && failed.is_empty() && problems.is_empty() && !has_new_credentials {
            tracing::info!("configuration unchanged");
        }
        if !applied.is_empty() {
            tracing::info!(config.changed = %names(&applied), "configuration reloaded");
        }
        if !needs_restart.is_empty() {
            let names = names(&needs_restart);
            tracing::warn!(config.changed = %names, "settings changed that need a restart");
            problems.push(format!("these settings need a restart: {names}"));
        }
        if !failed.is_empty() {
            problems.push(format!("cannot apply these settings: {}", names(&failed)));
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }
}

fn names(keys: &[SettingKey]) -> String {
    keys.iter().map(|key| key.setting().name).collect::<Vec<_>>().join(", ")
}

/// Logs the errors of an invalid configuration, and returns their number as a problem.
fn report_errors(errors: &Diagnostics) -> String {
    for mistake in errors.iter() {
        tracing::error!(
            config.origin = %mistake.origin,
            config.mistake = mistake.problem,
            config.allowed = mistake.allowed,
            "configuration error"
        );
    }
    let count = errors.iter().count();
    tracing::error!(config.errors = count, "configuration not reloaded");
    format!("{count} errors, the previous configuration is active")
}

/// Returns the policy names by profile after a reload. Each address keeps its profile. Returns `None` if two addresses of one
/// profile have different policies now, which needs a restart.
fn renamed(running: &[String], by_listener: &[usize], fresh: &[String], fresh_by_listener: &[usize]) -> Option<Vec<String>> {
    let mut names = running.to_vec();
    // Profile 0 is for the gateway and for addresses without a policy of their own.
    names.first_mut()?.clone_from(fresh.first()?);
    if by_listener.len() != fresh_by_listener.len() {
        return (fresh.first() == running.first()).then_some(names);
    }
    for (at, name) in names.iter_mut().enumerate() {
        let wanted = by_listener.iter().zip(fresh_by_listener).filter(|(profile, _)| **profile == at);
        let mut wanted: Vec<_> = wanted.filter_map(|(_, profile)| fresh.get(*profile)).collect();
        wanted.dedup();
        match wanted.as_slice() {
            [] => {}
            [only] if at > 0 || *only == name => name.clone_from(only),
            _ => return None,
        }
    }
    Some(names)
}

/// Reloads the configuration on request until it is dropped.
pub(crate) async fn run(reloader: Arc<Reloader>) -> TaskEnd {
    loop {
        reloader.state.request.notified().await;
        let reloader = Arc::clone(&reloader);
        tokio::task::spawn_blocking(move || reloader.reload()).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn postponed_setting_is_reported_instead_of_applied() {
        let mut outcome = ReloadOutcome { applied: vec![SettingKey::Policy, SettingKey::Feed], ..ReloadOutcome::default() };
        outcome.postpone(SettingKey::Policy);
        outcome.postpone(SettingKey::Listen);
        assert!(outcome.changes(OF_FEEDS) && !outcome.changes(OF_POLICIES));
        assert_eq!(outcome.report().as_deref(), Some("these settings need a restart: policy"));
        assert_eq!(ReloadOutcome::default().report(), None);
    }

    #[test]
    fn addresses_keep_their_profile_when_policies_change() {
        let renamed =
            |running: &[&str], old: &[usize], fresh: &[&str], new: &[usize]| renamed(&names(running), old, &names(fresh), new);
        assert_eq!(renamed(&["default"], &[0], &["strict"], &[0]), Some(names(&["strict"])));
        assert_eq!(renamed(&["default", "ci"], &[0, 1], &["strict", "ci"], &[0, 1]), Some(names(&["strict", "ci"])));
        // The second address has the policy that is now the general one too.
        assert_eq!(renamed(&["default", "ci"], &[0, 1], &["ci"], &[0, 0]), Some(names(&["ci", "ci"])));
        assert_eq!(renamed(&["default", "ci"], &[0, 1], &["default", "strict"], &[0, 1]), Some(names(&["default", "strict"])));
    }

    #[test]
    fn addresses_of_one_profile_cannot_get_different_policies() {
        let (running, fresh) = (names(&["ci"]), names(&["default", "ci"]));
        assert_eq!(renamed(&running, &[0, 0], &fresh, &[0, 1]), None);
        // The only address has its own policy, and the general one has changed, which the gateway uses.
        assert_eq!(renamed(&running, &[0], &fresh, &[1]), None);
        assert_eq!(renamed(&running, &[0], &names(&["strict"]), &[0, 0]), None, "another address and another policy");
    }
}
