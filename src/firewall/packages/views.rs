//! Handles the views of a package: anonymous, with configured credentials, and with clients' own tokens. A view that a document
//! contradicts is fetched again. Requests for nonexistent names are counted per client.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::firewall::Components;
use crate::firewall::error::FirewallError;
use crate::firewall::package::CacheKey;
use crate::firewall::package::history::Parted;
use crate::firewall::packages::fetch::{DocumentNeed, FetchRequest};
use crate::firewall::packages::ingest::Contradictions;
use crate::net::fair_limit::network_of;
use crate::npm::{DigestComparison, Integrity, PackageName};
use crate::store::PackageRecord;
use crate::units::timestamp;

/// The least interval between two such fetches of a view, so that a package that always contradicts itself costs upstream little.
const REFETCH_INTERVAL: Duration = Duration::from_secs(10);

/// The number of package locks. Packages that share one wait for each other for milliseconds.
const STRIPES: usize = 64;

/// The number of observation counters. Packages that share one are compared with their records more often than necessary.
const LOOK_COUNTERS: usize = 4_096;

/// Serializes the recording of observations per package.
#[derive(Debug)]
pub(crate) struct Turns {
    stripes: [Mutex<()>; STRIPES],
    /// The number of observations that were compared with all views.
    looks: Box<[AtomicU64]>,
}

impl Default for Turns {
    fn default() -> Self {
        let looks = (0..LOOK_COUNTERS).map(|_| AtomicU64::default()).collect();
        Self { stripes: std::array::from_fn(|_| Mutex::default()), looks }
    }
}

impl Turns {
    /// Locks a package. Blocks.
    pub(crate) fn lock(&self, name: &PackageName) -> MutexGuard<'_, ()> {
        self.stripes[place(name, STRIPES)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an observation that was compared with the records of all views. Returns its number, which is never zero.
    pub(crate) fn note_look(&self, name: &PackageName) -> u64 {
        self.looks[place(name, LOOK_COUNTERS)].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Checks whether no later observation of any view was compared.
    pub(crate) fn is_last_look(&self, name: &PackageName, look: u64) -> bool {
        look != 0 && self.looks[place(name, LOOK_COUNTERS)].load(Ordering::Relaxed) == look
    }
}

fn place(name: &PackageName, count: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "any of its bits will do")]
    let place = hasher.finish() as usize % count;
    place
}

impl Components {
    /// Checks whether a contradicted view may be fetched again now.
    pub(crate) fn may_ask_again(&self, view: &CacheKey, now: Timestamp) -> bool {
        !self.asked_again.get(view).is_some_and(|since| timestamp::is_within(since, REFETCH_INTERVAL, now))
    }

    /// Fetches the views in `contradictions` again. Returns the versions over which all of them still disagree. A view that fails
    /// or answers from a cache does not disagree.
    ///
    /// Boxed, because these fetches are started by such a fetch.
    pub(crate) fn ask_views_again<'a>(
        self: &'a Arc<Self>,
        request: &'a FetchRequest,
        contradictions: Contradictions,
        asked: ViewQuestion,
    ) -> Pin<Box<dyn Future<Output = Parted> + Send + 'a>> {
        Box::pin(async move {
            let mut views: Vec<CacheKey> = Vec::new();
            for (_, _, view) in &contradictions {
                // There are at most three.
                if !views.contains(view) {
                    views.push(view.clone());
                }
            }
            let mut answers = Vec::new();
            for view in views {
                let record = self.ask_view_again(request, &view, asked).await;
                answers.push((view, record.map(present)));
            }
            let mut diverged = Parted::new();
            let mut agreed: Vec<Box<str>> = Vec::new();
            for (version, integrity, view) in contradictions {
                let answer = answers.iter().find(|(asked, _)| *asked == view).and_then(|(_, answer)| answer.as_ref());
                match answer.filter(|present| {
                    !present
                        .get(&version)
                        .is_some_and(|rows| rows.iter().any(|row| may_be_same(row.as_ref(), integrity.as_ref())))
                }) {
                    Some(_) => drop(diverged.insert(version, integrity)),
                    None => agreed.push(version),
                }
            }
            for version in agreed {
                diverged.remove(&version);
            }
            diverged
        })
    }

    /// Fetches one view again. Returns its record if upstream answered since, and not from a cache.
    async fn ask_view_again(
        self: &Arc<Self>,
        request: &FetchRequest,
        view: &CacheKey,
        asked: ViewQuestion,
    ) -> Option<PackageRecord> {
        let authorization = view.authorization();
        let slot = CacheKey::of(&view.name, &request.registry, &authorization);
        self.asked_again.insert(view.clone(), self.clock.now());
        let again = FetchRequest {
            slot,
            authorization,
            need: DocumentNeed::Index,
            render_request: None,
            ahead: None,
            whole: false,
            again: true,
            asked: Some(Arc::default()),
            ..request.clone()
        };
        let _ = self.fetch_shared(again).await;
        let (inner, registry, view) = (Arc::clone(self), Arc::clone(&request.registry), view.clone());
        let record = self.blocking(move || inner.read_record(&view, &registry).ok()).await.ok()??;
        let document = record.document.as_ref()?;
        let is_new = document.looked >= asked.at && (document.content.is_none() || document.validated >= asked.validated);
        is_new.then(|| Arc::unwrap_or_clone(record))
    }

    /// Counts a client's first request for a name that upstream does not have.
    pub(crate) fn note_absentee(&self, slot: &CacheKey, client: IpAddr) {
        if self.new_absentees.remove(slot).is_none() {
            return;
        }
        let client = network_of(client);
        let count = self.absentees.get(&client).unwrap_or_default();
        self.absentees.insert(client, count.saturating_add(1));
    }

    /// Checks whether a client may request further unknown names.
    pub(crate) fn may_ask_for_more(&self, client: IpAddr) -> Result<(), FirewallError> {
        if self.absentees.get(&network_of(client)).is_some_and(|count| count >= self.config.absent_names) {
            return Err(too_many());
        }
        Ok(())
    }
}

/// When the contradicting document was requested, and as of when upstream vouches for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ViewQuestion {
    pub at: Timestamp,
    pub validated: Timestamp,
}

/// Returns the error for more nonexistent names than can be recorded.
pub(crate) fn too_many() -> FirewallError {
    FirewallError::TooMany("too many packages requested that do not exist; try again tomorrow".into())
}

/// Returns the present versions of a record with their integrities.
fn present(record: PackageRecord) -> HashMap<Box<str>, Vec<Option<Integrity>>> {
    let mut present: HashMap<Box<str>, Vec<Option<Integrity>>> = HashMap::new();
    for release in record.releases.into_iter().filter(|release| release.gone.is_none()) {
        let digests = release.known_digests();
        present.entry(release.version).or_default().push(digests);
    }
    present
}

fn may_be_same(one: Option<&Integrity>, other: Option<&Integrity>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.compare(other) != DigestComparison::Different,
        (None, None) => true,
        _ => false,
    }
}
