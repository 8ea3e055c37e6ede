//! `coldframe confirm`: puts a second person's name to a decision that awaits one.

use clap::Args;

use super::flags::SettingFlags;
use super::output::{Exit, Failure};
use super::{decree, person};
use crate::app::deciding;
use crate::config;
use crate::telemetry::{Clock as _, SystemClock};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The decision's number.
    #[arg(value_name = "ID")]
    id: i64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let data_dir = arguments.settings.read(config::data_dir)?;
    if let Some(why) = person::not_told_apart() {
        let id = arguments.id;
        return Err(Failure::new(Exit::Failed, anyhow::anyhow!("cannot confirm decision {id} here: {why}")));
    }
    let taken = deciding::confirm(&data_dir, arguments.id, &person::signature(SystemClock.now()))?;
    decree::say(&taken, arguments.json)
}
