//! `coldframe explain`: explains whether a version would be served. The server that runs on the data directory answers.
//! Without a server, the settings of this command apply.

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use crate::app;
use crate::app::operations::verdict_line;
use crate::cli::flags::QueryArgs;
use crate::cli::output::{Exit, say};
use crate::cli::running_server::{self, Running};
use crate::cli::runtime::block_on;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::config::effective::OF_VERDICTS;
use crate::npm::PackageSpec;
use crate::server::admin::explanation;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Package with a version, range or dist-tag: `axios@1.14.1`, `axios@^1`, `axios`.
    #[arg(value_name = "SPEC", value_parser = PackageSpec::parse)]
    spec: PackageSpec,
    /// Evaluate as of another instant: `2026-03-31T01:00Z`.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Timestamp>,
    #[command(flatten)]
    query: QueryArgs,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let config = arguments.query.settings.config()?;
    let is_allowed = block_on(async {
        if let Some(running) = running_server::find_announced(&config).await? {
            return ask(&running, &config, &arguments).await;
        }
        let Arguments { spec, at, query } = arguments;
        let explained = app::explain(config, Arc::new(SystemClock), &spec, at).await?;
        query.output.print(|| explanation::text(&explained), || explained.json())?;
        anyhow::Ok(explained.verdict.is_allowed())
    })??;
    Ok(if is_allowed { Exit::Done } else { Exit::Refused })
}

/// Asks the running server. Also reports the verdicts of its other listeners and of the settings of this command.
async fn ask(running: &Running, config: &Config, arguments: &Arguments) -> anyhow::Result<bool> {
    let Arguments { spec, at, query: QueryArgs { output, settings } } = arguments;
    let explained = running.server.explain(spec, *at, running.profile).await?;
    for (profile, verdict) in &explained.others {
        let place = running.server.url_of(*profile).map(|url| url.to_string()).unwrap_or_default();
        say(&format!("clients of {place} ({}): {verdict}", running.server.policy_words(*profile)));
    }
    if !running.deviations(config, OF_VERDICTS).is_empty()
        && let Ok(changed) = running.overridden_config(settings)
    {
        match app::explain(changed, Arc::new(SystemClock), spec, *at).await {
            Ok(other) => say(&format!("with the settings of this command: {}", verdict_line(&other.verdict))),
            Err(error) => say(&format!("cannot evaluate with the settings of this command: {error}")),
        }
    }
    output.print(|| explained.text, || explained.json)?;
    Ok(explained.is_allowed)
}

fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "expected an instant with an offset, such as `2026-03-31T01:00Z`".to_owned())
}
