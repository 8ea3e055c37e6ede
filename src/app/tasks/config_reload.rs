//! Reloads the configuration on request. Settings that can change at runtime are applied, others are reported. An invalid
//! configuration changes nothing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::app::operations::Operations;
use crate::app::session::SessionTemplate;
use crate::app::tasks::feeds::FeedScheduler;
use crate::app::tasks::policy_reload::PolicyReloader;
use crate::app::tasks::{Supervisor, TaskEnd};
use crate::config::{Config, Diagnostics, Effective, SettingKey};
use crate::firewall::Firewall;
use crate::server::admin::HealthCheck;
use crate::server::{Forward, RegistryHandler};
use crate::telemetry::TaskLabel;
use crate::upstream::Renewed;

/// Reads the configuration from the same sources as at startup.
pub type ReadConfig = Arc<dyn Fn() -> Result<Config, Diagnostics> + Send + Sync>;

/// Settings of the policies.
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

/// Reloads the configuration of a running server.
pub(crate) struct Reloader {
    asked: Arc<Notify>,
    trouble: Arc<Mutex<Option<String>>>,
    /// The active settings.
    running: Mutex<Effective>,
    /// The policy of each address.
    by_listener: Vec<usize>,
    parts: Parts,
}

/// The components that accept new settings.
pub(crate) struct Parts {
    pub(crate) policies: Arc<PolicyReloader>,
    pub(crate) firewall: Arc<Firewall>,
    pub(crate) service: Arc<RegistryHandler<Firewall>>,
    pub(crate) gateway: Option<Arc<Forward<Firewall>>>,
    pub(crate) session_template: Arc<SessionTemplate>,
    pub(crate) operations: Arc<Operations>,
    pub(crate) feeds: Arc<FeedScheduler>,
    /// Tasks of feeds that were added at runtime.
    pub(crate) feed_tasks: Mutex<Supervisor>,
}

/// Formats the names of settings for logs.
struct Names<'a>(&'a [SettingKey]);

impl Reloader {
    /// Creates a reloader for a server with these settings.
    pub(crate) fn new(
        asked: Arc<Notify>,
        trouble: Arc<Mutex<Option<String>>>,
        config: (Effective, Vec<usize>),
        parts: Parts,
    ) -> Self {
        Self { asked, trouble, running: Mutex::new(config.0), by_listener: config.1, parts }
    }

    /// Reads the configuration with `read` and applies it. Blocks.
    fn reload(&self, read: &ReadConfig) {
        let trouble = match read() {
            Ok(config) => self.apply(&config),
            Err(errors) => {
                let mut count = 0_usize;
                for mistake in errors.iter() {
                    count += 1;
                    tracing::error!(
                        config.origin = %mistake.origin,
                        config.mistake = mistake.problem,
                        config.allowed = mistake.allowed,
                        "configuration error"
                    );
                }
                tracing::error!(config.errors = count, "configuration not reloaded");
                Some(format!("{count} errors, the previous configuration is active"))
            }
        };
        // Policy files may have changed even if no setting has.
        self.parts.policies.reload_handle().notify_one();
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Applies what can change at runtime. Returns the problems, if there are any.
    fn apply(&self, config: &Config) -> Option<String> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = config.settings.effective().clone();
        let changed = running.changed(&fresh);
        let (mut applied, mut waiting, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let listens = self.listens_elsewhere(config);
        let mut notes = Vec::new();
        let renewed = self.parts.firewall.renew_upstream(&config.upstream).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "upstream credentials not reloaded");
            notes.push("cannot use upstream's credentials".to_owned());
            Renewed::default()
        });
        if renewed.credentials {
            tracing::info!("upstream credentials reloaded");
        }
        if renewed.needs_restart {
            tracing::warn!("upstream credentials added or removed, restart needed");
            notes.push("upstream credentials added or removed, restart needed".to_owned());
        }
        for key in changed {
            let is_applied = match key {
                // The addresses are the same and only their policies differ.
                SettingKey::Listen if !listens => true,
                key if OF_POLICIES.contains(&key) => true,
                key if OF_HOSTS.contains(&key) || OF_FEEDS.contains(&key) => true,
                key if OF_TARBALLS.contains(&key) && renewed.hosts => true,
                SettingKey::AdminTokenFile => match self.parts.service.renew_tokens(config.server.admin_tokens.as_deref()) {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::error!(error = &error as &dyn std::error::Error, "admin tokens not reloaded");
                        failed.push(key);
                        false
                    }
                },
                key => {
                    waiting.push(key);
                    false
                }
            };
            if is_applied {
                applied.push(key);
            } else {
                fresh.keep(&running, key);
            }
        }
        if applied.iter().any(|key| OF_POLICIES.contains(key) || *key == SettingKey::Listen) {
            let names = self.parts.policies.names();
            let renamed = renamed(&names, &self.by_listener, &config.policies.files.names, &config.policies.profiles);
            if renamed.is_none() {
                for key in [SettingKey::Policy, SettingKey::Listen] {
                    if applied.contains(&key) {
                        applied.retain(|known| *known != key);
                        waiting.push(key);
                        fresh.keep(&running, key);
                    }
                }
            }
            self.parts.policies.choose(config.policies.files.with_names(renamed.unwrap_or(names)));
        }
        if applied.iter().any(|key| OF_FEEDS.contains(key)) {
            self.follow_feeds(config);
        }
        if applied.iter().any(|key| OF_HOSTS.contains(key)) {
            let proxy = &config.gateway.proxy;
            if let Some(gateway) = &self.parts.gateway {
                gateway.renew_others(proxy);
            }
            self.parts.session_template.renew_others(&proxy.allowed, proxy.tunnels_others);
        }
        let names: Vec<_> = self.parts.policies.names().iter().map(|name| config.settings.policy_path(name)).collect();
        self.parts.operations.reloaded(&names, fresh.clone());
        *running = fresh;
        if applied.is_empty() && waiting.is_empty() && failed.is_empty() && notes.is_empty() && !renewed.credentials {
            tracing::info!("configuration unchanged");
        }
        if !applied.is_empty() {
            tracing::info!(config.changed = %Names(&applied), "configuration reloaded");
        }
        let mut problems = notes;
        if !waiting.is_empty() {
            tracing::warn!(config.changed = %Names(&waiting), "settings changed that need a restart");
            problems.push(format!("these settings need a restart: {}", Names(&waiting)));
        }
        if !failed.is_empty() {
            problems.push(format!("cannot apply these settings: {}", Names(&failed)));
        }
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    fn follow_feeds(&self, config: &Config) {
        let added = self.parts.feeds.replace(&config.feeds.followed, config.feeds.serve_without);
        let names = self.parts.feeds.names();
        let mut tasks = self.parts.feed_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for at in added {
            let (feeds, name) = (Arc::clone(&self.parts.feeds), names.get(at).cloned().unwrap_or_default());
            tasks.spawn(TaskLabel::Feed, format!("feed {name}"), move || Arc::clone(&feeds).follow(at));
        }
    }

    /// Checks whether the configuration has other addresses than the open ones. Port 0 matches any port.
    fn listens_elsewhere(&self, config: &Config) -> bool {
        let running = self.running_addresses();
        let is_same = |(wanted, bound): (&std::net::SocketAddr, &std::net::SocketAddr)| {
            wanted.ip() == bound.ip() && (wanted.port() == bound.port() || wanted.port() == 0)
        };
        running.len() != config.listen.len() || !config.listen.iter().zip(&running).all(is_same)
    }

    fn running_addresses(&self) -> Vec<std::net::SocketAddr> {
        self.parts.operations.addresses()
    }
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

impl fmt::Display for Names<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|key| key.setting().name).collect();
        out.write_str(&names.join(", "))
    }
}

/// Returns a warning if the last configuration that was read is not fully active.
pub(crate) fn remark(trouble: Arc<Mutex<Option<String>>>) -> HealthCheck {
    Arc::new(move || trouble.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err))
}

/// Reloads the configuration on request until it is dropped.
pub(crate) async fn follow(reloader: Arc<Reloader>, read: ReadConfig) -> TaskEnd {
    loop {
        reloader.asked.notified().await;
        let (here, read) = (Arc::clone(&reloader), Arc::clone(&read));
        tokio::task::spawn_blocking(move || here.reload(&read)).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
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
