//! `coldframe ca`: the authority that the gateway's clients trust: made, printed, explained, replaced.

pub(crate) mod trust;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, CliError, Exit};

use crate::app::ca;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::tls::ca::pem;
use crate::tls::{CaStore, TlsError};
use crate::units::quantity;
use crate::units::timestamp;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the authority, for the hosts that the gateway answers for; `serve --gateway` does it by itself.
    Init(Arguments),
    /// Print the certificates that clients have to trust (PEM); works beside a running server.
    Export(ExportArguments),
    /// Say what each client and system needs to trust it; `--apply` does it for this system.
    Trust(TrustArguments),
    /// Put a new authority into force, for the hosts that the gateway answers for now; a running server takes it up.
    Rotate(RotateArguments),
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    settings: SettingFlags<false>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Write them to a file that everybody may read, whole or not at all, and say nothing.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

#[derive(Debug, Args)]
pub(crate) struct TrustArguments {
    /// Put the certificates into this system's store: Debian's and Fedora's kin, as root.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArguments {
    /// How long the authority before it signs on for the hosts it covers: clients have to trust the new one by then.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = overlap)]
    overlap: Duration,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

fn overlap(text: &str) -> Result<Duration, String> {
    quantity::duration(text).map_err(|flaw| flaw.to_string())
}

impl From<TlsError> for CliError {
    fn from(error: TlsError) -> Self {
        let exit = match &error {
            TlsError::Disk { .. } => Exit::DataDir,
            _ => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

pub(crate) fn run(command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Init(arguments) => init(&arguments.settings.read(Config::load)?)?,
        Command::Export(arguments) => {
            let config = arguments.settings.read(Config::load)?;
            let trusted = ca::trusted(&config.gateway, &config.store.data_dir, SystemClock.now())?;
            let certificates = trusted.iter().map(pem).collect::<String>();
            match arguments.to {
                Some(file) => write_shared_file(&file, &certificates)
                    .with_context(|| format!("cannot write `{}`", file.display()))
                    .map_err(|error| CliError::new(Exit::Failed, error))?,
                None => output::print(&certificates)?,
            }
        }
        Command::Trust(arguments) => {
            let config = arguments.settings.read(Config::load)?;
            let trusted = ca::trusted(&config.gateway, &config.store.data_dir, SystemClock.now())?;
            let told = if arguments.apply { trust::apply(&trusted)? } else { trust::explain(&config.store.data_dir) };
            output::print(&told)?;
        }
        Command::Rotate(arguments) => rotate(&arguments.settings.read(Config::load)?, arguments.overlap)?,
    }
    Ok(Exit::Done)
}

/// A reader beside us, such as a container that shares the folder, sees the file of before or the new one.
fn write_shared_file(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut made = tempfile::Builder::new();
    #[cfg(unix)]
    made.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut made = made.tempfile_in(folder)?;
    made.write_all(text.as_bytes())?;
    made.as_file().sync_all()?;
    made.persist(file)?;
    Ok(())
}

fn init(config: &Config) -> Result<(), CliError> {
    let data_dir = &config.store.data_dir;
    if config.gateway.given.is_some() {
        let given = anyhow::anyhow!("the authority is given by `ca-cert`: there is none to make");
        return Err(CliError::new(Exit::Usage, given));
    }
    let (keeping, now) = (CaStore::new(data_dir), SystemClock.now());
    let made = keeping.read(now)?.is_none();
    ca::active_ca(&config.gateway, data_dir, now)?;
    let verb = if made { "made" } else { "is there already:" };
    output::print(&format!("the authority {verb} {}\n{}", keeping.file().display(), describe_constraints(config)))?;
    Ok(())
}

fn rotate(config: &Config, overlap: Duration) -> Result<(), CliError> {
    if config.gateway.given.is_some() {
        let given = anyhow::anyhow!("the authority is given by `ca-cert`: whoever gave it rotates it");
        return Err(CliError::new(Exit::Usage, given));
    }
    ca::rotate(&config.gateway, &config.store.data_dir, overlap, SystemClock.now())?;
    let text = format!(
        "a new authority is in force\n{}the one before signs on for {} for the hosts it covers\n\
         a running gateway takes it up; have clients trust it by then: coldframe ca export, coldframe ca trust\n",
        describe_constraints(config),
        timestamp::format_duration(overlap),
    );
    output::print(&text)?;
    Ok(())
}

fn describe_constraints(config: &Config) -> String {
    let hosts = config.gateway.door.targets.hosts();
    let hosts: Vec<_> = hosts.iter().map(AsRef::as_ref).collect();
    format!("it can vouch for these hosts alone: {}\n", hosts.join(", "))
}
