//! `coldframe adopt`: approves what lockfiles hold already, until it would have opened anyway.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::decree::{self, Because};
use super::flags::SettingFlags;
use super::lockfiles;
use super::output::{self, Exit, Failure};
use super::running;
use super::serve::runtime;
use crate::app::adopting::{self, Adoption};
use crate::config::Config;
use crate::config::effective::OF_VERDICTS;
use crate::npm::instant;
use crate::policy::decision::Act;
use crate::telemetry::SystemClock;
use crate::text::push_line;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Lockfiles: package-lock.json, npm-shrinkwrap.json, pnpm-lock.yaml, yarn.lock, bun.lock, deno.lock.
    #[arg(value_name = "LOCKFILE", required = true)]
    lockfiles: Vec<PathBuf>,
    /// Say what would be approved, and approve nothing.
    #[arg(long)]
    dry_run: bool,
    /// Why, for whoever reads it later.
    #[arg(long, value_name = "TEXT", default_value = "in a lockfile when coldframe came", value_parser = decree::reason)]
    reason: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { lockfiles: paths, dry_run, reason, json, settings } = arguments;
    let config = settings.read(Config::gather)?;
    let data_dir = config.store.data_dir.clone();
    let read = paths.iter().map(|path| lockfiles::read(path)).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|wrong| Failure::new(Exit::Failed, wrong))?;
    let adoption = runtime()?.block_on(async {
        Ok::<_, Failure>(match running::find(&config).await? {
            Some(running) => {
                running.announce(&config, OF_VERDICTS);
                running.server.adopt(&read, running.profile).await?
            }
            None => adopting::adopt(config, Arc::new(SystemClock), &read).await?,
        })
    })?;
    if !json {
        output::print(&tell(&adoption))?;
    } else if dry_run || adoption.versions.is_empty() {
        output::print(&tell_json(&adoption))?;
    }
    if dry_run || adoption.versions.is_empty() {
        return Ok(Exit::Done);
    }
    let ends = adoption.ends();
    let lockfiles = paths.iter().map(|path| path.display().to_string()).collect();
    decree::take_until(&data_dir, Act::Adopt { lockfiles, versions: adoption.versions }, Because { reason, json }, ends, false)
}

fn tell(adoption: &Adoption) -> String {
    let mut text = String::new();
    for (spec, why) in &adoption.left_out {
        push_line!(text, "left out: {spec}: {why}");
    }
    for adopted in &adoption.versions {
        let until = adopted.approved.until.map(instant::tell_opening).unwrap_or_default();
        push_line!(text, "adopted: {}@{} until {until}", adopted.package, adopted.approved.version);
    }
    let elsewhere = if adoption.elsewhere == 0 { String::new() } else { format!(", {} from no registry", adoption.elsewhere) };
    let (young, out) = (adoption.versions.len(), adoption.left_out.len());
    push_line!(text, "{young} young, {out} left out, {} allowed anyway{elsewhere}", adoption.allowed);
    text
}

fn tell_json(adoption: &Adoption) -> String {
    let left_out: Vec<_> = adoption.left_out.iter().map(|(spec, why)| json!({ "spec": spec, "reason": why })).collect();
    let told = json!({
        "versions": adoption.versions,
        "leftOut": left_out,
        "allowed": adoption.allowed,
        "elsewhere": adoption.elsewhere,
    });
    format!("{told:#}\n")
}
