//! `coldframe config`: checks a configuration file, or shows the effective settings and their origins.

use std::path::PathBuf;

use clap::Subcommand;

use crate::app::{Owner, RemoteServer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, Exit, counted, say};
use crate::cli::runtime::block_on;
use crate::config;
use crate::text::single_line;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a configuration file and report all errors.
    Check {
        /// Configuration file to check.
        file: PathBuf,
    },
    /// Show all effective settings and their origins, as TOML.
    Show(SettingFlags<true>),
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Check { file } => {
            let count = config::check(&file)?;
            output::print(&format!("{}: {}, no errors\n", single_line(&file.to_string_lossy()), counted(count, "setting")))
        }
        Command::Show(settings) => {
            let data_dir = settings.data_dir()?;
            // Shows what a server would start with now. A running server may have been started with other settings.
            if let Ok(Owner::Server(server)) = block_on(RemoteServer::find(&data_dir))? {
                let place = server.url().map(|url| format!(" at {url}")).unwrap_or_default();
                say(&format!("showing the settings of this command; the running server{place} uses its own"));
            }
            output::print(&settings.read(config::show_effective)?)
        }
    }
}
