//! Looks up packages in memory, in the store, or with one shared request to upstream.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout_at};

use crate::firewall::client_scope;
use crate::firewall::credential_binding;
use crate::firewall::error::{FirewallError, Result};
use crate::firewall::package::CacheKey;
use crate::firewall::package::dependency_lookups::MAX_NEW_DEPENDENCIES;
use crate::firewall::package::removed::RemovedVersion;
use crate::firewall::packages::Services;
use crate::firewall::packages::client_limits::RecheckLimit;
use crate::firewall::packages::cohorts::{self, OpenedVersions};
use crate::firewall::packages::fetch::{Fetcher, absent};
use crate::firewall::packages::load::Loader;
use crate::firewall::packages::new_dependencies;
use crate::firewall::packages::provenance::ProvenanceVerifier;
use crate::firewall::packages::record_signals;
use crate::firewall::packages::request::{DocumentNeed, FetchRequest, PackageLookup, PrefetchContext, RenderRequest};
use crate::firewall::packages::subpackages::{self, Subpackages};
use crate::firewall::policy_state::{EvalContext, PolicySnapshot, Profile};
use crate::firewall::request::Client;
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::verdicts::cache::CachedPackage;
use crate::net::FairPermit;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{PackageName, Packument, PackumentForm, Version};
use crate::telemetry::{CacheLabel, CacheOutcome};
use crate::upstream::CacheValidators;
use crate::vetting::NewDependency;

/// How often a fetch is repeated because a shared fetch returned the other form.
const MAX_ATTEMPTS: usize = 4;

/// How long a request waits for the new dependencies of a package.
const LOOKUP_WAIT: Duration = Duration::from_secs(2);

/// A package that upstream has, with its verdicts.
pub(crate) struct EvaluatedPackage {
    pub lookup: PackageLookup,
    pub packument: Arc<Packument>,
    pub table: Arc<VerdictTable>,
    /// When the verdicts were read.
    pub now: Timestamp,
}

pub(crate) struct PackageService {
    pub services: Arc<Services>,
    pub loader: Arc<Loader>,
    pub fetcher: Arc<Fetcher>,
    pub subpackages: Arc<Subpackages>,
    pub provenance: Arc<ProvenanceVerifier>,
    pub rechecks: RecheckLimit,
    /// Versions that no longer wait for siblings.
    pub opened: OpenedVersions,
}

impl PackageService {
    /// Returns the package from memory if it can be used without waiting.
    pub(crate) fn cached(
        &self,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        context: &EvalContext,
    ) -> Option<PackageLookup> {
        let cache_key = CacheKey::of(name, self.services.registries.of(name), &client.authorization);
        let package = self.services.cache.fresh(&cache_key, client.profile, need, context)?;
        if subpackages::needs_parent(&package, &context.policy_snapshot).is_some()
            || lacks_facts(&package, client.profile, &context.policy_snapshot)
            || cohorts::is_due(&package, &context.policy_snapshot, client.profile)
            || has_pending_signals(&package, client.profile, context)
        {
            return None;
        }
        self.services.recorder.cache_lookup(CacheLabel::Document, CacheOutcome::Hit);
        Some(PackageLookup { package, stale: None })
    }

    /// Looks up `name` as the client may see it, fresh if upstream is available. With a `render_request`, a document that must be
    /// parsed is rendered in the same pass. Fails if the package is not found, if upstream failed and nothing stale can be
    /// served, or if the packument is invalid.
    pub(crate) async fn lookup(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        render_request: Option<RenderRequest>,
    ) -> Result<PackageLookup> {
        let lookup = self.lookup_unlinked(client, name, need, render_request.clone()).await?;
        let part_lacks = self.load_parent(client, &lookup.package).await;
        self.services.workers.evaluate(&lookup.package, &self.services.policy, client.profile, client.address).await;
        let lookup = if part_lacks || lacks_facts(&lookup.package, client.profile, &self.services.policy.snapshot()) {
            let lookup = self.lookup_unlinked(client, name, DocumentNeed::Facts, render_request).await?;
            self.load_parent(client, &lookup.package).await;
            lookup
        } else {
            lookup
        };
        let has_decided = Box::pin(self.decide_signals(client, &lookup.package)).await;
        if has_decided || cohorts::is_due(&lookup.package, &self.services.policy.snapshot(), client.profile) {
            Box::pin(self.load_cohorts(client, &lookup.package)).await;
            self.services.workers.evaluate(&lookup.package, &self.services.policy, client.profile, client.address).await;
        }
        self.report_false_signatures(&lookup.package);
        Ok(lookup)
    }

    /// Looks up what pending signals of a package depend on. Returns whether there were any.
    async fn decide_signals(self: &Arc<Self>, client: &Client, package: &Arc<CachedPackage>) -> bool {
        let context = self.services.policy.context();
        if !has_pending_signals(package, client.profile, &context) {
            return false;
        }
        let signals = package.signals(&context.policy_snapshot, client.profile);
        let unverified = package.unverified(&signals, context.now);
        tokio::join!(
            self.load_new_dependencies(client, package),
            self.provenance.load(client, package, &context.policy_snapshot, unverified)
        );
        self.record_signals(client, package).await;
        true
    }

    /// Reports the false signatures of a package that was just evaluated.
    fn report_false_signatures(&self, package: &CachedPackage) {
        if let Some(packument) = package.packument.as_deref().filter(|packument| !packument.signatures.is_empty()) {
            self.services
                .recorder
                .false_signatures(packument, &package.signals(&self.services.policy.snapshot(), Profile::default()));
        }
    }

    /// Looks up a package like [`Self::lookup`], without its parent package.
    pub(crate) async fn lookup_unlinked(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        render_request: Option<RenderRequest>,
    ) -> Result<PackageLookup> {
        let registry = self.services.registries.of(name);
        let explain = |error| credential_binding::explain_unsent(registry, client, error);
        let cache_key = CacheKey::of(name, registry, &client.authorization);
        let context = self.services.policy.context();
        let now = context.now;
        if let Some(package) = self.services.cache.fresh(&cache_key, client.profile, need, &context) {
            self.services.recorder.cache_lookup(CacheLabel::Document, CacheOutcome::Hit);
            return Ok(PackageLookup { package, stale: None });
        }
        if self.services.cache.is_absent(&cache_key, now) {
            return Err(explain(absent(name)));
        }
        if !self.services.cache.is_known(&cache_key, now) {
            self.fetcher.ingester.absent_names.check(client.address)?;
        }
        // Dependencies are outside the scope of a limited token, so nothing is lent for them.
        let prefetches = client.is_installing && client_scope::limited(client).is_none();
        let ahead = render_request.as_ref().filter(|_| prefetches).map(|_| PrefetchContext::of_question());
        let request = FetchRequest { render_request, ahead, ..FetchRequest::new(client, cache_key, Arc::clone(registry), need) };
        for _ in 0..MAX_ATTEMPTS {
            // A fetch that was already running may have requested less.
            let result = self.fetcher.fetch_or_stale(request.clone(), now).await;
            if let Err(FirewallError::NotFound(_)) = &result {
                self.fetcher.ingester.absent_names.count(&request.cache_key, client.address);
            }
            let lookup = result.map_err(explain)?;
            if need.is_met_by(&lookup.package) {
                return Ok(lookup);
            }
        }
        Err(FirewallError::Internal("too many fetches returned the other packument form".into()))
    }

    pub(crate) async fn evaluated(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        render_request: Option<RenderRequest>,
    ) -> Result<EvaluatedPackage> {
        let context = self.services.policy.context();
        let (lookup, context) = match self.cached(client, name, need, &context) {
            Some(lookup) => (lookup, context),
            // Changes while upstream was asked apply. Boxed, since this future is far larger than a response from memory.
            None => (Box::pin(self.lookup(client, name, need, render_request)).await?, self.services.policy.context()),
        };
        let Some(packument) = lookup.package.packument.clone() else {
            return Err(FirewallError::NotFound(format!("{name} is no longer in the upstream registry").into()));
        };
        let table = lookup.package.verdicts(&context.policy_snapshot, client.profile);
        self.services.recorder.overbroad_advisories(name, &table);
        Ok(EvaluatedPackage { lookup, packument, table, now: context.now })
    }

    /// Returns the decoded document with the lookup. Fetches it again if it is not stored any more. `permit` is of the loads.
    pub(crate) async fn document_with(
        self: &Arc<Self>,
        client: &Client,
        lookup: PackageLookup,
        permit: FairPermit,
    ) -> Result<(PackageLookup, Bytes)> {
        let permit = Arc::new(permit);
        if let Some(document) = self.loader.load_document(&lookup.package, &permit).await? {
            return Ok((lookup, document));
        }
        let need =
            DocumentNeed::Form(if lookup.package.renders_full() { PackumentForm::Full } else { PackumentForm::Abbreviated });
        let (cache_key, registry) = (lookup.package.cache_key.clone(), Arc::clone(&lookup.package.registry));
        let request = FetchRequest { whole: true, ..FetchRequest::new(client, cache_key, registry, need) };
        let again = self.fetcher.fetch_shared(request).await?;
        let document = self.loader.load_document(&again.package, &permit).await?;
        let document = document.ok_or_else(|| FirewallError::Internal("the packument is not in the store any more".into()))?;
        Ok((again, document))
    }

    /// Looks up the parent of a new package, once per document, if a rule may exempt subpackages. Returns whether the result
    /// depends on publishers that the document lacks, so that the full form is needed.
    pub(crate) async fn load_parent(self: &Arc<Self>, client: &Client, package: &CachedPackage) -> bool {
        let Some(packument) = subpackages::needs_parent(package, &self.services.policy.snapshot()) else { return false };
        // The name must not be sent to a different registry, or needlessly if the package's ages are waived.
        let is_same_registry = |whole: &PackageName| self.services.registries.of(whole).id() == package.registry.id();
        let whole = self.subpackages.candidate_parent(&packument.name).filter(is_same_registry);
        let is_waived = || self.services.policy.snapshot().policy(client.profile).waives_ages(&packument.name);
        let Some(whole) = whole.filter(|_| !is_waived()) else { return false };
        // A parent that cannot be fetched pins nothing.
        let Ok(mut lookup) = Box::pin(self.lookup_unlinked(client, &whole, DocumentNeed::Index, None)).await else {
            return false;
        };
        if let Some(version) = subpackages::newer_than(&lookup.package, packument)
            && let Some(newer) = Box::pin(self.recheck(client, &lookup, version, DocumentNeed::Index)).await
        {
            lookup = newer;
        }
        if lookup.package.form == PackumentForm::Abbreviated {
            let lacks = |(_, pinning): (&VersionEntry, &VersionEntry)| pinning.publisher.is_none();
            if lookup.package.packument.as_ref().is_some_and(|whole| subpackages::pins(packument, whole).any(lacks)) {
                let full = Box::pin(self.lookup_unlinked(client, &whole, DocumentNeed::Facts, None)).await;
                let Ok(full) = full else { return false };
                lookup = full;
            }
        }
        let Some(whole) = &lookup.package.packument else { return false };
        let lacks = |(part, _): (&VersionEntry, &VersionEntry)| part.publisher.is_none();
        if package.form == PackumentForm::Abbreviated && subpackages::pins(packument, whole).any(lacks) {
            return true;
        }
        let _ = package.parent.set(subpackages::match_parent(packument, whole, lookup.package.first_published));
        false
    }

    /// Looks up the new dependencies of a package with the client's credentials, if a rule needs them. Waits up to
    /// [`LOOKUP_WAIT`]; fetches continue after it, so that a later request finds their results. Releases with a dependency that
    /// cannot be looked up stay pending.
    pub(crate) async fn load_new_dependencies(self: &Arc<Self>, client: &Client, package: &CachedPackage) {
        let EvalContext { policy_snapshot, now } = self.services.policy.context();
        let signals = package.signals(&policy_snapshot, client.profile);
        let pending = new_dependencies::pending(package, &signals, &policy_snapshot, now);
        if pending.is_empty() {
            return;
        }
        // Later ones stay pending: an ordinary release has few new dependencies.
        let free = MAX_NEW_DEPENDENCIES.saturating_sub(package.dependencies.load().by_name.len());
        let names = &pending[..pending.len().min(free)];
        let deadline = Instant::now() + LOOKUP_WAIT;
        let mut lookups = JoinSet::new();
        for name in names {
            let (service, client, name) = (Arc::clone(self), client.clone(), Arc::clone(name));
            lookups.spawn(async move {
                let found = service.look_up_dependency(&client, &name).await;
                (name, found)
            });
        }
        let mut found = Vec::new();
        while let Ok(Some(joined)) = timeout_at(deadline, lookups.join_next()).await {
            if let Ok((name, Some(dependency))) = joined {
                found.push((name, dependency));
            }
        }
        package.dependencies.add(&found, (names.len(), pending.len()), now);
    }

    /// Records signals that look-ups of dependencies decided.
    async fn record_signals(&self, client: &Client, package: &Arc<CachedPackage>) {
        let (services, package, profile) = (Arc::clone(&self.services), Arc::clone(package), client.profile);
        let record = move || record_signals::record(&services, &package, &services.policy.snapshot(), profile);
        // A failed task was logged.
        let _ = self.services.workers.run(record).await;
    }

    /// Returns `None` if upstream failed.
    async fn look_up_dependency(self: &Arc<Self>, client: &Client, name: &str) -> Option<NewDependency> {
        // npm installs nothing for an invalid name.
        let Ok(name) = PackageName::parse(name) else { return Some(NewDependency::Absent) };
        match self.lookup_unlinked(client, &name, DocumentNeed::Index, None).await {
            Ok(PackageLookup { package, .. }) => Some(new_dependencies::describe(&package)),
            Err(FirewallError::NotFound(_)) => Some(NewDependency::Absent),
            Err(_) => None,
        }
    }

    /// Revalidates a package because `version` of it is unknown. Returns `None` if that is not an exact version or is known to be
    /// removed, if no conditional request is possible, or if the last check is too recent.
    pub(crate) async fn recheck(
        self: &Arc<Self>,
        client: &Client,
        lookup: &PackageLookup,
        version: &str,
        need: DocumentNeed,
    ) -> Option<PackageLookup> {
        let (package, now) = (&lookup.package, self.services.policy.now());
        let shared = package.cache_key.shared();
        let is_answered = lookup.stale.is_some()
            || package.packument.is_none()
            || package.validators() == CacheValidators::default()
            || !self.rechecks.is_due(&shared, package.confirmed.checked, now);
        // It may be missing for one client's token only.
        let has_left = || !package.cache_key.is_client_scoped() && RemovedVersion::is_known(package, version);
        if is_answered || Version::parse(version).is_none() || has_left() {
            return None;
        }
        let (cache_key, registry) = (package.cache_key.clone(), Arc::clone(&package.registry));
        let request = FetchRequest { not_before: Some(now), ..FetchRequest::new(client, cache_key, registry, need) };
        // Requests during a recheck share its result.
        if !self.fetcher.is_running(&request) && !self.rechecks.admits(client.address, now) {
            return None;
        }
        let again = self.fetcher.fetch_or_stale(request, now).await.ok();
        if let Some(again) = &again {
            self.services.workers.evaluate(&again.package, &self.services.policy, client.profile, client.address).await;
        }
        let Some(newer) = again.as_ref().filter(|again| again.package.content() != package.content()) else {
            self.rechecks.in_vain.insert(shared, now);
            return again;
        };
        if newer.stale.is_some() {
            return again;
        }
        // The new verdicts may depend on missing fields or on the parent package, like those of the previous document.
        let whole = self.lookup(client, &package.cache_key.name, need, None).await.ok();
        whole.or(again)
    }
}

/// Checks whether some version's verdict depends on a fact that the abbreviated form lacks.
fn lacks_facts(package: &CachedPackage, profile: Profile, policy_snapshot: &PolicySnapshot) -> bool {
    package.form == PackumentForm::Abbreviated && !package.has_no_more && package.verdicts(policy_snapshot, profile).lacks
}

/// Checks whether look-ups that pending signals depend on are due.
fn has_pending_signals(package: &CachedPackage, profile: Profile, context: &EvalContext) -> bool {
    let signals = package.signals(&context.policy_snapshot, profile);
    !new_dependencies::pending(package, &signals, &context.policy_snapshot, context.now).is_empty()
        || !package.unverified(&signals, context.now).is_empty()
}
