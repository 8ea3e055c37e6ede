//! `coldframe break-glass`: for a limited time, records age and signal findings instead of holding versions.

use std::time::Duration;

use clap::Args;

use crate::cli::decisions::{self, RecordArgs};
use crate::cli::output::{CliError, Exit};
use crate::policy::decisions::DecisionAction;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long it lasts, at most 7d; it ends automatically.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    lasts: Duration,
    #[command(flatten)]
    record: RecordArgs,
}

/// The longest duration. The policy `observe` is for longer periods.
const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3600);

fn parse_duration(text: &str) -> Result<Duration, String> {
    let lasts = decisions::duration(text)?;
    if lasts > MAX_DURATION { Err("at most `7d`; for longer periods use the policy `observe`".to_owned()) } else { Ok(lasts) }
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    arguments.record.submit(DecisionAction::BreakGlass, Some(arguments.lasts))
}
