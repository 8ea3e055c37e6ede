//! Reads and writes packages in the ledger: their newest document, and all releases and dist-tags ever seen.

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Params, Row, params};

use crate::npm::{Algorithm, Digest, Integrity, ManifestDigest, PackageName, PackumentForm};
use crate::store::ledger::{
    InspectedTarball, LearnedDigests, PackageChange, PackageKey, PackageRecord, RecordedSignals, Release, ReleaseState,
    StoredPackument, TagSighting, TarballSource, VerifiedProvenance,
};
use crate::vetting::compare::SignalEvidence;
use crate::vetting::{Finding, FindingEvidence, Signal};

/// Maximum number of URLs per tarball. A registry that signs URLs uses new ones each time; a deleted one costs a download.
const MAX_ADDRESSES: u32 = 8;

/// Summaries of tarballs that are kept, and the longest one. Most have 1 to 20 kB; this is one of 8,000 files.
const MAX_TARBALL_SUMMARIES: i64 = 2_000;
const MAX_TARBALL_SUMMARY_BYTES: usize = 256 << 10;

pub(crate) fn read(connection: &Connection, key: &PackageKey) -> rusqlite::Result<PackageRecord> {
    let snapshot = connection.unchecked_transaction()?;
    let Some((id, document)) = read_document(&snapshot, key)? else { return Ok(PackageRecord::default()) };
    let (releases, tags) = (read_releases(&snapshot, id)?, read_tags(&snapshot, id)?);
    Ok(PackageRecord {
        document,
        releases,
        tags,
        inspections: read_inspections(&snapshot, id)?,
        provenance: read_provenance(&snapshot, id)?,
        signals: read_signals(&snapshot, id)?,
    })
}

pub(crate) fn write(connection: &mut Connection, key: &PackageKey, change: &PackageChange) -> rusqlite::Result<()> {
    // Immediate: a transaction that starts with a read fails instead of waiting when another process writes.
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let package = write_package(&transaction, key)?;
    if let Some(document) = &change.document {
        write_document(&transaction, package, document)?;
    }
    write_releases(&transaction, package, &change.releases)?;
    write_digests(&transaction, package, &change.digests)?;
    if !change.releases.is_empty() {
        transaction.prepare_cached("UPDATE packages SET seen = 1 WHERE id = ?1 AND seen = 0")?.execute([package])?;
    }
    forget_tags(&transaction, package, &change.forgotten_tags)?;
    write_tags(&transaction, package, &change.tags)?;
    write_tarballs(&transaction, key, &change.tarballs)?;
    write_inspections(&transaction, package, &change.inspections)?;
    write_provenance(&transaction, package, &change.provenance)?;
    write_signals(&transaction, package, &change.signals)?;
    transaction.commit()
}

/// Returns the names of all packages seen upstream or requested. Skips names that are no longer valid.
pub(crate) fn names(connection: &Connection) -> rusqlite::Result<Vec<PackageName>> {
    let sql = "SELECT name FROM packages WHERE seen = 1 UNION SELECT name FROM subjects";
    let names = query_all(connection, sql, [], |row| row.get::<_, String>(0))?;
    Ok(names.iter().filter_map(|name| PackageName::parse(name).ok()).collect())
}

/// Returns the SHA-256 of a package's newest documents, of all registries.
pub(crate) fn contents(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<Vec<u8>>> {
    let sql = "SELECT DISTINCT content FROM packages WHERE name = ?1 AND content IS NOT NULL";
    query_all(connection, sql, [name.as_str()], |row| row.get(0))
}

/// Checks whether a package has a row, including one that records its absence.
pub(crate) fn is_recorded(connection: &Connection, key: &PackageKey) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM packages WHERE upstream = ?1 AND name = ?2";
    connection.prepare_cached(sql)?.exists(params![key.upstream, key.name.as_str()])
}

pub(crate) fn was_seen(connection: &Connection, key: &PackageKey) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM packages WHERE upstream = ?1 AND name = ?2
         AND (content IS NOT NULL OR EXISTS (SELECT 1 FROM releases WHERE releases.package = packages.id))";
    connection.prepare_cached(sql)?.exists(params![key.upstream, key.name.as_str()])
}

pub(crate) fn count_absences(connection: &Connection) -> rusqlite::Result<usize> {
    let count: i64 = connection.query_row("SELECT count(*) FROM packages WHERE seen = 0", [], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Deletes packages recorded only as absent that were last looked up before `expired`.
pub(crate) fn forget_absences(connection: &Connection, expired: Timestamp) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM packages WHERE seen = 0 AND looked < ?1")?;
    delete.execute([to_column(expired)]).map(drop)
}

pub(crate) fn releases(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<Release>> {
    let snapshot = connection.unchecked_transaction()?;
    let ids: Vec<i64> = query_all(&snapshot, "SELECT id FROM packages WHERE name = ?1", [name.as_str()], |row| row.get(0))?;
    let mut releases = Vec::new();
    for id in ids {
        releases.extend(read_releases(&snapshot, id)?);
    }
    Ok(releases)
}

/// Returns the recorded signals of a package's releases, of all registries and views.
pub(crate) fn signals(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<RecordedSignals>> {
    let snapshot = connection.unchecked_transaction()?;
    let ids: Vec<i64> = query_all(&snapshot, "SELECT id FROM packages WHERE name = ?1", [name.as_str()], |row| row.get(0))?;
    let mut signals = Vec::new();
    for id in ids {
        signals.extend(read_signals(&snapshot, id)?);
    }
    Ok(signals)
}

/// Converts an instant to Unix time in nanoseconds. Others than 1677 to 2262, as in hostile documents, are clamped in order.
pub(crate) fn to_column(instant: Timestamp) -> i64 {
    i64::try_from(instant.as_nanosecond()).unwrap_or(if instant < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

pub(crate) fn from_column(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::MAX)
}

pub(crate) fn count_to_column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) fn count_from_column(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

pub(crate) fn query_all<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare_cached(sql)?.query_map(values, read)?.collect()
}

fn read_document(connection: &Connection, key: &PackageKey) -> rusqlite::Result<Option<(i64, Option<StoredPackument>)>> {
    let sql = "SELECT id, first_seen, validated, changed, content, length, etag, last_modified, form, looked, modified
         FROM packages WHERE upstream = ?1 AND name = ?2";
    let read = |row: &Row<'_>| {
        let id: i64 = row.get(0)?;
        let (Some(first_seen), Some(validated), Some(changed)) = (instant(row, 1)?, instant(row, 2)?, instant(row, 3)?) else {
            return Ok((id, None));
        };
        let document = StoredPackument {
            first_seen,
            validated,
            changed,
            content: row.get(4)?,
            length: count_from_column(row.get(5)?),
            etag: row.get(6)?,
            last_modified: row.get(7)?,
            // Unknown values are read as `None`; the form is then chosen again.
            form: row.get_ref(8)?.as_str_or_null()?.and_then(PackumentForm::parse),
            looked: instant(row, 9)?.unwrap_or(validated),
            modified: instant(row, 10)?,
        };
        Ok((id, Some(document)))
    };
    connection.prepare_cached(sql)?.query_row(params![&*key.upstream, key.name.as_str()], read).optional()
}

fn read_releases(connection: &Connection, package: i64) -> rusqlite::Result<Vec<Release>> {
    let sql = "SELECT version, integrity, published, effective, first_seen, gone, replaced, digests, manifest, manifest_changed,
             absent, held_since, moved, dropped, parted, missing_since
         FROM releases WHERE package = ?1 ORDER BY first_seen, version, integrity";
    query_all(connection, sql, [package], |row| {
        Ok(Release {
            version: row.get(0)?,
            integrity: integrity(row, 1)?,
            published: instant(row, 2)?,
            effective: from_column(row.get(3)?),
            first_seen: from_column(row.get(4)?),
            digests: integrity(row, 7)?,
            absent: instant(row, 10)?,
            state: ReleaseState {
                gone: instant(row, 5)?,
                replaced: row.get(6)?,
                manifest: row.get_ref(8)?.as_blob_or_null()?.and_then(ManifestDigest::from_bytes),
                manifest_changed: instant(row, 9)?,
                held_since: instant(row, 11)?,
                moved: instant(row, 12)?,
                dropped: row.get(13)?,
                diverged: row.get(14)?,
                missing_since: instant(row, 15)?,
            },
        })
    })
}

fn read_tags(connection: &Connection, package: i64) -> rusqlite::Result<Vec<TagSighting>> {
    let sql = "SELECT tag, version, first_seen, last_seen
         FROM sightings WHERE package = ?1 ORDER BY first_seen, last_seen, tag, version";
    query_all(connection, sql, [package], |row| {
        let (first_seen, last_seen) = (from_column(row.get(2)?), from_column(row.get(3)?));
        Ok(TagSighting { tag: row.get(0)?, version: row.get(1)?, first_seen, last_seen })
    })
}

fn write_package(connection: &Connection, key: &PackageKey) -> rusqlite::Result<i64> {
    let named = params![&*key.upstream, key.name.as_str()];
    let mut find = connection.prepare_cached("SELECT id FROM packages WHERE upstream = ?1 AND name = ?2")?;
    if let Some(id) = find.query_row(named, |row| row.get(0)).optional()? {
        return Ok(id);
    }
    connection.prepare_cached("INSERT INTO packages (upstream, name, seen) VALUES (?1, ?2, 0)")?.insert(named)
}

fn write_document(connection: &Connection, package: i64, document: &StoredPackument) -> rusqlite::Result<()> {
    let mut update = connection.prepare_cached(
        "UPDATE packages SET first_seen = coalesce(first_seen, ?2), validated = ?3, changed = ?4, content = ?5, length = ?6,
         etag = ?7, last_modified = ?8, form = ?9, looked = ?10, modified = ?11, seen = max(seen, ?5 IS NOT NULL) WHERE id = ?1",
    )?;
    update.execute(params![
        package,
        to_column(document.first_seen),
        to_column(document.validated),
        to_column(document.changed),
        document.content,
        count_to_column(document.length),
        document.etag,
        document.last_modified,
        document.form.map(PackumentForm::as_str),
        to_column(document.looked),
        document.modified.map(to_column),
    ])?;
    Ok(())
}

fn write_releases(connection: &Connection, package: i64, releases: &[Release]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO releases (package, version, integrity, published, effective, first_seen, gone, replaced, digests, manifest,
             manifest_changed, absent, held_since, moved, dropped, parted, missing_since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
         ON CONFLICT (package, version, integrity) DO UPDATE SET gone = excluded.gone, replaced = excluded.replaced,
             manifest = excluded.manifest, manifest_changed = excluded.manifest_changed, held_since = excluded.held_since,
             moved = excluded.moved, dropped = excluded.dropped, parted = excluded.parted,
             missing_since = excluded.missing_since",
    )?;
    for release in releases {
        upsert.execute(params![
            package,
            release.version,
            to_sri(release.integrity.as_ref()),
            release.published.map(to_column),
            to_column(release.effective),
            to_column(release.first_seen),
            release.state.gone.map(to_column),
            release.state.replaced,
            to_sri(release.digests.as_ref()),
            release.state.manifest.map(ManifestDigest::to_bytes),
            release.state.manifest_changed.map(to_column),
            release.absent.map(to_column),
            release.state.held_since.map(to_column),
            release.state.moved.map(to_column),
            release.state.dropped,
            release.state.diverged,
            release.state.missing_since.map(to_column),
        ])?;
    }
    Ok(())
}

/// Adds digests to rows. Must read and write in one transaction, so that concurrent writers do not lose digests.
fn write_digests(connection: &Connection, package: i64, learned: &[LearnedDigests]) -> rusqlite::Result<()> {
    let mut query = connection
        .prepare_cached("SELECT integrity, digests FROM releases WHERE package = ?1 AND version = ?2 AND integrity = ?3")?;
    let mut update =
        connection.prepare_cached("UPDATE releases SET digests = ?4 WHERE package = ?1 AND version = ?2 AND integrity = ?3")?;
    for learned in learned {
        let sri = to_sri(learned.integrity.as_ref());
        let row = |row: &Row<'_>| Ok((integrity(row, 0)?, integrity(row, 1)?));
        let Some((stated, digests)) = query.query_row(params![package, learned.version, sri], row).optional()? else { continue };
        // Digests that contradict the ones before them are not added.
        let known = [stated, digests, Some(learned.digests.clone())].into_iter().flatten();
        let Some(grown) = known.reduce(|known, more| known.union(&more).unwrap_or(known)) else { continue };
        update.execute(params![package, learned.version, sri, grown.to_sri()])?;
    }
    Ok(())
}

/// Writes the URLs of tarballs. Of the URLs with the same bytes, only the newest are kept.
fn write_tarballs(connection: &Connection, key: &PackageKey, tarballs: &[TarballSource]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO tarballs (upstream, name, version, address, sha512, digests, length, public)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT (upstream, name, version, address, sha512) DO UPDATE SET digests = excluded.digests,
             public = max(public, excluded.public)",
    )?;
    let mut prune = connection.prepare_cached(
        "DELETE FROM tarballs WHERE upstream = ?1 AND name = ?2 AND version = ?3 AND sha512 = ?4 AND id NOT IN (
             SELECT id FROM tarballs WHERE upstream = ?1 AND name = ?2 AND version = ?3 AND sha512 = ?4
             ORDER BY id DESC LIMIT ?5)",
    )?;
    let (registry, name) = (key.registry(), key.name.as_str());
    for TarballSource { version, address, digests, length, public } in tarballs {
        let sha512 = digests.strongest().as_bytes();
        let length = count_to_column(*length);
        upsert.execute(params![registry, name, version, address, sha512, digests.to_sri(), length, public])?;
        prune.execute(params![registry, name, version, sha512, MAX_ADDRESSES])?;
    }
    Ok(())
}

pub(crate) fn tarballs(connection: &Connection, key: &PackageKey, version: &str) -> rusqlite::Result<Vec<TarballSource>> {
    let sql = "SELECT version, address, digests, length, public FROM tarballs
         WHERE upstream = ?1 AND name = ?2 AND version = ?3 ORDER BY id";
    query_all(connection, sql, params![key.registry(), key.name.as_str(), version], tarball)
}

pub(crate) fn downloaded(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<TarballSource>> {
    let sql = "SELECT version, address, digests, length, public FROM tarballs WHERE name = ?1 ORDER BY id";
    query_all(connection, sql, [name.as_str()], tarball)
}

/// Returns the downloaded tarballs with wanted digests. One row is in memory at a time, as there may be a million.
pub(crate) fn downloaded_with(
    connection: &Connection,
    is_wanted: &dyn Fn(&Integrity) -> bool,
) -> rusqlite::Result<Vec<(PackageName, TarballSource)>> {
    let sql = "SELECT version, address, digests, length, public, name FROM tarballs ORDER BY id";
    let (mut statement, mut found) = (connection.prepare_cached(sql)?, Vec::new());
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let source = tarball(row)?;
        if is_wanted(&source.digests)
            && let Ok(name) = PackageName::parse(row.get_ref(5)?.as_str()?)
        {
            found.push((name, source));
        }
    }
    Ok(found)
}

fn tarball(row: &Row<'_>) -> rusqlite::Result<TarballSource> {
    Ok(TarballSource {
        version: row.get(0)?,
        address: row.get(1)?,
        digests: integrity(row, 2)?.ok_or(rusqlite::Error::InvalidQuery)?,
        length: count_from_column(row.get(3)?),
        public: row.get(4)?,
    })
}

fn to_sri(integrity: Option<&Integrity>) -> String {
    integrity.map(Integrity::to_sri).unwrap_or_default()
}

fn forget_tags(connection: &Connection, package: i64, tags: &[TagSighting]) -> rusqlite::Result<()> {
    let sql = "DELETE FROM sightings WHERE package = ?1 AND tag = ?2 AND version = ?3 AND first_seen = ?4";
    let mut delete = connection.prepare_cached(sql)?;
    for sighting in tags {
        delete.execute(params![package, sighting.tag, sighting.version, to_column(sighting.first_seen)])?;
    }
    Ok(())
}

fn write_tags(connection: &Connection, package: i64, tags: &[TagSighting]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO sightings (package, tag, version, first_seen, last_seen) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (package, tag, version, first_seen) DO UPDATE SET last_seen = excluded.last_seen",
    )?;
    for sighting in tags {
        let (first_seen, last_seen) = (to_column(sighting.first_seen), to_column(sighting.last_seen));
        upsert.execute(params![package, sighting.tag, sighting.version, first_seen, last_seen])?;
    }
    Ok(())
}

fn read_inspections(connection: &Connection, package: i64) -> rusqlite::Result<Vec<InspectedTarball>> {
    let sql = "SELECT version, sha512, code, manifest, findings FROM inspections WHERE package = ?1 ORDER BY version, sha512";
    query_all(connection, sql, [package], inspected)
}

/// Returns the inspections that found a file which a feed lists. Findings are JSON, so the name of the finding is quoted.
pub(crate) fn inspected_with_listed_files(connection: &Connection) -> rusqlite::Result<Vec<(PackageKey, InspectedTarball)>> {
    let sql = "SELECT inspections.version, sha512, code, manifest, findings, packages.upstream, packages.name
         FROM inspections JOIN packages ON packages.id = inspections.package
         WHERE instr(findings, ?1) > 0 ORDER BY packages.name, inspections.version, sha512";
    let quoted = format!("\"{}\"", Finding::AdvisedFile.as_str());
    let rows = query_all(connection, sql, [quoted], |row| {
        let name = PackageName::parse(row.get_ref(6)?.as_str()?).ok();
        let key = name.map(|name| Ok::<_, rusqlite::Error>(PackageKey { upstream: row.get::<_, String>(5)?.into(), name }));
        Ok((key.transpose()?, inspected(row)?))
    })?;
    let has_one = |inspected: &InspectedTarball| inspected.evidence.iter().any(|found| found.finding == Finding::AdvisedFile);
    Ok(rows.into_iter().filter_map(|(key, found)| Some((key?, found))).filter(|(_, found)| has_one(found)).collect())
}

/// Returns the keys of a package: one per registry and view.
pub(crate) fn keys(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<PackageKey>> {
    let upstreams: Vec<String> =
        query_all(connection, "SELECT upstream FROM packages WHERE name = ?1 ORDER BY id", [name.as_str()], |row| row.get(0))?;
    Ok(upstreams.into_iter().map(|upstream| PackageKey { upstream: upstream.into(), name: name.clone() }).collect())
}

fn inspected(row: &Row<'_>) -> rusqlite::Result<InspectedTarball> {
    let damaged = |column, what: &str| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, what.to_owned().into());
    let sha512 = Digest::from_bytes(Algorithm::Sha512, row.get_ref(1)?.as_blob()?);
    let findings: Vec<(String, String)> =
        serde_json::from_str(row.get_ref(4)?.as_str()?).map_err(|_| damaged(4, "invalid findings"))?;
    // A name that this program does not know was written by another version, whose findings are made again.
    let evidence = |(name, detail): (String, String)| {
        let finding = Finding::ALL.iter().copied().find(|finding| finding.as_str() == name)?;
        Some(FindingEvidence { finding, detail })
    };
    Ok(InspectedTarball {
        version: row.get(0)?,
        sha512: sha512.ok_or_else(|| damaged(1, "invalid SHA-512"))?,
        code: row.get(2)?,
        manifest: row.get(3)?,
        evidence: findings.into_iter().filter_map(evidence).collect(),
    })
}

fn write_inspections(connection: &Connection, package: i64, inspections: &[InspectedTarball]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO inspections (package, version, sha512, code, manifest, findings) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (package, version, sha512) DO UPDATE SET code = excluded.code, manifest = excluded.manifest,
             findings = excluded.findings",
    )?;
    for InspectedTarball { version, sha512, code, manifest, evidence } in inspections {
        let pairs: Vec<_> = evidence.iter().map(|evidence| (evidence.finding.as_str(), &evidence.detail)).collect();
        let findings = serde_json::json!(pairs).to_string();
        upsert.execute(params![package, version, sha512.as_bytes(), code, manifest, findings])?;
    }
    Ok(())
}

fn read_provenance(connection: &Connection, package: i64) -> rusqlite::Result<Vec<VerifiedProvenance>> {
    let sql = "SELECT version, sha512, code, result FROM provenance WHERE package = ?1 ORDER BY version, sha512";
    let rows = query_all(connection, sql, [package], |row| {
        let sha512 = Digest::from_bytes(Algorithm::Sha512, row.get_ref(1)?.as_blob()?);
        let damaged = || rusqlite::Error::FromSqlConversionFailure(1, Type::Blob, "invalid SHA-512".into());
        // A result that this program does not know was written by another version, and is made again.
        let status = serde_json::from_str(row.get_ref(3)?.as_str()?).ok();
        Ok((row.get(0)?, sha512.ok_or_else(damaged)?, row.get(2)?, status))
    })?;
    let known = rows
        .into_iter()
        .filter_map(|(version, sha512, code, status)| Some(VerifiedProvenance { version, sha512, code, status: status? }));
    Ok(known.collect())
}

fn write_provenance(connection: &Connection, package: i64, provenance: &[VerifiedProvenance]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO provenance (package, version, sha512, code, result) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (package, version, sha512) DO UPDATE SET code = excluded.code, result = excluded.result",
    )?;
    for VerifiedProvenance { version, sha512, code, status } in provenance {
        let result = serde_json::to_string(status).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        upsert.execute(params![package, version, sha512.as_bytes(), code, result])?;
    }
    Ok(())
}

pub(crate) fn tarball_summary(connection: &Connection, sha512: &Digest, code: u32) -> rusqlite::Result<Option<Vec<u8>>> {
    let sql = "SELECT summary FROM tarball_summaries WHERE sha512 = ?1 AND code = ?2";
    connection.prepare_cached(sql)?.query_row(params![sha512.as_bytes(), code], |row| row.get(0)).optional()
}

pub(crate) fn write_tarball_summary(connection: &Connection, sha512: &Digest, code: u32, summary: &[u8]) -> rusqlite::Result<()> {
    if summary.len() > MAX_TARBALL_SUMMARY_BYTES {
        return Ok(());
    }
    let sql = "INSERT OR REPLACE INTO tarball_summaries (sha512, code, summary) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.execute(params![sha512.as_bytes(), code, summary])?;
    let sql = "DELETE FROM tarball_summaries WHERE id <= (SELECT max(id) FROM tarball_summaries) - ?1";
    connection.prepare_cached(sql)?.execute([MAX_TARBALL_SUMMARIES])?;
    Ok(())
}

fn read_signals(connection: &Connection, package: i64) -> rusqlite::Result<Vec<RecordedSignals>> {
    let sql = "SELECT version, code, manifest, recorded, evidence FROM signals WHERE package = ?1 ORDER BY version";
    query_all(connection, sql, [package], |row| {
        let damaged = || rusqlite::Error::FromSqlConversionFailure(4, Type::Text, "invalid signals".into());
        let rows: Vec<(String, String, String)> = serde_json::from_str(row.get_ref(4)?.as_str()?).map_err(|_| damaged())?;
        // A name that this program does not know was written by another version, whose signals are computed again.
        let evidence =
            |(name, old, new): (String, String, String)| Some(SignalEvidence { signal: Signal::parse(&name)?, old, new });
        Ok(RecordedSignals {
            version: row.get(0)?,
            code: row.get(1)?,
            manifest: row.get(2)?,
            recorded: from_column(row.get(3)?),
            evidence: rows.into_iter().filter_map(evidence).collect(),
        })
    })
}

fn write_signals(connection: &Connection, package: i64, signals: &[RecordedSignals]) -> rusqlite::Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO signals (package, version, code, manifest, recorded, evidence) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (package, version) DO UPDATE SET code = excluded.code, manifest = excluded.manifest,
             recorded = excluded.recorded, evidence = excluded.evidence",
    )?;
    for RecordedSignals { version, code, manifest, recorded, evidence } in signals {
        let rows: Vec<_> = evidence.iter().map(|evidence| (evidence.signal.as_str(), &evidence.old, &evidence.new)).collect();
        let evidence = serde_json::json!(rows).to_string();
        upsert.execute(params![package, version, code, manifest, to_column(*recorded), evidence])?;
    }
    Ok(())
}

fn instant(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(from_column))
}

/// Reads an integrity. An invalid one is damage, because as `None` the release would count as one without integrity.
fn integrity(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Integrity>> {
    let text = row.get_ref(column)?.as_str()?;
    if text.is_empty() {
        return Ok(None);
    }
    let damaged = || rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("invalid integrity: `{text}`").into());
    Integrity::parse(Some(text), None).map(Some).ok_or_else(damaged)
}
