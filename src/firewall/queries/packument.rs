//! Serves packuments, manifests and dist-tags. Each request looks up the package, applies the verdicts, and returns a response or
//! a refusal.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::components::Firewall;
use crate::firewall::error::{FirewallError, Refusal, Result, no_version};
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::packages::request::{DocumentNeed, RenderRequest};
use crate::firewall::packages::service::EvaluatedPackage;
use crate::firewall::recorder::Requested;
use crate::firewall::request::{Client, ContentCoding, PackumentResponse};
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::verdicts::resolve::resolve;
use crate::firewall::wanted_versions::withheld;
use crate::npm::packument::render;
use crate::npm::{PackageName, Packument, PackumentForm};
use crate::store::DownloadOutcome;
use crate::telemetry::VersionsHidden;
use crate::units::timestamp;

/// How often a request is repeated because another document arrived meanwhile.
const MAX_ATTEMPTS: usize = 4;

impl Firewall {
    /// Returns the packument without the hidden versions, or a refusal if no version is visible.
    pub(crate) async fn packument(
        &self,
        client: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<PackumentResponse> {
        for _ in 0..MAX_ATTEMPTS {
            let render_request =
                RenderRequest { form, packing: coding.segment_format(), base: client.base.clone(), profile: client.profile };
            let EvaluatedPackage { lookup, packument, table, now } =
                self.0.packages.evaluated(client, name, DocumentNeed::Form(form), Some(render_request)).await?;
            if !table.any_visible() {
                return Err(self.refuse_package(client, &packument, &table));
            }
            let Some(answer) = self.0.responses.packument(client, &lookup, &table, form, coding).await? else { continue };
            self.report_withheld(client, &lookup.package, &packument, &table, now);
            self.0.vetting_queue.note(client, &lookup, &table);
            let (count, total) = (table.hidden.len() as u64, table.shown.len() as u64);
            if count > 0 {
                VersionsHidden { name, count, total }.emit(self.0.recorder.metrics());
            }
            self.0.recorder.request((client, now), name, Requested::Packument(&table), DownloadOutcome::Served, None);
            return Ok(PackumentResponse { stale: lookup.stale, ..answer });
        }
        Err(FirewallError::Internal("the packument changed too often during the request".into()))
    }

    /// Returns one manifest by version, dist-tag or range, as JSON, or a refusal if the version is hidden.
    pub(crate) async fn manifest(&self, client: &Client, name: &PackageName, wanted: &str) -> Result<Bytes> {
        let mut is_asked_again = false;
        for _ in 0..MAX_ATTEMPTS {
            let need = DocumentNeed::Form(PackumentForm::Full);
            let EvaluatedPackage { lookup, packument, table, now } = &self.0.packages.evaluated(client, name, need, None).await?;
            let (of, by, text) = (Arc::clone(packument), Arc::clone(table), Box::<str>::from(wanted));
            let resolve = move || Some(of.find(resolve(&of, &by, &text)?)?.0);
            let Some(at) = self.0.workers.run_over_versions(&lookup.package, client.address, resolve).await? else {
                if !is_asked_again && self.0.packages.recheck(client, lookup, wanted, need).await.is_some() {
                    is_asked_again = true;
                    continue;
                }
                return Err(no_version(name, wanted));
            };
            if !table.shown[at] {
                let (recorder, asked) = (Arc::clone(&self.0.recorder), client.clone());
                let (of, by) = (Arc::clone(packument), Arc::clone(table));
                let refuse = move || recorder.hidden_version(&asked, &of, &by, at);
                let rejection = self.0.workers.run_over_versions(&lookup.package, client.address, refuse).await?;
                let version = &*packument.entries[at].key;
                return Err(self.0.recorder.refused_tarball(client, &lookup.package, version, rejection));
            }
            let permit = self.0.packages.loader.loads.acquire(client.address).await;
            let (read, document) = self.0.packages.document_with(client, lookup.clone(), permit).await?;
            if read.package.content() != lookup.package.content() {
                continue;
            }
            let requested = Requested::Packument(table);
            self.0.recorder.request((client, *now), name, requested, DownloadOutcome::Served, None);
            return Ok(render::manifest(&document, packument, &packument.entries[at], client.base.rewriting()).into());
        }
        Err(FirewallError::Internal("the packument changed too often during the request".into()))
    }

    /// Returns the dist-tags as clients see them, as JSON.
    pub(crate) async fn dist_tags(&self, client: &Client, name: &PackageName) -> Result<Bytes> {
        let EvaluatedPackage { packument, table, .. } =
            self.0.packages.evaluated(client, name, DocumentNeed::Form(PackumentForm::Abbreviated), None).await?;
        if !table.any_visible() {
            return Err(self.refuse_package(client, &packument, &table));
        }
        Ok(render::tags_json(table.tags.as_ref().unwrap_or(&packument.dist_tags)).into())
    }

    /// Reports versions that the response withholds although a known requirement allows nothing else. Does nothing for a package
    /// without hidden versions.
    fn report_withheld(
        &self,
        client: &Client,
        package: &PackageSnapshot,
        packument: &Packument,
        table: &VerdictTable,
        now: Timestamp,
    ) {
        if table.hidden.is_empty() || !client.is_installing {
            return;
        }
        let Some(wants) = self.0.wants.of(&package.cache_key) else { return };
        for (at, want) in &withheld(packument, table, wants).found {
            // Only while the requiring packument is fresh: later, a client may resolve another version of it.
            let by =
                PackageName::parse(&want.by).ok().map(|name| CacheKey { name, partition: package.cache_key.partition.clone() });
            let asked = by.and_then(|cache_key| self.0.cache.get(&cache_key)).map(|package| package.confirmed.checked);
            if asked.is_some_and(|asked| now <= timestamp::saturating_add(asked, self.0.cache.ttl)) {
                self.0.recorder.withheld(client, packument, table, *at, now);
            }
        }
    }

    /// Refuses a package without visible versions. An empty packument would look unpublished to pnpm and yarn.
    fn refuse_package(&self, client: &Client, packument: &Packument, table: &VerdictTable) -> FirewallError {
        let newest = table.restrictions.as_ref().and_then(|restrictions| packument.find(&restrictions.newest));
        let Some((at, newest)) = newest else {
            return FirewallError::NotFound(format!("{} has no versions upstream", packument.name).into());
        };
        let newest = (&*newest.key, table.verdict(at));
        let refusal = Refusal::of_package(&packument.name, table.shown.len(), newest, table.next_opening);
        let Some(refusal) = refusal else { return FirewallError::Internal("a hidden version has no reason".into()) };
        let (requested, rule) = (Requested::Packument(table), Some(&refusal.rule));
        self.0.recorder.request((client, self.0.policy.now()), &packument.name, requested, DownloadOutcome::Refused, rule);
        self.0.recorder.refusal(client, refusal)
    }
}
