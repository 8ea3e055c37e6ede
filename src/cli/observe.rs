//! `coldframe observe`: break the glass. Age and signals hold nothing back for a while, and all that they would have is noted.

use std::time::Duration;

use clap::Args;

use super::decree::{self, Because};
use super::flags::SettingFlags;
use super::output::{Exit, Failure};
use crate::config;
use crate::policy::decision::Act;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How long it lasts; it reverts by itself.
    #[arg(long = "for", value_name = "DURATION", value_parser = decree::duration)]
    lasts: Duration,
    #[command(flatten)]
    because: Because,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let data_dir = arguments.settings.read(config::data_dir)?;
    decree::take(&data_dir, Act::Observe, arguments.because, Some(arguments.lasts), false)
}
