//! `coldframe incident`: everything that is to be done about one advisory, in one command: deny, freeze, purge, and who got it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::decree;
use super::exposure;
use super::flags::SettingFlags;
use super::output::{self, Exit, Failure};
use super::person;
use crate::app::intelligence::{self, Plan};
use crate::config::Config;
use crate::npm::instant;
use crate::telemetry::{Clock as _, SystemClock};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The advisory's id, or an alias of it: `MAL-2026-2307`.
    #[arg(value_name = "ID")]
    id: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long the packages stay frozen: what was published since the first bad version stays hidden.
    #[arg(long, value_name = "DURATION", default_value = "48h", value_parser = decree::duration)]
    freeze_for: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { id, dry_run, freeze_for, json, settings } = arguments;
    let config = settings.read(Config::gather)?;
    let data_dir = config.store.data_dir.clone();
    let plan = intelligence::plan(config, Arc::new(SystemClock), &id)?;
    let done = if dry_run {
        None
    } else {
        let author = person::signature(SystemClock.now());
        Some(intelligence::carry_out(&data_dir, &plan, &author, freeze_for)?)
    };
    let text = if json { tell_json(&plan, done.as_ref()) } else { tell(&plan, done.as_ref(), freeze_for) };
    output::print(&text)?;
    Ok(if done.is_some_and(|done| done.is_pending) { Exit::Failed } else { Exit::Done })
}

fn tell(plan: &Plan, done: Option<&intelligence::Done>, freeze_for: Duration) -> String {
    let would = if done.is_some() { "" } else { "would " };
    let mut text = format!("{} of the feed `{}`: {}\n", plan.id, plan.feed, plan.summary);
    for subject in &plan.subjects {
        let versions = if subject.versions.is_empty() { "every version".to_owned() } else { subject.versions.join(", ") };
        let _ = writeln!(text, "  {would}deny {}: {versions}", subject.name);
        let (since, age) = (instant::tell(subject.freeze_at), instant::tell_age(freeze_for));
        let _ = writeln!(text, "  {would}freeze {} for {age}: nothing published after {since} is shown", subject.name);
    }
    let _ = writeln!(text, "  {would}purge {} tarballs from the store", plan.tarballs());
    if let Some(done) = done {
        let _ = writeln!(text, "decisions {}; {} tarballs removed", numbers(&done.decisions), done.removed);
        if done.is_pending {
            text.push_str("the running server has not taken them in, see its log; do this again when it has\n");
        }
    }
    text.push_str(&exposure::tell_findings(&plan.findings));
    text
}

fn numbers(decisions: &[i64]) -> String {
    decisions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn tell_json(plan: &Plan, done: Option<&intelligence::Done>) -> String {
    let subject = |subject: &intelligence::Subject| json!({ "name": subject.name, "versions": subject.versions, "freezeAt": subject.freeze_at.to_string() });
    let told = json!({
        "id": plan.id,
        "feed": plan.feed,
        "summary": plan.summary,
        "dryRun": done.is_none(),
        "deny": plan.subjects.iter().map(subject).collect::<Vec<Value>>(),
        "tarballs": plan.tarballs(),
        "decisions": done.map(|done| &done.decisions),
        "removed": done.map(|done| done.removed),
        "pending": done.map(|done| done.is_pending),
        "exposure": exposure::findings_json(&plan.findings),
    });
    format!("{told:#}\n")
}
