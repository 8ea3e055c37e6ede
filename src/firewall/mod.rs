//! Floor 6: the product. A question comes in, upstream and store are asked, policy judges, an answer or a refusal goes out.
//!
//! Refuses to know HTTP: no status, no header, no URL path. `proxy` turns questions and answers into those.

pub mod answer;
pub mod refusal;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use answer::{Answer, Asker, BaseUrl, Coding, Form, Tarball};
pub use refusal::{Refusal, Rejection};

use jiff::Timestamp;

use crate::npm::PackageName;
use crate::policy::{Policy, Verdict};
use crate::store::{Blobs, Ledger};
use crate::telemetry::Clock;
use crate::upstream::{Passage, Passed, Registries};

/// Bounds on time and memory.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a packument is used before upstream is asked again.
    pub packument_ttl: Duration,
    /// How long the last answer is served while upstream cannot be asked.
    pub max_stale: Duration,
    /// Bytes of memory for facts and deflated packuments.
    pub memory: u64,
    /// The largest packument taken from upstream, in bytes, decoded.
    pub packument_limit: u64,
    /// The largest tarball taken from upstream, in bytes.
    pub tarball_limit: u64,
}

/// What a firewall is made of.
pub struct Parts {
    /// Where packages come from.
    pub registries: Registries,
    /// The durable record.
    pub ledger: Arc<dyn Ledger>,
    /// Tarballs and raw packuments.
    pub blobs: Arc<dyn Blobs>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The rules in force.
    pub policy: Policy,
    /// Bounds.
    pub config: Config,
}

/// What the policy says of one version, and why: what `coldframe explain` prints.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The package.
    pub name: PackageName,
    /// The version that was asked for, after tags and ranges are resolved over everything upstream has.
    pub version: Box<str>,
    /// The verdict.
    pub verdict: Verdict,
    /// When upstream says it was published.
    pub published: Option<Timestamp>,
    /// The effective publish time, from which age counts.
    pub effective: Timestamp,
    /// The nearest version that is allowed: the highest at or below it by the dist-tag rule.
    pub nearest: Option<Box<str>>,
    /// The minimum release age that applies to the package.
    pub minimum_release_age: Duration,
    /// The registry's address, without credentials.
    pub upstream: Arc<str>,
    /// When upstream was last asked.
    pub validated: Timestamp,
}

/// The firewall. One a process; every door hands its questions here.
pub struct Firewall;

impl Firewall {
    /// A firewall of `parts`. Sends nothing upstream.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let _ = parts;
        todo!()
    }

    /// Explains one version: `wanted` is a version, a dist-tag or a range; `latest` when it is missing.
    ///
    /// # Errors
    /// When there is no such version, or upstream cannot be asked.
    pub async fn explain(&self, asker: &Asker, name: &PackageName, wanted: Option<&str>) -> Result<Explanation, Rejection> {
        let _ = (asker, name, wanted);
        todo!()
    }

    /// The packument, without what the policy hides.
    ///
    /// # Errors
    /// A refusal when no version is visible; what upstream or the store could not do.
    pub async fn packument(&self, asker: &Asker, name: &PackageName, form: Form, coding: Coding) -> Result<Answer, Rejection> {
        let _ = (asker, name, form, coding);
        todo!()
    }

    /// One manifest by version, dist-tag or range: JSON.
    pub async fn manifest(&self, asker: &Asker, name: &PackageName, wanted: &str) -> Result<Bytes, Rejection> {
        let _ = (asker, name, wanted);
        todo!()
    }

    /// The dist-tags as clients see them: JSON.
    pub async fn dist_tags(&self, asker: &Asker, name: &PackageName) -> Result<Bytes, Rejection> {
        let _ = (asker, name);
        todo!()
    }

    /// A tarball, verified against its packument.
    pub async fn tarball(&self, asker: &Asker, name: &PackageName, version: &str) -> Result<Tarball, Rejection> {
        let _ = (asker, name, version);
        todo!()
    }

    /// Search results without what the policy hides; the passage is the client's request, the answer upstream's, filtered.
    pub async fn search(&self, asker: &Asker, passage: Passage) -> Result<Passed, Rejection> {
        let _ = (asker, passage);
        todo!()
    }

    /// An audit, passed on; `bulk_body` is the decoded body of a bulk audit. The text is for `npm-notice`: what was held
    /// back of the packages in it.
    pub async fn audit(&self, asker: &Asker, passage: Passage, bulk_body: Option<Bytes>) -> Result<(Passed, Option<String>), Rejection> {
        let _ = (asker, passage, bulk_body);
        todo!()
    }

    /// Attestations of one version, unless it is hidden.
    pub async fn attestations(&self, asker: &Asker, name: &PackageName, version: &str, passage: Passage) -> Result<Passed, Rejection> {
        let _ = (asker, name, version, passage);
        todo!()
    }

    /// Anything else, passed on to the registry of `name`, or to the default one: ping, keys, whoami, accounts, writes.
    pub async fn pass(&self, asker: &Asker, name: Option<&PackageName>, passage: Passage) -> Result<Passed, Rejection> {
        let _ = (asker, name, passage);
        todo!()
    }
}
