//! `coldframe clients`: lists who requests packages, and with which tools.

use std::collections::HashMap;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use crate::app::standalone::ledger;
use crate::cli::exposure::flushed;
use crate::cli::flags::QueryArgs;
use crate::cli::ledger::{Moment, parse_moment};
use crate::cli::output::Exit;
use crate::clock::{Clock as _, SystemClock};
use crate::store::ClientRow;
use crate::text::TextTable;
use crate::units::timestamp;

/// Versions of tools that are listed per client.
const MAX_LISTED_TOOLS: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only clients with requests since this time: a duration (`7d`) or an instant (`2026-03-31T00:00Z`).
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_moment)]
    since: Moment,
    #[command(flatten)]
    query: QueryArgs,
}

/// One client with all its tools.
struct ClientSummary<'a> {
    client: &'a str,
    tools: Vec<String>,
    first: Timestamp,
    last: Timestamp,
    served: u64,
    refused: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let since = arguments.since.instant(SystemClock.now());
    let rows = ledger::clients(&flushed(&arguments.query.settings)?, since)?;
    let text = || if rows.is_empty() { "no client in the ledger since then\n".to_owned() } else { table(&summaries(&rows)) };
    arguments.query.output.print(text, || json!({ "clients": rows }))
}

/// Sums the rows of each client, in the order of its first row.
fn summaries(rows: &[ClientRow]) -> Vec<ClientSummary<'_>> {
    let mut found: Vec<ClientSummary<'_>> = Vec::new();
    let mut positions = HashMap::new();
    for row in rows {
        let at = *positions.entry(&*row.client).or_insert(found.len());
        if at == found.len() {
            let (first, last) = (row.first, row.last);
            found.push(ClientSummary { client: &row.client, tools: Vec::new(), first, last, served: 0, refused: 0 });
        }
        let summary = &mut found[at];
        summary.tools.push(format!("{} {}", row.tool, row.tool_version).trim_end().to_owned());
        (summary.first, summary.last) = (summary.first.min(row.first), summary.last.max(row.last));
        summary.served += row.served;
        summary.refused += row.refused;
    }
    found
}

fn table(summaries: &[ClientSummary<'_>]) -> String {
    let mut table = TextTable::<6>::indented("");
    table.row([&"CLIENT", &"FIRST", &"LAST", &"SERVED", &"REFUSED", &"TOOLS"]);
    for summary in summaries {
        let more = summary.tools.len().saturating_sub(MAX_LISTED_TOOLS);
        let listed = summary.tools[..summary.tools.len() - more].join(", ");
        let tools = if more > 0 { format!("{listed}, {more} more") } else { listed };
        let (first, last) = (timestamp::format_utc(summary.first), timestamp::format_utc(summary.last));
        table.row([&summary.client, &first, &last, &summary.served, &summary.refused, &tools]);
    }
    table.to_string()
}
