//! Handles the audit at the end of an npm install. It is passed to upstream, and the response reports held releases of the
//! audited packages from memory. Bodies are parsed off the async threads, in one pass and within bounds.

pub(crate) mod advisories;
pub mod body;
mod routed;

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use bytes::Bytes;
use jiff::Timestamp;

use crate::firewall::audit::body::Audited;
use crate::firewall::audit::routed::RoutedAudit;
use crate::firewall::client_scope;
use crate::firewall::components::Firewall;
use crate::firewall::error::{self, Result};
use crate::firewall::package::CacheKey;
use crate::firewall::request::Client;
use crate::npm::{AuditFormat, PackageName, Version};
use crate::units::timestamp;
use crate::upstream::{PassthroughRequest, PassthroughResponse};

/// Releases listed in one notice. Further ones are counted.
const MAX_LISTED: usize = 6;

/// A newer release that is hidden from an install.
struct HeldUpdate {
    name: PackageName,
    version: Version,
    opens: Option<Timestamp>,
}

impl Firewall {
    /// Passes an audit to upstream. Drops `body` once parsed, because it may hold a memory reservation. Also returns a text for
    /// `npm-notice` that lists held releases of the packages. Fails if upstream is unavailable or `body` exceeds its limits.
    pub(crate) async fn audit(
        &self,
        client: &Client,
        passage: PassthroughRequest,
        body: Bytes,
        format: AuditFormat,
    ) -> Result<(PassthroughResponse, Option<String>)> {
        let (inner, reader) = (self.clone(), client.clone());
        // Parsing a tree takes about eight times its size.
        let is_split = self.0.registries.are_several();
        let _tree = self.0.passthrough.reserve(if is_split { 8 * body.len() as u64 } else { 0 }).await?;
        let (audited, notice, routed) = self.0.workers.run(move || inner.read_audit(&reader, &body, format)).await??;
        let (passage, notice) = without_others(passage, notice, routed);
        let passed = self.0.passthrough.send(client, None, passage).await?;
        let Some(audited) = audited else { return Ok((passed, notice)) };
        let _share = self.0.passthrough.reserve_for_parsing(&passed).await?;
        let _permit = self.0.workers.heavy.acquire(client.address).await;
        let (inner, client) = (self.clone(), client.clone());
        let advised = self.0.workers.run(move || inner.merge_advisories(&client, passed, &audited, format)).await?;
        Ok((advised, notice))
    }

    /// Returns the packages with advisories, if any feed lists vulnerabilities, the notice, and the body to pass on if it differs.
    /// Blocks.
    fn read_audit(&self, client: &Client, body: &[u8], format: AuditFormat) -> Result<AuditReading> {
        let policy_snapshot = self.0.policy.snapshot();
        let routed = self.0.registries.are_several().then(|| {
            let asked = self.0.registries.nameless(&client.addressed).id();
            let is_kept = |name: &str| PackageName::parse(name).is_ok_and(|name| self.0.registries.of(&name).id() == asked);
            routed::keep(body, format, is_kept)
        });
        // Malware feeds do not cover the vulnerabilities that an audit is about.
        let advises = policy_snapshot.advisories.has_vulnerabilities();
        let (limited, beyond) = (client_scope::limited(client), Cell::new(None));
        let note_scope = |name: &str| {
            let is_inside =
                limited.is_none_or(|identity| PackageName::parse(name).is_ok_and(|name| identity.scope.contains(&name)));
            if !is_inside {
                beyond.set(Some(name.to_owned()));
            }
        };
        let is_listed = |name: &str| {
            note_scope(name);
            advises && !policy_snapshot.advisories.of(name).is_empty()
        };
        // Upstream must not be asked about packages outside the scope, nor receive a body that cannot be read.
        let check_scope = |audited: &Option<Audited>| match (limited, beyond.take()) {
            (Some(identity), Some(name)) => Err(client_scope::outside(identity, &name)),
            (Some(identity), None) if audited.is_none() => Err(client_scope::outside(identity, "an audit that cannot be read")),
            _ => Ok(()),
        };
        if format == AuditFormat::Tree {
            let audited = if advises || limited.is_some() { body::read_tree(body, is_listed)? } else { None };
            check_scope(&audited)?;
            return Ok((audited.filter(|_| advises), None, routed));
        }
        let (mut names, mut known) = (HashSet::new(), BTreeMap::new());
        let audited = body::read_bulk(body, is_listed, |name, versions| {
            let Ok(name) = PackageName::parse(name) else { return };
            let cache_key = CacheKey::of(&name, self.0.registries.of(&name), &client.authorization);
            // The last of duplicate names counts, as usual in JSON.
            if self.0.cache.packages.contains_key(&cache_key) {
                known.insert(name.clone(), versions.to_vec());
            }
            names.insert(name);
        })?;
        check_scope(&audited)?;
        let notice = self.notice(client, &names, &known);
        Ok((audited.filter(|_| advises), notice, routed))
    }

    /// Returns the notice about held releases of known packages in a bulk audit: one line of ASCII.
    fn notice(
        &self,
        client: &Client,
        names: &HashSet<PackageName>,
        installed: &BTreeMap<PackageName, Vec<String>>,
    ) -> Option<String> {
        let mut held: Vec<_> =
            installed.iter().filter_map(|(name, versions)| self.held_updates(client, name, versions)).collect();
        // A platform build of another package is held and opened together with it.
        let is_part = |name: &PackageName| self.0.subpackages.parent(name).is_some_and(|whole| names.contains(&whole));
        held.retain(|update| !is_for_a_platform(&update.name) && !is_part(&update.name));
        if held.is_empty() {
            return None;
        }
        // Packages that no other package of the install requires are direct dependencies.
        let is_indirect = |name: &PackageName| {
            let cache_key = CacheKey::of(name, self.0.registries.of(name), &client.authorization);
            let wants = self.0.wants.of(&cache_key).unwrap_or_default();
            wants.iter().any(|want| PackageName::parse(&want.by).is_ok_and(|by| by != *name && names.contains(&by)))
        };
        held.sort_by_cached_key(|update| (is_indirect(&update.name), update.name.clone()));
        let releases = if held.len() == 1 { "release" } else { "releases" };
        let link = held.first().and_then(|first| error::explain_link(&client.base, &first.name, Some(first.version.as_str())));
        let link = link.map(|link| format!("{}{link}", error::EXPLAIN_SEPARATOR)).unwrap_or_default();
        let compose = |named: usize| {
            let mut text = format!("coldframe held back {} newer {releases}: ", held.len());
            for (at, HeldUpdate { name, version, opens }) in held.iter().take(named).enumerate() {
                let separator = if at == 0 { "" } else { ", " };
                let _ = match opens {
                    Some(opens) => write!(text, "{separator}{name} {version} opens {}", timestamp::format_utc_ceil(*opens)),
                    None => write!(text, "{separator}{name} {version} is refused"),
                };
            }
            if held.len() > named {
                let _ = write!(text, ", and {} more", held.len() - named);
            }
            text + &link
        };
        // As many as fit into a header.
        let fitting = (1..=MAX_LISTED.min(held.len())).rev().map(compose).find(|text| text.len() <= error::MAX_LINE_BYTES);
        let text = fitting.unwrap_or_else(|| compose(1));
        Some(error::one_line(&text))
    }

    /// Returns the newest hidden version that is newer than the installed one. Prereleases count only if one is installed.
    fn held_updates(&self, client: &Client, name: &PackageName, versions: &[String]) -> Option<HeldUpdate> {
        let cache_key = CacheKey::of(name, self.0.registries.of(name), &client.authorization);
        let known = self.0.cache.get(&cache_key)?;
        let packument = known.packument.as_ref()?;
        let installed = versions.iter().filter_map(|version| Version::parse(version)).max()?;
        let table = known.verdicts(&self.0.policy.snapshot(), client.profile);
        let newer = table.verdicts.iter().filter_map(|(at, verdict)| {
            let version = packument.entries[*at].version.as_ref()?;
            let wanted = *version > installed && (!version.is_prerelease() || installed.is_prerelease());
            wanted.then_some((version, verdict))
        });
        let (version, verdict) = newer.max_by(|a, b| a.0.cmp(b.0))?;
        Some(HeldUpdate { name: name.clone(), version: version.clone(), opens: verdict.opens_at() })
    }
}

/// What an audit asks for, the notice about it, and what is passed on if it is less.
type AuditReading = (Option<Audited>, Option<String>, Option<RoutedAudit>);

/// Replaces the body by what may be passed on, and says how much was left out.
fn without_others(
    passage: PassthroughRequest,
    notice: Option<String>,
    routed: Option<RoutedAudit>,
) -> (PassthroughRequest, Option<String>) {
    let Some(RoutedAudit { body, dropped }) = routed else { return (passage, notice) };
    let mut headers = passage.headers;
    headers.remove("content-encoding");
    let passage = PassthroughRequest { headers, body, ..passage };
    if dropped == 0 {
        return (passage, notice);
    }
    let names = if dropped == 1 { "name" } else { "names" };
    let left_out = format!("coldframe did not send {dropped} {names} of other registries to this audit");
    let both = |notice: String| {
        Some(format!("{notice}; {left_out}")).filter(|both| both.len() <= error::MAX_LINE_BYTES).unwrap_or(notice)
    };
    (passage, Some(notice.map_or_else(|| left_out.clone(), both)))
}

/// Checks whether a name contains an operating system and a CPU, like native builds: `@esbuild/linux-x64`.
fn is_for_a_platform(name: &PackageName) -> bool {
    const SYSTEMS: [&str; 11] =
        ["linux", "linuxmusl", "darwin", "win32", "windows", "freebsd", "openbsd", "netbsd", "android", "sunos", "aix"];
    const PROCESSORS: [&str; 10] = ["x64", "x86", "ia32", "arm", "arm64", "armv7", "ppc64", "s390x", "riscv64", "wasm32"];
    let words: Vec<&str> = name.unscoped().split(['-', '_', '.']).collect();
    let has = |known: &[&str]| words.iter().any(|word| known.contains(word));
    has(&SYSTEMS) && has(&PROCESSORS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn native_builds_are_recognized_by_name() {
        let is = |name: &str| is_for_a_platform(&PackageName::parse(name).unwrap());
        assert!(["@esbuild/linux-x64", "lightningcss-darwin-arm64", "@next/swc-win32-x64-msvc"].into_iter().all(is));
        assert!(!["linux-release-info", "arm", "x64-utils", "axios"].into_iter().any(is));
    }
}
