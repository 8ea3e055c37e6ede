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
    let Arguments { id, query: QueryArgs { output, settings } } = arguments;
    let data_dir = settings.data_dir()?;
    if let Some(why) = operator::not_told_apart() {
        return Err(CliError::failed(anyhow::anyhow!("cannot confirm decision {id} here: {why}")));
    }
    let recorded = decide::confirm(&data_dir, id, &operator::signature(SystemClock.now()))?;
    decisions::print_result(&recorded, output)
}
