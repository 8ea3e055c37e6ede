//! The command line: one file per subcommand. Parses arguments, calls `app`, and turns results into text and exit codes.

mod ca;
mod check;
mod client_config;
mod completions;
mod config;
mod decisions;
mod doctor;
mod explain;
mod exposure;
mod feed;
mod flags;
mod healthcheck;
mod incident;
mod lockfiles;
mod operator;
mod output;
mod policy;
mod registry_hosts;
mod run;
mod running_server;
mod runtime;
mod serve;
mod user;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

use crate::config::suggest;

pub use output::{CliError, Exit};

const EXIT_CODES: &str = "\
Exit codes:
   0  success; `explain`, `check`: everything is allowed
   1  failure; `check`: versions would be refused; `doctor`: installs bypass Coldframe
   2  invalid flags or configuration
   3  cannot listen on the first address
   4  another coldframe uses the data directory
   5  cannot use the data directory
  10  `explain`: the version is held or denied
  69  `check`, `adopt`: some or all versions could not be checked
  75  `check`: versions would be refused, but all of them open in time
 any  `run`: the command's exit code; 126: cannot run it; 127: not found; 128 + n: signal n

Settings:
  Set each one with a flag (`--min-release-age 7d`), an environment variable
  (`COLDFRAME_MIN_RELEASE_AGE=7d`), or in the TOML file that `--config` or COLDFRAME_CONFIG names
  (`min-release-age = \"7d\"`). Flags override the environment, and the environment overrides
  the file.";

/// An npm firewall: holds back new releases, verifies and caches tarballs, explains every refusal.
#[derive(Debug, Parser)]
#[command(name = "coldframe", version, after_long_help = EXIT_CODES, after_help = "See `--help` for more.", max_term_width = 122)]
#[command(subcommand_required = true, arg_required_else_help = true, infer_subcommands = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server for npm clients; works without any configuration.
    #[command(after_long_help = EXIT_CODES)]
    Serve(crate::cli::serve::Arguments),
    /// Run one command, such as `npm ci`, through Coldframe and summarize refusals.
    #[command(after_long_help = EXIT_CODES)]
    Run(crate::cli::run::Arguments),
    /// Check whether installs in this directory go through Coldframe; suggest fixes.
    Doctor(crate::cli::doctor::Arguments),
    /// Explain whether a version would be served, by the running server if any.
    Explain(crate::cli::explain::Arguments),
    /// List the versions in lockfiles that would be refused.
    Check(crate::cli::check::Arguments),
    /// Print client configuration for Coldframe, with a matching minimum age.
    ClientConfig(crate::cli::client_config::Arguments),
    /// List the clients that requested a package, from the ledger.
    Exposure(crate::cli::exposure::Arguments),
    /// Approve held versions for a limited time, bound to their exact bytes.
    Approve(crate::cli::decisions::approve::Arguments),
    /// Approve held versions that lockfiles already contain, until they open.
    Adopt(crate::cli::decisions::adopt::Arguments),
    /// Confirm a decision that needs a second person.
    Confirm(crate::cli::decisions::confirm::Arguments),
    /// Deny versions regardless of the rules.
    Deny(crate::cli::decisions::deny::Arguments),
    /// Revoke a decision.
    Revoke(crate::cli::decisions::revoke::Arguments),
    /// Hide everything published after an instant, for a limited time.
    Freeze(crate::cli::decisions::freeze::Arguments),
    /// Record age and signal findings for a limited time instead of refusing.
    BreakGlass(crate::cli::decisions::break_glass::Arguments),
    /// Manage decisions of operators.
    #[command(subcommand)]
    Decisions(crate::cli::decisions::list::Command),
    /// Check, test and compare policies.
    #[command(subcommand)]
    Policy(crate::cli::policy::Command),
    /// Respond to an advisory: deny, freeze, purge, and list affected clients.
    Incident(crate::cli::incident::Arguments),
    /// Sync advisory feeds, show their status, or export denied versions.
    #[command(subcommand)]
    Feed(crate::cli::feed::Command),
    /// Create, export, install or rotate the gateway's CA certificate.
    #[command(subcommand)]
    Ca(crate::cli::ca::Command),
    /// Add or remove gateway users in the file of `gateway-users`.
    #[command(subcommand)]
    User(crate::cli::user::Command),
    /// Check whether the server is ready; for containers and supervisors.
    Healthcheck(crate::cli::healthcheck::Arguments),
    /// Check a configuration file, or show the effective settings.
    #[command(subcommand)]
    Config(crate::cli::config::Command),
    /// Print a shell completion script.
    Completions(crate::cli::completions::Arguments),
}

/// Runs one command line, program name first. Failures are printed on standard error before it returns.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(crate::cli::output::print_panic));
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => return crate::cli::output::print_usage(&with_new_name(error)).into(),
    };
    let outcome = match arguments.command {
        Command::Serve(arguments) => crate::cli::serve::run(arguments),
        Command::Run(arguments) => return crate::cli::run::run(arguments).unwrap_or_else(report_and_exit),
        Command::Doctor(arguments) => crate::cli::doctor::run(arguments),
        Command::Explain(arguments) => crate::cli::explain::run(arguments),
        Command::Check(arguments) => crate::cli::check::run(arguments),
        Command::ClientConfig(arguments) => crate::cli::client_config::run(arguments),
        Command::Exposure(arguments) => crate::cli::exposure::run(arguments),
        Command::Approve(arguments) => crate::cli::decisions::approve::run(arguments),
        Command::Adopt(arguments) => crate::cli::decisions::adopt::run(arguments),
        Command::Confirm(arguments) => crate::cli::decisions::confirm::run(arguments),
        Command::Deny(arguments) => crate::cli::decisions::deny::run(arguments),
        Command::Revoke(arguments) => crate::cli::decisions::revoke::run(arguments),
        Command::Freeze(arguments) => crate::cli::decisions::freeze::run(arguments),
        Command::BreakGlass(arguments) => crate::cli::decisions::break_glass::run(arguments),
        Command::Decisions(command) => crate::cli::decisions::list::run(command),
        Command::Policy(command) => crate::cli::policy::run(command),
        Command::Incident(arguments) => crate::cli::incident::run(arguments),
        Command::Feed(command) => crate::cli::feed::run(command),
        Command::Ca(command) => crate::cli::ca::run(command),
        Command::User(command) => crate::cli::user::run(command),
        Command::Healthcheck(arguments) => crate::cli::healthcheck::run(arguments),
        Command::Config(command) => crate::cli::config::run(command),
        Command::Completions(arguments) => crate::cli::completions::run(&arguments),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => report_and_exit(failure),
    }
}

/// Adds the new name of a flag or a command that was renamed to the parser's error.
fn with_new_name(mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let flag = text(ContextKind::InvalidArg).and_then(|given| Some((given, format!("--{}", suggest::renamed(given)?))));
    let command = text(ContextKind::InvalidSubcommand).filter(|given| *given == "observe");
    let renamed = flag.or_else(|| Some((command?, "break-glass".to_owned())));
    let Some(tip) = renamed.map(|(old, new)| format!("`{old}` is now called `{new}`")) else { return error };
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function in `unwrap_or_else`")]
fn report_and_exit(failure: CliError) -> ExitCode {
    crate::cli::output::print_error(&failure);
    failure.exit.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_passes_clap_checks() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn old_names_of_flags_and_commands_lead_to_the_new_ones() {
        for (line, tip) in [
            ("serve --others tunnel", "`--others` is now called `--default-egress`"),
            ("serve --head-lines=5", "`--head-lines` is now called `--max-headers`"),
            ("observe --for 1h", "`observe` is now called `break-glass`"),
        ] {
            let error = Arguments::try_parse_from(["coldframe"].into_iter().chain(line.split(' '))).unwrap_err();
            let text = with_new_name(error).render().to_string();
            assert!(text.contains(tip), "{text}");
        }
    }

    #[test]
    fn every_exit_code_is_documented() {
        for exit in Exit::ALL {
            let code = format!("{:>4}  ", exit as u8);
            assert!(EXIT_CODES.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
