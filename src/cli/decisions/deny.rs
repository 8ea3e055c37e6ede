//! `coldframe deny`: refuses versions regardless of the rules.

use std::time::Duration;

use clap::Args;

use crate::cli::decisions::{self, RecordArgs};
use crate::cli::output::{CliError, Exit};
use crate::npm::{Range, Version};
use crate::policy::PackageGlob;
use crate::policy::decisions::DecisionAction;

#[derive(Debug, Clone)]
struct DenyTarget {
    packages: String,
    range: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Package or glob, with an optional range: `lodash@<4.17.21`, `@acme/*`.
    ///
    /// Prereleases within the range are denied too. Without a range, all versions are.
    #[arg(value_name = "PACKAGES[@RANGE]", value_parser = target)]
    target: DenyTarget,
    /// How long the denial lasts [default: until revoked].
    #[arg(long, value_name = "DURATION", value_parser = decisions::duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    record: RecordArgs,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let Arguments { target: DenyTarget { packages, range }, expires, record } = arguments;
    record.submit(DecisionAction::Deny { packages, range }, expires)
}

fn target(text: &str) -> Result<DenyTarget, String> {
    let at = text.char_indices().skip(1).find(|(_, letter)| *letter == '@').map(|(at, _)| at);
    let (packages, range) = at.map_or((text, None), |at| (&text[..at], Some(text[at + 1..].trim())));
    PackageGlob::parse(packages)?;
    let range = range.filter(|range| !range.is_empty());
    if let Some(range) = range.filter(|range| Range::parse(range).is_none() && Version::parse(range).is_none()) {
        return Err(format!("not a range that npm accepts: `{range}`"));
    }
    Ok(DenyTarget { packages: packages.to_owned(), range: range.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_is_not_read_as_a_range() {
        let read = |text: &str| target(text).map(|target| (target.packages, target.range));
        assert_eq!(read("@acme/*"), Ok(("@acme/*".to_owned(), None)));
        assert_eq!(read("@acme/ui@<2"), Ok(("@acme/ui".to_owned(), Some("<2".to_owned()))));
        assert!(read("axios@not a range").is_err() && read("").is_err() && read("[").is_err());
    }
}
