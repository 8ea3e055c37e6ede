//! Reloads all policies together when a file changes or on request. An invalid policy is reported and changes nothing.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::app::core::Core;
use crate::app::supervisor::TaskEnd;
use crate::config::policy::{LoadedPolicies, MAX_POLICY_BYTES, PolicyFiles};
use crate::files::{self, FilePoller, FileStamps, POLL_INTERVAL};
use crate::npm::{Algorithm, Digest};
use crate::server::admin::HealthChecks;
use crate::telemetry::PolicyReloaded;

/// The configured policies and the result of the last reload.
pub(crate) struct PolicyReloader {
    chosen: Mutex<PolicyFiles>,
    /// Triggers a reload when it is notified.
    pub(crate) asked: Notify,
    /// Why the policies on disk are not active.
    broken: Arc<Mutex<Option<String>>>,
    /// The stamps of the files at startup.
    first: FileStamps,
    active: Mutex<Vec<String>>,
}

impl PolicyReloader {
    /// Creates a reloader for the policies of the configuration, which are active.
    pub(crate) fn new(chosen: PolicyFiles) -> Arc<Self> {
        let first = look(&chosen.watched_files(), &chosen.files);
        let active = Mutex::new(fingerprint(&chosen, &chosen.files));
        Arc::new(Self { chosen: Mutex::new(chosen), asked: Notify::new(), broken: Arc::default(), first, active })
    }

    /// Replaces the configured policies. They are loaded at the next reload request.
    pub(crate) fn choose(&self, chosen: PolicyFiles) {
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
    }

    pub(crate) fn chosen(&self) -> PolicyFiles {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add_checks(&self, checks: &mut HealthChecks) {
        let broken = Arc::clone(&self.broken);
        checks.warn("policy", move || match &*broken.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(why) => Err(format!("the policy on disk is invalid, the previous one is active: {why}")),
        });
    }

    /// Reads all policies and activates them if they are valid.
    fn reload(&self, core: &Core, files: &mut Vec<PathBuf>) {
        let broken = match self.chosen().read() {
            Ok(LoadedPolicies { policies, files: read, .. }) => {
                let rules = policies.iter().map(|policy| policy.rules().len()).sum();
                core.firewall.set_policies(&policies);
                *files = read;
                let now = fingerprint(&self.chosen(), files);
                let before = std::mem::replace(&mut *self.active.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
                PolicyReloaded { rules, is_changed: before != now, mistake: None }.emit(&core.metrics);
                None
            }
            Err(error) => {
                let mistake = error.to_string();
                PolicyReloaded { rules: 0, is_changed: false, mistake: Some(&mistake) }.emit(&core.metrics);
                Some(mistake)
            }
        };
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = broken;
    }
}

/// Reloads the policies on changes and on request, until it is dropped. Returns an error if a reload panicked.
pub(crate) async fn run(policies: Arc<PolicyReloader>, core: Core) -> TaskEnd {
    let mut files = policies.chosen().files;
    let mut followed = FilePoller::from(policies.first.clone());
    loop {
        let asked = tokio::time::timeout(POLL_INTERVAL, policies.asked.notified()).await.is_ok();
        let (here, core) = (Arc::clone(&policies), core.clone());
        let (mut files_now, mut followed_now) = (files.clone(), followed.clone());
        let turn = tokio::task::spawn_blocking(move || {
            let named = here.chosen().watched_files();
            // Stamped before reading, so that a change in between is noticed in the next round.
            let seen = look(&named, &files_now);
            if !followed_now.changed(seen.clone()) && !asked {
                return (files_now, followed_now);
            }
            let before = files_now.clone();
            here.reload(&core, &mut files_now);
            let stamps = if files_now == before { seen } else { look(&named, &files_now) };
            (files_now, FilePoller::from(stamps))
        });
        (files, followed) = turn.await?;
    }
}

/// Returns the configuration and the file hashes of policies, to detect changes.
fn fingerprint(chosen: &PolicyFiles, files: &[PathBuf]) -> Vec<String> {
    let hash = |path: &PathBuf| {
        let content = files::read_bounded(path, MAX_POLICY_BYTES).map(|bytes| Digest::of(Algorithm::Sha256, &bytes).to_hex());
        format!("{}: {}", path.display(), content.unwrap_or_else(|error| error.to_string()))
    };
    std::iter::once(chosen.choices()).chain(files.iter().map(hash)).collect()
}

/// Stamps the configured paths and the files that were read for them.
fn look(named: &[PathBuf], read: &[PathBuf]) -> FileStamps {
    FileStamps::at(named.iter().chain(read))
}
