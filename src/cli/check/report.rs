//! The findings of `coldframe check` per lockfile, independent of the output format.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};

use crate::cli::registry_hosts::{AddressRoute, RegistryHosts, host};
use crate::firewall::{CheckOutcome, CheckedVersion, LockedVersion};
use crate::npm::Lockfile;
use crate::npm::lockfile::{EntrySource, LockfileEntry, LockfileFormat};

/// At most this many ranges are sent for one version.
const RANGES: usize = 64;

pub(crate) struct Report {
    pub(crate) files: Vec<LockfileReport>,
}

pub(crate) struct LockfileReport {
    pub(crate) path: String,
    pub(crate) dialect: LockfileFormat,
    /// The locked versions from registries, one per name, version and integrity.
    pub(crate) packages: Vec<ReportedPackage>,
    pub(crate) findings: Vec<RefusedVersion>,
    /// Versions that could not be checked, by reason: name and version, and the line.
    pub(crate) unchecked: BTreeMap<String, Vec<(String, u32)>>,
    /// Packages that are fetched without Coldframe, by reason and host, with their lines.
    bypassed: BTreeMap<(BypassKind, String), Vec<(String, u32)>>,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct ReportedPackage {
    pub(crate) locked: LockedVersion,
    resolved: Option<String>,
    /// The line of its first entry.
    pub(crate) line: u32,
    /// Its requesters, one per name and range.
    pub(crate) asks: BTreeSet<Requester>,
    /// Its lockfile entries with their lines.
    pub(crate) places: Vec<(String, u32)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Requester {
    /// The requesting package. `None` is the project.
    pub(crate) by: Option<String>,
    /// The requested name, if it is an alias.
    pub(crate) alias: Option<String>,
    /// The requested range, if the lockfile contains it.
    pub(crate) range: Option<String>,
}

/// Returns the ranges of requesters that are not in `leaving`.
fn ranges_of_the_rest(asks: &BTreeSet<Requester>, leaving: &HashSet<String>) -> Vec<String> {
    let stays = |asked: &&Requester| asked.by.as_deref().is_none_or(|by| !leaving.contains(by));
    let ranges: BTreeSet<_> = asks.iter().filter(stays).filter_map(|asked| asked.range.clone()).collect();
    ranges.into_iter().take(RANGES).collect()
}

pub(crate) struct RefusedVersion {
    pub(crate) judged: CheckedVersion,
    pub(crate) package: ReportedPackage,
    /// Whether the lockfile contains other versions of the package.
    pub(crate) has_siblings: bool,
}

pub(crate) struct Bypass<'a> {
    pub(crate) kind: BypassKind,
    /// The host, or the address if it has none.
    pub(crate) place: &'a str,
    pub(crate) line: u32,
    pub(crate) packages: &'a [(String, u32)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BypassKind {
    Git,
    Http,
    OtherHost,
}

impl BypassKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Git => "git",
            Self::Http => "http",
            Self::OtherHost => "other-host",
        }
    }
}

impl Bypass<'_> {
    pub(crate) fn format_text(&self) -> String {
        let names: Vec<_> = self.packages.iter().take(3).map(|(name, _)| name.as_str()).collect();
        let more = self.packages.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let manner = match self.kind {
            BypassKind::Git => "from a git repository",
            BypassKind::Http => "from a URL",
            BypassKind::OtherHost => "from a host that is not the registry",
        };
        format!("{}{more}: fetched {manner}, not through Coldframe: {}", names.join(", "), self.place)
    }
}

pub(crate) fn spec(checked: &CheckedVersion) -> String {
    format!("{}@{}", checked.name, checked.version)
}

impl RefusedVersion {
    /// Checks whether no allowed version is known to match all requested ranges.
    fn has_no_replacement(&self) -> bool {
        self.judged.fits.is_none() && self.judged.nearest.is_some() && self.package.asks.iter().any(|asked| asked.range.is_some())
    }
}

impl Report {
    pub(crate) fn refused(&self) -> impl Iterator<Item = &RefusedVersion> {
        self.files.iter().flat_map(|file| &file.findings)
    }

    pub(crate) fn unchecked(&self) -> usize {
        self.files.iter().flat_map(|file| file.unchecked.values()).map(Vec::len).sum()
    }

    pub(crate) fn why_nothing(&self) -> Option<&str> {
        let count: usize = self.files.iter().map(|file| file.packages.len()).sum();
        let reason = self.files.iter().find_map(|file| file.unchecked.keys().next())?;
        (self.unchecked() == count).then_some(reason)
    }

    pub(crate) fn json(&self, fix: Option<Value>) -> Value {
        let files: Vec<_> = self.files.iter().map(LockfileReport::json).collect();
        let mut document = json!({ "refused": self.refused().count(), "unchecked": self.unchecked(), "files": files });
        if let Some(fix) = fix {
            document["fix"] = fix;
        }
        document
    }
}

impl LockfileReport {
    /// Collects the entries of a lockfile. No version is checked yet.
    pub(crate) fn of(path: String, lockfile: &Lockfile) -> Self {
        let mut packages: BTreeMap<(&str, &str, Option<&str>), ReportedPackage> = BTreeMap::new();
        let mut bypassed: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for entry in &lockfile.entries {
            let kind = match entry.source {
                EntrySource::Registry => {
                    let key = (&*entry.name, &*entry.version, entry.integrity.as_deref());
                    packages.entry(key).or_insert_with(|| ReportedPackage::of(entry)).ask(entry);
                    continue;
                }
                EntrySource::Git => BypassKind::Git,
                EntrySource::Http => BypassKind::Http,
                EntrySource::Nothing | EntrySource::File | EntrySource::Link | EntrySource::Workspace | EntrySource::Bundled => {
                    continue;
                }
            };
            let place = host(entry.resolved.as_deref().unwrap_or(&entry.version));
            bypassed.entry((kind, place)).or_default().push((entry.name.to_string(), entry.line));
        }
        let mut packages: Vec<_> = packages.into_values().collect();
        packages.sort_by_key(|package| package.line);
        let nothing: Vec<_> = lockfile.entries.iter().filter(|entry| entry.source == EntrySource::Nothing).collect();
        let notes = nothing.first().map(|first| {
            let entries = if nothing.len() == 1 { "1 entry installs" } else { &format!("{} entries install", nothing.len()) };
            format!("{entries} nothing from a registry: {} (line {})", first.place, first.line)
        });
        let (findings, unchecked, notes) = (Vec::new(), BTreeMap::new(), notes.into_iter().collect());
        Self { path, dialect: lockfile.dialect, packages, findings, unchecked, bypassed, notes }
    }

    pub(crate) fn bypasses(&self) -> impl Iterator<Item = Bypass<'_>> {
        self.bypassed.iter().map(|((kind, place), packages)| {
            let line = packages.iter().map(|(_, line)| *line).min().unwrap_or(1);
            Bypass { kind: *kind, place, line, packages }
        })
    }

    /// Applies the outcomes, in the order of `packages`.
    pub(crate) fn apply_results(&mut self, hosts: &RegistryHosts, outcomes: &mut impl Iterator<Item = CheckedVersion>) {
        let mut spelled: BTreeMap<String, usize> = BTreeMap::new();
        let mut versions: HashMap<&str, HashSet<&str>> = HashMap::new();
        for package in &self.packages {
            versions.entry(&package.locked.name).or_default().insert(&package.locked.version);
        }
        for (package, judged) in self.packages.iter().zip(outcomes) {
            let way = package.resolved.as_deref().map_or(AddressRoute::Through, |address| hosts.way(address, self.dialect));
            let place = package.resolved.as_deref().map(host).unwrap_or_default();
            match way {
                AddressRoute::Through => {}
                AddressRoute::Spelled => *spelled.entry(place).or_default() += 1,
                AddressRoute::Around => {
                    self.bypassed.entry((BypassKind::OtherHost, place)).or_default().push((spec(&judged), package.line));
                }
            }
            match judged.outcome {
                CheckOutcome::Allow => {}
                // A package from another registry may be missing in this one.
                CheckOutcome::Missing | CheckOutcome::Undecided if way == AddressRoute::Around => {}
                CheckOutcome::Undecided => {
                    let what = (spec(&judged), package.line);
                    self.unchecked.entry(judged.reason.unwrap_or_default()).or_default().push(what);
                }
                _ => {
                    let has_siblings = versions.get(&*package.locked.name).is_some_and(|versions| versions.len() > 1);
                    self.findings.push(RefusedVersion { judged, package: package.clone(), has_siblings });
                }
            }
        }
        let spelled: Vec<_> = spelled.into_iter().map(|(place, count)| self.note(&place, count)).collect();
        self.notes.splice(0..0, spelled);
    }

    /// Returns versions to check again with the ranges of requesters that stay, because no version matched all of them.
    pub(crate) fn unresolved(&self) -> Vec<LockedVersion> {
        let leaving = self.leaving();
        let unfit = self.findings.iter().filter(|finding| finding.has_no_replacement()).map(|finding| LockedVersion {
            name: finding.judged.name.clone(),
            version: finding.judged.version.clone(),
            integrity: None,
            ranges: ranges_of_the_rest(&finding.package.asks, &leaving),
        });
        unfit.collect()
    }

    /// Applies the outcomes, in the order of [`LockfileReport::unresolved`].
    pub(crate) fn apply_replacements(&mut self, outcomes: &mut impl Iterator<Item = CheckedVersion>) {
        let leaving = self.leaving();
        for (finding, judged) in self.findings.iter_mut().filter(|finding| finding.has_no_replacement()).zip(outcomes) {
            let ranges = ranges_of_the_rest(&finding.package.asks, &leaving);
            // If all requesters are replaced, any version will do.
            finding.judged.fits = if ranges.is_empty() { judged.nearest } else { judged.fits };
            finding.package.locked.ranges = ranges;
        }
    }

    /// Returns the packages that are replaced with another version.
    fn leaving(&self) -> HashSet<String> {
        self.findings.iter().map(|finding| finding.judged.name.clone()).collect()
    }

    /// Describes entries whose address the client uses unchanged.
    fn note(&self, place: &str, count: usize) -> String {
        let client = match self.dialect {
            LockfileFormat::Npm => "npm",
            LockfileFormat::Pnpm6 | LockfileFormat::Pnpm9 => "pnpm",
            LockfileFormat::YarnClassic => "yarn 1",
            LockfileFormat::YarnBerry => "yarn",
            LockfileFormat::Bun => "bun",
            LockfileFormat::Deno => "deno",
        };
        let entries = if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") };
        format!("{client} fetches {entries} directly from {place}, as locked, regardless of the configured registry")
    }

    fn json(&self) -> Value {
        let finding = |finding: &RefusedVersion| {
            let mut document = serde_json::to_value(&finding.judged).unwrap_or_default();
            document["line"] = finding.package.line.into();
            document["ranges"] = finding.package.locked.ranges.clone().into();
            document["direct"] = finding.package.asks.iter().any(|asked| asked.by.is_none()).into();
            document
        };
        let packages = |packages: &[(String, u32)]| -> Value {
            packages.iter().map(|(package, line)| json!({ "package": package, "line": line })).collect()
        };
        let unchecked = |(reason, unchecked): (&String, &Vec<_>)| json!({ "reason": reason, "packages": packages(unchecked) });
        let bypass = |bypass: Bypass<'_>| json!({ "kind": bypass.kind.as_str(), "place": bypass.place, "packages": packages(bypass.packages) });
        json!({
            "path": self.path,
            "packages": self.packages.len(),
            "refused": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "unchecked": self.unchecked.iter().map(unchecked).collect::<Vec<_>>(),
            "bypasses": self.bypasses().map(bypass).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

impl ReportedPackage {
    fn of(entry: &LockfileEntry) -> Self {
        let locked = LockedVersion {
            name: entry.name.to_string(),
            version: entry.version.to_string(),
            integrity: entry.integrity.as_deref().map(str::to_owned),
            ranges: Vec::new(),
        };
        let resolved = entry.resolved.as_deref().map(str::to_owned);
        Self { locked, resolved, line: entry.line, asks: BTreeSet::new(), places: Vec::new() }
    }

    fn ask(&mut self, entry: &LockfileEntry) {
        self.places.push((entry.place.to_string(), entry.line));
        for ask in &entry.requested_by {
            let by = (!ask.direct).then(|| ask.by.to_string());
            let (alias, range) = (ask.alias.as_deref().map(str::to_owned), ask.range.as_deref().map(str::to_owned));
            self.asks.insert(Requester { by, alias, range });
            let Some(range) = ask.range.as_deref() else { continue };
            if self.locked.ranges.len() < RANGES && !self.locked.ranges.iter().any(|known| known == range) {
                self.locked.ranges.push(range.to_owned());
            }
        }
    }
}
