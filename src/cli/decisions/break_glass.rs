//! `coldframe observe`: break the glass. Age and signals hold nothing back for a while, and all that they would have is noted.

use std::time::Duration;

use clap::Args;

use crate::cli::decisions::{self, ReasonArgs};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{CliError, Exit};
use crate::config;
use crate::policy::decisions::DecisionAction;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How long it lasts, at most seven days; it reverts by itself.
    #[arg(long = "for", value_name = "DURATION", value_parser = while_broken)]
    lasts: Duration,
    #[command(flatten)]
    because: ReasonArgs,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// The longest for which the glass stays broken: who wants more wants a policy.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

fn while_broken(text: &str) -> Result<Duration, String> {
    let lasts = decisions::duration(text)?;
    if lasts > LONGEST { Err("at most `7d`; for longer there is the policy `observe`".to_owned()) } else { Ok(lasts) }
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let data_dir = arguments.settings.read(config::data_dir)?;
    decisions::take(&data_dir, DecisionAction::Observe, arguments.because, Some(arguments.lasts), false)
}
