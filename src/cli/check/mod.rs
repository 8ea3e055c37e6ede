//! `coldframe check`: which versions in lockfiles would be refused, before they are installed. The server that runs on the data
//! directory answers; without one the settings of this command do.

pub(crate) mod fix;
pub(crate) mod github;
pub(crate) mod report;
pub(crate) mod sarif;
pub(crate) mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use url::Url;

use crate::app::{AppError, Checker};
use crate::cli::check::report::{LockfileReport, RefusedVersion, Report};
use crate::cli::flags::SettingFlags;
use crate::cli::lockfiles;
use crate::cli::output::{self, CliError, Exit};
use crate::cli::registry_hosts::RegistryHosts;
use crate::cli::running_server;
use crate::cli::runtime::runtime;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::config::effective::OF_VERDICTS;
use crate::npm::lockfile::NAMES;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Lockfiles, and folders to look into, but not below [default: the working directory].
    paths: Vec<PathBuf>,
    /// Ask the Coldframe that runs there, instead of the one that runs on the data directory, or this command.
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<Url>,
    /// How to tell what was found.
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    format: CheckFormat,
    /// Tell the overrides to add as well, so that what is refused makes way for what is allowed.
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// How to tell what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// For people.
    Table,
    /// Everything, for programs.
    Json,
    /// SARIF 2.1.0: a result for each version that is refused.
    Sarif,
    /// Workflow commands, which annotate a pull request.
    Github,
}

/// Why no lockfile was read.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error("no lockfile in: {}", .0.display())]
    NoLockfile(PathBuf),
    #[error("`--fix` goes with `--format table` and `--format json`")]
    FixNeedsTable,
}

pub(crate) fn run(arguments: Arguments) -> Result<Exit, CliError> {
    let usage = |wrong: CheckError| CliError::new(Exit::Usage, wrong);
    if arguments.fix && !matches!(arguments.format, CheckFormat::Table | CheckFormat::Json) {
        return Err(usage(CheckError::FixNeedsTable));
    }
    let own = arguments.settings.clone().read(Config::gather)?;
    let mut read = Vec::new();
    for path in find(arguments.paths).map_err(usage)? {
        let lockfile = lockfiles::read(&path).map_err(|wrong| CliError::new(Exit::Usage, wrong))?;
        read.push((shown(&path), lockfile));
    }
    let runtime = runtime()?;
    let running = if arguments.server.is_none() { runtime.block_on(running_server::find(&own))? } else { None };
    let config = match &running {
        Some(running) => {
            running.announce(&own, OF_VERDICTS);
            running.config(&arguments.settings, own)
        }
        None => own,
    };
    let mut hosts = RegistryHosts::of(&config, arguments.server.as_ref());
    let mut files: Vec<_> = read.into_iter().map(|(path, lockfile)| LockfileReport::of(path, &lockfile)).collect();
    let report = runtime.block_on(async {
        let checker = match (arguments.server, running) {
            (Some(server), _) => Checker::at(server, &config)?,
            (None, Some(running)) => Checker::running(running.server, running.profile),
            (None, None) => Checker::here(config, Arc::new(SystemClock))?,
        };
        let locked: Vec<_> = files.iter().flat_map(LockfileReport::locked).collect();
        let judged = checker.check(&locked).await?;
        hosts.add(&judged.upstreams);
        let mut outcomes = judged.packages.into_iter();
        for file in &mut files {
            file.conclude(&hosts, &mut outcomes);
        }
        // Those who asked for a version may have to give way themselves: then what they asked for binds nobody.
        let again: Vec<_> = files.iter().flat_map(LockfileReport::unbound).collect();
        let mut outcomes = checker.check(&again).await?.packages.into_iter();
        for file in &mut files {
            file.fit(&mut outcomes);
        }
        Ok::<_, AppError>(Report { files })
    })?;
    let text = match arguments.format {
        CheckFormat::Table if arguments.fix => table::tell(&report) + &fix::tell(&report),
        CheckFormat::Table => table::tell(&report),
        CheckFormat::Json => format!("{:#}\n", report.json(arguments.fix.then(|| fix::json(&report)))),
        CheckFormat::Sarif => format!("{:#}\n", sarif::tell(&report)),
        CheckFormat::Github => {
            // Commands are to be obeyed; each value in one was escaped.
            output::print_verbatim(&github::tell(&report))?;
            return Ok(exit(&report));
        }
    };
    output::print(&text)?;
    Ok(exit(&report))
}

/// 75 is what mailers end with when it is worth trying again later, 69 where a service is away. A version that is refused for good is
/// known to be, whatever could not be judged besides.
fn exit(report: &Report) -> Exit {
    let is_cured = |finding: &RefusedVersion| finding.judged.outcome.is_cured_by_waiting();
    let mut refused = report.refused().peekable();
    if report.unchecked() > 0 && report.refused().all(is_cured) {
        Exit::Unchecked
    } else if refused.peek().is_none() {
        Exit::Done
    } else if refused.all(is_cured) {
        Exit::Later
    } else {
        Exit::Failed
    }
}

/// The lockfiles that `paths` mean, in their order.
fn find(mut paths: Vec<PathBuf>) -> Result<Vec<PathBuf>, CheckError> {
    if paths.is_empty() {
        paths.push(PathBuf::from("."));
    }
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path);
            continue;
        }
        let inside: Vec<_> = NAMES.iter().map(|name| path.join(name)).filter(|path| path.is_file()).collect();
        if inside.is_empty() {
            return Err(CheckError::NoLockfile(path));
        }
        found.extend(inside);
    }
    Ok(found)
}

/// A path as reports name it: relative as it was given, with forward slashes.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\\', "/");
    text.strip_prefix("./").unwrap_or(&text).to_owned()
}

pub(crate) fn server(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|wrong| wrong.to_string())?;
    let usable = matches!(url.scheme(), "http" | "https") && url.host_str().is_some() && url.query().is_none();
    if usable { Ok(url) } else { Err("expected the address of a Coldframe, such as http://127.0.0.1:4873/".to_owned()) }
}
