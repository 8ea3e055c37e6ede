//! `coldframe ca`: creates, exports, installs and rotates the CA certificate of the gateway.

pub(crate) mod trust;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;

use crate::app::ca;
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, Exit, usage};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::tls::CaStore;
use crate::tls::ca::pem;
use crate::units::{quantity, timestamp};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create the CA for the intercepted hosts; `serve --gateway` does this too.
    Init(SettingFlags<false>),
    /// Print the CA certificates that clients must trust, as PEM.
    Export {
        /// Write the certificates atomically to a world-readable file.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        #[command(flatten)]
        settings: SettingFlags<false>,
    },
    /// Print how clients and systems trust the CA; `--apply` installs it here.
    Trust {
        /// Install the certificates on this system (Debian or Fedora), as root.
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        settings: SettingFlags<false>,
    },
    /// Replace the CA; a running server loads the new one.
    Rotate {
        /// How long the previous CA still signs, until clients trust the new one.
        #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = quantity::parse_duration)]
        overlap: Duration,
        #[command(flatten)]
        settings: SettingFlags<false>,
    },
}

pub(crate) fn run(command: Command) -> anyhow::Result<Exit> {
    let trusted = |config: &Config| ca::trusted_certificates(&config.gateway, &config.store.data_dir, SystemClock.now());
    match command {
        Command::Init(settings) => init(&settings.config()?),
        Command::Export { to, settings } => {
            let certificates = trusted(&settings.config()?)?.iter().map(pem).collect::<String>();
            let Some(file) = to else { return output::print(&certificates) };
            write_shared_file(&file, &certificates).with_context(|| format!("cannot write `{}`", file.display()))?;
            Ok(Exit::Done)
        }
        Command::Trust { apply, settings } => {
            let config = settings.config()?;
            let trusted = trusted(&config)?;
            output::print(&if apply { trust::apply(&trusted)? } else { trust::explain(&config.store.data_dir) })
        }
        Command::Rotate { overlap, settings } => rotate(&settings.config()?, overlap),
    }
}

/// Writes a file atomically, so that a container that shares the directory sees no partial file.
fn write_shared_file(file: &Path, text: &str) -> anyhow::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut temp_file = builder.tempfile_in(folder)?;
    temp_file.write_all(text.as_bytes())?;
    temp_file.as_file().sync_all()?;
    temp_file.persist(file)?;
    Ok(())
}

fn init(config: &Config) -> anyhow::Result<Exit> {
    let data_dir = &config.store.data_dir;
    if config.gateway.ca_files.is_some() {
        return Err(usage(anyhow::anyhow!("cannot create a CA, `ca-cert` provides one")));
    }
    let (store, now) = (CaStore::new(data_dir), SystemClock.now());
    let is_new = store.read(now)?.is_none();
    ca::active_ca(&config.gateway, data_dir, now)?;
    let verb = if is_new { "created CA" } else { "CA already exists:" };
    output::print(&format!("{verb} {}\n{}", store.file().display(), describe_constraints(config)))
}

fn rotate(config: &Config, overlap: Duration) -> anyhow::Result<Exit> {
    if config.gateway.ca_files.is_some() {
        return Err(usage(anyhow::anyhow!("cannot rotate the CA, `ca-cert` provides it; replace that file")));
    }
    ca::rotate(&config.gateway, &config.store.data_dir, overlap, SystemClock.now())?;
    output::print(&format!(
        "rotated CA\n{}the previous CA signs for another {}\n\
                 clients must trust the new CA by then: coldframe ca export, coldframe ca trust\n",
        describe_constraints(config),
        timestamp::format_duration(overlap),
    ))
}

fn describe_constraints(config: &Config) -> String {
    let hosts = config.gateway.proxy.targets.hosts();
    format!("limited to these hosts: {}\n", hosts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "))
}
