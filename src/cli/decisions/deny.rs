//! `coldframe deny`: refuses versions from now on, whatever the rules say.

use std::time::Duration;

use clap::Args;

use crate::cli::decisions::{self, ReasonArgs};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{CliError, Exit};
use crate::config;
use crate::npm::{Range, Version};
use crate::policy::PackageGlob;
use crate::policy::decisions::DecisionAction;

/// What is denied.
#[derive(Debug, Clone)]
struct DenyTarget {
    packages: String,
    range: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A package or a glob over packages, and a range: `axios@1.14.1`, `lodash@<4.17.21`, `@acme/*`. Prereleases within the
    /// range are denied too; without a range every version is.
    #[arg(value_name = "PACKAGES[@RANGE]", value_parser = target)]
    target: DenyTarget,
    /// How long the denial lasts; until it is revoked when this is missing.
    #[arg(long, value_name = "DURATION", value_parser = decisions::duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    because: ReasonArgs,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let Arguments { target: DenyTarget { packages, range }, expires, because, settings } = arguments;
    let data_dir = settings.read(config::data_dir)?;
    decisions::take(&data_dir, DecisionAction::Deny { packages, range }, because, expires, false)
}

fn target(text: &str) -> Result<DenyTarget, String> {
    let at = text.char_indices().skip(1).find(|(_, letter)| *letter == '@').map(|(at, _)| at);
    let (packages, range) = at.map_or((text, None), |at| (&text[..at], Some(text[at + 1..].trim())));
    PackageGlob::parse(packages)?;
    let range = range.filter(|range| !range.is_empty());
    if let Some(range) = range.filter(|range| Range::parse(range).is_none() && Version::parse(range).is_none()) {
        return Err(format!("npm knows no such range: `{range}`"));
    }
    Ok(DenyTarget { packages: packages.to_owned(), range: range.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_no_range() {
        let read = |text: &str| target(text).map(|target| (target.packages, target.range));
        assert_eq!(read("@acme/*"), Ok(("@acme/*".to_owned(), None)));
        assert_eq!(read("@acme/ui@<2"), Ok(("@acme/ui".to_owned(), Some("<2".to_owned()))));
        assert!(read("axios@not a range").is_err() && read("").is_err() && read("[").is_err());
    }
}
