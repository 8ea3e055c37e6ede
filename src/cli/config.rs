//! `coldframe config`: checks a file, or shows what is in force and where each value came from.

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
    /// Check a configuration file by itself; tells every mistake at once.
    Check(ConfigCheckArgs),
    /// Show every value in force and where it came from, as TOML.
    Show(ConfigShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigCheckArgs {
    /// The file.
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
            output::print(&format!("{}: {count} {noun}, no mistake\n", single_line(&arguments.file.to_string_lossy())))?;
        }
        Command::Show(arguments) => {
            let data_dir = arguments.settings.clone().read(config::data_dir)?;
            // What is shown is what a server would start with; one that runs may have been started with something else.
            if let Ok(Owner::Server(server)) = runtime()?.block_on(RemoteServer::find(&data_dir)) {
                let place = server.url().map(|url| format!(" at {url}")).unwrap_or_default();
                say(&format!("these are the settings of this command; the running server{place} goes by those of its own start"));
            }
            output::print(&arguments.settings.read(config::show_in_force)?)?;
        }
    }
    Ok(Exit::Done)
}
