//! `coldframe policy survey`: what a policy refuses among packuments, and what its signals would have cost their past updates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use crate::app::probe;
use crate::cli::flags::SettingFlags;
use crate::cli::lockfiles;
use crate::cli::output::{self, Exit, counted, say};
use crate::cli::runtime::block_on;
use crate::clock::{Clock as _, SystemClock};
use crate::config::policy as policy_files;
use crate::npm::lockfile::{EntrySource, NAMES};
use crate::npm::packument::parse;
use crate::npm::{PackageName, Packument};
use crate::policy::survey::{SurveyedPackages, SurveyedSpan, TimePrecision, UpdateSurvey, years_before};
use crate::policy::{Facts, Policy, Verdict, evaluate_without_decisions, presets};
use crate::text::{TextTable, push_line};
use crate::units::timestamp;
use crate::vetting::{Signal, SignalStrength};

/// Packages listed as the ones with the most held updates.
const MAX_WORST: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Packuments as JSON: files or directories of `*.json`. Or lockfiles, whose packages are fetched one by one.
    #[arg(value_name = "PACKUMENT|LOCKFILE", required = true)]
    sources: Vec<PathBuf>,
    /// File, directory, or shipped policy; with `--updates` by default all shipped ones.
    #[arg(long)]
    policy: Option<String>,
    /// Evaluate as of this instant instead of now.
    #[arg(long, value_parser = parse_instant)]
    at: Option<Timestamp>,
    /// List every version that would be refused.
    #[arg(long, conflicts_with = "updates")]
    list: bool,
    /// Judge the stable updates of the last YEARS as of their publication, and count what signals hold beyond ages.
    #[arg(long, value_name = "YEARS", num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    updates: Option<u32>,
    /// Count only publish times without a fraction of a second. Mirrors may state the time of their copy with one.
    #[arg(long, requires = "updates")]
    whole_seconds: bool,
    /// Registry for the packages of lockfiles [default: that of npm's configuration].
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let at = arguments.at.unwrap_or_else(|| SystemClock.now());
    let packuments = read_sources(&arguments.sources, arguments.upstream.as_deref())?;
    let Some(years) = arguments.updates else {
        return count_refused(&packuments, arguments.policy.as_deref().unwrap_or("default"), at, arguments.list);
    };
    let names = arguments.policy.map_or_else(|| presets::names().into_iter().map(str::to_owned).collect(), |name| vec![name]);
    let load = |name: String| anyhow::Ok((name.clone(), policy_files::load(&name)?.policy.as_of(at)));
    let policies: Vec<(String, Policy)> = names.into_iter().map(load).collect::<Result<_, _>>()?;
    let precision = if arguments.whole_seconds { TimePrecision::WholeSeconds } else { TimePrecision::Any };
    let span = SurveyedSpan { since: years_before(at, years), until: at, precision };
    let surveyed = SurveyedPackages::new(&packuments, precision).survey(span, &policies);
    output::print(&format_updates(&surveyed, span))
}

fn count_refused(packuments: &[Packument], policy_name: &str, at: Timestamp, list: bool) -> anyhow::Result<Exit> {
    let policy = policy_files::load(policy_name)?.policy.as_of(at);
    let (mut versions, mut allowed, mut listed) = (0, 0, String::new());
    let (mut held, mut denied) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for packument in packuments {
        versions += packument.entries.len();
        let rules = policy.for_package(&packument.name);
        for entry in &packument.entries {
            let facts = Facts::of_entry(packument, entry, entry.published.unwrap_or(at));
            let verdict = evaluate_without_decisions(&rules, &facts, at);
            match &verdict {
                Verdict::Allow => allowed += 1,
                Verdict::Hold { reason, .. } => *held.entry(reason.rule.to_string()).or_default() += 1,
                Verdict::Deny { reason } => *denied.entry(reason.rule.to_string()).or_default() += 1,
            }
            if let (true, Some(reason)) = (list, verdict.reason()) {
                push_line!(listed, "{}@{}: {} (rule {})", packument.name, entry.key, reason.detail, reason.rule);
            }
        }
    }
    let mut columns = TextTable::indented("  ");
    columns.row([&"allowed", &"", &allowed]);
    for (word, counts) in [("held", held), ("denied", denied)] {
        columns.row([&word, &"", &counts.values().sum::<usize>()]);
        for (rule, count) in counts {
            columns.row([&"", &rule, &count]);
        }
    }
    let (at, packages) = (timestamp::format_utc(at), packuments.len());
    output::print(&format!("{listed}{policy_name} over {packages} packages and {versions} versions, as of {at}\n{columns}"))
}

fn per_thousand(count: usize, updates: usize) -> String {
    let tenths = (count * 10_000 + updates / 2).checked_div(updates).unwrap_or_default();
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn format_updates(surveyed: &UpdateSurvey, span: SurveyedSpan) -> String {
    let UpdateSurvey { packages, without_updates, updates, .. } = *surveyed;
    let [since, until] = [span.since, span.until].map(timestamp::format_utc);
    let mut text = format!(
        "{} of {}, published from {since} to {until}; {without_updates} packages have none\n",
        counted(updates, "stable update"),
        counted(packages, "package"),
    );
    let (added, unknown) = surveyed.dependencies;
    push_line!(text, "{added} new dependencies, {unknown} of packages outside the survey, which count as old");
    push_line!(text, "with a strong signal: {} per 1,000", per_thousand(surveyed.strong, updates));
    let mut columns = TextTable::indented("");
    columns.row([&"SIGNAL", &"STRENGTH", &"UPDATES", &"PER 1,000", &"NOT OBSERVABLE"]);
    for signal in Signal::ALL.iter().filter(|signal| **signal != Signal::DeprecatedYoung) {
        let strength = if signal.strength() == SignalStrength::Strong { "strong" } else { "weak" };
        let count = surveyed.by_signal.get(signal).copied().unwrap_or_default();
        let unseen = surveyed.unobservable.get(signal).copied().unwrap_or_default();
        columns.row([&signal.as_str(), &strength, &count, &per_thousand(count, updates), &unseen]);
    }
    let mut policies = TextTable::indented("");
    policies.row([&"POLICY", &"HELD LONGER", &"PER 1,000", &"MEDIAN EXTRA WAIT", &"DENIED", &"BY RULE"]);
    for price in &surveyed.policies {
        let wait = price.median_wait().map_or_else(|| "-".to_owned(), format_wait);
        let by_rule: Vec<_> = price.holds.iter().chain(&price.denials).map(|(rule, count)| format!("{rule} {count}")).collect();
        let (held, denied) = (price.held(), price.denials.values().sum::<usize>());
        policies.row([&price.name, &held, &per_thousand(held, updates), &wait, &denied, &by_rule.join(", ")]);
    }
    let _ = write!(text, "\n{columns}\n{policies}");
    for price in surveyed.policies.iter().filter(|price| !price.by_package.is_empty()) {
        text.push('\n');
        push_line!(text, "most held by {}: {}", price.name, most(&price.by_package));
        push_line!(text, "for the signals: {}", most(&price.by_signals));
    }
    text
}

fn format_wait(wait: SignedDuration) -> String {
    timestamp::format_duration(wait.unsigned_abs())
}

/// Lists the names with the highest counts.
fn most(counts: &BTreeMap<String, usize>) -> String {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), *name));
    counts.iter().take(MAX_WORST).map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join("; ")
}

/// Reads packuments from files and directories, and fetches those of the packages in lockfiles, one after the other.
fn read_sources(paths: &[PathBuf], upstream: Option<&str>) -> anyhow::Result<Vec<Packument>> {
    let is_lockfile = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        NAMES.iter().any(|known| name.ends_with(known)) && path.is_file()
    };
    let (locked, files): (Vec<_>, Vec<_>) = paths.iter().partition(is_lockfile);
    let mut read = Vec::new();
    let mut known = BTreeSet::new();
    for path in packuments(&files)? {
        let packument = read_packument(&path).map_err(|error| unreadable(&path, &error))?;
        if known.insert(packument.name.clone()) {
            read.push(packument);
        }
    }
    let mut names = BTreeSet::new();
    for path in locked {
        let entries = lockfiles::read(path)?.entries;
        let of_registry = entries.iter().filter(|entry| matches!(entry.source, EntrySource::Registry));
        names.extend(of_registry.filter_map(|entry| PackageName::parse(&entry.name).ok()));
    }
    // A package that is counted twice would change the rates.
    names.retain(|name| !known.contains(name));
    if names.is_empty() {
        return Ok(read);
    }
    let config = SettingFlags::<false>::of_upstream(upstream).config()?;
    for (name, packument) in block_on(probe::packuments(&config, names.iter()))?? {
        match packument {
            Ok(packument) => read.push(packument),
            Err(error) => say(&format!("{name} is left out: {error}")),
        }
    }
    Ok(read)
}

fn read_packument(path: &Path) -> anyhow::Result<Packument> {
    let document = std::fs::read(path)?;
    let named: SurveyedVersion<'_> = serde_json::from_slice(&document)?;
    let name = PackageName::parse(&named.name)?;
    Ok(parse::parse(&name, &document)?.packument)
}

#[derive(serde::Deserialize)]
struct SurveyedVersion<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("cannot read `{}`: {error}", path.display())
}

/// Returns the given files and the JSON files in given directories.
fn packuments(paths: &[&PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push((*path).clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json") && file.is_file());
        files.sort();
        found.extend(files);
    }
    Ok(found)
}

fn parse_instant(text: &str) -> Result<Timestamp, String> {
    timestamp::parse(text).ok_or_else(|| "expected an instant such as `2026-03-31T01:00:00Z`".to_owned())
}
