//! Serves packuments, manifests and dist-tags. Each request looks up the package, applies the verdicts, and returns a response or
//! a refusal.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::error::{FirewallError, Refusal};
use crate::firewall::packages::fetch::DocumentNeed;
use crate::firewall::request::{Client, ContentCoding, PackumentResponse};
use crate::firewall::responses::RenderRequest;
use crate::firewall::verdicts::VerdictTable;
use crate::firewall::{Components, PackageLookup};
use crate::npm::PackumentForm;
use crate::npm::packument::{dist_tags, render};
use crate::npm::{PackageName, Packument, Range};
use crate::policy::RuleId;
use crate::store::{DownloadEvent, DownloadKind, DownloadOutcome};
use crate::telemetry::{RequestRefused, VersionsHidden};

/// How often a request is repeated because another document arrived meanwhile.
const MAX_ATTEMPTS: usize = 4;

/// A package that upstream has, with its verdicts.
pub(crate) struct EvaluatedPackage {
    /// The lookup.
    pub reading: PackageLookup,
    pub packument: Arc<Packument>,
    pub table: Arc<VerdictTable>,
    /// When the verdicts were read.
    pub now: Timestamp,
}

impl Components {
    pub(crate) async fn packument(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        form: PackumentForm,
        coding: ContentCoding,
    ) -> Result<PackumentResponse, FirewallError> {
        for _ in 0..MAX_ATTEMPTS {
            let render_request =
                RenderRequest { form, packing: coding.segment_format(), base: client.base.clone(), profile: client.profile };
            let EvaluatedPackage { reading, packument, table, now } =
                self.evaluated(client, name, DocumentNeed::Form(form), Some(render_request)).await?;
            self.require_visible(client, &packument, &table)?;
            let Some(answer) = self.answer(client, &reading, &table, form, coding).await? else { continue };
            self.note_withheld(client, &reading.known, &packument, &table, now);
            let (count, total) = (table.hidden.len() as u64, table.shown.len() as u64);
            if count > 0 {
                VersionsHidden { name, count, total }.emit(&self.metrics);
            }
            self.note_packument((client, now), name, &table, DownloadOutcome::Served, None);
            return Ok(PackumentResponse { stale: reading.stale, ..answer });
        }
        Err(FirewallError::Internal("the packument changed too often during the request".into()))
    }

    pub(crate) async fn manifest(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        wanted: &str,
    ) -> Result<Bytes, FirewallError> {
        let mut is_asked_again = false;
        for _ in 0..MAX_ATTEMPTS {
            let evaluated = self.evaluated(client, name, DocumentNeed::Form(PackumentForm::Full), None).await?;
            let EvaluatedPackage { reading, packument, table, .. } = &evaluated;
            let (of, by, text) = (Arc::clone(packument), Arc::clone(table), Box::<str>::from(wanted));
            let resolve = move || Some(of.find(resolve(&of, &by, &text)?)?.0);
            let Some(at) = self.over_versions(&reading.known, client.address, resolve).await? else {
                let need = DocumentNeed::Form(PackumentForm::Full);
                if !is_asked_again && self.ask_once_more(client, &evaluated.reading, wanted, need).await.is_some() {
                    is_asked_again = true;
                    continue;
                }
                return Err(no_version(name, wanted));
            };
            if !table.shown[at] {
                let (inner, asked) = (Arc::clone(self), client.clone());
                let (of, by) = (Arc::clone(packument), Arc::clone(table));
                let refuse = move || inner.refuse(&asked, &of, &by, at);
                let rejection = self.over_versions(&reading.known, client.address, refuse).await?;
                let version = &*packument.entries[at].key;
                return Err(self.note_refusal(client, &evaluated.reading.known, version, rejection));
            }
            let (read, document) = self.with_document(client, evaluated.reading.clone()).await?;
            if read.known.content != evaluated.reading.known.content {
                continue;
            }
            self.note_packument((client, evaluated.now), name, table, DownloadOutcome::Served, None);
            return Ok(render::manifest(&document, packument, &packument.entries[at], client.base.rewriting()).into());
        }
        Err(FirewallError::Internal("the packument changed too often during the request".into()))
    }

    pub(crate) async fn dist_tags(self: &Arc<Self>, client: &Client, name: &PackageName) -> Result<Bytes, FirewallError> {
        let EvaluatedPackage { packument, table, .. } =
            self.evaluated(client, name, DocumentNeed::Form(PackumentForm::Abbreviated), None).await?;
        self.require_visible(client, &packument, &table)?;
        Ok(render::tags_json(table.tags.as_ref().unwrap_or(&packument.dist_tags)).into())
    }

    /// Looks up a package that upstream has, with its verdicts.
    pub(crate) async fn evaluated(
        self: &Arc<Self>,
        client: &Client,
        name: &PackageName,
        need: DocumentNeed,
        render_request: Option<RenderRequest>,
    ) -> Result<EvaluatedPackage, FirewallError> {
        let moment = self.context();
        let (reading, moment) = match self.cached(client, name, need, &moment) {
            Some(reading) => (reading, moment),
            // Changes while upstream was asked apply. Boxed: a future is moved as a whole, and this one is far larger than a
            // response from memory.
            None => (Box::pin(self.lookup(client, name, need, render_request)).await?, self.context()),
        };
        let Some(packument) = reading.known.packument.clone() else {
            return Err(FirewallError::NotFound(format!("{name} is no longer in the upstream registry").into()));
        };
        let table = reading.known.verdicts(&moment.policy_snapshot, client.profile);
        self.overbroad_advisories(name, &table);
        Ok(EvaluatedPackage { reading, packument, table, now: moment.now })
    }

    /// Refuses a package without visible versions. An empty packument would look unpublished to pnpm and yarn.
    fn require_visible(&self, client: &Client, packument: &Packument, table: &VerdictTable) -> Result<(), FirewallError> {
        if table.any_visible() {
            return Ok(());
        }
        let newest = table.restrictions.as_ref().and_then(|restrictions| packument.find(&restrictions.newest));
        let Some((at, newest)) = newest else {
            return Err(FirewallError::NotFound(format!("{} has no versions upstream", packument.name).into()));
        };
        let newest = (&*newest.key, table.verdict(at));
        let refusal = Refusal::of_package(&packument.name, table.shown.len(), newest, table.next_opening);
        let Some(refusal) = refusal else { return Err(FirewallError::Internal("a hidden version has no reason".into())) };
        self.note_packument((client, self.clock.now()), &packument.name, table, DownloadOutcome::Refused, Some(&refusal.rule));
        Err(self.record_refusal(client, refusal))
    }

    /// Returns the refusal of the hidden entry at `at`.
    pub(crate) fn refuse(&self, client: &Client, packument: &Packument, table: &VerdictTable, at: usize) -> FirewallError {
        let key = &*packument.entries[at].key;
        let refusal = Refusal::of_version(&packument.name, key, table.verdict(at), table.nearest_allowed(packument, key));
        refusal.map_or_else(
            || FirewallError::Internal("a hidden version has no reason".into()),
            |refusal| self.record_refusal(client, refusal),
        )
    }

    /// Records a refusal and returns it as an error. Called once per refusal.
    pub(crate) fn record_refusal(&self, client: &Client, refusal: Refusal) -> FirewallError {
        RequestRefused {
            name: &refusal.name,
            version: refusal.version.as_deref(),
            rule: &refusal.rule,
            client: client.address,
            user: client.user.as_deref(),
            agent: &client.agent,
            text: &refusal.text,
        }
        .emit(&self.metrics);
        FirewallError::Refused(Arc::new(refusal.with_link(&client.base)))
    }

    fn note_packument(
        &self,
        (client, now): (&Client, Timestamp),
        name: &PackageName,
        table: &VerdictTable,
        outcome: DownloadOutcome,
        rule: Option<&RuleId>,
    ) {
        let download = DownloadEvent {
            kind: DownloadKind::Packument,
            name: name.clone(),
            version: None,
            integrity: None,
            outcome,
            rule: rule.map(|rule| rule.as_str().into()),
            hidden: Arc::clone(&table.hidden),
            client: client.address,
            user: client.user.clone(),
            tool: client.agent.tool.as_str(),
            tool_version: client.agent.version.clone(),
        };
        self.ledger.record_download(download, now);
    }
}

/// Resolves `wanted` for clients: an exact version, a visible dist-tag, or the best visible version of a range. A hidden exact
/// version, or a range that only hidden versions satisfy, is also returned, so that the refusal can explain it.
pub(crate) fn resolve<'a>(packument: &'a Packument, table: &'a VerdictTable, wanted: &str) -> Option<&'a str> {
    if let Some((_, entry)) = packument.find_same(wanted) {
        return Some(&entry.key);
    }
    if let Some(version) = table.tag(packument, wanted) {
        return Some(version);
    }
    // A tag whose hidden target has no replacement.
    if let Some((_, target)) = packument.dist_tags.iter().find(|(tag, _)| **tag == *wanted) {
        return packument.find(target).map(|(_, entry)| &*entry.key);
    }
    let range = Range::parse(wanted)?;
    let latest = table.tag(packument, "latest");
    best_in_range(packument, &range, latest, |at| table.shown[at]).or_else(|| best_in_range(packument, &range, None, |_| true))
}

/// Picks the version of a range like npm: `latest` if it satisfies the range, else the highest, deprecated ones last.
pub(crate) fn best_in_range<'a>(
    packument: &'a Packument,
    range: &Range,
    latest: Option<&'a str>,
    among: impl Fn(usize) -> bool,
) -> Option<&'a str> {
    let satisfies = |at: usize| packument.entries[at].version.as_ref().is_some_and(|version| range.matches(version));
    if let Some(latest) = latest.filter(|latest| packument.find(latest).is_some_and(|(at, _)| among(at) && satisfies(at))) {
        return Some(latest);
    }
    let fitting: Vec<_> = (0..packument.entries.len()).filter(|&at| among(at) && satisfies(at)).collect();
    dist_tags::highest(fitting.into_iter().map(|at| &packument.entries[at]))
}

pub(crate) fn no_version(name: &PackageName, wanted: &str) -> FirewallError {
    FirewallError::NotFound(crate::firewall::error::one_line(&format!("no version of {name} matches: {wanted}")).into())
}
