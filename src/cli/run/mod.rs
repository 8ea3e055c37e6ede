//! `coldframe run -- npm ci`: runs one command through Coldframe, set up with environment variables only. Input and output of
//! the command and files of the project are not touched.

pub(crate) mod child;
pub(crate) mod direct_hosts;
pub(crate) mod environment;
pub(crate) mod project;
pub(crate) mod summary;

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use url::Url;

use crate::app::run::DataDirFallback;
use crate::app::{RunSession, RunTempDir};
use crate::cli::doctor::client_settings::SettingsSurvey;
use crate::cli::flags::SettingFlags;
use crate::cli::operator;
use crate::cli::output::{self, say, usage};
use crate::cli::run::environment::ClientEnvironment;
use crate::cli::run::project::ProjectFiles;
use crate::cli::run::summary::RunSummary;
use crate::cli::runtime::block_on;
use crate::clock::SystemClock;
use crate::config::effective::OF_VERDICTS;
use crate::config::raw::RawValue;
use crate::config::{Config, Origin, SettingKey};
use crate::telemetry;
use crate::text::shell_word;
use crate::tls;
use crate::upstream::npmrc;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Command and arguments, as in `coldframe run -- npm ci`.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Print the summary as JSON: one line, the last on standard error.
    #[arg(long)]
    json: bool,
    /// Append the summary to a file as Markdown, such as a CI job summary.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// Flags that work with a running Coldframe, or only locate it. Any other flag needs a separate one.
const REMOTE_SAFE_FLAGS: &[SettingKey] = &[
    SettingKey::DataDir,
    SettingKey::Upstream,
    SettingKey::Listen,
    SettingKey::Intercept,
    SettingKey::AllowHost,
    SettingKey::DefaultEgress,
    SettingKey::LogLevel,
    SettingKey::LogFormat,
];

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { command, json, report, settings } = arguments;
    let user = operator::name();
    let local_only = settings.first_flag_outside(REMOTE_SAFE_FLAGS).map(|flag| format!("`{flag}` needs a separate coldframe"));
    let (config, surroundings) = settings.read(|sources| {
        let surroundings = sources.environment.clone();
        // The summary replaces most log messages.
        let quiet = [(SettingKey::LogLevel, vec![RawValue::new("error", Origin::Default)])];
        Ok((Config::load_with(sources, |raw| raw.fill(quiet))?, surroundings))
    })?;
    telemetry::logging::init(&config.telemetry).map_err(usage)?;
    for warning in &config.warnings {
        say(warning);
    }
    // Opened before the command runs, so that an unwritable report fails early.
    let open = |path: PathBuf| {
        let opened = OpenOptions::new().append(true).create(true).open(&path);
        opened.with_context(|| format!("cannot write `{}`", path.display())).map_err(usage)
    };
    let report = report.map(open).transpose()?;
    let (trust, project) = (config.tls.clone(), ProjectFiles::of(&surroundings));
    let survey = SettingsSurvey::of(&surroundings);
    let (policy, is_servers, ended, sum) = block_on(async {
        let waiting = progress("starting");
        let opening = RunSession::open(config, user, local_only, project.wants(&command), Arc::new(SystemClock));
        let session = Box::pin(opening).await?;
        waiting.finish_and_clear();
        say_warnings(&session, &project, &survey);
        let folder = RunTempDir::make()?;
        let (added, whole) = (folder.path().join("added.pem"), folder.path().join("whole.pem"));
        let bundle = tls::TrustBundle::of(&session.info().certificate, &trust).map_err(usage)?;
        std::fs::write(&added, &bundle.added)?;
        std::fs::write(&whole, bundle.added + &bundle.system)?;
        let (way, no_proxy) = (&session.info().way, no_proxy(&session, &project, &survey));
        let replaced = project.lockfile_registry_host(&way.registry, |url| session.is_proxied(url));
        let recipe = ClientEnvironment::of(way, (&added, &whole), &no_proxy, &project, replaced.as_deref());
        let (policy, is_servers) = (session.info().policy.clone(), session.is_remote());
        let mut words = command.iter();
        let mut child = tokio::process::Command::new(words.next().cloned().unwrap_or_default());
        recipe.apply(child.args(words), &surroundings.variables);
        let ended = child::run(child).await;
        let waiting = progress("writing the ledger");
        let sum = session.close().await;
        waiting.finish_and_clear();
        anyhow::Ok((policy, is_servers, ended, sum))
    })??;
    let (code, left_some) = ended.unwrap_or_else(|error| {
        let program = command.first().map(|word| word.display().to_string()).unwrap_or_default();
        say(&format!("cannot run `{program}`: {error}"));
        // The exit codes of shells.
        (if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }, false)
    });
    if left_some {
        say("terminated processes that the command left running");
    }
    // Read again, because the command may have changed the lockfiles.
    let project = ProjectFiles::of(&surroundings);
    let lockfiles = project.lockfiles.keys().cloned().collect();
    // A server has its own settings. Without one, suggested commands need those of this run.
    let flags = settings.repeated(if is_servers { &[] } else { OF_VERDICTS });
    let command = command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let summary = RunSummary { command, code, policy, sum: &sum, lockfiles, locked: project.locked(), flags };
    let text = if json { format!("{}\n", summary.json()) } else { summary.text() };
    output::note(&text);
    if let Some(mut report) = report
        && let Err(error) = report.write_all(summary.markdown().as_bytes())
    {
        say(&format!("cannot write the report: {error}"));
    }
    Ok(ExitCode::from(code))
}

/// Says what the user should know of the session before the command begins.
fn say_warnings(session: &RunSession, project: &ProjectFiles, survey: &SettingsSurvey) {
    match &session.fallback {
        None if session.is_remote() => say(&format!("using the running coldframe, policy: {}", session.info().policy)),
        None => {}
        Some(DataDirFallback::InUse(why)) => say(&format!(
            "cannot use the running coldframe: {why}. Its decisions apply, with the policy of this command: {}; \
             tarballs are downloaded again, and `coldframe exposure` will not list this run",
            session.info().policy
        )),
        Some(DataDirFallback::Unusable(why)) => say(&format!("{why}; the cache of this run is discarded at its end")),
    }
    if project.has_yarn_2 {
        say("yarn 2 sends no password to a proxy, so this run refuses its requests; use yarn 3 or later, or \
             `coldframe serve` with the output of `coldframe client-config yarn-berry`");
    }
    for (host, count) in project.unproxied_hosts(|url| session.is_proxied(url)) {
        let host = shell_word(&host);
        say(&format!(
            "{count} lockfile entries use `{host}`, which this run blocks; `--allow-host {host}` passes it unchecked, \
             `--intercept {host}` serves it from upstream"
        ));
    }
    for line in survey.unproxied_scopes(|url| session.is_proxied(url)) {
        say(&format!("{line}; this run blocks it, `--intercept HOST` serves it from upstream"));
    }
}

/// Shows a spinner before and after the command, not while it uses the terminal. Hidden if standard error is no terminal.
fn progress(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(format!("coldframe: {what}"));
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Returns the hosts that the command may reach without the gateway. None of them is a registry of a client or lockfile.
fn no_proxy(session: &RunSession, project: &ProjectFiles, survey: &SettingsSurvey) -> String {
    let mut registries = session.registries();
    // A `registry` line with this machine, as `client-config` prints it, is overridden. A scoped one is not.
    let elsewhere = survey.registries().into_iter().filter(|url| !direct_hosts::is_loopback(url));
    registries.extend(project.addresses().chain(project.scoped_registries.clone()).chain(survey.scoped_registries()));
    registries.extend(elsewhere.chain([npmrc::npm_default_registry()]));
    registries.extend(npmrc::yarn_registry_host().and_then(|host| Url::parse(&format!("https://{host}/")).ok()));
    direct_hosts::no_proxy(&registries, project.exceptions.iter().cloned())
}
