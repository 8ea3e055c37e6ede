//! Compares policies on past downloads, as of each client's first request in the ledger, by upstream's metadata. Changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::app::core::local_client;
use crate::app::error::AppError;
use crate::app::standalone;
use crate::clock::Clock;
use crate::config::Config;
use crate::npm::PackageName;
use crate::policy::{Policy, Verdict};
use crate::store::{DownloadSummary, SqliteLedger};

/// A requested tarball with different verdicts of the two policies.
#[derive(Debug, Clone)]
pub(crate) struct ChangedVerdict {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The clients that requested it while the verdicts differed.
    pub(crate) clients: Vec<String>,
    pub(crate) times: u64,
    pub(crate) first: Timestamp,
    pub(crate) now: Verdict,
    pub(crate) then: Verdict,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct PolicyDiff {
    pub(crate) asked: usize,
    pub(crate) changed: Vec<ChangedVerdict>,
    /// Packages that could not be compared, with reasons.
    pub(crate) unknown: Vec<(String, String)>,
}

/// Compares the policy of `config` with `candidate` for every tarball in the ledger, by verdicts as of the request.
pub(crate) async fn diff_policies(mut config: Config, clock: Arc<dyn Clock>, candidate: Policy) -> Result<PolicyDiff, AppError> {
    let ledger = SqliteLedger::read_only(&config.store.data_dir)?;
    let mut by_name: BTreeMap<String, Vec<DownloadSummary>> = BTreeMap::new();
    for asked in ledger.downloads()? {
        by_name.entry(asked.name.clone()).or_default().push(asked);
    }
    drop(ledger);
    // The policy of the first address is the active one.
    config.policies.default = config.policies.first_policy().clone();
    config.policies.further = vec![candidate];
    let firewall = standalone::firewall(config, clock)?;
    let mut diff = PolicyDiff::default();
    for (name, asked) in by_name {
        let Ok(package) = PackageName::parse(&name) else { continue };
        let wanted: Vec<(&str, Timestamp)> = asked.iter().map(|asked| (&*asked.version, asked.first)).collect();
        let (now, then) = (local_client(0), local_client(1));
        let compared = match firewall.value.evaluate_as_of(&now, &package, &wanted).await {
            Ok(now) => firewall.value.evaluate_as_of(&then, &package, &wanted).await.map(|then| (now, then)),
            Err(error) => Err(error),
        };
        match compared {
            Ok((now, then)) => diff.take(asked, now, then),
            Err(error) => diff.unknown.push((name, error.to_string())),
        }
    }
    Ok(diff)
}

impl PolicyDiff {
    fn take(&mut self, asked: Vec<DownloadSummary>, now: Vec<Option<Verdict>>, then: Vec<Option<Verdict>>) {
        let mut last = None;
        for (asked, verdicts) in asked.into_iter().zip(now.into_iter().zip(then)) {
            let (Some(now), Some(then)) = verdicts else { continue };
            // The rows are ordered by version.
            if last.as_ref() != Some(&asked.version) {
                self.asked += 1;
                last = Some(asked.version.clone());
            }
            if now.is_allowed() != then.is_allowed() {
                self.add(asked, now, then);
            }
        }
    }

    fn add(&mut self, asked: DownloadSummary, now: Verdict, then: Verdict) {
        let DownloadSummary { name, version, client, times, first } = asked;
        let is_same = |entry: &&mut ChangedVerdict| {
            entry.name == name && entry.version == version && entry.now == now && entry.then == then
        };
        match self.changed.iter_mut().rev().take_while(|entry| entry.name == name && entry.version == version).find(is_same) {
            Some(known) => {
                known.clients.push(client);
                known.times += times;
                known.first = known.first.min(first);
            }
            None => self.changed.push(ChangedVerdict { name, version, clients: vec![client], times, first, now, then }),
        }
    }
}
