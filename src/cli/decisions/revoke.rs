//! `coldframe revoke`: revokes a decision.

use clap::Args;

use crate::app::standalone::decide;
use crate::cli::decisions::{self, ReasonArgs};
use crate::cli::flags::SettingFlags;
use crate::cli::operator;
use crate::cli::output::{CliError, Exit};
use crate::clock::{Clock as _, SystemClock};
use crate::config;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Number of the decision.
    #[arg(value_name = "ID")]
    id: i64,
    #[command(flatten)]
    reason: ReasonArgs,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let data_dir = arguments.settings.read(config::data_dir)?;
    let by = operator::signature(SystemClock.now());
    let recorded = decide::revoke(&data_dir, arguments.id, &by, &arguments.reason.reason)?;
    decisions::print_result(&recorded, arguments.reason.output)
}
