//! `coldframe client-config`: the lines that send a client through Coldframe, and have it wait for as long as Coldframe
//! does itself. Refuses to write any file.

pub(crate) mod formats;

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use url::Url;

use crate::app;
use crate::app::remote::reachable;
use crate::cli::check::server;
use crate::cli::client_config::formats::ClientConfigInput;
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, CliError, Exit};
use crate::cli::running_server;
use crate::cli::runtime::runtime;
use crate::config::Config;
use crate::config::effective::{OF_PLACES, OF_VERDICTS};
use crate::server::admin::ClientPolicy;
use crate::upstream::{self, RegistryConfig};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The client, or the service that opens pull requests.
    #[arg(value_enum)]
    client: ConfigTarget,
    /// Where clients reach Coldframe [default: where the running server says, else `public-url` or the first of `listen`].
    #[arg(long, value_name = "URL", value_parser = server)]
    url: Option<Url>,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// Whose lines are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConfigTarget {
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

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let config = arguments.settings.read(Config::load)?;
    let means = runtime()?.block_on(means(arguments.url, &config))?;
    output::print(&formats::written(arguments.client, &means))?;
    Ok(Exit::Done)
}

/// Where clients are to go, and what they are to agree with. The server that runs on the data directory says both; only where there is
/// none, or `given` names another, whatever answers there is asked.
async fn means(given: Option<Url>, config: &Config) -> Result<ClientConfigInput, CliError> {
    let running = running_server::find(config).await?;
    if let Some(running) = &running {
        let meant = match &given {
            Some(url) => running.server.profile_at(url).map(|profile| (url.clone(), profile)),
            None if running.profile == running.server.first_profile() => running.server.url().map(|url| (url, running.profile)),
            None => running.server.url_of(running.profile).map(|url| (url, running.profile)),
        };
        let terms = meant.as_ref().and_then(|(_, profile)| running.server.terms(*profile));
        if let (Some((url, _)), Some(terms)) = (&meant, terms) {
            running.announce(config, &[OF_VERDICTS, OF_PLACES].concat());
            let source = format!("the policy in force at {url}");
            let credentials = credentials(&config.upstream);
            return Ok(ClientConfigInput { url: url.clone(), terms: terms.clone(), source, credentials });
        }
    }
    let url = given.or_else(|| config.proxy.public_url.clone()).map_or_else(|| own_url(config), Ok)?;
    // The address is what clients will use: what answers there is what they will meet, whosever it is.
    let whose = if running.is_some() {
        ", which is not the server that runs on the data directory here".to_owned()
    } else {
        format!(" (no server runs on `{}`)", config.store.data_dir.display())
    };
    let credentials = credentials(&config.upstream);
    Ok(match app::fetch_client_policy(&url, config).await {
        Ok(terms) => ClientConfigInput { terms, source: format!("the policy in force at {url}{whose}"), url, credentials },
        Err(error) => {
            let policy = config.listener_policies.first().and_then(|at| config.further_policies.get(at.checked_sub(1)?));
            let terms = ClientPolicy::of(policy.unwrap_or(&config.policy));
            ClientConfigInput {
                terms,
                source: format!("the settings here, for nobody could be asked: {error}"),
                url,
                credentials,
            }
        }
    })
}

/// Where clients' own credentials go, where that is not the only registry there is.
fn credentials(upstream: &upstream::Config) -> Option<String> {
    let registries: BTreeSet<_> =
        std::iter::once(&upstream.default).chain(upstream.scoped.values()).map(RegistryConfig::address).collect();
    if registries.len() == 1 {
        return None;
    }
    let marked: Vec<_> = upstream.client_credentials.iter().map(|url| format!("`{url}`")).collect();
    let several = format!("Coldframe asks {} registries here", registries.len());
    Some(if marked.is_empty() {
        format!(
            "{several} and sends clients' credentials to none of them: its setting `client-credentials` names those that are to get them."
        )
    } else {
        format!("{several} and sends clients' credentials to {} alone (`client-credentials`).", marked.join(", "))
    })
}

/// The first address that a server with this configuration listens on.
fn own_url(config: &Config) -> Result<Url, CliError> {
    let address = config.listen.first().map(|address| format!("http://{}/", reachable(*address)));
    Url::parse(&address.unwrap_or_default()).map_err(|error| CliError::new(Exit::Usage, error))
}
