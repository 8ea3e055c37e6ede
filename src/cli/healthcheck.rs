//! `coldframe healthcheck`: checks whether the server on the data directory is ready. If no data directory is configured
//! and no server runs on the default one, it asks the first address of `listen`. For images without a shell.

use crate::app::operations::messages::ListenerDescription;
use crate::app::{self, Owner, RemoteServer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{Exit, usage};
use crate::cli::runtime::block_on;
use crate::config::SettingKey;
use crate::net::{ListenAddress, Scheme};
use crate::store::DataDir;

/// Prints nothing on success: container engines call it every few seconds and keep the output.
pub(crate) fn run(settings: &SettingFlags<false>) -> anyhow::Result<Exit> {
    let config = settings.config()?;
    let data_dir = &config.store.data_dir;
    block_on(async {
        // A running server that cannot be asked is not ready, even if another one answers on the address.
        let running = match RemoteServer::find(data_dir).await? {
            Owner::Server(server) => {
                let listeners: Vec<_> = server.description.listeners.iter().map(ListenerDescription::listen_address).collect();
                plain_first(&listeners)
            }
            // Another server would answer on the address. If the directory is unreadable, only the address can be asked.
            Owner::NoProcess | Owner::Silent
                if cfg!(unix) && config.settings.is_set(SettingKey::DataDir) && DataDir::is_readable(data_dir) =>
            {
                anyhow::bail!("no server runs on the data directory `{}`", data_dir.display());
            }
            Owner::NoProcess | Owner::Silent => None,
        };
        let Some(address) = running.or_else(|| plain_first(&config.listen)) else {
            return Err(usage(anyhow::anyhow!("no address to ask; set `--listen`")));
        };
        app::check_readiness(address, &config).await?;
        Ok(Exit::Done)
    })?
}

/// Returns the first listener with plain HTTP, else the first one. HTTPS works too, if this user can read the certificate.
fn plain_first(listeners: &[ListenAddress]) -> Option<ListenAddress> {
    listeners.iter().find(|listener| listener.scheme == Scheme::Http).or(listeners.first()).copied()
}
