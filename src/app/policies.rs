//! Follows the policies on disk: when a file changes, or somebody asks, all of them are compiled anew and swapped whole. One that is
//! broken changes nothing, and says so.
//!
//! The files are looked at four times a second: a few calls to `stat`, which see what happens on every file system, through links
//! and mounted volumes too, and need nothing in the tree of dependencies.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use crate::admin::Check;
use crate::config::policy::{Chosen, Read};
use crate::firewall::Firewall;
use crate::telemetry::{Metrics, PolicyReloaded};

const EVERY: Duration = Duration::from_millis(250);

/// The policies that were chosen, and what became of them when they were read last.
pub(super) struct Policies {
    chosen: Chosen,
    asked: Arc<Notify>,
    /// Why the policies on disk are not those in force.
    broken: Arc<Mutex<Option<String>>>,
    /// What the files looked like when the process began.
    first: Vec<Look>,
}

/// What a file looked like: when it was changed, and its length; `None` when it is not there.
type Look = (PathBuf, Option<(SystemTime, u64)>);

impl Policies {
    /// Those of the configuration, which are in force.
    pub(super) fn new(chosen: Chosen) -> Arc<Self> {
        let first = look(&chosen.paths(), &chosen.files);
        Arc::new(Self { chosen, asked: Arc::default(), broken: Arc::default(), first })
    }

    /// Notified, the policies are read again.
    pub(super) fn asked(&self) -> Arc<Notify> {
        Arc::clone(&self.asked)
    }

    /// Says when what is on disk is not in force.
    pub(super) fn remark(&self) -> Check {
        let broken = Arc::clone(&self.broken);
        Arc::new(move || match &*broken.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(why) => Err(format!("the policy on disk is broken, the one before it is in force: {why}")),
        })
    }

    /// Reads everything anew and puts it in force if nothing is wrong.
    fn adopt(&self, firewall: &Firewall, metrics: &Metrics, files: &mut Vec<PathBuf>) {
        let broken = match self.chosen.read() {
            Ok(Read { policies, files: read, .. }) => {
                let rules = policies.iter().map(|policy| policy.rules().len()).sum();
                firewall.adopt(&policies);
                *files = read;
                PolicyReloaded { rules, mistake: None }.emit(metrics);
                None
            }
            Err(wrong) => {
                let mistake = wrong.to_string();
                PolicyReloaded { rules: 0, mistake: Some(&mistake) }.emit(metrics);
                Some(mistake)
            }
        };
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = broken;
    }
}

/// Reads the policies again whenever they change or somebody asks, until it is dropped.
pub(super) async fn follow(policies: Arc<Policies>, firewall: Arc<Firewall>, metrics: Arc<Metrics>) {
    let mut files = policies.chosen.files.clone();
    let mut last = policies.first.clone();
    loop {
        let asked = tokio::time::timeout(EVERY, policies.asked.notified()).await.is_ok();
        let (here, firewall, metrics, known, seen) =
            (Arc::clone(&policies), Arc::clone(&firewall), Arc::clone(&metrics), files.clone(), last.clone());
        let turn = tokio::task::spawn_blocking(move || {
            let mut files = known;
            let named = here.chosen.paths();
            // Looked at before it is read: what changes meanwhile is read again the next time.
            let look_now = look(&named, &files);
            if look_now == seen && !asked {
                return (files, look_now);
            }
            let before = files.clone();
            here.adopt(&firewall, &metrics, &mut files);
            let look_then = if files == before { look_now } else { look(&named, &files) };
            (files, look_then)
        });
        if let Ok(after) = turn.await {
            (files, last) = after;
        }
    }
}

/// What the files look like that were named, and those that were read for them.
fn look(named: &[PathBuf], read: &[PathBuf]) -> Vec<Look> {
    let look = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok();
        (path.clone(), metadata.and_then(|metadata| Some((metadata.modified().ok()?, metadata.len()))))
    };
    named.iter().chain(read).map(look).collect()
}
