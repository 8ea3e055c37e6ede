//! `coldframe policy`: checks policies, runs their test cases, and evaluates them against past incidents, packument files or
//! the ledger. Needs no running server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::app;
use crate::app::standalone::policy_diff::{ChangedVerdict, PolicyDiff};
use crate::cli::feed;
use crate::cli::flags::QueryArgs;
use crate::cli::output::{self, Exit, OutputArgs, counted, say, usage};
use crate::cli::runtime::block_on;
use crate::clock::{Clock as _, SystemClock};
use crate::config::policy as policy_files;
use crate::files;
use crate::npm::packument::parse;
use crate::npm::{PackageName, Packument};
use crate::policy::replay::{PastIncident, ReplayOutcome, ReplayResult, ReplaySignals, replay};
use crate::policy::{Facts, RuleId, Verdict, cases, evaluate_without_decisions, presets};
use crate::text::{TextTable, push_line};
use crate::units::timestamp;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a policy and report all errors.
    Check {
        /// File, directory, or shipped policy: `default`, `strict`, `ci`, `observe`.
        #[arg(value_name = "POLICY", default_value = POLICY)]
        policy: String,
        /// Treat an exemption without an owner or expiry as an error.
        #[arg(long)]
        strict: bool,
    },
    /// Run the test cases of a policy: `x.cases` next to `x.toml`.
    Test {
        /// File, directory, or shipped policy.
        #[arg(value_name = "POLICY", default_value = POLICY)]
        policy: String,
    },
    /// Show which past requests another policy would change, and for which clients.
    Diff {
        /// Policy to compare with: file, directory, or shipped policy.
        #[arg(value_name = "CANDIDATE")]
        candidate: String,
        #[command(flatten)]
        query: QueryArgs,
    },
    /// Show which past incidents a policy would have stopped.
    Replay {
        /// JSON file of incidents, see policies/README.md [default: shipped ones].
        #[arg(value_name = "INCIDENTS")]
        incidents: Option<PathBuf>,
        /// File, directory, or shipped policy.
        #[arg(long, default_value = POLICY)]
        policy: String,
        #[command(flatten)]
        output: OutputArgs,
        /// Ignore signals that compare a release with earlier ones.
        #[arg(long)]
        without_signals: bool,
    },
    /// Count held and denied versions in packument files, per rule.
    Survey {
        /// Packuments as JSON, full or abbreviated: files or directories of `*.json`.
        #[arg(value_name = "PACKUMENT", required = true)]
        packuments: Vec<PathBuf>,
        /// File, directory, or shipped policy.
        #[arg(long, default_value = POLICY)]
        policy: String,
        /// Evaluate as of this instant instead of now.
        #[arg(long, value_parser = parse_instant)]
        at: Option<Timestamp>,
        /// List every version that would be refused.
        #[arg(long)]
        list: bool,
    },
    /// Print a shipped policy, as a starting point for your own.
    Show {
        /// Shipped policy: `default`, `strict`, `ci`, `observe`.
        #[arg(value_name = "NAME", default_value = POLICY)]
        policy: String,
    },
}

/// The largest incident file, in bytes: a thousand times the shipped one.
const MAX_INCIDENT_BYTES: u64 = 32 << 20;

const POLICY: &str = "default";

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Check { policy, strict } => check(&policy, strict),
        Command::Test { policy } => test(&policy),
        Command::Diff { candidate, query: QueryArgs { output, settings } } => {
            let config = feed::of_server(&settings)?;
            let policy = config.policies.files.load(&candidate)?.policy;
            let diff = block_on(app::diff_policies(config, Arc::new(SystemClock), policy))??;
            output.print(|| format_diff(&candidate, &diff), || diff.changed.iter().map(change_json).collect())
        }
        Command::Replay { incidents, policy, output, without_signals } => {
            let signals = if without_signals { ReplaySignals::Ignored } else { ReplaySignals::Counted };
            replay_all(incidents.as_deref(), &policy, signals, output)
        }
        Command::Survey { packuments, policy, at, list } => survey(&packuments, &policy, at, list),
        Command::Show { policy } => {
            let names = || presets::names().join("`, `");
            let unknown = || anyhow::anyhow!("unknown shipped policy, expected one of `{}`: `{policy}`", names());
            let file = presets::policy_file(&policy).ok_or_else(|| usage(unknown()))?;
            output::print_verbatim(&file.text)
        }
    }
}

/// Refusals that observing does not turn off.
const OBSERVED: &str = "their refusals are recorded and the versions are served; still refused: changed integrity, takedowns, \
                        inconsistent packuments, versions without a digest, and malware from feeds with trust `deny` or `hold`";

fn check(policy: &str, strict: bool) -> anyhow::Result<Exit> {
    let compiled = policy_files::load(policy)?;
    let ended = compiled.expired_rules(SystemClock.now());
    let warnings: Vec<_> = compiled.warnings.iter().chain(&ended).map(|warning| format!("warning: {warning}\n\n")).collect();
    let trouble = if warnings.is_empty() { "no errors".to_owned() } else { counted(warnings.len(), "warning") };
    let rules = compiled.policy.rules();
    let observed = match rules.iter().filter(|rule| rule.observe).count() {
        0 => String::new(),
        count => format!("{count} of them observe only: {OBSERVED}\n"),
    };
    output::print(&format!("{}{policy}: {}, {trouble}\n{observed}", warnings.concat(), counted(rules.len(), "rule")))?;
    Ok(if strict && !warnings.is_empty() { Exit::Usage } else { Exit::Done })
}

fn test(name: &str) -> anyhow::Result<Exit> {
    let policy = policy_files::load(name)?.policy;
    let (mut count, mut failures) = (0, Vec::new());
    for file in policy_files::cases(name)? {
        let cases = cases::parse(&file)?;
        count += cases.len();
        failures.extend(cases.iter().filter_map(|case| Some(format!("{}\n\n", case.run(&policy).err()?))));
    }
    let (passed, failed) = (count - failures.len(), failures.len());
    output::print(&format!("{}{name}: {passed} passed, {failed} failed\n", failures.concat()))?;
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}

fn change_json(change: &ChangedVerdict) -> Value {
    let side = |verdict: &Verdict| {
        let word = match verdict {
            Verdict::Allow => "allow",
            Verdict::Hold { .. } => "hold",
            Verdict::Deny { .. } => "deny",
        };
        json!({
            "verdict": word,
            "rule": verdict.reason().map(|reason| reason.rule.as_str()),
            "until": verdict.opens_at(),
        })
    };
    json!({
        "name": change.name,
        "version": change.version,
        "clients": change.clients,
        "times": change.times,
        "first": change.first,
        "now": side(&change.now),
        "then": side(&change.then),
    })
}

fn format_diff(candidate: &str, found: &PolicyDiff) -> String {
    let mut columns = TextTable::indented("");
    columns.row([&"CHANGE", &"VERSION", &"RULE", &"ASKED", &"UNTIL", &"TIMES", &"CLIENTS"]);
    for ChangedVerdict { name, version, clients, times, first, now, then } in &found.changed {
        let change = if then.is_allowed() { "opens" } else { "breaks" };
        let reason = then.reason().or(now.reason()).map_or("-", |reason| reason.rule.as_str());
        let until = then.opens_at().map_or_else(|| "-".to_owned(), timestamp::format_utc_ceil);
        let version = format!("{name}@{version}");
        columns.row([&change, &version, &reason, &timestamp::format_utc(*first), &until, times, &clients.join(", ")]);
    }
    let breaks = found.changed.iter().filter(|one| !one.then.is_allowed()).count();
    let (asked, opens) = (found.asked, found.changed.len() - breaks);
    let rows = if found.changed.is_empty() { String::new() } else { format!("{columns}\n") };
    let mut text = format!("{rows}{candidate}: of {asked} requested tarballs, {breaks} would break, {opens} would open\n");
    for (name, why) in &found.unknown {
        push_line!(text, "cannot evaluate {name}: {why}");
    }
    text
}

fn replay_all(incidents: Option<&Path>, name: &str, signals: ReplaySignals, output: OutputArgs) -> anyhow::Result<Exit> {
    let policy = policy_files::load(name)?.policy;
    let usage = |error: String| usage(anyhow::anyhow!(error));
    let (source, text) = match incidents {
        None => (presets::INCIDENTS_PATH.to_owned(), presets::INCIDENTS.to_owned()),
        Some(path) => {
            let read = files::read_pipe_bounded(path, MAX_INCIDENT_BYTES).and_then(files::into_text);
            (path.display().to_string(), read.map_err(|error| usage(format!("cannot read `{}`: {error}", path.display())))?)
        }
    };
    let incidents = PastIncident::read_all(&text)
        .map_err(|error| usage(format!("cannot parse incidents in `{source}`, see policies/README.md: {error}")))?;
    let replayed: Vec<_> = incidents.iter().map(|incident| replay(&policy, incident, signals)).collect();
    if output.json {
        say(&format!("{} incidents in {source}", incidents.len()));
    }
    output.print(|| format_replay(name, &source, &replayed), || replayed.iter().map(replay_json).collect())
}

fn replay_json(result: &ReplayResult) -> Value {
    json!({
        "id": result.id,
        "outcome": result.fate.outcome(),
        "rule": result.rule.as_ref().map(RuleId::as_str),
        "until": result.until,
    })
}

fn format_replay(policy: &str, source: &str, replayed: &[ReplayResult]) -> String {
    let mut columns = TextTable::indented("");
    columns.row([&"INCIDENT", &"OUTCOME", &"RULE", &"UNTIL"]);
    for one in replayed {
        let rule = one.rule.as_ref().map_or("-", |rule| rule.as_str());
        let until = match (one.until, one.fate) {
            (Some(until), _) => timestamp::format_utc(until),
            (None, ReplayOutcome::StoppedAtPublication) => "no expiry".to_owned(),
            (None, _) => "-".to_owned(),
        };
        columns.row([&one.id, &one.fate.outcome(), &rule, &until]);
    }
    let count = |fate: ReplayOutcome| replayed.iter().filter(|one| one.fate == fate).count();
    let mut by_rule: BTreeMap<&str, usize> = BTreeMap::new();
    for one in replayed.iter().filter(|one| one.fate.outcome() == "stopped") {
        *by_rule.entry(one.rule.as_ref().map(RuleId::as_str).unwrap_or_default()).or_default() += 1;
    }
    let by_rule: Vec<_> = by_rule.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
    let (at_once, until) = (count(ReplayOutcome::StoppedAtPublication), count(ReplayOutcome::StoppedUntilDetection));
    format!(
        "{columns}\n{policy}: of {} incidents in {source} {at_once} stopped at publication, {until} stopped until detection, {} missed, {} \
         undecidable\nstopped by: {}\n",
        replayed.len(),
        count(ReplayOutcome::Missed),
        count(ReplayOutcome::Undecidable),
        if by_rule.is_empty() { "-".to_owned() } else { by_rule.join(", ") }
    )
}

fn survey(paths: &[PathBuf], policy_name: &str, at: Option<Timestamp>, list: bool) -> anyhow::Result<Exit> {
    let at = at.unwrap_or_else(|| SystemClock.now());
    let policy = policy_files::load(policy_name)?.policy.as_of(at);
    let (mut packages, mut versions, mut allowed, mut listed) = (0, 0, 0, String::new());
    let (mut held, mut denied) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for path in packuments(paths)? {
        let (name, packument) = read_packument(&path).map_err(|error| unreadable(&path, &error))?;
        packages += 1;
        versions += packument.entries.len();
        let rules = policy.for_package(&name);
        for entry in &packument.entries {
            let facts = Facts::of_entry(&packument, entry, entry.published.unwrap_or(at));
            let verdict = evaluate_without_decisions(&rules, &facts, at);
            match &verdict {
                Verdict::Allow => allowed += 1,
                Verdict::Hold { reason, .. } => *held.entry(reason.rule.to_string()).or_default() += 1,
                Verdict::Deny { reason } => *denied.entry(reason.rule.to_string()).or_default() += 1,
            }
            if let (true, Some(reason)) = (list, verdict.reason()) {
                push_line!(listed, "{name}@{}: {} (rule {})", entry.key, reason.detail, reason.rule);
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
    let at = timestamp::format_utc(at);
    output::print(&format!("{listed}{policy_name} over {packages} packages and {versions} versions, as of {at}\n{columns}"))
}

fn read_packument(path: &Path) -> anyhow::Result<(PackageName, Packument)> {
    let document = std::fs::read(path)?;
    let named: SurveyedVersion<'_> = serde_json::from_slice(&document)?;
    let name = PackageName::parse(&named.name)?;
    let packument = parse::parse(&name, &document)?.packument;
    Ok((name, packument))
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
fn packuments(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
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
