//! `coldframe incident`: everything that is to be done about one advisory, or about a version that no feed names yet, in one command:
//! deny, freeze, purge, and who got it.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::app::standalone::incident::{self, IncidentPlan};
use crate::app::{AppError, Owner, RemoteServer};
use crate::cli::decisions;
use crate::cli::exposure;
use crate::cli::exposure::Grounds;
use crate::cli::flags::SettingFlags;
use crate::cli::operator;
use crate::cli::output::{self, CliError, Exit};
use crate::cli::runtime::runtime;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Config, SettingKey};
use crate::npm::{PackageName, Version};
use crate::text::push_line;
use crate::units::timestamp;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The advisory's id, or an alias of it: `MAL-2026-2307`; or an exact version that no feed names: `axios@1.14.1`.
    #[arg(value_name = "ID|PACKAGE@VERSION")]
    id: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long the packages stay frozen: what was published since the first bad version stays hidden.
    #[arg(long, value_name = "DURATION", default_value = "48h", value_parser = decisions::duration)]
    freeze_for: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let Arguments { id, dry_run, freeze_for, json, settings } = arguments;
    let own = settings.clone().read(Config::gather)?;
    let config = crate::cli::feed::of_server(&settings)?;
    let data_dir = config.store.data_dir.clone();
    let plan = match named(&id)? {
        Some((name, version)) => incident::plan_versions(&data_dir, SystemClock.now(), &name, &[version], &id)?,
        None => planned(config, &id, own)?,
    };
    let done = if dry_run {
        None
    } else {
        let author = operator::signature(SystemClock.now());
        let mut done = incident::decide(&data_dir, &plan, &author, freeze_for)?;
        done.purged = runtime()?.block_on(async {
            match RemoteServer::find(&data_dir).await? {
                Owner::Server(server) => server.purge(&plan.integrities(), &plan.packages()).await,
                Owner::NoProcess | Owner::Silent => incident::purge(&data_dir, &plan),
            }
        })?;
        Some(done)
    };
    let grounds = Grounds::read(&data_dir);
    let text = if json { tell_json(&plan, done.as_ref(), &grounds) } else { tell(&plan, done.as_ref(), freeze_for, &grounds) };
    output::print(&text)?;
    Ok(if done.is_some_and(|done| done.is_pending) { Exit::Failed } else { Exit::Done })
}

fn tell(plan: &IncidentPlan, done: Option<&incident::IncidentResult>, freeze_for: Duration, grounds: &Grounds) -> String {
    let would = if done.is_some() { "" } else { "would " };
    let feed = plan.feed.as_ref().map(|feed| format!(" of the feed `{feed}`")).unwrap_or_default();
    let mut text = String::new();
    push_line!(text, "{}{feed}: {}", plan.id, plan.summary);
    for subject in &plan.subjects {
        let versions = if subject.versions.is_empty() { "every version".to_owned() } else { subject.versions.join(", ") };
        push_line!(text, "  {would}deny {}: {versions}", subject.name);
        let (since, age) = (timestamp::tell(subject.freeze_at), timestamp::tell_age(freeze_for));
        push_line!(text, "  {would}freeze {} for {age}: nothing published after {since} is shown", subject.name);
    }
    let (stored, known) = (plan.stored, plan.integrities().len());
    push_line!(text, "  {would}purge {} from the store, of {known} that are known", counted(stored, "tarball"));
    let packages = plan.packages().len();
    push_line!(text, "  {would}forget what is remembered of {}", counted(packages, "package"));
    if let Some(done) = done {
        let (tarballs, packuments) = (done.purged.tarballs, done.purged.packuments);
        let removed = |count: u64, noun| counted(usize::try_from(count).unwrap_or(usize::MAX), noun);
        let (tarballs, packuments) = (removed(tarballs, "tarball"), removed(packuments, "packument"));
        push_line!(text, "decisions {}; {tarballs} and {packuments} removed", numbers(&done.decisions));
        if done.is_pending {
            text.push_str("the running server has not taken them in, see its log; do this again when it has\n");
        }
    }
    text.push_str(&exposure::tell_findings(&plan.findings, grounds));
    text
}

/// The plan for an advisory of the running server's feeds; else of those that this command names itself.
fn planned(config: Config, id: &str, own: Config) -> Result<IncidentPlan, CliError> {
    let has_own_feeds = own.settings.is_written(SettingKey::Feed);
    match incident::plan(config, Arc::new(SystemClock), id) {
        Err(AppError::NoAdvisory(_)) if has_own_feeds => Ok(incident::plan(own, Arc::new(SystemClock), id)?),
        planned => Ok(planned?),
    }
}

/// The package and the exact version that are named, where it is no advisory's id.
fn named(id: &str) -> Result<Option<(PackageName, String)>, CliError> {
    let Some((name, version)) = id.rsplit_once('@').filter(|(name, _)| !name.is_empty()) else { return Ok(None) };
    let usage = |wrong: String| CliError::new(Exit::Usage, anyhow::anyhow!(wrong));
    let name = PackageName::parse(name).map_err(|wrong| usage(wrong.to_string()))?;
    if Version::parse(version).is_none() {
        return Err(usage(format!("an incident is about exact versions, `coldframe deny` takes ranges: `{version}`")));
    }
    Ok(Some((name, version.to_owned())))
}

fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn numbers(decisions: &[i64]) -> String {
    decisions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn tell_json(plan: &IncidentPlan, done: Option<&incident::IncidentResult>, grounds: &Grounds) -> String {
    let subject = |subject: &incident::AffectedPackage| json!({ "name": subject.name, "versions": subject.versions, "freezeAt": subject.freeze_at.to_string() });
    let told = json!({
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
        "exposure": exposure::findings_json(&plan.findings, grounds),
    });
    format!("{told:#}\n")
}
