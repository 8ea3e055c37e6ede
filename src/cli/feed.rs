//! `coldframe feed`: syncs advisory feeds, shows their status, exports the versions that this instance denies.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::app::standalone::incident::{self, StoredFeedStatus};
use crate::cli::decisions::{self, RecordArgs};
use crate::cli::flags::{QueryArgs, SettingFlags};
use crate::cli::output::{self, Exit, OutputArgs};
use crate::cli::running_server;
use crate::cli::runtime::block_on;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::feed::OnShrink;
use crate::policy::decisions::DecisionAction;
use crate::text::{TextTable, single_line};
use crate::units::timestamp;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sync the feeds now; a running server loads the changes.
    Sync {
        /// Accept a feed even if most of its records are gone.
        #[arg(long)]
        accept_shrunk: bool,
        #[command(flatten)]
        query: QueryArgs,
    },
    /// Show records, freshness, and records that need a decision.
    Status(QueryArgs),
    /// Apply a record that marks every version of an established package.
    Obey(RulingArgs),
    /// Refuse only the versions that such a record lists.
    SetAside(RulingArgs),
    /// Export denials of operators as a signed feed of OSV records.
    Export {
        /// Directory to write to; osv-scanner reads one named `osv-scanner` offline.
        #[arg(value_name = "DIRECTORY")]
        directory: PathBuf,
        /// Prefix of the record ids.
        #[arg(long, value_name = "PREFIX", default_value = "COLDFRAME", value_parser = prefix)]
        id_prefix: String,
        /// How long the export is valid.
        #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = decisions::duration)]
        expires: Duration,
        #[command(flatten)]
        settings: SettingFlags<false>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RulingArgs {
    /// Id or alias of the record.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    record: RecordArgs,
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Sync { accept_shrunk, query: QueryArgs { output, settings } } => {
            let config = of_server(&settings)?;
            let on_shrink = if accept_shrunk { OnShrink::Accept } else { OnShrink::Reject };
            let statuses = block_on(incident::sync(config, Arc::new(SystemClock), on_shrink))??;
            print(&statuses, output)?;
            Ok(if statuses.iter().any(|status| status.staleness.is_some()) { Exit::Failed } else { Exit::Done })
        }
        Command::Status(QueryArgs { output, settings }) => {
            print(&incident::status(&of_server(&settings)?, SystemClock.now()), output)
        }
        Command::Obey(ruling) => rule(ruling, true),
        Command::SetAside(ruling) => rule(ruling, false),
        Command::Export { directory, id_prefix, expires, settings } => {
            let data_dir = settings.data_dir()?;
            let (exported, key, left) = incident::export(&data_dir, &directory, &id_prefix, SystemClock.now(), expires)?;
            let mut columns = TextTable::indented("  ");
            columns.row([&"records", &exported.records]);
            columns.row([&"serial", &exported.serial]);
            columns.row([&"expires", &timestamp::format_utc(exported.expires)]);
            columns.row([&"key", &key]);
            for left in &left {
                columns.row([&"left out", left]);
            }
            output::print(&format!("wrote {}\n{columns}", single_line(&directory.to_string_lossy())))
        }
    }
}

/// Returns the configuration of the running server, which determines the feeds. Without a server, returns that of this command.
pub(crate) fn of_server(settings: &SettingFlags<false>) -> anyhow::Result<Config> {
    let config = settings.config()?;
    Ok(match block_on(running_server::find_announced(&config))?? {
        Some(running) => {
            block_on(running.server.flush())?;
            running.config(settings, config)
        }
        None => config,
    })
}

fn rule(RulingArgs { id, record }: RulingArgs, obey: bool) -> anyhow::Result<Exit> {
    let advisory = incident::broad_record(of_server(&record.query.settings)?, Arc::new(SystemClock), &id)?;
    record.submit(DecisionAction::Record { advisory, obey }, None)
}

fn prefix(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit();
    let fits = (1..=32).contains(&text.len()) && text.chars().all(plain) && !matches!(text, "MAL" | "GHSA" | "CVE" | "OSV");
    let error = || "expected a prefix of your own of upper-case letters and digits, such as `ACME`".to_owned();
    fits.then(|| text.to_owned()).ok_or_else(error)
}

fn print(statuses: &[StoredFeedStatus], output: OutputArgs) -> anyhow::Result<Exit> {
    output.print(|| format_text(statuses), || statuses.iter().map(to_json).collect())
}

fn to_json(status: &StoredFeedStatus) -> Value {
    let (feed, state) = (&status.feed, &status.state);
    json!({
        "name": feed.name,
        "source": feed.source.to_string(),
        "trust": feed.trust.as_str(),
        "records": state.tally.records,
        "withdrawn": state.tally.withdrawn,
        "otherEcosystems": state.tally.foreign,
        "skipped": state.tally.skipped,
        "unreadable": state.tally.unreadable,
        "unreadableEvents": state.tally.unreadable_events,
        "trouble": state.tally.trouble,
        "synced": state.synced,
        "changed": state.changed,
        "serial": state.serial,
        "expires": state.expires,
        "fresh": status.staleness.is_none(),
        "stale": status.staleness,
        "overbroad": status.overbroad,
    })
}

fn format_text(statuses: &[StoredFeedStatus]) -> String {
    if statuses.is_empty() {
        return "no feed is configured; set `--feed PATH-or-URL` or `[[feed]]` in the configuration file\n".to_owned();
    }
    let mut text = String::new();
    for status in statuses {
        let (feed, state, tally) = (&status.feed, &status.state, &status.state.tally);
        let mut columns = TextTable::indented("  ");
        columns.row([&"source", &feed.source]);
        columns.row([&"trust", &feed.trust.as_str()]);
        columns.row([&"records", &records(tally)]);
        columns.row([&"synced", &state.synced.map_or_else(|| "never".to_owned(), timestamp::format_utc)]);
        columns.row([&"changed", &state.changed.map_or_else(|| "never".to_owned(), timestamp::format_utc)]);
        let (serial, expires) = (state.serial.map(|serial| serial.to_string()), state.expires.map(timestamp::format_utc));
        let optional = [("serial", &serial), ("expires", &expires), ("unreadable", &tally.trouble)];
        let optional = optional.into_iter().filter_map(|(label, value)| Some((label, value.as_ref()?)));
        let overbroad = status.overbroad.iter().map(|record| ("to decide", record));
        let stale = status.staleness.iter().map(|staleness| ("stale", staleness));
        for (label, value) in optional.chain(overbroad).chain(stale) {
            columns.row([&label, value]);
        }
        let word = match (state.is_good(), &status.staleness) {
            (false, _) => "never synced",
            (true, Some(_)) => "stale, using its last good records",
            (true, None) => "fresh",
        };
        let _ = write!(text, "{}: {word}\n{columns}", feed.name);
    }
    text
}

fn records(tally: &crate::feed::FeedCounts) -> String {
    let more = [
        (tally.withdrawn, "withdrawn"),
        (tally.foreign, "of other ecosystems"),
        (tally.skipped, "skipped (not OSV records)"),
        (tally.unreadable, "unreadable"),
        (tally.unreadable_events, "unreadable events"),
    ];
    let more: Vec<_> = more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if more.is_empty() { tally.records.to_string() } else { format!("{}; {}", tally.records, more.join(", ")) }
}
