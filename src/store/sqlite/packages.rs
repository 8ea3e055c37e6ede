//! Packages in the ledger: their newest document, every release and every dist-tag ever seen. Refuses to judge them.

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::npm::{Integrity, ManifestDigest, PackageName, PackumentForm};
use crate::store::ledger::{
    LearnedDigests, PackageChange, PackageKey, PackageRecord, Release, StoredPackument, TagSighting, TarballSource,
};

/// How many addresses are remembered that yielded the same bytes. A registry that signs its addresses has another one each time;
/// one that is forgotten costs a download.
const MAX_ADDRESSES: u32 = 8;

/// Everything known of a package, as of one moment: a change that is being written is seen whole or not at all.
pub(crate) fn read(connection: &Connection, key: &PackageKey) -> rusqlite::Result<PackageRecord> {
    let snapshot = connection.unchecked_transaction()?;
    let Some((id, document)) = read_document(&snapshot, key)? else { return Ok(PackageRecord::default()) };
    Ok(PackageRecord { document, releases: read_releases(&snapshot, id)?, tags: read_tags(&snapshot, id)? })
}

/// Writes what one validation changed, in one transaction.
pub(crate) fn write(connection: &mut Connection, key: &PackageKey, change: &PackageChange) -> rusqlite::Result<()> {
    // At once for writing: one that has read before has to fail when another process writes, and could not wait for it.
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
    transaction.commit()
}

/// Every package that was seen upstream or asked for. What is no package name any more is left out.
pub(crate) fn names(connection: &Connection) -> rusqlite::Result<Vec<PackageName>> {
    let mut query = connection.prepare_cached("SELECT name FROM packages WHERE seen = 1 UNION SELECT name FROM subjects")?;
    let rows = query.query_map([], |row| row.get::<_, String>(0))?;
    rows.filter_map(|row| row.map(|name| PackageName::parse(&name).ok()).transpose()).collect()
}

/// What the newest documents of a package hash to, of all registries.
pub(crate) fn contents(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut query = connection.prepare_cached("SELECT DISTINCT content FROM packages WHERE name = ?1 AND content IS NOT NULL")?;
    query.query_map([name.as_str()], |row| row.get(0))?.collect()
}

/// Whether something is recorded of a package, if only that it is absent.
pub(crate) fn is_recorded(connection: &Connection, key: &PackageKey) -> rusqlite::Result<bool> {
    let mut query = connection.prepare_cached("SELECT 1 FROM packages WHERE upstream = ?1 AND name = ?2")?;
    query.exists(params![key.upstream, key.name.as_str()])
}

/// Whether a packument or a release of a package was seen.
pub(crate) fn was_seen(connection: &Connection, key: &PackageKey) -> rusqlite::Result<bool> {
    let mut query = connection.prepare_cached(
        "SELECT 1 FROM packages WHERE upstream = ?1 AND name = ?2
         AND (content IS NOT NULL OR EXISTS (SELECT 1 FROM releases WHERE releases.package = packages.id))",
    )?;
    query.exists(params![key.upstream, key.name.as_str()])
}

/// How many packages are recorded only as absent.
pub(crate) fn count_absences(connection: &Connection) -> rusqlite::Result<usize> {
    let count: i64 = connection.query_row("SELECT count(*) FROM packages WHERE seen = 0", [], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or_default())
}

/// Forgets that packages were not there at an instant before `expired`, where nothing else is known of them.
pub(crate) fn forget_absences(connection: &Connection, expired: Timestamp) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM packages WHERE seen = 0 AND looked < ?1")?;
    delete.execute([to_column(expired)]).map(drop)
}

/// Every release of a package, of all registries.
pub(crate) fn releases(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<Release>> {
    let snapshot = connection.unchecked_transaction()?;
    let mut query = snapshot.prepare_cached("SELECT id FROM packages WHERE name = ?1")?;
    let ids = query.query_map([name.as_str()], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    let mut releases = Vec::new();
    for id in ids {
        releases.extend(read_releases(&snapshot, id)?);
    }
    Ok(releases)
}

/// An instant as a column holds it: nanoseconds since 1970, at either end of what fits (the years 1677 and 2262) for one
/// that lies beyond it. Hostile publish times do; their order with sane ones stays.
pub(crate) fn to_column(instant: Timestamp) -> i64 {
    i64::try_from(instant.as_nanosecond()).unwrap_or(if instant < Timestamp::UNIX_EPOCH { i64::MIN } else { i64::MAX })
}

/// The instant a column holds. Every `i64` of nanoseconds is one.
pub(crate) fn from_column(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::MAX)
}

/// A count as a column holds it.
pub(crate) fn count_to_column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The count a column holds.
pub(crate) fn count_from_column(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

fn read_document(connection: &Connection, key: &PackageKey) -> rusqlite::Result<Option<(i64, Option<StoredPackument>)>> {
    let mut query = connection.prepare_cached(
        "SELECT id, first_seen, validated, changed, content, length, etag, last_modified, form, looked, modified
         FROM packages WHERE upstream = ?1 AND name = ?2",
    )?;
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
            form: form_from_column(row.get_ref(8)?.as_str_or_null()?),
            looked: instant(row, 9)?.unwrap_or(validated),
            modified: instant(row, 10)?,
        };
        Ok((id, Some(document)))
    };
    query.query_row(params![&*key.upstream, key.name.as_str()], read).optional()
}

fn read_releases(connection: &Connection, package: i64) -> rusqlite::Result<Vec<Release>> {
    let mut query = connection.prepare_cached(
        "SELECT version, integrity, published, effective, first_seen, gone, replaced, digests, manifest, manifest_changed,
             absent, held_since, moved, dropped, parted, missing_since
         FROM releases WHERE package = ?1 ORDER BY first_seen, version, integrity",
    )?;
    let rows = query.query_map([package], |row| {
        Ok(Release {
            version: row.get(0)?,
            integrity: integrity(row, 1)?,
            published: instant(row, 2)?,
            effective: from_column(row.get(3)?),
            first_seen: from_column(row.get(4)?),
            gone: instant(row, 5)?,
            replaced: row.get(6)?,
            digests: integrity(row, 7)?,
            manifest: row.get_ref(8)?.as_blob_or_null()?.and_then(ManifestDigest::from_bytes),
            manifest_changed: instant(row, 9)?,
            absent: instant(row, 10)?,
            held_since: instant(row, 11)?,
            moved: instant(row, 12)?,
            dropped: row.get(13)?,
            parted: row.get(14)?,
            missing_since: instant(row, 15)?,
        })
    })?;
    rows.collect()
}

fn read_tags(connection: &Connection, package: i64) -> rusqlite::Result<Vec<TagSighting>> {
    let mut query = connection.prepare_cached(
        "SELECT tag, version, first_seen, last_seen
         FROM sightings WHERE package = ?1 ORDER BY first_seen, last_seen, tag, version",
    )?;
    let rows = query.query_map([package], |row| {
        Ok(TagSighting {
            tag: row.get(0)?,
            version: row.get(1)?,
            first_seen: from_column(row.get(2)?),
            last_seen: from_column(row.get(3)?),
        })
    })?;
    rows.collect()
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
        document.form.map(form_to_column),
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
            release.gone.map(to_column),
            release.replaced,
            to_sri(release.digests.as_ref()),
            release.manifest.map(ManifestDigest::to_bytes),
            release.manifest_changed.map(to_column),
            release.absent.map(to_column),
            release.held_since.map(to_column),
            release.moved.map(to_column),
            release.dropped,
            release.parted,
            release.missing_since.map(to_column),
        ])?;
    }
    Ok(())
}

/// Adds digests to what the rows have: read and written in one transaction, so that no writer loses another's.
fn write_digests(connection: &Connection, package: i64, learned: &[LearnedDigests]) -> rusqlite::Result<()> {
    let mut query = connection
        .prepare_cached("SELECT integrity, digests FROM releases WHERE package = ?1 AND version = ?2 AND integrity = ?3")?;
    let mut update =
        connection.prepare_cached("UPDATE releases SET digests = ?4 WHERE package = ?1 AND version = ?2 AND integrity = ?3")?;
    for learned in learned {
        let sri = to_sri(learned.integrity.as_ref());
        let row = |row: &Row<'_>| Ok((integrity(row, 0)?, integrity(row, 1)?));
        let Some((stated, digests)) = query.query_row(params![package, learned.version, sri], row).optional()? else { continue };
        let known = match (stated, digests) {
            (Some(stated), Some(digests)) => stated.union(&digests).or(Some(stated)),
            (one, other) => one.or(other),
        };
        let grown = match known {
            Some(known) => known.union(&learned.digests).unwrap_or(known),
            None => learned.digests.clone(),
        };
        update.execute(params![package, learned.version, sri, grown.to_sri()])?;
    }
    Ok(())
}

/// Where tarballs came from. Of addresses that yielded the same bytes the newest are kept: the bytes stay known by each of them.
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

/// The tarballs of one version that were downloaded.
pub(crate) fn tarballs(connection: &Connection, key: &PackageKey, version: &str) -> rusqlite::Result<Vec<TarballSource>> {
    let mut query = connection.prepare_cached(
        "SELECT version, address, digests, length, public FROM tarballs
         WHERE upstream = ?1 AND name = ?2 AND version = ?3 ORDER BY id",
    )?;
    let rows = query.query_map(params![key.registry(), key.name.as_str(), version], tarball)?;
    rows.collect()
}

/// Every tarball of a package that was downloaded, of all registries.
pub(crate) fn downloaded(connection: &Connection, name: &PackageName) -> rusqlite::Result<Vec<TarballSource>> {
    let mut query = connection
        .prepare_cached("SELECT version, address, digests, length, public FROM tarballs WHERE name = ?1 ORDER BY id")?;
    let rows = query.query_map([name.as_str()], tarball)?;
    rows.collect()
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
    let mut delete = connection
        .prepare_cached("DELETE FROM sightings WHERE package = ?1 AND tag = ?2 AND version = ?3 AND first_seen = ?4")?;
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
        let seen = (to_column(sighting.first_seen), to_column(sighting.last_seen));
        upsert.execute(params![package, sighting.tag, sighting.version, seen.0, seen.1])?;
    }
    Ok(())
}

fn form_to_column(form: PackumentForm) -> &'static str {
    match form {
        PackumentForm::Full => "full",
        PackumentForm::Abbreviated => "abbreviated",
    }
}

/// Any other word is read as not known: the form is then decided again.
fn form_from_column(text: Option<&str>) -> Option<PackumentForm> {
    [PackumentForm::Full, PackumentForm::Abbreviated].into_iter().find(|form| text == Some(form_to_column(*form)))
}

fn instant(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(from_column))
}

/// An integrity that cannot be read is damage and not "none": a release must not pass for one that was never checked.
fn integrity(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Integrity>> {
    let text = row.get_ref(column)?.as_str()?;
    if text.is_empty() {
        return Ok(None);
    }
    let damaged = || rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("not an integrity: `{text}`").into());
    Integrity::parse(Some(text), None).map(Some).ok_or_else(damaged)
}
