//! `coldframe check`: lists the versions in lockfiles that would be refused. The server that runs on the data directory
//! answers. Without a server, the settings of this command apply.

pub(crate) mod fix;
pub(crate) mod github;
pub(crate) mod report;
pub(crate) mod sarif;
pub(crate) mod table;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use url::Url;

use crate::app::Checker;
use crate::app::remote::http::HttpServer;
use crate::cli::check::report::{LockfileReport, Report};
use crate::cli::flags::SettingFlags;
use crate::cli::output::{self, Exit, usage};
use crate::cli::registry_hosts::RegistryHosts;
use crate::cli::runtime::block_on;
use crate::cli::{lockfiles, running_server};
use crate::clock::SystemClock;
use crate::firewall::CheckOutcome;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Lockfiles, or directories that contain them [default: working directory].
    paths: Vec<PathBuf>,
    /// Ask the Coldframe server at this URL.
    #[arg(long, value_name = "URL", value_parser = server)]
    server: Option<Url>,
    /// Output format.
    #[arg(long, value_enum, default_value_t = CheckFormat::Table)]
    format: CheckFormat,
    /// Also print overrides that replace refused versions with allowed ones.
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// Readable text.
    Table,
    /// Complete report as JSON.
    Json,
    /// SARIF 2.1.0: one result per refused version.
    Sarif,
    /// GitHub workflow commands that annotate a pull request.
    Github,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    if arguments.fix && !matches!(arguments.format, CheckFormat::Table | CheckFormat::Json) {
        return Err(usage(anyhow::anyhow!("`--fix` needs `--format table` or `--format json`")));
    }
    let own = arguments.settings.config()?;
    let mut files = Vec::new();
    for path in find_lockfiles(arguments.paths)? {
        // As given, with forward slashes.
        let shown = path.to_string_lossy().replace('\\', "/");
        let shown = shown.strip_prefix("./").unwrap_or(&shown).to_owned();
        files.push(LockfileReport::of(shown, &lockfiles::read(&path).map_err(usage)?));
    }
    let report = block_on(async {
        let running = if arguments.server.is_none() { running_server::find_announced(&own).await? } else { None };
        let config = match &running {
            Some(running) => running.config(&arguments.settings, own),
            None => own,
        };
        let mut hosts = RegistryHosts::of(&config, arguments.server.as_ref());
        let checker = match (arguments.server, running) {
            (Some(server), _) => Checker::Http(Arc::new(HttpServer::for_checks(server, &config)?)),
            (None, Some(running)) => Checker::Running(Box::new(running.server), running.profile),
            (None, None) => Checker::here(config, Arc::new(SystemClock))?,
        };
        let locked: Vec<_> = files.iter().flat_map(|file| &file.packages).map(|package| package.locked.clone()).collect();
        let judged = checker.check(&locked).await?;
        hosts.add(&judged.upstreams);
        let mut outcomes = judged.packages.into_iter();
        for file in &mut files {
            file.apply_results(&hosts, &mut outcomes);
        }
        // Packages that ask for a version may be replaced themselves. Their ranges then no longer count.
        let again: Vec<_> = files.iter().flat_map(LockfileReport::unresolved).collect();
        let mut outcomes = checker.check(&again).await?.packages.into_iter();
        for file in &mut files {
            file.apply_replacements(&mut outcomes);
        }
        anyhow::Ok(Report { files })
    })??;
    match arguments.format {
        CheckFormat::Table if arguments.fix => output::print(&(table::format_text(&report) + &fix::format_text(&report))),
        CheckFormat::Table => output::print(&table::format_text(&report)),
        CheckFormat::Json => output::print(&format!("{:#}\n", report.json(arguments.fix.then(|| fix::json(&report))))),
        CheckFormat::Sarif => output::print(&format!("{:#}\n", sarif::format_text(&report))),
        // The runner must interpret these commands. Each value in them is already escaped.
        CheckFormat::Github => output::print_verbatim(&github::format_text(&report)),
    }?;
    Ok(exit(&report))
}

/// Chooses the exit code. 75 and 69 are `EX_TEMPFAIL` and `EX_UNAVAILABLE` of sysexits. A version that never opens fails the
/// check even if others could not be checked.
fn exit(report: &Report) -> Exit {
    let all_open = report.refused().all(|finding| finding.judged.outcome == CheckOutcome::Hold);
    match report.refused().next() {
        _ if report.unchecked() > 0 && all_open => Exit::Unchecked,
        None => Exit::Done,
        Some(_) if all_open => Exit::Later,
        Some(_) => Exit::Failed,
    }
}

fn find_lockfiles(mut paths: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    if paths.is_empty() {
        paths.push(PathBuf::from("."));
    }
    let mut found = Vec::new();
    for path in paths {
        let inside = if path.is_dir() { lockfiles::inside(&path) } else { vec![path.clone()] };
        if inside.is_empty() {
            return Err(usage(anyhow::anyhow!("no lockfile in `{}`", path.display())));
        }
        found.extend(inside);
    }
    Ok(found)
}

pub(crate) fn server(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let usable = matches!(url.scheme(), "http" | "https") && url.host_str().is_some() && url.query().is_none();
    if usable { Ok(url) } else { Err("expected the URL of a Coldframe server, such as http://127.0.0.1:4873/".to_owned()) }
}
