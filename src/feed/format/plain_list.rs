//! Imports plain lists: one `name@version` per line, or the JSON list of safe-chain. An entry is one version or all versions, not
//! a range.

use serde::Deserialize;

use crate::feed::error::FeedError;
use crate::feed::import::RecordImporter;
use crate::feed::osv::{OsvAffected, OsvEvent, OsvPackage, OsvRange, OsvRecord};
use crate::npm::{PackageSpec, Version};
use crate::text::json_error;

#[derive(Deserialize)]
struct SafeChainEntry {
    package_name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    reason: Option<String>,
}

/// Imports a list of `{package_name, version, reason}`. The ids of the records begin with the name of the feed.
pub(crate) fn import_safe_chain(importer: &mut RecordImporter, feed: &str, name: &str, bytes: &[u8]) -> Result<(), FeedError> {
    importer.may_be_empty = true;
    let entries: Vec<serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|error| FeedError::broken(name, json_error(&error)))?;
    for (number, value) in entries.into_iter().enumerate() {
        match serde_json::from_value::<SafeChainEntry>(value) {
            Ok(entry) if !entry.package_name.is_empty() => {
                let reason = entry.reason.unwrap_or_default().to_lowercase();
                let version = Some(&*entry.version).filter(|text| !text.is_empty());
                importer.record(&record(feed, &entry.package_name, version, &reason))?;
            }
            Ok(_) => importer.note_unreadable(&format!("{name}, entry {number}"), "no package name"),
            Err(error) => importer.note_unreadable(&format!("{name}, entry {number}"), &json_error(&error)),
        }
    }
    Ok(())
}

/// Imports `name@version` lines. A name alone or `name@*` means every version; `#` starts a comment.
pub(crate) fn import_lines(importer: &mut RecordImporter, feed: &str, name: &str, bytes: &[u8]) -> Result<(), FeedError> {
    let text = std::str::from_utf8(bytes).map_err(|error| FeedError::broken(name, error))?;
    importer.may_be_empty = true;
    for (number, line) in text.lines().enumerate() {
        let (line, reason) = line.split_once('#').map_or((line, ""), |(line, reason)| (line, reason.trim()));
        let line = line.trim().trim_start_matches('\u{feff}');
        if line.is_empty() {
            continue;
        }
        match PackageSpec::parse(line) {
            Ok(PackageSpec { name, wanted }) if wanted.as_deref().is_none_or(is_version) => {
                importer.record(&record(feed, name.as_str(), wanted.as_deref(), reason))?;
            }
            Ok(_) => importer.note_unreadable(&format!("{name}, line {}", number + 1), "not a version"),
            Err(error) => importer.note_unreadable(&format!("{name}, line {}", number + 1), &error.to_string()),
        }
    }
    Ok(())
}

fn is_version(text: &str) -> bool {
    text == "*" || Version::parse(text).is_some()
}

fn record(feed: &str, name: &str, version: Option<&str>, reason: &str) -> OsvRecord {
    let version = version.filter(|version| *version != "*");
    let from_start = || OsvEvent { introduced: Some("0".to_owned()), ..OsvEvent::default() };
    let everything = || OsvRange { kind: "SEMVER".to_owned(), events: vec![from_start()] };
    let affected = OsvAffected {
        package: OsvPackage { ecosystem: "npm".to_owned(), name: name.to_owned() },
        versions: version.map(str::to_owned).into_iter().collect(),
        ranges: if version.is_none() { vec![everything()] } else { Vec::new() },
        ..OsvAffected::default()
    };
    OsvRecord {
        id: format!("{feed}:{name}{}", version.map(|version| format!("@{version}")).unwrap_or_default()),
        summary: if reason.is_empty() { "listed".to_owned() } else { reason.to_owned() },
        affected: vec![affected],
        ..OsvRecord::default()
    }
}
