//! `coldframe explain`: whether a version would be served, and why. Needs no running server and writes nothing down.

use std::sync::Arc;

use clap::Args;
use jiff::Timestamp;

use super::flags::SettingFlags;
use super::output::{self, Exit, Failure};
use super::serve::runtime;
use crate::admin::explanation;
use crate::app;
use crate::config::Config;
use crate::npm::Spec;
use crate::telemetry::SystemClock;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A package and a version, a dist-tag or a range: `axios@1.14.1`, `axios@^1`, `axios`.
    #[arg(value_name = "SPEC", value_parser = Spec::parse)]
    spec: Spec,
    /// Judge as of another instant: `2026-03-31T01:00Z`.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    at: Option<Timestamp>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let config = arguments.settings.read(Config::gather)?;
    let spec = arguments.spec;
    let explained = runtime()?.block_on(app::explain(config, Arc::new(SystemClock), &spec, arguments.at))?;
    let text = if arguments.json { format!("{:#}\n", explained.json()) } else { explanation::text(&explained) };
    output::print(&text)?;
    Ok(if explained.verdict.allows() { Exit::Done } else { Exit::Refused })
}

/// An instant as people write it, always with its offset.
fn instant(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "not an instant with its offset; allowed: such as `2026-03-31T01:00Z`".to_owned())
}
