//! `coldframe freeze`: hides everything published after an instant, for a limited time.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::cli::decisions::{self, RecordArgs};
use crate::cli::output::{CliError, Exit};
use crate::clock::{Clock as _, SystemClock};
use crate::policy::PackageGlob;
use crate::policy::decisions::DecisionAction;
use crate::units::timestamp;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Hide what was published after this instant: `2026-03-31T00:00Z`, or `now`.
    #[arg(value_name = "INSTANT", value_parser = parse_instant)]
    at: Timestamp,
    /// How long it lasts; it ends automatically.
    #[arg(long = "for", value_name = "DURATION", value_parser = decisions::duration)]
    lasts: Duration,
    /// Freeze only these packages: name or glob (`@acme/*`); may be repeated.
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    scope: Vec<String>,
    #[command(flatten)]
    record: RecordArgs,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let Arguments { at, lasts, scope, record } = arguments;
    if at >= timestamp::saturating_add(SystemClock.now(), lasts) {
        let at = timestamp::format_utc(at);
        return Err(CliError::usage(anyhow::anyhow!("the freeze would hide nothing: it ends before {at}")));
    }
    record.submit(DecisionAction::Freeze { at, packages: scope }, Some(lasts))
}

/// Parses an instant with an offset, to the minute or finer, or `now`.
pub(crate) fn parse_instant(text: &str) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(SystemClock.now());
    }
    text.parse().map_err(|_| "expected an instant with an offset, such as `2026-03-31T00:00Z`, or `now`".to_owned())
}

fn glob(text: &str) -> Result<String, String> {
    // `@acme` means the whole scope.
    let text = if text.starts_with('@') && !text.contains('/') { format!("{text}/*") } else { text.to_owned() };
    PackageGlob::parse(&text).map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instant_needs_an_offset_but_no_seconds() {
        assert_eq!(parse_instant("2026-03-31T00:00Z").unwrap(), "2026-03-31T00:00:00Z".parse().unwrap());
        assert_eq!(parse_instant("2026-03-31T02:00+02:00").unwrap(), "2026-03-31T00:00:00Z".parse().unwrap());
        assert!(
            parse_instant("2026-03-31").is_err()
                && parse_instant("2026-03-31T00:00").is_err()
                && parse_instant("yesterday").is_err()
        );
    }

    #[test]
    fn scope_expands_to_all_its_packages() {
        assert_eq!(glob("@acme"), Ok("@acme/*".to_owned()));
        assert_eq!(glob("axios"), Ok("axios".to_owned()));
    }
}
