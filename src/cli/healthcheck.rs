//! `coldframe healthcheck`: asks the server of this configuration whether it is ready. For images that hold no other program.

use clap::Args;

use super::flags::SettingFlags;
use super::output::{Exit, Failure};
use super::serve::{reachable, runtime};
use crate::app;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// Silent when it is: what runs it every few seconds keeps what it says.
pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let config = arguments.settings.read(Config::gather)?;
    let Some(address) = config.listen.first() else {
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!("there is no address that it would listen on")));
    };
    runtime()?.block_on(app::health(reachable(*address), &config))?;
    Ok(Exit::Done)
}
