//! `coldframe confirm`: confirms a decision as its second person.

use clap::Args;

use crate::app::standalone::decide;
use crate::cli::flags::QueryArgs;
use crate::cli::output::{CliError, Exit};
use crate::cli::{decisions, operator};
use crate::clock::{Clock as _, SystemClock};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Number of the decision.
    #[arg(value_name = "ID")]
    id: i64,
    #[command(flatten)]
    query: QueryArgs,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let data_dir = arguments.query.settings.data_dir()?;
    if let Some(why) = operator::not_told_apart() {
        let id = arguments.id;
        return Err(CliError::failed(anyhow::anyhow!("cannot confirm decision {id} here: {why}")));
    }
    let recorded = decide::confirm(&data_dir, arguments.id, &operator::signature(SystemClock.now()))?;
    decisions::print_result(&recorded, arguments.query.output)
}
