//! `coldframe healthcheck`: asks the server that runs on the data directory whether it is ready. Where no data directory is configured
//! and none runs on the default one, it asks at the first address of `listen`. For images that hold no other program.

use clap::Args;

use crate::app::remote::reachable;
use crate::app::{self, Owner, RemoteServer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{CliError, Exit};
use crate::cli::runtime::runtime;
use crate::config::{Config, SettingKey};
use crate::store::DataDir;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// Silent when it is: what runs it every few seconds keeps what it says.
pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let config = arguments.settings.read(Config::gather)?;
    let data_dir = &config.store.data_dir;
    runtime()?.block_on(async {
        // One that runs and cannot be asked is not ready, whatever answers elsewhere.
        let running = match RemoteServer::find(data_dir).await? {
            Owner::Server(server) => server.description().listeners.first().map(|listener| listener.address),
            // What answers at the address then is another server. Where the directory cannot be looked into, the address is all there is.
            Owner::NoProcess | Owner::Silent
                if cfg!(unix) && config.settings.is_written(SettingKey::DataDir) && DataDir::is_readable(data_dir) =>
            {
                let why = anyhow::anyhow!("no server runs on the data directory `{}`", data_dir.display());
                return Err(CliError::new(Exit::Failed, why));
            }
            Owner::NoProcess | Owner::Silent => None,
        };
        let Some(address) = running.or_else(|| config.listen.first().copied()) else {
            return Err(CliError::new(Exit::Usage, anyhow::anyhow!("there is no address that it would listen on")));
        };
        app::health(reachable(address), &config).await?;
        Ok(Exit::Done)
    })
}
