//! `coldframe client-config`: prints configuration that sends a client through Coldframe with the same minimum age.

pub(crate) mod formats;

use std::collections::BTreeSet;

use anyhow::Context as _;
use clap::Args;
use url::Url;

use crate::app;
use crate::cli::check::server;
use crate::cli::client_config::formats::{ClientConfigInput, ConfigTarget};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, Exit, usage};
use crate::cli::registry_hosts::own_url;
use crate::cli::running_server::{self, SERVER_APPLIES};
use crate::cli::runtime::block_on;
use crate::config::Config;
use crate::config::effective::{OF_PLACES, OF_VERDICTS};
use crate::server::admin::ClientPolicy;
use crate::upstream::{self, RegistryConfig};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Client, or service that opens pull requests.
    #[arg(value_enum)]
    client: ConfigTarget,
    /// URL of Coldframe [default: running server, `public-url`, first `listen`].
    #[arg(long, value_name = "URL", value_parser = server)]
    url: Option<Url>,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let config = arguments.settings.config()?;
    let input = block_on(build_input(arguments.url, &config))??;
    output::print(&formats::render(arguments.client, &input))
}

/// Determines the URL and the policy for clients. The server on the data directory provides both. If there is none, or if
/// `given` is another server, the server at the URL is asked.
async fn build_input(given: Option<Url>, config: &Config) -> anyhow::Result<ClientConfigInput> {
    let credentials = credentials(&config.upstream);
    let running = running_server::find(config).await?;
    if let Some(running) = &running {
        let meant = match &given {
            Some(url) => running.server.profile_at(url).map(|profile| (url.clone(), profile)),
            None if running.profile == running.server.first_profile() => running.server.url().map(|url| (url, running.profile)),
            None => running.server.url_of(running.profile).map(|url| (url, running.profile)),
        };
        if let Some((url, profile)) = meant
            && let Some(terms) = running.server.terms(profile)
        {
            running.announce(config, &[OF_VERDICTS, OF_PLACES].concat(), SERVER_APPLIES);
            let source = format!("the policy at {url}");
            return Ok(ClientConfigInput { url, terms: terms.clone(), source, credentials });
        }
    }
    let url = given.or_else(|| own_url(config)).context("no address to listen on").map_err(usage)?;
    // Clients will use this address, so ask whichever server answers on it.
    let (terms, source) = match app::fetch_client_policy(&url, config).await {
        Ok(terms) if running.is_some() => (terms, format!("the policy at {url}, not the server on the local data directory")),
        Ok(terms) => {
            let data_dir = config.store.data_dir.display();
            (terms, format!("the policy at {url} (no server runs on `{data_dir}`)"))
        }
        Err(error) => {
            let terms = ClientPolicy::of(config.policies.first_policy());
            (terms, format!("the settings of this command, cannot ask {url}: {error}"))
        }
    };
    Ok(ClientConfigInput { url, terms, source, credentials })
}

/// Describes which registries receive clients' credentials, if there are several registries.
fn credentials(upstream: &upstream::Config) -> Option<String> {
    let registries: BTreeSet<_> = upstream.registries().map(RegistryConfig::address).collect();
    if registries.len() == 1 {
        return None;
    }
    let marked: Vec<_> = upstream.client_credentials.iter().map(|url| format!("`{url}`")).collect();
    let several = format!("Coldframe uses {} registries", registries.len());
    Some(if marked.is_empty() {
        format!("{several} and sends clients' credentials to none of them; list those that need them in `client-credentials`.")
    } else {
        format!("{several} and sends clients' credentials only to {} (`client-credentials`).", marked.join(", "))
    })
}
