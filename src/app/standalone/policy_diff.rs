//! What another policy would have changed of what was asked for: by the ledger, as of when each client asked first, and by what upstream
//! says of it. Changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::app::AppError;
use crate::app::standalone::{asker, firewall_of};
use crate::clock::Clock;
use crate::config::Config;
use crate::firewall::{Client, Profile};
use crate::npm::PackageName;
use crate::policy::{Policy, Verdict};
use crate::store::{DownloadSummary, SqliteLedger};

/// A tarball that was asked for, of which the two policies say different things.
#[derive(Debug, Clone)]
pub struct ChangedVerdict {
    /// The package.
    pub name: String,
    /// The version.
    pub version: String,
    /// Who asked for it while that was so.
    pub clients: Vec<String>,
    /// How often, by all of them.
    pub times: u64,
    /// When the first of them asked.
    pub first: Timestamp,
    /// What the policy in force says.
    pub now: Verdict,
    /// What the other one would say.
    pub then: Verdict,
}

/// What a comparison found.
#[derive(Debug, Clone, Default)]
pub struct PolicyDiff {
    /// Tarballs that were asked for and looked at.
    pub asked: usize,
    /// Those of them that would change.
    pub changed: Vec<ChangedVerdict>,
    /// Packages that could not be looked at, and why.
    pub unknown: Vec<(String, String)>,
}

/// Compares the policy of `config` with `candidate` over every tarball in the ledger: what was young when somebody asked for it is young
/// here, however old it is by now.
///
/// # Errors
/// When the ledger cannot be read, or upstream cannot be set up.
pub async fn difference(config: Config, clock: Arc<dyn Clock>, candidate: Policy) -> Result<PolicyDiff, AppError> {
    let ledger = SqliteLedger::read_only(&config.store.data_dir).map_err(AppError::DataDir)?;
    let mut by_name: BTreeMap<String, Vec<DownloadSummary>> = BTreeMap::new();
    for asked in ledger.asked().map_err(AppError::DataDir)? {
        by_name.entry(asked.name.clone()).or_default().push(asked);
    }
    drop(ledger);
    let mut config = config;
    // The policy of the first address is the one in force.
    let first = config.listener_policies.first().and_then(|at| at.checked_sub(1));
    if let Some(policy) = first.and_then(|at| config.further_policies.get(at)) {
        config.policy = policy.clone();
    }
    let firewall = firewall_of(config, clock, vec![candidate])?;
    let mut difference = PolicyDiff::default();
    for (name, asked) in by_name {
        let Ok(package) = PackageName::parse(&name) else { continue };
        let wanted: Vec<(&str, Timestamp)> = asked.iter().map(|asked| (&*asked.version, asked.first)).collect();
        let (now, then) = (asker(), Client { profile: Profile(1), ..asker() });
        let looked = match firewall.value.judge_then(&now, &package, &wanted).await {
            Ok(now) => firewall.value.judge_then(&then, &package, &wanted).await.map(|then| (now, then)),
            Err(wrong) => Err(wrong),
        };
        match looked {
            Ok((now, then)) => difference.take(asked, now, then),
            Err(wrong) => difference.unknown.push((name, wrong.to_string())),
        }
    }
    Ok(difference)
}

impl PolicyDiff {
    fn take(&mut self, asked: Vec<DownloadSummary>, now: Vec<Option<Verdict>>, then: Vec<Option<Verdict>>) {
        let mut last = None;
        for (asked, verdicts) in asked.into_iter().zip(now.into_iter().zip(then)) {
            let (Some(now), Some(then)) = verdicts else { continue };
            // They come by version.
            if last.as_ref() != Some(&asked.version) {
                self.asked += 1;
                last = Some(asked.version.clone());
            }
            if now.allows() != then.allows() {
                self.add(asked, now, then);
            }
        }
    }

    fn add(&mut self, asked: DownloadSummary, now: Verdict, then: Verdict) {
        let DownloadSummary { name, version, client, times, first } = asked;
        let is_same =
            |one: &&mut ChangedVerdict| one.name == name && one.version == version && one.now == now && one.then == then;
        match self.changed.iter_mut().rev().take_while(|one| one.name == name && one.version == version).find(is_same) {
            Some(known) => {
                known.clients.push(client);
                known.times += times;
                known.first = known.first.min(first);
            }
            None => self.changed.push(ChangedVerdict { name, version, clients: vec![client], times, first, now, then }),
        }
    }
}
