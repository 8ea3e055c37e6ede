//! Notes what one command asked for and what became of it, on its way to whoever answers. Refuses to change an answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::firewall::{Answer, Asker, Coding, Contacting, Firewall, Hidden, Refusal, Rejection, Tarball, Want};
use crate::npm::Form;
use crate::npm::{Address, PackageName};
use crate::server::Answers;
use crate::upstream::{Passage, Passed};

/// What was noted.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// Each tarball that was served, and whether it was here already.
    pub served: BTreeMap<(PackageName, Box<str>), bool>,
    /// The bytes of all of them, as often as they were served.
    pub bytes: u64,
    /// Each version that was refused, or whole package.
    pub refused: BTreeMap<(PackageName, Option<Box<str>>), Refusal>,
    /// What could not be answered, by package: why.
    pub failed: BTreeMap<PackageName, String>,
    /// What packuments were answered without.
    pub hidden: BTreeMap<PackageName, Hidden>,
}

/// Packages that are noted of a kind: a command names as many as it likes.
const MOST: usize = 100_000;

/// Notes while it passes on.
pub(crate) struct Witness<A> {
    inner: Arc<A>,
    /// What the project wants, by package.
    wants: HashMap<PackageName, Vec<Want>>,
    noted: Arc<Mutex<Noted>>,
}

/// Who can tell what a packument was answered without.
pub(crate) trait Hides {
    /// What is hidden of a package from `asker`, and what of it is wanted.
    fn hidden(&self, asker: &Asker, name: &PackageName, wants: &[Want]) -> Option<Hidden>;
}

impl Hides for Firewall {
    fn hidden(&self, asker: &Asker, name: &PackageName, wants: &[Want]) -> Option<Hidden> {
        Firewall::hidden(self, asker, name, wants)
    }
}

impl<A: Answers + Hides> Witness<A> {
    /// A witness before `inner` for a project that wants these packages.
    pub(crate) fn before(inner: Arc<A>, wants: &[(String, Want)]) -> Self {
        let mut by_package: HashMap<PackageName, Vec<Want>> = HashMap::new();
        for (name, want) in wants {
            // Words of a command that name no package are left out.
            if let Ok(name) = PackageName::parse(name) {
                by_package.entry(name).or_default().push(want.clone());
            }
        }
        Self { inner, wants: by_package, noted: Arc::default() }
    }

    /// What has been noted until now.
    pub(crate) fn noted(&self) -> Noted {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, change: impl FnOnce(&mut Noted)) {
        change(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes why there is no answer; that there is no such package is an answer.
    fn note_rejection(&self, name: &PackageName, rejection: &Rejection) {
        match rejection {
            Rejection::Refused(refusal) => {
                let key = (refusal.name.clone(), refusal.version.clone());
                self.note(|noted| keep(&mut noted.refused, key, || Refusal::clone(refusal)));
            }
            Rejection::NotFound(_) => {}
            other => self.note(|noted| keep(&mut noted.failed, name.clone(), || other.to_string())),
        }
    }

    fn note_hidden(&self, asker: &Asker, name: &PackageName) {
        let wants = self.wants.get(name).map(Vec::as_slice).unwrap_or_default();
        let hidden = self.inner.hidden(asker, name, wants);
        self.note(|noted| {
            noted.failed.remove(name);
            if let Some(hidden) = hidden {
                keep(&mut noted.hidden, name.clone(), || hidden);
            }
        });
    }

    fn noting<T>(&self, name: &PackageName, answered: Result<T, Rejection>) -> Result<T, Rejection> {
        if let Err(rejection) = &answered {
            self.note_rejection(name, rejection);
        }
        answered
    }
}

/// Notes a value, the latest of a key, while there is room.
fn keep<K: Ord, V>(kept: &mut BTreeMap<K, V>, key: K, value: impl FnOnce() -> V) {
    if kept.len() < MOST || kept.contains_key(&key) {
        kept.insert(key, value());
    }
}

impl<A: Answers + Hides> Answers for Witness<A> {
    async fn packument(&self, asker: &Asker, name: &PackageName, form: Form, coding: Coding) -> Result<Answer, Rejection> {
        let answered = self.noting(name, self.inner.packument(asker, name, form, coding).await);
        if matches!(answered, Ok(_) | Err(Rejection::Refused(_))) {
            self.note_hidden(asker, name);
        }
        answered
    }

    async fn manifest(&self, asker: &Asker, name: &PackageName, wanted: &str) -> Result<Bytes, Rejection> {
        self.noting(name, self.inner.manifest(asker, name, wanted).await)
    }

    async fn dist_tags(&self, asker: &Asker, name: &PackageName) -> Result<Bytes, Rejection> {
        self.noting(name, self.inner.dist_tags(asker, name).await)
    }

    async fn tarball(&self, asker: &Asker, name: &PackageName, version: &str) -> Result<Tarball, Rejection> {
        let answered = self.noting(name, self.inner.tarball(asker, name, version).await);
        if let Ok(tarball) = &answered {
            self.note(|noted| {
                noted.bytes += tarball.bytes.len() as u64;
                noted.failed.remove(name);
                // What was fetched for this command lies in the store when it is asked for again.
                let key = (name.clone(), version.into());
                if !noted.served.contains_key(&key) {
                    keep(&mut noted.served, key, || tarball.kept);
                }
            });
        }
        answered
    }

    async fn locate(&self, asker: &Asker, address: &Address) -> Result<Option<(PackageName, Box<str>)>, Rejection> {
        let located = self.inner.locate(asker, address).await;
        if let Err(rejection @ Rejection::Refused(refusal)) = &located {
            self.note_rejection(&refusal.name, rejection);
        }
        located
    }

    fn contact(&self, contacting: &Contacting<'_>) -> Option<String> {
        self.inner.contact(contacting)
    }

    async fn search(&self, asker: &Asker, passage: Passage) -> Result<Passed, Rejection> {
        self.inner.search(asker, passage).await
    }

    async fn audit(
        &self,
        asker: &Asker,
        passage: Passage,
        body: Bytes,
        bulk: bool,
    ) -> Result<(Passed, Option<String>), Rejection> {
        self.inner.audit(asker, passage, body, bulk).await
    }

    async fn attestations(
        &self,
        asker: &Asker,
        name: &PackageName,
        version: &str,
        passage: Passage,
    ) -> Result<Passed, Rejection> {
        self.inner.attestations(asker, name, version, passage).await
    }

    async fn pass(&self, asker: &Asker, name: Option<&PackageName>, passage: Passage) -> Result<Passed, Rejection> {
        self.inner.pass(asker, name, passage).await
    }

    async fn write(&self, asker: &Asker, name: Option<&PackageName>, passage: Passage) -> Result<Passed, Rejection> {
        self.inner.write(asker, name, passage).await
    }
}
