//! `coldframe revoke`: takes a decision back.

use clap::Args;

use super::decree::{self, Because};
use super::flags::SettingFlags;
use super::output::{Exit, Failure};
use super::person;
use crate::app::deciding;
use crate::config;
use crate::telemetry::{Clock as _, SystemClock};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The decision's number.
    #[arg(value_name = "ID")]
    id: i64,
    #[command(flatten)]
    because: Because,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let data_dir = arguments.settings.read(config::data_dir)?;
    let by = person::signature(SystemClock.now());
    let taken = deciding::revoke(&data_dir, arguments.id, &by, &arguments.because.reason)?;
    decree::say(&taken, arguments.because.json)
}
