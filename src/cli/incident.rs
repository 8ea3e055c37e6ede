//! `coldframe incident`: responds to an advisory, or to a version that no feed lists yet: denies, freezes and purges it, and
//! lists the clients that received it.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::app::standalone::decide;
use crate::app::standalone::incident::{self, IncidentPlan};
use crate::app::{AppError, Owner, RemoteServer};
use crate::cli::exposure;
use crate::cli::flags::QueryArgs;
use crate::cli::output::{Exit, counted, usage};
use crate::cli::runtime::block_on;
use crate::cli::{decisions, operator};
use crate::clock::{Clock as _, SystemClock};
use crate::config::SettingKey;
use crate::npm::{PackageName, Version};
use crate::policy::decisions::Decision;
use crate::text::push_line;
use crate::units::timestamp;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Advisory id or alias (`MAL-2026-2307`), or an exact version (`axios@1.14.1`).
    #[arg(value_name = "ID|PACKAGE@VERSION")]
    id: String,
    /// Print what would be done, without doing it.
    #[arg(long)]
    dry_run: bool,
    /// How long releases since the first affected version stay hidden.
    #[arg(long, value_name = "DURATION", default_value = "48h", value_parser = decisions::duration)]
    freeze_for: Duration,
    #[command(flatten)]
    query: QueryArgs,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { id, dry_run, freeze_for, query: QueryArgs { output, settings } } = arguments;
    let own = settings.config()?;
    let config = crate::cli::feed::of_server(&settings)?;
    let data_dir = config.store.data_dir.clone();
    let plan = match named(&id)? {
        Some((name, version)) => incident::plan_versions(&data_dir, SystemClock.now(), &name, &[version], &id)?,
        None => match incident::plan_incident(config, Arc::new(SystemClock), &id) {
            // The feeds given to this command may have it.
            Err(AppError::NoAdvisory(_)) if own.settings.is_set(SettingKey::Feed) => {
                incident::plan_incident(own, Arc::new(SystemClock), &id)?
            }
            planned => planned?,
        },
    };
    let done = if dry_run {
        None
    } else {
        let mut done = incident::decide(&data_dir, &plan, &operator::signature(SystemClock.now()), freeze_for)?;
        done.purged = block_on(async {
            match RemoteServer::find(&data_dir).await? {
                Owner::Server(server) => server.purge(&plan.integrities(), &plan.packages()).await,
                Owner::NoProcess | Owner::Silent => incident::purge(&data_dir, &plan),
            }
        })??;
        Some(done)
    };
    // Without decisions, the output names only the rule.
    let decided = decide::decisions(&data_dir).unwrap_or_default();
    let exposed = || exposure::format_exposed(&plan.findings, &decided);
    output.print(|| format_text(&plan, done.as_ref(), freeze_for) + &exposed(), || to_json(&plan, done.as_ref(), &decided))?;
    Ok(if done.is_some_and(|done| done.is_pending) { Exit::Failed } else { Exit::Done })
}

fn format_text(plan: &IncidentPlan, done: Option<&incident::IncidentResult>, freeze_for: Duration) -> String {
    let would = if done.is_some() { "" } else { "would " };
    let feed = plan.feed.as_ref().map(|feed| format!(" of the feed `{feed}`")).unwrap_or_default();
    let mut text = String::new();
    push_line!(text, "{}{feed}: {}", plan.id, plan.summary);
    for subject in &plan.subjects {
        let versions = if subject.versions.is_empty() { "every version".to_owned() } else { subject.versions.join(", ") };
        push_line!(text, "  {would}deny {}: {versions}", subject.name);
        let (since, age) = (timestamp::format_utc(subject.freeze_at), timestamp::format_duration(freeze_for));
        push_line!(text, "  {would}freeze {} for {age}: releases after {since} are hidden", subject.name);
    }
    let (stored, known) = (plan.stored, plan.integrities().len());
    push_line!(text, "  {would}purge {} from the store, of {known} known", counted(stored, "tarball"));
    push_line!(text, "  {would}remove the cached data of {}", counted(plan.packages().len(), "package"));
    if let Some(done) = done {
        let removed = |count: u64, noun| counted(usize::try_from(count).unwrap_or(usize::MAX), noun);
        let (tarballs, packuments) = (removed(done.purged.tarballs, "tarball"), removed(done.purged.packuments, "packument"));
        let decisions = done.decisions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        push_line!(text, "decisions {decisions}; {tarballs} and {packuments} removed");
        if done.is_pending {
            text.push_str("the running server has not applied them; see its log, then run this again\n");
        }
    }
    text
}

/// Parses a package with an exact version. Returns `None` for an advisory id.
fn named(id: &str) -> anyhow::Result<Option<(PackageName, String)>> {
    let Some((name, version)) = id.rsplit_once('@').filter(|(name, _)| !name.is_empty()) else { return Ok(None) };
    let usage = |error: String| usage(anyhow::anyhow!(error));
    let name = PackageName::parse(name).map_err(|error| usage(error.to_string()))?;
    if Version::parse(version).is_none() {
        return Err(usage(format!("expected an exact version; for ranges use `coldframe deny`: `{version}`")));
    }
    Ok(Some((name, version.to_owned())))
}

fn to_json(plan: &IncidentPlan, done: Option<&incident::IncidentResult>, decided: &[Decision]) -> Value {
    let subject = |subject: &incident::AffectedPackage| json!({ "name": subject.name, "versions": subject.versions, "freezeAt": subject.freeze_at });
    json!({
        "id": plan.id,
        "feed": plan.feed,
        "summary": plan.summary,
        "dryRun": done.is_none(),
        "deny": plan.subjects.iter().map(subject).collect::<Vec<Value>>(),
        "tarballs": plan.integrities().len(),
        "stored": plan.stored,
        "decisions": done.map(|done| &done.decisions),
        "removed": done.map(|done| done.purged.tarballs),
        "packuments": done.map(|done| done.purged.packuments),
        "pending": done.map(|done| done.is_pending),
        "exposure": plan.findings.iter().map(|finding| exposure::finding_json(finding, decided)).collect::<Vec<_>>(),
    })
}
