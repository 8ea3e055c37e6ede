//! `coldframe approve`: approves exact versions, bound to their bytes, for a limited time.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::app::operations::approval::ApprovalPlan;
use crate::app::standalone::decide;
use crate::cli::decisions::{self, RecordArgs};
use crate::cli::output::{self, Exit};
use crate::cli::running_server;
use crate::cli::runtime::block_on;
use crate::clock::{Clock as _, SystemClock};
use crate::npm::PackageSpec;
use crate::policy::decisions::DecisionProposal;
use crate::text::single_line;
use crate::units::timestamp;

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
    record: RecordArgs,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { spec, expires, records, record: RecordArgs { reason, query } } = arguments;
    let config = query.settings.config()?;
    let data_dir = config.store.data_dir.clone();
    let plan = block_on(async {
        anyhow::Ok(match running_server::find_announced(&config).await? {
            Some(running) => running.server.expand(&spec, &records, running.profile).await?,
            None => decide::plan_approval(config, Arc::new(SystemClock), &spec, &records).await?,
        })
    })??;
    check(&plan)?;
    for (version, why) in &plan.left_out {
        output::print(&format!("{}\n", single_line(&format!("left out: {}@{version}: {why}", plan.name))))?;
    }
    if plan.approved.is_empty() {
        let allowed = if plan.allowed == 1 { "the version is" } else { &format!("all {} versions are", plan.allowed) };
        return output::print(&format!("nothing to approve: {allowed} already allowed\n"));
    }
    let needs_second = plan.needs_second;
    let ends = timestamp::saturating_add(SystemClock.now(), expires);
    let proposal = decisions::propose(plan.into_act(records), reason, Some(ends));
    let recorded = decide::record_decision(&data_dir, &DecisionProposal { needs_second, ..proposal })?;
    decisions::print_result(&recorded, query.output)
}

fn check(plan: &ApprovalPlan) -> anyhow::Result<()> {
    let name = &plan.name;
    if !plan.unnamed.is_empty() {
        let records = plan.unnamed.iter().map(|record| format!("--record {record}")).collect::<Vec<_>>().join(" ");
        let versions = plan.approved.iter().map(|approved| approved.version.as_str()).collect::<Vec<_>>().join(", ");
        let why = "is held by more than its age; name each finding and have a second person confirm";
        anyhow::bail!("{name}@{versions} {why}: {records}");
    }
    let reasons: Vec<_> = plan.left_out.iter().map(|(version, why)| format!("{name}@{version}: {why}")).collect();
    let only_left_out = plan.approved.is_empty() && !reasons.is_empty() && plan.allowed == 0;
    anyhow::ensure!(!only_left_out, "cannot be approved: {}", reasons.join("; "));
    Ok(())
}
