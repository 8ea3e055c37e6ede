//! `coldframe run -- npm ci`: one command behind a Coldframe of its own, led there by its environment alone. Refuses to touch
//! its input and output, and any file of the project's.

pub(crate) mod child;
pub(crate) mod direct_hosts;
pub(crate) mod environment;
pub(crate) mod project;
pub(crate) mod summary;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use url::Url;

use crate::cli::doctor::client_settings::SettingsSurvey;
use crate::cli::flags::SettingFlags;
use crate::cli::operator;
use crate::cli::output::{self, CliError, Exit, say};
use crate::cli::run::child::ChildExit;

use crate::app::run::{DataDirFallback, RunOptions};
use crate::app::{RunSession, RunTempDir};
use crate::cli::run::environment::{ClientEnvironment, TrustFiles};
use crate::cli::run::project::ProjectFiles;
use crate::cli::run::summary::RunSummary;
use crate::cli::runtime::runtime;
use crate::clock::SystemClock;
use crate::config::{Config, ProcessEnvironment, SettingKey};
use crate::telemetry;
use crate::text::shell_word;
use crate::tls;
use crate::upstream::npmrc;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The command and its arguments, as in `coldframe run -- npm ci`.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// Sum up as JSON: one line, the last on standard error.
    #[arg(long)]
    json: bool,
    /// Append the summary to a file as Markdown, for a job's page.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingFlags<false>,
}

/// What shells answer when a command is not there, and when it cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Where nobody says otherwise: what is worth saying is in the summary.
const DEFAULTS: [(SettingKey, &str); 1] = [(SettingKey::LogLevel, "error")];

/// Flags that a Coldframe which runs already can follow, or that say only where it is. Any other wants one that goes by it.
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

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, CliError> {
    let Arguments { command, json, report, settings } = arguments;
    let (user, alone) =
        (operator::name(), settings.first_flag_outside(REMOTE_SAFE_FLAGS).map(|flag| format!("`{flag}` asks for a coldframe of its own")));
    let given = settings.clone();
    let (config, surroundings) = settings.read(|sources| {
        let surroundings = sources.surroundings.clone();
        Ok((Config::gather_with(sources, &DEFAULTS)?, surroundings))
    })?;
    telemetry::logging::start(&config.telemetry).map_err(|error| CliError::new(Exit::Usage, error))?;
    for warning in &config.warnings {
        say(warning);
    }
    // Before anything runs: whoever asks for a report must not learn at the end that there is none.
    let report = report.map(|path| open_report(&path)).transpose()?;
    let (trust, project) = (config.tls.clone(), ProjectFiles::of(&surroundings));
    let survey = SettingsSurvey::of(&surroundings);
    let (policy, is_servers, ended, sum) = runtime()?.block_on(async {
        let waiting = progress("starting");
        let needs = RunOptions { user, alone, wants: project.wants(&command) };
        let session = Box::pin(RunSession::open(config, needs, Arc::new(SystemClock))).await?;
        waiting.finish_and_clear();
        match session.apart() {
            None if session.is_remote() => say(&format!("the running coldframe answers, by its policy: {}", session.policy())),
            None => {}
            Some(DataDirFallback::InUse(why)) => say(&format!(
                "the running coldframe does not answer: {why}. What was decided there holds; the policy is this command's: {}; \
                 tarballs are fetched anew, and `coldframe exposure` will not know of this run",
                session.policy()
            )),
            Some(DataDirFallback::Unusable(why)) => say(&format!("{why}: what is learnt in this run is forgotten at its end")),
        }
        if project.has_yarn_2 {
            say(
                "yarn 2 shows no password to a proxy, so this run refuses what it asks for: use yarn 3 or later, or `coldframe serve` and the \
                 lines of `coldframe client-config yarn-berry`",
            );
        }
        for (host, count) in project.elsewhere(|url| session.takes(url)) {
            let host = shell_word(&host);
            say(&format!(
                "{count} lockfile entries name `{host}`, which this run does not go to: `--allow-host {host}` has it do so unchecked, \
                 `--intercept {host}` has it answer from upstream"
            ));
        }
        for line in survey.unproxied_scopes(|url| session.takes(url)) {
            say(&format!("{line}: this run does not go there, `--intercept HOST` has it answer from upstream"));
        }
        let folder = RunTempDir::make()?;
        let recipe = build_environment(&session, &trust, &folder, no_proxy(&session, &project, &survey))?;
        let recipe = recipe.with_exceptions(project.names_exceptions).with_yarn_authority(&project.yarn_authority);
        let recipe = recipe.with_yarn_registry(project.names_yarn_registry);
        let recipe = recipe.with_replaced(project.lockfile_registry_host(&session.way().registry, |url| session.takes(url)));
        let (policy, is_servers) = (session.policy().to_owned(), session.is_remote());
        let ended = child::run(build_command(&command, &recipe, &surroundings)).await;
        let waiting = progress("writing down what was served");
        let sum = session.close().await;
        waiting.finish_and_clear();
        Ok::<_, CliError>((policy, is_servers, ended, sum))
    })?;
    let ChildExit { code, left_some } = ended.unwrap_or_else(|error| spawn_failure(&command, &error));
    if left_some {
        say("ended what the command left running");
    }
    // Read again: the command may have written them.
    let project = ProjectFiles::of(&surroundings);
    let lockfiles = project.lockfiles.keys().cloned().collect();
    let flags = given.repeated(is_servers);
    let summary = RunSummary { command: shown(&command), code, policy, sum: &sum, lockfiles, locked: project.locked(), flags };
    let told = if json { format!("{}\n", summary.json()) } else { summary.text() };
    output::note(&told);
    if let Some(mut report) = report
        && let Err(error) = report.write_all(summary.markdown().as_bytes())
    {
        say(&format!("the report cannot be written: {error}"));
    }
    Ok(ExitCode::from(code))
}

/// What a person at a terminal sees while there is nothing else to see: before the command and after it, for in between the
/// terminal is the command's. On anything but a terminal it is hidden.
fn progress(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(format!("coldframe: {what}"));
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn open_report(path: &Path) -> Result<File, CliError> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.with_context(|| format!("cannot write `{}`", path.display())).map_err(|error| CliError::new(Exit::Usage, error))
}

/// Writes down what has to be trusted, and leads there.
fn build_environment(
    session: &RunSession,
    trust: &tls::Config,
    folder: &RunTempDir,
    no_proxy: String,
) -> Result<ClientEnvironment, CliError> {
    let (added, whole) = (folder.path().join("added.pem"), folder.path().join("whole.pem"));
    let bundle = tls::TrustBundle::of(session.certificate(), trust).map_err(|error| CliError::new(Exit::Usage, error))?;
    std::fs::write(&added, &bundle.added)?;
    std::fs::write(&whole, bundle.added + &bundle.system)?;
    Ok(ClientEnvironment::of(session.way(), TrustFiles { added: &added, whole: &whole }, no_proxy))
}

/// Returns what the command may reach without the gateway: nothing that the gateway, a client or a lockfile takes for a registry.
fn no_proxy(session: &RunSession, project: &ProjectFiles, survey: &SettingsSurvey) -> String {
    let (mut registries, on_loopback) = session.registries();
    // A `registry` line that names this machine, as `client-config` writes it, is overruled; one of a scope is not.
    let elsewhere = survey.registries().into_iter().filter(|url| !direct_hosts::is_loopback(url));
    registries.extend(
        project
            .addresses()
            .chain(project.scoped_registries.clone())
            .chain(survey.scoped_registries())
            .chain(elsewhere)
            .chain([npmrc::npm_default_registry()]),
    );
    let alias = npmrc::yarn_registry_host().and_then(|host| Url::parse(&format!("https://{host}/")).ok());
    registries.extend(alias);
    direct_hosts::no_proxy(&registries, on_loopback, project.exceptions.iter().cloned())
}

/// The command, with its input and output as they are here.
fn build_command(words: &[OsString], recipe: &ClientEnvironment, surroundings: &ProcessEnvironment) -> tokio::process::Command {
    let program = words.first().cloned().unwrap_or_default();
    let mut command = tokio::process::Command::new(program);
    command.args(words.iter().skip(1));
    recipe.apply(&mut command, &surroundings.variables);
    command
}

fn spawn_failure(words: &[OsString], error: &io::Error) -> ChildExit {
    let program = words.first().map(|word| word.display().to_string()).unwrap_or_default();
    say(&format!("cannot run `{program}`: {error}"));
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
    ChildExit { code, left_some: false }
}

fn shown(words: &[OsString]) -> String {
    words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
