//! `coldframe policy`: checks policies, runs their test cases, and evaluates them against past incidents, packument files or
//! the ledger. Needs no running server.

pub(crate) mod survey;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
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
use crate::policy::replay::{PastIncident, ReplayOutcome, ReplayResult, ReplaySignals, replay};
use crate::policy::{RuleId, Verdict, cases, presets};
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
    /// Count held and denied versions of packuments, per rule.
    Survey(survey::Arguments),
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
        Command::Survey(arguments) => survey::run(arguments),
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
    let replay_with = |signals| incidents.iter().map(|incident| replay(&policy, incident, signals)).collect::<Vec<_>>();
    let (replayed, by_age) = (replay_with(signals), replay_with(ReplaySignals::Ignored));
    if output.json {
        say(&format!("{} incidents in {source}", incidents.len()));
    }
    output.print(|| format_replay(name, &source, &replayed, &by_age), || replayed.iter().map(replay_json).collect())
}

fn replay_json(result: &ReplayResult) -> Value {
    json!({
        "id": result.id,
        "outcome": result.fate.outcome(),
        "rule": result.rule.as_ref().map(RuleId::as_str),
        "until": result.until,
    })
}

fn format_replay(policy: &str, source: &str, replayed: &[ReplayResult], by_age: &[ReplayResult]) -> String {
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
    let stopped = || replayed.iter().zip(by_age).filter(|(one, _)| one.fate.outcome() == "stopped");
    let by_rule = count_by_rule(stopped().map(|(one, _)| one));
    let only_by_signal = count_by_rule(stopped().filter(|(_, aged)| aged.fate == ReplayOutcome::Missed).map(|(one, _)| one));
    let (at_once, until) = (count(ReplayOutcome::StoppedAtPublication), count(ReplayOutcome::StoppedUntilDetection));
    format!(
        "{columns}\n{policy}: of {} incidents in {source} {at_once} stopped at publication, {until} stopped until detection, {} missed, {} \
         undecidable\nstopped by: {by_rule}\nopened by their age, stopped by a signal: {only_by_signal}\n",
        replayed.len(),
        count(ReplayOutcome::Missed),
        count(ReplayOutcome::Undecidable),
    )
}

/// Formats how many results each rule decided: `strong-signal 12, minimum-age 8`.
fn count_by_rule<'a>(results: impl Iterator<Item = &'a ReplayResult>) -> String {
    let mut by_rule: BTreeMap<&str, usize> = BTreeMap::new();
    for one in results {
        *by_rule.entry(one.rule.as_ref().map(RuleId::as_str).unwrap_or_default()).or_default() += 1;
    }
    let by_rule: Vec<_> = by_rule.iter().map(|(rule, count)| format!("{rule} {count}")).collect();
    if by_rule.is_empty() { "-".to_owned() } else { by_rule.join(", ") }
}
