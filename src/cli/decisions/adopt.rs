//! `coldframe adopt`: approves held versions that lockfiles already contain, until they would open anyway.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::app::operations::adoption::Adoption;
use crate::app::standalone::decide;
use crate::cli::flags::QueryArgs;
use crate::cli::output::{Exit, counted, say};
use crate::cli::runtime::block_on;
use crate::cli::{decisions, lockfiles, running_server};
use crate::clock::SystemClock;
use crate::policy::decisions::DecisionAction;
use crate::text::push_line;
use crate::units::timestamp;

const MAX_REASONS: usize = 10;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Lockfiles of npm, pnpm, yarn, bun or deno.
    #[arg(value_name = "LOCKFILE", required = true)]
    lockfiles: Vec<PathBuf>,
    /// Print what would be approved, without approving it.
    #[arg(long)]
    dry_run: bool,
    /// Reason to record: a ticket, an advisory, a sentence.
    #[arg(long, value_name = "TEXT", default_value = "in a lockfile before coldframe", value_parser = decisions::reason)]
    reason: String,
    #[command(flatten)]
    query: QueryArgs,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { lockfiles: paths, dry_run, reason, query: QueryArgs { output, settings } } = arguments;
    let config = settings.config()?;
    let data_dir = config.store.data_dir.clone();
    let read: Vec<_> = paths.iter().map(|path| lockfiles::read(path)).collect::<Result<_, _>>()?;
    let adoption = block_on(async {
        anyhow::Ok(match running_server::find_announced(&config).await? {
            Some(running) => running.server.adopt(&read, running.profile).await?,
            None => decide::plan_adoption(config, Arc::new(SystemClock), &read).await?,
        })
    })??;
    let is_nothing = dry_run || adoption.versions.is_empty();
    if is_nothing || !output.json {
        output.print(|| format_text(&adoption), || to_json(&adoption))?;
    } else {
        for (why, count) in reasons(&adoption) {
            say(&format!("unchecked: {}: {why}", counted(count, "version")));
        }
    }
    let is_checked = adoption.unchecked.is_empty();
    let or_unchecked = |exit: Exit| if is_checked || exit != Exit::Done { exit } else { Exit::Unchecked };
    if is_nothing {
        return Ok(or_unchecked(Exit::Done));
    }
    let ends = adoption.ends();
    let lockfiles = paths.iter().map(|path| path.display().to_string()).collect();
    let act = DecisionAction::Adopt { lockfiles, versions: adoption.versions };
    let recorded = decide::record_decision(&data_dir, &decisions::propose(act, reason, ends))?;
    decisions::print_result(&recorded, output).map(or_unchecked)
}

/// Returns why versions could not be checked, with the number of versions per reason, most frequent first.
fn reasons(adoption: &Adoption) -> Vec<(&str, usize)> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, why) in &adoption.unchecked {
        *counts.entry(why).or_default() += 1;
    }
    let mut reasons: Vec<_> = counts.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    reasons.truncate(MAX_REASONS);
    reasons
}

fn format_text(adoption: &Adoption) -> String {
    let mut text = String::new();
    let reasons = reasons(adoption);
    let is_nothing = adoption.versions.is_empty() && adoption.left_out.is_empty() && adoption.allowed == 0;
    if let Some((why, _)) = reasons.first().filter(|_| is_nothing) {
        push_line!(text, "nothing could be checked: {why}");
        return text;
    }
    for (why, count) in reasons {
        push_line!(text, "unchecked: {}: {why}", counted(count, "version"));
    }
    for (spec, why) in &adoption.left_out {
        push_line!(text, "left out: {spec}: {why}");
    }
    for adopted in &adoption.versions {
        let until = adopted.approved.until.map(timestamp::format_utc_ceil).unwrap_or_default();
        push_line!(text, "adopted: {}@{} until {until}", adopted.package, adopted.approved.version);
    }
    let elsewhere = if adoption.elsewhere == 0 { String::new() } else { format!(", {} not from a registry", adoption.elsewhere) };
    let (adopted, out, unchecked) = (adoption.versions.len(), adoption.left_out.len(), adoption.unchecked.len());
    let unchecked = if unchecked == 0 { String::new() } else { format!(", {unchecked} could not be checked") };
    push_line!(text, "{adopted} adopted, {out} left out, {} already allowed{elsewhere}{unchecked}", adoption.allowed);
    text
}

fn to_json(adoption: &Adoption) -> Value {
    let with_reasons = |entries: &[(String, String)]| -> Value {
        entries.iter().map(|(spec, why)| json!({ "spec": spec, "reason": why })).collect()
    };
    json!({
        "versions": adoption.versions,
        "leftOut": with_reasons(&adoption.left_out),
        "unchecked": with_reasons(&adoption.unchecked),
        "allowed": adoption.allowed,
        "elsewhere": adoption.elsewhere,
    })
}
