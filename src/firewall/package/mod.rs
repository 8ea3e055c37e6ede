//! An immutable snapshot of a package: its index, its record, and when upstream last confirmed it.

pub(crate) mod as_of;
pub(crate) mod cohort_table;
pub(crate) mod dependency_lookups;
pub(crate) mod entry_flags;
pub mod history;
pub(crate) mod provenance;
pub(crate) mod removed;
pub(crate) mod signal_records;
pub(crate) mod signal_table;
pub(crate) mod signals;
pub(crate) mod signing;
pub(crate) mod stored_tarballs;
pub(crate) mod vetted_tarballs;

use std::sync::{Arc, LazyLock, OnceLock};

use jiff::{SignedDuration, Timestamp};

use crate::firewall::package::cohort_table::CohortTable;
use crate::firewall::package::history::ReleaseHistory;
use crate::firewall::package::signal_table::SignalTable;
use crate::firewall::singleflight;
use crate::npm::packument::index::VersionEntry;
use crate::npm::{Algorithm, Digest, Integrity, PackageName, Packument, PackumentForm, Version};
use crate::policy::advisories::AdvisoryKind;
use crate::policy::{Advisory, ApplicableAdvisories, Facts, UnknownFacts};
use crate::store::{PackageKey, PackageRecord, Release, StoredPackument};
use crate::units::timestamp;
use crate::upstream::{Authorization, CacheValidators, Registry};
use crate::vetting::{self, Finding};

/// The reason for refusing a version that cannot be recorded.
const RECORD_FULL: &str = "the ledger's record of this package is full, so the history of this version is unknown";

/// The number of versions above which work on all of them leaves the async threads. Below it takes one or two milliseconds.
pub(crate) const MANY_VERSIONS: usize = 4_000;

/// The probe token, which no registry issued. A registry that accepts any token shows it what all tokens are shown.
const PROBE_TOKEN: &str = "Bearer coldframe-is-asking-again";

/// The credentials that a packument was fetched with. What one client's credentials can read is never shown to another client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum CredentialScope {
    Anonymous,
    /// The configured credentials.
    Lent,
    /// A client's own credentials: SHA-256 of the header.
    Own([u8; 32]),
}

/// A package as seen with one set of credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct CacheKey {
    pub name: PackageName,
    pub partition: CredentialScope,
}

impl CacheKey {
    pub(crate) fn of(name: &PackageName, registry: &Registry, authorization: &Authorization) -> Self {
        let partition = match registry.select_authorization(authorization) {
            Authorization::Lent if registry.has_credentials => CredentialScope::Lent,
            Authorization::None | Authorization::Lent => CredentialScope::Anonymous,
            Authorization::Own(own) => {
                let digest = Digest::of(Algorithm::Sha256, own.header.as_bytes());
                CredentialScope::Own(digest.as_bytes().try_into().unwrap_or_default())
            }
        };
        Self { name: name.clone(), partition }
    }

    /// Returns the key that all clients' own tokens share: one history, one stored document, one rendering. Upstream is asked for
    /// each token whether it may read the package; what upstream then confirms is the same for all.
    pub(crate) fn shared(&self) -> Self {
        let shared = self.is_client_scoped().then_some(CredentialScope::Own([0; 32]));
        Self { name: self.name.clone(), partition: shared.unwrap_or_else(|| self.partition.clone()) }
    }

    /// Checks whether this is the view of a client's own credentials. What it lacks may exist for others.
    pub(crate) fn is_client_scoped(&self) -> bool {
        matches!(self.partition, CredentialScope::Own(_))
    }

    /// Checks whether this is the view of the probe token.
    pub(crate) fn is_strangers(&self) -> bool {
        static DIGEST: LazyLock<Digest> = LazyLock::new(|| Digest::of(Algorithm::Sha256, PROBE_TOKEN.as_bytes()));
        matches!(&self.partition, CredentialScope::Own(digest) if digest == DIGEST.as_bytes())
    }

    /// Returns the index of the view of clients' own tokens among the other views; `None` if this is that view.
    pub(crate) fn place_of_tokens(&self, registry: &Registry) -> Option<usize> {
        self.others(registry).iter().position(Self::is_client_scoped)
    }

    /// Returns the other views of the package. All share one history while none contradicts another.
    pub(crate) fn others(&self, registry: &Registry) -> Vec<Self> {
        let lent = registry.has_credentials.then_some(CredentialScope::Lent);
        let views = [CredentialScope::Anonymous, CredentialScope::Own([0; 32])].into_iter().chain(lent);
        views.map(|partition| Self { name: self.name.clone(), partition }).filter(|other| *other != self.shared()).collect()
    }

    /// Returns the authorization to fetch this view without a client. Clients' own tokens are represented by the probe token: a
    /// registry that accepts any token answers it like theirs, others refuse it.
    pub(crate) fn authorization(&self) -> Authorization {
        match self.partition {
            CredentialScope::Anonymous => Authorization::None,
            CredentialScope::Lent => Authorization::Lent,
            CredentialScope::Own(_) => Authorization::Own(PROBE_TOKEN.into()),
        }
    }

    /// Returns the ledger's key. Each view has its own record, since a registry may show different packages under one name.
    pub(crate) fn key(&self, registry: &Registry) -> PackageKey {
        let upstream = match self.partition {
            CredentialScope::Own(_) => format!("{}#own", registry.id()).into(),
            CredentialScope::Anonymous if registry.has_credentials => format!("{}#anonymous", registry.id()).into(),
            CredentialScope::Anonymous | CredentialScope::Lent => Arc::clone(registry.id()),
        };
        PackageKey { upstream, name: self.name.clone() }
    }
}

/// Returns when a package began: the earliest effective time of its versions, except security placeholders. `None` if upstream
/// sends no times, in which case its versions are held like any release.
pub(crate) fn first_published(packument: &Packument, provenance: &[ReleaseHistory]) -> Option<Timestamp> {
    packument.oldest?;
    let real = packument.entries.iter().zip(provenance).filter(|(entry, _)| !entry.key.ends_with("-security"));
    real.map(|(_, provenance)| provenance.began).min()
}

/// For each entry of a packument, when the parent package that pins it was first published; `None` if no parent is known.
pub(crate) type ParentFirstSeen = Box<[Option<Timestamp>]>;

/// What the facts of a package's releases depend on besides the package itself and its record.
#[derive(Clone, Copy)]
pub(crate) struct LinkedFacts<'a> {
    /// The parent package, if it is known.
    pub parent: Option<&'a ParentFirstSeen>,
    pub signals: &'a SignalTable,
    /// The versions that wait for siblings, if they are known.
    pub cohorts: Option<&'a CohortTable>,
}

#[derive(Clone)]
pub(crate) struct PackageSnapshot {
    pub cache_key: CacheKey,
    pub registry: Arc<Registry>,
    /// The form of the document. Fields that the form lacks are unknown.
    pub form: PackumentForm,
    /// Whether the full form was requested but the abbreviated one arrived, as from caches that ignore `Vary`.
    pub has_no_more: bool,
    /// The index; `None` if upstream no longer has the package.
    pub packument: Option<Arc<Packument>>,
    /// The history of each entry of the index.
    pub provenance: Arc<[ReleaseHistory]>,
    pub record: Arc<PackageRecord>,
    /// Indexes of the record's releases, sorted by version on first use.
    pub by_version: OnceLock<Arc<[u32]>>,
    pub document: StoredPackument,
    pub confirmed: Confirmation,
    pub views: ViewComparison,
    pub first_published: Option<Timestamp>,
}

/// When upstream last confirmed a package.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confirmation {
    /// By the earlier of the two clocks. Verdicts are as of this instant.
    pub validated: Timestamp,
    /// By the system clock. Freshness counts from here.
    pub checked: Timestamp,
    /// How far upstream's clock is behind, if it is so far that no version opens.
    pub behind: Option<SignedDuration>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ViewComparison {
    /// Whether it contradicts another view that could not be fetched again. It is compared again when upstream confirms it.
    pub disputed: bool,
    /// The number of the observation that produced it; 0 if it was not compared with all views.
    pub look: u64,
}

impl PackageSnapshot {
    /// Checks whether work on all versions must run off the async threads.
    pub(crate) fn has_many_versions(&self) -> bool {
        self.packument.as_ref().is_some_and(|packument| packument.entries.len() > MANY_VERSIONS)
            || self.record.releases.len() > MANY_VERSIONS
    }

    /// Panics in debug builds if work on many versions would run on an async thread.
    pub(crate) fn assert_off_async_threads(&self) {
        if cfg!(debug_assertions) && self.has_many_versions() {
            singleflight::assert_may_block();
        }
    }

    /// Returns the recorded releases of a version, ordered by `first_seen`.
    pub(crate) fn releases_of<'a>(&'a self, version: &'a str) -> impl Iterator<Item = &'a Release> {
        let (sorted, release) = (self.sorted(), |place: &u32| &self.record.releases[*place as usize]);
        let first = sorted.partition_point(|place| *release(place).version < *version);
        sorted[first..].iter().map(release).take_while(move |release| *release.version == *version)
    }

    pub(crate) fn sorted(&self) -> &[u32] {
        self.by_version.get_or_init(|| {
            self.assert_off_async_threads();
            let releases = &self.record.releases;
            let mut places: Vec<u32> = (0..).take(releases.len()).collect();
            places.sort_by_key(|place| &releases[*place as usize].version);
            places.into()
        })
    }

    /// Returns the digest of the document; zeros if there is none.
    pub(crate) fn content(&self) -> [u8; 32] {
        self.document.content.unwrap_or_default()
    }

    /// Returns each version with its effective time.
    pub(crate) fn dated<'a>(
        &'a self,
        packument: &'a Packument,
    ) -> impl Iterator<Item = (&'a str, Option<&'a Version>, Timestamp)> {
        let entries = packument.entries.iter().zip(&*self.provenance);
        entries.map(|(entry, provenance)| (&*entry.key, entry.version.as_ref(), provenance.effective))
    }

    /// Returns the facts of the entry at `at`.
    pub(crate) fn facts_with<'a>(
        &'a self,
        linked: LinkedFacts<'a>,
        packument: &'a Packument,
        at: usize,
        advisories: &'a ApplicableAdvisories<'a>,
    ) -> Facts<'a> {
        let entry = &packument.entries[at];
        let provenance = &self.provenance[at];
        let report = linked.signals.report(at);
        let found = linked.signals.findings(at);
        let (fix, hangs_on_publishers) = self.fix(packument, at, advisories);
        let integrity = linked.signals.listed.get(&at).or(provenance.digests.as_ref()).or(entry.integrity.as_ref());
        let advised = advisories.listing(integrity).next().map(|_| Finding::AdvisedIntegrity);
        let mut facts = Facts {
            parent: linked.parent.and_then(|parent| parent.get(at).copied().flatten()),
            integrity,
            integrity_changed: provenance.integrity_changed,
            first_published: self.first_published,
            advisories,
            fix,
            signals: report.map(|report| report.signals).unwrap_or_default(),
            pending: report.map(|report| report.pending).unwrap_or_default(),
            unobservable: report.map(|report| report.unobservable).unwrap_or_default(),
            evidence: report.map(|report| &*report.evidence).unwrap_or_default(),
            findings: found.iter().map(|evidence| evidence.finding).chain(advised).collect(),
            finding_evidence: found,
            cohort: linked.cohorts.and_then(|cohorts| cohorts.waits.get(&at)),
            unknown: UnknownFacts { fix: hangs_on_publishers, ..self.unknown(entry) },
            ..Facts::of_entry(packument, entry, provenance.effective)
        };
        if provenance.unrecorded && facts.flaw.is_none() {
            facts.flaw = Some(RECORD_FULL);
        }
        facts
    }

    /// Checks whether the full form can be rendered. Some registries always send it; fields it lacks stay unknown to rules.
    pub(crate) fn renders_full(&self) -> bool {
        let is_whole = |packument: &Arc<Packument>| packument.contents.has_more && packument.is_timed();
        self.form == PackumentForm::Full || self.packument.as_ref().is_some_and(is_whole)
    }

    /// Returns the facts of the entry that the document does not state. A field missing in the full form is known to be absent.
    fn unknown(&self, entry: &VersionEntry) -> UnknownFacts {
        if self.form == PackumentForm::Full {
            return UnknownFacts::NONE;
        }
        UnknownFacts {
            publisher: entry.publisher.is_none(),
            maintainers: entry.maintainers.is_none(),
            // Other versions prove nothing: this one may be written by a different publisher.
            install_script: !entry.traits.install_script && !entry.outline.has_scripts,
            fix: false,
        }
    }

    /// Returns the digests that the tarball of the entry at `at` must match: all that are known, else those that are stated.
    pub(crate) fn integrity_of(&self, at: usize) -> Option<&Integrity> {
        let stated = || self.packument.as_ref()?.entries.get(at)?.integrity.as_ref();
        self.provenance.get(at).and_then(|history| history.digests.as_ref()).or_else(stated)
    }

    /// Returns the positions of the newest releases that an attacker cannot have published this week, newest first: at most `count`
    /// of those that `accepts`. A release that changed its bytes is none.
    pub(crate) fn newest_baseline(
        &self,
        packument: &Packument,
        count: usize,
        accepts: impl Fn(usize, &VersionEntry) -> bool,
    ) -> Vec<usize> {
        let until = timestamp::saturating_sub(self.confirmed.validated, vetting::BASELINE_AGE);
        let mut newest: Vec<(Timestamp, usize)> = Vec::with_capacity(count + 1);
        for (at, (entry, history)) in packument.entries.iter().zip(&*self.provenance).enumerate() {
            let is_older = || newest.len() == count && newest.last().is_some_and(|last| *last >= (history.effective, at));
            if history.effective <= until && !history.integrity_changed && !is_older() && accepts(at, entry) {
                newest.push((history.effective, at));
                newest.sort_unstable_by(|left, right| right.cmp(left));
                newest.truncate(count);
            }
        }
        newest.into_iter().map(|(_, at)| at).collect()
    }

    /// Returns the versions so much older than the entry at `at` that an attacker cannot have published both.
    fn baseline<'a>(&'a self, packument: &'a Packument, at: usize) -> impl Iterator<Item = &'a VersionEntry> {
        let until = timestamp::saturating_sub(self.provenance[at].effective, vetting::BASELINE_AGE);
        let old = packument.entries.iter().zip(&*self.provenance).filter(move |(_, provenance)| provenance.effective <= until);
        old.map(|(entry, _)| entry)
    }

    /// Returns the reviewed advisory that lists the entry as the fix of a vulnerability, if its publisher published the package
    /// before. The flag is set if that depends on publishers that the document lacks.
    fn fix<'a>(&self, packument: &Packument, at: usize, advisories: &'a ApplicableAdvisories<'a>) -> (Option<&'a str>, bool) {
        let entry = &packument.entries[at];
        let reviewed = |advisory: &Advisory<'_>| advisory.kind == AdvisoryKind::Vulnerability && advisory.reviewed;
        let advisory = entry.version.as_ref().and_then(|version| advisories.fixed_in(version).find(reviewed));
        let Some(advisory) = advisory else { return (None, false) };
        let may_lack = self.form == PackumentForm::Abbreviated;
        let Some(publisher) = entry.publisher.as_deref() else { return (None, may_lack) };
        let mut lacks = false;
        let known = self.baseline(packument, at).any(|other| {
            lacks |= other.publisher.is_none();
            other.publisher.as_deref() == Some(publisher)
        });
        (known.then_some(advisory.id), !known && lacks && may_lack)
    }

    pub(crate) fn validators(&self) -> CacheValidators {
        if self.packument.is_none() {
            return CacheValidators::default();
        }
        CacheValidators { etag: self.document.etag.clone(), last_modified: self.document.last_modified.clone() }
    }

    pub(crate) fn weight(&self) -> u32 {
        let packument = self.packument.as_ref().map_or(0, |packument| packument.weight() + packument.entries.len() * 32);
        let record = self.record.releases.len() * 360 + self.record.tags.len() * 96;
        u32::try_from(packument + record + 512).unwrap_or(u32::MAX)
    }
}
