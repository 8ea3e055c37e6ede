//! `coldframe client-config`: the lines that send a client through Coldframe, and have it wait for as long as Coldframe
//! does itself. Refuses to write any file.

use clap::{Args, ValueEnum};
use url::Url;

use super::check::server;
use super::client_files::{self, Means};
use super::flags::SettingFlags;
use super::output::{self, Exit, Failure};
use super::serve::{reachable, runtime};
use crate::admin::Terms;
use crate::app;
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The client, or the service that opens pull requests.
    #[arg(value_enum)]
    client: Client,
    /// Where clients reach Coldframe [default: `public-url`, else the first address it listens on].
    #[arg(long, value_name = "URL", value_parser = server)]
    url: Option<Url>,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// Whose lines are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Client {
    /// `.npmrc`
    Npm,
    /// `pnpm-workspace.yaml`, pnpm 10.16 and later
    Pnpm,
    /// `.yarnrc`, yarn 1
    Yarn,
    /// `.yarnrc.yml`, yarn 4
    YarnBerry,
    /// `bunfig.toml`
    Bun,
    /// `.npmrc`, as deno reads it
    Deno,
    /// `renovate.json5`
    Renovate,
    /// `.github/dependabot.yml`
    Dependabot,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let config = arguments.settings.read(Config::gather)?;
    let url = arguments.url.or_else(|| config.proxy.public_url.clone()).map_or_else(|| own_url(&config), Ok)?;
    let (terms, source) = match runtime()?.block_on(app::terms(&url, &config)) {
        Ok(terms) => (terms, format!("the policy in force at {url}")),
        Err(wrong) => (Terms::of(&config.policy), format!("the settings here, for nobody could be asked: {wrong}")),
    };
    output::print(&client_files::written(arguments.client, &Means { url, terms, source }))?;
    Ok(Exit::Done)
}

/// The first address that a server with this configuration listens on.
fn own_url(config: &Config) -> Result<Url, Failure> {
    let address = config.listen.first().map(|address| format!("http://{}/", reachable(*address)));
    Url::parse(&address.unwrap_or_default()).map_err(|wrong| Failure::new(Exit::Usage, wrong))
}
