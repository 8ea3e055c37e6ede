//! Follows the policies on disk: when a file changes, or somebody asks, all of them are compiled anew and swapped whole. One that is
//! broken changes nothing, and says so.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::app::tasks::TaskEnd;
use crate::config::policy::MAX_POLICY_BYTES;
use crate::config::policy::{LoadedPolicies, PolicyFiles};
use crate::files::{self, EVERY, FilePoller, FileStamps};
use crate::firewall::Firewall;
use crate::npm::{Algorithm, Digest};
use crate::server::admin::HealthCheck;
use crate::telemetry::{Metrics, PolicyReloaded};

/// The policies that were chosen, and what became of them when they were read last.
pub(crate) struct PolicyReloader {
    chosen: Mutex<PolicyFiles>,
    asked: Arc<Notify>,
    /// Why the policies on disk are not those in force.
    broken: Arc<Mutex<Option<String>>>,
    /// What the files looked like when the process began.
    first: FileStamps,
    /// What those in force were made of.
    active: Mutex<Vec<String>>,
}

impl PolicyReloader {
    /// Those of the configuration, which are in force.
    pub(crate) fn new(chosen: PolicyFiles) -> Arc<Self> {
        let first = look(&chosen.paths(), &chosen.files);
        let active = Mutex::new(fingerprint(&chosen, &chosen.files));
        Arc::new(Self { chosen: Mutex::new(chosen), asked: Arc::default(), broken: Arc::default(), first, active })
    }

    /// The names of those that are chosen, by profile.
    pub(crate) fn names(&self) -> Vec<String> {
        self.chosen().names
    }

    /// Goes by other choices from now on. They are read, and applied if nothing is wrong, when [`Policies::asked`] is notified next.
    pub(crate) fn choose(&self, chosen: PolicyFiles) {
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
    }

    fn chosen(&self) -> PolicyFiles {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notified, the policies are read again.
    pub(crate) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Says when what is on disk is not in force.
    pub(crate) fn remark(&self) -> HealthCheck {
        let broken = Arc::clone(&self.broken);
        Arc::new(move || match &*broken.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(why) => Err(format!("the policy on disk is broken, the one before it is in force: {why}")),
        })
    }

    /// Reads everything anew and puts it in force if nothing is wrong.
    fn adopt(&self, firewall: &Firewall, metrics: &Metrics, files: &mut Vec<PathBuf>) {
        let broken = match self.chosen().read() {
            Ok(LoadedPolicies { policies, files: read, .. }) => {
                let rules = policies.iter().map(|policy| policy.rules().len()).sum();
                firewall.adopt(&policies);
                *files = read;
                let now = fingerprint(&self.chosen(), files);
                let before = std::mem::replace(&mut *self.active.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
                PolicyReloaded { rules, is_changed: before != now, mistake: None }.emit(metrics);
                None
            }
            Err(wrong) => {
                let mistake = wrong.to_string();
                PolicyReloaded { rules: 0, is_changed: false, mistake: Some(&mistake) }.emit(metrics);
                Some(mistake)
            }
        };
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = broken;
    }
}

/// Reads the policies again when they change and on request, until it is dropped. Fails when that panicked.
pub(crate) async fn follow(policies: Arc<PolicyReloader>, firewall: Arc<Firewall>, metrics: Arc<Metrics>) -> TaskEnd {
    let mut files = policies.chosen().files;
    let mut followed = FilePoller::from(policies.first.clone());
    loop {
        let asked = tokio::time::timeout(EVERY, policies.asked.notified()).await.is_ok();
        let (here, firewall, metrics) = (Arc::clone(&policies), Arc::clone(&firewall), Arc::clone(&metrics));
        let (mut files_now, mut followed_now) = (files.clone(), followed.clone());
        let turn = tokio::task::spawn_blocking(move || {
            let named = here.chosen().paths();
            // Looked at before it is read: what changes meanwhile is read again the next time.
            let seen = look(&named, &files_now);
            if !followed_now.are_due(seen.clone()) && !asked {
                return (files_now, followed_now);
            }
            let before = files_now.clone();
            here.adopt(&firewall, &metrics, &mut files_now);
            let taken = if files_now == before { seen } else { look(&named, &files_now) };
            (files_now, FilePoller::from(taken))
        });
        (files, followed) = turn.await?;
    }
}

/// What policies are made of: choices, and files by what they hash to.
fn fingerprint(chosen: &PolicyFiles, files: &[PathBuf]) -> Vec<String> {
    let hash = |path: &PathBuf| {
        let content = files::read(path, MAX_POLICY_BYTES).map(|bytes| Digest::of(Algorithm::Sha256, &bytes).to_hex());
        format!("{}: {}", path.display(), content.unwrap_or_else(|error| error.to_string()))
    };
    std::iter::once(chosen.choices()).chain(files.iter().map(hash)).collect()
}

/// What the files look like that were named, and those that were read for them.
fn look(named: &[PathBuf], read: &[PathBuf]) -> FileStamps {
    FileStamps::at(named.iter().chain(read))
}
