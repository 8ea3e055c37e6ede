//! What another policy would change of what was asked for, by the ledger and by what upstream says now. Changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AppError;
use super::question::{asker, firewall_of};
use crate::config::Config;
use crate::firewall::{Asker, Inspection, Profile};
use crate::npm::PackageName;
use crate::policy::{Policy, Verdict};
use crate::store::{Asked, SqliteLedger};
use crate::telemetry::Clock;

/// A tarball that was asked for, of which the two policies say different things.
#[derive(Debug, Clone)]
pub struct Changed {
    /// What was asked for, by whom.
    pub asked: Asked,
    /// What the policy in force says.
    pub now: Verdict,
    /// What the other one would say.
    pub then: Verdict,
}

/// What a comparison found.
#[derive(Debug, Clone, Default)]
pub struct Difference {
    /// Tarballs that were asked for and looked at.
    pub asked: usize,
    /// Those of them that would change.
    pub changed: Vec<Changed>,
    /// Packages that could not be looked at, and why.
    pub unknown: Vec<(String, String)>,
}

/// Compares the policy of `config` with `candidate` over every tarball in the ledger.
///
/// # Errors
/// When the ledger cannot be read, or upstream cannot be set up.
pub async fn difference(config: Config, clock: Arc<dyn Clock>, candidate: Policy) -> Result<Difference, AppError> {
    let ledger = SqliteLedger::read_only(&config.store.data_dir).map_err(AppError::DataDir)?;
    let mut by_name: BTreeMap<String, Vec<Asked>> = BTreeMap::new();
    for asked in ledger.asked().map_err(AppError::DataDir)? {
        by_name.entry(asked.name.clone()).or_default().push(asked);
    }
    drop(ledger);
    let firewall = firewall_of(config, clock, vec![candidate])?;
    let mut difference = Difference::default();
    for (name, asked) in by_name {
        let Ok(package) = PackageName::parse(&name) else { continue };
        let (now, then) = (asker(), Asker { profile: Profile(1), ..asker() });
        let looked = match firewall.value.inspect(&now, &package).await {
            Ok(now) => firewall.value.inspect(&then, &package).await.map(|then| (now, then)),
            Err(wrong) => Err(wrong),
        };
        match looked {
            Ok((now, then)) => difference.take(asked, &now, &then),
            Err(wrong) => difference.unknown.push((name, wrong.to_string())),
        }
    }
    Ok(difference)
}

impl Difference {
    fn take(&mut self, asked: Vec<Asked>, now: &Inspection, then: &Inspection) {
        for asked in asked {
            let find = |inspection: &Inspection| {
                let inspected = inspection.versions.iter().find(|inspected| *inspected.key == *asked.version);
                inspected.map(|inspected| inspected.verdict.clone())
            };
            let Some((now, then)) = find(now).zip(find(then)) else { continue };
            self.asked += 1;
            if now.allows() != then.allows() {
                self.changed.push(Changed { asked, now, then });
            }
        }
    }
}
