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
    packages: Vec<ReportedPackage>,
    /// Entries from git or plain URLs.
    strays: Vec<NonRegistryEntry>,
    /// Entries that install nothing from a registry: their number, and the first one with its line.
    nothing: Option<(usize, String, u32)>,
    pub(crate) findings: Vec<RefusedVersion>,
    /// Versions that could not be checked, by reason: name and version, and the line.
    pub(crate) unchecked: BTreeMap<String, Vec<(String, u32)>>,
    /// Packages that a client fetches without Coldframe.
    pub(crate) bypasses: Vec<Bypass>,
    pub(crate) notes: Vec<String>,
}

/// A locked version and the packages that request it.
#[derive(Debug, Clone)]
struct ReportedPackage {
    locked: LockedVersion,
    resolved: Option<String>,
    line: u32,
    asks: Requesters,
    /// Its lockfile entries with their lines.
    places: Vec<(String, u32)>,
}

/// The requesters of a version, one per name and range.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requesters(BTreeSet<Requester>);

/// A package or the project that requests a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Requester {
    /// The requesting package. `None` is the project.
    pub(crate) by: Option<String>,
    /// The requested name, if it is an alias.
    pub(crate) alias: Option<String>,
    /// The requested range, if the lockfile contains it.
    pub(crate) range: Option<String>,
}

impl Requesters {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Requester> {
        self.0.iter()
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.0.iter().any(|asked| asked.by.is_none())
    }

    /// Returns the ranges of requesters that are not in `leaving`.
    fn of_the_rest(&self, leaving: &HashSet<&str>) -> Vec<String> {
        let stays = |asked: &&Requester| asked.by.as_deref().is_none_or(|by| !leaving.contains(by));
        let mut ranges: Vec<_> = self.0.iter().filter(stays).filter_map(|asked| asked.range.clone()).collect();
        ranges.sort_unstable();
        ranges.dedup();
        ranges.truncate(RANGES);
        ranges
    }
}

/// A lockfile entry that does not come from a registry.
struct NonRegistryEntry {
    source: EntrySource,
    name: String,
    address: String,
    line: u32,
}

pub(crate) struct RefusedVersion {
    pub(crate) judged: CheckedVersion,
    /// The line of its first entry.
    pub(crate) line: u32,
    pub(crate) ranges: Vec<String>,
    pub(crate) asks: Requesters,
    /// Its lockfile entries with their lines.
    pub(crate) places: Vec<(String, u32)>,
    /// Whether the lockfile contains other versions of the package.
    pub(crate) has_siblings: bool,
}

/// Packages that are fetched from one host without Coldframe.
pub(crate) struct Bypass {
    pub(crate) kind: BypassKind,
    /// The host, or the address if it has none.
    pub(crate) place: String,
    /// The line of the first package.
    pub(crate) line: u32,
    /// All packages with their lines.
    pub(crate) packages: Vec<(String, u32)>,
}

/// Why packages do not come through Coldframe.
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

    fn manner(self) -> &'static str {
        match self {
            Self::Git => "from a git repository",
            Self::Http => "from a URL",
            Self::OtherHost => "from a host that is not the registry",
        }
    }
}

impl Bypass {
    pub(crate) fn format_text(&self) -> String {
        let names: Vec<_> = self.packages.iter().take(3).map(|(name, _)| name.as_str()).collect();
        let more = self.packages.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}: fetched {}, not through Coldframe: {}", names.join(", "), self.kind.manner(), self.place)
    }
}

impl RefusedVersion {
    pub(crate) fn what(&self) -> String {
        format!("{}@{}", self.judged.name, self.judged.version)
    }

    /// Checks whether no allowed version is known to match all requested ranges.
    fn has_no_replacement(&self) -> bool {
        self.judged.fits.is_none() && self.judged.nearest.is_some() && self.asks.iter().any(|asked| asked.range.is_some())
    }

    /// Returns the version to use instead: one in range, else the nearest allowed one.
    pub(crate) fn replacement(&self) -> Option<&str> {
        self.judged.fits.as_deref().or(self.judged.nearest.as_deref())
    }
}

impl Report {
    pub(crate) fn refused(&self) -> impl Iterator<Item = &RefusedVersion> {
        self.files.iter().flat_map(|file| &file.findings)
    }

    pub(crate) fn unchecked(&self) -> usize {
        self.files.iter().flat_map(|file| file.unchecked.values()).map(Vec::len).sum()
    }

    /// Returns the reason if no version could be checked.
    pub(crate) fn why_nothing(&self) -> Option<&str> {
        let count: usize = self.files.iter().map(LockfileReport::count).sum();
        let reason = self.files.iter().find_map(|file| file.unchecked.keys().next())?;
        (self.unchecked() == count).then_some(reason)
    }

    /// Renders the report as JSON.
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
        let mut strays = Vec::new();
        let mut nothing: Option<(usize, String, u32)> = None;
        for entry in &lockfile.entries {
            match entry.source {
                EntrySource::Registry => {
                    let key = (&*entry.name, &*entry.version, entry.integrity.as_deref());
                    packages.entry(key).or_insert_with(|| ReportedPackage::of(entry)).ask(entry);
                }
                EntrySource::Git | EntrySource::Http => strays.push(NonRegistryEntry::of(entry)),
                EntrySource::Nothing => {
                    let (count, ..) = nothing.get_or_insert_with(|| (0, entry.place.to_string(), entry.line));
                    *count += 1;
                }
                EntrySource::File | EntrySource::Link | EntrySource::Workspace | EntrySource::Bundled => {}
            }
        }
        let mut packages: Vec<_> = packages.into_values().collect();
        packages.sort_by_key(|package| package.line);
        let (findings, bypasses, notes, unchecked) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        Self { path, dialect: lockfile.dialect, packages, strays, nothing, findings, unchecked, bypasses, notes }
    }

    /// Returns the number of locked versions.
    pub(crate) fn count(&self) -> usize {
        self.packages.len()
    }

    /// Returns the versions to check.
    pub(crate) fn locked(&self) -> impl Iterator<Item = LockedVersion> {
        self.packages.iter().map(|package| package.locked.clone())
    }

    /// Applies the outcomes, in the order of [`LockfileReport::locked`].
    pub(crate) fn apply_results(&mut self, hosts: &RegistryHosts, outcomes: &mut impl Iterator<Item = CheckedVersion>) {
        let mut around: BTreeMap<(BypassKind, String), Vec<(String, u32)>> = BTreeMap::new();
        let mut spelled: BTreeMap<String, usize> = BTreeMap::new();
        for stray in &self.strays {
            let kind = if stray.source == EntrySource::Git { BypassKind::Git } else { BypassKind::Http };
            around.entry((kind, host(&stray.address))).or_default().push((stray.name.clone(), stray.line));
        }
        let mut versions: HashMap<&str, HashSet<&str>> = HashMap::new();
        for package in &self.packages {
            versions.entry(&package.locked.name).or_default().insert(&package.locked.version);
        }
        for package in &self.packages {
            let Some(judged) = outcomes.next() else { break };
            let way = package.resolved.as_deref().map_or(AddressRoute::Through, |address| hosts.way(address, self.dialect));
            let place = package.resolved.as_deref().map(host).unwrap_or_default();
            match way {
                AddressRoute::Through => {}
                AddressRoute::Spelled => *spelled.entry(place).or_default() += 1,
                AddressRoute::Around => {
                    let what = format!("{}@{}", judged.name, judged.version);
                    around.entry((BypassKind::OtherHost, place)).or_default().push((what, package.line));
                }
            }
            // A package from another registry may be missing in this one.
            let is_elsewhere =
                way == AddressRoute::Around && matches!(judged.outcome, CheckOutcome::Missing | CheckOutcome::Undecided);
            if judged.outcome == CheckOutcome::Allow || is_elsewhere {
                continue;
            }
            if judged.outcome == CheckOutcome::Undecided {
                let what = format!("{}@{}", judged.name, judged.version);
                self.unchecked.entry(judged.reason.unwrap_or_default()).or_default().push((what, package.line));
                continue;
            }
            self.findings.push(RefusedVersion {
                has_siblings: versions.get(&*package.locked.name).is_some_and(|versions| versions.len() > 1),
                judged,
                line: package.line,
                ranges: package.locked.ranges.clone(),
                asks: package.asks.clone(),
                places: package.places.clone(),
            });
        }
        let bypass = |((kind, place), packages): ((BypassKind, String), Vec<(String, u32)>)| Bypass {
            kind,
            place,
            line: packages.iter().map(|(_, line)| *line).min().unwrap_or(1),
            packages,
        };
        self.bypasses = around.into_iter().map(bypass).collect();
        self.notes = spelled.into_iter().map(|(place, count)| self.note(&place, count)).collect();
        self.notes.extend(self.nothing.as_ref().map(|(count, place, line)| {
            let entries = if *count == 1 { "1 entry installs".to_owned() } else { format!("{count} entries install") };
            format!("{entries} nothing from a registry: {place} (line {line})")
        }));
    }

    /// Returns versions to check again with the ranges of requesters that stay, because no version matched all of them.
    pub(crate) fn unresolved(&self) -> impl Iterator<Item = LockedVersion> {
        let leaving = self.leaving();
        let unfit = self.findings.iter().filter(|finding| finding.has_no_replacement()).map(move |finding| LockedVersion {
            name: finding.judged.name.clone(),
            version: finding.judged.version.clone(),
            integrity: None,
            ranges: finding.asks.of_the_rest(&leaving),
        });
        unfit.collect::<Vec<_>>().into_iter()
    }

    /// Applies the outcomes, in the order of [`LockfileReport::unresolved`].
    pub(crate) fn apply_replacements(&mut self, outcomes: &mut impl Iterator<Item = CheckedVersion>) {
        let leaving: HashSet<String> = self.leaving().into_iter().map(str::to_owned).collect();
        let leaving = leaving.iter().map(String::as_str).collect();
        for finding in self.findings.iter_mut().filter(|finding| finding.has_no_replacement()) {
            let Some(judged) = outcomes.next() else { break };
            finding.ranges = finding.asks.of_the_rest(&leaving);
            // If all requesters are replaced, any version will do.
            finding.judged.fits = if finding.ranges.is_empty() { judged.nearest } else { judged.fits };
        }
    }

    /// Returns the packages that are replaced with another version.
    fn leaving(&self) -> HashSet<&str> {
        self.findings.iter().map(|finding| finding.judged.name.as_str()).collect()
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
            document["line"] = finding.line.into();
            document["ranges"] = finding.ranges.clone().into();
            document["direct"] = finding.asks.is_direct().into();
            document
        };
        let unchecked = |(reason, packages): (&String, &Vec<(String, u32)>)| {
            let packages = packages.iter().map(|(what, line)| json!({ "package": what, "line": line }));
            json!({ "reason": reason, "packages": packages.collect::<Vec<_>>() })
        };
        let bypass = |bypass: &Bypass| {
            let packages = bypass.packages.iter().map(|(name, line)| json!({ "package": name, "line": line }));
            json!({ "kind": bypass.kind.as_str(), "place": bypass.place, "packages": packages.collect::<Vec<_>>() })
        };
        json!({
            "path": self.path,
            "packages": self.count(),
            "refused": self.findings.iter().map(finding).collect::<Vec<_>>(),
            "unchecked": self.unchecked.iter().map(unchecked).collect::<Vec<_>>(),
            "bypasses": self.bypasses.iter().map(bypass).collect::<Vec<_>>(),
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
        Self { locked, resolved, line: entry.line, asks: Requesters::default(), places: Vec::new() }
    }

    fn ask(&mut self, entry: &LockfileEntry) {
        self.places.push((entry.place.to_string(), entry.line));
        for ask in &entry.requested_by {
            let by = (!ask.direct).then(|| ask.by.to_string());
            let (alias, range) = (ask.alias.as_deref().map(str::to_owned), ask.range.as_deref().map(str::to_owned));
            self.asks.0.insert(Requester { by, alias, range });
            let Some(range) = ask.range.as_deref() else { continue };
            if self.locked.ranges.len() < RANGES && !self.locked.ranges.iter().any(|known| known == range) {
                self.locked.ranges.push(range.to_owned());
            }
        }
    }
}

impl NonRegistryEntry {
    fn of(entry: &LockfileEntry) -> Self {
        let address = entry.resolved.as_deref().unwrap_or(&entry.version).to_owned();
        Self { source: entry.source, name: entry.name.to_string(), address, line: entry.line }
    }
}
