//! Every version of a package with its verdict and its bytes' digest: what a decision is expanded to when it is taken.
//! Refuses to decide, and to serve anything.

use std::sync::Arc;

use jiff::Timestamp;

use super::catalog::Need;
use super::packument::Spoken;
use super::{Asker, Form, Inner, Rejection};
use crate::npm::{Integrity, PackageName, Version};
use crate::policy::Verdict;

/// A package as it stands.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The package.
    pub name: PackageName,
    /// Where dist-tags point upstream.
    pub dist_tags: Vec<(Box<str>, Box<str>)>,
    /// The versions upstream has, hidden or not, in its order.
    pub versions: Vec<Inspected>,
}

/// One of its versions.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The key in `versions`.
    pub key: Box<str>,
    /// The same as a version, where it is one.
    pub version: Option<Version>,
    /// What its tarball hashes to.
    pub integrity: Option<Integrity>,
    /// The effective publish time.
    pub effective: Timestamp,
    /// What is said of it now.
    pub verdict: Verdict,
    /// The records that an approval of it has to name.
    pub records: Vec<String>,
}

impl Inner {
    pub(super) async fn inspect(self: &Arc<Self>, asker: &Asker, name: &PackageName) -> Result<Inspection, Rejection> {
        let Spoken { reading, packument, screen } = self.spoken(asker, name, Need::Form(Form::Abbreviated), None).await?;
        let world = self.world();
        let versions = packument.entries.iter().map(|entry| (&*entry.key, entry.version.as_ref()));
        let advisories = world.advisories.of(name.as_str()).among(versions);
        let rules = world.policy(asker.profile).about(name);
        let inspected = |(at, entry): (usize, &crate::npm::packument::Entry)| {
            let facts = reading.known.facts(&packument, at, &advisories);
            Inspected {
                key: entry.key.clone(),
                version: entry.version.clone(),
                integrity: entry.integrity.clone(),
                effective: facts.effective,
                verdict: screen.verdict(at).clone(),
                records: rules.records(&facts).into_iter().map(str::to_owned).collect(),
            }
        };
        let versions = packument.entries.iter().enumerate().map(inspected).collect();
        Ok(Inspection { name: name.clone(), dist_tags: packument.dist_tags.clone(), versions })
    }
}
