//! `coldframe healthcheck`: asks the server that runs on the data directory whether it is ready, else the one at the first address of
//! `listen`. For images that hold no other program.

use clap::Args;

use super::flags::SettingFlags;
use super::output::{Exit, Failure};
use super::serve::runtime;
use crate::app::remote::reachable;
use crate::app::{self, Owner, RemoteServer};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// Silent when it is: what runs it every few seconds keeps what it says.
pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let config = arguments.settings.read(Config::gather)?;
    runtime()?.block_on(async {
        // One that runs and cannot be asked is not ready, whatever answers elsewhere.
        let running = match RemoteServer::find(&config.store.data_dir).await? {
            Owner::Server(server) => server.description().listeners.first().map(|listener| listener.address),
            Owner::NoProcess | Owner::Silent => None,
        };
        let Some(address) = running.or_else(|| config.listen.first().copied()) else {
            return Err(Failure::new(Exit::Usage, anyhow::anyhow!("there is no address that it would listen on")));
        };
        app::health(reachable(address), &config).await?;
        Ok(Exit::Done)
    })
}
