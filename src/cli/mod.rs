//! The command line. One file a subcommand; turns words into calls, outcomes into text and exit codes.
//!
//! Refuses to decide anything: what is allowed is said by `config`, what happens by `app`.

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

use clap::{Parser, Subcommand};

pub use output::{CliError, Exit};

const EXIT_CODES: &str = "\
Exit codes:
   0  it did what it should; for `explain` and `check`: all is allowed
   1  it failed while running; `check`: versions would be refused; `doctor`: installs go around
   2  wrong flags or configuration
   3  cannot listen on the first address
   4  the data directory is in use by another coldframe
   5  the data directory cannot be used
  10  `explain`: the version is held or denied
  69  `check`, `adopt`: the registry cannot be asked, so that nothing or not all could be checked
  75  `check`: versions would be refused, and waiting alone cures that
 any  `run`: the command's own; 126: cannot be run; 127: not there; 128 + n: ended by signal n

Settings:
  Each can be given as a flag (`--min-release-age 7d`), as an environment variable (`COLDFRAME_MIN_RELEASE_AGE=7d`), or in
  a TOML file (`min-release-age = \"7d\"`) that `--config` or COLDFRAME_CONFIG names. A flag beats the environment, which
  beats the file.";

/// An npm firewall: keeps young releases out, checks and caches tarballs, explains every refusal.
#[derive(Debug, Parser)]
#[command(name = "coldframe", version, after_long_help = EXIT_CODES, after_help = "More with `--help`.", max_term_width = 122)]
#[command(subcommand_required = true, arg_required_else_help = true, infer_subcommands = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve npm clients; needs no flag and no file.
    #[command(after_long_help = EXIT_CODES)]
    Serve(crate::cli::serve::Arguments),
    /// Run one command, such as `npm ci`, behind a Coldframe of its own, and sum up what was held back.
    #[command(after_long_help = EXIT_CODES)]
    Run(crate::cli::run::Arguments),
    /// Say whether installs in this folder really pass through Coldframe, and what mends it where they do not.
    Doctor(crate::cli::doctor::Arguments),
    /// Say whether a version would be served, and why; the running server answers, if there is one.
    Explain(crate::cli::explain::Arguments),
    /// Say which versions in lockfiles would be refused, before anybody installs them.
    Check(crate::cli::check::Arguments),
    /// Print the lines that send a client through Coldframe, with an age that agrees with ours.
    ClientConfig(crate::cli::client_config::Arguments),
    /// Say who asked for a package, from the ledger; works beside a running server and without one.
    Exposure(crate::cli::exposure::Arguments),
    /// Approve versions that are kept back, by their exact bytes, for a while; works beside a running server.
    Approve(crate::cli::decisions::approve::Arguments),
    /// Approve the young versions that lockfiles hold already, until they would have opened anyway.
    Adopt(crate::cli::decisions::adopt::Arguments),
    /// Confirm, as a second person, a decision that awaits one.
    Confirm(crate::cli::decisions::confirm::Arguments),
    /// Deny versions, whatever the rules say.
    Deny(crate::cli::decisions::deny::Arguments),
    /// Take a decision back.
    Revoke(crate::cli::decisions::revoke::Arguments),
    /// Hide everything that was published after an instant, for a while.
    Freeze(crate::cli::decisions::freeze::Arguments),
    /// Let age and signals hold nothing back for a while, and note what they would have.
    Observe(crate::cli::decisions::break_glass::Arguments),
    /// What people decided.
    #[command(subcommand)]
    Decisions(crate::cli::decisions::list::Command),
    /// Check and try policies.
    #[command(subcommand)]
    Policy(crate::cli::policy::Command),
    /// Do everything that is to be done about an advisory: deny, freeze, purge, and say who got it.
    Incident(crate::cli::incident::Arguments),
    /// Look at the feeds of advisories now, say how they stand, or export what this instance denies.
    #[command(subcommand)]
    Feed(crate::cli::feed::Command),
    /// Make, print, explain or replace the authority that the gateway's clients trust.
    #[command(subcommand)]
    Ca(crate::cli::ca::Command),
    /// Say who may use the gateway, where `gateway-users` names a file of them.
    #[command(subcommand)]
    User(crate::cli::user::Command),
    /// Ask the server of this configuration whether it is ready, directly; for containers and supervisors.
    Healthcheck(crate::cli::healthcheck::Arguments),
    /// Check a configuration file, or show what is in force.
    #[command(subcommand)]
    Config(crate::cli::config::Command),
    /// Print a script that teaches a shell to complete coldframe's words.
    Completions(crate::cli::completions::Arguments),
}

/// Runs one command line, program name first. What went wrong stands on standard error when it returns.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    std::panic::set_hook(Box::new(crate::cli::output::tell_panic));
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(told) => return crate::cli::output::tell_usage(&told).into(),
    };
    let outcome = match arguments.command {
        Command::Serve(arguments) => crate::cli::serve::run(arguments),
        Command::Run(arguments) => return crate::cli::run::run(arguments).unwrap_or_else(give_up),
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
        Command::Observe(arguments) => crate::cli::decisions::break_glass::run(arguments),
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
        Err(failure) => give_up(failure),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what is left of a command that failed")]
fn give_up(failure: CliError) -> ExitCode {
    crate::cli::output::complain(&failure);
    failure.exit.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_exit_code_is_documented() {
        for exit in Exit::ALL {
            let code = format!("{:>4}  ", exit as u8);
            assert!(EXIT_CODES.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
