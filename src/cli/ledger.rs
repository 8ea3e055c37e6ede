//! `coldframe ledger`: lists requests of the ledger, or exports all of them for other programs.

use std::ops::ControlFlow;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::json;

use crate::app::standalone::ledger;
use crate::cli::decisions;
use crate::cli::decisions::commands::parse_scope;
use crate::cli::exposure::flushed;
use crate::cli::flags::{QueryArgs, SettingFlags};
use crate::cli::output::{self, Exit, usage};
use crate::clock::{Clock as _, SystemClock};
use crate::npm::PackageName;
use crate::policy::PackageScope;
use crate::store::{DownloadOutcome, DownloadRow, RowFilter, RowOrder};
use crate::text::{self, TextTable};
use crate::units::timestamp;

/// The names of the columns of an export.
const COLUMNS: [&str; 13] = [
    "first",
    "last",
    "times",
    "client",
    "tool",
    "toolVersion",
    "kind",
    "name",
    "version",
    "integrity",
    "outcome",
    "rule",
    "hidden",
];

/// The bytes of an export that are written at once.
const WRITTEN_BYTES: usize = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the newest requests.
    Query(QueryCommand),
    /// Print all requests, oldest first: one JSON object per line, or CSV.
    Export(ExportCommand),
}

#[derive(Debug, Args)]
pub(crate) struct QueryCommand {
    #[command(flatten)]
    filters: Filters,
    /// How many rows are listed at most.
    #[arg(long, value_name = "NUMBER", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    #[command(flatten)]
    query: QueryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportCommand {
    #[command(flatten)]
    filters: Filters,
    /// What is written.
    #[arg(long, value_name = "FORMAT", default_value = "jsonl")]
    format: ExportFormat,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated values, with a line of names. Texts that a spreadsheet would run as a formula begin with `'`.
    Csv,
}

/// Which requests are listed. All filters must match.
#[derive(Debug, Args)]
struct Filters {
    /// Only of these packages: name or glob (`@acme/*`); may be repeated.
    #[arg(long, value_name = "GLOB", value_parser = parse_scope)]
    package: Vec<String>,
    /// Only of this version.
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Only of clients whose label or address contains this text.
    #[arg(long, value_name = "TEXT")]
    client: Option<String>,
    /// Only requests with this outcome.
    #[arg(long, value_name = "OUTCOME", value_parser = ["served", "refused"])]
    outcome: Option<String>,
    /// Only requests that this rule refused or warned of.
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
    /// Only since this time: a duration (`7d`) or an instant (`2026-03-31T00:00Z`).
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    since: Option<Moment>,
    /// Only before this time, written like `--since`.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    until: Option<Moment>,
}

/// A time in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Ago(Duration),
    At(Timestamp),
}

impl Moment {
    pub(crate) fn instant(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(age) => timestamp::saturating_sub(now, age),
            Self::At(instant) => instant,
        }
    }
}

/// Parses a duration before now or an instant. A date alone means its begin in UTC.
pub(crate) fn parse_moment(text: &str) -> Result<Moment, String> {
    if let Ok(age) = decisions::duration(text) {
        return Ok(Moment::Ago(age));
    }
    let instant = timestamp::parse(text).or_else(|| timestamp::parse(&format!("{text}T00:00Z")));
    instant.map(Moment::At).ok_or_else(|| "expected a duration or an instant, such as `7d`, `2026-03-31T00:00Z`".to_owned())
}

/// The filters after parsing: what the ledger selects, and what is compared row by row.
struct RowSelection {
    filter: RowFilter,
    packages: PackageScope,
    version: Option<String>,
    client: Option<String>,
    rule: Option<String>,
}

impl RowSelection {
    fn of(filters: Filters, now: Timestamp) -> anyhow::Result<Self> {
        let packages = PackageScope::parse(&filters.package).map_err(|why| usage(anyhow::anyhow!("--package: {why}")))?;
        let exact = match &*filters.package {
            // Old names may hold the characters of globs.
            [only] if !only.contains(['*', '?', '[', '{']) => PackageName::parse(only).ok().map(|name| name.as_str().to_owned()),
            _ => None,
        };
        let [since, until] = [filters.since, filters.until].map(|moment| moment.map(|moment| moment.instant(now)));
        let outcome = filters.outcome.as_deref().and_then(DownloadOutcome::parse);
        Ok(Self {
            filter: RowFilter { name: exact, outcome, since, until },
            packages,
            version: filters.version,
            client: filters.client,
            rule: filters.rule,
        })
    }

    fn has(&self, row: &DownloadRow) -> bool {
        let is_wanted = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        is_wanted(&self.version, &row.version)
            && is_wanted(&self.rule, &row.rule)
            && self.client.as_ref().is_none_or(|text| row.client.contains(text))
            && (self.packages.is_unlimited() || PackageName::parse(&row.name).is_ok_and(|name| self.packages.contains(&name)))
    }
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Query(command) => query(command),
        Command::Export(command) => export(command),
    }
}

fn query(command: QueryCommand) -> anyhow::Result<Exit> {
    let selection = RowSelection::of(command.filters, SystemClock.now())?;
    let data_dir = flushed(&command.query.settings)?;
    let (mut rows, limit) = (Vec::new(), command.limit as usize);
    ledger::for_each_download::<anyhow::Error>(&data_dir, &selection.filter, RowOrder::NewestFirst, |row| {
        rows.extend(selection.has(&row).then_some(row));
        Ok(if rows.len() > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let text = || {
        if rows.is_empty() {
            return "no such requests in the ledger\n".to_owned();
        }
        let more = if has_more { "older requests are left out; see --limit\n" } else { "" };
        table(&rows) + more
    };
    command.query.output.print(text, || json!({ "requests": rows, "hasMore": has_more }))
}

fn table(rows: &[DownloadRow]) -> String {
    let mut table = TextTable::<6>::indented("");
    table.row([&"LAST", &"TIMES", &"CLIENT", &"TOOL", &"PACKAGE", &"OUTCOME"]);
    for row in rows {
        let version = row.version.as_ref().map(|version| format!("@{version}")).unwrap_or_default();
        let rule = row.rule.as_ref().map(|rule| format!(" ({rule})")).unwrap_or_default();
        let hidden = if row.hidden.is_empty() { String::new() } else { format!(", {} hidden", row.hidden.len()) };
        table.row([
            &timestamp::format_utc(row.last),
            &row.times,
            &row.client,
            &format!("{} {}", row.tool, row.tool_version).trim_end(),
            &format!("{}{version}", row.name),
            &format!("{}{rule}{hidden}", row.outcome.as_str()),
        ]);
    }
    table.to_string()
}

fn export(command: ExportCommand) -> anyhow::Result<Exit> {
    let selection = RowSelection::of(command.filters, SystemClock.now())?;
    let data_dir = flushed(&command.settings)?;
    let is_csv = command.format == ExportFormat::Csv;
    let mut pending = if is_csv { COLUMNS.join(",") + "\n" } else { String::new() };
    ledger::for_each_download::<anyhow::Error>(&data_dir, &selection.filter, RowOrder::OldestFirst, |row| {
        if selection.has(&row) {
            pending.push_str(&if is_csv { csv_line(&row) } else { serde_json::to_string(&row)? });
            pending.push('\n');
        }
        if pending.len() < WRITTEN_BYTES {
            return Ok(ControlFlow::Continue(()));
        }
        output::write(&std::mem::take(&mut pending))
    })?;
    output::print(&pending)
}

fn csv_line(row: &DownloadRow) -> String {
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    let fields = [
        row.first.to_string(),
        row.last.to_string(),
        row.times.to_string(),
        row.client.clone(),
        row.tool.clone(),
        row.tool_version.clone(),
        row.kind.clone(),
        row.name.clone(),
        optional(&row.version),
        optional(&row.integrity),
        row.outcome.as_str().to_owned(),
        optional(&row.rule),
        row.hidden.join(" "),
    ];
    fields.map(|field| text::csv(&field)).join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_durations_instants_or_dates() {
        let now: Timestamp = "2026-04-03T12:00:00Z".parse().unwrap();
        let at = |text: &str| parse_moment(text).map(|moment| moment.instant(now).to_string());
        assert_eq!(at("7d").as_deref(), Ok("2026-03-27T12:00:00Z"));
        assert_eq!(at("2026-03-31").as_deref(), Ok("2026-03-31T00:00:00Z"));
        assert_eq!(at("2026-03-31T08:00+02:00").as_deref(), Ok("2026-03-31T06:00:00Z"));
        for text in ["", "yesterday", "2026-13-01", "-1d"] {
            assert!(at(text).is_err(), "{text}");
        }
    }
}
