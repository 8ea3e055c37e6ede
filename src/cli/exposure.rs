//! `coldframe exposure`: lists clients that requested a package, received versions of an advisory, or contacted hosts that
//! feeds list as indicators.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::app::standalone::{self, decide, incident};
use crate::app::{self, IndicatorHitSummary, Owner, RemoteServer};
use crate::cli::flags::{QueryArgs, SettingFlags};
use crate::cli::output::{Exit, OutputArgs, say, usage};
use crate::cli::runtime::block_on;
use crate::clock::SystemClock;
use crate::firewall::ExposedVersion;
use crate::npm::{Integrity, PackageName, PackageSpec};
use crate::policy::RuleId;
use crate::policy::decisions::{Decision, DecisionAction};
use crate::store::{DownloadOutcome, Exposure, RecordedSignals};
use crate::text::{TextTable, push_line};
use crate::units::timestamp;
use crate::vetting::compare::SignalEvidence;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Package, or one version of it: `axios`, `axios@1.14.1`.
    #[arg(value_name = "PACKAGE[@VERSION]", value_parser = PackageSpec::parse, required_unless_present_any = ["advisory", "feed", "contacts"])]
    spec: Option<PackageSpec>,
    /// List clients that received versions of an advisory (id or alias).
    #[arg(long, value_name = "ID", conflicts_with = "spec")]
    advisory: Option<String>,
    /// List clients that asked the gateway for indicators: hosts that malware uses.
    #[arg(long, conflicts_with_all = ["spec", "advisory"])]
    contacts: bool,
    #[command(flatten)]
    query: QueryArgs,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { spec, advisory, contacts: contacts_only, query: QueryArgs { output, mut settings } } = arguments;
    if contacts_only {
        let contacts = app::indicator_hits(&flushed(&settings)?)?;
        let text = || if contacts.is_empty() { "no indicator hits in the ledger\n".to_owned() } else { contact_rows(&contacts) };
        return output.print(text, || contacts.iter().map(contact_json).collect());
    }
    let named = settings.take_advisory_id();
    let Some(spec) = spec else {
        let Some(id) = advisory.or(named) else {
            return Err(usage(anyhow::anyhow!("name a package or an advisory: `--feed MAL-2026-2307`")));
        };
        return run_by_advisory(&id, output, &settings);
    };
    let data_dir = flushed(&settings)?;
    let exposures = app::exposure(&data_dir, &spec)?;
    let mut contacts = app::indicator_hits(&data_dir)?;
    contacts.retain(|known| known.contact.package.as_ref() == Some(&spec.name));
    // Without decisions, the output names only the rule.
    let decisions = decide::decisions(&data_dir).unwrap_or_default();
    let requests = || match &spec.wanted {
        _ if !exposures.is_empty() => rows("", &spec.name, &exposures, &decisions),
        Some(version) => format!("no requests for {}@{version} in the ledger\n", spec.name),
        None => format!("no requests for {} in the ledger\n", spec.name),
    };
    let signals = standalone::recorded_signals(&data_dir, &spec).unwrap_or_default();
    let text = || requests() + &format_hits_section(&contacts) + &format_signals(&spec.name, &signals);
    let rows = exposures.iter().map(|row| row_json(&spec.name, row, &decisions));
    output.print(text, || rows.chain(contacts.iter().map(contact_json)).collect())
}

/// Lists the signals that versions showed when they were young.
fn format_signals(name: &PackageName, signals: &[RecordedSignals]) -> String {
    let mut text = String::new();
    for recorded in signals.iter().filter(|recorded| !recorded.evidence.is_empty()) {
        let evidence: Vec<_> = recorded.evidence.iter().map(SignalEvidence::describe_with_name).collect();
        let (at, evidence) = (timestamp::format_utc(recorded.recorded), evidence.join("; "));
        push_line!(text, "signals of {name}@{} on {at}: {evidence}", recorded.version);
    }
    text
}

fn run_by_advisory(id: &str, output: OutputArgs, settings: &SettingFlags<false>) -> anyhow::Result<Exit> {
    let config = crate::cli::feed::of_server(settings)?;
    let data_dir = config.store.data_dir.clone();
    let findings = incident::plan_incident(config, Arc::new(SystemClock), id)?.findings;
    // Without a ledger there are no hits.
    let mut contacts = app::indicator_hits(&data_dir).unwrap_or_default();
    contacts.retain(|known| known.contact.advisory == id);
    // Without decisions, the output names only the rule.
    let decisions = decide::decisions(&data_dir).unwrap_or_default();
    let text = || format_exposed(&findings, &decisions) + &format_hits_section(&contacts);
    let rows = findings.iter().map(|finding| finding_json(finding, &decisions));
    output.print(text, || rows.chain(contacts.iter().map(contact_json)).collect())
}

/// Returns the data directory after the running server has flushed its ledger. Without a flush, the ledger is read as is.
pub(crate) fn flushed(settings: &SettingFlags<false>) -> anyhow::Result<PathBuf> {
    let data_dir = settings.data_dir()?;
    block_on(async {
        match RemoteServer::find(&data_dir).await {
            Ok(Owner::Server(server)) => server.flush().await,
            Ok(Owner::NoProcess | Owner::Silent) => {}
            Err(error) => say(&format!("requests of the last seconds may be missing: {error}")),
        }
    })?;
    Ok(data_dir)
}

/// Lists the versions of an advisory that were seen here, and the clients that received them.
pub(crate) fn format_exposed(findings: &[ExposedVersion], decisions: &[Decision]) -> String {
    if findings.is_empty() {
        return "none of its versions are in the ledger\n".to_owned();
    }
    let mut text = String::new();
    for finding in findings {
        let who = if finding.clients.is_empty() { "no client received it" } else { "received by:" };
        push_line!(text, "{}@{} ({}): {who}", finding.name, finding.version, finding.advisory);
        if !finding.clients.is_empty() {
            text.push_str(&rows("  ", &finding.name, &finding.clients, decisions));
        }
    }
    text
}

pub(crate) fn finding_json(finding: &ExposedVersion, decisions: &[Decision]) -> Value {
    json!({
        "name": finding.name.as_str(),
        "version": finding.version,
        "advisory": finding.advisory,
        "feed": finding.feed,
        "integrities": finding.integrities.iter().map(Integrity::to_sri).collect::<Vec<_>>(),
        "refused": finding.is_condemned,
        "clients": finding.clients.iter().map(|row| row_json(&finding.name, row, decisions)).collect::<Vec<_>>(),
    })
}

fn contact_json(known: &IndicatorHitSummary) -> Value {
    json!({
        "client": known.contact.client,
        "place": known.contact.place,
        "advisory": known.contact.advisory,
        "feed": known.contact.feed,
        "package": known.contact.package.as_ref().map(PackageName::as_str),
        "times": known.times,
        "first": known.first,
        "last": known.last,
    })
}

fn format_hits_section(contacts: &[IndicatorHitSummary]) -> String {
    if contacts.is_empty() { String::new() } else { format!("\nindicator hits:\n{}", contact_rows(contacts)) }
}

fn contact_rows(contacts: &[IndicatorHitSummary]) -> String {
    let mut columns = TextTable::indented("");
    columns.row([&"CLIENT", &"PLACE", &"ADVISORY", &"PACKAGE", &"TIMES", &"FIRST", &"LAST"]);
    for IndicatorHitSummary { contact, times, first, last } in contacts {
        let package = contact.package.as_ref().map_or("-", PackageName::as_str);
        let (first, last) = (timestamp::format_utc(*first), timestamp::format_utc(*last));
        columns.row([&contact.client, &contact.place, &contact.advisory, &package, times, &first, &last]);
    }
    columns.to_string()
}

fn row_json(name: &PackageName, exposure: &Exposure, decisions: &[Decision]) -> Value {
    let mut row = json!(exposure);
    row["decisions"] = grounds(decisions, name, exposure).map(|decision| decision.id).collect();
    row
}

fn rows(indent: &'static str, name: &PackageName, exposures: &[Exposure], decisions: &[Decision]) -> String {
    let mut columns = TextTable::indented(indent);
    columns.row([&"CLIENT", &"TOOL", &"VERSION", &"OUTCOME", &"TIMES", &"FIRST", &"LAST"]);
    for exposure in exposures {
        let tool = match (&*exposure.tool, &*exposure.tool_version) {
            ("other", "") => "unknown".to_owned(),
            ("other", product) => product.to_owned(),
            (tool, "") => tool.to_owned(),
            (tool, version) => format!("{tool}/{version}"),
        };
        let named = grounds(decisions, name, exposure).map(|decision| {
            let noun = match decision.proposal.act {
                DecisionAction::Adopt { .. } => "adoption",
                DecisionAction::BreakGlass => "break-glass",
                _ => "approval",
            };
            format!("{noun} {}", decision.id)
        });
        let named: Vec<_> = named.collect();
        let outcome = match &exposure.rule {
            Some(_) if !named.is_empty() => format!("served ({})", named.join(", ")),
            Some(rule) if exposure.outcome == DownloadOutcome::Served => format!("served, recorded by {rule}"),
            Some(rule) => format!("{} by {rule}", exposure.outcome.as_str()),
            None => exposure.outcome.as_str().to_owned(),
        };
        let (first, last) = (timestamp::format_utc(exposure.first), timestamp::format_utc(exposure.last));
        columns.row([&exposure.client, &tool, &exposure.version, &outcome, &exposure.times, &first, &last]);
    }
    columns.to_string()
}

/// Returns the decisions that allowed a served version.
fn grounds<'g>(decisions: &'g [Decision], name: &'g PackageName, row: &'g Exposure) -> impl Iterator<Item = &'g Decision> {
    let rule = row.rule.as_deref().filter(|_| row.outcome == DownloadOutcome::Served);
    let (approved, observed) = (rule == Some(RuleId::Approved.as_str()), rule == Some(RuleId::BreakGlass.as_str()));
    decisions.iter().filter(move |decision| {
        let names = match &decision.proposal.act {
            DecisionAction::Approve { package, versions, .. } => {
                approved && *package == name.as_str() && versions.iter().any(|version| version.version == row.version)
            }
            DecisionAction::Adopt { versions, .. } => {
                approved && versions.iter().any(|one| one.package == name.as_str() && one.approved.version == row.version)
            }
            DecisionAction::BreakGlass => observed,
            DecisionAction::Deny { .. } | DecisionAction::Freeze { .. } | DecisionAction::Record { .. } => false,
        };
        let ended = [decision.proposal.expires, decision.revoked.as_ref().map(|(by, _)| by.at)];
        let is_over = ended.into_iter().flatten().any(|end| end < row.first);
        names && decision.proposal.author.at <= row.last && !is_over
    })
}
