//! `coldframe config`: checks a configuration file, or shows the effective settings and their origins.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::{Owner, RemoteServer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::say;
use crate::cli::output::{self, CliError, Exit};
use crate::cli::runtime::runtime;
use crate::config;
use crate::text::single_line;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a configuration file and report all errors.
    Check(ConfigCheckArgs),
    /// Show all effective settings and their origins, as TOML.
    Show(ConfigShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigCheckArgs {
    /// Configuration file to check.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigShowArgs {
    #[command(flatten)]
    settings: SettingFlags<true>,
}

pub(crate) fn run(command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Check(arguments) => {
            let count = config::check(&arguments.file)?;
            let noun = if count == 1 { "setting" } else { "settings" };
            output::print(&format!("{}: {count} {noun}, no errors\n", single_line(&arguments.file.to_string_lossy())))?;
        }
        Command::Show(arguments) => {
            let data_dir = arguments.settings.clone().read(config::data_dir)?;
            // Shows what a server would start with now. A running server may have been started with other settings.
            if let Ok(Owner::Server(server)) = runtime()?.block_on(RemoteServer::find(&data_dir)) {
                let place = server.url().map(|url| format!(" at {url}")).unwrap_or_default();
                say(&format!("showing the settings of this command; the running server{place} uses its own"));
            }
            output::print(&arguments.settings.read(config::show_effective)?)?;
        }
    }
    Ok(Exit::Done)
}
