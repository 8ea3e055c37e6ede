//! OSV records as JSON, and their conversion to advisories on npm packages. Tolerates the deviations of real records.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

use crate::npm::{Algorithm, Digest, Integrity};
use crate::policy::advisories::affected::RangeEvent;
use crate::policy::advisories::{AdvisoryKind, AdvisoryRecord, indicators};
use crate::policy::{AffectedRange, Severity};
use crate::text::json_error;
use crate::units::timestamp;

/// The only supported ecosystem.
const ECOSYSTEM: &str = "npm";

/// The relevant part of an OSV record. The same type reads sources, stores records and writes exports.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct OsvRecord {
    /// Written to exports and ignored on reading.
    #[serde(skip_deserializing, skip_serializing_if = "String::is_empty")]
    pub schema_version: String,
    /// Present in every record; distinguishes it from other JSON.
    pub id: String,
    /// RFC 3339.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub modified: String,
    /// RFC 3339.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub published: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// One line for display.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub summary: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub affected: Vec<OsvAffected>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub severity: Vec<OsvSeverity>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "DatabaseSpecific::is_empty")]
    pub database_specific: DatabaseSpecific,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct OsvAffected {
    #[serde(deserialize_with = "nullable")]
    pub package: OsvPackage,
    /// Listed versions, as written.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<OsvRange>,
    /// CVSS vectors for this package only.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub severity: Vec<OsvSeverity>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "DatabaseSpecific::is_empty")]
    pub database_specific: DatabaseSpecific,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct OsvPackage {
    #[serde(deserialize_with = "nullable")]
    pub ecosystem: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct OsvRange {
    /// `SEMVER`, `ECOSYSTEM` or `GIT`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub events: Vec<OsvEvent>,
}

/// A range event. Exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct OsvEvent {
    /// Affected from this version on. `0` is before every version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introduced: Option<String>,
    /// Not affected from this version on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
    /// The last affected version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_affected: Option<String>,
    /// The range says nothing about this version and later ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct OsvSeverity {
    /// `CVSS_V3`, `CVSS_V4`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub score: String,
}

/// The relevant fields that databases add.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct DatabaseSpecific {
    /// `LOW`, `MODERATE`, `HIGH`, `CRITICAL`.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Whether a person reviewed the record.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub github_reviewed: Option<bool>,
    /// Weaknesses in the format of GHSA.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cwe_ids: Vec<String>,
    /// Weaknesses in the format of malware records.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub cwes: Vec<Cwe>,
    /// Hosts that the malware contacts.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub iocs: Option<Iocs>,
    /// Digests of malicious tarballs.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub indicators: Option<TarballIndicators>,
    /// Whether the record states the origins of a malware report. The content is ignored.
    #[serde(rename = "malicious-packages-origins", deserialize_with = "present", skip_serializing_if = "std::ops::Not::not")]
    pub is_malicious_package: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Cwe {
    /// `CWE-506`.
    #[serde(rename = "cweId", deserialize_with = "nullable")]
    pub id: String,
}

/// Hosts that malware contacts. URLs are left out: a connection shows no path, and blocking a whole code host is not intended.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Iocs {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct TarballIndicators {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub package_integrity: Vec<TarballIndicator>,
    /// Malicious files, whatever tarball they are in.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub evidence_files: Vec<EvidenceFile>,
}

/// A malicious file. An unusable digest is ignored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct EvidenceFile {
    /// Hex.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// Hex.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct TarballIndicator {
    #[serde(deserialize_with = "nullable")]
    pub hashes: TarballHashes,
}

/// Digests of one tarball. An unusable one is ignored.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct TarballHashes {
    /// Hex.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// Hex.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// Hex.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub sha512: String,
    /// SRI of any algorithms.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub sha512_sri: String,
}

impl TarballHashes {
    fn digests(&self) -> impl Iterator<Item = Digest> {
        let sri = Integrity::parse(Some(&self.sha512_sri), None);
        let sri: Vec<Digest> = sri.iter().flat_map(Integrity::digests).cloned().collect();
        let hex = [(Algorithm::Sha512, &self.sha512), (Algorithm::Sha256, &self.sha256), (Algorithm::Sha1, &self.sha1)];
        sri.into_iter().chain(hex.into_iter().filter_map(|(algorithm, text)| Digest::from_hex(algorithm, text)))
    }
}

impl EvidenceFile {
    fn digests(&self) -> impl Iterator<Item = Digest> {
        let hex = [(Algorithm::Sha256, &self.sha256), (Algorithm::Sha1, &self.sha1)];
        hex.into_iter().filter_map(|(algorithm, text)| Digest::from_hex(algorithm, text))
    }
}

/// Checks whether honest packages have this file too. A record that lists the empty file would refuse thousands of packages.
fn is_of_a_common_file(digest: &Digest) -> bool {
    [&b""[..], b"\n", b"{}", b"{}\n"].iter().any(|content| *digest == Digest::of(digest.algorithm(), content))
}

impl DatabaseSpecific {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn indicators(&self) -> impl Iterator<Item = String> {
        let hosts = self.iocs.iter().flat_map(|iocs| iocs.domains.iter().chain(&iocs.ips));
        let tarballs = self.indicators.iter().flat_map(|indicators| &indicators.package_integrity);
        let digests = tarballs.flat_map(|tarball| tarball.hashes.digests()).map(|digest| digest.to_sri());
        let files = self.indicators.iter().flat_map(|indicators| &indicators.evidence_files);
        let files = files.flat_map(EvidenceFile::digests);
        let files = files.filter(|digest| !is_of_a_common_file(digest)).map(|digest| indicators::file_indicator(&digest));
        hosts.filter_map(|text| indicators::normalize_indicator(text)).chain(digests).chain(files)
    }

    fn weaknesses(&self) -> impl Iterator<Item = &str> {
        self.cwe_ids.iter().map(String::as_str).chain(self.cwes.iter().map(|cwe| cwe.id.as_str()))
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum OsvDocument {
    Record(Box<OsvRecord>),
    /// JSON that is not a record, such as an index.
    NoRecord,
    /// Invalid JSON, or a record with fields of unexpected types. Contains the error text.
    Unreadable(String),
}

impl OsvRecord {
    pub(crate) fn read(bytes: &[u8]) -> OsvDocument {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match serde_json::from_slice::<Self>(text) {
            Ok(record) if record.is_one() && first(text) == Some(b'{') => OsvDocument::Record(Box::new(record)),
            Ok(_) => OsvDocument::NoRecord,
            Err(error) if error.is_data() && !claims_to_be_one(text) => OsvDocument::NoRecord,
            Err(error) => OsvDocument::Unreadable(json_error(&error)),
        }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.as_deref().is_some_and(|at| !at.is_empty())
    }

    /// Checks whether the record is about npm. A withdrawn record may name no package.
    pub(crate) fn is_about_npm(&self) -> bool {
        self.affected.iter().any(OsvAffected::is_npm) || (self.is_withdrawn() && self.affected.is_empty())
    }

    /// Converts the record to advisories, one per package. Also returns the number of unreadable events. A withdrawn record has
    /// none.
    pub(crate) fn advisory_records(&self) -> (Vec<AdvisoryRecord>, usize) {
        let (mut entries, mut unreadable): (Vec<AdvisoryRecord>, _) = (Vec::new(), 0);
        if self.is_withdrawn() {
            return (entries, unreadable);
        }
        let (kind, mut positions) = (self.kind(), HashMap::<&str, usize>::new());
        for affected in self.affected.iter().filter(|affected| affected.is_npm()) {
            let (spans, flawed) = affected.spans();
            unreadable += flawed;
            // GHSA lists a package once per range.
            let known = positions.get(&*affected.package.name).and_then(|at: &usize| entries.get_mut(*at));
            if let Some(entry) = known {
                entry.versions.extend(affected.versions.iter().map(|version| version.as_str().into()));
                entry.spans.extend(spans);
                entry.indicators.extend(affected.database_specific.indicators().map(Into::into));
                continue;
            }
            positions.insert(&affected.package.name, entries.len());
            entries.push(self.entry(affected, kind, spans));
        }
        for entry in &mut entries {
            entry.indicators.sort_unstable();
            entry.indicators.dedup();
        }
        (entries, unreadable)
    }

    fn entry(&self, affected: &OsvAffected, kind: AdvisoryKind, spans: Vec<AffectedRange>) -> AdvisoryRecord {
        let details = [&self.database_specific, &affected.database_specific];
        let word = details.iter().find_map(|details| details.severity.as_deref());
        let vectors = || self.severity.iter().chain(&affected.severity);
        let cvss = vectors().find(|score| score.kind == "CVSS_V3").or_else(|| vectors().next());
        let cwes: BTreeSet<Box<str>> = details.iter().flat_map(|details| details.weaknesses()).map(Into::into).collect();
        let indicators: BTreeSet<Box<str>> = details.iter().flat_map(|details| details.indicators()).map(Into::into).collect();
        AdvisoryRecord {
            id: self.id.as_str().into(),
            aliases: self.aliases.iter().map(|alias| alias.as_str().into()).collect(),
            kind,
            severity: word.and_then(|word| Severity::parse(&word.to_ascii_lowercase().replace("medium", "moderate"))),
            reviewed: self.database_specific.github_reviewed == Some(true),
            summary: self.summary.as_str().into(),
            modified: timestamp::parse(&self.modified),
            // Prefer the publication, which is earlier. Lists have neither date.
            known_since: timestamp::parse(&self.published).or_else(|| timestamp::parse(&self.modified)),
            cvss: cvss.map(|score| score.score.as_str()).unwrap_or_default().into(),
            cwes: cwes.into_iter().collect(),
            package: affected.package.name.as_str().into(),
            versions: affected.versions.iter().map(|version| version.as_str().into()).collect(),
            spans,
            indicators: indicators.into_iter().collect(),
        }
    }

    /// Classifies the record. It is a vulnerability if it has a score or an id of a vulnerability database, and no mark of
    /// malware. A record of a block list has none of these and counts as malware.
    fn kind(&self) -> AdvisoryKind {
        let details = || self.affected.iter().map(|affected| &affected.database_specific).chain([&self.database_specific]);
        let named = |prefix: &str| self.id.starts_with(prefix) || self.aliases.iter().any(|alias| alias.starts_with(prefix));
        let malicious = named("MAL-")
            || details().any(|details| details.is_malicious_package || details.weaknesses().any(|cwe| cwe == "CWE-506"));
        let scored = !self.severity.is_empty() || details().any(|details| details.severity.is_some());
        let vulnerable = scored || named("GHSA-") || named("CVE-");
        if malicious || !vulnerable { AdvisoryKind::Malware } else { AdvisoryKind::Vulnerability }
    }

    fn is_one(&self) -> bool {
        !self.id.is_empty() && (!self.affected.is_empty() || self.is_withdrawn() || !self.modified.is_empty())
    }
}

impl OsvAffected {
    fn is_npm(&self) -> bool {
        self.package.ecosystem == ECOSYSTEM && !self.package.name.is_empty()
    }

    fn spans(&self) -> (Vec<AffectedRange>, usize) {
        let (mut spans, mut unreadable) = (Vec::new(), 0);
        for range in self.ranges.iter().filter(|range| range.kind != "GIT") {
            let events: Vec<RangeEvent> = range.events.iter().flat_map(OsvEvent::events).collect();
            let (read, flawed) = AffectedRange::from_events(&events);
            spans.extend(read);
            unreadable += flawed;
        }
        (spans, unreadable)
    }
}

impl OsvEvent {
    fn events(&self) -> impl Iterator<Item = RangeEvent> {
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        let events = [
            text(&self.introduced).map(RangeEvent::Introduced),
            text(&self.fixed).map(RangeEvent::Fixed),
            text(&self.last_affected).map(RangeEvent::LastAffected),
            text(&self.limit).map(RangeEvent::Limit),
        ];
        events.into_iter().flatten()
    }
}

/// Checks whether JSON that does not parse as a record has the fields `id` and `affected`.
fn claims_to_be_one(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Claim {
        id: Option<serde::de::IgnoredAny>,
        affected: Option<serde::de::IgnoredAny>,
    }
    first(text) == Some(b'{')
        && serde_json::from_slice::<Claim>(text).is_ok_and(|claim| claim.id.is_some() && claim.affected.is_some())
}

fn first(text: &[u8]) -> Option<u8> {
    text.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// Checks whether a file has the extension of records.
pub(crate) fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// Checks whether the path of a record is in a `withdrawn` directory.
pub(crate) fn is_withdrawn(path: &str) -> bool {
    path.split('/').rev().skip(1).any(|folder| folder == "withdrawn")
}

/// Treats `null` as missing.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A value of the expected type, or of any other.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Expected(T),
    Other(serde::de::IgnoredAny),
}

/// Treats an unexpected type as missing. The content of these fields differs between databases.
fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(match Option::deserialize(deserializer)? {
        Some(Lenient::Expected(value)) => Some(value),
        Some(Lenient::Other(_)) | None => None,
    })
}

/// Checks whether a value other than `null` is present. Stored records have a boolean.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(match Option::deserialize(deserializer)? {
        Some(Lenient::Expected(is_present)) => is_present,
        Some(Lenient::Other(_)) => true,
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> OsvRecord {
        match OsvRecord::read(json.as_bytes()) {
            OsvDocument::Record(record) => *record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn deviations_of_real_records_are_tolerated() {
        let record = read(
            r#"{"id":"MAL-2025-1","modified":"2025-09-17T00:29:08Z","aliases":null,"severity":null,
            "affected":[{"package":{"ecosystem":"npm","name":"@ctrl/tinycolor","purl":"pkg:npm/%40ctrl/tinycolor"},"versions":null,
              "ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]},{"type":"SEMVER","events":[{"introduced":"4.1.1"},{"last_affected":"4.1.2"}]},
                        {"type":"GIT","events":[{"introduced":"abc"}]}],
              "database_specific":{"cwes":[{"cweId":"CWE-506"},{"cweId":"CWE-506"}],"severity":7}},
              {"package":{"ecosystem":"PyPI","name":"other"},"versions":["1"]}],
            "database_specific":{"malicious-packages-origins":null}}"#,
        );
        let (entries, unreadable) = record.advisory_records();
        assert_eq!((entries.len(), unreadable, entries[0].spans.len(), entries[0].kind), (1, 0, 2, AdvisoryKind::Malware));
        assert_eq!(entries[0].cwes, ["CWE-506".into()]);
    }

    #[test]
    fn other_json_is_distinguished_from_broken_records() {
        assert_eq!(OsvRecord::read(br#"{"note":"index","count":303,"records":[{"id":"MAL-1"}]}"#), OsvDocument::NoRecord);
        assert_eq!(OsvRecord::read(br#"[{"package_name":"a"}]"#), OsvDocument::NoRecord);
        assert_eq!(OsvRecord::read(b"7"), OsvDocument::NoRecord);
        assert!(matches!(OsvRecord::read(br#"{"id":"MAL-1","affected":[{"#), OsvDocument::Unreadable(_)));
        assert!(matches!(OsvRecord::read(br#"{"id":"MAL-1","affected":"axios"}"#), OsvDocument::Unreadable(_)));
    }

    #[test]
    fn withdrawn_record_has_no_advisories_and_is_stored() {
        let record = read(
            r#"{"id":"MAL-1","withdrawn":"2026-01-01T00:00:00Z","affected":[{"package":{"ecosystem":"npm","name":"supabase"},"ranges":[{"type":"SEMVER","events":[{"introduced":"0"}]}]}]}"#,
        );
        assert!(record.advisory_records().0.is_empty() && record.is_about_npm());
        assert_eq!(read(&serde_json::to_string(&record).unwrap()), record);
    }

    #[test]
    fn scored_records_are_vulnerabilities_and_block_lists_are_malware() {
        let kind = |more: &str| {
            let json = format!(r#"{{{more},"affected":[{{"package":{{"ecosystem":"npm","name":"a"}},"versions":["1.0.0"]}}]}}"#);
            read(&json).advisory_records().0[0].kind
        };
        assert_eq!(kind(r#""id":"GHSA-1","database_specific":{"severity":"HIGH"}"#), AdvisoryKind::Vulnerability);
        assert_eq!(kind(r#""id":"ACME-1","severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N"}]"#), AdvisoryKind::Vulnerability);
        assert_eq!(
            kind(r#""id":"GHSA-1","database_specific":{"cwe_ids":["CWE-506"],"severity":"CRITICAL"}"#),
            AdvisoryKind::Malware
        );
        assert_eq!(kind(r#""id":"LWA-2026-1","aliases":["MAL-2026-1"]"#), AdvisoryKind::Malware);
        assert_eq!(kind(r#""id":"ACME-1""#), AdvisoryKind::Malware);
    }

    #[test]
    fn digests_of_tarballs_and_files_are_indicators_in_every_usable_form() {
        let (tarball, file) = (b"tarball", b"file");
        let of = |algorithm, bytes: &[u8]| Digest::of(algorithm, bytes);
        let record = serde_json::json!({ "id": "MAL-1", "modified": "2026-01-01T00:00:00Z", "affected": [
            { "package": { "ecosystem": "npm", "name": "a" }, "database_specific": { "indicators": {
                "package_integrity": [
                    { "hashes": { "sha512": of(Algorithm::Sha512, tarball).to_hex(), "sha1": of(Algorithm::Sha1, tarball).to_hex() } },
                    { "hashes": { "sha512_sri": format!("{} {}", of(Algorithm::Sha384, b"x").to_sri(), of(Algorithm::Sha512, b"x").to_sri()) } },
                    { "hashes": { "sha512": "abc", "sha256": null } },
                ],
            } } },
            // Stated once per range, as some databases do.
            { "package": { "ecosystem": "npm", "name": "a" }, "database_specific": { "indicators": {
                "evidence_files": [
                    { "sha1": of(Algorithm::Sha1, file).to_hex(), "sha256": of(Algorithm::Sha256, file).to_hex() },
                    { "sha1": of(Algorithm::Sha1, b"").to_hex() },
                ],
            } } },
        ] });
        let record = read(&record.to_string());
        let found = record.advisory_records().0[0].indicators.clone();
        let mut expected: Vec<String> =
            [Algorithm::Sha1, Algorithm::Sha512].map(|algorithm| of(algorithm, tarball).to_sri()).into();
        expected.extend([Algorithm::Sha384, Algorithm::Sha512].map(|algorithm| of(algorithm, b"x").to_sri()));
        expected.extend([Algorithm::Sha1, Algorithm::Sha256].map(|algorithm| indicators::file_indicator(&of(algorithm, file))));
        expected.sort();
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
        assert_eq!(read(&serde_json::to_string(&record).unwrap()), record);
    }

    #[test]
    fn stored_record_equals_the_source_record() {
        let json = r#"{"id":"GHSA-1","modified":"2026-01-01T00:00:00Z","aliases":["CVE-1"],"summary":"s","affected":[{"package":{"ecosystem":"npm","name":"a"},
            "ranges":[{"type":"SEMVER","events":[{"introduced":"0"},{"fixed":"1.2.3"}]}]}],"severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N"}],
            "database_specific":{"github_reviewed":true,"severity":"MODERATE","cwe_ids":["CWE-79"],"malicious-packages-origins":[{"source":"x"}]}}"#;
        let record = read(json);
        let kept = read(&serde_json::to_string(&record).unwrap());
        assert_eq!(kept.advisory_records(), record.advisory_records());
        assert_eq!(kept, record);
    }
}
