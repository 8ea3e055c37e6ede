//! `coldframe revoke`: revokes a decision.

use clap::Args;

use crate::app::standalone::decide;
use crate::cli::decisions::{self, RecordArgs};
use crate::cli::flags::QueryArgs;
use crate::cli::operator;
use crate::cli::output::{CliError, Exit};
use crate::clock::{Clock as _, SystemClock};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Number of the decision.
    #[arg(value_name = "ID")]
    id: i64,
    #[command(flatten)]
    record: RecordArgs,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let RecordArgs { reason, query: QueryArgs { output, settings } } = arguments.record;
    let by = operator::signature(SystemClock.now());
    decisions::print_result(&decide::revoke(&settings.data_dir()?, arguments.id, &by, &reason)?, output)
}
