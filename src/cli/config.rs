//! `coldframe config`: creates or checks a configuration file, or shows the effective settings and their origins.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;

use crate::app::{Owner, RemoteServer};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, Exit, counted, say};
use crate::cli::runtime::block_on;
use crate::config;
use crate::text::{push_line, shell_word};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a file that describes all settings.
    Init {
        /// File to create; standard output without one.
        file: Option<PathBuf>,
    },
    /// Check a configuration file: report all errors, and what is less safe than it could be.
    Check {
        /// Configuration file to check.
        file: PathBuf,
    },
    /// Show all effective settings and their origins, as TOML.
    Show(SettingFlags<true>),
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Init { file: None } => output::print(&config::template()),
        Command::Init { file: Some(file) } => {
            let shown = file.display().to_string();
            let mut created = File::create_new(&file).with_context(|| format!("cannot create `{shown}`"))?;
            created.write_all(config::template().as_bytes()).with_context(|| format!("cannot write `{shown}`"))?;
            say(&format!("created {shown}; start the server with: coldframe serve --config {}", shell_word(&shown)));
            Ok(Exit::Done)
        }
        Command::Check { file } => {
            let checked = config::check(&file)?;
            let mut text = String::new();
            push_line!(text, "{}: {}, no errors", file.display(), counted(checked.settings, "setting"));
            for weakness in checked.weaknesses {
                push_line!(text, "warning: {weakness}");
            }
            output::print(&text)
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
