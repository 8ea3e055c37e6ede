//! `coldframe approve`: approves exact versions, bound to their bytes, for a limited time.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::app::standalone::decide::{self, ApprovalPlan};
use crate::cli::decisions::{self, ReasonArgs};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, CliError, Exit};
use crate::cli::running_server;
use crate::cli::runtime::runtime;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::config::effective::OF_VERDICTS;
use crate::npm::PackageSpec;
use crate::text::single_line;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Package with a version, range or dist-tag; covers versions held now.
    ///
    /// Later releases are not approved.
    #[arg(value_name = "PACKAGE@RANGE", value_parser = PackageSpec::parse)]
    spec: PackageSpec,
    /// How long the approval applies.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = decisions::duration)]
    expires: Duration,
    /// Finding to override: an advisory id, a strong signal, or `integrity-changed`.
    ///
    /// A second person must then confirm the approval. Example: `--record MAL-2026-2307`.
    #[arg(long = "record", value_name = "ID")]
    records: Vec<String>,
    #[command(flatten)]
    because: ReasonArgs,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let Arguments { spec, expires, records, because, settings } = arguments;
    let config = settings.read(Config::load)?;
    let data_dir = config.store.data_dir.clone();
    let expansion = runtime()?.block_on(async {
        Ok::<_, CliError>(match running_server::find(&config).await? {
            Some(running) => {
                running.announce(&config, OF_VERDICTS);
                running.server.expand(&spec, &records, running.profile).await?
            }
            None => decide::plan_approval(config, Arc::new(SystemClock), &spec, &records).await?,
        })
    })?;
    if let Some(why) = refusal(&expansion) {
        return Err(CliError::new(Exit::Failed, anyhow::anyhow!(why)));
    }
    for (version, why) in &expansion.left_out {
        output::print(&format!("{}\n", single_line(&format!("left out: {}@{version}: {why}", expansion.name))))?;
    }
    if expansion.approved.is_empty() {
        output::print(&format!("nothing to approve: {} already allowed\n", counted(expansion.allowed)))?;
        return Ok(Exit::Done);
    }
    let needs_second = expansion.needs_second;
    decisions::submit(&data_dir, expansion.into_act(records), because, Some(expires), needs_second)
}

/// Returns why nothing can be approved.
fn refusal(expansion: &ApprovalPlan) -> Option<String> {
    if !expansion.unnamed.is_empty() {
        let named: Vec<_> = expansion.unnamed.iter().map(|record| format!("--record {record}")).collect();
        let versions: Vec<_> = expansion.approved.iter().map(|approved| approved.version.as_str()).collect();
        return Some(format!(
            "{}@{} is held by more than its age; name each finding and have a second person confirm: {}",
            expansion.name,
            versions.join(", "),
            named.join(" ")
        ));
    }
    let only_left_out = expansion.approved.is_empty() && !expansion.left_out.is_empty() && expansion.allowed == 0;
    only_left_out.then(|| {
        let reasons: Vec<_> =
            expansion.left_out.iter().map(|(version, why)| format!("{}@{version}: {why}", expansion.name)).collect();
        format!("cannot be approved: {}", reasons.join("; "))
    })
}

fn counted(versions: usize) -> String {
    if versions == 1 { "the version is".to_owned() } else { format!("all {versions} versions are") }
}
