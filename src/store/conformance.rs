//! Conformance tests for all backends of the store. `blob_laws!` and `ledger_laws!` generate the tests of one backend from a home
//! folder and a function that opens the store in it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use proptest::prelude::*;

use crate::npm::packument::manifest_digest::InstallScript;
use crate::npm::{Algorithm, Digest, Hasher, Integrity, ManifestDigest, PackageName, PackumentForm, Sha1Check};
use crate::policy::decisions::Signature;
use crate::policy::{PackageScope, Principal, Role};
use crate::store::access_token::{MAX_PER_LABEL, NewToken, TokenCreation, TokenLedger, TokenRecord, TokenSelector, TokenState};
use crate::store::blobs::{BlobKind, BlobStore, PendingBlob};
use crate::store::error::StoreError;
use crate::store::ledger::StoredPackument;
use crate::store::ledger::{
    DownloadEvent, DownloadKind, DownloadOutcome, Exposure, InspectedTarball, LearnedDigests, Ledger, LedgerEvent, PackageChange,
    PackageKey, PackageRecord, RecordedSignals, Release, ReleaseState, TagSighting, TarballSource, VerifiedProvenance,
};
use crate::vetting::compare::SignalEvidence;
use crate::vetting::provenance::{BuildSource, ProvenanceStatus};
use crate::vetting::{Finding, FindingEvidence, Signal};

/// Opens a store in its home folder. Opening again simulates a restart; the previous store must be dropped first.
pub(crate) type Open<'a, T> = &'a dyn Fn() -> Arc<T>;

/// Generates the tests of a backend of [`BlobStore`]. `$home` creates a home folder, `$open` opens the store in it.
macro_rules! blob_laws {
    ($home:expr, $open:expr) => {
        $crate::store::conformance::laws!($home, $open; crate::store::blobs::BlobStore;
            written_blob_is_read,
            blobs_survive_a_restart,
            mismatching_bytes_are_discarded,
            unfinished_blob_is_missing,
            empty_blob_is_stored,
            concurrent_writes_of_the_same_bytes_succeed,
            all_digests_are_checked_and_sha512_names_a_tarball,
        );
    };
}

/// Generates the tests of a backend of [`Ledger`]. `$home` creates a home folder, `$open` opens the ledger in it.
macro_rules! ledger_laws {
    ($home:expr, $open:expr) => {
        $crate::store::conformance::laws!($home, $open; crate::store::ledger::Ledger;
            unknown_package_has_an_empty_record,
            recorded_package_is_read_before_and_after_a_restart,
            newer_inspection_replaces_the_one_of_the_same_tarball,
            newer_provenance_replaces_the_one_of_the_same_bytes,
            summaries_of_tarballs_belong_to_a_version_of_the_code,
            newer_signals_replace_those_of_the_same_version,
            fields_set_once_do_not_change,
            version_with_two_integrities_is_two_releases,
            digests_of_a_release_are_only_added,
            manifest_digest_is_updated_with_its_release,
            tarballs_are_recorded_by_address_for_all_views,
            addresses_of_the_same_bytes_are_bounded,
            same_name_on_two_registries_is_two_packages,
            out_of_range_instants_keep_their_order,
            tarballs_of_all_packages_are_found_by_digest,
            tarballs_with_listed_files_are_found,
            tarballs_are_listed_by_when_they_were_served,
            equal_downloads_are_counted_per_client,
            exposure_lists_tarballs_and_not_hidden_versions,
            queued_rows_survive_a_restart,
            forgotten_tags_are_deleted,
            absences_are_recorded_but_are_not_packages,
            changes_match_the_model,
        );
    };
}

/// Generates the tests of a backend of [`TokenLedger`]. `$home` creates a home folder, `$open` opens the ledger in it.
macro_rules! token_laws {
    ($home:expr, $open:expr) => {
        $crate::store::conformance::laws!($home, $open; crate::store::access_token::TokenLedger;
            created_token_is_read_before_and_after_a_restart,
            label_is_free_after_its_token_ended,
            token_is_revoked_once,
            uses_of_tokens_only_move_forward,
            tokens_that_ended_long_ago_are_left_out,
            exchanged_tokens_share_labels_up_to_a_limit,
        );
    };
}

macro_rules! laws {
    ($home:expr, $open:expr; $store:path; $($law:ident,)*) => {$(
        #[test]
        fn $law() {
            let home = $home;
            let open = || -> std::sync::Arc<dyn $store> { $open(&home) };
            $crate::store::conformance::$law(&open);
        }
    )*};
}

pub(super) use {blob_laws, laws, ledger_laws, token_laws};

pub(crate) fn put(blobs: &Arc<dyn BlobStore>, bytes: &[u8]) -> Digest {
    let digest = Digest::of(Algorithm::Sha512, bytes);
    let mut pending = begin(blobs, &digest).unwrap();
    bytes.chunks(1000).for_each(|chunk| pending.write(chunk).unwrap());
    assert_eq!(pending.commit().unwrap().bytes, bytes);
    digest
}

/// Starts a tarball that must match `digest`.
pub(crate) fn begin(blobs: &Arc<dyn BlobStore>, digest: &Digest) -> Result<Box<dyn PendingBlob>, StoreError> {
    Arc::clone(blobs).begin(BlobKind::Tarball, Hasher::for_tarball(Integrity::single(digest.clone()), Sha1Check::Plain))
}

/// Opens the blob `digest`.
pub(crate) fn opened(blobs: &dyn BlobStore, digest: &Digest) -> Result<Option<Bytes>, StoreError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(blobs.open(digest))
}

pub(crate) fn written_blob_is_read(open: Open<'_, dyn BlobStore>) {
    let blobs = open();
    assert_eq!(opened(&*blobs, &Digest::of(Algorithm::Sha512, b"unknown")).unwrap(), None);
    let bytes = Bytes::from("0123456789".repeat(5000));
    let digest = put(&blobs, &bytes);
    assert!(blobs.is_verified(&digest));
    assert_eq!(opened(&*blobs, &digest).unwrap(), Some(bytes));
}

pub(crate) fn blobs_survive_a_restart(open: Open<'_, dyn BlobStore>) {
    let blobs = open();
    let digests: Vec<_> = (0..20_u8).map(|fill| put(&blobs, &vec![fill; usize::from(fill) * 777])).collect();
    drop(blobs);
    let blobs = open();
    for (fill, digest) in (0..20_u8).zip(&digests) {
        assert!(!blobs.is_verified(digest));
        assert_eq!(opened(&*blobs, digest).unwrap().unwrap(), vec![fill; usize::from(fill) * 777]);
        assert!(blobs.is_verified(digest));
    }
}

pub(crate) fn mismatching_bytes_are_discarded(open: Open<'_, dyn BlobStore>) {
    let blobs = open();
    let digest = Digest::of(Algorithm::Sha512, b"tarball");
    let mut pending = begin(&blobs, &digest).unwrap();
    pending.write(b"tampered").unwrap();
    assert!(matches!(pending.commit(), Err(StoreError::Mismatch(_))));
    assert_eq!(opened(&*blobs, &digest).unwrap(), None);
    assert_eq!(opened(&*blobs, &Digest::of(Algorithm::Sha512, b"tampered")).unwrap(), None);
}

pub(crate) fn unfinished_blob_is_missing(open: Open<'_, dyn BlobStore>) {
    let blobs = open();
    let digest = Digest::of(Algorithm::Sha512, b"tarball");
    let mut pending = begin(&blobs, &digest).unwrap();
    pending.write(b"tarball").unwrap();
    assert_eq!(opened(&*blobs, &digest).unwrap(), None);
    drop(pending);
    assert_eq!(opened(&*blobs, &digest).unwrap(), None);
    drop(blobs);
    assert_eq!(opened(&*open(), &digest).unwrap(), None);
}

pub(crate) fn empty_blob_is_stored(open: Open<'_, dyn BlobStore>) {
    let digest = put(&open(), b"");
    assert_eq!(opened(&*open(), &digest).unwrap(), Some(Bytes::new()));
}

pub(crate) fn concurrent_writes_of_the_same_bytes_succeed(open: Open<'_, dyn BlobStore>) {
    let (blobs, bytes) = (open(), vec![7; 50_000]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| put(&blobs, &bytes));
        }
    });
    drop(blobs);
    let blobs = open();
    let digest = Digest::of(Algorithm::Sha512, &bytes);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(opened(&*blobs, &digest).unwrap().unwrap(), bytes));
        }
    });
}

pub(crate) fn all_digests_are_checked_and_sha512_names_a_tarball(open: Open<'_, dyn BlobStore>) {
    let blobs = open();
    let strong = Digest::of(Algorithm::Sha512, b"tarball");
    let both =
        |shasum: &[u8]| Integrity::parse(Some(&strong.to_sri()), Some(&Digest::of(Algorithm::Sha1, shasum).to_hex())).unwrap();
    let put = |kind, hasher| {
        let mut pending = Arc::clone(&blobs).begin(kind, hasher).unwrap();
        pending.write(b"tarball").unwrap();
        pending.commit()
    };
    let put_tarball = |integrity| put(BlobKind::Tarball, Hasher::for_tarball(integrity, Sha1Check::Plain));
    assert!(matches!(put_tarball(both(b"another")), Err(StoreError::Mismatch(_))));
    assert_eq!(opened(&*blobs, &strong).unwrap(), None);
    // A tarball is stored under its SHA-512 only, regardless of the stated digest.
    let weak = Digest::of(Algorithm::Sha1, b"tarball");
    let raw = Digest::of(Algorithm::Sha256, b"tarball");
    let committed = put_tarball(Integrity::single(weak.clone())).unwrap();
    assert_eq!(
        [Algorithm::Sha512, Algorithm::Sha256, Algorithm::Sha1].map(|algorithm| committed.digests.digest(algorithm).is_some()),
        [true; 3]
    );
    assert_eq!(opened(&*blobs, &strong).unwrap().unwrap(), &b"tarball"[..]);
    assert_eq!((opened(&*blobs, &weak).unwrap(), opened(&*blobs, &raw).unwrap()), (None, None));
    // Raw packuments are stored separately, under their SHA-256.
    put(BlobKind::Document, Hasher::new(Integrity::single(raw.clone()))).unwrap();
    assert_eq!(opened(&*blobs, &raw).unwrap().unwrap(), &b"tarball"[..]);
    assert!(matches!(put(BlobKind::Tarball, Hasher::new(Integrity::single(weak))), Err(StoreError::Unnamed)));
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_774_915_200 + second).unwrap()
}

pub(crate) fn key(name: &str) -> PackageKey {
    PackageKey { upstream: "https://registry.example/".into(), name: PackageName::parse(name).unwrap() }
}

pub(crate) fn release(version: &str, bytes: &[u8]) -> Release {
    Release {
        version: version.into(),
        integrity: Some(Integrity::single(Digest::of(Algorithm::Sha512, bytes))),
        published: Some(at(-10)),
        effective: at(-5),
        first_seen: at(0),
        digests: None,
        absent: None,
        state: ReleaseState::default(),
    }
}

pub(crate) fn download(version: &str, client: [u8; 4]) -> DownloadEvent {
    DownloadEvent {
        kind: DownloadKind::Tarball,
        name: PackageName::parse("axios").unwrap(),
        version: Some(version.into()),
        integrity: Some(Digest::of(Algorithm::Sha512, b"x")),
        outcome: DownloadOutcome::Served,
        rule: None,
        hidden: Arc::new([]),
        client: IpAddr::from(client),
        user: None,
        tool: "npm",
        tool_version: "11.21.2".into(),
    }
}

fn document() -> StoredPackument {
    StoredPackument {
        first_seen: at(0),
        validated: at(20),
        changed: at(10),
        looked: at(21),
        modified: Some(at(9)),
        content: Some([9; 32]),
        length: 51_000_000,
        etag: Some("W/\"abc\"".into()),
        last_modified: None,
        form: Some(PackumentForm::Abbreviated),
    }
}

fn change(releases: &[Release]) -> PackageChange {
    PackageChange { releases: releases.to_vec(), ..PackageChange::default() }
}

pub(crate) fn unknown_package_has_an_empty_record(open: Open<'_, dyn Ledger>) {
    assert_eq!(open().package(&key("axios")).unwrap(), PackageRecord::default());
}

pub(crate) fn recorded_package_is_read_before_and_after_a_restart(open: Open<'_, dyn Ledger>) {
    let unknown = Release {
        integrity: None,
        published: None,
        first_seen: at(1),
        state: ReleaseState { gone: Some(at(7)), replaced: true, ..ReleaseState::default() },
        ..release("2.0.0", b"")
    };
    let sighting = TagSighting { tag: "latest".into(), version: "1.0.0".into(), first_seen: at(0), last_seen: at(1) };
    let record = PackageRecord {
        document: Some(document()),
        releases: vec![release("1.0.0", b"one"), unknown],
        tags: vec![sighting.clone(), TagSighting { version: "2.0.0".into(), first_seen: at(2), last_seen: at(3), ..sighting }],
        inspections: vec![inspected("1.0.0", b"one"), InspectedTarball { manifest: None, ..inspected("2.0.0", b"two") }],
        provenance: vec![verified("1.0.0", b"one"), verified("2.0.0", b"two")],
        signals: vec![signals("1.0.0", 3), signals("2.0.0", 4)],
    };
    let change = PackageChange {
        document: record.document.clone(),
        releases: record.releases.clone(),
        tags: record.tags.clone(),
        inspections: record.inspections.clone(),
        provenance: record.provenance.clone(),
        signals: record.signals.clone(),
        ..PackageChange::default()
    };
    let ledger = open();
    ledger.record_package(&key("@acme/ui"), &change).unwrap();
    assert_eq!(ledger.package(&key("@acme/ui")).unwrap(), record);
    drop(ledger);
    assert_eq!(open().package(&key("@acme/ui")).unwrap(), record);
}

fn signals(version: &str, seconds: i64) -> RecordedSignals {
    let evidence = vec![
        SignalEvidence { signal: Signal::NewPublisher, old: "ada".to_owned(), new: "eve".to_owned() },
        SignalEvidence { signal: Signal::Dormant, old: String::new(), new: "\"quoted\"".to_owned() },
    ];
    RecordedSignals { version: version.into(), code: 1, manifest: [9; 32], recorded: at(seconds), evidence }
}

pub(crate) fn newer_signals_replace_those_of_the_same_version(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let newer = RecordedSignals { evidence: Vec::new(), ..signals("1.14.1", 2) };
    let mut record = PackageRecord::default();
    for signals in [vec![signals("1.14.0", 1), signals("1.14.1", 1)], vec![newer.clone()]] {
        let change = PackageChange { signals, ..PackageChange::default() };
        ledger.record_package(&axios, &change).unwrap();
        record.apply(&change);
    }
    assert_eq!(record.signals, [signals("1.14.0", 1), newer]);
    assert_eq!(ledger.package(&axios).unwrap().signals, record.signals);
}

fn inspected(version: &str, bytes: &[u8]) -> InspectedTarball {
    let sha512 = Digest::of(Algorithm::Sha512, bytes);
    let evidence = vec![
        FindingEvidence { finding: Finding::ManifestConfusion, detail: "name is \"a\", the packument says \"b\"".to_owned() },
        FindingEvidence { finding: Finding::Unreadable, detail: String::new() },
    ];
    InspectedTarball { version: version.into(), sha512, code: 7, manifest: Some([9; 32]), evidence }
}

fn verified(version: &str, bytes: &[u8]) -> VerifiedProvenance {
    let [issuer, repository, workflow] = ["https://issuer.example", "https://host.example/a/b", "release.yml"].map(Into::into);
    let status = ProvenanceStatus::Valid { source: BuildSource { issuer, repository, workflow, commit: None } };
    VerifiedProvenance { version: version.into(), sha512: Digest::of(Algorithm::Sha512, bytes), code: 3, status }
}

pub(crate) fn newer_provenance_replaces_the_one_of_the_same_bytes(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let (first, other) = (verified("1.14.1", b"axios"), verified("1.14.1", b"other bytes"));
    let newer = VerifiedProvenance { code: 4, status: ProvenanceStatus::False { why: "x".into() }, ..first.clone() };
    let mut record = PackageRecord::default();
    for provenance in [vec![first, other.clone()], vec![newer.clone()]] {
        let change = PackageChange { provenance, ..PackageChange::default() };
        ledger.record_package(&axios, &change).unwrap();
        record.apply(&change);
    }
    assert_eq!(record.provenance, [other, newer]);
    let mut read = ledger.package(&axios).unwrap().provenance;
    read.sort_by_key(|verified| verified.code);
    assert_eq!(read, record.provenance);
}

pub(crate) fn newer_inspection_replaces_the_one_of_the_same_tarball(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let (first, other) = (inspected("1.14.1", b"axios"), inspected("1.14.1", b"other bytes"));
    let newer = InspectedTarball { code: 8, evidence: Vec::new(), ..first.clone() };
    let mut record = PackageRecord::default();
    for inspections in [vec![first, other.clone()], vec![newer.clone()]] {
        let change = PackageChange { inspections, ..PackageChange::default() };
        ledger.record_package(&axios, &change).unwrap();
        record.apply(&change);
    }
    assert_eq!(record.inspections, [other, newer]);
    let mut read = ledger.package(&axios).unwrap().inspections;
    read.sort_by_key(|inspected| inspected.code);
    assert_eq!(read, record.inspections);
}

pub(crate) fn summaries_of_tarballs_belong_to_a_version_of_the_code(open: Open<'_, dyn Ledger>) {
    let (ledger, sha512) = (open(), Digest::of(Algorithm::Sha512, b"axios"));
    assert_eq!(ledger.tarball_summary(&sha512, 1).unwrap(), None);
    ledger.record_tarball_summary(&sha512, 1, b"one").unwrap();
    drop(ledger);
    let ledger = open();
    assert_eq!(ledger.tarball_summary(&sha512, 1).unwrap().as_deref(), Some(&b"one"[..]));
    ledger.record_tarball_summary(&sha512, 2, b"two").unwrap();
    assert_eq!(ledger.tarball_summary(&sha512, 1).unwrap(), None);
    assert_eq!(ledger.tarball_summary(&sha512, 2).unwrap().as_deref(), Some(&b"two"[..]));
}

pub(crate) fn fields_set_once_do_not_change(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let first = release("1.14.1", b"axios");
    let seen = PackageChange { document: Some(document()), ..change(std::slice::from_ref(&first)) };
    ledger.record_package(&axios, &seen).unwrap();
    let later = Release {
        published: Some(at(90)),
        effective: at(91),
        first_seen: at(92),
        state: ReleaseState { gone: Some(at(93)), replaced: true, ..first.state },
        ..first.clone()
    };
    let moved = StoredPackument { first_seen: at(99), validated: at(99), content: None, length: 0, ..document() };
    ledger.record_package(&axios, &PackageChange { document: Some(moved.clone()), ..change(&[later]) }).unwrap();
    let record = ledger.package(&axios).unwrap();
    assert_eq!(record.document, Some(StoredPackument { first_seen: at(0), ..moved }));
    assert_eq!(
        record.releases,
        [Release { state: ReleaseState { gone: Some(at(93)), replaced: true, ..first.state }, ..first.clone() }]
    );
    // The release returned: `gone` is cleared and `first_seen` is kept.
    ledger.record_package(&axios, &change(&[Release { effective: at(200), ..first.clone() }])).unwrap();
    assert_eq!(ledger.package(&axios).unwrap().releases, [first]);
}

pub(crate) fn version_with_two_integrities_is_two_releases(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let first = release("1.14.1", b"axios");
    let second = Release { first_seen: at(50), effective: at(49), ..release("1.14.1", b"tampered") };
    let unstated = Release { first_seen: at(60), integrity: None, ..first.clone() };
    ledger.record_package(&axios, &change(&[second.clone(), unstated.clone()])).unwrap();
    ledger.record_package(&axios, &change(std::slice::from_ref(&first))).unwrap();
    assert_eq!(ledger.package(&axios).unwrap().releases, [first, second, unstated]);
}

pub(crate) fn digests_of_a_release_are_only_added(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let first = release("1.14.1", b"axios");
    ledger.record_package(&axios, &change(std::slice::from_ref(&first))).unwrap();
    let digest = |algorithm, bytes: &[u8]| Integrity::single(Digest::of(algorithm, bytes));
    let learn = |version: &str, digests: Integrity| {
        let learned = LearnedDigests { version: version.into(), integrity: first.integrity.clone(), digests };
        let change = PackageChange { digests: vec![learned], ..PackageChange::default() };
        ledger.record_package(&axios, &change).unwrap();
        ledger.package(&axios).unwrap().releases[0].known_digests().unwrap()
    };
    let sha1 = digest(Algorithm::Sha1, b"axios");
    let both = first.integrity.clone().unwrap().union(&sha1).unwrap();
    assert_eq!(learn("1.14.1", sha1), both);
    // Contradicting digests are not added, and missing rows are skipped.
    assert_eq!(learn("1.14.1", digest(Algorithm::Sha1, b"tampered")), both);
    assert_eq!(learn("2.0.0", digest(Algorithm::Sha256, b"axios")), both);
    let all = both.union(&digest(Algorithm::Sha256, b"axios")).unwrap();
    assert_eq!(learn("1.14.1", digest(Algorithm::Sha256, b"axios")), all);
    // An updated row keeps its digests.
    ledger
        .record_package(&axios, &change(&[Release { state: ReleaseState { gone: Some(at(9)), ..first.state }, ..first }]))
        .unwrap();
    drop(ledger);
    assert_eq!(open().package(&axios).unwrap().releases[0].known_digests(), Some(all));
}

pub(crate) fn manifest_digest_is_updated_with_its_release(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let first = release("1.14.1", b"axios");
    let manifest =
        Some(ManifestDigest::new([7; 32], PackumentForm::Full, InstallScript::Present).with_install_scripts(Some([7; 16])));
    let later = Release { state: ReleaseState { manifest, manifest_changed: Some(at(40)), ..first.state }, ..first.clone() };
    ledger.record_package(&axios, &change(&[first])).unwrap();
    ledger.record_package(&axios, &change(std::slice::from_ref(&later))).unwrap();
    assert_eq!(ledger.package(&axios).unwrap().releases, [later]);
}

pub(crate) fn source(version: &str, bytes: &[u8], address: &str) -> TarballSource {
    let digests = Integrity::single(Digest::of(Algorithm::Sha512, bytes));
    TarballSource { version: version.into(), address: address.into(), digests, length: bytes.len() as u64, public: false }
}

pub(crate) fn tarballs_are_recorded_by_address_for_all_views(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let own = PackageKey { upstream: format!("{}#own", axios.upstream).into(), ..axios.clone() };
    let other = PackageKey { upstream: "https://other.example/".into(), ..axios.clone() };
    let (one, two) = (source("1.0.0", b"one", "a.tgz"), source("1.0.0", b"one", "b.tgz"));
    let record = |key, source: &TarballSource| {
        let change = PackageChange { tarballs: vec![source.clone()], ..PackageChange::default() };
        ledger.record_package(key, &change).unwrap();
    };
    record(&own, &one);
    record(&axios, &two);
    assert_eq!(ledger.tarballs(&axios, "1.0.0").unwrap(), [one.clone(), two.clone()]);
    assert_eq!(ledger.tarballs(&axios, "1.0.1").unwrap(), []);
    assert_eq!(ledger.tarballs(&other, "1.0.0").unwrap(), []);
    // A tarball found to be public stays public.
    let public = TarballSource { public: true, ..one.clone() };
    record(&axios, &public);
    record(&own, &one);
    drop(ledger);
    assert_eq!(open().tarballs(&own, "1.0.0").unwrap(), [public, two]);
}

pub(crate) fn addresses_of_the_same_bytes_are_bounded(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let signed = (0..100).map(|number| source("1.0.0", b"one", &format!("a.tgz?signature={number}")));
    let other = source("1.0.0", b"two", "a.tgz");
    let tarballs: Vec<_> = std::iter::once(other.clone()).chain(signed).collect();
    ledger.record_package(&axios, &PackageChange { tarballs: tarballs.clone(), ..PackageChange::default() }).unwrap();
    let kept = ledger.tarballs(&axios, "1.0.0").unwrap();
    assert!(kept.len() < 20 && kept.contains(&other) && kept.contains(&tarballs[100]), "{}", kept.len());
}

pub(crate) fn tarballs_of_all_packages_are_found_by_digest(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    let record = |name: &str, source: &TarballSource| {
        let change = PackageChange { tarballs: vec![source.clone()], ..PackageChange::default() };
        ledger.record_package(&key(name), &change).unwrap();
    };
    let (axios, copied) = (source("1.0.0", b"one", "a.tgz"), source("3.0.0", b"one", "b.tgz"));
    record("axios", &axios);
    record("axios", &source("1.1.0", b"two", "c.tgz"));
    record("copied", &copied);
    let wanted = Digest::of(Algorithm::Sha512, b"one");
    let found = ledger.downloaded_with(&|digests| digests.digest(Algorithm::Sha512) == Some(&wanted)).unwrap();
    assert_eq!(found, [(key("axios").name, axios), (key("copied").name, copied)]);
    assert_eq!(ledger.downloaded_with(&|_| false).unwrap(), []);
}

pub(crate) fn tarballs_with_listed_files_are_found(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let own = PackageKey { upstream: format!("{}#own", axios.upstream).into(), ..axios.clone() };
    let with = |version: &str, finding, detail: &str| {
        let evidence = vec![FindingEvidence { finding, detail: detail.to_owned() }];
        InspectedTarball { evidence, ..inspected(version, b"one") }
    };
    let listed = with("1.0.0", Finding::AdvisedFile, "a.js: MAL-1 lists its digest");
    // A text that names the finding is none.
    let other = with("1.1.0", Finding::Unreadable, "\"advised-file\"");
    for (key, found) in [(&axios, &listed), (&axios, &other), (&own, &listed)] {
        let change = PackageChange { inspections: vec![found.clone()], ..PackageChange::default() };
        ledger.record_package(key, &change).unwrap();
    }
    let found = ledger.inspected_with_listed_files().unwrap();
    assert_eq!(found, [(axios.clone(), listed.clone()), (own.clone(), listed)]);
    assert_eq!(ledger.package_keys(&axios.name).unwrap(), [axios, own]);
    assert_eq!(ledger.package_keys(&key("axio").name).unwrap(), []);
}

pub(crate) fn tarballs_are_listed_by_when_they_were_served(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    for (version, second) in [("1.0.0", 5), ("1.1.0", 1), ("1.2.0", 9), ("1.3.0", 7)] {
        ledger.record_download(download(version, [10, 0, 0, 1]), at(second));
    }
    ledger.record_download(DownloadEvent { outcome: DownloadOutcome::Refused, ..download("1.4.0", [10, 0, 0, 1]) }, at(9));
    ledger.record_download(DownloadEvent { integrity: None, ..download("1.5.0", [10, 0, 0, 1]) }, at(9));
    let versions = |since, limit| {
        let served = ledger.served_tarballs(since, limit).unwrap();
        served.into_iter().map(|served| served.version.into_string()).collect::<Vec<_>>()
    };
    assert_eq!(versions(at(5), 9), ["1.2.0", "1.3.0", "1.0.0"]);
    assert_eq!(versions(at(0), 2), ["1.2.0", "1.3.0"]);
    assert_eq!(ledger.served_tarballs(at(9), 9).unwrap()[0].sha512, Digest::of(Algorithm::Sha512, b"x"));
}

pub(crate) fn forgotten_tags_are_deleted(open: Open<'_, dyn Ledger>) {
    let (ledger, axios) = (open(), key("axios"));
    let sighting =
        |version: &str| TagSighting { tag: "latest".into(), version: version.into(), first_seen: at(0), last_seen: at(1) };
    let (one, two) = (sighting("1.0.0"), sighting("2.0.0"));
    ledger.record_package(&axios, &PackageChange { tags: vec![one.clone(), two.clone()], ..PackageChange::default() }).unwrap();
    ledger.record_package(&axios, &PackageChange { forgotten_tags: vec![one], ..PackageChange::default() }).unwrap();
    assert_eq!(ledger.package(&axios).unwrap().tags, [two]);
}

pub(crate) fn absences_are_recorded_but_are_not_packages(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    let absent = StoredPackument { content: None, length: 0, etag: None, modified: None, ..document() };
    assert!(ledger.record_absence(&key("axios"), &absent, at(0)).unwrap());
    drop(ledger);
    let ledger = open();
    assert_eq!(ledger.package(&key("axios")).unwrap().document, Some(absent));
    assert_eq!(ledger.names().unwrap(), []);
    // Seen later, it is a package whose first lookup was earlier.
    let seen = StoredPackument { first_seen: at(40), looked: at(40), ..document() };
    ledger.record_package(&key("axios"), &PackageChange { document: Some(seen), ..change(&[release("1.0.0", b"")]) }).unwrap();
    let record = ledger.package(&key("axios")).unwrap();
    assert_eq!(record.document.map(|document| (document.first_seen, document.looked)), Some((at(0), at(40))));
    assert_eq!(ledger.names().unwrap(), [PackageName::parse("axios").unwrap()]);
}

pub(crate) fn same_name_on_two_registries_is_two_packages(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    let other = PackageKey { upstream: "https://other.example/".into(), ..key("axios") };
    ledger.record_package(&key("axios"), &change(&[release("1.0.0", b"one")])).unwrap();
    ledger.record_package(&other, &change(&[release("1.0.0", b"two")])).unwrap();
    assert_eq!(ledger.package(&key("axios")).unwrap().releases, [release("1.0.0", b"one")]);
    assert_eq!(ledger.package(&other).unwrap().releases, [release("1.0.0", b"two")]);
    assert_eq!(ledger.package(&key("Axios")).unwrap(), PackageRecord::default());
}

pub(crate) fn out_of_range_instants_keep_their_order(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    let early = Release { published: Some(Timestamp::MIN), effective: Timestamp::MIN, ..release("1.0.0", b"") };
    let late = Release { published: Some(Timestamp::MAX), effective: Timestamp::MAX, ..release("2.0.0", b"") };
    let exact = Release { effective: "2026-03-31T00:21:14.123456789Z".parse().unwrap(), ..release("3.0.0", b"") };
    ledger.record_package(&key("axios"), &change(&[early, late, exact.clone()])).unwrap();
    let read = ledger.package(&key("axios")).unwrap().releases;
    assert!(read[0].effective < at(-9_999_999_999) && read[1].effective > at(7_000_000_000));
    assert_eq!(read[2], exact);
}

pub(crate) fn equal_downloads_are_counted_per_client(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    for second in [3, 1, 2] {
        ledger.record_download(download("1.14.1", [10, 0, 0, 1]), at(second));
    }
    ledger.flush();
    ledger.record_download(download("1.14.1", [10, 0, 0, 1]), at(9));
    let refused = DownloadEvent {
        outcome: DownloadOutcome::Refused,
        rule: Some("minimum-age".into()),
        integrity: None,
        ..download("1.14.1", [10, 0, 0, 2])
    };
    ledger.record_download(refused, at(4));
    ledger.record_download(download("1.14.0", [10, 0, 0, 1]), at(5));
    ledger.flush();
    let line = Exposure {
        client: "10.0.0.1".to_owned(),
        tool: "npm".to_owned(),
        tool_version: "11.21.2".to_owned(),
        version: "1.14.1".to_owned(),
        integrity: Some(Digest::of(Algorithm::Sha512, b"x").to_sri()),
        outcome: DownloadOutcome::Served,
        rule: None,
        times: 4,
        first: at(1),
        last: at(9),
    };
    let refusal = Exposure {
        client: "10.0.0.2".to_owned(),
        integrity: None,
        outcome: DownloadOutcome::Refused,
        rule: Some("minimum-age".to_owned()),
        times: 1,
        first: at(4),
        last: at(4),
        ..line.clone()
    };
    let older = Exposure { version: "1.14.0".to_owned(), times: 1, first: at(5), last: at(5), ..line.clone() };
    let axios = PackageName::parse("axios").unwrap();
    assert_eq!(ledger.exposure(&axios, Some("1.14.1")).unwrap(), [line.clone(), refusal.clone()]);
    assert_eq!(ledger.exposure(&axios, None).unwrap(), [line, refusal, older]);
    assert_eq!(ledger.exposure(&PackageName::parse("axio").unwrap(), None).unwrap(), []);
}

pub(crate) fn exposure_lists_tarballs_and_not_hidden_versions(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    let hidden: Arc<[Box<str>]> = Arc::new(["1.14.1".into()]);
    ledger.record_download(
        DownloadEvent { kind: DownloadKind::Packument, version: None, hidden, ..download("", [10, 0, 0, 1]) },
        at(1),
    );
    ledger.flush();
    assert_eq!(ledger.exposure(&PackageName::parse("axios").unwrap(), None).unwrap(), []);
}

pub(crate) fn queued_rows_survive_a_restart(open: Open<'_, dyn Ledger>) {
    let ledger = open();
    ledger.record_download(download("1.14.1", [10, 0, 0, 1]), at(1));
    ledger.record_event(LedgerEvent { kind: "clock_skew", name: None, version: None, detail: "six minutes".to_owned() }, at(1));
    drop(ledger);
    assert_eq!(open().exposure(&PackageName::parse("axios").unwrap(), None).unwrap().len(), 1);
}

fn new_token(number: u8, label: &str, expires: Option<Timestamp>) -> NewToken {
    let created = Signature { who: "ada".to_owned(), at: at(1) };
    let scope = PackageScope::parse(&["@acme/*"]).unwrap();
    let owner = Principal::Machine("ada".into());
    NewToken { hash: [number; 32], label: label.to_owned(), role: Role::Approver, scope, expires, created, owner }
}

/// Creates a token that must not be refused, and returns its number.
fn created(ledger: &dyn TokenLedger, token: &NewToken) -> i64 {
    match ledger.create_token(token).unwrap() {
        TokenCreation::Created { id, .. } => id,
        refused => panic!("{refused:?}"),
    }
}

pub(crate) fn created_token_is_read_before_and_after_a_restart(open: Open<'_, dyn TokenLedger>) {
    let ledger = open();
    assert_eq!(ledger.tokens(Timestamp::MIN).unwrap(), (0, Vec::new()));
    let token = new_token(1, "ci-web", Some(at(9)));
    let TokenCreation::Created { id, revision } = ledger.create_token(&token).unwrap() else { panic!("not created") };
    let expected = TokenRecord { id, token, last_used: None, revoked: None };
    assert_eq!(ledger.tokens(Timestamp::MIN).unwrap(), (revision, vec![expected.clone()]));
    assert_eq!(ledger.token_revision().unwrap(), revision);
    drop(ledger);
    let ledger = open();
    assert_eq!(ledger.tokens(Timestamp::MIN).unwrap(), (revision, vec![expected.clone()]));
    let second = created(&*ledger, &NewToken { scope: PackageScope::default(), ..new_token(2, "ci", None) });
    assert!(second > id && ledger.token_revision().unwrap() > revision);
    let scopes: Vec<_> =
        ledger.tokens(Timestamp::MIN).unwrap().1.iter().map(|record| record.token.scope.is_unlimited()).collect();
    assert_eq!(scopes, [false, true]);
    assert!([at(8), at(9)].map(|now| expected.state(now)) == [TokenState::Active, TokenState::Expired]);
}

pub(crate) fn label_is_free_after_its_token_ended(open: Open<'_, dyn TokenLedger>) {
    let ledger = open();
    let id = created(&*ledger, &new_token(1, "ci", Some(at(5))));
    assert_eq!(ledger.create_token(&new_token(2, "ci", None)).unwrap(), TokenCreation::LabelTaken(id));
    let later = |token: NewToken| NewToken { created: Signature { who: "ada".to_owned(), at: at(5) }, ..token };
    let id = created(&*ledger, &later(new_token(3, "ci", None)));
    assert_eq!(ledger.create_token(&later(new_token(4, "ci", None))).unwrap(), TokenCreation::LabelTaken(id));
    let by = Signature { who: "grace".to_owned(), at: at(6) };
    assert!(ledger.revoke_token(&TokenSelector::Id(id), &by).unwrap().is_some());
    created(&*ledger, &later(new_token(5, "ci", None)));
}

pub(crate) fn token_is_revoked_once(open: Open<'_, dyn TokenLedger>) {
    let ledger = open();
    let (first, second) = (created(&*ledger, &new_token(1, "a", None)), created(&*ledger, &new_token(2, "b", None)));
    let by = |who: &str| Signature { who: who.to_owned(), at: at(7) };
    let before = ledger.token_revision().unwrap();
    let revision = ledger.revoke_token(&TokenSelector::Id(first), &by("grace")).unwrap().unwrap();
    assert!(revision > before);
    for which in [TokenSelector::Id(first), TokenSelector::Label("a".to_owned()), TokenSelector::Id(99)] {
        assert_eq!(ledger.revoke_token(&which, &by("eve")).unwrap(), None);
    }
    assert!(ledger.revoke_token(&TokenSelector::Label("b".to_owned()), &by("alan")).unwrap().is_some());
    drop(ledger);
    let records = open().tokens(Timestamp::MIN).unwrap().1;
    let revoked: Vec<_> = records.iter().map(|record| (record.id, record.revoked.clone(), record.state(at(0)))).collect();
    let expected = [(first, Some(by("grace"))), (second, Some(by("alan")))];
    assert_eq!(revoked, expected.map(|(id, by)| (id, by, TokenState::Revoked)));
}

pub(crate) fn tokens_that_ended_long_ago_are_left_out(open: Open<'_, dyn TokenLedger>) {
    let ledger = open();
    created(&*ledger, &new_token(1, "expired", Some(at(5))));
    created(&*ledger, &new_token(2, "revoked", None));
    created(&*ledger, &new_token(3, "active", None));
    let by = Signature { who: "grace".to_owned(), at: at(6) };
    ledger.revoke_token(&TokenSelector::Label("revoked".to_owned()), &by).unwrap();
    let labels = |ended: i64| {
        let records = ledger.tokens(at(ended)).unwrap().1;
        records.into_iter().map(|record| record.token.label).collect::<Vec<_>>()
    };
    assert_eq!(labels(5), ["expired", "revoked", "active"]);
    assert_eq!(labels(6), ["revoked", "active"]);
    assert_eq!(labels(7), ["active"]);
}

pub(crate) fn exchanged_tokens_share_labels_up_to_a_limit(open: Open<'_, dyn TokenLedger>) {
    let ledger = open();
    let numbered = |number: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        NewToken { hash, ..new_token(0, "acme/web", Some(at(9))) }
    };
    for number in 1..=MAX_PER_LABEL {
        assert!(matches!(ledger.issue_token(&numbered(number)).unwrap(), TokenCreation::Created { .. }), "{number}");
    }
    assert_eq!(ledger.issue_token(&numbered(0)).unwrap(), TokenCreation::TooMany);
    let other = NewToken { label: "acme/app".to_owned(), ..numbered(0) };
    assert!(matches!(ledger.issue_token(&other).unwrap(), TokenCreation::Created { .. }));
    assert!(matches!(ledger.create_token(&numbered(0)).unwrap(), TokenCreation::LabelTaken(_)));
}

pub(crate) fn uses_of_tokens_only_move_forward(open: Open<'_, dyn TokenLedger>) {
    let ledger = open();
    let id = created(&*ledger, &new_token(1, "a", None));
    let revision = ledger.token_revision().unwrap();
    ledger.record_token_uses(&[(id, at(5)), (99, at(5))]).unwrap();
    ledger.record_token_uses(&[(id, at(3))]).unwrap();
    ledger.set_applied_token_revision(revision).unwrap();
    let (unchanged, records) = ledger.tokens(Timestamp::MIN).unwrap();
    assert_eq!((unchanged, records[0].last_used), (revision, Some(at(5))));
}

/// An in-memory model of the ledger, as the trait documents it.
#[derive(Default)]
struct LedgerModel(PackageRecord);

impl LedgerModel {
    fn apply(&mut self, change: &PackageChange) {
        if let Some(new) = &change.document {
            let first_seen = self.0.document.as_ref().map_or(new.first_seen, |old| old.first_seen);
            self.0.document = Some(StoredPackument { first_seen, ..new.clone() });
        }
        for new in &change.releases {
            match self.0.releases.iter_mut().find(|old| (&old.version, &old.integrity) == (&new.version, &new.integrity)) {
                Some(old) => old.state = new.state,
                None => self.0.releases.push(new.clone()),
            }
        }
        for new in &change.tags {
            let row = |sighting: &TagSighting| (sighting.tag.clone(), sighting.version.clone(), sighting.first_seen);
            match self.0.tags.iter_mut().find(|old| row(old) == row(new)) {
                Some(old) => old.last_seen = new.last_seen,
                None => self.0.tags.push(new.clone()),
            }
        }
    }
}

/// Sorts rows with equal `first_seen`, whose order the trait does not define.
fn in_defined_order(mut record: PackageRecord) -> PackageRecord {
    assert!(record.releases.is_sorted_by_key(|release| release.first_seen) && record.tags.is_sorted_by_key(|tag| tag.first_seen));
    let sri = |release: &Release| release.integrity.as_ref().map(Integrity::to_sri);
    record.releases.sort_by_key(|release| (release.first_seen, release.version.clone(), sri(release)));
    record.tags.sort_by_key(|tag| (tag.first_seen, tag.tag.clone(), tag.version.clone()));
    record
}

fn some_change() -> impl Strategy<Value = PackageChange> {
    let instant = || (-5_i64..5).prop_map(at);
    let release =
        (0_u8..3, 0_u8..3, proptest::option::of(instant()), instant(), instant(), proptest::option::of(instant()), any::<bool>());
    let release = release.prop_map(|(version, integrity, published, effective, first_seen, gone, replaced)| Release {
        version: format!("{version}.0.0").into(),
        integrity: (integrity > 0).then(|| Integrity::single(Digest::of(Algorithm::Sha1, &[integrity]))),
        published,
        effective,
        first_seen,
        digests: None,
        absent: published,
        state: ReleaseState {
            gone,
            replaced,
            manifest: gone.map(|_| ManifestDigest::new([integrity; 32], PackumentForm::Abbreviated, replaced.into())),
            manifest_changed: gone,
            held_since: gone,
            moved: gone,
            dropped: replaced,
            diverged: replaced,
            missing_since: gone,
        },
    });
    let tag = ("(latest|next)", 0_u8..3, instant(), instant());
    let tag = tag.prop_map(|(tag, version, first_seen, last_seen)| TagSighting {
        tag: tag.into(),
        version: format!("{version}.0.0").into(),
        first_seen,
        last_seen,
    });
    let document = (instant(), instant(), instant(), any::<Option<[u8; 32]>>(), 0_u64..99, any::<Option<String>>());
    let document = document.prop_map(|(first_seen, validated, changed, content, length, etag)| StoredPackument {
        first_seen,
        validated,
        changed,
        looked: validated,
        modified: etag.as_ref().map(|_| changed),
        content,
        length,
        etag: etag.as_deref().map(Into::into),
        last_modified: etag.map(Into::into),
        form: match length % 3 {
            0 => None,
            1 => Some(PackumentForm::Full),
            _ => Some(PackumentForm::Abbreviated),
        },
    });
    (proptest::option::of(document), proptest::collection::vec(release, 0..4), proptest::collection::vec(tag, 0..3))
        .prop_map(|(document, releases, tags)| PackageChange { document, releases, tags, ..PackageChange::default() })
}

pub(crate) fn changes_match_the_model(open: Open<'_, dyn Ledger>) {
    // Cases share a ledger and use one package each, because opening a ledger per case would dominate the test.
    let count = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(changes in proptest::collection::vec(some_change(), 1..6))| {
        count.set(count.get() + 1);
        let key = key(&format!("package-{}", count.get()));
        let (ledger, mut model) = (open(), LedgerModel::default());
        for change in &changes {
            ledger.record_package(&key, change).unwrap();
            model.apply(change);
        }
        model.0.releases.sort_by_key(|release| release.first_seen);
        model.0.tags.sort_by_key(|tag| tag.first_seen);
        prop_assert_eq!(in_defined_order(ledger.package(&key).unwrap()), in_defined_order(model.0.clone()));
        drop(ledger);
        prop_assert_eq!(in_defined_order(open().package(&key).unwrap()), in_defined_order(model.0));
    });
}
