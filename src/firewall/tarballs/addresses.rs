//! Finds the version whose tarball is at a URL of the registry. A packument's URLs count in the view that was shown it. A URL
//! that two packages claim, or two versions with different digests, is refused.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use moka::sync::Cache;

use crate::firewall::client_scope;
use crate::firewall::error::{FirewallError, Refusal, Result};
use crate::firewall::package::{CacheKey, PackageSnapshot};
use crate::firewall::packages::Services;
use crate::firewall::packages::ingest::{IngestEvent, PackageObserver};
use crate::firewall::packages::request::{DocumentNeed, PackageLookup};
use crate::firewall::packages::service::{EvaluatedPackage, PackageService};
use crate::firewall::request::Client;
use crate::npm::tarball_address::MAX_NAMES;
use crate::npm::{Address, PackageName, Packument, tarball_url};
use crate::policy::{RuleId, Verdict};
use crate::upstream::{Authorization, UpstreamError};

/// Memory for claims, in bytes: about 100,000 URLs that do not contain their package's name. Few registries have such URLs.
const CLAIMS_BYTES: u64 = 16 << 20;

/// Memory for URL indexes of packuments, in bytes.
const INDEXES_BYTES: u64 = 16 << 20;

/// The most claims per packument. Further ones are not found by URL.
const MAX_CLAIMS_PER_PACKUMENT: usize = 5_000;

/// The number of versions above which an index is built off the async threads.
const MAX_INLINE_VERSIONS: usize = 100;

/// A path, and whether it was seen with a client's own credentials. What one token may read must not be disclosed to clients
/// without one.
type ClaimKey = (bool, Box<str>);

/// The tarball URLs that packuments state.
pub(crate) struct Addresses {
    /// The packages that claim a URL that does not contain their name. These are hints: each package is looked up in the view of
    /// the requesting client. All claims of a URL are evicted together.
    claims: Cache<ClaimKey, Arc<[PackageName]>>,
    /// The URL index of each packument, by the hash of its document.
    indexes: Cache<[u8; 32], Arc<Index>>,
}

/// The entries of a packument by the hash of their path, sorted.
struct Index(Box<[(u64, u32)]>);

impl Default for Addresses {
    fn default() -> Self {
        let claim = |(_, path): &ClaimKey, names: &Arc<[PackageName]>| {
            let names: usize = names.iter().map(|name| name.as_str().len() + 32).sum();
            u32::try_from(path.len() + names + 96).unwrap_or(u32::MAX)
        };
        let index = |_: &[u8; 32], index: &Arc<Index>| u32::try_from(index.0.len() * 16 + 96).unwrap_or(u32::MAX);
        Self {
            claims: Cache::builder().max_capacity(CLAIMS_BYTES).weigher(claim).build(),
            indexes: Cache::builder().max_capacity(INDEXES_BYTES).weigher(index).build(),
        }
    }
}

impl Addresses {
    /// Records the tarball URLs of a new packument that do not contain its name.
    pub(crate) fn note(&self, cache_key: &CacheKey, packument: &Packument) {
        let name = &packument.name;
        let addresses = packument.entries.iter().filter(|entry| !entry.tarball.ends_with(&tarball_url("", name, &entry.key)));
        let addresses = addresses.filter_map(|entry| Address::of_stated(&entry.tarball));
        for address in addresses.filter(|address| !address.names().contains(name)).take(MAX_CLAIMS_PER_PACKUMENT) {
            let key = (cache_key.is_client_scoped(), address.path.clone());
            self.claims.entry(key).and_upsert_with(|known| match known.map(moka::Entry::into_value) {
                None => Arc::from([name.clone()]),
                // More than one is refused anyway.
                Some(names) if names.contains(name) || names.len() >= MAX_NAMES => names,
                Some(names) => names.iter().chain([name]).cloned().collect(),
            });
        }
    }

    fn claimants(&self, is_own: bool, address: &Address) -> Arc<[PackageName]> {
        self.claims.get(&(is_own, address.path.clone())).unwrap_or_default()
    }
}

impl Index {
    fn new(packument: &Packument) -> Self {
        let paths = (0..).zip(&packument.entries).filter_map(|(at, entry)| {
            let address = Address::of_stated(&entry.tarball)?;
            Some((hash(&address.path), at))
        });
        let mut paths: Vec<(u64, u32)> = paths.collect();
        paths.sort_unstable();
        Self(paths.into())
    }

    /// Returns the indexes of the entries that `address` selects. Entries that state its query take precedence over those without
    /// a query.
    fn find(&self, packument: &Packument, address: &Address) -> Vec<usize> {
        let wanted = hash(&address.path);
        let start = self.0.partition_point(|(hash, _)| *hash < wanted);
        let same = self.0[start..].iter().take_while(|(hash, _)| *hash == wanted).map(|(_, at)| *at as usize);
        let stated = same.filter_map(|at| Some((at, Address::of_stated(&packument.entries[at].tarball)?)));
        let (exact, plain): (Vec<_>, Vec<_>) =
            stated.filter(|(_, stated)| address.selects(stated)).partition(|(_, stated)| stated.query.is_some());
        let found = if exact.is_empty() { plain } else { exact };
        found.into_iter().map(|(at, _)| at).collect()
    }
}

fn hash(path: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

impl PackageObserver for Addresses {
    fn ingested(&self, event: &mut IngestEvent<'_>) {
        self.note(&event.request.cache_key, event.packument);
    }
}

/// Finds the version whose tarball is at an address.
pub(crate) struct TarballLocator {
    pub services: Arc<Services>,
    pub addresses: Arc<Addresses>,
    pub packages: Arc<PackageService>,
}

impl TarballLocator {
    /// Returns the package and version whose tarball is at `address` in the view of the client; `None` if no packument of that
    /// view has it. At most [`MAX_NAMES`] packages are looked up because their names are in the path.
    pub(crate) async fn locate(&self, client: &Client, address: &Address) -> Result<Option<(PackageName, Box<str>)>> {
        let (mut names, owner) = (address.names(), address.owner());
        if owner.is_none() {
            let is_own = matches!(client.authorization, Authorization::Own(_));
            let views = if is_own { &[false, true][..] } else { &[false] };
            for name in views.iter().flat_map(|view| self.addresses.claimants(*view, address).to_vec()) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let beyond = names.iter().find_map(|name| client_scope::check(client, name).err());
        names.retain(|name| client_scope::check(client, name).is_ok());
        if let Some(error) = beyond.filter(|_| names.is_empty()) {
            return Err(error);
        }
        let mut readings = Vec::new();
        let found = self.locate_among(client, address, &names, &mut readings).await?;
        let Some(version) = address.version().filter(|_| found.is_none()) else { return Ok(found) };
        // It may have been published since the last check.
        let mut is_newer = false;
        for lookup in readings {
            let has = |packument: &Arc<Packument>| packument.find_same(version).is_some();
            if !lookup.package.packument.as_ref().is_some_and(has) {
                let again = self.packages.recheck(client, &lookup, version, DocumentNeed::Index).await;
                is_newer |= again.is_some_and(|again| again.package.content() != lookup.package.content());
            }
        }
        if is_newer { self.locate_among(client, address, &names, &mut Vec::new()).await } else { Ok(None) }
    }

    /// Searches the packuments of `names` and appends the lookups to `readings`.
    async fn locate_among(
        &self,
        client: &Client,
        address: &Address,
        names: &[PackageName],
        readings: &mut Vec<PackageLookup>,
    ) -> Result<Option<(PackageName, Box<str>)>> {
        let owner = address.owner();
        let mut found: Option<(PackageName, Box<str>)> = None;
        for name in names {
            let evaluated = match self.packages.evaluated(client, name, DocumentNeed::Index, None).await {
                Ok(evaluated) => evaluated,
                Err(
                    FirewallError::NotFound(_) | FirewallError::Upstream(UpstreamError::NotFound | UpstreamError::Denied { .. }),
                ) => {
                    continue;
                }
                // A package that cannot be looked up may claim it too.
                Err(other) => return Err(other),
            };
            readings.push(evaluated.lookup.clone());
            let places =
                self.index(client, &evaluated.lookup.package, &evaluated.packument).await?.find(&evaluated.packument, address);
            let Some(version) = self.choose(client, &evaluated, &places)? else {
                // A removed version is known by its number only.
                let removed = owner.as_ref().filter(|(_, version)| evaluated.packument.find(version).is_none());
                found = removed.map(|(name, version)| (name.clone(), version.as_str().into())).or(found);
                continue;
            };
            if let Some((other, _)) = &found {
                let detail = format!("its tarball URL is also claimed by another package: {other}");
                return Err(self.ambiguous(client, name, &version, detail));
            }
            found = Some((name.clone(), version));
        }
        Ok(found)
    }

    /// Returns the version of the entries at `places`, preferably a visible one: all have the same digests.
    fn choose(&self, client: &Client, evaluated: &EvaluatedPackage, places: &[usize]) -> Result<Option<Box<str>>> {
        let EvaluatedPackage { packument, table, .. } = evaluated;
        let Some(&first) = places.iter().find(|at| table.shown[**at]).or(places.first()) else { return Ok(None) };
        let entry = &packument.entries[first];
        let differs = |at: &usize| {
            let integrity = &packument.entries[*at].integrity;
            *at != first && (integrity.is_none() || *integrity != entry.integrity)
        };
        if let Some(other) = places.iter().find(|at| differs(at)) {
            let other = &packument.entries[*other].key;
            let detail = format!("its tarball URL is shared with a version that has a different digest: {other}");
            return Err(self.ambiguous(client, &packument.name, &entry.key, detail));
        }
        Ok(Some(entry.key.clone()))
    }

    fn ambiguous(&self, client: &Client, name: &PackageName, version: &str, detail: String) -> FirewallError {
        let verdict = Verdict::deny(RuleId::SelfContradiction, detail);
        let refusal = Refusal::of_version(name, version, &verdict, None);
        refusal.map_or_else(
            || FirewallError::Internal("a refusal has no reason".into()),
            |refusal| self.services.recorder.refusal(client, refusal),
        )
    }

    /// Returns the URL index of a packument, built on first use.
    async fn index(&self, client: &Client, known: &PackageSnapshot, packument: &Arc<Packument>) -> Result<Arc<Index>> {
        let content = known.content();
        if let Some(index) = self.addresses.indexes.get(&content) {
            return Ok(index);
        }
        let index = if packument.entries.len() <= MAX_INLINE_VERSIONS {
            Index::new(packument)
        } else {
            let _permit = self.services.parse_pool.threads.acquire(client.address).await;
            let packument = Arc::clone(packument);
            self.services.workers.run(move || Index::new(&packument)).await?
        };
        let index = Arc::new(index);
        self.addresses.indexes.insert(content, Arc::clone(&index));
        Ok(index)
    }
}
